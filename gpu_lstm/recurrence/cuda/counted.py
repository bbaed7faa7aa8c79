"""What the sequence kernels execute in a step, as an interpreter of their PTX counted it: kernels/cuda/counts.json.

``python -m tests.device -m benchmarks.counts --write`` makes the file. Instructions are a warp's, of which a
multiprocessor issues four a cycle.
"""

from __future__ import annotations

import functools
import json
from typing import Any, NamedTuple

from gpu_lstm.native import catalogue, sources


class Counted(NamedTuple):
    """What one instance of the sequence kernels takes in a step, for a tile of sequences."""

    # instructions of the product: of each warp, more of each that multiplies, of each chunk, more of each that is read
    # again; `gpu_lstm.recurrence.cuda.costs` says how many of these there are
    product: list[float]
    # cycles that the way to and from shared memory is busy, likewise: turns of its banks, shuffles, and what comes
    # through it from L2
    turns: list[float]
    # instructions of all else: of each warp, of each 32 cells, of those for each part of k, and of each 32 packs of dz
    # that are put into shared memory first
    cells: list[float]


ALIKE = {"bfloat16": "float16"}
"""What isn't counted itself, and what is in its place: the code is the same but for the type."""


def with_options(direction: str) -> tuple[str, str, int, int]:
    """Dtype, form, height and columns of the kernels that are counted with options, too."""
    ((height, columns),) = catalogue.sequence_sizes(direction, "float32", "grid", "Family")
    return "float32", "grid", height, columns


@functools.cache
def counted(direction: str, dtype: str, form: str, height: int, columns: int, cells: str) -> Counted:
    """Of that instance of `catalogue.sequence`.

    Options add to its cells what they add in the one instance that is counted with them. Of the machine's instructions
    a cell takes as many more than of PTX as in kernels of nothing but cells; a product, so many times as many as in the
    inner loop of one.
    """
    dtype = ALIKE.get(dtype, dtype)

    instances = (dtype, form, height, columns), *((*with_options(direction), name) for name in (cells, "Plain"))
    own, options, none = (table()["sequence"][catalogue.sequence(direction, *each).expression] for each in instances)
    all_else = [
        mine + more - less for mine, more, less in zip(own["cells"], options["cells"], none["cells"], strict=True)
    ]
    machine = table()["machine"]
    all_else[1] += machine[direction][dtype.replace("tf", "float")]["more"]
    product = [machine["product"][dtype]["ratio"] * each for each in own["product"]]
    return Counted(product, own["turns"], all_else)


@functools.cache
def table() -> dict[str, Any]:
    """The file."""
    read: dict[str, Any] = json.loads(sources.read_text("cuda/counts.json"))
    return read
