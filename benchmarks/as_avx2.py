"""Run Python with every library held to AVX2, on a processor that has more.

    python -m benchmarks.as_avx2 -m gpu_lstm bench --grid standard --peers torch

Linux on x86-64, with a C compiler. PyTorch, MKL, oneDNN and OpenBLAS have variables of their own for that, ONNX Runtime
has none; so all of them, and gpu_lstm, see a processor without AVX-512, AVX-VNNI and AMX here (`as_avx2.c`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")


def main() -> int:
    """Compile what is preloaded, and run with it; the exit status is the command's."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "as_avx2.so"
        compiler = os.environ.get("CC", "cc")
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE)], check=True)
        environment = os.environ | {"LD_PRELOAD": str(library)}
        return subprocess.run([sys.executable, *sys.argv[1:]], env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
