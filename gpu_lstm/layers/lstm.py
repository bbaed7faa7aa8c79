"""The LSTM layer: layers x directions around the recurrence, and the options of the LSTM family."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gpu_lstm import ops
from gpu_lstm.backend import Array, Backend
from gpu_lstm.errors import InputError
from gpu_lstm.layers.base import Layer, Params, Tape, check_probability, check_seed, check_size, training_seed
from gpu_lstm.layers.dropout import Dropout
from gpu_lstm.layers.options import STARTS, Options
from gpu_lstm.recurrence import Mask, Plan, Saved, Tier, make_plan, together
from gpu_lstm.recurrence.problem import Joint, transposed
from gpu_lstm.recurrence.together import Steps
from gpu_lstm.recurrence.variant import Variant, normalise, normalise_backward, weight_hh_gradient

State = tuple[Array, Array]
"""h and c, (num_layers * num_directions, B, H) each, in PyTorch's order: layer 0 forward, layer 0 reverse, ..."""

Member = tuple[int, int]
"""A layer and a direction of it."""

Again = Callable[[Array], Array]
"""Drops the elements of an array that were dropped from another one; see `Backend.dropout`."""

PRODUCTS = ("weight_ih", "weight_hh", "bias")
"""Parameters whose gradients are large products, or the sum that comes with them."""
INPUT, RECURRENT, WEIGHT, ZONEOUT_H, ZONEOUT_C = range(1, 6)
"""Part of the seeds of what is drawn while training."""


@dataclass(frozen=True)
class Call:
    """What holds for all layers in one call of forward.

    Attributes
    ----------
    batch : int
    mask : Mask or None
    resets : (T, B) bool array on the host, or None
    seed : tuple of int, or None
        None: evaluation.
    keep : bool
        Whether backward will follow.
    """

    batch: int
    mask: Mask | None
    resets: np.ndarray | None
    seed: tuple[int, ...] | None
    keep: bool


@dataclass
class Piece:
    """Tape of one layer in one direction over one segment.

    Attributes
    ----------
    x : (T, B, .)
        Its input, with everything dropped.
    dropped : Tape or None
        Of the dropout between layers.
    saved : Saved
        Of the recurrence.
    input_mask : (B, .) or None
        Factor on the input at all steps.
    weight_again : callable or None
        Drops what was dropped of weight_hh.
    normalised : (T B, 4H) and its scales (T B, 1), or None
        x W_ih^T where that is normalised.
    """

    x: Array
    dropped: Tape | None
    saved: Saved
    input_mask: Array | None
    weight_again: Again | None
    normalised: tuple[Array, Array] | None


@dataclass
class Entry:
    """What the recurrence of one layer in one direction starts from: see `Piece`, and z (T, B, 4H)."""

    x: Array
    input_mask: Array | None
    z: Array
    normalised: tuple[Array, Array] | None


