"""Everything that waits for a GPU, in one command: tests, sanitizers, bandwidth, training steps; one dated record.

    python -m benchmarks.run_on_gpu                    # writes benchmarks/results/gpu_DATE.json
    python -m benchmarks.run_on_gpu --only bandwidth training

Runs from a bare checkout, without a network: it needs CuPy, for the tests pytest, for the comparison PyTorch with CUDA,
for the sanitizers compute-sanitizer; what is missing is recorded as such. A part that fails doesn't stop the others;
exit status 1 says that one did.

Bandwidth: launches of one kernel are recorded in a CUDA graph and timed by events, over arrays larger than the L2
cache; beside it the same for a copy in device memory. Training steps: forward and backward of one layer, sides
alternating, medians, wall-clock time up to the device's end; results are compared before.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import sequence_on_gpu
from benchmarks.gpu_model import CELLS, bytes_of
from gpu_lstm.backend import Backend, CupyBackend, kernels
from gpu_lstm.bench.grid import STANDARD as SIZES
from gpu_lstm.bench.grid import Size
from gpu_lstm.bench.peers import installed
from gpu_lstm.bench.record import write
from gpu_lstm.errors import BackendError
from gpu_lstm.layers import LSTM
from gpu_lstm.recurrence import runnable_tiers

ROOT = Path(__file__).resolve().parents[1]
TESTS = [
    "test_cuda_recurrence.py",
    "test_cuda_sequence.py",
    "test_cuda_step.py",
    "test_backend.py",
    "test_lstm.py",
    "test_teaching.py",
]
HEADLINE: Size = (128, 64, 512, 512)
WANTED = {"copy_share": 0.8, "reference_over_pointwise": 3.0}
"""What the kernels are expected to reach: share of a copy's bandwidth, and times faster than plain CuPy."""
TOLERANCE = 1e-3
"""Largest relative difference of results: sums over thousands of float32 numbers in different orders."""

Record = dict[str, Any]


# -- time -------------------------------------------------------------------------------------------------------------


def device_seconds(backend: Backend, work: Callable[[], object], rounds: int) -> float:
    """Median seconds that the device takes for what `work` asks of it, launches only; wall-clock off a GPU."""
    if not isinstance(backend, CupyBackend):
        return wall_seconds(backend, work, rounds)
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


def wall_seconds(backend: Backend, work: Callable[[], object], rounds: int) -> float:
    """Median seconds until the device has done what `work` asks of it."""
    times = []
    for _ in range(rounds + 1):
        backend.synchronize()
        begun = time.perf_counter()
        work()
        backend.synchronize()
        times.append(time.perf_counter() - begun)
    return statistics.median(times[1:])


