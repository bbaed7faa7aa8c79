"""Products by cuBLAS straight into an array, through CuPy's binding or, while a stream is captured, past it."""

from __future__ import annotations

import contextlib
import copy
import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from gpu_lstm.errors import BackendError

WORKSPACE = 32 * 2**20
"""Bytes that cuBLAS may use while it is recorded: what NVIDIA recommends for Hopper, the most of all devices."""

_NUMBERS = [np.array([0, 1], dtype) for dtype in ("float32", "float64")]
_SCALARS = [(both[:1].ctypes.data, both[1:].ctypes.data) for both in _NUMBERS]
"""Where cuBLAS reads 0 and 1, in float32 and in float64."""


class Cublas:
    """Products of CuPy's arrays, by its `binding`, ``cupy_backends.cuda.libs.cublas``."""

    def __init__(self, binding: Any, xp: Any, dtype: Callable[[str], Any]):
        self.binding, self._xp = binding, xp
        runtime = xp.cuda.runtime
        self._float32 = runtime.CUDA_R_32F
        # cuBLAS's number of a dtype and of its arithmetic, by dtype: NumPy needs microseconds to tell a dtype's name.
        self._kinds = {
            dtype("float32"): (runtime.CUDA_R_32F, binding.CUBLAS_COMPUTE_32F),
            dtype("float64"): (runtime.CUDA_R_64F, binding.CUBLAS_COMPUTE_64F),
            dtype("float16"): (runtime.CUDA_R_16F, binding.CUBLAS_COMPUTE_32F),
        }
        with contextlib.suppress(BackendError):  # without ml_dtypes there are no such arrays
            self._kinds[dtype("bfloat16")] = (runtime.CUDA_R_16BF, binding.CUBLAS_COMPUTE_32F)

    def recorded(self) -> Cublas:
        """Return the same for a stream that is being captured."""
        twin = copy.copy(self)
        twin.binding = RecordedCublas(self.binding, self._xp)
        return twin

    def multiply(self, handle: int, a: Any, b: Any, out: Any, add: bool, tf32: bool) -> bool:
        """``out[...] = a @ b``, added to what `out` holds if `add`; False, and nothing done, where cuBLAS has no form.

        Of a and b (N, ., .) it is N products at once, and `out` may have gaps. `out` may be float32 where a and b are
        float16 or bfloat16; sums are in float32 then, too. float32 is rounded to TF32 if `tf32`.
        """
        if 0 in a.shape or 0 in b.shape:
            return False
        if a.ndim == 3:
            return self._multiply_several(handle, a, b, out, add, tf32)
        cublas = self.binding
        a_form, b_form = form(a, cublas), form(b, cublas)
        if a_form is None or b_form is None or not out.flags.c_contiguous:
            return False
        (rows, depth), columns = a.shape, b.shape[1]
        (a_step, a_op), (b_step, b_op) = a_form, b_form
        kind, out_kind, compute, (zero, one) = self._arithmetic(a, out, tf32)
        # cuBLAS counts in columns: it computes out^T = b^T a^T.
        cublas.gemmEx(
            handle, b_op, a_op, columns, rows, depth,
            one, b.data.ptr, kind, b_step, a.data.ptr, kind, a_step,
            one if add else zero, out.data.ptr, out_kind, columns,
            compute, cublas.CUBLAS_GEMM_DEFAULT,
        )  # fmt: skip
        return True

    def _multiply_several(self, handle: int, a: Any, b: Any, out: Any, add: bool, tf32: bool) -> bool:
        cublas, arrays = self.binding, (a, b, out)
        forms = [found for x in arrays if (found := form(x[0], cublas)) is not None]
        if len(forms) < 3 or forms[2][1] != cublas.CUBLAS_OP_N:
            return False
        (a_row, a_op), (b_row, b_op), (out_row, _) = forms
        a_step, b_step, out_step = (array.strides[0] // array.itemsize for array in arrays)
        (count, rows, depth), columns = a.shape, b.shape[2]
        kind, out_kind, compute, (zero, one) = self._arithmetic(a, out, tf32)
        cublas.gemmStridedBatchedEx(
            handle, b_op, a_op, columns, rows, depth,
            one, b.data.ptr, kind, b_row, b_step, a.data.ptr, kind, a_row, a_step,
            one if add else zero, out.data.ptr, out_kind, out_row, out_step,
            count, compute, cublas.CUBLAS_GEMM_DEFAULT,
        )  # fmt: skip
        return True

    def _arithmetic(self, a: Any, out: Any, tf32: bool) -> tuple[int, int, int, tuple[int, int]]:
        """cuBLAS's numbers of the dtypes of `a` and `out` and of what it adds up in, and where it reads 0 and 1."""
        kind, (out_kind, compute) = self._kinds[a.dtype][0], self._kinds[out.dtype]
        scalars = _SCALARS[compute == self.binding.CUBLAS_COMPUTE_64F]
        if tf32 and kind == self._float32:
            compute = self.binding.CUBLAS_COMPUTE_32F_FAST_TF32
        return kind, out_kind, compute, scalars


class RecordedCublas:
    """CuPy's binding of cuBLAS, for a stream that is being captured: CuPy refuses that, NVIDIA allows it.

    The two products go to the library itself, with CuPy's handle, the current stream and a workspace that stays: cuBLAS
    would take one of its own otherwise, at every capture. All else is the binding's own.
    """

    def __init__(self, binding: Any, xp: Any):
        self._binding, self._xp = binding, xp
        library = ctypes.CDLL(binding.__file__)  # finds what the binding is linked with, whatever that is called
        pointer, number = ctypes.c_void_p, ctypes.c_int
        matrix: list[Any] = [pointer, number, number]  # where it lies, its dtype, its leading dimension
        batched: list[Any] = [*matrix, ctypes.c_longlong]  # elements from one to the next
        sizes: list[Any] = [pointer, *[number] * 5, pointer]  # handle, operations, m, n, k, alpha
        self._gemm = library.cublasGemmEx
        self._gemm.argtypes = [*sizes, *matrix, *matrix, pointer, *matrix, number, number]
        self._gemms = library.cublasGemmStridedBatchedEx
        self._gemms.argtypes = [*sizes, *batched, *batched, pointer, *batched, number, number, number]
        self._set_stream, self._set_workspace = library.cublasSetStream_v2, library.cublasSetWorkspace_v2
        self._set_stream.argtypes, self._set_workspace.argtypes = [pointer] * 2, [pointer, pointer, ctypes.c_size_t]
        self._workspaces: dict[int, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._binding, name)

    def gemmEx(self, handle: int, *arguments: int) -> None:
        """As CuPy's, with the same arguments."""
        self._use_current_stream(handle)
        _succeed("cublasGemmEx", self._gemm(handle, *arguments))

    def gemmStridedBatchedEx(self, handle: int, *arguments: int) -> None:
        """As CuPy's, with the same arguments."""
        self._use_current_stream(handle)
        _succeed("cublasGemmStridedBatchedEx", self._gemms(handle, *arguments))

    def _use_current_stream(self, handle: int) -> None:
        """CuPy's own next call sets the stream again, and with it the workspace."""
        stream = self._xp.cuda.get_current_stream().ptr
        if stream not in self._workspaces:
            self._workspaces[stream] = self._xp.empty((WORKSPACE,), dtype=self._xp.uint8)
        _succeed("cublasSetStream", self._set_stream(handle, stream))
        _succeed("cublasSetWorkspace", self._set_workspace(handle, self._workspaces[stream].data.ptr, WORKSPACE))


def _succeed(what: str, status: int) -> None:
    if status != 0:
        raise BackendError(f"{what} failed with status {status} while a step was recorded as a graph")


def form(matrix: Any, binding: Any) -> tuple[int, int] | None:
    """Return elements from row to row and cuBLAS's operation, for a matrix in rows or in columns; None where it has
    gaps."""
    if matrix.ndim != 2:
        return None
    item, (rows, columns), (row, column) = matrix.itemsize, matrix.shape, matrix.strides
    row, column = row // item, column // item
    if (column == 1 or columns == 1) and (rows == 1 or row >= columns):
        return (row if rows > 1 else columns), binding.CUBLAS_OP_N
    if (row == 1 or rows == 1) and (columns == 1 or column >= rows):
        return (column if columns > 1 else rows), binding.CUBLAS_OP_T
    return None
