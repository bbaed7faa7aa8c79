"""The plan: which tier runs a recurrence, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from gpu_lstm.backend import Backend
from gpu_lstm.errors import BackendError, InputError
from gpu_lstm.native import compiled
from gpu_lstm.native.kernels import ARITHMETIC
from gpu_lstm.recurrence import cpu, reference
from gpu_lstm.recurrence.cuda import auto, pointwise, sequence
from gpu_lstm.recurrence.tier import Tier
from gpu_lstm.recurrence.widened import widened_tier

TIERS = ("reference", "pointwise", "sequence")
"""From the most readable to the fastest."""


class Kernels(NamedTuple):
    """What the kernels that take a backend's arrays can do."""

    tiers: dict[str, Tier]
    auto: dict[str, Tier]  # what runs in their places where ``auto`` has chosen them
    words: Callable[..., str]  # (backend, tier, hidden_size, dtype, options, auto) -> a tier in words
    narrow: bool  # they store arrays of 16 bits as they are


_KERNELS = {
    "": Kernels({}, {}, lambda *_: "", False),
    "cpu": Kernels({"sequence": cpu.TIER}, {}, lambda *_: compiled.words(), False),
    "cuda": Kernels(
        {"pointwise": pointwise.TIER, "sequence": sequence.TIER}, {"sequence": auto.TIER}, auto.words, True
    ),
}


@dataclass(frozen=True)
class Plan:
    """The tier that runs, and the reasons."""

    tier: str
    run: Tier
    reasons: tuple[str, ...]  # one line for each tier
    widened: bool  # it computes in float32 what is stored in 16 bits
    over_time: tuple[Any, ...] = ()  # of the last call in parallel over time, a line for each layer and direction

    @property
    def takes(self) -> frozenset[str]:
        """The LSTM's options that the tier takes, of those that concern the recurrence."""
        return self.run.takes

    def why(self) -> str:
        """Explain the choice, one line a tier; and what came of going through time in parallel."""
        return "\n".join([*self.reasons, *map(str, self.over_time)])


def make_plan(
    backend: Backend,
    tier: str = "auto",
    hidden_size: int | None = None,
    dtype: str = "float32",
    options: frozenset[str] = frozenset(),
) -> Plan:
    """Pick a tier for `backend`.

    Parameters
    ----------
    backend : Backend
    tier : {"auto", "reference", "pointwise", "sequence"}
        ``auto`` takes the fastest that runs.
    hidden_size : int or None
        H of the recurrence. On a GPU it decides whether the sequence tier runs; None: any.
    dtype : str
        In which the arrays are stored.
    options : frozenset of str
        Names of the LSTM's options that the recurrence must take, of `gpu_lstm.recurrence.variant.OPTIONS`.

    Raises
    ------
    InputError
        No tier has that name.
    BackendError
        The named tier doesn't run on this backend or this machine: nothing falls back in silence.
    """
    if not isinstance(tier, str) or tier not in ("auto", *TIERS):
        raise InputError(f"tier is {tier!r}; expected auto, {', '.join(TIERS)}")
    obstacles = {name: obstacle(backend, name, hidden_size, dtype, options) for name in TIERS}
    if tier != "auto" and obstacles[tier]:
        raise BackendError(f"tier {tier} can't run on backend {backend.name}: {obstacles[tier]}")
    chosen = tier if tier != "auto" else [name for name in TIERS if not obstacles[name]][-1]
    kernels = _KERNELS[backend.kernels]
    run = {"reference": reference.TIER, **kernels.tiers, **(kernels.auto if tier == "auto" else {})}[chosen]
    rounded = ARITHMETIC[dtype] != dtype and not (kernels.narrow and chosen != "reference")
    if rounded:
        run = widened_tier(run, dtype)
    reasons = []
    for name in reversed(TIERS):
        if name == chosen:
            kind = "the fastest that runs here" if tier == "auto" else "asked for by name"
            said = kernels.words(backend, name, hidden_size, dtype, options, tier == "auto")
            extra = f" ({said})" if said and name != "reference" else ""
            extra += f"; it computes in float32 and rounds to {dtype}" if rounded else ""
            reasons.append(f"{name}: chosen, {kind}{extra}")
        elif obstacles[name]:
            reasons.append(f"{name}: can't run: {obstacles[name]}")
        else:
            reasons.append(f"{name}: could run, but {'it is slower' if tier == 'auto' else f'{tier} was asked for'}")
    return Plan(chosen, run, tuple(reasons), rounded)


def runnable_tiers(
    backend: Backend, hidden_size: int | None = None, dtype: str = "float32", options: frozenset[str] = frozenset()
) -> list[str]:
    """The tiers that run on this backend and machine with `hidden_size`, `dtype` and options, the fastest last."""
    return [name for name in TIERS if not obstacle(backend, name, hidden_size, dtype, options)]


def obstacle(
    backend: Backend,
    tier: str,
    hidden_size: int | None = None,
    dtype: str = "float32",
    options: frozenset[str] = frozenset(),
) -> str:
    """Why a tier can't run on this backend and machine, for any or for that hidden size; empty where it can."""
    if tier == "reference":
        return ""
    tiers = _KERNELS[backend.kernels].tiers
    if tier not in tiers:
        return f"backend {backend.name} has no kernels for it"
    untaken = options - tiers[tier].takes
    if untaken:
        return f"it does not take {', '.join(sorted(untaken))}"
    return tiers[tier].obstacle(backend, hidden_size, dtype, options)
