"""Stretches of series that nothing looks across: where shares end, windows, what is known before a row."""

import numpy as np

from gpu_lstm.data.series import Series

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
