"""The LSTM family as array expressions: every option of `Variant`, forward and backward, in one loop each.

The oracle of all variants, as `gpu_lstm.recurrence.reference` is of the plain LSTM, whose results it gives where no
option is on.
"""

from __future__ import annotations

import math
from typing import Any

from gpu_lstm.backend import Array, Backend, widened
from gpu_lstm.recurrence.problem import (
    Arriving,
    Gradients,
    Problem,
    Saved,
    begin,
    gradients_at_the_end,
    slots,
    split_gates,
)
from gpu_lstm.recurrence.variant import ACTIVATIONS, Variant, at, from_h, normalise, normalise_backward, to_h


def forward(backend: Backend, problem: Problem) -> Saved:
    """Run the recurrence over all steps.

    Per step, where a name in brackets is an option of `Variant`; without it its factor is 1 and its term absent::

        h', c'  = h_{t-1}, c_{t-1}                                       [live]: 0 where the state is reset
        a       = z_t + (h' [recurrent_mask]) W_hh^T                     [gain_hh]: the product is normalised first
        i, f, g, o, c, m = cell(a, c')                                   see `cell_forward`
        h       = m [W_hr^T]                                             [projection]
        h_t, c_t = h, c, mixed with [zoneout_h] of h' and [zoneout_c] of c'
    """
    xp, variant = backend.xp, problem.variant or Variant()
    z, weight_hh, mask, reverse = problem.z, problem.weight_hh, problem.mask, problem.reverse
    num_steps, batch, width = z.shape
    hidden = width // 4
    size = hidden if variant.projection is None else variant.projection.shape[0]
    h = backend.empty((num_steps + 1, batch, size), z.dtype)
    c = backend.empty((num_steps + 1, batch, hidden), z.dtype)
    begin(problem, h, c)
    saved = Saved(h, c, z, weight_hh, mask, reverse, variant)
    if variant.zoneout_c is not None:
        saved.cells = backend.empty((num_steps, batch, hidden), z.dtype)
    if variant.projection is not None:
        saved.unprojected = backend.empty((num_steps, batch, hidden), z.dtype)
    if variant.gain_hh is not None:
        saved.normalised = backend.empty(z.shape, z.dtype)
        saved.scales = backend.empty((num_steps, batch, 1), z.dtype)
    for t, before, after in slots(num_steps, reverse):
        z_t, h_t, c_t, h_old, c_old = z[t, ...], h[after, ...], c[after, ...], h[before, ...], c[before, ...]
        if variant.live is not None:
            h_old, c_old = h_old * variant.live[t, ...], c_old * variant.live[t, ...]
        seen = h_old if variant.recurrent_mask is None else h_old * variant.recurrent_mask
        product = from_h(xp, seen, weight_hh, variant.heads)
        if variant.gain_hh is not None:
            saved.normalised[t, ...], saved.scales[t, ...] = normalise(xp, product)
            product = saved.normalised[t, ...] * variant.gain_hh
        z_t += product
        new_c = c_t if saved.cells is None else saved.cells[t, ...]
        new_h = h_t if saved.unprojected is None else saved.unprojected[t, ...]
        cell_forward(backend, variant, z_t, c_old, new_c, new_h)
        if variant.projection is not None:
            h_t[...] = xp.matmul(new_h, variant.projection.T)
        if variant.zoneout_h is not None:
            h_t[...] = _mixed(at(variant.zoneout_h, t), h_old, h_t)
        if variant.zoneout_c is not None:
            c_t[...] = _mixed(at(variant.zoneout_c, t), c_old, new_c)
        if mask is not None and not mask.full(t):
            h_t[...] = xp.where(mask.valid[t, ...], h_t, h[before, ...])
            c_t[...] = xp.where(mask.valid[t, ...], c_t, c[before, ...])
    return saved


