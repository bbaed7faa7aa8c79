"""One problem that all sides get: a size, fresh random inputs, weights, and what the float64 oracle makes of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpu_lstm.backend import Backend, NumpyBackend
from gpu_lstm.bench.grid import Size
from gpu_lstm.layers import LSTM

Step = Callable[[], dict[str, Any]]
"""One training step (outputs, dx and all gradients, by name) or one inference pass (outputs)."""

KINDS = ("training", "inference")
TOLERANCE = {"float32": 1e-4, "float64": 1e-9, "float16": 2e-2, "bfloat16": 1e-1}
"""Largest relative difference from the oracle, of any result, that counts as right."""


@dataclass
class Problem:
    """What a side gets; inputs are drawn anew for each problem.

    Attributes
    ----------
    size : (T, B, D, H)
    kind : {"training", "inference"}
    dtype : {"float32", "float64", "float16", "bfloat16"}
    backend : Backend
        Where our arrays live; a peer uses the same device.
    x : (T, B, D)
    dy : (T, B, H)
        Gradient of the outputs.
    weights : dict
        ``weight_ih_l0`` (4H, D), ``weight_hh_l0`` (4H, H), ``bias_l0`` (4H,), gate order i, f, g, o.

    Numbers that a dtype of 16 bits has are in float32 here.
    """

    size: Size
    kind: str = "training"
    dtype: str = "float32"
    backend: Backend = field(default_factory=NumpyBackend)

    def __post_init__(self) -> None:
        steps, batch, input_size, hidden_size = self.size
        rng = np.random.default_rng()
        host = NumpyBackend()
        start = LSTM(input_size, hidden_size, backend=host, dtype=self.dtype, seed=int(rng.integers(1 << 31)))
        kind = np.dtype(start.param_dtype).type

        def had(array: np.ndarray) -> np.ndarray:
            return np.asarray(host.widened(host.asarray(array, self.dtype)))

        self.x: np.ndarray = had(rng.standard_normal((steps, batch, input_size), dtype=kind))
        self.dy: np.ndarray = had(rng.standard_normal((steps, batch, hidden_size), dtype=kind))
        self.weights: dict[str, np.ndarray] = {name: had(param) for name, param in start.params.items()}

    @property
    def on_gpu(self) -> bool:
        """Whether the sides run on an NVIDIA GPU."""
        return self.backend.name.startswith("cupy")

    @property
    def device(self) -> str:
        """The device as PyTorch names it: ``cpu``, ``cuda:0``."""
        return self.backend.name.replace("cupy", "cuda") if self.on_gpu else "cpu"

    def lstm(self, tier: str = "auto") -> LSTM:
        """Our layer, holding these weights."""
        lstm = LSTM(self.size[2], self.size[3], backend=self.backend, dtype=self.dtype, tier=tier)
        for name, array in self.weights.items():
            lstm.params[name][...] = self.backend.asarray(array, lstm.param_dtype)
        return lstm

    def our_step(self, tier: str = "auto") -> Step:
        """Forward and, in training, backward of one of our tiers."""
        lstm = self.lstm(tier)
        x, dy = self.backend.asarray(self.x, self.dtype), self.backend.asarray(self.dy, self.dtype)

        def train() -> dict[str, Any]:
            y, _, tape = lstm.forward(x)
            dx, _, gradients = lstm.backward(tape, dy)
            return {"y": y, "dx": dx, **gradients}

        return train if self.kind == "training" else lambda: {"y": lstm.forward(x, keep=False)[0]}

    @functools.cached_property
    def oracle(self) -> dict[str, np.ndarray]:
        """Outputs, and in training all gradients, of the reference tier in float64 on NumPy."""
        twin = Problem((1, 1, *self.size[2:]), self.kind, "float64")
        twin.size = self.size
        twin.x, twin.dy = self.x.astype(np.float64), self.dy.astype(np.float64)
        twin.weights = {name: array.astype(np.float64) for name, array in self.weights.items()}
        return twin.our_step("reference")()

    def error(self, results: dict[str, Any]) -> float:
        """Largest difference from the oracle, relative to the largest magnitude of each result; NaN if one is NaN.

        A result that is missing or has another shape counts as infinitely wrong.
        """
        errors = [0.0]
        for name, expected in self.oracle.items():
            actual = to_host(results[name]) if name in results else None
            if actual is None or actual.shape != expected.shape:
                return float("inf")
            errors.append(float(np.abs(actual - expected).max() / max(float(np.abs(expected).max()), 1e-30)))
        return float(np.max(errors))

    def right(self, error: float) -> bool:
        """Whether an `error` is rounding."""
        return error < TOLERANCE[self.dtype]


def to_host(array: Any) -> np.ndarray:
    """A result of any library as a NumPy array."""
    if str(getattr(array, "dtype", "")) == "torch.bfloat16":
        array = array.float()  # PyTorch gives NumPy no such numbers
    for method in ("detach", "cpu", "get"):
        array = getattr(array, method)() if hasattr(array, method) else array
    return np.asarray(array)
