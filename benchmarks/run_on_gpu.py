"""Everything that waits for a GPU, in one command of nine minutes.

    PYTHONPATH=. python -m benchmarks.run_on_gpu --out FOLDER             # what tells most
    PYTHONPATH=. python -m benchmarks.run_on_gpu --out OTHER --second     # nine more: grid, shapes, options, models
    PYTHONPATH=. python -m benchmarks.run_on_gpu --out THIRD --rehearse   # all its code, tiny; times mean nothing

Runs from a bare checkout, without a network: it needs CuPy, for the tests pytest, for comparisons PyTorch with CUDA;
what is missing is recorded as such. Without ``--out`` it writes ``benchmarks/results/gpu_DATE``, and says so.

Each part is a process of its own. It begins nothing new when its time is up, is killed ten seconds later, or when it
has been silent for 20 to 40; after a crash, or one item that hung, another process goes on behind it. Every item is
written as soon as it is measured, to one of six files, beside ``log.txt``: whatever ends this command, what it had is
there. The same command with the same folder goes on with what is missing or has failed. All parts together keep to
``--seconds``; what there was no time for is counted. Exit status 1 says that something failed, 2 that no GPU is there.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import machine_on_gpu, on_gpu, right_on_gpu, speed_on_gpu
from benchmarks.on_gpu import BEGUN, Log, Record, failed
from gpu_lstm.backend import CupyBackend
from gpu_lstm.bench import record as records
from gpu_lstm.errors import BackendError
from gpu_lstm.native import kernels

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = ["-m", "benchmarks.run_on_gpu"]
GRACE, SILENCE, LAST = 10.0, 40.0, 60.0
"""Seconds: from the end of a part's time to its death; until an item counts as hung, or half; for the last part."""
NO_GPU = 2
"""Exit status."""
PRINTED = 9000
"""Characters that parts may print; all of it is in ``log.txt``. The summary comes after them."""
now: Callable[[], float] = time.monotonic


@dataclass(frozen=True)
class Part:
    """One of what is done.

    Attributes
    ----------
    work : callable
        Measures items, as ``work(backend, log)``.
    file : str
        Of its record, which parts may share.
    seconds : float
        How long it may take.
    environment : dict
        Variables that its process has besides.
    always : bool
        It is done before others even where its record lacks nothing.
    """

    work: Callable[[Any, Log], None]
    file: str
    seconds: float
    environment: dict[str, str] = field(default_factory=dict)
    always: bool = False


DESCRIBE = Part(machine_on_gpu.describe, "machine", 5)
COMPILE = Part(machine_on_gpu.compile_kernels, "machine", 60, always=True)
PARTS: dict[str, Part] = {
    "describe": DESCRIBE,
    "compile": COMPILE,
    "forms": Part(right_on_gpu.forms, "smoke", 25, {kernels.WATCHDOG: "4000000"}),
    "dtypes": Part(right_on_gpu.dtypes, "smoke", 35),
    "costs": Part(machine_on_gpu.costs, "costs", 40),
    "tests": Part(right_on_gpu.tests, "tests", 120, {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}),
    "headline": Part(speed_on_gpu.headline, "speed", 125),
    "relaxed": Part(speed_on_gpu.relaxed, "speed", 15),
    "steps": Part(speed_on_gpu.steps, "speed", 55),
    "soak": Part(right_on_gpu.soak, "soak", LAST),
}
SECOND: dict[str, Part] = {
    "describe": DESCRIBE,
    "compile": COMPILE,
    "grid": Part(speed_on_gpu.over(speed_on_gpu.grid), "grid", 150),
    "shapes": Part(speed_on_gpu.over(speed_on_gpu.shapes), "shapes", 105),
    "nccl": Part(right_on_gpu.nccl, "options", 10),
    "options": Part(speed_on_gpu.options, "options", 55),
    "models": Part(speed_on_gpu.models, "models", 75),
    "over_time": Part(speed_on_gpu.over_time, "options", 20),
    "sanitizer": Part(right_on_gpu.sanitizer, "sanitizer", LAST),
}
"""In their order. The last has all the time that is left."""


# -- a part, in a process of its own ----------------------------------------------------------------------------------


def device(number: int) -> Any:
    """The backend that is measured."""
    return CupyBackend(number)