def backward(backend: Backend, arriving: Arriving) -> Gradients:
    """Backpropagate through all steps, along h and along c; sets `gradients` and `dz_hh` of what was saved."""
    xp, saved, dh, dc = backend.xp, arriving.saved, arriving.dh, arriving.dc
    variant, mask = saved.variant or Variant(), saved.mask
    gates, h, c = saved.gates, saved.h, saved.c
    num_steps = gates.shape[0]
    dh_t, dc_t = gradients_at_the_end(backend, arriving, h.shape[1:], c.shape[1:], h.dtype)
    projected = None if variant.projection is None else xp.zeros((num_steps, *h.shape[1:]), dtype=h.dtype)
    if variant.gain_hh is not None:
        saved.gradients["gain_hh"] = xp.zeros_like(variant.gain_hh)
    if variant.gain_c is not None:
        saved.gradients |= {name: xp.zeros_like(variant.gain_c) for name in ("gain_c", "shift_c")}
    for t, before, after in reversed(slots(num_steps, saved.reverse)):
        dz_t, c_old = gates[t, ...], c[before, ...]
        if variant.live is not None:
            c_old = c_old * variant.live[t, ...]
        valid = None if mask is None or mask.full(t) else mask.valid[t, ...]
        dh_all = dh_t if dh is None else dh_t + _within(xp, valid, dh[t, ...])
        dc_all = dc_t if dc is None else dc_t + _within(xp, valid, dc[t, ...])
        # Outside a sequence the state, and so its gradient, passes unchanged; inside, none of it arrives but here.
        dh_new, dc_new = _within(xp, valid, dh_all), _within(xp, valid, xp.asarray(dc_all, copy=True))
        dh_old, dc_old = xp.zeros_like(dh_new), xp.zeros_like(dc_new)
        if variant.zoneout_h is not None:
            dh_old = at(variant.zoneout_h, t) * dh_new
            dh_new = dh_new - dh_old
        if variant.zoneout_c is not None:
            dc_old = at(variant.zoneout_c, t) * dc_new
            dc_new = dc_new - dc_old
        if projected is not None:
            projected[t, ...] = dh_new
            dh_new = xp.matmul(dh_new, variant.projection)
        new_c = c[after, ...] if saved.cells is None else saved.cells[t, ...]
        cell_backward(backend, variant, dz_t, c_old, new_c, dh_new, dc_new, saved.gradients)
        if valid is not None:
            dz_t[...] = _within(xp, valid, dz_t)
        product = dz_t
        if variant.gain_hh is not None:
            y = saved.normalised[t, ...]
            saved.gradients["gain_hh"] += xp.sum(dz_t * y, axis=0)
            product = normalise_backward(xp, dz_t * variant.gain_hh, y, saved.scales[t, ...])
            y[...] = product  # from here on, its own gradient
        dh_seen = to_h(xp, product, saved.weight_hh, variant.heads)
        if variant.recurrent_mask is not None:
            dh_seen = dh_seen * variant.recurrent_mask
        dh_before, dc_before = dh_seen + dh_old, dc_new + dc_old
        if variant.live is not None:
            dh_before, dc_before = dh_before * variant.live[t, ...], dc_before * variant.live[t, ...]
        dh_t = dh_before if valid is None else xp.where(valid, dh_before, dh_all)
        dc_t = dc_before if valid is None else xp.where(valid, dc_before, dc_all)
    saved.dz_hh = saved.normalised  # it was overwritten
    parameter_gradients(backend, saved, projected)
    return Gradients(gates, dh_t, dc_t)


