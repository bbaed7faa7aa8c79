"""How the sequence tier keeps W_hh on chip: which blocks of a GPU hold what part, and what a step costs.

Blocks form teams. A team takes a slice of the batch, its blocks share the hidden units, and at each step they hand each
other h (in backward dz). Four forms::

    block     a team is one block; nothing leaves it                      small H
    cluster   a thread-block cluster, by distributed shared memory        middle H, from sm_90 on
    grid      blocks of one cooperative launch, by global memory          large H
    joint     a grid of clusters, each block of which multiplies by a     backward at large H, from sm_90 on
              part of dz for all of its cluster

A launch may hold several recurrences of the same size, each with teams of its own: both directions of a layer; or, in
the grid form, layers of a stack as a wavefront, where step t of a layer runs beside step t + 1 of the one below, and
its product is that with W_ih, too: 2H (in backward 8H) deep.

All layouts that fit are enumerated and the one with the least modelled time a step is taken. The model is written down
before any measurement; its constants stand at the top, with where they come from; what kernels execute is counted, see
`gpu_lstm.recurrence.cuda.counted`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

from gpu_lstm.backend.cuda import LEAST_STEPS, CudaBackend
from gpu_lstm.native import clusters, kernels
from gpu_lstm.native.kernels import CLUSTER, JOINT, SEQUENCE_THREADS, TENSOR, sequence_sizes
from gpu_lstm.native.launch import Device
from gpu_lstm.recurrence.cuda.counted import Work, counted

DIRECTIONS = ("forward", "backward")
MOST_RUNS = 4
"""Recurrences of a launch, as ``kernels/cuda/sequence.cu`` has it."""
ALONE = "in both directions, or with residual, input_dropout, cells or an option of the recurrence,"
"""Which layers of a stack never run at once."""
WARPS = SEQUENCE_THREADS // 32
CELLS = 2
"""Most cells of a thread, as ``kernels/cuda/sequence.cu`` has it."""
TYPICAL_BATCH, LARGEST_BATCH = 64, 4096
"""The batch size that a plan is explained for, and the largest that it is looked at for."""

FEWER_HELD = {"Plain": 0, "Family": 2, "Normed": 4}
"""By what the cells do, ``fewer_held`` of ``kernels/cuda/options.cuh``: so many less, of 16 rows each."""
HELD = {(1, 1): 12, (2, 1): 5, (3, 1): 3, (4, 1): 3, (1, 2): 8, (2, 2): 4, (3, 2): 3}
"""By `Layout.height` and `Layout.columns`: parts of k, 64 bytes of a row each, whose weights a warp keeps in registers,
as ``kernels/cuda/mma.cuh`` has it: on tensor cores, else fewer, as `_held` says, since sums take more registers."""

CLOCK = 1700.0
"""Cycles a microsecond: an H100's, rounded."""
BARRIER = 0.05
"""Microseconds of a block's barrier between its own threads, an estimate. Numbers from other blocks say themselves
whether they are there; the cluster's barrier of the joint form is passed while they are on their way."""
BUFFERS = {"block": (2,), "cluster": (3, 2), "grid": (0,), "joint": (1,)}
"""How many there may be of h or dz in a block's shared memory, a step each."""
EXCHANGE = {"block": 0.0, "cluster": (180 + 50) / CLOCK, "grid": 0.7, "joint": 0.7}
"""Microseconds until another block's number is there, from the store to the look that finds it: published 180 cycles
for a read of its shared memory, and another look is taken to cost 50; through L2 an estimate."""
CLUSTER_RATE = 20e3
"""Bytes a microsecond that each of many multiprocessors gets from others of its cluster, half of what L2 gives: an
estimate."""
SHARED_RATE = 128 * CLOCK
"""Bytes a microsecond of a multiprocessor's shared memory: 32 banks of 4 bytes, each a cycle."""
ISSUE_RATE = 4 * CLOCK
"""Instructions of warps that a multiprocessor issues a microsecond. How many there are, and how often the banks have
their turn, is counted: `gpu_lstm.recurrence.cuda.counted`."""
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
"""Microseconds until the next mma.sync can add to the same sums: published, 33 cycles."""
POINTWISE_HOST = 16.0
"""Microseconds a step that the pointwise tier's two launches cost the host: assumed, to be measured."""
POINTWISE_PRODUCT_RATE = {"float32": 30e6, "float64": 15e6, "tf32": 150e6, "float16": 300e6, "bfloat16": 300e6}
"""Multiply-adds a microsecond of a large product of cuBLAS, on an H100."""
MEETING = 5.0
"""Microseconds that it costs two streams to wait for each other before and after they run beside each other: an
estimate."""
SLOWER_BESIDE = 0.05
"""Part by which a recurrence takes longer while products beside it use L2, memory and power: an estimate."""
CELL_LATENCY = {"float32": 0.13, "tf32": 0.13, "float64": 0.3, "float16": 0.07, "bfloat16": 0.07}
"""Microseconds of one cell's chain of sigmoid, tanh and their quotients: an estimate from the instructions on it."""
MORE_LATENCY = {"Plain": 0.0, "Family": 0.05, "Normed": 0.35}
"""By what the cells do. Peepholes and masks come from L1 or L2; layer normalisation adds two sums over a row by a warp,
0.15 each, an estimate. What is read of a step, as zoneout's masks, is asked for before the wait, as z is: it costs no
time."""


