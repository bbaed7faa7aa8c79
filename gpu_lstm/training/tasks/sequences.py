"""Sequences of different lengths: a class of each, numbers about it, or a class of every step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from gpu_lstm.backend import Array
from gpu_lstm.data.batches import ByLength, blocks, ragged
from gpu_lstm.data.sequences import UNKNOWN, Sequences
from gpu_lstm.data.splits import drawn, strata
from gpu_lstm.errors import InputError
from gpu_lstm.layers import Params
from gpu_lstm.layers.base import check_seed
from gpu_lstm.layers.checks import check_share
from gpu_lstm.models import Classifier, Regressor, Tagger
from gpu_lstm.training.fitting import share_for
from gpu_lstm.training.tasks.base import Task

Parts = float | tuple[np.ndarray, np.ndarray]
"""What to validate on: a share, or the numbers of the sequences to train on and of those to validate on."""


def class_scores(
    model: Classifier, data: Sequences, picked: np.ndarray, block: int = 256, class_weights: np.ndarray | None = None
) -> tuple[float, float]:
    """Mean loss in nats and accuracy on some sequences, which count as much as their class does."""
    return means(class_sums(model, data, picked, block, class_weights))


def step_scores(
    model: Tagger, data: Sequences, picked: np.ndarray, block: int = 256, class_weights: np.ndarray | None = None
) -> tuple[float, float]:
    """The same of a tagger, over all steps of some sequences."""
    return means(step_sums(model, data, picked, block, class_weights))


Sums = tuple[float, float, int, int]
"""Of the losses and of what they count, how many are right, and of how many."""


def means(*sums: Sums) -> tuple[float, float]:
    """Mean loss and share of what is right, of the sums of one or more parts."""
    loss, weight, right, count = (sum(each) for each in zip(*sums, strict=True))
    return loss / weight, right / count


def class_sums(
    model: Classifier, data: Sequences, picked: np.ndarray, block: int, class_weights: np.ndarray | None
) -> Sums:
    """Sums over some sequences, of which there may be none."""
    weights = np.ones(model.config["num_classes"]) if class_weights is None else class_weights
    loss, right = 0.0, 0
    for part in blocks(data.lengths[picked], block):
        x, lengths, labels = data.batch(picked[part])
        lost, found = lost_and_right(model.logits(x, lengths), labels, weights)
        loss, right = loss + lost, right + found
    return loss, float(np.sum(weights[data.labels[picked]])), right, len(picked)


def step_sums(model: Tagger, data: Sequences, picked: np.ndarray, block: int, class_weights: np.ndarray | None) -> Sums:
    """Sums over all steps of some sequences that have a label."""
    weights = np.ones(model.config["num_classes"]) if class_weights is None else class_weights
    loss, right, total, count = 0.0, 0, 0.0, 0
    for part in blocks(data.lengths[picked], block):
        x, lengths, labels = data.batch(picked[part])
        inside = labels != UNKNOWN  # which it is beyond the end, too
        own = labels[inside]
        lost, found = lost_and_right(model.logits(x, lengths)[inside], own, weights)
        loss, right = loss + lost, right + found
        total, count = total + float(np.sum(weights[own])), count + len(own)
    return loss, total, right, count


def lost_and_right(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[float, int]:
    """Sum of the losses of rows (N, K) in nats, each times the weight of its class, and how many rows are right."""
    logits = logits.astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    lost = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]
    return float(np.sum(weights[labels] * lost)), int(np.sum(logits.argmax(axis=1) == labels))


class SequencesTask(Task):
    """What the tasks of whole sequences share; every epoch in a new order.

    Where lengths differ much, a batch is of similar ones, and the longest come in smaller batches, see
    `gpu_lstm.data.batches`.

    Parameters
    ----------
    model : Classifier, Regressor or Tagger
    data : Sequences
    batch : int
    validation : float or (train, held_out)
        Share, see `split_sequences`, drawn at random from those that the file doesn't call test; or the numbers of the
        sequences to train and to validate on.
    seed : int
    weights : one number for each of `train`, optional
        How often each is taken in an epoch, as far as whole numbers go, in proportion; then lengths don't matter.
    by_length : bool
        False makes batches at random whatever the lengths.
    """

    item = "sequence"

    def __init__(
        self,
        model: Classifier | Regressor | Tagger,
        data: Sequences,
        batch: int,
        validation: Parts,
        seed: int,
        weights: np.ndarray | None = None,
        by_length: bool = True,
    ):
        self.data, self.weights = data, weights
        parts = validation if isinstance(validation, tuple) else split_sequences(data, validation, seed)
        self.train, self.held_out = parts
        size = min(batch, len(self.train))
        self.plan = plan_of(data.lengths[self.train], size) if by_length and weights is None else None
        self._order: dict[int, list[np.ndarray]] = {}  # the batches of an epoch
        steps = len(self.train) // size if self.plan is None else len(self.plan.parts)
        super().__init__(model, seed, steps, size, size)

    def _batch(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        epoch, place = divmod(number, self.steps_per_epoch)
        if epoch not in self._order:
            self._order.clear()
            self._order[epoch] = self._batches(np.random.default_rng((*self.seed, 1, epoch)))
        picked = self._order[epoch][place]
        picked = picked[self.rows(len(picked))]
        return self.data.batch(picked) if len(picked) else None

    def _batches(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Which sequences each batch of an epoch has."""
        if self.plan is not None:
            return [self.train[places] for places in self.plan.epoch(rng)]
        order = rng.permutation(self.train if self.weights is None else self.train[resampled(self.weights, rng)])
        return [order[place * self.batch : (place + 1) * self.batch] for place in range(self.steps_per_epoch)]

    def counted(self) -> int:  # noqa: D102
        return 0 if self._current is None else len(self._current[1])