def parameter_gradients(backend: Backend, saved: Saved, projected: Array | None) -> None:
    """Set the gradients of projection and peepholes in ``saved.gradients``: one product or sum over all steps.

    The gates of `saved` are dz; `projected` (T, B, P) is the gradient of W_hr (o tanh(c)) at each step, or None.
    """
    xp, variant = backend.xp, saved.variant
    if variant is None:
        return
    hidden = saved.gates.shape[2] // 4
    if projected is not None:
        rows = (-1, projected.shape[2])
        m = xp.reshape(saved.unprojected, (-1, hidden))
        saved.gradients["weight_hr"] = xp.matmul(xp.reshape(projected, rows).T, m)
    if variant.peepholes is not None:
        old = saved.c[1:, ...] if saved.reverse else saved.c[:-1, ...]
        old = old if variant.live is None else old * variant.live
        new = saved.c_after if saved.cells is None else saved.cells
        gate = [widened(backend, saved.gates[..., k * hidden : (k + 1) * hidden]) for k in range(4)]
        sums = [xp.sum(dz * c, axis=(0, 1)) for dz, c in ((gate[0], old), (gate[1], old), (gate[3], new))]
        saved.gradients["peephole"] = xp.stack(sums)


def cell_forward(backend: Backend, variant: Variant, z: Array, c_old: Array, c: Array, m: Array) -> None:
    """One cell: z (B, 4H) becomes the activated gates; c and m (B, H) are written.

    With p the peepholes, s the gates' sigmoid, N the normalisation of c, each an option of `Variant`::

        i = s(z_i + p_i c_old)     f = s(z_f + p_f c_old)     g = tanh(z_g)          [coupled]: f = 1 - i
        c = f c_old + i g          o = s(z_o + p_o c)         m = o tanh(N(c))

    with `clip` on what the gates' activations take, `cell_clip` on c and `cell_activation` for tanh.
    """
    xp, peepholes = backend.xp, variant.peepholes
    i, f, g, o = split_gates(z)
    if peepholes is not None:
        i += peepholes[0, ...] * c_old
        f += peepholes[1, ...] * c_old
    i[...] = _gate(xp, variant, i)
    f[...] = 1 - i if variant.coupled else _gate(xp, variant, f)
    g[...] = _activation(xp, variant, _limited(xp, g, variant.clip))
    c[...] = _limited(xp, f * c_old + i * g, variant.cell_clip)
    if peepholes is not None:
        o += peepholes[2, ...] * c
    o[...] = _gate(xp, variant, o)
    m[...] = o * _activation(xp, variant, _output_input(xp, variant, c)[0])


def cell_backward(
    backend: Backend, variant: Variant, gates: Array, c_old: Array, c: Array, dm: Array, dc: Array,
    gradients: dict[str, Array],
) -> None:  # fmt: skip
    """One cell's derivatives: gates (B, 4H) become dz; dc (B, H), all that arrives at c, becomes dc of c_old.

    dm (B, H) is all that arrives at m. ``gain_c`` and ``shift_c`` of `gradients` grow by this step's share.
    """
    xp, peepholes = backend.xp, variant.peepholes
    i, f, g, o = (xp.asarray(gate, copy=True) for gate in split_gates(gates))
    u, y, scale = _output_input(xp, variant, c)
    output = _activation(xp, variant, u)
    du = dm * o * _activation_slope(xp, variant, output)
    if variant.gain_c is not None:
        gradients["gain_c"] += xp.sum(du * y, axis=0)
        gradients["shift_c"] += xp.sum(du, axis=0)
        du = normalise_backward(xp, du * variant.gain_c, y, scale)
    dc += du
    dz_o = dm * output * _gate_slope(xp, variant, o)
    if peepholes is not None:
        dc += peepholes[2, ...] * dz_o
    if math.isfinite(variant.cell_clip):
        dc[...] = xp.where(xp.abs(c) < variant.cell_clip, dc, xp.zeros_like(dc))
    di, df, dg = dc * g, dc * c_old, dc * i
    if variant.coupled:
        di, df = di - df, xp.zeros_like(df)
    dz_i = di * _gate_slope(xp, variant, i)
    dz_f = df * _gate_slope(xp, variant, f)
    limits = moving(variant, float(xp.finfo(g.dtype).eps))[2:]
    dz_g = dg * _within(xp, _between(g, *limits), _activation_slope(xp, variant, g))
    for part, value in zip(split_gates(gates), (dz_i, dz_f, dz_g, dz_o), strict=True):
        part[...] = value
    dc *= f
    if peepholes is not None:
        dc += peepholes[0, ...] * dz_i + peepholes[1, ...] * dz_f


