"""A layer in one direction: what it does around its recurrence, forward and backward."""

from __future__ import annotations

from gpu_lstm import ops
from gpu_lstm.backend import Array, into
from gpu_lstm.layers import beyond
from gpu_lstm.layers.call import INPUT, WEIGHT, Add, Member, Pair, Piece, Work
from gpu_lstm.recurrence import Joint, Problem
from gpu_lstm.recurrence.problem import transposed


def enter(work: Work, member: Member, x: Array) -> Piece:
    """z = x W_ih^T + b for all steps at once, and what else its recurrence starts from."""
    x, input_mask = masked(work, member, x)
    backend, sizes, norm, normalised = work.sizes.backend, work.sizes, work.options.layer_norm, None
    xp, shape = backend.xp, (x.shape[0], x.shape[1], 4 * sizes.hidden_size)
    weight, bias = work.params[f"weight_ih_{member.name}"].T, work.params.get(f"bias_{member.name}")
    if work.by_steps:
        rows, weight = x, transposed(backend, weight.T)
    else:
        rows = xp.reshape(x, (-1, x.shape[2]))
    dtype, kept = sizes.param_dtype if norm else sizes.dtype, work.kept.get(f"weight_ih_{member.name}")
    z = work.ops.product(rows, weight, None if norm else bias, dtype, kept=kept)
    if norm:
        z, normalised = beyond.normalised(work, member, xp.reshape(z, (-1, shape[2])))
    return Piece(x, xp.reshape(z, shape), input_mask, normalised)


def masked(work: Work, member: Member, x: Array) -> tuple[Array, Array | None]:
    """A member's input with what is dropped at all steps, and the factor that did it."""
    mask = work.drawn(INPUT, work.options.input_dropout, (x.shape[1], x.shape[2]), member)
    return (x if mask is None else x * mask), mask


def problem(work: Work, member: Member, piece: Piece, state: Pair, steps: slice, below: Joint | None = None) -> Problem:
    """Return a member's recurrence over those steps; the piece notes what was dropped of weight_hh."""
    call, name, p = work.call, f"weight_hh_{member.name}", work.options.weight_dropout
    weight_hh, kept = work.params[name], work.kept.get(name)
    if call.seed is not None and p > 0:
        around = ops.of(work.sizes.backend)
        weight_hh, piece.weight_again = around.dropout(weight_hh, p, work.seed(WEIGHT, member))
        kept = None
    mask = None if call.mask is None else call.mask.part(steps.start, steps.stop)
    keep = call.keep or work.gives_cells(member)
    variant = None
    if call.resets is not None or not work.plain:
        variant = beyond.variant(work, member, steps.start, steps.stop)
    z, piece.z = piece.z, None
    return Problem(z, weight_hh, *state, mask, member.direction == 1, keep, variant, below, kept)


def parameter_gradients(work: Work, member: Member, piece: Piece, dz: Array, add: Add) -> Array:
    """From dz (T, B, 4H) the gradient of x W_ih^T, (T B, 4H); those of the parameters go to `add`."""
    xp, saved, options, end = work.sizes.backend.xp, piece.saved, work.options, member.name
    dz, x, before = (xp.reshape(array, (-1, array.shape[2])) for array in (dz, piece.x, saved.before))
    found, du = {f"{part}_{end}": gradient for part, gradient in saved.gradients.items()}, dz
    if options.layer_norm or options.heads > 1:
        du, weight_ih, weight_hh, bias, more = beyond.parameter_gradients(work, member, piece, dz, x, before)
        found |= more
    else:
        (weight_ih, weight_hh), bias = work.ops.weight_gradients(dz, [x, before])
    if piece.weight_again is not None:
        weight_hh = piece.weight_again(weight_hh)
    found |= {f"weight_ih_{end}": weight_ih, f"weight_hh_{end}": weight_hh}
    if options.bias:
        found[f"bias_{end}"] = bias
    add(found)
    return du


def input_gradient(work: Work, member: Member, piece: Piece, du: Array, out: Array | None = None) -> Array:
    """dx of a member, a new array or `out`, from the gradient of x W_ih^T."""
    backend, weight, shape = work.sizes.backend, work.params[f"weight_ih_{member.name}"], piece.x.shape
    xp = backend.xp
    flat = None if out is None else xp.reshape(out, (-1, shape[2]))
    dx = xp.reshape(work.ops.product(xp.reshape(du, (-1, weight.shape[0])), weight, out=flat), shape)
    if piece.input_mask is None:
        return dx
    return into(backend, xp.multiply, dx, piece.input_mask, out=dx)


def gradients(work: Work, member: Member, piece: Piece, dz: Array, add: Add, out: Array | None = None) -> Array:
    """Both: dx, and those of the parameters to `add`."""
    return input_gradient(work, member, piece, parameter_gradients(work, member, piece, dz, add), out)
