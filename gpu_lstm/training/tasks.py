"""Tasks: a model with its data, as the training loop sees them.

Each step's batch and dropout are pure functions of the seed and the step's number, so that the same seed gives
the same weights to the last bit and a resumed run needs no generator states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, cast, runtime_checkable

import numpy as np

from gpu_lstm.backend import Array
from gpu_lstm.backend.graph import Count
from gpu_lstm.data import series as series_data
from gpu_lstm.data.loader import Loader
from gpu_lstm.data.sequences import Sequences
from gpu_lstm.data.text import Tracks, shuffle_lines
from gpu_lstm.errors import InputError
from gpu_lstm.layers import Params, State
from gpu_lstm.layers.base import check_seed
from gpu_lstm.losses import BITS
from gpu_lstm.models import Classifier, Forecaster, LanguageModel, Model, Regressor

Parts = float | tuple[np.ndarray, np.ndarray]
"""What to validate on: a share, or the numbers of the sequences to train on and of those to validate on."""


class Task(Protocol):
    """What the training loop needs.

    Attributes
    ----------
    model : Model
    steps_per_epoch : int
    items, item : int, str
        How many of what a step reads, for the speed.
    unit : str
        Unit of loss and score.
    """

    model: Model
    steps_per_epoch: int
    items: int
    item: str
    unit: str

    def step(self, number: int) -> tuple[Array, Params]:
        """Loss, in nats or as the loss function has it, and gradients of step `number`."""

    def shown(self, loss: float) -> float:
        """The loss in `unit`."""

    def validate(self) -> tuple[float, str]:
        """Score on the validation part, lower is better, and the same for people to read."""

    def carried(self) -> dict[str, Array]:
        """Arrays that the next step depends on besides parameters and the step's number."""

    def restore(self, arrays: dict[str, Array]) -> None:
        """Take back what `carried` gave."""


@runtime_checkable
class Recordable(Task, Protocol):
    """A task whose steps have the same shapes, so that they can be recorded as a graph and replayed.

    ``step(number)`` is ``begin(number)`` and then ``compute()``.
    """

    def begin(self, number: int) -> bool:
        """Make `number` the step that `compute` does; whether that is like most, so that it may be replayed."""

    def compute(self) -> tuple[Array, Params]:
        """What `step` gives. Recorded once; all that changes from step to step reaches it by `Backend.upload`."""

    def hold(self) -> None:
        """From now on, what is carried stays in the same arrays."""

    def undo(self) -> None:
        """What is carried becomes what it was before the last `compute`; after `hold` only."""


