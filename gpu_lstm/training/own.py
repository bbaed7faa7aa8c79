"""Training of a model of one's own by the loop that all training goes through."""

from __future__ import annotations

import json
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np

from gpu_lstm.backend import Backend
from gpu_lstm.data.samples import Batches, Samples, given, shuffled
from gpu_lstm.errors import InputError
from gpu_lstm.layers.base import check_seed
from gpu_lstm.layers.checks import check_share, check_size
from gpu_lstm.models import Composed, Model
from gpu_lstm.models.composed import Criterion
from gpu_lstm.parallel import Alone, Communicator
from gpu_lstm.training import checkpoint, folder
from gpu_lstm.training.events import Event, Outcome
from gpu_lstm.training.loop import Training
from gpu_lstm.training.run import Run
from gpu_lstm.training.settings import Settings
from gpu_lstm.training.signals import noted
from gpu_lstm.training.tasks.own import Metrics, OwnTask

CHANGEABLE = ("epochs", "validations", "patience", "keep", "save_minutes", "on_nonfinite")
"""Settings that a run which is gone on with may have anew."""
Callback = Callable[[Event], Any]
"""Called with what happened at each step; what it returns ends training where it is true."""


class Further(TypedDict, total=False):
    """Settings that `fit` takes besides its own arguments, as `Settings` describes them."""

    optimizer: str
    options: dict[str, float]
    schedule: str
    warm_up: int
    clip: float
    validations: int
    patience: int
    keep: int
    save_minutes: float
    on_nonfinite: str
    shares: int


@dataclass(frozen=True, repr=False)
class History:
    """What happened while a model was fitted.

    Attributes
    ----------
    outcome : Outcome
        How it ended, the steps that were done, the best score.
    losses : list of float
        Of each step.
    validated : list of int
        The steps after which there was a validation.
    scores : list of float
        The loss on the held-out samples at each; lower is better.
    metrics : dict of str to list of float
        Each metric at each validation.
    """

    outcome: Outcome
    losses: list[float]
    validated: list[int]
    scores: list[float]
    metrics: dict[str, list[float]]

    def __repr__(self) -> str:
        curves = {"losses": self.losses, "scores": self.scores, **self.metrics}
        told = [f"{name} {len(c)}, {c[0]:.4g} to {c[-1]:.4g}" for name, c in curves.items() if c]
        best = f", best score {self.outcome.best:.4g}" if self.scores else ""
        how = f"{self.outcome.end} after step {self.outcome.step} of {self.outcome.steps}{best}"
        return f"History({'; '.join([how, *told])})"


