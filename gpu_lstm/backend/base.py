"""Where arrays live: what a backend is, and how one array namespace is asked for what the standard doesn't promise.

All arithmetic is the namespace itself, ``backend.xp``, used as the Python array API standard describes it; what a
training step computes with it is in `gpu_lstm.ops` and `gpu_lstm.recurrence`. The bodies below hold for any standard
namespace.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from gpu_lstm.backend.exchange import foreign
from gpu_lstm.backend.graph import Graph, Result
from gpu_lstm.errors import BackendError, InputError
from gpu_lstm.native.kernels import ARITHMETIC, dtype_name

Array = Any
"""An array of a backend's namespace: ``numpy.ndarray``, ``cupy.ndarray``, ..."""

DTYPES = ("float32", "float64", "float16", "bfloat16")
"""Types of layers and models. With the two of 16 bits, activations, their gradients and what products take are stored
in them; sums, cell states, parameters and the parameters' gradients are float32."""
PARAM_DTYPES = ("float32", "float64")
"""Types of parameters, and of what is exchanged with other libraries."""


class Backend:
    """One place where arrays live; ``x in backend`` says whether x is an array of it, on its device."""

    xp: Any  # array namespace: ``numpy``, ``cupy`` or another that follows the array API standard
    name: str = "generic"  # what the user types to get it: ``numpy``, ``cupy:0``
    why: str = "generic"  # one line for people: the backend and the reason it was chosen
    kernels: ClassVar[str] = ""  # which compiled kernels take its arrays: ``cpu``, ``cuda``, or none
    takes_out: ClassVar[bool] = False  # whether functions of `xp` take ``out=``, which the standard doesn't; see `into`
    least_steps: ClassVar[int] = 1  # fewest steps of the recurrence that are worth being computed by themselves
    records: ClassVar[bool] = False  # whether it has `record`

    def asarray(self, value: Any, dtype: str | None = None) -> Array:
        """Return an array of this backend made of `value`, host data or one of its own, in `dtype`."""
        if value in self:
            return value if dtype is None else self.xp.astype(value, self.dtype(dtype), copy=False)
        host = np.asarray(value)
        # A nested list can't say the shape of an array without elements.
        return self.xp.reshape(self.xp.asarray(host.tolist(), dtype=self.dtype(dtype or str(host.dtype))), host.shape)

    def upload(self, make: Callable[[], np.ndarray]) -> Array:
        """Return an array of this backend with the host data that `make` gives.

        In a recorded function, see `record`, `make` gives new data of the same shape before each replay.
        """
        return self.asarray(make())

    def to_numpy(self, x: Array) -> np.ndarray:
        """Return a copy of `x` on the host."""
        return np.array(np.from_dlpack(x))

    def __contains__(self, x: Any) -> bool:
        return isinstance(x, type(self.xp.zeros(())))

    def require(self, name: str, x: Any, shape: tuple[Any, ...] | None = None, dtype: str | None = None) -> Array:
        """Take an array argument on the memory that it has, and check its rank, shape and dtype. Nothing is moved.

        Arrays of other libraries are taken where they offer DLPack, ``__cuda_array_interface__`` or ``__array__`` and
        lie on this backend's device; only what ``__array__`` must make first is a copy.

        Parameters
        ----------
        name : str
            The argument's name, for the message.
        x : array
        shape : tuple of int or str, optional
            A string stands for any size and is shown in the message, ``"input_size=4"`` for a required one.
        dtype : str, optional

        Raises
        ------
        InputError
            `x` is no array, lies on another device, requires gradients that would be lost, or has another shape or
            dtype.
        """
        if x not in self:
            x = self._adopt(name, x)
        if shape is not None:
            wanted = _sizes(tuple(shape))
            if x.ndim != len(wanted) or any(w != s for w, s in zip(wanted, x.shape, strict=True) if w is not None):
                inside = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
                raise InputError(f"{name} has shape {tuple(x.shape)}; expected ({inside})")
        if dtype is not None and x.dtype != self.dtype(dtype):
            raise InputError(f"{name} has dtype {x.dtype}; expected {dtype}")
        return x

    def _adopt(self, name: str, x: Any) -> Array:
        """An array of another library, as one of this backend."""
        raise foreign(name, x, self.name)

    def dtype(self, name: str) -> Any:
        """Return the namespace's dtype object of that name; raises BackendError where it has none."""
        if not hasattr(self.xp, name):
            raise BackendError(f"backend {self.name} has no dtype {name}")
        return getattr(self.xp, name)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return an array of `shape` whose elements are not set; `dtype` is one of the namespace's."""
        return self.xp.empty(shape, dtype=dtype)

    def matmul(self, a: Array, b: Array, out: Array, add: bool = False) -> Array:
        """``out[...] = a @ b``, added to what `out` holds if `add`; returns `out`."""
        c = self.xp.matmul(a, b)
        out[...] = out + c if add else c
        return out

    def read(self, *scalars: Array) -> tuple[float, ...]:
        """Return the numbers of `scalars`, arrays of shape (): the one place where a step waits for its device.

        Without arrays it waits until everything asked of the device is done. Raises InputError where a number that was
        to be in a range since the last `read` (a token, a target) is outside of it.
        """
        return tuple(float(scalar) for scalar in scalars)

    def record(self, work: Callable[[], Result]) -> Graph[Result]:
        """Record what `work` asks of the device, without doing it, to do it any number of times by one launch.

        What changes from one replay to the next goes through `upload` or arrays that are there before; `work` has run
        once before. Raises BackendError where the backend can't record, or `work` waits or takes data of the host.
        """
        raise BackendError(f"backend {self.name} can't record a step as a graph; cupy can")

    def beside(self, work: Callable[[], Result], jobs: Sequence[Callable[[], object]]) -> Result:
        """Do `work` and, beside it in a second queue of the device where there is one, `jobs`; gives what work returns.

        Both come after all that was asked before, and before what is asked later. Jobs read nothing that `work` writes,
        write nothing that it reads, and leave what they do in arrays that were there before.
        """
        result = work()
        for job in jobs:
            job()
        return result

    def memory(self, release: bool = False) -> int | None:
        """Return how many bytes of the device's memory are free to use; None where it can't be told.

        With `release`, memory that is held but unused goes back to the device first, as after it ran out.
        """
        return None

    def describe(self) -> dict[str, str]:
        """Return device and library names with versions, for ``gpu-lstm info`` and for recorded results."""
        return {"backend": self.name, "namespace": self.xp.__name__}

    def __reduce__(self) -> Any:
        return importlib.import_module("gpu_lstm.backend").choose, (self.name,)  # above this file, which it imports

    def __copy__(self) -> Backend:
        return self

    def __deepcopy__(self, memo: Any) -> Backend:
        return self


