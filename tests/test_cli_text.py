"""The commands on texts of all kinds: what is cut into what, what is unknown, what stands beside."""

import math
import random
import re

import numpy as np
import pytest

from gpu_lstm.cli import main
from gpu_lstm.data import ngram
from gpu_lstm.data.tokens import CODE_POINTS, read_vocabulary
from gpu_lstm.training.checkpoint import load

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "naps\n"]
TRAIN = ["train", "text", "t.txt", "--hidden-size", "8", "--epochs", "1", "--validations", "1", "--batch", "4",
         "--length", "16", "--embedding-size", "4", "--sample-length", "0", "--out", "r"]  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.txt").write_text(" ".join(random.Random(0).choices(WORDS, k=800)), encoding="utf-8", newline="")
    return tmp_path


def told(capsys, *arguments, status=0):
    capsys.readouterr()
    assert main(list(arguments)) == status
    printed = capsys.readouterr()
    return printed.err if status else printed.out


def bits(printed, what="bits per character"):
    return float(re.search(rf"^([\d.]+) {what}", printed, re.M)[1])


@pytest.mark.parametrize("tokens", ["characters", "bytes", "subwords"])
def test_every_command_takes_every_kind_of_token(here, capsys, tokens):
    if tokens == "subwords":
        pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    size = len((here / "t.txt").read_text(encoding="utf-8"))
    printed = told(capsys, *TRAIN, "--tokens", tokens, "--vocabulary", "280", "--shuffle-lines")
    assert f"text: {size:,} characters" in printed
    best = float(re.search(r"best score on held-out data: ([\d.]+)", printed)[1])
    printed = told(capsys, "evaluate", "r")
    assert bits(printed) == pytest.approx(best, abs=2e-3)
    assert bits(printed, r"of an interpolated 4-gram model of the same " + tokens) < best
    assert "note: the model is no better than the 4-gram model" in printed
    assert len(told(capsys, "sample", "r", "--prompt", "the ", "--length", "9", "--top-k", "5")) == 4 + 9 + 1
    resumed = told(capsys, "train", "--resume", "r", "--epochs", "2")
    assert "going on with r after step" in resumed
    told(capsys, "quantize", "r")
    quantized = bits(told(capsys, "evaluate", "r/model-int8.safetensors"))
    assert quantized == pytest.approx(bits(told(capsys, "evaluate", "r")), abs=0.05)
    if tokens == "characters":
        assert "wrote" in told(capsys, "inspect", "r")
    else:
        assert f"has {tokens} as tokens; the page is for characters" in told(capsys, "inspect", "r", status=2)


def test_other_text_is_measured_beside_the_ngrams_of_what_the_model_was_trained_on(here, capsys):
    told(capsys, *TRAIN)
    text = (here / "t.txt").read_text(encoding="utf-8")
    other = " ".join(random.Random(5).choices(WORDS[:6], k=300))
    (here / "o.txt").write_text(other, encoding="utf-16")
    vocabulary = read_vocabulary(load(here / "r" / "model.safetensors")[1]["vocabulary"])
    train = vocabulary.encode(text)[: len(text) - int(len(text) * 0.1)]
    expected = ngram.bits_of_ngrams(train, vocabulary.encode(other), len(vocabulary))
    printed = told(capsys, "evaluate", "r", "--data", "o.txt", "--encoding", "utf-16")
    assert f"on {len(other):,} other characters" in printed
    assert bits(printed, "of an interpolated 4-gram model") == pytest.approx(expected, abs=6e-4)
    (here / "t.txt").unlink()
    printed = told(capsys, "evaluate", "r", "--data", "o.txt", "--encoding", "utf-16")
    assert "what the model was trained on can't be read: " in printed and "no n-gram model beside it" in printed


