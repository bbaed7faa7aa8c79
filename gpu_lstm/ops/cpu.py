"""The operations on NumPy arrays: compiled (``kernels/cpu``) where that is there and has the dtype, else by NumPy."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpu_lstm.backend import Array, widened
from gpu_lstm.errors import InputError
from gpu_lstm.native import compiled
from gpu_lstm.native.arguments import WRITABLE, blocks
from gpu_lstm.native.kept import Made, for_product, in_bytes, watch
from gpu_lstm.ops.arrays import Arrays, Many, Numbers, Rule

RULES = ("sgd", "rmsprop", "adam")
"""Optimizer rules of ``kernels/cpu/training.h``, by number."""
LANES, EXP_COST, UPDATE_COST = 16, 16, 8
"""Numbers in the widest register; what an element costs there, in multiply-adds."""


class Cpu(Arrays):
    """The operations on the host, on as many threads as pay."""

    def product(  # noqa: D102
        self, a: Array, b: Array, bias: Array | None = None, dtype: str | None = None, out: Array | None = None,
        kept: Made | None = None,
    ) -> Array:  # fmt: skip
        # The compiled product, where there is one, for its threads: those of BLAS keep spinning after their work and
        # slow the compiled recurrence that comes next to a half and less.
        wide_a, wide_b = widened(self.backend, a), widened(self.backend, b)
        if not compilable(wide_a):
            return super().product(a, b, bias, dtype, out)
        panels = None if kept is None else kept(for_product)
        (rows, depth), (_, columns) = compiled.axes("a", wide_a, 2), compiled.axes("b", wide_b, 2)
        c = self.backend.empty((rows, columns), wide_a.dtype)
        threads = compiled.threads_for(rows * columns * depth, rows // 4)
        compiled.call("multiply", c.dtype, rows, columns, depth, wide_a, wide_b, panels, c, bias, threads)
        if out is None:
            return c if wide_a is a and dtype is None else self.backend.asarray(c, dtype or str(a.dtype))
        out[...] = c
        return out

    def weight_gradients(self, dy: Array, inputs: Sequence[Array]) -> tuple[list[Array], Array]:  # noqa: D102
        wide_dy, wide = widened(self.backend, dy), [widened(self.backend, x) for x in inputs]
        if not (compilable(wide_dy) and len(wide) in (1, 2)):
            return super().weight_gradients(dy, inputs)
        (rows, outputs), dtype = compiled.axes("dy", wide_dy, 2), wide_dy.dtype
        columns = [compiled.axes(f"x[{n}]", x, 2)[1] for n, x in enumerate(wide)]
        dw, db = [self.backend.empty((outputs, width), dtype) for width in columns], np.empty(outputs, dtype)
        threads = compiled.threads_for(rows * outputs * sum(columns), outputs // 4)
        compiled.call("weight_gradients", dtype, rows, outputs, wide_dy, len(wide), columns, wide, dw, db, threads)
        return dw, db

    def take_rows(  # noqa: D102
        self, table: Array, index: Array, name: str = "index", what: str = "V", checked: bool = False
    ) -> Array:
        table = self.backend.require("table", table, ("V", "M"))
        return super().take_rows(table, self._whole_numbers(name, index, "N"), name, what, checked)

    def scatter_add(self, target: Array, index: Array, rows: Array) -> None:  # noqa: D102
        size, width = self._to_write("target", target, ("V", "M")).shape
        index = self._whole_numbers("index", index, "N")
        rows = self.backend.require("rows", rows, (len(index), width))
        if compilable(target) and plain_memory(target):  # which refuses numbers out of range itself
            threads = compiled.threads_for(rows.size, width // LANES)
            compiled.call("scatter_add", target.dtype, size, *rows.shape, target, index, rows, threads)
            return
        self._require_range("index", index, size, "V")
        # Sorting first turns scattered additions into a few contiguous sums: np.add.at is many times slower.
        order = np.argsort(index, kind="stable")
        present, starts = np.unique(index[order], return_index=True)
        if present.size:
            target[present] += np.add.reduceat(rows[order], starts, axis=0)

    def softmax_cross_entropy(self, logits: Array, targets: Array, ignore_index: int | None) -> Array:  # noqa: D102
        rows, vocabulary = self._to_write("logits", logits, ("N", "V")).shape
        targets = self._whole_numbers("targets", targets, f"N={rows}")
        if not (plain_memory(logits) and logits.dtype.isnative):
            plain = np.array(logits, logits.dtype.newbyteorder("="), order="C")
            loss = self.softmax_cross_entropy(plain, targets, ignore_index)
            logits[...] = plain
            return loss
        if not compilable(logits):
            return super().softmax_cross_entropy(logits, targets, ignore_index)
        self._require_range("targets", targets, vocabulary, "V", ignore_index)  # compiled code passes over -1
        number = rows
        if ignore_index is not None:
            counts = targets != ignore_index
            targets, number = np.where(counts, targets, -1), np.count_nonzero(counts)
        scale, losses = 1 / max(number, 1), np.empty(rows, logits.dtype)
        threads = compiled.threads_for(EXP_COST * logits.size, rows)
        compiled.call("cross_entropy", logits.dtype, rows, vocabulary, logits, targets, scale, losses, threads)
        return np.sum(losses, dtype=np.float64).astype(logits.dtype) * logits.dtype.type(scale)

    def norm(self, arrays: Many) -> Array:  # noqa: D102
        if not compilable(*arrays):
            return super().norm(arrays)
        sizes = [array.size for array in arrays]
        sums = np.zeros(blocks(sizes))
        threads = compiled.threads_for(sum(sizes), len(sums))
        compiled.call("square_sums", arrays[0].dtype, len(arrays), sizes, arrays, sums, threads)
        return np.sqrt(np.sum(sums))

    def _move(
        self, optimizer: Rule, params: Many, gradients: Many, states: Sequence[Many], numbers: Numbers, scale: float
    ) -> None:
        flat = [array for state in states for array in state]
        for n, (param, gradient, state) in enumerate(zip(params, gradients, states, strict=True)):
            self._to_write(f"params[{n}]", param, param.shape)
            for array in state:
                self._to_write(f"states[{n}]", array, param.shape)
            self.backend.require(f"gradients[{n}]", gradient, param.shape)
        if optimizer.rule in RULES and compilable(*params, *gradients, *flat) and plain_memory(*params, *flat):
            sizes = [param.size for param in params]
            compiled.call(
                "update", params[0].dtype, RULES.index(optimizer.rule), len(params), sizes, params, gradients, flat,
                np.array(numbers, np.float64), scale, compiled.threads_for(UPDATE_COST * sum(sizes), len(params)),
            )  # fmt: skip
            return
        # Gradients are scaled in place, and what is overwritten as one parameter moves is no other one's gradient.
        apart = (g.flags.writeable and not any(np.may_share_memory(g, x) for x in (*params, *flat)) for g in gradients)
        own = [g if fine else g.copy() for g, fine in zip(gradients, apart, strict=True)]
        super()._move(optimizer, params, own, states, numbers, scale)

    def watch(self, arrays: Sequence[Array]) -> Callable[[], int | None]:  # noqa: D102
        if compiled.library() is not None:
            return watch(arrays)
        before = [_digest(array) for array in arrays]
        return lambda: next((place for place, array in enumerate(arrays) if _digest(array) != before[place]), None)

    def _to_write(self, name: str, array: Array, shape: tuple[Any, ...]) -> Array:
        """The array, if it has that shape and can be written."""
        if not self.backend.require(name, array, shape).flags.writeable:
            raise InputError(f"{name} is read-only; expected an array to write to")
        return array

    def _whole_numbers(self, name: str, index: Array, count: str) -> Array:
        """The array, if it has so many whole numbers."""
        index = self.backend.require(name, index, (count,))
        if index.dtype.kind not in "iu":
            raise InputError(f"{name} has dtype {index.dtype}; expected integers")
        return index


def compilable(*arrays: np.ndarray) -> bool:
    """Return whether the compiled library is there and has the dtype of these arrays, one for all."""
    dtypes = {array.dtype for array in arrays}
    return compiled.library() is not None and len(dtypes) == 1 and dtypes <= compiled.SUFFIXES.keys()


def plain_memory(*arrays: np.ndarray) -> bool:
    """Return whether arrays lie in memory as compiled code writes them: without gaps, aligned."""
    return all(array.flags.num & WRITABLE == WRITABLE for array in arrays)


def _digest(array: np.ndarray) -> bytes:
    """Of all bytes of an array in its order."""
    return hashlib.blake2b(in_bytes(array).data).digest()
