"""Kill training again and again, at random moments and within its writes, and see that nothing is lost.

    python -m tests.soak.kill --kills 200

A child trains, saving after every step; it is forked from this process, so that a start costs milliseconds. Its
writes go out in small pieces with pauses between them, so that many kills (SIGKILL) hit one. The next child goes on
from what it finds, and is killed in turn, until one gets to the end: then weights, checkpoint and logs must be those
of a run that was never killed, to the last byte.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

from gpu_lstm.training import Run, checkpoint, loop, tensorboard
from gpu_lstm.training.folder import BEST, LOG, holds_run, newest, resume_name
from tests import test_training as small

PLACES = ("between writes", "in a checkpoint's write", "in a manifest's write", "in fsync", "in rename", "in a log")


class SlowFile:
    """A file whose writes take place piece by piece; `place` tells the parent where the child is."""

    def __init__(self, file, place, pieces, here):
        self._file, self._place, self._pieces, self._here = file, place, pieces, here

    def write(self, content):
        self._place[0] = self._here
        size = max(1, -(-len(content) // self._pieces))
        for start in range(0, len(content), size):
            self._file.write(content[start : start + size])
            self._file.flush()
            time.sleep(0.0005)
        self._place[0] = 0
        return len(content)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    def __getattr__(self, name):
        return getattr(self._file, name)


def slow_writes(place) -> None:
    """Replace what writes in this process (a child) by slow versions that tell where they are."""

    def slow_open(pieces, here):
        def opening(path, *more, **options):
            part = 2 if "manifest" in str(path) else here
            return SlowFile(open(path, *more, **options), place, pieces, part)

        return opening

    for module, pieces, here in ((checkpoint, 6, 1), (loop, 2, 5), (tensorboard, 2, 5)):
        vars(module)["open"] = slow_open(pieces, here)

    def slow(name, here):
        real = getattr(os, name)

        def call(*arguments):
            place[0] = here
            # A kill loses nothing that the system has, so a real flush would only make this slow on a busy disk.
            result = None if name == "fsync" else real(*arguments)
            time.sleep(0.0003)
            place[0] = 0
            return result

        setattr(os, name, call)

    slow("fsync", 3)
    slow("replace", 4)


def settings():
    return small.settings(epochs=2, validations=4, save_minutes=0)


def train(kind: str, folder: Path) -> None:
    """Go on with the run in the folder, or begin it."""
    run = Run(small.TASKS[kind](), settings(), folder, {})
    if holds_run(folder):
        run.resume(*newest(folder)[1:3])
    run.go(lambda event: None, lambda: False)


def fork(kind: str, folder: Path, place=None) -> int:
    """Train in a child; returns its process id. It leaves with 0 only where it got to the end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a process with threads forks
        child = os.fork()
    if child == 0:
        try:
            if place is not None:
                slow_writes(place)
            train(kind, folder)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    return child


def outcome(folder: Path) -> dict[str, object]:
    """All that a run leaves, but for the times in its TensorBoard file and the lock."""
    last = max(path.name for path in folder.glob("resume-*.safetensors"))
    names = (BEST, last, LOG, "manifest.json")
    left: dict[str, object] = {name: (folder / name).read_bytes() for name in names}
    left["files"] = sorted(path.name for path in folder.iterdir())
    left["events"] = [event[1:] for event in tensorboard.events(folder / tensorboard.NAME)]
    return left


def storm(kills: int, seed: int, base: Path) -> Counter[str]:
    """Kill at least so many children; returns where they were, and how many runs got to their end, each the same."""
    rng, counts = random.Random(seed), Counter[str]()
    place = mmap.mmap(-1, 1)
    expected = {}
    lasts = {}
    for kind in small.TASKS:
        begun = time.perf_counter()
        child = fork(kind, base / f"whole-{kind}", place)
        assert os.waitpid(child, 0)[1] == 0, f"the {kind} run failed"
        lasts[kind] = time.perf_counter() - begun
        expected[kind] = outcome(base / f"whole-{kind}")
        assert resume_name(0) not in expected[kind]
    kinds = list(small.TASKS)
    while counts["killed"] < kills:
        kind = kinds[counts["runs"] % len(kinds)]
        folder = base / f"run-{counts['runs']}"
        while True:
            place[0] = 0
            child = fork(kind, folder, place)
            end = time.perf_counter() + rng.uniform(0, lasts[kind])
            status = None
            while status is None and time.perf_counter() < end:
                time.sleep(min(0.002, max(0.0, end - time.perf_counter())))
                found, ended = os.waitpid(child, os.WNOHANG)
                status = ended if found else None
            if status is None:
                os.kill(child, signal.SIGKILL)
                status = os.waitpid(child, 0)[1]
            if os.WIFSIGNALED(status):
                counts["killed"] += 1
                counts[PLACES[place[0]]] += 1
                continue
            assert status == 0, f"the {kind} run in {folder} could not go on"
            break
        left = outcome(folder)
        for name, content in expected[kind].items():
            assert left[name] == content, f"{kind}: {name} in {folder} is not that of a run that was never killed"
        counts["runs"] += 1
        shutil.rmtree(folder)
    return counts


def main() -> int:
    """Kill as often as asked and tell where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        counts = storm(options.kills, options.seed, Path(base))
    print(f"killed {counts['killed']} times; {counts['runs']} runs got to their end, all the same to the last byte")
    for name in PLACES:
        print(f"  {counts[name]:4} {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
