"""Models of sequences: how often they are right, how far off, beside simple ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpu_lstm.cli.opening import Opened
from gpu_lstm.cli.options import data_path
from gpu_lstm.cli.sequences import TARGETS, parted
from gpu_lstm.cli.tables import reading
from gpu_lstm.data.scores import Confusion, errors, summaries
from gpu_lstm.data.sequences import UNKNOWN, Sequences, read_sequences
from gpu_lstm.data.splits import truncated
from gpu_lstm.errors import InputError
from gpu_lstm.models import Classifier, Model, Regressor, Tagger
from gpu_lstm.training.tasks import class_scores, in_blocks, step_scores, steps_in_blocks

LISTED = 20
"""Classes of which the confusion is printed whole."""


class Measured(NamedTuple):
    """What is measured on, and what simple models are fitted on."""

    data: Sequences
    picked: np.ndarray  # numbers of the sequences to measure on: all others, or those called test
    known: Sequences | None  # those called test aren't fitted on; None where they can't be read any more


def measured(model: Model, description: dict[str, Any], path: Path, other: Opened | None) -> Measured:
    """Read the sequences. Raises InputError where there are none to measure on."""
    data, plain = read(model, description, path), description["options"]
    if other is None:
        data = parted(data, plain)
        if not data.test.any():
            raise InputError(f"{path} has no test sequences (column 'split'); give other data with --data")
        return Measured(data, np.flatnonzero(data.test), data)
    known = None
    try:
        known = parted(read(model, other.description, data_path(other.data(None))), other.description["options"])
    except InputError as error:
        print(f"what the model was trained on can't be read: {error}")
    data = truncated(data, plain["truncate"]) if plain.get("truncate") else data
    return Measured(data, np.arange(len(data)), known)


def read(model: Model, description: dict[str, Any], path: Path) -> Sequences:
    """All sequences of a table, with what the model tells of them."""
    plain, classes = description["options"], description.get("classes") or None
    return read_sequences(
        path, plain["label"], plain["series"], description["columns"], target=TARGETS[model.kind],
        reading=reading(plain), classes=classes,
    )  # fmt: skip


def measure_classes(model: Model, description: dict[str, Any], path: Path, other: Opened | None) -> None:
    """Accuracy beside that of the largest class and of logistic regression; what is taken for what."""
    assert isinstance(model, Classifier)
    data, picked, known = measured(model, description, path, other)
    loss, _ = class_scores(model, data, picked)
    said = in_blocks(model.logits, data, picked).argmax(axis=1)
    found = Confusion.of(data.labels[picked], said, len(description["classes"]))
    right = int(np.trace(found.counts))
    print(f"accuracy {found.accuracy:.1%}: {right} of {len(picked)} sequences right; loss {loss:.4f} nats")
    tell_majority(found, description["classes"])
    if isinstance(baseline := fitted(data, picked, known), str):
        print(f"  logistic regression on summaries: not fitted, for {baseline}")
    else:
        share = float(np.mean(baseline == data.labels[picked]))
        print(f"  logistic regression on mean, deviation, extremes, ends of each feature: {share:.1%}")
        if share > found.accuracy:
            print("note: logistic regression is right more often than the model")
    tell_confusion(found, description["classes"])


def measure_steps(model: Model, description: dict[str, Any], path: Path, other: Opened | None) -> None:
    """The same over all steps that have a label."""
    assert isinstance(model, Tagger)
    data, picked, _ = measured(model, description, path, other)
    labels = np.concatenate([data.labels[data.starts[n] : data.starts[n + 1]] for n in picked])
    known = labels != UNKNOWN
    if not known.any():
        raise InputError(f"{path} has no labelled step to measure on")
    loss, _ = step_scores(model, data, picked)
    said = steps_in_blocks(model.logits, data, picked).argmax(axis=1)
    found = Confusion.of(labels[known], said[known], len(description["classes"]))
    right, total = int(np.trace(found.counts)), int(found.counts.sum())
    print(
        f"accuracy {found.accuracy:.1%}: {right:,} of {total:,} steps right, of {len(picked)} sequences; "
        f"loss {loss:.4f} nats"
    )
    tell_majority(found, description["classes"])
    tell_confusion(found, description["classes"])


def measure_numbers(model: Model, description: dict[str, Any], path: Path, other: Opened | None) -> None:
    """Errors of each target in its own unit, beside those of the training targets' mean and of ridge regression."""
    assert isinstance(model, Regressor)
    data, picked, known = measured(model, description, path, other)
    targets = data.labels[picked]
    answers = {"LSTM": in_blocks(model.predict, data, picked)}
    answers["mean of the training targets"] = np.broadcast_to(model.target_mean, targets.shape)
    baseline = fitted(data, picked, known)
    if not isinstance(baseline, str):
        answers["ridge regression on summaries"] = baseline
    print(f"{len(picked)} sequences")
    for k, name in enumerate(description.get("targets") or [f"target {k + 1}" for k in range(targets.shape[1])]):
        print(f"{name}: {'':>{max(0, 30 - len(name))}}  {'RMSE':>10} {'MAE':>10} {'R^2':>8}")
        for who, said in answers.items():
            rmse, mae, explained = (values[k] for values in errors(said, targets).values())
            print(f"  {who:<30}  {rmse:>10.4g} {mae:>10.4g} {explained:>8.3f}")
    own, *others = (errors(said, targets)["RMSE"] for said in answers.values())
    for simple, rmse in zip(("the mean", "ridge regression"), others, strict=False):
        if np.any(own >= rmse):
            print(f"note: for some target the model is no better than {simple}")
    if isinstance(baseline, str):
        print(f"ridge regression on summaries: not fitted, for {baseline}")


