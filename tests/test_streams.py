"""Data larger than memory, lines in a new order every epoch, and the thread that makes batches ahead."""

import os
import threading

import numpy as np
import pytest

from gpu_lstm import InputError
from gpu_lstm.cli import main
from gpu_lstm.data import files, text
from gpu_lstm.data.files import Stored
from gpu_lstm.data.loader import Loader
from gpu_lstm.data.text import read_text, shuffle_lines
from gpu_lstm.models import LanguageModel
from gpu_lstm.training import Settings, Training
from gpu_lstm.training.tasks import TextTask
from gpu_lstm.training.tasks import text as text_tasks
from tests.soak import stream
from tests.support import NUMPY
from tests.test_training import text_task, train, weights


@pytest.mark.slow
def test_a_text_larger_than_memory_trains_in_little(tmp_path):
    # The recorded run has 10 GB; here the file is larger than what may be resident beside the libraries.
    size = 120_000_000
    path = tmp_path / "t.txt"
    stream.write_text(path, size)
    report = stream.train_in_child(path, ["--epochs", "1"], steps=10)
    assert report["characters"] == size
    assert report["peak"] - report["libraries"] < 110_000_000
    shuffled = stream.train_in_child(path, ["--epochs", "1", "--shuffle-lines"], steps=3)
    assert shuffled["peak"] - shuffled["libraries"] < 240_000_000


@pytest.fixture
def small_shuffle(monkeypatch):
    monkeypatch.setattr(text, "SHUFFLED", 200)
    monkeypatch.setattr(files, "IN_MEMORY", 100)


def lines_of(tokens):
    return bytes(np.asarray(tokens).tolist()).split(b"\n")


