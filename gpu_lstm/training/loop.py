"""The training loop: steps, validation, early stop, checkpoints to go on from.

Batches and dropout are pure functions of the seed and the step's number (see `tasks`), so the step's number is both
the position in the data and the state of all generators. A checkpoint adds to it the weights, the optimizer's state,
the carried LSTM state, the loss scale, the best score, the patience counter, the description and the versions.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gpu_lstm.errors import GpuLstmError, InputError
from gpu_lstm.layers import Params
from gpu_lstm.layers.base import check_size
from gpu_lstm.optimizers import Optimizer, make_optimizer
from gpu_lstm.schedules import make_schedule
from gpu_lstm.training import checkpoint, folder, tensorboard
from gpu_lstm.training.lock import locked
from gpu_lstm.training.loss_scale import LossScaler
from gpu_lstm.training.memory import readable
from gpu_lstm.training.steps import RecordedSteps, Steps
from gpu_lstm.training.tasks import Task

Result = TypeVar("Result")
MOST_SKIPS = 50
"""Steps in a row that may be skipped before training stops in any case."""


class TrainingError(GpuLstmError):
    """Training can't go on: the loss or a gradient is no longer a finite number, or memory ran out."""


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes
    ----------
    epochs : int
    learning_rate : float
    optimizer : {"adam", "adamw", "sgd", "rmsprop"}
    options : dict
        Further arguments of the optimizer.
    schedule : {"cosine", "constant"}
    warm_up : int
        Steps over which the learning rate rises.
    clip : float
        Largest joint norm of the gradients.
    validations : int
        How often to validate, evenly spread over the run; 0 never does.
    patience : int
        Stop after this many validations in a row without a better score; 0 never stops early.
    keep : int
        How many of the last checkpoints to keep, besides the best model.
    save_minutes : float
        Save at the latest after so many minutes, besides at every validation; 0 saves after every step.
    on_nonfinite : {"stop", "skip"}
        What to do where the loss or a gradient is NaN or infinite.
    """

    epochs: int
    learning_rate: float
    optimizer: str = "adam"
    options: dict[str, float] = field(default_factory=dict)
    schedule: str = "cosine"
    warm_up: int = 50
    clip: float = 1.0
    validations: int = 10
    patience: int = 0
    keep: int = 3
    save_minutes: float = 10.0
    on_nonfinite: str = "stop"

    def __post_init__(self) -> None:
        check_size("epochs", self.epochs)
        for name in ("validations", "patience", "warm_up"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}; expected at least 0")
        if not (self.clip > 0 and math.isfinite(self.clip)):
            raise InputError(f"clip is {self.clip!r}; expected a number above 0")
        check_size("keep", self.keep)
        if not self.save_minutes >= 0:
            raise InputError(f"save_minutes is {self.save_minutes!r}; expected at least 0")
        if self.on_nonfinite not in ("stop", "skip"):
            raise InputError(f"on_nonfinite is {self.on_nonfinite!r}; expected stop or skip")

    @classmethod
    def read(cls, saved: Any, path: Path) -> Settings:
        """From a checkpoint's description.

        Raises
        ------
        InputError
            It is damaged: not the settings' names, or values of another type.
        """
        try:
            return cls(**saved)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"checkpoint {path} has damaged settings: {error}") from None


@dataclass(frozen=True)
class Event:
    """What happened at a step; `score` and `text` are there after a validation, `skipped` says why it didn't count."""

    step: int
    steps: int
    loss: float
    norm: float
    score: float | None = None
    text: str = ""
    best: bool = False
    skipped: str = ""


@dataclass
class Outcome:
    """How a run ended: ``finished``, ``early`` (no better score for long) or ``stopped`` (asked to)."""

    end: str
    step: int
    steps: int
    best: float
    skipped: int = 0


