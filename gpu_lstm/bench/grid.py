"""The sizes that are measured."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from gpu_lstm.errors import InputError

Size = tuple[int, int, int, int]
"""(T, B, D, H): steps, batch, input size, hidden size."""

STANDARD: list[Size] = [
    (64, 32, 128, 128),
    (64, 64, 256, 256),
    (128, 32, 512, 512),
    (32, 128, 1024, 1024),
    (256, 1, 128, 128),
    (64, 256, 64, 64),
    (512, 8, 256, 256),
]
"""The sizes that results are quoted at."""
ODD: list[Size] = [
    (64, 31, 128, 125), (64, 32, 128, 128),
    (64, 33, 250, 250), (64, 32, 256, 256),
    (63, 7, 100, 201), (64, 8, 104, 208),
]  # fmt: skip
"""Sizes that fill no vector register or tile evenly, each before a neighbour that does."""
FEW: list[Size] = [(64, b, n, n) for n in (128, 256, 512, 1024) for b in (1, 2, 4)]
"""One sequence, or a few: what weights of fewer bits are for."""


@dataclass(frozen=True)
class Star:
    """A centre, and values for one axis at a time: how speed depends on each axis, with few points."""

    steps: tuple[int, ...]
    batch: tuple[int, ...]
    hidden: tuple[int, ...]
    centre: tuple[int, int, int]
    rounds: int

    def sizes(self) -> list[Size]:
        """All points, D = H, the cheapest first."""
        t, b, h = self.centre
        points = {(t, b, n) for n in self.hidden} | {(t, n, h) for n in self.batch} | {(n, b, h) for n in self.steps}
        return sorted(((t, b, h, h) for t, b, h in points), key=lambda size: (size[0] * size[1] * size[3] ** 2, size))


GRIDS = {
    "small": Star((16, 32, 64), (8, 32, 128), (64, 128, 256), (32, 32, 128), rounds=5),
    "full": Star((8, 32, 64, 256), (1, 4, 16, 64, 256), (32, 64, 128, 256, 512, 1024), (64, 64, 256), rounds=9),
}


LISTS = {"standard": STANDARD, "odd": ODD, "few": FEW}
NAMES = ", ".join([*GRIDS, *LISTS])


def named(name: str) -> tuple[list[Size], int]:
    """Sizes and rounds of a grid by name, or of axes as in ``B=1,32,T=64,H=128,256``.

    Raises InputError where `name` is no grid and no list of axes.
    """
    if name in GRIDS:
        star = GRIDS[name]
        extra = [size for size in STANDARD if size not in star.sizes()] if name == "full" else []
        return star.sizes() + extra, star.rounds
    if name in LISTS:
        return LISTS[name], GRIDS["full"].rounds
    return product(parse_axes(name)), GRIDS["small"].rounds


def parse_axes(text: str) -> dict[str, list[int]]:
    """``B=1,32,H=128`` as ``{"B": [1, 32], "H": [128]}``."""
    axes: dict[str, list[int]] = {}
    axis = ""
    for part in text.split(","):
        name, equals, value = part.rpartition("=")
        axis = name.strip().upper() if equals else axis
        if axis not in ("T", "B", "D", "H") or not value.strip().isdecimal() or int(value) < 1:
            raise InputError(f"grid is {text!r}; expected {NAMES}, or sizes as in B=1,32,T=64,H=128,256")
        if equals and axis in axes:
            raise InputError(f"grid is {text!r}; expected {axis} once, its sizes separated by commas")
        axes.setdefault(axis, []).append(int(value))
    return axes


def product(axes: dict[str, list[int]]) -> list[Size]:
    """Every combination; T, B and H that are not given are those of the small grid's centre, D is H."""
    t, b, h = GRIDS["small"].centre
    combinations = itertools.product(axes.get("T", [t]), axes.get("B", [b]), axes.get("H", [h]))
    sizes = [(t, b, d, h) for t, b, h in combinations for d in axes.get("D", [h])]
    return sorted(set(sizes), key=lambda size: (size[0] * size[1] * size[3] * (size[2] + size[3]), size))


def line(sizes: list[Size], axis: str) -> list[Size]:
    """The most points that differ in one axis alone, D going with H where it is the same, in order of that axis."""
    place = "TBDH".index(axis)
    groups: dict[tuple[object, ...], list[Size]] = {}
    for size in dict.fromkeys(sizes):
        t, b, d, h = size
        others = [v for k, v in enumerate((t, b, h)) if "TBH"[k] != axis]
        groups.setdefault((*others, "same" if d == h else d), []).append(size)
    best = max(groups.values(), key=lambda group: (len(group), sum(size[3] for size in group)), default=[])
    return sorted(best, key=lambda size: size[place])
