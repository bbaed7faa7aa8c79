"""A variant as compiled code takes it: what ``Options`` of kernels/cell/options.h has, in its order."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpu_lstm.backend import Array
from gpu_lstm.recurrence import family
from gpu_lstm.recurrence.variant import EPSILON, Variant

ARRAYS = ("peepholes", "gain_hh", "gain_c", "shift_c", "zoneout_h", "zoneout_c", "recurrent_mask", "live")
"""Those of `Variant`; the parameters, which come first, are in the dtype of sums."""
PRECISION = {"float32": 2.0**-23, "float64": 2.0**-52, "float16": 2.0**-13, "bfloat16": 2.0**-10}
"""Spacing of numbers about 1; of 16-bit ones an eighth of it, for they are rounded once, in memory."""


def numbers(variant: Variant, dtype: str) -> dict[str, float | int]:
    """The numbers, by their names in C++; `dtype` is that of h.

    Beyond `gate_low` and `gate_high` a gate i, f, o is at one of its `family.bounds`, up to rounding, and beyond `g_low`
    and `g_high` is g: there they don't move with their pre-activations.
    """
    clipped, margin = math.isfinite(variant.clip), 4 * PRECISION[dtype]
    low, high = family.bounds(variant) if clipped or variant.hard_sigmoid else (-math.inf, math.inf)
    g_low, g_high = family.bounds_of_g(variant)
    return {
        "clip": variant.clip,
        "cell_clip": variant.cell_clip,
        "gate_low": low + margin,
        "gate_high": high - margin,
        "g_low": g_low + margin,
        "g_high": g_high - margin,
        "share_h": _share(variant.zoneout_h),
        "share_c": _share(variant.zoneout_c),
        "epsilon": EPSILON,
        "coupled": int(variant.coupled),
        "hard_sigmoid": int(variant.hard_sigmoid),
    }


def arrays(variant: Variant) -> tuple[Array | None, ...]:
    """The arrays; of zoneout as one number there is none."""
    values = [getattr(variant, name) for name in ARRAYS]
    return tuple(None if isinstance(value, float) else value for value in values)


def struct(variant: Variant, dtype: str, sums: str) -> tuple[Any, ...]:
    """All of it as a CUDA kernel takes a struct, with numbers in `sums`, the dtype of sums."""
    number = np.dtype(sums).type
    values = numbers(variant, dtype).values()
    return (*(np.int32(n) if isinstance(n, int) else number(n) for n in values), *arrays(variant))


def listed(variant: Variant, dtype: str) -> tuple[Any, ...]:
    """All of it as an entry of the CPU's library takes it."""
    values = np.array(list(numbers(variant, dtype).values()), np.float64)
    return (len(values), values, *arrays(variant))


def _share(zoneout: Array | float | None) -> float:
    """Zoneout where it is one number for all elements, else 0."""
    return zoneout if isinstance(zoneout, float) else 0.0
