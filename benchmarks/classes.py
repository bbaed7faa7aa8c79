"""Small sets of sequences, by our defaults and by others: `python -m benchmarks.classes`.

Accuracy on the test parts of UCR and UEA sets that the aeon package brings (its files are read, it isn't imported), of
``gpu-lstm train classify`` as it is, of one nearest neighbour by dynamic time warping without a window, and of whoever
always says the largest class. ``--write`` renews the table of docs/do/classes.md.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib.util
import io
import os
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks import need_compiled

SETS = ("GunPoint", "ArrowHead", "ItalyPowerDemand", "BasicMotions")
PAGE = Path(__file__).parent.parent / "docs" / "do" / "classes.md"
MARKS = ("<!-- small sets -->", "<!-- /small sets -->")

Part = tuple[list[np.ndarray], list[str]]


def folder() -> Path:
    """Where aeon keeps its sets; AEON_DATA names another place.

    Raises SystemExit where there is none.
    """
    if "AEON_DATA" in os.environ:
        return Path(os.environ["AEON_DATA"])
    found = importlib.util.find_spec("aeon")
    if found is None or found.origin is None:
        raise SystemExit("aeon is not installed: pip install aeon, or have AEON_DATA name its folder datasets/data")
    return Path(found.origin).parent / "datasets" / "data"


def read(name: str, part: str) -> Part:
    """Sequences (T, D) and labels of a ``.ts`` file: after @data a row a sequence, its features and label by colons."""
    lines = (folder() / name / f"{name}_{part}.ts").read_text(encoding="utf-8").splitlines()
    begin = next(n for n, line in enumerate(lines) if line.strip().lower() == "@data") + 1
    sequences, labels = [], []
    for line in filter(None, map(str.strip, lines[begin:])):
        *features, label = line.split(":")
        sequences.append(np.array([[float(cell) for cell in one.split(",")] for one in features]).T)
        labels.append(label)
    return sequences, labels


def nearest(train: Part, test: Part) -> float:
    """Accuracy of one nearest neighbour by dynamic time warping over all features together."""
    right = 0
    others = np.stack(train[0])  # (N, T, D)
    for sequence, label in zip(*test, strict=True):
        cost = np.sum((sequence[None, :, None, :] - others[:, None, :, :]) ** 2, axis=3)  # (N, T, T)
        right += train[1][int(np.argmin(warped(cost)))] == label
    return right / len(test[1])


def warped(cost: np.ndarray) -> np.ndarray:
    """The least sums (N,) of costs (N, T, T) on a way from corner to corner, diagonal by diagonal."""
    count, rows, columns = cost.shape
    total = np.full((count, rows + 1, columns + 1), np.inf)
    total[:, 0, 0] = 0
    for diagonal in range(rows + columns - 1):
        i = np.arange(max(0, diagonal - columns + 1), min(rows, diagonal + 1))
        j = diagonal - i
        before = np.minimum(np.minimum(total[:, i, j + 1], total[:, i + 1, j]), total[:, i, j])
        total[:, i + 1, j + 1] = cost[:, i, j] + before
    return np.asarray(total[:, rows, columns])


def table(train: Part, test: Part, path: Path) -> None:
    """Write a set as people have it: a row a step, columns id, split, label and the features."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "split", "label", *(f"x{d}" for d in range(train[0][0].shape[1]))])
        for what, part in (("train", train), ("test", test)):
            for n, (sequence, label) in enumerate(zip(*part, strict=True)):
                rows.writerows([f"{what} {n}", what, label, *step] for step in sequence.tolist())


def ours(train: Part, test: Part, seed: int) -> float:
    """Accuracy by ``gpu-lstm train classify`` with its defaults, and ``gpu-lstm evaluate``."""
    from gpu_lstm.cli import main as gpu_lstm

    with tempfile.TemporaryDirectory() as place:
        data, run, said = Path(place, "data.csv"), str(Path(place, "run")), io.StringIO()
        table(train, test, data)
        with contextlib.redirect_stdout(said):
            asked = ["--series", "id", "--seed", str(seed), "--out", run, "--backend", "numpy"]
            statuses = [gpu_lstm(["train", "classify", str(data), *asked]), gpu_lstm(["evaluate", run])]
        if any(statuses):
            raise SystemExit(said.getvalue())
    words = said.getvalue().split()
    at = max(n for n, word in enumerate(words) if word == "sequences" and words[n + 1].startswith("right"))
    return int(words[at - 3]) / int(words[at - 1])


def main() -> None:
    """Print a row for each set; write them where asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("sets", nargs="*", default=SETS)
    options = parser.parse_args()
    need_compiled()
    lines = [
        "| set | to train on, to test on | steps | our default | 1-NN DTW | largest class |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    print("\n".join(lines), flush=True)
    for name in options.sets:
        train, test = read(name, "TRAIN"), read(name, "TEST")
        found = [ours(train, test, seed) for seed in range(options.seeds)]
        said, largest = train[1], Counter(train[1]).most_common(1)[0][0]
        shares = " ".join(f"{share:.1%}" for share in found)
        lines.append(
            f"| {name} | {len(said)}, {len(test[1])} | {len(train[0][0])} | **{np.mean(found):.1%}** ({shares}) | "
            f"{nearest(train, test):.1%} | {test[1].count(largest) / len(test[1]):.1%} |"
        )
        print(lines[-1], flush=True)
    if options.write:
        text = PAGE.read_text(encoding="utf-8")
        before, rest = text.split(MARKS[0])
        PAGE.write_text("\n".join([before + MARKS[0], *lines, MARKS[1] + rest.split(MARKS[1])[1]]), encoding="utf-8")


if __name__ == "__main__":
    main()
