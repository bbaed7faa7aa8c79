"""Cells as numbers: what people write for one, and what a whole table's cells say on how they write it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

MISSING = {"", "-", "--", "?", ".", "na", "n/a", "<na>", "#n/a", "nan", "nat", "nil", "none", "null", "missing"}
"""What people write, in small letters, where a number is not known."""
MARKS = {".": "a decimal point", ",": "a decimal comma"}
_SAME = str.maketrans({"\u2212": "-", "\u00a0": " ", "\u202f": " ", "\u2009": " ", "\u2019": "'"})
"""Signs that are typeset, as they are typed."""
_OTHER = {".": ",", ",": "."}
_NUMBER = {
    mark: re.compile(
        rf"(?P<whole>[+-]?(?:[0-9]*|[1-9][0-9]{{0,2}}(?P<group>[{re.escape(_OTHER[mark])} '])[0-9]{{3}}"
        rf"(?:(?P=group)[0-9]{{3}})*))(?:{re.escape(mark)}(?P<part>[0-9]*))?(?P<power>[eE][+-]?[0-9]+)?"
    )
    for mark in MARKS
}
_DRESSED = re.compile(
    r"(?P<sign>[+-]?)(?P<before>(?:[$€£¥₹]|[A-Z]{3} ) ?)?"
    r"(?P<number>[+-]?[0-9.,](?:[0-9.,' ]*[0-9.,])?(?:[eE][+-]?[0-9]+)?)"
    r"(?P<after> ?[%‰°$€£¥₹A-Za-zµ²³][^\s0-9;:_]{0,11})?"
)
"""A number with its unit, before or after it."""

Form = tuple[str, str]
"""How a cell is written: its kind, and the unit beside the number.

Kinds: missing; text; infinite; plain, a number whatever the decimal mark is; point and comma, one with that decimal
mark alone; point? and comma?, one with either, such as 1.234 and 1,234; groups, grouped point and grouped comma, one
with marks between thousands.
"""
TRUTH = "true, false"
"""Unit of columns that hold no other words: they are 1 and 0."""
GROUPED = {".": {"groups", "grouped point", "comma?"}, ",": {"groups", "grouped comma", "point?"}}
"""Kinds that are numbers with marks between thousands, by the decimal mark."""
NUMBERS = {".": {"plain", "point", "point?"} | GROUPED["."], ",": {"plain", "comma", "comma?"} | GROUPED[","]}
"""Kinds that are numbers, by the decimal mark."""


@lru_cache(1 << 16)
def form(cell: str) -> Form:
    """Return how a cell is written."""
    cell = cell.strip().translate(_SAME)
    if cell.lower() in MISSING:
        return "missing", ""
    if cell.lower() in ("true", "false"):
        return "plain", TRUTH
    kind = _kind(cell)
    if kind != "text":
        return kind, ""
    dressed = _DRESSED.fullmatch(cell)
    if dressed is None or not (unit := (dressed["before"] or "").strip() + (dressed["after"] or "").strip()):
        return "text", ""
    kind = _kind(dressed["sign"] + dressed["number"])
    return (kind, unit) if kind != "text" else ("text", "")


def _kind(cell: str) -> str:
    point, comma = (
        found if found and _has_digits(found) else None for found in (_NUMBER[mark].fullmatch(cell) for mark in ".,")
    )
    if point and comma:
        return "point?" if "." in cell else "comma?" if "," in cell else "groups" if point["group"] else "plain"
    if point:
        return "grouped point" if point["group"] else "point"
    if comma:
        return "grouped comma" if comma["group"] else "comma"
    return "infinite" if cell.lower().lstrip("+-") in ("inf", "infinity") else "text"


def _has_digits(found: re.Match[str]) -> bool:
    return any(mark.isdigit() for mark in (found["whole"] or "") + (found["part"] or ""))


def value(cell: str, decimal: str, unit: str = "") -> float | None:
    """Return the number that a cell holds, with that decimal mark and unit; None where it holds none.

    NaN where the cell says that it is missing. Also infinity, which is for others to refuse.
    """
    kind, found = form(cell)
    if kind == "missing":
        return math.nan
    if kind == "infinite":
        return float(cell.strip().translate(_SAME))
    if kind not in NUMBERS[decimal] or found != unit:
        return None
    cell = cell.strip().translate(_SAME)
    if unit == TRUTH:
        return float(cell.lower() == "true")
    if unit:
        dressed = _DRESSED.fullmatch(cell)
        assert dressed is not None
        cell = dressed["sign"] + dressed["number"]
    matched = _NUMBER[decimal].fullmatch(cell)
    assert matched is not None
    whole = matched["whole"].replace(matched["group"], "") if matched["group"] else matched["whole"]
    return float(f"{whole or 0}.{matched['part'] or 0}{matched['power'] or ''}")


def plain_values(cells: Sequence[str], decimal: str = ".") -> np.ndarray | None:
    """Return the numbers of cells, (n,) float64, where all are plainly written; None where one may not be.

    It is what `value` gives, for all cells at once.
    """
    text = "\n".join(cells)
    if not text.isascii() or "_" in text or text.count("\n") >= max(1, len(cells)):
        return None  # Python takes 1_0 for ten, and the digits of every script
    if decimal == ",":
        if "." in text:
            return None
        cells = text.replace(",", ".").split("\n")
    try:
        return np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        return None


def values(cells: Sequence[str], decimal: str, unit: str = "") -> tuple[np.ndarray, int | None]:
    """Return the numbers of cells, (n,) float64, NaN where missing, and which is the first that holds none."""
    found = plain_values(cells, decimal) if not unit else None
    if found is not None:
        return found, None
    parsed = [value(cell, decimal, unit) for cell in cells]
    bad = next((k for k, number in enumerate(parsed) if number is None), None)
    return np.array([math.nan if number is None else number for number in parsed], np.float64), bad


def forms(cells: Sequence[str], sure: bool) -> tuple[Counter[Form], np.ndarray | None]:
    """Return how often cells are written in which form, and their numbers, (n,), where all are plainly written.

    Where it is `sure` already that this column has decimal points, such numbers count as plain.
    """
    found, plain, missing = plain_values(cells), None, 0
    if sure or not any("." in cell for cell in cells):
        if found is None:
            rest = [cell for cell in cells if cell.strip().lower() not in MISSING]
            plain, missing = plain_values(rest), len(cells) - len(rest)
        else:
            plain = found[~np.isnan(found)]
            missing = len(found) - len(plain)
    if plain is not None:
        infinite = int(np.isinf(plain).sum())
        kinds = {"missing": missing, "plain": len(plain) - infinite, "infinite": infinite}
        return Counter({(kind, ""): count for kind, count in kinds.items() if count}), found
    counted: Counter[Form] = Counter()
    for cell, times in Counter(cells).items():
        counted[form(cell)] += times
    return counted, found


def number(cell: str) -> float | None:
    """Return the number that a cell holds on its own: plain or with a decimal point, no thousands marks, no unit."""
    found = plain_values([cell])
    return None if found is None else float(found[0])
