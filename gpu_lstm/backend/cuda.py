"""What CUDA kernels do for a training step: checks, launch geometry and order, independent of who launches them.

`CupyBackend` launches on a GPU.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from gpu_lstm.backend.base import Array, Backend, Rule, numpy_dtype, out_of_range, seed_sequence, sum_rows
from gpu_lstm.backend.exchange import foreign
from gpu_lstm.backend.graph import Graph, Result
from gpu_lstm.errors import BackendError, InputError
from gpu_lstm.native import catalogue, kernels

CHUNK = 4096
"""Elements that a block of the optimizer takes, as ``kernels/cuda/optimizer.cu`` has it."""
LEAST_STEPS = 256
"""Steps from which a launch of the recurrence takes long beside those around it: see "Products beside the recurrence"
in ``kernels/cuda/README.md``."""
CHECK_VARIABLE = "GPU_LSTM_CHECK"
"""Environment variable: 1 keeps copies of what backward needs and compares them with it."""
_RANGES = 16
"""Arguments whose range may be checked between two calls of `read`."""
_LARGEST_GRID = 2**31 - 1


@dataclass(frozen=True)
class Device:
    """What a GPU has, as far as a kernel that keeps data on chip must know.

    Attributes
    ----------
    multiprocessors : int
    shared_bytes : int
        Shared memory that one block may have.
    capability : int
        Compute capability, 90 for 9.0.
    cooperative : bool
        Whether a launch can have all its blocks resident.
    clusters : int
        Clusters of `catalogue.CLUSTER` blocks, one block a multiprocessor, that a cooperative launch can have resident;
        0 where there is no way to launch them so.
    counted : int or None
        Such clusters of any launch that run at once, as the driver says; None where it couldn't be asked.
    """

    multiprocessors: int
    shared_bytes: int
    capability: int
    cooperative: bool = True
    clusters: int = 0
    counted: int | None = None

    @property
    def clusters_at_once(self) -> int:
        """Clusters of any launch that run at once: where the driver couldn't be asked, on all multiprocessors."""
        if self.counted is not None:
            return self.counted
        return self.multiprocessors // catalogue.CLUSTER if self.capability >= catalogue.CLUSTERS_SINCE else 0


class OfThread(threading.local):
    """What each thread that uses a backend has of its own.

    Attributes
    ----------
    checks : dict
        Of numbers in a range, since its last `read`: where in `ranges` those lie that are out of it.
    ranges : array or None
    recording : Graph or None
        What its calls are recorded in.
    handle : int or None
        Of cuBLAS, where it isn't CuPy's.
    """

    def __init__(self) -> None:
        self.checks: dict[tuple[str, str, int], int] = {}
        self.ranges: Array = None
        self.recording: Graph[Any] | None = None
        self.handle: int | None = None


