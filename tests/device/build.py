"""Make the machine: a virtual environment with CuPy whose CUDA libraries are the ones in ``host`` and ``ptx``.

Its folder holds ``venv``, ``lib`` (one library under the names of four of CUDA's) and ``cache`` (PTX, as CuPy keeps
it). CuPy's wheel has the CUDA runtime linked into one of its extensions: that one is compiled again, from CuPy's source
distribution of the same version, against the library here.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CUPY = "14.2.0"
HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PACKAGES = (
    f"cupy-cuda13x=={CUPY}",
    "nvidia-cuda-nvrtc",
    "nvidia-cuda-runtime",
    "nvidia-cuda-crt",
    "nvidia-cuda-nvdisasm",
    "cuda-bindings==13.*",
    "Cython==3.2.*",
    "setuptools",
)
NAMES = ("libcuda.so.1", "libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13", "libnccl.so.2")
COMPILE = (
    *("-std=c++20", "-O2", "-fvect-cost-model=dynamic", "-march=x86-64-v3", "-ffp-contract=off"),
    *("-fPIC", "-Wall", "-Wextra"),
)
"""Nothing is contracted that PTX doesn't contract; x86-64-v3 has fma and conversions of 16-bit floats."""
CYTHON = """
import sys
from Cython.Build import cythonize
from setuptools import Extension
cythonize(
    [Extension("cupy_backends.cuda.api.runtime", ["cupy_backends/cuda/api/runtime.pyx"], language="c++")],
    language_level=3,
    compiler_directives={"embedsignature": True, "c_api_binop_methods": True, "binding": False,
                         "freethreading_compatible": True, "warn.deprecated.IF": False},
    compile_time_env={"CUPY_CUDA_VERSION": 13000, "CUPY_HIP_VERSION": 0, "CUPY_USE_CUDA_PYTHON": False,
                      "CUPY_CUFFT_STATIC": False, "CUPY_CYTHON_VERSION": "3.2"},
)
"""
"""Compile-time constants and directives as CuPy's own build has them."""


def default_folder() -> Path:
    """Outside of the checkout, by the environment variable ``GPU_LSTM_DEVICE_FOLDER`` or in the user's cache."""
    named = os.environ.get("GPU_LSTM_DEVICE_FOLDER")
    return Path(named) if named else Path.home() / ".cache" / "gpu_lstm_device"


def build(folder: Path) -> Path:
    """Make what isn't there or is older than its sources; gives the machine's Python."""
    folder.mkdir(parents=True, exist_ok=True)
    python = folder / "venv" / "bin" / "python"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*PACKAGES, *project["dependencies"], *project["optional-dependencies"]["test"]]
    done = folder / "venv" / "done"
    if not done.exists() or done.read_text().splitlines() != wanted:
        venv.create(folder / "venv", with_pip=True, clear=True)
        _call(python, "-m", "pip", "install", "--quiet", *wanted)
        (folder / "lib" / "linked").unlink(missing_ok=True)  # CuPy's extension is its wheel's again
        done.write_text("\n".join(wanted))
    site = next((folder / "venv" / "lib").glob("python*")) / "site-packages"
    objects = _compiled(folder, site / "nvidia" / "cu13" / "include")
    linked = _digest(*NAMES, *[each.name for each in objects])
    if (folder / "lib" / "linked").exists() and (folder / "lib" / "linked").read_text() == linked:
        return python
    runtime = _runtime_object(folder, python, site)
    bindings = [next((site / "cupy_backends/cuda/libs").glob(f"{name}.*.so")) for name in ("cublas", "nccl")]
    library = _library(folder, objects, (runtime, *bindings))
    extension = next((site / "cupy_backends/cuda/api").glob("runtime.*.so"))
    extension.unlink()
    _call("g++", "-shared", runtime, library, "-o", extension)
    (folder / "lib" / "linked").write_text(linked)
    return python


