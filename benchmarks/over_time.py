"""Long sequences in parallel over time, beside the same LSTM in sequence: inference, interleaved, on this machine.

    python -m benchmarks.over_time --out FILE              # minutes: sizes with weights that start at random
    python -m benchmarks.over_time --run runs/text         # and the language model of a run on its own text
    python -m benchmarks.over_time --run runs/text --bits 1000000         # whether both modes give the bits in sequence
    python -m benchmarks.over_time --run runs/text --picture FILE.png     # how its seams settle; nothing is timed

`ratio` is how many times as long the plain LSTM takes in sequence: the median over rounds, whose sides run in turned
order, each after an untimed run of its own, and between what the true median lies, 95 times of 100. A case whose
interval holds 0.97, which no side may be below, has more rounds until its time is over.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

import gpu_lstm
from gpu_lstm import LSTM
from gpu_lstm.backend import NumpyBackend
from gpu_lstm.bench import record as records
from gpu_lstm.bench.method import Patience, interleave, quartiles
from gpu_lstm.data.text import SHAKESPEARE, encode_file
from gpu_lstm.layers import overtime
from gpu_lstm.layers.strand import STEPS, round_to

PROGRAM = "python -m benchmarks.over_time"
SIZES = ((128, 16384), (128, 65536), (256, 16384), (256, 65536), (512, 16384), (1024, 16384))
INPUTS = 64
BOUND = 0.97


def text(run: str, count: int) -> tuple[LSTM, np.ndarray]:
    """The LSTM of a language model, and what it reads of the end of the shipped text, (count, 1, D)."""
    model: Any = gpu_lstm.load(run, backend="numpy")
    ids = np.asarray(encode_file(SHAKESPEARE, model.vocabulary)[-count:])
    return model.lstm, model.embedding.forward(ids[:, None], guard=False)[0]


def cases(options: argparse.Namespace) -> list[tuple[str, LSTM, np.ndarray]]:
    """What is measured: a name, an LSTM, its x (T, 1, D)."""
    rng, found = np.random.default_rng(0), []
    for hidden, steps in [size for size in SIZES if not options.only or size[0] in options.only]:
        lstm = LSTM(INPUTS, hidden, forget_bias=1.0, backend="numpy")
        found.append((f"T={steps}, H={hidden}", lstm, rng.standard_normal((steps, 1, INPUTS), dtype=np.float32)))
    if not options.only or 0 in options.only:
        lstm = LSTM(INPUTS, 256, backend="numpy")  # forget gates of 1: a state is never forgotten
        lstm.params["bias_l0"][256:512], lstm.params["weight_ih_l0"][256:512] = 50, 0
        lstm.params["weight_hh_l0"][...] *= 0.01
        found.append(("T=16384, H=256, f=1", lstm, 0.01 * rng.standard_normal((16384, 1, INPUTS), dtype=np.float32)))
    for count in (16384, 65536) if options.run else ():
        found.append((f"text, T={count}", *text(options.run, count)))
    return found


def measure(lstm: LSTM, x: np.ndarray, rounds: int, seconds: float) -> dict[str, Any]:
    """Times of the plain LSTM and of the two modes, their results' differences, and what the last call said."""
    said, results, began = {}, {}, time.perf_counter()

    def step(mode: Any) -> None:
        lstm.parallel = mode
        results[mode] = lstm.forward(x, keep=False)[0]
        said[mode] = [str(report) for report in lstm.plan.over_time]

    sides = {"in sequence": lambda: step(False), "exact": lambda: step("exact"), "rounded": lambda: step("rounded")}
    times: dict[str, list[float]] = {side: [] for side in sides}
    ratios: dict[str, dict[str, float]] = {}
    for number in range(1000):
        near = any(one["low"] < BOUND < one["high"] for one in ratios.values())
        if number >= rounds and (not near or time.perf_counter() - began > seconds):
            break
        for side in list(sides)[:: -1 if number % 2 else 1]:
            times[side] += interleave({side: sides[side]}, 1, Patience(0))[side]
        ratios = {side: ratio_of_pairs(times[side], times["in sequence"]) for side in ("exact", "rounded")}
    lstm.parallel = False
    return {
        "seconds": {side: quartiles(one) for side, one in times.items()},
        "all": times,
        "ratio": ratios,
        "exact differs by": float(np.abs(results["exact"] - results[False]).max()),
        "rounding differs by": float(np.abs(results["rounded"] - results[False]).max()),
        "said": {mode: said[mode] for mode in ("exact", "rounded")},
    }


