"""How the sequence tier keeps W_hh on chip: which blocks of a GPU hold what part, and what a step costs.

Blocks form teams. A team takes a slice of the batch, its blocks share the hidden units, and at each step they hand each
other h (in backward dz). Three forms::

    block     a team is one block; nothing leaves it                      small H
    cluster   a thread-block cluster, by distributed shared memory        middle H, from sm_90 on
    grid      blocks of one cooperative launch, by global memory          large H

A launch may hold several recurrences of the same size, each with teams of its own: both directions of a layer; or, in
the grid form, layers of a stack as a wavefront, where step t of a layer runs beside step t + 1 of the one below, and
its product is that with W_ih, too: 2H (in backward 8H) deep.

All layouts that fit are enumerated and the one with the least modelled time a step is taken. The model is written down
before any measurement; its constants stand at the top, with where they come from.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

from gpu_lstm.backend.cuda import CudaBackend, Device
from gpu_lstm.backend.kernels import CLUSTER, TENSOR, sequence_sizes, sequence_threads

DIRECTIONS = ("forward", "backward")
MOST_RUNS = 4
"""Recurrences of a launch, as ``kernels/cuda/sequence.cu`` has it."""
ALONE = "in both directions, or with residual, input_dropout, cells or an option of the recurrence,"
"""Which layers of a stack never run at once."""
CELLS = 2
"""Most cells of a thread, as ``kernels/cuda/sequence.cu`` has it."""
TYPICAL_BATCH, LARGEST_BATCH = 64, 4096
"""The batch size that a plan is explained for, and the largest that it is looked at for."""

HELD = {(1, 1): 12, (2, 1): 5, (3, 1): 3, (1, 2): 8, (2, 2): 4, (3, 2): 3}
"""By `Layout.height` and `Layout.columns`: parts of k, 64 bytes of a row each, whose weights a warp of a tensor-core
kernel keeps in registers, as ``kernels/cuda/mma.cuh`` has it."""

CLOCK = 1700.0
"""Cycles a microsecond: an H100's, rounded."""
BARRIER = {"block": 0.05, "cluster": 0.2, "grid": 0.0}
"""Microseconds. Published for a cluster of an H100: under 0.2; the block's is an estimate. The grid has none: every
number says itself whether it is there."""
EXCHANGE = {"block": 0.0, "cluster": 180 / CLOCK, "grid": 0.7}
"""Microseconds until another block's number is there: published 180 cycles to its shared memory; through L2, from the
store to the look that finds it, an estimate."""
SHARED_RATE = 227 * 1024.0
"""Bytes a microsecond of a multiprocessor's shared memory: about 1 us for all of it."""
L2_RATE = 40e3
"""Bytes a microsecond that each of many multiprocessors gets from L2: 5.5 TB/s over 132."""
PRODUCT_RATE = {
    "float32": 128 * CLOCK,
    "float64": 64 * CLOCK,
    "tf32": 300 * CLOCK,
    "float16": 600 * CLOCK,
    "bfloat16": 600 * CLOCK,
}
"""Multiply-adds a microsecond and multiprocessor; tensor cores at 60 % of what mma.sync reaches at most."""
MMA_LATENCY = 33 / CLOCK
"""Microseconds until the next mma.sync can add to the same sums: published, 33 cycles."""
POINTWISE_HOST = 16.0
"""Microseconds a step that the pointwise tier's two launches cost the host: assumed, to be measured."""
POINTWISE_PRODUCT_RATE = {"float32": 30e6, "float64": 15e6, "tf32": 150e6, "float16": 300e6, "bfloat16": 300e6}
"""Multiply-adds a microsecond of a large product of cuBLAS, on an H100."""
CELL_INSTRUCTIONS = 200
CELL_LATENCY = 0.2
"""Microseconds of one cell's chain of sigmoid, tanh and their divisions: an estimate."""