@pytest.mark.parametrize("size", [0, 1, 150, 200, 201, 5000])
@pytest.mark.parametrize("longest", [1, 9, 90])
def test_shuffled_lines_are_the_same_lines_in_another_order(small_shuffle, size, longest):
    rng = np.random.default_rng(size + longest)
    words = [b"abcdefghij"[: 1 + k % 9] * (1 + k % max(1, longest // 9)) for k in rng.integers(0, 99, 6000)]
    content = np.frombuffer((b"\n".join(words) + b"\n")[:size], np.uint8)
    content = np.append(content[:-1], [10]).astype(np.uint8) if size else content
    shuffled = shuffle_lines(content, 10, (1, 2))
    assert shuffled.dtype == content.dtype
    assert sorted(lines_of(shuffled)) == sorted(lines_of(content))
    assert lines_of(shuffle_lines(content, 10, (1, 2))) == lines_of(shuffled)
    if size > 1000:
        assert lines_of(shuffled) != lines_of(content)
        assert lines_of(shuffle_lines(content, 10, (1, 3))) != lines_of(shuffled)


def test_shuffled_lines_are_spread_over_all_of_the_text(small_shuffle):
    content = np.frombuffer(b"".join(b"%04d\n" % n for n in range(2000)), np.uint8)
    places = [int(line) for line in lines_of(shuffle_lines(content, 10, (0,))) if line]
    assert abs(np.corrcoef(np.arange(2000), places)[0, 1]) < 0.1


def test_a_line_longer_than_memory_is_cut_and_nothing_is_lost(small_shuffle):
    content = np.frombuffer(b"x" * 900 + b"\n" + b"y" * 100, np.uint8)
    shuffled = np.asarray(shuffle_lines(content, 10, (0,)))
    assert sorted(shuffled.tolist()) == sorted(content.tolist())


def lines_task(seed=0):
    tokens = np.random.default_rng(1).integers(0, 6, 300)
    model = text_task(seed).model
    return TextTask(model, tokens.astype(np.uint8), 4, 8, 0.2, seed, newline=0)


def test_every_epoch_takes_the_lines_in_a_new_order():
    task = lines_task()
    epochs = [[task._batch(e * task.steps_per_epoch + n) for n in range(task.steps_per_epoch)] for e in range(2)]
    assert not np.array_equal(*epochs)
    again = lines_task()
    assert np.array_equal(again._batch(task.steps_per_epoch + 2), epochs[1][2])


def test_a_run_over_shuffled_lines_resumes_to_the_same_bytes(tmp_path):
    whole = lines_task()
    train(whole, tmp_path / "whole")
    for number, stop_after in enumerate((5, 10, None)):
        task = lines_task()
        train(task, tmp_path / "parts", stop_after, resume=number > 0)
    assert weights(task) == weights(whole)


def test_lines_are_only_shuffled_where_there_are_some(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.txt").write_text("to be or not to be " * 60)
    assert main(["train", "text", "t.txt", "--shuffle-lines"]) == 2
    assert "has no lines to shuffle" in capsys.readouterr().err


def test_a_full_disk_while_converting_is_told(tmp_path, monkeypatch):
    class Full:
        def write(self, content):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "IN_MEMORY", 10)
    monkeypatch.setattr(files.tempfile, "TemporaryFile", lambda **options: Full())
    (tmp_path / "t.txt").write_text("to be or not to be")
    with pytest.raises(InputError, match=r"has no room for 18 bytes more.*No space left.*TMPDIR"):
        read_text(tmp_path / "t.txt")


def test_a_slice_of_a_stored_array_has_steps_of_one(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "IN_MEMORY", 10)
    (tmp_path / "t.txt").write_text("to be or not to be")
    tokens, _ = read_text(tmp_path / "t.txt")
    with pytest.raises(InputError, match="step of a slice is 2"):
        tokens[::2]


@pytest.mark.parametrize("has_pread", [True, False])
@pytest.mark.parametrize("most", [1, 7, 4096])
def test_what_the_system_reads_short_is_read_on(tmp_path, monkeypatch, most, has_pread):
    """It gives 2 GiB at most at once, and may always give less."""
    numbers = np.arange(3000, dtype=np.uint16)
    path = tmp_path / "numbers"
    path.write_bytes(numbers.tobytes())
    pread, read = os.pread, os.read
    if has_pread:
        monkeypatch.setattr(os, "pread", lambda file, size, place: pread(file, min(size, most), place))
    else:
        monkeypatch.delattr(os, "pread")
        monkeypatch.setattr(os, "read", lambda file, size: read(file, min(size, most)))
    with open(path, "rb") as file:
        stored = Stored(file, numbers.dtype, 0, len(numbers))
        assert np.array_equal(np.asarray(stored), numbers)
        assert np.asarray(stored[2990:]).tolist() == list(range(2990, 3000))
        assert np.asarray(stored[5:5]).tolist() == []
        assert np.asarray(stored, dtype=np.float64)[-1] == 2999


def test_a_file_that_ends_early_is_told(tmp_path):
    path = tmp_path / "numbers"
    path.write_bytes(bytes(10))
    with open(path, "rb") as file, pytest.raises(InputError, match="ends 6 bytes early"):
        np.asarray(Stored(file, np.dtype("uint16"), 0, 8))


# -- the loader -------------------------------------------------------------------------------------------


def test_the_loader_gives_batches_by_number_in_any_order():
    loader = Loader(lambda number: number * 10)
    assert [loader.get(number) for number in (0, 1, 2, 7, 7, 8, 3)] == [0, 10, 20, 70, 70, 80, 30]


def test_the_next_batch_is_made_in_another_thread_before_it_is_asked_for():
    made = threading.Event()
    makers = {}

    def make(number):
        makers[number] = threading.current_thread().name
        if number == 1:
            made.set()
        return number

    loader = Loader(make)
    loader.get(0)
    assert made.wait(30)
    assert loader.get(1) == 1
    assert makers[0] == threading.current_thread().name != makers[1]


def test_no_batch_is_made_beyond_the_last():
    made = []
    loader = Loader(lambda number: made.append(number) or number)
    loader.end = 3
    assert [loader.get(number) for number in range(3)] == [0, 1, 2]
    loader._pool.shutdown()
    assert made == [0, 1, 2]


@pytest.mark.parametrize("stop_after", [None, 5])
def test_as_many_epochs_are_shuffled_as_are_trained(monkeypatch, stop_after):
    shuffled, shuffle = set(), text_tasks.shuffle_lines

    def noted(tokens, newline, seed):
        shuffled.add(seed[-1])
        return shuffle(tokens, newline, seed)

    monkeypatch.setattr(text_tasks, "shuffle_lines", noted)
    model = LanguageModel(5, 4, 8, backend=NUMPY)
    task = TextTask(model, np.random.default_rng(0).integers(0, 5, 1000), 8, 16, 0.2, 0, newline=1)
    training = Training(task, Settings(epochs=2, learning_rate=0.01, validations=0))
    training.go(lambda event: None, lambda: training.step == stop_after)
    task.loader._pool.shutdown()
    assert shuffled == ({0} if stop_after else {0, 1})


def test_what_fails_ahead_fails_when_it_is_asked_for():
    def make(number):
        if number == 1:
            raise InputError("no such batch")
        return number

    loader = Loader(make)
    assert loader.get(0) == 0
    with pytest.raises(InputError, match="no such batch"):
        loader.get(1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_loader_works_after_a_fork():
    loader = Loader(lambda number: number * 10)
    loader.get(0)
    child = os.fork()
    if child == 0:
        os._exit(0 if [loader.get(number) for number in (1, 2)] == [10, 20] else 1)
    assert os.waitpid(child, 0)[1] == 0
