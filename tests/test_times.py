"""Columns of times: found by their rows, read where there is one way to, refused where there are two."""

import numpy as np
import pandas as pd
import pytest

from gpu_lstm import InputError
from gpu_lstm.data.clock import local, to_utc, written
from gpu_lstm.data.times import Times, find_time


def table(columns):
    return pd.DataFrame(columns, dtype="str")


def read(frame, columns=None, date_format=None):
    columns = columns or find_time(frame)
    times = Times(columns, date_format, lambda row: f"a.csv, line {row + 2}")
    times.add(frame)
    return times.finish(), times


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["2024-01-31", "2024-02-01"], ["2024-01-31", "2024-02-01"]),
        (["2024-01-31 23:00", "2024-02-01T00:00:00.5"], ["2024-01-31T23:00", "2024-02-01T00:00:00.5"]),
        (["2024-01-31", "2024-01-31 01:00"], ["2024-01-31", "2024-01-31T01:00"]),
        (["2024-1-31", "2024-2-1"], ["2024-01-31", "2024-02-01"]),
        (["2024-01-31T00:30:00+01:00", "2024-07-01T00:30:00+02:00"], ["2024-01-30T23:30", "2024-06-30T22:30"]),
        (["2024-01-31 00:00:00 UTC", "2024-01-31 01:00:00 UTC"], ["2024-01-31T00:00", "2024-01-31T01:00"]),
        (["31/12/2024", "01/01/2025"], ["2024-12-31", "2025-01-01"]),
        (["12/31/2024", "01/01/2025"], ["2024-12-31", "2025-01-01"]),
        (["1/31/2024 1:05 PM", "2/1/2024 12:05 AM"], ["2024-01-31T13:05", "2024-02-01T00:05"]),
        (["2.1.2024", "3.1.2024"], ["2024-01-02", "2024-01-03"]),
        (["31.12.24 23:45", "01.01.25 00:00"], ["2024-12-31T23:45", "2025-01-01T00:00"]),
        (["2024/01/31", "2024/02/01"], ["2024-01-31", "2024-02-01"]),
        (["31 Dec 2024", "1 Jan 2025"], ["2024-12-31", "2025-01-01"]),
        (["December 31, 2024", "January 1, 2025"], ["2024-12-31", "2025-01-01"]),
        (["31-Dec-24", "01-Jan-25"], ["2024-12-31", "2025-01-01"]),
        (["May 2024", "June 2024"], ["2024-05-01", "2024-06-01"]),
        (["2024-05", "2024-06"], ["2024-05-01", "2024-06-01"]),
        (["2024Q1", "2024Q2"], ["2024-01-01", "2024-04-01"]),
        (["Q4 2024", "Q1 2025"], ["2024-10-01", "2025-01-01"]),
    ],
)
def test_texts_that_are_dates_are_found_by_their_rows(cells, expected):
    found, _ = read(table({"x": ["1", "2"], "d": cells}))
    assert found.dtype == "datetime64[ns]"
    assert found.tolist() == np.array(expected, "datetime64[ns]").tolist()


@pytest.mark.parametrize(
    ("name", "cells", "expected"),
    [
        ("date", ["20241231", "20250101"], ["2024-12-31", "2025-01-01"]),
        ("month", ["202412", "202501"], ["2024-12-01", "2025-01-01"]),
        ("timestamp", ["1704067200", "1704067260"], ["2024-01-01T00:00", "2024-01-01T00:01"]),
        ("ts", ["1704067200.5", "1704067201"], ["2024-01-01T00:00:00.5", "2024-01-01T00:00:01"]),
        ("ts", ["1704067200001", "1704067200002"], ["2024-01-01T00:00:00.001", "2024-01-01T00:00:00.002"]),
        ("event_time", ["1704067200000000007", "1704067200000000008"], None),
        ("year", ["1700.0", "1701.0"], ["1700-01-01", "1701-01-01"]),
    ],
)
def test_digits_are_a_time_where_the_name_says_so(name, cells, expected):
    found, _ = read(table({"v": ["1", "2"], name: cells}))
    if expected is None:
        assert found.astype(np.int64).tolist() == [int(cell) for cell in cells]
    else:
        assert found.tolist() == np.array(expected, "datetime64[ns]").tolist()
    assert find_time(table({"v": ["1", "2"], "amount": cells})) == []


