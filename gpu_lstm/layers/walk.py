"""The walk through a pass of the schedule, segment by segment: forward, and from the end back.

Data flows down: the walk asks members for problems, gives those of a round to the tier, and hands on what comes back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from gpu_lstm.backend import Array
from gpu_lstm.layers import joined
from gpu_lstm.layers import member as members
from gpu_lstm.layers.arguments import valid
from gpu_lstm.layers.base import Params
from gpu_lstm.layers.call import Add, Member, Pair, Piece, Work
from gpu_lstm.layers.schedule import Pass, stacked
from gpu_lstm.recurrence import Arriving

Jobs = list[Callable[[], object]]
"""Work that neither needs the next round's recurrences nor is needed by them: it goes beside them."""


@dataclass
class Ran:
    """What a pass or a segment has given."""

    # by direction, h and, where the last layer hands it out, c of every step
    outputs: dict[int, Array]
    cells: dict[int, Array]
    states: dict[Member, Pair]  # after the last step of each


def forward(work: Work, pass_: Pass, x: Array, states: dict[Member, Pair]) -> tuple[Ran, list[Any]]:
    """Run a pass over x (T, B, .), and return what backward needs of each segment, too.

    That is its members' pieces or, with `recompute`, the states before it. Where the products go beside, the first
    layer's of the next segment goes beside the recurrence of this one.
    """
    xp, jobs, kept = work.sizes.backend.xp, Jobs(), []
    ahead: dict[Member, Piece] = {}
    whole = Ran({}, {}, states)
    last = len(pass_.segments) - 1
    for number in range(last + 1):
        entries, ahead = ahead, {}
        if pass_.beside and number < last:
            for member, steps in pass_.segments[number + 1][0]:
                ahead[member], product = joined.enter_later(work, member, x[steps, ...])
                jobs.append(product)
        ran, pieces = forward_segment(work, pass_, number, x, states, entries, jobs)
        if work.call.keep:
            kept.append(states if work.recompute else pieces)
        if last == 0:
            return ran, kept
        for member, steps in pass_.segments[number][-1]:
            _put(xp, whole.outputs, ran.outputs, member.direction, steps, x)
            _put(xp, whole.cells, ran.cells, member.direction, steps, x)
        # Copies: the states are views of arrays with all steps, which would stay as long as they do.
        states = {member: (xp.asarray(h, copy=True), xp.asarray(c, copy=True)) for member, (h, c) in ran.states.items()}
        whole.states = states
        del ran, pieces  # before the next segment takes its memory
    return whole, kept


def _put(xp: Any, whole: dict[int, Array], found: dict[int, Array], direction: int, steps: slice, x: Array) -> None:
    """Put a segment's part of a direction, if there is one, into the whole of it."""
    if direction in found:
        part = found[direction]
        if direction not in whole:
            whole[direction] = xp.empty((*x.shape[:2], part.shape[2]), dtype=part.dtype)
        whole[direction][steps, ...] = part


def forward_segment(
    work: Work, pass_: Pass, number: int, x: Array, states: dict[Member, Pair], entries: dict[Member, Piece], jobs: Jobs
) -> tuple[Ran, dict[Member, Piece]]:
    """Run the rounds of a segment of a pass with input x (T, B, .); and return what backward needs of each member.

    `entries` has those of the first layer that are there already; `jobs` go beside the first round.
    """
    backend, ran, pieces = work.sizes.backend, Ran({}, {}, {}), {}
    for turns in pass_.segments[number]:
        begun, problems = [], []
        for turn in turns:
            member, joint = turn.member, None
            if stacked(turns) and turn is not turns[0]:
                piece, joint = Piece(), joined.joint(work, turn)
            elif member.layer == pass_.first_layer:
                piece = entries.pop(member) if member in entries else members.enter(work, member, x[turn.steps, ...])
            else:
                below = ran.outputs[member.direction]
                taken, dropped = work.drop(member.layer, turn.steps.start, below)
                piece = members.enter(work, member, taken)
                piece.dropped, piece.below = dropped, below
            begun.append(piece)
            problems.append(members.problem(work, member, piece, states[member], turn.steps, joint))
        found = backend.beside(partial(work.tier.forward, backend, problems), _taken(jobs))
        for turn, piece, problem, saved in zip(turns, begun, problems, found, strict=True):
            member, direction = turn.member, turn.member.direction
            piece.saved = saved
            if problem.below:
                piece.x, piece.dropped = work.drop(member.layer, turn.steps.start, ran.outputs[direction])
            if work.call.keep:
                pieces[member] = piece
            y = valid(backend.xp, problem.mask, saved.outputs)
            if work.options.residual and piece.below is not None:
                y = y + piece.below
            piece.below = None
            ran.outputs[direction], ran.states[member] = y, saved.last
            if work.gives_cells(member):
                ran.cells[direction] = valid(backend.xp, problem.mask, saved.c_after)
        del begun, problems, found, piece, problem, saved  # before the round above takes its memory
    return ran, pieces


