"""``gpu-lstm forecast``: the future of a series, as numbers, a CSV file and a picture."""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path

import numpy as np

from gpu_lstm.backend import choose
from gpu_lstm.cli import pictures
from gpu_lstm.cli.options import (
    Parsers,
    add_device,
    add_parser,
    add_run,
    data_path,
    find_checkpoint,
    place_for,
    positive,
    trained_on,
)
from gpu_lstm.cli.tables import add_table_options, reading
from gpu_lstm.data.series import read_series, rmse
from gpu_lstm.models import Forecaster
from gpu_lstm.training.checkpoint import load_model, write_whole


def add_command(commands: Parsers) -> None:
    """Add the command."""
    parser = add_parser(commands, "forecast", run, "forecast a series with a trained forecaster")
    add_run(parser)
    parser.add_argument("--data", help="CSV file to forecast; the one that the model was trained on if not given")
    parser.add_argument("--steps", type=positive, help="how far; the model's horizon if not given")
    parser.add_argument("--csv", type=Path, help="CSV file to write; forecast.csv beside the model if not given")
    parser.add_argument("--picture", type=Path, help="PNG to write; forecast.png beside the model if not given")
    add_device(parser)
    add_table_options(parser)


def run(options: argparse.Namespace) -> int:
    """Forecast the last steps again, to compare with what came, and then the future."""
    path = find_checkpoint(options.checkpoint, "series")
    model, description = load_model(path, "series", choose(options.backend), options.tier)
    assert isinstance(model, Forecaster)
    source = data_path(options.data or trained_on(path, description))
    target = place_for("--csv", options.csv, path.parent, "forecast.csv", path, source)
    picture = place_for("--picture", options.picture, path.parent, "forecast.png", path, source)
    data = read_series(source, description["columns"], reading(vars(options), description["options"]))
    steps = options.steps or model.horizon
    known, length = len(data.values), description["options"]["length"]
    values = np.asarray(data.values)

    def continued(origin: int) -> np.ndarray:
        return model.forecast(values[max(0, origin - length) : origin, None, :], steps)[:, 0, :]

    origin = known - steps
    tested = continued(origin) if origin > 1 else None
    future = continued(known)
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(["step", *(f"{n}_forecast" for n in data.names), *(f"{n}_truth" for n in data.names)])
    if tested is not None:
        for k in range(steps):
            rows.writerow([origin + k, *tested[k].tolist(), *values[origin + k].tolist()])
    for k in range(steps):
        rows.writerow([known + k, *future[k].tolist(), *("" for _ in data.names)])
    write_whole(target, text.getvalue().encode())
    pictures.forecast(data.names, values, tested, future, picture)
    print(f"{'step':>8}  " + "  ".join(f"{name:>12}" for name in data.names))
    for k in range(steps):
        print(f"{known + k:>8}  " + "  ".join(f"{value:12.6g}" for value in future[k]))
    if tested is None:
        print(f"no score: {known} known steps are too few to forecast the last {steps} of them from before those")
    else:
        print(f"the last {steps} known steps, forecast from before them: RMSE {rmse(tested, values[origin:]):.4g}")
    print(f"wrote {target} and {picture}")
    return 0
