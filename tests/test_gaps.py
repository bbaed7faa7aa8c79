"""The step of times, and what is missing: told with its places, filled or dropped by value."""

import numpy as np
import pytest

from gpu_lstm import InputError
from gpu_lstm.data import files, gaps
from gpu_lstm.data.clock import find_step
from gpu_lstm.data.gaps import Rows, treat

NAN = np.nan
HOURS = np.arange("2024-01-01", "2024-01-10", dtype="datetime64[h]")
DAYS = np.arange("2024-01-01", "2024-03-10", dtype="datetime64[D]")
MONTHS = np.arange("2020-01", "2023-01", dtype="datetime64[M]")


def step_of(times, starts=(0,)):
    times = np.array(times, "datetime64[ns]")
    first = np.isin(np.arange(len(times)), starts)
    step, places, told = find_step(times, first, lambda row: f"row {row}")
    return str(step), places, told


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (HOURS, "every hour"),
        (DAYS, "every day"),
        (DAYS[::7], "every week"),
        (DAYS[np.is_busday(DAYS)], "every business day"),
        (MONTHS, "every month"),
        ((MONTHS + np.timedelta64(1, "M")).astype("datetime64[D]") - np.timedelta64(1, "D"), "every month"),
        (MONTHS[::3], "every quarter"),
        (np.arange("1700", "1800", dtype="datetime64[Y]"), "every year"),
        (np.arange("2020-01-01", "2023-01-01", 28, dtype="datetime64[D]"), "every 28 days"),
        (np.arange(0, 10**6, 100).astype("datetime64[ms]"), "every 100 milliseconds"),
        (HOURS[:2], "every hour"),
    ],
)
def test_the_step_is_found(times, expected):
    step, places, told = step_of(times)
    assert (step, told) == (expected, [])
    assert places.tolist() == list(range(len(times)))


@pytest.mark.parametrize("times", [HOURS, DAYS, DAYS[np.is_busday(DAYS)], MONTHS[:40]])
def test_missing_times_leave_places_out(times):
    gone = [4, 5, 20]
    step, places, _ = step_of(np.delete(times, gone))
    assert step == step_of(times)[0]
    assert places.tolist() == np.delete(np.arange(len(times)), gone).tolist()


def test_every_series_counts_from_its_own_first_time():
    both = np.concatenate([HOURS, HOURS[5:9]])
    assert step_of(both, (0, len(HOURS)))[1].tolist() == [*range(len(HOURS)), *range(4)]


def test_clocks_that_are_a_little_off_are_told():
    off = np.random.default_rng(0).integers(0, 2000, len(HOURS)).astype("timedelta64[ms]")
    step, places, told = step_of(np.delete(HOURS.astype("datetime64[ms]") + off, 7))
    assert step == "every hour"
    assert places.tolist() == np.delete(np.arange(len(HOURS)), 7).tolist()
    assert "milliseconds off even steps, and taken as even" in told[0]


def test_days_of_the_month_that_vary_are_told():
    step, _, told = step_of(MONTHS.astype("datetime64[D]") + (np.arange(len(MONTHS)) % 4).astype("timedelta64[D]"))
    assert (step, told) == ("every month", ["days of the month vary, 1 to 4; they are taken as every month"])


TENS = np.arange("2024-01-01", "2024-01-05", 10, dtype="datetime64[m]")


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (np.cumsum(np.random.default_rng(0).integers(1, 99, 200)).astype("datetime64[s]"),
         "times are uneven: .*resample.*--time none"),
        (np.append(TENS, np.arange("2024-01-05", "2024-01-07", 60, dtype="datetime64[m]")),
         "the step changes: it is 1 hour from row 576 on, and mostly 10 minutes; expected one step"),
        (np.append(HOURS[:99], HOURS[99] + np.arange(0, 200, 10).astype("timedelta64[m]")),
         "it is 10 minutes from row 99 on, and mostly 1 hour"),
        (np.sort(np.append(HOURS, HOURS[5].astype("datetime64[m]") + np.timedelta64(7, "m"))),
         "others from 7 minutes to 1 hour, the first 7 minutes after row 5"),
        (HOURS[:1], "one time only, row 0; expected at least two"),
    ],
)  # fmt: skip
def test_uneven_times_are_refused_with_their_place(times, message):
    with pytest.raises(InputError, match=message):
        step_of(times)


def rows_of(places, starts=(0,), columns=("a", "b")):
    places = np.array(places)
    first = np.isin(np.arange(len(places)), starts)
    times = HOURS[places].astype("datetime64[ns]")
    step = find_step(HOURS.astype("datetime64[ns]"), np.arange(len(HOURS)) == 0, str)[0]
    return Rows(
        np.arange(len(places)), first, places, times, step, list(columns), "t", lambda r: f"row {r}", lambda r: ""
    )


