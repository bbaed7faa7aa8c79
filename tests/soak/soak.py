"""Train for a long time in one process and watch its memory.

    python -m tests.soak.soak --minutes 60

Models of all three kinds are made, trained, saved, given up and resumed, over and over. Resident memory is read after
every round; it must be flat: the median of the last tenth of the rounds may be above that of the second tenth by no
more than --allowed megabytes. Exit status 1 if it isn't.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from gpu_lstm.training import Run
from gpu_lstm.training.folder import newest
from tests import test_training as small


def resident() -> int:
    """Bytes of this process in memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmRSS in /proc/self/status")


def one_round(folder: Path, number: int) -> int:
    """Train one model of each kind to half, drop it, resume another from the disk to the end; returns the steps."""
    steps = 0
    for kind, make in small.TASKS.items():
        place = folder / kind
        shutil.rmtree(place, ignore_errors=True)
        settings = small.settings(epochs=8, save_minutes=0 if number % 10 == 0 else 10)
        first = Run(make(seed=number), settings, place, {})
        first.go(lambda event: None, lambda: first.step * 2 >= first.steps)  # noqa: B023 (called here)
        again = Run(make(seed=number), settings, place, {})
        again.resume(*newest(place)[1:3])
        steps += again.go(lambda event: None, lambda: False).steps
    return steps


def main() -> int:
    """Run for the asked time and tell how memory went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--allowed", type=float, default=2.0, help="megabytes that memory may grow")
    options = parser.parse_args()
    begun, steps = time.monotonic(), 0
    sizes: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() - begun < 60 * options.minutes or len(sizes) < 20:
            steps += one_round(Path(folder), len(sizes))
            gc.collect()
            sizes.append(resident())
    tenth = max(1, len(sizes) // 10)
    early, late = (statistics.median(part) / 1e6 for part in (sizes[tenth : 2 * tenth], sizes[-tenth:]))
    print(
        f"{steps:,} steps in {len(sizes):,} rounds, {(time.monotonic() - begun) / 60:.1f} minutes; resident memory "
        f"{early:.1f} MB in the second tenth, {late:.1f} MB in the last, highest {max(sizes) / 1e6:.1f} MB"
    )
    return int(late - early > options.allowed)


if __name__ == "__main__":
    sys.exit(main())
