"""Learning-rate schedules: functions from the step's number (0, 1, ...) to a factor of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable

from gpu_lstm.layers.checks import check_choice, check_number, check_size

Schedule = Callable[[int], float]


def constant() -> Schedule:
    """Return 1 at every step."""
    return lambda step: 1.0


def cosine(steps: int, floor: float = 0.0) -> Schedule:
    """Return half a cosine, from 1 to `floor` at `steps` (Loshchilov, Hutter: SGDR, 2017); InputError below 1 step."""
    steps, floor = check_size("steps", steps), check_number("floor", floor)
    return lambda step: floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(step, steps) / steps))


def warm_up(steps: int, then: Schedule) -> Schedule:
    """Rise by 1/steps to 1 over `steps` steps, then follow `then` from its start; InputError below 0 steps."""
    steps = check_size("steps", steps, 0)
    return lambda step: (step + 1) / steps if step < steps else then(step - steps)


def make_schedule(name: str, steps: int, warm_up_steps: int = 0) -> Schedule:
    """Return schedule `name` (constant, cosine, else InputError) over `steps`, `warm_up_steps` of them warming up."""
    rest = max(check_size("steps", steps, 0) - check_size("warm_up_steps", warm_up_steps, 0), 1)
    makers: dict[str, Callable[[], Schedule]] = {"constant": constant, "cosine": lambda: cosine(rest, 0.02)}
    return warm_up(warm_up_steps, makers[check_choice("schedule", name, makers)]())
