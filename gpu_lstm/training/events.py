"""What training tells: of each step, and of its end."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """What happened at a step; `score` and `text` are there after a validation, `skipped` says why it didn't count."""

    step: int
    steps: int
    loss: float
    norm: float
    score: float | None = None
    text: str = ""
    best: bool = False
    skipped: str = ""


@dataclass
class Outcome:
    """How a run ended: ``finished``, ``early`` (no better score for long) or ``stopped`` (asked to)."""

    end: str
    step: int
    steps: int
    best: float
    skipped: int = 0