class CudaBackend(Backend):
    """A backend whose arrays CUDA kernels take. Nothing here but `read` waits for the device."""

    kernels: ClassVar[str] = "cuda"
    least_steps: ClassVar[int] = LEAST_STEPS
    limits: Device
    tf32: bool = False
    """Whether float32 matrices are rounded to TF32 where they are multiplied: 10 bits of mantissa instead of 23."""

    def __init__(self) -> None:
        self._own = OfThread()

    def dtype(self, name: str) -> Any:  # noqa: D102
        if name == "bfloat16" and self.limits.capability < 80:
            have = self.limits.capability / 10
            raise BackendError(
                f"dtype bfloat16 needs compute capability 8.0; {self.name} has {have}, where float16 runs"
            )
        return numpy_dtype(name)

    def widened(self, x: Array) -> Array:  # noqa: D102
        name = kernels.dtype_name(x.dtype)
        wide = kernels.ARITHMETIC.get(name, name)
        return x if wide == name else self.asarray(x, wide)

    def product(  # noqa: D102
        self, a: Array, b: Array, bias: Array | None = None, dtype: str | None = None, out: Array | None = None
    ) -> Array:
        kind = a.dtype if dtype is None else self.dtype(dtype)
        c = self.matmul(a, b, out=self.xp.empty((a.shape[0], b.shape[1]), dtype=kind) if out is None else out)
        if bias is not None:
            c += bias
        return c

    def weight_gradients(self, dy: Array, inputs: Sequence[Array]) -> tuple[list[Array], Array]:  # noqa: D102
        wide = kernels.ARITHMETIC[kernels.dtype_name(dy.dtype)]
        return [self.product(dy.T, x, dtype=wide) for x in inputs], sum_rows(self.xp, dy, self.dtype(wide))

    # -- a step as a graph ------------------------------------------------------------------------------

    def upload(self, make: Callable[[], np.ndarray]) -> Array:  # noqa: D102
        host = make()
        if self._own.recording is None:
            return self.asarray(host)
        memory, array = self._from_memory(host)
        memory[...] = host
        self._own.recording.uploads.append((memory, make))
        return array

    def record(self, work: Callable[[], Result]) -> Graph[Result]:  # noqa: D102
        self.read()  # whatever was checked before has nothing to do with it
        if self._own.ranges is None:
            self._clear_ranges()
        graph: Graph[Result] = Graph()
        self._own.recording = graph
        try:
            self._capture(graph, work)
        except BackendError:
            raise
        except RuntimeError as error:  # CUDA's, and CuPy's own of what it doesn't capture
            raise BackendError(f"a step can't be recorded as a graph: {error}") from None
        finally:
            self._own.recording = None
            checks, self._own.checks = self._own.checks, {}

        def expect() -> None:
            self.read()
            self._own.checks = dict(checks)

        graph.expect = expect
        return graph

    def _capture(self, graph: Graph[Result], work: Callable[[], Result]) -> None:
        """Call `work` while launches are recorded and not done; set the graph's result, launch, wait and held."""
        raise NotImplementedError

    def _from_memory(self, host: np.ndarray) -> tuple[np.ndarray, Array]:
        """Memory of the host, and an array that is recorded to be filled from it, both like `host`."""
        raise NotImplementedError

    def _not_recorded(self, what: str) -> None:
        """Refuse what a graph can't do again."""
        if self._own.recording is not None:
            raise BackendError(f"a step that {what} can't be recorded as a graph")

    # -- checks that are read later ----------------------------------------------------------------------

    def require_range(  # noqa: D102
        self, name: str, index: Array, size: int, what: str, besides: int | None = None
    ) -> None:
        index = self._whole_numbers(name, index, _any_shape(index))
        if not index.size:
            return
        key = (name, what, size)
        if self._own.ranges is None:
            self._clear_ranges()
        if key not in self._own.checks and len(self._own.checks) == _RANGES:
            self.read()
        place = self._own.checks.setdefault(key, len(self._own.checks))
        low, high = self._own.ranges[0, place : place + 1], self._own.ranges[1, place : place + 1]
        self.kernel(catalogue.kernel("check_range"))(
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

    def read(self, *scalars: Array) -> tuple[float, ...]:  # noqa: D102
        checks, self._own.checks = self._own.checks, {}
        if not (scalars or checks):
            return ()
        # One copy to the host for all; whole numbers beyond 2^53 lose digits, in a message only.
        count = len(scalars)
        values = self.xp.empty((count + 2 * _RANGES * bool(checks),), dtype=self.xp.float64)
        for place, scalar in enumerate(scalars):
            values[place] = scalar
        if checks:
            values[count:] = self.xp.reshape(self._own.ranges, (-1,))
        values = self.to_numpy(values)
        ranges = values[count:].reshape(2, -1)
        for (name, what, size), place in checks.items():
            low, high = (int(bound) for bound in ranges[:, place])
            if low <= high:
                self._clear_ranges()
                raise out_of_range(name, low, high, size, what)
        return tuple(float(value) for value in values[:count])

    def _clear_ranges(self) -> None:
        """No number was out of range: smallest above largest. The array stays, graphs have its address."""
        bounds = np.iinfo(np.int64)
        if self._own.ranges is None:
            self._own.ranges = self.xp.empty((2, _RANGES), dtype=self.xp.int64)
        self._own.ranges[0, :], self._own.ranges[1, :] = bounds.max, bounds.min

    # -- a training step around its matrix products and the recurrence --------------------------------------

    def watch(self, arrays: Sequence[Array]) -> Callable[[], int | None]:
        """Copies, where the environment variable GPU_LSTM_CHECK is 1: they cost launches and waits."""
        return super().watch(arrays) if os.environ.get(CHECK_VARIABLE) == "1" else lambda: None

    def take_rows(self, table: Array, index: Array) -> Array:  # noqa: D102
        dtype = self._check("table", table, ("V", "M"))
        index = self._whole_numbers("index", index, ("N",))
        (size, width), (count,) = table.shape, index.shape
        out = self.xp.empty((count, width), dtype=table.dtype)
        if out.size:
            self.kernel(catalogue.kernel("take_rows", dtype))(
                (_grid("index", count),), (_warps(width),), (table, index, out, np.int64(size), np.int64(width))
            )
        return out

    def scatter_add(self, target: Array, index: Array, rows: Array) -> None:  # noqa: D102
        dtype = self._check("target", target, ("V", "M"))
        index = self._whole_numbers("index", index, ("N",))
        (size, width), (count,) = target.shape, index.shape
        self._check("rows", rows, (f"N={count}", f"M={width}"), dtype)
        if rows.size:
            self.kernel(catalogue.kernel("scatter_add", dtype, catalogue.SCATTER_WARPS))(
                (_grid("index", count), _grid("target", _blocks(width, 32), 65535)),
                (32 * catalogue.SCATTER_WARPS,),
                (target, index, rows, np.int64(count), np.int64(size), np.int64(width)),
            )

    def dropout(self, x: Array, p: float, seed: tuple[int, ...]) -> tuple[Array, Callable[[Array], Array]]:  # noqa: D102
        words = partial(_words, seed)
        key = None if self._own.recording is None else self.upload(words)
        low, high = words()
        drop = partial(self._drop, p, key, low, high)
        return drop(x), drop

    def _drop(self, p: float, key: Array | None, low: np.uint32, high: np.uint32, x: Array) -> Array:
        """Dropout of x, by the two words of a seed or, where a step is recorded, by those that `key` holds."""
        x = self._contiguous(x)
        dtype = self._check("x", x, _any_shape(x))
        y = self.xp.empty_like(x)
        width = 4 if kernels.aligned(4 * x.dtype.itemsize, x, y) else 1
        if x.size:
            self.kernel(catalogue.kernel("dropout", dtype, width))(
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
        xp = self.xp
        dtype = self._check("logits", logits, ("N", "V"))
        rows, vocabulary = logits.shape
        targets = self._whole_numbers("targets", targets, (f"N={rows}",))
        arithmetic = self.dtype(kernels.ARITHMETIC[dtype])
        if not logits.size:
            return xp.zeros((), dtype=arithmetic)
        number = None
        if ignore_index is not None:
            number = xp.empty((1,), dtype=xp.int64)
            self.kernel(catalogue.kernel("count_targets"))(
                (1,), (1024,), (targets, np.int64(rows), np.int64(ignore_index), number)
            )
        losses = xp.empty((rows,), dtype=arithmetic)
        self.kernel(catalogue.kernel("cross_entropy", dtype))(
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
        self.kernel(catalogue.kernel("mean_loss", dtype))((1,), (1024,), (losses, number, np.int64(rows), loss))
        return loss

    def norm(self, arrays: Sequence[Array]) -> Array:  # noqa: D102
        arrays = [self._contiguous(array) for array in arrays if array.size]
        if not arrays:
            return self.xp.zeros((), dtype=self.xp.float64)
        dtype = self._same_dtype("arrays", arrays)
        table, _, chunks = self._table([(None, array) for array in arrays])
        return self._norm(dtype, table, len(arrays), chunks, 1.0)

    def update(  # noqa: D102
        self,
        optimizer: Rule,
        params: Sequence[Array],
        gradients: Sequence[Array],
        states: Sequence[Sequence[Array]],
        max_norm: float | None,
        loss: Array | None,
        loss_scale: float = 1.0,
    ) -> Array | None:
        xp = self.xp
        if loss is not None:
            loss = self.require("loss", self.asarray(loss), ())
        gradients = [self._contiguous(gradient) for gradient in gradients]
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
            gradients = [self.widened(gradient) for gradient in gradients]
            return super().update(optimizer, params, gradients, states, max_norm, loss, loss_scale)
        if not lines:
            return None if max_norm is None else xp.zeros((), dtype=xp.float64)
        table, numbers, chunks = self._table(lines, optimizer.numbers)
        norm = None if max_norm is None else self._norm(dtype, table, len(lines), chunks, loss_scale)
        if loss is not None:
            loss = xp.asarray(loss, dtype=self.dtype(arithmetic))
        self.kernel(catalogue.kernel("update", dtype, optimizer.rule))(
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
        xp, arithmetic = self.xp, self.dtype(kernels.ARITHMETIC[dtype])
        sums, norm = xp.empty((chunks,), dtype=arithmetic), xp.empty((), dtype=arithmetic)
        self.kernel(catalogue.kernel("sum_of_squares", dtype))(
            (_grid("gradients", chunks),), (kernels.BLOCK,), (table, np.int32(lines), sums)
        )
        unscale = _scalar(dtype, 1 / loss_scale)
        self.kernel(catalogue.kernel("norm_of_sums", dtype))((1,), (1024,), (sums, np.int64(chunks), unscale, norm))
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
        both = self.upload(lambda: np.concatenate([table.ravel(), np.array(numbers(), np.float64).view(np.int64)]))
        return self.xp.reshape(both[: table.size], table.shape), both[table.size :].view(self.xp.float64), chunks

    # -- what every launch needs -----------------------------------------------------------------------------

    def _check(self, name: str, array: Array, shape: tuple[Any, ...], dtype: str | None = None) -> str:
        """Refuse what a kernel can't take: another device, shape or dtype, or gaps in memory. Gives the dtype."""
        if self.require(name, array, shape, dtype) is not array:
            raise foreign(name, array, self.name)
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
        """As int64 without gaps, once it is known to be an array of whole numbers of this backend."""
        index = self.require(name, index, shape)
        if not self.xp.isdtype(index.dtype, "integral"):
            raise InputError(f"{name} has dtype {index.dtype}; expected integers")
        return self._contiguous(self.xp.astype(index, self.xp.int64, copy=False))

    def _contiguous(self, array: Array) -> Array:
        """The array, or a copy without gaps; what is no array comes back for `_check` to refuse."""
        gaps = self.owns(array) and not array.flags.c_contiguous
        return self.xp.ascontiguousarray(array) if gaps else array


def _blocks(items: int, each: int) -> int:
    return -(-items // each)


def _warps(width: int) -> int:
    """Threads for a row of that width: whole warps, 32..256."""
    return min(max(_blocks(width, 32) * 32, 32), kernels.BLOCK)


def _words(seed: tuple[int, ...]) -> np.ndarray:
    """Of which dropout makes its mask."""
    return seed_sequence(seed).generate_state(2)


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
