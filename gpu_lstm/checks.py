"""Checks that anyone can run on their own machine: gradients by value, and every tier against the oracle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from gpu_lstm.backend import Backend, NumpyBackend
from gpu_lstm.layers import LSTM
from gpu_lstm.recurrence import runnable_tiers

TOLERANCE = {"float64": 1e-10, "float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}
"""Largest relative error against the oracle, by dtype."""


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    what: str
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the error is below the limit (and is a number)."""
        return self.error < self.limit


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference of `actual` over the largest expected magnitude."""
    return float(np.max(np.abs(actual - expected)) / max(np.max(np.abs(expected)), 1e-30))


def central_differences(f: Callable[[], float], array: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """Differentiate f() by every element of `array`, which is changed in place by `step` and restored.

    Examples
    --------
    >>> from gpu_lstm.checks import central_differences
    >>> x = np.array([1.0, 2.0])
    >>> central_differences(lambda: float((x**2).sum()), x).round(6)
    array([2., 4.])
    """
    derivative = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        kept = array[index]
        array[index] = kept + step
        above = f()
        array[index] = kept - step
        derivative[index] = (above - f()) / (2 * step)
        array[index] = kept
    return derivative


def example(dtype: str, hidden_size: int, batch: int, steps: int) -> dict[str, np.ndarray]:
    """Draw inputs, states and arriving gradients for a two-layer bidirectional LSTM with unequal lengths.

    T (`steps`), B (`batch`) and H (`hidden_size`) are as in `run`; all arrays have that `dtype`, on the host.
    """
    rng = np.random.default_rng(7)
    state = (4, batch, hidden_size)
    shapes = {
        "x": (steps, batch, 3),
        "h0": state,
        "c0": state,
        "dy": (steps, batch, 2 * hidden_size),
        "dh": state,
        "dc": state,
    }
    arrays = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    return arrays | {"lengths": np.arange(batch) * 5 % steps + 1}


def run(lstm: LSTM, data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return all outputs and gradients of `lstm` on `data`, an example, on the host."""
    backend = lstm.backend
    x, h0, dy, dh = (backend.asarray(data[k], lstm.dtype) for k in ("x", "h0", "dy", "dh"))
    c0, dc = (backend.asarray(data[k], lstm.param_dtype) for k in ("c0", "dc"))
    y, (h, c), tape = lstm.forward(x, (h0, c0), data["lengths"])
    results = {"y": y, "h": h, "c": c}
    results["dx"], (results["dh0"], results["dc0"]), gradients = lstm.backward(tape, dy, (dh, dc))
    results |= gradients
    return {name: backend.to_numpy(array) for name, array in results.items()}


def gradient_check() -> Iterator[Result]:
    """Compare every gradient of the float64 reference tier on NumPy with central differences."""
    data = example("float64", hidden_size=3, batch=2, steps=4)
    lstm = LSTM(3, 3, 2, bidirectional=True, dtype="float64", tier="reference", backend=NumpyBackend())

    def loss() -> float:
        y, (h, c), _ = lstm.forward(data["x"], (data["h0"], data["c0"]), data["lengths"])
        return float(np.sum(y * data["dy"]) + np.sum(h * data["dh"]) + np.sum(c * data["dc"]))

    actual = run(lstm, data)
    inputs = {"dx": data["x"], "dh0": data["h0"], "dc0": data["c0"]}
    for name, array in (inputs | lstm.params).items():
        error = relative_error(actual[name], central_differences(loss, array))
        yield Result(f"gradient {name}", error, 1e-6)


FAMILY: dict[str, Any] = {"peepholes": True, "coupled": True, "zoneout_h": 0.1, "zoneout_c": 0.2, "residual": True}
"""Options of the LSTM family that the parity check turns on together."""


def parity_check(backend: Backend) -> Iterator[Result]:
    """Compare every tier and dtype of a backend with float64 `reference` on NumPy; then a member of the family."""
    for steps, batch, hidden_size in ((1, 1, 1), (7, 5, 8), (20, 16, 33)):
        yield from _against_oracle(backend, steps, batch, hidden_size, tuple(TOLERANCE), {})
    yield from _against_oracle(backend, 7, 5, 8, ("float64", "float32"), FAMILY)


def _against_oracle(
    backend: Backend, steps: int, batch: int, hidden_size: int, dtypes: tuple[str, ...], options: dict[str, Any]
) -> Iterator[Result]:
    data = example("float64", hidden_size, batch, steps)
    sizes: dict[str, Any] = {"input_size": 3, "hidden_size": hidden_size, "num_layers": 2, "bidirectional": True}
    oracle_lstm = LSTM(**sizes, **options, dtype="float64", tier="reference", backend=NumpyBackend())
    oracle = run(oracle_lstm, data)
    for tier in runnable_tiers(backend, options=oracle_lstm.options.recurrent()):
        for dtype in dtypes:
            if dtype == "bfloat16" and find_spec("ml_dtypes") is None:
                continue
            lstm = LSTM(**sizes, **options, dtype=dtype, tier=tier, backend=backend)
            for name, param in lstm.params.items():
                param[...] = backend.asarray(oracle_lstm.params[name], lstm.param_dtype)
            actual = run(lstm, data)
            error = float(np.max([relative_error(actual[name], oracle[name]) for name in oracle]))  # max drops NaN
            what = f"T={steps} B={batch} H={hidden_size}{' family' if options else ''}"
            yield Result(f"{backend.name} {tier} {dtype} {what}", error, TOLERANCE[dtype])
