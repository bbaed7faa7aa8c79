"""Inference by plain LSTM layers whose tier runs one in one call: what `forward` gives, with little around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gpu_lstm.backend import Array
from gpu_lstm.layers.arguments import stacked
from gpu_lstm.layers.call import Call, Member, Sizes, State
from gpu_lstm.layers.schedule import ONE_SEGMENT
from gpu_lstm.native.kept import Made
from gpu_lstm.recurrence import Tier
from gpu_lstm.recurrence.inference import NEVER as NEVER
from gpu_lstm.recurrence.inference import WHOLE


def fits(tier: Tier, call: Call) -> bool:
    """Return whether a tier has it, and all sequences have all steps, nothing is drawn, and it is one segment."""
    plain = call.mask is None and call.resets is None and call.seed is None
    return plain and call.steps * call.batch <= ONE_SEGMENT and tier.forward in WHOLE


def run(
    sizes: Sizes,
    tier: Tier,
    members: Sequence[Member],
    params: Mapping[str, Array],
    kept: Mapping[str, Made],
    x: Array,
    state: tuple[Array | None, Array | None],
    rounding: tuple[int, int],
) -> tuple[Array, State]:
    """Run all layers over x (T, B, D), `rounding` as `on_cpu` does; either of a State that is None is zero."""
    infer, last = WHOLE[tier.forward], []
    for layer, member in enumerate(members):
        weights = kept[f"weight_ih_{member.name}"], params.get(f"bias_{member.name}"), kept[f"weight_hh_{member.name}"]
        first = (None if array is None else array[layer, ...] for array in state)
        h, c = infer(sizes.backend, x, sizes.hidden_size, *weights, *first, rounding=rounding)
        x = h[1:, ...]
        last.append((h[-1, ...], c[0, ...]))
    h, c = (stacked(sizes.backend.xp, arrays) for arrays in zip(*last, strict=True))
    return x, (h, c)
