"""``gpu-lstm train --ranks N``: start the ranks on this machine by MPI's mpiexec, and say how they ended.

The ranks get the command as it was typed, and know by what mpiexec puts into their environment which they are. Started
by the user's own mpiexec or srun they do the same; what `launch` adds is then that program's business: the terminal,
Ctrl-C, a word about who was killed, and another start.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from gpu_lstm.bench import threads
from gpu_lstm.cli.options import positive, quoted, whole
from gpu_lstm.errors import InputError
from gpu_lstm.native import compiled
from gpu_lstm.parallel import mpiexec, place
from gpu_lstm.training.folder import is_run
from gpu_lstm.training.signals import handled

FOLDER = "GPU_LSTM_RANKS_FOLDER"
"""Environment variable of ranks that `launch` started: where they leave their ids, and find its terminals."""
GRACEFUL = (0, 2, 130)
"""Exit statuses that a run ends with by itself."""
RANK = """trap : INT TERM USR1
exec 3>&2 2> /dev/null
(exec "$@" 2>&3 3>&-)
status=$?
case $status in 0|2|130) exit $status;; esac
echo $status > "$GPU_LSTM_RANKS_FOLDER/ended-$$"
kill -s KILL $$"""
"""A rank, as a shell has it that waits for its process and notes how it ended, if badly.

