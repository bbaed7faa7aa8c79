"""Forecasts from many origins at once, and how far off a series is from what was to be expected of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from gpu_lstm.errors import InputError
from gpu_lstm.layers.checks import check_size
from gpu_lstm.models.arguments import check_host
from gpu_lstm.models.forecaster import Forecaster


def backtest(
    model: Forecaster,
    values: np.ndarray,
    origins: np.ndarray,
    length: int,
    begins: Sequence[int] | np.ndarray = (0,),
    levels: Sequence[float] | None = None,
    block: int = 256,
) -> np.ndarray:
    """Forecast from rolling origins, in batches.

    Parameters
    ----------
    model : Forecaster
    values : (N, S + P + F)
        In the data's own units; the model's columns.
    origins : (K,) integers
        The rows that are forecast first: origin k knows values[:k], and inputs known ahead beyond it.
    length : int
        How many steps before it each origin knows at most.
    begins : (M,) integers
        Where stretches begin, ascending: nothing before the start of its own is known.
    levels : sequence of float, optional
        Quantiles to say in place of the forecast.
    block : int
        Windows of a batch.

    Returns
    -------
    (K, horizon, S), or (K, horizon, S, Q) of quantiles

    Raises
    ------
    InputError
        An origin has no step before it, or inputs that are known ahead end before its horizon.

    Examples
    --------
    >>> from gpu_lstm.models.backtest import backtest
    >>> model = Forecaster([0.0], [1.0], [0.1], horizon=6, hidden_size=8, backend="numpy")
    >>> values = np.sin(np.arange(200.0))[:, None]
    >>> backtest(model, values, np.arange(150, 194), length=48).shape  # (K, horizon, S)
    (44, 6, 1)
    """
    values = check_host("values", values, ("N", f"S+P+F={model.num_columns}"))
    origins, begins = np.asarray(origins), np.asarray(begins)
    length, horizon = check_size("length", length), model.horizon
    known = origins - begins[np.searchsorted(begins, origins, "right") - 1]
    last = len(values) - (horizon if model.num_ahead else 0)
    if origins.ndim != 1 or not len(origins) or known.min() < 1 or origins.max() > last:
        given = f"{origins.min()}..{origins.max()}" if origins.size else "none"
        raise InputError(f"origins is {given}; expected rows 1..{last} with a step before each in its own stretch")
    known = np.minimum(known, length)
    size = (len(origins), horizon, model.num_series)
    found = np.empty(size if levels is None else (*size, len(levels)))
    for steps in np.unique(known):
        same = np.flatnonzero(known == steps)
        for part in np.split(same, range(block, len(same), block)):
            windows = np.stack([values[k - steps : k] for k in origins[part]], axis=1)
            ahead = None
            if model.num_ahead:
                columns = slice(model.num_columns - model.num_ahead, None)
                ahead = np.stack([values[k - steps : k + horizon, columns] for k in origins[part]], axis=1)
            said = model.says(windows, ahead)
            if levels is None:
                found[part] = model.outcome.middle(said).transpose(1, 0, 2)
            else:
                found[part] = model.outcome.at(said, levels).transpose(1, 0, 3, 2)
    return found


def spaced(origins: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the origins, evenly spaced; all of them where they are no more."""
    return np.asarray(origins[:: max(1, -(-len(origins) // most))])


def one_step_errors(model: Forecaster, values: np.ndarray, length: int) -> np.ndarray:
    """How far each step of one stretch is from what the step before it expected, in the data's own units.

    Parameters
    ----------
    model : Forecaster
    values : (N, S + P + F)
    length : int
        Each step is forecast from at least so many before it, where there are, and from at most twice as many.

    Returns
    -------
    (N, S)
        NaN for the first step, and for as many as the model's linear forecast looks back to; and for the last `horizon`
        ones but one where inputs are known ahead.
    """
    values = check_host("values", values, ("N", f"S+P+F={model.num_columns}"))
    errors = np.full((len(values), model.num_series), np.nan)
    last = len(values) - (model.horizon if model.num_ahead else 1)
    early = model.linear.lags if model.linear else 1
    for start in range(0, max(last, 0), length):
        begin = max(0, start - length)
        stop = min(start + length, last)
        window = values[begin:stop, None, :].astype(np.float64)
        columns = slice(model.num_columns - model.num_ahead, None)
        ahead = values[begin : stop + model.horizon, None, columns] if model.num_ahead else None
        said = model.outcome.middle(model.says(window, ahead, start - begin))[:, 0, 0]
        errors[start + 1 : stop + 1] = values[start + 1 : stop + 1, : model.num_series] - said
    errors[:early] = np.nan  # of which less is known than of all others
    return errors


def anomalies(
    model: Forecaster, values: np.ndarray, length: int, normal: slice, begins: Sequence[int] | np.ndarray = (0,)
) -> tuple[np.ndarray, np.ndarray]:
    """How unexpected each step of a series is.

    Parameters
    ----------
    model, values, length
        As of `one_step_errors`; values may hold several stretches.
    normal : slice
        Rows that are as they should be, best ones that the model wasn't trained on: they say what is usual.
    begins : (M,) integers
        Where stretches begin.

    Returns
    -------
    scores : (N, S)
        Absolute errors of forecasts by one step, in units of their median among the normal rows, over 0.6745, which is
        the spread of normal errors. NaN where nothing was expected.
    threshold : (S,)
        Above it is what a thousandth of the normal rows would exceed at most, were their tail exponential.

    Raises
    ------
    InputError
        There are fewer than 20 normal rows.
    """
    bounds = [*np.asarray(begins).tolist(), len(values)]
    parts = [one_step_errors(model, values[a:b], length) for a, b in pairwise(bounds)]
    errors = np.abs(np.concatenate(parts))
    usual = errors[normal]
    usual = usual[np.isfinite(usual).all(axis=1)]
    if len(usual) < 20:
        raise InputError(f"normal has {len(usual)} rows that can be forecast; expected at least 20")
    middle = np.median(usual, axis=0)
    spread = np.where(middle > 0, middle / 0.6745, np.maximum(usual.mean(axis=0), 1e-12))
    tail = np.quantile(usual, 0.95, axis=0)
    beyond = np.array([np.mean(column[column >= least] - least) for column, least in zip(usual.T, tail, strict=True)])
    return errors / spread, (tail + beyond * np.log(0.05 / 0.001)) / spread
