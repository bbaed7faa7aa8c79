"""Grids, clocks, turns, spread, threads."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gpu_lstm.bench import grid, method, threads
from gpu_lstm.errors import InputError
from tests.support import NUMPY


def test_small_and_full_have_three_or_more_points_on_every_axis():
    for name in ("small", "full"):
        sizes, rounds = grid.named(name)
        assert rounds >= 5
        assert len(set(sizes)) == len(sizes)
        for axis in "TBH":
            assert len(grid.line(sizes, axis)) >= 3
    assert set(grid.STANDARD) <= set(grid.named("full")[0])
    assert grid.named("standard")[0] == grid.STANDARD
    assert grid.named("odd") == (grid.ODD, 9)


def test_a_grid_of_axes_is_their_product():
    sizes, _ = grid.named("B=1,32,T=64,H=8,16")
    assert sizes == [(64, 1, 8, 8), (64, 1, 16, 16), (64, 32, 8, 8), (64, 32, 16, 16)]
    assert grid.named("H=16,D=4")[0] == [(32, 32, 4, 16)]
    assert grid.named("T=8")[0] == [(8, 32, 128, 128)]


@pytest.mark.parametrize("text", ["", "large", "B=", "B=0", "B=-1", "B=1.5", "1,2", "X=3", "B=1,B=2", "B=1;H=2"])
def test_other_grids_are_refused(text):
    with pytest.raises(InputError, match="grid is"):
        grid.named(text)


def test_line_takes_points_that_differ_in_one_axis_alone():
    sizes = grid.named("small")[0]
    assert [size[3] for size in grid.line(sizes, "H")] == [64, 128, 256]
    assert {size[:2] for size in grid.line(sizes, "H")} == {(32, 32)}
    assert [size[1] for size in grid.line(sizes, "B")] == [8, 32, 128]
    assert [size[0] for size in grid.line(sizes, "T")] == [16, 32, 64]


class Silent(method.Patience):
    def wait(self):
        self.waits += 1


def test_sides_take_turns_and_each_timed_step_follows_an_untimed_one(monkeypatch):
    monkeypatch.setattr(method, "WARM", 0)
    monkeypatch.setattr(method, "SHORT", 0)
    calls = []
    steps = {name: lambda name=name: calls.append(name) for name in "ab"}
    patience = Silent()
    times = method.interleave(steps, 3, patience)
    assert calls == list("aabb") * 3
    assert {side: len(seconds) for side, seconds in times.items()} == {"a": 3, "b": 3}
    assert patience.waits == 6


def test_what_a_wait_has_cooled_is_warm_again():
    calls = []
    (times,) = method.interleave({"a": lambda: calls.append(time.perf_counter())}, 1, Silent()).values()
    assert calls[-1] - calls[0] >= method.WARM
    assert len(times) == 1


def test_there_is_one_round_at_least_and_no_more_than_enough():
    times = method.interleave({"a": lambda: None}, 9, method.Patience(0), enough=lambda: True)
    assert len(times["a"]) == 1


def test_each_side_is_timed_by_its_own_clock():
    clock = SimpleNamespace(kind="fake", seconds=lambda step: 42.0)
    times = method.interleave({"a": lambda: None, "b": lambda: None}, 2, Silent(), {"b": clock})
    assert times["b"] == [42.0, 42.0]
    assert max(times["a"]) < 42


def test_short_steps_are_timed_again_and_their_median_is_taken(monkeypatch):
    monkeypatch.setattr(method, "SHORT", 0.02)
    naps = iter([0.001, 0.012, *[0.002] * 99])
    taken = []

    def step():
        taken.append(next(naps))
        time.sleep(taken[-1])

    assert 0.002 <= method.WallClock().seconds(step) < 0.012
    assert len(taken) > 2 and sum(taken[:-1]) < 0.02


def test_wall_clock_waits_for_the_device_before_and_after(monkeypatch):
    monkeypatch.setattr(method, "SHORT", 0)
    calls = []
    clock = method.WallClock(lambda: calls.append("synchronize"))
    assert clock.seconds(lambda: calls.append("step")) >= 0
    assert calls == ["synchronize", "step", "synchronize"]


class FakeCuda:
    """CUDA's events, in the order of what is asked of them."""

    def __init__(self):
        self.calls = []
        self.now = 0.0
        fake = self

        class Event:
            def record(self):
                fake.now += 5.0
                self.at = fake.now
                fake.calls.append("record")

            def synchronize(self):
                fake.calls.append("synchronize")

        self.Event = Event
        self.get_elapsed_time = lambda begin, end: end.at - begin.at
        self.Device = lambda: SimpleNamespace(id=0)
        self.runtime = SimpleNamespace(getDeviceProperties=lambda number: {"l2CacheSize": 1000})
        self.nvtx = SimpleNamespace(
            RangePush=lambda name: self.calls.append(f"push {name}"), RangePop=lambda: self.calls.append("pop")
        )


