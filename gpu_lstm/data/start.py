"""Which linear forecast to start from: of several kinds, fitted in closed form, by cross-validation.

A window's features are 1, the differences of its lags from the last value, that value, and inputs; what is forecast is
the change from the last value. In these every start is weights (K, H):

- a ridge regression, drawn to what its penalty makes of it where that is large: to the last value, to the mean, or to
  the mean of some values a period apart, as it stands or moved by how far the last value is from such a mean;
- an autoregression, a ridge regression of one step that is iterated.

Each is tried on several numbers of lags. The start is the mean of the best of them, again such weights;
cross-validation says of how many.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpu_lstm.data.linear import LinearForecast

ROWS = 20_000
"""The most windows that a start is fitted on, evenly spread over what there is."""
FOLDS = 5
PENALTIES = np.append(10.0 ** np.arange(-5.0, 2.0), np.inf)
"""Of the ridge, in units of the features' own mean squares."""
SHARED = 200_000
"""Above so many weights all series share theirs."""


@dataclass(frozen=True)
class Sums:
    """Sums over windows, all that ridge regression needs of them: one is X^T X, X^T y and y^T y of a step ahead."""

    count: int
    squares: list[np.ndarray]  # (K, K), one for all steps ahead or one for each
    cross: np.ndarray  # (K, H)
    own: np.ndarray  # (H,): sums of y^2


@dataclass(frozen=True)
class Prior:
    """What a ridge regression is drawn to."""

    kind: str
    name: str
    weights: np.ndarray  # (K, H)
    iterated: bool = False


@dataclass(frozen=True)
class Pick:
    """The best start of a kind on so many lags."""

    prior: Prior
    lags: int
    penalty: int  # of `PENALTIES`
    score: float  # root of its mean squared error where it was left out of the fit

    @property
    def name(self) -> str:
        """For people."""
        if np.isinf(PENALTIES[self.penalty]):
            return self.prior.name
        drawn = f" about {self.prior.name}" if self.prior.kind != "ridge" else ""
        return f"AR({self.lags})" if self.prior.iterated else f"ridge on {self.lags} lags{drawn}"

    def needs(self, longest: int) -> int:
        """How many values a window has to have: those of its lags, and those that its prior looks at."""
        looked_at = np.flatnonzero(self.prior.weights[:longest].any(axis=1))
        return max([self.lags, *(int(lag) + 1 for lag in looked_at)])