def alternating(backend: Backend, sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each side; a round runs them one after the other."""
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, step in sides.items():
            times[side].append(wall_seconds(backend, step, 1))
    return {side: statistics.median(values) for side, values in times.items()}


# -- parts ------------------------------------------------------------------------------------------------------------


def bandwidth(backend: Backend, rounds: int, cells: int = CELLS, steps: int = 8) -> Record:
    """Bytes per second of the gate kernels, in each storage type, and of a copy; `cells` is B H of one step."""
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


def our_step(backend: Backend, size: Size, tier: str) -> tuple[LSTM, Callable[[], dict[str, Any]]]:
    """A layer, and forward and backward of it on fixed data: outputs and gradients on the device."""
    steps, batch, input_size, hidden_size = size
    rng = np.random.default_rng(0)
    x = backend.asarray(rng.standard_normal((steps, batch, input_size), dtype=np.float32))
    dy = backend.asarray(rng.standard_normal((steps, batch, hidden_size), dtype=np.float32))
    lstm = LSTM(input_size, hidden_size, backend=backend, tier=tier)

    def step() -> dict[str, Any]:
        y, _, tape = lstm.forward(x)
        dx, _, gradients = lstm.backward(tape, dy)
        return {"y": y, "dx": dx, **gradients}

    return lstm, step


def disagreement(backend: Backend, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> float:
    """Largest relative difference of all results."""
    worst = 0.0
    for name, expected in theirs.items():
        there = backend.to_numpy(expected) if backend.owns(expected) else np.asarray(expected.cpu())
        worst = max(worst, float(np.max(np.abs(backend.to_numpy(ours[name]) - there)) / np.max(np.abs(there))))
    if not worst < TOLERANCE:
        raise RuntimeError(f"results differ by {worst:.1e}; expected less than {TOLERANCE:.0e}")
    return worst


def training(backend: Backend, rounds: int, size: Size = HEADLINE) -> Record:
    """One training step of every tier against the reference tier, which is plain array expressions."""
    tiers = runnable_tiers(backend)
    steps = {tier: our_step(backend, size, tier)[1] for tier in tiers}
    reference = steps["reference"]()
    differences = {tier: disagreement(backend, step(), reference) for tier, step in steps.items()}
    seconds = alternating(backend, steps, rounds)
    ratio = {tier: seconds["reference"] / value for tier, value in seconds.items()}
    return {
        "size": size,
        "seconds": seconds,
        "times_faster_than_reference": ratio,
        "largest_relative_difference": differences,
        "reached": ratio[tiers[-1]] >= WANTED["reference_over_pointwise"],
    }


def against_torch(backend: Backend, rounds: int, sizes: list[Size] | None = None) -> Record:
    """One training step against torch.nn.LSTM (cuDNN), float32 without TF32, over the grid of the CPU benchmark."""
    if importlib.util.find_spec("torch") is None:
        return {"missing": "PyTorch is not installed"}
    import torch

    if not torch.cuda.is_available():
        return {"missing": f"PyTorch {torch.__version__} has no CUDA here"}
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    points: list[Record] = []
    for size in sizes or [*SIZES, HEADLINE]:
        lstm, ours = our_step(backend, size, "auto")
        theirs = torch_step(backend, lstm, size)
        difference = disagreement(backend, ours(), theirs())
        seconds = alternating(backend, {"ours": ours, "torch": theirs}, rounds)
        points.append(
            {
                "size": size,
                "tier": lstm.plan.tier,
                "seconds": seconds,
                "ratio": seconds["torch"] / seconds["ours"],
                "largest_relative_difference": difference,
            }
        )
        print(
            f"  {size!s:>22} ours {seconds['ours'] * 1e3:8.3f} ms, torch {seconds['torch'] * 1e3:8.3f} ms", flush=True
        )
    mean = statistics.geometric_mean(point["ratio"] for point in points)
    cudnn = torch.backends.cudnn.version()
    return {"torch": torch.__version__, "cudnn": cudnn, "points": points, "geometric_mean_ratio": mean}


def torch_step(backend: Backend, ours: LSTM, size: Size) -> Callable[[], dict[str, Any]]:
    """torch.nn.LSTM with the same weights and data."""
    import torch

    steps, batch, input_size, hidden_size = size
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((steps, batch, input_size), dtype=np.float32)).cuda().requires_grad_()
    dy = torch.from_numpy(rng.standard_normal((steps, batch, hidden_size), dtype=np.float32)).cuda()
    lstm: Any = torch.nn.LSTM(input_size, hidden_size).cuda()
    params = {name: torch.from_numpy(backend.to_numpy(param)).cuda() for name, param in ours.params.items()}
    with torch.no_grad():
        for name in ("weight_ih_l0", "weight_hh_l0"):
            getattr(lstm, name).copy_(params[name])
        lstm.bias_ih_l0.copy_(params["bias_l0"])
        lstm.bias_hh_l0.zero_()

    def step() -> dict[str, Any]:
        lstm.zero_grad()
        x.grad = None
        y, _ = lstm(x)
        y.backward(dy)
        torch.cuda.synchronize()
        weights = {name: getattr(lstm, name).grad for name in ("weight_ih_l0", "weight_hh_l0")}
        return {"y": y.detach(), "dx": x.grad, **weights, "bias_l0": lstm.bias_ih_l0.grad}

    return step


def run_command(command: list[str]) -> Record:
    """Exit status, last line and seconds of a command."""
    begun = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = (done.stdout + done.stderr).strip().splitlines()
    record: Record = {"command": " ".join(command), "status": done.returncode, "seconds": time.perf_counter() - begun}
    record["said"] = lines[-1:] if done.returncode == 0 else lines[-40:]
    return record


def pytest_command() -> list[str]:
    """The tests that have a case for a GPU."""
    # Warnings of other versions than those that CI has are no failures here.
    return [sys.executable, "-m", "pytest", "-q", "-W", "default", "-m", "gpu", *(f"tests/{name}" for name in TESTS)]


def tests(backend: Backend, rounds: int) -> Record:
    """pytest -m gpu, and the checks of the command line."""
    del rounds
    record: Record = {"check": run_command([sys.executable, "-m", "gpu_lstm", "check", "--backend", backend.name])}
    if importlib.util.find_spec("pytest") is None:
        return {**record, "missing": "pytest is not installed"}
    return {**record, "pytest": run_command(pytest_command())}


def sanitizers(backend: Backend, rounds: int) -> Record:
    """The kernels' tests under compute-sanitizer: memory errors, then races in shared memory."""
    del backend, rounds
    program = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if program is None or importlib.util.find_spec("pytest") is None:
        return {"missing": "compute-sanitizer or pytest is not installed"}
    small = [*pytest_command()[: -len(TESTS)], *(f"tests/{name}" for name in TESTS[:3]), "-k", "not same_bits"]
    return {
        tool: run_command([program, "--tool", tool, "--error-exitcode", "9", "--target-processes", "all", *small])
        for tool in ("memcheck", "racecheck")
    }


PARTS: dict[str, Callable[[Backend, int], Record]] = {
    "tests": tests,
    "sanitizers": sanitizers,
    "bandwidth": bandwidth,
    "training": training,
    "torch": against_torch,
    "sequence": sequence_on_gpu.against_torch,
    "soak": sequence_on_gpu.soak,
}


# -- the record -------------------------------------------------------------------------------------------------------


def provenance(backend: Backend) -> Record:
    """Device, versions, date, revision and command."""
    git = shutil.which("git")
    revision = ""
    if git:
        command = [git, "describe", "--always", "--dirty"]
        revision = subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout.strip()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **backend.describe(),
        "python": platform.python_version(),
        **{package: installed(package) for package in ("numpy", "torch", "ml_dtypes")},
        "revision": revision or "unknown",
        "command": " ".join(["python -m benchmarks.run_on_gpu", *sys.argv[1:]]),
    }


