"""What is known of the values of an ONNX graph, and its LSTM nodes with what they take and give."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

EMPTY = np.empty(0, np.int64)


class Value(NamedTuple):
    """What is known of one name."""

    # ``constant``: numbers. ``sizes``: numbers made of free sizes. ``lengths``: numbers made of the lengths that were
    # fed. ``elements``: numbers of elements of blocks. ``unknown``.
    kind: str
    array: np.ndarray = EMPTY  # empty where nothing is known
    by: tuple[str, ...] = ()  # the nodes that moved the elements since they were a block
    why: str = ""  # what went wrong where a constant can't be computed


UNKNOWN = Value("unknown")


class Block(NamedTuple):
    """Numbered elements: what they are (``input``, ``y``, ``h``, ``c``, ``sum``, ``node``), and whose."""

    what: str
    array: np.ndarray
    owner: Any


@dataclass(eq=False)
class Run:
    """An LSTM node with what it takes and gives."""

    # Its name, after the path through the nodes that it lies in; that of its first output where several share it. More
    # than one where it was met again.
    labels: list[str]
    name: str
    found: dict[str, Any]  # its attributes
    given: list[Value | None]
    alive: bool  # False in a branch that is never taken
    # (T, B, D): numbers of what it takes, time first whatever the layout
    x: np.ndarray = field(default_factory=lambda: EMPTY)
    # (T, B, directions, H), (directions, B, H) twice: numbers of what it gives
    y: np.ndarray = field(default_factory=lambda: EMPTY)
    h: np.ndarray = field(default_factory=lambda: EMPTY)
    c: np.ndarray = field(default_factory=lambda: EMPTY)
    # (T, B, directions x H): numbers of y, or of x + y where a node adds them
    out: np.ndarray = field(default_factory=lambda: EMPTY)
    sum: str = ""  # that node; empty where there is none

    @property
    def label(self) -> str:
        """The first of its labels."""
        return self.labels[0]

    @property
    def batch_first(self) -> bool:
        """Whether it has layout 1."""
        return bool(self.found.get("layout", 0))

    def turned(self, array: np.ndarray) -> np.ndarray:
        """Return an array of the node's layout time first, or back."""
        return array.swapaxes(0, 1) if self.batch_first else array

    def state(self, part: int) -> Value | None:
        """Return the initial h (0) or c (1), (directions, B, H)."""
        value = self.given[5 + part]
        if value is None or value.array.ndim != 3:
            return value
        return value._replace(array=self.turned(value.array))

    def same_node(self, other: Run) -> bool:
        """Return whether the two have the same attributes and weights."""
        return self.found == other.found and all(same(self.given[k], other.given[k]) for k in (1, 2, 3, 7))

    def outputs(self) -> list[Value]:
        """Return Y, Y_h and Y_c in the node's layout."""
        if not self.y.size:
            return [UNKNOWN] * 3
        y = self.y.swapaxes(0, 1) if self.batch_first else self.y.transpose(0, 2, 1, 3)
        return [Value("elements", one) for one in (y, self.turned(self.h), self.turned(self.c))]


def same(one: Value | None, other: Value | None) -> bool:
    """Return whether two values are known to be the same."""
    if one is None or other is None:
        return one is other
    return one.kind == other.kind != "unknown" and np.array_equal(one.array, other.array)
