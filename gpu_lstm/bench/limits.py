"""What a step must cost on paper: operations, bytes, barriers, launches; the floor that follows; predictions from it.

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
optimizer (Adam)       12 P, P = 4H (D + H + 1)  s 7 P
=====================  ========================  ===========================================  ==================

100 and 60 are what a gate's tanh and sigmoid and its derivatives take as polynomials (``kernels/cpu/README.md``). A
phase takes at least the longest of operations over the product rate, bytes over the memory rate, and bytes through
cache over the cache rate; the phases follow one another. Bytes count at the cache's rate where the whole step fits
into the last cache. Nothing can run below this floor; overlap inside a phase is taken as perfect.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from gpu_lstm.bench.grid import Size

GATE_OPERATIONS = {"forward": 100, "backward": 60}
"""Per hidden unit and step, beside the products."""
ADAM_OPERATIONS, ADAM_ACCESSES = 12, 7
"""Per parameter."""
SLAB, SLAB_ROWS = 256, 200
"""Depth of the slabs that ``kernels/cpu`` packs, and the rows of the other factor that it packs beside them."""
ITEM = {"float64": 8, "float32": 4, "tf32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of a number."""


@dataclass(frozen=True)
class Work:
    """What one phase has to do.

    Attributes
    ----------
    flops : float
    memory : float
        Bytes to and from memory.
    cache : float
        Bytes of weights that each step reads again, through cache or from on-chip memory.
    barriers, launches : int
    """

    flops: float
    memory: float
    cache: float = 0.0
    barriers: int = 0
    launches: int = 0


@dataclass(frozen=True)
class Ceilings:
    """What a machine can do at most.

    Attributes
    ----------
    flops : float
        Operations per second of a large matrix product.
    memory : float
        Bytes per second, read and written, of a large copy.
    cache : float
        The same where everything fits into the caches.
    cache_bytes : float
        Size of the last cache.
    barrier, launch : float
        Seconds of one; 0 where it is not known, which keeps the floor a floor.
    """

    flops: float
    memory: float
    cache: float = math.inf
    cache_bytes: float = 0.0
    barrier: float = 0.0
    launch: float = 0.0


def product_flops(size: Size, kind: str = "training") -> int:
    """Operations of the matrix products alone: forward, and in training twice that backward."""
    steps, batch, input_size, hidden_size = size
    return (3 if kind == "training" else 1) * 2 * steps * batch * 4 * hidden_size * (input_size + hidden_size)


def parameters(size: Size) -> int:
    """Parameters of the layer."""
    return 4 * size[3] * (size[2] + size[3] + 1)


