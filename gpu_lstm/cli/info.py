"""``gpu-lstm info``: what this machine has, and what would run."""

from __future__ import annotations

import argparse
import os
import platform
from importlib.metadata import PackageNotFoundError, version

from gpu_lstm import __version__
from gpu_lstm.backend import DTYPES, CupyBackend, NumpyBackend, choose
from gpu_lstm.cli.options import Parsers, add_device, add_parser
from gpu_lstm.errors import BackendError
from gpu_lstm.recurrence import make_plan


def add_command(commands: Parsers) -> None:
    """Add the command."""
    parser = add_parser(commands, "info", run, "show backends, devices, libraries, and which tier would run and why")
    add_device(parser)
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="for which the tiers are told")


def run(options: argparse.Namespace) -> int:
    """Print it."""
    print(f"gpu_lstm {__version__}, Python {platform.python_version()}, {platform.platform()}")
    cpu = NumpyBackend().describe()
    print(f"numpy: {cpu['device']}, {os.cpu_count()} cores, NumPy {cpu['numpy']}")
    try:
        gpu = CupyBackend().describe()
        print(f"cupy: {gpu['device']}, CuPy {gpu['cupy']}, CUDA {gpu['cuda']}, driver {gpu['driver']}")
    except BackendError as error:
        print(f"cupy: {error}")
    for library in ("safetensors", "tqdm", "matplotlib", "torch"):
        try:
            print(f"{library}: {version(library)}")
        except PackageNotFoundError:
            print(f"{library}: not installed")
    backend = choose(options.backend)
    print(f"would run on: {backend.why}")
    for line in make_plan(backend, options.tier, dtype=options.dtype).why().splitlines():
        print(f"  tier {line}")
    return 0