def end_with_parent() -> None:
    """Let this process end when the one that started it does, however that ends. On Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def play(name: str, part: Part, options: argparse.Namespace) -> int:
    """Measure a part's items into its file."""
    end_with_parent()
    try:
        backend = device(options.device)
    except BackendError as error:
        print(f"run_on_gpu: {error}", flush=True)
        return NO_GPU
    log = Log(
        options.out / f"{part.file}.json", name, backend, options.run, options.seconds, options.rounds, options.rehearse
    )
    if (there := log.record.get("gpu", backend.describe())["device"]) != backend.describe()["device"]:
        print(f"run_on_gpu: the record is of {there}, and this is {backend.describe()['device']}", flush=True)
        return NO_GPU
    if "format" not in log.record:
        command = f"python {' '.join(PROGRAM)}{' --second' * options.second}{' --rehearse' * options.rehearse}"
        origin = records.provenance(command, machine_on_gpu.PACKAGES)
        log.record = origin | {"gpu": backend.describe(), "rehearsal": options.rehearse} | log.record
    part.work(backend, log)
    log.close()
    return 0


# -- the command ------------------------------------------------------------------------------------------------------


class Terminal:
    """What parts print, on the terminal as far as there is room, and in a file, once its folder is there."""

    def __init__(self, path: Path):
        self.path, self.room, self.kept = path, PRINTED, 0

    def title(self, line: str) -> None:
        """Tell what comes now, which may take half of the room that is left."""
        self.kept = 0
        self.say(line)
        self.kept = self.room // 2

    def say(self, line: str) -> None:
        """Tell a line."""
        if self.path.parent.is_dir():
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
        line = line[:300]
        if self.room - len(line) > self.kept:
            self.room -= len(line) + 1
            print(line, flush=True)

    def forward(self, process: subprocess.Popen[str]) -> None:
        """Tell all that a process says."""
        assert process.stdout is not None
        for line in process.stdout:
            self.say(line.rstrip())


@contextlib.contextmanager
def running(
    name: str, seconds: float, options: argparse.Namespace, terminal: Terminal
) -> Iterator[subprocess.Popen[str]]:
    """A part's process, in a group of its own; nothing is left of it afterwards, whatever happens here."""
    arguments = ["--part", name, "--seconds", f"{seconds:.1f}", "--run", options.run, "--out", str(options.out)]
    arguments += ["--device", str(options.device), "--rounds", str(options.rounds)]
    arguments += ["--second"] * options.second + ["--rehearse"] * options.rehearse
    process = subprocess.Popen(
        [sys.executable, *PROGRAM, *arguments],
        cwd=ROOT, process_group=0, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        env=os.environ | parts_of(options)[name].environment,
    )  # fmt: skip
    listener = threading.Thread(target=terminal.forward, args=(process,), daemon=True)
    listener.start()
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # it may wait in the driver, where no signal reaches it
            process.wait(5)
        listener.join(2)


def watch(process: subprocess.Popen[str], path: Path, end: float, silence: float) -> str:
    """Wait for a process; why it has to be killed, or how it ended where that was not well."""
    written, since = None, now()
    while process.poll() is None:
        seen = path.stat().st_mtime_ns if path.exists() else None
        if seen != written:
            written, since = seen, now()
        if now() > end:
            return "killed, its time was up"
        if now() - since > silence:
            return f"killed after {silence:.0f} s of silence"
        time.sleep(0.02)
    return f"ended with status {process.returncode}" if process.returncode else ""


def conduct(name: str, end: float, grace: float, options: argparse.Namespace, terminal: Terminal) -> int:
    """A part, by as many processes as it takes; gives the last one's exit status.

    From `grace` before `end` they begin nothing new; then they are killed.
    """
    part = parts_of(options)[name]
    path, begun, tried = options.out / f"{part.file}.json", now(), -1
    silence = 10 * SILENCE if options.rehearse else min(SILENCE, max(SILENCE / 2, part.seconds / 2))
    while True:
        with running(name, max(0.1, end - grace - now()), options, terminal) as process:
            ended = watch(process, path, end, silence)
        if process.returncode == NO_GPU:
            return NO_GPU
        record = on_gpu.read(path)
        items = [item for _, item in of_part(record, name) if item["run"] == options.run]
        for item in items:
            if item.get("error") == BEGUN:
                item["error"] = f"{BEGUN}: its process was {ended}" if ended else BEGUN
        again = bool(ended) and len(items) > tried and now() + GRACE < end
        tried = len(items)
        told = record["parts"].get(name, {}) if not ended else {}
        record["parts"][name] = {"run": options.run, "took": round(now() - begun, 1), "ended": ended or "well", **told}
        on_gpu.write(record, path)
        if ended:
            terminal.say(f"  {ended}{'; another goes on' if again else ''}")
        if not again:
            return int(process.returncode or 0)