@dataclass(frozen=True)
class Layout:
    """A recurrence on a device.

    Attributes
    ----------
    form : {"block", "cluster", "grid", "joint"}
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
    buffers : int
        Of h or dz in shared memory; a cluster has one more barrier of its blocks a step where they are two.
    register_bytes : int
        W_hh in a block's registers; the rest of it is in shared memory.
    shared_bytes : int
        Shared memory of a block.
    product, cell, exchange, barrier : float
        Modelled microseconds a step.
    waves : int
        How often the device must be filled to run all teams; more than 1 only where teams don't wait for each other.
    work : Work
        What a block does for a tile of sequences in a step.
    together : int
        Recurrences in the launch; each has so many teams.
    cells : str
        What the cells do, of `kernels.SEQUENCE_CELLS`.
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
    buffers: int
    register_bytes: int
    shared_bytes: int
    product: float
    cell: float
    exchange: float
    barrier: float
    waves: int
    work: Work
    together: int = 1
    cells: str = "Plain"
    stacked: bool = False

    @property
    def blocks(self) -> int:
        """Of the whole launch."""
        return self.together * self.teams * self.members

    @functools.cached_property
    def kernel(self) -> kernels.Kernel:
        """What runs it."""
        return kernels.sequence(self.direction, self.dtype, self.form, self.height, self.columns, self.cells)

    @property
    def by_memory(self) -> bool:
        """Whether blocks hand over through global memory: all of them must be resident."""
        return self.form in ("grid", "joint")

    @property
    def tiles(self) -> int:
        """Of sequences that are worked on at once, in a slice."""
        return -(-self.slice // (8 * self.columns))

    @property
    def microseconds(self) -> float:
        """Expected time of a step, of all recurrences in the launch."""
        return self.waves * (self.product + self.cell + self.exchange + self.barrier)

    @property
    def barriers(self) -> int:
        """Of a block, in a step: modelled beside those that its product has anyway."""
        return round(self.barrier / BARRIER)

    def team(self) -> str:
        """The blocks of the launch in words."""
        return ("" if self.together == 1 else f"{self.together} x ") + {
            "block": f"{self.teams} blocks alone",
            "cluster": f"{self.teams} clusters of {self.members} blocks",
            "grid": f"{self.teams} x {self.members} blocks of the grid",
            "joint": f"{self.teams} x {self.members} blocks of the grid in clusters of {CLUSTER}",
        }[self.form]

    def describe(self) -> str:
        """In words and numbers."""
        barriers = {0: "no barrier", 1: "1 barrier of a block a step"}.get(
            self.barriers, f"{self.barriers} barriers of a block a step"
        )
        held = f" ({self.register_bytes / 1024:.0f} of them registers)" if self.register_bytes else ""
        waves = f"{self.waves} waves of " if self.waves > 1 else ""
        options = "" if self.cells == "Plain" else ", with options"
        return (
            f"{self.direction}{options}: {self.team()}, {self.share} units and {self.slice} sequences each, "
            f"{(self.register_bytes + self.shared_bytes) / 1024:.0f} KiB on chip a block{held}, {barriers}, "
            f"{self.microseconds:.2f} us a step expected ({waves}product {self.product:.2f}, cells {self.cell:.2f}, "
            f"exchange {self.exchange:.2f}, barrier {self.barrier:.2f})"
        )


@dataclass(frozen=True)
class Beside:
    """A launch of the recurrence and large products beside it, on the multiprocessors that it leaves idle.

    Attributes
    ----------
    idle, multiprocessors : int
    recurrence : float
        Expected microseconds of the launch.
    products : float
        Those of the products, with all multiprocessors.
    """

    idle: int
    multiprocessors: int
    recurrence: float
    products: float

    @property
    def saved(self) -> float:
        """Microseconds less than one after the other.

        What the idle multiprocessors get done until the recurrence ends; the rest of the products then takes all.
        """
        share = self.idle / self.multiprocessors
        if not share:
            return 0.0
        both = min(self.recurrence, self.products / share)
        return both * (share - SLOWER_BESIDE) - MEETING

    def describe(self) -> str:
        """In words and numbers."""
        saved = f"saves {self.saved:.0f} us" if self.saved > 0 else "does not pay"
        return (
            f"{self.idle} of {self.multiprocessors} multiprocessors idle for {self.recurrence:.0f} us, products "
            f"{self.products:.0f} us with all of them: {saved}"
        )


def multiplied(backend: CudaBackend, dtype: str) -> str:
    """The form in which stored numbers are multiplied: their dtype, or "tf32" for float32 where asked for."""
    return "tf32" if backend.tf32 and dtype == "float32" else dtype


@functools.lru_cache(maxsize=1024)
def choose(
    device: Device,
    direction: str,
    batch: int,
    hidden: int,
    dtype: str,
    together: int = 1,
    cells: str = "Plain",
    stacked: bool = False,
) -> Layout | str:
    """The layout with the least modelled time a step, or why there is none; `together` recurrences in one launch."""
    if device.capability < 80:
        return f"it needs compute capability 8.0; this device has {device.capability // 10}.{device.capability % 10}"
    best: Layout | None = None
    least = 0
    for layout in _candidates(device, direction, batch, hidden, dtype, together, cells, stacked):
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
def choose_pair(
    device: Device, direction: str, batch: int, hidden: int, dtype: str, cells: str = "Plain"
) -> Layout | str:
    """The layout that runs two recurrences at once, or why they run one after the other."""
    one, pair = (choose(device, direction, batch, hidden, dtype, together, cells) for together in (1, 2))
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
        return str(choose(device, direction, batch, hidden, dtype, 1 + len(times), "Plain", len(times) > 0))
    best = min(times, key=lambda n: times[n])
    if best > 1:
        return choose(device, direction, batch, hidden, dtype, best, "Plain", True)
    several = min((n for n in times if n > 1), key=lambda n: times[n])
    return f"{several} at once would take {times[several]:.2f} us a step instead of {times[1]:.2f}"


def layer_times(device: Device, direction: str, batch: int, hidden: int, dtype: str, layers: int) -> dict[int, float]:
    """Expected microseconds a step of so many layers, by how many run at once, of those numbers that fit.

    With the large products between layers that don't run at once.
    """
    found = {
        n: choose(device, direction, batch, hidden, dtype, n, "Plain", n > 1)
        for n in range(1, min(layers, MOST_RUNS) + 1)
    }
    steps = {n: layout.microseconds for n, layout in found.items() if not isinstance(layout, str)}
    between = batch * 4 * hidden * hidden / product_rate(device, dtype)
    times = {}
    for n in steps:
        launches = [n] * (layers // n) + [layers % n] * (layers % n > 0)
        times[n] = sum(steps[launch] for launch in launches) + (len(launches) - 1) * between
    return times


def beside(
    device: Device,
    direction: str,
    shape: tuple[int, int, int],
    dtype: str,
    multiply_adds: int,
    together: int = 1,
    cells: str = "Plain",
) -> Beside:
    """So many multiply-adds of products beside recurrences of a shape (T, B, H), of which there are `together`."""
    steps, batch, hidden = shape
    layout = choose_pair(device, direction, batch, hidden, dtype, cells) if together == 2 else ""
    launches = 1
    if isinstance(layout, str):
        layout, launches = choose(device, direction, batch, hidden, dtype, 1, cells), together
    products = multiply_adds / product_rate(device, dtype)
    if isinstance(layout, str):
        return Beside(0, device.multiprocessors, 0.0, products)
    idle = device.multiprocessors - layout.blocks if layout.waves == 1 else 0
    return Beside(idle, device.multiprocessors, launches * steps * layout.microseconds, products)


def product_rate(device: Device, dtype: str) -> float:
    """Multiply-adds a microsecond of a large product of cuBLAS."""
    return POINTWISE_PRODUCT_RATE[dtype] * device.multiprocessors / 132


def pays(device: Device, direction: str, batch: int, hidden: int, dtype: str, cells: str = "Plain") -> bool:
    """Whether a layout fits and its step is expected to be no longer than one of the pointwise tier."""
    layout = choose(device, direction, batch, hidden, dtype, 1, cells)
    if isinstance(layout, str):
        return False
    product = batch * 4 * hidden * hidden / product_rate(device, dtype)
    return layout.microseconds <= max(POINTWISE_HOST, product)


def most_that_pays(device: Device, direction: str, hidden: int, dtype: str, cells: str = "Plain") -> int:
    """The largest power of two as a batch size, up to `LARGEST_BATCH`, where it does; 0 for none."""
    return _most(lambda batch: pays(device, direction, batch, hidden, dtype, cells))


def most_that_stacks(device: Device, direction: str, hidden: int, dtype: str) -> int:
    """The same for some of three layers at once."""
    return _most(lambda batch: not isinstance(choose_layers(device, direction, batch, hidden, dtype, 3), str))


def _most(holds: Callable[[int], bool]) -> int:
    """The largest power of two, up to `LARGEST_BATCH`, for which that holds; 0 for none."""
    return max((size for size in (2**n for n in range(LARGEST_BATCH.bit_length())) if holds(size)), default=0)


def cells_of(direction: str, options: frozenset[str]) -> str:
    """What the cells do, of `kernels.SEQUENCE_CELLS`, for these of the LSTM's options."""
    if "layer_norm" in options:
        return "Normed"
    # Forward, c of every step is there anyway.
    return "Family" if options - ({"cells"} if direction == "forward" else set()) else "Plain"


