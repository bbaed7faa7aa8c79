"""What a training step does around the recurrence: the same functions as array expressions, compiled, and in CUDA."""

from __future__ import annotations

from gpu_lstm.backend import Backend
from gpu_lstm.ops.arrays import Arrays
from gpu_lstm.ops.cpu import Cpu
from gpu_lstm.ops.cuda import Cuda

__all__ = ["Arrays", "Cpu", "Cuda", "of"]

_KINDS: dict[str, type[Arrays]] = {"cpu": Cpu, "cuda": Cuda}


def of(backend: Backend) -> Arrays:
    """Return the operations for a backend's arrays, made once for each."""
    kept = vars(backend)
    found: Arrays | None = kept.get("_ops")
    if found is None or found.backend is not backend:
        found = kept["_ops"] = _KINDS.get(backend.kernels, Arrays)(backend)
    return found
