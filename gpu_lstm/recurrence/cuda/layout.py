"""How the sequence tier keeps W_hh on chip: which blocks of a GPU hold what part of it, and what they need for that.

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
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from gpu_lstm.native import catalogue
from gpu_lstm.native.catalogue import CLUSTER, SEQUENCE_THREADS
from gpu_lstm.native.kernels import Kernel
from gpu_lstm.native.launch import Device

DIRECTIONS = ("forward", "backward")
MOST_RUNS = 4
"""Recurrences of a launch, as ``kernels/cuda/sequence.cu`` has it."""
WARPS = SEQUENCE_THREADS // 32
CELLS = 2
"""Most cells of a thread, as ``kernels/cuda/sequence.cu`` has it."""
CHUNK = 64
"""Bytes of a row that a warp multiplies at a time; 16 rows of them are a fragment of 1 KiB."""
BUFFERS = {"block": (2,), "cluster": (3, 2), "grid": (0,), "joint": (1,)}
"""How many there may be of h or dz in a block's shared memory, a step each."""
FEWER_HELD = {"Plain": 0, "Family": 2, "Normed": 4}
"""By what the cells do, ``fewer_held`` of ``kernels/cuda/options.cuh``: so many less, of 16 rows each."""
HELD = {(1, 1): 12, (2, 1): 5, (3, 1): 3, (4, 1): 3, (1, 2): 8, (2, 2): 4, (3, 2): 3}
"""By `Layout.height` and `Layout.columns`: chunks whose weights a warp keeps in registers, as ``kernels/cuda/mma.cuh``
has it: on tensor cores, else fewer, as `held` says, since sums take more registers."""