def failed(part: Record) -> bool:
    """Whether a part broke or a command of it did; a speed that was not reached is no failure."""
    return "error" in part or any(isinstance(v, dict) and v.get("status", 0) != 0 for v in part.values())


def run(backend: Backend, parts: list[str], rounds: int, out: Path) -> Record:
    """Run the parts, one record; it is written after each, so that none is lost."""
    record: Record = provenance(backend)
    for name in parts:
        print(f"== {name}", flush=True)
        try:
            record[name] = PARTS[name](backend, rounds)
        except Exception as error:  # the other parts go on
            record[name] = {"error": f"{type(error).__name__}: {error}"}
        print("  " + summary(record[name]), flush=True)
        write(record, out)
    return record


def summary(part: Record) -> str:
    """A part's outcome in a line."""
    for key in ("error", "missing"):
        if key in part:
            return f"{key}: {part[key]}"
    if "reached" in part:
        return f"{'reached' if part['reached'] else 'not reached'} what is expected"
    if "geometric_mean_ratio" in part:
        return f"geometric mean of the ratios {part['geometric_mean_ratio']:.2f}"
    return ", ".join(f"{k}: status {v['status']}" for k, v in part.items() if isinstance(v, dict) and "status" in v)


def main() -> int:
    """Run what is asked for; 2 where there is no GPU, 1 where a part failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=int, default=0, help="CUDA device number")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="some of the parts")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/gpu_DATE.json")
    options = parser.parse_args()
    if options.rounds < 1 or options.device < 0:
        parser.error("--rounds must be at least 1 and --device at least 0")
    try:
        backend = CupyBackend(options.device)
    except BackendError as error:
        print(f"run_on_gpu: {error}", file=sys.stderr)
        return 2
    out = options.out or ROOT / "benchmarks" / "results" / f"gpu_{datetime.now(UTC):%Y-%m-%d_%H%M}.json"
    record = run(backend, options.only, options.rounds, out)
    print(f"written: {out}")
    return int(any(failed(record[name]) for name in options.only))


if __name__ == "__main__":
    sys.exit(main())
