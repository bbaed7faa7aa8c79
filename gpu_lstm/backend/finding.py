"""The backend of arrays: where nobody names one, that of what is given."""

from __future__ import annotations

from typing import Any

from gpu_lstm.backend import choose
from gpu_lstm.backend.base import Backend
from gpu_lstm.backend.exchange import CUDA, CUDA_MANAGED


def backend_of(*given: Any) -> Backend:
    """Return the backend of arrays: CuPy on the GPU that the first of them on one lies on, else NumPy.

    Lists and numbers, and arrays of other libraries in host memory, are NumPy's.
    """
    for array in given:
        place = getattr(array, "__dlpack_device__", None)
        if place is not None and not hasattr(array, "__array_interface__"):
            kind, device = place()
            if int(kind) in (CUDA, CUDA_MANAGED):
                return choose(f"cupy:{device}")
    return choose("numpy")


def leading(given: tuple[Any, ...]) -> tuple[Backend | None, tuple[Any, ...]]:
    """Return the backend that stands first among arguments, or None, and the other arguments."""
    if given and isinstance(given[0], Backend):
        return given[0], given[1:]
    return None, given
