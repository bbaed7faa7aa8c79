"""Memory: what the machine has, and what one training step takes at its peak, in a process of its own.

    python -m gpu_lstm.bench.memory SIDE T B D H DTYPE BACKEND [OPTION ...]      prints bytes

On a CPU the figure is the growth of the peak resident set during the second of two steps (the first, a small one,
loads libraries and starts threads), so it counts every allocation that was touched, compiled code's too, in pages of
4 KB. On a GPU it is what the allocator holds more after the step than before (CuPy's pool) or held at its peak
(PyTorch's caching allocator).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpu_lstm.backend import Backend, choose
from gpu_lstm.bench import peers
from gpu_lstm.bench.grid import Size
from gpu_lstm.bench.limits import ITEM
from gpu_lstm.bench.problem import Problem, parse_options
from gpu_lstm.native.pool import POOL
from gpu_lstm.training.memory import step_of_layer

RESERVE = 0.9
"""Share of the free memory that a step may take."""


def needed(size: Size, dtype: str) -> float:
    """Bytes that measuring a point takes, by the model: oracle, inputs, and a side that holds three times ours."""
    steps, batch, d, h = size
    data = steps * batch * (d + h) + 2 * 4 * h * (d + h + 1)
    ours, oracle = step_of_layer(size, dtype), step_of_layer(size, "float64")
    return max(oracle + 8 * data, 3 * ours + ITEM["float64"] * data + 2 * ITEM[dtype] * data)


def obstacle(size: Size, dtype: str, backend: Backend) -> str:
    """Why a point can't be measured here for want of memory; empty where it can."""
    need, have = needed(size, dtype), backend.memory()
    if have is None:
        return ""
    return "" if need <= RESERVE * have else f"needs about {need / 1e9:.1f} GB of memory; {have / 1e9:.1f} GB are free"


def peak(
    side: str, size: Size, dtype: str = "float32", backend: str = "numpy", options: tuple[str, ...] = ()
) -> int | None:
    """Bytes that one training step of a side takes at its peak; None where the system doesn't tell."""
    arguments = [side, *map(str, size), dtype, backend, *options]
    command = [sys.executable, "-m", "gpu_lstm.bench.memory", *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    return int(result.stdout) if result.returncode == 0 and result.stdout.strip().isdigit() else None


def measure(name: str, size: Size, dtype: str, backend: Backend, options: tuple[str, ...] = ()) -> int:
    """Growth of this process's peak during one training step."""
    ours = {side.name: side for side in peers.our_sides(backend)}
    side = ours.get(name) or peers.choose([name])[0]
    problem = Problem(size, "training", dtype, backend, parse_options(options))
    step = side.make(problem)
    side.make(replace(problem, size=(2, 1, *size[2:])))()  # libraries load and start their threads here
    if problem.on_gpu:
        return _gpu_growth(name, step, backend)
    give_back_free_memory()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
    results = step()
    grown = resident("VmHWM") - before
    del results
    return grown


def give_back_free_memory() -> None:
    """Hand what is free inside this process back to the system, else a step would take it unseen (glibc only)."""
    gc.collect()
    POOL.clear()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _gpu_growth(name: str, step: Any, backend: Backend) -> int:
    """The same on a GPU, as the side's own allocator tells it."""
    if name.startswith("torch"):
        cuda = importlib.import_module("torch").cuda
        cuda.synchronize()
        cuda.reset_peak_memory_stats()
        before = cuda.memory_allocated()
        step()
        cuda.synchronize()
        return int(cuda.max_memory_allocated() - before)
    pool = backend.xp.get_default_memory_pool()
    pool.free_all_blocks()
    before = pool.total_bytes()
    step()
    backend.read()
    return int(pool.total_bytes() - before)


def resident(field: str) -> int:
    """A line of this process's memory status, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {field} in /proc/self/status")


def main() -> None:
    """Measure in this process and write the bytes to standard output."""
    name, *numbers = sys.argv[1:6]
    dtype, backend, *options = sys.argv[6:]
    steps, batch, d, h = map(int, numbers)
    sys.stdout.write(f"{measure(name, (steps, batch, d, h), dtype, choose(backend), tuple(options))}\n")


if __name__ == "__main__":
    main()
