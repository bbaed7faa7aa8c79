"""pytest-benchmark: one training step at each standard size, of our tiers and of torch.nn.LSTM where it is installed.

pytest-benchmark runs its cases one after the other; ratios, which need sides in turns, come from compare_torch.py and
from `gpu-lstm bench`.
"""

import pytest

from gpu_lstm.backend import choose
from gpu_lstm.bench.grid import STANDARD
from gpu_lstm.bench.peers import torch_lstm
from gpu_lstm.bench.problem import Problem
from gpu_lstm.recurrence import runnable_tiers

sizes = pytest.mark.parametrize("size", STANDARD, ids=lambda size: "T{}-B{}-D{}-H{}".format(*size))


def measure(benchmark, size, make):
    benchmark.group = "training step, T{}-B{}-D{}-H{}".format(*size)
    problem = Problem(size)
    result = benchmark.pedantic(make(problem), rounds=5, warmup_rounds=1)
    assert problem.right(problem.error(result))


@pytest.mark.parametrize("tier", runnable_tiers(choose("numpy")))
@sizes
def test_gpu_lstm_step(benchmark, size, tier):
    measure(benchmark, size, lambda problem: problem.our_step(tier))


@sizes
def test_torch_step(benchmark, size):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    measure(benchmark, size, torch_lstm)
