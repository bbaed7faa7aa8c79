"""From CUDA text to a loaded library: preprocess, add an entry for each kernel, compile, link with the runtime."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from .launch import EmulationError, Module

__all__ = ["Mode", "build", "missing"]

Mode = Literal["fast", "check"]

HERE = Path(__file__).parent
INCLUDE, RUNTIME = HERE / "include", HERE / "runtime"

COMMON = ["-std=c++17", "-gdwarf-4", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-strict-aliasing"]
RUNTIME_OPTIONS = {"fast": ["-O2"], "check": ["-O2", "-DEMULATOR_CHECK"]}
# CUDA texts hold attributes and pragmas that g++ doesn't know.
KERNEL = [*COMMON, "-fno-extern-tls-init", "-fno-gnu-unique", "-Wno-attributes", "-Wno-unknown-pragmas", "-x", "c++"]
KERNEL_OPTIONS = {
    "fast": ["-O2", "-fsanitize-coverage=trace-pc"],
    "check": [
        "-O1",
        "-fsanitize-coverage=trace-pc",
        "-fsanitize=thread,bounds,alignment",
        "--param=tsan-distinguish-volatile=1",
        "--param=tsan-instrument-func-entry-exit=0",
    ],
}

DYNAMIC_SHARED_BYTES = 227 * 1024


@functools.cache
def missing() -> str | None:
    """Why nothing can be emulated on this machine; None where it can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"the CUDA emulator needs x86-64 Linux; this is {platform.machine()} {sys.platform}"
    for program in ("g++", "addr2line", "readelf", "c++filt"):
        if shutil.which(program) is None:
            return f"the CUDA emulator needs {program}; install g++ (Debian: apt-get install g++)"
    version = subprocess.run(["g++", "-dumpversion"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.split(".")[0]) < 11:
        return f"the CUDA emulator needs g++ 11 or later; this is {version}"
    return None


def build(source: str, *, options: Sequence[str] = (), mode: Mode = "fast", names: Sequence[str] = ()) -> Module:
    """Compile CUDA text for the CPU.

    Parameters
    ----------
    source
        The text that NVRTC would get. `#line` directives in it name the files that reports point to.
    options
        Options of the preprocessor, such as `-DNAME=1`.
    mode
        "fast": threads in a random order. "check": also races, bounds, alignment, uninitialised shared memory.
    names
        Template instances to launch by these names, such as `forward<float, true>`. Kernels declared
        `extern "C" __global__` need no mention.

    Raises
    ------
    EmulationError
        Without a compiler, or when the text doesn't compile.
    """
    if reason := missing():
        raise EmulationError("", "build", reason)
    key = _key([source, mode, *options, "|", *names])
    folder = _cache()
    library, table = folder / f"{key}.so", folder / f"{key}.json"
    if not (library.exists() and table.exists()):
        _compile(source, options, mode, names, library, table)
    return Module(library, **json.loads(table.read_text()))


def _compile(source: str, options: Sequence[str], mode: Mode, names: Sequence[str], library: Path, table: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as work:
        text, expanded, object_file, linked = (Path(work, f"kernel{end}") for end in (".cu", ".ii", ".o", ".so"))
        text.write_text(f'#include "emulator.h"\n#line 1 "kernel.cu"\n{source}\n')
        _gxx(*KERNEL, *options, f"-I{INCLUDE}", "-E", text, "-o", expanded, cwd=work)
        kernels = list(dict.fromkeys([*_kernels(expanded.read_text()), *names]))
        with expanded.open("a") as end:
            end.write(_entries(expanded.read_text(), kernels))
        names_as_in_text = f"-fdebug-prefix-map={work}=."
        compile_only: list[str | Path] = ["-fpreprocessed", "-c", expanded, "-o", object_file]
        _gxx(*KERNEL, *KERNEL_OPTIONS[mode], names_as_in_text, *compile_only, cwd=work)
        _gxx("-shared", "-Wl,-z,defs", object_file, _runtime(mode), "-o", linked)
        os.replace(linked, library)  # complete or not there: several processes may build at once
        ready = Path(work, "table.json")
        ready.write_text(json.dumps({"kernels": kernels, "guards": _guards(library)}))
        os.replace(ready, table)


def _kernels(text: str) -> Iterable[str]:
    """Names of the kernels declared extern "C" in preprocessed text."""
    attribute = r"__attribute__\s*\(\((?:[^()]|\([^()]*\))*\)\)"
    before_name = rf'(?:{attribute}|extern|"C"|static|inline|void|\s)*'
    return re.findall(
        rf'extern\s+"C"\s+{before_name}__attribute__\(\(emulated_kernel\)\){before_name}\b(\w+)\s*\(', text
    )


def _entries(text: str, kernels: Sequence[str]) -> str:
    """Dynamic shared memory under all its names, and one function for each kernel."""
    arrays = r"\bextern\b[^;{}]*?\bthread_local\b[^;{}]*?\b(\w+)\s*\[\s*\]\s*;"
    shared = dict.fromkeys(re.findall(arrays, text))
    size = DYNAMIC_SHARED_BYTES
    lines = [
        '\n# 1 "entries"',
        'extern "C" {',
        f"extern __attribute__((aligned(1024))) thread_local char emulator_dynamic_shared[{size}];",
        f"thread_local char emulator_dynamic_shared[{size}]; }}",
    ]
    lines += [f'asm(".globl {name}\\n.hidden {name}\\n.set {name}, emulator_dynamic_shared");' for name in shared]
    for number, kernel in enumerate(kernels):
        lines.append(
            f'extern "C" __attribute__((visibility("default"))) bool emulator_kernel_{number}'
            f"(const ::emulator::LaunchConfig* config) {{ return ::emulator::Call<&{kernel}>::launch(config); }}"
        )
    return "\n".join(lines) + "\n"


def _guards(library: Path) -> list[int]:
    """Where g++ keeps notes among the shared variables: that one of class type has been constructed."""
    command = ["readelf", "--syms", "--wide", str(library)]
    symbols = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [int(value, 16) for value in re.findall(r"([0-9a-f]+)\s+\d+ TLS .* _ZGV\S+$", symbols, re.MULTILINE)]


def _runtime(mode: Mode) -> Path:
    """The runtime's object file, compiled unless it is there."""
    result = _cache() / f"runtime-{mode}-{_key([])}.o"
    if not result.exists():
        with tempfile.TemporaryDirectory(dir=result.parent) as work:
            made = Path(work, "runtime.o")
            _gxx(*COMMON, *RUNTIME_OPTIONS[mode], "-Wall", "-Wextra", "-c", RUNTIME / "runtime.cpp", "-o", made)
            os.replace(made, result)
    return result


def _gxx(*arguments: str | Path, cwd: str | None = None) -> None:
    command = ["g++", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    if done.returncode:
        raise EmulationError("", "build", f"{done.stderr.strip()}\ncommand: {' '.join(command)}")


def _cache() -> Path:
    folder = Path(tempfile.gettempdir(), f"gpu-lstm-emulator-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise EmulationError("", "build", f"{folder} belongs to somebody else")
    return folder


def _key(parts: Sequence[str]) -> str:
    """A digest of the parts, the emulator, where it is (reports tell its own lines by that) and the compiler."""
    return hashlib.sha256("\0".join([_own_key(), str(HERE), *parts]).encode()).hexdigest()[:20]


@functools.cache
def _own_key() -> str:
    files = [Path(__file__), *sorted(INCLUDE.iterdir()), *sorted(RUNTIME.iterdir())]
    version = subprocess.run(["g++", "--version"], capture_output=True, check=True).stdout
    # The folder, too: reports name lines by the paths that a library was compiled from.
    return hashlib.sha256(b"\0".join([version, str(HERE).encode(), *(file.read_bytes() for file in files)])).hexdigest()