@pytest.mark.parametrize(
    ("columns", "picked", "expected"),
    [
        ({"No": ["1", "2"], "year": ["2010", "2010"], "month": ["1", "1"], "day": ["1", "1"], "hour": ["0", "1"]},
         ["year", "month", "day", "hour"], ["2010-01-01T00", "2010-01-01T01"]),
        ({"Month": ["1", "2"], "Year": ["2010", "2010"]}, ["Year", "Month"], ["2010-01-01", "2010-02-01"]),
        ({"Date": ["16/12/2006", "16/12/2006"], "Time": ["17:24:00", "17:25:00"]}, ["Date", "Time"],
         ["2006-12-16T17:24", "2006-12-16T17:25"]),
        ({"Date": ["13/03/2004", "13/03/2004"], "Time": ["18.00.00", "19.00.00"]}, ["Date", "Time"],
         ["2004-03-13T18", "2004-03-13T19"]),
        ({"dteday": ["2011-01-01", "2011-01-01"], "hr": ["0", "23"]}, ["dteday", "hr"],
         ["2011-01-01T00", "2011-01-01T23"]),
    ],
)  # fmt: skip
def test_columns_that_make_a_time_together(columns, picked, expected):
    frame = table({**columns, "v": ["NA", "129"]})
    assert find_time(frame) == picked
    found, _ = read(frame)
    assert found.tolist() == np.array(expected, "datetime64[ns]").tolist()


@pytest.mark.parametrize(
    "columns",
    [
        {"v": ["1", "2"]},
        {"clock": ["13:05", "13:06"]},
        {"d": ["soon", "later"]},
        {"year": ["1", "2"], "month": ["13", "14"]},
        {"year": ["2010", "2010"], "v": ["1", "2"]},
        {"v": ["1.2.3", "x"]},
    ],
)
def test_no_time_where_there_is_none(columns):
    assert find_time(table(columns)) == []


def test_of_several_columns_of_dates_the_one_called_so_is_taken():
    assert find_time(table({"x": ["2024-01-01"], "date": ["2024-01-02"]})) == ["date"]


@pytest.mark.parametrize(
    ("columns", "asked", "message"),
    [
        ({"d": ["12/11/2024", "01/01/2025"]}, None, r"day/month/year \(2024-11-12\) or month/day/year \(2024-12-11\)"),
        ({"d": ["24/12/11", "24/12/12"]}, None, "expected --date-format"),
        ({"d": [*["2024-01-01"] * 30, "Total"]}, None, "line 32: column 'd' is 'Total'; expected a time as ISO"),
        ({"d": ["2024-01-01", "", "2024-01-03"]}, ["d"], "line 3: column 'd' is empty; expected a time"),
        ({"d": ["2024-01-01T00:00Z", "2024-01-01T01:00"]}, ["d"], "line 3: .* expected an offset from UTC"),
        ({"d": ["2024-13-45", "2024-01-01"]}, ["d"], "line 2: column 'd' is '2024-13-45'; expected a time"),
        ({"v": ["1", "2"]}, ["v"], "line 2: column 'v' is '1'; expected a time; --date-format .*--time none"),
        ({"d": ["2024-01-01", "2024-01-01"], "hour": ["0", "24"]}, None, "line 3: column 'hour' is 24; expected hours"),
        ({"year": ["2024"], "month": ["13"]}, ["year", "month"], "line 2: column 'month' is '13'; expected a month, 1"),
    ],
)  # fmt: skip
def test_what_is_no_time_or_may_be_two_is_refused(columns, asked, message):
    with pytest.raises(InputError, match=message):
        read(table(columns), asked)