class ClassifyTask(SequencesTask):
    """Classification, see `SequencesTask` for what it takes; and how much each class counts, (classes,)."""

    model: Classifier
    unit, of = "nats", "on held-out sequences"
    _sums: ClassVar[Callable[..., Sums]] = staticmethod(class_sums)

    def __init__(self, *arguments: Any, class_weights: np.ndarray | None = None, **named: Any):
        super().__init__(*arguments, **named)
        self.class_weights = class_weights
        self.best = (math.inf, 0.0)  # the least loss, and the accuracy with it, of the validations until now

    def compute(self) -> tuple[Array, Params]:  # noqa: D102
        x, lengths, labels = self._current
        return self.model.loss(x, lengths, labels, self._step_seed, self.class_weights)

    def measure(self) -> Sums:  # noqa: D102
        own = self.held_out[self.rows(len(self.held_out))]
        return self._sums(self.model, self.data, own, self.batch, self.class_weights)

    def judge(self, measured: Sequence[Sums]) -> tuple[float, str]:  # noqa: D102
        loss, accuracy = means(*measured)
        self.best = min(self.best, (loss, accuracy))
        return loss, f"{loss:.4f} nats, accuracy {accuracy:.1%} {self.of}"

    def remark(self, best: float) -> str:
        """That the model is no better than the largest class alone, where it isn't.

        It is the best one, or where nothing is held out the last, which is judged by what it was trained on.
        """
        picked, of, right = self.held_out, self.of, self.best[1]
        if not len(picked):
            picked, of = self.train, self.of.replace("held-out", "its training")
            right = means(self._sums(self.model, self.data, picked, self.batch, None))[1]
        elif not math.isfinite(self.best[0]):
            return ""
        labels = self.data.labels_of(picked)
        largest = np.bincount(labels).max() / len(labels)
        if right > largest:
            return ""
        return (
            f"the model is no better than the largest class alone: {right:.1%} right {of}, "
            f"where {largest:.1%} are of that class"
        )


class LabelTask(ClassifyTask):
    """A class of every step; the same, but that scores are of steps."""

    model: Tagger  # type: ignore[assignment]
    of = "of the steps of held-out sequences"
    _sums = staticmethod(step_sums)

    def counted(self) -> int:  # noqa: D102
        return 0 if self._current is None else int(np.sum(self._current[2] != UNKNOWN))


