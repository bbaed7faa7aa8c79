"""Series with their times from files as people have them: roles, gaps, panels, the calendar, the future."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest

from gpu_lstm import InputError
from gpu_lstm.cli.series import split_in_words
from gpu_lstm.data import files, gaps, series
from gpu_lstm.data.ahead import inputs_ahead, last_stretches, times_ahead
from gpu_lstm.data.calendar import calendar_features, calendar_names
from gpu_lstm.data.clock import DAY, Step
from gpu_lstm.data.series import CO2, read_series

HOURS = pd.date_range("2024-03-30 20:00", periods=40, freq="h")


@pytest.fixture
def write(tmp_path):
    def write(columns, name="a.csv"):
        pd.DataFrame(columns).to_csv(tmp_path / name, index=False)
        return tmp_path / name

    return write


def test_the_shipped_series_has_its_dates():
    data = read_series(CO2)
    assert (data.names, data.left) == (["co2"], {})
    assert data.clock.name == "date"
    assert str(data.clock.step) == "every week"
    assert data.told[-1] == "time: date (ISO 8601), every week, 1958-03-29 to 2001-12-29"
    assert split_in_words(data, (0.7, 0.1)) == (
        "train 1958-03-29 to 1988-11-05 (1,598 rows), validation 1988-11-12 to 1993-03-27 (229 rows), "
        "test 1993-04-03 to 2001-12-29 (457 rows)"
    )


def test_columns_of_year_month_day_and_hour_and_a_target_that_begins_without_numbers(write):
    frame = {"No": range(1, 41), "year": HOURS.year, "month": HOURS.month, "day": HOURS.day, "hour": HOURS.hour}
    values = [np.nan] * 3 + [float(k) for k in range(37)]
    values[20] = np.nan
    path = write({**frame, "pm2.5": values, "DEWP": [k % 7 for k in range(40)], "cbwd": ["NW"] * 40})
    with pytest.raises(
        InputError, match=r"'pm2.5' has no number in 4 of 40 rows, at most 3 in a row: line 2 \(2024-03-30"
    ):
        read_series(path)
    data = read_series(path, ["pm2.5"], past=["DEWP"], missing="interpolate")
    assert (data.names, data.targets, data.past) == (["pm2.5", "DEWP"], ["pm2.5"], ["DEWP"])
    assert data.values[:, 0].tolist() == [float(k) for k in range(37)]
    assert data.values[0, 1] == 3
    assert data.times[0] == np.datetime64("2024-03-30T23:00")
    dropped = read_series(path, missing="drop")
    assert dropped.names == ["pm2.5", "DEWP"]
    assert (dropped.starts.tolist(), dropped.ids) == ([0, 17, 36], ["", ""])
    assert dropped.left == {"No": "row numbers from 1", "cbwd": "text, such as 'NW'"}


@pytest.mark.parametrize("newest_first", [False, True])
def test_clocks_that_are_set_forward_and_back(write, newest_first):
    there = pd.date_range("2024-03-30 20:00", "2024-10-28", freq="h", tz="Europe/Berlin")
    frame = pd.DataFrame({"time": there.strftime("%d.%m.%Y %H:%M"), "v": np.arange(len(there)) % 24 * 1.5})
    path = write(frame[::-1] if newest_first else frame)
    with pytest.raises(
        InputError, match=r"have the time of another row: line .* \(2024-10-27T02:00\).*--time-zone where"
    ):
        read_series(path)
    data = read_series(path, time_zone="Europe/Berlin")
    assert data.clock.zone == "Europe/Berlin"
    assert data.values[:, 0].tolist() == frame["v"].tolist()
    assert np.array_equal(data.times, there.tz_convert("UTC").tz_localize(None).to_numpy("datetime64[ns]"))
    assert "every hour, 2024-03-30T20:00+01:00 to 2024-10-28T00:00+01:00" in "".join(data.told)
    with pytest.raises(InputError, match="--time-zone is 'Berlin'; expected a name of the tz database"):
        read_series(path, time_zone="Berlin")


def test_the_zone_of_times_with_offsets_is_checked_and_shown(write):
    there = pd.date_range("2024-03-30 20:00", periods=40, freq="h", tz="Europe/Berlin")
    frame = pd.DataFrame({"time": there, "v": np.arange(40) ** 2})
    assert read_series(frame).clock.zone == "Europe/Berlin"
    frame["time"] = [time.isoformat() for time in there]
    assert read_series(write(frame)).clock.zone == "UTC"
    assert (
        read_series(write(frame), time_zone="Asia/Tokyo")
        .told[1]
        .endswith("2024-03-31T04:00+09:00 to 2024-04-01T19:00+09:00")
    )
    with pytest.raises(InputError, match="--time-zone is 'Berlin'"):
        read_series(write(frame), time_zone="Berlin")
    frame["time"] = there.tz_convert("UTC").tz_convert("+02:00")
    assert read_series(frame).clock.zone == "UTC"


def test_an_hour_that_clocks_leave_out_is_named_as_such(write):
    there = pd.date_range("2024-03-30 20:00", periods=40, freq="h", tz="Europe/Berlin")
    path = write({"time": there.strftime("%Y-%m-%d %H:%M"), "v": np.arange(40) ** 2})
    with pytest.raises(InputError, match=r"1 step of 1 hour is missing: .*set forward \(--time-zone\)"):
        read_series(path)
    assert len(read_series(path, time_zone="Europe/Berlin").values) == 40


def test_days_at_midnight_of_a_zone_are_days(write):
    there = pd.date_range("2024-03-20", periods=30, freq="D", tz="Europe/Berlin")
    path = write({"time": [time.isoformat() for time in there], "v": np.arange(30) ** 2})
    data = read_series(path, time_zone="Europe/Berlin")
    assert (str(data.clock.step), data.clock.zone) == ("every day", "")
    assert data.times[-1] == np.datetime64("2024-04-18")
    with pytest.raises(InputError, match="times are uneven"):
        read_series(path)


def test_rows_out_of_order_are_sorted_and_rows_twice_are_taken_once(write):
    frame = pd.DataFrame({"time": HOURS, "v": np.arange(40.0) ** 2})
    mixed = pd.concat([frame.iloc[20:], frame.iloc[:20], frame.iloc[5:7]])
    data = read_series(write(mixed))
    assert data.values[:, 0].tolist() == frame["v"].tolist()
    assert data.told[2:] == [
        "rows are not in order of time, the first that isn't is line 22: sorted",
        "2 rows that are there twice are left out, the first is line 42 (2024-03-31T01:00)",
    ]
    other = mixed.copy()
    other.iloc[-1, 1] = -1.0
    with pytest.raises(
        InputError, match="2 rows have the time of another row: line 43 .* has other values than line 28; .*--series"
    ):
        read_series(write(other))


def test_newest_first_is_turned_round(write):
    frame = pd.DataFrame({"time": HOURS, "v": np.arange(40.0) ** 2})
    data = read_series(write(frame[::-1]))
    assert data.values[:, 0].tolist() == frame["v"].tolist()
    assert data.told[-1] == "rows stand from the last time to the first: turned round"


def panel():
    months = pd.date_range("2020-01-31", periods=30, freq="ME")
    return pd.DataFrame(
        [(time, shop, 100.0 * k + t * (k + 1)) for t, time in enumerate(months) for k, shop in enumerate("ab")],
        columns=["month", "shop", "sales"],
    )


def test_many_series_of_one_table(write):
    data = read_series(write(panel()), series="shop")
    assert (data.names, data.ids, data.starts.tolist()) == (["sales"], ["a", "b"], [0, 30, 60])
    assert data.values[:, 0].tolist() == [*(float(t) for t in range(30)), *(100.0 + 2 * t for t in range(30))]
    assert str(data.clock.step) == "every month"
    assert "2 series by 'shop'" in data.told[1]
    assert [cut.tolist() for cut in data.cuts((0.5, 0.5))] == [[15, 45], [30, 60]]


def test_gaps_of_one_series_are_its_own(write):
    frame = panel().drop(index=[13, 15])  # two months of b
    with pytest.raises(InputError, match=r"2 steps are missing: 2 after line 13 \(2020-06-30\)"):
        read_series(write(frame), series="shop")
    data = read_series(write(frame), series="shop", missing="interpolate")
    assert data.values[:, 0].tolist() == [*(float(t) for t in range(30)), *(100.0 + 2 * t for t in range(30))]
    assert data.times[30:].tolist() == data.times[:30].tolist()
    dropped = read_series(write(frame), series="shop", missing="drop")
    assert (dropped.ids, dropped.starts.tolist()) == (["a", "b", "b"], [0, 30, 36, 58])
    assert last_stretches(dropped) == {"a": (0, 30), "b": (36, 58)}


def test_no_time_takes_rows_as_they_are(write):
    frame = panel()
    data = read_series(write(frame), ["sales"], series="shop", time=["none"])
    assert (data.times, data.clock, data.starts.tolist()) == (None, None, [0, 30, 60])
    assert split_in_words(data, (0.5, 0.2)) == "train 30 rows, validation 12 rows, test 18 rows"


def test_numbers_that_mean_none(write):
    values = np.where(np.arange(40) % 10 == 4, -999.0, np.arange(40.0) ** 1.1)
    path = write({"time": HOURS, "v": values})
    assert read_series(path).told[-1] == (
        "column 'v' is -999 in 4 rows, far off all others; if it means that there is none: --missing-value -999"
    )
    data = read_series(path, missing="forward", missing_values=[-999])
    assert data.values[4, 0] == data.values[3, 0] == 3**1.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"columns": ["v"], "past": ["v"]}, "column 'v' is asked for twice; expected each in one role"),
        ({"missing": "guess"}, "missing is 'guess'; expected one of refuse, interpolate, forward, drop"),
        ({"time": ["when"]}, "no column 'when'"),
        ({"time": ["none"], "time_zone": "UTC"}, "--time-zone is given, but there is no column of times"),
        ({"time": ["none"], "calendar": True}, "--calendar needs a column of times"),
        ({"calendar": True}, "--calendar finds no cycle in times that are every hour and span 2 days"),
        ({"future": ["v"]}, "no numeric column besides"),
    ],
)
def test_what_can_not_be_is_refused(write, arguments, message):
    with pytest.raises(InputError, match=message):
        read_series(write({"time": HOURS, "v": np.arange(40) ** 2}), **arguments)


def test_counters_and_clocks_are_no_targets(write):
    data = read_series(write({"seconds": np.arange(50) * 0.1 + 3, "v": np.arange(50) ** 2}))
    assert (data.names, data.left) == (["v"], {"seconds": "rises evenly: counts the rows"})
    assert read_series(write({"seconds": np.arange(50) * 0.1, "v": np.ones(50)}), ["seconds"]).names == ["seconds"]


# -- the calendar -------------------------------------------------------------------------------------------


def test_calendar_features_by_value():
    times = np.array(["2024-01-01T06:00", "2024-01-07T18:00", "2023-07-02T12:00"], "datetime64[ns]")  # Monday, Sundays
    names = [f"{wave}({what})" for what in ("time of day", "day of week", "time of year") for wave in ("sin", "cos")]
    day, week, year = [0.25, 0.75, 0.5], [0, 6 / 7, 6 / 7], [0.25 / 366, 6.75 / 366, 182.5 / 365]
    angles = 2 * np.pi * np.array([day, week, year])
    expected = np.stack([np.sin(angles), np.cos(angles)], axis=1).reshape(6, 3).T
    np.testing.assert_allclose(calendar_features(times, names), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("step", "days", "cycles"),
    [
        (Step(DAY // 24), 800, ["time of day", "day of week", "time of year"]),
        (Step(DAY // 24), 20, ["time of day", "day of week"]),
        (Step(DAY), 800, ["day of week", "time of year"]),
        (Step(7 * DAY), 800, ["time of year"]),
        (Step(1, "months"), 800, ["time of year"]),
    ],
)
def test_the_calendar_takes_the_cycles_that_the_step_has_and_the_times_span(step, days, cycles):
    times = np.array(["2020-01-01", np.datetime64("2020-01-01") + np.timedelta64(days, "D")], "datetime64[ns]")
    waves = [
        what for cycle in cycles for what in (cycle, *((f"{k} {cycle}" for k in (2, 3)) if "year" in cycle else ()))
    ]
    assert calendar_names(step, times) == [f"{wave}({what})" for what in waves for wave in ("sin", "cos")]


def test_waves_of_the_year_by_value():
    times = np.array(["2023-01-01", "2023-04-02T06:00", "2023-07-02T12:00"], "datetime64[ns]")
    found = calendar_features(times, ["sin(2 time of year)", "cos(2 time of year)", "cos(3 time of year)"])
    np.testing.assert_allclose(found, [[0, 1, 1], [0, -1, 0], [0, 1, -1]], atol=1e-12)
    with pytest.raises(InputError, match="calendar has no 'sin\\(2 time\\)'"):
        calendar_features(times, ["sin(2 time)"])


def test_the_calendar_shows_local_clocks(write):
    there = pd.date_range("2024-03-25", periods=24 * 20, freq="h", tz="Europe/Berlin")
    path = write({"time": [time.isoformat() for time in there], "v": np.arange(len(there)) ** 2})
    data = read_series(path, time_zone="Europe/Berlin", calendar=True)
    assert (
        data.calendar == data.future == ["sin(time of day)", "cos(time of day)", "sin(day of week)", "cos(day of week)"]
    )
    angle = 2 * np.pi * np.array([time.hour for time in there]) / 24
    np.testing.assert_allclose(data.values[:, 1:3], np.stack([np.sin(angle), np.cos(angle)], axis=1), atol=1e-12)


# -- the future -------------------------------------------------------------------------------------------


def test_inputs_known_ahead_are_taken_by_their_times(write):
    data = read_series(
        write({"time": HOURS, "v": np.arange(40) ** 2, "t": np.arange(40) % 5}),
        ["v"],
        future=["t"],
        calendar=["sin(time of day)"],
    )
    later = pd.date_range(HOURS[-1], periods=6, freq="h")
    path = write({"time": later[::-1], "t": [5.0, 4, 3, 2, 1, 0]}, "f.csv")
    ahead = inputs_ahead(data, 4, path)[""]
    assert ahead[:, 0].tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(ahead[:, 1], np.sin(2 * np.pi * later.hour[1:5] / 24), atol=1e-12)
    assert times_ahead(data, 39, 2).tolist() == later[1:3].to_numpy("datetime64[ns]").tolist()
    with pytest.raises(InputError, match=r"f.csv lacks 2 of 7 steps: 2024-04-01T17:00, 2024-04-01T18:00"):
        inputs_ahead(data, 7, path)
    with pytest.raises(InputError, match="forecasting needs t for the 4 steps ahead: --future FILE"):
        inputs_ahead(data, 4)
    with pytest.raises(InputError, match=r"line 3 \(2024-04-01T12:00\): column 't' is empty"):
        inputs_ahead(data, 2, write({"time": later, "t": [5.0, np.nan, 3, 2, 1, 0]}, "f.csv"))


def test_inputs_known_ahead_of_many_series(write):
    frame = panel().assign(price=1.0)
    data = read_series(write(frame), ["sales"], future=["price"], series="shop")
    months = pd.date_range("2022-07-31", periods=2, freq="ME")
    given = pd.DataFrame({"month": [*months, *months], "shop": [*"aabb"], "price": [1.0, 2, 3, 4]})
    found = inputs_ahead(data, 2, write(given, "f.csv"), series="shop")
    assert {name: rows[:, 0].tolist() for name, rows in found.items()} == {"a": [1, 2], "b": [3, 4]}
    with pytest.raises(InputError, match="f.csv lacks 1 of 2 steps of shop 'b': 2022-08-31"):
        inputs_ahead(data, 2, write(given[:3], "f.csv"), series="shop")


def test_inputs_known_ahead_without_times_are_the_first_rows(write):
    data = read_series(write({"v": np.arange(40) ** 2, "t": np.arange(40) % 5}), ["v"], future=["t"])
    assert inputs_ahead(data, 2, {"t": [7, 8, 9]})[""].tolist() == [[7], [8]]
    with pytest.raises(InputError, match="has 3 rows; expected 4, one for each step"):
        inputs_ahead(data, 4, {"t": [7, 8, 9]})


# -- much ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_memory_grows_by_less_than_half_of_what_is_read(tmp_path, monkeypatch):
    for module, name, size in ((files, "IN_MEMORY", 1 << 16), (gaps, "BLOCK", 1000), (series, "BLOCK", 1000)):
        monkeypatch.setattr(module, name, size)
    width, peaks = 40, []
    for count in (100, 8000, 16_000):  # the first fills caches and imports
        times = np.datetime_as_string(np.datetime64("2020-01-01T00:00") + np.arange(count).astype("timedelta64[m]"))
        rows = [f"{time},{k % 7 if k != 9 else ''}" + ",1000" * (width - 1) for k, time in enumerate(times)]
        path = tmp_path / "a.csv"
        path.write_text("\n".join(["time," + ",".join(f"c{k}" for k in range(width)), *rows]), encoding="utf-8")
        del rows
        tracemalloc.start()
        data = read_series(path, missing="interpolate")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert data.values.shape == (count, width)
        assert data.values[9, 0] == 2
    assert isinstance(data.values, np.memmap)
    assert (peaks[2] - peaks[1]) / 8000 < 4 * width
