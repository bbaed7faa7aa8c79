"""Everything that waits for a GPU: tests, sanitizers, bandwidth, layers and models against PyTorch; one dated record.

    python -m benchmarks.run_on_gpu                    # writes benchmarks/results/gpu_DATE.json, in about half an hour
    python -m benchmarks.run_on_gpu --only tests sanitizers               # or in four calls of at most ten minutes:
    python -m benchmarks.run_on_gpu --only bandwidth training model graph shapes
    python -m benchmarks.run_on_gpu --only sequence beside soak
    python -m benchmarks.run_on_gpu --only options bench
    python -m benchmarks.run_on_gpu --only soak --seconds 3600            # an hour of it

Runs from a bare checkout, without a network: it needs CuPy, for the tests pytest, for the comparisons PyTorch with
CUDA, for the sanitizers compute-sanitizer; what is missing is recorded as such. Each part has so many seconds (--help
names them) and takes what tells most first; what there was no time for is counted in the record. A part that fails
doesn't stop the others; exit status 1 says that one did.

Bandwidth: launches of one kernel are recorded in a CUDA graph and timed by events, over arrays larger than the L2
cache; beside it the same for a copy in device memory. Layers and models: sides alternate, device events around each
step; results are compared before (`benchmarks.sequence_on_gpu`, `benchmarks.compare_model`). Graph: whole training
steps, replayed as a CUDA graph and launch by launch (`benchmarks.graph_on_gpu`).
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import compare_model, graph_on_gpu, sequence_on_gpu, variants_on_gpu
from benchmarks.gpu_model import CELLS, bytes_of
from benchmarks.on_gpu import Budget, Record, alternating
from gpu_lstm.backend import Backend, CupyBackend, kernels
from gpu_lstm.bench import record as records
from gpu_lstm.bench.method import WallClock
from gpu_lstm.errors import BackendError
from gpu_lstm.recurrence import runnable_tiers

ROOT = Path(__file__).resolve().parents[1]
TESTS = [
    "test_cuda_recurrence.py",
    "test_cuda_sequence.py",
    "test_cuda_step.py",
    "test_cuda_options.py",
    "test_cuda_variants.py",
    "test_cuda_stack.py",
    "test_cupy_graph.py",
    "test_mixed.py",
    "test_backend.py",
    "test_lstm.py",
    "test_teaching.py",
]
HEADLINE = sequence_on_gpu.Case(128, 64, 512, 512)
WANTED = {"copy_share": 0.8, "reference_over_pointwise": 3.0}
"""What the kernels are expected to reach: share of a copy's bandwidth, and times faster than plain CuPy."""


# -- time -------------------------------------------------------------------------------------------------------------


def device_seconds(backend: Backend, work: Callable[[], object], rounds: int) -> float:
    """Median seconds that the device takes for what `work` asks of it, launches only; wall-clock off a GPU."""
    if not isinstance(backend, CupyBackend):
        clock = WallClock(backend.synchronize)
        return statistics.median(clock.seconds(work) for _ in range(rounds))
    cuda = backend.xp.cuda
    stream = cuda.Stream(non_blocking=True)
    work()  # compiles what has to be compiled
    backend.synchronize()
    times = []
    with stream:
        stream.begin_capture()
        work()
        graph = stream.end_capture()
        for _ in range(rounds + 1):
            start, end = cuda.Event(), cuda.Event()
            start.record(stream)
            graph.launch(stream)
            end.record(stream)
            end.synchronize()
            times.append(cuda.get_elapsed_time(start, end) / 1e3)
    return float(statistics.median(times[1:]))


# -- parts ------------------------------------------------------------------------------------------------------------


def bandwidth(backend: Backend, budget: Budget, cells: int = CELLS, steps: int = 8) -> Record:
    """Bytes per second of the gate kernels, in each storage type, and of a copy; `cells` is B H of one step."""
    rounds = budget.rounds
    copied = 2 * cells * steps * 16 / device_seconds(backend, copy_launch(backend, cells * steps * 16), rounds)
    points: list[Record] = []
    for dtype in kernels.STORAGE:
        try:
            launches = gate_launches(backend, dtype, cells, steps)
        except BackendError as error:  # no ml_dtypes
            points.append({"dtype": dtype, "missing": str(error)})
            continue
        for name, launch in launches.items():
            seconds = device_seconds(backend, launch, rounds)
            moved = bytes_of(name, dtype) * cells * steps / seconds
            point = {"dtype": dtype, "kernel": name, "cells": cells, "microseconds": seconds / steps * 1e6}
            points.append({**point, "bytes_per_second": moved, "share_of_copy": moved / copied})
            print(f"  {dtype:>8} {name:>9} {moved / 1e9:8.0f} GB/s, {moved / copied:4.0%} of a copy's", flush=True)
    shares = [point["share_of_copy"] for point in points if "share_of_copy" in point]
    return {"copy_bytes_per_second": copied, "points": points, "reached": min(shares) >= WANTED["copy_share"]}


