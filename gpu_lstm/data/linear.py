"""The linear forecast: what comes next as a weighted sum of what was last, by ridge regression in closed form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

ROWS = 20_000
"""The most windows that a forecast is fitted on, evenly spread over what there is."""
FOLDS = 5
PENALTIES = tuple(10.0**k for k in np.arange(-6, 1.1, 0.5))
"""Of the ridge, in units of the features' own mean squares."""
SHARED = 200_000
"""Above so many weights all series share theirs."""


@dataclass(frozen=True)
class LinearForecast:
    """A direct forecast of S series, for each of the next H steps a weighted sum of the last L values and of inputs.

    Everything is in units of the training data: values less the mean, over the spread. Where G is 1, all series share
    their weights.
    """

    weight: np.ndarray  # (G, H, L): of the values, the oldest first
    bias: np.ndarray  # (G, H)
    now: np.ndarray  # (G, H, P + F): of the inputs at the last known step
    ahead: np.ndarray  # (G, H, F): of the inputs known ahead, at the step that is forecast
    unit: np.ndarray  # (H, S): root of its mean squared error where it was left out of the fit

    @property
    def lags(self) -> int:
        """How many values it looks back."""
        return int(self.weight.shape[2])

    def plain(self) -> dict[str, Any]:
        """As lists of numbers, for a description."""
        names = ("weight", "bias", "now", "ahead", "unit")
        return {name: rounded(getattr(self, name)) for name in names}

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Self:
        """From what `plain` gave."""
        found = {name: np.array(plain[name], dtype=np.float64) for name in ("weight", "bias", "unit")}
        groups, horizon = found["bias"].shape
        for name in ("now", "ahead"):
            found[name] = np.array(plain[name], dtype=np.float64).reshape(groups, horizon, -1)
        return cls(**found)

    def __call__(self, values: np.ndarray, inputs: np.ndarray, first: int, steps: int) -> np.ndarray:
        """Forecast from steps `first` to `steps` of windows.

        Parameters
        ----------
        values : (T, B, S)
            In units; before the first one, all were as that.
        inputs : (T or more, B, P + F)
            Those known ahead last, and with `horizon` rows more than `steps`.
        first, steps : int
            At most T.

        Returns
        -------
        (steps - first, B, H, S)
        """
        horizon, num_ahead = self.bias.shape[1], self.ahead.shape[2]
        found = np.empty((steps - first, values.shape[1], horizon, values.shape[2]))
        begin = first - self.lags + 1
        for s in range(values.shape[2]):
            g = s % len(self.bias)
            column = values[max(0, begin) : steps, :, s]
            padded = np.concatenate([np.repeat(values[:1, :, s], max(0, -begin), axis=0), column])
            windows = np.lib.stride_tricks.sliding_window_view(padded, self.lags, axis=0)
            found[..., s] = windows @ self.weight[g].T + self.bias[g]
            if inputs.shape[2]:
                found[..., s] += inputs[first:steps] @ self.now[g].T
            for h in range(horizon if num_ahead else 0):
                known = inputs[first + h + 1 : steps + h + 1, :, inputs.shape[2] - num_ahead :]
                found[:, :, h, s] += known @ self.ahead[g, h]
        return found


