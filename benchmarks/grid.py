"""The sizes that steps are measured at; a training step and an inference pass of gpu_lstm and of PyTorch at each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import THREADS
from gpu_lstm.backend import choose
from gpu_lstm.layers import LSTM

Size = tuple[int, int, int, int]
"""(T, B, D, H): steps, batch, input size, hidden size."""
SIZES: list[Size] = [
    (64, 32, 128, 128),
    (64, 64, 256, 256),
    (128, 32, 512, 512),
    (32, 128, 1024, 1024),
    (256, 1, 128, 128),
    (64, 256, 64, 64),
    (512, 8, 256, 256),
]
OFF_GRID: list[tuple[Size, Size]] = [
    ((64, 31, 128, 125), (64, 32, 128, 128)),
    ((64, 33, 250, 250), (64, 32, 256, 256)),
    ((63, 7, 100, 201), (64, 8, 104, 208)),
]
"""Sizes that fill no vector register or tile evenly, each with a neighbour that does."""
SGEMM = 2048
"""Side of the square matrices whose product gives the machine's own rate."""

Step = Callable[[], dict[str, Any]]


def inputs(size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Fresh random x (T, B, D) and gradient of the outputs (T, B, H), float32."""
    steps, batch, input_size, hidden_size = size
    rng = np.random.default_rng()
    x = rng.standard_normal((steps, batch, input_size), dtype=np.float32)
    return x, rng.standard_normal((steps, batch, hidden_size), dtype=np.float32)


def our_lstm(size: Size, tier: str = "auto") -> LSTM:
    """The layer that all sides have the weights of."""
    return LSTM(size[2], size[3], tier=tier, backend=choose("numpy"), seed=1)


def our_step(size: Size, x: np.ndarray, dy: np.ndarray, tier: str = "auto") -> Step:
    """Forward and backward of our LSTM at one tier: outputs, dx and all gradients by name."""
    lstm = our_lstm(size, tier)

    def step() -> dict[str, Any]:
        y, _, tape = lstm.forward(x)
        dx, _, gradients = lstm.backward(tape, dy)
        return {"y": y, "dx": dx, **gradients}

    return step


def our_inference(size: Size, x: np.ndarray, tier: str = "auto") -> Step:
    """Forward alone, nothing saved for a backward pass."""
    lstm = our_lstm(size, tier)
    return lambda: {"y": lstm.forward(x, keep=False)[0]}


def torch_lstm(size: Size) -> Any:
    """torch.nn.LSTM with the weights of `our_lstm`."""
    import torch

    torch.set_num_threads(THREADS)
    ours = our_lstm(size).params
    lstm: Any = torch.nn.LSTM(size[2], size[3])
    with torch.no_grad():
        lstm.weight_ih_l0.copy_(torch.from_numpy(ours["weight_ih_l0"]))
        lstm.weight_hh_l0.copy_(torch.from_numpy(ours["weight_hh_l0"]))
        lstm.bias_ih_l0.copy_(torch.from_numpy(ours["bias_l0"]))
        lstm.bias_hh_l0.zero_()
    return lstm


def torch_step(size: Size, x: np.ndarray, dy: np.ndarray) -> Step:
    """The same as `our_step` in PyTorch."""
    import torch

    lstm = torch_lstm(size)
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


def torch_inference(size: Size, x: np.ndarray) -> Step:
    """The same as `our_inference` in PyTorch."""
    import torch

    lstm, x_torch = torch_lstm(size).eval(), torch.from_numpy(x)

    def step() -> dict[str, Any]:
        with torch.inference_mode():
            return {"y": lstm(x_torch)[0]}

    return step


def sgemm() -> Callable[[], object]:
    """One large float32 matrix product by PyTorch."""
    import torch

    torch.set_num_threads(THREADS)
    a, b = torch.rand(SGEMM, SGEMM), torch.rand(SGEMM, SGEMM)
    c = torch.empty(SGEMM, SGEMM)
    return lambda: torch.mm(a, b, out=c)


def flops(size: Size, training: bool = True) -> int:
    """Floating-point operations of the matrix products: forward, and in training twice that backward."""
    steps, batch, input_size, hidden_size = size
    return (3 if training else 1) * 2 * steps * batch * 4 * hidden_size * (input_size + hidden_size)


def disagreement(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """Largest relative difference of all results; sums over many steps differ more than single values."""
    worst = 0.0
    for name, expected in theirs.items():
        expected = np.asarray(expected)
        worst = max(worst, float(np.abs(np.asarray(ours[name]) - expected).max() / np.abs(expected).max()))
    return worst