def test_bits_per_character_of_bytes_are_those_per_byte_of_all_its_bytes(here, capsys):
    text = "".join(random.Random(1).choices("äöü€a\n", k=4000))
    (here / "t.txt").write_text(text, encoding="utf-8", newline="")
    told(capsys, *TRAIN, "--tokens", "bytes")
    (here / "u.txt").write_text(text[:1000], encoding="utf-8", newline="")
    printed = told(capsys, "evaluate", "r", "--data", "u.txt")
    size = len(text[:1000].encode())
    assert f"on 1,000 other characters, {size:,} bytes" in printed
    assert bits(printed) == pytest.approx(bits(printed, "bits per byte") * size / 1000, rel=1e-3)
    (here / "b.bin").write_bytes(np.random.default_rng(0).bytes(1000))
    assert "bits per byte, which is what counts: no UTF-8" in told(capsys, "evaluate", "r", "--data", "b.bin")


def test_of_files_that_are_no_text_bits_are_told_a_byte(here, capsys):
    (here / "t.txt").write_bytes(np.random.default_rng(0).integers(100, 255, 4000, np.uint8).tobytes())
    printed = told(capsys, *TRAIN, "--tokens", "bytes")
    assert "text: 4,000 bytes, 256 different bytes; 400 at the end are held out" in printed
    best = float(re.search(r"best score on held-out data: ([\d.]+) bits/byte", printed)[1])
    printed = told(capsys, "evaluate", "r")
    assert "bits per byte on 400 held-out bytes\n" in printed
    assert "character" not in printed
    assert bits(printed, "bits per byte") == pytest.approx(best, abs=2e-3)
    assert "going on with r" in told(capsys, "train", "--resume", "r", "--epochs", "2")


def test_unknown_characters_are_told_and_charged_for(here, capsys):
    told(capsys, *TRAIN)
    known = len(load(here / "r" / "model.safetensors")[1]["vocabulary"]) - 1
    assert "the model doesn't know" not in told(capsys, "evaluate", "r")
    (here / "u.txt").write_text("Всё счастливые семьи" * 50, encoding="utf-8")
    printed = told(capsys, "evaluate", "r", "--data", "u.txt")
    left = CODE_POINTS - known
    assert "90.00% are characters that the model doesn't know" in printed
    assert f"and {math.log2(left):.2f} bits to say which of {left:,} it is" in printed
    assert bits(printed) > 0.9 * math.log2(left)


def test_what_only_the_held_out_part_has_is_told(here, capsys):
    (here / "t.txt").write_text("ab\n" * 1000 + "abz\n" * 80, encoding="utf-8", newline="")
    told(capsys, *TRAIN)
    assert "are characters that the part to train on didn't have" in told(capsys, "evaluate", "r")


def test_a_folder_by_patterns_in_an_encoding_is_a_run_like_others(here, capsys):
    (here / "d").mkdir()
    (here / "d" / "a.txt").write_text("größe maß\n" * 200, encoding="latin-1")
    (here / "d" / "b.png").write_bytes(b"\x89PNG\0\0")
    arguments = [word.replace("t.txt", "d") for word in TRAIN]
    assert re.search(r"d/a\.txt is not UTF-8 .*--encoding.*--include", told(capsys, *arguments, status=2))
    printed = told(capsys, *arguments, "--encoding", "latin-1", "--include", "*.txt")
    assert "text: 2,000 characters, 10 different characters, 1 of 2 files of " in printed
    assert "200 held-out characters" in told(capsys, "evaluate", "r")
    told(capsys, "inspect", "r", "--length", "20")
    assert "on 2,000 other characters" in told(capsys, "evaluate", "r", "--data", "d", "--include", "a.*")
    (here / "d" / "b.png").write_bytes(b"another")
    assert "going on with r" in told(capsys, "train", "--resume", "r", "--epochs", "2")
    (here / "d" / "c.txt").write_text("more", encoding="utf-8")
    assert "bytes; the run trained on" in told(capsys, "train", "--resume", "r", "--epochs", "3", status=2)
