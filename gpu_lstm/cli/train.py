"""``gpu-lstm train text|series|classify``."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpu_lstm.backend import DTYPES, Backend
from gpu_lstm.cli.options import (
    RUNS,
    SHIPPED,
    Parsers,
    add_device,
    add_parser,
    announce,
    data_path,
    first_prompt,
    next_free,
    positive,
    quoted,
    trained_on,
)
from gpu_lstm.data.fingerprint import check_unchanged, fingerprint
from gpu_lstm.data.sequences import Sequences, read_sequences
from gpu_lstm.data.series import Series, read_series, spread
from gpu_lstm.data.text import UNKNOWN, Vocabulary, encode_file, read_text
from gpu_lstm.errors import InputError
from gpu_lstm.layers.base import check_seed
from gpu_lstm.layers.options import Options
from gpu_lstm.models import Classifier, Forecaster, LanguageModel, Model
from gpu_lstm.recurrence import runnable_tiers
from gpu_lstm.training import Event, Outcome, Run, Settings, checkpoint
from gpu_lstm.training.folder import BEST, LOG, PICTURE, check_unused, newest, read_log
from gpu_lstm.training.memory import Job, check_fits, predict
from gpu_lstm.training.tasks import ClassifyTask, SeriesTask, Task, TextTask, split_sequences, split_series

KINDS = {"text": "shakespeare", "series": "co2", "classify": "japanese_vowels"}
"""Kinds of training, each with the shipped data that it takes if no others are given."""
KEEPING = ("keep", "save_minutes", "on_nonfinite")
"""Settings that are of a command rather than of a run."""
NOT_OF_THE_TASK = (
    "run", "out", "resume", "backend", "any_kind", "command", "dry_run", "graph", "parser", "arguments", *KEEPING
)  # fmt: skip
"""Options that a run's description doesn't keep among those of its task."""
CHANGEABLE = ("data", "tier", "recompute", "sample_length", "epochs", "patience")
"""Options of the task that --resume takes anew: the same data elsewhere, how to compute, how long to go on."""


def with_kind(arguments: list[str]) -> list[str]:
    """Complete ``train`` without a kind: text, or with --resume whatever is resumed."""
    if arguments[:1] == ["train"] and (len(arguments) == 1 or arguments[1].startswith("-")):
        if any(argument in ("-h", "--help") for argument in arguments[1:2]):
            return arguments
        return ["train", "text", *arguments[1:], "--any-kind"]
    return arguments


def add_parser_for(kinds: Parsers, kind: str, about: str) -> argparse.ArgumentParser:
    """Add one kind's parser with the options that all kinds have."""
    parser = add_parser(kinds, kind, run, about)
    parser.set_defaults(kind=kind, parser=parser)
    parser.add_argument("data", nargs="?", help=f"your own data, or the name of shipped ones ({KINDS[kind]})")
    parser.add_argument("--any-kind", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=f"folder of the run; the next free {RUNS}/{kind} if not given")
    parser.add_argument("--resume", type=Path, metavar="FOLDER", help="go on with a run, as it was set up")
    add_device(parser)
    parser.add_argument(
        "--dtype", default="float32", choices=DTYPES,
        help="float16, bfloat16: mixed precision, what layers pass on in 16 bits, sums and parameters in float32",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same weights, bit for bit")
    parser.add_argument("--hidden-size", type=positive)
    parser.add_argument("--num-layers", type=positive, default=1)
    parser.add_argument("--dropout", type=float)
    parser.add_argument(
        "--lstm",
        nargs="+",
        default=[],
        metavar="OPTION",
        help="of the LSTM family, as peepholes or zoneout_h=0.1",
    )
    parser.add_argument("--batch", type=positive, help="sequences per step")
    parser.add_argument("--epochs", type=positive)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--optimizer", choices=("adam", "adamw", "sgd", "rmsprop"))
    parser.add_argument("--schedule", default="cosine", choices=("cosine", "constant"))
    parser.add_argument("--warm-up", type=int, default=50, metavar="STEPS")
    parser.add_argument("--clip", type=float, default=1.0, help="largest norm of the gradients")
    parser.add_argument("--validations", type=positive, default=10, help="how often to validate in the whole run")
    parser.add_argument("--patience", type=int, default=0, help="validations without gain before it stops; 0 never")
    parser.add_argument(
        "--recompute", action="store_true", help="compute activations twice: far less memory for long sequences"
    )
    parser.add_argument(
        "--graph", action="store_true",
        help="on a GPU: record a training step once and replay it as a CUDA graph, where steps wait for the host",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="only say how much memory it would take")
    parser.add_argument("--keep", type=positive, help="how many of the last checkpoints to keep (3)")
    parser.add_argument("--save-minutes", type=float, help="save at least so often, besides at validations (10)")
    parser.add_argument(
        "--on-nonfinite", choices=("stop", "skip"), help="what to do with a step whose loss or gradient is NaN (stop)"
    )
    return parser


def add_command(commands: Parsers) -> None:
    """Add ``train`` with its kinds."""
    parser = commands.add_parser(
        "train",
        help="train a model: text, series or classify; text if nothing is said",
        description="Train a model. Without a kind it is text, on the Shakespeare that ships with the package.",
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="kind", parser_class=type(parser))
    text = add_parser_for(kinds, "text", "a character language model, on a UTF-8 file or a folder of them")
    text.add_argument("--embedding-size", type=positive, default=64)
    text.add_argument("--length", type=positive, default=64, help="steps of a chunk; the state is carried on")
    text.add_argument("--validation", type=float, default=0.1, help="share of the text held out, at its end")
    text.add_argument("--shuffle-lines", action="store_true", help="take the lines in a new order in every epoch")
    text.add_argument("--sample-length", type=int, default=160, help="characters of sample at each validation")
    text.set_defaults(
        hidden_size=256, dropout=0.1, batch=64, epochs=10, learning_rate=4e-3, optimizer="adam", validations=8
    )
    series = add_parser_for(kinds, "series", "a forecaster, on numeric columns of a CSV file")
    series.add_argument("--columns", nargs="+", help="column names; all numeric ones if not given")
    series.add_argument("--horizon", type=positive, default=12, help="steps ahead")
    series.add_argument("--length", type=positive, default=128, help="known steps of a window")
    series.add_argument("--memory", type=positive, default=52, help="steps of the slow mean that inputs refer to")
    series.add_argument("--train", type=float, default=0.7, help="share of the series to train on, at its start")
    series.add_argument("--validation", type=float, default=0.1, help="share after that; the rest is for evaluate")
    series.add_argument("--loss", default="mse", choices=("mse", "mae", "huber"))
    series.set_defaults(
        hidden_size=64, dropout=0.0, batch=32, epochs=20, learning_rate=3e-3, optimizer="adamw", validations=10
    )
    classify = add_parser_for(kinds, "classify", "a classifier of sequences, on a CSV file with a row per step")
    classify.add_argument("--columns", nargs="+", help="feature columns; all other numeric ones if not given")
    classify.add_argument("--label", default="label", help="column of the class")
    classify.add_argument("--series", default="series", help="column that tells the sequences apart")
    classify.add_argument("--validation", type=float, default=0.2, help="share of the training sequences held out")
    classify.add_argument("--one-direction", action="store_true", help="read forward only")
    classify.set_defaults(
        hidden_size=64, dropout=0.5, batch=32, epochs=60, learning_rate=3e-3, optimizer="adamw", validations=15
    )


def run(options: argparse.Namespace) -> int:
    """Train, or go on training."""
    if options.resume is not None:
        return resume(options)
    Options.parse(options.lstm)  # refused before anything is read
    backend = announce(options)
    settings = Settings(
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        optimizer=options.optimizer,
        options={"weight_decay": 0.1 if options.kind == "classify" else 0.01} if options.optimizer == "adamw" else {},
        schedule=options.schedule,
        warm_up=options.warm_up,
        clip=options.clip,
        validations=options.validations,
        patience=options.patience,
        **{name: value for name in KEEPING if (value := getattr(options, name)) is not None},
    )
    check_seed(options.seed, "--seed")
    plain = {k: v for k, v in vars(options).items() if k not in NOT_OF_THE_TASK}
    plain["data"] = full_name(options.data or KINDS[options.kind])
    folder = new_folder(options)
    recipe = PREPARE[options.kind](plain, backend, None)
    if not fits(options, plain, recipe, backend):
        return 0
    known = {"options": plain, **recipe.extra, "fingerprint": fingerprint(data_path(plain["data"]))}
    return finish(Run(recipe.make(), settings, folder, known, tell, options.graph), options.kind)


def full_name(data: str) -> str:
    """What a description keeps of where data are: a shipped set's name, or the whole path."""
    return data if data in SHIPPED else str(Path(data).resolve())


def fits(options: argparse.Namespace, plain: dict[str, Any], recipe: Recipe, backend: Backend) -> bool:
    """Whether to train: with --dry-run, only what memory it would take is told.

    Raises
    ------
    InputError
        It would take more than there is.
    """
    dtype, here = plain["dtype"], backend.kernels == "cuda" and plain["tier"] != "reference"
    job = Job(
        recipe.kind, recipe.config, dtype, plain["optimizer"], recipe.steps, plain["batch"], plain["recompute"],
        fused=len(runnable_tiers(backend)) > 1, widened=dtype in ("float16", "bfloat16") and not here,
        least_steps=backend.least_steps, beside=backend.kernels == "cuda",
    )  # fmt: skip
    if options.dry_run:
        print("\n".join(predict(job).lines()))
    check_fits(job, backend.available())
    return not options.dry_run


def given(options: argparse.Namespace) -> dict[str, Any]:
    """The options that the user gave, whatever their defaults: parsed again over values that only those replace."""
    nothing = object()
    blank = argparse.Namespace(**dict.fromkeys(vars(options), nothing))
    parsed = vars(options.parser.parse_args(options.arguments[2:], blank))
    return {name: value for name, value in parsed.items() if value not in (nothing, None)}


def tell(line: str) -> None:
    """Print a line about what was found amiss and passed over."""
    print(f"note: {line}", flush=True)


def resume(options: argparse.Namespace) -> int:
    """Go on with an unfinished run, from its own description."""
    if options.resume.is_dir() or not options.resume.exists():
        folder = options.resume
        path, arrays, description, passed_over = newest(folder)
        for line in passed_over:
            tell(line)
    else:
        folder, path = options.resume.parent, options.resume
        arrays, description = checkpoint.load(path)
    if "progress" not in description:
        raise InputError(f"checkpoint {path} is a model for use; expected its run's folder or a resume-....safetensors")
    kind = description.get("kind")
    if kind not in KINDS or (kind != options.kind and not options.any_kind):
        raise InputError(f"checkpoint {path} is of kind {kind!r}; expected {options.kind!r}")
    try:
        changes = given(options)
        plain = {**description["options"]}
        plain.setdefault("recompute", False)
        check_changes(changes, {**plain, "out": folder})
        plain |= {name: value for name, value in changes.items() if name in plain}
        settings = {name: changes.get(name, value) for name, value in description["settings"].items()}
        backend = announce(options)
        checkpoint.check_amounts(arrays, description, path)
        known = description.get("fingerprint")
        plain["data"] = full_name(changes["data"]) if "data" in changes else trained_on(path, description)
        if known is None:
            tell(f"{path} is of an older gpu_lstm and has no fingerprint of its data; only their amount is compared")
        elif "data" in changes:
            check_unchanged(data_path(plain["data"]), known)
        recipe = PREPARE[kind](plain, backend, description)
        if not fits(options, plain, recipe, backend):
            return 0
        about = {"options": plain, **recipe.extra, "fingerprint": known or fingerprint(data_path(plain["data"]))}
        run = Run(recipe.make(), Settings.read(settings, path), folder, about, tell, options.graph)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"checkpoint {path} has a damaged description: {error}") from None
    run.resume(arrays, description)
    if run.step == run.steps:
        print(f"{folder} is finished: {run.steps} steps done")
        return 0
    print(f"going on with {folder} after step {run.step} of {run.steps}")
    return finish(run, kind)