def fit_linear(
    values: np.ndarray,
    inputs: np.ndarray,
    num_ahead: int,
    ranges: Sequence[tuple[int, int]],
    horizon: int,
    lags: Sequence[int],
) -> LinearForecast | None:
    """Fit a forecast; how many lags it takes and how large the penalty is, cross-validation over blocks of time says.

    The features are the differences of the lags from the last value, that value, and the inputs: so a large penalty
    means that nothing changes.

    Parameters
    ----------
    values : (N, S)
        In units of the training data.
    inputs : (N, P + F)
    num_ahead : int
        F, how many of the inputs are known ahead, the last ones.
    ranges : (begin, end) of rows
        Which rows may be looked at; no window lies across two of them.
    horizon : int
    lags : sequence of int
        Numbers of lags to choose from; those that leave too few windows are not tried.

    Returns
    -------
    LinearForecast, or None where there are too few windows for any
    """
    series, most = values.shape[1], max((end - begin for begin, end in ranges), default=0)
    windows = {n: sum(max(0, end - begin - n - horizon + 1) for begin, end in ranges) for n in lags}
    tried = sorted(n for n in set(lags) if n >= 2 and 3 * n <= most and windows[n] >= 4 * FOLDS)
    if not tried:
        return None
    longest = tried[-1]
    origins = np.concatenate([np.arange(begin + longest - 1, end - horizon) for begin, end in ranges])
    origins = origins[:: -(-len(origins) // ROWS)]
    shared = series > 1 and series * horizon * longest > SHARED
    groups = [list(range(series))] if shared else [[s] for s in range(series)]
    fits, unit = [], np.empty((horizon, series))
    for group in groups:
        sums = [sums_of(values[:, s], inputs, num_ahead, origins, longest, horizon) for s in group]
        weights, error = choose([add_up(parts) for parts in zip(*sums, strict=True)], longest, tried, inputs.shape[1])
        fits.append(weights)
        unit[:, group] = np.sqrt(error)[:, None]
    total = np.stack(fits)  # (G, H, 1 + longest + P + F + F)
    differences, level = total[:, :, 1:longest], total[:, :, longest]
    weight = np.empty((len(groups), horizon, longest))
    weight[:, :, :-1] = differences[:, :, ::-1]
    weight[:, :, -1] = 1 + level - differences.sum(axis=2)
    used = int(np.argmax(np.any(weight != 0, axis=(0, 1))))
    now = total[:, :, longest + 1 : longest + 1 + inputs.shape[1]]
    ahead = total[:, :, longest + 1 + inputs.shape[1] :]
    return LinearForecast(weight[:, :, used:], total[:, :, 0], now, ahead, np.where(unit > 0, unit, 1.0))


@dataclass(frozen=True)
class Sums:
    """Sums over windows, all that ridge regression needs of them: one is X^T X, X^T y and y^T y of a step ahead."""

    count: int
    squares: list[np.ndarray]  # (K, K), one for all steps ahead or one for each
    cross: np.ndarray  # (K, H)
    own: np.ndarray  # (H,): sums of y^2


def sums_of(
    values: np.ndarray, inputs: np.ndarray, num_ahead: int, origins: np.ndarray, lags: int, horizon: int
) -> list[Sums]:
    """Of one series, for each block of time; between blocks, windows that look into the next are left out."""
    found = []
    for block in np.array_split(origins, FOLDS):
        kept = block[block < block[-1] - horizon + 1] if len(block) > 2 * horizon else block
        last = values[kept]
        lagged = values[kept[:, None] - np.arange(1, lags)] - last[:, None]
        common = np.column_stack([np.ones(len(kept)), lagged, last, inputs[kept]])
        change = values[kept[:, None] + np.arange(1, horizon + 1)] - last[:, None]
        own = np.sum(change**2, axis=0)
        if not num_ahead:
            found.append(Sums(len(kept), [common.T @ common], common.T @ change, own))
            continue
        squares, cross = [], []
        for h in range(horizon):
            x = np.column_stack([common, inputs[kept + h + 1][:, inputs.shape[1] - num_ahead :]])
            squares.append(x.T @ x)
            cross.append(x.T @ change[:, h])
        found.append(Sums(len(kept), squares, np.column_stack(cross), own))
    return found


def add_up(parts: Sequence[Sums]) -> Sums:
    """Sums over all of them."""
    squares = [sum(arrays[1:], start=arrays[0]) for arrays in zip(*(part.squares for part in parts), strict=True)]
    cross = sum((part.cross for part in parts[1:]), start=parts[0].cross)
    return Sums(sum(part.count for part in parts), squares, cross, np.sum([part.own for part in parts], axis=0))


def choose(blocks: list[Sums], longest: int, lags: Sequence[int], num_inputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights (H, K), fitted on all blocks, by what is best on each left out; and its squared errors (H,)."""
    size, horizon = blocks[0].cross.shape
    errors = {(n, penalty): np.zeros(horizon) for n in lags for penalty in PENALTIES}
    for k, held_out in enumerate(blocks):
        rest = add_up(blocks[:k] + blocks[k + 1 :])
        for n in lags:
            for penalty, weights in solutions(rest, columns(n, longest, size)):
                errors[n, penalty] += squared_error(held_out, weights)
    best_lags, best_penalty = min(errors, key=lambda way: float(errors[way].sum()))
    every = add_up(blocks)
    weights = dict(solutions(every, columns(best_lags, longest, size)))[best_penalty]
    return weights.T, errors[best_lags, best_penalty] / every.count


def columns(lags: int, longest: int, size: int) -> np.ndarray:
    """Which of `size` features there are with so many lags of the longest."""
    return np.concatenate([np.arange(lags), np.arange(longest, size)])


def solutions(sums: Sums, kept: np.ndarray) -> Iterator[tuple[float, np.ndarray]]:
    """Weights (K, H) by ridge regression for each penalty; features that are not kept get none, the first is 1."""
    size, horizon = sums.cross.shape
    per_step = len(sums.squares) > 1
    parts = []
    for h, squares in enumerate(sums.squares):
        taken = slice(h, h + 1) if per_step else slice(None)
        means, totals = squares[0, kept[1:]] / sums.count, sums.cross[0, taken]
        inner = squares[np.ix_(kept[1:], kept[1:])] / sums.count - np.outer(means, means)
        scale = np.sqrt(np.maximum(np.diag(inner), 1e-12))
        right = (sums.cross[kept[1:], taken] - np.outer(means, totals)) / sums.count / scale[:, None]
        eigen, vectors = np.linalg.eigh(inner / np.outer(scale, scale))
        parts.append((taken, means, totals / sums.count, scale, np.maximum(eigen, 0), vectors, vectors.T @ right))
    for penalty in PENALTIES:
        weights = np.zeros((size, horizon))
        for taken, means, intercept, scale, eigen, vectors, right in parts:
            found = (vectors @ (right / (eigen + penalty)[:, None])) / scale[:, None]
            weights[kept[1:], taken] = found
            weights[0, taken] = intercept - means @ found
        yield penalty, weights


def squared_error(sums: Sums, weights: np.ndarray) -> np.ndarray:
    """Sums (H,) of the squared errors of weights (K, H) over all windows."""
    if len(sums.squares) == 1:
        explained = np.sum(weights * (sums.squares[0] @ weights), axis=0)
    else:
        explained = np.array([weights[:, h] @ squares @ weights[:, h] for h, squares in enumerate(sums.squares)])
    return np.asarray(np.maximum(0.0, sums.own - 2 * np.sum(weights * sums.cross, axis=0) + explained))


def rounded(array: np.ndarray) -> Any:
    """An array as nested lists of numbers of nine digits."""
    return [rounded(part) for part in array] if array.ndim else float(f"{array:.9g}")
