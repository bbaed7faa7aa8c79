"""What a forecaster says of each value that is to come: the value, quantiles of it, or a distribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_lstm.backend import Array, Backend
from gpu_lstm.errors import InputError
from gpu_lstm.layers.checks import check_choice, is_number
from gpu_lstm.losses import REGRESSION
from gpu_lstm.losses.probabilistic import DISTRIBUTIONS, normal_quantile, pinball

LEVELS = (0.1, 0.5, 0.9)
"""Quantiles that are told of a distribution where none are asked for."""
SCORED = tuple(round(0.05 * k, 2) for k in range(1, 20))
"""Quantiles by which a distribution is scored."""


@dataclass(frozen=True)
class Outcome:
    """A kind of answer, in units in which the errors of a simple forecast are about 1."""

    quantiles: tuple[float, ...] = ()
    distribution: str = ""

    def __post_init__(self) -> None:
        if self.quantiles and self.distribution:
            raise InputError(f"quantiles and distribution={self.distribution!r} are given; expected one of them")
        if self.distribution:
            check_choice("distribution", self.distribution, DISTRIBUTIONS)
        check_levels("quantiles", self.quantiles)
        if self.quantiles and 0.5 not in self.quantiles:
            raise InputError(f"quantiles is {list(self.quantiles)}; expected 0.5 among them, which is the forecast")

    @property
    def parts(self) -> int:
        """How many numbers the head says of each value."""
        return 2 if self.distribution else max(1, len(self.quantiles))

    @property
    def certain(self) -> bool:
        """Whether values alone are said."""
        return not (self.quantiles or self.distribution)

    @property
    def start(self) -> np.ndarray:
        """The parts (parts,) of an error that is normal with a spread of 1."""
        return np.array([normal_quantile(level) for level in self.quantiles] or [0.0] * self.parts)

    def loss(self, backend: Backend, prediction: Array, target: Array, loss: str | None) -> tuple[Array, Array]:
        """Mean loss and gradient of a prediction (T, B, parts K) of targets (T, B, K).

        `loss` is for values alone, by default "mse"; raises InputError where it is unknown or doesn't apply.
        """
        if self.certain:
            return REGRESSION[check_choice("loss", loss or "mse", REGRESSION)](backend, prediction, target)
        if loss is not None:
            what = f"distribution={self.distribution!r}" if self.distribution else f"quantiles={list(self.quantiles)}"
            raise InputError(f"loss is {loss!r}; expected none, as {what} have their own")
        steps, batch, size = target.shape
        parted = backend.xp.reshape(prediction, (steps, batch, self.parts, size))
        if self.distribution:
            value, gradient = DISTRIBUTIONS[self.distribution][0](backend, parted, target)
        else:
            value, gradient = pinball(backend, parted, target, self.quantiles)
        return value, backend.xp.reshape(gradient, prediction.shape)

    def middle(self, parts: np.ndarray) -> np.ndarray:
        """The forecast (..., S) of what was said, (..., parts, S)."""
        middle: np.ndarray = self.at(parts, (0.5,))[..., 0, :] if self.quantiles else parts[..., 0, :]
        return middle

    def at(self, parts: np.ndarray, levels: Sequence[float]) -> np.ndarray:
        """Quantiles (..., Q, S) of what was said, (..., parts, S). Quantiles that cross are sorted.

        Raises InputError where only values are said, or other quantiles.
        """
        check_levels("levels", levels)
        if self.certain:
            raise InputError(
                "the model says values alone; one made with quantiles or a distribution says how sure it is"
            )
        if self.quantiles:
            unknown = [level for level in levels if level not in self.quantiles]
            if unknown:
                raise InputError(f"levels has {unknown}; expected some of {list(self.quantiles)}, which the model has")
            return np.sort(parts, axis=-2)[..., [self.quantiles.index(level) for level in levels], :]
        standard = np.array([DISTRIBUTIONS[self.distribution][1](level) for level in levels])
        return np.asarray(parts[..., :1, :] + np.exp(parts[..., 1:, :]) * standard[:, None])


def check_levels(name: str, levels: Sequence[float]) -> None:
    """Raise InputError where levels are not ascending numbers within (0, 1)."""
    given: list[Any] = list(levels) if isinstance(levels, list | tuple | np.ndarray) else [None]
    if not all(is_number(level) and 0 < level < 1 for level in given) or given != sorted(set(given)):
        raise InputError(f"{name} is {levels!r}; expected ascending numbers above 0 and below 1")
