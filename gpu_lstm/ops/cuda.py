"""The operations by CUDA kernels (``kernels/cuda``): checks, launch geometry, order. Nothing waits for the device."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np

from gpu_lstm.backend import Array, widened
from gpu_lstm.backend.cuda import CudaBackend, contiguous
from gpu_lstm.backend.exchange import foreign
from gpu_lstm.errors import InputError
from gpu_lstm.native import catalogue, kernels
from gpu_lstm.native.kept import Made
from gpu_lstm.ops.arrays import Arrays, Many, Rule, seed_sequence
from gpu_lstm.ops.expressions import sum_rows

CHUNK = 4096
"""Elements that a block of the optimizer takes, as ``kernels/cuda/optimizer.cu`` has it."""
CHECK_VARIABLE = "GPU_LSTM_CHECK"
"""Environment variable: 1 keeps copies of what backward needs and compares them with it."""
_LARGEST_GRID = 2**31 - 1


class Cuda(Arrays):
    """The operations on one GPU."""

    backend: CudaBackend
    checks_gradients: ClassVar[bool] = True

    def product(  # noqa: D102
        self, a: Array, b: Array, bias: Array | None = None, dtype: str | None = None, out: Array | None = None,
        kept: Made | None = None,
    ) -> Array:  # fmt: skip
        backend = self.backend
        if out is None:
            kind = a.dtype if dtype is None else backend.dtype(dtype)
            out = backend.xp.empty((a.shape[0], b.shape[1]), dtype=kind)
        c = backend.matmul(a, b, out=out)
        if bias is not None:
            c += bias
        return c

    def weight_gradients(self, dy: Array, inputs: Sequence[Array]) -> tuple[list[Array], Array]:  # noqa: D102
        backend, wide = self.backend, kernels.ARITHMETIC[kernels.dtype_name(dy.dtype)]
        return [self.product(dy.T, x, dtype=wide) for x in inputs], sum_rows(backend.xp, dy, backend.dtype(wide))

    def take_rows(  # noqa: D102
        self, table: Array, index: Array, name: str = "index", what: str = "V", checked: bool = False
    ) -> Array:
        dtype = self._check("table", table, ("V", "M"))
        index = self._whole_numbers(name, index, ("N",))
        (size, width), (count,) = table.shape, index.shape
        if not checked:
            self._require_range(name, index, size, what)
        out = self.backend.xp.empty((count, width), dtype=table.dtype)
        if out.size:
            self.backend.kernel(catalogue.kernel("take_rows", dtype))(
                (_grid("index", count),), (_warps(width),), (table, index, out, np.int64(size), np.int64(width))
            )
        return out

    def scatter_add(self, target: Array, index: Array, rows: Array) -> None:  # noqa: D102
        dtype = self._check("target", target, ("V", "M"))
        index = self._whole_numbers("index", index, ("N",))
        (size, width), (count,) = target.shape, index.shape
        self._check("rows", rows, (f"N={count}", f"M={width}"), dtype)
        if rows.size:
            self.backend.kernel(catalogue.kernel("scatter_add", dtype, catalogue.SCATTER_WARPS))(
                (_grid("index", count), _grid("target", _blocks(width, 32), 65535)),
                (32 * catalogue.SCATTER_WARPS,),
                (target, index, rows, np.int64(count), np.int64(size), np.int64(width)),
            )

    def dropout(self, x: Array, p: float, seed: tuple[int, ...]) -> tuple[Array, Callable[[Array], Array]]:  # noqa: D102
        def words() -> np.ndarray:
            return seed_sequence(seed).generate_state(2)

        key = self.backend.upload(words) if self.backend.recording else None
        low, high = words()
        drop = partial(self._drop, p, key, low, high)
        return drop(x), drop

    def _drop(self, p: float, key: Array | None, low: np.uint32, high: np.uint32, x: Array) -> Array:
        """Dropout of x, by the two words of a seed or, where a step is recorded, by those that `key` holds."""
        x = contiguous(self.backend, x)
        dtype = self._check("x", x, _any_shape(x))
        y = self.backend.xp.empty_like(x)
        width = 4 if kernels.aligned(4 * x.dtype.itemsize, x, y) else 1
        if x.size:
            self.backend.kernel(catalogue.kernel("dropout", dtype, width))(
                (min(_blocks(x.size, 4 * kernels.BLOCK), 65535),),
                (kernels.BLOCK,),
                (
                    x,
                    y,
                    np.int64(x.size),
                    key,
                    low,
                    high,
                    np.uint32(min(round(p * 2**32), 2**32 - 1)),
                    _scalar(dtype, 1 / (1 - p)),
                ),
            )
        return y

    def softmax_cross_entropy(self, logits: Array, targets: Array, ignore_index: int | None) -> Array:  # noqa: D102
        xp = self.backend.xp
        dtype = self._check("logits", logits, ("N", "V"))
        rows, vocabulary = logits.shape
        targets = self._whole_numbers("targets", targets, (f"N={rows}",))
        self._require_range("targets", targets, vocabulary, "V", ignore_index)
        arithmetic = self.backend.dtype(kernels.ARITHMETIC[dtype])
        if not logits.size:
            return xp.zeros((), dtype=arithmetic)
        number = None
        if ignore_index is not None:
            number = xp.empty((1,), dtype=xp.int64)
            self.backend.kernel(catalogue.kernel("count_targets"))(
                (1,), (1024,), (targets, np.int64(rows), np.int64(ignore_index), number)
            )
        losses = xp.empty((rows,), dtype=arithmetic)
        self.backend.kernel(catalogue.kernel("cross_entropy", dtype))(
            (_grid("logits", rows),),
            (_warps(vocabulary),),
            (
                logits,
                targets,
                losses,
                number,
                np.int32(ignore_index is not None),
                np.int64(ignore_index or 0),
                np.int64(rows),
                np.int64(vocabulary),
            ),
        )
        loss = xp.empty((), dtype=arithmetic)
        self.backend.kernel(catalogue.kernel("mean_loss", dtype))((1,), (1024,), (losses, number, np.int64(rows), loss))
        return loss

    def norm(self, arrays: Sequence[Array]) -> Array:  # noqa: D102
        arrays = [contiguous(self.backend, array) for array in arrays if array.size]
        if not arrays:
            return self.backend.xp.zeros((), dtype=self.backend.xp.float64)
        dtype = self._same_dtype("arrays", arrays)
        table, _, chunks = self._table([(None, array) for array in arrays])
        return self._norm(dtype, table, len(arrays), chunks, 1.0)

    def update(  # noqa: D102
        self, optimizer: Rule, params: Many, gradients: Many, states: Sequence[Many], max_norm: float | None,
        loss: Array | None, loss_scale: float = 1.0,
    ) -> Array | None:  # fmt: skip
        xp = self.backend.xp
        if loss is not None:
            loss = self.backend.require("loss", self.backend.asarray(loss), ())
        gradients = [contiguous(self.backend, gradient) for gradient in gradients]
        dtype = self._same_dtype("gradients", gradients)
        arithmetic = kernels.ARITHMETIC[dtype]
        lines = []
        for n, (param, gradient, state) in enumerate(zip(params, gradients, states, strict=True)):
            self._check(f"params[{n}]", param, tuple(gradient.shape), arithmetic)
            for array in state:
                self._check(f"states[{n}]", array, tuple(gradient.shape), arithmetic)
            if gradient.size:
                lines.append((param, gradient, *state))
        if optimizer.rule not in catalogue.RULES:  # as array expressions, after waiting for norm and loss
            gradients = [widened(self.backend, gradient) for gradient in gradients]
            return super().update(optimizer, params, gradients, states, max_norm, loss, loss_scale)
        if not lines:
            return None if max_norm is None else xp.zeros((), dtype=xp.float64)
        table, numbers, chunks = self._table(lines, optimizer.numbers)
        norm = None if max_norm is None else self._norm(dtype, table, len(lines), chunks, loss_scale)
        if loss is not None:
            loss = xp.asarray(loss, dtype=self.backend.dtype(arithmetic))
        self.backend.kernel(catalogue.kernel("update", dtype, optimizer.rule))(
            (_grid("gradients", chunks),),
            (kernels.BLOCK,),
            (
                table,
                np.int32(len(lines)),
                numbers,
                norm,
                _scalar(dtype, max_norm or 0.0),
                _scalar(dtype, 1 / loss_scale),
                loss,
            ),
        )
        return norm

    def _norm(self, dtype: str, table: Array, lines: int, chunks: int, loss_scale: float) -> Array:
        """Norm of the gradients in a table, divided by `loss_scale`, in two launches."""
        xp, arithmetic = self.backend.xp, self.backend.dtype(kernels.ARITHMETIC[dtype])
        sums, norm = xp.empty((chunks,), dtype=arithmetic), xp.empty((), dtype=arithmetic)
        self.backend.kernel(catalogue.kernel("sum_of_squares", dtype))(
            (_grid("gradients", chunks),), (kernels.BLOCK,), (table, np.int32(lines), sums)
        )
        unscale = _scalar(dtype, 1 / loss_scale)
        self.backend.kernel(catalogue.kernel("norm_of_sums", dtype))(
            (1,), (1024,), (sums, np.int64(chunks), unscale, norm)
        )
        return norm

    def _table(
        self, lines: Sequence[Sequence[Array | None]], numbers: Callable[[], Sequence[float]] = tuple
    ) -> tuple[Array, Array, int]:
        """``Line`` structures of ``optimizer.cu``, one for parameter, gradient and states; in the same copy to the
        device `numbers`, in float64; and how many chunks there are."""
        rows, chunks = [], 0
        for arrays in lines:
            size = math.prod(arrays[1].shape)  # type: ignore[union-attr]
            addresses = [0 if array is None else kernels.address(array) for array in arrays]
            rows.append([*addresses, *[0] * (4 - len(addresses)), size, chunks])
            chunks += _blocks(size, CHUNK)
        table = np.array(rows, dtype=np.int64)
        both = self.backend.upload(
            lambda: np.concatenate([table.ravel(), np.array(numbers(), np.float64).view(np.int64)])
        )
        return (
            self.backend.xp.reshape(both[: table.size], table.shape),
            both[table.size :].view(self.backend.xp.float64),
            chunks,
        )

    def watch(self, arrays: Sequence[Array]) -> Callable[[], int | None]:
        """Return what `Arrays.watch` does, by launches and waits, if GPU_LSTM_CHECK is 1; else what sees nothing."""
        return super().watch(arrays) if os.environ.get(CHECK_VARIABLE) == "1" else lambda: None

    # -- what every launch needs -----------------------------------------------------------------------------

    def _require_range(self, name: str, index: Array, size: int, what: str, besides: int | None = None) -> None:
        if not index.size:
            return
        low, high = self.backend.bounds(name, size, what)
        self.backend.kernel(catalogue.kernel("check_range"))(
            (min(_blocks(index.size, kernels.BLOCK), 1024),),
            (kernels.BLOCK,),
            (
                index,
                np.int64(index.size),
                np.int64(size),
                np.int32(besides is not None),
                np.int64(besides or 0),
                low,
                high,
            ),
        )

    def _check(self, name: str, array: Array, shape: tuple[Any, ...], dtype: str | None = None) -> str:
        """Refuse what a kernel can't take: another device, shape or dtype, or gaps in memory. Gives the dtype."""
        if self.backend.require(name, array, shape, dtype) is not array:
            raise foreign(name, array, self.backend.name)
        found = kernels.dtype_name(array.dtype)
        if found not in kernels.STORAGE:
            raise InputError(f"{name} has dtype {array.dtype}; expected one of {', '.join(kernels.STORAGE)}")
        kernels.require_whole(name, array)
        return found

    def _same_dtype(self, name: str, arrays: Sequence[Array]) -> str:
        """Check arrays of any shape that must have the first one's dtype, and give it."""
        dtype = None
        for n, array in enumerate(arrays):
            dtype = self._check(f"{name}[{n}]", array, _any_shape(array), dtype)
        return dtype or "float32"

    def _whole_numbers(self, name: str, index: Array, shape: tuple[Any, ...]) -> Array:
        """Return an index as int64 without gaps, once it is known to be an array of whole numbers of this backend."""
        index = self.backend.require(name, index, shape)
        if not self.backend.xp.isdtype(index.dtype, "integral"):
            raise InputError(f"{name} has dtype {index.dtype}; expected integers")
        return contiguous(self.backend, self.backend.xp.astype(index, self.backend.xp.int64, copy=False))


def _blocks(items: int, each: int) -> int:
    return -(-items // each)


def _warps(width: int) -> int:
    """Threads for a row of that width: whole warps, 32..256."""
    return min(max(_blocks(width, 32) * 32, 32), kernels.BLOCK)


def _grid(name: str, blocks: int, largest: int = _LARGEST_GRID) -> int:
    """The number of blocks, if a grid can have so many."""
    if blocks > largest:
        raise InputError(f"{name} needs {blocks} blocks of a CUDA grid; expected at most {largest}")
    return blocks


def _scalar(dtype: str, value: float) -> Any:
    """A number in the arithmetic of a storage dtype, for a kernel's argument."""
    return np.dtype(kernels.ARITHMETIC[dtype]).type(value)


def _any_shape(array: Array) -> tuple[str, ...]:
    return tuple(f"N{axis}" for axis in range(getattr(array, "ndim", 0)))