def check_changes(changes: dict[str, Any], run: dict[str, Any]) -> None:
    """Refuse options beside --resume that would make another run of it.

    Raises
    ------
    InputError
        One is neither `CHANGEABLE` nor what the run has.
    """
    for name, value in changes.items():
        if name in NOT_OF_THE_TASK and name != "out":
            continue
        if name not in run or (name not in CHANGEABLE and run[name] != value):
            has = f"has {run[name]}, which stays" if name in run else "has no such thing"
            raise InputError(f"--{name.replace('_', '-')} is {value}; the run to go on with {has}")


@dataclass(frozen=True)
class Recipe:
    """A task that is not made yet: what it needs is known before it takes any memory.

    Attributes
    ----------
    kind : str
    config : dict
        Of the model.
    steps : int
        T of a training step.
    make : callable
        Makes the task.
    extra : dict
        What the run's description gets.
    """

    kind: str
    config: dict[str, Any]
    steps: int
    make: Callable[[], Task]
    extra: dict[str, Any]


def prepare_text(plain: dict[str, Any], backend: Backend, known: dict[str, Any] | None) -> Recipe:
    """A language model, from its options; `known` is the description of a run to go on with."""
    path = data_path(plain["data"])
    if known is None:
        tokens, vocabulary = read_text(path)
        if len(vocabulary) < 2:
            raise InputError(f"text {path} has no characters")
        if plain.get("shuffle_lines") and "\n" not in vocabulary.characters:
            raise InputError(f"text {path} has no lines to shuffle")
    else:
        vocabulary = Vocabulary(known["vocabulary"])
        tokens = encode_file(path, vocabulary)
        same_data(path, len(tokens), known["amount"], "characters")
    names = ("embedding_size", "hidden_size", "num_layers", "dropout")
    config = {"vocabulary_size": len(vocabulary), **{n: plain[n] for n in names}, **family(plain)}

    def make() -> Task:
        model = LanguageModel(**config, **common(plain, backend))
        newline = int(vocabulary.encode("\n")[0]) if plain.get("shuffle_lines") else None
        return TextTask(model, tokens, plain["batch"], plain["length"], plain["validation"], plain["seed"], newline)

    return Recipe("text", config, plain["length"], make, {"vocabulary": vocabulary.characters, "amount": len(tokens)})


