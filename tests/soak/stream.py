"""Train on a text larger than memory and report the highest resident memory and the time that steps waited for data.

    python -m tests.soak.stream --gigabytes 10 --steps 300 [--shuffle-lines]

The file is made first and removed at the end; twice its size must be free on the disk.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHILD = """
import json, sys, time
from pathlib import Path
from gpu_lstm.cli import main, runs
from gpu_lstm.training import Run
import gpu_lstm.training.checkpoint, safetensors.numpy, tqdm

def resident(field):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024

steps, arguments = int(sys.argv[1]), sys.argv[2:]
report = {"libraries": resident("VmHWM"), "begun": time.perf_counter()}

def finish(run):
    # The real loop, with a stop after so many steps and without validating on a tenth of a huge file.
    run.task.validate = lambda: (0.0, "")
    report["prepared"] = time.perf_counter() - report["begun"]
    report["characters"] = run.description["amount"]
    times = []
    def report_step(event):
        times.append((time.perf_counter(), run.task.loader.waited))
    run.go(report_step, lambda: run.step == steps)
    report["steps"] = run.step
    report["seconds_after_the_first"] = times[-1][0] - times[0][0]
    report["waited_after_the_first"] = times[-1][1] - times[0][1]
    report["first_step"] = times[0][0] - report["begun"] - report["prepared"]
    return 0

runs.finish = finish
status = main(["train", "text", *arguments])
report["peak"] = resident("VmHWM")
print(json.dumps(report))
sys.exit(status)
"""


def write_text(path: Path, size: int) -> None:
    """Write `size` bytes of numbered lines of different lengths."""
    block = b"".join(
        b"%d: the quick brown fox jumps over the lazy dog"[: 20 + n % 28] % n + b"\n" for n in range(20000)
    )
    with open(path, "wb") as file:
        while size:
            size -= file.write(block[:size])


def train_in_child(path: Path, options: list[str], steps: int) -> dict[str, float]:
    """Train for some steps in a process of its own; what it reports."""
    sizes = ["--hidden-size", "128", "--batch", "32", "--sample-length", "0", "--out", str(path.parent / "run")]
    command = [sys.executable, "-P", "-c", CHILD, str(steps), str(path), *sizes, *options]
    (path.parent / "run").mkdir(exist_ok=True)
    for old in (path.parent / "run").iterdir():
        old.unlink()
    child = subprocess.run(command, capture_output=True, text=True)
    if child.returncode:
        raise RuntimeError(child.stderr)
    report: dict[str, float] = json.loads(child.stdout.splitlines()[-1])
    return report


def main() -> int:
    """Make the file, train, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=10)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--shuffle-lines", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.txt"
        write_text(path, int(options.gigabytes * 1e9))
        begun = time.perf_counter()
        report = train_in_child(path, ["--shuffle-lines"] if options.shuffle_lines else [], options.steps)
        waited = report["waited_after_the_first"] / report["seconds_after_the_first"]
        print(
            f"{report['characters']:,} characters, {report['steps']} steps: highest resident memory "
            f"{report['peak'] / 1e6:.0f} MB ({report['libraries'] / 1e6:.0f} MB of it libraries), made ready in "
            f"{report['prepared']:.0f} s, first step after {report['first_step']:.1f} s more, steps waited for data "
            f"{waited:.2%} of their time; {time.perf_counter() - begun:.0f} s in all"
        )
    return int(report["peak"] > 300e6 or waited > 0.05)


if __name__ == "__main__":
    sys.exit(main())
