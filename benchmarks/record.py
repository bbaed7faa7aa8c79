"""A CPU's speed, as README.md and docs/results.md tell it, by one command on a quiet machine; then the tables are made.

    python -m benchmarks.record --rounds 5                # ten minutes on 2 cores with AVX-512: its records, and AVX2's
    python -m benchmarks.record --only cpu_model_avx2     # or of the others: cpu_variants and so on

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
from gpu_lstm.native import compiled
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
FEW = [*BENCH, "--grid", "few", "--infer", "--tier", "sequence", "--no-memory"]
BY_SET = {
    "cpu_training_step": [*STANDARD, "--peers", "torch"],
    "cpu_few": [*FEW, "--peers", "torch,torch-int8,onnxruntime,onnxruntime-int8,int8,bfloat16"],
    "cpu_model": ["-m", "benchmarks.model"],
}
"""What they tell, by name, and the arguments of Python that make it, for each instruction set."""
MORE = {
    "cpu_off_grid": [*BENCH, "--grid", "odd", "--peers", "torch", "--train", "--no-memory"],
    "cpu_peers": [*STANDARD, "--peers", "onnxruntime,jax", "--no-memory"],
    "cpu_module": [*STANDARD, "--peers", "torch,module", "--train", "--no-memory"],
    "cpu_variants": [
        *(*BENCH, "--grid", "T=64,B=32,D=128,H=256", "--peers", "torch-cell", "--no-memory"),
        *(word for options in OPTIONS for word in ("--set", *options.split())),
    ],
    "cpu_recompute": [*BENCH, "--grid", "T=100000,B=1,D=64,H=256", "--peers", "none", "--train", "--set", "recompute"],
    "cpu_ranks": ["-m", "benchmarks.ranks"],
    "cpu_scaling": ["-m", "gpu_lstm", "bench", "--ranks", "1", "2"],
    "cpu_full_grid": [*BENCH, "--grid", "full"],
}
"""What is made where it is named: half an hour."""


def by_set() -> dict[str, list[str]]:
    """The records of AVX2 and, where this processor has it, of AVX-512; there AVX2's are held to it."""
    best = compiled.SETS[compiled.instruction_set()]
    held = {"avx2": ["-m", "benchmarks.as_avx2"], "avx512": []} if best == "avx512" else {best: []}
    return {f"{name}_{one}": [*by, *arguments] for one, by in held.items() for name, arguments in BY_SET.items()}


def make(name: str, arguments: list[str], rounds: int) -> None:
    """One record: run the command, then put its file in place."""
    arguments = [*arguments, "--rounds", str(rounds)]
    print(f"\n== {name}: python {' '.join(arguments)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        subprocess.run([sys.executable, *arguments, "--out", str(out)], check=True)
        files = {"json": out / "record.json", "html": out / "report.html"} if out.is_dir() else {"json": out}
        for ending, path in files.items():
            # The record's command shall be one that others can type, and not name a temporary place.
            text = path.read_text(encoding="utf-8").replace(f" --out {out}", "")
            if "benchmarks.as_avx2" in arguments:
                text = text.replace("gpu-lstm bench", "python -m benchmarks.as_avx2 -m gpu_lstm bench")
                text = text.replace("python -m benchmarks.model", "python -m benchmarks.as_avx2 -m benchmarks.model")
            write_whole(RESULTS / f"{name}.{ending}", text.encode())


def main() -> None:
    """Record, then make the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    need_compiled()
    records = by_set()
    parser.add_argument(
        "--only", nargs="+", choices=[*records, *MORE], default=list(records), help="these records only"
    )
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each side")
    options = parser.parse_args()
    for name in options.only:
        make(name, (records | MORE)[name], options.rounds)
    subprocess.run([sys.executable, "-m", "benchmarks.tables"], check=True)


if __name__ == "__main__":
    main()
