"""What a step of the sequence tier is expected to cost, and what is compared with that: a model on paper.

It was written down before any measurement. What kernels execute is counted, see `gpu_lstm.recurrence.cuda.counted`;
the other constants stand here, with where they come from. Times are microseconds.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from gpu_lstm.native.catalogue import CLUSTER, TENSOR
from gpu_lstm.native.launch import Device
from gpu_lstm.recurrence.cuda.counted import counted
from gpu_lstm.recurrence.cuda.layout import CHUNK, WARPS, Layout

CLOCK = 1700.0
"""Cycles a microsecond: an H100's, rounded."""
BARRIER = 0.05
"""Of a block's barrier between its own threads, an estimate. Numbers from other blocks say themselves whether they are
there; the cluster's barrier of the joint form is passed while they are on their way."""
EXCHANGE = {"block": 0.0, "cluster": (180 + 50) / CLOCK, "grid": 0.7, "joint": 0.7}
"""Until another block's number is there, from the store to the look that finds it: published 180 cycles for a read of
its shared memory, and another look is taken to cost 50; through L2 an estimate."""
CLUSTER_RATE = 20e3
"""Bytes a microsecond that each of many multiprocessors gets from others of its cluster, half of what L2 gives: an
estimate."""
SHARED_RATE = 128 * CLOCK
"""Bytes a microsecond of a multiprocessor's shared memory: 32 banks of 4 bytes, each a cycle."""
ISSUE_RATE = 4 * CLOCK
"""Instructions of warps that a multiprocessor issues a microsecond. How many there are, and how often the banks have
their turn, is counted."""
L2_RATE = 40e3
"""Bytes a microsecond that each of many multiprocessors gets from L2: 5.5 TB/s over 132."""
PRODUCT_RATE = {
    "float32": 128 * CLOCK,
    "float64": 64 * CLOCK,
    "tf32": 300 * CLOCK,
    "float16": 600 * CLOCK,
    "bfloat16": 600 * CLOCK,
}
"""Multiply-adds a microsecond and multiprocessor, at most; tensor cores at 60 % of what mma.sync reaches at most."""
MMA_LATENCY = 33 / CLOCK
"""Until the next mma.sync can add to the same sums: published, 33 cycles."""
CELL_LATENCY = {"float32": 0.13, "tf32": 0.13, "float64": 0.3, "float16": 0.07, "bfloat16": 0.07}
"""Of one cell's chain of sigmoid, tanh and their quotients: an estimate from the instructions on it."""
MORE_LATENCY = {"Plain": 0.0, "Family": 0.05, "Normed": 0.35}
"""By what the cells do. Peepholes and masks come from L1 or L2; layer normalisation adds two sums over a row by a warp,
0.15 each, an estimate. What is read of a step, as zoneout's masks, is asked for before the wait, as z is: it costs no
time."""
POINTWISE_HOST = 16.0
"""A step that the pointwise tier's two launches cost the host: assumed, to be measured."""
LARGE_PRODUCT_RATE = {"float32": 30e6, "float64": 15e6, "tf32": 150e6, "float16": 300e6, "bfloat16": 300e6}
"""Multiply-adds a microsecond of a large product of cuBLAS, on an H100."""


@dataclass(frozen=True)
class Costs:
    """Of a step of all recurrences in a launch."""

    # of a team's block; teams work at the same time
    product: float
    cell: float
    exchange: float
    barrier: float
    waves: int  # so often, one after the other

    @property
    def microseconds(self) -> float:
        """All together."""
        return self.waves * (self.product + self.cell + self.exchange + self.barrier)


@functools.lru_cache(maxsize=1024)
def of(layout: Layout) -> Costs:
    """A step of that layout."""
    kind = layout.direction, layout.dtype, layout.form, layout.height, layout.columns, layout.cells
    counts, multiplied = counted(*kind), of_product(layout)
    sequences, tiles, halves = layout.sequences, layout.tiles, layout.halves
    # A step of a stack does the half with h of the layer below, which is there already, while it waits for its own.
    rows = layout.row_blocks * 16 * layout.height
    arithmetic = rows * sequences * layout.depth / halves / PRODUCT_RATE[layout.dtype]
    if layout.dtype in TENSOR:
        in_turn = layout.chunks_of_warp * (1 if layout.height * layout.columns == 1 else 2)
        arithmetic = max(arithmetic, in_turn * MMA_LATENCY)
    loading, issuing = dot(counts.turns, multiplied) / CLOCK, dot(counts.product, multiplied) / ISSUE_RATE
    multiplying = max(arithmetic, loading / halves, issuing / halves)
    meeting = 2 * layout.split * sequences * layout.rows * layout.wide / SHARED_RATE
    issued = dot(counts.cells, of_all_else(layout)) / ISSUE_RATE
    cell = max(CELL_LATENCY[layout.dtype] + MORE_LATENCY[layout.cells], issued)
    return Costs(
        product=tiles * (multiplying + meeting),
        cell=tiles * cell,
        exchange=layout.handovers * EXCHANGE[layout.form] + _reading(layout, tiles * multiplying),
        barrier=BARRIER * layout.barriers,
        waves=layout.waves,
    )


def _reading(layout: Layout, multiplying: float) -> float:
    """What is read of h or dz in a step, after it was seen to be there."""
    sequences, depth = layout.sequences, layout.depth
    if layout.form == "joint":  # from L2 once, between two barriers of the block; then what comes from the other blocks
        own = sequences * depth * layout.stored / L2_RATE
        return layout.tiles * (own + BARRIER + from_others(layout.sum_bytes))
    if layout.form != "grid":
        return 0.0
    read = layout.tiles * (layout.row_blocks * sequences * depth * layout.stored) / layout.halves / L2_RATE
    return read + max(0.0, multiplying + read - EXCHANGE["grid"]) if layout.stacked else read


def of_product(layout: Layout) -> tuple[int, int, int, int]:
    """How often a block has what `Counted.product` and `Counted.turns` are of."""
    chunks = layout.row_blocks * layout.chunks * layout.halves
    multiplying = layout.row_blocks * layout.split
    return WARPS, multiplying, chunks, max(0, chunks - multiplying * layout.held)


def of_all_else(layout: Layout) -> tuple[int, int, int, int]:
    """How often it has what `Counted.cells` is of."""
    cells = -(-layout.share * min(layout.slice, layout.sequences) // 32)
    gathered = layout.sequences * layout.chunks * CHUNK // 512 if layout.form == "joint" else 0
    return WARPS, cells, cells * layout.split * layout.peers, gathered


def dot(each: Sequence[float], how_often: Sequence[int]) -> float:
    """The sum of products."""
    return sum(one * times for one, times in zip(each, how_often, strict=True))


def from_others(sums: int) -> float:
    """Until a block has so many bytes of sums from all blocks of its cluster, itself included."""
    return EXCHANGE["cluster"] + (CLUSTER - 1) / CLUSTER * sums / CLUSTER_RATE


def product_rate(device: Device, dtype: str) -> float:
    """Multiply-adds a microsecond of a large product of cuBLAS."""
    return LARGE_PRODUCT_RATE[dtype] * device.multiprocessors / 132


def pointwise(device: Device, batch: int, hidden: int, dtype: str) -> float:
    """A step of the pointwise tier."""
    return max(POINTWISE_HOST, batch * 4 * hidden * hidden / product_rate(device, dtype))
