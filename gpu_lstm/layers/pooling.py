"""What makes one vector of a sequence's steps, and one of several vectors: layers without parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpu_lstm import ops
from gpu_lstm.backend import Array, Backend, widened
from gpu_lstm.errors import InputError
from gpu_lstm.layers.arguments import copied
from gpu_lstm.layers.base import Layer, Params, Tape
from gpu_lstm.layers.ragged import check_lengths

WAYS = ("last", "mean", "max")


class Pool(Layer):
    """One vector of all steps of a sequence: the last one, their mean, or their maximum.

    Parameters
    ----------
    how : {"last", "mean", "max"}
        Over each sequence's own steps.
    directions : int
        2 after a bidirectional LSTM: ``last`` then takes the second half of the vector, which was read backwards, from
        the first step. The other two make no difference.
    backend : str, Backend or None
    dtype : {"float32", "float64", "float16", "bfloat16"}

    Raises
    ------
    InputError
        `how` or `directions` is none of these.

    Examples
    --------
    >>> x = np.arange(6, dtype="float32").reshape(3, 2, 1)  # (T, B, D): 0, 2, 4 and 1, 3, 5
    >>> y, tape = Pool("mean", backend="numpy").forward(x, lengths=[3, 2])
    >>> y
    array([[2.],
           [2.]], dtype=float32)
    """

    def __init__(
        self, how: str = "last", directions: int = 1, *, backend: str | Backend | None = None, dtype: str = "float32"
    ):
        super().__init__(backend, dtype)
        if how not in WAYS:
            raise InputError(f"how is {how!r}; expected one of {', '.join(WAYS)}")
        if directions not in (1, 2):
            raise InputError(f"directions is {directions!r}; expected 1 or 2")
        self.how, self.directions = how, directions

    def forward(
        self, x: Array, lengths: Sequence[int] | np.ndarray | None = None, keep: bool = True
    ) -> tuple[Array, Tape]:
        """Return y (B, D) from x (T, B, D).

        Parameters
        ----------
        x : (T, B, D)
            With two directions, D is even.
        lengths : B whole numbers in 1..T, optional
            Steps of each sequence; all have T if not given.
        keep : bool
            False for inference: nothing is saved for `backward`.

        Raises
        ------
        InputError
            x has no steps or another rank or dtype, or a sequence has no step.
        """
        backend, xp = self.backend, self.backend.xp
        x = backend.require("x", x, ("T", "B", "D"), self.dtype)
        num_steps, batch, width = x.shape
        if num_steps == 0 or width % self.directions:
            raise InputError(f"x has shape {tuple(x.shape)}; expected a step at least, and D for all directions")
        mask = None if lengths is None else check_lengths(backend, lengths, num_steps, batch)
        if mask is not None and mask.lengths.min() < 1:
            raise InputError("lengths has a 0; expected at least 1, for a sequence of no steps has nothing to pool")
        ends = xp.full((batch,), num_steps) if mask is None else backend.asarray(mask.lengths)
        y, share = {"last": self._last, "mean": self._mean, "max": self._max}[self.how](x, ends)
        return backend.asarray(y, self.dtype), Tape(self, (share, tuple(x.shape)) if keep else None)

    def backward(self, tape: Tape, dy: Array) -> tuple[Array, Params]:
        """Return the gradient dx (T, B, D) from dy (B, D) and the tape."""
        share, (num_steps, batch, width) = self.read(tape)
        backend, xp = self.backend, self.backend.xp
        dy = widened(backend, backend.require("dy", dy, (batch, f"D={width}"), self.dtype))
        tape.spend()
        dx = xp.reshape(dy, (1, batch, *share.shape[2:-1], -1)) * share
        return backend.asarray(xp.reshape(dx, (num_steps, batch, width)), self.dtype), {}

    def _last(self, x: Array, ends: Array) -> tuple[Array, Array]:
        """The last step that each direction read, and which it is, (T, B, directions, 1)."""
        xp, (num_steps, batch, width) = self.backend.xp, x.shape
        backwards, sequences = xp.arange(self.directions), xp.arange(batch)[:, None]
        read_last = (ends[:, None] - 1) * (1 - backwards)  # (B, directions); the second direction ends at step 0
        rows = xp.reshape((read_last * batch + sequences) * self.directions + backwards, (-1,))
        each = xp.reshape(x, (-1, width // self.directions))
        y = ops.of(self.backend).take_rows(each, rows, checked=True)
        share = self._number(xp.arange(num_steps)[:, None, None, None] == read_last[None, ..., None])
        return xp.reshape(y, (batch, width)), share

    def _mean(self, x: Array, ends: Array) -> tuple[Array, Array]:
        """The mean of a sequence's steps, and the share of each, (T, B, 1)."""
        share = self._number(self._valid(x, ends)) / self._number(ends)[None, :, None]
        return self.backend.xp.sum(self._read(x, ends) * share, axis=0), share

    def _max(self, x: Array, ends: Array) -> tuple[Array, Array]:
        """The largest numbers of a sequence's steps, and where each is, (T, B, D); the first one of several."""
        xp = self.backend.xp
        wide = self._read(x, ends)
        wide = xp.where(self._valid(x, ends), wide, xp.full((), -xp.inf, dtype=wide.dtype))
        share = xp.arange(x.shape[0])[:, None, None] == xp.argmax(wide, axis=0)[None, ...]
        return xp.max(wide, axis=0), self._number(share)

    def _valid(self, x: Array, ends: Array) -> Array:
        """Which steps are a sequence's own, (T, B, 1)."""
        return self.backend.xp.arange(x.shape[0])[:, None, None] < ends[None, :, None]

    def _read(self, x: Array, ends: Array) -> Array:
        """x in the dtype of sums, zero after each sequence's end, whatever it holds there."""
        wide = widened(self.backend, x)
        return self.backend.xp.where(self._valid(x, ends), wide, self.backend.xp.zeros((), dtype=wide.dtype))

    def _number(self, array: Array) -> Array:
        return self.backend.xp.astype(array, self.backend.dtype(self.param_dtype))