@dataclass(frozen=True)
class Layout:
    """A recurrence on a device.

    Attributes
    ----------
    form : {"block", "cluster", "grid"}
    direction : {"forward", "backward"}
    dtype : str
        Storage dtype, or "tf32": float32 multiplied in TF32.
    teams, members : int
        Teams, and the blocks of each.
    share : int
        Hidden units of a block.
    slice : int
        Sequences of a team.
    height : int
        Rows of W_hh (in backward, columns) that a warp multiplies, in units of 16.
    columns : int
        Sequences that are worked on at once, in units of 8; a slice may take several such tiles.
    split : int
        Parts of k that different warps add up.
    pitch : int
        Elements from row to row in shared memory.
    register_bytes : int
        W_hh in a block's registers; the rest of it is in shared memory.
    shared_bytes : int
        Shared memory of a block.
    product, cell, exchange, barrier : float
        Modelled microseconds a step.
    waves : int
        How often the device must be filled to run all teams; more than 1 only where teams don't wait for each other.
    together : int
        Recurrences in the launch; each has so many teams.
    stacked : bool
        They are layers, each on top of the one before.
    """

    form: str
    direction: str
    dtype: str
    teams: int
    members: int
    share: int
    slice: int
    height: int
    columns: int
    split: int
    pitch: int
    register_bytes: int
    shared_bytes: int
    product: float
    cell: float
    exchange: float
    barrier: float
    waves: int
    together: int = 1
    stacked: bool = False

    @property
    def blocks(self) -> int:
        """Of the whole launch."""
        return self.together * self.teams * self.members

    @property
    def microseconds(self) -> float:
        """Expected time of a step, of all recurrences in the launch."""
        return self.waves * (self.product + self.cell + self.exchange + self.barrier)

    def team(self) -> str:
        """The blocks of the launch in words."""
        return ("" if self.together == 1 else f"{self.together} x ") + {
            "block": f"{self.teams} blocks alone",
            "cluster": f"{self.teams} clusters of {self.members} blocks",
            "grid": f"{self.teams} x {self.members} blocks of the grid",
        }[self.form]

    def describe(self) -> str:
        """In words and numbers."""
        barriers = f"1 {self.form} barrier a step" if self.barrier else "no barrier"
        held = f" ({self.register_bytes / 1024:.0f} of them registers)" if self.register_bytes else ""
        waves = f"{self.waves} waves of " if self.waves > 1 else ""
        return (
            f"{self.direction}: {self.team()}, {self.share} units and {self.slice} sequences each, "
            f"{(self.register_bytes + self.shared_bytes) / 1024:.0f} KiB on chip a block{held}, {barriers}, "
            f"{self.microseconds:.2f} us a step expected ({waves}product {self.product:.2f}, cells {self.cell:.2f}, "
            f"exchange {self.exchange:.2f}, barrier {self.barrier:.2f})"
        )


def multiplied(backend: CudaBackend, dtype: str) -> str:
    """The form in which stored numbers are multiplied: their dtype, or "tf32" for float32 where asked for."""
    return "tf32" if backend.tf32 and dtype == "float32" else dtype


@functools.lru_cache(maxsize=1024)
def choose(
    device: Device, direction: str, batch: int, hidden: int, dtype: str, together: int = 1, stacked: bool = False
) -> Layout | str:
    """The layout with the least modelled time a step, or why there is none; `together` recurrences in one launch."""
    if device.capability < 80:
        return f"it needs compute capability 8.0; this device has {device.capability // 10}.{device.capability % 10}"
    best: Layout | None = None
    least = 0
    for layout in _candidates(device, direction, batch, hidden, dtype, together, stacked):
        if layout.shared_bytes > device.shared_bytes:
            least = min(least or layout.shared_bytes, layout.shared_bytes)
        elif best is None or layout.microseconds < best.microseconds:
            best = layout
    if best is not None:
        return best
    if not least:
        half = f"{device.multiprocessors // together} of " if together > 1 else ""
        return f"H = {hidden} has more units than {half}{device.multiprocessors} multiprocessors can take"
    weights = f"W_hh and W_ih of {together} layers of" if stacked else "W_hh of"
    return (
        f"{weights} H = {hidden} in {dtype} {'do' if stacked else 'does'} not fit on chip: {direction} needs at least "
        f"{least / 1024:.0f} KiB of "
        f"shared memory a block; {device.shared_bytes / 1024:.0f} are there on each of {device.multiprocessors} "
        "multiprocessors"
    )


@functools.lru_cache(maxsize=1024)
def choose_pair(device: Device, direction: str, batch: int, hidden: int, dtype: str) -> Layout | str:
    """The layout that runs two recurrences at once, or why they run one after the other."""
    one, pair = (choose(device, direction, batch, hidden, dtype, together) for together in (1, 2))
    if isinstance(pair, str) or isinstance(one, str):
        return pair if isinstance(pair, str) else str(one)
    if pair.microseconds >= 2 * one.microseconds:
        return f"that would take {pair.microseconds:.2f} us a step instead of 2 x {one.microseconds:.2f}"
    return pair


@functools.lru_cache(maxsize=1024)
def choose_layers(device: Device, direction: str, batch: int, hidden: int, dtype: str, layers: int) -> Layout | str:
    """The layout that runs so many layers of a stack, or some of them, at once, or why they run one after the other.

    Of long sequences: L layers at once take T + L - 1 steps.
    """
    times = layer_times(device, direction, batch, hidden, dtype, layers)
    if len(times) < 2:
        return str(choose(device, direction, batch, hidden, dtype, 1 + len(times), len(times) > 0))
    best = min(times, key=lambda n: times[n])
    if best > 1:
        return choose(device, direction, batch, hidden, dtype, best, True)
    several = min((n for n in times if n > 1), key=lambda n: times[n])
    return f"{several} at once would take {times[several]:.2f} us a step instead of {times[1]:.2f}"


