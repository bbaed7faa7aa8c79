"""Tagger: an LSTM reads a sequence, a linear map of each of its outputs scores the classes of that step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Unpack

import numpy as np

from gpu_lstm.backend import Array
from gpu_lstm.errors import InputError
from gpu_lstm.layers import Params
from gpu_lstm.layers.base import training_seed
from gpu_lstm.losses import softmax_cross_entropy
from gpu_lstm.losses.weighted import weighted_cross_entropy
from gpu_lstm.models.arguments import Where, check_host
from gpu_lstm.models.base import gather
from gpu_lstm.models.classifier import SequenceModel, row_weights

PADDING = -1
"""Label of a step without one, as after a sequence's end: it neither counts nor gets a gradient."""


class Tagger(SequenceModel):
    """Gives every step of sequences of different lengths a class.

    Parameters
    ----------
    mean, spread : D numbers each
        Of the training data's features: mean and standard deviation.
    num_classes : int
    hidden_size, num_layers : int
    bidirectional : bool
        Whether a step's class may depend on what comes after it.
    dropout : float
        On the input, between layers and on the outputs, while training.
    lstm : dict, optional
        Options of the LSTM family by name, as `gpu_lstm.LSTM` takes them.
    backend, dtype, tier, recompute, seed
        As of the layers.
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
        own = {"num_classes": num_classes}
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
        backend, xp = self.backend, self.backend.xp
        inputs, lengths = self._inputs(x, lengths)
        labels = check_host("labels", labels, (f"T={x.shape[0]}", f"B={x.shape[1]}"), whole=True)
        labels = np.where(np.arange(len(labels))[:, None] < lengths[None, :], labels, PADDING)
        drawn = training_seed(seed)
        seeds = [None if drawn is None else (*drawn, place) for place in range(3)]
        inputs, _ = self.dropout.forward(inputs, seeds[0])
        y, _, lstm_tape = self.lstm.forward(inputs, None, lengths, seed=seeds[1], guard=False)
        y, dropout_tape = self.dropout.forward(y, seeds[2])
        logits, head_tape = self.head.forward(y, guard=False)
        target = backend.asarray(labels)
        if class_weights is None:
            loss, dlogits = softmax_cross_entropy(backend, logits, target, PADDING, overwrite=True)
        else:
            weights = row_weights(labels, class_weights, self.config["num_classes"])
            weights = backend.asarray(weights.reshape(-1), self.param_dtype)
            rows = xp.reshape(logits, (-1, logits.shape[-1]))
            loss, dlogits = weighted_cross_entropy(backend, rows, xp.reshape(target, (-1,)), weights)
            dlogits = xp.reshape(dlogits, logits.shape)
        dy, head = self.head.backward(head_tape, self.scaled(dlogits))
        dy, _ = self.dropout.backward(dropout_tape, dy)
        _, _, lstm = self.lstm.backward(lstm_tape, dy)
        return loss, gather({"lstm": lstm, "head": head})

    def logits(self, x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Scores (T, B, num_classes) of a batch x (T, B, D) with lengths (B,), on the host; nothing beyond the ends."""
        inputs, lengths = self._inputs(x, lengths)
        if lengths.min() < 1:
            raise InputError("lengths has a 0; expected at least 1")
        y, _, _ = self.lstm.forward(inputs, None, lengths, keep=False)
        return self.backend.to_numpy(self.head.forward(y, keep=False)[0])
