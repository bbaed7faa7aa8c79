"""Memory of large NumPy arrays: used again when it is free, and never before."""

import threading

import numpy as np
import pytest

from gpu_lstm import LSTM
from gpu_lstm.native import pool
from gpu_lstm.native.pool import ALIGNMENT, POOL, SMALLEST, Pool
from tests.support import NUMPY

COUNT = SMALLEST


def address_of(memory, shape, dtype="float32"):
    """Where an array lies that is gone again; pytest would keep one that is made within an assert."""
    return memory.empty(shape, dtype).ctypes.data


@pytest.fixture
def memory():
    return Pool()


def test_an_array_like_any_other(memory):
    for shape in ((), (3,), (0, 5), (COUNT, 2)):
        array = memory.empty(shape, "float32")
        array[...] = 1
        assert array.shape == shape
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        assert np.all(array == 1)


def test_large_arrays_start_on_a_cache_line(memory):
    assert all(address_of(memory, (COUNT + n,)) % ALIGNMENT == 0 for n in range(5))


def test_memory_comes_back_only_with_the_last_view(memory):
    array = memory.empty((4, COUNT), "float32")
    address, view = array.ctypes.data, array[1:, ::2].T
    del array
    assert memory.idle() == 0
    other = memory.empty((4, COUNT), "float32")
    assert other.ctypes.data != address
    del view
    assert address_of(memory, (4, COUNT)) == address
    assert address_of(memory, (1, COUNT)) == address, "large enough"


def test_a_new_block_takes_the_place_of_others(memory):
    small = [memory.empty((COUNT,), "float32") for _ in range(4)]
    del small
    assert memory.idle() == 4 * COUNT * 4
    large = memory.empty((3, COUNT), "float32")
    assert memory.idle() == COUNT * 4
    del large
    tiny = memory.empty((COUNT // 4,), "float32")
    assert memory.idle() == 3 * COUNT * 4, "the smallest that fits, if not more than four times too large"
    del tiny


def test_views_of_other_libraries_keep_it_too(memory):
    array = memory.empty((COUNT,), "float32")
    other = memoryview(array)
    del array
    assert memory.idle() == 0
    other.release()
    assert memory.idle() == COUNT * 4


def test_idle_memory_is_bounded(memory, monkeypatch):
    monkeypatch.setattr(pool, "LARGEST_IDLE", 3 * COUNT * 4)
    arrays = [memory.empty((COUNT,), "float32") for _ in range(10)]
    assert memory.idle() == 0
    del arrays
    assert memory.idle() == 3 * COUNT * 4
    memory.clear()
    assert memory.idle() == 0


def test_threads_never_share_a_block(memory):
    mixed = []

    def work(number):
        for _ in range(200):
            array = memory.empty((COUNT,), "float32")
            array[...] = number
            copy = memory.empty((COUNT,), "float32")
            copy[...] = array
            if not (np.all(copy == number) and np.all(array == number)):
                mixed.append(number)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not mixed


def test_results_of_a_layer_outlive_the_next_call():
    lstm = LSTM(64, 64, backend=NUMPY)
    x = np.random.default_rng(0).standard_normal((64, 16, 64), dtype=np.float32)
    y, _, tape = lstm.forward(x)
    kept = y.copy()
    dx, _, gradients = lstm.backward(tape, y)
    kept_gradients = {name: gradient.copy() for name, gradient in gradients.items()} | {"dx": dx.copy()}
    lstm.backward(lstm.forward(-x)[2], y)
    np.testing.assert_array_equal(y, kept)
    for name, gradient in {**gradients, "dx": dx}.items():
        np.testing.assert_array_equal(gradient, kept_gradients[name])


def test_the_backend_takes_its_arrays_from_the_pool():
    POOL.clear()
    address = address_of(NUMPY, (COUNT,))
    assert POOL.idle() >= COUNT * 4
    assert address_of(NUMPY, (COUNT,)) == address
