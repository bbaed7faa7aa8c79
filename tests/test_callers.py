"""Threads of one process at once: each gets, to the bit, what it gets alone, also with a model that they share.

With the GIL threads change often here; a free-threaded Python runs the same at the same time.
"""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gpu_lstm import LSTM, LanguageModel, Linear, Pool, compose, fit
from gpu_lstm.models import quantize

CALLERS = 4


@pytest.fixture(autouse=True)
def often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def at_once(work):
    """What `work` gives to each of some threads, which begin together; what one raises is raised."""
    begin = threading.Barrier(CALLERS)

    def call(caller):
        begin.wait()
        return work(caller)

    with ThreadPoolExecutor(CALLERS) as pool:
        return list(pool.map(call, range(CALLERS)))


def trained(caller):
    rng = np.random.default_rng(caller)
    x = rng.standard_normal((40, 9, 3))
    parts = {"lstm": LSTM(3, 16, num_layers=2, dropout=0.1, seed=caller), "last": Pool("last"), "head": Linear(16, 1)}
    model = compose(**parts)
    losses = fit(model, (x, x.sum(axis=(1, 2))), "mse", epochs=4, batch_size=8, validation=0.2, seed=caller).losses
    return losses, {name: np.asarray(array).tobytes() for name, array in model.params.items()}


def test_each_trains_a_model():
    alone = [trained(caller) for caller in range(CALLERS)]
    assert at_once(trained) == alone


@pytest.mark.parametrize("kind", ["float32", "frozen", "int8", "bfloat16", "rounded"])
def test_they_share_one_for_inference(kind):
    x = np.random.default_rng(0).standard_normal((70, 3, 24), dtype=np.float32)

    def made():
        lstm = LSTM(24, 40, parallel="rounded" if kind == "rounded" else False)
        if kind == "frozen":
            lstm.freeze()
        return quantize(lstm, kind) if kind in ("int8", "bfloat16") else lstm

    alone = made().forward(x, keep=False)[0].tobytes()
    for _ in range(8):  # nothing is packed or kept yet
        shared = made()
        assert at_once(lambda _, lstm=shared: lstm.forward(x, keep=False)[0].tobytes()) == [alone] * CALLERS


def test_they_share_one_to_backpropagate():
    lstm, x = LSTM(24, 40, num_layers=2), np.random.default_rng(0).standard_normal((20, 70, 24), dtype=np.float32)

    def gradients(_):
        y, _, tape = lstm.forward(x)
        return {name: array.tobytes() for name, array in lstm.backward(tape, y)[2].items()}

    alone = gradients(0)
    for _ in range(4):
        assert at_once(gradients) == [alone] * CALLERS


def test_they_share_one_that_draws_text():
    model = LanguageModel(11, 8, 24)
    alone = [[int(one) for one in model.sample(np.array([1, 2]), 50, seed=seed)] for seed in range(CALLERS)]
    assert at_once(lambda seed: [int(one) for one in model.sample(np.array([1, 2]), 50, seed=seed)]) == alone