def fit(
    model: Model,
    data: Any,
    loss: Criterion | None = None,
    *,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    validation: Any = None,
    metrics: Metrics = (),
    callbacks: Sequence[Callback] = (),
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    verbose: bool = False,
    graph: bool = False,
    parallel: Communicator | None = None,
    **settings: Unpack[Further],
) -> History:
    """Train a model; with a validation it ends with the parameters that scored best.

    Parameters
    ----------
    model : Model
        What `gpu_lstm.compose` gives; or another `Model`, whose ``loss(*batch, seed=seed)`` gives the mean loss and the
        gradients of `params`.
    data
        ``(x, y)``, each an array with the sample's axis first, a list of sequences of different lengths, or, for x, a
        mapping of the inputs' names to such. Or a function that takes the step's number 0, 1, ... to a batch, which is
        such a pair; or one that takes the epoch's number to something that gives batches; or something that gives them,
        anew each time. The batches of another model than a composition are the arguments of its `loss`.
    loss : {"mse", "mae", "huber", "cross_entropy"} or callable
        Of a composition, see `Composed.loss`. None for other models.
    epochs : int
    steps : int, optional
        Batches of an epoch, where `data` is neither arrays nor has a length.
    batch_size : int
        Samples of a batch, of arrays. Each epoch goes through all samples in a new order, but for those that fill no
        batch.
    learning_rate : float
    validation : float, or like `data`, optional
        A share of arrays that is held out, drawn at random; or other data: arrays, or batches that are given anew each
        time.
    metrics : names of {"accuracy", "mae", "rmse"}, or mapping of names to functions
        A function takes prediction (N, K) and target, on the host, to a number; in validations, over all held-out data.
    callbacks : list of callables
        Each gets every step's `Event`, in order; training stops after the step where one returns what is true. What
        they raise, `fit` raises.
    seed : int
        Of the order, of what is held out and of dropout. The same seed gives the same bits.
    out : path, optional
        Folder of the run, with logs, checkpoints to go on from, and the best model (docs/do/runs.md).
    resume : bool
        Go on with the run in `out`, where there is one, to the same bytes: of arrays, and of a function that gives the
        same batch for the same number. An iterable is run through again to where training was.
    verbose : bool
        Show a progress bar.
    graph : bool
        On a GPU, record a step as a CUDA graph and replay it; of batches of one shape.
    parallel : Communicator, optional
        As `gpu_lstm.parallel.MPI()`: ranks that all call `fit` with the same arguments and train one composition
        together, each on its shares of every batch. Rank 0 alone writes, shows the bar and calls back.
    **settings
        Of `gpu_lstm.training.Settings`: optimizer, options, schedule, warm_up, clip, validations, patience, keep,
        save_minutes, on_nonfinite, shares.

    Raises
    ------
    InputError
        An argument can't be used, or the data or the run in `out` don't fit the model; nothing was trained.
    TrainingError
        Loss, gradients or score are not finite, or memory ran out.
    KeyboardInterrupt
        Ctrl-C, once the step is done: the model has the parameters that scored best, a run in `out` is saved and can be
        gone on with. A second one is raised at once.

    Examples
    --------
    >>> model = compose(lstm=LSTM(1, 8, backend="numpy"), last=Pool("last"), head=Linear(8, 1, backend="numpy"))
    >>> x = np.random.default_rng(0).random((64, 10, 1))  # (N, T, D)
    >>> history = fit(model, (x, x.mean(axis=1)), "mse", epochs=30, learning_rate=0.01)
    >>> history.losses[-1] < history.losses[0] / 4
    True
    >>> model.predict(x[:3]).shape
    (3, 1)
    """
    task = task_of(model, data, loss, validation, metrics, steps=steps, batch_size=batch_size, seed=seed)
    if not task.held_out:
        if settings.get("patience") or metrics:
            raise InputError("validation is None; expected data to validate on, for patience and metrics need them")
        settings["validations"] = 0
    made = Settings(epochs=epochs, learning_rate=learning_rate, **settings)
    training: Training
    if out is not None:
        train = task.batches
        about = {"data": train.fingerprint, "steps": train.steps, "batch_size": batch_size, "seed": seed}
        about["loss"] = _name(loss)
        ranks = parallel or Alone()
        training = ranks.each(lambda: _run(task, made, Path(out), about, resume, graph, ranks))
    elif resume:
        raise InputError("resume is True without out; expected the folder of the run to go on with")
    else:
        training = Training(task, made, graph=graph, parallel=parallel)
    return _go(training, callbacks, verbose)


def _name(loss: Criterion | None) -> str | None:
    """What a run's description keeps of a loss."""
    return loss if loss is None or isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)


def task_of(
    model: Model,
    data: Any,
    loss: Criterion | None = None,
    validation: Any = None,
    metrics: Metrics = (),
    *,
    steps: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
) -> OwnTask:
    """Return the task of these arguments of `fit`; raises InputError where they don't go together."""
    train, held_out = _split(model, data, validation, steps, batch_size, seed)
    return OwnTask(model, train, loss, held_out, metrics, seed)


def _split(
    model: Model, data: Any, validation: Any, steps: int | None, batch_size: int, seed: int
) -> tuple[Batches, Iterable[Any]]:
    """Batches to train on, and those to validate on, which may be none."""
    size, drawn = check_size("batch_size", batch_size), check_seed(seed)
    arrays = isinstance(data, tuple) and isinstance(model, Composed)
    if not arrays and isinstance(validation, float | int):
        raise InputError(f"validation is {validation!r}; expected data to validate on, for data are no arrays to split")
    held = [] if validation is None else _held_out(model, validation, size)
    if not arrays:
        return given(data, steps), held
    samples = _of_pair(model, data)
    if isinstance(validation, float | int):
        count = max(1, int(len(samples) * check_share("validation", validation)))
        if count == len(samples):
            raise InputError("data has 1 sample to train and validate on; expected at least 2")
        order = np.random.default_rng((*drawn, 0)).permutation(len(samples))
        held, samples = _in_turn(samples.take(order[:count]), size), samples.take(order[count:])
    return shuffled(samples, size, drawn), held


