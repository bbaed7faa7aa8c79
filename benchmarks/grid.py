"""The sizes that training steps are measured at, and one training step of gpu_lstm and of PyTorch at each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpu_lstm.backend import choose
from gpu_lstm.layers import LSTM

THREADS = 2
SIZES = [
    (64, 32, 128, 128),
    (64, 64, 256, 256),
    (128, 32, 512, 512),
    (32, 128, 1024, 1024),
    (256, 1, 128, 128),
    (64, 256, 64, 64),
    (512, 8, 256, 256),
]
"""(T, B, D, H): steps, batch, input size, hidden size."""

Step = Callable[[], dict[str, Any]]


def inputs(size: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Fresh random x (T, B, D) and gradient of the outputs (T, B, H), float32."""
    steps, batch, input_size, hidden_size = size
    rng = np.random.default_rng()
    x = rng.standard_normal((steps, batch, input_size), dtype=np.float32)
    return x, rng.standard_normal((steps, batch, hidden_size), dtype=np.float32)


def our_step(size: tuple[int, int, int, int], x: np.ndarray, dy: np.ndarray, tier: str = "auto") -> Step:
    """Forward and backward of our LSTM at one tier: outputs, dx and all gradients by name."""
    lstm = LSTM(size[2], size[3], tier=tier, backend=choose("numpy"), seed=1)

    def step() -> dict[str, Any]:
        y, _, tape = lstm.forward(x)
        dx, _, gradients = lstm.backward(tape, dy)
        return {"y": y, "dx": dx, **gradients}

    return step


def torch_step(size: tuple[int, int, int, int], x: np.ndarray, dy: np.ndarray) -> Step:
    """The same in PyTorch, with the same weights."""
    import torch

    torch.set_num_threads(THREADS)
    ours = LSTM(size[2], size[3], backend=choose("numpy"), seed=1).params
    lstm: Any = torch.nn.LSTM(size[2], size[3])
    with torch.no_grad():
        lstm.weight_ih_l0.copy_(torch.from_numpy(ours["weight_ih_l0"]))
        lstm.weight_hh_l0.copy_(torch.from_numpy(ours["weight_hh_l0"]))
        lstm.bias_ih_l0.copy_(torch.from_numpy(ours["bias_l0"]))
        lstm.bias_hh_l0.zero_()
    x_torch = torch.from_numpy(x).requires_grad_()
    dy_torch = torch.from_numpy(dy)

    def step() -> dict[str, Any]:
        lstm.zero_grad()
        x_torch.grad = None
        y, _ = lstm(x_torch)
        y.backward(dy_torch)
        return {
            "y": y.detach(),
            "dx": x_torch.grad,
            "weight_ih_l0": lstm.weight_ih_l0.grad,
            "weight_hh_l0": lstm.weight_hh_l0.grad,
            "bias_l0": lstm.bias_ih_l0.grad,
        }

    return step


def flops(size: tuple[int, int, int, int]) -> int:
    """Floating-point operations of the matrix products of one training step: forward, and twice that backward."""
    steps, batch, input_size, hidden_size = size
    return 3 * 2 * steps * batch * 4 * hidden_size * (input_size + hidden_size)


def disagreement(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """Largest relative difference of all results; sums over many steps differ more than single values."""
    worst = 0.0
    for name, expected in theirs.items():
        expected = np.asarray(expected)
        worst = max(worst, float(np.abs(np.asarray(ours[name]) - expected).max() / np.abs(expected).max()))
    return worst
