"""Whole sequences as NumPy keeps them: the same as from a table with a row a step."""

import numpy as np
import pandas as pd
import pytest

from gpu_lstm.cli import main
from gpu_lstm.data.sequences import read_sequences
from gpu_lstm.errors import InputError

RNG = np.random.default_rng(0)
LENGTHS = RNG.integers(2, 6, 12)
X = RNG.normal(size=(12, 5, 2))
X[np.arange(5) >= LENGTHS[:, None]] = np.nan
KIND, NUMBERS = np.array(list("abcabcabcabc")), RNG.normal(size=(12, 2))
STEPS = RNG.integers(0, 3, (12, 5))
SPLIT = np.array(["train"] * 9 + ["test"] * 3)


def as_table(path):
    rows = [
        {"id": n, "u": x[0], "v": x[1], "kind": KIND[n], "z.1": NUMBERS[n, 0], "z.2": NUMBERS[n, 1],
         "state": STEPS[n, t], "split": SPLIT[n]}
        for n, length in enumerate(LENGTHS) for t, x in enumerate(X[n, :length])
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def as_arrays(path, **more):
    np.savez(path, **{"x": X, "names": ["u", "v"], "kind": KIND, "z": NUMBERS, "state": STEPS, "split": SPLIT, **more})
    return path


@pytest.mark.parametrize(
    ("target", "label", "in_table"),
    [
        ("class", "kind", "kind"),
        ("numbers", "z", ["z.1", "z.2"]),
        ("steps", "state", "state"),
        (None, "kind", "kind"),
    ],
)
def test_arrays_are_read_as_the_table_of_their_steps(tmp_path, target, label, in_table):
    table = read_sequences(as_table(tmp_path / "t.csv"), in_table, "id", ["u", "v"], target=target)
    padded = np.nan_to_num(X, nan=7.0)
    for path in (
        as_arrays(tmp_path / "nan.npz"),
        as_arrays(tmp_path / "lengths.npz", x=padded, lengths=LENGTHS),
    ):
        found = read_sequences(path, label, "id", target=target)
        assert (found.names, found.classes, found.ids) == (table.names, table.classes, table.ids)
        assert (found.targets, found.split, found.of_steps) == (table.targets, table.split, table.of_steps)
        for name in ("values", "starts", "labels", "test"):
            np.testing.assert_array_equal(getattr(found, name), getattr(table, name))


def test_what_is_taken_for_what_is_told(tmp_path):
    np.savez(tmp_path / "a.npz", X=X, y=KIND, mask=np.ones(3))
    found = read_sequences(tmp_path / "a.npz")
    assert found.told[:2] == ["array 'X': 12 sequences of up to 5 steps, 2 features", "arrays left out: mask"]
    assert (found.names, found.classes) == (["1", "2"], ["a", "b", "c"])
    again = read_sequences(tmp_path / "a.npz", columns=["u", "v"])
    assert again.names == ["u", "v"] and "its features are taken for u, v, in this order" in again.told


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"x2": X}, r"has x \(12, 5, 2\) .*, x2 .*; expected one array \(N, T, D\)"),
        ({"x": np.where(X[3, 1, 0] == X, np.inf, X)}, "sequence 3, step 1, feature 0 is inf; expected a finite number"),
        ({"lengths": np.full(12, 5)}, r"sequence \d+, step \d, feature 0 is nan"),
        ({"lengths": LENGTHS[:3]}, r"lengths is of int64 \(3,\); expected \(12,\), each in 1..5"),
        ({"names": ["u"]}, "names has 1; expected 2, one a feature"),
        ({"kind": KIND[:5]}, r"kind has shape \(5,\); expected \(12,\), a value a sequence"),
        ({"kind": X}, r"expected one array \(N, T, D\)"),
    ],
)
def test_arrays_that_do_not_go_together_are_refused(tmp_path, more, said):
    with pytest.raises(InputError, match=said):
        read_sequences(as_arrays(tmp_path / "a.npz", **more), "kind", "id")
    with pytest.raises(InputError, match="has no column 'nothing'"):
        read_sequences(as_arrays(tmp_path / "b.npz"), "nothing", "id")


def test_commands_take_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    as_arrays(tmp_path / "a.npz")
    as_table(tmp_path / "t.csv")
    np.save(tmp_path / "new.npy", X)
    small = ["--label", "kind", "--series", "id", "--hidden-size", "4", "--epochs", "2", "--backend", "numpy"]
    for source, run in (("a.npz", "one"), ("t.csv", "two")):
        assert main(["train", "classify", source, "--columns", "u", "v", *small, "--out", run]) == 0
        assert main(["evaluate", run]) == 0
    assert main(["predict", "one", "--data", "new.npy"]) == 0
    assert main(["predict", "two", "--data", "t.csv"]) == 0
    assert (tmp_path / "one/predictions.csv").read_text() == (tmp_path / "two/predictions.csv").read_text()
    printed = capsys.readouterr().out
    assert "its features are taken for u, v, in this order" in printed
