"""A few hundred calls with odd arrays; the recorded 10,000 are those of `python -m tests.soak.calls`."""

from collections import Counter

from tests.soak import calls


def test_an_odd_array_gives_the_right_numbers_or_our_own_error():
    counts = Counter()
    assert calls.calls(0, 300, counts) == []
    assert counts["right"] > 120
    assert counts["refused"] > 60
