"""A training run in a folder: the loop with logs, checkpoints to go on from, and the best model.

A checkpoint adds to the step's number the weights, the optimizer's state, the carried LSTM state, the loss scale, the
best score, the patience counter, the description and the versions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from gpu_lstm.backend import Array, widened
from gpu_lstm.errors import InputError
from gpu_lstm.parallel import Communicator
from gpu_lstm.training import checkpoint, folder
from gpu_lstm.training.events import Event, Outcome
from gpu_lstm.training.lock import locked
from gpu_lstm.training.loop import Training
from gpu_lstm.training.settings import Settings
from gpu_lstm.training.tasks import Task


class Run(Training):
    """A training run in a folder, see `gpu_lstm.training.folder`.

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
    graph, parallel
        As of `Training`; rank 0 alone writes, and reads what is in the folder.
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
        parallel: Communicator | None = None,
    ):
        super().__init__(task, settings, graph=graph, parallel=parallel)
        self.folder, self.note = path, note
        self.description = checkpoint.description_of(task.model, settings=asdict(self.settings), **description)
        self._saved: int | None = None  # the step of the last checkpoint
        self._saved_at = time.monotonic()
        self._manifest: bytes | None = None  # as it was when the folder was looked at
        self._logs: folder.Logs | None = None

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
        with self.parallel.guard(f"run {self.folder}"), ExitStack() as held:
            self.parallel.first(lambda: self._open(held))
            if self._saved is None:
                self.save()
            self._logs = self.parallel.first(lambda: held.enter_context(closing(folder.Logs(self.folder, self.step))))
            outcome = super().go(lambda event: report(self._keep(event)), stop)
            if self._saved != self.step:
                self.save()
            return outcome

    def _open(self, held: ExitStack) -> None:
        """Make sure that the folder is ours, from now until `held` is closed."""
        if self._manifest is None:  # what is in the folder may be anyone's
            (folder.check_unused if self._saved is None else folder.check_names)(self.folder)
        died = held.enter_context(locked(self.folder))
        if folder.manifest(self.folder) != self._manifest:
            raise InputError(f"run {self.folder} was changed by another process since it was looked at; try again")
        held.callback(self._leave)
        if died is not None:
            self.note(f"{died}, which trained in {self.folder}, is gone; its lock is taken over")
        if self._saved is not None and folder.repair_manifest(self.folder):
            self.note(f"the manifest of {self.folder} was damaged; it names what can be read now")

    def _leave(self) -> None:
        self._logs, self._manifest = None, folder.manifest(self.folder)

    def _keep(self, event: Event) -> Event:
        """Write down what happened at a step."""
        values = {
            "loss": event.loss,
            "gradient_norm": event.norm,
            "learning_rate_factor": self.schedule(event.step - 1),
            "validation_score": event.score,
            "loss_scale": self.scaler.scale if self.scaler.active else None,
        }
        line = {name: value for name, value in asdict(event).items() if value not in (None, "") and value == value}
        if self._logs is not None:
            self._logs.add(line, {tag: value for tag, value in values.items() if value is not None})
        if event.best:
            self.parallel.first(self._save_model)
        since = time.monotonic() - self._saved_at
        if event.score is not None or self.parallel.any(since >= 60 * self.settings.save_minutes):
            self.save()
        return event

    def _kept(self) -> str:
        return f"; what {self.folder} holds is from before"

    def _best(self) -> float | None:
        """The best score; None before the first validation."""
        return self.best if math.isfinite(self.best) else None

    def _save_model(self) -> None:
        model = self.task.model
        about = {**self.description, "step": self.step, "score": self._best()}
        content = checkpoint.pack(checkpoint.to_torch_names(model.params, model.backend), about)
        folder.save(self.folder, folder.BEST, content, self.step, self.settings.keep)

    def save(self) -> None:
        """Write a checkpoint to go on from, after all that was logged until now; no rank goes on before it is whole.

        Before the first validation there is no best model, but where the start has a score: then the one for use is
        that of the last save.
        """
        carried = self.work.carried()
        self.parallel.first(lambda: self._save(carried))
        self._saved, self._saved_at = self.step, time.monotonic()

    def _save(self, carried: dict[str, Array]) -> None:
        backend = self.task.model.backend
        arrays = checkpoint.to_torch_names(self.task.model.params, backend)
        for prefix, part in (("optimizer", self.optimizer.state), ("carried", carried)):
            arrays |= {f"{prefix}.{name}": backend.to_numpy(widened(backend, array)) for name, array in part.items()}
        progress = {
            "step": self.step, "updates": self.optimizer.updates, "best": self._best(), "since_best": self.since_best,
            "skipped": self.skipped, "skipped_in_a_row": self._skipped_in_a_row, "loss_scale": self.scaler.state(),
        }  # fmt: skip
        if (self._best() is None) == (self.step > 0):
            self._save_model()
        if self._logs is not None:
            self._logs.flush()
        content = checkpoint.pack(arrays, {**self.description, "progress": progress})
        folder.save(self.folder, folder.resume_name(self.step), content, self.step, self.settings.keep)

    def resume(self, arrays: dict[str, np.ndarray], description: dict[str, Any]) -> None:
        """Go on from what `save` wrote with this `description`: the next step will be what it would have been.

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
            self.work.restore({name: backend.asarray(array, dtype) for name, array in carried.items()})
            checkpoint.assign(self.task.model, arrays, path)
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
