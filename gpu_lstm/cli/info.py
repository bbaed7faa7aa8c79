"""``gpu-lstm info``: what this machine has, and what would run; compiles CUDA kernels ahead of their use."""

from __future__ import annotations

import argparse
import logging
import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from gpu_lstm import __version__
from gpu_lstm.backend import DTYPES, CupyBackend, NumpyBackend, choose
from gpu_lstm.cli.options import Parsers, add_device, add_parser, positive
from gpu_lstm.errors import BackendError, InputError
from gpu_lstm.native import compiled
from gpu_lstm.native.ahead import compile_all
from gpu_lstm.recurrence import make_plan
from gpu_lstm.recurrence.cuda import needed, planner


def add_command(commands: Parsers) -> None:
    """Add the command."""
    parser = add_parser(commands, "info", run, "show backends, devices, libraries, and which tier would run and why")
    add_device(parser)
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="for which the tiers are told")
    parser.add_argument(
        "--compile", nargs="?", const="training", choices=("training", "all"),
        help="compile CUDA kernels that aren't in the cache: what training in --dtype takes, or all; none if not given",
    )  # fmt: skip
    parser.add_argument("--jobs", type=positive, default=os.cpu_count(), help="kernels that are compiled at a time")


def run(options: argparse.Namespace) -> int:
    """Print it."""
    backend = choose(options.backend)
    if options.compile and "cuda" not in backend.describe():
        raise InputError(f"--compile is given for backend {backend.why}; expected cupy, the one with CUDA kernels")
    print(f"gpu_lstm {__version__}, Python {platform.python_version()}, {platform.platform()}")
    cpu = NumpyBackend().describe()
    print(f"numpy: {cpu['device']}, {os.cpu_count()} cores, NumPy {cpu['numpy']}")
    try:
        gpu = CupyBackend().describe()
        print(f"cupy: {gpu['device']}, CuPy {gpu['cupy']}, CUDA {gpu['cuda']}, driver {gpu['driver']}")
        for name in ("clusters at once", "no clusters at once", "float32 products"):
            if name in gpu:
                print(f"  {name}: {gpu[name]}")
    except BackendError as error:
        print(f"cupy: {error}")
    for library in ("safetensors", "tqdm", "matplotlib", "torch"):
        try:
            print(f"{library}: {version(library)}")
        except PackageNotFoundError:
            print(f"{library}: not installed")
    print(f"would run on: {backend.why}")
    for line in make_plan(backend, options.tier, dtype=options.dtype).why().splitlines():
        print(f"  tier {line}")
    if not compiled.missing():
        print(f"  weights of 8 bits on the CPU: in compiled code, {'with' if compiled.vnni() else 'without'} VNNI")
    return compile_ahead(backend, options.compile, options.dtype, options.jobs) if options.compile else 0


def compile_ahead(backend: Any, which: str, dtype: str, jobs: int) -> int:
    """Compile, a line a kernel; the exit status is 1 where one can't be."""
    limits = backend.limits
    training = needed.of_training(limits, planner.multiplied(backend, dtype))
    wanted = needed.of_everything(limits) if which == "all" else training
    print(f"compiling {len(wanted)} kernels for sm_{limits.capability}, {jobs} at a time:", flush=True)
    logging.getLogger("gpu_lstm").setLevel(logging.WARNING)  # it would say the same of each
    begun, failed = time.perf_counter(), 0
    for number, done in enumerate(compile_all(backend.kernel, wanted, jobs), 1):
        print(f"  {number:>3} {done.seconds:6.2f} s  {done.error or done.kernel.expression}", flush=True)
        failed += bool(done.error)
    print(f"{len(wanted) - failed} of {len(wanted)} there after {time.perf_counter() - begun:.1f} s", flush=True)
    return 1 if failed else 0
