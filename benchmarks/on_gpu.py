"""What the parts of `benchmarks.run_on_gpu` share: their budget of time, and times of several sides."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gpu_lstm.backend import Backend
from gpu_lstm.bench.method import Clock, clock_for, spread

Record = dict[str, Any]
Item = TypeVar("Item")


@dataclass
class Budget:
    """How long a part may take, from when this is made.

    Attributes
    ----------
    rounds : int
        Timed steps of each side, at most.
    seconds : float
        A part starts nothing new after them, and stops commands that it runs.
    """

    rounds: int = 15
    seconds: float = float("inf")
    begun: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds that are left, 0 at least."""
        return max(0.0, self.begun + self.seconds - time.monotonic())

    def within(self, items: Sequence[Item], record: Record) -> Iterator[Item]:
        """The items as long as there is time; ``record["left_out"]`` says how many there was none for."""
        for number, item in enumerate(items):
            record["left_out"] = len(items) - number
            if not self.left:
                return
            yield item
            record["left_out"] = len(items) - number - 1


def alternating(
    backend: Backend, sides: Mapping[str, Callable[[], object]], budget: Budget
) -> tuple[Record, dict[str, float]]:
    """Time sides in turns, each after an untimed step: a record with spread and clock, and the medians in seconds.

    On a GPU by events on the stream that CuPy and PyTorch share, the second-level cache overwritten before. Where
    time runs out, there are fewer rounds than wanted, one at least.
    """
    clock: Clock = clock_for(backend)
    times: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(budget.rounds):
        if number and not budget.left:
            break
        for side, step in sides.items():
            step()
            times[side].append(clock.seconds(step))
    found = {side: spread(values) for side, values in times.items()}
    rounds = len(next(iter(times.values())))
    return {"clock": clock.kind, "rounds": rounds, "seconds": found}, {s: f["median"] for s, f in found.items()}


def torch_here(backend: Backend) -> tuple[Any, str, str]:
    """PyTorch, the device it shares with `backend`, and an empty string; or None, "", and what is missing.

    float32 means float32 to it from then on: TF32 is off.
    """
    try:
        import torch
    except ImportError:
        return None, "", "PyTorch is not installed"
    on_gpu = backend.name.startswith("cupy")
    if on_gpu and not torch.cuda.is_available():
        return None, "", f"PyTorch {torch.__version__} has no CUDA here"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return torch, backend.name.replace("cupy", "cuda") if on_gpu else "cpu", ""