mpiexec ends the others where one was killed, and doesn't where one ended by itself; whom it names then is anyone.
"""
NOISE = re.compile(r"=+\s*$|=   |Abort\(\d+\) on node|YOUR APPLICATION|This typically refers|Please see the FAQ")
"""How lines of mpiexec begin that say so, of one rank or another."""


def add_ranks(parser: argparse.ArgumentParser) -> None:
    """Add --ranks and --restarts."""
    parser.add_argument(
        "--ranks", type=positive, metavar="N",
        help="train on so many processes here, each with a GPU or its share of the cores (needs the extra mpi)",
    )  # fmt: skip
    parser.add_argument(
        "--restarts", type=whole, default=0, metavar="N",
        help="with --ranks: start again from the last checkpoint where a process was killed, at most so often",
    )  # fmt: skip


def to_start(options: argparse.Namespace) -> bool:
    """Whether a command is to start ranks, rather than to be one of them or none.

    Raises InputError where `ranks` or `restarts` don't go with how it was started.
    """
    if options.ranks is None:
        if options.restarts:
            raise InputError(f"--restarts {options.restarts} is of --ranks, which is not given")
        return False
    if (here := place()) is not None and here.size != options.ranks:
        raise InputError(
            f"--ranks is {options.ranks} in a job of {here.size} ranks ({here.said_by}); leave it out there"
        )
    return here is None and FOLDER not in os.environ


def attach() -> None:
    """What any process does first, if `launch` started it: leave its id; rank 0 writes to the terminals of `launch`."""
    folder = os.environ.get(FOLDER)
    if folder is None:
        return
    here = place()
    rank = here.rank if here else 0
    with contextlib.suppress(OSError):  # it only serves to name who was killed
        Path(folder, f"rank-{os.getppid()}").write_text(f"{rank} {os.getpid()}", encoding="ascii")
    for number, stream in ((1, sys.stdout), (2, sys.stderr)) if rank == 0 else ():
        with contextlib.suppress(OSError):  # no such terminal: mpiexec's pipe stays
            os.dup2(os.open(Path(folder, f"terminal{number}"), os.O_RDWR | os.O_NOCTTY), number)
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(line_buffering=True)


def launch(options: argparse.Namespace, folder: Path) -> int:
    """Run the command of `options` on its `ranks`, again after a crash as often as its `restarts` say.

    Parameters
    ----------
    options : argparse.Namespace
    folder : Path
        Of the run, in which checkpoints are found.

    Returns
    -------
    int
        The exit status: that of the ranks, or 128 and the signal that killed one.

    Raises
    ------
    InputError
        Ranks can't be started here, or data is ``-``, which each of them would have to read.
    """
    if options.data == "-":
        raise InputError(f"data is -, standard input; expected a file, which each of {options.ranks} ranks reads")
    program = mpiexec(options.ranks)
    arguments, left = list(options.arguments), options.restarts
    if options.resume is None and options.out is None:
        arguments += ["--out", str(folder)]
    while True:
        job = Job(program, options.ranks, [sys.executable, "-m", "gpu_lstm", *arguments])
        status = job.wait()
        if status in GRACEFUL:
            return status
        if job.stopping:
            print("gpu-lstm: interrupted", file=sys.stderr)
            return 130
        print(f"gpu-lstm: {job.ended or f'the ranks ended with status {status}'}", file=sys.stderr)
        saved = folder.is_dir() and is_run(folder)
        if left == 0:
            if saved:
                print(f"go on from the last checkpoint with: gpu-lstm train --resume {quoted(folder)}", file=sys.stderr)
            return status
        left -= 1
        where = "from the last checkpoint" if saved else "anew, for nothing was saved yet"
        print(f"gpu-lstm: starts again {where}; {left} more restarts are left", file=sys.stderr, flush=True)
        if saved:
            arguments = again(options, folder)


def again(options: argparse.Namespace, folder: Path) -> list[str]:
    """Arguments that go on with the run that `options` began or went on with."""
    last = ["--resume", str(folder)]
    if options.resume is not None:
        return [*options.arguments, *last]  # the last one holds
    words = ["train", *last, "--ranks", str(options.ranks), "--reduce", options.reduce]
    for name in ("backend", "keep", "save_minutes", "on_nonfinite"):  # what is of a command rather than of a run
        if (value := getattr(options, name)) is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words + ["--graph"] * options.graph


class Job:
    """Ranks that run, until they all end.

    The first Ctrl-C or SIGTERM asks them to stop after a step and save, and so does the end of this process; a second
    one ends them at once. mpiexec hands on SIGUSR1, of whatever MPI it is, so that is what they get.
    """

    def __init__(self, program: str, ranks: int, command: Sequence[str]):
        self.ranks, self.stopping, self.ended = ranks, False, ""
        self._broken: OSError | None = None  # why output can't be written
        self._folder = tempfile.TemporaryDirectory(prefix="gpu_lstm-ranks-")
        for number in (1, 2):
            with contextlib.suppress(OSError, AttributeError):  # no terminal, or none that has a name
                Path(self._folder.name, f"terminal{number}").symlink_to(os.ttyname(number))
        self._process = subprocess.Popen(
            [program, "-n", str(ranks), "sh", "-c", RANK, "rank", *command],
            env=environment(ranks) | {FOLDER: self._folder.name}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, errors="replace", bufsize=1, start_new_session=True,
            preexec_fn=stop_with_parent,
        )  # fmt: skip

    def wait(self) -> int:
        """Hand on what the ranks print until they have ended; the exit status, 128 and the signal where one was killed.

        `ended` says then in a line who ended badly. Raises OSError where nothing can be printed.
        """
        pairs = ((self._process.stdout, sys.stdout), (self._process.stderr, sys.stderr))
        hands = [threading.Thread(target=self._hand_on, args=pair, daemon=True) for pair in pairs]
        with self._folder, self._process, self._signals():
            for hand in hands:
                hand.start()
            status = self._process.wait()
            for hand in hands:
                hand.join()
            found = sorted(Path(self._folder.name).glob("ended-*"), key=lambda path: path.stat().st_mtime_ns)
            if found:  # the others only because of the first
                status = int(found[0].read_text(encoding="ascii"))
                self.ended = told(found[0].with_name(found[0].name.replace("ended", "rank")), status, self.ranks)
        if self._broken is not None:
            raise self._broken
        return status

    def _hand_on(self, source: TextIO, target: TextIO) -> None:
        for line in source:
            if not (NOISE.match(line) or (self.stopping and line.startswith(("[mpiexec", "[proxy")))):
                try:
                    target.write(line)
                    target.flush()
                except OSError as error:
                    self._broken = self._broken or error
                    self._process.kill()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def hand_on(number: int, frame: object) -> None:
            self._process.send_signal(signal.SIGKILL if self.stopping else signal.SIGUSR1)
            self.stopping = True

        with handled(hand_on):
            yield


def told(rank: Path, status: int, ranks: int) -> str:
    """How a rank ended, by what it has left of itself, in a line."""
    number, _, process = rank.read_text(encoding="ascii").partition(" ") if rank.exists() else ("", "", "")
    who = f"rank {number} of {ranks} (process {process})" if number else f"one of {ranks} ranks"
    if status <= 128:
        return f"{who} ended with status {status}, and the others with it"
    name = signal.Signals(status - 128).name
    why = ", as the system does where memory runs out" if name == "SIGKILL" else ""
    return f"{who} was killed by {name}{why}, and the others with it"


def environment(ranks: int) -> dict[str, str]:
    """The environment of the ranks: each has its share of the cores, unless the user says how many threads."""
    found = {
        **{"HYDRA_LAUNCHER": "fork", "HYDRA_RMK": "user"},  # MPICH: this machine, also within a job of more
        **{"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"},  # Open MPI: more ranks than cores, as asked
    }
    if not any(os.environ.get(variable) for variable in compiled.THREADS_VARIABLES):
        threads.set_variables(max(1, compiled.threads() // ranks), found)
    return found | os.environ


def stop_with_parent() -> None:
    """Have the system ask this process to stop when the one that started it ends, however that ends. On Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGUSR1)
