"""Ranks with a GPU each: NCCL through CuPy's binding, each rank a thread with a device of its own."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gpu_lstm.backend import CupyBackend
from gpu_lstm.errors import BackendError
from gpu_lstm.models import LanguageModel
from gpu_lstm.parallel import NCCL
from gpu_lstm.training import Settings, Training
from gpu_lstm.training.tasks import TextTask
from tests.device.support import needs_machine
from tests.ranks import Meeting, Threads

pytestmark = needs_machine


def on_ranks(work, devices=(0, 1)):
    """What `work(communicator, backend)` gives on each rank."""
    size = len(devices)
    meeting = Meeting(size)

    def rank(number):
        backend = CupyBackend(devices[number])
        return work(NCCL(Threads(meeting, number), backend), backend)

    with ThreadPoolExecutor(size) as pool:
        return [each.result(60) for each in [pool.submit(rank, number) for number in range(size)]]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_rows_are_exchanged_and_joined(dtype):
    rows = np.arange(2 * 2 * 5).reshape(2, 2, 5).astype(dtype)

    def work(comm, backend):
        assert not comm.on_host and (comm.size, comm.local_size) == (2, 2)
        mine = backend.asarray(rows[comm.rank])
        arrived, joined = comm.exchange(mine), comm.join(mine[1])
        assert arrived in backend and joined in backend
        return backend.to_numpy(arrived), backend.to_numpy(joined), backend.to_numpy(mine)

    for rank, (arrived, joined, mine) in enumerate(on_ranks(work)):
        assert (arrived == rows[:, rank]).all()
        assert (joined == rows[:, 1]).all()
        assert (mine == rows[rank]).all()


def test_views_with_gaps_and_nothing_at_all():
    rows = np.arange(60.0).reshape(2, 10, 3)

    def work(comm, backend):
        gaps = backend.asarray(rows[comm.rank])[::5]
        nothing = comm.exchange(backend.asarray(np.zeros((2, 0)))), comm.join(backend.asarray(np.zeros(0)))
        assert [part.shape for part in nothing] == [(2, 0), (2, 0)]
        return backend.to_numpy(comm.exchange(gaps))

    for rank, arrived in enumerate(on_ranks(work)):
        assert (arrived == rows[:, ::5][:, rank]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_are_in_place_and_the_same_on_all(dtype):
    parts = np.random.default_rng(0).standard_normal((2, 7, 3)).astype(dtype)

    def work(comm, backend):
        array = backend.asarray(parts[comm.rank])
        assert comm.sum(array) is None
        return backend.to_numpy(array)

    first, second = on_ranks(work)
    assert (first == second).all()
    assert np.allclose(first, parts.sum(axis=0))


def test_what_is_no_array_goes_through_the_host():
    def work(comm, backend):
        return comm.gather(f"rank {comm.rank}"), comm.broadcast(comm.rank), comm.barrier()

    found = on_ranks(work)
    assert found == [(["rank 0", "rank 1"], 0, None)] * 2


def test_two_ranks_on_one_device_are_refused():
    with pytest.raises(BackendError, match=r"NCCL can't connect rank . of 2 on cupy:0: .*one device; expected a GPU"):
        on_ranks(lambda comm, backend: comm.join(backend.asarray(np.zeros(3))), devices=(0, 0))


def test_calls_that_differ_between_ranks_are_an_error_and_no_hang(capfd):
    def work(comm, backend):
        comm.join(backend.asarray(np.zeros(3 + comm.rank)))

    with pytest.raises(Exception, match="wanted .* bytes, and came"):
        on_ranks(work)


@pytest.mark.parametrize("ordered", [True, False])
def test_two_devices_train_to_the_bits_of_one(ordered):
    tokens = np.random.default_rng(0).integers(0, 7, 200)

    def train(comm, backend):
        if comm is not None:
            comm.ordered = ordered
        model = LanguageModel(7, 3, 4, backend=backend, tier="reference")
        settings = Settings(epochs=1, learning_rate=0.01, validations=0, shares=2)
        task = TextTask(model, tokens, batch=4, length=6, validation=0.2, seed=0)
        Training(task, settings, parallel=comm).go(lambda event: None)
        return {name: backend.to_numpy(array) for name, array in model.params.items()}

    alone = train(None, CupyBackend(0))
    for rank in on_ranks(train):
        for name, array in alone.items():
            if ordered:
                assert (rank[name] == array).all(), name
            assert np.allclose(rank[name], array, atol=1e-4), name
