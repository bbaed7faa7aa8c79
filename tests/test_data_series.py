"""Series from CSV files, and the simple forecasts to beat."""

import gzip
import lzma
import os
import re

import numpy as np
import pytest

from gpu_lstm import InputError
from gpu_lstm.data import files, sources
from gpu_lstm.data.baselines import autoregression, persistence, rmse, truth
from gpu_lstm.data.dialect import Reading
from gpu_lstm.data.series import CO2, deviations, read_series


@pytest.fixture
def write(tmp_path):
    def write(content, name="a.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


TABLE = "day,x,place,y\n2020-01-01,1,north,10\n2020-01-02,2.5,south,-2e1\n"


def test_columns_of_numbers_are_taken_and_the_rest_is_named(write):
    data = read_series(write(TABLE))
    assert data.names == ["x", "y"]
    assert data.values.dtype == np.float64
    assert data.values.tolist() == [[1, 10], [2.5, -20]]
    assert data.left == {"place": "text, such as 'north'"}
    assert data.times.astype("datetime64[D]").astype(str).tolist() == ["2020-01-01", "2020-01-02"]


@pytest.mark.parametrize(
    ("content", "names", "left"),
    [
        (",v\n0,5\n1,6\n", ["v"], {"column 1": "no name"}),
        ("v,w,\n5,,\n6,,\n", ["v"], {"w": "empty", "column 3": "no name"}),
        ("v,w\n5,NA\n6,nan\n", ["v"], {"w": "empty"}),
        ("id,v\n1_0,2\n2,3\n1_1,5\n", ["v"], {"id": "more text than numbers, such as '1_0'"}),
        ("v,w\n5,\u0661\n6,\uff12\n", ["v"], {"w": "text, such as '\u0661'"}),
        (
            "year,v,day\n2010,1,d1\n2010,2,2\n2011,3,d3\n",
            ["year", "v"],
            {"day": "more text than numbers, such as 'd1'"},
        ),
    ],
)
def test_columns_are_judged_by_all_rows(write, content, names, left):
    data = read_series(write(content))
    assert (data.names, data.left) == (names, left)


def test_columns_asked_for_leave_nothing_to_tell(write):
    data = read_series(write(",v,w\n0,1,a\n"), ["", "v"])
    assert (data.values.tolist(), data.left) == ([[0, 1]], {})


@pytest.mark.parametrize("missing", ["", "NA", "?", "nan", "null"])
def test_a_column_that_begins_without_a_number_is_refused_by_name(write, missing):
    path = write(f"hour,target,y\n1,{missing},3\n2,{missing},3\n3,7,3\n")
    with pytest.raises(InputError, match=r"column 'target' has no number in 2 of 3 rows, .*: line 2; .*--columns"):
        read_series(path)
    assert read_series(path, ["hour", "y"]).names == ["hour", "y"]


@pytest.mark.parametrize(
    ("content", "names", "values"),
    [
        ("1.5\n2.5\n", ["1"], [[1.5], [2.5]]),
        ("2020-01-01,7\n2020-01-02,8\n", ["2"], [[7], [8]]),
        ("-1,2\n3,4\n", ["1", "2"], [[-1, 2], [3, 4]]),
    ],
)
def test_a_first_row_that_is_certainly_no_header_is_data(write, content, names, values):
    data = read_series(write(content))
    assert (data.names, data.values.tolist()) == (names, values)
    assert "no header: columns are called 1, 2, ..." in data.told[0]


@pytest.mark.parametrize("columns", [None, ["1"]])
def test_a_first_row_of_whole_numbers_may_be_either(write, columns):
    path = write("1,2\n3,4\n")
    with pytest.raises(InputError, match="may have no header: its first row is '1, 2'; say so with --header none, or"):
        read_series(path, columns)
    assert read_series(path, columns, Reading(header="none")).values.tolist()[1][0] == 3
    assert read_series(path, columns, Reading(header="first")).values.tolist()[0][0] == 3


def test_names_that_are_numbers_are_taken_where_they_are_asked_for(write):
    assert read_series(write("place,1990,1991\na,5,6\n"), ["1991"]).values.tolist() == [[6]]


@pytest.mark.parametrize(
    "content",
    [
        "day;v\nd1;1,5\nd2;2,5\n",
        "day\tv\nd1\t1.5\nd2\t2.5\n",
        "day|v\nd1|1.5\nd2|2.5\n",
        "day v\nd1  1.5\nd2 2.5\n",
        'day,v\nd1,"1,5"\nd2,"2,5"\n',
        "day,v\nd1,1.5\nd2,2.5\n".encode("utf-16"),
        "day,v\nd1,1.5\nd2,2.5\n".encode("utf-16-le"),
        "t\u00e4g,v\nd1,1.5\nd2,2.5\n".encode("latin-1"),
    ],
)
def test_tables_of_other_forms_are_read_where_that_is_certain(write, content):
    assert read_series(write(content)).values.tolist() == [[1.5], [2.5]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "day,v\nd1,1_0\nd2,2_0\n",
            "has no numeric column: day .text, such as 'd1'., v .text, such as '1_0'.; cells separated by commas",
        ),
        ('day,v\nd1,"1,500"\nd2,"2,500"\n', "line 2: column 'v' is '1,500', which may have .* --decimal"),
    ],
)
def test_tables_that_are_not_certain_are_refused_with_the_cause(write, content, message):
    with pytest.raises(InputError, match=message):
        read_series(write(content))


