"""``gpu-lstm forecast``: the future of series, as numbers, a CSV file and a picture."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpu_lstm.backend import choose
from gpu_lstm.cli import pictures
from gpu_lstm.cli.opening import Opened, opened
from gpu_lstm.cli.options import (
    Parsers,
    add_device,
    add_parser,
    add_run,
    data_path,
    place_for,
    positive,
)
from gpu_lstm.cli.series import add_time_options, read_again, read_otherwise
from gpu_lstm.cli.tables import add_table_options, print_rows, reading, write_rows
from gpu_lstm.data.ahead import inputs_ahead, last_stretches, times_ahead
from gpu_lstm.data.clock import local, written
from gpu_lstm.data.series import Series
from gpu_lstm.models import Forecaster
from gpu_lstm.models.outcome import LEVELS

PRINTED, DRAWN = 60, 8
"""Rows that are printed, and series that are drawn: a CSV file has them all."""


def add_command(commands: Parsers) -> None:
    """Add the command."""
    parser = add_parser(commands, "forecast", run, "forecast series with a trained forecaster")
    add_run(parser)
    parser.add_argument("--data", help="table to forecast; the one that the model was trained on if not given")
    parser.add_argument(
        "--future",
        help="table with the inputs that are known ahead, for the steps to forecast (where the model has such)",
    )
    parser.add_argument("--steps", type=positive, help="how far; the model's horizon if not given")
    parser.add_argument("--csv", type=Path, help="CSV file to write; forecast.csv beside the model if not given")
    parser.add_argument("--picture", type=Path, help="PNG to write; forecast.png beside the model if not given")
    add_device(parser)
    add_time_options(parser)
    add_table_options(parser)


@dataclass(frozen=True)
class Forecast:
    """What is forecast of one series."""

    id: str
    history: np.ndarray  # (N, S): its last stretch
    came: np.ndarray  # (K, S): its last K steps, NaN where a value was filled in
    tested: np.ndarray | None  # (K, S): these, as forecast from those before; None: it has too few
    future: np.ndarray  # (K, S)
    times: np.ndarray | None  # (N + K,) datetime64 as `Series.times`
    first: int  # number of the first row
    quantiles: np.ndarray | None = None  # (at most K, Q, S) of the future, of a model that says how sure it is


def run(options: argparse.Namespace) -> int:
    """Forecast the last steps again, to compare with what came, and then the future."""
    with opened(options, "series") as found:
        source = data_path(found.data(options.data))
        target = place_for("--csv", options.csv, found.path.parent, "forecast.csv", found.path, source)
        picture = place_for("--picture", options.picture, found.path.parent, "forecast.png", found.path, source)
        foretell(found, source, target, picture, options)
    return 0


def foretell(
    opened: Opened, source: Path, target: Path, picture: Path, options: argparse.Namespace, as_json: bool = False
) -> None:
    """Write and print what comes after the last step of series, with those of `options` that both commands have."""
    model, description = opened.model(choose(options.backend), options.tier), opened.description
    assert isinstance(model, Forecaster)
    read_otherwise(description, options)
    data = read_again(source, description)
    for line in data.told:
        print(line)
    steps = options.steps or model.horizon
    ahead = inputs_ahead(
        data, -(-steps // model.horizon) * model.horizon, options.future, reading(description["options"]),
        **{name: description["options"].get(name) for name in ("series", "date_format", "time_zone")},
    )  # fmt: skip
    levels = () if model.outcome.certain else model.outcome.quantiles or LEVELS
    if levels and steps > model.horizon:
        print(f"quantiles end at the horizon, {model.horizon} steps: beyond, forecasts are fed back as if certain")
    found = list(forecasts(model, data, steps, ahead, description["options"]["length"]))
    several, unit = len(found) > 1, data.clock.name if data.clock is not None else "step"
    files = write_rows(*rows_of(found, data, description["options"].get("series") or "series", levels), target, as_json)
    drawn = [outlook for one in found for outlook in outlooks(one, data, several)]
    pictures.forecast(drawn[:DRAWN], picture, unit)
    tell(found, data, unit, levels)
    lags = model.linear.lags if model.linear else 0
    if short := [one for one in found if len(one.history) < lags]:
        who = f" {', '.join(one.id for one in short[:DRAWN])}{', ...' if len(short) > DRAWN else ''}:" * several
        least = min(len(one.history) for one in short)
        print(f"note:{who} {least} known steps, and the forecast looks back to {lags}: those before count as the first")
    if len(drawn) > DRAWN:
        print(f"{picture} has the first {DRAWN} of {len(drawn)} series")
    print(f"wrote {' and '.join(map(str, [*files, picture]))}")


def forecasts(
    model: Forecaster, data: Series, steps: int, ahead: dict[str, np.ndarray], length: int
) -> Iterator[Forecast]:
    """Yield what is forecast of each series, from its last stretch, of which at most the last `length` steps count."""
    targets, inputs = len(data.targets), len(data.targets) + len(data.past)

    for name, (start, stop) in last_stretches(data).items():
        values = np.asarray(data.values[start:stop])
        known_ahead = np.concatenate([values[:, inputs:], ahead[name]])

        def continued(
            origin: int, values: np.ndarray = values, known_ahead: np.ndarray = known_ahead, quantiles: bool = False
        ) -> np.ndarray:
            begin, more = max(0, origin - length), dict[str, Any]()
            last = origin + len(known_ahead) - len(values)
            if data.past:
                more["past"] = values[begin:origin, None, targets:inputs]
            if data.future:
                more["future"] = known_ahead[begin:last, None]
            history = values[begin:origin, None, :targets]
            if quantiles:
                return np.asarray(model.forecast_quantiles(history, **more)[:, 0])
            return np.asarray(model.forecast(history, steps, **more)[:, 0, :])

        origin = len(values) - steps
        tested = continued(origin) if origin > 1 else None
        following = times_ahead(data, stop - 1, steps)
        times = None if data.times is None or following is None else np.append(data.times[start:stop], following)
        sure = None if model.outcome.certain else continued(len(values), quantiles=True)[:steps]
        filled = False if data.filled is None else data.filled[start:stop, :targets][-steps:]
        came = np.where(filled, np.nan, values[-steps:, :targets])
        yield Forecast(name, values[:, :targets], came, tested, continued(len(values)), times, start, sure)


def sure_of(one: Forecast, k: int) -> list[str]:
    """Return the quantiles of a forecast's step for people, none beyond the horizon."""
    if one.quantiles is None:
        return []
    if k >= len(one.quantiles):
        return [""] * one.quantiles[0].size
    return [f"{value:.6g}" for value in one.quantiles[k].ravel()]


