"""Wheels for every platform from any one machine: ``python -m kernels.wheels [OUT] [--only NAME ...]``.

Needs ``pip install ziglang "setuptools>=77"``: the Clang that comes with Zig compiles for each of them, against an old
C library where that matters, with C++'s own linked in.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

PLATFORMS = {
    "manylinux_2_17_x86_64": "x86_64-linux-gnu.2.17",
    "manylinux_2_17_aarch64": "aarch64-linux-gnu.2.17",
    "musllinux_1_2_x86_64": "x86_64-linux-musl",
    "musllinux_1_2_aarch64": "aarch64-linux-musl",
    "macosx_11_0_arm64": "aarch64-macos.11.0",
    "win_amd64": "x86_64-windows-gnu",
}
"""The end of a wheel's name, and what the compiler calls that platform."""
ROOT = Path(__file__).resolve().parents[1]


def build(platform: str, out: Path) -> None:
    """Build the wheel of a platform into a folder."""
    compiler = f"{sys.executable} -m ziglang c++ -target {PLATFORMS[platform]}"
    linker = f"{compiler} -shared" + (" -s" if "macos" not in platform else "")
    suffix = ".pyd" if platform.startswith("win") else ".so"
    tools = {"CC": compiler, "CXX": compiler, "LDSHARED": linker, "LDCXXSHARED": linker}
    shutil.rmtree(ROOT / "build", ignore_errors=True)  # which has another platform's
    command = [sys.executable, "-c", "from setuptools import setup; setup()", "-q", "bdist_wheel"]
    subprocess.run(
        [*command, "--plat-name", platform, "--dist-dir", str(out.resolve())],
        cwd=ROOT, env={**os.environ, **tools, "GPU_LSTM_SUFFIX": suffix}, check=True,
    )  # fmt: skip


def main() -> None:
    """Build all wheels, or those that are named."""
    parser = argparse.ArgumentParser(description="Wheels for every platform, by Zig's Clang.")
    parser.add_argument("out", nargs="?", type=Path, default=Path("dist"), help="where they go (dist)")
    parser.add_argument("--only", nargs="+", choices=PLATFORMS, default=list(PLATFORMS), help="which; all if not given")
    options = parser.parse_args()
    for platform in options.only:
        build(platform, options.out)


if __name__ == "__main__":
    main()
