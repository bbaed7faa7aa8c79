"""What holds in one call of an LSTM, as plain data: sizes, arguments, members, and what a member has at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gpu_lstm import ops
from gpu_lstm.backend import Array, Backend
from gpu_lstm.layers.base import Params, Tape
from gpu_lstm.layers.dropout import Dropout
from gpu_lstm.layers.options import Options
from gpu_lstm.native.kept import Made
from gpu_lstm.recurrence import Mask, Tier

State = tuple[Array, Array]
"""h and c, (num_layers * num_directions, B, P) and (.., B, H), in PyTorch's order: layer 0 forward, layer 0 reverse."""
Pair = tuple[Array | None, Array | None]
"""h and c of one member, (B, P) and (B, H), or their gradients; None is zero."""
Again = Callable[[Array], Array]
"""Drops the elements of an array that were dropped from another one."""
Add = Callable[[Params], None]
"""Takes gradients of parameters, to be added up."""
INPUT, RECURRENT, WEIGHT, ZONEOUT_H, ZONEOUT_C = range(1, 6)
"""Part of the seeds of what is drawn while training."""


class Member(NamedTuple):
    """A layer and a direction of it."""

    layer: int
    direction: int

    @property
    def name(self) -> str:
        """How the names of its parameters end."""
        return f"l{self.layer}_reverse" if self.direction else f"l{self.layer}"


@dataclass(frozen=True)
class Sizes:
    """What all members of an LSTM share: where its arrays live, and how wide they are."""

    backend: Backend
    dtype: str
    param_dtype: str
    input_size: int
    hidden_size: int
    output_size: int  # P, width of h: that of the projection, or H
    num_layers: int
    num_directions: int
    batch_first: bool

    def width(self, layer: int) -> int:
        """Return the width of a layer's input."""
        return self.input_size if layer == 0 else self.output_size * self.num_directions

    def state(self, batch: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Return the shapes of h and c of a `State`."""
        members = self.num_layers * self.num_directions
        return (members, batch, self.output_size), (members, batch, self.hidden_size)


@dataclass
class Call:
    """What holds for all layers in one call of forward, and for its backward."""

    steps: int
    batch: int
    mask: Mask | None
    resets: np.ndarray | None  # (T, B) bool array on the host, or None
    seed: tuple[int, ...] | None  # None: evaluation
    keep: bool  # whether backward will follow


@dataclass
class Work:
    """All that the members of an LSTM need in one call."""

    sizes: Sizes
    options: Options
    recurrent: frozenset[str]  # of the options those that change the recurrence
    dropout: Dropout
    recompute: bool
    parallel: str | bool
    params: Params  # weights in `dtype`, the rest in `param_dtype`
    call: Call
    tier: Tier
    ops: ops.Arrays  # the large products around it
    by_steps: bool  # x W_ih^T is computed step by step, so that a step's rounding doesn't depend on how many there are
    kept: Mapping[str, Made]  # for inference: of a weight, what kernels made of it in a call before

    @property
    def plain(self) -> bool:
        """Whether the recurrence is that of the plain LSTM."""
        return not self.recurrent - {"cells"}

    def drawn(self, kind: int, p: float, shape: tuple[int, ...], member: Member, start: int = 0) -> Array | None:
        """Factors 0 with probability p, else 1/(1-p); None in evaluation or where p is 0."""
        if self.call.seed is None or p == 0:
            return None
        backend = self.sizes.backend
        ones = backend.xp.ones(shape, dtype=backend.dtype(self.sizes.dtype))
        return ops.of(backend).dropout(ones, p, self.seed(kind, member, start))[0]

    def seed(self, kind: int, member: Member, start: int = 0) -> tuple[int, ...]:
        """Of what is drawn of one kind for a member, from step `start` on."""
        return (*(self.call.seed or ()), member.layer + 1, kind, member.direction + 1, start + 1)

    def drop(self, layer: int, start: int, x: Array) -> tuple[Array, Tape]:
        """What a layer takes of the one below, from step `start` on, and the tape of the dropout between them."""
        seed = self.call.seed
        if seed is not None:
            seed = (*seed, layer, start) if start else (*seed, layer)
        return self.dropout.forward(x, seed)

    def gives_cells(self, member: Member) -> bool:
        """Whether it hands out c of every step."""
        return self.options.cells and member.layer == self.sizes.num_layers - 1


@dataclass
class Piece:
    """A member over one segment: what its recurrence starts from, then what backward needs of it."""

    x: Array = None  # (T, B, .): its input, with everything dropped
    z: Array = None  # (T, B, 4H) or None: until the recurrence takes it
    input_mask: Array | None = None  # (B, .) or None: factor on the input at all steps
    # (T B, 4H) and its scales (T B, 1), or None: x W_ih^T where that is normalised
    normalised: tuple[Array, Array] | None = None
    # (T, B, .) or None: outputs of the layer below, with nothing dropped, until they are added to this layer's
    below: Array | None = None
    dropped: Tape | None = None  # of the dropout between layers
    weight_again: Again | None = None  # drops what was dropped of weight_hh
    saved: Any = None  # of the recurrence
