"""pytest-benchmark: one training step at each size, of our tiers and of torch.nn.LSTM where it is installed.

pytest-benchmark runs its cases one after the other; ratios, which need interleaving, come from compare_torch.py.
"""

import pytest

from benchmarks.grid import SIZES, disagreement, inputs, our_step, torch_step
from gpu_lstm.backend import choose
from gpu_lstm.recurrence import runnable_tiers


def name(size):
    return "T{}-B{}-D{}-H{}".format(*size)


@pytest.mark.parametrize("tier", runnable_tiers(choose("numpy")))
@pytest.mark.parametrize("size", SIZES, ids=name)
def test_gpu_lstm_step(benchmark, size, tier):
    benchmark.group = name(size)
    x, dy = inputs(size)
    result = benchmark.pedantic(our_step(size, x, dy, tier), rounds=5, warmup_rounds=1)
    assert disagreement(result, our_step(size, x, dy, "reference")()) < 1e-4


@pytest.mark.parametrize("size", SIZES, ids=name)
def test_torch_step(benchmark, size):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    benchmark.group = name(size)
    x, dy = inputs(size)
    result = benchmark.pedantic(torch_step(size, x, dy), rounds=5, warmup_rounds=1)
    assert disagreement(our_step(size, x, dy, "reference")(), result) < 1e-4
