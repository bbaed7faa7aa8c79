"""Models that read whole sequences: an LSTM, and a linear map of what is summed up of its outputs, or of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Unpack

import numpy as np

from gpu_lstm.backend import Array
from gpu_lstm.errors import InputError
from gpu_lstm.layers import LSTM, Dropout, Linear, Params, Pool
from gpu_lstm.layers.arguments import copied
from gpu_lstm.layers.base import Tape, training_seed
from gpu_lstm.layers.checks import check_size
from gpu_lstm.losses.cross_entropy import softmax_cross_entropy
from gpu_lstm.losses.weighted import weighted_cross_entropy
from gpu_lstm.models.arguments import Where, arguments, check_host, numbers
from gpu_lstm.models.base import Model, gather
from gpu_lstm.models.summaries import check_pooling, framed


class SequenceModel(Model):
    """A linear map of a summary of the LSTM's outputs over each sequence's own steps.

    Parameters
    ----------
    mean, spread : D numbers each
        Of the training data's features: mean and standard deviation.
    own : dict
        What only the subclass has in its description.
    num_outputs : int
    hidden_size, num_layers : int
    bidirectional : bool
    dropout : float
        On the input, between layers and on what the linear map gets, while training.
    lstm : dict, optional
        Options of the LSTM family by name, as `gpu_lstm.LSTM` takes them.
    pooling : some of {"mean", "max", "last"}
        What is made of the outputs over each sequence's own steps, see `gpu_lstm.layers.Pool`.
    frames : (window, stride)
        Steps that the LSTM reads as one, and how far one such frame is from the next: fewer steps of a long sequence.
    where : dict
        ``backend``, ``dtype``, ``tier``, ``recompute``, ``seed``, as of the layers.
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
        pooling: Sequence[str],
        frames: tuple[int, int],
        where: Where,
    ):
        self.pooling = check_pooling(pooling)
        if not isinstance(frames, list | tuple | np.ndarray) or len(frames) != 2:
            raise InputError(f"frames is {frames!r}; expected (window, stride)")
        self.window, self.stride = (check_size("frames", part) for part in frames)
        config: dict[str, Any] = {
            "mean": numbers("mean", mean), "spread": numbers("spread", spread, mean), **own, "hidden_size": hidden_size,
            "num_layers": num_layers, "bidirectional": bidirectional, "dropout": dropout, "lstm": lstm or {},
        }  # fmt: skip
        if self.pooling != ("mean",):  # what a checkpoint doesn't say is as it was before there was a choice
            config["pooling"] = list(self.pooling)
        if (self.window, self.stride) != (1, 1):
            config["frames"] = [self.window, self.stride]
        self.mean, self.spread = np.array(config["mean"]), np.array(config["spread"])
        of_all, of_lstm, seeds = arguments(lstm, **where)
        sizes = len(self.mean) * self.window, hidden_size, num_layers
        self.lstm = LSTM(*sizes, bidirectional=bidirectional, dropout=dropout, **of_lstm, seed=seeds[0])
        self.dropout = Dropout(dropout, **of_all)
        self.pools = [Pool(how, self.lstm.num_directions, **of_all) for how in self.pooling]
        width = self.lstm.output_size * self.lstm.num_directions
        self.head = Linear(width * len(self.pooling), num_outputs, wide=True, **of_all, seed=seeds[1])
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
        inputs, lengths = self._inputs(x, lengths)
        inputs, _ = self.dropout.forward(inputs, seeds[0])
        y, _, lstm_tape = self.lstm.forward(inputs, None, lengths, seed=seeds[1], guard=False)
        summary, tapes = self._summary(y, lengths)
        summary, dropout_tape = self.dropout.forward(summary, seeds[2])
        outputs, head_tape = self.head.forward(summary, guard=False)
        loss, doutputs = criterion(outputs)
        dsummary, head = self.head.backward(head_tape, self.scaled(doutputs))
        dsummary, _ = self.dropout.backward(dropout_tape, dsummary)
        _, _, lstm = self.lstm.backward(lstm_tape, self._apart(tapes, dsummary))
        return loss, gather({"lstm": lstm, "head": head})

    def _outputs(self, x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """What the head says (B, num_outputs) of a batch x (T, B, D) with lengths (B,), on the host."""
        inputs, lengths = self._inputs(x, lengths)
        y, _, _ = self.lstm.forward(inputs, None, lengths, keep=False)
        return self.backend.to_numpy(self.head.forward(self._summary(y, lengths, keep=False)[0], keep=False)[0])

    def _inputs(self, x: np.ndarray, lengths: np.ndarray) -> tuple[Array, np.ndarray]:
        """Frames of features in units of their spread, and how many each sequence has."""
        x = check_host("x", x, ("T", "B", f"D={len(self.mean)}"))
        lengths = check_host("lengths", lengths, (f"B={x.shape[1]}",), whole=True)
        frames, count = framed((x - self.mean) / self.spread, lengths, self.window, self.stride)
        return self.backend.asarray(frames.astype(self.param_dtype), self.dtype), count

    def _summary(self, y: Array, lengths: np.ndarray, keep: bool = True) -> tuple[Array, list[Tape]]:
        """What the head gets of outputs y (T, B, W), and each summary's tape."""
        found, tapes = zip(*(pool.forward(y, lengths, keep) for pool in self.pools), strict=True)
        return found[0] if len(found) == 1 else self.backend.xp.concat(found, axis=1), list(tapes)

    def _apart(self, tapes: list[Tape], dsummary: Array) -> Array:
        """The gradient of y from that of `_summary`."""
        width = dsummary.shape[1] // len(tapes)
        dy = None
        for k, (pool, tape) in enumerate(zip(self.pools, tapes, strict=True)):
            part, _ = pool.backward(tape, copied(self.backend, dsummary[:, k * width : (k + 1) * width]))
            dy = part if dy is None else dy + part
        return dy

    def _criterion(
        self, labels: np.ndarray, class_weights: np.ndarray | None, ignored: int | None = None
    ) -> Callable[[Array], tuple[Array, Array]]:
        """What takes scores of classes to the loss and their gradient; labels are on the host."""
        backend, target, least = self.backend, self.backend.asarray(labels), 0 if ignored is None else ignored
        if labels.min() < least or labels.max() >= self.config["num_classes"]:
            wanted = f"{least}..num_classes-1={self.config['num_classes'] - 1}"
            raise InputError(f"labels has values {labels.min()}..{labels.max()}; expected {wanted}")
        if class_weights is None:
            return lambda y: softmax_cross_entropy(backend, y, target, ignored, overwrite=True)
        weights = backend.asarray(row_weights(labels, class_weights, self.config["num_classes"]), self.param_dtype)
        return lambda y: weighted_cross_entropy(backend, y, target, weights)


class Classifier(SequenceModel):
    """Classifies sequences of different lengths by a summary of the LSTM's outputs over each one's own steps.

    Parameters are those of `SequenceModel`, and

    Parameters
    ----------
    num_classes : int

    Examples
    --------
    >>> model = Classifier([0.0, 0.0], [1.0, 1.0], num_classes=3, hidden_size=8, backend="numpy")
    >>> x, lengths = np.zeros((20, 4, 2)), np.array([20, 7, 13, 1])
    >>> loss, gradients = model.loss(x, lengths, np.array([0, 2, 1, 1]))
    >>> model.logits(x, lengths).shape
    (4, 3)
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
        pooling: Sequence[str] = ("mean",),
        frames: tuple[int, int] = (1, 1),
        **where: Unpack[Where],
    ):
        own = {"num_classes": check_size("num_classes", num_classes)}
        super().__init__(
            mean, spread, own, num_classes, hidden_size, num_layers, bidirectional, dropout, lstm, pooling, frames,
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
        """Loss in nats and gradients of a batch.

        Parameters
        ----------
        x : (T, B, D)
            In the data's own units, on the host; ignored beyond each sequence's end.
        lengths : (B,) integers
        labels : (B,) integers in 0..num_classes-1
        seed : int or tuple of int, optional
            Seeds dropout; None turns it off.
        class_weights : (num_classes,), optional
            How much a sequence of each class counts; 1 if not given.
        """
        lengths = check_host("lengths", lengths, ("B",), whole=True)
        labels = check_host("labels", labels, (len(lengths),), whole=True)
        return self._loss(x, lengths, self._criterion(labels, class_weights), seed)

    def logits(self, x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Scores (B, num_classes) of a batch x (T, B, D) with lengths (B,), on the host."""
        return self._outputs(x, lengths)


def row_weights(labels: np.ndarray, class_weights: np.ndarray, num_classes: int) -> np.ndarray:
    """How much each row counts, (...), by the weight (num_classes,) of its class; one of label -1 doesn't.

    So that a mean over all rows is one over those that count. Raises InputError where a weight is below 0 or no number.
    """
    given = check_host("class_weights", class_weights, (f"num_classes={num_classes}",))
    if not (np.isfinite(given).all() and given.min() >= 0):
        raise InputError(f"class_weights is {given.tolist()}; expected finite numbers of at least 0")
    counts = labels >= 0
    return np.where(counts, given[labels] * (labels.size / max(1, counts.sum())), 0.0)
