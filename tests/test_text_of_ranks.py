"""A text that ranks read together: each its part of the files, to the same tokens and the same training as alone."""

import threading
from collections import Counter

import numpy as np
import pytest

from gpu_lstm import InputError
from gpu_lstm.cli.recipes import prepare_text
from gpu_lstm.data import files, text
from gpu_lstm.data.text import Tracks, encode_file, read_text
from gpu_lstm.parallel import Alone
from gpu_lstm.training import Training
from tests.ranks import on_ranks
from tests.support import NUMPY
from tests.test_shared import digest, settings

RNG = np.random.default_rng(3)
WORDS = ["oak", "äöü", "日本", "naïve", "\ufeff", "snow", "🙂🙂", "and"]
LINES = "".join(" ".join(RNG.choice(WORDS, RNG.integers(1, 9))) + "\n" * RNG.integers(1, 3) for _ in range(1500))
SIZE = len(LINES.encode())


@pytest.fixture
def read(monkeypatch):
    """Bytes that each thread, which is a rank here, has read of texts; their blocks are small."""
    counts = Counter()

    class Counted:
        def __init__(self, path):
            self.file = open(path, "rb")  # noqa: SIM115 (closed as it is left)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def read(self, size):
            content = self.file.read(size)
            counts[threading.current_thread()] += len(content)
            return content

        def readline(self, size):
            content = self.file.readline(size)
            counts[threading.current_thread()] += len(content)
            return content

        def seek(self, place):
            return self.file.seek(place)

    monkeypatch.setattr(text, "open_bytes", Counted)
    monkeypatch.setattr(text, "BLOCK", 512)
    return lambda: counts[threading.current_thread()]


@pytest.fixture(params=["a file", "a folder", "one line", "in a file"])
def path(request, tmp_path, monkeypatch):
    """The text in one file, in several, without new lines, and with tokens that don't fit into memory."""
    content = LINES.encode()
    if request.param == "a folder":
        for number, part in enumerate((content[:9000], b"\n", content[9000:9003], content[9003:])):
            (tmp_path / f"{number}.txt").write_bytes(part.decode(errors="ignore").encode())
        return tmp_path
    if request.param == "one line":
        monkeypatch.setattr(text, "LONGEST", 64)
        content = content.replace(b"\n", b"")
    if request.param == "in a file":
        monkeypatch.setattr(files, "IN_MEMORY", 1000)
    (tmp_path / "a.txt").write_bytes(content)
    return tmp_path / "a.txt"


def parts(ranks, tokens):
    tracks = Tracks.split(tokens, 16, 6, 0.2)
    return [one.tokens[one.span(ranks.rank, ranks.size)] for one in tracks]


@pytest.mark.parametrize("kind", ["characters", "bytes"])
def test_each_rank_reads_its_part_and_has_the_tokens_that_it_needs(path, kind, read):
    whole, vocabulary = read_text(path, kind)
    if kind == "characters":
        assert vocabulary.decode(np.asarray(whole)) == text.read_part(path, 0, len(LINES) + 9)

    def work(ranks):
        tokens, found = read_text(path, kind, ranks=ranks, needs=lambda total: parts(ranks, range(total)))
        return tokens, found, read()

    for size in (2, 4):
        for rank, (tokens, found, count) in enumerate(on_ranks(size, work)):
            assert found.describe() == vocabulary.describe()
            assert len(tokens) == len(whole)
            ranks = Rank(rank, size)
            for mine, expected in zip(parts(ranks, tokens), parts(ranks, whole), strict=True):
                np.testing.assert_array_equal(np.asarray(mine), np.asarray(expected))
            # To find the vocabulary, to count, to encode: each time a rank's part, and where its lines begin.
            assert count < 1.3 * 3 * SIZE / size + 0.1 * SIZE


class Rank(Alone):
    def __init__(self, rank, size):
        self.rank, self.size = rank, size


