"""Compile every CUDA kernel for every architecture by NVRTC, as CuPy does, without a driver; record what each needs.

    python -m tests.nvrtc.matrix            # fails if a kernel doesn't compile, spills, or needs other than recorded
    python -m tests.nvrtc.matrix --write    # writes kernels/cuda/resources.md
    python -m tests.nvrtc.matrix --only 75 90    # some architectures, compared with what is recorded of them

Runs in a virtual environment of its own, in the repository's root:

    pip install cupy-cuda13x nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cuda-crt

Compiler and headers must come from that environment: a CUDA of the system would hide that a wheel lacks something.
Names of CuPy that are not public are used, and checked; CuPy 14.2 has them.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from gpu_lstm.native import catalogue, kernels

ARCHITECTURES = (75, 80, 90, 100, 120)
"""Turing, Ampere, Hopper, Blackwell of data centres and of desktops."""
AT_ONCE = 16
"""Most kernels of a text that are compiled in one go: a long text with many of them is shared by the processes."""
TABLE = Path(__file__).resolve().parents[2] / "kernels" / "cuda" / "resources.md"

Needs = dict[str, dict[int, tuple[int, int]]]
"""Registers a thread and bytes of static shared memory a block, by kernel and architecture."""


def texts(architecture: int = max(ARCHITECTURES)) -> dict[str, list[str]]:
    """Kernels by the text that holds them: all that the architecture can run."""
    groups: dict[str, list[str]] = {}
    for kernel in catalogue.every_kernel():
        if kernel.since <= architecture:
            groups.setdefault(kernel.source, []).append(kernel.expression)
    return groups


def digest() -> str:
    """Of all that is compiled."""
    whole = "\0".join(["\0".join([text, *names]) for text, names in texts().items()] + list(kernels.FLAGS))
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


def compiler() -> Any:
    """CuPy's own way to NVRTC, and its options, all from this environment."""
    from cuda.pathfinder import load_nvidia_dynamic_lib
    from cupy._core import core
    from cupy.cuda import compiler

    library = load_nvidia_dynamic_lib("nvrtc").abs_path
    if not str(library).startswith(sys.prefix):
        raise SystemExit(f"NVRTC comes from {library}; expected wheels under {sys.prefix}")
    options = core.assemble_cupy_compiler_options((*kernels.FLAGS, "-Xptxas=-v"))
    for option in options:
        if option.startswith("-I") and not option[2:].startswith(sys.prefix):
            raise SystemExit(f"CUDA headers come from {option[2:]}; expected wheels under {sys.prefix}")
    return partial(compiler._NVRTCProgram, method="cubin"), options


def nvrtc_version() -> str:
    """Of the compiler."""
    from cupy_backends.cuda.libs import nvrtc

    return ".".join(map(str, nvrtc.getVersion()))


def compile_text(architecture: int, text: str, names: list[str]) -> Iterator[tuple[str, int, int, int]]:
    """Kernel, registers, bytes of shared and of local memory, for each kernel of a text."""
    program, options = compiler()
    log = io.StringIO()
    options += ("-ftz=true", f"-arch=sm_{architecture}", "--device-as-default-execution-space")
    _, mangled = program(text, "kernel.cu", (), (), name_expressions=names).compile(options, log)
    said = log.getvalue()
    for name in names:
        part = said.split(f"Compiling entry function '{mangled[name]}'")[1].split("Compiling entry function")[0]
        stack, stores, loads = re.findall(r"(\d+) bytes (?:stack frame|spill stores|spill loads)", part)[:3]
        registers = int(re.findall(r"Used (\d+) registers", part)[0])
        shared = sum(map(int, re.findall(r"(\d+) bytes smem", part)))
        yield name, registers, shared, int(stack) + int(stores) + int(loads)


Job = tuple[int, str, list[str]]
"""Architecture, text, kernels of it."""


def jobs(architectures: Sequence[int]) -> list[Job]:
    """All that is to be compiled."""
    return [
        (architecture, text, names[start : start + AT_ONCE])
        for architecture in architectures
        for text, names in texts(architecture).items()
        for start in range(0, len(names), AT_ONCE)
    ]


def compile_job(job: Job) -> tuple[dict[str, tuple[int, int]], list[str]]:
    """What each kernel of a job needs, and complaints."""
    architecture, text, names = job
    needs, complaints = {}, []
    try:
        for name, registers, shared, local in compile_text(architecture, text, names):
            needs[name] = registers, shared
            if local:
                complaints.append(f"{name} on sm_{architecture} spills {local} bytes to local memory")
    except Exception as error:
        complaints.append(f"{names[0]} and others on sm_{architecture}: {error}")
    return needs, complaints


def render(needs: Needs, version: str) -> str:
    """The table."""
    lines = [
        "# What the kernels need",
        "",
        "Registers a thread on each architecture that can run it, bytes of static shared memory a block; none spills",
        "to local memory.",
        "Written by `python -m tests.nvrtc.matrix --write`; a test tells when the sources have changed since.",
        "",
        f"NVRTC {version}, sources {digest()}",
        "",
        "| kernel | " + " | ".join(f"sm_{a}" for a in ARCHITECTURES) + " | shared |",
        "| --- |" + " ---: |" * (len(ARCHITECTURES) + 1),
    ]
    for name, by in needs.items():
        shared = sorted({memory for _, memory in by.values()})
        counts = " | ".join(str(by[a][0]) if a in by else "" for a in ARCHITECTURES)
        lines.append(f"| `{name}` | {counts} | {' or '.join(map(str, shared))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Compile, complain, compare or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name} instead of comparing with it")
    parser.add_argument("--only", type=int, nargs="+", choices=ARCHITECTURES, metavar="SM", help="these architectures")
    options = parser.parse_args()
    if options.write and options.only:
        parser.error("--write needs all architectures; --only is for comparing")
    architectures = options.only or ARCHITECTURES
    try:
        compiler()
    except ImportError as error:
        raise SystemExit(f"NVRTC or CuPy can't be loaded: {error}; see the head of {__file__}") from None
    needs: Needs = {kernel.expression: {} for kernel in catalogue.every_kernel()}
    complaints: list[str] = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        work = jobs(architectures)
        for (architecture, *_), (some, more) in zip(work, pool.map(compile_job, work), strict=True):
            complaints += more
            for name, need in some.items():
                needs[name][architecture] = need
    if complaints:
        raise SystemExit("\n".join(complaints))
    table = render(needs, nvrtc_version())
    print(f"{len(needs)} kernels compile for sm_{', sm_'.join(map(str, architectures))}; none spills")
    if options.write:
        TABLE.write_text(table, encoding="utf-8")
        return
    recorded = TABLE.read_text(encoding="utf-8")
    if f"NVRTC {nvrtc_version()}, sources {digest()}\n" not in recorded:
        print(f"{TABLE.name} is of other sources or of another compiler: not compared")
    elif columns(recorded, architectures) != columns(table, architectures):
        raise SystemExit(f"{TABLE} differs from what the compiler says; write it again with --write")


def columns(table: str, architectures: Sequence[int]) -> list[list[str]]:
    """Kernels and their registers on these architectures."""
    places = [0, *(1 + ARCHITECTURES.index(architecture) for architecture in architectures)]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| `")]
    return [[row[place] for place in places] for row in rows]


if __name__ == "__main__":
    main()
