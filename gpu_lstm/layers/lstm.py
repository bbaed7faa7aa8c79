"""The LSTM layer: arguments, then a schedule of passes through its members, then the result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np

from gpu_lstm import ops
from gpu_lstm.backend import Array, Backend
from gpu_lstm.layers import beyond, inference, overtime, schedule, walk
from gpu_lstm.layers.arguments import check_dy, check_forward, check_state, copied, stacked, swapped, valid
from gpu_lstm.layers.base import Layer, Params, Tape, check_seed, training_seed
from gpu_lstm.layers.call import Call, Member, Pair, Sizes, State, Work
from gpu_lstm.layers.checks import check_flag, check_probability, check_size
from gpu_lstm.layers.dropout import Dropout
from gpu_lstm.layers.options import STARTS, Given, Options
from gpu_lstm.recurrence import Plan, make_plan


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
        Start of the forget gate's bias. None: like the rest; 1 helps long memories (R. Jozefowicz et al., ICML 2015).
    backend : str, Backend or None
    dtype : {"float32", "float64", "float16", "bfloat16"}
        Of x, y, h and their gradients. With 16 bits, c, its gradient and the parameters are float32.
    tier : {"auto", "reference", "pointwise", "sequence"}
    recompute : bool
        Keep only the states at the borders of segments of about sqrt(T) steps and compute each again in `backward`
        (T. Chen et al., 2016): the same results to the last bit, far less memory, about a third more time.
    parallel : {False, "exact", "rounded"}
        Inference on long sequences runs in parallel over time where that pays: docs/understand/over_time.md.
    seed : int or tuple of int
        At least 0. Parameters start uniform in ±1/sqrt(hidden_size), as PyTorch's do.
    **options
        What goes beyond the plain LSTM, see `gpu_lstm.layers.options.Options` and docs/understand/variants.md.

    Attributes
    ----------
    params : dict
        For layer k: ``weight_ih_lk`` (4H, D or H * num_directions), ``weight_hh_lk`` (4H, H), ``bias_lk`` (4H,);
        gate order i, f, g, o; ``_reverse`` is appended for the second direction. PyTorch's names and layout,
        with PyTorch's two biases added up. With a projection, P stands for H in the width of h.
    options : Options
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

    Examples
    --------
    >>> lstm = LSTM(8, 16, bidirectional=True, backend="numpy")
    >>> x = np.ones((20, 3, 8), dtype="float32")
    >>> y, (h, c), tape = lstm.forward(x, lengths=[20, 7, 13])
    >>> y.shape, h.shape
    ((20, 3, 32), (2, 3, 16))
    >>> dx, (dh0, dc0), gradients = lstm.backward(tape, dy=np.ones_like(y))
    >>> gradients["weight_hh_l0"].shape
    (64, 16)
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, *, bidirectional: bool = False,
        dropout: float = 0.0, batch_first: bool = False, forget_bias: float | None = None,
        backend: str | Backend | None = None, dtype: str = "float32", tier: str = "auto", recompute: bool = False,
        parallel: str | bool = False, seed: int | tuple[int, ...] = 0, **options: Unpack[Given],
    ):  # fmt: skip
        super().__init__(backend, dtype)
        self.recompute, self.parallel, self.tier = check_flag("recompute", recompute), parallel, tier
        self.input_size = check_size("input_size", input_size)
        self.hidden_size = check_size("hidden_size", hidden_size)
        self.num_layers = check_size("num_layers", num_layers)
        self.num_directions = 2 if check_flag("bidirectional", bidirectional) else 1
        self.batch_first = check_flag("batch_first", batch_first)
        self.dropout = Dropout(check_probability("dropout", dropout), backend=self.backend, dtype=dtype)
        self.options = Options(**options)
        self.options.check_sizes(self.hidden_size, self.num_layers, forget_bias)
        self.output_size = self.options.proj_size or self.hidden_size
        self.sizes = Sizes(
            self.backend, self.dtype, self.param_dtype, self.input_size, self.hidden_size, self.output_size,
            self.num_layers, self.num_directions, self.batch_first,
        )  # fmt: skip
        self.members = [Member(*one) for one in np.ndindex(self.num_layers, self.num_directions)]
        self._choose_tier()
        rng, bound = np.random.default_rng(check_seed(seed)), 1 / math.sqrt(self.hidden_size)
        for member in self.members:
            for part, shape in self.options.parameters(self.hidden_size, self.sizes.width(member.layer)).items():
                values = np.full(shape, STARTS[part]) if part in STARTS else rng.uniform(-bound, bound, shape)
                self.add(f"{part}_{member.name}", values)
            if forget_bias is not None:
                self.params[f"bias_{member.name}"][self.hidden_size : 2 * self.hidden_size] = float(forget_bias)

    def _choose_tier(self) -> None:
        self._ready: inference.Ready | None = None
        self._recurrent = self.options.recurrent()
        self.plan: Plan = make_plan(self.backend, self.tier, self.hidden_size, self.dtype, self._recurrent)
        overtime.check(self.parallel, self.plan.run)
        beyond = self.options.on().keys() - {"bias"} or self.num_directions > 1 or self.batch_first
        self._plain = not beyond and self.dtype == self.param_dtype
        # The reference tier is the oracle: it stays with the array namespace in its large products too.
        self._ops = ops.Arrays(self.backend) if self.plan.tier == "reference" else ops.of(self.backend)

    def __getstate__(self) -> dict[str, Any]:
        """All but the tier, which is chosen again where the state arrives."""
        return {name: value for name, value in vars(self).items() if name not in ("plan", "_plain", "_ops", "_ready")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._choose_tier()

    def forward(
        self, x: Array, state: tuple[Array | None, Array | None] | None = None,
        lengths: Sequence[int] | np.ndarray | None = None, seed: int | tuple[int, ...] | None = None, keep: bool = True,
        resets: np.ndarray | Array | None = None, *, guard: bool = True,
    ) -> tuple[Any, State, Tape]:  # fmt: skip
        """Run all layers over all steps.

        On a CPU's `sequence` tier a sequence's results don't depend on the rest of the batch or on threads, to the bit.
        What comes back is the caller's own; x and the parameters must stay until `backward`, which says where not.

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
        backend, xp, guard = self.backend, self.backend.xp, guard and keep
        plain = not keep and self.parallel is False and lengths is None and seed is None and resets is None
        ready = self._ready  # of several threads at once, another may put something else there
        if plain and ready is not None and ready.fits(x, self.params):
            return *ready.run(x, check_state(self.sizes, "state", state, x.shape[1])), Tape(self, None)
        self._ready = None
        x, call = check_forward(self.sizes, x, lengths, resets, training_seed(seed), keep)
        h0, c0 = check_state(self.sizes, "state", state, call.batch)
        given = h0 is not None, c0 is not None
        rounding, tried = inference.NEVER, False
        if self.parallel is not False and not keep and call.seed is None:
            self.plan, rounding, tried = overtime.planned(self.plan, self.parallel, self.sizes, self.members, call)
        if not keep and not tried and self._plain and inference.fits(self.plan.run, call):
            params = self.params, self.kept(self.params, keep)
            ready = inference.Ready(self.sizes, self.plan.run, self.members, *params, x, rounding)
            self._ready = ready if plain else None
            return *ready.run(x, (h0, c0)), Tape(self, None)
        if guard and self.recompute:  # which begins with them again
            h0, c0 = (None if s is None else xp.asarray(s, copy=True) for s in (h0, c0))
        work, over_time = self._work(self.rounded(), call), tried or rounding[1] > 0
        pieces, finals = list[Any](), dict[Member, Pair]()
        # Now, because what is guarded is read next in any case: it is in the cache.
        copies = call.mask is not None or self.batch_first
        guarded = ({} if copies else {"x": x}) | self.needed(work.params) if guard else {}
        tape = Tape(self, (pieces, call, given, work.params) if keep else None, guarded)
        for pass_ in schedule.passes(work, "forward"):
            entered, dropped = x, None
            if pass_.first_layer > 0:
                x, dropped = work.drop(pass_.first_layer, 0, x)
            first = {m: self._first(m, h0, c0, call) for m in pass_.members}
            ran, segments = (overtime if over_time else walk).forward(work, pass_, x, first)
            if keep or over_time:
                pieces.append((x, dropped, segments))
            finals |= ran.states
            x = _side_by_side(xp, ran.outputs)
            if self.options.residual and pass_.first_layer > 0:
                x = x + entered
        self.plan = overtime.reported(self.plan, pieces) if over_time else self.plan
        results = [x, _side_by_side(xp, ran.cells)] if self.options.cells else [x]
        results = [swapped(backend, one) for one in results] if self.batch_first else results
        h, c = (stacked(xp, [finals[member][part] for member in self.members]) for part in (0, 1))
        if guard and self._lies_on_tape(call):
            results = [copied(backend, result) for result in results]
        return results[0] if len(results) == 1 else tuple(results), (backend.asarray(h, self.dtype), c), tape

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
        backend, xp = self.backend, self.backend.xp
        kept, call, given, params = self.read(tape)
        dy, dc = check_dy(self.sizes, self.options.cells, dy, call)
        last = check_state(self.sizes, "dstate", dstate, call.batch)
        tape.spend()
        work = self._work(params, call)
        if self.options.residual and dy is not None:
            dy = valid(xp, call.mask, dy)
        gradients, states = Params(), dict[Member, Pair]()
        back = schedule.passes(work, "backward")
        again = schedule.passes(work, "forward") if self.recompute else [None] * len(back)
        for pass_, forward in reversed(list(zip(back, again, strict=True))):
            x, dropped, segments = kept.pop()
            ends = {member: self._of_member(member, *last) for member in pass_.members}
            arriving = {direction: self._of_direction(direction, dy, dc) for _, direction in pass_.members}
            dx, first, found = walk.backward(work, pass_, forward, x, segments, arriving, ends)
            gradients |= found
            states |= first
            if dropped is not None:
                dx = self.dropout.backward(dropped, dx)[0]
            if self.options.residual and pass_.first_layer > 0 and dy is not None:
                dx = dx + dy
            dy, dc = dx, None
        dy = swapped(backend, dy) if self.batch_first else dy
        dh0, dc0 = self._joined([states[member] for member in self.members])
        if self.options.learn_state:
            gradients |= beyond.initial_gradients(backend, self.members, (dh0, dc0), given)
        return dy, (dh0, dc0), {name: gradients[name] for name in params}

    def needed(self, params: Params | None = None) -> Params:
        """Those of `params` that `backward` reads themselves; with 16 bits it has copies of the weights."""
        apart = ("h0", "c0", *["bias"] * (not self.recompute), *["weight"] * (self.dtype != self.param_dtype))
        given = self.params if params is None else params
        return {name: array for name, array in given.items() if not name.startswith(apart)}

    def zero_state(self, batch: int) -> State:
        """A state of zeros for `batch` sequences."""
        xp, dtype, (h_shape, c_shape) = self.backend.xp, self.backend.dtype, self.sizes.state(batch)
        return xp.zeros(h_shape, dtype=dtype(self.dtype)), xp.zeros(c_shape, dtype=dtype(self.param_dtype))

    def _work(self, params: Params, call: Call) -> Work:
        """What the members need in a call: with resets, of a tier that takes them."""
        run, recurrent = self.plan.run, self._recurrent
        if call.resets is not None and "resets" not in self.plan.takes:
            run = make_plan(self.backend, self.tier, self.hidden_size, self.dtype, recurrent | {"resets"}).run
        fixed = self.sizes, self.options, recurrent, self.dropout, self.recompute, self.parallel
        return Work(*fixed, params, call, run, self._ops, self.plan.tier == "reference", self.kept(params, call.keep))

    def _lies_on_tape(self, call: Call) -> bool:
        """Whether the outputs are views of what the tape holds."""
        if self.batch_first or call.mask is not None or self.num_directions == 2 or self.recompute:
            return False  # they were made anew
        return len(schedule.segments(call.steps, call.batch, self.backend.least_steps)) == 1

    def _first(self, member: Member, h0: Array | None, c0: Array | None, call: Call) -> Pair:
        """A member's initial h and c: given, learned, or None for zero."""
        h, c = self._of_member(member, h0, c0)
        if self.options.learn_state:
            zeros = self.backend.xp.zeros((call.batch, 1), dtype=self.backend.dtype(self.param_dtype))
            h = zeros + self.params[f"h0_{member.name}"] if h is None else h
            c = zeros + self.params[f"c0_{member.name}"] if c is None else c
        return h, c

    def _of_member(self, member: Member, h: Array | None, c: Array | None) -> Pair:
        """A member's part of a State."""
        place = self.members.index(member)
        return None if h is None else h[place, ...], None if c is None else c[place, ...]

    def _of_direction(self, direction: int, dh: Array | None, dc: Array | None) -> Pair:
        """A direction's part of what arrives at h and c of every step."""
        h = slice(direction * self.output_size, (direction + 1) * self.output_size)
        c = slice(direction * self.hidden_size, (direction + 1) * self.hidden_size)
        return None if dh is None else dh[:, :, h], None if dc is None else dc[:, :, c]

    def _joined(self, states: list[Any]) -> State:
        """One state from those of all members; from one alone a view of it."""
        xp, backend = self.backend.xp, self.backend
        h, c = ([state[part] for state in states] for part in (0, 1))
        h, c = (x[0][None, ...] if len(x) == 1 else stacked(xp, x) for x in (h, c))
        return backend.asarray(h, self.dtype), backend.asarray(c, self.param_dtype)


def _side_by_side(xp: Any, arrays: dict[int, Array]) -> Array:
    """Those of all directions, concatenated; of one direction itself."""
    return arrays[0] if len(arrays) == 1 else xp.concat([arrays[direction] for direction in sorted(arrays)], axis=2)
