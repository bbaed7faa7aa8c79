"""The LSTM layer: layers x directions around the recurrence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from gpu_lstm.backend import Array, Backend
from gpu_lstm.errors import InputError
from gpu_lstm.layers.base import Layer, Params, Tape, check_probability, check_size
from gpu_lstm.layers.dropout import Dropout
from gpu_lstm.recurrence import Mask, Plan, make_plan

State = tuple[Array, Array]
"""h and c, (num_layers * num_directions, B, H) each, in PyTorch's order: layer 0 forward, layer 0 reverse, ..."""


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
    dtype : {"float32", "float64"}
    tier : {"auto", "reference", "pointwise", "sequence"}
    recompute : bool
        Keep only the states at the borders of segments of about sqrt(T) steps, see `segments`, and compute each segment
        again in `backward` (T. Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016). The same results to
        the last bit for far less memory and about a third more time. The inputs of upper layers are computed again
        too, except with `bidirectional`, where each layer needs the one below as a whole.
    seed : int
        Parameters start uniform in ±1/sqrt(hidden_size), as PyTorch's do.

    Attributes
    ----------
    params : dict
        For layer k: ``weight_ih_lk`` (4H, D or H * num_directions), ``weight_hh_lk`` (4H, H), ``bias_lk`` (4H,);
        gate order i, f, g, o; ``_reverse`` is appended for the second direction. PyTorch's names and layout,
        with PyTorch's two biases added up.
    plan : Plan
        Which tier runs; ``plan.why()`` explains it.
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
        seed: int = 0,
    ):
        super().__init__(backend, dtype)
        self.recompute = recompute
        self.input_size = check_size("input_size", input_size)
        self.hidden_size = check_size("hidden_size", hidden_size)
        self.num_layers = check_size("num_layers", num_layers)
        self.num_directions = 2 if bidirectional else 1
        self.batch_first = batch_first
        self.dropout = Dropout(check_probability("dropout", dropout), backend=self.backend, dtype=dtype)
        self.plan: Plan = make_plan(self.backend, tier, self.hidden_size, dtype)
        # The reference tier is the oracle: it stays with the array namespace in its large products too.
        products = Backend if self.plan.tier == "reference" else type(self.backend)
        self._product = partial(products.product, self.backend)
        self._weight_gradients = partial(products.weight_gradients, self.backend)
        rng = np.random.default_rng(seed)
        bound = 1 / math.sqrt(self.hidden_size)
        for layer in range(self.num_layers):
            width = self.input_size if layer == 0 else self.hidden_size * self.num_directions
            for name in self._names(layer):
                self.add_uniform(f"weight_ih_{name}", (4 * self.hidden_size, width), bound, rng)
                self.add_uniform(f"weight_hh_{name}", (4 * self.hidden_size, self.hidden_size), bound, rng)
                self.add_uniform(f"bias_{name}", (4 * self.hidden_size,), bound, rng)
                if forget_bias is not None:
                    self.params[f"bias_{name}"][self.hidden_size : 2 * self.hidden_size] = float(forget_bias)

    def forward(
        self,
        x: Array,
        state: tuple[Array | None, Array | None] | None = None,
        lengths: Sequence[int] | np.ndarray | None = None,
        seed: tuple[int, ...] | None = None,
        keep: bool = True,
    ) -> tuple[Array, State, Tape]:
        """Run all layers over all steps.

        Parameters
        ----------
        x : (T, B, input_size), or (B, T, input_size) with batch_first
            At least one step and one sequence.
        state : (h0, c0), each (num_layers * num_directions, B, H), optional
            Initial state; None, for the pair or for one of them, is zero.
        lengths : B whole numbers in 1..T, optional
            Steps of each sequence, in any order; all have T if not given. What x holds after a sequence's end is
            ignored, whatever it is, and y is zero there.
        seed : tuple of int, optional
            Given while training: seeds the dropout between layers. None means evaluation, without dropout.
        keep : bool
            False for inference: nothing is saved for `backward`, which then refuses the tape.

        Returns
        -------
        y : (T, B, H * num_directions), or batch first
            h of the last layer at each step.
        state : (h, c), each (num_layers * num_directions, B, H)
            The state after each sequence's own last step (its first, for the reverse direction).
        tape : Tape
            For `backward`.

        Raises
        ------
        InputError
            An argument has the wrong shape, dtype, device or value; nothing was computed.
        """
        xp, backend = self.backend.xp, self.backend
        order = ("B", "T") if self.batch_first else ("T", "B")
        x = backend.require("x", x, (*order, f"input_size={self.input_size}"), self.dtype)
        if 0 in x.shape:
            raise InputError(f"x has shape {tuple(x.shape)}; expected at least one step and one sequence")
        if self.batch_first:
            x = swap_batch_and_time(backend, x)
        num_steps, batch, _ = x.shape
        mask = self._mask(lengths, num_steps, batch)
        if mask is not None:
            x = xp.where(mask.valid, x, xp.zeros_like(x))
        first_h, first_c = self._check_state(("h0", "c0"), (None, None) if state is None else state, batch)
        tapes: list[Any] = []
        finals: list[State] = []
        for chains in self._chains():
            dropped, (layer, _) = None, chains[0][0]
            if layer > 0:
                x, dropped = self.dropout.forward(x, None if seed is None else (*seed, layer))
            outputs, kept = [], []
            for chain in chains:
                first = [
                    tuple(None if s is None else s[k, ...] for s in (first_h, first_c)) for k in self._places(chain)
                ]
                y, last, pieces = self._forward_chain(chain, x, first, mask, seed, keep)
                outputs.append(y)
                finals += last
                kept.append(pieces)
            if keep:
                tapes.append((x, dropped, kept))
            x = outputs[0] if len(outputs) == 1 else xp.concat(outputs, axis=2)
        if self.batch_first:
            x = swap_batch_and_time(backend, x)
        return x, (xp.stack([h for h, _ in finals]), xp.stack([c for _, c in finals])), Tape(tapes or None, mask, seed)

    def backward(
        self, tape: Tape, dy: Array | None = None, dstate: tuple[Array | None, Array | None] | None = None
    ) -> tuple[Array, State, Params]:
        """Backpropagate through time and through all layers.

        Parameters
        ----------
        tape : Tape
            From `forward`; used once.
        dy : like y, or None
            Gradient of the loss with respect to y; None is zero. What it holds after a sequence's end is ignored.
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
            The tape was used before, or an argument has the wrong shape, dtype or device.
        """
        xp, backend = self.backend.xp, self.backend
        tapes, mask, seed = tape.take()
        if tapes is None:
            raise InputError("tape is that of a forward call with keep=False; expected one with keep=True")
        num_steps, batch, _ = tapes[0][0].shape
        width = self.hidden_size * self.num_directions
        if dy is not None:
            order = (batch, num_steps) if self.batch_first else (num_steps, batch)
            dy = backend.require("dy", dy, (*order, width), self.dtype)
            if self.batch_first:
                dy = swap_batch_and_time(backend, dy)
        dh_last, dc_last = self._check_state(("dh", "dc"), (None, None) if dstate is None else dstate, batch)
        gradients: Params = {}
        shape = (self.num_layers * self.num_directions, batch, self.hidden_size)
        dh0, dc0 = (xp.empty(shape, dtype=backend.dtype(self.dtype)) for _ in range(2))
        for chains in reversed(self._chains()):
            x, dropped, kept = tapes.pop()
            dx = None
            for direction, chain in enumerate(chains):
                part = slice(direction * self.hidden_size, (direction + 1) * self.hidden_size)
                last = [
                    tuple(None if s is None else s[k, ...] for s in (dh_last, dc_last)) for k in self._places(chain)
                ]
                dx_chain, first, found = self._backward_chain(
                    chain, x, None if dy is None else dy[:, :, part], last, kept[direction], mask, seed
                )
                gradients |= found
                for k, (dh, dc) in zip(self._places(chain), first, strict=True):
                    dh0[k, ...], dc0[k, ...] = dh, dc
                if dx is None:
                    dx = dx_chain
                else:
                    dx += dx_chain
            dy = dx if dropped is None else self.dropout.backward(dropped, dx)[0]
        if self.batch_first:
            dy = swap_batch_and_time(backend, dy)
        return dy, (dh0, dc0), {name: gradients[name] for name in self.params}

    def zero_state(self, batch: int) -> State:
        """A state of zeros for `batch` sequences."""
        shape = (self.num_layers * self.num_directions, batch, self.hidden_size)
        xp, dtype = self.backend.xp, self.backend.dtype(self.dtype)
        return xp.zeros(shape, dtype=dtype), xp.zeros(shape, dtype=dtype)

    def _chains(self) -> list[list[list[tuple[int, int]]]]:
        """What runs over time together, as (layer, direction): all layers of one direction, or each by itself.

        The chains of a group take the same input, and their outputs are concatenated.
        """
        if self.num_directions == 1:
            return [[[(layer, 0) for layer in range(self.num_layers)]]]
        return [[[(layer, 0)], [(layer, 1)]] for layer in range(self.num_layers)]

    def _places(self, chain: list[tuple[int, int]]) -> list[int]:
        """Where the states of a chain's members are in a State."""
        return [layer * self.num_directions + direction for layer, direction in chain]

    def _forward_chain(
        self, chain: list[tuple[int, int]], x: Array, state: list[Any], mask: Mask | None, seed: Any, keep: bool
    ) -> tuple[Array, list[Any], list[Any]]:
        """Run a chain over x (T, B, .), segment by segment: outputs (T, B, H), final states, what backward needs.

        That is, for each segment, the tape of `_forward_segment`; or, with `recompute`, the states before it.
        """
        xp, kept = self.backend.xp, []
        parts = segments(x.shape[0], x.shape[1], reverse=chain[0][1] == 1)
        y = None
        if len(parts) > 1:
            y = xp.empty((*x.shape[:2], self.hidden_size), dtype=x.dtype)
        for start, stop in parts:
            y_part, after, tape = self._forward_segment(chain, x, start, stop, state, mask, seed, keep)
            if keep:
                kept.append(state if self.recompute else tape)
            if y is None:
                return y_part, after, kept
            y[start:stop, ...] = y_part
            # Copies: the states are views of arrays with all steps, which would stay as long as they do.
            state = [tuple(xp.asarray(s, copy=True) for s in pair) for pair in after]
            del y_part, after, tape  # before the next segment takes its memory
        return y, state, kept

    def _forward_segment(
        self, chain: list[tuple[int, int]], x: Array, start: int, stop: int, state: list[Any], mask: Mask | None,
        seed: Any, keep: bool,
    ) -> tuple[Array, list[Any], list[Any]]:  # fmt: skip
        """Steps start..stop-1 of `_forward_chain`: outputs, states after them, and the tape of each layer."""
        xp, backend = self.backend.xp, self.backend
        x = x[start:stop, ...]
        if mask is not None:
            mask = mask.part(start, stop)
        last, tapes = [], []
        for place, (layer, direction) in enumerate(chain):
            dropped = None
            if place > 0:
                layer_seed = None if seed is None else (*seed, layer, start) if start else (*seed, layer)
                x, dropped = self.dropout.forward(x, layer_seed)
            name = self._names(layer)[direction]
            z, weight_hh = self._project(x, name), self.params[f"weight_hh_{name}"]
            h0, c0 = state[place]
            saved = self.plan.run.forward(backend, z, weight_hh, h0, c0, mask, direction == 1, keep)
            if keep:
                tapes.append((x, dropped, saved))
            x = saved.outputs if mask is None else xp.where(mask.valid, saved.outputs, xp.zeros_like(saved.outputs))
            last.append(saved.last)
        return x, last, tapes

    def _backward_chain(
        self, chain: list[tuple[int, int]], x: Array, dy: Array | None, dstate: list[Any], kept: list[Any],
        mask: Mask | None, seed: Any,
    ) -> tuple[Array, list[Any], Params]:  # fmt: skip
        """Backpropagate through `_forward_chain`: dx, gradients of the initial states, gradients of the parameters.

        Gradients are summed up segment by segment, so that they are the same to the last bit with `recompute`.
        """
        xp = self.backend.xp
        parts = segments(x.shape[0], x.shape[1], reverse=chain[0][1] == 1)
        dx = None
        if len(parts) > 1:
            dx = xp.empty(x.shape, dtype=x.dtype)
        gradients: Params = {}
        for start, stop in reversed(parts):
            tapes = kept.pop()
            if self.recompute:
                _, _, tapes = self._forward_segment(chain, x, start, stop, tapes, mask, seed, True)
            arriving = None if dy is None else dy[start:stop, ...]
            dx_part, dstate, found = self._backward_segment(chain, tapes, arriving, dstate)
            for name, gradient in found.items():
                if name in gradients:
                    gradients[name] += gradient
                else:
                    gradients[name] = gradient
            if dx is None:
                return dx_part, dstate, gradients
            dx[start:stop, ...] = dx_part
        return dx, dstate, gradients

    def _backward_segment(
        self, chain: list[tuple[int, int]], tapes: list[Any], dy: Array | None, dstate: list[Any]
    ) -> tuple[Array, list[Any], Params]:
        """Backpropagate through one `_forward_segment`."""
        xp, backend = self.backend.xp, self.backend
        gradients: Params = {}
        before: list[Any] = []
        for place, (layer, direction) in reversed(list(enumerate(chain))):
            x, dropped, saved = tapes.pop()
            name = self._names(layer)[direction]
            dz, dh0, dc0 = self.plan.run.backward(backend, saved, dy, *dstate[place])
            before.insert(0, (dh0, dc0))
            rows = x.shape[0] * x.shape[1]
            dz_rows = xp.reshape(dz, (rows, 4 * self.hidden_size))
            inputs = [xp.reshape(x, (rows, x.shape[2])), xp.reshape(saved.before, (rows, self.hidden_size))]
            weights, gradients[f"bias_{name}"] = self._weight_gradients(dz_rows, inputs)
            gradients[f"weight_ih_{name}"], gradients[f"weight_hh_{name}"] = weights
            dx = xp.reshape(self._product(dz_rows, self.params[f"weight_ih_{name}"]), x.shape)
            dy = dx if dropped is None else self.dropout.backward(dropped, dx)[0]
        return dy, before, gradients

    def _names(self, layer: int) -> list[str]:
        """Name endings of the layer's directions."""
        return [f"l{layer}", f"l{layer}_reverse"][: self.num_directions]

    def _project(self, x: Array, name: str) -> Array:
        """z = x W_ih^T + b for all steps at once: (T, B, 4H)."""
        xp = self.backend.xp
        rows = xp.reshape(x, (x.shape[0] * x.shape[1], x.shape[2]))
        z = self._product(rows, self.params[f"weight_ih_{name}"].T, self.params[f"bias_{name}"])
        return xp.reshape(z, (x.shape[0], x.shape[1], 4 * self.hidden_size))

    def _mask(self, lengths: Sequence[int] | np.ndarray | None, num_steps: int, batch: int) -> Mask | None:
        """The batch's mask, or None where every sequence has all steps."""
        if lengths is None:
            return None
        if self.backend.owns(lengths) or hasattr(lengths, "__cuda_array_interface__"):
            lengths = self.backend.to_numpy(self.backend.receive("lengths", lengths))
        try:
            host = np.asarray(lengths)
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
        if host.min() < 1 or host.max() > num_steps:
            raise InputError(f"lengths has values {host.min()}..{host.max()}; expected 1..T={num_steps}")
        if host.min() == num_steps:
            return None
        valid = np.arange(num_steps)[:, None, None] < host[None, :, None]
        return Mask(host.astype(np.int64), self.backend.asarray(valid, "bool"))

    def _check_state(self, names: tuple[str, str], state: Any, batch: int) -> Any:
        """Check a pair of state arrays, either of which may be None."""
        shape = (self.num_layers * self.num_directions, batch, self.hidden_size)
        if not isinstance(state, tuple | list) or len(state) != 2:
            raise InputError(f"state is {type(state).__name__}; expected a pair ({', '.join(names)})")
        return tuple(
            None if array is None else self.backend.require(name, array, shape, self.dtype)
            for name, array in zip(names, state, strict=True)
        )


def segments(num_steps: int, batch: int, reverse: bool = False) -> list[tuple[int, int]]:
    """Ranges of steps that are computed together, in the order that forward takes them.

    Up to 16,384 rows (steps times sequences) it is all of them; beyond, about sqrt(T) steps, and no fewer than make
    2,048 rows, so that the products stay large and adding up the gradients of the segments costs next to nothing.
    """
    length = num_steps
    if num_steps * batch > 16384:
        length = min(num_steps, max(math.isqrt(num_steps), -(-2048 // batch)))
    parts = [(start, min(start + length, num_steps)) for start in range(0, num_steps, length)]
    return parts[::-1] if reverse else parts


def swap_batch_and_time(backend: Backend, array: Array) -> Array:
    """Copy of (B, T, N) as (T, B, N) or back, C-contiguous: a copy of the transposed view would keep its strides."""
    swapped = backend.xp.permute_dims(array, (1, 0, 2))
    copy = backend.xp.empty(swapped.shape, dtype=array.dtype)
    copy[...] = swapped
    return copy