def of_part(record: Record, name: str) -> list[tuple[str, Record]]:
    """The items of a part, by their keys."""
    return [(key, item) for key, item in record["items"].items() if key.startswith(f"{name}/")]


def lacks(out: Path, name: str, part: Part) -> bool:
    """Whether there is something left to do of a part."""
    record = on_gpu.read(out / f"{part.file}.json")
    told = record["parts"].get(name, {"ended": "never begun"})
    wanting = any(failed(item) or "missing" in item for _, item in of_part(record, name))
    return wanting or told["ended"] != "well" or bool(told["left_out"])


def summary(parts: dict[str, Part], out: Path) -> tuple[list[str], int]:
    """A line a part, then what failed; and how much did."""
    lines, failures = [f"{'part':<10} {'ended':<28} items failed missing left out seconds"], []
    for name, part in parts.items():
        record = on_gpu.read(out / f"{part.file}.json")
        told = record["parts"].get(name, {"ended": "never begun", "took": 0.0})
        items = of_part(record, name)
        broken = [f"  {key}: {item['error']}"[:200] for key, item in items if failed(item)]
        missing = sum("missing" in item for _, item in items)
        left = len(told.get("left_out", []))
        lines.append(
            f"{name:<10} {told['ended']:<28} {len(items):5} {len(broken):6} {missing:7} {left:8} {told['took']:7.0f}"
        )
        failures += broken or [f"  {name}: {told['ended']}"] * (told["ended"] not in ("well", "never begun"))
    more = [f"  and {len(failures) - 8} more"] * (len(failures) > 8)
    return [*lines, *(["failed:", *failures[:8], *more] if failures else ["nothing failed"])], len(failures)


def parts_of(options: argparse.Namespace) -> dict[str, Part]:
    """Of this nine minutes, or of the second."""
    return SECOND if options.second else PARTS


def run(options: argparse.Namespace) -> int:
    """All parts that lack something; the exit status."""
    terminal = Terminal(options.out / "log.txt")
    terminal.say(f"writing to {options.out}" + ", a rehearsal: times mean nothing" * options.rehearse)
    asked = {name: part for name, part in parts_of(options).items() if name in (options.only or parts_of(options))}
    deadline = now() + (1e6 if options.rehearse else options.seconds)
    lacking = [name for name, part in asked.items() if lacks(options.out, name, part)]
    for place, (name, part) in enumerate(asked.items(), 1):
        last = place == len(asked)
        end, grace = deadline - 2 - LAST * (not last), 3.0 if last else GRACE
        if not (last or options.rehearse):
            end = min(end, now() + part.seconds + grace)
        if end - grace < now() or not lacking or not (part.always or name in lacking):
            continue
        terminal.title(f"== {name}" + ("" if options.rehearse else f", {end - grace - now():.0f} s"))
        if conduct(name, end, grace, options, terminal) == NO_GPU:
            return NO_GPU
    lines, failures = summary(asked, options.out)
    terminal.room, terminal.kept = PRINTED, 0
    for line in [*lines, f"written: {options.out}"]:
        terminal.say(line)
    return int(failures > 0)


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    results = ROOT / "benchmarks" / "results" / f"gpu_{datetime.now(UTC):%Y-%m-%d_%H%M}"
    parser.add_argument("--out", type=Path, default=results, help="folder of the record (benchmarks/results/gpu_DATE)")
    parser.add_argument("--second", action="store_true", help="the second nine minutes")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, no limits of time")
    parser.add_argument("--only", nargs="+", metavar="PART", help=f"some of {', '.join([*PARTS, *SECOND])}")
    parser.add_argument("--seconds", type=float, default=540.0, help="of all parts together (540)")
    parser.add_argument("--rounds", type=int, default=15, help="timed steps of each side, at most (15)")
    parser.add_argument("--device", type=int, default=0, help="CUDA device number")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--run", default=datetime.now(UTC).isoformat(), help=argparse.SUPPRESS)
    options = parser.parse_args()
    parts, options.out = parts_of(options), options.out.resolve()
    if options.rounds < 1 or options.device < 0 or not options.seconds > 0:
        parser.error("--rounds must be at least 1, --device at least 0 and --seconds above 0")
    if unknown := set(options.only or ()) - parts.keys():
        parser.error(f"--only has {', '.join(sorted(unknown))}; expected some of {', '.join(parts)}")
    for path in options.out.glob("*.json"):
        if on_gpu.read(path).get("rehearsal", options.rehearse) != options.rehearse:
            parser.error(f"--out {options.out} has a record of {'measurements' * options.rehearse or 'a rehearsal'}")
    if options.part:
        return play(options.part, parts[options.part], options)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the part's process ends, too
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
