"""The Backend protocol: where arrays live, and the few operations that array namespaces do differently.

Everything else is the array namespace itself, ``backend.xp``, used as the Python array API standard
describes it. The generic bodies below hold for any standard namespace; NumPy and CuPy override those
where the namespace offers a faster way (writing into an existing array).
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, SupportsIndex

import numpy as np

from gpu_lstm.backend.exchange import foreign
from gpu_lstm.backend.graph import Graph, Result
from gpu_lstm.errors import BackendError, InputError
from gpu_lstm.native.kernels import ARITHMETIC, Kernel, Launch

Array = Any
"""An array of a backend's namespace: ``numpy.ndarray``, ``cupy.ndarray``, ..."""

DTYPES = ("float32", "float64", "float16", "bfloat16")
"""Types of layers and models. With the two of 16 bits, activations, their gradients and what products take are stored
in them; sums, cell states, parameters and the parameters' gradients are float32."""
PARAM_DTYPES = ("float32", "float64")
"""Types of parameters, and of what is exchanged with other libraries."""


class Rule(Protocol):
    """How an optimizer moves one parameter, for `Backend.update`."""

    @property
    def rule(self) -> str:
        """Name of the compiled form of `move`: ``adam``, ``sgd``, ``rmsprop``; empty where it has none."""

    def numbers(self) -> tuple[float, ...]:
        """Those of the update that has begun, in the rule's order."""

    def move(self, param: Array, gradient: Array, state: Sequence[Array], numbers: Sequence[float]) -> None:
        """Update `param` and `state` in place, as array expressions."""