def tell_majority(found: Confusion, classes: list[str]) -> None:
    """Print what the largest class alone gives, and what is amiss of a model that is no better."""
    print(f"balanced accuracy (mean recall of the classes): {found.balanced:.1%}")
    print(f"  always {classes[found.largest]!r}, the largest class: {found.majority:.1%}")
    if found.accuracy <= found.majority:
        print("note: the model is not above the largest class alone")
    members, recall = found.members, found.recall
    missed = [name for name, count, share in zip(classes, members, recall, strict=True) if count and not share]
    if missed:
        print(f"note: none of {', '.join(map(repr, missed[:LISTED]))} was found; --class-weight balanced may help")


def tell_confusion(found: Confusion, classes: list[str]) -> None:
    """Print recall and precision of each class, and for a few classes what was taken for what."""
    width = max(len("class"), *(len(name) for name in classes))
    shown = len(classes) <= LISTED
    cells = max(4, *(len(f"{count:,}") for count in found.counts.flat), *(len(name) for name in classes if shown)) + 1
    head = "".join(f"{name:>{cells}}" for name in classes) if shown else ""
    print(f"{'class':<{width}}  {'count':>8} {'recall':>7} {'precision':>9}{'   taken for' if shown else ''}{head}")
    for k, name in enumerate(classes):
        row = "".join(f"{count:>{cells},}" for count in found.counts[k]) if shown else ""
        shares = [("-" if np.isnan(share) else f"{share:.1%}") for share in (found.recall[k], found.precision[k])]
        gap = " " * len("   taken for") if shown else ""
        print(f"{name:<{width}}  {found.members[k]:>8,} {shares[0]:>7} {shares[1]:>9}{gap}{row}")


def fitted(data: Sequences, picked: np.ndarray, known: Sequences | None) -> np.ndarray | str:
    """What a linear model of scikit-learn says of some sequences, fitted on summaries of those known, not called test.

    Logistic regression of classes; ridge regression of numbers, whose penalty is chosen by leaving one out. Else why
    there is none.
    """
    try:
        from sklearn.linear_model import LogisticRegression, RidgeCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError:
        return "that needs scikit-learn"
    if known is None:
        return "that needs what the model was trained on"
    train = np.flatnonzero(~known.test)
    linear = LogisticRegression(max_iter=5000) if known.classes else RidgeCV(np.logspace(-3, 3, 13))
    model = make_pipeline(StandardScaler(), linear)
    model.fit(summaries(known, train), known.labels[train])
    return np.asarray(model.predict(summaries(data, picked))).reshape(data.labels[picked].shape)