def prepare_series(plain: dict[str, Any], backend: Backend, known: dict[str, Any] | None) -> Recipe:
    """A forecaster, from its options."""
    path = data_path(plain["data"])
    data = read_series(path, known["columns"] if known else plain["columns"])
    tell_columns(data)
    if known is not None:
        same_data(path, len(data.values), known["amount"], "steps")
    parts = (plain["train"], plain["validation"])
    train = np.asarray(data.values[: split_series(len(data.values), parts)[0]])
    if len(train) < 2:
        raise InputError(f"series {path} has {len(data.values)} steps; expected more to train on")
    names = ("horizon", "memory", "hidden_size", "num_layers", "dropout")
    config = {
        "mean": train.mean(axis=0).tolist(),
        "spread": spread(train),
        "step_spread": spread(np.diff(train, axis=0)),
        **{n: plain[n] for n in names},
        **family(plain),
    }

    def make() -> Task:
        model = Forecaster(**config, **common(plain, backend))
        return SeriesTask(model, data.values, plain["batch"], plain["length"], parts, plain["loss"], plain["seed"])

    return Recipe("series", config, plain["length"], make, {"columns": data.names, "amount": len(data.values)})


def prepare_classify(plain: dict[str, Any], backend: Backend, known: dict[str, Any] | None) -> Recipe:
    """A classifier, from its options."""
    path = data_path(plain["data"])
    data = read_sequences(path, plain["label"], plain["series"], known["columns"] if known else plain["columns"])
    tell_columns(data)
    if known is not None:
        same_data(path, len(data), known["amount"], "sequences")
    picked, _ = split_sequences(data, plain["validation"], plain["seed"])
    rows = data.rows(picked)
    config = {
        "mean": rows.mean(axis=0).tolist(),
        "spread": spread(rows),
        "num_classes": len(data.classes),
        "bidirectional": not plain["one_direction"],
        **{n: plain[n] for n in ("hidden_size", "num_layers", "dropout")},
        **family(plain),
    }

    def make() -> Task:
        model = Classifier(**config, **common(plain, backend))
        return ClassifyTask(model, data, plain["batch"], plain["validation"], plain["seed"])

    extra = {"columns": data.names, "classes": data.classes, "amount": len(data)}
    return Recipe("classify", config, int(data.lengths.max()), make, extra)


