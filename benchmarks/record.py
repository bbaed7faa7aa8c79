"""Everything that is recorded on a CPU, in one command, on a quiet machine; then the tables are made from it.

    python -m benchmarks.record              # about half an hour on 2 cores
    python -m benchmarks.record --only cpu_model

What needs a GPU is in `benchmarks.run_on_gpu`.

Each run writes ``results/NAME.json``, and a page where it makes one; what is there is replaced only by a run that ended
well.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import need_compiled
from benchmarks.tables import RESULTS
from gpu_lstm.training.checkpoint import write_whole

OPTIONS = (
    *(
        "peepholes",
        "coupled",
        "hard_sigmoid",
        "clip=3",
        "cell_clip=3",
        "proj_size=128",
        "zoneout_h=0.1",
        "zoneout_c=0.1",
    ),
    *("recurrent_dropout=0.1", "heads=4", "cells", "peepholes proj_size=128 cell_clip=3", "layer_norm"),
)
"""Of the LSTM family, each beside the plain LSTM."""
BENCH = ["-m", "gpu_lstm", "bench", "--backend", "numpy", "--threads", "2"]
STANDARD = [*BENCH, "--grid", "standard"]
RECORDS = {
    "cpu_training_step": [*STANDARD, "--peers", "torch"],
    "cpu_reference_tier": [*STANDARD, "--peers", "torch", "--tier", "reference", "--no-memory"],
    "cpu_off_grid": [*BENCH, "--grid", "odd", "--peers", "torch", "--train", "--no-memory"],
    "cpu_peers": [*STANDARD, "--peers", "onnxruntime,jax", "--no-memory"],
    "cpu_module": [*STANDARD, "--peers", "torch,module", "--train", "--no-memory"],
    "cpu_variants": [
        *(*BENCH, "--grid", "T=64,B=32,D=128,H=256", "--peers", "torch-cell", "--rounds", "9", "--no-memory"),
        *(word for options in OPTIONS for word in ("--set", *options.split())),
    ],
    "cpu_recompute": [*BENCH, "--grid", "T=100000,B=1,D=64,H=256", "--peers", "none", "--train", "--set", "recompute"],
    "cpu_full_grid": [*BENCH, "--grid", "full"],
    "cpu_model": ["-m", "benchmarks.model"],
}
"""Records by name, and the arguments of Python that make them."""


def make(name: str, arguments: list[str]) -> None:
    """One record: run the command, then put its file in place."""
    print(f"\n== {name}: python {' '.join(arguments)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        subprocess.run([sys.executable, *arguments, "--out", str(out)], check=True)
        files = {"json": out / "record.json", "html": out / "report.html"} if out.is_dir() else {"json": out}
        for ending, path in files.items():
            # The record's command shall be one that others can type, and not name a temporary place.
            text = path.read_text(encoding="utf-8").replace(f" --out {out}", "")
            write_whole(RESULTS / f"{name}.{ending}", text.encode())


def main() -> None:
    """Record, then make the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(RECORDS), default=list(RECORDS), help="these records only")
    only = parser.parse_args().only
    need_compiled()
    for name in only:
        make(name, RECORDS[name])
    subprocess.run([sys.executable, "-m", "benchmarks.tables"], check=True)


if __name__ == "__main__":
    main()
