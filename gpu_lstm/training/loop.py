"""The training loop: steps, validation, early stop, checkpoints to go on from."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpu_lstm.errors import GpuLstmError, InputError
from gpu_lstm.layers.base import check_size
from gpu_lstm.optimizers import Optimizer, make_optimizer
from gpu_lstm.schedules import make_schedule
from gpu_lstm.training import checkpoint
from gpu_lstm.training.tasks import Task


class TrainingError(GpuLstmError):
    """Training can't go on: the loss or a gradient is no longer a finite number."""


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
        How often to validate, evenly spread over the run.
    patience : int
        Stop after this many validations in a row without a better score; 0 never stops early.
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

    def __post_init__(self) -> None:
        check_size("epochs", self.epochs)
        check_size("validations", self.validations)
        if self.patience < 0 or self.warm_up < 0:
            raise InputError(f"patience and warm_up are {self.patience} and {self.warm_up}; expected at least 0")
        if not (self.clip > 0 and math.isfinite(self.clip)):
            raise InputError(f"clip is {self.clip!r}; expected a number above 0")


@dataclass(frozen=True)
class Event:
    """What happened at a step; `score` and `text` are there after a validation."""

    step: int
    steps: int
    loss: float
    norm: float
    score: float | None = None
    text: str = ""
    best: bool = False


@dataclass
class Outcome:
    """How a run ended: ``finished``, ``early`` (no better score for long) or ``stopped`` (asked to)."""

    end: str
    step: int
    steps: int
    best: float


class Run:
    """One training run: a task, an optimizer and a folder.

    The folder gets ``model.safetensors`` (the best model so far, for use), ``resume.safetensors`` (all that is
    needed to go on) and ``log.jsonl`` (one line a step).

    Parameters
    ----------
    task : Task
    settings : Settings
    folder : Path
    description : dict
        Stored in both checkpoints beside the model's own.
    """

    def __init__(self, task: Task, settings: Settings, folder: Path, description: dict[str, Any]):
        self.task, self.settings, self.folder = task, settings, folder
        self.steps = settings.epochs * task.steps_per_epoch
        self.schedule = make_schedule(settings.schedule, self.steps, min(settings.warm_up, self.steps))
        self.optimizer: Optimizer = make_optimizer(
            settings.optimizer, task.model.backend, task.model.params, settings.learning_rate, **settings.options
        )
        self.description = checkpoint.describe(task.model, settings=asdict(settings), **description)
        self.step = 0
        self.best = math.inf
        self.since_best = 0
        every = max(1, self.steps // settings.validations)
        self._validate_at = {*range(every, self.steps - every // 2, every), self.steps}

    def go(self, report: Callable[[Event], None], stop: Callable[[], bool]) -> Outcome:
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
            Loss, gradients or score are not finite. The checkpoints on disk are from before.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        patience, end = self.settings.patience, "finished"
        mode = "a" if self.step else "w"
        # NumPy's warnings would only repeat what the checks in each step say.
        with open(self.folder / "log.jsonl", mode, encoding="utf-8") as log, np.errstate(all="ignore"):
            while self.step < self.steps:
                if patience and self.since_best >= patience:
                    end = "early"
                    break
                event = self._one_step()
                log.write(json.dumps({k: v for k, v in asdict(event).items() if v not in (None, "")}) + "\n")
                log.flush()
                report(event)
                if self.step < self.steps and stop():
                    end = "stopped"
                    break
        self.save()
        return Outcome(end, self.step, self.steps, self.best)

    def _one_step(self) -> Event:
        task = self.task
        loss, gradients = task.step(self.step)
        size = self.optimizer.update(gradients, self.schedule(self.step), self.settings.clip, loss)
        value, norm = task.model.backend.read(loss, size)  # only now, when all is asked of the device
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise self._diverged(self.step + 1, f"loss is {value}, norm of the gradients {norm}")
        self.step += 1
        shown = task.shown(value)
        if self.step not in self._validate_at:
            return Event(self.step, self.steps, shown, norm)
        score, text = task.validate()
        if not math.isfinite(score):
            raise self._diverged(self.step, f"score is {score}")
        best = score < self.best
        self.since_best = 0 if best else self.since_best + 1
        if best:
            self.best = score
            checkpoint.save_model(
                self.folder / "model.safetensors", task.model, {**self.description, "step": self.step, "score": score}
            )
        self.save()
        return Event(self.step, self.steps, shown, norm, score, text, best)

    def _diverged(self, step: int, what: str) -> TrainingError:
        return TrainingError(
            f"step {step}: {what}; training can't go on. "
            f"A smaller learning rate helps; what {self.folder} holds is from before"
        )

    def save(self) -> None:
        """Write ``resume.safetensors``."""
        backend = self.task.model.backend
        arrays = checkpoint.to_torch_names(self.task.model.params, backend)
        for prefix, part in (("optimizer", self.optimizer.state), ("carried", self.task.carried())):
            arrays |= {f"{prefix}.{name}": backend.to_numpy(array) for name, array in part.items()}
        progress = {
            "step": self.step,
            "updates": self.optimizer.updates,
            "best": self.best if math.isfinite(self.best) else None,
            "since_best": self.since_best,
        }
        checkpoint.save(self.folder / "resume.safetensors", arrays, {**self.description, "progress": progress})

    def resume(self, arrays: dict[str, np.ndarray], description: dict[str, Any]) -> None:
        """Go on from what `save` wrote: the next step will be what it would have been.

        Raises
        ------
        InputError
            The arrays don't fit this run.
        """
        path = self.folder / "resume.safetensors"
        backend, dtype = self.task.model.backend, self.task.model.dtype
        try:
            progress = description["progress"]
            self.step, self.optimizer.updates = int(progress["step"]), int(progress["updates"])
            self.best = math.inf if progress["best"] is None else float(progress["best"])
            self.since_best = int(progress["since_best"])
            checkpoint.fill(self.task.model, arrays, path)
            for name, array in self.optimizer.state.items():
                saved = arrays[f"optimizer.{name}"]
                if saved.shape != tuple(array.shape):
                    raise ValueError(f"optimizer.{name} is {saved.shape}; expected {tuple(array.shape)}")
                array[...] = backend.asarray(saved, dtype)
            carried = {n.removeprefix("carried."): a for n, a in arrays.items() if n.startswith("carried.")}
            self.task.restore({name: backend.asarray(array, dtype) for name, array in carried.items()})
        except InputError:
            raise
        except KeyError as error:
            raise InputError(f"checkpoint {path} lacks {error}") from None
        except (TypeError, ValueError) as error:
            raise InputError(f"checkpoint {path} is damaged: {error}") from None
        if not 0 <= self.step <= self.steps:
            raise InputError(f"checkpoint {path} is at step {self.step}; expected 0..{self.steps}")
        self._trim_log()

    def _trim_log(self) -> None:
        """Drop the log's lines from after the checkpoint, which will be written again."""
        path = self.folder / "log.jsonl"
        kept = [line for line in read_log(path) if line["step"] <= self.step]
        checkpoint.write_whole(path, "".join(json.dumps(line) + "\n" for line in kept).encode())


def read_log(path: Path) -> list[dict[str, Any]]:
    """Lines of a log; a torn last line, from a process that was killed, is left out."""
    lines = []
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and isinstance(entry.get("step"), int):
                lines.append(entry)
    return lines
