"""What a step must cost on paper: operations, bytes, barriers, launches; and the floor that follows.

For T steps, B sequences, D inputs, H hidden units, s bytes a number, n = T B:

=====================  ========================  ===========================================  ==================
phase                  operations                bytes to and from memory                     once per time step
=====================  ========================  ===========================================  ==================
input projection       2 n 4H D                  s (n D + 4H D + n 4H)
recurrence, forward    2 n 4H H + 100 n H        s (n 4H + k n 4H + 2 n H), k = 1 in          W_hh, 4H H s bytes,
                                                 training, which keeps the gates, else 0      through cache; a
recurrence, backward   2 n 4H H + 60 n H         s (2 n 4H + 4 n H)                           barrier or launches
weight gradients       2 n 4H (D + H)            s (n 4H + n (D + H) + 4H (D + H + 1))
input gradient         2 n 4H D                  s (n 4H + 4H D + n D)
=====================  ========================  ===========================================  ==================

100 and 60 are what a gate's tanh and sigmoid and its derivatives take as polynomials (``kernels/cpu/README.md``). A
phase takes at least the longest of operations over the product rate, bytes over the memory rate, and bytes through
cache over the cache rate; the phases follow one another. Bytes count at the cache's rate where those of the phase fit
into the last cache. Nothing can run below this floor; overlap inside a phase is taken as perfect.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gpu_lstm.bench.grid import Size

GATE_OPERATIONS = {"forward": 100, "backward": 60}
"""Per hidden unit and step, beside the products."""
ITEM = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of a number."""


@dataclass(frozen=True)
class Work:
    """What one phase has to do."""

    flops: float
    memory: float  # bytes to and from memory
    cache: float = 0.0  # bytes of weights that each step reads again, through cache or from on-chip memory
    barriers: int = 0
    launches: int = 0


@dataclass(frozen=True)
class Ceilings:
    """What a machine can do at most."""

    flops: float  # operations per second of a large matrix product
    memory: float  # bytes per second, read and written, of a large copy
    cache: float = math.inf  # the same where everything fits into the caches
    cache_bytes: float = 0.0  # size of the last cache
    # seconds of one; 0 where it is not known, which keeps the floor a floor
    barrier: float = 0.0
    launch: float = 0.0


def product_flops(size: Size, kind: str = "training") -> int:
    """Operations of the matrix products alone: forward, and in training twice that backward."""
    steps, batch, input_size, hidden_size = size
    return (3 if kind == "training" else 1) * 2 * steps * batch * 4 * hidden_size * (input_size + hidden_size)


def phases(size: Size, item: int, kind: str = "training", waits: tuple[int, int] = (0, 0)) -> dict[str, Work]:
    """The phases of a step, in order, for numbers of `item` bytes; see the module's table.

    `kind` is training or inference; `waits` are the barriers and launches of one time step in one direction.
    """
    steps, batch, d, h = size
    n, gates = steps * batch, 4 * h
    each = (steps * gates * h * item, steps * waits[0], steps * waits[1])
    kept = n * gates if kind == "training" else 0
    forward = {
        "input projection": Work(2 * n * gates * d, item * (n * d + gates * d + n * gates)),
        "recurrence forward": Work(
            2 * n * gates * h + GATE_OPERATIONS["forward"] * n * h, item * (n * gates + kept + 2 * n * h), *each
        ),
    }
    if kind == "inference":
        return forward
    return forward | {
        "recurrence backward": Work(
            2 * n * gates * h + GATE_OPERATIONS["backward"] * n * h, item * (2 * n * gates + 4 * n * h), *each
        ),
        "weight gradients": Work(2 * n * gates * (d + h), item * (n * gates + n * (d + h) + gates * (d + h + 1))),
        "input gradient": Work(2 * n * gates * d, item * (n * gates + gates * d + n * d)),
    }


def seconds(work: Work, ceilings: Ceilings) -> float:
    """Least time of one phase."""
    rate = max(ceilings.memory, ceilings.cache) if work.memory <= ceilings.cache_bytes else ceilings.memory
    busy = max(work.flops / ceilings.flops, work.memory / rate, work.cache / ceilings.cache)
    return busy + work.barriers * ceilings.barrier + work.launches * ceilings.launch


def floor(size: Size, item: int, kind: str, ceilings: Ceilings, waits: tuple[int, int] = (0, 0)) -> dict[str, float]:
    """Least seconds of each phase of a step on a machine."""
    return {name: seconds(work, ceilings) for name, work in phases(size, item, kind, waits).items()}


def slope(x: list[float], y: list[float]) -> float:
    """Exponent of growth: the slope of log y over log x, by least squares."""
    logs_x, logs_y = [math.log(value) for value in x], [math.log(value) for value in y]
    mean_x, mean_y = sum(logs_x) / len(x), sum(logs_y) / len(y)
    spread = sum((value - mean_x) ** 2 for value in logs_x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(logs_x, logs_y, strict=True)) / spread
