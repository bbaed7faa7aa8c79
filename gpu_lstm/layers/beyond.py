"""What a member does beyond the plain LSTM: its variant, what is normalised around its recurrence, its gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu_lstm.backend import Array, Backend, widened
from gpu_lstm.layers.base import Params
from gpu_lstm.layers.call import RECURRENT, ZONEOUT_C, ZONEOUT_H, Member, Piece, State, Work
from gpu_lstm.recurrence.variant import PARAMETERS, VALUES, Variant, normalise, normalise_backward, weight_hh_gradient


def normalised(work: Work, member: Member, u: Array) -> tuple[Array, tuple[Array, Array]]:
    """z from u = x W_ih^T (T B, 4H): normalised, with gain and bias; and what backward needs of it."""
    kept, bias = normalise(work.sizes.backend.xp, u), work.params.get(f"bias_{member.name}")
    z = kept[0] * work.params[f"gain_ih_{member.name}"]
    if bias is not None:
        z += bias
    return work.sizes.backend.asarray(z, work.sizes.dtype), kept


def variant(work: Work, member: Member, start: int, stop: int) -> Variant:
    """What the recurrence of a member does beyond the plain LSTM in steps start..stop-1."""
    o, call, sizes, end = work.options, work.call, work.sizes, member.name
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
    recurrent_mask = work.drawn(RECURRENT, o.recurrent_dropout, (call.batch, sizes.output_size), member)
    return Variant(**given, **zoneout, recurrent_mask=recurrent_mask, live=live)


def parameter_gradients(
    work: Work, member: Member, piece: Piece, dz: Array, x: Array, before: Array
) -> tuple[Array, Array, Array, Array, Params]:
    """Gradients of x W_ih^T, weight_ih, weight_hh, bias and the gain, from dz (T B, 4H) with x and h as many rows."""
    backend, xp, found, du = work.sizes.backend, work.sizes.backend.xp, Params(), dz
    if piece.normalised is not None:
        y, scales = piece.normalised
        wide = widened(backend, dz)
        found[f"gain_ih_{member.name}"] = xp.sum(wide * y, axis=0)
        du = normalise_backward(xp, wide * work.params[f"gain_ih_{member.name}"], y, scales)
        du = backend.asarray(du, work.sizes.dtype)
    (weight_ih,), bias = work.ops.weight_gradients(du, [x])
    if du is not dz:
        bias = xp.sum(widened(backend, dz), axis=0)
    dz_hh = dz if piece.saved.dz_hh is None else xp.reshape(piece.saved.dz_hh, dz.shape)
    weight_hh = weight_hh_gradient(xp, work.ops.weight_gradients, dz_hh, before, work.options.heads)
    return du, weight_ih, weight_hh, bias, found


def initial_gradients(backend: Backend, members: list[Member], ends: State, given: tuple[bool, bool]) -> Params:
    """Gradients of learned initial states from those of all sequences' `ends`; zero where h0 or c0 was given."""
    xp, found = backend.xp, Params()
    for part, gradient, was_given in zip(("h0", "c0"), ends, given, strict=True):
        for place, member in enumerate(members):
            total = xp.sum(widened(backend, gradient[place, ...]), axis=0)
            found[f"{part}_{member.name}"] = xp.zeros_like(total) if was_given else total
    return found
