"""What a GPU's plan adds to a walk: layers of a stack in one launch, and products beside a recurrence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from gpu_lstm.backend import Array
from gpu_lstm.layers.base import Params
from gpu_lstm.layers.call import Member, Piece, Work
from gpu_lstm.layers.member import masked
from gpu_lstm.layers.schedule import Turn
from gpu_lstm.recurrence import Joint


def joint(work: Work, turn: Turn) -> Joint:
    """What lies between a member and the one below it in one launch, with what is dropped there."""
    factors, sizes = None, work.sizes
    if work.call.seed is not None and work.dropout.p > 0:
        shape = turn.steps.stop - turn.steps.start, work.call.batch, sizes.hidden_size
        ones = sizes.backend.xp.ones(shape, dtype=sizes.backend.dtype(sizes.dtype))
        factors = work.drop(turn.member.layer, turn.steps.start, ones)[0]
    return _joint(work, turn.member, factors)


def joint_back(work: Work, member: Member, piece: Piece) -> Joint:
    """The same for backward."""
    factors = None
    if piece.dropped is not None and work.call.seed is not None and work.dropout.p > 0:
        factors = work.dropout.backward(piece.dropped, work.sizes.backend.xp.ones_like(piece.x))[0]
    return _joint(work, member, factors)


def _joint(work: Work, member: Member, factors: Array | None) -> Joint:
    return Joint(work.params[f"weight_ih_{member.name}"], work.params.get(f"bias_{member.name}"), factors)


def enter_later(work: Work, member: Member, x: Array) -> tuple[Piece, Callable[[], Array]]:
    """`member.enter` without the product, and the product."""
    backend, sizes = work.sizes.backend, work.sizes
    x, input_mask = masked(work, member, x)
    z = backend.xp.empty((*x.shape[:2], 4 * sizes.hidden_size), dtype=backend.dtype(sizes.dtype))
    rows, out = (backend.xp.reshape(array, (-1, array.shape[2])) for array in (x, z))
    weight, bias = work.params[f"weight_ih_{member.name}"].T, work.params.get(f"bias_{member.name}")
    return Piece(x, z, input_mask), partial(work.ops.product, rows, weight, bias, out=out)


def make_room(work: Work, members: Sequence[Member], gradients: Params) -> None:
    """Arrays for gradients that jobs find: what a job makes ends with it."""
    backend = work.sizes.backend
    for name in (f"{part}_{member.name}" for member in members for part in ("weight_ih", "weight_hh", "bias")):
        if name in work.params:
            gradients[name] = backend.xp.empty(work.params[name].shape, dtype=backend.dtype(work.sizes.param_dtype))
