"""The training loop: steps, validation, early stop.

Batches and dropout are pure functions of the seed and the step's number (see `tasks`), so the step's number is both
the position in the data and the state of all generators.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from gpu_lstm.optimizers import Optimizer, make_optimizer
from gpu_lstm.parallel import Alone, Communicator
from gpu_lstm.schedules import make_schedule
from gpu_lstm.training.events import Event, Outcome
from gpu_lstm.training.loss_scale import LossScaler
from gpu_lstm.training.replayed import Replayed
from gpu_lstm.training.settings import Settings
from gpu_lstm.training.steps import Asked, Launched
from gpu_lstm.training.tasks import Shared, Task
from gpu_lstm.training.trouble import TrainingError, not_finite, out_of_memory

MOST_SKIPS = 50
"""Steps in a row that may be skipped before training stops in any case."""


class Training:
    """Steps of a task by an optimizer, as `settings` say, with validation and early stop; nothing is written.

    The optimizer may be one to go on with. With `graph`, each step is replayed as a CUDA graph, see `Replayed`; with
    `parallel`, ranks train together, see `Shared`.
    """

    advice = "a smaller batch or length, or recompute, needs less"
    """What helps where memory runs out."""

    def __init__(
        self, task: Task, settings: Settings, optimizer: Optimizer | None = None, graph: bool = False,
        parallel: Communicator | None = None,
    ):  # fmt: skip
        self.task, self.parallel = task, parallel or Alone()
        self.work, self.settings = work, settings = Shared.of(task, settings, self.parallel, graph)
        self.steps = settings.epochs * task.steps_per_epoch
        self.schedule = make_schedule(settings.schedule, self.steps, settings.warm_up_steps(self.steps))
        self.optimizer: Optimizer = optimizer or make_optimizer(
            settings.optimizer, task.model.backend, task.model.params, settings.learning_rate, **settings.options
        )
        self._steps = (Replayed if graph else Launched)(work, self.optimizer, settings.clip)
        self.scaler = LossScaler.for_dtype(task.model.dtype)
        self.step = 0
        self.best = task.initial()
        self.since_best = 0
        self.skipped = self._skipped_in_a_row = 0
        self._validates_at = settings.validates_at(self.steps)

    def go(self, report: Callable[[Event], None], stop: Callable[[], bool] = lambda: False) -> Outcome:
        """Train to the end, or until `stop`, asked after every step, says so; `report` gets an Event after every step.

        Raises TrainingError where loss, gradients or score are not finite, or memory ran out.
        """
        patience, end = self.settings.patience, "finished"
        self.work.loader.end = self.steps
        # NumPy's warnings would only repeat what the checks in each step say.
        with self.parallel.guard("training"), np.errstate(all="ignore"):
            while self.step < self.steps:
                if patience and self.since_best >= patience:
                    end = "early"
                    break
                try:
                    event = self._one_step()
                except MemoryError as error:  # NumPy's and CuPy's are kinds of it
                    event, told = None, str(error)
                if event is None:  # only here the step's arrays are free
                    raise out_of_memory(self.task.model, self.optimizer, self.step, told, self.advice + self._kept())
                report(event)
                if self.step < self.steps and self.parallel.any(stop()):
                    end = "stopped"
                    break
        return Outcome(end, self.step, self.steps, self.best, self.skipped)

    def _kept(self) -> str:
        """What an error says about that which is not lost."""
        return ""

    def _one_step(self) -> Event:
        task = self.task
        task.model.loss_scale = self.scaler.scale
        asked = self._steps.ask(self.step, self.schedule(self.step))
        # Where a number isn't finite, nothing moves. It is read only now, when all is asked of the device.
        loss, norm = task.model.backend.read(asked.loss, asked.norm)
        finite, skipped = math.isfinite(loss) and math.isfinite(norm), ""
        if finite:
            self._skipped_in_a_row = 0
        else:
            skipped = self._skip(loss, norm, asked)
        if self.scaler.active:
            self.scaler.update(finite)
        self.step += 1
        score, text, best = None, "", False
        if self.step in self._validates_at:
            score, text = self.work.validate()
            if not math.isfinite(score):
                raise self._diverged(self.step, f"score is {score}")
            best = score < self.best
            self.since_best = 0 if best else self.since_best + 1
            self.best = min(score, self.best)
        return Event(self.step, self.steps, task.shown(loss), norm, score, text, best, skipped)

    def _skip(self, loss: float, norm: float, asked: Asked) -> str:
        """Have the step not count, and say why; stop where more than the loss's scale is wrong and settings ask to."""
        self.optimizer.updates -= 1
        told = not_finite(self.task.model.backend, loss, norm, asked.gradients)
        if math.isfinite(loss) and not self.scaler.exhausted:
            told += f"; the loss was scaled by {self.scaler.scale:g}, next by half of it"
        else:
            if self.settings.on_nonfinite == "stop":
                raise self._diverged(self.step + 1, told)
            self._skipped_in_a_row += 1
            if self._skipped_in_a_row >= MOST_SKIPS:
                raise self._diverged(self.step + 1, f"{MOST_SKIPS} steps in a row were skipped; {told}")
        self.skipped += 1
        self.work.undo()
        return told

    def _diverged(self, step: int, what: str) -> TrainingError:
        return TrainingError(f"step {step}: {what}; training can't go on. A smaller learning rate helps{self._kept()}")
