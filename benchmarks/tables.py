"""The numbers of the README files, from the recorded runs in ``results``.

    python -m benchmarks.tables            # write them
    python -m benchmarks.tables --check    # exit status 1 if a file says something else than the records

Marks in the text say what goes where; what is between them is replaced:

    <!-- n: FILE KEY FORMAT -->1.44<!-- /n -->               one number
    <!-- n: FILE KEY min|max|mean FORMAT -->1.1<!-- /n -->   of several: the least, greatest, or geometric mean
    <!-- machine: FILE --> ... <!-- /machine -->             processor, threads, versions, date, revision
    <!-- table: FILE -->                                     a table of the record
    <!-- /table -->
    <!-- files -->                                           a table of all records
    <!-- /files -->

KEY is a path into the record, as in ``points.0.training.ratio``; ``*`` stands for every part there. FORMAT is Python's:
``.2f``, ``.0%``, ``,.0f``.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_lstm.bench import report
from gpu_lstm.bench.method import milliseconds

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
FILES = [HERE.parent / "README.md", HERE / "README.md", RESULTS / "README.md"]
Record = dict[str, Any]


class WrongMark(Exception):
    """A mark that names no record, key or format."""


def load(name: str, results: Path) -> Record:
    """A recorded run."""
    try:
        record: Record = json.loads((results / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WrongMark(f"record {name} can't be read: {error}") from None
    return record


def value(record: Any, key: str, how: str | None) -> float:
    """A number from a record."""
    found = [record]
    for part in key.split("."):
        try:
            if part == "*":
                found = [inner for one in found for inner in (one.values() if isinstance(one, dict) else one)]
            else:
                found = [one[int(part)] if isinstance(one, list) else one[part] for one in found]
        except (KeyError, IndexError, ValueError, TypeError, AttributeError):
            raise WrongMark(f"the record has no {key} (at {part})") from None
    if not all(isinstance(one, int | float) for one in found) or not found:
        raise WrongMark(f"{key} is no number")
    if how is None:
        if len(found) != 1:
            raise WrongMark(f"{key} is {len(found)} numbers; expected min, max or mean before the format")
        return float(found[0])
    reduce: dict[str, Callable[[list[Any]], float]] = {"min": min, "max": max, "mean": statistics.geometric_mean}
    return float(reduce[how](found))


def number(results: Path, name: str, key: str, how: str | None, form: str) -> str:
    """A number of a record, formatted."""
    try:
        return format(value(load(name, results), key, how), form)
    except ValueError:
        raise WrongMark(f"{form!r} is no format for a number") from None


def machine(results: Path, name: str) -> str:
    """Where a record was made."""
    record = load(name, results)
    versions = ", ".join(f"{title} {record[key]}" for key, title in VERSIONS.items() if record.get(key))
    gpu = f", {record['gpu']['device']}" if record.get("gpu") else ""
    return (
        f"{record['device']}{gpu}, {record['cores']} cores, {record['threads']} threads on each side, {versions}, "
        f"{record['date'][:10]}, revision {record['revision']}"
    )


VERSIONS = {"python": "Python", "numpy": "NumPy", "torch": "PyTorch", "onnxruntime": "ONNX Runtime", "jax": "JAX"}


def rows(head: list[str], body: list[list[str]]) -> str:
    """A Markdown table on lines of its own."""
    lines = [head, ["---"] * len(head), *body]
    return "\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def table(results: Path, name: str) -> str:
    """A table of a record, by the command that made it."""
    record = load(name, results)
    for command, make in TABLES.items():
        if command in record["command"]:
            return make(record)
    raise WrongMark(f"no table is known for a record of {record['command']!r}")


def size_of(point: Record, key: str = "size") -> str:
    """A size as it is written everywhere."""
    return ", ".join(map(str, point[key]))


def against_torch(record: Record) -> str:
    """compare_torch: a line for each size."""
    body = []
    for point in record["points"]:
        line = [size_of(point)]
        for kind in ("training", "inference"):
            ours, theirs = milliseconds(point[kind])
            share = point[kind]["share_of_sgemm"]
            line += [f"{ours:.2f}", f"{theirs:.2f}", f"**{point[kind]['ratio']:.2f}**", f"{share:.0%}"]
        peaks = [point["peak_bytes"][side] for side in ("ours", "torch")]
        line.append(" / ".join("?" if peak is None else f"{peak / 1e6:.0f}" for peak in peaks))
        body.append(line)
    means = record["geometric_mean_ratio"]
    training, inference = (f"**{means[kind]:.2f}**" for kind in ("training", "inference"))
    body.append(["geometric mean", "", "", training, "", "", "", inference, "", ""])
    parts = [[f"{kind} ms", "PyTorch ms", "ratio", "of sgemm"] for kind in ("training", "inference")]
    head = ["T, B, D, H", *parts[0], *parts[1], "peak MB, PyTorch's"]
    return rows(head, body)


def off_grid(record: Record) -> str:
    """compare_torch --off-grid."""
    body = [
        [size_of(p), size_of(p, "neighbour"), *(f"{loss:.0%}" for loss in p["loss"].values()), f"{p['ratio']:.2f}"]
        for p in record["points"]
    ]
    return rows(["T, B, D, H", "neighbour", "loss", "PyTorch's loss", "ratio at the odd size"], body)


def whole_model(record: Record) -> str:
    """compare_model."""
    body = []
    for kind, rate in (("training", "characters_per_second"), ("sampling", "tokens_per_second")):
        ours, theirs = record[kind][rate].values()
        ratio = f"**{record[kind]['ratio']:.2f}**"
        body.append([kind, rate.replace("_", " "), f"{ours:,.0f}", f"{theirs:,.0f}", ratio])
    return rows(["what", "unit", "gpu_lstm", "PyTorch", "ratio"], body)


def against_peers(record: Record) -> str:
    """compare_peers."""
    body = []
    for point in record["points"]:
        start = [point["peer"], point["kind"], size_of(point)]
        if "wrong" in point:
            body.append([*start, "", "", point["wrong"]])
        else:
            ours, theirs = milliseconds(point[point["kind"]])
            body.append([*start, f"{ours:.2f}", f"{theirs:.2f}", f"**{point[point['kind']]['ratio']:.2f}**"])
    return rows(["peer", "what", "T, B, D, H", "ms", "peer ms", "ratio"], body)


def bench(record: Record) -> str:
    """gpu-lstm bench: geometric means over all sizes, a line for each side."""
    body = []
    for backend in report.backends(record):
        for kind in report.KINDS:
            points = [p for p in record["points"] if p["backend"] == backend and p["kind"] == kind and p.get("ours")]
            for side in report.side_names(points):
                timed = [p for p in points if "median" in p["sides"].get(side, {})]
                ratios = [p["sides"][side]["median"] / p["sides"][p["ours"]]["median"] for p in timed]
                means = [
                    statistics.geometric_mean(p["sides"][side][key] for p in timed)
                    for key in ("share_of_product", "over_floor")
                ]
                body.append(
                    [
                        backend, kind, side, str(len(timed)), f"{statistics.geometric_mean(ratios):.2f}",
                        f"{min(ratios):.2f} to {max(ratios):.2f}", f"{means[0]:.0%}", f"{means[1]:.2f}",
                    ]
                )  # fmt: skip
    head = [
        "backend",
        "what",
        "side",
        "sizes",
        "times as long as ours",
        "between",
        "of the product rate",
        "times the floor",
    ]
    return rows(head, body)


TABLES: dict[str, Callable[[Record], str]] = {
    "--off-grid": off_grid,
    "compare_torch": against_torch,
    "compare_model": whole_model,
    "compare_peers": against_peers,
    "gpu-lstm bench": bench,
}
"""By what the record's command contains; the first that fits."""


