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

from benchmarks.tables import RESULTS
from gpu_lstm.training.checkpoint import write_whole

ROUNDS = "9"
RECORDS = {
    "cpu_training_step": ["-m", "benchmarks.compare_torch", "--rounds", ROUNDS],
    "cpu_reference_tier": ["-m", "benchmarks.compare_torch", "--tier", "reference", "--rounds", ROUNDS],
    "cpu_off_grid": ["-m", "benchmarks.compare_torch", "--off-grid", "--rounds", ROUNDS],
    "cpu_model": ["-m", "benchmarks.compare_model", "--rounds", ROUNDS],
    "cpu_peers": ["-m", "benchmarks.compare_peers", "--all-sizes", "--rounds", ROUNDS],
    "cpu_variants": ["-m", "benchmarks.compare_variants", "--rounds", ROUNDS],
    "cpu_module": ["-m", "benchmarks.compare_module", "--rounds", ROUNDS],
    "cpu_full_grid": ["-m", "gpu_lstm", "bench", "--grid", "full", "--backend", "numpy", "--threads", "2"],
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
    for name in parser.parse_args().only:
        make(name, RECORDS[name])
    subprocess.run([sys.executable, "-m", "benchmarks.tables"], check=True)


if __name__ == "__main__":
    main()