class Backend:
    """One place where arrays live.

    Attributes
    ----------
    xp : module
        Array namespace: ``numpy``, ``cupy`` or another that follows the array API standard.
    name : str
        What the user types to get it: ``numpy``, ``cupy:0``.
    why : str
        One line for people: the backend and the reason it was chosen.
    kernels : str
        Which compiled kernels take its arrays: ``cpu``, ``cuda``, or none.
    least_steps : int
        Fewest steps that are worth being computed by themselves, see `gpu_lstm.layers.schedule.segments`.
    records : bool
        Whether it has `record`.
    """

    xp: Any
    name: str = "generic"
    why: str = "generic"
    kernels: ClassVar[str] = ""
    least_steps: ClassVar[int] = 1
    records: ClassVar[bool] = False

    # -- arrays in and out ---------------------------------------------------------------------------

    def asarray(self, value: Any, dtype: str | None = None) -> Array:
        """Array of this backend from host data (numbers, lists, NumPy arrays) or from one of its own."""
        if self.owns(value):
            return value if dtype is None else self.xp.astype(value, self.dtype(dtype), copy=False)
        host = np.asarray(value)
        # A nested list can't say the shape of an array without elements.
        return self.xp.reshape(self.xp.asarray(host.tolist(), dtype=self.dtype(dtype or str(host.dtype))), host.shape)

    def upload(self, make: Callable[[], np.ndarray]) -> Array:
        """Array of this backend from the host data that `make` gives; in a recorded function, see `record`, it gives
        new data of the same shape before each replay."""
        return self.asarray(make())

    def to_numpy(self, x: Array) -> np.ndarray:
        """Copy of `x` on the host."""
        return np.array(np.from_dlpack(x))

    def owns(self, x: Any) -> bool:
        """Whether `x` is an array of this backend, on its device."""
        return isinstance(x, type(self.xp.zeros(())))

    def receive(self, name: str, x: Any) -> Array:
        """`x` as an array of this backend, on the memory that it has.

        Arrays of other libraries are taken where they offer DLPack, ``__cuda_array_interface__`` or ``__array__``
        and lie on this backend's device. Nothing is moved; only what ``__array__`` must make first is a copy. What
        such an array allows to be written is for its library to say: ``flags.writeable``.

        Raises
        ------
        InputError
            `x` is no array, lies on another device, or requires gradients that would be lost; `name` is in the
            message.
        """
        if self.owns(x):
            return x
        raise foreign(name, x, self.name)

    def require(self, name: str, x: Any, shape: tuple[Any, ...], dtype: str | None = None) -> Array:
        """Take an array argument by `receive` and check its rank, shape and dtype. Nothing is moved.

        Parameters
        ----------
        name : str
            The argument's name, for the message.
        x : array
            The argument.
        shape : tuple of int or str
            Expected shape; a string stands for any size and is shown in the message,
            ``"input_size=4"`` for a required one.
        dtype : str, optional
            Expected dtype, ``"float32"``.

        Returns
        -------
        x : array of this backend

        Raises
        ------
        InputError
            `x` can't be taken, or has another shape or dtype.
        """
        x = self.receive(name, x)
        wanted = _sizes(tuple(shape))
        fits = x.ndim == len(wanted) and all(w is None or w == s for w, s in zip(wanted, x.shape, strict=True))
        if not fits:
            inside = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
            raise InputError(f"{name} has shape {tuple(x.shape)}; expected ({inside})")
        if dtype is not None and x.dtype != self.dtype(dtype):
            raise InputError(f"{name} has dtype {x.dtype}; expected {dtype}")
        return x

    def dtype(self, name: str) -> Any:
        """The namespace's dtype object of that name.

        Raises
        ------
        BackendError
            The backend has none.
        """
        if not hasattr(self.xp, name):
            raise BackendError(f"backend {self.name} has no dtype {name}")
        return getattr(self.xp, name)

    def widened(self, x: Array) -> Array:
        """x in the dtype of its sums: a copy in float32 where it is stored in 16 bits, else x itself."""
        name = str(x.dtype)
        wide = ARITHMETIC.get(name, name)
        return x if wide == name else self.asarray(x, wide)

    def require_range(self, name: str, index: Array, size: int, what: str, besides: int | None = None) -> None:
        """Check that the whole numbers of `index` are in 0..size-1, or equal to `besides`.

        Where that would make the host wait for a device, `read` raises instead; whatever takes the numbers until
        then stays inside its arrays.

        Parameters
        ----------
        name, what : str
            The argument's name and that of `size`, for the message.

        Raises
        ------
        InputError
            A number is outside.
        """
        xp = self.xp
        if besides is not None:
            index = xp.where(index != besides, index, xp.zeros_like(index))
        if 0 not in index.shape:
            low, high = int(xp.min(index)), int(xp.max(index))
            if low < 0 or high >= size:
                raise out_of_range(name, low, high, size, what)

    def read(self, *scalars: Array) -> tuple[float, ...]:
        """Numbers of some arrays of shape (): the one place where a training step waits for its device.

        Raises
        ------
        InputError
            A number that `require_range` was given since the last `read` is out of range.
        """
        return tuple(float(scalar) for scalar in scalars)

    def watch(self, arrays: Sequence[Array]) -> Callable[[], int | None]:
        """What tells, at any time later, which of the arrays is the first that was written to since; None: none was."""
        copies = [self.xp.asarray(array, copy=True) for array in arrays]

        def changed() -> int | None:
            for place, (now, before) in enumerate(zip(arrays, copies, strict=True)):
                if not bool(self.xp.all((now == before) | ((now != now) & (before != before)))):
                    return place
            return None

        return changed

    def __reduce__(self) -> Any:
        from gpu_lstm.backend import choose

        return choose, (self.name,)

    def __copy__(self) -> Backend:
        return self

    def __deepcopy__(self, memo: Any) -> Backend:
        return self

    # -- operations that namespaces do differently -----------------------------------------------------

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array whose elements are not set; `dtype` is one of the namespace's."""
        return self.xp.empty(shape, dtype=dtype)

    def matmul(self, a: Array, b: Array, out: Array, add: bool = False) -> Array:
        """``out[...] = a @ b``, added to what `out` holds if `add`; returns `out`."""
        c = self.xp.matmul(a, b)
        out[...] = out + c if add else c
        return out

    def product(
        self, a: Array, b: Array, bias: Array | None = None, dtype: str | None = None, out: Array | None = None
    ) -> Array:
        """``a @ b``, plus `bias` on every row, of large matrices; a new array, or `out`, in its own dtype.

        Sums of 16-bit numbers are in float32, and rounded once; not at all where `dtype` is float32.
        """
        c = self.xp.matmul(self.widened(a), self.widened(b))
        if bias is not None:
            c += bias
        if out is None:
            return self.xp.astype(c, a.dtype if dtype is None else self.dtype(dtype), copy=False)
        out[...] = c
        return out

    def weight_gradients(self, dy: Array, inputs: Sequence[Array]) -> tuple[list[Array], Array]:
        """``dy.T @ x`` for each x of `inputs`, (N, K) each, and the sum of the rows of `dy` (N, M).

        They stay in the dtype of the sums: float32 for 16-bit arrays.
        """
        dy = self.widened(dy)
        return [self.xp.matmul(dy.T, self.widened(x)) for x in inputs], sum_rows(self.xp, dy)

    def tanh(self, x: Array, out: Array) -> Array:
        """``out[...] = tanh(x)``; `out` may be `x`."""
        out[...] = self.xp.tanh(x)
        return out

    def multiply(self, a: Array, b: Array, out: Array) -> Array:
        """``out[...] = a * b``; `out` may be `a` or `b`."""
        out[...] = a * b
        return out

    # -- what a training step does around its matrix products and the recurrence ---------------------------

    def take_rows(self, table: Array, index: Array) -> Array:
        """``table[index]``, rows (N, M) of a table (V, M); `index` (N,) has passed `require_range`."""
        return self.xp.take(table, index, axis=0)

    def scatter_add(self, target: Array, index: Array, rows: Array) -> None:
        """``target[index[n]] += rows[n]`` for every n, repeated indices adding up, in a fixed order."""
        one_hot = self.xp.astype(
            index[None, :] == self.xp.arange(target.shape[0], dtype=self.xp.int64)[:, None], rows.dtype
        )
        target += self.xp.matmul(one_hot, rows)

    def dropout(self, x: Array, p: float, seed: tuple[int, ...]) -> tuple[Array, Callable[[Array], Array]]:
        """Zero each element with probability `p`, multiply the others by 1/(1-p).

        Which ones is a pure function of the shape, the seed and the backend: there is no state to save.

        Returns
        -------
        y : like x
        again : callable
            Does the same to the same elements of another array.
        """
        xp = self.xp
        generator = np.random.Generator(np.random.SFC64(seed_sequence(seed)))
        kept = self.asarray(generator.random(tuple(x.shape), dtype=np.float32) >= p)
        scale = xp.astype(kept, x.dtype)
        scale *= 1 / (1 - p)
        return x * scale, functools.partial(operator.mul, scale)

    def softmax_cross_entropy(self, logits: Array, targets: Array, ignore_index: int | None) -> Array:
        """Mean of -log softmax(logits)[target] over the targets that count; the gradient replaces `logits`.

        Parameters
        ----------
        logits : (N, V)
        targets : (N,) int64
            They have passed `require_range`.
        ignore_index : int or None
            Targets of this value don't count.

        Returns
        -------
        loss : array of shape ()
        """
        xp = self.xp
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

    def norm(self, arrays: Sequence[Array]) -> Array:
        """2-norm of all elements of all arrays together, of shape ()."""
        xp = self.xp
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
        """One step of an optimizer over all parameters, in place.

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
        self.move(optimizer, params, gradients, states, optimizer.numbers(), scale / loss_scale)
        return norm

    def move(
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

    def record(self, work: Callable[[], Result]) -> Graph[Result]:
        """Record what `work` asks of the device, without doing it, to do it any number of times at the cost of one
        launch.

        Addresses and numbers stay what they were; what changes from one replay to the next goes through `upload` or
        arrays that are there before. `work` has run once before, so that all kernels are there.

        Raises
        ------
        BackendError
            The backend can't (`records` is False), or `work` waits for the device or takes data of the host.
        """
        raise BackendError(f"backend {self.name} can't record a step as a graph; cupy can")

    def kernel(self, kernel: Kernel) -> Launch:
        """A CUDA kernel, compiled at its first use and kept.

        Raises
        ------
        BackendError
            It can't be compiled here, or the backend has no CUDA kernels.
        """
        raise BackendError(f"backend {self.name} has no CUDA kernels; asked for {kernel.expression}")

    def beside(self, work: Callable[[], Result], jobs: Sequence[Callable[[], object]]) -> Result:
        """Do `work` and, beside it in a second queue of the device where there is one, `jobs`; gives what work returns.

        Both come after all that was asked of the device before; whatever is asked of it later comes after both. Jobs
        read nothing that `work` writes and write nothing that it reads. What they leave is in arrays that were there
        before: an array that a job makes ends with it.
        """
        result = work()
        for job in jobs:
            job()
        return result

    def synchronize(self) -> None:
        """Wait until everything asked of the device is done."""

    def release(self) -> None:
        """Give memory that is held but unused back to the device, after it ran out."""

    def available(self) -> int | None:
        """Bytes of the device's memory that are free to use; None where it can't be told."""
        return None

    def describe(self) -> dict[str, str]:
        """Device and library names with versions, for ``gpu-lstm info`` and for recorded results."""
        return {"backend": self.name, "namespace": self.xp.__name__}


@functools.lru_cache(1024)
def _sizes(shape: tuple[int | str, ...]) -> tuple[int | None, ...]:
    """The sizes that a shape for `Backend.require` asks for; None where any will do."""
    parts = [str(part).rpartition("=")[2] for part in shape]
    return tuple(int(part) if part.isdigit() else None for part in parts)


def sum_rows(xp: Any, rows: Array, dtype: Any = None) -> Array:
    """Sum over the first axis of (N, M), in blocks of 64 rows and then over them: the rounding errors stay small.

    The sums have `dtype`, if given.
    """
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
    """Of whole numbers, among which may be a `gpu_lstm.backend.graph.Count`, as it stands now."""
    return np.random.SeedSequence([int(number) for number in seed])


def numpy_dtype(name: str) -> np.dtype:
    """NumPy's dtype of that name; bfloat16 is that of ml_dtypes.

    Raises
    ------
    BackendError
        ml_dtypes is asked for and not installed.
    """
    if name != "bfloat16":
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError:
        raise BackendError("dtype bfloat16 needs ml_dtypes; install it with `pip install ml_dtypes`") from None
    found: np.dtype = np.dtype(ml_dtypes.bfloat16)
    return found


def out_of_range(name: str, low: int, high: int, size: int, what: str) -> InputError:
    """The error of `Backend.require_range`."""
    return InputError(f"{name} has values {low}..{high}; expected 0..{what}-1={size - 1}")
