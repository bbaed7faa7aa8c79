"""What ``auto`` runs on a GPU: the sequence tier, or pointwise where that is expected to be faster or has to be.

It has to be for options that the sequence tier doesn't take.

Both save the same, so forward and backward choose by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from gpu_lstm.backend import Array, Backend
from gpu_lstm.backend.cuda import CudaBackend
from gpu_lstm.recurrence.cuda import onchip
from gpu_lstm.recurrence.cuda import pointwise as pointwise_cuda
from gpu_lstm.recurrence.cuda import sequence as sequence_cuda
from gpu_lstm.recurrence.problem import Mask, Saved, Tier
from gpu_lstm.recurrence.together import Gradients, Problem, Round
from gpu_lstm.recurrence.variant import Variant

TAKES = sequence_cuda.TAKES | pointwise_cuda.TAKES


def forward(
    backend: Backend,
    z: Array,
    weight_hh: Array,
    h0: Array | None,
    c0: Array | None,
    mask: Mask | None = None,
    reverse: bool = False,
    keep: bool = True,
    variant: Variant | None = None,
) -> Saved:
    """Run the recurrence over all steps; see `gpu_lstm.recurrence.reference.forward`."""
    tier = _tier(backend, "forward", z, variant)
    return tier.forward(backend, z, weight_hh, h0, c0, mask, reverse, keep, variant)


def backward(
    backend: Backend,
    saved: Saved,
    dh: Array | None,
    dh_last: Array | None,
    dc_last: Array | None,
    dc: Array | None = None,
) -> Gradients:
    """Backpropagate through all steps; see `gpu_lstm.recurrence.reference.backward`."""
    tier = _tier(backend, "backward", saved.gates, saved.variant, cells=dc is not None)
    return tier.backward(backend, saved, dh, dh_last, dc_last, dc)


def forward_all(backend: Backend, problems: Sequence[Problem]) -> list[Saved]:
    """`forward` of each; at once where the sequence tier takes all."""
    if all(_tier(backend, "forward", problem[0], *problem[7:8]) is sequence_cuda for problem in problems):
        return sequence_cuda.forward_all(backend, problems)
    return [forward(backend, *problem) for problem in problems]


def backward_all(backend: Backend, problems: Sequence[Problem]) -> list[Gradients]:
    """`backward` of each, likewise."""
    tiers = [
        _tier(backend, "backward", saved.gates, saved.variant, cells=len(rest) > 3 and rest[3] is not None)
        for saved, *rest in problems
    ]
    if all(tier is sequence_cuda for tier in tiers):
        return sequence_cuda.backward_all(backend, problems)
    return [backward(backend, *problem) for problem in problems]


def layers_at_once(backend: Backend, direction: str, batch: int, hidden: int, dtype: str, layers: int) -> int:
    """How many of so many layers run in one launch: none where one alone is left to the pointwise tier."""
    device = cast(CudaBackend, backend)
    if not onchip.pays(device.limits, direction, batch, hidden, onchip.multiplied(device, dtype)):
        return 1
    return sequence_cuda.layers_at_once(backend, direction, batch, hidden, dtype, layers)


forward_stack, backward_stack = sequence_cuda.forward_stack, sequence_cuda.backward_stack


def room_beside(backend: Backend, recurrences: Round, multiply_adds: int) -> bool:
    """That of the sequence tier, where it is the one that runs."""
    device = cast(CudaBackend, backend)
    direction, (_, batch, hidden), dtype, options, _ = recurrences
    problem = direction, batch, hidden, onchip.multiplied(device, dtype), onchip.cells_of(direction, options)
    on_chip = onchip.pays(device.limits, *problem)
    return on_chip and sequence_cuda.room_beside(backend, recurrences, multiply_adds)


def _tier(backend: Backend, direction: str, z: Array, variant: Variant | None = None, cells: bool = False) -> Tier:
    wanted = (frozenset() if variant is None else variant.options()) | ({"cells"} if cells else frozenset())
    if not wanted <= sequence_cuda.TAKES:
        return pointwise_cuda
    _, batch, hidden, dtype = pointwise_cuda.check_z(backend, z)
    device = cast(CudaBackend, backend)
    dtype, kind = onchip.multiplied(device, dtype), onchip.cells_of(direction, wanted)
    on_chip = onchip.pays(device.limits, direction, batch, hidden, dtype, kind)
    return sequence_cuda if on_chip else pointwise_cuda
