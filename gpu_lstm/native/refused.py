"""Arguments of the compiled library that are refused: what is wrong with one, which two share memory."""

from __future__ import annotations

from typing import Any

import numpy as np


def expected(row: str, shape: tuple[int, ...] | int) -> str:
    """Return the shape that an array must have, with the names that its row gives to sizes."""
    if not isinstance(shape, tuple):
        return f"{shape} elements"
    parts = [text if text.isdigit() else f"{text}={n}" for text, n in zip(row.split(","), shape, strict=True)]
    return f"({', '.join(parts)}{',' * (len(parts) == 1)})"


def unfit(array: np.ndarray) -> str:
    """Return what is wrong with an array that is to be written."""
    if not array.flags.writeable:
        return "is read-only; expected an array to write to"
    if not array.flags.c_contiguous:
        return "is not C-contiguous; expected an array without gaps (np.ascontiguousarray)"
    return "is misaligned; expected an array whose elements begin at multiples of their size"


def shared(spans: list[tuple[int, int, Any]]) -> tuple[Any, Any] | None:
    """Return two arguments of sorted (start, stop, argument) that overlap, one of which is written, if there are."""
    furthest = furthest_written = (0, 0, spans[0][2])
    for span in spans:
        start, stop, argument = span
        if start < furthest_written[1]:
            return furthest_written[2], argument
        if argument.written:
            if start < furthest[1]:
                return furthest[2], argument
            furthest_written = span
        if stop > furthest[1]:
            furthest = span
    return None
