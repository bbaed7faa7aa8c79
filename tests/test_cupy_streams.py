"""The second stream of the CuPy backend: who waits for whom."""

import types

import pytest

from gpu_lstm import LSTM
from gpu_lstm.backend.cupy_backend import Side
from gpu_lstm.layers import schedule
from tests.device.support import Turns
from tests.gpu import Gpu, on_the_machine, room_beside
from tests.support import NUMPY, loss_and_gradients, problem, relative_error
from tests.test_beside import by_two

OPTIONS = {"num_layers": 2, "bidirectional": True, "dtype": "float64", "tier": "sequence"}


def found(backend, lengths=None, **options):
    """Gradients of an LSTM in segments of two steps, with products beside them."""
    oracle = LSTM(3, 8, backend=NUMPY, **OPTIONS | {"tier": "reference"})
    one = LSTM(3, 8, backend=backend, **OPTIONS, **options)
    for name, param in oracle.params.items():
        one.params[name][...] = backend.asarray(param, "float64")
    data = problem(oracle, 6, 3)
    return loss_and_gradients(one, data, lengths)[1], loss_and_gradients(oracle, data, lengths)[1]


def differs(backend, expected):
    """Whether some order of the two streams gives other bits."""
    for seed in range(12):
        with Turns(seed):
            gradients, _ = found(backend)
        if any(gradients[name].tobytes() != array.tobytes() for name, array in expected.items()):
            return True
    return False


@pytest.fixture
def room(monkeypatch):
    """Products go beside the recurrence, their arrays in CuPy's pool: freeing other memory waits for all streams."""
    monkeypatch.setattr(schedule, "segments", by_two)
    room_beside(monkeypatch)
    cuda = Gpu().xp.cuda
    with cuda.using_allocator(cuda.MemoryPool().malloc):
        yield


@pytest.mark.gpu
@pytest.mark.parametrize("recompute", [False, True], ids=["", "recompute"])
@pytest.mark.parametrize("lengths", [None, [3, 6, 1]], ids=["full", "lengths"])
def test_an_lstm_gets_the_same_bits_with_products_on_the_other_stream(room, monkeypatch, lengths, recompute):
    backend = Gpu()
    beside, right = found(backend, lengths, recompute=recompute)
    assert backend._side
    room_beside(monkeypatch, False)
    alone = Gpu()
    apart, _ = found(alone, lengths, recompute=recompute)
    assert alone._side is None
    for name, array in right.items():
        assert beside[name].tobytes() == apart[name].tobytes(), name
        assert relative_error(beside[name], array) < 1e-12, name


@on_the_machine
def test_any_order_of_the_streams_gives_the_same_bits(room):
    assert not differs(Gpu(), found(Gpu())[0])


@on_the_machine
@pytest.mark.parametrize("missing", [0, 1], ids=["the other stream's wait", "the main stream's wait"])
def test_a_missing_wait_is_seen(room, monkeypatch, missing):
    backend = Gpu()
    expected, _ = found(backend)
    waits, wait = [], backend.xp.cuda.Stream.wait_event

    def wait_event(self, event):
        waits.append(self)
        if len(waits) % 2 == missing:
            wait(self, event)

    monkeypatch.setattr(backend.xp.cuda.Stream, "wait_event", wait_event)
    assert differs(backend, expected)


def test_without_jobs_there_is_no_other_stream(cuda):
    assert cuda.beside(lambda: 3, []) == 3
    assert cuda._side is None


def test_after_a_job_that_failed_both_streams_are_as_before(cuda):
    def fails():
        raise ValueError("no memory")

    before = cuda.xp.cuda.get_current_stream()
    with pytest.raises(ValueError, match="no memory"):
        cuda.beside(lambda: None, [fails])
    assert cuda._own.handle is None
    assert cuda.xp.cuda.get_current_stream() == before
    first = cuda._side
    cuda.beside(lambda: None, [lambda: None])
    assert cuda._side is first


def test_the_stream_waits_for_no_other_and_the_handle_ends_with_it():
    made, destroyed = [], []
    cuda = types.SimpleNamespace(Stream=lambda **options: made.append(options), Event=dict)
    side = Side(types.SimpleNamespace(cuda=cuda), types.SimpleNamespace(create=lambda: 8, destroy=destroyed.append))
    assert made == [{"non_blocking": True}]  # a blocking one waits for the default stream
    del side
    assert destroyed == [8]
