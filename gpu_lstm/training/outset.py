"""What a forecaster sets out with, from its data: sizes that suit the series, its units, and a linear forecast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_lstm.data.baselines import periods
from gpu_lstm.data.series import Series, deviations
from gpu_lstm.data.start import fit_start
from gpu_lstm.errors import InputError
from gpu_lstm.training.tasks.series import check_parts

KNOWN = 128
"""Known steps of a window where the series shows no period."""
MOST_KNOWN = 512
STEPS = 500
"""About so many steps of training, in whole epochs."""


@dataclass(frozen=True)
class Sizes:
    """Of windows and of a model, and the periods that the data show."""

    horizon: int
    length: int
    memory: int
    hidden_size: int
    epochs: int
    periods: tuple[int, ...]


def periods_of(values: np.ndarray, ranges: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Return the periods that most of the series (N, S) show in the longest of the ranges, at most two, ascending."""
    begin, end = max(ranges, key=lambda rows: rows[1] - rows[0])
    found = [periods(values[begin:end, s]) for s in range(min(values.shape[1], 20))]
    every = [period for one in found for period in one]
    often = [period for period in sorted(set(every)) if 2 * every.count(period) >= len(found)]
    return tuple(often[:2])


def sizes_for(values: np.ndarray, ranges: Sequence[tuple[int, int]], batch: int, held_out: int | None = None) -> Sizes:
    """Choose what suits the rows (N, S) to train on, which lie in these ranges (begin, end).

    The horizon is the shortest period of 7 to 48 steps, else 12, and no longer than the rows `held_out`. Windows
    have two of the longest period, and at least four times the horizon, as far as half of the longest range goes.
    Epochs are as many as make about `STEPS` steps.
    """
    found = periods_of(values, ranges)
    longest = max(end - begin for begin, end in ranges)
    horizon = next((period for period in found if 7 <= period <= 48), 12)
    horizon = max(1, min(horizon, longest // 6, horizon if held_out is None else held_out))
    wanted = max([KNOWN, 4 * horizon, *(2 * period for period in found if 2 * period <= MOST_KNOWN)])
    length = max(2, min(wanted, (longest - horizon) // 2))
    memory = max([min(period, length) for period in found], default=24)
    windows = sum(max(0, end - begin - length - horizon + 1) for begin, end in ranges)
    steps = max(1, -(-windows // batch))
    return Sizes(horizon, length, memory, 32, max(1, round(STEPS / steps)), found)


def training_ranges(data: Series, parts: tuple[float, float]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return (begin, end) of the rows to train on, and of those with the rows to validate on, for each stretch."""
    check_parts(parts)
    begins, (train, validation) = data.starts[:-1].tolist(), data.cuts(parts)
    known = [(b, int(e)) for b, e in zip(begins, train, strict=True) if e > b]
    if max((end - begin for begin, end in known), default=0) < 2:
        raise InputError(f"series has {len(data.values)} steps; expected more to train on")
    return known, [(b, int(e)) for b, e in zip(begins, validation, strict=True) if e > b]


def outset(
    data: Series,
    parts: tuple[float, float],
    horizon: int,
    length: int,
    linear: str = "auto",
    periods: Sequence[int] = (),
) -> dict[str, Any]:
    """Arguments of a `Forecaster` that come from its data.

    Units are those of the training part. The linear forecast is fitted on the validation part, too, once
    cross-validation over both has said how; what the LSTM makes of it is learned on the training part alone. `linear`
    is "auto", "ridge" for that kind alone, or "none".
    """
    ranges, both = training_ranges(data, parts)
    values = np.asarray(data.values, dtype=np.float64)
    known = (len(data.targets), len(data.future), len(data.calendar))
    return outset_of(values, known, ranges, both, horizon, length, linear, periods)


def outset_of(
    values: np.ndarray, known: tuple[int, int, int], ranges: Sequence[tuple[int, int]], both: Sequence[tuple[int, int]],
    horizon: int, length: int, linear: str = "auto", periods: Sequence[int] = (),
) -> dict[str, Any]:  # fmt: skip
    """`outset` of values (N, S + P + F), units from the rows in `ranges`, the linear forecast from those in `both`.

    `known` is S, F, and how many of the F are the calendar's.
    """
    series, ahead, cycles = known
    rows = np.concatenate([values[begin:end] for begin, end in ranges])
    changes = np.concatenate([np.diff(values[begin:end, :series], axis=0) for begin, end in ranges])
    mean, spread = rows.mean(axis=0).tolist(), deviations(rows)
    config: dict[str, Any] = {
        "mean": mean[:series], "spread": spread[:series], "step_spread": deviations(changes), "horizon": horizon,
    }  # fmt: skip
    if len(mean) > series:
        config["inputs"] = {"mean": mean[series:], "spread": spread[series:], "ahead": ahead}
    if linear != "none":
        units = (values - mean) / spread
        lags = lags_up_to(min(length, max(end - begin for begin, end in ranges) - horizon - length // 4))
        kinds = periods if linear == "auto" else None
        fitted = fit_start(units[:, :series], units[:, series:], ahead, both, horizon, lags, kinds, cycles)
        if fitted is not None:
            config["linear"] = fitted.plain()
    return config


def lags_up_to(most: int) -> list[int]:
    """Return numbers of lags for a linear forecast to choose from."""
    return sorted({max(2, most * k // 16) for k in (1, 2, 4, 8, 12, 16)})


def chosen(options: Mapping[str, Any], sizes: Sizes) -> dict[str, Any]:
    """Return the sizes that options leave to the data, None there."""
    names = ("horizon", "length", "memory", "hidden_size", "epochs")
    return {name: getattr(sizes, name) for name in names if options.get(name) is None}