PREPARE: dict[str, Callable[..., Recipe]] = {
    "text": prepare_text,
    "series": prepare_series,
    "classify": prepare_classify,
}


def family(plain: dict[str, Any]) -> dict[str, Any]:
    """The part of a model's description that says which member of the LSTM family it is."""
    return {"lstm": Options.parse(plain["lstm"])} if plain.get("lstm") else {}


def common(plain: dict[str, Any], backend: Backend) -> dict[str, Any]:
    """Arguments that all models take."""
    return {"backend": backend, **{name: plain[name] for name in ("dtype", "tier", "recompute", "seed")}}


def same_data(path: Path, amount: int, expected: int, what: str) -> None:
    """Refuse to go on with other data than the run began with."""
    if amount != expected:
        raise InputError(f"{path} has {amount} {what}; the run to go on with began with {expected}")


def new_folder(options: argparse.Namespace) -> Path:
    """Folder of a new run; an earlier run is never overwritten."""
    if options.out is not None:
        out: Path = options.out
        if out.exists() and not out.is_dir():
            raise InputError(f"--out {out} is a file; expected a folder")
        check_unused(out)
        return out
    return next_free(RUNS / str(options.kind))


def finish(run: Run, kind: str) -> int:
    """Run the loop under a progress bar, then draw the curve and say what to do next."""
    model = run.task.model
    plan = getattr(model, "lstm").plan  # noqa: B009 (every model has one; the base class needn't know)
    print(f"model: {model.count():,} parameters, {model.dtype}, tier {plan.tier}; run: {run.folder}", flush=True)
    if plan.widened:
        tell(f"here, numbers of {model.dtype} are computed with in float32 and then rounded: a rehearsal, no faster")
    with stop_on_signal() as stop:
        outcome = with_progress(run, stop, sample_writer(run, model) if kind == "text" else None)
    picture = run.folder / PICTURE
    log = read_log(run.folder / LOG)
    if kind == "series":
        log = [{k: v for k, v in line.items() if k != "score"} for line in log]  # another unit than the loss
    from gpu_lstm.cli import draw

    if log:
        draw.loss_curve(log, picture, run.task.unit, run.folder.name)
    where = quoted(run.folder)
    if outcome.end == "stopped":
        print(
            f"stopped after step {outcome.step} of {outcome.steps}, saved; go on with: gpu-lstm train --resume {where}"
        )
        return 130
    why = "no better score for long" if outcome.end == "early" else "all steps done"
    print(f"{why}; best score on held-out data: {outcome.best:.4g}")
    if outcome.skipped:
        print(f"{outcome.skipped} steps were skipped, because loss or gradients were not finite; {LOG} names them")
    print(f"model: {run.folder / BEST}   loss curve: {picture}")
    print(next_command(run, where))
    return 0