def ratio_of_pairs(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """How many times as long theirs takes: the median of the pairs' ratios, and its interval by order statistics."""
    found = sorted(b / a for a, b in zip(ours, theirs, strict=True))
    low = max(int(len(found) / 2 - 0.98 * len(found) ** 0.5), 0)  # as many of 95 % of fair coins, thrown that often
    return {"ratio": float(np.median(found)), "low": found[low], "high": found[-1 - low]}


def bits(lstm: LSTM, x: np.ndarray) -> dict[str, Any]:
    """Of each mode, whether its outputs and its state have the bits of the same call in sequence; and what it said."""
    found = {}
    for mode in overtime.MODES:
        lstm.parallel = mode
        y, state, _ = lstm.forward(x, keep=False)
        said = [str(report) for report in lstm.plan.over_time]
        least, overtime.LEAST_STEPS = overtime.LEAST_STEPS, len(x) + 1
        lstm.parallel = False if mode == "exact" else mode
        expected, last, _ = lstm.forward(x, keep=False)
        overtime.LEAST_STEPS = least
        pairs = zip((y, *state), (expected, *last), strict=True)
        found[mode] = {"same bits": all(one.tobytes() == other.tobytes() for one, other in pairs), "said": said}
    lstm.parallel = False
    return found


def picture(lstm: LSTM, v: np.ndarray, path: Path, segments: int = 8) -> None:
    """Draw how far the state is from that in sequence, over a segment's steps, in each pass."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    count = len(v) // segments // STEPS
    x = v[: segments * count * STEPS, 0].reshape(segments, count, STEPS, -1)
    right = np.zeros((2, segments, count + 1, lstm.hidden_size), np.float32)
    state: Any = lstm.zero_state(1)
    for p, j in np.ndindex(segments, count):
        right[:, p, j] = [part[0, 0] for part in state]
        _, state, _ = lstm.forward(x[p, j][:, None], state, keep=False)
        state = tuple(round_to(np, part, 15) for part in state)
        right[:, p, j + 1] = [part[0, 0] for part in state]
    figure, (left, axes) = pyplot.subplots(1, 2, figsize=(9.5, 3.4), sharey=True)
    start: Any = tuple(np.zeros((1, segments, lstm.hidden_size), np.float32) for _ in range(2))
    for number in range(3):
        state, apart = start, np.zeros((2, count + 1, segments))
        for j in range(count + 1):
            apart[:, j] = [np.abs(part[0] - right[k, :, j]).max(axis=1) for k, part in enumerate(state)]
            if j < count:
                _, state, _ = lstm.forward(np.ascontiguousarray(x[:, j].transpose(1, 0, 2)), state, keep=False)
                state = tuple(round_to(np, part, 15) for part in state)
        for place, name, k in ((left, "h", 0), (axes, "c", 1)):
            worst = np.where(apart[k].max(axis=1) == 0, 1e-6, apart[k].max(axis=1))
            place.semilogy(np.arange(count + 1) * STEPS, worst, marker=".", label=f"pass {number + 1}")
            place.set_xlabel("step of a segment")
            place.set_title(f"{name}: largest difference from the result in sequence, {segments} segments", fontsize=8)
        print(f"pass {number + 1}: {int((apart.max(axis=(0, 1)) == 0).sum())} of {segments} right from their start on,")
        print(f"  {int((apart[:, -1].max(axis=0) == 0).sum())} at their end; h to the bit after step")
        print(" ", [int(np.argmax(apart[0, :, p] == 0)) * STEPS for p in range(segments)])
        start = tuple(np.roll(part, 1, axis=1) for part in state)
        for part in start:
            part[:, 0] = 0
    left.set_ylabel("0 is drawn at 1e-6")
    left.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print a line a case, write the record; or draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--run", help="folder of a language model of the shipped text")
    parser.add_argument("--rounds", type=int, default=4, help="of 1,024 units; of fewer as many more")
    parser.add_argument("--seconds", type=float, default=30, help="of a case whose interval holds 0.97, at most")
    parser.add_argument("--only", type=int, nargs="+", metavar="H", help="of the sizes; 0: forget gates of 1")
    parser.add_argument("--bits", type=int, metavar="T", help="of so many steps of the text; nothing is timed")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    if (options.picture or options.bits) and not options.run:
        parser.error("--picture and --bits need --run")
    if options.picture:
        picture(*text(options.run, 16384), options.picture)
        return
    if options.bits:
        for mode, one in bits(*text(options.run, options.bits)).items():
            print(f"{mode}: {'the' if one['same bits'] else 'NOT the'} bits in sequence", *one["said"], sep="\n  ")
        return
    record = records.provenance(records.command_line(PROGRAM)) | {"backend": NumpyBackend().name, "cases": {}}
    for name, lstm, x in cases(options):
        rounds = options.rounds * max(1024 // lstm.hidden_size, 1)  # short ones vary more
        found = record["cases"][name] = measure(lstm, x, rounds, options.seconds)
        ratios = ", ".join("{} {ratio:.2f} ({low:.2f} to {high:.2f})".format(k, **v) for k, v in found["ratio"].items())
        print(f"{name}: times as fast as in sequence: {ratios}; rounding differs by {found['rounding differs by']:.1e}")
        for lines in found["said"].values():
            print("\n".join(f"  {line}" for line in lines), flush=True)
        records.write(record, options.out)


if __name__ == "__main__":
    main()
