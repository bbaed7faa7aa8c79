"""Which CUDA kernels a device will be asked for: to compile them before."""

from __future__ import annotations

from itertools import product

from gpu_lstm.native import catalogue, kernels
from gpu_lstm.native.kernels import Kernel
from gpu_lstm.native.launch import Device
from gpu_lstm.recurrence.cuda import planner
from gpu_lstm.recurrence.cuda.layout import DIRECTIONS

DTYPES = ("float16", "float32", "bfloat16", "tf32", "float64")
"""In which matrices are multiplied, first what is compared most."""
SIZES = ((16, 768), (64, 512), (16, 1024), (16, 256), (1, 256))
"""Batch and hidden sizes that are asked for most."""
OF_EVERY_MODEL = ("take_rows", "cross_entropy", "mean_loss", "sum_of_squares", "norm_of_sums")
"""Kernels by the dtype that parameters and logits are computed in."""


def of_training(device: Device, dtype: str) -> list[Kernel]:
    """What ``auto`` may take for plain LSTMs of any size, and models of them, in that dtype or "tf32".

    First those that every model needs, then those of `SIZES`.
    """
    stored = "float32" if dtype == "tf32" else dtype
    wide, width = kernels.ARITHMETIC[stored], kernels.neighbours(stored)  # parameters and logits are wide
    found = [
        catalogue.kernel("check_range"),
        *(catalogue.kernel(name, wide) for name in OF_EVERY_MODEL),
        catalogue.kernel("scatter_add", wide, catalogue.SCATTER_WARPS),
        catalogue.kernel("dropout", stored, 4),
        catalogue.kernel("update", wide, "adam"),
        catalogue.kernel("gates_backward", stored, width, False),
        *(catalogue.kernel("gates_forward", stored, width, keep, False) for keep in (True, False)),
    ]
    for (batch, hidden), direction in product(SIZES, DIRECTIONS):
        problem = device, direction, batch, hidden, dtype
        layouts = [planner.choose(*problem), planner.choose_pair(*problem), planner.choose_layers(*problem, layers=3)]
        found += [layout.kernel for layout in layouts if not isinstance(layout, str)]
    for direction, form in product(DIRECTIONS, catalogue.FORMS):
        sizes = catalogue.sequence_sizes(direction, dtype, form)
        found += [catalogue.sequence(direction, dtype, form, *size) for size in sizes]
    return _launched(device, found)


def of_everything(device: Device) -> list[Kernel]:
    """All that the device can run: what training takes, in the order of `DTYPES`, then the rest."""
    usual = [kernel for dtype in DTYPES for kernel in of_training(device, dtype)]
    return _launched(device, [*usual, *catalogue.every_kernel()])


def _launched(device: Device, found: list[Kernel]) -> list[Kernel]:
    """Each once, of those that the device can run."""
    return [
        kernel
        for kernel in dict.fromkeys(found)
        if kernel.since <= device.capability
        and (device.cooperative or not kernel.cooperative)
        and (device.clusters or not kernel.cooperative or kernel.cluster == 1)
    ]