class RegressTask(SequencesTask):
    """Numbers (K of them, the data's `labels`, (N, K)) about sequences.

    See `SequencesTask` for what it takes; and

    Parameters
    ----------
    loss : {"mse", "mae", "huber"}
    """

    model: Regressor

    unit, score_unit = "scaled loss", "RMSE of the spread"

    def __init__(self, *arguments: Any, loss: str = "mse", **named: Any):
        super().__init__(*arguments, **named)
        self.loss = loss

    def compute(self) -> tuple[Array, Params]:  # noqa: D102
        x, lengths, targets = self._current
        return self.model.loss(x, lengths, targets, self.loss, self._step_seed)

    def measure(self) -> np.ndarray:  # noqa: D102
        own = self.held_out[self.rows(len(self.held_out))]
        if not len(own):
            return np.empty((0, len(self.model.target_spread)))
        error = in_blocks(self.model.predict, self.data, own, self.batch)
        error -= self.data.labels[own]
        return error

    def judge(self, measured: Sequence[np.ndarray]) -> tuple[float, str]:  # noqa: D102
        error = np.concatenate(measured)
        score = float(np.sqrt(np.mean((error / self.model.target_spread) ** 2)))
        return score, f"RMSE {score:.4g} of the targets' spread on held-out sequences"


def plan_of(lengths: np.ndarray, batch: int) -> ByLength | None:
    """Batches by length where lengths differ much, else None."""
    return ByLength(lengths, batch) if ragged(lengths) else None


def split_sequences(
    data: Sequences, validation: float | None, seed: int, alike: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the sequences to train on and to validate on: a random draw from those not called test.

    With `alike`, of each class the same share as far as whole numbers go, and never the last one of a class. A share of
    0 holds nothing out; None is `share_for` so many labels.

    Raises
    ------
    InputError
        The share is not in [0, 1), or there are fewer than two sequences.
    """
    rng, usable = np.random.default_rng((*check_seed(seed), 0)), np.flatnonzero(~data.test)
    share = share_for(len(data.labels_of(usable))) if validation is None else validation
    if share == 0 and len(usable):
        return usable, usable[:0]
    share = check_share("validation", share)
    if len(usable) < 2:
        raise InputError(f"sequences has {len(usable)} to train and validate on; expected at least 2")
    if alike:
        picked = drawn(share, strata(data)[usable], rng)
        if not picked.any():
            raise InputError("sequences has one of each class to train and validate on; expected two of one at least")
        return usable[~picked], usable[picked]
    usable = rng.permutation(usable)
    held = max(1, int(len(usable) * share))
    return usable[held:], usable[:held]


def resampled(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return as many places as there are weights, each as often as its share says, rounded down or up.

    Systematic sampling, in a random order, for with weights that recur at a fixed distance it would hit all or none.
    """
    counted = rng.permutation(np.flatnonzero(weights))
    shares = np.cumsum(weights[counted]) / np.sum(weights)
    marks = (np.arange(len(weights)) + rng.random()) / len(weights)
    drawn = np.minimum(np.searchsorted(shares, marks, side="right"), len(counted) - 1)
    return np.asarray(counted[drawn])


def in_blocks(
    say: Callable[[np.ndarray, np.ndarray], np.ndarray], data: Sequences, picked: np.ndarray, block: int = 256
) -> np.ndarray:
    """What `say` makes of x (T, B, D) and lengths (B,), for some sequences, so many at a time."""
    parts = blocks(data.lengths[picked], block)
    said = np.concatenate([say(*data.batch(picked[part])[:2]) for part in parts])
    return said[np.argsort(np.concatenate(parts))]


def steps_in_blocks(
    say: Callable[[np.ndarray, np.ndarray], np.ndarray], data: Sequences, picked: np.ndarray, block: int = 256
) -> np.ndarray:
    """The same where `say` gives (T, B, ...): one row for each step, (steps, ...), a sequence after the other."""
    found: dict[int, np.ndarray] = {}
    for part in blocks(data.lengths[picked], block):
        x, lengths, _ = data.batch(picked[part])
        said = say(x, lengths)
        found |= {int(n): said[: lengths[b], b] for b, n in enumerate(part)}
    return np.concatenate([found[n] for n in range(len(picked))])
