"""A variant as compiled code takes it: what ``Options`` of kernels/cell/options.h has, in its order."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu_lstm.backend import Array, Backend
from gpu_lstm.errors import InputError
from gpu_lstm.recurrence import family
from gpu_lstm.recurrence.variant import ACTIVATIONS, EPSILON, Variant

PARAMETERS = ("peepholes", "gain_hh", "gain_c", "shift_c")
"""Arrays of `Variant` in the dtype of sums, which no product takes."""
STATES = ("zoneout_h", "zoneout_c", "recurrent_mask", "live")
"""Those in the dtype of h."""
PRECISION = {"float32": 2.0**-23, "float64": 2.0**-52, "float16": 2.0**-13, "bfloat16": 2.0**-10}
"""Spacing of numbers about 1; of 16-bit ones an eighth of it, for they are rounded once, in memory."""


def numbers(variant: Variant, dtype: str) -> dict[str, float | int]:
    """Return the numbers, by their names in C++; `dtype` is that of h.

    Gates i, f, o move with their pre-activations between `gate_low` and `gate_high`, g between `g_low` and `g_high`.
    """
    leak = ACTIVATIONS[variant.cell_activation]
    low, high, g_low, g_high = family.moving(variant, PRECISION[dtype])
    return {
        "clip": float(variant.clip), "cell_clip": float(variant.cell_clip), "gate_low": low, "gate_high": high,
        "g_low": g_low, "g_high": g_high, "share_h": _share(variant.zoneout_h), "share_c": _share(variant.zoneout_c),
        "epsilon": EPSILON, "leak": leak or 0.0, "coupled": int(variant.coupled),
        "hard_sigmoid": int(variant.hard_sigmoid), "rectified": int(leak is not None),
    }  # fmt: skip


def arrays(variant: Variant) -> tuple[Array | None, ...]:
    """Return the arrays; of zoneout as one number there is none."""
    return tuple(_array(getattr(variant, name)) for name in PARAMETERS + STATES)


def struct(variant: Variant, dtype: str, sums: str) -> tuple[Any, ...]:
    """Return all of it as a CUDA kernel takes a struct; `sums` is the dtype of sums."""
    number = np.dtype(sums).type
    values = numbers(variant, dtype).values()
    return (*(np.int32(n) if isinstance(n, int) else number(n) for n in values), *arrays(variant))


def listed(variant: Variant, dtype: str) -> tuple[Any, ...]:
    """Return all of it as an entry of the CPU's library takes it."""
    values = np.array(list(numbers(variant, dtype).values()), np.float64)
    return (len(values), values, *arrays(variant))


def check(backend: Backend, variant: Variant, sizes: tuple[int, int, int, int], dtype: str, sums: str) -> None:
    """Refuse a variant whose arrays don't fit T, B, H and P of `sizes`, the `dtype` of h, and that of `sums`.

    Raises InputError where an array has another shape, dtype or device, or a part of layer normalisation is missing.
    """
    gates = f"4H={4 * sizes[2]}"
    steps, batch, hidden, size = (f"{name}={n}" for name, n in zip("TBHP", sizes, strict=True))
    shapes = {
        "peepholes": (3, hidden), "gain_hh": (gates,), "gain_c": (hidden,), "shift_c": (hidden,),
        "zoneout_h": (steps, batch, size), "zoneout_c": (steps, batch, hidden), "recurrent_mask": (batch, size),
        "live": (steps, batch, 1), "projection": (size, hidden),
    }  # fmt: skip
    for name, shape in shapes.items():
        if (array := _array(getattr(variant, name))) is not None:
            backend.require(name, array, shape, sums if name in PARAMETERS else dtype)
    if len({part is None for part in (variant.gain_hh, variant.gain_c, variant.shift_c)}) > 1:
        raise InputError("gain_hh, gain_c and shift_c go together; expected all three or none")


def _array(value: Any) -> Array | None:
    """Return the array, of an array or one number."""
    return None if isinstance(value, float) else value


def _share(zoneout: Array | float | None) -> float:
    """Return zoneout where it is one number for all elements, else 0."""
    return zoneout if isinstance(zoneout, float) else 0.0
