"""Tables: options that say how one is written, what was understood of it, and how one is printed and written."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from gpu_lstm.data.sequences import Sequences
from gpu_lstm.data.series import Series
from gpu_lstm.data.tables import Reading
from gpu_lstm.training.checkpoint import write_whole

NAMES = tuple(each.name for each in fields(Reading))


def add_table_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `Reading`; what isn't given is None."""
    table = parser.add_argument_group("how the table is written", "found out if not given, or asked for where unsure")
    table.add_argument("--sep", help="what separates cells: one character, or tab, space, comma, semicolon, bar")
    table.add_argument("--decimal", metavar="MARK", help="decimal mark: . or ,")
    table.add_argument("--thousands", metavar="MARK", help="mark between thousands: . or , or a space or '")
    table.add_argument("--encoding", help="of the text: utf-8, utf-16, latin-1, cp1252, ...")
    table.add_argument(
        "--header", choices=("auto", "first", "none"), default=None,
        help="whether the first row has the columns' names; if none has, they are 1, 2, ...",
    )  # fmt: skip
    table.add_argument("--skip", type=int, metavar="LINES", help="lines at the file's start that aren't its (0)")
    table.add_argument("--skip-end", type=int, metavar="ROWS", help="rows at its end that aren't, such as totals (0)")
    table.add_argument("--comment", metavar="MARK", help="lines that begin with it are skipped (#); '' for none")
    table.add_argument("--units", action="store_true", default=None, help="the row below the header has units")
    table.add_argument("--wide", action="store_true", default=None, help="each row is a sequence, a column a step")


def table_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of `add_table_options` that were given."""
    return {name: value for name in NAMES if (value := getattr(options, name, None)) is not None}


def reading(*plain: dict[str, Any]) -> Reading:
    """Return how to read a table, from options; of several the first that says something counts."""
    given = {name: next((one[name] for one in plain if one.get(name) is not None), None) for name in NAMES}
    return Reading(**{name: value for name, value in given.items() if value is not None})


def tell_table(data: Series | Sequences) -> None:
    """Print how a table was read, which of its columns were taken, and which were left and why."""

    def listed(names: list[str], most: int = 30) -> str:
        return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")

    for line in data.told:
        print(line)
    left = [f"{name} ({why})" for name, why in data.left.items()]
    print(f"columns: {listed(data.names)}" + (f"; left out: {listed(left)}" if left else ""), flush=True)


def write_rows(names: Sequence[str], rows: Sequence[Sequence[Any]], out: Path, as_json: bool = False) -> list[Path]:
    """Write rows as CSV, on demand also as JSON beside it; return the files."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([names, *rows])
    write_whole(out, text.getvalue().encode())
    if not as_json:
        return [out]
    records = [dict(zip(names, row, strict=True)) for row in rows]
    beside = out.with_suffix(".json")
    write_whole(beside, json.dumps(records, indent=1).encode())
    return [out, beside]


def print_rows(names: Sequence[str], rows: Sequence[Sequence[Any]], most: int) -> None:
    """Print the first rows under their columns' names."""

    def cell(value: Any) -> str:
        return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

    shown = [names, *([cell(value) for value in row] for row in rows[:most])]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        print("  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)))
    if len(rows) > most:
        print(f"and {len(rows) - most:,} rows more")
