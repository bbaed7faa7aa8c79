"""Regressor: an LSTM reads a sequence, a linear map of its summary says one or many numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Unpack

import numpy as np

from gpu_lstm.backend import Array
from gpu_lstm.layers import Params
from gpu_lstm.layers.checks import check_choice
from gpu_lstm.losses import REGRESSION
from gpu_lstm.models.arguments import Where, check_host, numbers
from gpu_lstm.models.classifier import SequenceModel


class Regressor(SequenceModel):
    """Says K numbers about sequences of different lengths, by a summary of an LSTM's outputs.

    Parameters are those of `SequenceModel`, and

    Parameters
    ----------
    target_mean, target_spread : K numbers each
        Mean and standard deviation of the training data's targets: the head says targets in these units.

    Examples
    --------
    >>> model = Regressor([0.0, 0.0], [1.0, 1.0], [5.0], [2.0], hidden_size=8, backend="numpy")
    >>> model.predict(np.zeros((20, 4, 2)), np.array([20, 7, 13, 1])).shape
    (4, 1)
    """

    kind: ClassVar[str] = "regress"

    def __init__(
        self,
        mean: Sequence[float],
        spread: Sequence[float],
        target_mean: Sequence[float],
        target_spread: Sequence[float],
        hidden_size: int = 64,
        num_layers: int = 1,
        bidirectional: bool = True,
        dropout: float = 0.0,
        lstm: Mapping[str, Any] | None = None,
        pooling: Sequence[str] = ("mean",),
        frames: tuple[int, int] = (1, 1),
        **where: Unpack[Where],
    ):
        own = {
            "target_mean": numbers("target_mean", target_mean),
            "target_spread": numbers("target_spread", target_spread, target_mean),
        }
        self.target_mean, self.target_spread = np.array(own["target_mean"]), np.array(own["target_spread"])
        super().__init__(
            mean, spread, own, len(target_mean), hidden_size, num_layers, bidirectional, dropout, lstm, pooling, frames,
            where,
        )  # fmt: skip

    def loss(
        self,
        x: np.ndarray,
        lengths: np.ndarray,
        targets: np.ndarray,
        loss: str = "mse",
        seed: int | tuple[int, ...] | None = None,
    ) -> tuple[Array, Params]:
        """Loss, in units of the targets' spread, and gradients of a batch.

        Parameters
        ----------
        x : (T, B, D)
            In the data's own units, on the host; ignored beyond each sequence's end.
        lengths : (B,) integers
        targets : (B, K)
            In the data's own units.
        loss : {"mse", "mae", "huber"}
        seed : int or tuple of int, optional
            Seeds dropout; None turns it off.

        Raises
        ------
        InputError
            The loss is none of these, or an array doesn't fit.
        """
        check_choice("loss", loss, REGRESSION)
        lengths = check_host("lengths", lengths, ("B",), whole=True)
        targets = check_host("targets", targets, (f"B={len(lengths)}", f"K={len(self.target_mean)}"))
        units = ((targets - self.target_mean) / self.target_spread).astype(self.param_dtype)
        target = self.backend.asarray(units, self.param_dtype)
        return self._loss(x, lengths, lambda outputs: REGRESSION[loss](self.backend, outputs, target), seed)

    def predict(self, x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Targets (B, K) float64 of a batch x (T, B, D) with lengths (B,), in their own units, on the host."""
        outputs: np.ndarray = self._outputs(x, lengths).astype(np.float64) * self.target_spread + self.target_mean
        return outputs