def widened(backend: Backend, x: Array) -> Array:
    """Return x in the dtype of its sums: a copy in float32 where it is stored in 16 bits, else x itself."""
    name = dtype_name(x.dtype) if isinstance(x.dtype, np.dtype) else str(x.dtype)
    wide = ARITHMETIC.get(name, name)
    return x if wide == name else backend.asarray(x, wide)


def into(backend: Backend, function: Callable[..., Array], *arrays: Array, out: Array) -> Array:
    """``out[...] = function(*arrays)`` for a function of the namespace; `out` may be one of the arrays."""
    if backend.takes_out:
        return function(*arrays, out=out)
    out[...] = function(*arrays)
    return out


@functools.lru_cache(1024)
def _sizes(shape: tuple[int | str, ...]) -> tuple[int | None, ...]:
    """The sizes that a shape for `Backend.require` asks for; None where any will do."""
    parts = [str(part).rpartition("=")[2] for part in shape]
    return tuple(int(part) if part.isdigit() else None for part in parts)


def numpy_dtype(name: str) -> np.dtype:
    """Return NumPy's dtype of that name; bfloat16 is that of ml_dtypes, without which BackendError is raised."""
    if name != "bfloat16":
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError:
        raise BackendError("dtype bfloat16 needs ml_dtypes; install it with `pip install ml_dtypes`") from None
    found: np.dtype = np.dtype(ml_dtypes.bfloat16)
    return found
