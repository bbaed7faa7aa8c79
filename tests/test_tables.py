"""Tables in Python: data frames, columns, arrays, parquet; what is told of them."""

import datetime
import decimal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from gpu_lstm import InputError
from gpu_lstm.data import numbers, sources
from gpu_lstm.data.sequences import read_sequences
from gpu_lstm.data.series import read_series
from gpu_lstm.data.tables import Reading, read_table

V = np.arange(12) % 5 + 0.5


@pytest.mark.parametrize(
    ("columns", "names", "first"),
    [
        ({"a": V, "b": V * 2}, ["a", "b"], [0.5, 1]),
        ({"a": pd.array(V, dtype="Float64"), "b": pd.array([1, 2] * 6, dtype="Int64")}, ["a", "b"], [0.5, 1]),
        ({"a": V.astype("f4"), "b": V.astype("i2")}, ["a", "b"], [0.5, 0]),
        ({"a": V > 2, "b": pd.array(V < 2, dtype="boolean")}, ["a", "b"], [0, 1]),
        ({"a": pd.Categorical([1.5, 2.5] * 6), "b": pd.Categorical(["x", "y"] * 6)}, ["a"], [1.5]),
        ({"a": [str(v) for v in V], "b": ["1,234.5"] * 12}, ["a", "b"], [0.5, 1234.5]),
        ({"a": pd.array([str(v) for v in V], dtype="string")}, ["a"], [0.5]),
        ({"a": [decimal.Decimal("1.5")] * 12, "b": [datetime.date(2024, 1, 1)] * 12}, ["a"], [1.5]),
        ({"a": V, "b": V + 1j, "c": [b"1.5"] * 12, "d": pd.to_timedelta(np.arange(12), unit="s")}, ["a"], [0.5]),
        ({"a": V, "b": [10**25] * 12, "c": 2.0**60 + np.arange(12) * 2**10}, ["a"], [0.5]),
        ({0: V, 1: V}, ["0", "1"], [0.5, 0.5]),
    ],
)
def test_columns_of_any_type_are_numbers_or_left_by_name(columns, names, first):
    frame = pd.DataFrame(columns)
    before = frame.copy()
    data = read_series(frame, time=["none"])
    assert data.names == names
    assert data.values[0].tolist() == first
    assert set(data.left) == {str(name) for name in columns} - set(names)
    pd.testing.assert_frame_equal(frame, before)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "2 columns called 'a'"),
        (pd.DataFrame({("x", "a"): V}), "2 rows of column names; expected one"),
        (pd.DataFrame({"a": []}), "series has no rows"),
        (pd.DataFrame(index=range(3)), "no numeric column"),
        ({"a": V, "b": [1]}, "columns of different lengths: a 12, b 1"),
        ({"a": 1}, "column 'a' is one value; expected"),
        ([[1, 2], [3, 4]], "series is a list; expected a path, DataFrame"),
        (None, "series is a NoneType"),
        (np.zeros((2, 3, 4)), r"shape \(2, 3, 4\)"),
        (pd.DataFrame({"a": [1, np.inf]}), "series, row 1: column 'a' is inf; expected a finite number"),
        (pd.DataFrame({"a": ["1", "x", "2"]}), "series, row 1: column 'a' is 'x'; expected a number"),
        (pd.DataFrame({"a": V}, index=pd.Index(V, name="a")), "an index called as a column: 'a'"),
    ],
)
def test_what_is_no_table_is_refused(source, message):
    with pytest.raises(InputError, match=message):
        read_series(source)


def test_an_index_is_a_column_where_it_says_something():
    named = pd.DataFrame({"a": V}, index=pd.Index(np.arange(12) ** 2, name="id"))
    assert read_table(named, "series").names == ["id", "a"]
    assert read_table(pd.DataFrame({"a": np.r_[V, V]})[::2], "series").names == ["a"]
    dated = pd.DataFrame({"a": V}, index=pd.date_range("2024-01-01", periods=12))
    assert read_table(dated, "series").names == ["index", "a"]


def test_a_masked_array_lacks_what_is_masked():
    with pytest.raises(InputError, match="'1' has no number in 6 of 12 rows"):
        read_series(np.ma.masked_array(V, V > 2), time=["none"])


def test_series_of_pandas_and_arrays_are_tables_of_one_column_or_more():
    assert read_series(pd.Series(V, name="q")).names == ["q"]
    assert read_series(np.column_stack([V, V])).names == ["1", "2"]
    assert read_series({"a": V, "b": list(V)}).values.shape == (12, 2)


