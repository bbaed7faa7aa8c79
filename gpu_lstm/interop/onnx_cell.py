"""One LSTM node of an ONNX file: its attributes and weights, checked, and the weights as ours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpu_lstm.errors import InputError
from gpu_lstm.interop.arrays import gate_scale
from gpu_lstm.interop.onnx_nodes import ORDER
from gpu_lstm.interop.onnx_values import Run, Value

SAME = "expected the same in a stack; node=... loads one LSTM node alone"
SLOPE = 0.2
"""Of our hard sigmoid."""


class Cell:
    """One LSTM node: its attributes and constants, checked.

    w (directions, 4H, D) and r (directions, 4H, H); bias (directions, 4H), both added up, and peepholes (directions,
    3H) in gate order i, o, f, or None; slopes of the hard sigmoid of each direction, None for the sigmoid.
    """

    def __init__(self, run: Run):
        self.name = f"LSTM node {run.label!r}"
        found = run.found
        self.direction = found.get("direction", "forward")
        if self.direction not in ("forward", "reverse", "bidirectional"):
            raise InputError(f"{self.name} has direction {self.direction!r}; expected forward, reverse, bidirectional")
        self.directions = 2 if self.direction == "bidirectional" else 1
        self.coupled = bool(found.get("input_forget", 0))
        self.clip: float | None = found.get("clip")
        if self.clip is not None and not (math.isfinite(self.clip) and self.clip > 0):
            raise InputError(f"{self.name} has clip {self.clip}; expected a number above 0")
        self.w, self.r = (self._weights(run.given[k], "WR"[k - 1]) for k in (1, 2))
        self.hidden_size = int(self.r.shape[2])
        if found.get("hidden_size", self.hidden_size) != self.hidden_size:
            raise InputError(f"{self.name} has hidden_size {found['hidden_size']}; its R is for {self.hidden_size}")
        rows = 4 * self.hidden_size
        for name, array in (("W", self.w), ("R", self.r)):
            if array.shape[:2] != (self.directions, rows):
                wanted = f"({self.directions}, {rows}, .)"
                raise InputError(f"{self.name} has {name} of shape {array.shape}; expected {wanted}")
        both = self._optional(run.given[3], "B", (self.directions, 2 * rows))
        self.bias = None if both is None else both[:, :rows] + both[:, rows:]
        self.peepholes = self._optional(run.given[7], "P", (self.directions, 3 * self.hidden_size))
        if self.peepholes is not None and not self.peepholes.any():
            self.peepholes = None
        self.slopes = self._slopes(found.get("activations", []), found)

    def _constant(self, value: Value | None, label: str) -> np.ndarray:
        if value is None or value.kind != "constant":
            why = f": {value.why}" if value is not None and value.why else ""
            raise InputError(f"{self.name} takes {label} from outside; expected one that the file holds{why}")
        return value.array

    def _weights(self, value: Value | None, label: str) -> np.ndarray:
        array = self._constant(value, label)
        if array.ndim != 3 or 0 in array.shape:
            raise InputError(f"{self.name} has {label} of shape {array.shape}; expected three axes")
        return array if array.dtype == np.float64 else array.astype(np.float32)

    def _optional(self, value: Value | None, label: str, shape: tuple[int, ...]) -> np.ndarray | None:
        if value is None:
            return None
        array = self._constant(value, label)
        if array.shape != shape:
            raise InputError(f"{self.name} has {label} of shape {array.shape}; expected {shape}")
        return array.astype(self.w.dtype)

    def _slopes(self, names: Sequence[str], found: dict[str, Any]) -> list[float] | None:
        """Return the slopes of the gates' hard sigmoids; None for sigmoids."""
        names = [name.lower() for name in names] or ["sigmoid", "tanh", "tanh"] * self.directions
        if len(names) != 3 * self.directions:
            raise InputError(f"{self.name} has {len(names)} activations; expected {3 * self.directions}")
        alpha, beta = ([float(v) for v in found.get(f"activation_{key}", [])] for key in ("alpha", "beta"))
        slopes: list[float | None] = []
        for gates, *others in (names[k : k + 3] for k in range(0, len(names), 3)):
            if gates not in ("sigmoid", "hardsigmoid") or others != ["tanh", "tanh"]:
                raise InputError(
                    f"{self.name} has the activations {', '.join([gates, *others])}; expected Sigmoid or HardSigmoid, "
                    "Tanh, Tanh: the kernels have no other, and other ones can't be had by scaling weights"
                )
            if gates == "sigmoid":
                slopes.append(None)
                continue
            slope, centre = alpha.pop(0) if alpha else SLOPE, beta.pop(0) if beta else 0.5
            if centre != 0.5 or slope <= 0:
                raise InputError(
                    f"{self.name} has a HardSigmoid of alpha {slope:g} and beta {centre:g}; "
                    "expected alpha above 0 and beta 0.5: ours is clip(0.2 z + 0.5, 0, 1)"
                )
            # Where neither z nor the scaled z gets past the limit before the gate is 0 or 1, the limit does nothing.
            scaled = not math.isclose(slope, SLOPE, rel_tol=1e-6)
            if scaled and self.clip is not None and self.clip * min(slope, SLOPE) < 0.5:
                raise InputError(
                    f"{self.name} has clip {self.clip:g} and a HardSigmoid of alpha {slope:g}; "
                    "expected alpha 0.2 with a clip: scaling the weights would move the limit"
                )
            slopes.append(slope if scaled else SLOPE)
        if None in slopes and slopes != [None] * len(slopes):
            raise InputError(f"{self.name} has Sigmoid in one direction and HardSigmoid in the other; expected one")
        return None if slopes[0] is None else [s for s in slopes if s is not None]

    def parameters(self, direction: int) -> dict[str, np.ndarray]:
        """Return the arrays of one direction by our names, gate order i, f, g, o, scaled to our hard sigmoid."""
        hidden, dtype = self.hidden_size, self.w.dtype
        slope = 1.0 if self.slopes is None else self.slopes[direction] / SLOPE
        scale = gate_scale(hidden, slope).astype(dtype)
        rows = np.arange(4 * hidden).reshape(4, hidden)[np.argsort(ORDER)].ravel()
        bias = np.zeros(4 * hidden, dtype) if self.bias is None else self.bias[direction]
        peepholes = np.zeros(3 * hidden, dtype) if self.peepholes is None else self.peepholes[direction]
        return {
            "weight_ih": self.w[direction][rows] * scale[:, None],
            "weight_hh": self.r[direction][rows] * scale[:, None],
            "bias": bias[rows] * scale,
            "peephole": peepholes.reshape(3, hidden)[[0, 2, 1]] * scale[0],
        }


def check_same(cells: Sequence[Cell]) -> None:
    """Refuse a stack whose nodes differ in what all layers of an LSTM share, or don't take what the one below gives."""
    first = cells[0]
    width = first.hidden_size * first.directions
    for other in cells[1:]:
        for name in ("direction", "hidden_size", "coupled", "clip"):
            ours, theirs = getattr(first, name), getattr(other, name)
            if ours != theirs:
                raise InputError(f"{other.name} has {name} {theirs!r}, the one below it {ours!r}; {SAME}")
        if (first.slopes is None) != (other.slopes is None):
            raise InputError(f"{other.name} has other activations than the one below it; {SAME}")
        if other.w.shape[2] != width:
            raise InputError(f"{other.name} takes inputs of {other.w.shape[2]}; the node below gives {width}")
