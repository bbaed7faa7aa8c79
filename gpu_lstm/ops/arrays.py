"""The operations as array expressions over any standard namespace: what the compiled ones and CUDA's must reproduce."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol, SupportsIndex, TypeAlias

import numpy as np

from gpu_lstm.backend import Array, Backend, widened
from gpu_lstm.errors import out_of_range
from gpu_lstm.native.kept import Made
from gpu_lstm.ops.expressions import cross_entropy, sum_rows

Many: TypeAlias = Sequence[Array]
Numbers: TypeAlias = Sequence[float]


class Rule(Protocol):
    """How an optimizer moves one parameter, for `Arrays.update`."""

    @property
    def rule(self) -> str:
        """Name of the compiled form of `move`: ``adam``, ``sgd``, ``rmsprop``; empty where it has none."""

    def numbers(self) -> tuple[float, ...]:
        """Return the numbers of the update that has begun, in the rule's order."""

    def move(self, param: Array, gradient: Array, state: Many, numbers: Numbers) -> None:
        """Update `param` and `state` in place, as array expressions."""


class Arrays:
    """The operations of a training step around its recurrence, on the arrays of one backend."""

    # whether `update` itself refuses gradients that it doesn't take; then it takes 16-bit ones of float32 parameters
    checks_gradients: ClassVar[bool] = False

    def __init__(self, backend: Backend):
        self.backend = backend

    def product(
        self, a: Array, b: Array, bias: Array | None = None, dtype: str | None = None, out: Array | None = None,
        kept: Made | None = None,
    ) -> Array:  # fmt: skip
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

    def take_rows(
        self, table: Array, index: Array, name: str = "index", what: str = "V", checked: bool = False
    ) -> Array:
        """Return ``table[index]``, rows (N, M) of a table (V, M), from N whole numbers in 0..V-1.

        Raises
        ------
        InputError
            A number is out of range, and not `checked`; the message calls `index` and V by `name` and `what`. Where the
            host would have to wait for a device, `Backend.read` says so, and nothing outside is touched until then.
        """
        if not checked:
            self._require_range(name, index, table.shape[0], what)
        return self.backend.xp.take(table, index, axis=0)

    def scatter_add(self, target: Array, index: Array, rows: Array) -> None:
        """``target[index[n]] += rows[n]`` for every n, repeated indices adding up, in a fixed order."""
        xp = self.backend.xp
        one_hot = xp.astype(index[None, :] == xp.arange(target.shape[0], dtype=xp.int64)[:, None], rows.dtype)
        target += xp.matmul(one_hot, rows)

    def dropout(self, x: Array, p: float, seed: tuple[int, ...]) -> tuple[Array, Callable[[Array], Array]]:
        """Zero each element with probability `p`, multiply the others by 1/(1-p); return what does so once more, too.

        Which ones is a pure function of the shape, the seed and the backend: there is no state to save.
        """
        xp = self.backend.xp
        drawn = np.random.Generator(np.random.SFC64(seed_sequence(seed))).random(tuple(x.shape), dtype=np.float32)
        kept = self.backend.asarray(drawn >= p)
        scale = xp.astype(kept, x.dtype)
        scale *= 1 / (1 - p)
        return x * scale, functools.partial(operator.mul, scale)

    def softmax_cross_entropy(self, logits: Array, targets: Array, ignore_index: int | None) -> Array:
        """Return the mean of -log softmax(logits)[target] over the targets that count; the gradient replaces `logits`.

        `logits` are (N, V), `targets` (N,) int64 in 0..V-1, or `ignore_index` where they don't count.

        Raises
        ------
        InputError
            A target is out of range. Where the host would have to wait for a device, `Backend.read` says so, and such
            targets have loss and gradient 0 until then.
        """
        self._require_range("targets", targets, logits.shape[1], "V", ignore_index)
        return cross_entropy(self.backend.xp, logits, targets, ignore_index)

    def _require_range(self, name: str, index: Array, size: int, what: str, besides: int | None = None) -> None:
        """Refuse whole numbers that are not in 0..size-1, nor equal to `besides`."""
        xp = self.backend.xp
        if besides is not None:
            index = xp.where(index != besides, index, xp.zeros_like(index))
        if 0 not in index.shape:
            low, high = int(xp.min(index)), int(xp.max(index))
            if low < 0 or high >= size:
                raise out_of_range(name, low, high, size, what)

    def norm(self, arrays: Many) -> Array:
        """Return the 2-norm of all elements of all arrays together, of shape ()."""
        xp = self.backend.xp
        total = xp.zeros((), dtype=xp.float64)
        for array in arrays:
            flat = xp.reshape(array, (-1,))
            total = total + xp.astype(xp.vecdot(flat, flat), xp.float64)
        return xp.sqrt(total)

    def update(
        self, optimizer: Rule, params: Many, gradients: Many, states: Sequence[Many], max_norm: float | None,
        loss: Array | None, loss_scale: float = 1.0,
    ) -> Array | None:  # fmt: skip
        """Do one step of an optimizer over all parameters, in place; return the gradients' norm where that is limited.

        The gradients, which may be overwritten, are divided by `loss_scale` first; then comes their joint norm (an
        array of shape ()), and then they are scaled so that it is at most `max_norm`. Nothing moves where the norm or
        the loss isn't finite.
        """
        norm = None if max_norm is None else self.norm(gradients) / loss_scale
        if not all(math.isfinite(float(number)) for number in (norm, loss) if number is not None):
            return norm
        size = 0.0 if norm is None else float(norm)
        scale = 1.0 if max_norm is None or size <= max_norm else max_norm / size
        self._move(optimizer, params, gradients, states, optimizer.numbers(), scale / loss_scale)
        return norm

    def _move(
        self, optimizer: Rule, params: Many, gradients: Many, states: Sequence[Many], numbers: Numbers, scale: float
    ) -> None:
        """The part of `update` that moves the parameters, by their gradients times `scale`."""
        for param, gradient, state in zip(params, gradients, states, strict=True):
            if scale != 1:
                gradient *= scale
            optimizer.move(param, gradient, state, numbers)

    def watch(self, arrays: Sequence[Array]) -> Callable[[], int | None]:
        """Return what tells, at any time later, the place of the first array that was written to since, or None."""
        xp = self.backend.xp
        copies = [xp.asarray(array, copy=True) for array in arrays]

        def changed(now: Array, before: Array) -> bool:
            return not bool(xp.all((now == before) | ((now != now) & (before != before))))

        return lambda: next((n for n, pair in enumerate(zip(arrays, copies, strict=True)) if changed(*pair)), None)


def seed_sequence(seed: tuple[SupportsIndex, ...]) -> np.random.SeedSequence:
    """Return NumPy's sequence of whole numbers; a `gpu_lstm.backend.count.Count` among them counts as it stands now."""
    return np.random.SeedSequence([int(number) for number in seed])