@dataclass(frozen=True)
class Layout:
    """Recurrences in one launch on a device."""

    device: Device
    direction: str  # {"forward", "backward"}
    hidden: int
    dtype: str  # storage dtype, or "tf32": float32 multiplied in TF32
    together: int  # recurrences in the launch
    cells: str  # what the cells do, of `catalogue.SEQUENCE_CELLS`
    stacked: bool  # they are layers, each on top of the one before
    form: str  # {"block", "cluster", "grid", "joint"}
    height: int  # rows of W_hh (in backward, columns) that a warp multiplies, in units of 16
    columns: int  # sequences that are worked on at once, in units of 8; a slice may take several such tiles
    # teams of each recurrence, and the blocks of each
    teams: int
    members: int
    share: int  # hidden units of a block
    slice: int  # sequences of a team
    buffers: int  # of h or dz in shared memory; a cluster has one more barrier of its blocks a step where they are two

    @property
    def blocks(self) -> int:
        """Of the whole launch."""
        return self.together * self.teams * self.members

    @functools.cached_property
    def kernel(self) -> Kernel:
        """What runs it."""
        return catalogue.sequence(self.direction, self.dtype, self.form, self.height, self.columns, self.cells)

    @property
    def by_memory(self) -> bool:
        """Whether blocks hand over through global memory: all of them must be resident."""
        return self.form in ("grid", "joint")

    @property
    def tiles(self) -> int:
        """Of sequences that are worked on at once, in a slice."""
        return -(-self.slice // self.sequences)

    @property
    def sequences(self) -> int:
        """That are worked on at once."""
        return 8 * self.columns

    @property
    def waves(self) -> int:
        """How often the device must be filled to run all teams: more than once only where they don't wait."""
        teams = self.together * self.teams
        at_once = {"block": self.device.multiprocessors, "cluster": self.device.clusters_at_once}.get(self.form, teams)
        return -(-teams // max(at_once, 1))

    @property
    def handovers(self) -> int:
        """Of h or dz in a step, and with layer normalisation twice of what the blocks know of rows."""
        return 1 + (2 * self.tiles if self.cells == "Normed" else 0)

    @property
    def barriers(self) -> int:
        """Of a block's threads in a step, besides those that its product has anyway: two for what is known of rows."""
        return (self.buffers == 2) + 2 * (self.handovers - 1)

    # -- the product: rows of weights by sequences, `k` deep, on warps that split the rows and k

    @property
    def stored(self) -> int:
        """Bytes of a stored number."""
        return {"float64": 8, "float32": 4, "tf32": 4}.get(self.dtype, 2)

    @property
    def wide(self) -> int:
        """Bytes of a sum."""
        return {"float64": 8}.get(self.dtype, 4)

    @property
    def peers(self) -> int:
        """Blocks that multiply together, each for the units of all, by a part of k."""
        return CLUSTER if self.form == "joint" else 1

    @property
    def halves(self) -> int:
        """Of k, each of whole chunks: in a stack, what the layer itself and what its neighbour shows."""
        return 1 + self.stacked

    @functools.cached_property
    def row_blocks(self) -> int:
        """Of 16 `height` rows, of all peers."""
        return self.peers * -(-self._own_rows // (16 * self.height))

    @property
    def _own_rows(self) -> int:
        return self.share * (4 if self.direction == "forward" else 1)

    @property
    def rows(self) -> int:
        """Of weights in a block."""
        return self.row_blocks * 16 * self.height if self.form == "joint" else self._own_rows

    @functools.cached_property
    def chunks(self) -> int:
        """Of each half of k, in a block."""
        k = self.hidden * (1 if self.direction == "forward" else 4)
        return -(-k * self.stored // (self.peers * CHUNK))

    @property
    def depth(self) -> int:
        """Numbers of k in a block."""
        if self.stacked or self.form == "joint":
            return self.halves * self.chunks * CHUNK // self.stored
        return self.hidden * (1 if self.direction == "forward" else 4)

    @functools.cached_property
    def chunks_of_warp(self) -> int:
        """Of the warp that has most."""
        return -(-self.chunks // (WARPS // self.row_blocks // self.halves))

    @property
    def split(self) -> int:
        """Parts of k that different warps add up."""
        return self.halves * -(-self.chunks // self.chunks_of_warp)

    @property
    def held(self) -> int:
        """Chunks of a warp whose weights are in its registers."""
        return min(held(self.dtype, self.height, self.columns, self.cells), self.chunks_of_warp)

    # -- bytes

    @property
    def pitch(self) -> int:
        """Elements from row to row in shared memory, where rows start half of the banks apart."""
        return (-(-self.depth * self.stored // 128) * 128 + 64) // self.stored

    @property
    def register_bytes(self) -> int:
        """W_hh in a block's registers; the rest of it is in shared memory."""
        return self.row_blocks * self.split * self.height * self.held * 1024

    @property
    def sum_bytes(self) -> int:
        """Sums of the product."""
        rows = self.rows if self.form == "joint" else (self.rows + 11) // 16 * 16 + 4
        return self.split * self.sequences * rows * self.wide

    @functools.cached_property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        weights = self.row_blocks * self.split * self.height * self.chunks_of_warp * 1024 - self.register_bytes
        shown = self.buffers * self.sequences * self.pitch * self.stored
        arrived = 16 if self.form == "joint" else 0  # the count of bytes that have come from others
        of_rows = 0  # with layer normalisation: numbers of each cell, those of all blocks, and two results
        if self.cells == "Normed":
            numbers = 4 if self.direction == "forward" else 2
            of_rows = numbers * self.share + (4 * self.members if self.form != "grid" else 0) + 2
        return weights + shown + self.sum_bytes + arrived + self.sequences * of_rows * self.wide


def held(dtype: str, height: int, columns: int, cells: str) -> int:
    """Chunks whose weights a warp keeps in registers, where it has as many."""
    fewer = 4 // height if dtype == "float64" else height * columns // 4 * 2 if dtype == "float32" else 0
    options = FEWER_HELD[cells] + 2 * (cells == "Normed" and dtype == "float64")
    return HELD[height, columns] - options // height - fewer


def units(direction: str, form: str, height: int, columns: int, halves: int = 1) -> int:
    """The most hidden units of a block; in a stack, each of two halves of k has warps of its own."""
    if form == "joint":
        return 16 * height
    return min(
        CELLS * SEQUENCE_THREADS // (8 * columns), WARPS // halves * 16 * height // (4 if direction == "forward" else 1)
    )
