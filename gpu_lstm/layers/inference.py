"""Inference by plain LSTM layers whose tier runs one in one call: what `forward` gives, with little around it."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from gpu_lstm.backend import Array
from gpu_lstm.layers.arguments import stacked
from gpu_lstm.layers.call import Call, Member, Sizes, State
from gpu_lstm.layers.schedule import ONE_SEGMENT
from gpu_lstm.native import compiled
from gpu_lstm.native.kept import Made, Make
from gpu_lstm.recurrence import Tier
from gpu_lstm.recurrence.inference import NEVER as NEVER
from gpu_lstm.recurrence.inference import WHOLE, Infer, begun


def fits(tier: Tier, call: Call) -> bool:
    """Return whether a tier has it, and all sequences have all steps, nothing is drawn, and it is one segment."""
    plain = call.mask is None and call.resets is None and call.seed is None
    return plain and call.steps * call.batch <= ONE_SEGMENT and tier.forward in WHOLE


class Ready:
    """Inference over arrays like `x` (T, B, D), with all that it takes looked up and checked once.

    `rounding` as in `gpu_lstm.recurrence.inference`. The same for another x as long as it `fits`.
    """

    def __init__(
        self, sizes: Sizes, tier: Tier, members: Sequence[Member], params: Mapping[str, Array],
        kept: Mapping[str, Made], x: Array, rounding: tuple[int, int] = NEVER,
    ):  # fmt: skip
        self.sizes, self.shape, self.dtype, self.params = sizes, x.shape, x.dtype, list(params.values())
        self.slots = x.shape[0] + 1, x.shape[1], sizes.hidden_size
        self.threads, self.vnni = compiled.threads(), compiled.vnni()
        self.made: list[tuple[Made, Make, Any]] = []
        self.layers: list[Infer] = []
        for name in (member.name for member in members):
            h, c = begun(sizes.backend, self.slots, x.dtype)
            weight_ih, weight_hh = (partial(self._noted, kept[f"weight_{part}_{name}"]) for part in ("ih", "hh"))
            bias = params.get(f"bias_{name}")
            self.layers.append(WHOLE[tier.forward](x, h, c, weight_ih, bias, weight_hh, rounding))
            x = h[1:, ...]

    def _noted(self, made: Made, make: Make) -> Any:
        found = made(make)
        self.made.append((made, make, found))
        return found

    def fits(self, x: Array, params: Mapping[str, Array]) -> bool:
        """Return whether x is like the one before, and parameters and the number of threads are the same."""
        if x not in self.sizes.backend or x.shape != self.shape or x.dtype != self.dtype:
            return False
        if compiled.threads() != self.threads or compiled.vnni() != self.vnni:
            return False
        same = len(params) == len(self.params) and all(map(operator.is_, params.values(), self.params))
        return same and all(made(make) is found for made, make, found in self.made)

    def run(self, x: Array, state: tuple[Array | None, Array | None]) -> tuple[Array, State]:
        """Return y and the state after; either of `state`, which was checked, is zero where it is None."""
        last = []
        for layer, infer in enumerate(self.layers):
            first = (None if array is None else array[layer, ...] for array in state)
            h, c = begun(self.sizes.backend, self.slots, self.dtype, *first)
            infer(x, h, c)
            x = h[1:, ...]
            last.append((h[-1, ...], c[0, ...]))
        if len(last) == 1:
            return x, (h[-1:, ...].copy(), c)
        h, c = (stacked(self.sizes.backend.xp, arrays) for arrays in zip(*last, strict=True))
        return x, (h, c)