def obstacle(device: Device, hidden: int, dtype: str, options: frozenset[str] = frozenset()) -> str:
    """Why no layout fits, whatever the batch; empty where one does."""
    found = (choose(device, name, 1, hidden, dtype, 1, cells_of(name, options)) for name in DIRECTIONS)
    return next((layout for layout in found if isinstance(layout, str)), "")


def from_others(sums: int) -> float:
    """Expected microseconds until a block has so many bytes of sums from all blocks of its cluster, itself included."""
    return EXCHANGE["cluster"] + (CLUSTER - 1) / CLUSTER * sums / CLUSTER_RATE


def explain(device: Device, batch: int, hidden: int, dtype: str, options: frozenset[str] = frozenset()) -> str:
    """Forward and backward in words and numbers, and what a bidirectional layer does."""
    found = [choose(device, name, batch, hidden, dtype, 1, cells_of(name, options)) for name in DIRECTIONS]
    said = [layout if isinstance(layout, str) else layout.describe() for layout in found]
    if any(not isinstance(layout, str) and layout.form == "cluster" for layout in found):
        how = "assumed, as the driver can't be asked" if device.counted is None else "as the driver says"
        said.append(f"{device.clusters_at_once} clusters run at once, {how}")
    if device.capability in JOINT and not device.clusters:
        said.append(f"no grid of clusters: cuda.bindings launches it, which can't here ({clusters.INSTALL})")
    for direction in DIRECTIONS:
        layout = choose_pair(device, direction, batch, hidden, dtype, cells_of(direction, options))
        if isinstance(layout, str):
            how = f"one after the other ({layout})"
        else:
            how = f"in one launch of {layout.team()}, {layout.microseconds:.2f} us a step expected"
        said.append(f"both directions of a layer {direction}: {how}")
    said += _explain_layers(device, batch, hidden, dtype) if not options else []
    shape = LEAST_STEPS, batch, hidden
    for direction, count, what in (("forward", 1, "the next x W_ih^T"), ("backward", 3, "dx, dW_ih and dW_hh")):
        multiply_adds = count * 4 * hidden * hidden * batch * LEAST_STEPS
        products = beside(device, direction, shape, dtype, multiply_adds, 1, cells_of(direction, options))
        said.append(f"{what} of D = {hidden} beside {LEAST_STEPS} steps {direction}: {products.describe()}")
    return "; ".join(said)


