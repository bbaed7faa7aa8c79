"""What a training step does around the recurrence: eight functions, as array expressions, compiled, and in CUDA."""

from __future__ import annotations

from functools import partial
from typing import Any

from gpu_lstm.backend import Backend


class Arrays:
    """The operations as array expressions."""

    def __init__(self, backend: Backend):
        self.product, self.weight_gradients, self.dropout = (
            partial(function, backend)
            for function in (Backend.product, Backend.weight_gradients, type(backend).dropout)
        )


def of(backend: Backend) -> Any:
    """The operations for a backend's arrays."""
    return backend
