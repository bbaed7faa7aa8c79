"""The step of a series: in words, its cycles, and what follows."""

import numpy as np
import pytest

from gpu_lstm.data.clock import DAY, Step, span

HOUR = DAY // 24


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Step(HOUR), "every hour"),
        (Step(HOUR // 4), "every 15 minutes"),
        (Step(DAY), "every day"),
        (Step(7 * DAY), "every week"),
        (Step(2 * DAY), "every 2 days"),
        (Step(7_500_000_000), "every 7500 milliseconds"),
        (Step(1_000), "every 1e-06 seconds"),
        (Step(1, "months"), "every month"),
        (Step(3, "months"), "every quarter"),
        (Step(12, "months"), "every year"),
        (Step(2, "months"), "every 2 months"),
        (Step(1, "business days"), "every business day"),
    ],
)
def test_a_step_in_words(step, words):
    assert str(step) == words.replace("7500", "7,500")


def test_a_length_of_time_in_words():
    assert [span(n) for n in (DAY, 3 * HOUR, 90 * 10**9, 10**9)] == ["1 day", "3 hours", "90 seconds", "1 second"]


@pytest.mark.parametrize(
    ("step", "last", "following"),
    [
        (Step(HOUR), "2024-12-31T23:00", ["2025-01-01T00:00", "2025-01-01T01:00"]),
        (Step(1, "months", 31), "2024-01-31", ["2024-02-29", "2024-03-31", "2024-04-30"]),
        (Step(1, "months", 30), "2023-02-28T06:00", ["2023-03-30T06:00", "2023-04-30T06:00"]),
        (Step(1, "months", 1), "2023-12-01", ["2024-01-01", "2024-02-01"]),
        (Step(3, "months", 31), "2023-09-30", ["2023-12-31", "2024-03-31"]),
        (Step(12, "months", 29), "2024-02-29", ["2025-02-28", "2026-02-28", "2027-02-28", "2028-02-29"]),
        (Step(1, "business days"), "2024-03-07T09:30", ["2024-03-08T09:30", "2024-03-11T09:30", "2024-03-12T09:30"]),
    ],
)
def test_the_future_continues_the_step(step, last, following):
    found = step.after(np.datetime64(last, "ns"), len(following))
    assert found.dtype == "datetime64[ns]"
    assert found.tolist() == np.array(following, "datetime64[ns]").tolist()


def test_cycles_are_those_longer_than_a_step():
    assert Step(HOUR).cycles() == {"day": 24, "week": 168, "year": pytest.approx(8765.82)}
    assert Step(DAY).cycles() == {"week": 7, "year": 365.2425}
    assert Step(7 * DAY).cycles() == {"year": pytest.approx(52.1775)}
    assert Step(1, "months").cycles() == {"year": 12}
    assert Step(12, "months").cycles() == {}
    assert Step(1, "business days").cycles() == {"week": 5, "year": pytest.approx(260.8875)}
