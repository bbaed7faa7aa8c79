"""Which CUDA kernels a device will be asked for: to compile them before."""

from __future__ import annotations

from itertools import product

from gpu_lstm.native import kernels
from gpu_lstm.native.kernels import Kernel
from gpu_lstm.native.launch import Device
from gpu_lstm.recurrence.cuda import onchip

DTYPES = ("float16", "float32", "bfloat16", "tf32", "float64")
"""In which matrices are multiplied, first what is compared most."""
SIZES = ((16, 768), (64, 512), (16, 1024), (16, 256), (1, 256))
"""Batch and hidden sizes that are asked for most."""


def of_training(device: Device, dtype: str) -> list[Kernel]:
    """What ``auto`` may take for plain LSTMs of any size, and models of them, in that dtype or "tf32".

    First those that every model needs, then those of `SIZES`.
    """
    stored = "float32" if dtype == "tf32" else dtype
    wide, width = kernels.ARITHMETIC[stored], kernels.neighbours(stored)  # parameters and logits are wide
    found = [
        *(kernels.check_range(), kernels.take_rows(wide), kernels.scatter_add(wide), kernels.dropout(stored, 4)),
        *(kernels.cross_entropy(wide), kernels.mean_loss(wide), kernels.sum_of_squares(wide)),
        *(kernels.norm_of_sums(wide), kernels.update(wide, "adam"), kernels.gates_backward(stored, width, False)),
        *(kernels.gates_forward(stored, width, keep, False) for keep in (True, False)),
    ]
    for (batch, hidden), direction in product(SIZES, onchip.DIRECTIONS):
        problem = device, direction, batch, hidden, dtype
        layouts = [onchip.choose(*problem), onchip.choose_pair(*problem), onchip.choose_layers(*problem, layers=3)]
        found += [layout.kernel for layout in layouts if not isinstance(layout, str)]
    for direction, form in product(onchip.DIRECTIONS, kernels.FORMS):
        sizes = kernels.sequence_sizes(direction, dtype, form)
        found += [kernels.sequence(direction, dtype, form, *size) for size in sizes]
    return _launched(device, found)


def of_everything(device: Device) -> list[Kernel]:
    """All that the device can run: what training takes, in the order of `DTYPES`, then the rest."""
    usual = [kernel for dtype in DTYPES for kernel in of_training(device, dtype)]
    return _launched(device, [*usual, *kernels.every_kernel()])


def _launched(device: Device, found: list[Kernel]) -> list[Kernel]:
    """Each once, of those that the device can run."""
    return [
        kernel
        for kernel in dict.fromkeys(found)
        if kernel.since <= device.capability
        and (device.cooperative or not kernel.cooperative)
        and (device.clusters or not kernel.cooperative or kernel.cluster == 1)
    ]
