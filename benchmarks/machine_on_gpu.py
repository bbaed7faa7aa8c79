"""What a device is, kernels compiled ahead, costs of waiting: parts of `benchmarks.run_on_gpu`."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.on_gpu import Log, Record, torch_here
from gpu_lstm.bench.peers import installed
from gpu_lstm.native import ahead, catalogue, kernels
from gpu_lstm.recurrence.cuda import costs as model
from gpu_lstm.recurrence.cuda import needed

PACKAGES = ("numpy", "cupy-cuda12x", "cupy-cuda13x", "cuda-bindings", "ml_dtypes", "torch", "pytest")
PUBLISHED_BARRIER = {"block": model.BARRIER, "cluster": 0.2, "grid": 1.7}
"""Microseconds. The kernels do without those of clusters, published as under 0.2, and of the grid, 1.2 to 2.2."""
PUBLISHED_READ = 180 / model.CLOCK
"""Microseconds of a read of another block's shared memory."""


def describe(backend: Any, log: Log) -> None:
    """The device, its limits as the planner has them, versions, and the state in which it was found."""
    found = backend.describe()
    versions = {package: version for package in PACKAGES if (version := installed(package))}
    said = ", ".join([found["device"], *(f"{package} {version}" for package, version in versions.items())])
    log.item("device", lambda: {**found, "versions": versions, "said": said})
    limits = asdict(backend.limits)
    log.item("limits", lambda: {**limits, "said": ", ".join(f"{key} {value}" for key, value in limits.items())})
    log.item("state", state)


def state() -> Record:
    """Driver, clocks, temperature and power, as nvidia-smi has them."""
    asked = "driver_version,clocks.sm,clocks.mem,clocks.max.sm,temperature.gpu,power.draw,utilization.gpu"
    if shutil.which("nvidia-smi") is None:
        return {"missing": "nvidia-smi is not there"}
    command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    return {"asked": asked, "said": said}


# -- kernels compiled ahead -------------------------------------------------------------------------------------------


def compile_kernels(backend: Any, log: Log) -> None:
    """Fill the cache on disk, what is needed first in front; meanwhile load PyTorch, whose files are in memory then.

    By every command, since it may find another disk than the one before; what a kernel took first stays in the record.
    """
    every = needed.of_everything(backend.limits)
    every = [kernel for kernel in every if kernel.file == "embedding.cu"][:2] if log.rehearse else every
    jobs, took, left = min(16, os.cpu_count() or 1), 0.0, [kernel.expression for kernel in every]
    for done in ahead.compile_all(backend.kernel, every, jobs):
        log.item(done.kernel.expression, outcome, done)
        took += done.seconds
        left.remove(done.kernel.expression)
        log.item("PyTorch", torch_loaded, backend)  # once, while others are compiled
        if not log.left:
            break
    log.left_out = left
    print(f"  {len(every) - len(left)} kernels by {jobs} threads, {took:.0f} s of theirs", flush=True)


def outcome(done: ahead.Compiled) -> Record:
    """Seconds, or what the compiler said."""
    return {"error": done.error} if done.error else {"seconds": done.seconds}


def torch_loaded(backend: Any) -> Record:
    """Version of PyTorch and of its cuDNN, after a step of both."""
    torch, device, missing = torch_here(backend)
    if torch is None:
        return {"missing": missing}
    for dtype in (torch.float32, torch.float16):
        lstm: Any = torch.nn.LSTM(8, 8).to(device, dtype)
        lstm(torch.zeros(2, 2, 8, device=device, dtype=dtype))[0].sum().backward()
    cudnn = torch.backends.cudnn.version()
    return {"torch": torch.__version__, "cudnn": cudnn, "said": f"PyTorch {torch.__version__}, cuDNN {cudnn}"}


# -- costs of waiting -------------------------------------------------------------------------------------------------


