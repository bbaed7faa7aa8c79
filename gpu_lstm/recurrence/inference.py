"""A layer of the plain LSTM for inference in one call of compiled code.

For few sequences, or a step a call, where what stands around a product and a recurrence takes longer than they do; and
for many, whose x W_ih^T needn't be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gpu_lstm.backend import Array, Backend
from gpu_lstm.native import compiled, kept
from gpu_lstm.native.kept import Made
from gpu_lstm.recurrence import cpu, quantized
from gpu_lstm.recurrence.quantized import Quantized

Infer = Callable[..., tuple[Array, Array]]
"""As `on_cpu`."""
NEVER = 1 << 62, 0
"""Is the state rounded: after so many steps, to no places."""
CHUNK = 1 << 22
"""Bytes of z at a time: few enough for a last cache, and so many that threads seldom wait for each other."""
LEAST_ROWS = 192
"""Of z at a time, as many as the product wants."""


def on_cpu(
    backend: Backend,
    x: Array,
    hidden: int,
    weight_ih: Made,
    bias: Array | None,
    weight_hh: Made,
    h0: Array | None,
    c0: Array | None,
    h: Array | None = None,
    rounding: tuple[int, int] = NEVER,
) -> tuple[Array, Array]:
    """Run a layer over x (T, B, D), as `gpu_lstm.ops` and the tier do, to the last bit.

    `h` is a place for what comes back. `rounding`: after how many steps h and c are rounded, each time, and to how many
    binary places.

    Returns
    -------
    h : (T+1, B, H)
        Slot 0 is the initial state.
    c : (1, B, H)
        After the last step.
    """
    steps, batch, inputs = x.shape
    some, h, c = _begun(backend, x, hidden, h0, c0, h)
    around = compiled.threads_for(steps * batch * 4 * hidden * inputs, hidden // 16)
    compiled.call(
        "infer", x.dtype, steps, batch, inputs, hidden, x, weight_ih(kept.for_product), bias,
        weight_hh(kept.for_recurrence), some, h, c, around, *cpu.shared_out(steps, batch, hidden), *rounding,
    )  # fmt: skip
    return h, c


def quantized_on_cpu(
    backend: Backend,
    x: Array,
    hidden: int,
    weight_ih: Made,
    bias: Array | None,
    weight_hh: Made,
    h0: Array | None,
    c0: Array | None,
    h: Array | None = None,
    rounding: tuple[int, int] = NEVER,
) -> tuple[Array, Array]:
    """The same with weights of few bits, as `gpu_lstm.recurrence.quantized` does it, to the last bit."""
    steps, batch, inputs = x.shape
    some, h, c = _begun(backend, x, hidden, h0, c0, h)
    ih, hh = weight_ih(Quantized.packed), weight_hh(Quantized.packed)
    compiled.call(
        "quantized_infer" + compiled.vnni(), x.dtype, steps, batch, inputs, hidden, weight_hh(Quantized.bits), ih.size,
        hh.size, x, ih, bias, hh, some, h, c, quantized.around(ih, steps * batch, hidden),
        *quantized.shared_out(hh, batch), *rounding,
    )  # fmt: skip
    return h, c


def _begun(
    backend: Backend, x: Array, hidden: int, h0: Array | None, c0: Array | None, h: Array | None
) -> tuple[int, Array, Array]:
    """How many steps at a time; h and c with the initial state."""
    steps, batch, _ = x.shape
    rows = max(CHUNK // (4 * hidden * x.itemsize), LEAST_ROWS)
    some = max(1, min(steps, rows // max(batch, 1)))
    h = backend.empty((steps + 1, batch, hidden), x.dtype) if h is None else h
    c = backend.empty((1, batch, hidden), x.dtype)
    h[0] = 0 if h0 is None else h0
    c[0] = 0 if c0 is None else c0
    return some, h, c


WHOLE: Mapping[object, Infer] = {cpu.forward: on_cpu, quantized.COMPILED.forward: quantized_on_cpu}
"""By a tier's `forward`, so that whoever wraps a tier has what he wraps."""