def test_a_parquet_file_is_read_by_pieces_or_asks_for_pyarrow(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        path.write_bytes(b"PAR1")
        with pytest.raises(InputError, match="takes pyarrow to read: pip install pyarrow"):
            read_series(path)
        return
    frame = pd.DataFrame({"a": V, "b": np.arange(12, dtype="i4") % 5, "c": ["x"] * 12, "d": pd.array(V > 2)})
    frame.to_parquet(path)
    for cells in (4, 1 << 17):
        monkeypatch.setattr(sources, "CELLS", cells)
        data = read_series(path)
        assert data.names == ["a", "b", "d"]
        assert data.values.tolist() == np.column_stack([V, np.arange(12) % 5, V > 2]).tolist()
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"a\.parquet can't be read"):
        read_series(path)


@pytest.mark.parametrize("name", [None, "when"])
def test_a_frame_s_index_is_read_from_parquet_as_from_memory(tmp_path, name, monkeypatch):
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(sources, "CELLS", 8)
    times = pd.date_range("2024-03-30", periods=12, freq="D", tz="Europe/Berlin", name=name)
    frame = pd.DataFrame({"a": V}, index=times)
    frame.to_parquet(tmp_path / "a.parquet")
    found, same = read_series(tmp_path / "a.parquet"), read_series(frame)
    assert found.names == same.names == ["a"]
    assert found.values.tolist() == same.values.tolist() == V[:, None].tolist()
    assert found.clock.columns == same.clock.columns == [name or "index"]
    frame.reset_index(drop=True).iloc[3:].to_parquet(tmp_path / "b.parquet")  # numbers of rows are no column
    assert read_series(tmp_path / "b.parquet").names == ["a"]


def test_sequences_come_from_data_frames_with_and_without_labels():
    frame = pd.DataFrame({"who": [1, 1, 2, 2, 2], "what": ["a", "a", "b", "b", "b"], "x": [1, 2, 3, 4, 5.5]})
    data = read_sequences(frame, "what", "who")
    assert (data.names, data.classes, data.labels.tolist()) == (["x"], ["a", "b"], [0, 1])
    assert (data.ids, data.lengths.tolist()) == (["1", "2"], [2, 3])
    blank = read_sequences(frame.drop(columns="what"), "what", "who", target=None)
    assert (blank.names, blank.labels.tolist(), blank.values.tolist()) == (["x"], [0, 0], data.values.tolist())


def test_numbers_about_sequences_are_one_column_or_several():
    frame = pd.DataFrame({"series": [1, 1, 2], "age": [40, 40, 50], "size": [1.5, 1.5, 2.5], "x": [1, 2, 3.0]})
    data = read_sequences(frame, ["age", "size"], target="numbers")
    assert (data.names, data.targets, data.labels.tolist()) == (["x"], ["age", "size"], [[40, 1.5], [50, 2.5]])
    frame.loc[1, "size"] = 2
    with pytest.raises(InputError, match="row 1: column 'size' changes within series '1'"):
        read_sequences(frame, ["age", "size"], target="numbers")
    frame.loc[1, "size"] = np.nan
    with pytest.raises(InputError, match="row 1: column 'size' is nan"):
        read_sequences(frame, ["age", "size"], target="numbers")


def test_steps_have_labels_of_their_own_or_none():
    frame = pd.DataFrame({"series": [1, 1, 1, 2], "label": ["a", "b", "", "b"], "x": [1, 2, 3, 4.0]})
    data = read_sequences(frame, target="steps")
    assert (data.classes, data.labels.tolist(), data.of_steps) == (["a", "b"], [0, 1, -1, 1], True)
    assert data.batch(np.array([1, 0]))[2].T.tolist() == [[1, -1, -1], [0, 1, -1]]


def test_other_data_have_the_classes_of_a_model_or_are_refused():
    frame = pd.DataFrame({"series": [1, 2], "label": ["2.0", "2"], "x": [1, 2.0]})
    assert read_sequences(frame, classes=["1", "2", "3"]).labels.tolist() == [1, 1]
    with pytest.raises(InputError, match=r"row 0: column 'label' is '2\.0'; the model has the classes '1', '3'"):
        read_sequences(frame, classes=["1", "3"])


