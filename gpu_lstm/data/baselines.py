"""Simple forecasts, the ones to beat, and what forecasts are measured by."""

from __future__ import annotations

import numpy as np


def persistence(values: np.ndarray, origins: np.ndarray, horizon: int) -> np.ndarray:
    """Forecast that nothing changes: (origins, horizon, S) from values (N, S); origin k knows values[:k]."""
    return np.repeat(values[origins - 1][:, None, :], horizon, axis=1)


def seasonal_naive(values: np.ndarray, origins: np.ndarray, horizon: int, period: int) -> np.ndarray:
    """Forecast what was a period before, (origins, horizon, S); each origin has at least `period` values before it."""
    ahead = np.arange(horizon)
    return np.asarray(values[origins[:, None] + ahead - period * (ahead // period + 1)])


def seasonal_mean(values: np.ndarray, origins: np.ndarray, horizon: int, fitted: int, period: int) -> np.ndarray:
    """Forecast the mean of values[:fitted] at the same place of the period, (origins, horizon, S)."""
    profile = np.stack([values[place:fitted:period].mean(axis=0) for place in range(period)])
    return np.asarray(profile[(origins[:, None] + np.arange(horizon)) % period])


def autoregression(values: np.ndarray, origins: np.ndarray, horizon: int, fitted: int, order: int = 24) -> np.ndarray:
    """Forecast (K, horizon, S) of an AR(order) model with intercept for each series, iterated to the horizon.

    It is fitted by least squares on values[:fitted], of (N, S); origin k of (K,) knows values[:k].
    """
    forecasts = np.empty((len(origins), horizon, values.shape[1]))
    for s in range(values.shape[1]):
        x = np.asarray(values[:, s])
        lags = np.lib.stride_tricks.sliding_window_view(x[: fitted - 1], order)
        design = np.column_stack([np.ones(len(lags)), lags])
        weights = np.linalg.lstsq(design, x[order:fitted], rcond=None)[0]
        past = np.lib.stride_tricks.sliding_window_view(x, order)[origins - order].copy()
        for step in range(horizon):
            value = weights[0] + past @ weights[1:]
            forecasts[:, step, s] = value
            past = np.column_stack([past[:, 1:], value])
    return forecasts


def truth(values: np.ndarray, origins: np.ndarray, horizon: int) -> np.ndarray:
    """Return what came after each origin, (origins, horizon, S)."""
    return np.asarray(values[origins[:, None] + np.arange(horizon)[None, :]])


def rmse(forecast: np.ndarray, actual: np.ndarray) -> float:
    """Return the root of the mean squared error over all origins, steps and series."""
    return float(np.sqrt(np.mean(np.subtract(forecast, actual, dtype=np.float64) ** 2)))


def pinball_of(quantiles: np.ndarray, actual: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return the pinball loss (...) of quantiles (..., Q) of those levels (Q,), its mean over the levels.

    Twice that, with many levels, is the continuous ranked probability score (CRPS).
    """
    error = np.asarray(actual)[..., None] - quantiles
    loss: np.ndarray = np.maximum(levels * error, (levels - 1) * error).mean(axis=-1)
    return loss


PERIOD_SHOWS = 0.15
"""How large an autocorrelation at a period is at least, and how far above the least before it."""


def periods(values: np.ndarray, most: int = 2, limit: int = 1000) -> list[int]:
    """Return periods, in steps and ascending, that a series (N,) shows three times or more by its autocorrelation.

    The first is the shortest among those about as clear as the clearest; the next is looked for in what is left once
    the mean at each place of the period is taken off.
    """
    rest = np.asarray(values, dtype=np.float64)
    time = np.arange(len(rest))
    limit, found = min(len(rest) // 3, limit), list[int]()
    least = max(PERIOD_SHOWS, 4 / np.sqrt(max(1, len(rest))))  # of few values, chance shows some
    if limit < 4:
        return found
    rest = rest - np.polyval(np.polyfit(time, rest, 1), time)
    while len(found) < most:
        r = autocorrelation(rest, limit)
        rises = np.flatnonzero((r[1:-1] <= r[:-2]) & (r[1:-1] <= r[2:])) + 1
        if not len(rises):
            break
        first = int(rises[0])
        tops = [
            lag for lag in range(first + 1, limit)
            if r[lag] >= max(r[lag - 1], r[lag + 1], least, r[first:lag].min() + least)
        ]  # fmt: skip
        clear = [lag for lag in tops if r[lag] >= 0.7 * max(r[top] for top in tops)]
        period = max((lag for lag in clear if lag <= 1.25 * clear[0]), key=r.__getitem__, default=0)
        if not clear or (found and period < 1.5 * found[-1]):
            break
        if found:  # noise moves a flat top: a week is seven days
            whole = round(period / found[-1]) * found[-1]
            period = whole if abs(period - whole) <= 0.02 * whole and whole <= limit else period
        found.append(period)
        rest = rest - np.array([rest[place::period].mean() for place in range(period)])[time % period]
    return found


def autocorrelation(values: np.ndarray, limit: int) -> np.ndarray:
    """Return the autocorrelation of values (N,) at lags 0 to `limit`, all 0 for a series that never changes."""
    centred = values - values.mean()
    size = 1 << (2 * len(centred) - 1).bit_length()
    spectrum = np.fft.rfft(centred, size)
    sums = np.fft.irfft(spectrum * spectrum.conj(), size)[: limit + 1]
    return np.asarray(sums / sums[0] if sums[0] > 1e-12 * max(1.0, np.abs(values).max()) ** 2 else 0 * sums)
