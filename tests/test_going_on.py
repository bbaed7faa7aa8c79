"""A run that begins with the weights of another, and a finished one that goes on: what changes is told."""

import math
import random

import numpy as np
import pytest

from gpu_lstm.cli import main
from gpu_lstm.training.checkpoint import load
from gpu_lstm.training.folder import read_log

SMALL = ["--hidden-size", "4", "--epochs", "1", "--validations", "1", "--batch", "4"]
TEXT = [*SMALL, "--length", "8", "--embedding-size", "2", "--sample-length", "0"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, letters in {"a": "abcde \n", "b": "edcb\n", "c": "abcxyz\n", "d": "abcdeabcde\nz"}.items():
        text = "".join(random.Random(0).choices(letters, k=900))
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8", newline="")
    for name, scale in {"a": 1, "b": 40}.items():
        rows = [f"{scale * math.sin(k / 4):.4f},{scale * math.cos(k / 7):.4f}" for k in range(150)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["v,w", *rows]), encoding="utf-8")
    return tmp_path


def told(capsys, *arguments, status=0):
    capsys.readouterr()
    assert main(["train", *arguments]) == status
    printed = capsys.readouterr()
    return printed.err if status else printed.out


def arrays(path):
    return load(path)[0]


def test_a_run_begins_with_the_weights_of_another(here, capsys):
    told(capsys, "text", "a.txt", *TEXT, "--learning-rate", "0.02", "--out", "one")
    printed = told(capsys, "text", "b.txt", "--init", "one", "--learning-rate", "1e-9", "--out", "two")
    assert "begins with the weights of one/model.safetensors after step " in printed
    assert "optimizer, learning rate's schedule and steps begin anew" in printed
    assert f"changed: data {here / 'a.txt'} -> {here / 'b.txt'}; learning-rate 0.02 -> 1e-09" in printed
    one, two = (load(here / name / "model.safetensors") for name in ("one", "two"))
    assert one[1]["vocabulary"] == two[1]["vocabulary"]
    assert one[1]["model"] == two[1]["model"]
    for name, array in one[0].items():
        np.testing.assert_allclose(two[0][name], array, atol=1e-6)
    assert two[1]["options"]["hidden_size"] == 4  # though not given again
    assert "going on with two after step" in told(capsys, "--resume", "two", "--epochs", "2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["text", "b.txt", "--init", "one", "--hidden-size", "8"], "hidden_size is 8; --init .* has 4, which stays"),
        (["text", "b.txt", "--init", "one", "--lstm", "peepholes"], "--init"),
        (["text", "c.txt", "--init", "one"], "c.txt has 4.% characters that the model doesn't know; expected at most"),
        (["series", "a.csv", "--init", "one"], r"--init one.* is of kind 'text'; expected 'series', or: gpu-lstm tr"),
        (["text", "b.txt", "--init", "nothing"], "checkpoint nothing does not exist"),
    ],
)
def test_what_does_not_fit_is_refused(capsys, arguments, message):
    import re

    told(capsys, "text", "a.txt", *TEXT, "--out", "one")
    assert re.search(message, told(capsys, *arguments, "--out", "two", status=2))


def test_a_few_unknown_characters_are_told(here, capsys):
    told(capsys, "text", "a.txt", *TEXT, "--out", "one")
    assert "% of them are unknown, and are learned as one and the same" in told(
        capsys, "text", "d.txt", "--init", "one", "--out", "two"
    )


def same(one, other):
    """Whether two models' arguments are, arrays among them."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return np.array_equal(one, other)


def test_a_forecaster_keeps_the_scale_that_its_weights_are_for(here, capsys):
    told(capsys, "series", "a.csv", *SMALL, "--length", "16", "--horizon", "4", "--out", "one")
    told(capsys, "series", "b.csv", "--init", "one", "--out", "two", "--epochs", "2")
    one, two = (load(here / name / "model.safetensors")[1] for name in ("one", "two"))
    assert same(one["model"], two["model"])
    assert two["columns"] == ["v", "w"]
    log = (here / "two" / "log.jsonl").read_bytes()
    before = arrays(here / "two" / "model.safetensors")
    # A resumed run of it has that scale, too, and not its own data's.
    assert "going on with two" in told(capsys, "--resume", "two", "--epochs", "3")
    assert same(load(here / "two" / "model.safetensors")[1]["model"], one["model"])
    assert (here / "two" / "log.jsonl").read_bytes().startswith(log)
    assert before.keys() == arrays(here / "two" / "model.safetensors").keys()


def test_a_finished_run_goes_on_and_says_how(here, capsys):
    told(capsys, "text", "a.txt", *TEXT, "--out", "one")
    steps = len(read_log(here / "one" / "log.jsonl"))
    assert f"one is finished: {steps} steps done; more --epochs than 1 go on with it" in told(capsys, "--resume", "one")
    printed = told(capsys, "--resume", "one", "--epochs", "3")
    assert "changed: epochs 1 -> 3" in printed
    assert f"schedule (cosine) is laid over all {3 * steps} steps anew; the next one has " in printed
    assert len(read_log(here / "one" / "log.jsonl")) == 3 * steps


def test_what_goes_on_and_is_stopped_there_goes_on_to_the_same_bytes(here, capsys, monkeypatch):
    from gpu_lstm.cli import progress

    for name in ("one", "two"):
        told(capsys, "text", "a.txt", *TEXT, "--out", name)
    told(capsys, "--resume", "one", "--epochs", "2")
    steps = len(read_log(here / "one" / "log.jsonl"))
    asked = iter([False] * (steps // 4) + [True] * steps)

    def stopping():
        from contextlib import nullcontext

        return nullcontext(lambda: next(asked))

    with monkeypatch.context() as patch:
        patch.setattr(progress, "stop_on_signal", stopping)
        assert main(["train", "--resume", "two", "--epochs", "2"]) == 130
    told(capsys, "--resume", "two")
    for name in ("model.safetensors", f"resume-{steps:08d}.safetensors"):
        one, two = arrays(here / "one" / name), arrays(here / "two" / name)
        assert all(np.array_equal(one[key], two[key]) for key in one)