def _compiled(folder: Path, headers: Path) -> list[Path]:
    """An object a source, named by what it was made from."""
    (folder / "objects").mkdir(exist_ok=True)
    shared = "".join(each.read_text() for each in sorted(HERE.glob("*/*.h")))

    def compiled(source: Path) -> Path:
        made = folder / "objects" / f"{source.stem}_{_digest(shared, source.read_text(), *COMPILE)}.o"
        if not made.exists():
            _call("g++", *COMPILE, "-isystem", headers, "-c", source, "-o", made.with_suffix(".part"))
            made.with_suffix(".part").rename(made)
        return made

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compiled, sorted(HERE.glob("*/*.cpp"))))


def _runtime_object(folder: Path, python: Path, site: Path) -> Path:
    """CuPy's own binding of the runtime, compiled, not linked."""
    made = folder / "objects" / "cupy_runtime.o"
    if made.exists():
        return made
    sources = folder / f"cupy-{CUPY}"
    if not sources.exists():
        _call(
            python, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "cupy", f"cupy=={CUPY}",
            "--dest", folder, environment={"READTHEDOCS": "True"},
        )  # fmt: skip
        with tarfile.open(folder / f"cupy-{CUPY}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
    _call(python, "-c", CYTHON, at=sources)
    asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('include'))"]
    include = subprocess.check_output(asked, text=True).strip()
    headers = site / "nvidia" / "cu13" / "include"
    source = sources / "cupy_backends" / "cuda" / "api" / "runtime.cpp"
    _call(
        "g++", "-O1", "-fPIC", "-w", "-I", include, "-I", HERE / "host", "-isystem", headers, "-c", source, "-o", made
    )
    return made


def _library(folder: Path, objects: list[Path], users: tuple[Path, ...]) -> Path:
    """All in one; what the users call and isn't there is refused by name."""
    there = set().union(*[_symbols(each, "--defined-only") for each in objects])
    asked = set().union(*[_symbols(each, "--undefined-only") for each in users])
    absent = [f"ABSENT({name})" for name in sorted(asked - there) if re.match(r"(cu(da|blas)?|nccl)[A-Z]", name)]
    define = '#define ABSENT(name) extern "C" int name() { return absent(#name); }\n'
    source = folder / "objects" / "absent.cpp"
    source.write_text(f'#include "{HERE / "host" / "device.h"}"\n{define}' + "\n".join(absent) + "\n")
    versions = folder / "objects" / "versions"
    versions.write_text("libcublas.so.13 { cublas*; };\n")
    shutil.rmtree(folder / "lib", ignore_errors=True)
    (folder / "lib").mkdir()
    library = folder / "lib" / "libdevice.so"
    headers = next((folder / "venv" / "lib").glob("python*")) / "site-packages/nvidia/cu13/include"
    _call(
        "g++", *COMPILE, "-isystem", headers, "-shared", f"-Wl,-soname,{library.name}",
        f"-Wl,--version-script={versions}", source, *objects, "-ldl", "-o", library,
    )  # fmt: skip
    for name in NAMES:
        (folder / "lib" / name).symlink_to(library.name)
    return library


def _symbols(file: Path, which: str) -> set[str]:
    dynamic = ("-D",) if file.suffix == ".so" else ()
    lines = subprocess.check_output(["nm", *dynamic, which, "--format=just-symbols", file], text=True).split()
    return {line.split("@")[0] for line in lines}


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def _call(*command: str | Path, at: Path | None = None, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        [str(part) for part in command], cwd=at, env={**os.environ, **(environment or {})}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command[:4]))} ... failed:\n{done.stdout[-4000:]}")


def on_the_machine() -> bool:
    """Whether this process runs there."""
    return "libdevice" in os.environ.get("GPU_LSTM_DEVICE", "")


def environment(folder: Path) -> dict[str, str]:
    """What a process needs to find itself on the machine."""
    return {
        **os.environ,
        "PATH": f"{folder / 'venv' / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
        "LD_LIBRARY_PATH": str(folder / "lib"),
        "PYTHONPATH": str(ROOT),
        "GPU_LSTM_DEVICE_FOLDER": str(folder),
        "GPU_LSTM_DEVICE": str(folder / "lib" / "libdevice.so"),
        "CUPY_COMPILE_WITH_PTX": "1",  # PTX, and not machine code, is what CuPy loads
        "CUPY_CACHE_DIR": str(folder / "cache"),
        "CUPY_ACCELERATORS": "",  # not CUB, whose kernels use more of PTX
    }
