"""What of an LSTM runs when, as plain data made before anything runs.

A pass is a list of segments, a segment a list of rounds, a round a list of turns: members that run their recurrence at
once, each over a range of steps. In one direction a pass goes through all layers, and a round may be several of them,
each on top of the one before; in two directions each layer is a pass, and a round is both directions.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from gpu_lstm.layers.call import Member, Work
from gpu_lstm.recurrence import Fit, Offer


class Turn(NamedTuple):
    """A member, and the steps over which it runs."""

    member: Member
    steps: slice


class Pass:
    """What goes once through all steps: for each segment, in forward's order, its rounds."""

    def __init__(self, segments: list[list[list[Turn]]], beside: bool):
        self.segments = segments
        self.beside = beside  # whether products that no recurrence of their segment waits for go beside one
        self.members = [member for turns in segments[0] for member, _ in turns]  # all that run in it, each once
        self.first_layer = self.members[0].layer  # which takes the pass's input


def stacked(turns: list[Turn]) -> bool:
    """Whether the members of a round lie on top of each other, and not beside each other."""
    return turns[0].member.layer != turns[-1].member.layer


ONE_SEGMENT = 16384
"""Rows, that is steps times sequences, up to which all steps are one segment."""


def segments(num_steps: int, batch: int, least_steps: int = 1) -> list[tuple[int, int]]:
    """Return the ranges of steps that are computed together, in the order of time.

    Up to `ONE_SEGMENT` rows it is all of them; beyond, about sqrt(T) steps, and no fewer than make
    2,048 rows, so that the products stay large and adding up the gradients of the segments costs next to nothing; nor
    fewer than the backend's `least_steps`. With and without `recompute` they are the same.
    """
    length = num_steps
    if num_steps * batch > ONE_SEGMENT:
        length = min(num_steps, max(math.isqrt(num_steps), -(-2048 // batch), least_steps))
    return [(start, min(start + length, num_steps)) for start in range(0, num_steps, length)]


def passes(work: Work, direction: str) -> list[Pass]:
    """Return what runs "forward" in a call, or, walked from its end, "backward"."""
    sizes = work.sizes
    layers = range(sizes.num_layers)
    ranges = segments(work.call.steps, work.call.batch, least_steps=sizes.backend.least_steps)
    parts = [slice(*steps) for steps in ranges]
    if sizes.num_directions == 2:
        both = list(zip(parts, parts[::-1], strict=True))
        return [
            Pass(
                [[[Turn(Member(layer, 0), part), Turn(Member(layer, 1), mirrored)]] for part, mirrored in both],
                _fit(work, direction, ranges, layer).beside,
            )
            for layer in layers
        ]
    fit = _fit(work, direction, ranges, 0)
    groups = [layers[first : first + fit.at_once] for first in layers[:: fit.at_once]]
    return [Pass([[[Turn(Member(k, 0), part) for k in group] for group in groups] for part in parts], fit.beside)]


def _fit(work: Work, direction: str, ranges: list[tuple[int, int]], layer: int) -> Fit:
    """How many layers the tier takes at once, and whether large products go beside its recurrences."""
    sizes, options, call = work.sizes, work.options, work.call
    layers = sizes.num_layers if sizes.num_directions == 1 else 1
    alone = not work.plain or call.resets is not None or options.cells or options.residual or options.input_dropout
    products = 0
    if not options.layer_norm and (len(ranges) > 1 or (direction == "backward" and layers > 1)):
        # x W_ih^T; or dx, dW_ih and dW_hh of the first layer.
        width = sizes.width(layer)
        products = width if direction == "forward" else 2 * width + sizes.output_size
    if products == 0 and (layers == 1 or alone):
        return Fit()
    steps, count = ranges[0][1] - ranges[0][0], sizes.num_directions
    offer = Offer(
        direction, steps, call.batch, sizes.hidden_size, sizes.dtype,
        options=work.recurrent | (frozenset() if call.resets is None else {"resets"}),
        count=count,
        layers=1 if alone else layers,
        multiply_adds=count * 4 * sizes.hidden_size * steps * call.batch * products,
    )  # fmt: skip
    return work.tier.fit(sizes.backend, offer)