class TextTask:
    """Language modelling by truncated BPTT: the state is carried from chunk to chunk, its gradient is not.

    Parameters
    ----------
    model : LanguageModel
    tokens : (N,) integers
        The last `validation` share of them is never trained on.
    batch, length : int
        B tracks, T steps of a chunk.
    validation : float
        Share in (0, 1).
    seed : int
    newline : int, optional
        The token that ends a line: every epoch takes the lines in a new order.
    """

    item, unit = "char", "bits/char"

    def __init__(
        self,
        model: LanguageModel,
        tokens: np.ndarray,
        batch: int,
        length: int,
        validation: float,
        seed: int,
        newline: int | None = None,
    ):
        self.model: Model = model
        self._language = model
        cut = len(tokens) - int(len(tokens) * check_share("validation", validation))
        self.train = Tracks(tokens[:cut], batch, length)
        held_out = tokens[cut:]
        self.held_out = Tracks(held_out, max(1, min(batch, len(held_out) // (length + 1))), length)
        self.steps_per_epoch = len(self.train)
        self.items = batch * length
        self.seed = check_seed(seed)
        self._state: State | None = None
        self._held: tuple[State, State] | None = None  # where the state stays; the one before the last step
        self._number = Count()
        self.newline = newline
        self._order: tuple[int, Tracks] | None = None
        self.loader = Loader(self._batch)

    def _batch(self, number: int) -> np.ndarray:
        epoch, chunk = divmod(number, self.steps_per_epoch)
        if self.newline is None:
            return self.train.chunk(chunk)
        order = self._order
        if order is None or order[0] != epoch:
            tokens = shuffle_lines(self.train.tokens, self.newline, (*self.seed, 2, epoch))
            order = self._order = epoch, Tracks(tokens, self.train.batch, self.train.length)
        return order[1].chunk(chunk)

    def begin(self, number: int) -> bool:  # noqa: D102
        self._number.value, self._tokens = number, self.loader.get(number)
        if number % self.steps_per_epoch == 0:
            self._state = None
        self._anew = self._state is None
        return not self._anew

    def compute(self) -> tuple[Array, Params]:  # noqa: D102
        tokens = self.model.backend.upload(lambda: self._tokens)
        if self._held is not None and self._state is not None:
            _copy(self._held[1], self._state)
        seed = (*self.seed, cast(int, self._number))
        loss, state, gradients = self._language.loss(tokens, self._state, seed)
        self._carry(state)
        return loss, gradients

    def _carry(self, state: State) -> None:
        """Make a state the one that the next step gets."""
        if self._held is not None:
            _copy(self._held[0], state)
            state = self._held[0]
        self._state = state

    def step(self, number: int) -> tuple[Array, Params]:  # noqa: D102
        self.begin(number)
        return self.compute()

    def hold(self) -> None:  # noqa: D102
        carried, zero_state = self.carried(), self._language.lstm.zero_state
        self._held = zero_state(self.train.batch), zero_state(self.train.batch)
        self.restore(carried)

    def undo(self) -> None:  # noqa: D102
        if self._anew or self._held is None:
            self._state = None
        else:
            self._carry(self._held[1])

    def shown(self, loss: float) -> float:  # noqa: D102
        return loss * BITS

    def validate(self) -> tuple[float, str]:  # noqa: D102
        bits = bits_per_token(self._language, self.held_out)
        return bits, f"{bits:.3f} bits/char on held-out text"

    def carried(self) -> dict[str, Array]:  # noqa: D102
        if self._state is None or (self._number.value + 1) % self.steps_per_epoch == 0:
            return {}  # the next step begins anew
        return {"h": self._state[0], "c": self._state[1]}

    def restore(self, arrays: dict[str, Array]) -> None:  # noqa: D102
        lstm = self._language.lstm
        for name, array in arrays.items():
            shape = (lstm.num_layers, self.train.batch, lstm.output_size if name == "h" else lstm.hidden_size)
            if tuple(array.shape) != shape:
                raise InputError(f"carried state {name} has shape {tuple(array.shape)}; expected {shape}")
        self._state = None
        if arrays:  # numbers of 16 bits were saved in float32
            as_array = self.model.backend.asarray
            self._carry((as_array(arrays["h"], lstm.dtype), as_array(arrays["c"], lstm.param_dtype)))


def _copy(to: State, state: State) -> None:
    """Into the arrays of one state those of another."""
    for part, content in zip(to, state, strict=True):
        part[...] = content


class WindowsTask:
    """Forecasting: each step takes random windows of one or many series.

    Parameters
    ----------
    model : Forecaster
    values : (N, S)
        Where there are many series, one after the other.
    batch : int
    length : int
        Known steps of a window; the first quarter of them only warms the state up.
    starts : sequence of int
        Where windows to train on may begin.
    origins : (K,) integers
        Where the forecasts to validate on begin.
    loss : {"mse", "mae", "huber"}
    seed : int
    """

    item, unit = "step", "loss"

    def __init__(
        self,
        model: Forecaster,
        values: np.ndarray,
        batch: int,
        length: int,
        starts: Sequence[int],
        origins: np.ndarray,
        loss: str,
        seed: int,
    ):
        self.model: Model = model
        self._forecaster = model
        self.values, self.batch, self.length, self.loss, self.seed = values, batch, length, loss, check_seed(seed)
        self.window = length + model.horizon
        self.starts, self.origins = starts, origins
        self.steps_per_epoch = max(1, -(-len(starts) // batch))
        self.items = batch * length
        self.loader = Loader(self._batch)
        self._number = Count()

    def _batch(self, number: int) -> np.ndarray:
        drawn = np.random.default_rng((*self.seed, number)).integers(0, len(self.starts), self.batch)
        return np.stack([self.values[start : start + self.window] for start in (self.starts[k] for k in drawn)], axis=1)

    def begin(self, number: int) -> bool:  # noqa: D102
        self._number.value, self._windows = number, self.loader.get(number)
        return True

    def compute(self) -> tuple[Array, Params]:  # noqa: D102
        seed = (*self.seed, cast(int, self._number))
        return self._forecaster.loss(lambda: self._windows, self.length // 4, self.loss, seed)

    def step(self, number: int) -> tuple[Array, Params]:  # noqa: D102
        self.begin(number)
        return self.compute()

    def hold(self) -> None:
        """Nothing is carried."""

    def undo(self) -> None:
        """Nothing is carried."""

    def shown(self, loss: float) -> float:  # noqa: D102
        return loss

    def validate(self) -> tuple[float, str]:  # noqa: D102
        forecast = forecast_from(self._forecaster, self.values, self.origins, self.length, self.batch)
        error = series_data.rmse(forecast, series_data.truth(self.values, self.origins, self._forecaster.horizon))
        return error, f"RMSE {error:.4g} over {self._forecaster.horizon} steps ahead"

    def carried(self) -> dict[str, Array]:  # noqa: D102
        return {}

    def restore(self, arrays: dict[str, Array]) -> None:  # noqa: D102
        del arrays


class SeriesTask(WindowsTask):
    """Forecasting one series, or many over the same steps: windows of its first part.

    Parameters
    ----------
    model, values, batch, length, loss, seed
        As of `WindowsTask`.
    parts : (train, validation)
        Shares of the series, in time order; what is left is for `gpu-lstm evaluate`.
    """

    def __init__(
        self,
        model: Forecaster,
        values: np.ndarray,
        batch: int,
        length: int,
        parts: tuple[float, float],
        loss: str,
        seed: int,
    ):
        self.train_end, self.validation_end = split_series(len(values), parts)
        starts = self.train_end - (length + model.horizon) + 1
        if starts < 1:
            raise InputError(
                f"series has {self.train_end} steps to train on; "
                f"expected at least length + horizon = {length + model.horizon}"
            )
        if self.validation_end - self.train_end < model.horizon:
            raise InputError(
                f"series has {self.validation_end - self.train_end} steps to validate on; "
                f"expected at least horizon = {model.horizon}"
            )
        origins = np.arange(self.train_end, self.validation_end - model.horizon + 1)
        super().__init__(model, values, batch, length, range(starts), origins, loss, seed)


class SequencesTask:
    """What the tasks of whole sequences share; every epoch in a new order.

    Parameters
    ----------
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
        data: Sequences,
        batch: int,
        validation: Parts,
        seed: int,
        weights: np.ndarray | None = None,
    ):
        self.data, self.seed, self.weights = data, check_seed(seed), weights
        parts = validation if isinstance(validation, tuple) else split_sequences(data, validation, seed)
        self.train, self.held_out = parts
        self.batch = min(batch, len(self.train))
        self.items = self.batch
        self.steps_per_epoch = len(self.train) // self.batch
        self.loader = Loader(self._batch)

    def _batch(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        epoch, place = divmod(number, self.steps_per_epoch)
        rng = np.random.default_rng((*self.seed, 1, epoch))
        train = self.train if self.weights is None else self.train[resampled(self.weights, rng)]
        picked = rng.permutation(train)[place * self.batch : (place + 1) * self.batch]
        return self.data.batch(picked)

    def shown(self, loss: float) -> float:  # noqa: D102
        return loss

    def carried(self) -> dict[str, Array]:  # noqa: D102
        return {}

    def restore(self, arrays: dict[str, Array]) -> None:  # noqa: D102
        del arrays


class ClassifyTask(SequencesTask):
    """Classification of sequences of different lengths.

    Parameters
    ----------
    model : Classifier
    data, batch, validation, seed, weights
        As of `SequencesTask`.
    """

    unit = "nats"

    def __init__(
        self,
        model: Classifier,
        data: Sequences,
        batch: int,
        validation: Parts,
        seed: int,
        weights: np.ndarray | None = None,
    ):
        super().__init__(data, batch, validation, seed, weights)
        self.model: Model = model
        self._classifier = model

    def step(self, number: int) -> tuple[Array, Params]:  # noqa: D102
        return self._classifier.loss(*self.loader.get(number), seed=(*self.seed, number))

    def validate(self) -> tuple[float, str]:  # noqa: D102
        loss, accuracy = class_scores(self._classifier, self.data, self.held_out, self.batch)
        return loss, f"{loss:.4f} nats, accuracy {accuracy:.1%} on held-out sequences"


class RegressTask(SequencesTask):
    """Numbers (K of them, the data's `labels`, (N, K)) about sequences of different lengths.

    Parameters
    ----------
    model : Regressor
    data, batch, validation, seed, weights
        As of `SequencesTask`.
    loss : {"mse", "mae", "huber"}
    """

    unit = "loss"

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
        super().__init__(data, batch, validation, seed, weights)
        self.model: Model = model
        self._regressor, self.loss = model, loss

    def step(self, number: int) -> tuple[Array, Params]:  # noqa: D102
        return self._regressor.loss(*self.loader.get(number), self.loss, seed=(*self.seed, number))

    def validate(self) -> tuple[float, str]:  # noqa: D102
        error = in_blocks(self._regressor.predict, self.data, self.held_out, self.batch)
        error -= self.data.labels[self.held_out]
        score = float(np.sqrt(np.mean((error / self._regressor.target_spread) ** 2)))
        return score, f"RMSE {score:.4g} of the targets' spread on held-out sequences"


def bits_per_token(model: LanguageModel, tracks: Tracks) -> float:
    """Mean loss in bits over all chunks, the state carried along each track."""
    total, state = 0.0, None
    for number in range(len(tracks)):
        loss, state = model.evaluate(model.backend.asarray(tracks.chunk(number)), state)
        total += loss
    return total / len(tracks) * BITS


def forecast_from(
    model: Forecaster, values: np.ndarray, origins: np.ndarray, length: int, block: int = 256
) -> np.ndarray:
    """Forecasts (K, horizon, S) from K origins, each knowing up to `length` values before it."""
    length = min(length, int(origins.min()))
    parts = []
    for start in range(0, len(origins), block):
        known = np.stack([values[k - length : k] for k in origins[start : start + block]], axis=1)
        parts.append(model.forecast(known).transpose(1, 0, 2))
    return np.concatenate(parts)


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


def resampled(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many places as there are weights, each as often as its share says, rounded down or up.

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
    starts = range(0, len(picked), block)
    return np.concatenate([say(*data.batch(picked[start : start + block])[:2]) for start in starts])


def split_series(steps: int, parts: tuple[float, float]) -> tuple[int, int]:
    """Ends of the training and of the validation part of a series."""
    train, validation = (check_share(name, part) for name, part in zip(("train", "validation"), parts, strict=True))
    if train + validation > 1:
        raise InputError(f"train and validation shares are {train} and {validation}; expected at most 1 together")
    return int(steps * train), int(steps * (train + validation))


def split_sequences(data: Sequences, validation: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the sequences to train on and to validate on: a random draw from those not called test."""
    usable = np.random.default_rng((*check_seed(seed), 0)).permutation(np.flatnonzero(~data.test))
    held = max(1, int(len(usable) * check_share("validation", validation)))
    if len(usable) - held < 1:
        raise InputError(f"sequences has {len(usable)} to train and validate on; expected at least 2")
    return usable[held:], usable[:held]


def check_share(name: str, value: float) -> float:
    """Return a share if it is in (0, 1).

    Raises
    ------
    InputError
        It isn't.
    """
    if not 0 < value < 1:
        raise InputError(f"{name} is {value!r}; expected a share between 0 and 1")
    return float(value)
