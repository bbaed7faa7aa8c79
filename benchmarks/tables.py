"""The numbers of README files and of docs/results.md, from the recorded runs in ``results``.

    python -m benchmarks.tables            # write them
    python -m benchmarks.tables --check    # exit status 1 if a file says something else than the records

Marks in the text say what goes where; what is between them is replaced:

    <!-- n: FILE KEY FORMAT -->1.44<!-- /n -->               one number
    <!-- machine: FILE --> ... <!-- /machine -->             processor, threads, versions, date, revision
    <!-- files --> ... <!-- /files -->                       a table of all records
    <!-- cpu --> ... <!-- /cpu -->                           what a CPU does, once `benchmarks.record` has run

KEY is a path into the record, as in ``summary.numpy.training.torch.mean``. FORMAT is Python's:
``.2f``, ``.0%``, ``,.0f``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
FILES = [HERE.parent / "README.md", HERE.parent / "docs" / "results.md", HERE / "README.md", RESULTS / "README.md"]
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


def number(results: Path, name: str, key: str, form: str) -> str:
    """A number of a record, formatted."""
    found: Any = load(name, results)
    for part in key.split("."):
        try:
            found = found[int(part)] if isinstance(found, list) else found[part]
        except (KeyError, IndexError, ValueError, TypeError):
            raise WrongMark(f"the record has no {key} (at {part})") from None
    if not isinstance(found, int | float):
        raise WrongMark(f"{key} is no number")
    try:
        return format(found, form)
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


def files(results: Path) -> str:
    """A table of all records."""
    body = []
    for path in sorted(results.rglob("*.json")):
        name = path.relative_to(results).as_posix()
        record = load(name, results)
        gpu = f", {record['gpu']['device']}" if record.get("gpu") else ""
        where = f"{record['device']}{gpu}, {record['threads']} threads"
        body.append([f"`{name}`", where, record["date"][:10], record["revision"], f"`{record['command']}`"])
    head = ["record", "machine", "date", "revision", "command of that time"]
    return rows(head, body) if body else "\nNothing is recorded yet.\n"


STANDARD, FEW = "`gpu-lstm bench --grid standard --peers torch`", "`gpu-lstm bench --grid few --infer`"
CPU = [
    ("training step over `torch.nn.LSTM`, 7 sizes", "training_step", "summary.numpy.training.torch", ".2f", STANDARD),
    ("inference over `torch.nn.LSTM`, 7 sizes", "training_step", "summary.numpy.inference.torch", ".2f", STANDARD),
    (
        "a training step's part of a large product's rate, H >= 256, B >= 32", "training_step",
        "shares.numpy.training_large", ".0%", STANDARD,
    ),
    ("PyTorch's part of it", "training_step", "shares.numpy.training_large_torch", ".0%", STANDARD),
    ("training step over `reference`", "training_step", "summary.numpy.training.reference", ".2f", STANDARD),
    ("1, 2, 4 sequences over ONNX Runtime", "few", "summary.numpy.inference.onnxruntime", ".2f", FEW),
    ("8-bit weights over ONNX Runtime's", "few", "summary.numpy.inference_int8.onnxruntime-int8", ".2f", FEW),
    ("8-bit weights over `torch.nn.LSTM`", "few", "summary.numpy.inference_int8.torch", ".2f", FEW),
    (
        "the whole language model's training step over PyTorch's", "model", "summary.numpy.training.torch", ".2f",
        "`python -m benchmarks.model`",
    ),
    ("that model drawing text, a token at a time", "model", "summary.numpy.drawing.torch", ".1f", "the same"),
    ("`LSTM`, H = 128, one step a call: microseconds", "model", "streaming.microseconds.ours", ".0f", "the same"),
    ("`torch.nn.LSTM`, likewise", "model", "streaming.microseconds.torch", ".0f", "the same"),
]  # fmt: skip
"""What is measured, in which record, where in it, how it is written, and the command."""
SETS = {"avx512": "AVX-512", "avx2": "AVX2"}


def cpu(results: Path) -> str | None:
    """What a CPU does, a column for each instruction set that was recorded; None where none was."""
    there = [one for one in SETS if (results / f"cpu_training_step_{one}.json").exists()]
    if not there:
        return None

    def cell(one: str, record: str, key: str, form: str) -> str:
        name = f"cpu_{record}_{one}.json"
        with contextlib.suppress(WrongMark):
            return number(results, name, key, form)
        with contextlib.suppress(WrongMark):
            mean, least, most = (number(results, name, f"{key}.{part}", form) for part in ("mean", "least", "most"))
            return mean if least == most else f"**{mean}**, {least} to {most}"
        return "not measured"

    body = [
        [what, *(cell(one, record, key, form) for one in there), command] for what, record, key, form, command in CPU
    ]
    head = ["times as fast, geometric mean, least to most", *(SETS[one] for one in there), "command"]
    machines = [f"{SETS[one]}: {machine(results, f'cpu_training_step_{one}.json')}." for one in there]
    return "\n" + "\n".join(machines) + f"\n{rows(head, body)}"


def made(text: str, results: Path) -> str:
    """The text with everything between marks replaced by what the records say."""
    text = re.sub(
        r"(<!-- n: (\S+) (\S+) (\S+) -->).*?(<!-- /n -->)",
        lambda m: m[1] + number(results, m[2], m[3], m[4]) + m[5],
        text,
    )
    makers = {
        "machine": machine,
        "files": lambda results, _: files(results),
        "cpu": lambda results, _: cpu(results),
    }
    for mark, make in makers.items():
        text = re.sub(
            rf"(<!-- {mark}(?:: (\S+))? -->).*?(<!-- /{mark} -->)",
            lambda m, make=make: m[0] if (new := make(results, m[2])) is None else m[1] + new + m[3],  # type: ignore[misc]
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
