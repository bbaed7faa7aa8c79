"""Kill a random rank of a run of three again and again, and go on with it on another number of ranks.

    python -m tests.soak.ranks --kills 50

Each run is ``gpu-lstm train text --ranks 3``, saves after every step, and loses a rank (SIGKILL) at a random moment, be
it as it starts. Then all must have ended within ten seconds, one line must name that rank, and ``--resume`` on 1 to 4
ranks must end with the bytes of a run that was never killed: model, last checkpoint, log.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from gpu_lstm.training.folder import BEST, LOG, is_run

RANKS, SHARES, PATIENCE = 3, 12, 10.0
"""Of a run that is killed; parts of a batch, which go by 1, 2, 3 and 4 ranks; seconds in which all have to end."""
TEXT = "the quick brown fox jumps over the lazy dog, and the dog sleeps on; " * 130


class Command:
    """``gpu-lstm train`` with some ranks, and the places where it leaves its ranks' ids and what it says."""

    def __init__(self, base: Path, *arguments: str | Path):
        self.place = Path(tempfile.mkdtemp(dir=base))
        self._said = open(self.place / "said", "w+")  # noqa: SIM115 (as long as the command)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gpu_lstm", "train", *map(str, arguments)],
            stdout=self._said, stderr=subprocess.STDOUT, env=os.environ | {"TMPDIR": str(self.place)}, cwd=base,
        )  # fmt: skip

    def ranks(self) -> dict[int, int]:
        """The processes' ids by their ranks, as far as they have begun."""
        files = list(self.place.glob("gpu_lstm-ranks-*/rank-*"))
        found = [text.split() for one in files if one.exists() and (text := one.read_text())]
        return {int(rank): int(process) for rank, process in found}

    def wait(self, seconds: float) -> tuple[int, str]:
        """The exit status, and all that was said; raises TimeoutExpired where it takes longer."""
        with self._said:
            status = self.process.wait(seconds)
            self._said.seek(0)
            return status, self._said.read()


def settings(base: Path, out: Path) -> list[str | Path]:
    """Arguments of a run."""
    (base / "text.txt").write_text(TEXT)
    small = ["--hidden-size", "16", "--embedding-size", "8", "--batch", SHARES, "--length", "16", "--epochs", "1"]
    return ["text", base / "text.txt", *map(str, small), "--sample-length", "0", "--validations", "4",
            "--save-minutes", "0", "--shares", str(SHARES), "--out", out]  # fmt: skip


def outcome(folder: Path) -> dict[str, bytes]:
    """What has to be the same in the end: the model's file, the last checkpoint's, the log."""
    last = max(folder.glob("resume-*.safetensors"))
    return {path.name: path.read_bytes() for path in (folder / BEST, last, folder / LOG)}


def kill_one(base: Path, rng: random.Random, lasts: float, number: int) -> tuple[Path, str]:
    """Start a run of three and kill a rank of it; the run's folder and where it was killed."""
    folder = base / f"run-{number}"
    command = Command(base, *settings(base, folder), "--ranks", str(RANKS))
    while len(command.ranks()) < RANKS:
        assert command.process.poll() is None, command.wait(1)
        time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.6 * lasts))
    rank, process = rng.choice(sorted(command.ranks().items()) or [(0, 0)])
    if not process or command.process.poll() is not None:
        command.wait(60)
        return folder, "ended before"
    saved = is_run(folder) if folder.is_dir() else False
    begun = time.monotonic()
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        command.wait(60)
        return folder, "ended before"
    status, said = command.wait(PATIENCE)
    took = time.monotonic() - begun
    if status == 0:
        return folder, "ended before"
    assert status == 128 + signal.SIGKILL, (status, said)
    named = [line for line in said.splitlines() if f"rank {rank} of {RANKS} (process {process}) was killed" in line]
    assert len(named) == 1, said
    print(f"{number}: rank {rank} killed, all ended after {took:.2f} s", flush=True)
    return folder, "in training" if saved else "as it started"


def storm(kills: int, seed: int, base: Path, minutes: float = math.inf) -> Counter[str]:
    """Kill so often, or for so long; counts where, and on how many ranks runs went on, each to the same end."""
    rng, counts = random.Random(seed), Counter[str]()
    begun = time.monotonic()
    status, said = Command(base, *settings(base, base / "whole"), "--ranks", str(RANKS)).wait(600)
    assert status == 0, said
    lasts, expected = time.monotonic() - begun, outcome(base / "whole")
    number = 0
    while counts["killed"] < kills and time.monotonic() - begun < 60 * minutes:
        number += 1
        folder, where = kill_one(base, rng, lasts, number)
        counts[where] += 1
        if where != "ended before":
            counts["killed"] += 1
            ranks = rng.choice((1, 2, 3, 4))
            counts[f"went on on {ranks}"] += 1
            go_on = ["--resume", folder] if folder.is_dir() and is_run(folder) else settings(base, folder)
            status, said = Command(base, *go_on, "--ranks", str(ranks)).wait(600)
            assert status == 0, said
        left = outcome(folder)
        assert left.keys() == expected.keys()
        for name, content in expected.items():
            assert left[name] == content, f"{name} in {folder} is not that of a run that was never killed"
        shutil.rmtree(folder)
    return counts


def main() -> int:
    """Kill as often as asked and tell where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=math.inf, help="no kill after so many; another seed goes on")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        counts = storm(options.kills, options.seed, Path(base), options.minutes)
    print(f"killed {counts['killed']} times, and each run went on to the same last bit")
    for name, count in sorted(counts.items()):
        print(f"  {count:4} {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