@pytest.mark.parametrize(
    ("cell", "point", "comma"),
    [
        ("1", 1, 1), (" -2 ", -2, -2), ("+3", 3, 3), ("1.5", 1.5, None), ("1,5", None, 1.5), (".5", 0.5, None),
        ("5.", 5, None), ("1.234", 1.234, 1234), ("1,234", 1234, 1.234), ("0.123", 0.123, None),
        ("0,123", None, 0.123), ("1,234.5", 1234.5, None), ("1.234,5", None, 1234.5), ("1,234,567", 1234567, None),
        ("1.234.567", None, 1234567), ("1 234,5", None, 1234.5), ("1\u202f234", 1234, 1234),
        ("1'234.5", 1234.5, None), ("12,34", None, 12.34), ("1,23,456", None, None), ("1234,567.8", None, None),
        ("1,2345", None, 1.2345), ("1e3", 1000, 1000), ("1.5e3", 1500, None), ("1,5E-3", None, 0.0015),
        ("\u22125", -5, -5), ("1_0", None, None), ("\u0661", None, None), ("0x10", None, None), ("1 2", None, None),
        ("--1", None, None), ("e5", None, None), ("+", None, None), ("01.03.2024", None, None), ("12:30", None, None),
        ("(5)", None, None), ("-1,234.5", -1234.5, None),
        ("9007199254740993", 9007199254740993.0, 9007199254740993.0), ("1e-400", 0, 0),
    ],
)  # fmt: skip
def test_a_cell_is_one_number_with_each_decimal_mark_or_none(cell, point, comma):
    assert numbers.value(cell, ".") == point
    assert numbers.value(cell, ",") == comma
    for mark, expected in ((".", point), (",", comma)):
        found, bad = numbers.values([cell, "7"], mark)
        assert (None if bad == 0 else found.tolist()) == (None if expected is None else [expected, 7])


@pytest.mark.parametrize("decimal", [".", ","])
def test_plain_cells_at_once_are_what_each_is_alone(decimal):
    rng = np.random.default_rng(0)
    marks = list("0123456789.,-+eE _ '\n\u0661")
    for _ in range(3000):
        cells = ["".join(rng.choice(marks, rng.integers(1, 7))) for _ in range(2)]
        at_once = numbers.plain_values(cells, decimal)
        if at_once is not None:
            alone = [numbers.value(cell, decimal) for cell in cells]
            assert np.array_equal(at_once, np.array(alone, np.float64), equal_nan=True), (cells, at_once, alone)


def test_bits_of_numbers_are_those_of_python(tmp_path):
    values = np.random.default_rng(1).normal(size=500) * 10.0 ** np.arange(-250, 250)
    path = tmp_path / "a.csv"
    path.write_text("v\n" + "\n".join(map(repr, values.tolist())) + "\n")
    assert read_series(path).values[:, 0].tolist() == values.tolist()
    path.write_text("v;w\n" + "\n".join(f"{v!r}".replace(".", ",") + ";1" for v in values.tolist()) + "\n")
    assert read_series(path, ["v"], Reading(decimal=",")).values[:, 0].tolist() == values.tolist()


WIDE = "kind,1,2,3,4\na,1.5,2,3,4\nb,5,6,,\na,7,8,9,\n"


def test_rows_may_be_whole_sequences(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(WIDE.replace("kind,1,2,3,4", "kind,s1,s2,s3,s4"))
    for columns in (None, ["value"]):
        data = read_sequences(path, "kind", columns=columns, reading=Reading(wide=True))
        assert (data.names, data.lengths.tolist(), data.labels.tolist()) == (["value"], [4, 2, 3], [0, 1, 0])
        assert data.values[:, 0].tolist() == [1.5, 2, 3, 4, 5, 6, 7, 8, 9]
    assert "each row is a sequence of up to 4 steps, columns s1 to s4" in data.told
    blank = read_sequences(path, "kind", target=None, reading=Reading(wide=True))
    assert (blank.ids, blank.values.tolist()) == (["1", "2", "3"], data.values.tolist())


def test_rows_that_are_sequences_of_a_file_without_a_header(tmp_path):
    path = tmp_path / "GunPoint_TRAIN.tsv"
    path.write_text("1\t0.5\t1.5\n2\t-1\t2\n1\t0\t1\n")
    data = read_sequences(path, "1", reading=Reading(wide=True, header="none"))
    assert (data.classes, data.labels.tolist(), data.values[:2, 0].tolist()) == (["1", "2"], [0, 1, 0], [0.5, 1.5])


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (WIDE.replace("6,,", "6,,7"), {}, "line 3: column '3' has no number"),
        (WIDE.replace("b,5,6", "b,,"), {}, "line 3: column '1' has no number"),
        (WIDE, {"columns": ["1", "2"]}, "expected no --columns"),
        (WIDE, {"target": "steps"}, "without labels each"),
        (WIDE.replace("kind", "sort"), {}, "no column 'kind'"),
    ],
)
def test_rows_that_are_no_whole_sequences_are_refused(tmp_path, content, options, message):
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_sequences(path, "kind", reading=Reading(wide=True, header="first"), **options)
    with pytest.raises(InputError, match="wide .--wide. is for sequences"):
        read_series(path, reading=Reading(wide=True))


def test_pandas_is_imported_when_a_table_is_read_and_no_earlier():
    code = (
        "import sys, gpu_lstm, gpu_lstm.cli, gpu_lstm.data.tables; assert 'pandas' not in sys.modules; "
        "from gpu_lstm.data.series import CO2, read_series; read_series(CO2); assert 'pandas' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