def next_command(run: Run, where: str) -> str:
    """What to do with the model that a run made, as one would type it in a shell."""
    task = run.task
    if isinstance(task, TextTask):
        prompt = first_words(Vocabulary(run.description["vocabulary"]).decode(np.asarray(task.train.tokens[:1000])))
        return f"next: gpu-lstm sample {where}" + (f" --prompt={shlex.quote(prompt)}" if prompt else "")
    if isinstance(task, SeriesTask):
        measurable = len(task.values) - task.validation_end >= task.model.config["horizon"]
        return f"next: gpu-lstm forecast {where}" + (f"   or: gpu-lstm evaluate {where}" if measurable else "")
    assert isinstance(task, ClassifyTask)
    if task.data.test.any():
        return f"next: gpu-lstm evaluate {where}"
    return f"no sequences are called test; gpu-lstm evaluate {where} --data FILE measures the model on others"


def first_words(text: str) -> str:
    """The first line of a text, or the beginning of it, that a terminal can show and take; empty if there is none."""
    encoding = sys.stdout.encoding or "utf-8"
    shown = (c if c.isprintable() and c != UNKNOWN and c.encode(encoding, "ignore") else "\n" for c in text)
    return next((line.strip()[:20] for line in "".join(shown).split("\n") if line.strip()), "")