class LSTM(Layer):
    """A stack of LSTM layers, in one or two directions.

    Parameters
    ----------
    input_size : int
        D, size of each step's input.
    hidden_size : int
        H, size of h and c.
    num_layers : int
        Layers above the first take the outputs of the one below.
    bidirectional : bool
        A second recurrence runs from each sequence's last step to its first; outputs are concatenated.
    dropout : float
        Probability of dropping an element between layers while training.
    batch_first : bool
        x and y are (B, T, .) instead of (T, B, .). Costs a copy of each.
    forget_bias : float or None
        Start of the forget gate's bias. None: uniform like the rest; 1 helps long memories
        (R. Jozefowicz et al., ICML 2015).
    backend : str, Backend or None
    dtype : {"float32", "float64", "float16", "bfloat16"}
        Of x, y, h and their gradients. With 16 bits, c, its gradient and the parameters are float32.
    tier : {"auto", "reference", "pointwise", "sequence"}
    recompute : bool
        Keep only the states at the borders of segments of about sqrt(T) steps, on a GPU 256 at least (see `segments`),
        and compute each segment again in `backward` (T. Chen et al., Training Deep Nets with Sublinear Memory Cost,
        2016). The same results to the last bit for far less memory and about a third more time. The inputs of upper
        layers are computed again too, except with `bidirectional`, where each layer needs the one below as a whole.
    seed : int or tuple of int
        At least 0. Parameters start uniform in ±1/sqrt(hidden_size), as PyTorch's do.
    bias : bool
        False: no ``bias_lk``.
    proj_size : int
        P: h is projected to this size, ``weight_hr_lk`` (P, H); 0: it isn't (H. Sak et al., Interspeech 2014).
    peepholes : bool
        The gates i and f see c_{t-1}, o sees c_t, through ``peephole_lk`` (3, H), rows i, f, o (F. Gers and
        J. Schmidhuber, IJCNN 2000).
    coupled : bool
        f = 1 - i (K. Greff et al., 2015). All arrays keep their 4H rows; those of f have no effect and a zero gradient.
    hard_sigmoid : bool
        The gates i, f, o are min(max(z/5 + 1/2, 0), 1).
    clip : float or None
        Limits what the gates' activations take, z with the peepholes' terms, to ±clip, as ONNX Runtime does.
    cell_clip : float or None
        Limits c to ±cell_clip.
    layer_norm : bool
        Normalises x W_ih^T and h W_hh^T over their 4H values, with gains ``gain_ih_lk`` and ``gain_hh_lk`` (4H,), and c
        on its way to the output, with ``gain_c_lk`` and ``shift_c_lk`` (H,) (J. Ba et al., 2016, equations 20 to 22).
    zoneout_h, zoneout_c : float
        Probability with which an element of h or c keeps its value in a step of training; in evaluation the expected
        value (D. Krueger et al., 2016).
    input_dropout, recurrent_dropout : float
        Probability of dropping an element of each layer's input, and of h where it enters the recurrence, the same ones
        at all steps (Y. Gal and Z. Ghahramani, 2016).
    weight_dropout : float
        Probability of dropping an element of W_hh, the same ones at all steps (S. Merity et al., 2017).
    residual : bool
        Layers above the first add their input to their output.
    learn_state : bool
        The initial state is ``h0_lk`` (P or H,) and ``c0_lk`` (H,) where none is given.
    cells : bool
        y is the pair (h, c) of every step, and so is dy.
    heads : int
        The recurrence is block-diagonal: each of so many groups of H / heads units sees its own h only;
        ``weight_hh_lk`` is (4H, H / heads).

    Attributes
    ----------
    params : dict
        For layer k: ``weight_ih_lk`` (4H, D or H * num_directions), ``weight_hh_lk`` (4H, H), ``bias_lk`` (4H,);
        gate order i, f, g, o; ``_reverse`` is appended for the second direction. PyTorch's names and layout,
        with PyTorch's two biases added up. With a projection, P stands for H in the width of h.
    options : Options
        All from `bias` on.
    output_size : int
        Width of h: P or H.
    plan : Plan
        Which tier runs; ``plan.why()`` explains it.

    Raises
    ------
    InputError
        An argument has another type or value, or two of them don't go together.
    BackendError
        The named tier doesn't run here, or takes one of the options not.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bidirectional: bool = False,
        dropout: float = 0.0,
        batch_first: bool = False,
        forget_bias: float | None = None,
        backend: str | Backend | None = None,
        dtype: str = "float32",
        tier: str = "auto",
        recompute: bool = False,
        seed: int | tuple[int, ...] = 0,
        bias: bool = True,
        proj_size: int = 0,
        peepholes: bool = False,
        coupled: bool = False,
        hard_sigmoid: bool = False,
        clip: float | None = None,
        cell_clip: float | None = None,
        layer_norm: bool = False,
        zoneout_h: float = 0.0,
        zoneout_c: float = 0.0,
        input_dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        weight_dropout: float = 0.0,
        residual: bool = False,
        learn_state: bool = False,
        cells: bool = False,
        heads: int = 1,
    ):
        super().__init__(backend, dtype)
        self.recompute = recompute
        self.input_size = check_size("input_size", input_size)
        self.hidden_size = check_size("hidden_size", hidden_size)
        self.num_layers = check_size("num_layers", num_layers)
        self.num_directions = 2 if bidirectional else 1
        self.batch_first = batch_first
        self.dropout = Dropout(check_probability("dropout", dropout), backend=self.backend, dtype=dtype)
        self.options = Options(
            bias, proj_size, peepholes, coupled, hard_sigmoid, clip, cell_clip, layer_norm, zoneout_h, zoneout_c,
            input_dropout, recurrent_dropout, weight_dropout, residual, learn_state, cells, heads,
        )  # fmt: skip
        self.options.check_sizes(self.hidden_size, self.num_layers, forget_bias)
        self.output_size = self.options.proj_size or self.hidden_size
        self.tier = tier
        recurrent = self.options.recurrent()
        self._plain = not recurrent - {"cells"}  # what goes beyond needs a Variant at every call
        self._choose_tier()
        rng = np.random.default_rng(check_seed(seed))
        bound = 1 / math.sqrt(self.hidden_size)
        for layer in range(self.num_layers):
            width = self.input_size if layer == 0 else self.output_size * self.num_directions
            for name in self._names(layer):
                for part, shape in self.options.parameters(self.hidden_size, width).items():
                    if part in STARTS:
                        self.add(f"{part}_{name}", np.full(shape, STARTS[part]))
                    else:
                        self.add_uniform(f"{part}_{name}", shape, bound, rng)
                if forget_bias is not None:
                    self.params[f"bias_{name}"][self.hidden_size : 2 * self.hidden_size] = float(forget_bias)

    def _choose_tier(self) -> None:
        self.plan: Plan = make_plan(self.backend, self.tier, self.hidden_size, self.dtype, self.options.recurrent())
        # The reference tier is the oracle: it stays with the array namespace in its large products too.
        around = ops.Arrays(self.backend) if self.plan.tier == "reference" else ops.of(self.backend)
        self._product, self._weight_gradients = around.product, around.weight_gradients

    def __getstate__(self) -> dict[str, Any]:
        """All but the tier, which is chosen again where the state arrives."""
        return {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("plan", "_product", "_weight_gradients")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._choose_tier()

    def forward(
        self,
        x: Array,
        state: tuple[Array | None, Array | None] | None = None,
        lengths: Sequence[int] | np.ndarray | None = None,
        seed: int | tuple[int, ...] | None = None,
        keep: bool = True,
        resets: np.ndarray | Array | None = None,
        *,
        guard: bool = True,
    ) -> tuple[Any, State, Tape]:
        """Run all layers over all steps.

        What comes back is the caller's own. x and the parameters lie on the tape themselves; until `backward` has run
        they must stay as they are, and where they don't, `backward` says so.

        Parameters
        ----------
        x : (T, B, input_size), or (B, T, input_size) with batch_first
            At least one step and one sequence.
        state : (h0, c0), (num_layers * num_directions, B, P) and (.., B, H), optional
            Initial state; None, for the pair or for one of them, is zero, or what was learned with `learn_state`.
        lengths : B whole numbers in 0..T, optional
            Steps of each sequence, in any order; all have T if not given. What x holds after a sequence's end is
            ignored, whatever it is, and y is zero there. A sequence of no steps ends in its initial state.
        seed : int or tuple of int, optional
            At least 0. Given while training: seeds all that is drawn at random. None means evaluation, without dropout.
        keep : bool
            False for inference: nothing is saved for `backward`, which then refuses the tape.
        resets : (T, B) bool, or (B, T) with batch_first, optional
            True at the first step of an episode: the state is zero before it, and no gradient passes; the second
            direction's is zero before the step that precedes it.
        guard : bool
            False for a caller who writes to none of x, y and the parameters before `backward`: y may then lie on the
            tape, too, and nothing is checked.

        Returns
        -------
        y : (T, B, P * num_directions), or batch first
            h of the last layer at each step; with `cells` the pair of that and c, (T, B, H * num_directions).
        state : (h, c), (num_layers * num_directions, B, P) and (.., B, H)
            The state after each sequence's own last step (its first, for the reverse direction).
        tape : Tape
            For `backward`.

        Raises
        ------
        InputError
            An argument has the wrong shape, dtype, device or value; nothing was computed.
        BackendError
            The named tier doesn't take resets.
        """
        xp, backend = self.backend.xp, self.backend
        guard, seed = guard and keep, training_seed(seed)
        order = ("B", "T") if self.batch_first else ("T", "B")
        x = backend.require("x", x, (*order, f"input_size={self.input_size}"), self.dtype)
        if 0 in x.shape:
            raise InputError(f"x has shape {tuple(x.shape)}; expected at least one step and one sequence")
        if self.batch_first:
            x = swap_batch_and_time(backend, x)
        num_steps, batch, _ = x.shape
        mask = self._mask(lengths, num_steps, batch)
        resets = self._check_resets(resets, num_steps, batch)
        call = Call(batch, mask, resets, seed, keep)
        x = _valid(xp, mask, x)
        first_h, first_c = self._check_state(("h0", "c0"), (None, None) if state is None else state, batch)
        given = first_h is not None, first_c is not None
        if guard and self.recompute:  # which begins with them again
            first_h, first_c = (None if s is None else xp.asarray(s, copy=True) for s in (first_h, first_c))
        run = self._run(call)
        rounded = self.rounded()
        guarded: Params = {}
        if guard:  # in the order in which backward finds them in the cache: what it reads first comes last
            copied = mask is not None or self.batch_first
            guarded = ({} if copied else {"x": x}) | rounded.needed()
        tapes: list[Any] = []
        finals: list[State] = []
        # Now, because what is guarded is read next in any case: it is in the cache.
        tape = Tape(self, (tapes, call, given, rounded) if keep else None, guarded)
        for chains in self._chains():
            entered, dropped, (layer, _) = x, None, chains[0][0]
            if layer > 0:
                x, dropped = self.dropout.forward(x, None if seed is None else (*seed, layer))
            outputs, cells, kept = [], [], []
            firsts = [[self._first(member, first_h, first_c, batch) for member in chain] for chain in chains]
            beside = self._room_beside("forward", chains, x, call)
            work = [
                rounded._forward_chain(chain, x, first, call, beside)
                for chain, first in zip(chains, firsts, strict=True)
            ]
            for y, c, last, pieces in together.in_step(run, backend, work):
                outputs.append(y)
                cells.append(c)
                finals += last
                kept.append(pieces)
            if keep:
                tapes.append((x, dropped, kept))
            x = outputs[0] if len(outputs) == 1 else xp.concat(outputs, axis=2)
            if self.options.residual and layer > 0:
                x = x + entered
        results = [x]
        if self.options.cells:
            results.append(cells[0] if len(cells) == 1 else xp.concat(cells, axis=2))
        if self.batch_first:
            results = [swap_batch_and_time(backend, result) for result in results]
        after = _stacked(xp, [h for h, _ in finals]), _stacked(xp, [c for _, c in finals])
        if guard and self._lies_on_tape(num_steps, batch, mask):
            results = [_copy(backend, result) for result in results]
        return results[0] if len(results) == 1 else tuple(results), after, tape

    def backward(
        self, tape: Tape, dy: Any = None, dstate: tuple[Array | None, Array | None] | None = None
    ) -> tuple[Array, State, Params]:
        """Backpropagate through time and through all layers.

        Parameters
        ----------
        tape : Tape
            From `forward`; used once.
        dy : like y, or None
            Gradient of the loss with respect to y; None is zero. What it holds after a sequence's end is ignored. With
            `cells` a pair like y, either of which may be None.
        dstate : (dh, dc), like the final state, or None
            Gradient with respect to the final state; None, for the pair or for one of them, is zero.

        Returns
        -------
        dx : like x
            Exactly zero after a sequence's end.
        dstate0 : (dh0, dc0)
            Gradient of the initial state.
        gradients : dict
            Of every parameter, by name.

        Raises
        ------
        InputError
            The tape was used before or is that of another layer, x or a parameter was written to since `forward`, or an
            argument has the wrong shape, dtype or device; nothing was computed, and the tape is as it was.
        """
        xp, backend = self.backend.xp, self.backend
        tapes, call, given, rounded = self.read(tape)
        num_steps, batch, _ = tapes[0][0].shape
        dy, dc = self._check_dy(dy, num_steps, batch)
        dh_last, dc_last = self._check_state(("dh", "dc"), (None, None) if dstate is None else dstate, batch)
        tape.spend()
        run = self._run(call)
        if self.options.residual and dy is not None:
            dy = _valid(xp, call.mask, dy)
        gradients: Params = {}
        before: dict[int, State] = {}
        for chains in reversed(self._chains()):
            (layer, _), (x, dropped, kept) = chains[0][0], tapes.pop()
            dx, work = None, []
            beside = self._room_beside("backward", chains, x, call)
            for direction, chain in enumerate(chains):
                last = [
                    tuple(None if s is None else s[self._place(member), ...] for s in (dh_last, dc_last))
                    for member in chain
                ]
                arriving = tuple(
                    None if d is None else d[:, :, direction * size : (direction + 1) * size]
                    for d, size in ((dy, self.output_size), (dc, self.hidden_size))
                )
                work.append(rounded._backward_chain(chain, x, arriving, last, kept[direction], call, beside))
            done = together.in_step(run, backend, work)
            for chain, (dx_chain, first, found) in zip(chains, done, strict=True):
                gradients |= found
                before |= {self._place(member): state for member, state in zip(chain, first, strict=True)}
                if dx is None:
                    dx = dx_chain
                else:
                    dx += dx_chain
            if dropped is not None:
                dx = self.dropout.backward(dropped, dx)[0]
            if self.options.residual and layer > 0 and dy is not None:
                dx = dx + dy
            dy, dc = dx, None
        if self.batch_first:
            dy = swap_batch_and_time(backend, dy)
        dh0, dc0 = self._joined([before[place] for place in range(len(before))])
        if self.options.learn_state:
            for part, d, was_given in (("h0", dh0, given[0]), ("c0", dc0, given[1])):
                for member in (member for chains in self._chains() for chain in chains for member in chain):
                    total = xp.sum(backend.widened(d[self._place(member), ...]), axis=0)
                    gradients[f"{part}_{self._name(member)}"] = xp.zeros_like(total) if was_given else total
        return dy, (dh0, dc0), {name: gradients[name] for name in rounded.params}

    def needed(self) -> Params:
        """The parameters that `backward` reads themselves; with 16 bits it has copies of the weights."""
        apart = ["h0", "c0"]
        if not self.recompute:
            apart.append("bias")
        if self.dtype != self.param_dtype:
            apart.append("weight")
        return {name: array for name, array in self.params.items() if not name.startswith(tuple(apart))}

    def _lies_on_tape(self, num_steps: int, batch: int, mask: Mask | None) -> bool:
        """Whether the outputs are views of what the tape holds."""
        copied = self.batch_first or mask is not None or self.num_directions == 2 or self.recompute
        return not copied and len(segments(num_steps, batch, False, self.backend.least_steps)) == 1

    def zero_state(self, batch: int) -> State:
        """A state of zeros for `batch` sequences."""
        xp, backend = self.backend.xp, self.backend
        h_shape, c_shape = self._state_shapes(batch)
        h = xp.zeros(h_shape, dtype=backend.dtype(self.dtype))
        return h, xp.zeros(c_shape, dtype=backend.dtype(self.param_dtype))

    def _joined(self, states: list[State]) -> State:
        """One state from those of all members; from one alone a view of it."""
        xp, backend = self.backend.xp, self.backend
        h, c = ([state[part] for state in states] for part in (0, 1))
        h, c = (x[0][None, ...] if len(x) == 1 else _stacked(xp, x) for x in (h, c))
        return backend.asarray(h, self.dtype), backend.asarray(c, self.param_dtype)

    def _chains(self) -> list[list[list[Member]]]:
        """What runs over time together: all layers of one direction, or each by itself.

        The chains of a group take the same input, and their outputs are concatenated.
        """
        if self.num_directions == 1:
            return [[[(layer, 0) for layer in range(self.num_layers)]]]
        return [[[(layer, 0)], [(layer, 1)]] for layer in range(self.num_layers)]

    def _place(self, member: Member) -> int:
        """Where a member's states are in a State."""
        return member[0] * self.num_directions + member[1]

    def _name(self, member: Member) -> str:
        """How the names of a member's parameters end."""
        return self._names(member[0])[member[1]]

    def _first(self, member: Member, h0: Array | None, c0: Array | None, batch: int) -> tuple[Array | None, ...]:
        """A member's initial h and c: given, learned, or None for zero."""
        xp, states = self.backend.xp, []
        for part, given in (("h0", h0), ("c0", c0)):
            if given is not None:
                states.append(given[self._place(member), ...])
            elif self.options.learn_state:
                learned = self.params[f"{part}_{self._name(member)}"]
                states.append(xp.zeros((batch, 1), dtype=learned.dtype) + learned)
            else:
                states.append(None)
        return tuple(states)

    def _parts(self, chain: list[Member], x: Array) -> list[tuple[int, int]]:
        """The segments of x (T, B, .), in the order in which forward takes them through a chain."""
        return segments(x.shape[0], x.shape[1], chain[0][1] == 1, self.backend.least_steps)

    def _room_beside(self, direction: str, chains: list[list[Member]], x: Array, call: Call) -> bool:
        """Whether products that no recurrence of their segment waits for should go beside one: see `Backend.beside`."""
        (start, stop), *more = self._parts(chains[0], x)
        if self._at_once(direction, chains[0], x.shape[1], call) > 1:
            return False  # layers at once leave no room
        if self.options.layer_norm or not (more or (direction == "backward" and len(chains[0]) > 1)):
            return False
        batch, width = x.shape[1:]
        # x W_ih^T; or dx, dW_ih and dW_hh of the first layer.
        products = width if direction == "forward" else 2 * width + self.output_size
        options = self.options.recurrent() | (frozenset() if call.resets is None else {"resets"})
        shape = stop - start, batch, self.hidden_size
        recurrences = together.Round(direction, shape, self.dtype, options, len(chains))
        return together.room_beside(
            self._run(call), self.backend, recurrences, len(chains) * 4 * math.prod(shape) * products
        )

    def _forward_chain(
        self, chain: list[Member], x: Array, state: list[Any], call: Call, beside: bool
    ) -> Steps[tuple[Array, Array | None, list[Any], list[Any]]]:
        """Run a chain over x (T, B, .), segment by segment.

        Where `beside` says so, the first layer's product of the next segment goes beside the recurrence of this one.

        Returns outputs (T, B, P), with `cells` c (T, B, H) of the last layer, final states, and what backward needs:
        for each segment, the tape of `_forward_segment`; or, with `recompute`, the states before it.
        """
        xp, kept = self.backend.xp, []
        parts = self._parts(chain, x)
        y = c = None
        ahead: Entry | None = None
        if len(parts) > 1:
            y = xp.empty((*x.shape[:2], self.output_size), dtype=x.dtype)
            if self._gives_cells(chain):
                c = xp.empty((*x.shape[:2], self.hidden_size), dtype=self.backend.dtype(self.param_dtype))
        for number, (start, stop) in enumerate(parts):
            entry, ahead = ahead, None
            if beside and number + 1 < len(parts):
                ahead, product = self._enter_later(chain[0], x[slice(*parts[number + 1]), ...], call)
                yield "beside", product
            y_part, c_part, after, tape = yield from self._forward_segment(chain, x, start, stop, state, call, entry)
            if call.keep:
                kept.append(state if self.recompute else tape)
            if y is None:
                return y_part, c_part, after, kept
            y[start:stop, ...] = y_part
            if c is not None:
                c[start:stop, ...] = c_part
            # Copies: the states are views of arrays with all steps, which would stay as long as they do.
            state = [tuple(xp.asarray(s, copy=True) for s in pair) for pair in after]
            del y_part, c_part, after, tape  # before the next segment takes its memory
        return y, c, state, kept

    def _forward_segment(
        self, chain: list[Member], x: Array, start: int, stop: int, state: list[Any], call: Call,
        entry: Entry | None = None,
    ) -> Steps[tuple[Array, Array | None, list[Any], list[Piece]]]:  # fmt: skip
        """Steps start..stop-1 of `_forward_chain`: outputs, states after them, and the tape of each layer.

        `entry` is the first layer's, where that is there already.
        """
        xp = self.backend.xp
        x = x[start:stop, ...]
        mask = None if call.mask is None else call.mask.part(start, stop)
        if (at_once := self._at_once("forward", chain, x.shape[1], call)) > 1:
            return (yield from self._forward_stacks(chain, at_once, x, mask, start, state, call))
        cells, last, tapes = None, [], []
        for place, member in enumerate(chain):
            entered, dropped, (layer, direction) = x, None, member
            if place > 0:
                x, dropped = self.dropout.forward(x, _seed_below(layer, start, call))
            if place > 0 or entry is None:
                entry = self._enter(member, x, call)
            weight_hh, weight_again = self._weight_hh(call, member)
            variant = self._variant(call, member, start, stop)
            keep = call.keep or self._gives_cells(chain[: place + 1])
            h0, c0 = state[place]
            saved = yield "forward", (entry.z, weight_hh, h0, c0, mask, direction == 1, keep, variant)
            if call.keep:
                tapes.append(Piece(entry.x, dropped, saved, entry.input_mask, weight_again, entry.normalised))
            x = _valid(xp, mask, saved.outputs)
            if self.options.residual and place > 0:
                x = x + entered
            if self._gives_cells(chain[: place + 1]):
                cells = _valid(xp, mask, saved.c[:-1, ...] if saved.reverse else saved.c[1:, ...])
            last.append(saved.last)
        return x, cells, last, tapes

    def _forward_stacks(
        self, chain: list[Member], at_once: int, x: Array, mask: Mask | None, start: int, state: list[Any], call: Call
    ) -> Steps[tuple[Array, Array | None, list[Any], list[Piece]]]:
        """`_forward_segment`, with so many layers in one launch."""
        xp, last, tapes = self.backend.xp, [], []
        for first in range(0, len(chain), at_once):
            group = list(enumerate(chain))[first : first + at_once]
            seeds = [_seed_below(layer, start, call) for _, (layer, _) in group]
            dropped = None
            if first > 0:
                x, dropped = self.dropout.forward(x, seeds[0])
            z, _ = self._project(x, self._name(chain[first]))
            weights = [self._weight_hh(call, member) for _, member in group]
            problems = [
                (None if place > first else z, weight_hh, *state[place], mask, False, call.keep, None)
                for (place, _), (weight_hh, _) in zip(group, weights, strict=True)
            ]
            joints = []
            for (_, member), seed in zip(group[1:], seeds[1:], strict=True):
                name, factors = self._name(member), None
                if seed is not None and self.dropout.p > 0:
                    ones = xp.ones((*x.shape[:2], self.hidden_size), dtype=x.dtype)
                    factors = self.dropout.forward(ones, seed)[0]
                joints.append(Joint(self.params[f"weight_ih_{name}"], self.params.get(f"bias_{name}"), factors))
            for number, saved in enumerate((yield from _run_stack("forward", problems, joints))):
                if number > 0:
                    x, dropped = self.dropout.forward(x, seeds[number])
                if call.keep:
                    tapes.append(Piece(x, dropped, saved, None, weights[number][1], None))
                x = _valid(xp, mask, saved.outputs)
                last.append(saved.last)
        return x, None, last, tapes

    def _backward_chain(
        self, chain: list[Member], x: Array, arriving: tuple[Array | None, ...], dstate: list[Any], kept: list[Any],
        call: Call, beside: bool,
    ) -> Steps[tuple[Array, list[Any], Params]]:  # fmt: skip
        """Backpropagate through `_forward_chain`: dx, gradients of the initial states, gradients of the parameters.

        Gradients are summed up segment by segment, so that they are the same to the last bit with `recompute`. Where
        `beside` says so, those of the parameters and the first layer's dx go beside the next recurrence.
        """
        xp = self.backend.xp
        parts = self._parts(chain, x)
        dx: Array = None
        if len(parts) > 1 or beside:
            dx = xp.empty(x.shape, dtype=x.dtype)
        gradients: Params = {}
        if beside:
            for name in (f"{part}_{self._name(member)}" for member in chain for part in PRODUCTS):
                if name in self.params:
                    gradients[name] = xp.empty(self.params[name].shape, dtype=self.backend.dtype(self.param_dtype))
        for start, stop in reversed(parts):
            tapes = kept.pop()
            if self.recompute:
                *_, tapes = yield from self._forward_segment(chain, x, start, stop, tapes, call)
            dy, dc = (None if d is None else d[start:stop, ...] for d in arriving)
            add = partial(_add_up, gradients, first=stop == parts[-1][1])
            dx_later = dx[start:stop, ...] if beside else None
            dx_part, dstate = yield from self._backward_segment(chain, tapes, dy, dc, dstate, call, add, dx_later)
            if dx is None:
                return dx_part, dstate, gradients
            if not beside:
                dx[start:stop, ...] = dx_part
        return dx, dstate, gradients

    def _backward_segment(
        self, chain: list[Member], tapes: list[Piece], dy: Array | None, dc: Array | None, dstate: list[Any],
        call: Call, add: Callable[[Params], None], dx_later: Array | None,
    ) -> Steps[tuple[Array, list[Any]]]:  # fmt: skip
        """Backpropagate through one `_forward_segment`: dx, gradients of the states before it.

        `add` takes gradients of parameters. Where `dx_later` is given, they and that dx are found beside recurrences.
        """
        if (at_once := self._at_once("backward", chain, call.batch, call)) > 1:
            return (yield from self._backward_stacks(chain, at_once, tapes, dy, dstate, call, add))
        before: list[Any] = []
        for place, member in reversed(list(enumerate(chain))):
            piece = tapes.pop()
            dh_last, dc_last = dstate[place]
            dz, dh0, dc0 = yield "backward", (piece.saved, dy, dh_last, dc_last, dc)
            before.insert(0, (dh0, dc0))
            if dx_later is None:
                dx = self._gradients(member, piece, dz, add)
            elif place > 0:
                dx = self._input_gradient(member, piece, dz)
                yield "beside", partial(self._parameter_gradients, member, piece, dz, add)
            else:
                dx = dx_later
                yield "beside", partial(self._gradients, member, piece, dz, add, dx)
            if piece.dropped is not None:
                dx = self.dropout.backward(piece.dropped, dx)[0]
            if self.options.residual and place > 0 and dy is not None:
                dx = dx + dy
            dy, dc = dx, None
        return dy, before

    def _backward_stacks(
        self, chain: list[Member], at_once: int, tapes: list[Piece], dy: Array | None, dstate: list[Any],
        call: Call, add: Callable[[Params], None],
    ) -> Steps[tuple[Array, list[Any]]]:  # fmt: skip
        """`_backward_segment`, with so many layers in one launch."""
        before: list[Any] = []
        for first in reversed(range(0, len(chain), at_once)):
            group, pieces = chain[first : first + at_once], tapes[first:]
            del tapes[first:]
            joints = []
            for member, piece in zip(group[1:], pieces[1:], strict=True):
                factors = None
                if piece.dropped is not None and call.seed is not None and self.dropout.p > 0:
                    factors = self.dropout.backward(piece.dropped, self.backend.xp.ones_like(piece.x))[0]
                joints.append(Joint(self.params[f"weight_ih_{self._name(member)}"], None, factors))
            problems = [
                (piece.saved, dy if number == len(group) - 1 else None, *dstate[first + number], None)
                for number, piece in enumerate(pieces)
            ]
            answers = yield from _run_stack("backward", problems, joints)
            before = [(dh0, dc0) for _, dh0, dc0 in answers] + before
            for member, piece, (dz, _, _) in reversed(list(zip(group, pieces, answers, strict=True))):
                du = self._parameter_gradients(member, piece, dz, add)
            dy = self._input_gradient(member, piece, du)  # the first of the group
            if piece.dropped is not None:
                dy = self.dropout.backward(piece.dropped, dy)[0]
        return dy, before

    def _at_once(self, direction: str, chain: list[Member], batch: int, call: Call) -> int:
        """How many layers of a chain the tier is to run in one launch."""
        o = self.options
        if len(chain) == 1 or not self._plain or call.resets is not None or o.cells or o.residual or o.input_dropout:
            return 1
        return together.layers_at_once(
            self._run(call), self.backend, direction, batch, self.hidden_size, self.dtype, len(chain)
        )

    def _gradients(
        self, member: Member, piece: Piece, dz: Array, add: Callable[[Params], None], out: Array | None = None
    ) -> Array:
        """From dz (T, B, 4H) the gradient of the input, a new array or `out`; those of the parameters go to `add`."""
        return self._input_gradient(member, piece, self._parameter_gradients(member, piece, dz, add), out)

    def _input_gradient(self, member: Member, piece: Piece, du: Array, out: Array | None = None) -> Array:
        """dx of a layer, a new array or `out`, from the gradient of x W_ih^T."""
        xp, weight, shape = self.backend.xp, self.params[f"weight_ih_{self._name(member)}"], piece.x.shape
        into = None if out is None else xp.reshape(out, (-1, shape[2]))
        dx = xp.reshape(self._product(xp.reshape(du, (-1, weight.shape[0])), weight, out=into), shape)
        if piece.input_mask is None:
            return dx
        return dx * piece.input_mask if out is None else self.backend.multiply(dx, piece.input_mask, out)

    def _parameter_gradients(self, member: Member, piece: Piece, dz: Array, add: Callable[[Params], None]) -> Array:
        """From dz the gradient of x W_ih^T, (T B, 4H); those of the parameters, sums over all steps, go to `add`."""
        xp, backend, name, saved = self.backend.xp, self.backend, self._name(member), piece.saved
        rows, width = dz.shape[0] * dz.shape[1], dz.shape[2]
        dz = xp.reshape(dz, (rows, width))
        x = xp.reshape(piece.x, (rows, piece.x.shape[2]))
        before = xp.reshape(saved.before, (rows, self.output_size))
        found: Params = {f"{part}_{name}": gradient for part, gradient in saved.gradients.items()}
        du = dz  # of x W_ih^T
        if piece.normalised is not None:
            y, scales = piece.normalised
            wide = backend.widened(dz)
            found[f"gain_ih_{name}"] = xp.sum(wide * y, axis=0)
            du = normalise_backward(xp, wide * self.params[f"gain_ih_{name}"], y, scales)
            du = backend.asarray(du, self.dtype)
        if self.options.layer_norm or self.options.heads > 1:
            (weight_ih,), bias = self._weight_gradients(du, [x])
            if du is not dz:
                bias = xp.sum(backend.widened(dz), axis=0)
            dz_hh = dz if saved.dz_hh is None else xp.reshape(saved.dz_hh, (rows, width))
            weight_hh = weight_hh_gradient(xp, self._weight_gradients, dz_hh, before, self.options.heads)
        else:
            (weight_ih, weight_hh), bias = self._weight_gradients(dz, [x, before])
        if piece.weight_again is not None:
            weight_hh = piece.weight_again(weight_hh)
        found |= {f"weight_ih_{name}": weight_ih, f"weight_hh_{name}": weight_hh}
        if self.options.bias:
            found[f"bias_{name}"] = bias
        add(found)
        return du

    def _names(self, layer: int) -> list[str]:
        """Name endings of the layer's directions."""
        return [f"l{layer}", f"l{layer}_reverse"][: self.num_directions]

    def _enter(self, member: Member, x: Array, call: Call) -> Entry:
        """What a layer's recurrence starts from."""
        x, input_mask = self._masked(member, x, call)
        return Entry(x, input_mask, *self._project(x, self._name(member)))

    def _enter_later(self, member: Member, x: Array, call: Call) -> tuple[Entry, Callable[[], Array]]:
        """`_enter` without the product, and the product."""
        backend, name = self.backend, self._name(member)
        x, input_mask = self._masked(member, x, call)
        z = backend.xp.empty((*x.shape[:2], 4 * self.hidden_size), dtype=backend.dtype(self.dtype))
        rows, out = (backend.xp.reshape(array, (-1, array.shape[2])) for array in (x, z))
        weight, bias = self.params[f"weight_ih_{name}"].T, self.params.get(f"bias_{name}")
        return Entry(x, input_mask, z, None), partial(self._product, rows, weight, bias, out=out)

    def _masked(self, member: Member, x: Array, call: Call) -> tuple[Array, Array | None]:
        """A layer's input with what is dropped at all steps, and the factor that did it."""
        mask = self._noise(INPUT, self.options.input_dropout, (x.shape[1], x.shape[2]), call, member)
        return (x if mask is None else x * mask), mask

    def _project(self, x: Array, name: str) -> tuple[Array, tuple[Array, Array] | None]:
        """z = x W_ih^T + b for all steps at once, (T, B, 4H); and the product normalised, where it is."""
        xp, width = self.backend.xp, 4 * self.hidden_size
        rows = x.shape[0] * x.shape[1]
        weight, bias = self.params[f"weight_ih_{name}"].T, self.params.get(f"bias_{name}")
        inner_bias = None if self.options.layer_norm else bias
        if self.plan.tier == "reference":
            z = xp.reshape(self._product_by_steps(x, weight), (rows, width))
            if inner_bias is not None:
                z += inner_bias
        else:
            dtype = self.param_dtype if self.options.layer_norm else self.dtype
            z = self._product(xp.reshape(x, (rows, x.shape[2])), weight, inner_bias, dtype)
        normalised = None
        if self.options.layer_norm:
            normalised = normalise(xp, z)
            z = normalised[0] * self.params[f"gain_ih_{name}"]
            if bias is not None:
                z += bias
        z = self.backend.asarray(z, self.dtype)
        return xp.reshape(z, (x.shape[0], x.shape[1], width)), normalised

    def _product_by_steps(self, x: Array, weight: Array) -> Array:
        """x (T, B, .) times a matrix, step by step: a step's rounding doesn't depend on how many there are."""
        backend = self.backend
        return backend.xp.matmul(backend.widened(x), transposed(backend, backend.widened(weight.T)))

    def _noise(
        self, kind: int, p: float, shape: tuple[int, ...], call: Call, member: Member, start: int = 0
    ) -> Array | None:
        """Factors 0 with probability p, else 1/(1-p); None in evaluation or where p is 0."""
        if call.seed is None or p == 0:
            return None
        ones = self.backend.xp.ones(shape, dtype=self.backend.dtype(self.dtype))
        return self.backend.dropout(ones, p, self._noise_seed(kind, call, member, start))[0]

    def _noise_seed(self, kind: int, call: Call, member: Member, start: int = 0) -> tuple[int, ...]:
        return (*(call.seed or ()), member[0] + 1, kind, member[1] + 1, start + 1)

    def _weight_hh(self, call: Call, member: Member) -> tuple[Array, Again | None]:
        """A member's W_hh, with elements dropped while training."""
        weight, p = self.params[f"weight_hh_{self._name(member)}"], self.options.weight_dropout
        if call.seed is None or p == 0:
            return weight, None
        return ops.of(self.backend).dropout(weight, p, self._noise_seed(WEIGHT, call, member))

    def _variant(self, call: Call, member: Member, start: int, stop: int) -> Variant | None:
        """What the recurrence of a member does beyond the plain LSTM in steps start..stop-1."""
        o, xp, name = self.options, self.backend.xp, self._name(member)
        if self._plain and call.resets is None:
            return None
        dtype, batch = self.backend.dtype(self.dtype), call.batch
        zoneout: dict[str, Any] = {}
        for part, kind, p, size in (
            ("zoneout_h", ZONEOUT_H, o.zoneout_h, self.output_size),
            ("zoneout_c", ZONEOUT_C, o.zoneout_c, self.hidden_size),
        ):
            drawn = self._noise(kind, p, (stop - start, batch, size), call, member, start)
            zoneout[part] = xp.astype(drawn == 0, dtype) if drawn is not None else float(p) or None
        live = None
        if call.resets is not None:
            begins = call.resets
            if member[1] == 1:  # in reverse, an episode begins at the step before another one's first
                begins = np.concatenate([begins[1:], np.zeros_like(begins[:1])])
            live = self.backend.asarray((~begins[start:stop, :, None]).astype(np.float32), self.dtype)
        return Variant(
            heads=o.heads,
            projection=self.params.get(f"weight_hr_{name}"),
            peepholes=self.params.get(f"peephole_{name}"),
            coupled=o.coupled,
            hard_sigmoid=o.hard_sigmoid,
            clip=math.inf if o.clip is None else float(o.clip),
            cell_clip=math.inf if o.cell_clip is None else float(o.cell_clip),
            gain_hh=self.params.get(f"gain_hh_{name}"),
            gain_c=self.params.get(f"gain_c_{name}"),
            shift_c=self.params.get(f"shift_c_{name}"),
            recurrent_mask=self._noise(RECURRENT, o.recurrent_dropout, (batch, self.output_size), call, member),
            live=live,
            **zoneout,
        )

    def _gives_cells(self, chain: list[Member]) -> bool:
        """Whether the last member of a chain hands out c of every step."""
        return self.options.cells and chain[-1][0] == self.num_layers - 1

    def _run(self, call: Call) -> Tier:
        """The tier that runs, with resets or without."""
        if call.resets is None or "resets" in self.plan.takes:
            return self.plan.run
        wanted = self.options.recurrent() | {"resets"}
        return make_plan(self.backend, self.tier, self.hidden_size, self.dtype, wanted).run

    def _mask(self, lengths: Sequence[int] | np.ndarray | None, num_steps: int, batch: int) -> Mask | None:
        """The batch's mask, or None where every sequence has all steps."""
        if lengths is None:
            return None
        try:
            host = self._on_host("lengths", lengths)
        except InputError:
            raise
        except ValueError:
            raise InputError(
                f"lengths is a {type(lengths).__name__} of no regular shape; expected {batch} of them"
            ) from None
        if isinstance(lengths, np.ma.MaskedArray):
            raise InputError("lengths is a masked array; expected whole numbers")
        if host.shape != (batch,) or not np.issubdtype(host.dtype, np.integer):
            raise InputError(
                f"lengths has shape {host.shape} and dtype {host.dtype}; expected {batch} whole numbers, one a sequence"
            )
        if host.min() < 0 or host.max() > num_steps:
            raise InputError(f"lengths has values {host.min()}..{host.max()}; expected 0..T={num_steps}")
        if host.min() == num_steps:
            return None
        valid = np.arange(num_steps)[:, None, None] < host[None, :, None]
        return Mask(host.astype(np.int64), self.backend.asarray(valid, "bool"))

    def _on_host(self, name: str, value: Any) -> np.ndarray:
        """A sequence, or an array of the host or of the backend's device, as an array of the host."""
        if self.backend.owns(value) or hasattr(value, "__cuda_array_interface__"):
            value = self.backend.to_numpy(self.backend.receive(name, value))
        return np.asarray(value)

    def _check_resets(self, resets: Any, num_steps: int, batch: int) -> np.ndarray | None:
        """The resets on the host, (T, B); None where there are none."""
        if resets is None:
            return None
        host = self._on_host("resets", resets)
        shape = (batch, num_steps) if self.batch_first else (num_steps, batch)
        if host.shape != shape or host.dtype != np.bool_:
            raise InputError(f"resets has shape {host.shape} and dtype {host.dtype}; expected {shape} of bool")
        return np.array(host.T if self.batch_first else host)

    def _check_dy(self, dy: Any, num_steps: int, batch: int) -> tuple[Array | None, Array | None]:
        """Gradients of h and of c of every step, (T, B, .) each."""
        names: tuple[str, ...] = ("dy",)
        if self.options.cells:
            if dy is not None and (not isinstance(dy, tuple | list) or len(dy) != 2):
                raise InputError(f"dy is a {type(dy).__name__}; expected a pair (dh, dc), like y with cells=True")
            names = ("dy[0]", "dy[1]")
        arrays = list(dy) if self.options.cells and dy is not None else [dy, None]
        order = (batch, num_steps) if self.batch_first else (num_steps, batch)
        kinds = (self.output_size, self.dtype), (self.hidden_size, self.param_dtype)
        for place, (name, (size, dtype)) in enumerate(zip(names, kinds, strict=False)):
            if arrays[place] is not None:
                shape = (*order, size * self.num_directions)
                arrays[place] = self.backend.require(name, arrays[place], shape, dtype)
                if self.batch_first:
                    arrays[place] = swap_batch_and_time(self.backend, arrays[place])
        return arrays[0], arrays[1]

    def _state_shapes(self, batch: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Shapes of h and c of a State."""
        members = self.num_layers * self.num_directions
        return (members, batch, self.output_size), (members, batch, self.hidden_size)

    def _check_state(self, names: tuple[str, str], state: Any, batch: int) -> Any:
        """Check a pair of state arrays, either of which may be None."""
        if not isinstance(state, tuple | list) or len(state) != 2:
            raise InputError(f"state is {type(state).__name__}; expected a pair ({', '.join(names)})")
        kinds = zip(self._state_shapes(batch), (self.dtype, self.param_dtype), strict=True)
        return tuple(
            None if array is None else self.backend.require(name, array, shape, dtype)
            for name, array, (shape, dtype) in zip(names, state, kinds, strict=True)
        )


def _seed_below(layer: int, start: int, call: Call) -> tuple[int, ...] | None:
    """Seed of the dropout between a layer and the one below, in the segment from step `start` on; None: evaluation."""
    if call.seed is None:
        return None
    return (*call.seed, layer, start) if start else (*call.seed, layer)


def _run_stack(direction: str, problems: list[Any], joints: list[Joint]) -> Steps[list[Any]]:
    """What the tier gives for each layer: of a stack, or of the one that was left over."""
    found: list[Any] = (yield f"{direction}_stack", (problems, joints)) if joints else [(yield direction, problems[0])]
    return found


def segments(num_steps: int, batch: int, reverse: bool = False, least_steps: int = 1) -> list[tuple[int, int]]:
    """Ranges of steps that are computed together, in the order that forward takes them.

    Up to 16,384 rows (steps times sequences) it is all of them; beyond, about sqrt(T) steps, and no fewer than make
    2,048 rows, so that the products stay large and adding up the gradients of the segments costs next to nothing; nor
    fewer than the backend's `least_steps`. With and without `recompute` they are the same.
    """
    length = num_steps
    if num_steps * batch > 16384:
        length = min(num_steps, max(math.isqrt(num_steps), -(-2048 // batch), least_steps))
    parts = [(start, min(start + length, num_steps)) for start in range(0, num_steps, length)]
    return parts[::-1] if reverse else parts


def _add_up(gradients: Params, found: Params, first: bool) -> None:
    """Add gradients of a segment to those of the ones before; the first may find arrays that were made for them."""
    for name, gradient in found.items():
        if not first:
            gradients[name] += gradient
        elif name in gradients:
            gradients[name][...] = gradient
        else:
            gradients[name] = gradient


def swap_batch_and_time(backend: Backend, array: Array) -> Array:
    """Copy of (B, T, N) as (T, B, N) or back, C-contiguous: a copy of the transposed view would keep its strides."""
    return _copy(backend, backend.xp.permute_dims(array, (1, 0, 2)))


def _copy(backend: Backend, array: Array) -> Array:
    """A C-contiguous copy, in memory that the backend keeps for such."""
    copy = backend.empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def _stacked(xp: Any, arrays: Sequence[Array]) -> Array:
    """Copies of arrays of one shape along a new first axis; CuPy's `stack` takes addresses from the host for many."""
    whole = xp.empty((len(arrays), *arrays[0].shape), dtype=arrays[0].dtype)
    for place, array in enumerate(arrays):
        whole[place, ...] = array
    return whole


def _valid(xp: Any, mask: Mask | None, array: Array) -> Array:
    """`array` within each sequence's steps, zero outside."""
    if mask is None:
        return array
    # CuPy's `where` knows no bfloat16 and makes float32 of it.
    return xp.astype(xp.where(mask.valid, array, xp.zeros_like(array)), array.dtype, copy=False)
