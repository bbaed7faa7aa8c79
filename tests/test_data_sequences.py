"""Labelled sequences from CSV files, and their batches."""

import subprocess
import sys

import numpy as np
import pytest

from gpu_lstm import InputError
from gpu_lstm.data import files, sources
from gpu_lstm.data.sequences import JAPANESE_VOWELS, read_sequences

TABLE = """split,series,label,u,word,v
train,0,10,1,a,-1
train,0,10,2,a,-2
train,1,9,3,a,-3
test,0,9,4,a,-4
test,0,9,5,b,-5
test,0,9,6,c,-6
"""


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "a.csv"
        path.write_text(content, encoding="utf-8")
        return path

    return write


def test_sequences_keep_their_order_and_lengths(write):
    data = read_sequences(write(TABLE))
    assert len(data) == 3
    assert data.names == ["u", "v"]
    assert data.lengths.tolist() == [2, 1, 3]
    assert data.starts.tolist() == [0, 2, 3, 6]
    assert data.values[:, 0].tolist() == [1, 2, 3, 4, 5, 6]
    assert data.test.tolist() == [False, False, True]
    assert data.left == {"word": "text, such as 'a'"}


def test_columns_are_judged_by_all_rows_and_one_without_a_name_is_left(write):
    data = read_sequences(write(",series,label,u,v\n0,0,a,x,1\n1,0,a,y,2\n2,1,b,5,3\n"))
    assert data.values.tolist() == [[1], [2], [3]]
    assert data.left == {"column 1": "no name", "u": "more text than numbers, such as 'x'"}
    with pytest.raises(InputError, match="line 2: column 'u' is 'NA'; expected a number, or other columns"):
        read_sequences(write("series,label,u,v\n0,a,NA,1\n1,b,5,3\n"))


def test_classes_that_are_numbers_are_sorted_as_numbers(write):
    data = read_sequences(write(TABLE))
    assert data.classes == ["9", "10"]
    assert data.labels.tolist() == [1, 0, 0]


def test_classes_that_are_words_are_sorted_as_words(write):
    data = read_sequences(write(TABLE.replace(",10,", ",10x,")))
    assert data.classes == ["10x", "9"]
    assert data.labels.tolist() == [0, 1, 1]


def test_classes_equal_as_numbers_have_one_order_in_every_process(write):
    path = write(
        "series,label,x\n" + "".join(f"{n},{label},0\n" for n, label in enumerate(["2", "1.0", "01", "1e0", "1"]))
    )
    code = f"from gpu_lstm.data.sequences import read_sequences; print(read_sequences({str(path)!r}).classes)"
    orders = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True, text=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert orders == {"['1', '2']\n"}


def test_without_a_split_column_all_is_for_training(write):
    data = read_sequences(write("series,label,x\n0,a,1\n1,b,2\n"))
    assert data.test.tolist() == [False, False]


def test_columns_have_any_name_and_any_order(write):
    path = write("x,speaker,y,what\n1,k,5,0\n2,k,6,0\n3,m,7,1\n")
    data = read_sequences(path, label="speaker", series="what", columns=["y", "x"], split="none")
    assert data.values.tolist() == [[5, 1], [6, 2], [7, 3]]


def test_chosen_columns_come_in_the_order_asked_for(write):
    data = read_sequences(write(TABLE), columns=["v", "u"])
    assert data.names == ["v", "u"]
    assert data.values[0].tolist() == [-1, 1]


@pytest.mark.parametrize("in_memory", [1 << 28, 100])
def test_block_by_block_gives_the_same_values(write, monkeypatch, in_memory):
    expected = read_sequences(write(TABLE))
    monkeypatch.setattr(sources, "CELLS", 12)
    monkeypatch.setattr(files, "IN_MEMORY", in_memory // 2)
    data = read_sequences(write(TABLE))
    assert isinstance(data.values, np.memmap) == (in_memory == 100)
    assert np.array_equal(data.values, expected.values)
    assert data.starts.tolist() == expected.starts.tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("series,label,x\n0,a,1\n0,b,2\n", "line 3: column 'label' changes within series '0'"),
        ("series,label,x\n0,a,1\n1,a,2\n", "column 'label' has one value, 'a'; expected at least two classes"),
        ("series,label,x,split\n0,a,1,dev\n", "line 2: column 'split' is 'dev'; expected train or test"),
        ("series,label,x\n0,a,1\n1,b\n", "line 3: 2 cells; expected 3"),
        ("series,label,x\n0,a,1\n1,b,nan\n", "line 3: column 'x' is nan; expected a finite number"),
        ("series,label,x\n0,a,1\n1,b,\n", "line 3: column 'x' is empty"),
        ("series,label,x\n0,a,1\n1,,2\n", "line 3: column 'label' is empty"),
        ("series,label,x\n0,a,1\n1,b,2\n0,a,3\n", "line 4: series '0' goes on after another one"),
        ("series,label,x\n0,a,1\n1,b,1_0\n", "line 3: column 'x' is '1_0'; expected a number"),
        ("series;Label;x\n0;a;1\n1;b;2\n", "has no column 'label'"),
        ("series,label,x\n", "has no rows after its header"),
        ("series,label,x\n0,a,b\n", "has no numeric column besides 'label' and 'series'"),
        ("label,x\n0,1\n", "has no column 'series'; it has 'label', 'x'"),
        ("series,x\n0,1\n", "has no column 'label'; it has 'series', 'x'"),
        ("\n", "has no rows"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(write, content, message):
    with pytest.raises(InputError, match=message):
        read_sequences(write(content))


@pytest.mark.parametrize("column", ["series", "label"])
def test_a_key_is_never_a_feature_unless_asked_for(write, column):
    assert column not in read_sequences(write("series,label,x\n0,1,1\n1,2,2\n")).names


def test_a_batch_is_padded_with_zeros(write):
    x, lengths, labels = read_sequences(write(TABLE)).batch(np.array([2, 1]))
    assert lengths.tolist() == [3, 1]
    assert labels.tolist() == [0, 0]
    assert x.shape == (3, 2, 2)
    assert x[:, 0].tolist() == [[4, -4], [5, -5], [6, -6]]
    assert x[:, 1].tolist() == [[3, -3], [0, 0], [0, 0]]


def test_a_batch_is_as_long_as_its_longest_sequence(write):
    data = read_sequences(write(TABLE))
    assert data.batch(np.array([1]))[0].shape == (1, 1, 2)


def test_shipped_japanese_vowels_has_its_known_sizes():
    data = read_sequences(JAPANESE_VOWELS)
    assert (np.sum(~data.test), np.sum(data.test)) == (270, 370)
    assert (data.lengths.min(), data.lengths.max()) == (7, 29)
    assert data.classes == [str(n) for n in range(1, 10)]
    assert data.values.shape == (data.lengths.sum(), 12)
    assert np.bincount(data.labels[~data.test]).tolist() == [30] * 9
