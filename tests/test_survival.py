"""What a run survives: kills, full disks, torn files, other processes, signals, numbers that are none."""

import json
import math
import os
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest

from gpu_lstm import InputError
from gpu_lstm.backend import NumpyBackend
from gpu_lstm.cli import main
from gpu_lstm.training import Run, TrainingError, checkpoint, folder, lock, loop, tensorboard
from gpu_lstm.training.folder import BEST, MANIFEST, newest, resume_name
from gpu_lstm.training.lock import Holder, locked
from gpu_lstm.training.loss_scale import LossScaler
from tests.soak import kill
from tests.test_training import TASKS, Scripted, settings, text_task, train, weights

# -- kills and full disks --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_random_moments_and_resumed_a_run_ends_with_the_same_bytes(tmp_path):
    counts = kill.storm(24, seed=1, base=tmp_path)  # hundreds: python -m tests.soak.kill
    assert counts["killed"] >= 24
    assert counts["runs"] >= 3


class FullDisk:
    """Counts writes, flushes to disk and renames; the one numbered `fail_at` finds the disk full."""

    def __init__(self, monkeypatch, fail_at):
        self.count, self.fail_at = 0, fail_at
        for module in (checkpoint, folder, tensorboard):
            monkeypatch.setattr(module, "open", self.open, raising=False)
        monkeypatch.setattr(os, "fsync", self.failing(lambda file: None))  # a real one is slow on a busy disk
        for name in ("replace", "write"):
            monkeypatch.setattr(os, name, self.failing(getattr(os, name)))

    def tick(self):
        self.count += 1
        return self.count - 1 == self.fail_at

    def failing(self, call):
        def failing_call(*arguments):
            if self.tick():
                raise OSError(28, "No space left on device")
            return call(*arguments)

        return failing_call

    def open(self, *arguments, **options):
        file, disk = open(*arguments, **options), self  # noqa: SIM115

        class File:
            def write(self, content):
                if disk.tick():
                    file.write(content[: len(content) // 2])
                    if disk.fail_at % 2 and getattr(file, "raw", None) is None:
                        return len(content) // 2  # a short write, as an unbuffered file tells of a disk just filled
                    raise OSError(28, "No space left on device")
                return file.write(content)

            def __enter__(self):
                return self

            def __exit__(self, *error):
                file.close()

            def __getattr__(self, name):
                return getattr(file, name)

        return File()


@pytest.mark.slow
def test_every_write_may_find_the_disk_full(tmp_path, monkeypatch):
    more = {"epochs": 1, "validations": 2}
    train(text_task(), tmp_path / "whole", **more)
    expected = kill.outcome(tmp_path / "whole")
    number = failed = 0
    while True:
        place = tmp_path / str(number)
        with monkeypatch.context() as patch:
            disk = FullDisk(patch, number)
            try:
                train(text_task(), place, **more)
                assert disk.count <= number
                break
            except OSError as error:
                assert error.errno == 28
                failed += 1
        assert not list(place.glob("*.part"))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda file: None)
            train(text_task(), place, resume=folder.holds_run(place), **more)
        assert kill.outcome(place) == expected, f"after the failure of write number {number}"
        number += 1
    assert failed == number > 50


def test_the_directory_is_flushed_after_the_rename(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (calls.append("fsync"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda *names: (calls.append("replace"), replace(*names)))
    folder.save(tmp_path, resume_name(1), b"content", 1, keep=1)
    assert calls == ["fsync", "replace", "fsync"] * 2  # the checkpoint, then the manifest


# -- whole and torn ---------------------------------------------------------------------------------------


@pytest.fixture
def stopped(tmp_path):
    """A run stopped after step 13, with checkpoints of steps 5, 10 and 13."""
    place = tmp_path / "run"
    train(text_task(), place, stop_after=13)
    assert sorted(p.name for p in place.glob("resume-*")) == [resume_name(step) for step in (5, 10, 13)]
    return place


def tear(path):
    path.write_bytes(path.read_bytes()[:-9])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "told"),
    [(tear, "it is torn: "), (flip, "it is damaged: its checksum"), (Path.unlink, "it is missing")],
)
def test_resuming_takes_the_newest_whole_checkpoint_and_tells_what_it_passed_over(stopped, harm, told):
    for step in (10, 13):
        harm(stopped / resume_name(step))
    path, _, description, notes = newest(stopped)
    assert (path.name, description["progress"]["step"]) == (resume_name(5), 5)
    assert [note.split(": ")[0] for note in notes] == [f"passed over {stopped / resume_name(n)}" for n in (13, 10)]
    assert all(told in note for note in notes)


def test_what_was_passed_over_is_written_again(stopped, tmp_path):
    whole = text_task()
    train(whole, tmp_path / "whole")
    flip(stopped / resume_name(13))
    task = text_task()
    train(task, stopped, resume=True)
    assert weights(task) == weights(whole)
    for name in (resume_name(21), BEST, "log.jsonl"):
        assert (stopped / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_checkpoint_that_the_manifest_does_not_name_is_passed_over(stopped):
    (stopped / resume_name(15)).write_bytes((stopped / resume_name(13)).read_bytes())
    path, _, _, notes = newest(stopped)
    assert path.name == resume_name(13)
    assert notes == [f"passed over {stopped / resume_name(15)}: its save was interrupted: the manifest doesn't name it"]


def test_with_no_whole_checkpoint_all_are_named(stopped):
    for path in stopped.glob("resume-*"):
        tear(path)
    with pytest.raises(InputError, match=r"no whole checkpoint to go on from; passed over .*13.*10.*05"):
        newest(stopped)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"files": {"a": 1}}', b"[" * 100000, b"\xff"])
def test_a_damaged_manifest_is_told(stopped, content):
    (stopped / MANIFEST).write_bytes(content)
    with pytest.raises(InputError, match=r"manifest .* is damaged.*name the one"):
        newest(stopped)


def test_a_named_checkpoint_goes_on_beside_a_damaged_manifest(stopped, tmp_path):
    whole = text_task()
    train(whole, tmp_path / "whole")
    (stopped / MANIFEST).write_text("{")
    flip(stopped / resume_name(5))
    tear(stopped / resume_name(10))
    task, lines = text_task(), []
    run = Run(task, settings(), stopped, {"options": {"a": 1}}, lines.append)
    run.resume(*checkpoint.load(stopped / resume_name(13)))
    run.go(lambda event: None, lambda: False)
    assert weights(task) == weights(whole)
    assert lines == [f"the manifest of {stopped} was damaged; it names what can be read now"]
    assert newest(stopped)[0].name == resume_name(21)


def test_a_folder_without_a_run_is_told(tmp_path):
    with pytest.raises(InputError, match="no checkpoint to go on from"):
        newest(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        newest(tmp_path / "none")


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_the_last_few_checkpoints_are_kept(tmp_path, keep):
    run, _, _ = train(text_task(), tmp_path, keep=keep, save_minutes=0)
    steps = range(run.steps - keep + 1, run.steps + 1)
    assert sorted(p.name for p in tmp_path.glob("resume-*")) == [resume_name(step) for step in steps]
    assert set(folder.read_manifest(tmp_path)) == {BEST, *(resume_name(step) for step in steps)}


def test_a_best_model_that_is_lost_is_told(stopped):
    flip(stopped / BEST)
    lines = []
    run = Run(text_task(), settings(), stopped, {"options": {"a": 1}}, lines.append)
    run.resume(*newest(stopped)[1:3])
    assert len(lines) == 1
    assert BEST in lines[0]
    assert "checksum" in lines[0]


def test_versions_that_changed_are_told_in_one_line(stopped):
    _, arrays, description, _ = newest(stopped)
    description["versions"] |= {"numpy": "1.2.3"}
    lines = []
    Run(text_task(), settings(), stopped, {}, lines.append).resume(arrays, description)
    assert len(lines) == 1
    assert f"numpy 1.2.3 then, {np.__version__} now" in lines[0]


def test_the_command_goes_on_and_says_what_it_passed_over(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text("to be or not to be, that is the question\n" * 60)
    command = ["train", "text", "t.txt", "--hidden-size", "8", "--batch", "4", "--length", "16", "--epochs", "2"]
    assert main([*command, "--sample-length", "0", "--out", "run", "--keep", "2", "--save-minutes", "0"]) == 0
    last = max(Path("run").glob("resume-*"))
    tear(last)
    capsys.readouterr()
    assert main(["train", "--resume", "run"]) == 0
    told = capsys.readouterr().out
    assert f"note: passed over {last}: it is torn" in told
    assert "going on with run after step" in told
    assert main([*command, "--out", "run"]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert main(["train", "--resume", str(Path("run") / BEST)]) == 2
    assert "is a model for use" in capsys.readouterr().err


# -- one process a run ------------------------------------------------------------------------------------


def test_a_second_process_is_refused_with_the_first_one_s_id(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from gpu_lstm.training.lock import locked\n"
        "with locked(Path(sys.argv[1])):\n print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-P", "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"in use by process {other.pid} on "):
            train(text_task(), tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["lock"]
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    lines = []
    Run(text_task(), settings(), tmp_path, {}, lines.append).go(lambda event: None, lambda: False)
    assert lines == [
        f"process {other.pid} on {Holder.here().host}, which trained in {tmp_path}, is gone; its lock is taken over"
    ]


def test_two_runs_in_one_process_exclude_each_other_too(tmp_path):
    with locked(tmp_path), pytest.raises(InputError, match=f"in use by process {os.getpid()} "), locked(tmp_path):
        pass
    with locked(tmp_path) as died:
        assert died is None


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({}, True),
        ({"boot": "another"}, False),
        ({"started": "1"}, False),
        ({"pid": 2**22 + 1, "started": "7"}, False),
        ({"host": "another", "pid": 2**22 + 1}, True),
    ],
)
def test_without_locks_of_the_system_a_stale_one_is_recognised(tmp_path, monkeypatch, change, refused):
    monkeypatch.setattr(lock, "HAS_FLOCK", False)
    me = Holder.here()
    parent = {"pid": os.getppid(), "host": me.host, "boot": me.boot, "started": lock._started(os.getppid())}
    (tmp_path / lock.NAME).write_text(json.dumps(parent | change))
    if refused:
        with pytest.raises(InputError, match=f"in use by process {(parent | change)['pid']} on "), locked(tmp_path):
            pass
    else:
        with locked(tmp_path) as died:
            assert died is not None


@pytest.mark.parametrize("content", ["", "x", "[]", '{"pid": 1}', "[" * 5000])
def test_a_lock_file_that_says_nothing_is_no_lock(tmp_path, content):
    (tmp_path / lock.NAME).write_text(content)
    with locked(tmp_path) as died:
        assert died is None


def test_an_error_leaves_no_note_of_a_process_that_lives(tmp_path):
    with pytest.raises(RuntimeError, match="diverged"), locked(tmp_path):
        raise RuntimeError("diverged")
    assert (tmp_path / lock.NAME).read_bytes() == b""
    (tmp_path / lock.NAME).write_text(json.dumps(vars(Holder.here())))  # as a run that never got to its end leaves it
    with locked(tmp_path) as died:
        assert died is None


def test_the_lock_holds_on_a_system_without_flock_and_pread(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "HAS_FLOCK", False)
    for name in ("pread", "pwrite"):
        monkeypatch.delattr(os, name)
    with locked(tmp_path) as died:
        assert died is None
        with pytest.raises(InputError, match=f"in use by process {os.getpid()} "), locked(tmp_path):
            pass
    with locked(tmp_path) as died:
        assert died is None


def test_a_lock_that_is_a_link_is_not_written_through(tmp_path):
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / lock.NAME).symlink_to("theirs")
    with pytest.raises(OSError, match="lock"), locked(tmp_path):
        pass
    assert (tmp_path / "theirs").read_text() == "theirs"


def test_a_second_new_run_in_a_folder_is_refused_and_the_first_one_kept(tmp_path):
    first, second = (Run(text_task(seed), settings(), tmp_path, {}) for seed in (0, 1))

    def both(event):
        if event.step == 3:
            with pytest.raises(InputError, match="already holds a run|in use"):
                second.go(lambda event: None, lambda: False)

    first.go(both, lambda: False)
    before = kill.outcome(tmp_path)
    with pytest.raises(InputError, match="already holds a run"):
        second.go(lambda event: None, lambda: False)
    assert kill.outcome(tmp_path) == before


def test_a_run_that_began_between_the_look_and_the_lock_is_kept(tmp_path, monkeypatch):
    second = Run(text_task(1), settings(), tmp_path, {})
    check = folder.check_unused

    def check_and_wait(place):
        check(place)
        monkeypatch.setattr(folder, "check_unused", check)
        train(text_task(), tmp_path)

    monkeypatch.setattr(folder, "check_unused", check_and_wait)
    with pytest.raises(InputError, match="was changed by another process since it was looked at"):
        second.go(lambda event: None, lambda: False)
    assert newest(tmp_path)[2]["progress"]["step"] == 21


def test_a_run_that_went_on_elsewhere_since_it_was_read_is_not_set_back(stopped):
    late = Run(text_task(), settings(), stopped, {"options": {"a": 1}})
    late.resume(*newest(stopped)[1:3])
    train(text_task(), stopped, resume=True)
    before = kill.outcome(stopped)
    with pytest.raises(InputError, match="was changed by another process"):
        late.go(lambda event: None, lambda: False)
    assert kill.outcome(stopped) == before


def test_without_a_manifest_a_named_checkpoint_goes_on_and_the_others_stay(stopped, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for step in (10, 13):
        (elsewhere / resume_name(step)).write_bytes((stopped / resume_name(step)).read_bytes())
    run = Run(text_task(), settings(), elsewhere, {"options": {"a": 1}})
    run.resume(*checkpoint.load(elsewhere / resume_name(13)))
    run.go(lambda event: None, lambda: run.step == 14)
    assert {resume_name(step) for step in (10, 13, 14)} <= set(folder.read_manifest(elsewhere))


# -- signals ----------------------------------------------------------------------------------------------


def start(tmp_path, *more):
    (tmp_path / "t.txt").write_text("to be or not to be, that is the question\n" * 400)
    command = [sys.executable, "-m", "gpu_lstm", "train", "text", "t.txt", "--hidden-size", "24", "--batch", "4"]
    process = subprocess.Popen(
        [*command, "--epochs", "1000", "--out", "run", "--sample-length", "0", *more],
        cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    log = tmp_path / "run/log.jsonl"
    while process.poll() is None and not (log.exists() and log.stat().st_size > 1000):
        time.sleep(0.02)
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_first_signal_saves_and_leaves(tmp_path, number):
    process = start(tmp_path)
    process.send_signal(number)
    assert process.wait() == 130
    assert "stopping after this step" in process.stderr.read()
    process.stderr.close()
    path, _, description, notes = newest(tmp_path / "run")
    assert notes == []
    assert path.name == resume_name(description["progress"]["step"])
    assert folder.read_log(tmp_path / "run/log.jsonl")[-1]["step"] == description["progress"]["step"]


def test_a_second_signal_leaves_at_once(tmp_path):
    slow = (
        "import time; from gpu_lstm.cli import main; from gpu_lstm.training.run import Run\n"
        "Run.save = lambda self: time.sleep(600) if self.step else None\n"
        "main(['train', 'text', 't.txt', '--hidden-size', '8', '--batch', '4', '--epochs', '1000', '--out', 'run',"
        " '--sample-length', '0'])"
    )
    (tmp_path / "t.txt").write_text("to be or not to be, that is the question\n" * 400)
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", slow], cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    log = tmp_path / "run/log.jsonl"
    while process.poll() is None and not (log.exists() and log.stat().st_size > 1000):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.stderr.readline()
    assert process.stderr.readline().startswith("stopping after this step")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == -signal.SIGTERM
    process.stderr.close()


# -- logs -------------------------------------------------------------------------------------------------


def test_the_checksum_of_tfrecord():
    crc = tensorboard.masked_crc32c(b"123456789")
    unmasked = (crc - 0xA282EAD8) & 0xFFFFFFFF
    assert (unmasked >> 17 | unmasked << 15) & 0xFFFFFFFF == 0xE3069283  # the check value of CRC-32C


def test_an_event_by_its_bytes():
    body = tensorboard.scalars_event(300, {"loss": 1.5}, 2.0)
    assert body.hex() == "09" + struct.pack("<d", 2.0).hex() + "10ac02" + "2a0d" + "0a0b" + "0a04" + b"loss".hex() + (
        "15" + struct.pack("<f", 1.5).hex()
    )
    whole = tensorboard.record(body)
    assert whole[:8] == struct.pack("<Q", len(body))
    assert len(whole) == len(body) + 16


def test_the_event_file_has_what_the_log_has(tmp_path):
    _, _, events = train(text_task(), tmp_path)
    found = {}
    for _, step, content in tensorboard.events(tmp_path / tensorboard.NAME):
        tagged = re.findall(rb"\n.([a-z_]+)\x15(.{4})", content, re.DOTALL)
        if tagged:
            found[step] = {tag.decode(): struct.unpack("<f", value)[0] for tag, value in tagged}
    assert [*found] == [event.step for event in events]
    for event in events:
        assert found[event.step]["loss"] == np.float32(event.loss)
        assert ("validation_score" in found[event.step]) == (event.score is not None)


@pytest.mark.parametrize("torn", [0, 1, 13, 40])
def test_a_resumed_run_goes_on_in_both_logs_without_doubled_steps(tmp_path, torn):
    train(text_task(), tmp_path / "whole", save_minutes=0)
    train(text_task(), tmp_path / "run", stop_after=13, save_minutes=0)
    path = tmp_path / "run" / tensorboard.NAME
    with open(path, "ab") as file:
        file.write(tensorboard.record(tensorboard.scalars_event(14, {"loss": 9.0}, 0.0))[: torn or None])
    with open(tmp_path / "run/log.jsonl", "a") as file:
        file.write('{"step": 14, "loss": 9}\n'[: torn or None])
    train(text_task(), tmp_path / "run", resume=True, save_minutes=0)
    assert kill.outcome(tmp_path / "run") == kill.outcome(tmp_path / "whole")


def test_tensorboard_itself_reads_the_file(tmp_path):
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    _, _, events = train(text_task(), tmp_path)
    read = [e for e in loader.EventFileLoader(str(tmp_path / tensorboard.NAME)).Load() if e.HasField("summary")]
    assert [e.step for e in read] == [event.step for event in events]


# -- numbers that are none --------------------------------------------------------------------------------


class Broken:
    """A task of which some steps give a loss or a gradient that is no number."""

    def __init__(self, bad, task=None, parameter="lstm.weight_hh_l0", value=math.nan):
        self.task, self.bad, self.parameter, self.value = task or text_task(), bad, parameter, value

    def __getattr__(self, name):
        return getattr(self.task, name)

    def begin(self, number):
        self.number = number
        return self.task.begin(number)

    def compute(self):
        loss, gradients = self.task.compute()
        if self.number + 1 in self.bad:
            gradients[self.parameter][1, 2] = self.value
        return loss, gradients


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_gradient_that_is_no_number_is_named(tmp_path, value):
    told = r"step 8: loss is [\d.]+, norm .*; 1 of 256 numbers in the gradient of weight_hh_l0 of layer lstm aren't"
    with pytest.raises(TrainingError, match=told):
        train(Broken({8}, value=value), tmp_path)
    assert newest(tmp_path)[2]["progress"]["step"] == 5


def test_steps_are_skipped_if_asked_counted_and_logged(tmp_path):
    kept = {}
    task = Broken({3, 8})
    run = Run(task, settings(on_nonfinite="skip"), tmp_path, {})
    outcome = run.go(lambda event: kept.update({event.step: (weights(task), event)}), lambda: False)
    assert (outcome.end, outcome.skipped, run.optimizer.updates) == ("finished", 2, run.steps - 2)
    for step in (3, 8):
        assert kept[step][0] == kept[step - 1][0]
        assert "weight_hh_l0 of layer lstm" in kept[step][1].skipped
    lines = folder.read_log(tmp_path / "log.jsonl")
    assert [line["step"] for line in lines if "skipped" in line] == [3, 8]
    assert all(np.isfinite(param).all() for param in task.model.params.values())


def test_skipped_steps_survive_a_stop(tmp_path):
    run, expected, _ = train(Broken({3, 8}), tmp_path / "whole", on_nonfinite="skip")
    train(Broken({3, 8}), tmp_path / "parts", stop_after=4, on_nonfinite="skip")
    task = Broken({3, 8})
    _, outcome, _ = train(task, tmp_path / "parts", resume=True, on_nonfinite="skip")
    assert outcome == expected
    assert weights(task) == weights(run.task)


def test_a_carried_state_that_is_no_number_does_not_outlive_its_step(tmp_path):
    class Poisoned(Scripted):
        def compute(self):
            loss, gradients = super().compute()
            if self.number + 1 == self.bad_step:
                self.task._state[0][...] = math.nan
            return loss, gradients

    task = Poisoned([9] * 10, bad_step=3)
    _, outcome, events = train(task, tmp_path, on_nonfinite="skip")
    assert outcome.skipped == 1
    assert math.isfinite(events[3].loss)


def test_skipping_for_ever_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "MOST_SKIPS", 4)
    with pytest.raises(TrainingError, match="step 8: 4 steps in a row were skipped"):
        train(Broken(set(range(5, 99))), tmp_path, on_nonfinite="skip")


def test_the_loss_scale_halves_at_an_overflow_and_doubles_after_good_steps():
    scaler = LossScaler.for_dtype("float16")
    scaler.growth_interval = 3
    assert scaler.scale == 2**15
    scaler.update(False)
    assert scaler.scale == 2**14
    for _ in range(3):
        scaler.update(True)
    assert (scaler.scale, scaler.good) == (2**15, 0)
    scaler.update(True)
    scaler.update(False)
    assert (scaler.scale, scaler.good) == (2**14, 0)
    for _ in range(40):
        scaler.update(False)
    assert scaler.scale == 1
    assert scaler.exhausted
    for _ in range(100):
        scaler.update(True)
    assert scaler.scale == 2**24


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_float32_and_float64_are_not_scaled(dtype):
    scaler = LossScaler.for_dtype(dtype)
    scaler.update(False)
    assert (scaler.scale, scaler.exhausted) == (1, True)


@pytest.mark.parametrize("kind", TASKS)
def test_a_scaled_run_takes_the_same_steps(tmp_path, kind):
    plain, scaled = TASKS[kind](), TASKS[kind]()
    train(plain, tmp_path / "plain")
    run = Run(scaled, settings(), tmp_path / "scaled", {})
    run.scaler = LossScaler(scale=2.0**10, growth_interval=5)
    run.go(lambda event: None, lambda: False)
    assert run.scaler.scale > 2**10
    for name, param in plain.model.params.items():  # scaling by powers of two rounds nothing
        np.testing.assert_array_equal(scaled.model.params[name], param)


def test_an_overflow_lowers_the_scale_without_stopping_and_survives_a_stop(tmp_path):
    def scaled_run(place):
        run = Run(Broken({3, 4}, value=math.inf), settings(), place, {})
        run.scaler = LossScaler(scale=2.0**10)
        return run

    run = scaled_run(tmp_path)
    outcome = run.go(lambda event: None, lambda: run.step == 4)
    assert (outcome.skipped, run.scaler.scale) == (2, 2**8)
    again = scaled_run(tmp_path)
    again.resume(*newest(tmp_path)[1:3])
    assert (again.scaler.scale, again.scaler.good, again.skipped) == (2**8, 0, 2)


# -- memory that runs out ---------------------------------------------------------------------------------


class Small(NumpyBackend):
    """A device whose memory ends."""

    released = 0

    def memory(self, release=False):
        self.released += release
        return super().memory(release)


def test_out_of_memory_releases_what_is_held_names_sizes_and_leaves_all_usable(tmp_path):
    task = text_task()
    device = Small()
    for layer in task.model.layers.values():
        layer.backend = device
    real = task.begin

    def begin(number):
        if number == 6:
            raise MemoryError("Out of memory allocating 1,234,567 bytes")
        return real(number)

    task.begin = begin
    named = r"step 7 ran out of memory: .*1,234,567 bytes \(parameters and gradients \d.* optimizer \d.*\); a smaller"
    with pytest.raises(TrainingError, match=named) as told:
        train(task, tmp_path)
    assert device.released == 1
    assert told.value.__context__ is None
    task.begin = real
    again = text_task()
    _, outcome, _ = train(again, tmp_path, resume=True)
    assert outcome.end == "finished"


def test_cupy_gives_back_its_pools():
    from gpu_lstm.backend import CupyBackend

    calls = []

    class Pool:
        def free_all_blocks(self):
            calls.append(self)

        def free_bytes(self):
            return 2

    backend = object.__new__(CupyBackend)
    pools = Pool(), Pool()
    backend.device = MagicMock()
    backend._cupy = type("cupy", (), {
        "cuda": SimpleNamespace(runtime=SimpleNamespace(memGetInfo=lambda: (5, 9))),
        "get_default_memory_pool": staticmethod(lambda: pools[0]),
        "get_default_pinned_memory_pool": staticmethod(lambda: pools[1]),
    })  # fmt: skip
    assert backend.memory() == 7
    assert not calls
    assert backend.memory(release=True) == 7
    assert calls == list(pools)
