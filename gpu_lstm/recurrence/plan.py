"""The plan: which tier runs a recurrence, and why."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

from gpu_lstm.backend import Backend
from gpu_lstm.errors import BackendError, InputError
from gpu_lstm.recurrence import reference

TIERS = ("reference", "pointwise", "sequence")
"""From the most readable to the fastest."""

_MODULES: dict[str, ModuleType] = {"reference": reference}


@dataclass(frozen=True)
class Plan:
    """The tier that runs, and the reasons.

    Attributes
    ----------
    tier : str
    run : module
        Holds the tier's `forward` and `backward`.
    reasons : tuple of str
        One line for each tier that was considered.
    """

    tier: str
    run: ModuleType
    reasons: tuple[str, ...]

    def why(self) -> str:
        """Explain the choice, one line a tier."""
        return "\n".join(self.reasons)


def make_plan(backend: Backend, tier: str = "auto") -> Plan:
    """Pick a tier of `backend`.

    Parameters
    ----------
    backend : Backend
    tier : {"auto", "reference", "pointwise", "sequence"}
        ``auto`` takes the fastest that the backend has.

    Raises
    ------
    InputError
        No tier has that name.
    BackendError
        The named tier doesn't run on this backend: nothing falls back in silence.
    """
    if tier != "auto" and tier not in TIERS:
        raise InputError(f"tier is {tier!r}; expected auto, {', '.join(TIERS)}")
    if tier != "auto" and tier not in backend.tiers:
        raise BackendError(f"tier {tier} does not exist on backend {backend.name}; it has {', '.join(backend.tiers)}")
    reasons = []
    chosen = ""
    for name in reversed(TIERS):
        if name not in backend.tiers:
            reasons.append(f"{name}: not on backend {backend.name}")
        elif chosen:
            reasons.append(f"{name}: slower than {chosen}")
        elif tier in ("auto", name):
            chosen = name
            reasons.append(f"{name}: chosen, {'asked for by name' if tier == name else 'the fastest that runs here'}")
        else:
            reasons.append(f"{name}: could run, but {tier} was asked for")
    return Plan(chosen, _MODULES[chosen], tuple(reasons))
