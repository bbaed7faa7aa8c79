"""The operations as array expressions over any standard namespace: what the compiled ones and CUDA's must reproduce."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, SupportsIndex

import numpy as np

from gpu_lstm.backend import Array, Backend, widened
from gpu_lstm.backend.base import out_of_range
from gpu_lstm.native.kept import Made


class Rule(Protocol):
    """How an optimizer moves one parameter, for `Arrays.update`."""

    @property
    def rule(self) -> str:
        """Name of the compiled form of `move`: ``adam``, ``sgd``, ``rmsprop``; empty where it has none."""

    def numbers(self) -> tuple[float, ...]:
        """Return the numbers of the update that has begun, in the rule's order."""

    def move(self, param: Array, gradient: Array, state: Sequence[Array], numbers: Sequence[float]) -> None:
        """Update `param` and `state` in place, as array expressions."""


class Arrays:
    """The operations of a training step around its recurrence, on the arrays of one backend.

    Attributes
    ----------
    backend : Backend
    checks_gradients : bool
        Whether `update` itself refuses gradients that it doesn't take; then it takes 16-bit ones of float32 parameters.
    """

    checks_gradients: ClassVar[bool] = False

    def __init__(self, backend: Backend):
        self.backend = backend

    # -- products ------------------------------------------------------------------------------------

    def product(
        self,
        a: Array,
        b: Array,
        bias: Array | None = None,
        dtype: str | None = None,
        out: Array | None = None,
        kept: Made | None = None,
    ) -> Array:
        """Return ``a @ b``, plus `bias` on every row, of large matrices: a new array, or `out`, in its own dtype.

        Sums of 16-bit numbers are in float32, and rounded once; not at all where `dtype` is float32.
        `kept` gives what was made of ``b.T`` before.
        """
        backend, xp = self.backend, self.backend.xp
        c = xp.matmul(widened(backend, a), widened(backend, b))
        if bias is not None:
            c += bias
        if out is None:
            return xp.astype(c, a.dtype if dtype is None else backend.dtype(dtype), copy=False)
        out[...] = c
        return out

    def weight_gradients(self, dy: Array, inputs: Sequence[Array]) -> tuple[list[Array], Array]:
        """Return ``dy.T @ x`` for each x (N, K) of `inputs`, and the sum of the rows of `dy` (N, M).

        They stay in the dtype of the sums: float32 for 16-bit arrays.
        """
        backend, xp = self.backend, self.backend.xp
        dy = widened(backend, dy)
        return [xp.matmul(dy.T, widened(backend, x)) for x in inputs], sum_rows(xp, dy)

    # -- rows of a table -------------------------------------------------------------------------------

    def take_rows(
        self, table: Array, index: Array, name: str = "index", what: str = "V", checked: bool = False
    ) -> Array:
        """Return ``table[index]``, rows (N, M) of a table (V, M).

        Parameters
        ----------
        table : (V, M)
        index : (N,), integers in 0..V-1
        name, what : str
            What the caller's user knows `index` and V as, for the message.
        checked : bool
            The numbers are known to be in range.

        Raises
        ------
        InputError
            A number is out of range. Where the host would have to wait for a device, `Backend.read` says so, and
            nothing outside of an array is touched until then.
        """
        if not checked:
            self._require_range(name, index, table.shape[0], what)
        return self.backend.xp.take(table, index, axis=0)

    def scatter_add(self, target: Array, index: Array, rows: Array) -> None:
        """``target[index[n]] += rows[n]`` for every n, repeated indices adding up, in a fixed order."""
        xp = self.backend.xp
        one_hot = xp.astype(index[None, :] == xp.arange(target.shape[0], dtype=xp.int64)[:, None], rows.dtype)
        target += xp.matmul(one_hot, rows)

    # -- dropout and the loss ----------------------------------------------------------------------------

    def dropout(self, x: Array, p: float, seed: tuple[int, ...]) -> tuple[Array, Callable[[Array], Array]]:
        """Zero each element with probability `p`, multiply the others by 1/(1-p).

        Which ones is a pure function of the shape, the seed and the backend: there is no state to save.

        Returns
        -------
        y : like x
        again : callable
            Does the same to the same elements of another array.
        """
        xp = self.backend.xp
        generator = np.random.Generator(np.random.SFC64(seed_sequence(seed)))
        kept = self.backend.asarray(generator.random(tuple(x.shape), dtype=np.float32) >= p)
        scale = xp.astype(kept, x.dtype)
        scale *= 1 / (1 - p)
        return x * scale, functools.partial(operator.mul, scale)

    def softmax_cross_entropy(self, logits: Array, targets: Array, ignore_index: int | None) -> Array:
        """Return the mean of -log softmax(logits)[target] over the targets that count; the gradient replaces `logits`.

        Parameters
        ----------
        logits : (N, V)
        targets : (N,) int64, in 0..V-1 or `ignore_index`
        ignore_index : int or None
            Targets of this value don't count.

        Returns
        -------
        loss : array of shape ()

        Raises
        ------
        InputError
            A target is out of range. Where the host would have to wait for a device, `Backend.read` says so, and such
            targets have loss and gradient 0 until then.
        """
        xp = self.backend.xp
        self._require_range("targets", targets, logits.shape[1], "V", ignore_index)
        counts = None
        if ignore_index is not None:
            counts = targets != ignore_index
            targets = xp.where(counts, targets, xp.zeros_like(targets))
        logits -= xp.max(logits, axis=1, keepdims=True)
        hit = xp.arange(logits.shape[1], dtype=targets.dtype)[None, :] == targets[:, None]
        picked = xp.sum(xp.where(hit, logits, xp.zeros_like(logits)), axis=1)
        gradient = xp.exp(logits)
        total = xp.sum(gradient, axis=1)
        losses = xp.log(total) - picked
        gradient /= total[:, None]
        gradient -= xp.astype(hit, logits.dtype)
        if counts is None:
            number = float(targets.shape[0])
        else:
            number = float(xp.sum(xp.astype(counts, logits.dtype)))
            losses = xp.where(counts, losses, xp.zeros_like(losses))
            gradient = xp.where(counts[:, None], gradient, xp.zeros_like(gradient))
        gradient /= max(number, 1.0)
        logits[...] = gradient
        return xp.sum(losses) / max(number, 1.0)

    def _require_range(self, name: str, index: Array, size: int, what: str, besides: int | None = None) -> None:
        """Refuse whole numbers that are not in 0..size-1, nor equal to `besides`."""
        xp = self.backend.xp
        if besides is not None:
            index = xp.where(index != besides, index, xp.zeros_like(index))
        if 0 not in index.shape:
            low, high = int(xp.min(index)), int(xp.max(index))
            if low < 0 or high >= size:
                raise out_of_range(name, low, high, size, what)

    # -- the optimizer -----------------------------------------------------------------------------------

    def norm(self, arrays: Sequence[Array]) -> Array:
        """Return the 2-norm of all elements of all arrays together, of shape ()."""
        xp = self.backend.xp
        total = xp.zeros((), dtype=xp.float64)
        for array in arrays:
            flat = xp.reshape(array, (-1,))
            total = total + xp.astype(xp.vecdot(flat, flat), xp.float64)
        return xp.sqrt(total)

    def update(
        self,
        optimizer: Rule,
        params: Sequence[Array],
        gradients: Sequence[Array],
        states: Sequence[Sequence[Array]],
        max_norm: float | None,
        loss: Array | None,
        loss_scale: float = 1.0,
    ) -> Array | None:
        """Do one step of an optimizer over all parameters, in place.

        Parameters
        ----------
        optimizer : Rule
        params, gradients, states
            One entry a parameter; the gradients may be overwritten.
        max_norm : float or None
            Gradients are scaled so that their joint norm is at most this; nothing moves where the norm isn't finite.
        loss : array of shape () or None
            Nothing moves where it isn't finite.
        loss_scale : float
            Gradients are divided by it first.

        Returns
        -------
        norm : array of shape (), or None
            Divided by `loss_scale`, but not limited yet; None where `max_norm` is.
        """
        norm = None if max_norm is None else self.norm(gradients) / loss_scale
        if not all(math.isfinite(float(number)) for number in (norm, loss) if number is not None):
            return norm
        size = 0.0 if norm is None else float(norm)
        scale = 1.0 if max_norm is None or size <= max_norm else max_norm / size
        self._move(optimizer, params, gradients, states, optimizer.numbers(), scale / loss_scale)
        return norm

    def _move(
        self,
        optimizer: Rule,
        params: Sequence[Array],
        gradients: Sequence[Array],
        states: Sequence[Sequence[Array]],
        numbers: Sequence[float],
        scale: float,
    ) -> None:
        """The part of `update` that moves the parameters, by their gradients times `scale`."""
        for param, gradient, state in zip(params, gradients, states, strict=True):
            if scale != 1:
                gradient *= scale
            optimizer.move(param, gradient, state, numbers)

    # -- the guard of a tape -------------------------------------------------------------------------------

    def watch(self, arrays: Sequence[Array]) -> Callable[[], int | None]:
        """Return what tells, at any time later, the place of the first array that was written to since, or None."""
        xp = self.backend.xp
        copies = [xp.asarray(array, copy=True) for array in arrays]

        def changed() -> int | None:
            for place, (now, before) in enumerate(zip(arrays, copies, strict=True)):
                if not bool(xp.all((now == before) | ((now != now) & (before != before)))):
                    return place
            return None

        return changed


def sum_rows(xp: Any, rows: Array, dtype: Any = None) -> Array:
    """Return the sum over the first axis of (N, M), in blocks of 64 rows and then over them: rounding errors stay
    small. The sums have `dtype`, if given."""
    dtype = rows.dtype if dtype is None else dtype
    whole = rows.shape[0] // 64 * 64
    if not whole:
        return xp.sum(rows, axis=0, dtype=dtype)
    blocks = xp.reshape(rows[:whole, :], (whole // 64, 64, rows.shape[1]))
    total = xp.sum(xp.sum(blocks, axis=1, dtype=dtype), axis=0)
    if whole < rows.shape[0]:
        total += xp.sum(rows[whole:, :], axis=0, dtype=dtype)
    return total


def seed_sequence(seed: tuple[SupportsIndex, ...]) -> np.random.SeedSequence:
    """Return NumPy's sequence of whole numbers; a `gpu_lstm.backend.count.Count` among them counts as it stands now."""
    return np.random.SeedSequence([int(number) for number in seed])
