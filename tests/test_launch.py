"""`gpu-lstm train --ranks`: who starts what, what ends it, and what is told; ranks here are small scripts."""

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from gpu_lstm import InputError
from gpu_lstm.cli import launch as ranks
from gpu_lstm.cli import main
from gpu_lstm.cli.launch import FOLDER, Job, again, environment, to_start
from gpu_lstm.parallel import launched, mpiexec
from tests.soak import ranks as soak

try:
    MPIEXEC = mpiexec(2)
except InputError as error:
    MPIEXEC = str(error)
needs_mpi = pytest.mark.skipif(MPIEXEC.startswith("2 ranks"), reason=MPIEXEC)

BEGIN = """
import os, signal, sys, time
from pathlib import Path
rank, folder = int(os.environ["PMI_RANK"]), Path(os.environ["GPU_LSTM_RANKS_FOLDER"])
(folder / f"rank-{os.getppid()}").write_text(f"{rank} {os.getpid()}")
def all_here():
    while len(list(folder.glob("rank-*"))) < int(os.environ["PMI_SIZE"]):
        time.sleep(0.01)
"""
"""What a rank does first in these tests, as `attach` has it."""


def job(tmp_path, script, count=3):
    (tmp_path / "rank.py").write_text(BEGIN + script)
    return Job(MPIEXEC, count, [sys.executable, str(tmp_path / "rank.py")])


def starts(tmp_path, count=2):
    """Python text that starts ranks and gives how they ended, for a process of its own."""
    command = [sys.executable, str(tmp_path / "rank.py")]
    return f"from gpu_lstm.cli.launch import Job\nJob({MPIEXEC!r}, {count}, {command}).wait()"


@needs_mpi
@pytest.mark.parametrize("number", ["KILL", "SEGV"])
def test_a_killed_rank_ends_all_and_is_named(tmp_path, number, capfd):
    killed = job(tmp_path, f"all_here()\nif rank == 1: os.kill(os.getpid(), signal.SIG{number})\ntime.sleep(60)")
    begun = time.monotonic()
    assert killed.wait() == 128 + getattr(signal, f"SIG{number}")
    assert time.monotonic() - begun < 10
    assert killed.ended.startswith("rank 1 of 3 (process ")
    assert f"was killed by SIG{number}" in killed.ended
    printed = capfd.readouterr()
    assert not printed.err
    assert not printed.out.strip(), "mpiexec's own words are left out"


@needs_mpi
def test_a_status_that_all_end_with_is_that_of_the_job(tmp_path, capfd):
    ended = job(tmp_path, "all_here()\nif rank == 0: print('no such file', file=sys.stderr)\nsys.exit(2)", 2)
    assert ended.wait() == 2
    assert capfd.readouterr() == ("", "no such file\n")


@needs_mpi
def test_a_status_that_one_ends_with_is_told(tmp_path):
    ended = job(tmp_path, "all_here()\nif rank == 1: os._exit(7)\ntime.sleep(60)", 2)
    assert ended.wait() == 7
    assert ended.ended.startswith("rank 1 of 2 (process ")
    assert ended.ended.endswith("ended with status 7, and the others with it")


STOPS = """
def stop(number, frame):
    print("asked", flush=True)
    sys.exit(130)
signal.signal(signal.SIGUSR1, stop)
all_here()
if rank == 0: print("here", flush=True)
time.sleep(60)
"""


def when(condition, then):
    """Do something in another thread as soon as a condition holds."""

    def wait():
        while not condition():
            time.sleep(0.02)
        then()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@needs_mpi
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_every_rank_to_stop(tmp_path, capfd, number):
    stopped, seen = job(tmp_path, STOPS), []

    def here():
        seen.append(capfd.readouterr().out)
        return "here" in "".join(seen)

    before = signal.getsignal(number)
    thread = when(here, lambda: os.kill(os.getpid(), number))
    assert stopped.wait() == 130
    thread.join()
    assert stopped.stopping
    assert "".join((*seen, capfd.readouterr().out)).count("asked") == 3
    assert signal.getsignal(number) is before


@needs_mpi
def test_a_second_signal_ends_ranks_that_do_not_stop(tmp_path, capfd):
    stubborn, seen = job(tmp_path, STOPS.replace("sys.exit(130)", "return")), []

    def interrupt_twice():
        for word in ("here", "asked"):
            while word not in "".join(seen):
                time.sleep(0.02)
                seen.append(capfd.readouterr().out)
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt_twice, daemon=True)
    thread.start()
    begun = time.monotonic()
    assert stubborn.wait() != 0
    assert time.monotonic() - begun < 20
    thread.join()


@needs_mpi
def test_ranks_stop_where_the_one_who_started_them_is_killed(tmp_path):
    (tmp_path / "rank.py").write_text(BEGIN + STOPS + "\n")
    start = starts(tmp_path)
    with subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout.readline() == "here\n"
        launcher.kill()
        assert launcher.wait(10) == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while subprocess.run(["pgrep", "-f", str(tmp_path / "rank.py")], capture_output=True).returncode == 0:
        assert time.monotonic() < deadline, "ranks that nobody waits for go on"
        time.sleep(0.1)