class Concat(Layer):
    """Vectors side by side: those of several sequences' steps, or of sequences as a whole.

    Where some have steps and others have none, these stand at every step.

    Parameters
    ----------
    backend : str, Backend or None
    dtype : {"float32", "float64", "float16", "bfloat16"}

    Examples
    --------
    >>> x, z = np.zeros((2, 1, 2), dtype="float32"), np.ones((1, 1), dtype="float32")
    >>> Concat(backend="numpy").forward(x, z)[0].tolist()
    [[[0.0, 0.0, 1.0]], [[0.0, 0.0, 1.0]]]
    """

    def __init__(self, *, backend: str | Backend | None = None, dtype: str = "float32"):
        super().__init__(backend, dtype)

    def forward(self, *arrays: Array) -> tuple[Array, Tape]:
        """Return y (T, B, sum of D) or (B, sum of D) from arrays (T, B, D) and (B, D).

        Raises
        ------
        InputError
            There are no arrays, or one has another rank or dtype, or other steps or sequences than the first.
        """
        xp = self.backend.xp
        ranks = {getattr(array, "ndim", 0) for array in arrays}
        if not arrays or ranks - {2, 3}:
            raise InputError(f"arrays have ranks {sorted(ranks)}; expected one at least, each (T, B, D) or (B, D)")
        first = next(array for array in arrays if array.ndim == max(ranks))
        rows = tuple(first.shape[:-1])
        taken = []
        for place, array in enumerate(arrays):
            shape = rows[-array.ndim + 1 :]
            array = self.backend.require(f"arrays[{place}]", array, (*shape, "D"), self.dtype)
            taken.append(xp.broadcast_to(array, (*rows, array.shape[-1])))
        shapes = [tuple(array.shape) for array in arrays]
        return xp.concat(taken, axis=-1), Tape(self, (shapes, rows))

    def backward(self, tape: Tape, dy: Array) -> tuple[list[Array], Params]:
        """Return the gradient of each array from dy and the tape."""
        shapes, rows = self.read(tape)
        backend, width = self.backend, sum(shape[-1] for shape in shapes)
        dy = backend.require("dy", dy, (*rows, f"D={width}"), self.dtype)
        tape.spend()
        found, start = [], 0
        for shape in shapes:
            part: Any = dy[..., start : start + shape[-1]]
            start += shape[-1]
            if len(shape) < len(rows) + 1:  # it stood at every step
                part = backend.asarray(backend.xp.sum(widened(backend, part), axis=0), self.dtype)
            found.append(copied(backend, part))
        return found, {}
