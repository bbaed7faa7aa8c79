"""Language modelling by truncated BPTT."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpu_lstm.backend import Array
from gpu_lstm.data.text import Tracks, shuffle_lines
from gpu_lstm.data.tokens import Rate
from gpu_lstm.errors import InputError
from gpu_lstm.layers import Params, State
from gpu_lstm.layers.checks import check_share
from gpu_lstm.losses import BITS
from gpu_lstm.models import LanguageModel
from gpu_lstm.training.tasks.base import Task


class TextTask(Task):
    """Language modelling: the state is carried from chunk to chunk, its gradient is not.

    `batch` tracks B of (N,) tokens go in chunks of T=`length`; the last `validation` share of them is never trained on.
    With `newline`, the token that ends a line, every epoch takes the lines in a new order. `rates`, of what is
    trained on and of what is held out, make bits a character of bits a token.
    """

    model: LanguageModel
    item, unit, one_shape = "char", "bits/char", True

    def __init__(
        self, model: LanguageModel, tokens: np.ndarray, batch: int, length: int, validation: float, seed: int,
        newline: int | None = None, rates: tuple[Rate, Rate] = (Rate(), Rate()),
    ):  # fmt: skip
        self.train, self.held_out = Tracks.split(tokens, batch, length, check_share("validation", validation))
        super().__init__(model, seed, len(self.train), batch * length, batch)
        self.newline, self.rates = newline, rates
        self._order: dict[int, Tracks] = {}  # the lines of an epoch
        self._state: State | None = None
        self._before: State | None = None  # the state before the last step
        self._held: tuple[State, State] | None = None  # where both stay, for a graph

    def _batch(self, number: int) -> np.ndarray:
        epoch, chunk = divmod(number, self.steps_per_epoch)
        if self.newline is not None and epoch not in self._order:
            tokens = shuffle_lines(self.train.tokens, self.newline, (*self.seed, 2, epoch))
            self._order.clear()
            self._order[epoch] = Tracks(tokens, self.batch, self.train.length)
        return self._order.get(epoch, self.train).chunk(chunk, self.rows(self.batch))

    def begin(self, number: int) -> bool:  # noqa: D102
        super().begin(number)
        if number % self.steps_per_epoch == 0:
            self._state = None
        self._before = self._held[1] if self._held is not None and self._state is not None else self._state
        return self._state is not None

    def compute(self) -> tuple[Array, Params]:  # noqa: D102
        tokens = self.model.backend.upload(lambda: self._current)
        if self._held is not None and self._state is not None:
            _copy(self._held[1], self._state)
        loss, state, gradients = self.model.loss(tokens, self._state, self._step_seed)
        self._carry(state)
        return loss, gradients

    def _carry(self, state: State | None) -> None:
        """Make a state the one that the next step gets."""
        if self._held is not None and state is not None:
            _copy(self._held[0], state)
            state = self._held[0]
        self._state = state

    def hold(self) -> None:  # noqa: D102
        carried, zero_state = self.carried(), self.model.lstm.zero_state
        self._held = zero_state(self.batch), zero_state(self.batch)
        self.restore(carried)

    def undo(self) -> None:  # noqa: D102
        self._carry(self._before)

    def shown(self, loss: float) -> float:  # noqa: D102
        return (loss * BITS + self.rates[0].added) / self.rates[0].characters

    def measure(self) -> tuple[int, float]:  # noqa: D102
        rows = self.rows(self.held_out.batch)
        return len(rows), bits_per_token(self.model, self.held_out, rows) if rows else 0.0

    def judge(self, measured: Sequence[tuple[int, float]]) -> tuple[float, str]:  # noqa: D102
        bits = self.rates[1].bits(sum(count / self.held_out.batch * each for count, each in measured))
        return bits, f"{bits:.3f} {self.unit} on held-out text"

    def carried(self) -> dict[str, Array]:  # noqa: D102
        if self._state is None or (self._number.value + 1) % self.steps_per_epoch == 0:
            return {}  # the next step begins anew
        return {"h": self._state[0], "c": self._state[1]}

    def restore(self, arrays: dict[str, Array]) -> None:  # noqa: D102
        lstm = self.model.lstm
        for name, array in arrays.items():
            shape = (lstm.num_layers, self.counted(), lstm.output_size if name == "h" else lstm.hidden_size)
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


def bits_per_token(model: LanguageModel, tracks: Tracks, rows: range | None = None) -> float:
    """Mean loss in bits over all chunks of some tracks, or of all, the state carried along each track."""
    total, state = 0.0, None
    for number in range(len(tracks)):
        loss, state = model.evaluate(model.backend.asarray(tracks.chunk(number, rows)), state)
        total += loss
    return total / len(tracks) * BITS
