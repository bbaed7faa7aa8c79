"""What `gpu-lstm train classify`, `regress` and `label` make of their options."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from gpu_lstm.backend import Backend
from gpu_lstm.cli.options import data_path
from gpu_lstm.cli.recipes import Recipe, family, same_data, where
from gpu_lstm.cli.tables import reading, tell_table
from gpu_lstm.data.sequences import Sequences, Target, read_sequences
from gpu_lstm.data.series import deviations
from gpu_lstm.data.splits import truncated, with_test_part
from gpu_lstm.errors import InputError
from gpu_lstm.layers.base import check_seed
from gpu_lstm.layers.checks import check_share
from gpu_lstm.models import Classifier, Model, Regressor, Tagger
from gpu_lstm.parallel import Communicator
from gpu_lstm.training.fitting import balanced, epochs_for, frames_for, pooling_for
from gpu_lstm.training.tasks import ClassifyTask, LabelTask, RegressTask, Task, plan_of, split_sequences

TARGETS: dict[str, Target] = {"classify": "class", "regress": "numbers", "label": "steps"}
"""What each kind of training reads of its label columns."""
RULES = 2
"""How sequences are split, framed and put into batches; a run without the number keeps to the rules before these."""


def prepare(
    plain: dict[str, Any], backend: Backend, known: dict[str, Any] | None, ranks: Communicator, kind: str
) -> Recipe:
    """A model of sequences, from its options; `known` is the description of a run to go on with."""
    path = data_path(plain["data"])
    columns = known["columns"] if known else plain["columns"]
    data = read_sequences(
        path, plain["label"], plain["series"], columns, target=TARGETS[kind], reading=reading(plain),
        classes=(known or {}).get("classes") or None,
    )  # fmt: skip
    tell_table(data)
    if known is not None:
        same_data(path, len(data), known.get("amount"), "sequences")
    rules = plain.get("rules", 1)
    data = parted(data, plain)
    train, held_out = split_sequences(data, plain["validation"], plain["seed"], alike=rules >= 2)
    if rules >= 2:
        tell_parts(data, train, held_out, plain, kind)
    if plain.get("patience") and not len(held_out):
        raise InputError(f"--patience is {plain['patience']}, and nothing is held out; expected --validation 0.2, or 0")
    if data.of_steps and not all(len(data.labels_of(part)) for part in (train, held_out) if len(part)):
        raise InputError(f"{path} has no labelled step among the sequences to train on, or to validate on")
    rows = data.rows(train)
    config: dict[str, Any] = {
        "mean": rows.mean(axis=0).tolist(),
        "spread": deviations(rows),
        **head(data, train, kind),
        "bidirectional": not plain["one_direction"],
        **{n: plain[n] for n in ("hidden_size", "num_layers", "dropout")},
        **family(plain),
    }
    if known is not None:
        config |= {name: known["model"][name] for name in ("pooling", "frames") if name in known["model"]}
    elif kind != "label":
        frames = frames_for(data.lengths[train])
        config |= {"pooling": list(pooling_for(frames)), "frames": list(frames)}
    batch = min(plain["batch"], len(train))
    plan = plan_of(data.lengths[train], batch) if rules >= 2 else None
    steps, batch = (int(data.lengths.max()), batch) if plan is None else plan.largest

    def make() -> Task:
        model, by_length = MAKERS[kind](**config, **where(plain, backend)), rules >= 2
        given = (model, data, plain["batch"], (train, held_out), plain["seed"])
        if kind == "regress":
            return RegressTask(*given, loss=plain["loss"], by_length=by_length)
        task = LabelTask if kind == "label" else ClassifyTask
        return task(*given, class_weights=weights(data, train, plain), by_length=by_length)

    extra: dict[str, Any] = {"columns": data.names, "classes": data.classes, "amount": len(data)}
    if kind == "regress":
        extra["targets"] = data.targets
    each = len(train) // min(plain["batch"], len(train)) if plan is None else len(plan.parts)
    return Recipe(
        kind, config, -(-steps // config.get("frames", (1, 1))[1]), make, extra, batch=batch, epochs=epochs_for(each),
        validates=bool(len(held_out)),
    )  # fmt: skip


MAKERS: dict[str, Callable[..., Model]] = {"classify": Classifier, "regress": Regressor, "label": Tagger}


def parted(data: Sequences, plain: dict[str, Any]) -> Sequences:
    """Sequences of which some are called test, by the file or else by us, no longer than was asked for."""
    if plain.get("truncate"):
        data = truncated(data, plain["truncate"])
    share = plain.get("test")
    if data.split or plain.get("rules", 1) < 2:
        if share is not None:
            raise InputError(f"--test is {share}; expected none, for the data have a column 'split' that says which")
        return data
    share = 0.2 if share is None else share
    if share == 0 or len(data) < 3:
        return data
    return with_test_part(data, check_share("--test", share), np.random.default_rng((*check_seed(plain["seed"]), 3)))


def head(data: Sequences, train: np.ndarray, kind: str) -> dict[str, Any]:
    """The part of a model's description that says what it tells."""
    if kind != "regress":
        return {"num_classes": len(data.classes)}
    targets = data.labels[train]
    return {"target_mean": targets.mean(axis=0).tolist(), "target_spread": deviations(targets)}


def weights(data: Sequences, train: np.ndarray, plain: dict[str, Any]) -> np.ndarray | None:
    """How much each class counts in the loss; None where all sequences, or steps, count alike."""
    if plain.get("class_weight") != "balanced":
        return None
    return balanced(data.labels_of(train), len(data.classes))


def tell_parts(data: Sequences, train: np.ndarray, held_out: np.ndarray, plain: dict[str, Any], kind: str) -> None:
    """Print which sequences are for what, who says so, and which class has too few of them."""
    share, seed = plain.get("test"), plain["seed"]
    who = "by column 'split'" if data.split else f"drawn by --seed {seed}, --test {0.2 if share is None else share}"
    test = int(data.test.sum())
    print(
        f"sequences: {len(train)} to train on, "
        + (f"{len(held_out)} held out to choose the best model by" if len(held_out) else "none held out (--validation)")
        + (f", {test} for gpu-lstm evaluate ({who})" if test else "; none for gpu-lstm evaluate")
        + f"; {data.lengths.min()} to {data.lengths.max()} steps",
        flush=True,
    )
    if kind == "regress":
        return
    counts = np.bincount(data.labels_of(train), minlength=len(data.classes))
    listed = [f"{name} {count:,}" for name, count in zip(data.classes, counts, strict=True)]
    of = " of steps" if data.of_steps else ""
    print(f"classes{of} in training: {', '.join(listed[:20])}{' and more' if len(listed) > 20 else ''}", flush=True)
    whole = np.bincount(data.labels_of(np.arange(len(data))), minlength=len(data.classes))
    for name, count in zip(data.classes, whole, strict=True):
        if count == 1 and not data.of_steps:
            print(f"note: class {name!r} has one sequence, which nothing is measured on", flush=True)
    for name, count in zip(data.classes, counts, strict=True):
        if count == 0:
            print(f"note: class {name!r} has no sequence to train on", flush=True)


RECIPES = {kind: partial(prepare, kind=kind) for kind in TARGETS}
