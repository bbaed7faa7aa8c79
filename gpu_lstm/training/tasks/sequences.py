"""Whole sequences of different lengths: a class of each, or numbers about it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gpu_lstm.backend import Array
from gpu_lstm.data.sequences import Sequences
from gpu_lstm.errors import InputError
from gpu_lstm.layers import Params
from gpu_lstm.layers.base import check_seed
from gpu_lstm.layers.checks import check_share
from gpu_lstm.models import Classifier, Regressor
from gpu_lstm.training.tasks.base import Task

Parts = float | tuple[np.ndarray, np.ndarray]
"""What to validate on: a share, or the numbers of the sequences to train on and of those to validate on."""


class SequencesTask(Task):
    """What the tasks of whole sequences share; every epoch in a new order.

    Parameters
    ----------
    model : Classifier or Regressor
    data : Sequences
    batch : int
    validation : float or (train, held_out)
        Share in (0, 1), drawn at random from those that the file doesn't call test; or the numbers of the sequences to
        train and to validate on.
    seed : int
    weights : one number for each of `train`, optional
        How often each is taken in an epoch, as far as whole numbers go, in proportion.
    """

    item = "sequence"

    def __init__(
        self,
        model: Classifier | Regressor,
        data: Sequences,
        batch: int,
        validation: Parts,
        seed: int,
        weights: np.ndarray | None = None,
    ):
        self.data, self.weights = data, weights
        parts = validation if isinstance(validation, tuple) else split_sequences(data, validation, seed)
        self.train, self.held_out = parts
        self.batch = min(batch, len(self.train))
        super().__init__(model, seed, len(self.train) // self.batch, self.batch)

    def _batch(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        epoch, place = divmod(number, self.steps_per_epoch)
        rng = np.random.default_rng((*self.seed, 1, epoch))
        train = self.train if self.weights is None else self.train[resampled(self.weights, rng)]
        picked = rng.permutation(train)[place * self.batch : (place + 1) * self.batch]
        return self.data.batch(picked)


class ClassifyTask(SequencesTask):
    """Classification, see `SequencesTask` for what it takes."""

    model: Classifier
    unit = "nats"

    def compute(self) -> tuple[Array, Params]:  # noqa: D102
        x, lengths, labels = self._current
        return self.model.loss(x, lengths, labels, self._step_seed)

    def validate(self) -> tuple[float, str]:  # noqa: D102
        loss, accuracy = class_scores(self.model, self.data, self.held_out, self.batch)
        return loss, f"{loss:.4f} nats, accuracy {accuracy:.1%} on held-out sequences"


class RegressTask(SequencesTask):
    """Numbers (K of them, the data's `labels`, (N, K)) about sequences.

    Parameters
    ----------
    model, data, batch, validation, seed, weights
        As of `SequencesTask`.
    loss : {"mse", "mae", "huber"}
    """

    model: Regressor

    def __init__(
        self,
        model: Regressor,
        data: Sequences,
        batch: int,
        validation: Parts,
        seed: int,
        weights: np.ndarray | None = None,
        loss: str = "mse",
    ):
        super().__init__(model, data, batch, validation, seed, weights)
        self.loss = loss

    def compute(self) -> tuple[Array, Params]:  # noqa: D102
        x, lengths, targets = self._current
        return self.model.loss(x, lengths, targets, self.loss, self._step_seed)

    def validate(self) -> tuple[float, str]:  # noqa: D102
        error = in_blocks(self.model.predict, self.data, self.held_out, self.batch)
        error -= self.data.labels[self.held_out]
        score = float(np.sqrt(np.mean((error / self.model.target_spread) ** 2)))
        return score, f"RMSE {score:.4g} of the targets' spread on held-out sequences"


def split_sequences(data: Sequences, validation: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the sequences to train on and to validate on: a random draw from those not called test.

    Raises
    ------
    InputError
        The share is not in (0, 1), or there are fewer than two sequences.
    """
    usable = np.random.default_rng((*check_seed(seed), 0)).permutation(np.flatnonzero(~data.test))
    held = max(1, int(len(usable) * check_share("validation", validation)))
    if len(usable) - held < 1:
        raise InputError(f"sequences has {len(usable)} to train and validate on; expected at least 2")
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


def class_scores(model: Classifier, data: Sequences, picked: np.ndarray, block: int = 256) -> tuple[float, float]:
    """Mean loss in nats and accuracy on some sequences."""
    loss, right = 0.0, 0
    for start in range(0, len(picked), block):
        x, lengths, labels = data.batch(picked[start : start + block])
        logits = model.logits(x, lengths).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        loss += float(np.sum(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]))
        right += int(np.sum(logits.argmax(axis=1) == labels))
    return loss / len(picked), right / len(picked)


def in_blocks(
    say: Callable[[np.ndarray, np.ndarray], np.ndarray], data: Sequences, picked: np.ndarray, block: int = 256
) -> np.ndarray:
    """What `say` makes of x (T, B, D) and lengths (B,), for some sequences, so many at a time."""
    starts = range(0, len(picked), block)
    return np.concatenate([say(*data.batch(picked[start : start + block])[:2]) for start in starts])
