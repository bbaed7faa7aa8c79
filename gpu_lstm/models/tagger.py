"""Tagger: an LSTM reads a sequence, a linear map of each of its outputs scores the classes of that step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Unpack

import numpy as np

from gpu_lstm.backend import Array
from gpu_lstm.errors import InputError
from gpu_lstm.layers import Params
from gpu_lstm.layers.base import Tape
from gpu_lstm.layers.checks import check_size
from gpu_lstm.models.arguments import Where, check_host
from gpu_lstm.models.classifier import SequenceModel

PADDING = -1
"""Label of a step without one, as after a sequence's end: it neither counts nor gets a gradient."""


class Tagger(SequenceModel):
    """Gives every step of sequences of different lengths a class.

    Parameters are those of `SequenceModel`, but for ``pooling`` and ``frames``, and

    Parameters
    ----------
    num_classes : int
    bidirectional : bool
        Whether a step's class may depend on what comes after it.

    Examples
    --------
    >>> model = Tagger([0.0, 0.0], [1.0, 1.0], num_classes=3, hidden_size=8, backend="numpy")
    >>> model.logits(np.zeros((20, 4, 2)), np.array([20, 7, 13, 1])).shape
    (20, 4, 3)
    """

    kind: ClassVar[str] = "label"

    def __init__(
        self,
        mean: Sequence[float],
        spread: Sequence[float],
        num_classes: int,
        hidden_size: int = 64,
        num_layers: int = 1,
        bidirectional: bool = True,
        dropout: float = 0.0,
        lstm: Mapping[str, Any] | None = None,
        **where: Unpack[Where],
    ):
        own = {"num_classes": check_size("num_classes", num_classes)}
        super().__init__(
            mean, spread, own, num_classes, hidden_size, num_layers, bidirectional, dropout, lstm, ("mean",), (1, 1),
            where,
        )  # fmt: skip

    def loss(
        self,
        x: np.ndarray,
        lengths: np.ndarray,
        labels: np.ndarray,
        seed: int | tuple[int, ...] | None = None,
        class_weights: np.ndarray | None = None,
    ) -> tuple[Array, Params]:
        """Loss in nats, the mean over all steps within their sequence, and gradients of a batch.

        Parameters
        ----------
        x : (T, B, D)
            In the data's own units, on the host; ignored beyond each sequence's end.
        lengths : (B,) integers
        labels : (T, B) integers in 0..num_classes-1
            Ignored beyond each sequence's end; -1 where a step has none.
        seed : int or tuple of int, optional
            Seeds dropout; None turns it off.
        class_weights : (num_classes,), optional
            How much a step of each class counts; 1 if not given.
        """
        x = check_host("x", x, ("T", "B", f"D={len(self.mean)}"))
        lengths = check_host("lengths", lengths, (f"B={x.shape[1]}",), whole=True)
        labels = check_host("labels", labels, (f"T={x.shape[0]}", f"B={x.shape[1]}"), whole=True)
        labels = np.where(np.arange(len(labels))[:, None] < lengths[None, :], labels, PADDING)
        return self._loss(x, lengths, self._criterion(labels, class_weights, PADDING), seed)

    def logits(self, x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Scores (T, B, num_classes) of a batch x (T, B, D) with lengths (B,), on the host; nothing beyond the ends.

        Raises InputError where an array doesn't fit, or a length is 0.
        """
        if check_host("lengths", lengths, ("B",), whole=True).min() < 1:
            raise InputError("lengths has a 0; expected at least 1")
        return self._outputs(x, lengths)

    def _summary(self, y: Array, lengths: np.ndarray, keep: bool = True) -> tuple[Array, list[Tape]]:
        return y, []

    def _apart(self, tapes: list[Tape], dsummary: Array) -> Array:
        return dsummary