def _of_pair(model: Any, data: Any) -> Samples:
    if len(data) != 2:
        raise InputError(f"data has {len(data)} parts; expected a pair (x, y)")
    samples: Samples = model.samples(*data)
    return samples


def _held_out(model: Model, validation: Any, size: int) -> Iterable[Any]:
    if isinstance(validation, float | int):
        return []
    if isinstance(validation, tuple) and isinstance(model, Composed):
        return _in_turn(_of_pair(model, validation), size)
    if iter(validation) is validation:
        raise InputError("validation can be read once; expected (x, y), or a list of batches")
    found: Iterable[Any] = validation
    return found


def _in_turn(samples: Samples, size: int) -> list[Samples]:
    return [samples.take(range(k, min(k + size, len(samples)))) for k in range(0, len(samples), size)]


def _run(
    task: OwnTask, settings: Settings, path: Path, about: dict[str, Any], resume: bool, graph: bool,
    parallel: Communicator,
) -> Run:  # fmt: skip
    """The run in a folder: a new one, or that which is there."""

    def note(line: str) -> None:
        warnings.warn(line, stacklevel=6)

    if not (resume and folder.holds_run(path)):
        run = Run(task, settings, path, {"fit": about}, note, graph, parallel)
        folder.check_unused(path)
        return run
    at, arrays, description, passed_over = folder.newest(path)
    for line in passed_over:
        note(line)
    saved = {"shares": 1} | (description.get("settings") or {})
    settings = replace(settings, shares=settings.shares or saved["shares"])
    run = Run(task, settings, path, {"fit": about}, note, graph, parallel)
    now = json.loads(json.dumps(run.description))
    fixed = {name: value for name, value in asdict(settings).items() if name not in CHANGEABLE}
    pairs = {"model": (now["model"], description.get("model")), "dtype": (now["dtype"], description.get("dtype"))}
    pairs |= {name: (value, saved.get(name)) for name, value in fixed.items()}
    pairs |= {name: (value, (description.get("fit") or {}).get(name)) for name, value in about.items()}
    for name, (value, before) in pairs.items():
        if value != before:
            raise InputError(f"{name} is {value!r}; the run in {at.parent} has {before!r}, which stays")
    run.resume(arrays, description)
    return run


def _go(training: Training, callbacks: Sequence[Callback], verbose: bool) -> History:
    """Train to the end, and keep what happened; without a folder, the best parameters, too."""
    task: Any = training.task
    losses: list[float] = []
    validated: list[int] = []
    scores: list[float] = []
    best: dict[str, np.ndarray] = {}
    backend: Backend = task.model.backend
    stopped, speaks = False, training.parallel.rank == 0

    from tqdm import tqdm

    bar = tqdm(
        total=training.steps, initial=training.step, unit="step", disable=not (verbose and speaks), dynamic_ncols=True
    )

    def report(event: Event) -> None:
        nonlocal stopped
        losses.append(event.loss)
        if event.score is not None:
            validated.append(event.step)
            scores.append(event.score)
        if event.best and not isinstance(training, Run):
            best.update({name: backend.to_numpy(array) for name, array in task.model.params.items()})
        bar.update()
        bar.set_postfix_str(f"loss {event.loss:.4g}" + (f", {event.text}" if event.text else ""))
        for callback in callbacks if speaks else ():
            stopped = bool(callback(event)) or stopped

    task.measured.clear()
    with bar, _interrupted() as interrupted:
        outcome = training.go(report, lambda: stopped or interrupted())
        if isinstance(training, Run) and task.held_out:
            at = training.folder / folder.BEST
            read = training.parallel.first(lambda: checkpoint.load(at)[0])
            checkpoint.assign(task.model, training.parallel.broadcast(read or {}), at)
        for name, array in best.items():
            task.model.params[name][...] = backend.asarray(array)
    metrics = {name: [one[name] for one in task.measured] for name in task.metrics}
    return History(outcome, losses, validated, scores, metrics)


@contextmanager
def _interrupted() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed, which is raised at the end; only a second one at once. Other handlers are let be."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return
    with noted((signal.SIGINT,), signal.default_int_handler) as pressed:
        yield pressed
    if pressed():
        raise KeyboardInterrupt