def backward(
    work: Work, pass_: Pass, again: Pass | None, x: Array, kept: list[Any], arriving: dict[int, Pair],
    states: dict[Member, Pair],
) -> tuple[Array, dict[Member, Pair], Params]:  # fmt: skip
    """Backpropagate through a pass that had x (T, B, .): dx, (dh0, dc0) of each member, and the parameters' gradients.

    `kept`, from `forward`, is used up; `again` is how the pass runs forward, with `recompute`. `arriving` has the
    gradients of every step's h and c by direction, `states` those of the final states. Gradients are summed up segment
    by segment, so that they are the same to the last bit with `recompute`. Where the products go beside, those of the
    parameters and the first layer's dx go beside the next recurrence.
    """
    xp, jobs, gradients = work.sizes.backend.xp, Jobs(), Params()
    last = len(pass_.segments) - 1
    dx: dict[int, Array] = {}
    if last > 0 or pass_.beside:
        dx = {direction: xp.empty(x.shape, dtype=x.dtype) for direction in arriving}
    if pass_.beside:
        joined.make_room(work, pass_.members, gradients)
    for number in range(last, -1, -1):
        pieces = kept.pop()
        if again is not None:
            pieces = forward_segment(work, again, number, x, pieces, {}, jobs)[1]
        parts = {member.direction: steps for member, steps in pass_.segments[number][-1]}
        dy = {d: [None if a is None else a[parts[d], ...] for a in pair] for d, pair in arriving.items()}
        later = {d: whole[parts[d], ...] for d, whole in dx.items()} if pass_.beside else {}
        add = partial(_add_up, gradients, first=number == last)
        found, states = backward_segment(work, pass_, number, pieces, dy, states, add, later, jobs)
        if not dx:
            dx = found
        elif not pass_.beside:
            for direction, steps in parts.items():
                dx[direction][steps, ...] = found[direction]
    if jobs:
        work.sizes.backend.beside(lambda: None, _taken(jobs))
    whole, *others = dx.values()
    for other in others:
        whole += other
    return whole, states, gradients


def backward_segment(
    work: Work, pass_: Pass, number: int, pieces: dict[Member, Piece], dy: dict[int, list[Array | None]],
    states: dict[Member, Pair], add: Add, later: dict[int, Array], jobs: Jobs,
) -> tuple[dict[int, Array], dict[Member, Pair]]:  # fmt: skip
    """Backpropagate through a segment: dx by direction, and the gradients of the states before it.

    `add` takes gradients of parameters. Where there is a place for dx in `later`, they and dx become `jobs`.
    """
    backend, before = work.sizes.backend, {}
    for turns in reversed(pass_.segments[number]):
        arriving = []
        for turn in turns:
            member, on_top = turn.member, stacked(turns) and turn is not turns[0]
            inside = stacked(turns) and turn is not turns[-1]  # its dh comes from above, in the launch
            dh, dc = (None, None) if inside else dy[member.direction]
            below = joined.joint_back(work, member, pieces[member]) if on_top else None
            arriving.append(Arriving(pieces[member].saved, dh, *states[member], dc, below))
        gradients = backend.beside(partial(work.tier.backward, backend, arriving), _taken(jobs))
        del arriving
        for turn in reversed(turns):
            member, direction, first = turn.member, turn.member.direction, turn.member.layer == pass_.first_layer
            piece, found = pieces.pop(member), gradients.pop()
            before[member] = found.dh0, found.dc0
            if stacked(turns) and turn is not turns[0]:
                members.parameter_gradients(work, member, piece, found.dz, add)
                continue  # its dx has gone down in the launch
            if not later:
                dx = members.gradients(work, member, piece, found.dz, add)
            elif first:
                dx = later[direction]
                jobs.append(partial(members.gradients, work, member, piece, found.dz, add, dx))
            else:
                dx = members.input_gradient(work, member, piece, found.dz)
                jobs.append(partial(members.parameter_gradients, work, member, piece, found.dz, add))
            if piece.dropped is not None:
                dx = work.dropout.backward(piece.dropped, dx)[0]
            dh = dy[direction][0]
            dy[direction] = [dx + dh if work.options.residual and not first and dh is not None else dx, None]
        del piece, found  # before the round below takes its memory
    return {direction: dh for direction, (dh, _) in dy.items()}, before


def _add_up(gradients: Params, found: Params, first: bool) -> None:
    """Add gradients of a segment to those of the ones before; the first may find arrays that were made for them."""
    for name, gradient in found.items():
        if not first:
            gradients[name] += gradient
        elif name in gradients:
            gradients[name][...] = gradient
        else:
            gradients[name] = gradient


def _taken(jobs: Jobs) -> Jobs:
    """All jobs; none are left."""
    taken = jobs[:]
    jobs.clear()
    return taken