def _explain_layers(device: Device, batch: int, hidden: int, dtype: str) -> list[str]:
    """Whether layers of a stack run at once, and where never."""
    said = []
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
    return said


def largest(device: Device, dtype: str) -> int:
    """The largest H that fits, 0 where none does."""
    low, high = 0, 1 << 16
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if not obstacle(device, middle, dtype) else (low, middle)
    return low


def units(direction: str, form: str, height: int, columns: int, halves: int = 1) -> int:
    """The most hidden units of a block; in a stack, each of two halves of k has warps of its own."""
    if form == "joint":
        return 16 * height
    return min(
        CELLS * SEQUENCE_THREADS // (8 * columns), WARPS // halves * 16 * height // (4 if direction == "forward" else 1)
    )


def _candidates(
    device: Device,
    direction: str,
    batch: int,
    hidden: int,
    dtype: str,
    together: int = 1,
    cells: str = "Plain",
    stacked: bool = False,
) -> Iterator[Layout]:
    """Layouts that the kernels can run, fitting into shared memory or not."""
    for form in ("grid",) if stacked else device.forms[direction == "backward"]:
        for height, columns in sequence_sizes(direction, dtype, form, cells):
            problem = device, direction, hidden, dtype, together, cells, stacked
            layout = functools.partial(_layout, *problem, form, height, columns)
            each, most_units = 8 * columns, units(direction, form, height, columns, 1 + stacked)
            if form == "block" and hidden <= most_units:
                yield layout(-(-batch // each), 1, hidden, each, *BUFFERS[form])
            if form == "cluster" and device.clusters_at_once and -(-hidden // CLUSTER) <= most_units:
                yield from (layout(-(-batch // each), CLUSTER, -(-hidden // CLUSTER), each, n) for n in BUFFERS[form])
            if form not in ("grid", "joint") or not device.cooperative:
                continue
            unit = CLUSTER if form == "joint" else 1
            most = (device.clusters if form == "joint" else device.multiprocessors) // together  # all must be resident
            for wanted in range(1, min(-(-batch // each), most) + 1):
                share = -(-hidden // min(most // wanted * unit, hidden))
                part = -(-batch // wanted)
                if share <= most_units:
                    members = -(-hidden // (share * unit)) * unit
                    yield layout(-(-batch // part), members, share, part, *BUFFERS[form])


def _held(dtype: str, height: int, columns: int, cells: str) -> int:
    """Parts of k whose weights a warp keeps in registers."""
    fewer = 4 // height if dtype == "float64" else height * columns // 4 * 2 if dtype == "float32" else 0
    options = FEWER_HELD[cells] + 2 * (cells == "Normed" and dtype == "float64")
    return HELD[height, columns] - options // height - fewer


def _layout(
    device: Device,
    direction: str,
    hidden: int,
    dtype: str,
    together: int,
    cells: str,
    stacked: bool,
    form: str,
    height: int,
    columns: int,
    teams: int,
    members: int,
    share: int,
    part: int,
    buffers: int,
) -> Layout:
    tensor = dtype in TENSOR
    stored = {"float64": 8, "float32": 4, "tf32": 4}.get(dtype, 2)
    wide = {"float64": 8}.get(dtype, 4)
    # Rows start half of the banks apart.
    rows, depth = (4 * share, hidden) if direction == "forward" else (share, 4 * hidden)
    halves = 1 + stacked  # of k, each of whole chunks
    chunk = 64
    depth = 2 * -(-depth * stored // chunk) * chunk // stored if stacked else depth
    pitch = (-(-depth * stored // 128) * 128 + 64) // stored
    blocks = CLUSTER if form == "joint" else 1  # that multiply together: each for all, by a part of k
    row_blocks = blocks * -(-rows // (16 * height))
    chunks = -(-depth * stored // (blocks * halves * chunk))
    chunks_of_warp = -(-chunks // (WARPS // row_blocks // halves))
    split = halves * -(-chunks // chunks_of_warp)
    each = 8 * columns
    if form == "joint":
        rows, depth = row_blocks * 16 * height, chunks * chunk // stored
        pitch = (-(-depth * stored // 128) * 128 + 64) // stored
    fragments = row_blocks * split * height  # of 1 KiB: 16 rows of 64 bytes
    held = min(_held(dtype, height, columns, cells), chunks_of_warp)
    weights = fragments * (chunks_of_warp - held) * 1024
    shown = buffers * each * pitch * stored
    sums = split * each * (rows if form == "joint" else (rows + 11) // 16 * 16 + 4) * wide
    wide_of_rows = 0  # what layer normalisation needs: numbers of each cell, those of all blocks, and two results
    if cells == "Normed":
        numbers = 4 if direction == "forward" else 2
        wide_of_rows = each * (numbers * share + (4 * members if form != "grid" else 0) + 2)
    tiles = -(-part // each)
    # In a step: of h or dz; and twice of what the blocks know of rows, with two barriers of a block each.
    handovers = 1 + (2 * tiles if cells == "Normed" else 0)
    barriers = (1 if buffers == 2 else 0) + 2 * (handovers - 1)
    work = Work(
        warps=WARPS,
        multiplying=row_blocks * split,
        chunks=row_blocks * chunks * halves,
        read_again=max(0, row_blocks * (chunks * halves - split * held)),
        cells=-(-share * min(part, each) // 32),
        parts=split * blocks,
        gathered=each * chunks * chunk // 512 if form == "joint" else 0,
    )
    counts = counted(direction, dtype, form, height, columns, cells)
    # A step of a stack does the half with h of the layer below, which is there already, while it waits for its own.
    arithmetic = row_blocks * 16 * height * each * depth / halves / PRODUCT_RATE[dtype]
    if tensor:
        arithmetic = max(arithmetic, chunks_of_warp * (1 if height * columns == 1 else 2) * MMA_LATENCY)
    columns_read = row_blocks * each * depth * stored
    loading, issuing = counts.turns_of(work) / CLOCK, counts.product_of(work) / ISSUE_RATE
    multiplying = max(arithmetic, loading / halves, issuing / halves)
    meeting = 2 * split * each * rows * wide / SHARED_RATE
    cell = max(CELL_LATENCY[dtype] + MORE_LATENCY[cells], counts.cells_of(work) / ISSUE_RATE)
    at_once = {"block": device.multiprocessors, "cluster": device.clusters_at_once}.get(form, together * teams)
    exchange = tiles * columns_read / halves / L2_RATE if form == "grid" else 0.0
    if stacked:
        exchange += max(0.0, tiles * multiplying + exchange - EXCHANGE[form])
    if form == "joint":  # from L2 once, between two barriers of the block; then what comes from the other blocks
        exchange = tiles * (each * depth * stored / L2_RATE + BARRIER + from_others(sums))
        sums += 16  # the count of bytes that have come
    return Layout(
        form, direction, dtype, teams, members, share, part, height, columns, split, pitch, buffers,
        register_bytes=fragments * held * 1024,
        shared_bytes=weights + shown + sums + wide_of_rows * wide,
        product=tiles * (multiplying + meeting),
        cell=tiles * cell,
        exchange=handovers * EXCHANGE[form] + exchange,
        barrier=BARRIER * barriers,
        waves=-(-together * teams // max(at_once, 1)),
        work=work,
        together=together,
        cells=cells,
        stacked=stacked,
    )  # fmt: skip
