"""``gpu-lstm predict``: what a trained model says of data without labels, as a table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpu_lstm.cli.forecast import foretell
from gpu_lstm.cli.opening import opened
from gpu_lstm.cli.options import (
    Parsers,
    add_device,
    add_parser,
    add_run,
    announce,
    data_path,
    number,
    place_for,
    positive,
)
from gpu_lstm.cli.series import add_time_options, read_again, read_otherwise, tell_series
from gpu_lstm.cli.tables import add_table_options, print_rows, reading, tell_table, write_rows
from gpu_lstm.data.clock import written
from gpu_lstm.data.sequences import Sequences, read_sequences
from gpu_lstm.data.splits import truncated
from gpu_lstm.errors import InputError
from gpu_lstm.layers.checks import check_share
from gpu_lstm.models import Classifier, Forecaster, Model, Regressor, Tagger
from gpu_lstm.models.backtest import anomalies
from gpu_lstm.training.tasks import in_blocks, steps_in_blocks

PRINTED = 10
"""Rows that are printed: the file has them all."""


class Said(NamedTuple):
    """A table of what a model says: names of columns, and rows."""

    names: list[str]
    rows: list[list[Any]]


def add_command(commands: Parsers) -> None:
    """Add the command."""
    parser = add_parser(commands, "predict", run, "say with a trained model what it was trained to, of other data")
    add_run(parser)
    parser.add_argument("--data", required=True, help="table to read, without labels or with them; - is standard input")
    parser.add_argument("--out", type=Path, help="CSV file to write; predictions.csv beside the model if not given")
    series = parser.add_argument_group("of a forecaster")
    series.add_argument(
        "--anomalies", action="store_true",
        help="say how unexpected each step is, by the error of its forecast, instead of what comes after the last (no)",
    )  # fmt: skip
    series.add_argument(
        "--normal", type=number, default=0.5, metavar="SHARE",
        help="share of the data, at its start, that is as it should be: it says what errors are usual",
    )  # fmt: skip
    series.add_argument("--steps", type=positive, help="how far to forecast; the model's horizon if not given")
    series.add_argument("--future", help="table with the inputs that are known ahead (where the model has such)")
    parser.add_argument("--json", action="store_true", help="also write the rows as JSON, beside the CSV file (no)")
    add_device(parser)
    add_time_options(parser)
    add_table_options(parser)


def run(options: argparse.Namespace) -> int:
    """Load whatever kind the checkpoint is, and write down what it says."""
    with opened(options, "series", *SAYS) as found:
        path = found.path
        if options.anomalies and found.kind != "series":
            raise InputError(f"--anomalies is for forecasters; checkpoint {path} is of kind {found.kind!r}")
        out = place_for("--out", options.out, path.parent, "predictions.csv", path, options.data)
        data = data_path(options.data)
        if found.kind == "series" and not options.anomalies:
            picture = place_for("--picture", None, path.parent, "forecast.png", path, data)
            foretell(found, data, out, picture, options, options.json)
            return 0
        model = found.model(announce(options), options.tier)
        print(f"checkpoint: {path}")
        read_otherwise(found.description, options)
        if found.kind == "series":
            said = unexpected(model, found.description, data, options.normal)
        else:
            said = of_sequences(model, found.description, data)
    files = write_rows(*said, out, options.json)
    print_rows(said.names, said.rows, PRINTED)
    for file in files:
        print(f"wrote {file}")
    return 0


def of_sequences(model: Model, description: dict[str, Any], path: Path) -> Said:
    """What a model says of each sequence of a table, or of each of their steps."""
    plain = description["options"]
    data = read_sequences(
        path, plain["label"], plain["series"], description["columns"], target=None, reading=reading(plain)
    )
    tell_table(data)
    if plain.get("truncate"):
        data = truncated(data, plain["truncate"])
    return SAYS[model.kind](model, description, data)


def classes(model: Model, description: dict[str, Any], data: Sequences) -> Said:
    """The likeliest class of each sequence, and the probability of each class."""
    assert isinstance(model, Classifier)
    shares = softmax(in_blocks(model.logits, data, np.arange(len(data))))
    return as_classes([[one] for one in data.ids], [description["options"]["series"]], shares, description["classes"])


def labels(model: Model, description: dict[str, Any], data: Sequences) -> Said:
    """The same of each step."""
    assert isinstance(model, Tagger)
    shares = softmax(steps_in_blocks(model.logits, data, np.arange(len(data))))
    who = [[one, k] for one, length in zip(data.ids, data.lengths, strict=True) for k in range(length)]
    return as_classes(who, [description["options"]["series"], "step"], shares, description["classes"])


def numbers(model: Model, description: dict[str, Any], data: Sequences) -> Said:
    """The numbers about each sequence."""
    assert isinstance(model, Regressor)
    said = in_blocks(model.predict, data, np.arange(len(data)))
    names = [description["options"]["series"], *description["targets"]]
    return Said(names, [[one, *row] for one, row in zip(data.ids, said.tolist(), strict=True)])


SAYS = {"classify": classes, "regress": numbers, "label": labels}


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (N, K) from scores."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def as_classes(who: list[list[Any]], names: list[str], shares: np.ndarray, classes: list[str]) -> Said:
    """Rows of who it is, the likeliest class and all probabilities."""
    rows = [[*one, classes[int(row.argmax())], *row.tolist()] for one, row in zip(who, shares, strict=True)]
    return Said([*names, "predicted", *(f"p({name})" for name in classes)], rows)


def unexpected(model: Model, description: dict[str, Any], path: Path, normal: float) -> Said:
    """How unexpected each step of series is, by the error of its forecast from the steps before."""
    assert isinstance(model, Forecaster)
    data = read_again(path, description)
    tell_series(data)
    values = np.asarray(data.values)
    usual = slice(0, int(len(values) * check_share("--normal", normal)))
    scores, limits = anomalies(model, values, description["options"]["length"], usual, data.starts[:-1])
    above = scores > limits
    print(f"usual is what the first {usual.stop:,} of {len(values):,} rows have (--normal {normal})")
    for name, count, limit in zip(data.targets, above.sum(axis=0), limits, strict=True):
        print(f"{name}: {count:,} anomalies, errors above {limit:.3g} times the usual spread")
    step, when = "step", [str(k) for k in range(len(values))]
    if data.times is not None and data.clock is not None:
        step, when = data.clock.name, written(data.times, data.clock.zone)
    judged = ~np.isnan(scores).all(axis=1)
    print(f"{np.sum(~judged):,} steps are not judged: too little is known before them (or ahead)")
    several = len(set(data.ids)) > 1
    who = np.repeat(data.ids, np.diff(data.starts)).tolist() if several else []
    rows = []
    for k, moment in enumerate(when):
        known = [None if np.isnan(score) else float(score) for score in scores[k]]
        rows.append([*who[k : k + 1], moment, *known, ("yes" if above[k].any() else "no") if judged[k] else ""])
    rows.sort(key=lambda row: row[-1] != "yes")  # anomalies first, else in order
    names = [*(["series"] if several else []), step, *(f"{name} unexpected" for name in data.targets), "anomaly"]
    return Said(names, rows)
