"""What the calendar says of a time, as numbers that return when its cycle does: known for all of the future."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpu_lstm.data.clock import Step
from gpu_lstm.errors import InputError

CYCLES = {"day": "time of day", "week": "day of week", "year": "time of year"}
"""Cycles of a step, and what a time's place in each is called."""
DAYS = {"day": 1.0, "week": 7.0, "year": 365.2425}
WAVES = {"day": 1, "week": 1, "year": 3}
"""How many waves there are of each: a year is longer than most windows, which show the shape of shorter cycles."""


def calendar_names(step: Step, times: np.ndarray) -> list[str]:
    """Return the names of the features that make sense for times of this step.

    A cycle is taken where it has more than one step, and the times span at least two of it: from less nobody learns it.

    Raises
    ------
    InputError
        There is no such cycle.
    """
    spanned = float((times.max() - times.min()) / np.timedelta64(1, "D"))
    cycles = [name for name in step.cycles() if spanned >= 2 * DAYS[name]]
    if not cycles:
        raise InputError(
            f"--calendar finds no cycle in times that are {step} and span {spanned:.0f} days; expected at least two "
            "days, weeks or years, each of several steps"
        )
    waves = [f"{k} " * (k > 1) + CYCLES[name] for name in cycles for k in range(1, 1 + WAVES[name])]
    return [f"{wave}({what})" for what in waves for wave in ("sin", "cos")]


def calendar_features(times: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Return sines and cosines of where times lie in cycles of the calendar.

    Parameters
    ----------
    times : (N,) datetime64[ns]
        As clocks show them there.
    names : K names
        Of `calendar_names`.

    Returns
    -------
    (N, K) float64
    """
    day = times.astype("datetime64[D]")
    of_day = (times - day) / np.timedelta64(1, "D")
    first = day.astype("datetime64[Y]").astype("datetime64[D]")
    length = (day.astype("datetime64[Y]") + np.timedelta64(1, "Y")).astype("datetime64[D]") - first
    turns = {
        "time of day": of_day,
        "day of week": (day.astype(np.int64) + 3) % 7 / 7,
        "time of year": ((day - first).astype(np.int64) + of_day) / length.astype(np.int64),
    }
    columns = []
    for name in names:
        wave, _, what = name.removesuffix(")").partition("(")
        times_over, _, rest = what.partition(" ")
        count, what = (int(times_over), rest) if times_over.isdecimal() else (1, what)
        if what not in turns or wave not in ("sin", "cos"):
            raise InputError(f"calendar has no {name!r}; expected sin or cos of {', '.join(turns)}")
        angle = 2 * np.pi * count * turns[what]
        columns.append(np.sin(angle) if wave == "sin" else np.cos(angle))
    return np.column_stack(columns) if columns else np.zeros((len(times), 0))
