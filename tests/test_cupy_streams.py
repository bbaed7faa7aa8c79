"""The second stream of the CuPy backend: who waits for whom, on streams that note it, and whose memory is whose."""

import sys

import numpy as np
import pytest

from gpu_lstm import LSTM
from gpu_lstm.backend import CupyBackend
from gpu_lstm.layers import lstm
from gpu_lstm.recurrence import sequence_cuda
from tests import test_cupy_backend
from tests.emulated import needs_emulator
from tests.support import NUMPY, loss_and_gradients, problem, relative_error
from tests.test_beside import by_two

cupy = test_cupy_backend.cupy  # the fixture


class Event:
    """cupy.cuda.Event"""

    def __init__(self, disable_timing=False):
        assert disable_timing
        self.known = set()


class Stream:
    """cupy.cuda.Stream: what is issued to it follows whatever it `known`s."""

    current: list["Stream"]

    def __init__(self, non_blocking=False):
        self.known, self.own = set(), []
        self.non_blocking = non_blocking

    def record(self, event):
        event.known = set(self.known)
        return event

    def wait_event(self, event):
        self.known |= event.known

    def __enter__(self):
        Stream.current.append(self)
        return self

    def __exit__(self, *error):
        assert Stream.current.pop() is self
        # Memory of a job goes to whoever asks next on that stream.
        for array in self.own:
            array[...] = np.nan if array.dtype.kind not in "iub" else 77
        self.own = []


class Cublas(test_cupy_backend.Cublas):
    """With a handle more: 7 is the main stream's, 8 the other's."""

    made, destroyed, products = 0, 0, 0

    def create(self):
        self.made += 1
        return 8

    def destroy(self, handle):
        self.destroyed += 1

    def gemmEx(self, handle, *arguments):
        beside = len(Stream.current) > 1
        assert handle == (8 if beside else 7), "a handle is for one stream only"
        self.products += beside
        super().gemmEx(7, *arguments)


@pytest.fixture
def streams(cupy, monkeypatch):
    """The fake CuPy with streams, as a function that issues work and tells what it follows."""
    monkeypatch.setattr(sys.modules["cupy_backends.cuda.libs"], "cublas", Cublas())
    monkeypatch.setattr(Stream, "current", [Stream()], raising=False)
    cupy.cuda.Stream, cupy.cuda.Event = Stream, Event
    cupy.cuda.get_current_stream = lambda: Stream.current[-1]
    plain = cupy.__getattr__

    def noting(name):
        """Arrays made on the other stream are that stream's."""
        function = plain(name)
        if not callable(function) or isinstance(function, type):
            return function

        def call(*args, **kwargs):
            array = function(*args, **kwargs)
            if isinstance(array, np.ndarray) and len(Stream.current) > 1:
                given = [a for a in (*args, *kwargs.values()) if isinstance(a, np.ndarray)]
                if not any(np.may_share_memory(array, other) for other in given):
                    Stream.current[-1].own.append(array)
            return array

        return call

    cupy.__getattr__ = noting
    follows = {}

    def issue(name):
        stream = Stream.current[-1]
        follows[name] = frozenset(stream.known)
        stream.known.add(name)
        return name

    issue.follows = follows
    return issue


def run(backend, issue):
    """What each of some launches follows."""
    issue("before")
    result = backend.beside(lambda: issue("recurrence"), [lambda: issue("job"), lambda: issue("another")])
    assert result == "recurrence"
    assert list(issue.follows) == ["before", "recurrence", "job", "another"]  # the recurrence gets its blocks first
    issue("after")
    return issue.follows


def as_wanted(follows):
    """Both after what was before, neither after the other, both before what comes after."""
    return follows == {
        "before": frozenset(),
        "recurrence": {"before"},
        "job": {"before"},
        "another": {"before", "job"},
        "after": {"before", "recurrence", "job", "another"},
    }


def test_a_job_follows_what_was_before_and_is_followed_by_what_comes_after(streams):
    backend = CupyBackend()
    assert as_wanted(run(backend, streams))
    assert backend._side.stream.non_blocking  # a blocking one waits for the default stream
    first = backend._side
    backend.beside(lambda: None, [lambda: None])
    assert backend._side is first
    assert backend._cublas.made == 1


@pytest.mark.parametrize("missing", [0, 1], ids=["the other stream's wait", "the main stream's wait"])
def test_a_missing_wait_is_seen(streams, monkeypatch, missing):
    waits = []

    def wait_event(self, event):
        waits.append(self)
        if len(waits) - 1 != missing:
            self.known |= event.known

    monkeypatch.setattr(Stream, "wait_event", wait_event)
    assert not as_wanted(run(CupyBackend(), streams))
    assert len(waits) == 2


def test_without_jobs_there_is_no_other_stream(streams):
    backend = CupyBackend()
    assert backend.beside(lambda: 3, []) == 3
    assert backend._side is None


def test_after_a_job_that_failed_both_streams_are_as_before(streams):
    backend = CupyBackend()

    def fails():
        streams("job")
        raise ValueError("no memory")

    with pytest.raises(ValueError, match="no memory"):
        backend.beside(lambda: streams("recurrence"), [fails])
    streams("after")
    assert streams.follows["after"] == {"recurrence", "job"}
    assert backend._own.handle is None
    assert len(Stream.current) == 1


def test_the_handle_ends_with_the_stream(streams):
    backend = CupyBackend()
    backend.beside(lambda: None, [lambda: None])
    cublas = backend._cublas
    del backend
    assert cublas.destroyed == 1


@needs_emulator
@pytest.mark.parametrize("recompute", [False, True], ids=["", "recompute"])
@pytest.mark.parametrize("lengths", [None, [3, 6, 1]], ids=["full", "lengths"])
def test_an_lstm_gets_the_same_bits_with_products_on_the_other_stream(streams, monkeypatch, lengths, recompute):
    monkeypatch.setattr(lstm, "segments", by_two)
    options = {"num_layers": 2, "bidirectional": True, "dtype": "float64", "tier": "sequence", "recompute": recompute}
    oracle = LSTM(3, 8, backend=NUMPY, **options | {"tier": "reference"})
    data = problem(oracle, 6, 3)
    found = []
    for room in (False, True):
        monkeypatch.setattr(sequence_cuda, "room_beside", lambda *_, room=room: room)
        backend = CupyBackend()
        one = LSTM(3, 8, backend=backend, **options)
        for name, param in oracle.params.items():
            one.params[name][...] = backend.asarray(param, "float64")
        found.append(loss_and_gradients(one, data, lengths)[1])
        assert (backend._cublas.products > 0) == room
    expected = loss_and_gradients(oracle, data, lengths)[1]
    for name, array in expected.items():
        assert found[0][name].tobytes() == found[1][name].tobytes(), name
        assert relative_error(found[1][name], array) < 1e-12, name


@needs_emulator
def test_memory_of_a_job_that_is_used_after_it_is_seen(streams, monkeypatch):
    monkeypatch.setattr(lstm, "segments", by_two)
    monkeypatch.setattr(sequence_cuda, "room_beside", lambda *_: True)

    def keep(gradients, found, first):
        for name, gradient in found.items():
            gradients[name] = gradient if first else gradients[name] + gradient

    monkeypatch.setattr(lstm, "_add_up", keep)
    one = LSTM(3, 8, 2, bidirectional=True, backend=CupyBackend(), dtype="float64", tier="sequence")
    gradients = loss_and_gradients(one, problem(one, 6, 3))[1]
    assert np.isnan(gradients["weight_hh_l0"]).any()