def fit_start(
    values: np.ndarray,
    inputs: np.ndarray,
    num_ahead: int,
    ranges: Sequence[tuple[int, int]],
    horizon: int,
    lags: Sequence[int],
    periods: Sequence[int] | None = (),
    cycles: int = 0,
) -> LinearForecast | None:
    """Fit a start; cross-validation over blocks of time says of which kinds, on how many lags, how large penalties are.

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
    periods : sequence of int, or None
        Of the series. None: nothing but a ridge regression that is drawn to the last value, on one number of lags.
    cycles : int
        How many of the inputs that are known ahead, the last ones, are sines and cosines in pairs: what they are now
        says what they will be.

    Returns
    -------
    LinearForecast, or None where there are too few windows for any
    """
    series, most = values.shape[1], max((end - begin for begin, end in ranges), default=0)
    windows = {n: sum(max(0, end - begin - n - horizon + 1) for begin, end in ranges) for n in lags}
    tried = sorted(n for n in set(lags) if n >= 2 and 5 * n <= most and windows[n] >= 4 * FOLDS)
    if not tried:
        return None
    longest, ahead = tried[-1], slice(inputs.shape[1] - num_ahead, inputs.shape[1] - cycles)
    shared = series > 1 and series * horizon * longest > SHARED
    groups = [list(range(series))] if shared else [[s] for s in range(series)]
    priors = list(priors_of(longest, longest + 1 + inputs.shape[1] + num_ahead - cycles, horizon, periods))
    fitted, unit, about = [], np.empty((horizon, series)), []
    for group in groups:

        def blocks_of(known: int, group: list[int] = group) -> list[Sums]:
            origins = spread_out(ranges, known, horizon)
            sums = [sums_of(values[:, s], inputs, ahead, origins, longest, horizon) for s in group]
            return [add_up(parts) for parts in zip(*sums, strict=True)]

        blocks = blocks_of(longest)
        picks = best_of_each(blocks, priors, tried, longest)[: None if periods is not None else 1]
        errors = [squared_error(held_out, means_of(picks, rest, longest)) for rest, held_out in left_out(blocks)]
        total = np.sum(errors, axis=0) / sum(block.count for block in blocks)  # (J, H)
        first = int(np.argmin(total.sum(axis=1)))  # so many and one: their mean is the best one
        unit[:, group] = np.sqrt(total[first])[:, None]
        taken = [(pick, pick.needs(longest)) for pick in picks[: first + 1]]
        every = {known: add_up(blocks_of(known)) for known in {known for _, known in taken}}
        fitted.append(np.mean([means_of([pick], every[known], longest)[:, 0] for pick, known in taken], axis=0).T)
        about.append(told(picks, first + 1, float(np.sqrt(total[first].mean()))))
    found = as_forecast(np.stack(fitted), longest, inputs.shape[1], np.where(unit > 0, unit, 1.0), about)
    return replace(found, ahead=np.pad(found.ahead, ((0, 0), (0, 0), (0, cycles))))


def told(picks: Sequence[Pick], taken: int, score: float) -> dict[str, Any]:
    """How a start was chosen: of how many forecasts it is the mean, its score, and the best ones of each kind."""
    best: dict[str, Pick] = {}
    for pick in picks:
        best.setdefault(pick.prior.kind, pick)
    return {"mean_of": taken, "score": score, "scores": {pick.name: pick.score for pick in best.values()}}


def as_forecast(
    total: np.ndarray, longest: int, inputs: int, unit: np.ndarray, about: list[dict[str, Any]]
) -> LinearForecast:
    """The forecast of weights (G, H, K) of features."""
    differences, level = total[:, :, 1:longest], total[:, :, longest]
    weight = np.empty((*total.shape[:2], longest))
    weight[:, :, :-1] = differences[:, :, ::-1]
    weight[:, :, -1] = 1 + level - differences.sum(axis=2)
    used = int(np.argmax(np.any(weight != 0, axis=(0, 1))))
    now, ahead = np.split(total[:, :, longest + 1 :], [inputs], axis=2)
    return LinearForecast(weight[:, :, used:], total[:, :, 0], now, ahead, unit, about)


def priors_of(longest: int, size: int, horizon: int, periods: Sequence[int] | None) -> Iterator[Prior]:
    """Yield what regressions on so many lags are drawn to."""
    last, mean = np.zeros((2, size, horizon))
    mean[longest] = -1
    yield Prior("ridge", "last value", last)
    if periods is None:
        return
    yield Prior("mean", "the mean", mean)
    yield Prior("AR", "last value", last, iterated=True)
    yield Prior("AR", "the mean", mean, iterated=True)
    for period in periods:
        for moved in (False, True):
            room = (longest - (horizon if moved else 0)) // period
            for count in sorted({1, room} if room > 0 else ()):
                name = f"the mean of {count} values {period} apart" if count > 1 else f"value {period} steps before"
                weights = seasonal(period, count, size, horizon, moved)
                yield Prior("moved season" if moved else "season", name + ", moved" * moved, weights)


