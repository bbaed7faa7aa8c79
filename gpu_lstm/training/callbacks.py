"""Ready callbacks for `fit`, and the search for a learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_lstm.errors import InputError
from gpu_lstm.models import Model
from gpu_lstm.models.composed import Criterion
from gpu_lstm.training.events import Event
from gpu_lstm.training.loop import Training
from gpu_lstm.training.own import task_of
from gpu_lstm.training.settings import Settings
from gpu_lstm.training.tensorboard import EventFile
from gpu_lstm.training.trouble import TrainingError


class TensorBoard:
    """Writes loss, norm of the gradients and scores into a folder that TensorBoard reads; a run with `out` has them.

    Parameters
    ----------
    folder : path
        Made where it isn't there; what is in it is added to.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, event: Event) -> None:
        """Write what happened at a step."""
        values = {"loss": event.loss, "gradient_norm": event.norm, "validation_score": event.score}
        file = EventFile(self.folder)
        try:
            file.add(event.step, {tag: value for tag, value in values.items() if value is not None and value == value})
        finally:
            file.close()


class EarlyStop:
    """Ends training once the mean loss of some steps has stopped to fall, or is low enough.

    For data without a validation; with one, `fit(..., patience=3)` is what to take.

    Parameters
    ----------
    steps : int
        Over which the loss is averaged.
    patience : int
        So many such means in a row without a lower one end training.
    until : float, optional
        A mean below this ends it, too.

    Examples
    --------
    >>> model = compose(lstm=LSTM(1, 4, backend="numpy"), last=Pool("last"), head=Linear(4, 1, backend="numpy"))
    >>> x = np.random.default_rng(0).random((64, 5, 1))
    >>> history = fit(model, (x, x[:, -1]), "mse", epochs=50, callbacks=[EarlyStop(steps=4, until=1.0)])
    >>> len(history.losses)
    4
    """

    def __init__(self, steps: int = 100, patience: int = 5, until: float = -math.inf):
        self.steps, self.patience, self.until = steps, patience, until
        self.best, self.since = math.inf, 0
        self._losses: list[float] = []

    def __call__(self, event: Event) -> bool:
        """Whether to end training after this step."""
        self._losses.append(event.loss)
        if len(self._losses) < self.steps:
            return False
        mean = sum(self._losses) / self.steps
        self._losses.clear()
        self.since = 0 if mean < self.best else self.since + 1
        self.best = min(mean, self.best)
        return mean < self.until or self.since >= self.patience


@dataclass(frozen=True)
class RateSearch:
    """What `find_learning_rate` found.

    Attributes
    ----------
    suggestion : float
        A tenth of the rate at which the smoothed loss was lowest.
    rates, losses : list of float
        Rate and smoothed loss of each step, for a picture; a rate further on than the lowest loss is too large.
    """

    suggestion: float
    rates: list[float] = field(repr=False)
    losses: list[float] = field(repr=False)


def find_learning_rate(
    model: Model,
    data: Any,
    loss: Criterion | None = None,
    *,
    lowest: float = 1e-5,
    highest: float = 1.0,
    steps: int = 100,
    batch_size: int = 32,
    smoothing: float = 0.9,
    seed: int = 0,
    optimizer: str = "adam",
    clip: float = 1.0,
) -> RateSearch:
    """Train a few steps at rates that rise from `lowest` to `highest`, and see where the loss is lowest.

    It ends early where the loss is four times its lowest, or is no number any more; then the model is as it was (L.
    Smith, Cyclical Learning Rates for Training Neural Networks, 2017).

    Parameters
    ----------
    model, data, loss, batch_size, seed, optimizer, clip
        As of `fit`. Batches are taken again from the first where there are fewer than `steps`.
    lowest, highest : float
    steps : int
        At least 10.
    smoothing : float
        Share of what came before in the running mean of the loss.

    Raises
    ------
    InputError
        As `fit`; or the rates don't rise, or there are less than 10 steps.

    Examples
    --------
    >>> model = compose(lstm=LSTM(1, 4, backend="numpy"), last=Pool("last"), head=Linear(4, 1, backend="numpy"))
    >>> x = np.random.default_rng(0).random((64, 5, 1))
    >>> found = find_learning_rate(model, (x, x[:, -1]), "mse")
    >>> bool(1e-6 < found.suggestion < 1)
    True
    """
    if not 0 < lowest < highest < math.inf:
        raise InputError(f"lowest is {lowest!r} and highest {highest!r}; expected rates above 0 that rise")
    if steps < 10:
        raise InputError(f"steps is {steps}; expected at least 10")
    of_epoch = min(steps, len(data)) if hasattr(data, "__len__") else steps
    task = task_of(model, data, loss, steps=of_epoch, batch_size=batch_size, seed=seed)
    kept = {name: model.backend.to_numpy(array) for name, array in model.params.items()}
    rises = (highest / lowest) ** (1 / (steps - 1))
    epochs = -(-steps // task.steps_per_epoch)
    settings = Settings(epochs=epochs, learning_rate=lowest, optimizer=optimizer, clip=clip, validations=0, warm_up=0)
    training = Training(task, settings)
    training.steps, training.schedule = steps, lambda step: rises**step
    rates: list[float] = []
    losses: list[float] = []
    mean = 0.0

    def report(event: Event) -> None:
        nonlocal mean
        mean = smoothing * mean + (1 - smoothing) * event.loss
        rates.append(lowest * rises ** (event.step - 1))
        losses.append(mean / (1 - smoothing**event.step))

    try:
        training.go(report, lambda: losses[-1] > 4 * min(losses))
    except TrainingError:  # the loss is no number any more: the rates before are what was to be found
        if not losses:
            raise
    finally:
        for name, array in kept.items():
            model.params[name][...] = model.backend.asarray(array)
    return RateSearch(rates[losses.index(min(losses))] / 10, rates, losses)
