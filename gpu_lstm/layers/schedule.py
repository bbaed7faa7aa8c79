"""What of an LSTM runs when, as plain data made before anything runs; and the walk through it, forward and back.

A pass is a list of segments, a segment a list of rounds, a round a list of turns: members that run their recurrence at
once, each over a range of steps. In one direction a pass goes through all layers, and a round may be several of them,
each on top of the one before; in two directions each layer is a pass, and a round is both directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from gpu_lstm.backend import Array
from gpu_lstm.layers import member as members
from gpu_lstm.layers.arguments import valid
from gpu_lstm.layers.base import Params, Tape
from gpu_lstm.layers.member import Add, Entry, Member, Pair, Piece, Work
from gpu_lstm.recurrence import Arriving, Joint, Problem, Round
from gpu_lstm.recurrence.problem import Fit

Turn = tuple[Member, tuple[int, int]]
"""A member, and from which step to before which one it runs."""
Jobs = list[Callable[[], object]]
"""Work that neither needs the next round's recurrences nor is needed by them: it goes beside them."""
PRODUCTS = ("weight_ih", "weight_hh", "bias")
"""Parameters whose gradients are large products, or the sum that comes with them."""


@dataclass(frozen=True)
class Pass:
    """What goes once through all steps.

    Attributes
    ----------
    segments : list of lists of lists of Turn
        For each segment, in forward's order, its rounds.
    beside : bool
        Products that no recurrence of their segment waits for go beside one.
    """

    segments: list[list[list[Turn]]]
    beside: bool

    @property
    def members(self) -> list[Member]:
        """All that run in it, each once."""
        return [member for turns in self.segments[0] for member, _ in turns]

    @property
    def first_layer(self) -> int:
        """The layer that takes the pass's input."""
        return self.members[0][0]


