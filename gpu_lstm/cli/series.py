"""Options that say what the columns of a series are and how its times are read, for all commands that read one."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gpu_lstm.cli.tables import reading, table_options, tell_table
from gpu_lstm.data.clock import written
from gpu_lstm.data.gaps import TREATMENTS
from gpu_lstm.data.linear import LinearForecast
from gpu_lstm.data.series import Series, read_series

STARTS = 8
"""The most columns whose starts are printed."""
OF_TIME = ("date_format", "time_zone", "missing", "missing_value")
"""Options that other data may need otherwise than those that a run was trained on."""


def add_column_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what each column is."""
    columns = parser.add_argument_group("what the columns are")
    columns.add_argument(
        "--target", "--columns", nargs="+", dest="columns", metavar="COLUMN",
        help="what is to be forecast; all columns that hold numbers and are nothing else if not given",
    )  # fmt: skip
    columns.add_argument(
        "--past", nargs="+", default=[], metavar="COLUMN", help="inputs that are known in the past only (none)"
    )
    columns.add_argument(
        "--future", nargs="+", default=[], metavar="COLUMN",
        help="inputs that are known ahead, too: forecast takes a file with them (none)",
    )  # fmt: skip
    columns.add_argument(
        "--calendar", action="store_true",
        help="what the calendar says of each time as inputs: time of day, day of week, time of year (no)",
    )  # fmt: skip
    columns.add_argument("--series", metavar="COLUMN", help="says which series a row is of, where there are many (one)")


def add_time_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how times are read and what to do about what is missing; what isn't given is None."""
    time = parser.add_argument_group("how times are read", "found out if not given, or asked for where unsure")
    time.add_argument(
        "--time", nargs="+", metavar="COLUMN",
        help="the column of the times, or those that make them together, as year month day hour; none: there is none",
    )  # fmt: skip
    time.add_argument(
        "--date-format", metavar="FORMAT", help="how they are written: %%d/%%m/%%Y for day/month/year, ..."
    )
    time.add_argument(
        "--time-zone", metavar="ZONE", help="whose clocks show them, as Europe/Berlin (one that never changes)"
    )
    time.add_argument(
        "--missing", choices=TREATMENTS,
        help="what to do about missing rows and numbers: refuse them, take the straight line between their neighbours, "
        "repeat the last known row, or drop rows and never look across the breaks (refuse)",
    )  # fmt: skip
    time.add_argument(
        "--missing-value", nargs="+", type=float, metavar="NUMBER",
        help="numbers that mean that there is none, such as -999 (none)",
    )  # fmt: skip


def read_new(source: Any, plain: Mapping[str, Any]) -> Series:
    """Read the series that a new run is to be trained on, as its options say."""
    return read_series(
        source,
        plain["columns"],
        reading(dict(plain)),
        time=plain.get("time"),
        calendar=bool(plain.get("calendar")),
        **_given(plain),
    )


def read_again(source: Any, description: Mapping[str, Any]) -> Series:
    """Read series as a run's description says."""
    plain, trained = description["options"], description.get("every")
    read = read_series(
        source,
        description["columns"],
        reading(plain),
        time=plain.get("time") or description.get("time", ["none"]),  # older runs took no notice of times
        calendar=description.get("calendar", ()),
        **_given(plain),
    )
    data = replace(read, by_date=description.get("by_date", False))
    step = str(data.clock.step) if data.clock is not None else ""
    if trained and step and trained != step:
        data.told.append(f"the model was trained on steps of another length: {trained}; these are {step}")
    return data


def read_otherwise(description: dict[str, Any], options: argparse.Namespace) -> None:
    """Change in a run's description how a table and its times are read, where options say so."""
    plain = description["options"]
    plain |= table_options(options)
    plain |= {name: value for name in ("time", *OF_TIME) if (value := getattr(options, name, None)) is not None}


def _given(plain: Mapping[str, Any]) -> dict[str, Any]:
    names = {name: name for name in ("past", "future", "series", *OF_TIME)} | {"missing_value": "missing_values"}
    return {to: plain[name] for name, to in names.items() if plain.get(name) is not None}


def kept(data: Series) -> dict[str, Any]:
    """Return what a run's description keeps of how its series were read."""
    return {
        "columns": data.targets,
        "time": data.clock.columns if data.clock is not None else ["none"],
        "calendar": data.calendar,
        "every": str(data.clock.step) if data.clock is not None else "",
        "by_date": data.by_date,
    }


def tell_series(data: Series, shares: Sequence[float] | None = None) -> None:
    """Print what was understood of series, and how they are split in time."""
    tell_table(data)
    for what, names in (("known in the past only", data.past), ("known ahead", data.future)):
        if names:
            print(f"{what}: {', '.join(names)}")
    if shares is not None:
        each = ", by the rows of each series" if len(set(data.ids)) > 1 else ""
        how = ", at the same dates for all series" if data.by_date else each
        print(f"split: {split_in_words(data, shares)}{how}", flush=True)
        if data.filled is not None:
            filled = data.filled[:, : len(data.targets)]
            print(f"{filled.sum():,} of {filled.size:,} values were filled in; scores leave them out", flush=True)


def tell_start(linear: LinearForecast, spread: np.ndarray, names: Sequence[str]) -> None:
    """Print as which linear forecast a forecaster begins, of the first columns; nothing of one that doesn't say."""
    lines = linear.words(spread)
    for name, line in list(zip(names, lines, strict=False))[:STARTS]:
        print(f"start{f' of {name}' if len(lines) > 1 else ''}: {line}", flush=True)


def split_in_words(data: Series, shares: Sequence[float]) -> str:
    """Return which rows of series are trained on, validated on and left for evaluate, with their times."""
    ends = [data.starts[:-1], *data.cuts(shares), data.starts[1:]]
    parts = []
    for what, low, high in zip(("train", "validation", "test"), ends, ends[1:], strict=False):
        rows = int((high - low).sum())
        if not rows:
            parts.append(f"{what} nothing")
        elif data.times is not None and data.clock is not None:
            some = high > low
            span = np.array([data.times[low[some]].min(), data.times[high[some] - 1].max()])
            first, last = written(span, data.clock.zone)
            parts.append(f"{what} {first} to {last} ({rows:,} rows)")
        else:
            parts.append(f"{what} {rows:,} rows")
    return ", ".join(parts)
