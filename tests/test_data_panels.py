"""Stretches of series that nothing looks across: where shares end, windows, what is known before a row."""

import numpy as np
import pandas as pd
import pytest

from gpu_lstm import InputError
from gpu_lstm.data.series import Series, read_series, split_by_date
from gpu_lstm.models import Forecaster
from gpu_lstm.training.comparison import compare
from gpu_lstm.training.outset import outset
from gpu_lstm.training.tasks import SeriesTask

PANEL = Series(["y"], np.arange(20.0)[:, None], starts=np.array([0, 10, 14, 20]), ids=["a", "b", "b"])


def test_one_series_is_one_stretch():
    one = Series(["y", "p", "f"], np.zeros((5, 3)), past=["p"], future=["f"])
    assert (one.starts.tolist(), one.ids, one.targets) == ([0, 5], [""], ["y"])
    assert [cut.tolist() for cut in one.cuts((0.5, 0.3))] == [[2], [4]]


def test_shares_are_of_each_series_over_all_of_its_stretches():
    train, validation = PANEL.cuts((0.5, 0.2))
    assert train.tolist() == [5, 14, 15]
    assert validation.tolist() == [7, 14, 17]


def test_windows_lie_within_a_stretch():
    assert PANEL.windows(PANEL.starts[:-1], PANEL.starts[1:], 4).tolist() == [*range(7), 10, *range(14, 17)]
    assert PANEL.windows(PANEL.starts[:-1], PANEL.cuts((0.5,))[0], 3).tolist() == [0, 1, 2, 10, 11]
    assert PANEL.windows(PANEL.starts[:-1], PANEL.starts[1:], 11).tolist() == []


def test_known_is_what_comes_before_in_the_same_stretch():
    assert PANEL.known(np.array([0, 9, 10, 13, 19])).tolist() == [0, 9, 0, 3, 5]


# -- one date for all ------------------------------------------------------------------------------------------


def days(*spans):
    """Times of series end to end, each from one day to another."""
    return np.concatenate([np.arange(a, b) for a, b in spans]).astype("datetime64[D]").astype("datetime64[ns]")


def test_series_of_the_same_time_are_split_at_one_date():
    times = days((0, 20), (5, 15), (15, 20))
    panel = Series(["y"], np.zeros((35, 1)), times=times, starts=np.array([0, 20, 30, 35]), ids=["a", "b", "b"])
    dated = split_by_date(panel, (0.5, 0.2))
    assert dated.by_date and not panel.by_date
    train, validation = dated.cuts((0.5, 0.2))
    order = np.sort(times)
    for cuts, date in ((train, order[17]), (validation, order[24])):
        for start, stop, cut in zip(panel.starts, panel.starts[1:], cuts, strict=False):
            assert (times[start:cut] < date).all() and (times[cut:stop] >= date).all()
    assert train.tolist() == [11, 26, 30]


def test_series_of_other_times_are_split_by_their_rows():
    starts, ids = np.array([0, 10, 20]), ["a", "b"]
    apart = Series(["y"], np.zeros((20, 1)), times=days((0, 10), (100, 110)), starts=starts, ids=ids)
    assert split_by_date(apart, (0.5, 0.2)) is apart
    assert [cut.tolist() for cut in apart.cuts((0.5, 0.2))] == [[5, 15], [7, 17]]
    assert split_by_date(PANEL, (0.5, 0.2)) is PANEL


# -- what was filled in ------------------------------------------------------------------------------------------


def test_what_was_filled_in_is_no_truth():
    filled = np.zeros((6, 1), bool)
    filled[[2, 3]] = True
    origins, came = Series(["y"], np.arange(6.0)[:, None], filled=filled).truth(np.array([0, 1, 2, 3]), 2)
    assert origins.tolist() == [0, 1, 3]  # all that follows 2 was missing
    np.testing.assert_array_equal(came[..., 0], [[0, 1], [1, np.nan], [np.nan, 4]])


def test_interpolated_cells_and_rows_are_marked():
    table = pd.DataFrame(
        {"day": ["2024-01-01", "2024-01-02", "2024-01-04", "2024-01-05"], "y": [1.0, np.nan, 3.0, 5.0]}
    )
    table["x"] = [1.0, 2.0, 4.0, 5.5]
    found = read_series(table, ["y", "x"], missing="interpolate")
    assert found.filled.tolist() == [[False, False], [True, False], [True, True], [False, False], [False, False]]
    assert read_series(table, ["x"], missing="drop").filled is None


def test_scores_leave_out_what_was_filled_in():
    rng = np.random.default_rng(0)
    values = np.sin(np.arange(400) / 3)[:, None] + 0.1 * rng.standard_normal((400, 1))
    filled = np.zeros((400, 1), bool)
    filled[290:296] = filled[350:356] = True
    wild = values.copy()
    wild[filled] = 100.0
    parts = (0.7, 0.1)
    model = Forecaster(**outset(Series(["y"], values), parts, 3, 16), hidden_size=4, backend="numpy")
    task = SeriesTask(model, Series(["y"], wild, filled=filled), 8, 16, parts, None, 0)
    assert task.actual is not None and np.isnan(task.actual).sum() and np.nanmax(task.actual) < 2
    assert len(task.actual) == len(task.origins)
    found = compare(model, Series(["y"], wild, filled=filled), parts, 16)
    assert np.nanmax(found.actual) < 2 and np.isfinite(found.errors("LSTM")["rmse"]).all()
    clean = compare(model, Series(["y"], values), parts, 16)
    kept = np.isin(clean.origins, found.origins)
    assert not kept.all() and np.array_equal(
        clean.actual[kept][~np.isnan(found.actual)], found.actual[~np.isnan(found.actual)]
    )
    with pytest.raises(InputError, match="all of it was filled in"):
        SeriesTask(model, Series(["y"], wild, filled=~filled), 8, 16, (0.1, 0.1), None, 0)