def test_device_clock_overwrites_the_cache_then_times_between_events():
    cuda = FakeCuda()
    flushed = []

    def empty(size, dtype):
        return SimpleNamespace(fill=lambda value: (flushed.append(size), cuda.calls.append("flush")))

    clock = method.DeviceClock(SimpleNamespace(cuda=cuda, empty=empty, uint8=np.uint8))
    assert clock.seconds(lambda: cuda.calls.append("step")) == 5e-3
    assert cuda.calls == ["flush", "record", "step", "record", "synchronize"]
    assert flushed == [2000]


def test_the_clock_of_a_cpu_side_and_of_a_side_with_its_own_stream_is_the_wall():
    assert isinstance(method.clock_for(NUMPY), method.WallClock)
    gpu = SimpleNamespace(describe=lambda: {"cuda": "12"}, read=lambda: None)
    assert isinstance(method.clock_for(gpu, own_stream=True), method.WallClock)


def test_patience_ends_on_a_busy_machine_and_counts_it(monkeypatch):
    ticks = iter(range(0, 10000, 100))
    monkeypatch.setattr(method, "busy_ticks", lambda: next(ticks))
    patience = method.Patience(at_most=0.2, total=0.3)
    for _ in range(3):
        patience.wait()
    assert patience.describe() == {"waits": 3, "noisy": 3}
    assert patience.left < 0.1


def test_patience_does_not_need_the_systems_ticks(monkeypatch):
    monkeypatch.setattr(method, "busy_ticks", lambda: None)
    patience = method.Patience()
    patience.wait()
    assert patience.describe() == {"waits": 1, "noisy": 0}


def test_spread_and_ratio_by_hand():
    assert method.quartiles([4.0, 1.0, 2.0, 3.0, 5.0]) == {"median": 3.0, "low": 2.0, "high": 4.0}
    assert method.quartiles([2.0]) == {"median": 2.0, "low": 2.0, "high": 2.0}
    found = method.ratio([1.0, 2.0, 3.0, 4.0, 5.0], [6.0] * 5)
    assert found == {"ratio": 2.0, "low": 6 / 4, "high": 6 / 2}


def test_threads_are_set_by_starting_again(monkeypatch):
    started = []
    monkeypatch.setattr(os, "execv", lambda program, arguments: started.append(arguments))
    for variable in threads.VARIABLES:
        monkeypatch.setenv(variable, "7")
    threads.ensure(7, ["-m", "gpu_lstm", "bench"])
    assert started == []
    threads.ensure(3, ["-m", "gpu_lstm", "bench"])
    assert started[0][1:] == ["-m", "gpu_lstm", "bench"]
    assert all(os.environ[variable] == "3" for variable in threads.VARIABLES)
    assert threads.count() == 3


def test_all_libraries_are_held_to_avx2():
    if shutil.which("cc") is None or sys.platform != "linux":
        pytest.skip("it takes Linux and a C compiler")
    program = (
        "from gpu_lstm.native import compiled; print(compiled.instruction_set() < 2)\n"
        "from numpy._core._multiarray_umath import __cpu_features__ as found; print(not found['AVX512F'])\n"
        "import importlib.util; there = importlib.util.find_spec('torch') is not None\n"
        "if there: import torch; print(torch.backends.cpu.get_cpu_capability() != 'AVX512')\n"
    )
    root = Path(__file__).parents[1]
    environment = {name: value for name, value in os.environ.items() if name != "GPU_LSTM_COMPILED"}
    environment["PYTHONPATH"] = os.pathsep.join([str(root), *sys.path])
    command = [sys.executable, "-m", "benchmarks.as_avx2", "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root)
    if "can't hide" in result.stderr:
        pytest.skip(result.stderr.strip())
    assert set(result.stdout.split()) == {"True"}, result.stderr