def costs(backend: Any, log: Log, count: int = 20000) -> None:
    """Microseconds of barriers, of a number handed over, of a read of another block's memory, of sums sent."""
    xp, limits = backend.xp, backend.limits
    count = 20 if log.rehearse else count

    def cost(name: str, expected: float, launch: Callable[[int], object], times: int = 1) -> None:
        def measured() -> Record:
            # The difference of two counts: what the launch itself costs drops out.
            launch(count)
            long, short = (
                statistics.median(log.clock.seconds(lambda n=n: launch(n)) for _ in range(log.rounds))  # type: ignore[misc]
                for n in (2 * count, count)
            )
            found = (long - short) / count * times * 1e6
            return {"us": found, "expected_us": expected, "said": f"{found:.3f} us, {expected:.3f} expected"}

        log.item(name, measured)

    members = {"block": 1, "cluster": catalogue.CLUSTER, "grid": limits.multiprocessors}
    for form, blocks in members.items():
        if form == "cluster" and limits.capability < 90:
            continue
        arrived, kernel = xp.zeros((1,), dtype=xp.uint32), catalogue.kernel(f"barriers_{form}")

        def barriers(number: int, kernel: Any = kernel, blocks: int = blocks, arrived: Any = arrived) -> None:
            arrived[...] = 0
            arguments = (arrived, np.uint32(blocks), np.int32(number))
            backend.kernel(kernel)((blocks,), (catalogue.SEQUENCE_THREADS,), arguments)

        cost(f"barrier of a {form}", PUBLISHED_BARRIER[form], barriers)
    everyone = (limits.multiprocessors,)
    slots = xp.empty((2 * count, *everyone), dtype=xp.uint32)

    def handovers(number: int) -> None:
        slots[...] = 2**32 - 1
        arguments = (slots.view(xp.float32), np.uint32(limits.multiprocessors), np.int32(number))
        backend.kernel(catalogue.kernel("handovers"))(everyone, (32,), arguments)

    cost("hand-over", model.EXCHANGE["grid"], handovers)
    # 12 KB that all blocks show, read by all, and an eighth by each: h of 8 sequences at H = 768 in 16 bit.
    own = -(-12 * 1024 // (16 * limits.multiprocessors)) * 4
    shown = xp.empty((count // 5, *everyone, own), dtype=xp.uint32)
    for parts, name in ((1, "gather"), (catalogue.CLUSTER, "gather of an eighth")):

        def gather(number: int, parts: int = parts) -> None:
            shown[...] = 2**32 - 1
            sizes = np.uint32(own), np.uint32(parts), np.int32(number // 10)
            backend.kernel(catalogue.kernel("gathers"))(everyone, (kernels.BLOCK,), (shown.view(xp.float32), *sizes))

        expected = model.EXCHANGE["grid"] + 4 * own * limits.multiprocessors / parts / model.L2_RATE
        cost(name, expected, gather, 10)
    cluster = (catalogue.CLUSTER,)
    if limits.capability >= 90:
        out, numbers = xp.zeros(cluster, dtype=xp.uint32), xp.zeros(cluster, dtype=xp.float32)
        read, given = catalogue.kernel("reads_in_cluster"), catalogue.kernel("handovers_in_cluster")
        cost("read in a cluster", PUBLISHED_READ, lambda n: backend.kernel(read)(cluster, (32,), (out, np.int32(n))))
        cost(
            "hand-over in a cluster", model.EXCHANGE["cluster"],
            lambda n: backend.kernel(given)(cluster, (32,), (numbers, np.int32(n))),
        )  # fmt: skip
    if limits.clusters:
        blocks, sent = limits.clusters * catalogue.CLUSTER, 512 * catalogue.CLUSTER
        sums, kernel = xp.zeros((blocks, kernels.BLOCK), dtype=xp.float32), catalogue.kernel("sums_in_cluster")
        cost(
            "sums in a cluster", model.from_others(sent),
            lambda n: backend.kernel(kernel)((blocks,), (kernels.BLOCK,), (sums, np.int32(n)), sent + 16),
        )  # fmt: skip
