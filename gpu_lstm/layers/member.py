"""A layer in one direction: what it does around its recurrence, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from gpu_lstm import ops
from gpu_lstm.backend import Array, into, widened
from gpu_lstm.layers.arguments import Call, Sizes
from gpu_lstm.layers.base import Params, Tape
from gpu_lstm.layers.dropout import Dropout
from gpu_lstm.layers.options import Options
from gpu_lstm.native.kept import Made
from gpu_lstm.recurrence import Joint, Problem, Tier
from gpu_lstm.recurrence.problem import transposed
from gpu_lstm.recurrence.variant import (
    PARAMETERS,
    VALUES,
    Variant,
    normalise,
    normalise_backward,
    weight_hh_gradient,
)


class Member(NamedTuple):
    """A layer and a direction of it."""

    layer: int
    direction: int

    @property
    def name(self) -> str:
        """How the names of its parameters end."""
        return f"l{self.layer}_reverse" if self.direction else f"l{self.layer}"


Pair = tuple[Array | None, Array | None]
"""h and c of one member, (B, P) and (B, H), or their gradients; None is zero."""
Again = Callable[[Array], Array]
"""Drops the elements of an array that were dropped from another one."""
Add = Callable[[Params], None]
"""Takes gradients of parameters, to be added up."""

INPUT, RECURRENT, WEIGHT, ZONEOUT_H, ZONEOUT_C = range(1, 6)
"""Part of the seeds of what is drawn while training."""


@dataclass
class Work:
    """All that the members of an LSTM need in one call."""

    sizes: Sizes
    options: Options
    recurrent: frozenset[str]  # of the options those that change the recurrence
    dropout: Dropout
    recompute: bool
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

    def seed_below(self, layer: int, start: int) -> tuple[int, ...] | None:
        """Of the dropout between a layer and the one below, from step `start` on; None: evaluation."""
        if self.call.seed is None:
            return None
        return (*self.call.seed, layer, start) if start else (*self.call.seed, layer)

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


def members_of(num_layers: int, num_directions: int) -> list[Member]:
    """All members in the order of a State."""
    return [Member(layer, direction) for layer in range(num_layers) for direction in range(num_directions)]


# -- forward ----------------------------------------------------------------------------------------------------------


def enter(work: Work, member: Member, x: Array) -> Piece:
    """z = x W_ih^T + b for all steps at once, and what else its recurrence starts from."""
    x, input_mask = _masked(work, member, x)
    backend, sizes, norm = work.sizes.backend, work.sizes, work.options.layer_norm
    xp, shape = backend.xp, (x.shape[0], x.shape[1], 4 * sizes.hidden_size)
    weight, bias = work.params[f"weight_ih_{member.name}"].T, work.params.get(f"bias_{member.name}")
    if work.by_steps:
        rows, weight = x, transposed(backend, weight.T)
    else:
        rows = xp.reshape(x, (-1, x.shape[2]))
    kept = work.kept.get(f"weight_ih_{member.name}")
    z = work.ops.product(rows, weight, None if norm else bias, sizes.param_dtype if norm else sizes.dtype, kept=kept)
    z, normalised = xp.reshape(z, (-1, shape[2])), None
    if norm:
        normalised = normalise(xp, z)
        z = normalised[0] * work.params[f"gain_ih_{member.name}"]
        if bias is not None:
            z += bias
    return Piece(x, xp.reshape(backend.asarray(z, sizes.dtype), shape), input_mask, normalised)


def enter_later(work: Work, member: Member, x: Array) -> tuple[Piece, Callable[[], Array]]:
    """`enter` without the product, and the product."""
    backend, sizes = work.sizes.backend, work.sizes
    x, input_mask = _masked(work, member, x)
    z = backend.xp.empty((*x.shape[:2], 4 * sizes.hidden_size), dtype=backend.dtype(sizes.dtype))
    rows, out = (backend.xp.reshape(array, (-1, array.shape[2])) for array in (x, z))
    weight, bias = work.params[f"weight_ih_{member.name}"].T, work.params.get(f"bias_{member.name}")
    return Piece(x, z, input_mask), partial(work.ops.product, rows, weight, bias, out=out)


def _masked(work: Work, member: Member, x: Array) -> tuple[Array, Array | None]:
    """A member's input with what is dropped at all steps, and the factor that did it."""
    mask = work.drawn(INPUT, work.options.input_dropout, (x.shape[1], x.shape[2]), member)
    return (x if mask is None else x * mask), mask


def problem(work: Work, member: Member, piece: Piece, state: Pair, steps: slice, below: Joint | None = None) -> Problem:
    """Return a member's recurrence over those steps; the piece notes what was dropped of weight_hh."""
    call, name, p = work.call, f"weight_hh_{member.name}", work.options.weight_dropout
    weight_hh, kept = work.params[name], work.kept.get(name)
    if call.seed is not None and p > 0:
        around = ops.of(work.sizes.backend)
        weight_hh, piece.weight_again = around.dropout(weight_hh, p, work.seed(WEIGHT, member))
        kept = None
    mask = None if call.mask is None else call.mask.part(steps.start, steps.stop)
    keep = call.keep or work.gives_cells(member)
    variant = _variant(work, member, steps.start, steps.stop)
    z, piece.z = piece.z, None
    return Problem(z, weight_hh, *state, mask, member.direction == 1, keep, variant, below, kept)


