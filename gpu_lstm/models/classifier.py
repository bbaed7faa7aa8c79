"""Models that read a whole sequence, a linear map of its summary: the classifier scores classes with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Unpack

import numpy as np

from gpu_lstm.backend import Array, widened
from gpu_lstm.errors import InputError
from gpu_lstm.layers import LSTM, Dropout, Linear, Params
from gpu_lstm.layers.base import training_seed
from gpu_lstm.losses.cross_entropy import softmax_cross_entropy
from gpu_lstm.models.arguments import Where, arguments, check_host, numbers
from gpu_lstm.models.base import Model, gather


class SequenceModel(Model):
    """A linear map of the mean of the LSTM's outputs over each sequence's own steps.

    Arguments are as of `Classifier`; `own` is what only the subclass has in its description.
    """

    def __init__(
        self,
        mean: Sequence[float],
        spread: Sequence[float],
        own: dict[str, Any],
        num_outputs: int,
        hidden_size: int,
        num_layers: int,
        bidirectional: bool,
        dropout: float,
        lstm: Mapping[str, Any] | None,
        where: Where,
    ):
        config: dict[str, Any] = {
            "mean": numbers(mean), "spread": numbers(spread), **own, "hidden_size": hidden_size,
            "num_layers": num_layers, "bidirectional": bidirectional, "dropout": dropout, "lstm": dict(lstm or {}),
        }  # fmt: skip
        self.mean, self.spread = np.array(config["mean"]), np.array(config["spread"])
        of_all, of_lstm, seeds = arguments(lstm, **where)
        sizes = len(self.mean), hidden_size, num_layers
        self.lstm = LSTM(*sizes, bidirectional=bidirectional, dropout=dropout, **of_lstm, seed=seeds[0])
        self.dropout = Dropout(dropout, **of_all)
        width = self.lstm.output_size * self.lstm.num_directions
        self.head = Linear(width, num_outputs, wide=True, **of_all, seed=seeds[1])
        super().__init__({"lstm": self.lstm, "head": self.head}, config)

    def _loss(
        self,
        x: np.ndarray,
        lengths: np.ndarray,
        criterion: Callable[[Array], tuple[Array, Array]],
        seed: int | tuple[int, ...] | None,
    ) -> tuple[Array, Params]:
        """Loss and gradients; `criterion` takes the outputs (B, num_outputs) to the loss and their gradient."""
        drawn = training_seed(seed)
        seeds = [None if drawn is None else (*drawn, place) for place in range(3)]
        inputs, _ = self.dropout.forward(self._inputs(x), seeds[0])
        y, _, lstm_tape = self.lstm.forward(inputs, None, lengths, seed=seeds[1], guard=False)
        share = self._share(lengths)
        summary, dropout_tape = self.dropout.forward(self._summary(y, share), seeds[2])
        outputs, head_tape = self.head.forward(summary, guard=False)
        loss, doutputs = criterion(outputs)
        dsummary, head = self.head.backward(head_tape, self.scaled(doutputs))
        dsummary, _ = self.dropout.backward(dropout_tape, dsummary)
        dy = self.backend.asarray(widened(self.backend, dsummary)[None, ...] * share, self.dtype)
        dy = dy + self.backend.xp.zeros_like(y)
        _, _, lstm = self.lstm.backward(lstm_tape, dy)
        return loss, gather({"lstm": lstm, "head": head})

    def _outputs(self, x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """What the head says (B, num_outputs) of a batch x (T, B, D) with lengths (B,), on the host."""
        y, _, _ = self.lstm.forward(self._inputs(x), None, lengths, keep=False)
        return self.backend.to_numpy(self.head.forward(self._summary(y, self._share(lengths)), keep=False)[0])

    def _inputs(self, x: np.ndarray) -> Array:
        x = check_host("x", x, ("T", "B", f"D={len(self.mean)}"))
        return self.backend.asarray(((x - self.mean) / self.spread).astype(self.param_dtype), self.dtype)

    def _summary(self, y: Array, share: Array) -> Array:
        """Mean (B, .) over each sequence's own steps of y (T, B, .)."""
        return self.backend.asarray(self.backend.xp.sum(widened(self.backend, y) * share, axis=0), self.dtype)

    def _share(self, lengths: np.ndarray) -> Array:
        """(1, B, 1) of 1/length: y is zero after a sequence's end, so the scaled sum is the mean."""
        steps = np.asarray(lengths, dtype=np.float64)
        if steps.min() < 1:
            raise InputError("lengths has a 0; expected at least 1, for a sequence of no steps has no mean")
        return self.backend.asarray((1 / steps)[None, :, None], self.param_dtype)


class Classifier(SequenceModel):
    """Classifies sequences of different lengths by the mean of the LSTM's outputs over each one's own steps.

    Parameters
    ----------
    mean, spread : D numbers each
        Of the training data's features: mean and standard deviation.
    num_classes : int
    hidden_size, num_layers : int
    bidirectional : bool
    dropout : float
        On the input, between layers and on the summary, while training.
    lstm : dict, optional
        Options of the LSTM family by name, as `gpu_lstm.LSTM` takes them.
    backend, dtype, tier, recompute, seed
        As of the layers.
    """

    kind: ClassVar[str] = "classify"

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
            mean, spread, own, num_classes, hidden_size, num_layers, bidirectional, dropout, lstm, where
        )  # fmt: skip

    def loss(
        self, x: np.ndarray, lengths: np.ndarray, labels: np.ndarray, seed: int | tuple[int, ...] | None = None
    ) -> tuple[Array, Params]:
        """Loss in nats and gradients of a batch.

        Parameters
        ----------
        x : (T, B, D)
            In the data's own units, on the host; ignored beyond each sequence's end.
        lengths : (B,) integers
        labels : (B,) integers in 0..num_classes-1
        seed : int or tuple of int, optional
            Seeds dropout; None turns it off.
        """
        lengths = check_host("lengths", lengths, ("B",), whole=True)
        labels = check_host("labels", labels, (len(lengths),), whole=True)
        target = self.backend.asarray(labels)
        return self._loss(
            x, lengths, lambda logits: softmax_cross_entropy(self.backend, logits, target, overwrite=True), seed
        )

    def logits(self, x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Scores (B, num_classes) of a batch x (T, B, D) with lengths (B,), on the host."""
        return self._outputs(x, lengths)