def test_a_format_makes_it_certain():
    cells = table({"d": ["12/11/2024", "01/01/2025 05:00"]})
    found, _ = read(cells, ["d"], "%d/%m/%Y")
    assert found.tolist() == np.array(["2024-11-12", "2025-01-01T05:00"], "datetime64[ns]").tolist()
    with pytest.raises(InputError, match="--date-format is '%Q'"):
        read(cells, ["d"], "%Q")


def test_a_later_row_can_make_it_certain():
    times = Times(["d"], None, str)
    times.add(table({"d": ["01/02/2024", "02/02/2024"]}))
    times.add(table({"d": ["13/02/2024"]}))
    assert times.finish().astype("datetime64[D]").astype(str).tolist() == ["2024-02-01", "2024-02-02", "2024-02-13"]
    assert times.words == "day/month/year"


def test_types_of_pandas_are_taken_as_they_are():
    frame = pd.DataFrame({"when": pd.date_range("2024-03-31", periods=3, freq="h", tz="Europe/Berlin"), "v": [1, 2, 3]})
    found, times = read(frame)
    assert (times.columns, times.zone) == (["when"], "Europe/Berlin")
    assert written(found, times.zone) == ["2024-03-31T00:00+01:00", "2024-03-31T01:00+01:00", "2024-03-31T03:00+02:00"]


def test_clocks_that_are_set_back_show_an_hour_twice():
    utc = np.arange("2024-10-26T22", "2024-10-27T04", dtype="datetime64[h]").astype("datetime64[ns]")
    shown = local(utc, "Europe/Berlin")
    assert shown.astype("datetime64[h]").astype(str).tolist() == [f"2024-10-27T0{hour}" for hour in (0, 1, 2, 2, 3, 4)]
    assert to_utc(shown, "Europe/Berlin")[0].tolist() == utc.tolist()
    once, told = to_utc(np.unique(shown), "Europe/Berlin")
    assert once.tolist() == np.delete(utc, 3).tolist()
    assert "autumn" in told[0]


@pytest.mark.parametrize(
    ("zone", "message"),
    [("Nowhere", "is 'Nowhere'; expected a name of"), ("Europe/Berlin", "its clocks leave out 2024-03-31T02:30")],
)
def test_times_that_no_clock_shows_are_refused(zone, message):
    with pytest.raises(InputError, match=message):
        to_utc(np.array(["2024-03-31T02:30"], "datetime64[ns]"), zone)


def test_times_are_written_as_short_as_they_can_be():
    times = np.array(["2024-01-01", "2024-07-01"], "datetime64[ns]")
    assert written(times) == ["2024-01-01", "2024-07-01"]
    assert written(times + np.timedelta64(1, "m")) == ["2024-01-01T00:01", "2024-07-01T00:01"]
    assert written(times + np.timedelta64(1, "ms")) == ["2024-01-01T00:00:00.001", "2024-07-01T00:00:00.001"]
    assert written(times, "America/New_York") == ["2023-12-31T19:00-05:00", "2024-06-30T20:00-04:00"]
    assert written(times, "UTC") == ["2024-01-01T00:00+00:00", "2024-07-01T00:00+00:00"]


def test_numbers_of_pandas_are_times_where_the_name_says_so():
    stamps = 1704067200 + 60.0 * np.arange(3)
    found, _ = read(pd.DataFrame({"v": [0.5, 1.5, 2.5], "ts": stamps}))
    assert found.astype("datetime64[m]").astype(str).tolist() == [f"2024-01-01T00:0{k}" for k in range(3)]
    assert find_time(pd.DataFrame({"v": stamps, "time": [0.1, 0.2, 0.3]})) == []