def _variant(work: Work, member: Member, start: int, stop: int) -> Variant | None:
    """What the recurrence of a member does beyond the plain LSTM in steps start..stop-1."""
    o, call, sizes, end = work.options, work.call, work.sizes, member.name
    if work.plain and call.resets is None:
        return None
    backend, params = sizes.backend, work.params
    zoneout: dict[str, Any] = {}
    for part, kind, p, size in (
        ("zoneout_h", ZONEOUT_H, o.zoneout_h, sizes.output_size),
        ("zoneout_c", ZONEOUT_C, o.zoneout_c, sizes.hidden_size),
    ):
        drawn = work.drawn(kind, p, (stop - start, call.batch, size), member, start)
        dtype = backend.dtype(sizes.dtype)
        zoneout[part] = backend.xp.astype(drawn == 0, dtype) if drawn is not None else float(p) or None
    live = None
    if call.resets is not None:
        begins = call.resets
        if member.direction == 1:  # in reverse, an episode begins at the step before another one's first
            begins = np.concatenate([begins[1:], np.zeros_like(begins[:1])])
        live = backend.asarray((~begins[start:stop, :, None]).astype(np.float32), sizes.dtype)
    given: dict[str, Any] = {name: value for name, value in o.on().items() if name in VALUES}
    given |= {field: params.get(f"{part}_{end}") for field, part in PARAMETERS.items()}
    return Variant(
        **given,
        **zoneout,
        recurrent_mask=work.drawn(RECURRENT, o.recurrent_dropout, (call.batch, sizes.output_size), member),
        live=live,
    )


def joint(work: Work, member: Member, factors: Array | None) -> Joint:
    """What lies between a member and the one below it where both run in one launch."""
    end = member.name
    return Joint(work.params[f"weight_ih_{end}"], work.params.get(f"bias_{end}"), factors)


# -- backward ---------------------------------------------------------------------------------------------------------


def parameter_gradients(work: Work, member: Member, piece: Piece, dz: Array, add: Add) -> Array:
    """From dz (T, B, 4H) the gradient of x W_ih^T, (T B, 4H); those of the parameters go to `add`."""
    backend, saved, options, end = work.sizes.backend, piece.saved, work.options, member.name
    xp, rows, width = backend.xp, dz.shape[0] * dz.shape[1], dz.shape[2]
    dz = xp.reshape(dz, (rows, width))
    x, before = (xp.reshape(array, (rows, array.shape[2])) for array in (piece.x, saved.before))
    found = {f"{part}_{end}": gradient for part, gradient in saved.gradients.items()}
    du = dz  # of x W_ih^T
    if piece.normalised is not None:
        y, scales = piece.normalised
        wide = widened(backend, dz)
        found[f"gain_ih_{end}"] = xp.sum(wide * y, axis=0)
        du = normalise_backward(xp, wide * work.params[f"gain_ih_{end}"], y, scales)
        du = backend.asarray(du, work.sizes.dtype)
    if options.layer_norm or options.heads > 1:
        (weight_ih,), bias = work.ops.weight_gradients(du, [x])
        if du is not dz:
            bias = xp.sum(widened(backend, dz), axis=0)
        dz_hh = dz if saved.dz_hh is None else xp.reshape(saved.dz_hh, (rows, width))
        weight_hh = weight_hh_gradient(xp, work.ops.weight_gradients, dz_hh, before, options.heads)
    else:
        (weight_ih, weight_hh), bias = work.ops.weight_gradients(dz, [x, before])
    if piece.weight_again is not None:
        weight_hh = piece.weight_again(weight_hh)
    found |= {f"weight_ih_{end}": weight_ih, f"weight_hh_{end}": weight_hh}
    if options.bias:
        found[f"bias_{end}"] = bias
    add(found)
    return du


def input_gradient(work: Work, member: Member, piece: Piece, du: Array, out: Array | None = None) -> Array:
    """dx of a member, a new array or `out`, from the gradient of x W_ih^T."""
    backend, weight, shape = work.sizes.backend, work.params[f"weight_ih_{member.name}"], piece.x.shape
    xp = backend.xp
    flat = None if out is None else xp.reshape(out, (-1, shape[2]))
    dx = xp.reshape(work.ops.product(xp.reshape(du, (-1, weight.shape[0])), weight, out=flat), shape)
    if piece.input_mask is None:
        return dx
    return into(backend, xp.multiply, dx, piece.input_mask, out=dx)


def gradients(work: Work, member: Member, piece: Piece, dz: Array, add: Add, out: Array | None = None) -> Array:
    """Both: dx, and those of the parameters to `add`."""
    return input_gradient(work, member, piece, parameter_gradients(work, member, piece, dz, add), out)
