"""Every CUDA kernel that the package launches, by name and template arguments."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from itertools import product
from typing import Any

from gpu_lstm.native.kernels import ARITHMETIC, STORAGE, Kernel, neighbours

TABLE = """
gates.cu            gates_forward           dtype width keep masked
gates.cu            gates_backward          dtype width masked
family.cu           family_cells_forward    dtype width normed
family.cu           family_cells_backward   dtype width normed
family.cu           finish_h                dtype
family.cu           begin_dh                dtype
cross_entropy.cu    count_targets
cross_entropy.cu    cross_entropy           dtype
cross_entropy.cu    mean_loss               wide
embedding.cu        check_range
embedding.cu        take_rows               dtype
embedding.cu        scatter_add             dtype warps
dropout.cu          dropout                 dtype four
optimizer.cu        sum_of_squares          dtype
optimizer.cu        norm_of_sums            wide
optimizer.cu        update                  dtype rule
"""
"""File, name and template arguments of all kernels but those whose blocks wait for each other."""
SCATTER_WARPS = 8
RULES = ("sgd", "rmsprop", "adam")
SEQUENCE_THREADS = 256
"""Threads of a block of the sequence kernels, as ``kernels/cuda/mma.cuh`` has it: few, so that each has registers for
weights."""
TENSOR = ("tf32", "float16", "bfloat16")
"""What tensor cores multiply in the sequence kernels: 16-bit numbers, and float32 rounded to TF32 where asked for."""
SEQUENCE_CELLS = ("Plain", "Family", "Normed")
"""What the cells of the sequence kernels do, as ``kernels/cuda/options.cuh`` has it: the plain LSTM, its options, or
those with layer normalisation."""
CLUSTER = 8
"""Blocks of a thread-block cluster: the most that every device with clusters takes."""
CLUSTERS_SINCE = 90
"""First architecture that has them."""
FORMS = ("block", "cluster", "grid", "joint")
"""Of the sequence kernels: `gpu_lstm.recurrence.cuda.layout` says what they are."""
JOINT = range(90, 110)
"""Architectures that have the joint form. On 120, Blackwell's of desktops, a multiprocessor was seen to read 1.3 bytes
a cycle from others of its cluster: too few."""
COSTS = {
    "barriers_block": Kernel("costs.cu", "barriers", ("Alone",), since=80),
    "barriers_grid": Kernel("costs.cu", "barriers", ("GridBarrier",), cooperative=True, since=80),
    "barriers_cluster": Kernel("costs.cu", "barriers_cluster", ("8",), cluster=CLUSTER, since=CLUSTERS_SINCE),
    "handovers": Kernel("costs.cu", "handovers", cooperative=True, since=80),
    "handovers_in_cluster": Kernel("costs.cu", "handovers_in_cluster", ("8",), cluster=CLUSTER, since=CLUSTERS_SINCE),
    "gathers": Kernel("costs.cu", "gathers", cooperative=True, since=80),
    "reads_in_cluster": Kernel("costs.cu", "reads_in_cluster", ("8",), cluster=CLUSTER, since=CLUSTERS_SINCE),
    "sums_in_cluster": Kernel("costs.cu", "sums_in_cluster", cooperative=True, cluster=CLUSTER, since=CLUSTERS_SINCE),
}
"""What is only timed: barriers of a team; numbers, all that blocks show, and sums on their way from block to block."""
_ROWS = {name: (file, words) for file, name, *words in map(str.split, TABLE.strip().splitlines())}


@functools.cache
def kernel(name: str, *arguments: Any) -> Kernel:
    """An instance of a kernel of `TABLE`, by its words there, or one of `COSTS`.

    ``dtype`` is a storage dtype; ``wide`` one, too, but its arithmetic is meant; ``width`` and ``four`` are neighbours
    of a thread; ``keep``, ``masked`` and ``normed`` (with layer normalisation) are bools; ``rule`` is one of `RULES`.
    """
    if name in COSTS:
        return COSTS[name]
    file, words = _ROWS[name]
    return Kernel(file, name, tuple(_in_cpp(*each) for each in zip(words, arguments, strict=True)))


def _in_cpp(word: str, value: Any) -> str:
    if word in ("dtype", "wide"):
        return STORAGE[ARITHMETIC[value] if word == "wide" else value]
    return str(value).lower() if isinstance(value, bool) else str(value)


@functools.cache
def sequence(direction: str, dtype: str, form: str, height: int, columns: int, cells: str = "Plain") -> Kernel:
    """All steps, "forward" or "backward", in a form of `gpu_lstm.recurrence.cuda.layout`.

    A warp multiplies 16 `height` rows of weights by 8 `columns` sequences; `dtype` may be "tf32", too. `cells` is one
    of `SEQUENCE_CELLS`.
    """
    team = {"block": "Alone", "cluster": str(CLUSTER), "grid": "Grid", "joint": "JointGrid"}[form]
    name = f"sequence_{direction}" + ("_cluster" if form == "cluster" else "")
    more = () if cells == "Plain" else (cells,)
    clustered = form in ("cluster", "joint")
    return Kernel(
        "sequence.cu",
        name,
        (STORAGE.get(dtype, dtype), team, str(height), str(columns), *more),
        cooperative=form in ("grid", "joint"),
        cluster=CLUSTER if clustered else 1,
        since=CLUSTERS_SINCE if clustered else 80,
    )


def sequence_sizes(direction: str, dtype: str, form: str, cells: str = "Plain") -> list[tuple[int, int]]:
    """The pairs of `height` and `columns` that there are of `sequence`."""
    if cells != "Plain":  # one: the height that wastes the least where much of the grid shares the units
        return [] if form == "joint" else [(1 if (direction, form) == ("backward", "grid") else 2, 1)]
    # A block alone has one tile of 8 sequences; two would spill to local memory in float64.
    columns = (1,) if form == "block" or dtype == "float64" else (1, 2)
    if form == "joint":  # not forward: of h there is less than of sums
        sizes = [(1, 1), (1, 2), (2, 2)] if dtype in TENSOR else [(1, 1)]
        return sizes if direction == "backward" else []
    if form == "grid" and dtype not in TENSOR and direction == "forward":
        return [(2, 1)]  # the next would spill to local memory on sm_100
    if form == "grid" and direction == "backward":  # the largest only where a lane has registers for it
        return [size for size in product((1, 2), columns) if dtype in TENSOR or size != (2, 2)]
    return [(2, 1), (3, 1), (3, 2), (4, 1)] if form == "grid" else list(product((2,), columns))


def every_kernel() -> list[Kernel]:
    """Each instance that a backend may launch, once."""
    return list(dict.fromkeys([*COSTS.values(), *_of_table(), *_of_sequence()]))


def _of_table() -> Iterator[Kernel]:
    both = (False, True)
    given = {"four": (1, 4), "keep": both, "masked": both, "normed": both, "warps": (SCATTER_WARPS,), "rule": RULES}
    for (name, (_, words)), dtype in product(_ROWS.items(), STORAGE):
        values = given | {"dtype": (dtype,), "wide": (dtype,), "width": (1, neighbours(dtype))}
        for arguments in product(*(values[word] for word in words)):
            if words != ["dtype", "width", "normed"] or arguments[1:] != (neighbours(dtype), True):
                yield kernel(name, *arguments)


def _of_sequence() -> Iterator[Kernel]:
    for dtype, direction, form, cells in product((*STORAGE, "tf32"), ("forward", "backward"), FORMS, SEQUENCE_CELLS):
        for height, columns in sequence_sizes(direction, dtype, form, cells):
            yield sequence(direction, dtype, form, height, columns, cells)
