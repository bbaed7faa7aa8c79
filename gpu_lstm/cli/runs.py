"""What ``gpu-lstm train`` does: begin a run or go on with one, and train to its end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpu_lstm.backend import Backend
from gpu_lstm.cli import sequences
from gpu_lstm.cli.launch import launch, to_start
from gpu_lstm.cli.opening import trained_on
from gpu_lstm.cli.options import RUNS, SHIPPED, announce, data_path, next_free
from gpu_lstm.cli.origin import Origin, changes
from gpu_lstm.cli.parallel import connect
from gpu_lstm.cli.progress import finish, tell
from gpu_lstm.cli.recipes import RECIPES as RECIPES_BUT_SEQUENCES
from gpu_lstm.cli.recipes import Recipe
from gpu_lstm.data.fingerprint import Fingerprint, check_unchanged, fingerprint
from gpu_lstm.errors import InputError
from gpu_lstm.layers.base import check_seed
from gpu_lstm.layers.options import Options
from gpu_lstm.parallel import Communicator, nearest
from gpu_lstm.recurrence import Offer, make_plan, runnable_tiers
from gpu_lstm.training import Run, Settings, checkpoint
from gpu_lstm.training.fitting import WEIGHT_DECAY
from gpu_lstm.training.folder import check_unused, newest
from gpu_lstm.training.memory import Job, check_fits, predict
from gpu_lstm.training.tasks import shares_for

RECIPES: dict[str, Callable[..., Recipe]] = {**RECIPES_BUT_SEQUENCES, **sequences.RECIPES}
KINDS = {"text": "shakespeare", "series": "co2", "classify": "japanese_vowels", "regress": "", "label": ""}
"""Kinds of training, each with the shipped data that it takes if no others are given; empty where there are none."""
KEEPING = ("keep", "save_minutes", "on_nonfinite")
"""Settings that are of a command rather than of a run."""
NOT_OF_THE_TASK = (
    "run", "out", "resume", "init", "backend", "any_kind", "command", "dry_run", "graph", "parser", "arguments",
    "ranks", "restarts", "shares", "reduce", *KEEPING,
)  # fmt: skip
"""Options that a run's description doesn't keep among those of its task."""
CHANGEABLE = ("data", "tier", "recompute", "sample_length", "epochs", "patience")
"""Options of the task that --resume takes anew: the same data elsewhere, how to compute, how long to go on."""


def run(options: argparse.Namespace) -> int:
    """Train, or go on training; all ranks do, once all have understood what they are asked. Or start the ranks."""
    if to_start(options):
        return launch(options, folder_of(options))
    ranks = connect(options)
    with ranks.guard("gpu-lstm train"):
        made = ranks.each(lambda: begin(options, ranks) if options.resume is None else resume(options, ranks))
        return 0 if made is None else finish(made)


def begin(options: argparse.Namespace, ranks: Communicator) -> Run | None:
    """A new run, with weights of another where asked for; None where only its memory was asked for."""
    origin = None if options.init is None else Origin.read(options.init, options.kind)
    if origin is not None:
        origin.adopt(options, given(options))
    Options.parse(options.lstm)  # refused before anything is read
    backend = announce(options, ranks)
    decay = WEIGHT_DECAY if options.kind in sequences.TARGETS else 0.01
    settings = Settings(
        epochs=options.epochs or 1,  # or as many as the recipe says, once the data are read
        learning_rate=options.learning_rate,
        optimizer=options.optimizer,
        options={"weight_decay": decay} if options.optimizer == "adamw" else {},
        schedule=options.schedule,
        warm_up=options.warm_up,
        clip=options.clip,
        validations=options.validations,
        patience=options.patience,
        shares=options.shares or 0,
        **{name: value for name in KEEPING if (value := getattr(options, name)) is not None},
    )
    check_seed(options.seed, "--seed")
    shares = shares_for(settings.shares, ranks.size, options.batch, options.graph)
    plain = {k: v for k, v in vars(options).items() if k not in NOT_OF_THE_TASK}
    if not (options.data or KINDS[options.kind]):
        raise InputError(f"gpu-lstm train {options.kind} needs data: gpu-lstm train {options.kind} FILE")
    plain["data"] = full_name(options.data or KINDS[options.kind])
    folder = new_folder(options)
    recipe = RECIPES[options.kind](plain, backend, origin and origin.description, ranks)
    if origin is not None:
        origin.agree(recipe, plain)
    if options.epochs is None:
        plain["epochs"] = recipe.epochs
        settings = replace(settings, epochs=recipe.epochs)
    if not recipe.validates:
        settings = replace(settings, validations=0)
    if not fits(options, plain, recipe, backend, shares):
        return None
    known = {"options": plain, **recipe.extra, "fingerprint": ranks.first(lambda: marked(plain))}
    run = Run(recipe.make(), settings, folder, known, tell, options.graph, nearest(ranks, backend))
    if origin is not None:
        origin.begin(run.task.model)
        if line := changes(origin.description["options"], plain):
            print(line)
    return run


def resume(options: argparse.Namespace, ranks: Communicator) -> Run | None:
    """An unfinished run, from its own description; None where it is finished or only its memory was asked for."""
    folder = folder_of(options)
    if folder == options.resume:
        path, arrays, description, passed_over = newest(folder)
        for line in passed_over:
            tell(line)
    else:
        path = options.resume
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
        shares = description["settings"].get("shares", 1)
        check_changes(changes, {**plain, "out": folder, "shares": shares})
        plain |= {name: value for name, value in changes.items() if name in plain}
        settings = {name: changes.get(name, value) for name, value in description["settings"].items()}
        shares = shares_for(shares, ranks.size, plain["batch"], options.graph)
        backend = announce(options, ranks)
        checkpoint.check_amounts(arrays, description, path)
        known = description.get("fingerprint")
        plain["data"] = full_name(changes["data"]) if "data" in changes else trained_on(path, description)
        if known is None:
            tell(f"{path} is of an older gpu_lstm and has no fingerprint of its data; only their amount is compared")
        elif "data" in changes:
            ranks.first(lambda: check_unchanged(data_path(plain["data"]), known, plain.get("include") or ()))
        recipe = RECIPES[kind](plain, backend, description, ranks)
        recipe.config.update(description["model"])  # what it has of data is of those that it began with
        if not fits(options, plain, recipe, backend, shares):
            return None
        about = {"options": plain, **recipe.extra, "fingerprint": known or ranks.first(lambda: marked(plain))}
        near = nearest(ranks, backend)
        run = Run(recipe.make(), Settings.read(settings, path), folder, about, tell, options.graph, near)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"checkpoint {path} has a damaged description: {error}") from None
    run.resume(arrays, description)
    if run.step == run.steps:
        print(f"{folder} is finished: {run.steps} steps done; more --epochs than {run.settings.epochs} go on with it")
        return None
    print(f"going on with {folder} after step {run.step} of {run.steps}")
    tell_changes(run, description)
    return run


def tell_changes(run: Run, description: dict[str, Any]) -> None:
    """Print what is other than before in a run that goes on, and what the learning rate makes of more epochs."""
    before = description["settings"]
    if line := changes(description["options"] | before, run.description["options"] | run.description["settings"]):
        print(line)
    if run.settings.epochs != before["epochs"]:
        print(
            f"learning rate: its schedule ({run.settings.schedule}) is laid over all {run.steps} steps anew; the next "
            f"one has {run.schedule(run.step):.3g} of {run.settings.learning_rate:g}"
        )


def marked(plain: dict[str, Any]) -> Fingerprint:
    """The fingerprint of a run's data."""
    return fingerprint(data_path(plain["data"]), plain.get("include") or ())


