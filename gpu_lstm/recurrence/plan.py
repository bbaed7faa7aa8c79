"""The plan: which tier runs a recurrence, and why."""

from __future__ import annotations

from dataclasses import dataclass

from gpu_lstm.backend import Backend
from gpu_lstm.backend.cuda import CudaBackend
from gpu_lstm.errors import BackendError, InputError
from gpu_lstm.native import compiled
from gpu_lstm.native.kernels import ARITHMETIC
from gpu_lstm.recurrence import cpu as sequence
from gpu_lstm.recurrence import pointwise_cpu as pointwise
from gpu_lstm.recurrence import reference
from gpu_lstm.recurrence.cuda import fastest as fastest_cuda
from gpu_lstm.recurrence.cuda import onchip
from gpu_lstm.recurrence.cuda import pointwise as pointwise_cuda
from gpu_lstm.recurrence.cuda import sequence as sequence_cuda
from gpu_lstm.recurrence.problem import Tier
from gpu_lstm.recurrence.widened import Widened

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

    @property
    def takes(self) -> frozenset[str]:
        """The LSTM's options that the tier takes, of those that concern the recurrence."""
        return self.run.TAKES

    def why(self) -> str:
        """Explain the choice, one line a tier."""
        return "\n".join(self.reasons)


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
    if tier != "auto" and tier not in TIERS:
        raise InputError(f"tier is {tier!r}; expected auto, {', '.join(TIERS)}")
    obstacles = {name: obstacle(backend, name, hidden_size, dtype, options) for name in TIERS}
    if tier != "auto" and obstacles[tier]:
        raise BackendError(f"tier {tier} can't run on backend {backend.name}: {obstacles[tier]}")
    chosen = tier if tier != "auto" else [name for name in TIERS if not obstacles[name]][-1]
    widened = ARITHMETIC[dtype] != dtype and not (isinstance(backend, CudaBackend) and chosen != "reference")
    reasons = []
    for name in reversed(TIERS):
        if name == chosen:
            kind = "the fastest that runs here" if tier == "auto" else "asked for by name"
            extra = (
                "" if name == "reference" else _described(backend, name, hidden_size, dtype, tier == "auto", options)
            )
            extra = f" ({extra})" if extra else ""
            extra += f"; it computes in float32 and rounds to {dtype}" if widened else ""
            reasons.append(f"{name}: chosen, {kind}{extra}")
        elif obstacles[name]:
            reasons.append(f"{name}: can't run: {obstacles[name]}")
        else:
            reasons.append(f"{name}: could run, but {'it is slower' if tier == 'auto' else f'{tier} was asked for'}")
    run = _RUNS[backend.kernels].get(chosen, reference)
    if run is sequence_cuda and tier == "auto":
        run = fastest_cuda
    if widened:
        run = Widened(run, dtype)
    return Plan(chosen, run, tuple(reasons))


def runnable_tiers(
    backend: Backend,
    hidden_size: int | None = None,
    dtype: str = "float32",
    options: frozenset[str] = frozenset(),
) -> list[str]:
    """The tiers that run on this backend and machine, with those options, the fastest last."""
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
    if tier not in _RUNS[backend.kernels]:
        return f"backend {backend.name} has no kernels for it"
    untaken = options - _RUNS[backend.kernels][tier].TAKES
    if untaken:
        return f"it does not take {', '.join(sorted(untaken))}"
    if isinstance(backend, CudaBackend):
        return (
            onchip.obstacle(backend.limits, hidden_size or 1, onchip.multiplied(backend, dtype), options)
            if tier == "sequence"
            else ""
        )
    return compiled.missing()


def _described(
    backend: Backend, tier: str, hidden_size: int | None, dtype: str, auto: bool, options: frozenset[str]
) -> str:
    """The kernels, for people."""
    if not isinstance(backend, CudaBackend):
        return compiled.describe()
    dtype = onchip.multiplied(backend, dtype)
    if tier == "pointwise":
        return f"fused CUDA kernels, cuBLAS at each step{' in TF32' if dtype == 'tf32' else ''}"
    if hidden_size is None:
        most = onchip.largest(backend.limits, dtype)
        return f"persistent CUDA kernels that keep W_hh on chip, up to H = {most} in {dtype}"
    batch = onchip.TYPICAL_BATCH
    plan = onchip.explain(backend.limits, batch, hidden_size, dtype, options)
    said = f"persistent CUDA kernels that keep W_hh on chip; at H = {hidden_size}, B = {batch}, {dtype}, {plan}"
    if not auto:
        return said
    batches = {
        name: onchip.most_that_pays(backend.limits, name, hidden_size, dtype, onchip.cells_of(name, options))
        for name in onchip.DIRECTIONS
    }
    ends = [f"B = {batch} {name}" for name, batch in batches.items() if batch < onchip.LARGEST_BATCH]
    return f"{said}; larger batches than {' and '.join(ends)} take the pointwise tier" if ends else said