def copy_launch(backend: Backend, size: int) -> Callable[[], object]:
    """A copy of that many bytes in device memory."""
    xp = backend.xp
    source, target = xp.zeros((size,), dtype=xp.uint8), xp.zeros((size,), dtype=xp.uint8)
    return lambda: xp.copyto(target, source)


def gate_launches(backend: Backend, dtype: str, cells: int, steps: int) -> dict[str, Callable[[], object]]:
    """One launch a step, each on other memory, of each gate kernel."""
    hidden = 1024 if cells % 1024 == 0 else 8
    batch = cells // hidden
    state = kernels.ARITHMETIC[dtype]

    def array(leading: tuple[int, ...], width: int, kind: str) -> Any:
        return backend.xp.full((*leading, batch, width), 0.5, dtype=backend.dtype(kind))

    z, dy = array((steps,), 4 * hidden, dtype), array((steps,), hidden, dtype)
    h, c = array((steps + 1,), hidden, dtype), array((steps + 1,), hidden, state)
    dh, dc = array((), hidden, state), array((), hidden, state)
    width = kernels.neighbours(dtype)
    grid, block = (-(-cells // width // kernels.BLOCK),), (kernels.BLOCK,)
    sizes = np.uint32(batch), np.uint32(hidden)
    training, inference = (backend.kernel(kernels.gates_forward(dtype, width, keep, False)) for keep in (True, False))
    backward = backend.kernel(kernels.gates_backward(dtype, width, False))
    slots = [tuple(map(np.int64, (t, t, t + 1))) for t in range(steps)]

    def each(launch: kernels.Launch, arguments: list[tuple[Any, ...]]) -> None:
        for args in arguments:
            launch(grid, block, args)

    first = np.int64(0), np.int64(0)
    return {
        "training": lambda: each(training, [(z, h, c, None, *s, *s[1:], *sizes) for s in slots]),
        "inference": lambda: each(inference, [(z, h, c, None, *s, *first, *sizes) for s in slots]),
        "backward": lambda: each(backward, [(z, c, dy, dh, dc, None, *s, *sizes) for s in slots]),
    }


def training(backend: Backend, budget: Budget, case: sequence_on_gpu.Case = HEADLINE) -> Record:
    """One training step of every tier against the reference tier, which is plain array expressions."""
    tiers = runnable_tiers(backend, case.hidden, case.dtype)
    sides = {tier: sequence_on_gpu.Ours(backend, case, tier=tier) for tier in tiers}
    expected = {name: backend.widened(array) for name, array in sides["reference"].step().items()}
    differences = {
        tier: sequence_on_gpu.disagreement(backend, side.step(), expected, case) for tier, side in sides.items()
    }
    times, medians = alternating(backend, {tier: side.step for tier, side in sides.items()}, budget)
    ratio = {tier: medians["reference"] / value for tier, value in medians.items()}
    return {
        "size": str(case),
        **times,
        "times_faster_than_reference": ratio,
        "largest_relative_difference": differences,
        "reached": ratio[tiers[-1]] >= WANTED["reference_over_pointwise"],
    }


def run_command(command: list[str], seconds: float | None = None) -> Record:
    """Exit status, last line and seconds of a command; one that takes longer is asked to stop, then made to."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    stopped = False
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        stopped = True
        process.send_signal(signal.SIGINT)
        try:
            said, _ = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
    lines = said.strip().splitlines()
    record: Record = {
        "command": " ".join(command),
        "status": process.returncode,
        "seconds": time.perf_counter() - begun,
    }
    if stopped:
        record["stopped"] = f"after {seconds:.0f} s, its time"
    return record | {"said": lines[-1:] if process.returncode == 0 else lines[-40:]}


def pytest_command() -> list[str]:
    """The tests that have a case for a GPU."""
    # Warnings of other versions than those that CI has are no failures here.
    return [sys.executable, "-m", "pytest", "-q", "-W", "default", "-m", "gpu", *(f"tests/{name}" for name in TESTS)]


def tests(backend: Backend, budget: Budget) -> Record:
    """pytest -m gpu, and the checks of the command line."""
    check = [sys.executable, "-m", "gpu_lstm", "check", "--backend", backend.name]
    record: Record = {"check": run_command(check, budget.left)}
    if importlib.util.find_spec("pytest") is None:
        return {**record, "missing": "pytest is not installed"}
    return {**record, "pytest": run_command(pytest_command(), budget.left)}


def sanitizers(backend: Backend, budget: Budget) -> Record:
    """The kernels' tests under compute-sanitizer: memory errors, then races in shared memory."""
    del backend
    program = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if program is None or importlib.util.find_spec("pytest") is None:
        return {"missing": "compute-sanitizer or pytest is not installed"}
    small = [*pytest_command()[: -len(TESTS)], *(f"tests/{name}" for name in TESTS[:3]), "-k", "not same_bits"]
    record: Record = {}
    for turns, tool in ((2, "memcheck"), (1, "racecheck")):
        command = [program, "--tool", tool, "--error-exitcode", "9", "--target-processes", "all", *small]
        record[tool] = run_command(command, budget.left / turns)
    return record


def bench(backend: Backend, budget: Budget) -> Record:
    """`gpu-lstm bench` on this device beside every peer that is installed: its record, as far as there is time."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "gpu_lstm", "bench", "--grid", "full", "--backend", backend.name]
        record: Record = {"bench": run_command([*command, "--out", folder], budget.left)}
        path = Path(folder) / "record.json"
        if path.exists():
            record["bench"]["command"] = " ".join(command)
            record["record"] = records.read(path)
            if "stopped" in record["bench"] and record["record"]["points"]:
                record["bench"]["status"] = 0  # it left what it had, as it should
    return record


PARTS: dict[str, tuple[Callable[[Backend, Budget], Record], float]] = {
    "tests": (tests, 300),
    "sanitizers": (sanitizers, 240),
    "bandwidth": (bandwidth, 45),
    "training": (training, 30),
    "model": (compare_model.on_gpu, 150),
    "graph": (graph_on_gpu.graph_against_launches, 40),
    "shapes": (sequence_on_gpu.shapes_against_torch, 240),
    "sequence": (sequence_on_gpu.against_torch, 420),
    "beside": (sequence_on_gpu.beside, 30),
    "options": (variants_on_gpu.on_gpu, 60),
    "soak": (sequence_on_gpu.soak, 120),
    "bench": (bench, 300),
}
"""Each part, and how many seconds it gets."""


# -- the record -------------------------------------------------------------------------------------------------------


def failed(part: Record) -> bool:
    """Whether a part broke or a command of it did; a speed that was not reached is no failure."""
    return "error" in part or any(isinstance(v, dict) and v.get("status", 0) != 0 for v in part.values())


def run(backend: Backend, parts: list[str], rounds: int, out: Path, seconds: float | None = None) -> Record:
    """Run the parts, one record; it is written after each, so that none is lost."""
    command = records.command_line("python -m benchmarks.run_on_gpu")
    record: Record = records.provenance(command, ("numpy", "torch", "ml_dtypes")) | {"gpu": backend.describe()}
    for name in parts:
        part, limit = PARTS[name]
        limit = limit if seconds is None else seconds
        print(f"== {name}, at most {limit:.0f} s", flush=True)
        begun = time.perf_counter()
        try:
            record[name] = part(backend, Budget(rounds, limit))
        except Exception as error:  # the other parts go on
            record[name] = {"error": f"{type(error).__name__}: {error}"}
        record[name]["took_seconds"] = time.perf_counter() - begun
        print("  " + summary(record[name]), flush=True)
        records.write(record, out)
    return record


def summary(part: Record) -> str:
    """A part's outcome in a line."""
    said = [f"{key}: {part[key]}" for key in ("error", "missing") if key in part]
    if "reached" in part:
        said.append(f"{'reached' if part['reached'] else 'not reached'} what is expected")
    if "geometric_mean_ratio" in part:
        said.append(f"geometric mean of the ratios {part['geometric_mean_ratio']:.2f}")
    if part.get("left_out"):
        said.append(f"no time for {part['left_out']} points")
    said += [f"{k}: status {v['status']}" for k, v in part.items() if isinstance(v, dict) and "status" in v]
    return "; ".join([*said, f"{part['took_seconds']:.0f} s"])


def main() -> int:
    """Run what is asked for; 2 where there is no GPU, 1 where a part failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=int, default=0, help="CUDA device number")
    parts = ", ".join(f"{name} {seconds:.0f} s" for name, (_, seconds) in PARTS.items())
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help=f"some of: {parts}")
    parser.add_argument("--seconds", type=float, help="for each part, in place of its own number")
    parser.add_argument("--rounds", type=int, default=15, help="timed steps of each side, at most")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/gpu_DATE.json")
    options = parser.parse_args()
    if options.rounds < 1 or options.device < 0 or (options.seconds is not None and not options.seconds > 0):
        parser.error("--rounds must be at least 1, --device at least 0 and --seconds above 0")
    try:
        backend = CupyBackend(options.device)
    except BackendError as error:
        print(f"run_on_gpu: {error}", file=sys.stderr)
        return 2
    out = options.out or ROOT / "benchmarks" / "results" / f"gpu_{datetime.now(UTC):%Y-%m-%d_%H%M}.json"
    record = run(backend, options.only, options.rounds, out, options.seconds)
    print(f"written: {out}")
    return int(any(failed(record[name]) for name in options.only))


if __name__ == "__main__":
    sys.exit(main())
