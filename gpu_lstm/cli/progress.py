"""How a run is shown while it trains: a bar, a line per validation, the curve, what to do next."""

from __future__ import annotations

import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np

from gpu_lstm.cli import pictures
from gpu_lstm.cli.options import quoted
from gpu_lstm.cli.parallel import complain, speaks
from gpu_lstm.data.tokens import UNKNOWN, read_vocabulary
from gpu_lstm.models import LanguageModel
from gpu_lstm.training import Event, Run
from gpu_lstm.training.folder import BEST, LOG, PICTURE, read_log
from gpu_lstm.training.signals import STOP, noted
from gpu_lstm.training.tasks import SequencesTask, SeriesTask, TextTask

EVERY = 60.0
"""Seconds after which a line is printed where no terminal shows the bar."""


def span(seconds: float) -> str:
    """A time for people."""
    for size, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.0f} {name}" if seconds >= 10 * size else f"{seconds / size:.1f} {name}"
    return f"{seconds:.0f} s"


def tell(line: str) -> None:
    """Print a line about what was found amiss and passed over."""
    print(f"note: {line}", flush=True)


def finish(run: Run) -> int:
    """Run the loop under a progress bar, then draw the curve and say what to do next; return the exit status."""
    model = run.task.model
    plan = model.lstm.plan
    print(f"model: {model.count():,} parameters, {model.dtype}, tier {plan.tier}; run: {run.folder}", flush=True)
    if plan.widened:
        tell(f"here, numbers of {model.dtype} are computed with in float32 and then rounded: a rehearsal, no faster")
    with stop_on_signal() as stop, shown(run) if speaks() else nullcontext(lambda event: None) as report:
        outcome = run.go(report, stop)
    if speaks():
        draw_curve(run)
    where = quoted(run.folder)
    if outcome.end == "stopped":
        print(
            f"stopped after step {outcome.step} of {outcome.steps}, saved; go on with: gpu-lstm train --resume {where}"
        )
        return 130
    why = "no better score for long" if outcome.end == "early" else "all steps done"
    best = f"best score on held-out data: {outcome.best:.4g} {score_unit(run)}"
    print(f"{why}; {best if run.settings.validations else 'nothing was held out'}")
    if remark := run.task.remark(outcome.best):
        tell(remark)
    if outcome.skipped:
        print(f"{outcome.skipped} steps were skipped, because loss or gradients were not finite; {LOG} names them")
    print(f"model: {run.folder / BEST}   loss curve: {run.folder / PICTURE}")
    print(next_command(run, where))
    return 0


def draw_curve(run: Run) -> None:
    """Draw the loss over the steps that are in the log."""
    log = read_log(run.folder / LOG)
    if log:
        pictures.loss_curve(log, run.folder / PICTURE, (run.task.unit, score_unit(run)), run.folder.name)


def score_unit(run: Run) -> str:
    """Of the score."""
    return run.task.score_unit or run.task.unit


def next_command(run: Run, where: str) -> str:
    """What to do with the model that a run made, as one would type it in a shell."""
    task = run.task
    if isinstance(task, TextTask):
        beginning = np.asarray(task.train.tokens[:1000])
        prompt = first_words(read_vocabulary(run.description["vocabulary"]).decode(beginning))
        return f"next: gpu-lstm sample {where}" + (f" --prompt={shlex.quote(prompt)}" if prompt else "")
    if isinstance(task, SeriesTask):
        measurable = len(task.values) - task.validation_end >= task.model.config["horizon"]
        return f"next: gpu-lstm forecast {where}" + (f"   or: gpu-lstm evaluate {where}" if measurable else "")
    assert isinstance(task, SequencesTask)
    if task.data.test.any():
        return f"next: gpu-lstm evaluate {where}"
    return f"no sequences are called test; gpu-lstm evaluate {where} --data FILE measures the model on others"


def first_words(text: str) -> str:
    """The first line of a text, or the beginning of it, that a terminal can show and take; empty if there is none."""
    encoding = sys.stdout.encoding or "utf-8"
    shown = (c if c.isprintable() and c != UNKNOWN and c.encode(encoding, "ignore") else "\n" for c in text)
    return next((line.strip()[:20] for line in "".join(shown).split("\n") if line.strip()), "")


def sample_writer(run: Run) -> Callable[[], str] | None:
    """A function that writes a sample with a language model as it is now; None where none is wanted."""
    model = run.task.model
    if not isinstance(model, LanguageModel) or run.description["options"]["sample_length"] <= 0:
        return None
    vocabulary = read_vocabulary(run.description["vocabulary"])
    length = run.description["options"]["sample_length"]
    prompt = vocabulary.encode(vocabulary.first)

    def write() -> str:
        drawn = model.sample(prompt, length, temperature=0.8, seed=run.step, never=vocabulary.never)
        return vocabulary.decode(np.fromiter(drawn, dtype=np.int64))

    return write


@contextmanager
def shown(run: Run) -> Iterator[Callable[[Event], None]]:
    """What is to be called with each step's event: a progress bar on a terminal, a line per validation anywhere."""
    from tqdm import tqdm

    task, sample = run.task, sample_writer(run)
    bar = tqdm(
        total=run.steps * task.items,
        initial=run.step * task.items,
        unit=task.item,
        unit_scale=True,
        disable=None,
        dynamic_ncols=True,
        smoothing=0.05,
        bar_format="{percentage:3.0f}% |{bar}| {rate_fmt}, {remaining} left, {desc}",
    )
    mean: float | None = None  # of the last losses
    begun = told = time.perf_counter()
    first = run.step

    def report(event: Event) -> None:
        nonlocal mean, told
        loss = (mean or 0.0) if event.skipped else event.loss
        mean = loss if mean is None else 0.95 * mean + 0.05 * loss
        bar.update(task.items)
        bar.set_description_str(f"{mean:.3f} {task.unit}", refresh=False)
        if event.skipped:
            tqdm.write(f"step {event.step} skipped: {event.skipped}")
        per_step = (time.perf_counter() - begun) / (event.step - first)
        if event.score is None and not (bar.disable and time.perf_counter() - told >= EVERY):
            return
        told = time.perf_counter()
        if event.score is None:  # nobody sees the bar
            left = span((event.steps - event.step) * per_step)
            print(f"step {event.step} of {event.steps}: {mean:.3f} {task.unit} in training, {left} left", flush=True)
            return
        text = f"step {event.step}/{event.steps}: {mean:.3f} {task.unit} in training; {event.text}"
        text += " (best so far)" if event.best else ""
        left = tqdm.format_interval((event.steps - event.step) * per_step)
        text += f"; {task.items / per_step:,.0f} {task.item}/s, {left} left"
        if sample is not None:
            text += "".join(f"\n    | {line}" for line in sample().strip("\n").split("\n"))
        tqdm.write(text)
        sys.stdout.flush()

    with bar:
        yield report


def stop_on_signal() -> AbstractContextManager[Callable[[], bool]]:
    """Turn the first Ctrl-C, SIGTERM or SIGUSR1 into a request to stop after the step; a second one leaves at once."""
    numbers = (*STOP, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))
    # The system's own handling is next: nothing can hold it up, and files survive it.
    return noted(numbers, signal.SIG_DFL, lambda: complain("\nstopping after this step; once more to leave at once"))