def layer_times(device: Device, direction: str, batch: int, hidden: int, dtype: str, layers: int) -> dict[int, float]:
    """Expected microseconds a step of so many layers, by how many run at once, of those numbers that fit.

    With the large products between layers that don't run at once.
    """
    found = {n: choose(device, direction, batch, hidden, dtype, n, n > 1) for n in range(1, min(layers, MOST_RUNS) + 1)}
    steps = {n: layout.microseconds for n, layout in found.items() if not isinstance(layout, str)}
    between = _large_product(device, batch, hidden, dtype)
    times = {}
    for n in steps:
        launches = [n] * (layers // n) + [layers % n] * (layers % n > 0)
        times[n] = sum(steps[launch] for launch in launches) + (len(launches) - 1) * between
    return times


def pays(device: Device, direction: str, batch: int, hidden: int, dtype: str) -> bool:
    """Whether a layout fits and its step is expected to be no longer than one of the pointwise tier."""
    layout = choose(device, direction, batch, hidden, dtype)
    if isinstance(layout, str):
        return False
    return layout.microseconds <= max(POINTWISE_HOST, _large_product(device, batch, hidden, dtype))


def _large_product(device: Device, batch: int, hidden: int, dtype: str) -> float:
    """Microseconds of cuBLAS for the product of a step, (B, H) by (H, 4H)."""
    share_of_h100 = device.multiprocessors / 132
    return batch * 4 * hidden * hidden / (POINTWISE_PRODUCT_RATE[dtype] * share_of_h100)


def most_that_pays(device: Device, direction: str, hidden: int, dtype: str) -> int:
    """The largest power of two as a batch size, up to `LARGEST_BATCH`, where it does; 0 for none."""
    return _most(lambda batch: pays(device, direction, batch, hidden, dtype))


def most_that_stacks(device: Device, direction: str, hidden: int, dtype: str) -> int:
    """The same for some of three layers at once."""
    return _most(lambda batch: not isinstance(choose_layers(device, direction, batch, hidden, dtype, 3), str))


def _most(holds: Callable[[int], bool]) -> int:
    """The largest power of two, up to `LARGEST_BATCH`, for which that holds; 0 for none."""
    return max((size for size in (2**n for n in range(LARGEST_BATCH.bit_length())) if holds(size)), default=0)


def obstacle(device: Device, hidden: int, dtype: str) -> str:
    """Why no layout fits, whatever the batch; empty where one does."""
    found = (choose(device, direction, 1, hidden, dtype) for direction in DIRECTIONS)
    return next((layout for layout in found if isinstance(layout, str)), "")


def explain(device: Device, batch: int, hidden: int, dtype: str) -> str:
    """Forward and backward in words and numbers, and what a bidirectional layer does."""
    said = []
    for direction in DIRECTIONS:
        layout = choose(device, direction, batch, hidden, dtype)
        said.append(layout if isinstance(layout, str) else layout.describe())
    for direction in DIRECTIONS:
        layout = choose_pair(device, direction, batch, hidden, dtype)
        if isinstance(layout, str):
            how = f"one after the other ({layout})"
        else:
            how = f"in one launch of {layout.team()}, {layout.microseconds:.2f} us a step expected"
        said.append(f"both directions of a layer {direction}: {how}")
    for layers, direction in product((2, 3), DIRECTIONS):
        layout = choose_layers(device, direction, batch, hidden, dtype, layers)
        if isinstance(layout, str):
            how = f"one after the other ({layout})"
        else:
            times = layer_times(device, direction, batch, hidden, dtype, layers)
            how = (
                f"{'' if layout.together == layers else f'{layout.together} '}in one launch of {layout.team()}, "
                f"{times[layout.together]:.2f} us a step expected instead of {times[1]:.2f}"
            )
        said.append(f"{layers} layers {direction}: {how}")
    most = {direction: most_that_stacks(device, direction, hidden, dtype) for direction in DIRECTIONS}
    if any(most.values()):
        ends = (f"B = {batch} {direction}" for direction, batch in most.items() if batch)
        said.append(f"3 layers run at once, or some of them, up to {' and '.join(ends)}")
    said.append(f"layers {ALONE} run one after the other")
    return "; ".join(said)


def largest(device: Device, dtype: str) -> int:
    """The largest H that fits, 0 where none does."""
    low, high = 0, 1 << 16
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if not obstacle(device, middle, dtype) else (low, middle)
    return low


def _candidates(
    device: Device, direction: str, batch: int, hidden: int, dtype: str, together: int = 1, stacked: bool = False
) -> Iterator[Layout]:
    """Layouts that the kernels can run, fitting into shared memory or not."""
    for form in ("grid",) if stacked else ("block", "cluster", "grid"):
        for height, columns in sequence_sizes(direction, dtype, form):
            layout = functools.partial(
                _layout, device, direction, hidden, dtype, together, stacked, form, height, columns
            )
            each, threads = 8 * columns, sequence_threads(dtype)
            rows = 4 if direction == "forward" else 1
            # In a stack, each half of k has warps of its own.
            most_units = min(CELLS * threads // each, threads // 32 // (1 + stacked) * 16 * height // rows)
            if form == "block" and hidden <= most_units:
                yield layout(-(-batch // each), 1, hidden, each)
            if form == "cluster" and device.capability >= 90 and -(-hidden // CLUSTER) <= most_units:
                yield layout(-(-batch // each), CLUSTER, -(-hidden // CLUSTER), each)
            if form != "grid" or not device.cooperative:
                continue
            blocks = device.multiprocessors // together  # all must be resident
            for wanted in range(1, min(-(-batch // each), blocks) + 1):
                share = -(-hidden // min(blocks // wanted, hidden))
                part = -(-batch // wanted)
                if share <= most_units:
                    yield layout(-(-batch // part), -(-hidden // share), share, part)


def _layout(
    device: Device,
    direction: str,
    hidden: int,
    dtype: str,
    together: int,
    stacked: bool,
    form: str,
    height: int,
    columns: int,
    teams: int,
    members: int,
    share: int,
    part: int,
) -> Layout:
    tensor = dtype in TENSOR
    stored = {"float64": 8, "float32": 4, "tf32": 4}.get(dtype, 2)
    wide = {"float64": 8}.get(dtype, 4)
    # Rows start at different banks: on tensor cores half of the banks apart, else 16 bytes.
    rows, depth = (4 * share, hidden) if direction == "forward" else (share, 4 * hidden)
    halves = 1 + stacked  # of k, each of whole chunks
    chunks = -(-depth * stored // (64 if tensor else 16))
    depth = 2 * chunks * (64 if tensor else 16) // stored if stacked else depth
    pitch = (-(-depth * stored // 128) * 128 + (64 if tensor else 16)) // stored
    row_blocks = -(-rows // (16 * height))
    chunks_of_warp = -(-chunks // (sequence_threads(dtype) // 32 // row_blocks // halves))
    split = halves * -(-chunks // chunks_of_warp)
    each = 8 * columns
    fragments = row_blocks * split * height  # of 1 KiB: 16 rows of 64 bytes
    held = min(HELD[height, columns], chunks_of_warp) if tensor else 0
    weights = fragments * (chunks_of_warp - held) * 1024 if tensor else rows * pitch * stored
    shown = 0 if form == "grid" else 2 * each * pitch * stored
    sums = split * each * ((rows + 11) // 16 * 16 + 4) * wide
    tiles = -(-part // each)
    padded = row_blocks * 16 * height if tensor else -(-rows // 8) * 8
    # A step of a stack does the half with h of the layer below, which is there already, while it waits for its own.
    arithmetic = padded * each * depth / halves / PRODUCT_RATE[dtype]
    if tensor:
        arithmetic = max(arithmetic, chunks_of_warp * (1 if height * columns == 1 else 2) * MMA_LATENCY)
    columns_read = row_blocks * each * depth * stored
    streaming = (weights / halves + (columns_read if form != "grid" else 0)) / SHARED_RATE
    meeting = 2 * split * each * rows * wide / SHARED_RATE
    exchange = EXCHANGE[form]
    if form == "grid":
        from_l2 = tiles * columns_read / halves / L2_RATE
        exchange = (max(exchange, tiles * max(arithmetic, streaming) + from_l2) if stacked else exchange) + from_l2
    cell = max(CELL_LATENCY, share * each * (CELL_INSTRUCTIONS + 8 * split) / (128 * CLOCK))
    at_once = device.multiprocessors // members if form != "grid" else together * teams
    return Layout(
        form, direction, dtype, teams, members, share, part, height, columns, split, pitch,
        register_bytes=fragments * held * 1024,
        shared_bytes=weights + shown + sums,
        product=tiles * (max(arithmetic, streaming) + meeting),
        cell=tiles * cell,
        exchange=exchange,
        barrier=BARRIER[form],
        waves=-(-together * teams // max(at_once, 1)),
        together=together,
        stacked=stacked,
    )  # fmt: skip
