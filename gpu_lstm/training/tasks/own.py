"""A model of one's own and data as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from gpu_lstm.backend import Array
from gpu_lstm.data.samples import Batches, Samples, time_major
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
        super().__init__(model, seed, batches.steps, self._try(batches.make(0)))

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

    def _batch(self, number: int) -> Any:
        batch = self.batches.make(number)
        return batch if self.composed is None else self._arranged(self._samples(batch))

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

    def validate(self) -> tuple[float, str]:  # noqa: D102
        if self.composed is None:
            model: Any = self.model
            values = [self.model.backend.read(model.loss(*batch)[0])[0] for batch in self.held_out]
            self.measured.append({"loss": float(np.mean(values))})
        else:
            self.measured.append(self._evaluate(self.composed))
        words = [f"{name} {value:.4g}" for name, value in self.measured[-1].items()]
        return self.measured[-1]["loss"], f"{', '.join(words)} on held-out samples"

    def _evaluate(self, model: Composed) -> dict[str, float]:
        losses, predictions, targets = [], [], []
        for batch in self.held_out:
            loss, prediction, target = model.evaluate(*self._arranged(self._samples(batch)), self.loss)
            rows = prediction.reshape(-1, prediction.shape[-1])
            losses.append(loss * len(rows))
            predictions.append(rows)
            targets.append(target.reshape(len(rows), *target.shape[prediction.ndim - 1 :]))
        prediction, target = np.concatenate(predictions), np.concatenate(targets)
        measured = {name: float(metric(prediction, target)) for name, metric in self.metrics.items()}
        return {"loss": float(np.sum(losses) / len(prediction)), **measured}


def _metric(name: str) -> Metric:
    if name not in METRICS:
        raise InputError(
            f"metric is {name!r}; expected one of {', '.join(METRICS)}, or a mapping of names to functions"
        )
    return METRICS[name]
