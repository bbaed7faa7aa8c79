"""The plan: which tier runs a recurrence, and why."""

from __future__ import annotations

from dataclasses import dataclass

from gpu_lstm.backend import Backend, compiled
from gpu_lstm.errors import BackendError, InputError
from gpu_lstm.recurrence import onchip, pointwise, pointwise_cuda, reference, sequence, sequence_cuda
from gpu_lstm.recurrence.contract import Tier

TIERS = ("reference", "pointwise", "sequence")
"""From the most readable to the fastest."""

_RUNS: dict[str, dict[str, Tier]] = {
    "": {},
    "cpu": {"pointwise": pointwise, "sequence": sequence},
    "cuda": {"pointwise": pointwise_cuda, "sequence": sequence_cuda},
}
"""By the kernels that take a backend's arrays; the reference tier needs none."""


@dataclass(frozen=True)
class Plan:
    """The tier that runs, and the reasons.

    Attributes
    ----------
    tier : str
    run : Tier
        Holds the tier's `forward` and `backward`.
    reasons : tuple of str
        One line for each tier.
    """

    tier: str
    run: Tier
    reasons: tuple[str, ...]

    def why(self) -> str:
        """Explain the choice, one line a tier."""
        return "\n".join(self.reasons)


def make_plan(backend: Backend, tier: str = "auto") -> Plan:
    """Pick a tier for `backend`.

    Parameters
    ----------
    backend : Backend
    tier : {"auto", "reference", "pointwise", "sequence"}
        ``auto`` takes the fastest that runs.

    Raises
    ------
    InputError
        No tier has that name.
    BackendError
        The named tier doesn't run on this backend or this machine: nothing falls back in silence.
    """
    if tier != "auto" and tier not in TIERS:
        raise InputError(f"tier is {tier!r}; expected auto, {', '.join(TIERS)}")
    obstacles = {name: obstacle(backend, name) for name in TIERS}
    if tier != "auto" and obstacles[tier]:
        raise BackendError(f"tier {tier} can't run on backend {backend.name}: {obstacles[tier]}")
    chosen = tier if tier != "auto" else runnable_tiers(backend)[-1]
    reasons = []
    for name in reversed(TIERS):
        if name == chosen:
            kind = "the fastest that runs here" if tier == "auto" else "asked for by name"
            extra = f" ({_described(backend)})" if name != "reference" else ""
            reasons.append(f"{name}: chosen, {kind}{extra}")
        elif obstacles[name]:
            reasons.append(f"{name}: can't run: {obstacles[name]}")
        else:
            reasons.append(f"{name}: could run, but {'it is slower' if tier == 'auto' else f'{tier} was asked for'}")
    return Plan(chosen, _RUNS[backend.kernels].get(chosen, reference), tuple(reasons))


def runnable_tiers(backend: Backend) -> list[str]:
    """The tiers that run on this backend and machine, the fastest last."""
    return [name for name in TIERS if not obstacle(backend, name)]


def obstacle(backend: Backend, tier: str) -> str:
    """Why a tier can't run on this backend and machine; empty where it can."""
    if tier == "reference":
        return ""
    if tier not in _RUNS[backend.kernels]:
        return f"backend {backend.name} has no kernels for it yet"
    return compiled.missing() if backend.kernels == "cpu" else ""


def _described(backend: Backend) -> str:
    """The kernels, for people."""
    return compiled.describe() if backend.kernels == "cpu" else "fused CUDA kernels, cuBLAS at each step"
