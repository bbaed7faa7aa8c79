"""A layer of the plain LSTM for inference in one call of compiled code.

For few sequences, or a step a call, where what stands around a product and a recurrence takes longer than they do; and
for many, whose x W_ih^T needn't be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gpu_lstm.backend import Array, Backend
from gpu_lstm.native import compiled, kept
from gpu_lstm.native.kept import Made
from gpu_lstm.native.prepared import prepare
from gpu_lstm.recurrence import cpu, quantized
from gpu_lstm.recurrence.quantized import Quantized

Infer = Callable[[Array, Array, Array], None]
"""Runs a layer over x (T, B, D), as `gpu_lstm.ops` and the tier do, to the last bit. It fills h (T+1, B, H), whose slot
0 is the initial state, and makes c (1, B, H) of before the first step that of after the last one."""
Prepare = Callable[..., Infer]
"""As `on_cpu`."""
NEVER = 1 << 62, 0
"""Is the state rounded: after so many steps, to no places."""
CHUNK = 1 << 22
"""Bytes of z at a time: few enough for a last cache, and so many that threads seldom wait for each other."""
LEAST_ROWS = 192
"""Of z at a time, as many as the product wants."""


def on_cpu(
    x: Array,
    h: Array,
    c: Array,
    weight_ih: Made,
    bias: Array | None,
    weight_hh: Made,
    rounding: tuple[int, int] = NEVER,
) -> Infer:
    """Return what runs a layer over arrays like these, as long as the weights stay as they are.

    `rounding`: after how many steps h and c are rounded, each time, and to how many binary places.
    """
    (steps, batch, inputs), hidden = x.shape, h.shape[2]
    around = compiled.threads_for(steps * batch * 4 * hidden * inputs, hidden // 16)
    return prepare(
        "infer", x.dtype, ("x", "h", "c"), steps, batch, inputs, hidden, x, weight_ih(kept.for_product), bias,
        weight_hh(kept.for_recurrence), _at_once(x, h), h, c, around, *cpu.shared_out(steps, batch, hidden), *rounding,
    )  # fmt: skip


def quantized_on_cpu(
    x: Array,
    h: Array,
    c: Array,
    weight_ih: Made,
    bias: Array | None,
    weight_hh: Made,
    rounding: tuple[int, int] = NEVER,
) -> Infer:
    """The same with weights of few bits, as `gpu_lstm.recurrence.quantized` does it, to the last bit."""
    (steps, batch, inputs), hidden = x.shape, h.shape[2]
    ih, hh = weight_ih(Quantized.packed), weight_hh(Quantized.packed)
    return prepare(
        "quantized_infer" + compiled.vnni(), x.dtype, ("x", "h", "c"), steps, batch, inputs, hidden,
        weight_hh(Quantized.bits), ih.size, hh.size, x, ih, bias, hh, _at_once(x, h), h, c,
        quantized.around(ih, steps * batch, hidden), *quantized.shared_out(hh, batch), *rounding,
    )  # fmt: skip


def begun(
    backend: Backend,
    shape: tuple[int, int, int],
    dtype: object,
    h0: Array | None = None,
    c0: Array | None = None,
    h: Array | None = None,
) -> tuple[Array, Array]:
    """Return h, or one of `shape` (T+1, B, H), and c (1, B, H) for an `Infer`, with the initial state; None is zero."""
    _, batch, hidden = shape
    h = backend.empty(shape, dtype) if h is None else h
    c = backend.empty((1, batch, hidden), dtype)
    h[0] = 0 if h0 is None else h0
    c[0] = 0 if c0 is None else c0
    return h, c


def _at_once(x: Array, h: Array) -> int:
    """Of how many steps z is computed at a time."""
    steps, (_, batch, hidden) = len(x), h.shape
    rows = max(CHUNK // (4 * hidden * x.itemsize), LEAST_ROWS)
    return int(max(1, min(steps, rows // max(batch, 1))))


WHOLE: Mapping[object, Prepare] = {cpu.forward: on_cpu, quantized.COMPILED.forward: quantized_on_cpu}
"""By a tier's `forward`, so that whoever wraps a tier has what he wraps."""
