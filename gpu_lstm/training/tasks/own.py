"""A model of one's own and data as they come."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Self

import numpy as np

from gpu_lstm.backend import Array
from gpu_lstm.data.samples import Batches, Padded, Samples, time_major
from gpu_lstm.errors import InputError
from gpu_lstm.layers import Params
from gpu_lstm.models import Composed, Model
from gpu_lstm.models.composed import Criterion
from gpu_lstm.training.tasks.base import Task

Metric = Callable[[np.ndarray, np.ndarray], float]
"""A number of a prediction (N, K) and its target, on the host."""

METRICS: dict[str, Metric] = {
    "accuracy": lambda prediction, target: float(np.mean(prediction.argmax(axis=1) == target)),
    "mae": lambda prediction, target: float(np.mean(np.abs(prediction - target))),
    "rmse": lambda prediction, target: float(np.sqrt(np.mean((prediction - target) ** 2))),
}
"""Metrics by name."""
Metrics = Sequence[str] | Mapping[str, Metric]


class Measured(NamedTuple):
    """What was measured of a held-out batch: the sum of its losses, of how many rows, and these where metrics ask."""

    loss: float
    rows: int
    prediction: Any
    target: Any


class OwnTask(Task):
    """Any model, any batches.

    Parameters
    ----------
    model : Model
        A composition; or any other, whose `loss` then takes a batch as its arguments, and `seed`.
    batches : Batches
        Of a composition `Samples`, or pairs (x, y) of which such are made.
    loss : str or callable, or None
        Of a composition, see `Composed.loss`; None for other models, which have a loss of their own.
    held_out : list of batches, or what gives them anew each time
        To validate on; empty: no validation.
    metrics : names of `METRICS`, or mapping of names to functions
        Of the held-out predictions, at each validation; of a model with a loss of its own there are none.
    seed : int or tuple of int

    Attributes
    ----------
    measured : list of dict
        Loss and metrics of each validation.
    """

    item = "sample"

    def __init__(
        self,
        model: Model,
        batches: Batches,
        loss: Criterion | None,
        held_out: Iterable[Any],
        metrics: Metrics,
        seed: int | tuple[int, ...],
    ):
        self.batches, self.held_out = batches, held_out
        self.loss: Criterion = "" if loss is None else loss
        self.metrics = metrics if isinstance(metrics, Mapping) else {name: _metric(name) for name in metrics}
        self.measured: list[dict[str, float]] = []
        self.composed = model if isinstance(model, Composed) else None
        if (loss is None) == (self.composed is not None):
            told = "the name of a loss or a function" if self.composed else "None, for the model has a loss of its own"
            raise InputError(f"loss is {loss!r}; expected {told}")
        if self.metrics and self.composed is None:
            raise InputError(
                f"metrics are {', '.join(self.metrics)}; expected none, for the model has a loss of its own"
            )
        self._per_step = False
        self._made: dict[int, Any] = {}  # the last batch, whole
        items = self._try(batches.make(0))
        super().__init__(model, seed, batches.steps, items, items if self.composed else sys.maxsize)

    def _try(self, batch: Any) -> int:
        """Go through the model once with the first two samples, so that what doesn't fit is refused now; how many."""
        if self.composed is None:
            return 1
        samples = self._samples(batch)
        few = samples.take(range(min(2, len(samples))))
        y, _ = self.composed.forward(self.composed.arranged(few), keep=False)
        self._per_step = y.ndim == 3
        inputs, target = self._arranged(few)
        self.composed.evaluate(inputs, target, self.loss)
        self.one_shape = not any(isinstance(part, list) for part in few.inputs.values())
        return len(samples)

    def _samples(self, batch: Any) -> Samples:
        assert self.composed is not None, "other models take their batches as they are"
        if isinstance(batch, Samples):
            return batch
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise InputError(f"a batch is a {type(batch).__name__}; expected a pair (x, y)")
        return self.composed.samples(*batch)

    def _arranged(self, samples: Samples) -> tuple[dict[str, Any], Any]:
        """Inputs and target as the model takes them."""
        assert self.composed is not None, "other models take their batches as they are"
        if samples.target is None:
            raise InputError("y is None; expected what the model is to say")
        return self.composed.arranged(samples), time_major(samples.target, self._per_step)

    def part(self, share: int, shares: int) -> Self:  # noqa: D102
        if self.composed is None:
            told = "the batches of a model with a loss of its own can't be cut"
            raise InputError(f"parallel and shares are for compositions; {told}")
        return super().part(share, shares)

    def _batch(self, number: int) -> Any:
        if self.composed is None:
            return self.batches.make(number)
        if number not in self._made:
            self._made.clear()
            self._made[number] = self._samples(self.batches.make(number))
        samples = self._made[number]
        rows = self.rows(len(samples))
        return self._arranged(samples.take(rows) if self.share else samples) if rows else None

    def counted(self) -> int:  # noqa: D102
        if self._current is None:
            return 0
        target = self._current[1]
        if self._per_step and isinstance(target, Padded):
            return int(np.sum(target.lengths))
        values = target.values if isinstance(target, Padded) else target
        return int(values.shape[1 if self._per_step else 0])

    def compute(self) -> tuple[Array, Params]:  # noqa: D102
        if self.composed is None:
            model: Any = self.model
            loss, gradients = model.loss(*self._current, seed=self._step_seed)
            return loss, gradients
        inputs, target = self._current
        if self.one_shape:  # what a recorded step reads anew
            upload = self.model.backend.upload
            inputs = {name: upload(partial(self._uploaded, name)) for name in inputs}
            target = upload(partial(self._uploaded, None))
        return self.composed.loss(inputs, target, self.loss, self._step_seed)

    def _uploaded(self, name: str | None) -> np.ndarray:
        """An input of the current batch, or its target: numbers in the dtype of losses, whole ones as they are."""
        array = np.asarray(self._current[1] if name is None else self._current[0][name])
        return array.astype(self.model.param_dtype, copy=False) if array.dtype.kind == "f" else array

    def measure(self) -> list[Measured]:  # noqa: D102
        if self.composed is None:
            model: Any = self.model
            read = self.model.backend.read
            return [Measured(read(model.loss(*batch)[0])[0], 1, None, None) for batch in self.held_out]
        return [self._measured(self.composed, part) for batch in self.held_out if (part := self._own(batch))]

    def _own(self, batch: Any) -> Samples | None:
        """This share of a batch of samples."""
        samples = self._samples(batch)
        return samples.take(self.rows(len(samples))) if self.share else samples

    def _measured(self, model: Composed, samples: Samples) -> Measured:
        loss, prediction, target = model.evaluate(*self._arranged(samples), self.loss)
        rows = prediction.reshape(-1, prediction.shape[-1])
        if not self.metrics:
            return Measured(loss * len(rows), len(rows), None, None)
        target = target.reshape(len(rows), *target.shape[prediction.ndim - 1 :])
        return Measured(loss * len(rows), len(rows), rows, target)

    def judge(self, measured: Sequence[list[Measured]]) -> tuple[float, str]:  # noqa: D102
        parts = [part for share in measured for part in share]
        found = {"loss": float(np.sum([part.loss for part in parts]) / sum(part.rows for part in parts))}
        if self.metrics:
            prediction = np.concatenate([part.prediction for part in parts])
            target = np.concatenate([part.target for part in parts])
            found |= {name: float(metric(prediction, target)) for name, metric in self.metrics.items()}
        self.measured.append(found)
        words = [f"{name} {value:.4g}" for name, value in found.items()]
        return found["loss"], f"{', '.join(words)} on held-out samples"


def _metric(name: str) -> Metric:
    if name not in METRICS:
        raise InputError(
            f"metric is {name!r}; expected one of {', '.join(METRICS)}, or a mapping of names to functions"
        )
    return METRICS[name]