def bounds(variant: Variant) -> tuple[float, float]:
    """Return the least and largest gate i, f, o that `clip` and the hard sigmoid allow; infinite without them."""
    if variant.hard_sigmoid:
        most = min(0.2 * variant.clip + 0.5, 1.0)
    elif math.isfinite(variant.clip):
        most = 1 / (1 + math.exp(-variant.clip))
    else:
        return -math.inf, math.inf
    return 1 - most, most


def bounds_of_g(variant: Variant) -> tuple[float, float]:
    """Return the same of g, which `clip` alone limits; infinite, too, where tanh rounds its limits to its own."""
    leak = ACTIVATIONS[variant.cell_activation]
    if leak is not None:
        return (-leak * variant.clip if leak else -math.inf), variant.clip
    most = math.tanh(variant.clip)
    return (-math.inf, math.inf) if most == 1.0 else (-most, most)


def moving(variant: Variant, eps: float) -> tuple[float, float, float, float]:
    """Return between which values the gates i, f, o and between which g move with their pre-activations.

    Elsewhere they are at their bounds, up to rounding with numbers of precision `eps`.
    """
    least = 1.0 if ACTIVATIONS[variant.cell_activation] is None else 0.0
    low, high, g_low, g_high = limits = *bounds(variant), *bounds_of_g(variant)
    rounding = [
        4 * eps * max(size, abs(limit)) if math.isfinite(limit) else 0.0
        for limit, size in zip(limits, (1.0, 1.0, least, least), strict=True)
    ]
    return low + rounding[0], high - rounding[1], g_low + rounding[2], g_high - rounding[3]


def _gate(xp: Any, variant: Variant, z: Array) -> Array:
    z = _limited(xp, z, variant.clip)
    return xp.clip(0.2 * z + 0.5, 0.0, 1.0) if variant.hard_sigmoid else 0.5 * xp.tanh(0.5 * z) + 0.5


def _gate_slope(xp: Any, variant: Variant, gate: Array) -> Array:
    """Derivative of a gate by its pre-activation, from the activated gate."""
    slope = xp.full_like(gate, 0.2) if variant.hard_sigmoid else gate * (1 - gate)
    limits = moving(variant, float(xp.finfo(gate.dtype).eps))[:2]
    return _within(xp, _between(gate, *limits), slope)


def _activation(xp: Any, variant: Variant, x: Array) -> Array:
    leak = ACTIVATIONS[variant.cell_activation]
    return xp.tanh(x) if leak is None else xp.where(x > 0, x, leak * x)


def _activation_slope(xp: Any, variant: Variant, y: Array) -> Array:
    """Derivative of the cell's activation by its argument, from its value."""
    leak = ACTIVATIONS[variant.cell_activation]
    return 1 - y * y if leak is None else xp.where(y > 0, xp.ones_like(y), xp.full_like(y, leak))


def _between(x: Array, low: float, high: float) -> Array | None:
    """Where x is between the two; None where they are infinite."""
    return None if high == math.inf else (x > low) & (x < high)


def _mixed(share: Array | float, old: Array, new: Array) -> Array:
    """Return that share of `old`, the rest of `new`; exactly one of them where the share is 1 or 0."""
    return share * old + (1 - share) * new


def _limited(xp: Any, x: Array, limit: float) -> Array:
    return xp.clip(x, -limit, limit) if math.isfinite(limit) else x


def _output_input(xp: Any, variant: Variant, c: Array) -> tuple[Array, Array, Array]:
    """What the output's tanh takes, from c; with the normalised c and its scale where that is normalised."""
    if variant.gain_c is None:
        return c, c, c
    y, scale = normalise(xp, c)
    return y * variant.gain_c + variant.shift_c, y, scale


def _within(xp: Any, valid: Array | None, x: Array) -> Array:
    """`x` where `valid`, else 0."""
    return x if valid is None else xp.where(valid, x, xp.zeros_like(x))
