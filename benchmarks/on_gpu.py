"""What the parts of `benchmarks.run_on_gpu` share: a record that grows item by item, and times of several sides."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gpu_lstm.backend import Backend
from gpu_lstm.bench.method import Clock, Patience, WallClock, clock_for, interleave, on_gpu, quartiles

Record = dict[str, Any]
BEGUN = "begun, and never ended"
"""The error of an item while it is measured; it stays where the process ends before the item does."""


def read(path: Path) -> Record:
    """A record, an empty one where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"parts": {}, "items": {}}


def write(record: Record, path: Path) -> None:
    """Write a record, an item a line. Another file takes its place, so that it is whole whenever this is killed."""
    groups = []
    for key, group in record.items():
        if key in ("parts", "items"):
            lines = (f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in group.items())
            groups.append(f" {json.dumps(key)}: {{\n" + ",\n".join(lines) + "\n }")
        else:
            groups.append(f" {json.dumps(key)}: {json.dumps(group)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    waiting = path.with_name(path.name + ".part")
    waiting.write_text("{\n" + ",\n".join(groups) + "\n}\n", encoding="utf-8")
    os.replace(waiting, path)


def failed(item: Record) -> bool:
    """Whether an item broke; a speed that was not reached is no failure."""
    return "error" in item


class Log:
    """What a part measures, written as soon as it is measured, and how long the part may take.

    An item that has a result is not measured again; one that failed, or for which something was missing, is by the
    next command, and not by another process of this one.

    Parameters
    ----------
    path : Path
        File of the record; it may have items of other parts.
    part : str
    backend : Backend
    run : str
        Which command this process belongs to.
    seconds : float
        After them, nothing new is begun.
    rounds : int
        Timed steps of each side, at most.
    rehearse : bool
        Sizes are tiny and times are those of the wall clock, which mean nothing.

    Attributes
    ----------
    left_out : list of str
        Items for which there was no time.
    """

    def __init__(
        self,
        path: Path,
        part: str,
        backend: Backend,
        run: str = "",
        seconds: float = float("inf"),
        rounds: int = 15,
        rehearse: bool = False,
    ):
        self.path, self.part, self.backend, self.run = path, part, backend, run
        self.rounds, self.rehearse = 1 if rehearse else rounds, rehearse
        self.end_of_time = time.monotonic() + seconds
        self.record = read(path)
        self.left_out: list[str] = []

    @property
    def left(self) -> float:
        """Seconds that are left, 0 at least."""
        return max(0.0, self.end_of_time - time.monotonic())

    @functools.cached_property
    def clock(self) -> Clock:
        """Device events, the second-level cache overwritten before; the wall clock in a rehearsal."""
        return WallClock(self.backend.read) if self.rehearse else clock_for(self.backend)

    # -- items ----------------------------------------------------------------------------------------------------

    def wants(self, name: str) -> bool:
        """Whether an item is to be measured now; where only time is lacking, it is noted as left out."""
        item = self.record["items"].get(self.key(name))
        there = item is not None and (item["run"] == self.run or not (failed(item) or "missing" in item))
        if not there and not self.left:
            self.left_out.append(name)
        return not there and self.left > 0

    def begin(self, name: str) -> None:
        """Note that an item is measured from now on."""
        self.since = time.monotonic()
        self.put(name, {"error": BEGUN})

    def end(self, name: str, result: Record) -> None:
        """Its result: `said` is told on a line, as `missing` and `error` are."""
        self.put(name, {"took": round(time.monotonic() - self.since, 3), **result})
        if line := result.get("error") or result.get("missing") or result.get("said"):
            print(f"  {name}: {line}", flush=True)

    def put(self, name: str, result: Record) -> None:
        """What there is of an item so far."""
        self.record["items"][self.key(name)] = {"run": self.run, **result}
        write(self.record, self.path)

    def drop(self, name: str) -> None:
        """Forget an item."""
        del self.record["items"][self.key(name)]

    def failures(self, beginning: str) -> list[str]:
        """Items that begin so and failed in an earlier command."""
        items = self.record["items"].items()
        found = (key for key, item in items if failed(item) and item["run"] != self.run)
        return [key.split("/", 1)[1] for key in found if key.startswith(self.key(beginning))]

    def key(self, name: str) -> str:
        """What it is called in the record, where `benchmarks.tables` can name it: without spaces."""
        return f"{self.part}/{name}".replace(" ", "_")

    def item(self, name: str, work: Callable[..., Record], *arguments: Any) -> Record:
        """Measure an item where it is wanted, and give what there is of it; one that fails stops no other.

        Raises
        ------
        SystemExit
            The device doesn't answer any more: another process must go on.
        """
        if self.wants(name):
            self.begin(name)
            try:
                result = work(*arguments)
            except Exception as error:  # PyTorch's and CuPy's are of many kinds
                result = {"error": f"{type(error).__name__}: {error}"}
            self.end(name, result)
            if failed(result):
                try:
                    self.backend.read()
                except Exception as error:  # CUDA's stay with the process
                    raise SystemExit(f"the device doesn't answer any more: {error}") from None
            self.backend.memory(release=True)  # CuPy and PyTorch don't see what the other one keeps
        found: Record = self.record["items"].get(self.key(name), {})
        return found

    def results(self) -> list[Record]:
        """Of all items of the part that have one."""
        items = self.record["items"].items()
        return [item for name, item in items if name.startswith(f"{self.part}/") and not failed(item)]

    def close(self) -> None:
        """Note that the part went through, and what it left out."""
        self.record["parts"][self.part] = {"left_out": self.left_out}
        write(self.record, self.path)

    # -- times ----------------------------------------------------------------------------------------------------

    def alternate(self, sides: Mapping[str, Callable[[], object]]) -> tuple[Record, dict[str, float]]:
        """Time sides in turns, each after an untimed step: spreads and clock, and the medians in seconds.

        As everything is measured, but nothing waits for a quiet machine. Where time runs out, there are fewer rounds
        than wanted, one at least.
        """
        clocks = dict.fromkeys(sides, self.clock)
        times = interleave(sides, self.rounds, Patience(0), clocks, lambda: not self.left)
        found = {side: quartiles(values) for side, values in times.items()}
        medians = {side: one["median"] for side, one in found.items()}
        return {"clock": self.clock.kind, "rounds": min(map(len, times.values())), "seconds": found}, medians


def torch_here(backend: Backend) -> tuple[Any, str, str]:
    """PyTorch, the device it shares with `backend`, and an empty string; or None, "", and what is missing.

    float32 means float32 to it from then on: TF32 is off.
    """
    try:
        import torch
    except ImportError:
        return None, "", "PyTorch is not installed"
    if on_gpu(backend) and not torch.cuda.is_available():
        return None, "", f"PyTorch {torch.__version__} has no CUDA here"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return torch, backend.name.replace("cupy", "cuda") if on_gpu(backend) else "cpu", ""