@pytest.mark.parametrize(("columns", "expected"), [(["y"], [[10], [-20]]), (["y", "x"], [[10, 1], [-20, 2.5]])])
def test_columns_are_taken_by_name_in_the_order_asked_for(write, columns, expected):
    data = read_series(write(TABLE), columns)
    assert data.names == columns
    assert data.values.tolist() == expected


@pytest.mark.parametrize(
    "content",
    [
        "x\n1\n2\n",
        "x\r\n1\r\n2\r\n",
        "x\n1\n2",
        "\ufeffx\n1\n2\n",
        "x\n\n1\n\n2\n\n",
        '"x"\n"1"\n" 2 "\n',
        " x \n 1 \n2\n",
        'x,note\n1,"two\nlines"\n2,\'\n',
    ],
)
def test_usual_ways_to_write_csv_read_the_same(write, content):
    assert read_series(write(content), ["x"]).values.tolist() == [[1], [2]]


@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip.compress), ("xz", lzma.compress)])
def test_packed_files_read_like_plain_ones(write, ending, pack):
    assert read_series(write(pack(TABLE.encode()), f"a.csv.{ending}")).values.tolist() == [[1, 10], [2.5, -20]]


@pytest.mark.parametrize("in_memory", [1 << 28, 1000])
def test_block_by_block_gives_the_same_values(write, monkeypatch, in_memory):
    values = np.random.default_rng(0).normal(size=(301, 2))
    path = write("x,y\n" + "".join(f"{a},{b}\n" for a, b in values.tolist()))
    monkeypatch.setattr(sources, "CELLS", 20)
    monkeypatch.setattr(files, "IN_MEMORY", in_memory)
    read = read_series(path).values
    assert isinstance(read, np.memmap) == (in_memory == 1000)
    assert np.array_equal(read, values)


def test_a_missing_column_is_told_with_those_that_there_are(write):
    with pytest.raises(InputError, match=r"a\.csv has no column 'z'; it has 'day', 'x', 'place', 'y'$"):
        read_series(write(TABLE), ["z"])


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        ("inf", "inf; expected a finite number"),
        ("-Infinity", "-Infinity; expected a finite number"),
        ("1e999", "1e999; expected a finite number"),
        ("abc", "'abc'; expected a number"),
        ("1;2", "'1;2'; expected a number"),
        ("x" * 500, f"'{'x' * 40}'; expected a number"),
        ("1_0", "'1_0'; expected a number"),
        ("\u0661", "'\u0661'; expected a number"),
        ("0x10", "'0x10'; expected a number"),
    ],
)
def test_a_cell_that_is_no_finite_number_is_told_with_line_and_column(write, cell, shown):
    path = write(f"day,x,y\n1,2,3\n1,2,3\n1,{cell},3\n")
    with pytest.raises(InputError, match=re.escape(f"a.csv, line 4: column 'x' is {shown}")):
        read_series(path)


def test_a_nan_in_the_first_row_is_refused_too(write):
    with pytest.raises(InputError, match=r"a.csv: column 'y' has no number in 1 of 2 rows: line 2; .*--missing inter"):
        read_series(write("x,y\n1,nan\n2,3\n"))


@pytest.mark.parametrize(("row", "cells"), [("1", 1), ("1,2,3", 3)])
@pytest.mark.parametrize("before", ["", "1,2\n"])
def test_a_ragged_row_is_told_with_its_line(write, row, cells, before):
    line = 2 + before.count("\n")
    with pytest.raises(InputError, match=rf"line {line}: {cells} cells; expected 2, as in the header"):
        read_series(write(f"x,y\n{before}{row}\n"))


@pytest.mark.parametrize(
    ("content", "message"),
    [("x,y\n", "no rows after its header"), ("x,y", "no rows after its header"), ("\n\n", "has no rows")],
)
def test_a_file_without_rows_is_refused(write, content, message):
    with pytest.raises(InputError, match=message):
        read_series(write(content))


def test_a_file_without_numbers_is_refused(write):
    with pytest.raises(
        InputError, match=r"has no numeric column: x \(text, such as 'a'\), y \(empty\); cells separated by semic"
    ):
        read_series(write("x;y\na;\n"))