def labels(one: Forecast, data: Series) -> list[str]:
    """Return what the steps of a forecast are called, those of its history and of its future: times, or numbers."""
    if one.times is None or data.clock is None:
        return [str(k) for k in range(one.first, one.first + len(one.history) + len(one.future))]
    return written(one.times, data.clock.zone)


def rows_of(
    found: list[Forecast], data: Series, series: str, levels: Sequence[float] = ()
) -> tuple[list[str], list[list[Any]]]:
    """Return all forecasts as a table: of the last known steps, beside what came, and of the future, with quantiles."""
    names, rows = data.targets, list[list[Any]]()
    several, step = len(found) > 1, data.clock.name if data.clock is not None else "step"
    columns = [*(f"{name}_forecast" for name in names), *(f"{name}_truth" for name in names)]
    columns += [f"{name}_{level:g}" for level in levels for name in names]
    for one in found:
        called, steps = labels(one, data), len(one.future)
        known, who = len(one.history), [one.id] if several else []
        for k in range(steps if one.tested is not None else 0):
            assert one.tested is not None
            came = ["" if np.isnan(value) else value for value in one.came[k].tolist()]
            rows.append([*who, called[known - steps + k], *one.tested[k].tolist(), *came])
            rows[-1] += [""] * len(levels) * len(names)
        for k in range(steps):
            sure = [""] * len(levels) * len(names)
            if one.quantiles is not None and k < len(one.quantiles):
                sure = one.quantiles[k].ravel().tolist()
            rows.append([*who, called[known + k], *one.future[k].tolist(), *("" for _ in names), *sure])
    return [*([series] if several else []), step, *columns], rows


def outlooks(one: Forecast, data: Series, several: bool) -> list[pictures.Outlook]:
    """Return what is drawn of a forecast: each of its columns."""
    times = None if one.times is None or data.clock is None else local(one.times, data.clock.zone)
    return [
        pictures.Outlook(
            f"{one.id}: {name}" if several else name,
            one.history[:, s],
            None if one.tested is None else one.tested[:, s],
            one.future[:, s],
            times,
            None if one.quantiles is None else one.quantiles[:, :, s],
        )
        for s, name in enumerate(data.targets)
    ]


def tell(found: list[Forecast], data: Series, unit: str, levels: Sequence[float] = ()) -> None:
    """Print forecasts with their quantiles, and how good those of the last known steps were."""
    several = len(found) > 1
    lines = [
        ([one.id] if several else []) + [called] + [f"{value:.6g}" for value in row] + sure_of(one, k)
        for one in found
        for k, (called, row) in enumerate(zip(labels(one, data)[len(one.history) :], one.future, strict=True))
    ]
    names = [*([""] if several else []), unit, *data.targets]
    print_rows([*names, *(f"{name} {level:g}" for level in levels for name in data.targets)], lines, PRINTED)
    steps, tested = len(found[0].future), [one for one in found if one.tested is not None]
    if tested:
        came = np.concatenate([one.came for one in tested])
        said = np.concatenate([one.tested for one in tested if one.tested is not None])
        errors = [column[~np.isnan(column)] for column in (said - came).T]
        scores = [f"{np.sqrt(np.mean(error**2)):.4g}" if len(error) else "none" for error in errors]
        if len(scores) > 1:
            scores = [f"{score} of {name}" for score, name in zip(scores, data.targets, strict=True)]
        filled = came.size - sum(map(len, errors))
        but = f", but for the values that were filled in, {filled:,}" if filled else ""
        print(f"the last {steps} known steps, forecast from before them: RMSE {', '.join(scores)}{but}")
    if few := [one for one in found if one.tested is None]:
        of = f"{len(few)} of {len(found)} series have" if several else f"{len(few[0].history)} known steps are"
        print(f"no score: {of} too few to forecast the last {steps} of them from before those")
