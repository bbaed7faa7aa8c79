"""Files as people have them: what each is read as, or why not. `python -m tests.odd_files FOLDER` prints the same."""

import gzip
import io
import sys
import tracemalloc

import numpy as np
import pytest

from gpu_lstm import InputError
from gpu_lstm.cli import main
from gpu_lstm.data import dialect, files, sources
from gpu_lstm.data.dialect import Reading
from gpu_lstm.data.series import read_series
from tests.odd_files import FILES, check, write


@pytest.mark.parametrize("odd", FILES, ids=[f"{odd.name} {odd.options}" for odd in FILES])
def test_an_odd_file_is_read_right_or_refused_by_name(tmp_path, odd):
    path = tmp_path / odd.name
    path.write_bytes(odd.content)
    check(odd, path)


@pytest.mark.parametrize("odd", [odd for odd in FILES if odd.kind == "series"], ids=lambda odd: odd.name + odd.options)
@pytest.mark.parametrize("cells", [1, 5])
def test_piece_by_piece_it_is_the_same(tmp_path, monkeypatch, odd, cells):
    monkeypatch.setattr(sources, "CELLS", cells)
    path = tmp_path / odd.name
    path.write_bytes(odd.content)
    check(odd, path)


def test_there_are_enough_of_them(tmp_path):
    assert len(write(tmp_path)) >= 30
    assert len({odd.name for odd in FILES}) == len(FILES)


def rows(count, sep=";", mark=","):
    return "".join(f"{n};{np.sin(n):.4f}\n".replace(";", sep).replace(".", mark) for n in range(1, count))


def test_a_command_reads_odd_files_as_its_options_say(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_bytes(b"\n".join([b"Messger\xe4t 5", b"t;W", rows(300).encode()]))
    train = ["train", "series", "a.csv", "--horizon", "2", "--length", "8", "--memory", "4", "--dry-run"]
    assert main(train) == 0
    said = capsys.readouterr().out
    assert "a.csv: 299 rows, 2 columns, separated by semicolons" in said
    assert "decimal commas" in said and "header in line 2" in said
    assert "columns: W; left out: t (row numbers from 1)" in said
    assert main([*train, "--decimal", "."]) == 2
    assert "a.csv" in (error := capsys.readouterr().err) and error.count("\n") == 1
    assert main([*train, "--sep", "xy"]) == 2
    assert "sep (--sep) is 'xy'; expected one character" in capsys.readouterr().err


def test_what_a_run_was_told_of_its_table_holds_for_other_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("v\n" + "".join(f"{np.sin(n):.3f}\n".replace(".", ",") for n in range(200)))
    (tmp_path / "b.csv").write_text("x|v\n" + "".join(f"{n}|{np.sin(n):.3f}\n" for n in range(200)))
    small = ["--horizon", "2", "--length", "8", "--memory", "4", "--hidden-size", "4", "--epochs", "1"]
    assert main(["train", "series", "a.csv", "--decimal", ",", "--out", "r", *small]) == 0
    assert main(["evaluate", "r"]) == 0
    assert main(["forecast", "r", "--data", "b.csv", "--decimal", "."]) == 0
    capsys.readouterr()
    assert main(["evaluate", "r", "--data", "b.csv"]) == 2
    assert "b.csv, line 2: column 'v' is '0.000'; expected a number with a decimal comma" in capsys.readouterr().err


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_table_may_be_piped_in(tmp_path, monkeypatch, capsys, pack):
    monkeypatch.chdir(tmp_path)
    content = pack(("a;b\n" + rows(200).replace(",", ".")).encode())
    small = ["--horizon", "2", "--length", "8", "--memory", "4", "--hidden-size", "4", "--epochs", "1"]

    def run(*arguments):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        return main(list(arguments))

    assert run("train", "series", "-", "--columns", "b", "--out", "r", *small) == 0
    assert "199 rows, 2 columns, separated by semicolons" in capsys.readouterr().out
    assert run("evaluate", "r") == 0  # the same once more
    assert run("forecast", "r", "--data", "-") == 0
    content = pack(b"")
    capsys.readouterr()
    assert run("train", "series", "-", *small) == 2
    assert "empty" in capsys.readouterr().err


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_memory_stays_bounded_however_long_a_table_is(tmp_path, monkeypatch, pack):
    monkeypatch.setattr(sources, "CELLS", 1 << 13)
    monkeypatch.setattr(dialect, "BLOCK", 1 << 14)
    monkeypatch.setattr(files, "IN_MEMORY", 1 << 14)
    path = tmp_path / ("a.csv" + (".gz" if pack is gzip.compress else ""))
    line = f"2024-01-01 00:00:00,{'some text that nobody needs' * 8},1.2345678901,2.3456789012\n"
    path.write_bytes(pack(("t,note,a,b\n" + line * 20_000).encode()))
    read_series(path, time=["none"])  # imports and caches are none of the data's
    tracemalloc.start()
    data = read_series(path, time=["none"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert data.values.shape == (20_000, 2)
    assert peak < 3_000_000 < len(line) * 20_000


def test_a_row_that_is_too_long_is_refused_wherever_a_piece_ends(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    for cells in range(2, 9):
        monkeypatch.setattr(sources, "CELLS", cells)
        for bad in range(1, 9):
            lines = ["a,b", *("1,2" if n != bad else "1,2,3" for n in range(1, 9))]
            path.write_text("\n".join(lines) + "\n")
            with pytest.raises(InputError, match=f"line {bad + 1}: 3 cells; expected 2"):
                read_series(path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sep": "a"}, "--sep"),
        ({"sep": '"'}, "--sep"),
        ({"decimal": ";"}, "--decimal"),
        ({"thousands": "x"}, "--thousands"),
        ({"thousands": ",", "decimal": ","}, "both ','"),
        ({"encoding": "utf-99"}, "--encoding"),
        ({"header": "second"}, "--header"),
        ({"skip": -1}, "--skip"),
        ({"skip_end": -1}, "--skip-end"),
    ],
)
def test_options_that_no_table_has_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        Reading(**given)


@pytest.mark.parametrize(
    ("word", "sep"), [("tab", "\t"), ("\\t", "\t"), ("space", " "), ("Semicolon", ";"), ("|", "|")]
)
def test_separators_have_names(word, sep):
    assert Reading(sep=word).sep == sep
