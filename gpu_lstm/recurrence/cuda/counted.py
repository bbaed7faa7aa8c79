"""What the sequence kernels execute in a step, as an interpreter of their PTX counted it: kernels/cuda/counts.json.

``python -m tests.device -m benchmarks.counts --write`` makes the file. Instructions are a warp's, of which a
multiprocessor issues four a cycle.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any

from gpu_lstm.native import catalogue, sources

Four = tuple[float, float, float, float]


@dataclass(frozen=True)
class Counted:
    """What one instance of the sequence kernels takes in a step, for a tile of sequences.

    Attributes
    ----------
    product : tuple of four floats
        Instructions of the product: of each warp, more of each that multiplies, of each chunk, more of each that is
        read again; `gpu_lstm.recurrence.cuda.costs` says how many of these there are.
    turns : tuple of four floats
        Cycles that the way to and from shared memory is busy, likewise: turns of its banks, shuffles, and what comes
        through it from L2.
    cells : tuple of four floats
        Instructions of all else: of each warp, of each 32 cells, of those for each part of k, and of each 32 packs of
        dz that are put into shared memory first.
    """

    product: Four
    turns: Four
    cells: Four


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

    def found(*instance: Any) -> dict[str, list[float]]:
        of_instance: dict[str, list[float]] = table()["sequence"][catalogue.sequence(direction, *instance).expression]
        return of_instance

    own, options, none = (
        found(dtype, form, height, columns),
        *(found(*with_options(direction), name) for name in (cells, "Plain")),
    )
    warp, cell, part, gathered = (
        mine + more - less for mine, more, less in zip(own["cells"], options["cells"], none["cells"], strict=True)
    )
    machine = table()["machine"]
    cell += machine[direction][dtype.replace("tf", "float")]["more"]
    product = [machine["product"][dtype]["ratio"] * each for each in own["product"]]
    return Counted(_four(product), _four(own["turns"]), (warp, cell, part, gathered))


def _four(numbers: list[float]) -> Four:
    first, second, third, fourth = numbers
    return first, second, third, fourth


@functools.cache
def table() -> dict[str, Any]:
    """The file."""
    read: dict[str, Any] = json.loads(sources.read_text("cuda/counts.json"))
    return read
