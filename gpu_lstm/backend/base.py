"""The Backend protocol: where arrays live, and the few operations that array namespaces do differently.

Everything else is the array namespace itself, ``backend.xp``, used as the Python array API standard
describes it. The generic bodies below hold for any standard namespace; NumPy and CuPy override those
where the namespace offers a faster way (writing into an existing array).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from gpu_lstm.errors import InputError

Array = Any
"""An array of a backend's namespace: ``numpy.ndarray``, ``cupy.ndarray``, ..."""

DTYPES = ("float32", "float64")
"""Computing types. float16 and bfloat16 storage belongs to the fused CUDA tiers."""


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
        Which compiled kernels take its arrays: ``cpu``, or none.
    """

    xp: Any
    name: str = "generic"
    why: str = "generic"
    kernels: ClassVar[str] = ""

    # -- arrays in and out ---------------------------------------------------------------------------

    def asarray(self, value: Any, dtype: str | None = None) -> Array:
        """Array of this backend from host data (numbers, lists, NumPy arrays) or from one of its own."""
        if self.owns(value):
            return value if dtype is None else self.xp.astype(value, self.dtype(dtype), copy=False)
        host = np.asarray(value)
        # A nested list can't say the shape of an array without elements.
        return self.xp.reshape(self.xp.asarray(host.tolist(), dtype=self.dtype(dtype or str(host.dtype))), host.shape)

    def to_numpy(self, x: Array) -> np.ndarray:
        """Copy of `x` on the host."""
        return np.array(np.from_dlpack(x))

    def owns(self, x: Any) -> bool:
        """Whether `x` is an array of this backend, on its device."""
        return isinstance(x, type(self.xp.zeros(())))

    def require(self, name: str, x: Any, shape: tuple[Any, ...], dtype: str | None = None) -> Array:
        """Check an array argument: device, rank, shape and dtype. Nothing is copied or moved.

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

        Raises
        ------
        InputError
            `x` is not an array of this backend, or has another shape or dtype.
        """
        if not self.owns(x):
            raise InputError(
                f"{name} is a {type(x).__module__}.{type(x).__name__}; expected an array of backend {self.name} "
                f"(make it one with backend.asarray)"
            )
        sizes = [int(part.split("=")[1]) if "=" in part else part for part in map(str, shape)]
        wanted = [int(s) if str(s).isdigit() else None for s in sizes]
        fits = x.ndim == len(wanted) and all(w is None or w == s for w, s in zip(wanted, x.shape, strict=True))
        if not fits:
            inside = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
            raise InputError(f"{name} has shape {tuple(x.shape)}; expected ({inside})")
        if dtype is not None and x.dtype != self.dtype(dtype):
            raise InputError(f"{name} has dtype {x.dtype}; expected {dtype}")
        return x

    def dtype(self, name: str) -> Any:
        """The namespace's dtype object of that name."""
        return self.xp.bool if name == "bool" else getattr(self.xp, name)

    # -- operations that namespaces do differently -----------------------------------------------------

    def matmul(self, a: Array, b: Array, out: Array) -> Array:
        """``out[...] = a @ b``; returns `out`."""
        out[...] = self.xp.matmul(a, b)
        return out

    def product(self, a: Array, b: Array, bias: Array | None = None) -> Array:
        """``a @ b``, plus `bias` on every row, of large matrices; a new array."""
        c = self.xp.matmul(a, b)
        if bias is not None:
            c += bias
        return c

    def tanh(self, x: Array, out: Array) -> Array:
        """``out[...] = tanh(x)``; `out` may be `x`."""
        out[...] = self.xp.tanh(x)
        return out

    def multiply(self, a: Array, b: Array, out: Array) -> Array:
        """``out[...] = a * b``; `out` may be `a` or `b`."""
        out[...] = a * b
        return out

    def scatter_add(self, target: Array, index: Array, rows: Array) -> None:
        """``target[index[n]] += rows[n]`` for every n, repeated indices adding up, in a fixed order."""
        one_hot = self.xp.astype(
            index[None, :] == self.xp.arange(target.shape[0], dtype=self.xp.int64)[:, None], rows.dtype
        )
        target += self.xp.matmul(one_hot, rows)

    def uniform(self, shape: tuple[int, ...], seed: tuple[int, ...], dtype: str) -> Array:
        """Numbers in [0, 1), a pure function of `shape`, `seed` and the backend: there is no state to save."""
        generator = np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed)))
        return self.asarray(generator.random(shape, dtype=np.dtype(dtype).type), dtype)

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
