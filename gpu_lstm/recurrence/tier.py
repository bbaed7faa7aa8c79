"""What a tier is: one way to run the recurrence, and how much of a layer or a stack it takes at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from gpu_lstm.backend import Backend
from gpu_lstm.recurrence.problem import Arriving, Gradients, Problem, Saved


@dataclass(frozen=True)
class Offer:
    """What a layer could give to a tier at once, for `Tier.fit`."""

    direction: str  # {"forward", "backward"}
    steps: int
    batch: int
    hidden: int
    dtype: str  # in which arrays are stored
    options: frozenset[str] = frozenset()  # of the LSTM's options those that change the recurrence
    count: int = 1  # recurrences side by side: directions
    layers: int = 1  # of a stack, which could run in one launch
    multiply_adds: int = 0  # of large products that could be done beside


class Fit(NamedTuple):
    """What a tier makes of an `Offer`: how many of its layers at once, and whether its products go beside."""

    at_once: int = 1
    beside: bool = False


@dataclass(frozen=True)
class Tier:
    """One way to run the recurrence; whoever wraps one replaces `forward` and `backward` and maps over their lists."""

    takes: frozenset[str]  # of the LSTM's options that concern the recurrence, those that it takes
    # (backend, hidden_size or None, dtype, options) -> why it can't run there, or ""
    obstacle: Callable[[Any, int | None, str, frozenset[str]], str]
    fit: Callable[[Any, Offer], Fit]  # (backend, offer) -> how much of it to give at once
    # (backend, list of problems) -> list of saved, and (backend, list of arriving) -> list of gradients
    forward: Callable[[Any, Sequence[Problem]], list[Saved]]
    backward: Callable[[Any, Sequence[Arriving]], list[Gradients]]
    steady: bool = False  # a sequence's results forward are the same to the last bit in any batch


def one_by_one(backend: Backend, offer: Offer) -> Fit:
    """The `fit` of a tier that runs one recurrence after the other and leaves no room beside it."""
    return Fit()


def each(one: Callable[[Any, Any], Any]) -> Callable[[Any, Sequence[Any]], list[Any]]:
    """A tier's `forward` or `backward` from a function of one problem."""
    return lambda backend, items: [one(backend, item) for item in items]
