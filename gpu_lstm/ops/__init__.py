"""What a training step does around the recurrence: eight functions, as array expressions, compiled, and in CUDA."""

from __future__ import annotations

from gpu_lstm.backend import Backend


def of(backend: Backend) -> Backend:
    """The operations for a backend's arrays."""
    return backend
