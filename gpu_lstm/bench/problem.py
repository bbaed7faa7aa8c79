"""One problem that all sides get: a size, fresh random inputs, weights, and what the float64 oracle makes of them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gpu_lstm.backend import Backend, NumpyBackend
from gpu_lstm.backend.base import widened
from gpu_lstm.bench.grid import Size
from gpu_lstm.bench.method import on_gpu
from gpu_lstm.errors import InputError
from gpu_lstm.layers import LSTM
from gpu_lstm.layers.options import Options

Step = Callable[[], dict[str, Any]]
"""One training step (outputs, dx and all gradients, by name) or one inference pass (outputs)."""

KINDS = ("training", "inference")
ORACLE = "reference"
TOLERANCE = {"float32": 1e-4, "float64": 1e-9, "float16": 2e-2, "bfloat16": 1e-1}
"""Largest relative difference from the oracle, of any result, that counts as right."""


DRAWN = 1_000_003
"""Random numbers that a large input repeats: drawing all of it would take seconds."""
OF_THE_LAYER = ("num_layers", "bidirectional", "recompute")
"""What the layer takes besides the family's options."""


def parse_options(words: Sequence[str]) -> dict[str, Any]:
    """Arguments of the LSTM by name, from words like ``peepholes``, ``zoneout_h=0.1``, ``num_layers=2``.

    Raises InputError where a word is none.
    """
    own: dict[str, Any] = {}
    rest = []
    for word in words:
        name, equals, text = word.partition("=")
        if name not in OF_THE_LAYER:
            rest.append(word)
        elif name == "num_layers":
            if not text.isdecimal() or int(text) < 1:
                raise InputError(f"num_layers is {text!r}; expected num_layers=NUMBER, at least 1")
            own[name] = int(text)
        elif equals:
            raise InputError(f"{name} is {text!r}; expected no value")
        else:
            own[name] = True
    return own | Options.parse(rest)


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
    options : mapping
        Arguments of `LSTM` beyond its sizes: those of the family, ``num_layers``, ``bidirectional``, ``recompute``.
    ragged : bool
        Lengths are random in T/4..T, and one is T; else all sequences have T steps.
    x : (T, B, D)
    dy : (T, B, .)
        Gradient of the outputs.
    lengths : (B,) or None
    weights : dict
        ``weight_ih_l0`` (4H, D), ``weight_hh_l0`` (4H, H), ``bias_l0`` (4H,), gate order i, f, g, o; and those of the
        options.

    Numbers that a dtype of 16 bits has are in float32 here.
    """

    size: Size
    kind: str = "training"
    dtype: str = "float32"
    backend: Backend = field(default_factory=NumpyBackend)
    options: Mapping[str, Any] = field(default_factory=dict)
    ragged: bool = False

    def __post_init__(self) -> None:
        steps, batch, input_size, hidden_size = self.size
        rng = np.random.default_rng()
        host, seed = NumpyBackend(), int(rng.integers(1 << 31))
        start = LSTM(input_size, hidden_size, backend=host, dtype=self.dtype, tier=ORACLE, seed=seed, **self.options)
        kind = np.dtype(start.param_dtype).type

        def had(array: np.ndarray) -> np.ndarray:
            return np.asarray(widened(host, host.asarray(array, self.dtype)))

        def drawn(width: int) -> np.ndarray:
            shape = steps, batch, width
            return np.resize(had(rng.standard_normal(min(steps * batch * width, DRAWN), dtype=kind)), shape)

        self.x: np.ndarray = drawn(input_size)
        self.dy: np.ndarray = drawn(start.output_size * start.num_directions)
        self.weights: dict[str, np.ndarray] = {name: had(param) for name, param in start.params.items()}
        self.lengths: np.ndarray | None = None
        if self.ragged:
            self.lengths = rng.integers(max(1, steps // 4), steps + 1, batch)
            self.lengths[0] = steps

    @property
    def on_gpu(self) -> bool:
        """Whether the sides run on an NVIDIA GPU."""
        return on_gpu(self.backend)

    @property
    def device(self) -> str:
        """The device as PyTorch names it: ``cpu``, ``cuda:0``."""
        return f"cuda:{self.backend.name.partition(':')[2] or 0}" if self.on_gpu else "cpu"

    def with_options(self, options: Mapping[str, Any]) -> Problem:
        """The same size with more options, its inputs drawn anew; itself where there are none."""
        return replace(self, options={**self.options, **options}) if options else self

    def lstm(self, tier: str = "auto") -> LSTM:
        """Our layer, holding these weights; for inference frozen where it can be, as other libraries' sessions are."""
        more: dict[str, Any] = dict(self.options)
        lstm = LSTM(self.size[2], self.size[3], backend=self.backend, dtype=self.dtype, tier=tier, **more)
        for name, array in self.weights.items():
            lstm.params[name][...] = self.backend.asarray(array, lstm.param_dtype)
        if self.kind == "inference":
            with contextlib.suppress(InputError):  # only arrays of NumPy can be
                lstm.freeze()
        return lstm

    def our_step(self, tier: str = "auto", lstm: LSTM | None = None) -> Step:
        """Forward and, in training, backward of our layer; dropouts and zoneout have a seed then."""
        lstm = lstm or self.lstm(tier)
        x, dy = self.backend.asarray(self.x, self.dtype), self.backend.asarray(self.dy, self.dtype)
        cells = bool(self.options.get("cells"))  # y is a pair then

        def train() -> dict[str, Any]:
            y, _, tape = lstm.forward(x, lengths=self.lengths, seed=(1,))
            dx, _, gradients = lstm.backward(tape, (dy, None) if cells else dy)
            return {"y": y[0] if cells else y, "dx": dx, **gradients}

        def infer() -> dict[str, Any]:
            y = lstm.forward(x, lengths=self.lengths, keep=False)[0]
            return {"y": y[0] if cells else y}

        return train if self.kind == "training" else infer

    @functools.cached_property
    def oracle(self) -> dict[str, np.ndarray]:
        """Outputs, and in training all gradients, of the reference tier in float64, on NumPy or on the device."""
        twin = replace(self, size=(1, 1, *self.size[2:]), dtype="float64", ragged=False)
        twin.size, twin.lengths = self.size, self.lengths
        twin.x, twin.dy = self.x.astype(np.float64), self.dy.astype(np.float64)
        twin.weights = {name: array.astype(np.float64) for name, array in self.weights.items()}
        return {name: to_host(array) for name, array in twin.our_step(ORACLE)().items()}

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


def to_host(array: Any) -> np.ndarray:
    """A result of any library as a NumPy array."""
    if str(getattr(array, "dtype", "")) == "torch.bfloat16":
        array = array.float()  # PyTorch gives NumPy no such numbers
    for method in ("detach", "cpu", "get"):
        array = getattr(array, method)() if hasattr(array, method) else array
    return np.asarray(array)