class Training:
    """Steps of a task by an optimizer, with validation and early stop; nothing is written.

    Parameters
    ----------
    task : Task
    settings : Settings
    optimizer : Optimizer, optional
        To go on with, of the same model; a new one if not given.
    graph : bool
        Replay each step as a CUDA graph, see `RecordedSteps`: for a GPU whose host is what steps wait for.
    """

    advice = "a smaller batch or length, or recompute, needs less"
    """What helps where memory runs out."""

    def __init__(self, task: Task, settings: Settings, optimizer: Optimizer | None = None, graph: bool = False):
        self.task, self.settings = task, settings
        self.steps = settings.epochs * task.steps_per_epoch
        self.schedule = make_schedule(settings.schedule, self.steps, min(settings.warm_up, self.steps))
        self.optimizer: Optimizer = optimizer or make_optimizer(
            settings.optimizer, task.model.backend, task.model.params, settings.learning_rate, **settings.options
        )
        self._steps = (RecordedSteps if graph else Steps)(task, self.optimizer, settings.clip)
        self.scaler = LossScaler.for_dtype(task.model.dtype)
        self.step = 0
        self.best = math.inf
        self.since_best = 0
        self.skipped = self._skipped_in_a_row = 0
        self._validate_at: set[int] = set()
        if settings.validations:
            every = max(1, self.steps // settings.validations)
            self._validate_at = {*range(every, self.steps - every // 2, every), self.steps}

    def go(self, report: Callable[[Event], None], stop: Callable[[], bool] = lambda: False) -> Outcome:
        """Train to the end, or until `stop` says so.

        Parameters
        ----------
        report : callable
            Called with an Event after every step.
        stop : callable
            Asked after every step; True ends the run.

        Raises
        ------
        TrainingError
            Loss, gradients or score are not finite, or memory ran out.
        """
        patience, end = self.settings.patience, "finished"
        self.task.loader.end = self.steps
        # NumPy's warnings would only repeat what the checks in each step say.
        with np.errstate(all="ignore"):
            while self.step < self.steps:
                if patience and self.since_best >= patience:
                    end = "early"
                    break
                report(self._one_step())
                if self.step < self.steps and stop():
                    end = "stopped"
                    break
        return Outcome(end, self.step, self.steps, self.best, self.skipped)

    def _kept(self) -> str:
        """What an error says about that which is not lost."""
        return ""

    def _one_step(self) -> Event:
        task = self.task
        task.model.loss_scale = self.scaler.scale
        asked = self._within_memory(lambda: self._steps.ask(self.step, self.schedule(self.step)))
        # Where a number isn't finite, nothing moves. It is read only now, when all is asked of the device.
        value, norm = task.model.backend.read(asked.loss, asked.norm)
        finite = math.isfinite(value) and math.isfinite(norm)
        skipped = ""
        if finite:
            self._skipped_in_a_row = 0
        else:
            self.optimizer.updates -= 1
            skipped = f"loss is {value}, norm of the gradients {norm}"
            name, count, total = first_nonfinite(task.model.backend, asked.gradients)
            if name:
                layer, _, last = name.rpartition(".")
                skipped += f"; {count} of {total} numbers in the gradient of {last} of layer {layer} aren't finite"
            if math.isfinite(value) and not self.scaler.exhausted:
                skipped += f"; the loss was scaled by {self.scaler.scale:g}, next by half of it"
            else:
                if self.settings.on_nonfinite == "stop":
                    raise self._diverged(self.step + 1, skipped)
                self._skipped_in_a_row += 1
                if self._skipped_in_a_row >= MOST_SKIPS:
                    raise self._diverged(self.step + 1, f"{MOST_SKIPS} steps in a row were skipped; {skipped}")
            self.skipped += 1
            self._steps.undo()
        self.scaler.update(finite)
        self.step += 1
        shown = task.shown(value)
        if self.step not in self._validate_at:
            return Event(self.step, self.steps, shown, norm, skipped=skipped)
        score, text = self._within_memory(task.validate)
        if not math.isfinite(score):
            raise self._diverged(self.step, f"score is {score}")
        best = score < self.best
        self.since_best = 0 if best else self.since_best + 1
        if best:
            self.best = score
        return Event(self.step, self.steps, shown, norm, score, text, best, skipped)

    def _within_memory(self, action: Callable[[], Result]) -> Result:
        """Do it; where memory runs out, what we hold of it is given back before the error is raised."""
        try:
            return action()
        except MemoryError as error:  # NumPy's and CuPy's are kinds of it
            told = str(error)
        model, slots = self.task.model, len(self.optimizer.slots)
        size = sum(int(array.nbytes) for array in model.params.values())
        model.backend.release()
        raise TrainingError(
            f"step {self.step + 1} ran out of memory: {told or 'no size told'} (parameters and gradients "
            f"{readable(2 * size)}, optimizer {readable(slots * size)}); {self.advice}{self._kept()}"
        )

    def _diverged(self, step: int, what: str) -> TrainingError:
        return TrainingError(f"step {step}: {what}; training can't go on. A smaller learning rate helps{self._kept()}")


class Run(Training):
    """A training run in a folder, see `gpu_lstm.training.folder`: logs, checkpoints, the best model.

    Parameters
    ----------
    task : Task
    settings : Settings
    path : Path
        Folder of the run.
    description : dict
        Stored in all checkpoints beside the model's own.
    note : callable, optional
        Called with lines for people: what was found amiss and passed over.
    graph : bool
        As of `Training`.
    """

    advice = "a smaller --batch or --length, or --recompute, needs less (--dry-run says how much)"

    def __init__(
        self,
        task: Task,
        settings: Settings,
        path: Path,
        description: dict[str, Any],
        note: Callable[[str], None] = lambda line: None,
        graph: bool = False,
    ):
        super().__init__(task, settings, graph=graph)
        self.folder, self.note = path, note
        self.description = checkpoint.describe(task.model, settings=asdict(settings), **description)
        self._saved: int | None = None
        self._manifest: bytes | None = None  # as it was when the folder was looked at
        self._log_files: tuple[int, ...] = ()
        self._saved_at = time.monotonic()

    def go(self, report: Callable[[Event], None], stop: Callable[[], bool] = lambda: False) -> Outcome:
        """Train to the end, or until `stop` says so; save in both cases.

        Parameters
        ----------
        report : callable
            Called with an Event after every step.
        stop : callable
            Asked after every step; True ends the run so that it can be resumed.

        Raises
        ------
        TrainingError
            Loss, gradients or score are not finite, or memory ran out. The checkpoints on disk are from before.
        InputError
            Another process trains in this folder, or did since it was looked at; or the folder of a new run has a run
            or files of others in it.
        """
        if self._manifest is None:  # what is in the folder may be anyone's
            (folder.check_unused if self._saved is None else folder.check_names)(self.folder)
        with locked(self.folder) as died:
            if folder.manifest(self.folder) != self._manifest:
                raise InputError(f"run {self.folder} was changed by another process since it was looked at; try again")
            if died is not None:
                self.note(f"{died}, which trained in {self.folder}, is gone; its lock is taken over")
            try:
                if self._saved is None:
                    self.save()
                elif folder.repair_manifest(self.folder):
                    self.note(f"the manifest of {self.folder} was damaged; it names what can be read now")
                return self._go_on(report, stop)
            finally:
                self._manifest = folder.manifest(self.folder)

    def _go_on(self, report: Callable[[Event], None], stop: Callable[[], bool]) -> Outcome:
        """What `go` does once the folder is ours and has a checkpoint."""
        folder.cut_log(self.folder / folder.LOG, self.step)
        tensorboard.cut(self.folder, self.step)
        folder.tidy(self.folder, folder.read_manifest(self.folder))
        with open(self.folder / folder.LOG, "ab", buffering=0) as log:
            board = tensorboard.EventFile(self.folder)

            def keep(event: Event) -> None:
                self._log(event, log, board)
                if event.best:
                    self._save_model()
                since = time.monotonic() - self._saved_at
                if event.score is not None or since >= 60 * self.settings.save_minutes:
                    self.save()
                report(event)

            try:
                self._log_files = (log.fileno(), board.fileno())
                outcome = super().go(keep, stop)
                if self._saved != self.step:
                    self.save()
            finally:
                self._log_files = ()
                board.close()
        return outcome

    def _kept(self) -> str:
        return f"; what {self.folder} holds is from before"

    def _log(self, event: Event, log: Any, board: tensorboard.EventFile) -> None:
        line = {k: v for k, v in asdict(event).items() if v not in (None, "") and v == v}
        tensorboard.append(log, (json.dumps(line) + "\n").encode())
        values = {
            "loss": event.loss,
            "gradient_norm": event.norm,
            "learning_rate_factor": self.schedule(event.step - 1),
        }
        if event.score is not None:
            values["validation_score"] = event.score
        if self.scaler.active:
            values["loss_scale"] = self.scaler.scale
        board.add(event.step, values)

    def _save_model(self) -> None:
        model = self.task.model
        about = {**self.description, "step": self.step, "score": self._best()}
        content = checkpoint.pack(checkpoint.to_torch_names(model.params, model.backend), about)
        folder.save(self.folder, folder.BEST, content, self.step, self.settings.keep)

    def _best(self) -> float | None:
        """The best score; None before the first validation."""
        return self.best if math.isfinite(self.best) else None

    def save(self) -> None:
        """Write a checkpoint to go on from, after all that was logged until now.

        Before the first validation there is no best model: then the one for use is that of the last save.
        """
        backend = self.task.model.backend
        arrays = checkpoint.to_torch_names(self.task.model.params, backend)
        for prefix, part in (("optimizer", self.optimizer.state), ("carried", self.task.carried())):
            arrays |= {f"{prefix}.{name}": backend.to_numpy(backend.widened(array)) for name, array in part.items()}
        progress = {
            "step": self.step,
            "updates": self.optimizer.updates,
            "best": self._best(),
            "since_best": self.since_best,
            "skipped": self.skipped,
            "skipped_in_a_row": self._skipped_in_a_row,
            "loss_scale": self.scaler.state(),
        }
        if self.step and self._best() is None:
            self._save_model()
        for file in self._log_files:
            os.fsync(file)
        content = checkpoint.pack(arrays, {**self.description, "progress": progress})
        folder.save(self.folder, folder.resume_name(self.step), content, self.step, self.settings.keep)
        self._saved, self._saved_at = self.step, time.monotonic()

    def resume(self, arrays: dict[str, np.ndarray], description: dict[str, Any]) -> None:
        """Go on from what `save` wrote: the next step will be what it would have been.

        Raises
        ------
        InputError
            The arrays don't fit this run.
        """
        backend, dtype = self.task.model.backend, self.task.model.param_dtype
        path, manifest = self.folder, folder.manifest(self.folder)
        try:
            progress = description["progress"]
            step, updates = int(progress["step"]), int(progress["updates"])
            path = self.folder / folder.resume_name(step)
            if not 0 <= updates <= step <= self.steps:
                raise InputError(f"checkpoint {path} is at step {step}; expected 0..{self.steps}")
            best = math.inf if progress["best"] is None else float(progress["best"])
            since_best, skipped = int(progress["since_best"]), int(progress.get("skipped", 0))
            in_a_row = int(progress.get("skipped_in_a_row", 0))
            if "loss_scale" in progress:
                self.scaler.restore(progress["loss_scale"])
            saved = {name: arrays[f"optimizer.{name}"] for name in self.optimizer.state}
            for name, array in saved.items():
                wanted = self.optimizer.state[name]
                if array.shape != tuple(wanted.shape) or array.dtype != np.dtype(dtype):
                    raise ValueError(f"optimizer.{name} is {array.dtype} {array.shape}; expected {tuple(wanted.shape)}")
            carried = {n.removeprefix("carried."): a for n, a in arrays.items() if n.startswith("carried.")}
            self.task.restore({name: backend.asarray(array, dtype) for name, array in carried.items()})
            checkpoint.fill(self.task.model, arrays, path)
        except InputError:
            raise
        except KeyError as error:
            raise InputError(f"checkpoint {path} lacks {error}") from None
        except (TypeError, ValueError, OverflowError, AttributeError) as error:
            raise InputError(f"checkpoint {path} is damaged: {error}") from None
        for name, array in saved.items():
            self.optimizer.state[name][...] = backend.asarray(array, dtype)
        self.step, self.optimizer.updates, self.best, self.since_best = step, updates, best, since_best
        self.skipped, self._skipped_in_a_row = skipped, in_a_row
        self._saved, self._manifest = step, manifest
        for line in (
            checkpoint.differences(description.get("versions"), self.description["versions"]),
            folder.check_best(self.folder, step),
        ):
            if line:
                self.note(line)


def first_nonfinite(backend: Any, gradients: Params) -> tuple[str, int, int]:
    """Name of the first gradient with NaN or infinity, how many numbers of it, of how many; an empty name for none."""
    xp = backend.xp
    for name, gradient in gradients.items():
        bad = int(xp.sum(xp.astype(~xp.isfinite(gradient), xp.int64)))
        if bad:
            return name, bad, math.prod(gradient.shape)
    return "", 0, 0