@pytest.mark.parametrize("columns", [None, ["x"]])
def test_two_columns_of_the_same_name_are_refused(write, columns):
    with pytest.raises(InputError, match="has 2 columns called 'x'"):
        read_series(write("x,x\n1,2\n"), columns)


def test_bytes_of_an_unknown_encoding_are_refused(write):
    with pytest.raises(InputError, match=r"a\.csv is not UTF-8 text: .*--encoding"):
        read_series(write("x,\u6e29\u5ea6\n1,2\n".encode("shift-jis")))


@pytest.mark.parametrize("content", [b"\x1f\x8b\x08", gzip.compress(TABLE.encode(), mtime=0)[:-4], b"x\n1\n"])
def test_a_damaged_packed_file_is_refused(write, content):
    with pytest.raises(InputError, match=r"a\.csv\.gz can't be read: "):
        read_series(write(content, "a.csv.gz"))


def test_a_cell_without_end_is_refused(write):
    with pytest.raises(InputError, match="can't be read.*: "):
        read_series(write('x\n"' + "1" * 200_000))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is no regular file"):
        read_series(tmp_path / "pipe")


@pytest.mark.parametrize(("name", "message"), [("b.csv", "does not exist"), (".", "is a folder; expected a file")])
def test_what_is_no_file_is_refused(tmp_path, name, message):
    with pytest.raises(InputError, match=message):
        read_series(tmp_path / name)


def test_persistence_repeats_the_last_known_value():
    values = np.arange(10.0).reshape(5, 2)
    assert persistence(values, np.array([1, 4]), 2).tolist() == [[[0, 1], [0, 1]], [[6, 7], [6, 7]]]


def test_truth_is_what_came_after_each_origin():
    values = np.arange(10.0).reshape(5, 2)
    assert truth(values, np.array([1, 3]), 2).tolist() == [[[2, 3], [4, 5]], [[6, 7], [8, 9]]]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "float16", "int64"])
def test_integers_are_converted_before_differences_are_taken(dtype):
    low, high = (np.array([[value], [value + 1]], dtype) for value in (0, 120))
    assert rmse(low[None], high[None]) == 120
    whole = np.array([[-100], [100]]).astype(dtype)
    assert deviations(whole) == [float(np.std(whole.astype(float)))]


def test_rmse_by_value():
    assert rmse(np.array([[[1.0], [2.0]]]), np.array([[[4.0], [6.0]]])) == pytest.approx(np.sqrt(12.5))


def ar2(steps, weights, start):
    """A series without noise that follows an AR(2) model with intercept."""
    x = [*start]
    while len(x) < steps:
        x.append(weights[0] + weights[1] * x[-2] + weights[2] * x[-1])
    return np.array(x)


def test_autoregression_is_exact_on_series_that_are_autoregressive():
    values = np.column_stack([ar2(60, (0.3, -0.95, 1.6), (1, 2)), ar2(60, (-1, -0.9, 0.5), (3, -1))])
    origins = np.array([40, 45, 50])
    forecast = autoregression(values, origins, 10, 40, order=2)
    assert forecast.shape == (3, 10, 2)
    np.testing.assert_allclose(forecast, truth(values, origins, 10), rtol=1e-6, atol=1e-8)


def test_autoregression_never_looks_past_what_it_may_know():
    values = np.random.default_rng(0).normal(size=(80, 1))
    changed = values.copy()
    changed[60:] = 1e6
    origins = np.array([50, 60])
    expected = autoregression(values, origins, 5, 50, order=3)
    assert np.array_equal(autoregression(changed, origins, 5, 50, order=3), expected)


def test_shipped_co2_has_the_known_baselines_over_its_last_fifth():
    data = read_series(CO2)
    assert data.names == ["co2"]
    assert data.values.shape == (2284, 1)
    fitted = int(len(data.values) * 0.8)
    origins = np.arange(fitted, len(data.values) - 12 + 1)
    actual = truth(data.values, origins, 12)
    assert rmse(autoregression(data.values, origins, 12, fitted), actual) == pytest.approx(1.479, abs=0.002)
    assert rmse(persistence(data.values, origins, 12), actual) == pytest.approx(2.028, abs=0.002)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e20, 1e-300])
@pytest.mark.parametrize("steps", [1, 3, 10, 1000])
def test_a_column_that_never_changes_has_spread_1(value, steps):
    changing = np.arange(steps) if steps > 1 else np.zeros(1)
    assert deviations(np.column_stack([np.full(steps, value), changing]))[0] == 1


def test_a_small_change_on_a_large_level_is_no_rounding():
    rows = 1e6 + np.array([[0.0], [1e-6]])
    assert deviations(rows) == pytest.approx([5e-7], rel=1e-3)