def test_parts_of_a_text_are_all_of_it():
    for batch, size in ((16, 4), (5, 3), (4, 4), (3, 4)):
        tracks = Tracks.split(np.arange(1003), batch, 6, 0.3)
        found = [[one.tokens[one.span(rank, size)] for rank in range(size)] for one in tracks]
        for each, whole in zip(found, tracks, strict=True):
            assert np.array_equal(np.concatenate(each), whole.tokens)


def test_subwords_are_learned_by_rank_0_and_cut_by_all(tmp_path, read):
    pytest.importorskip("tokenizers")
    (tmp_path / "a").write_text(LINES, encoding="utf-8", newline="")
    whole, vocabulary = read_text(tmp_path / "a", "subwords", 300)

    def work(ranks):
        return *read_text(tmp_path / "a", "subwords", 300, ranks=ranks), read()

    for rank, (tokens, found, count) in enumerate(on_ranks(2, work)):
        assert found.describe() == vocabulary.describe()
        assert np.array_equal(tokens, whole)
        assert count < (2.7 if rank == 0 else 1.7) * SIZE  # rank 0 all of it, all to count a half; here all need all


def test_bytes_that_are_no_text_are_none_on_any_rank(tmp_path, read):
    (tmp_path / "a").write_bytes(LINES.encode() + b"\xff\n")
    found = on_ranks(4, lambda ranks: read_text(tmp_path / "a", "bytes", ranks=ranks)[1].describe())
    assert found == [{"tokens": "bytes", "text": False}] * 4


def test_what_one_rank_cannot_decode_all_raise(tmp_path, read):
    (tmp_path / "a").write_bytes(LINES.encode() + b"\xff\n")
    told = [
        str(error) for error in on_ranks(4, lambda ranks: ranks.each(lambda: read_text(tmp_path / "a", ranks=ranks)))
    ]
    assert told[0].startswith("rank 3: ") and "is not UTF-8 text" in told[0]
    assert len(set(told)) == 1


def test_a_rank_that_does_not_find_the_text_ends_the_others_which_do(tmp_path, read):
    (tmp_path / "a").write_text(LINES, encoding="utf-8")

    def work(ranks):
        return ranks.each(lambda: read_text(tmp_path / ("a" if ranks.rank != 1 else "b"), ranks=ranks))

    assert [str(error) for error in on_ranks(3, work)] == [f"rank 1: text {tmp_path / 'b'} does not exist"] * 3
    assert all(isinstance(error, InputError) for error in on_ranks(3, work))


def test_tokens_of_a_known_vocabulary(tmp_path, read):
    (tmp_path / "a").write_text(LINES, encoding="utf-8", newline="")
    whole, vocabulary = read_text(tmp_path / "a")
    found = on_ranks(3, lambda ranks: encode_file(tmp_path / "a", vocabulary, ranks=ranks))
    assert all(np.array_equal(one, whole) for one in found)


@pytest.mark.parametrize("more", [{}, {"shuffle_lines": True}, {"tokens": "bytes"}])
def test_training_is_that_of_a_rank_which_reads_all(tmp_path, read, more, capsys):
    (tmp_path / "a").write_text(LINES, encoding="utf-8", newline="")
    plain = {
        "data": str(tmp_path / "a"), "validation": 0.2, "batch": 16, "length": 20, "seed": 1, "embedding_size": 4,
        "hidden_size": 8, "num_layers": 1, "dropout": 0.1, "dtype": "float32", "tier": "auto", "recompute": False,
    }  # fmt: skip

    def work(ranks):
        recipe = prepare_text(plain | more, NUMPY, None, ranks)
        task, scores = recipe.make(), []
        training = Training(task, settings(shares=8, epochs=1), parallel=ranks)
        training.go(lambda event: scores.append((event.loss, event.score)), lambda: training.step == 12)
        return digest(task.model), scores, recipe.extra

    alone = work(Alone())
    for size in (2, 4):
        assert on_ranks(size, work) == [alone] * size