def phases(size: Size, item: int, kind: str = "training", waits: tuple[int, int] = (0, 0)) -> dict[str, Work]:
    """The phases of a step, in order; see the module's table.

    Parameters
    ----------
    size : (T, B, D, H)
    item : int
        Bytes of a number.
    kind : {"training", "inference"}
    waits : (barriers, launches)
        Of one time step in one direction.
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


def optimizer(size: Size, item: int) -> Work:
    """One update of all parameters by Adam."""
    count = parameters(size)
    return Work(ADAM_OPERATIONS * count, item * ADAM_ACCESSES * count)


def seconds(work: Work, ceilings: Ceilings, cached: bool = False) -> float:
    """Least time of one phase; `cached` where all data of the step fits into the last cache."""
    rate = max(ceilings.memory, ceilings.cache) if cached else ceilings.memory
    busy = max(work.flops / ceilings.flops, work.memory / rate, work.cache / ceilings.cache)
    return busy + work.barriers * ceilings.barrier + work.launches * ceilings.launch


def floor(size: Size, item: int, kind: str, ceilings: Ceilings, waits: tuple[int, int] = (0, 0)) -> dict[str, float]:
    """Least seconds of each phase of a step on a machine."""
    cached = step_bytes(size, item, kind)["total"] <= ceilings.cache_bytes
    return {name: seconds(work, ceilings, cached) for name, work in phases(size, item, kind, waits).items()}


# -- memory ------------------------------------------------------------------------------------------------------------


def step_bytes(
    size: Size, item: int, kind: str = "training", num_layers: int = 1, threads: int = 0
) -> dict[str, float]:
    """Bytes that a step of our layers holds at its peak, beside x, the weights and the gradient of the outputs.

    In training that is the end of a layer's backward pass: of this layer and those below, gates (T, B, 4H), in whose
    place dz is made, h and c (T+1, B, H); the gradient of this layer's inputs and outputs; the gradients of all
    weights so far; and y, which the caller may write to, so that it is no view of the last layer's h. An inference pass
    of one layer keeps h and one slot of c. What the pool of large arrays keeps idle (``native/pool.py``) is not
    counted.

    Parameters
    ----------
    size : (T, B, D, H)
    item : int
        Bytes of a number.
    kind : {"training", "inference"}
        Inference of one layer only.
    num_layers : int
    threads : int
        Of compiled code, which packs W_hh once more and, in each thread, slabs of a product's factors; 0 without.

    Returns
    -------
    dict
        ``total``; ``per_step_and_layer``, what one more time step adds to it, shared out among the layers.
    """
    steps, batch, d, h = size
    row = item * batch
    states = 2 * row * h
    pack = item * (4 * h * h + threads * SLAB * (d + h + SLAB_ROWS)) if threads else 0
    if kind == "inference":
        return {"total": 5 * row * h * steps + states + pack, "per_step_and_layer": 5 * row * h}
    widths = [d] + [h] * (num_layers - 1)
    weights = [item * 4 * h * (width + h + 1) for width in widths]
    at_end_of = []
    for layer, width in enumerate(widths):
        arriving = 0 if layer == num_layers - 1 else h  # the last layer's is the caller's
        per_step = row * ((layer + 1) * 6 * h + width + arriving + h)
        at_end_of.append((per_step * steps + (layer + 1) * states + sum(weights[layer:]), per_step))
    total, per_step = max(at_end_of)
    return {"total": total + pack, "per_step_and_layer": per_step / num_layers}


# -- other machines, many machines: predictions -----------------------------------------------------------------------


@dataclass(frozen=True)
class Device:
    """Published figures of a GPU: peak rates without sparsity, in operations and bytes per second.

    ``float16`` and ``bfloat16`` mean tensor cores with float32 sums; a type that the device lacks is not in `flops`.
    """

    name: str
    memory: float
    cache_bytes: float
    flops: Mapping[str, float]
    source: str

    def ceilings(self, dtype: str) -> Ceilings:
        """As ceilings, with the barrier and launch times of `WAITS`."""
        return Ceilings(self.flops[dtype], self.memory, math.inf, self.cache_bytes, WAITS["barrier"], WAITS["launch"])


WAITS = {"barrier": 1.2e-6, "launch": 2.0e-6}
"""Assumed for every GPU: a grid-wide barrier (published: 1.2 to 2.2 us) and a launch back to back in one stream."""


def _rates(**tera: float) -> dict[str, float]:
    return {name: value * 1e12 for name, value in tera.items()}


DEVICES = [
    Device("Tesla T4", 320e9, 4e6, _rates(float32=8.1, float16=65), "NVIDIA T4 datasheet, 2019"),
    Device("V100 SXM2", 900e9, 6e6, _rates(float64=7.8, float32=15.7, float16=125), "NVIDIA V100 datasheet, 2020"),
    Device(
        "A100 SXM 80 GB",
        2039e9,
        40e6,
        _rates(float64=9.7, float32=19.5, tf32=156, float16=312, bfloat16=312),
        "NVIDIA A100 datasheet, 2021",
    ),
    Device("L4", 300e9, 48e6, _rates(float32=30.3, tf32=60, float16=121, bfloat16=121), "NVIDIA L4 datasheet, 2023"),
    Device(
        "RTX 4090",
        1008e9,
        72e6,
        _rates(float64=1.29, float32=82.6, tf32=82.6, float16=165.2, bfloat16=165.2),
        "NVIDIA Ada GPU architecture whitepaper, 2022",
    ),
    Device(
        "RTX 5090",
        1792e9,
        96e6,
        _rates(float64=1.64, float32=104.8, tf32=104.8, float16=209.5, bfloat16=209.5),
        "NVIDIA RTX Blackwell GPU architecture whitepaper, 2025",
    ),
    Device(
        "L40S", 864e9, 96e6, _rates(float32=91.6, tf32=183, float16=362, bfloat16=362), "NVIDIA L40S datasheet, 2023"
    ),
    Device(
        "H100 SXM",
        3350e9,
        50e6,
        _rates(float64=34, float32=67, tf32=494, float16=989, bfloat16=989),
        "NVIDIA H100 datasheet, 2024",
    ),
    Device(
        "H200 SXM",
        4800e9,
        50e6,
        _rates(float64=34, float32=67, tf32=494, float16=989, bfloat16=989),
        "NVIDIA H200 datasheet, 2024",
    ),
    Device(
        "B200 (HGX)",
        7700e9,
        126e6,
        _rates(float64=37, float32=75, tf32=1125, float16=2250, bfloat16=2250),
        "NVIDIA HGX B200 datasheet, 2025, one of eight",
    ),
]
"""The slowest first."""


@dataclass(frozen=True)
class Link:
    """An interconnect: bytes per second and direction of one device, seconds of one hop."""

    name: str
    rate: float
    latency: float


LINKS = [
    Link("10 Gb/s Ethernet", 1.25e9, 30e-6),
    Link("100 Gb/s Ethernet", 12.5e9, 10e-6),
    Link("400 Gb/s InfiniBand", 50e9, 5e-6),
    Link("NVLink 4, 450 GB/s", 450e9, 2e-6),
]
"""Rates are nominal, latencies assumed."""


def predict(size: Size, dtype: str, kind: str, device: Device, over_floor: float = 1.0) -> dict[str, float]:
    """Seconds of our step on a GPU that nobody ran it on: its floor, and the floor times a stated factor.

    One barrier per time step and direction is counted, as the sequence tier needs it on a GPU.
    """
    least = sum(floor(size, ITEM[dtype], kind, device.ceilings(dtype), (1, 0)).values())
    return {"floor": least, "prediction": least * over_floor}


def ring_all_reduce(count: int, amount: float, link: Link) -> float:
    """Seconds to sum `amount` bytes over `count` devices in a ring, each ending with the sum.

    2 (count - 1) turns, each moving amount / count bytes (P. Patarasu and X. Yuan, J. Parallel Distrib. Comput., 2009).
    """
    return 2 * (count - 1) * (amount / count / link.rate + link.latency)


def data_parallel(step_seconds: float, gradient_bytes: float, link: Link, most: int = 1024) -> list[dict[str, float]]:
    """Predicted scaling: each device keeps the batch of one, gradients are summed after each step, nothing overlaps.

    Returns
    -------
    list of dict
        ``devices`` 1, 2, 4, ..., `most`; ``seconds`` of a step; ``speed`` in batches, as multiples of one device's.
    """
    points = []
    count = 1
    while count <= most:
        total = step_seconds + (ring_all_reduce(count, gradient_bytes, link) if count > 1 else 0.0)
        points.append({"devices": count, "seconds": total, "speed": count * step_seconds / total})
        count *= 2
    return points


def slope(x: list[float], y: list[float]) -> float:
    """Exponent of growth: the slope of log y over log x, by least squares."""
    logs_x, logs_y = [math.log(value) for value in x], [math.log(value) for value in y]
    mean_x, mean_y = sum(logs_x) / len(x), sum(logs_y) / len(y)
    spread = sum((value - mean_x) ** 2 for value in logs_x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(logs_x, logs_y, strict=True)) / spread