@needs_mpi
@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs pseudo-terminals")
def test_rank_0_writes_to_the_terminal_and_the_others_do_not(tmp_path):
    (tmp_path / "rank.py").write_text(
        "import os, sys\nfrom gpu_lstm.cli.launch import attach\nattach()\n"
        "print(os.environ['PMI_RANK'], sys.stdout.isatty())"
    )
    start = starts(tmp_path)
    parent, child = os.openpty()
    subprocess.run([sys.executable, "-c", start], stdout=child, stderr=child, timeout=60, check=True)
    os.close(child)
    lines = sorted(os.read(parent, 4096).decode().split("\r\n"))
    os.close(parent)
    assert lines == ["", "0 True", "1 False"]


@needs_mpi
def test_a_reader_that_went_away_ends_the_ranks(tmp_path):
    (tmp_path / "rank.py").write_text(BEGIN + "all_here()\nwhile True: print('more', flush=True)")
    start = starts(tmp_path).replace("Job(", "try: Job(") + "\nexcept BrokenPipeError: import os; os._exit(141)"
    with subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.PIPE) as launcher:
        launcher.stdout.readline()
        launcher.stdout.close()
        assert launcher.wait(20) == 141


# -- what needs no MPI ------------------------------------------------------------------------------------


def options(**given):
    about = {
        "ranks": 2, "restarts": 0, "reduce": "ordered", "data": None, "resume": None, "out": None,
        "arguments": ["train", "text"],
        "backend": None, "keep": None, "save_minutes": None, "on_nonfinite": None, "graph": False,
    }  # fmt: skip
    return argparse.Namespace(**(about | given))


def test_a_command_starts_ranks_unless_it_is_one(monkeypatch):
    monkeypatch.setattr(ranks, "place", lambda: None)
    assert to_start(options())
    assert to_start(options(ranks=1))
    assert not to_start(options(ranks=None))
    with pytest.raises(InputError, match="--restarts 3 is of --ranks, which is not given"):
        to_start(options(ranks=None, restarts=3))
    monkeypatch.setenv(FOLDER, "/nowhere")
    assert not to_start(options(ranks=1))
    monkeypatch.setattr(ranks, "place", lambda: launched.Place(1, 4, 1, 4, "PMI_SIZE"))
    assert not to_start(options(ranks=4))
    with pytest.raises(InputError, match=r"--ranks is 2 in a job of 4 ranks \(PMI_SIZE\)"):
        to_start(options())


@pytest.mark.parametrize("lacking", ["mpi4py", "mpiexec"])
def test_what_is_not_installed_is_named_with_the_extra(monkeypatch, capsys, tmp_path, lacking):
    find = importlib.util.find_spec
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == lacking else find("os") if "mpi" in name else find(name),
    )
    monkeypatch.setattr(launched.shutil, "which", lambda name, path=None: None if name == lacking else "/bin/true")
    assert main(["train", "text", "--ranks", "2"]) == 2
    told = f'gpu-lstm: 2 ranks need {lacking}, which is not installed: pip install "gpu-lstm[mpi]"\n'
    assert capsys.readouterr() == ("", told)
    assert not list(tmp_path.iterdir())


def test_standard_input_is_refused(monkeypatch, capsys):
    assert main(["train", "text", "-", "--ranks", "2"]) == 2
    assert "data is -, standard input; expected a file, which each of 2 ranks reads" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--ranks", "0"], ["--ranks", "2", "--restarts", "-1"]])
def test_numbers_that_are_none_are_refused(capsys, arguments):
    with pytest.raises(SystemExit):
        main(["train", "text", *arguments])
    assert "is not at least" in capsys.readouterr().err


