"""What ``auto`` runs on a GPU: the sequence tier, or pointwise where that is expected to be faster or has to be.

It has to be for options that the sequence tier doesn't take. Both save the same, so forward and backward choose by
themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

from gpu_lstm.backend import Array
from gpu_lstm.backend.cuda import CudaBackend
from gpu_lstm.recurrence.cuda import planner, pointwise, sequence
from gpu_lstm.recurrence.cuda.checks import check_z
from gpu_lstm.recurrence.cuda.explain import explain
from gpu_lstm.recurrence.cuda.layout import DIRECTIONS
from gpu_lstm.recurrence.problem import Arriving, Gradients, Problem, Saved
from gpu_lstm.recurrence.tier import Fit, Offer, Tier
from gpu_lstm.recurrence.variant import Variant


def fit(backend: CudaBackend, offer: Offer) -> Fit:
    """Return what the tier gives that runs one layer."""
    dtype, cells = planner.multiplied(backend, offer.dtype), planner.cells_of(offer.direction, offer.options)
    on_chip = planner.pays(backend.limits, offer.direction, offer.batch, offer.hidden, dtype, cells)
    return (sequence.TIER if on_chip else pointwise.TIER).fit(backend, offer)


def forward(backend: CudaBackend, problems: Sequence[Problem]) -> list[Saved]:
    """Run recurrences over all steps, at once where the sequence tier takes all."""
    tiers = [_tier(backend, "forward", one.z, one.variant) for one in problems if not one.below]
    if all(tier is sequence.TIER for tier in tiers):
        return sequence.forward(backend, problems)
    return [tier.forward(backend, [one])[0] for tier, one in zip(tiers, problems, strict=True)]


def backward(backend: CudaBackend, arriving: Sequence[Arriving]) -> list[Gradients]:
    """Backpropagate through all steps, likewise."""
    tiers = [
        _tier(backend, "backward", one.saved.gates, one.saved.variant, one.dc is not None)
        for one in arriving
        if not one.below
    ]
    if all(tier is sequence.TIER for tier in tiers):
        return sequence.backward(backend, arriving)
    return [tier.backward(backend, [one])[0] for tier, one in zip(tiers, arriving, strict=True)]


def _tier(backend: CudaBackend, direction: str, z: Array, variant: Variant | None, cells: bool = False) -> Tier:
    options = (frozenset() if variant is None else variant.options()) | ({"cells"} if cells else frozenset())
    if not options <= sequence.TAKES:
        return pointwise.TIER
    _, batch, hidden, dtype = check_z(backend, z)
    kind = planner.cells_of(direction, options)
    on_chip = planner.pays(backend.limits, direction, batch, hidden, planner.multiplied(backend, dtype), kind)
    return sequence.TIER if on_chip else pointwise.TIER


TIER = Tier(sequence.TAKES | pointwise.TIER.takes, sequence.obstacle, fit, forward, backward)


def words(
    backend: CudaBackend, tier: str, hidden_size: int | None, dtype: str, options: frozenset[str], chosen: bool
) -> str:
    """A tier's kernels in words; `chosen`: by ``auto``."""
    dtype = planner.multiplied(backend, dtype)
    if tier == "pointwise":
        return f"fused CUDA kernels, cuBLAS at each step{' in TF32' if dtype == 'tf32' else ''}"
    if hidden_size is None:
        most = planner.largest(backend.limits, dtype)
        return f"persistent CUDA kernels that keep W_hh on chip, up to H = {most} in {dtype}"
    batch = planner.TYPICAL_BATCH
    plan = explain(backend.limits, batch, hidden_size, dtype, options)
    said = f"persistent CUDA kernels that keep W_hh on chip; at H = {hidden_size}, B = {batch}, {dtype}, {plan}"
    if not chosen:
        return said
    batches = {
        name: planner.most_that_pays(backend.limits, name, hidden_size, dtype, planner.cells_of(name, options))
        for name in DIRECTIONS
    }
    ends = [f"B = {batch} {name}" for name, batch in batches.items() if batch < planner.LARGEST_BATCH]
    return f"{said}; larger batches than {' and '.join(ends)} take the pointwise tier" if ends else said