def segments(num_steps: int, batch: int, least_steps: int = 1) -> list[tuple[int, int]]:
    """Ranges of steps that are computed together, in the order of time.

    Up to 16,384 rows (steps times sequences) it is all of them; beyond, about sqrt(T) steps, and no fewer than make
    2,048 rows, so that the products stay large and adding up the gradients of the segments costs next to nothing; nor
    fewer than the backend's `least_steps`. With and without `recompute` they are the same.
    """
    length = num_steps
    if num_steps * batch > 16384:
        length = min(num_steps, max(math.isqrt(num_steps), -(-2048 // batch), least_steps))
    return [(start, min(start + length, num_steps)) for start in range(0, num_steps, length)]


def passes(work: Work, direction: str) -> list[Pass]:
    """What runs "forward", or "backward" from the end, in a call."""
    sizes = work.sizes
    layers = range(sizes.num_layers)
    parts = segments(work.call.steps, work.call.batch, least_steps=sizes.backend.least_steps)
    if sizes.num_directions == 2:
        mirrored = list(zip(parts, parts[::-1], strict=True))
        return [
            Pass(
                [[[((layer, 0), part), ((layer, 1), other)]] for part, other in mirrored],
                _fit(work, direction, parts, layer).beside,
            )
            for layer in layers
        ]
    fit = _fit(work, direction, parts, 0)
    groups = [layers[first : first + fit.at_once] for first in layers[:: fit.at_once]]
    return [Pass([[[((layer, 0), part) for layer in group] for group in groups] for part in parts], fit.beside)]


def _fit(work: Work, direction: str, parts: list[tuple[int, int]], layer: int) -> Fit:
    """How many layers the tier takes at once, and whether large products go beside its recurrences."""
    sizes, options, call = work.sizes, work.options, work.call
    layers = sizes.num_layers if sizes.num_directions == 1 else 1
    alone = not work.plain or call.resets is not None or options.cells or options.residual or options.input_dropout
    products = 0
    if not options.layer_norm and (len(parts) > 1 or (direction == "backward" and layers > 1)):
        # x W_ih^T; or dx, dW_ih and dW_hh of the first layer.
        width = sizes.width(layer)
        products = width if direction == "forward" else 2 * width + sizes.output_size
    if products == 0 and (layers == 1 or alone):
        return Fit()
    steps = parts[0][1] - parts[0][0]
    count = sizes.num_directions
    round = Round(
        direction, steps, call.batch, sizes.hidden_size, sizes.dtype,
        options=work.recurrent | (frozenset() if call.resets is None else {"resets"}),
        count=count,
        layers=1 if alone else layers,
        multiply_adds=count * 4 * sizes.hidden_size * steps * call.batch * products,
    )  # fmt: skip
    return work.tier.fit(sizes.backend, round)


# -- forward ----------------------------------------------------------------------------------------------------------


@dataclass
class Ran:
    """What a pass or a segment has given, by direction or by member.

    Attributes
    ----------
    outputs, cells : dict of int to (T, B, .)
        h and, where the last layer hands it out, c of every step, by direction.
    states : dict of Member to (h, c)
        After the last step of each.
    """

    outputs: dict[int, Array]
    cells: dict[int, Array]
    states: dict[Member, Pair]


def forward(work: Work, walk: Pass, x: Array, states: dict[Member, Pair]) -> tuple[Ran, list[Any]]:
    """Run a pass over x (T, B, .), segment by segment.

    Where the products go beside, the first layer's of the next segment goes beside the recurrence of this one.

    Returns
    -------
    ran : Ran
    kept : list
        What backward needs of each segment: its members' pieces; or, with `recompute`, the states before it.
    """
    xp, jobs, kept = work.sizes.backend.xp, Jobs(), []
    ahead: dict[Member, Entry] = {}
    whole = Ran({}, {}, states)
    last = len(walk.segments) - 1
    for number, rounds in enumerate(walk.segments):
        entries, ahead = ahead, {}
        if walk.beside and number < last:
            for member, part in walk.segments[number + 1][0]:
                ahead[member], product = members.enter_later(work, member, x[slice(*part), ...])
                jobs.append(product)
        ran, pieces = forward_segment(work, rounds, x, states, entries, jobs)
        if work.call.keep:
            kept.append(states if work.recompute else pieces)
        if last == 0:
            return ran, kept
        for (_, direction), (start, stop) in rounds[-1]:
            for found, wholes in ((ran.outputs, whole.outputs), (ran.cells, whole.cells)):
                if direction in found:
                    part = found[direction]
                    if direction not in wholes:
                        wholes[direction] = xp.empty((*x.shape[:2], part.shape[2]), dtype=part.dtype)
                    wholes[direction][start:stop, ...] = part
        # Copies: the states are views of arrays with all steps, which would stay as long as they do.
        states = {member: _copies(xp, pair) for member, pair in ran.states.items()}
        whole.states = states
        del ran, pieces, found  # before the next segment takes its memory
    return whole, kept


def forward_segment(
    work: Work, rounds: list[list[Turn]], x: Array, states: dict[Member, Pair], entries: dict[Member, Entry], jobs: Jobs
) -> tuple[Ran, dict[Member, Piece]]:
    """Run the rounds of a segment of a pass with input x (T, B, .); what backward needs of each member.

    `entries` has those of the first layer that are there already; `jobs` go beside the first round.
    """
    backend = work.sizes.backend
    ran, pieces = Ran({}, {}, {}), {}
    first_layer = rounds[0][0][0][0]
    for turns in rounds:
        begun = []
        for number, (member, part) in enumerate(turns):
            if number > 0 and _stacked(turns):
                begun.append(_begin_on_top(work, member, part, states[member]))
                continue
            below = x[slice(*part), ...] if member[0] == first_layer else ran.outputs[member[1]]
            dropped_below = member[0] > first_layer
            begun.append(_begin(work, member, part, states[member], below, dropped_below, entries.pop(member, None)))
        run = partial(work.tier.forward, backend, [one.problem for one in begun])
        for (member, part), one, saved in zip(turns, begun, backend.beside(run, _taken(jobs)), strict=True):
            direction, mask = member[1], one.problem.mask
            if one.problem.below:
                one.entry.x, one.dropped = _drop(work, ran.outputs[direction], member, part)
            if work.call.keep:
                entry = one.entry
                pieces[member] = Piece(entry.x, saved, one.dropped, entry.input_mask, one.again, entry.normalised)
            y = valid(backend.xp, mask, saved.outputs)
            if work.options.residual and member[0] > first_layer:
                y = y + one.below
            ran.outputs[direction], ran.states[member] = y, saved.last
            if work.gives_cells(member):
                ran.cells[direction] = valid(backend.xp, mask, saved.c_after)
    return ran, pieces


@dataclass
class Begun:
    """A member whose recurrence is to run.

    Attributes
    ----------
    entry : Entry
    problem : Problem
    again, dropped
        See `Piece`.
    below : (T, B, .) or None
        Outputs of the layer below, with nothing dropped.
    """

    entry: Entry
    problem: Problem
    again: members.Again | None
    dropped: Tape | None = None
    below: Array | None = None


def _begin(
    work: Work, member: Member, part: tuple[int, int], state: Pair, below: Array, drops: bool, entry: Entry | None
) -> Begun:
    """A member on its own input: `below`, of which a layer above the first drops elements."""
    x, dropped = _drop(work, below, member, part) if drops else (below, None)
    entry = members.enter(work, member, x) if entry is None else entry
    return Begun(entry, *members.problem(work, member, entry.z, state, part), dropped, below)


def _begin_on_top(work: Work, member: Member, part: tuple[int, int], state: Pair) -> Begun:
    """A member on top of the one before it, in the same launch."""
    sizes, factors = work.sizes, None
    if work.call.seed is not None and work.dropout.p > 0:
        shape = part[1] - part[0], work.call.batch, sizes.hidden_size
        ones = sizes.backend.xp.ones(shape, dtype=sizes.backend.dtype(sizes.dtype))
        factors, _ = _drop(work, ones, member, part)
    joint = members.joint(work, member, factors)
    return Begun(Entry(None, None), *members.problem(work, member, None, state, part, joint))


def _drop(work: Work, x: Array, member: Member, part: tuple[int, int]) -> tuple[Array, Tape]:
    """What a member takes of the layer below, and the tape of the dropout between them."""
    return work.dropout.forward(x, work.seed_below(member[0], part[0]))


# -- backward ---------------------------------------------------------------------------------------------------------


def backward(
    work: Work,
    walk: Pass,
    again: Pass | None,
    x: Array,
    kept: list[Any],
    arriving: dict[int, Pair],
    states: dict[Member, Pair],
) -> tuple[Array, dict[Member, Pair], Params]:
    """Backpropagate through a pass that had x (T, B, .), segment by segment.

    Gradients are summed up segment by segment, so that they are the same to the last bit with `recompute`. Where the
    products go beside, those of the parameters and the first layer's dx go beside the next recurrence.

    Parameters
    ----------
    again : Pass or None
        With `recompute`: how it runs forward.
    kept : list
        From `forward`; it is used up.
    arriving : dict of int to (dh, dc)
        Gradients of every step's h and c, by direction.
    states : dict of Member to (dh, dc)
        Gradients of the final states.

    Returns
    -------
    dx : (T, B, .)
    states : dict of Member to (dh0, dc0)
    gradients : dict
        Of the members' parameters.
    """
    xp, jobs, gradients = work.sizes.backend.xp, Jobs(), Params()
    last = len(walk.segments) - 1
    dx: dict[int, Array] = {}
    if last > 0 or walk.beside:
        dx = {direction: xp.empty(x.shape, dtype=x.dtype) for direction in arriving}
    if walk.beside:
        _make_room(work, walk, gradients)
    for number in range(last, -1, -1):
        rounds, pieces = walk.segments[number], kept.pop()
        if again is not None:
            pieces = forward_segment(work, again.segments[number], x, pieces, {}, jobs)[1]
        parts = {direction: slice(*part) for (_, direction), part in rounds[-1]}
        dy = {d: [None if a is None else a[parts[d], ...] for a in pair] for d, pair in arriving.items()}
        later = {d: whole[parts[d], ...] for d, whole in dx.items()} if walk.beside else {}
        add = partial(_add_up, gradients, first=number == last)
        found, states = backward_segment(work, rounds, pieces, dy, states, add, later, jobs)
        if last == 0 and not walk.beside:
            dx = found
        elif not walk.beside:
            for direction, part in parts.items():
                dx[direction][part, ...] = found[direction]
    if jobs:
        work.sizes.backend.beside(lambda: None, _taken(jobs))
    whole, *others = dx.values()
    for other in others:
        whole += other
    return whole, states, gradients


def backward_segment(
    work: Work,
    rounds: list[list[Turn]],
    pieces: dict[Member, Piece],
    dy: dict[int, list[Array | None]],
    states: dict[Member, Pair],
    add: Add,
    later: dict[int, Array],
    jobs: Jobs,
) -> tuple[dict[int, Array], dict[Member, Pair]]:
    """Backpropagate through a segment: dx by direction, and the gradients of the states before it.

    `add` takes gradients of parameters. Where there is a place for dx in `later`, they and dx become `jobs`.
    """
    backend, before = work.sizes.backend, {}
    first_layer = rounds[0][0][0][0]
    for turns in reversed(rounds):
        stacked, arriving = _stacked(turns), []
        for number, (member, _) in enumerate(turns):
            dh, dc = (None, None) if stacked and number < len(turns) - 1 else dy[member[1]]
            below = _joint_back(work, member, pieces[member]) if stacked and number > 0 else None
            arriving.append(Arriving(pieces[member].saved, dh, *states[member], dc, below))
        run = partial(work.tier.backward, backend, arriving)
        found = backend.beside(run, _taken(jobs))
        for (member, _), one in reversed(list(zip(turns, found, strict=True))):
            direction, piece, first = member[1], pieces.pop(member), member[0] == first_layer
            before[member] = one.dh0, one.dc0
            if stacked:
                du = members.parameter_gradients(work, member, piece, one.dz, add)
                if member != turns[0][0]:
                    continue  # its dx has gone down inside the launch
                dx = members.input_gradient(work, member, piece, du)
            elif not later:
                dx = members.gradients(work, member, piece, one.dz, add)
            elif first:
                dx = later[direction]
                jobs.append(partial(members.gradients, work, member, piece, one.dz, add, dx))
            else:
                dx = members.input_gradient(work, member, piece, one.dz)
                jobs.append(partial(members.parameter_gradients, work, member, piece, one.dz, add))
            if piece.dropped is not None:
                dx = work.dropout.backward(piece.dropped, dx)[0]
            if work.options.residual and not first and dy[direction][0] is not None:
                dx = dx + dy[direction][0]
            dy[direction] = [dx, None]
    return {direction: dh for direction, (dh, _) in dy.items()}, before


def _joint_back(work: Work, member: Member, piece: Piece) -> Joint:
    """What lies between a member and the one below it, for backward."""
    factors = None
    if piece.dropped is not None and work.call.seed is not None and work.dropout.p > 0:
        factors = work.dropout.backward(piece.dropped, work.sizes.backend.xp.ones_like(piece.x))[0]
    return members.joint(work, member, factors)


def _make_room(work: Work, walk: Pass, gradients: Params) -> None:
    """Arrays for gradients that jobs find: what a job makes ends with it."""
    backend = work.sizes.backend
    for name in (f"{part}_{members.name(member)}" for member in walk.members for part in PRODUCTS):
        if name in work.params:
            gradients[name] = backend.xp.empty(work.params[name].shape, dtype=backend.dtype(work.sizes.param_dtype))


def _add_up(gradients: Params, found: Params, first: bool) -> None:
    """Add gradients of a segment to those of the ones before; the first may find arrays that were made for them."""
    for name, gradient in found.items():
        if not first:
            gradients[name] += gradient
        elif name in gradients:
            gradients[name][...] = gradient
        else:
            gradients[name] = gradient


def _stacked(turns: list[Turn]) -> bool:
    """Whether members lie on top of each other, and not beside each other."""
    return turns[0][0][0] != turns[-1][0][0]


def _taken(jobs: Jobs) -> Jobs:
    """All jobs; none are left."""
    taken = jobs[:]
    jobs.clear()
    return taken


def _copies(xp: Any, pair: Pair) -> Pair:
    return xp.asarray(pair[0], copy=True), xp.asarray(pair[1], copy=True)
