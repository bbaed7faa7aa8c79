"""Ours against one peer at one size, with the machine's own limit among them: what the compare scripts share."""

from __future__ import annotations

import statistics
from typing import Any

from gpu_lstm.backend import NumpyBackend
from gpu_lstm.bench import limits, peers, sweep
from gpu_lstm.bench.grid import Size
from gpu_lstm.bench.machine import Machine
from gpu_lstm.bench.method import Patience, Times, compared, interleave, milliseconds
from gpu_lstm.bench.problem import Problem, Step
from gpu_lstm.recurrence import make_plan


def sides(tier: str, peer: str) -> list[peers.Side]:
    """Our tier, called ``ours``, and a peer, called ``theirs``."""
    named = make_plan(NumpyBackend(), tier).tier
    found = (peers.our_sides(NumpyBackend(), [named])[0], peers.choose([peer])[0])
    return [
        peers.Side(name, side.about, side.make, kinds=side.kinds, dtypes=side.dtypes)
        for name, side in zip(("ours", "theirs"), found, strict=True)
    ]


def checked(size: Size, kind: str, tier: str, peer: str) -> tuple[dict[str, Step], dict[str, float], str]:
    """Steps of both sides on the same fresh inputs, their errors against float64, and what is wrong, if anything."""
    results, steps = sweep.check(Problem(size, kind), sides(tier, peer))
    wrong = "; ".join(f"{name} {result['remark']}" for name, result in results.items() if "remark" in result)
    return steps, {name: result["error"] for name, result in results.items()}, wrong


class Limit:
    """The machine's own rate in a large product, timed among the sides."""

    def __init__(self) -> None:
        self.machine = Machine(NumpyBackend(), "float32")
        self.machine.measure(Patience())

    @property
    def step(self) -> Any:
        """The product of the library that has the fastest."""
        return self.machine.products[self.machine.product_by]

    def gflops(self, times: Times) -> float:
        """Rate from the times of ``sgemm``."""
        return 2 * self.machine.side**3 / statistics.median(times["sgemm"]) / 1e9


def measure(size: Size, kinds: tuple[str, ...], tier: str, peer: str, rounds: int, limit: Limit) -> dict[str, Any]:
    """Interleaved times of both sides at one size, for each kind of work; ``wrong`` says why there are none."""
    steps: dict[str, Step] = {"sgemm": limit.step}
    errors = {}
    for kind in kinds:
        made, errors[kind], wrong = checked(size, kind, tier, peer)
        if wrong:
            return {"size": size, "tier": tier, "errors": errors, "wrong": wrong}
        steps |= {f"{name} {kind}": step for name, step in made.items()}
    times = interleave(steps, rounds)
    peak = limit.gflops(times)
    point: dict[str, Any] = {"size": size, "tier": tier, "sgemm_gflops": peak, "sgemm_by": limit.machine.product_by}
    for kind in kinds:
        comparison = compared(times, f"ours {kind}", f"theirs {kind}")
        gflops = limits.product_flops(size, kind) / milliseconds(comparison)[0] / 1e6
        point[kind] = {**comparison, "gflops": gflops, "share_of_sgemm": gflops / peak, "errors": errors[kind]}
    return point