def files(results: Path) -> str:
    """A table of all records."""
    body = []
    for path in sorted(results.rglob("*.json")):
        name = path.relative_to(results).as_posix()
        record = load(name, results)
        gpu = f", {record['gpu']['device']}" if record.get("gpu") else ""
        where = f"{record['device']}{gpu}, {record['threads']} threads"
        body.append([f"`{name}`", where, record["date"][:10], record["revision"], f"`{record['command']}`"])
    return rows(["record", "machine", "date", "revision", "command"], body) if body else "\nNothing is recorded yet.\n"


def made(text: str, results: Path) -> str:
    """The text with everything between marks replaced by what the records say."""
    text = re.sub(
        r"(<!-- n: (\S+) (\S+) (?:(min|max|mean) )?(\S+) -->).*?(<!-- /n -->)",
        lambda m: m[1] + number(results, m[2], m[3], m[4], m[5]) + m[6],
        text,
    )
    makers = {"machine": machine, "table": table, "files": lambda results, _: files(results)}
    for mark, make in makers.items():
        text = re.sub(
            rf"(<!-- {mark}(?:: (\S+))? -->).*?(<!-- /{mark} -->)",
            lambda m, make=make: m[1] + make(results, m[2] or "") + m[3],  # type: ignore[misc]
            text,
            flags=re.S,
        )
    return text


def difference(before: str, after: str) -> str:
    """The first line that differs, for people."""
    pairs = zip(before.splitlines(), after.splitlines(), strict=False)
    number, (old, new) = next((n, pair) for n, pair in enumerate(pairs, 1) if pair[0] != pair[1])
    return f"line {number} says\n  {old}\nand the records\n  {new}"


def main() -> int:
    """Write the numbers, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if something differs")
    options = parser.parse_args()
    wrong = 0
    for path in FILES:
        before = path.read_text(encoding="utf-8")
        try:
            after = made(before, RESULTS)
        except WrongMark as error:
            print(f"{path}: {error}", file=sys.stderr)
            return 2
        if before == after:
            continue
        wrong += 1
        if options.check:
            print(f"{path}: {difference(before, after)}\n(python -m benchmarks.tables mends it)")
        else:
            path.write_text(after, encoding="utf-8")
            print(f"wrote {path}")
    if options.check and not wrong:
        print("the numbers are those of the records")
    return 1 if wrong and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