def seasonal(period: int, count: int, size: int, horizon: int, moved: bool) -> np.ndarray:
    """Weights (K, H) of the mean of the last values at the place in the period that is forecast.

    Where it is `moved`, by how far the last value is from such a mean of its own.
    """
    weights = np.zeros((size, horizon))
    for h in range(1, horizon + 1):
        for k in range(count):
            lag = period * (-(-h // period) + k) - h
            weights[lag, h - 1] += (lag > 0) / count
            if moved:
                weights[lag + h, h - 1] -= 1 / count
    return weights


def spread_out(ranges: Sequence[tuple[int, int]], known: int, horizon: int) -> np.ndarray:
    """The last known rows of windows of so many values, at most `ROWS` of them."""
    origins = np.concatenate([np.arange(begin + known - 1, end - horizon) for begin, end in ranges])
    return origins[:: -(-len(origins) // ROWS)]


def sums_of(
    values: np.ndarray, inputs: np.ndarray, ahead: slice, origins: np.ndarray, lags: int, horizon: int
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
        if ahead.start == ahead.stop:
            found.append(Sums(len(kept), [common.T @ common], common.T @ change, own))
            continue
        squares, cross = [], []
        for h in range(horizon):
            x = np.column_stack([common, inputs[kept + h + 1, ahead]])
            squares.append(x.T @ x)
            cross.append(x.T @ change[:, h])
        found.append(Sums(len(kept), squares, np.column_stack(cross), own))
    return found


def add_up(parts: Sequence[Sums]) -> Sums:
    """Sums over all of them."""
    squares = [sum(arrays[1:], start=arrays[0]) for arrays in zip(*(part.squares for part in parts), strict=True)]
    cross = sum((part.cross for part in parts[1:]), start=parts[0].cross)
    return Sums(sum(part.count for part in parts), squares, cross, np.sum([part.own for part in parts], axis=0))


def left_out(blocks: list[Sums]) -> Iterator[tuple[Sums, Sums]]:
    """Yield each block after all the others."""
    for k, held_out in enumerate(blocks):
        yield add_up(blocks[:k] + blocks[k + 1 :]), held_out


def best_of_each(blocks: list[Sums], priors: list[Prior], lags: Sequence[int], longest: int) -> list[Pick]:
    """The best start of each kind on each number of lags, by errors on blocks left out of the fit; best first."""
    errors = np.array([
        [squared_error(held_out, fits(rest, n, longest, priors)).sum(axis=-1) for n in lags]
        for rest, held_out in left_out(blocks)
    ])  # (FOLDS, lags, P, penalties)  # fmt: skip
    total = errors.sum(axis=0) / sum(block.own.size * block.count for block in blocks)
    found = []
    for kind in dict.fromkeys(prior.kind for prior in priors):
        among = [k for k, prior in enumerate(priors) if prior.kind == kind]
        for n, of_lags in zip(lags, total[:, among], strict=True):
            k, penalty = np.unravel_index(np.argmin(of_lags), of_lags.shape)
            found.append(Pick(priors[among[k]], n, int(penalty), float(np.sqrt(of_lags.min()))))
    return sorted(found, key=lambda pick: pick.score)


def means_of(picks: Sequence[Pick], sums: Sums, longest: int) -> np.ndarray:
    """The first start, the mean of the first two and so on: weights (K, J, H), fitted on the sums."""
    size, horizon = sums.cross.shape
    found = np.empty((size, len(picks), horizon))
    for lags in {pick.lags for pick in picks}:
        among = [j for j, pick in enumerate(picks) if pick.lags == lags]
        every = fits(sums, lags, longest, [picks[j].prior for j in among])
        found[:, among] = every[:, np.arange(len(among)), [picks[j].penalty for j in among]]
    return np.asarray(np.cumsum(found, axis=1) / np.arange(1, len(picks) + 1)[:, None])


def fits(sums: Sums, lags: int, longest: int, priors: Sequence[Prior]) -> np.ndarray:
    """Weights (K, P, penalties, H) that are drawn to each of the priors."""
    size, horizon = sums.cross.shape
    found = np.empty((size, len(priors), len(PENALTIES), horizon))
    direct = [k for k, prior in enumerate(priors) if not prior.iterated]
    if direct:
        kept = np.concatenate([np.arange(lags), np.arange(longest, size)])
        found[:, direct] = solutions(sums, kept, np.stack([priors[k].weights for k in direct], axis=1))
    if stepwise := [k for k, prior in enumerate(priors) if prior.iterated]:
        one = Sums(sums.count, sums.squares[:1], sums.cross[:, :1], sums.own[:1])
        kept = np.append(np.arange(lags), longest)
        step = solutions(one, kept, np.stack([priors[k].weights[:, :1] for k in stepwise], axis=1))
        found[:, stepwise] = iterated(step[..., 0], lags, longest, horizon)
    return found


def solutions(sums: Sums, kept: np.ndarray, priors: np.ndarray) -> np.ndarray:
    """Weights (K, P, penalties, H) by ridge regression that is drawn to priors (K, P, H).

    Features that are not kept keep the prior's weights; the first one is 1, and its weight is never drawn.
    """
    found = np.repeat(priors[:, :, None], len(PENALTIES), axis=2)
    per_step = len(sums.squares) > 1
    for h, squares in enumerate(sums.squares):
        taken = slice(h, h + 1) if per_step else slice(None)
        cross = (sums.cross[:, None, taken] - times(squares, priors[..., taken])) / sums.count
        means = squares[0, kept[1:]] / sums.count
        inner = squares[np.ix_(kept[1:], kept[1:])] / sums.count - np.outer(means, means)
        scale = np.sqrt(np.maximum(np.diag(inner), 1e-12))
        eigen, vectors = np.linalg.eigh(inner / np.outer(scale, scale))
        right = times((vectors / scale[:, None]).T, cross[kept[1:]] - means[:, None, None] * cross[0])
        shrunk = right[:, :, None] / (np.maximum(eigen, 0)[:, None] + PENALTIES)[:, None, :, None]
        moved = times(vectors / scale[:, None], shrunk)
        found[kept[1:], ..., taken] += moved
        found[0, ..., taken] += cross[0][:, None] - np.tensordot(means, moved, 1)
    return found


def times(matrix: np.ndarray, array: np.ndarray) -> np.ndarray:
    """(M, K) times (K, ...), as one product."""
    return np.asarray((matrix @ array.reshape(len(array), -1)).reshape(-1, *array.shape[1:]))


def iterated(one: np.ndarray, lags: int, longest: int, horizon: int) -> np.ndarray:
    """Weights (K, ..., H) of forecasts by one step, of weights (K, ...), that are fed back to the horizon."""
    found = np.zeros((*one.shape, horizon))
    step = one[:lags].copy()  # of the lags themselves, the last value first
    step[0] = 1 + one[longest] - one[1:lags].sum(axis=0)
    constant, weights = one[0], step
    for h in range(horizon):
        found[0, ..., h], found[1:lags, ..., h] = constant, weights[1:]
        found[longest, ..., h] = weights.sum(axis=0) - 1
        newest = weights[:1]  # is forecast itself, a step later
        constant = constant + newest[0] * one[0]
        weights = newest * step + np.append(weights[1:], np.zeros_like(newest), axis=0)
    return found


def squared_error(sums: Sums, weights: np.ndarray) -> np.ndarray:
    """Sums (..., H) of the squared errors of weights (K, ..., H) over all windows."""
    cross = np.einsum("k...h,kh->...h", weights, sums.cross)
    if len(sums.squares) == 1:
        explained = np.sum(weights * times(sums.squares[0], weights), axis=0)
    else:
        steps = [weights[..., h] for h in range(len(sums.own))]
        each = [np.sum(w * times(squares, w), axis=0) for w, squares in zip(steps, sums.squares, strict=True)]
        explained = np.stack(each, axis=-1)
    return np.asarray(np.maximum(0.0, sums.own - 2 * cross + explained))