def tell_columns(data: Series | Sequences) -> None:
    """Print which columns of a table were taken, and which were left and why."""

    def listed(names: list[str], most: int = 30) -> str:
        return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")

    left = [f"{name} ({why})" for name, why in data.left.items()]
    print(f"columns: {listed(data.names)}" + (f"; left out: {listed(left)}" if left else ""), flush=True)


def sample_writer(run: Run, model: Model) -> Callable[[], str]:
    """A function that writes a sample with the model as it is now."""
    assert isinstance(model, LanguageModel)
    vocabulary = Vocabulary(run.description["vocabulary"])
    length = run.description["options"]["sample_length"]
    prompt = vocabulary.encode(first_prompt(vocabulary))

    def write() -> str:
        drawn = model.sample(prompt, length, temperature=0.8, seed=run.step, never=(0,))
        return vocabulary.decode(np.fromiter(drawn, dtype=np.int64))

    return write


def with_progress(run: Run, stop: Callable[[], bool], sample: Callable[[], str] | None) -> Outcome:
    """Train with a progress bar on a terminal, with a line per validation anywhere."""
    from tqdm import tqdm

    task = run.task
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
    shown: float | None = None
    begun, first = time.perf_counter(), run.step

    def report(event: Event) -> None:
        nonlocal shown
        loss = (shown or 0.0) if event.skipped else event.loss
        shown = loss if shown is None else 0.95 * shown + 0.05 * loss
        bar.update(task.items)
        bar.set_description_str(f"{shown:.3f} {task.unit}", refresh=False)
        if event.skipped:
            tqdm.write(f"step {event.step} skipped: {event.skipped}")
        if event.score is None:
            return
        per_step = (time.perf_counter() - begun) / (event.step - first)
        text = f"step {event.step}/{event.steps}: {shown:.3f} {task.unit} in training; {event.text}"
        text += " (best so far)" if event.best else ""
        left = tqdm.format_interval((event.steps - event.step) * per_step)
        text += f"; {task.items / per_step:,.0f} {task.item}/s, {left} left"
        if sample is not None and run.description["options"]["sample_length"] > 0:
            text += "".join(f"\n    | {line}" for line in sample().strip("\n").split("\n"))
        tqdm.write(text)
        sys.stdout.flush()

    with bar:
        return run.go(report, stop)


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a request to stop after the step; a second one leaves at once."""
    asked = False
    numbers = (signal.SIGINT, signal.SIGTERM)

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        asked = True
        for each in numbers:  # the system's own handling: nothing can hold it up, and files survive it
            signal.signal(each, signal.SIG_DFL)
        print("\nstopping after this step; once more to leave at once", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