VALUES = np.array([[NAN, 5], [1, NAN], [NAN, NAN], [4, 8], [5, NAN], [NAN, 9]])


def test_nothing_missing_changes_nothing():
    values = np.arange(12.0).reshape(6, 2)
    treated = treat(values, rows_of(range(6)), "refuse")
    assert treated.values is values
    assert (treated.starts.tolist(), treated.told) == ([0, 6], [])


def test_what_is_missing_is_refused_with_its_places():
    with pytest.raises(InputError) as error:
        treat(VALUES, rows_of([0, 1, 2, 5, 6, 7]), "refuse")
    assert str(error.value) == (
        "t: 2 steps of 1 hour are missing: 2 after row 2; column 'a' has no number in 3 of 6 rows: "
        "row 0, row 2, row 5; column 'b' has no number in 3 of 6 rows, at most 2 in a row: row 1, row 4; "
        "expected none missing, or --missing interpolate, forward or drop (or other columns: --columns)"
    )


@pytest.mark.parametrize("block", [2, 1 << 20])
def test_straight_lines_between_neighbours_in_time(monkeypatch, block):
    monkeypatch.setattr(gaps, "BLOCK", block)
    treated = treat(VALUES, rows_of([0, 1, 2, 5, 6, 7]), "interpolate")
    assert treated.values.tolist() == pytest.approx(
        np.array([[1, 5.6], [1.75, 6.2], [2.5, 6.8], [3.25, 7.4], [4, 8], [5, 8.5]])
    )
    assert treated.times.tolist() == HOURS[1:7].astype("datetime64[ns]").tolist()
    assert treated.starts.tolist() == [0, 6]
    assert treated.told[-1] == "2 rows before the first or after the last known values left out"


def test_the_last_known_value_repeated():
    treated = treat(VALUES, rows_of([0, 1, 2, 5, 6, 7]), "forward")
    assert treated.values.tolist() == [[1, 5], [1, 5], [1, 5], [1, 5], [4, 8], [5, 8], [5, 9]]
    assert treated.times.tolist() == HOURS[1:8].astype("datetime64[ns]").tolist()


def test_dropped_rows_break_the_series():
    values = np.array([[0, 0], [1, 1], [2, NAN], [3, 3], [4, 4], [5, 5.0]])
    treated = treat(values, rows_of([0, 1, 2, 3, 6, 7]), "drop")
    assert treated.values.tolist() == [[0, 0], [1, 1], [3, 3], [4, 4], [5, 5]]
    assert treated.starts.tolist() == [0, 2, 3, 5]
    assert treated.rows.tolist() == [0, 3, 4]
    assert treated.told[-1] == "1 rows dropped; windows don't cross the breaks"


@pytest.mark.parametrize("how", ["interpolate", "forward"])
def test_nothing_is_filled_from_another_series(how):
    values = np.array([[1, 1], [NAN, 2], [NAN, 3], [4, 4.0]])
    treated = treat(values, rows_of([0, 1, 0, 1], (0, 2)), how)
    first = [[1, 1]] if how == "interpolate" else [[1, 1], [1, 2]]
    assert treated.values.tolist() == [*first, [4, 4]]
    assert treated.starts.tolist() == [0, len(first), len(first) + 1]


def test_a_series_without_a_value_is_refused():
    with pytest.raises(InputError, match="nothing is left between the first and the last known"):
        treat(np.array([[1, NAN], [2, NAN]]), rows_of([0, 1]), "interpolate")


def test_a_time_that_is_far_off_is_not_filled_up():
    with pytest.raises(InputError, match="97 steps of 1 hour are missing: 97 after row 2: more than there are rows"):
        treat(np.ones((4, 2)), rows_of([0, 1, 2, 100]), "interpolate")


def test_values_in_a_file_give_the_same(monkeypatch):
    values = np.where(np.random.default_rng(0).random((200, 2)) < 0.2, NAN, np.arange(400.0).reshape(200, 2))
    rows = rows_of(range(200))
    for how in ("interpolate", "forward", "drop"):
        expected = treat(values, rows, how)
        with monkeypatch.context() as patch:
            patch.setattr(files, "IN_MEMORY", 100)
            patch.setattr(gaps, "BLOCK", 7)
            found = treat(values, rows, how)
        assert isinstance(found.values, np.memmap)
        assert np.array_equal(found.values, expected.values)
        assert found.starts.tolist() == expected.starts.tolist()
