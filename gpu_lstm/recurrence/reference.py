"""The reference tier: the LSTM equations and their derivatives as array expressions.

The same code runs on every backend, and in float64 on NumPy it is the oracle of all other tiers.

Sources: S. Hochreiter and J. Schmidhuber, Long Short-Term Memory, Neural Computation 9(8), 1997;
F. Gers, J. Schmidhuber and F. Cummins, Learning to Forget, Neural Computation 12(10), 2000 (forget gate);
P. Werbos, Backpropagation Through Time, Proc. IEEE 78(10), 1990.
"""

from __future__ import annotations

from typing import Any

from gpu_lstm.backend import Array, Backend, into
from gpu_lstm.recurrence import family
from gpu_lstm.recurrence.problem import (
    Arriving,
    Gradients,
    Problem,
    Saved,
    begin,
    gradients_at_the_end,
    slots,
    split_gates,
    transposed,
)
from gpu_lstm.recurrence.tier import Tier, each, one_by_one
from gpu_lstm.recurrence.variant import OPTIONS


def forward(backend: Backend, problem: Problem) -> Saved:
    """Run the recurrence of a `problem` over all steps.

    Per step, with z_t the input's share of the pre-activations::

        i, f, o = sigmoid(z_t + h_{t-1} W_hh^T)     g = tanh(z_t + h_{t-1} W_hh^T)
        c_t = f c_{t-1} + i g                       h_t = o tanh(c_t)

    With a variant, `gpu_lstm.recurrence.family` runs. This tier keeps everything in any case: states and gates of every
    step; ``saved.outputs`` is h_t, ``saved.last`` the final state.
    """
    if problem.variant is not None:
        return family.forward(backend, problem)
    z, mask, reverse = problem.z, problem.mask, problem.reverse
    xp = backend.xp
    num_steps, batch, width = z.shape
    hidden = width // 4
    h = backend.empty((num_steps + 1, batch, hidden), z.dtype)
    c = backend.empty((num_steps + 1, batch, hidden), z.dtype)
    begin(problem, h, c)
    weight_t = transposed(backend, problem.weight_hh)
    scale, shift = gate_constants(backend, batch, width, z.dtype)
    from_h = xp.empty((batch, width), dtype=z.dtype)
    for t, before, after in slots(num_steps, reverse):
        z_t, h_t, c_t = z[t, ...], h[after, ...], c[after, ...]
        z_t += backend.matmul(h[before, ...], weight_t, out=from_h)
        cell_forward(backend, z_t, c[before, ...], c_t, h_t, scale, shift)
        if mask is not None and not mask.full(t):
            h_t[...] = xp.where(mask.valid[t, ...], h_t, h[before, ...])
            c_t[...] = xp.where(mask.valid[t, ...], c_t, c[before, ...])
    return Saved(h, c, z, problem.weight_hh, mask, reverse)


def backward(backend: Backend, arriving: Arriving) -> Gradients:
    """Backpropagate what is `arriving` through all steps, along h and c; dz lies in the memory of ``saved.gates``.

    With a variant, or with gradients of c at every step, `gpu_lstm.recurrence.family` runs.
    """
    saved, dh = arriving.saved, arriving.dh
    if saved.variant is not None or arriving.dc is not None:
        return family.backward(backend, arriving)
    xp = backend.xp
    gates, h, c, mask = saved.gates, saved.h, saved.c, saved.mask
    num_steps = gates.shape[0]
    dh_t, dc_t = gradients_at_the_end(backend, arriving, h.shape[1:], c.shape[1:], h.dtype)
    for t, before, after in reversed(slots(num_steps, saved.reverse)):
        dz_t = gates[t, ...]
        if mask is None or mask.full(t):
            if dh is not None:
                dh_t += dh[t, ...]
            cell_backward(backend, dz_t, c[before, ...], c[after, ...], h[after, ...], dh_t, dc_t)
            backend.matmul(dz_t, saved.weight_hh, out=dh_t)
        else:
            # A sequence that has no step t hands its state, and so the state's gradient, through unchanged.
            valid = mask.valid[t, ...]
            dh_here, dc_here = dh_t, xp.asarray(dc_t, copy=True)
            if dh is not None:
                dh_here = xp.where(valid, dh_t + dh[t, ...], dh_t)
            cell_backward(backend, dz_t, c[before, ...], c[after, ...], h[after, ...], dh_here, dc_here)
            dz_t[...] = xp.where(valid, dz_t, xp.zeros_like(dz_t))
            dh_t = xp.where(valid, xp.matmul(dz_t, saved.weight_hh), dh_t)
            dc_t = xp.where(valid, dc_here, dc_t)
    return Gradients(gates, dh_t, dc_t)


def cell_forward(backend: Backend, z: Array, c_before: Array, c: Array, h: Array, scale: Array, shift: Array) -> None:
    """One cell: from c_before and z (B, 4H), which becomes the activated gates, c and h (B, H) are written.

    sigmoid(z) = tanh(z/2)/2 + 1/2, so one tanh does all four gates (scale, shift) and nothing can overflow.
    """
    z *= scale
    into(backend, backend.xp.tanh, z, out=z)
    z *= scale
    z += shift
    i, f, g, o = split_gates(z)
    into(backend, backend.xp.multiply, f, c_before, out=c)
    c += i * g
    into(backend, backend.xp.tanh, c, out=h)
    h *= o


def cell_backward(backend: Backend, gates: Array, c_before: Array, c: Array, h: Array, dh: Array, dc: Array) -> None:
    """One cell's derivatives: gates (B, 4H) become dz, dc (B, H) at this step becomes dc before it.

    With dh and dc all that arrives at this step's h and c::

        do = dh tanh(c)      dc += dh o (1 - tanh(c)^2)      di = dc g   df = dc c_before   dg = dc i
        dz_i = di i(1-i)     dz_f = df f(1-f)     dz_g = dg (1-g)(1+g)   dz_o = do o(1-o)   dc_before = dc f

    As h = o tanh(c), the second is dc += dh (o - h tanh(c)).
    """
    i, f, g, o = split_gates(gates)
    tanh_c = backend.xp.tanh(c)
    through = tanh_c * h
    through -= o
    through *= dh
    dc -= through
    tanh_c *= dh
    slope = 1 - gates
    di, df, dg, do = split_gates(slope)
    di *= dc
    di *= g
    df *= dc
    df *= c_before
    dg *= dc
    dg *= i
    do *= tanh_c
    dc *= f
    g += 1
    gates *= slope


def gate_constants(backend: Backend, batch: int, width: int, dtype: Any) -> tuple[Array, Array]:
    """Two (`batch`, `width` = 4H) in `dtype`, to treat the gates alike: activation = scale tanh(scale z) + shift.

    Full size, because NumPy multiplies equal shapes twice as fast as a matrix by a row.
    """
    xp, n = backend.xp, width // 4
    scale = xp.full((batch, width), 0.5, dtype=dtype)
    shift = xp.full((batch, width), 0.5, dtype=dtype)
    scale[:, 2 * n : 3 * n] = 1.0
    shift[:, 2 * n : 3 * n] = 0.0
    return scale, shift


TIER = Tier(OPTIONS, lambda *_: "", one_by_one, each(forward), each(backward))
