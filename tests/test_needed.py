"""Which CUDA kernels are asked for: all are in the list, and those of training are compiled ahead."""

import dataclasses
from itertools import product

import numpy as np
import pytest

from gpu_lstm import LSTM
from gpu_lstm.models import LanguageModel
from gpu_lstm.native import catalogue
from gpu_lstm.optimizers import make_optimizer
from gpu_lstm.recurrence.cuda import needed, planner
from gpu_lstm.recurrence.cuda.layout import DIRECTIONS
from tests.gpu import DTYPES, H100, HostBackend

A100 = dataclasses.replace(H100, multiprocessors=108, shared_bytes=163 * 1024, capability=80)
TURING = dataclasses.replace(H100, multiprocessors=40, shared_bytes=64 * 1024, capability=75)
DEVICES = [dataclasses.replace(H100, clusters=16), H100, A100, TURING]
NAMES = ["sm_90_clusters", "sm_90", "sm_80", "sm_75"]


class Asked(HostBackend):
    """Remembers kernels that it is asked for, and launches none."""

    def __init__(self, limits):
        super().__init__(limits=limits)
        self.asked = set()

    def kernel(self, kernel):
        self.asked.add(kernel)
        return lambda *launch: None


@pytest.fixture(autouse=True)
def any_numbers():
    """What no kernel has written to holds anything."""
    with np.errstate(all="ignore"):
        yield


@pytest.mark.parametrize("device", DEVICES, ids=NAMES)
@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != "bfloat16"])
def test_a_training_step_asks_for_kernels_that_are_compiled_ahead(device, dtype):
    backend, ahead = Asked(device), needed.of_training(device, dtype)
    model = LanguageModel(7, 8, 8, 3, 0.1, backend=backend, dtype=dtype)
    optimizer = make_optimizer("adam", backend, model.params, 0.01)
    loss, _, gradients = model.loss(np.zeros((6, 3), np.int64), seed=0)
    optimizer.update(gradients, max_norm=1.0, loss=loss)
    model.logits(np.zeros((6, 3), np.int64))
    assert {"cross_entropy", "update", "take_rows", "dropout"} <= {kernel.name for kernel in backend.asked}
    assert backend.asked <= set(ahead)
    assert set(ahead) <= set(needed.of_everything(device)) <= set(catalogue.every_kernel())
    assert all(kernel.since <= device.capability for kernel in needed.of_everything(device))


@pytest.mark.parametrize("device", DEVICES[:3], ids=NAMES[:3])
def test_plans_of_any_size_take_kernels_that_are_compiled_ahead(device):
    for dtype, direction in product(needed.DTYPES, DIRECTIONS):
        ahead = set(needed.of_training(device, dtype))
        for batch, hidden in product((1, 3, 16, 64, 256), (1, 33, 64, 250, 512, 1320)):
            problem = device, direction, batch, hidden, dtype
            found = [planner.choose(*problem), planner.choose_pair(*problem), planner.choose_layers(*problem, layers=3)]
            assert {layout.kernel for layout in found if not isinstance(layout, str)} <= ahead


@pytest.mark.parametrize("options", [{}, {"peepholes": True}, {"layer_norm": True}, {"proj_size": 4}], ids=str)
@pytest.mark.parametrize("device", [DEVICES[0], TURING], ids=["sm_90_clusters", "sm_75"])
def test_every_tier_asks_for_kernels_of_the_list(device, options):
    every = set(catalogue.every_kernel())
    for dtype, tier, hidden in product(DTYPES[:3] if device is TURING else DTYPES, ("auto", "pointwise"), (5, 8)):
        backend = Asked(device)
        lstm = LSTM(3, hidden, 2, bidirectional=True, backend=backend, dtype=dtype, tier=tier, **options)
        x = np.zeros((4, 3, 3), backend.dtype(dtype))
        for lengths in (None, [4, 2, 1]):
            y, _, tape = lstm.forward(x, lengths=lengths)
            lstm.backward(tape, y)
            lstm.forward(x, lengths=lengths, keep=False)
        assert backend.asked <= every
        assert backend.asked