def full_name(data: str) -> str:
    """What a description keeps of where data are: a shipped set's name, ``-``, or the whole path."""
    return data if data in SHIPPED or data == "-" else str(Path(data).resolve())


def fits(options: argparse.Namespace, plain: dict[str, Any], recipe: Recipe, backend: Backend, shares: int) -> bool:
    """Whether to train: with --dry-run, only what memory it would take is told.

    Raises InputError where training would take more memory than there is.
    """
    hidden, dtype = recipe.config["hidden_size"], plain["dtype"]
    of_recurrence = Options.of(recipe.config.get("lstm") or {}).recurrent()
    plan = make_plan(backend, plain["tier"], hidden, dtype, of_recurrence)
    batch = -(-(recipe.batch or plain["batch"]) // shares)
    most = Offer("backward", recipe.steps, batch, hidden, dtype, of_recurrence, multiply_adds=sys.maxsize)
    job = Job(
        recipe.kind, recipe.config, dtype, plain["optimizer"], recipe.steps, batch, plain["recompute"],
        fused=len(runnable_tiers(backend)) > 1, widened=plan.widened,
        least_steps=backend.least_steps, beside=plan.run.fit(backend, most).beside,
        sums=0 if shares == 1 else shares.bit_length() + 2,
    )  # fmt: skip
    if options.dry_run:
        print("\n".join(predict(job).lines()))
    check_fits(job, backend.memory())
    return not options.dry_run


def given(options: argparse.Namespace) -> dict[str, Any]:
    """The options that the user gave, whatever their defaults: parsed again over values that only those replace."""
    nothing = object()
    blank = argparse.Namespace(**dict.fromkeys(vars(options), nothing))
    parsed = vars(options.parser.parse_args(options.arguments[2:], blank))
    return {name: value for name, value in parsed.items() if value not in (nothing, None)}


def check_changes(changes: dict[str, Any], run: dict[str, Any]) -> None:
    """Refuse options beside --resume that would make another run of it.

    Raises InputError where an option is neither `CHANGEABLE` nor what the run has.
    """
    for name, value in changes.items():
        if name in NOT_OF_THE_TASK and name not in ("out", "init", "shares"):
            continue
        if name not in run or (name not in CHANGEABLE and run[name] != value):
            has = f"has {run[name]}, which stays" if name in run else "has no such thing"
            raise InputError(f"--{name.replace('_', '-')} is {value}; the run to go on with {has}")


def folder_of(options: argparse.Namespace) -> Path:
    """Folder of a run that begins or goes on."""
    if options.resume is None:
        return new_folder(options)
    given: Path = options.resume
    return given if given.is_dir() or not given.exists() else given.parent


def new_folder(options: argparse.Namespace) -> Path:
    """Folder of a new run; an earlier run is never overwritten."""
    if options.out is not None:
        out: Path = options.out
        if out.exists() and not out.is_dir():
            raise InputError(f"--out {out} is a file; expected a folder")
        check_unused(out)
        return out
    return next_free(RUNS / str(options.kind))