def test_each_rank_has_its_share_of_the_cores_unless_told(monkeypatch):
    for name in ("GPU_LSTM_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ranks.compiled, "threads", lambda: 8)
    assert [environment(count)["OMP_NUM_THREADS"] for count in (1, 2, 3, 16)] == ["8", "4", "2", "1"]
    assert environment(4)["OPENBLAS_NUM_THREADS"] == environment(4)["GPU_LSTM_NUM_THREADS"] == "2"
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    assert environment(4)["OPENBLAS_NUM_THREADS"] == "7"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert environment(4)["OMP_NUM_THREADS"] == "3"
    assert "GPU_LSTM_NUM_THREADS" not in environment(4)


def test_another_start_goes_on_with_what_is_of_the_command(tmp_path):
    asked = options(backend="cupy", keep=2, save_minutes=0.5, on_nonfinite="skip", graph=True)
    expected = ["--backend", "cupy", "--keep", "2", "--save-minutes", "0.5", "--on-nonfinite", "skip", "--graph"]
    assert again(asked, tmp_path) == [
        "train",
        "--resume",
        str(tmp_path),
        "--ranks",
        "2",
        "--reduce",
        "ordered",
        *expected,
    ]
    resumed = options(resume=tmp_path / "resume-00000010.safetensors", arguments=["train", "--epochs", "9"])
    assert again(resumed, tmp_path) == ["train", "--epochs", "9", "--resume", str(tmp_path)]


class Scripted:
    """Jobs that end as told, and note what they were started with."""

    def __init__(self, monkeypatch, *statuses, before=lambda: None):
        self.statuses, self.commands, self.before = list(statuses), [], before
        monkeypatch.setattr(ranks, "mpiexec", lambda count: "mpiexec")
        monkeypatch.setattr(ranks, "Job", self)

    stopping, ended = False, "rank 1 of 2 was killed"

    def __call__(self, program, count, command):
        self.commands.append(command[command.index("gpu_lstm") + 1 :])
        return self

    def wait(self):
        self.before()
        return self.statuses.pop(0)


def test_restarts_are_from_the_last_checkpoint_and_so_many(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(ranks, "is_run", lambda folder: len(jobs.commands) > 1)
    jobs = Scripted(monkeypatch, 137, 137, 137)
    assert ranks.launch(options(restarts=2), tmp_path) == 137
    assert jobs.commands[0] == jobs.commands[1] == ["train", "text", "--out", str(tmp_path)]
    assert jobs.commands[2] == ["train", "--resume", str(tmp_path), "--ranks", "2", "--reduce", "ordered"]
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "killed" in line] == ["gpu-lstm: rank 1 of 2 was killed"] * 3
    assert "gpu-lstm: starts again anew, for nothing was saved yet; 1 more restarts are left" in lines
    assert "gpu-lstm: starts again from the last checkpoint; 0 more restarts are left" in lines
    assert lines[-1] == f"go on from the last checkpoint with: gpu-lstm train --resume {tmp_path}"


@pytest.mark.parametrize("status", [0, 2, 130])
def test_a_run_that_ends_by_itself_is_not_started_again(monkeypatch, tmp_path, status, capsys):
    jobs = Scripted(monkeypatch, status)
    assert ranks.launch(options(restarts=5), tmp_path) == status
    assert len(jobs.commands) == 1
    assert capsys.readouterr() == ("", "")


def test_ranks_that_are_interrupted_before_they_listen_are_not_started_again(monkeypatch, tmp_path, capsys):
    jobs = Scripted(monkeypatch, 138, before=lambda: setattr(jobs, "stopping", True))
    assert ranks.launch(options(restarts=5), tmp_path) == 130
    assert capsys.readouterr().err == "gpu-lstm: interrupted\n"


def test_a_signal_of_slurm_stops_a_single_run_too():
    from gpu_lstm.cli.progress import stop_on_signal

    with stop_on_signal() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop()


# -- whole runs -------------------------------------------------------------------------------------------


@needs_mpi
@pytest.mark.slow
def test_killed_on_three_ranks_and_resumed_on_others_a_run_ends_with_the_same_bits(tmp_path):
    counts = soak.storm(2, seed=1, base=tmp_path)  # fifty: python -m tests.soak.ranks
    assert counts["killed"] >= 2


@needs_mpi
@pytest.mark.slow
def test_a_run_whose_rank_is_killed_starts_again_by_itself(tmp_path):
    status, said = soak.Command(tmp_path, *soak.settings(tmp_path, tmp_path / "whole"), "--ranks", "1").wait(300)
    assert status == 0, said
    killed = soak.Command(tmp_path, *soak.settings(tmp_path, tmp_path / "run"), "--ranks", "2", "--restarts", "1")
    log = tmp_path / "run" / "log.jsonl"
    while not (log.exists() and len(log.read_bytes().splitlines()) > 5):
        assert killed.process.poll() is None, killed.wait(1)
        time.sleep(0.01)
    os.kill(killed.ranks()[1], signal.SIGKILL)
    status, said = killed.wait(300)
    assert status == 0, said
    assert "rank 1 of 2" in said
    assert "starts again from the last checkpoint; 0 more restarts are left" in said
    assert soak.outcome(tmp_path / "run") == soak.outcome(tmp_path / "whole")


@needs_mpi
@pytest.mark.slow
def test_ctrl_c_saves_what_ranks_have_done(tmp_path):
    command = soak.Command(tmp_path, *soak.settings(tmp_path, tmp_path / "run"), "--ranks", "2", "--epochs", "500")
    log = tmp_path / "run" / "log.jsonl"
    while not (log.exists() and len(log.read_bytes().splitlines()) > 5):
        assert command.process.poll() is None, command.wait(1)
        time.sleep(0.01)
    command.process.send_signal(signal.SIGINT)
    status, said = command.wait(60)
    assert status == 130, said
    assert said.count("stopping after this step") == 1
    assert "saved; go on with: gpu-lstm train --resume" in said
