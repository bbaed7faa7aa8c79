"""Training steps recorded as a graph: the same bits as without, nothing of a step baked in."""

import inspect
from functools import partial

import numpy as np
import pytest

from gpu_lstm import LSTM, BackendError, InputError
from gpu_lstm.backend.graph import Graph
from gpu_lstm.cli import main
from gpu_lstm.layers import schedule
from gpu_lstm.models import Forecaster, LanguageModel
from gpu_lstm.training import Run, Settings, Training, folder
from gpu_lstm.training.tasks import TextTask, WindowsTask
from tests.gpu import Gpu, room_beside
from tests.support import NUMPY
from tests.test_beside import by_two

pytestmark = pytest.mark.gpu


def text_task(backend, dtype="float32", tier="auto", seed=0, **options):
    """Three steps an epoch, so that the carried state begins anew in between."""
    model = LanguageModel(7, 3, 5, 2, dropout=0.3, backend=backend, dtype=dtype, tier=tier, **options)
    tokens = np.random.default_rng(1).integers(0, 7, 3 * 4 * 3 * 2)
    return TextTask(model, tokens, batch=3, length=5, validation=0.3, seed=seed)


def settings(**changed):
    """A schedule with a warm-up, and gradients that are clipped at some steps only."""
    given = {"epochs": 4, "learning_rate": 0.02, "warm_up": 3, "clip": 0.2, "validations": 2} | changed
    return Settings(**given)


def trained(task, graph, steps=10, resume=None, **changed):
    """Losses, norms and scores of some steps, and all arrays after them."""
    training = Training(task, settings(**changed), graph=graph)
    if resume is not None:
        resume(training)
    events = []
    training.go(events.append, lambda: len(events) == steps)
    to_numpy = task.model.backend.to_numpy
    arrays = {**task.model.params, **training.optimizer.state, **task.carried()}
    told = [(event.loss, event.norm, event.score, event.skipped) for event in events]
    return told, {name: to_numpy(array) for name, array in arrays.items()}, training


def same(one, other):
    assert repr(one[0]) == repr(other[0])  # NaN is NaN
    assert one[1].keys() == other[1].keys()
    for name in one[1]:
        np.testing.assert_array_equal(one[1][name], other[1][name], err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("tier", ["sequence", "pointwise"])
def test_text(tier, dtype):
    same(*(trained(text_task(Gpu(), dtype, tier), graph) for graph in (False, True)))


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
def test_every_optimizer(optimizer):
    same(*(trained(text_task(Gpu(), tier="pointwise"), graph, 6, optimizer=optimizer) for graph in (False, True)))


def test_products_beside_the_recurrence_are_recorded_on_their_own_stream(monkeypatch):
    monkeypatch.setattr(schedule, "segments", by_two)
    room_beside(monkeypatch)
    runs = [trained(text_task(Gpu(), tier="sequence"), graph, 6) for graph in (False, True)]
    same(*runs)
    assert all(run[2].task.model.backend._side for run in runs)


@pytest.mark.parametrize("options", [{"learn_state": True}, {"heads": 5}], ids=str)
def test_text_of_the_family(options):
    same(*(trained(text_task(Gpu(), tier="pointwise", lstm=options), graph, 6) for graph in (False, True)))


def test_each_part_of_a_step_takes_part():
    told, _, training = trained(text_task(Gpu()), graph=True)
    norms = [norm for _, norm, _, _ in told]
    assert min(norms) < settings().clip < max(norms)
    assert any(score is not None for _, _, score, _ in told[2:-1]), "a validation between two replays"
    assert training.task.steps_per_epoch < 4, "the carried state begins anew"


def windows_task(backend, batch=3):
    model = Forecaster([0.0, 1.0], [1.0, 2.0], [1.0, 0.5], horizon=2, hidden_size=5, dropout=0.3, backend=backend)
    values = np.random.default_rng(0).standard_normal((60, 2)).cumsum(axis=0)
    return WindowsTask(model, values, batch, 8, range(20), np.arange(40, 50), "huber", seed=3)


def test_series():
    changed = {"epochs": 3, "optimizer": "adam"}
    same(*(trained(windows_task(Gpu()), graph, **changed) for graph in (False, True)))


def test_a_batch_of_another_shape_runs_without():
    def smaller_at(task):
        whole = task._batch
        task.loader._make = lambda number: whole(number)[:, : 2 if number == 5 else 3]
        return task

    runs = [trained(smaller_at(windows_task(Gpu())), graph, epochs=3) for graph in (False, True)]
    same(*runs)
    assert runs[1][2].optimizer.updates == 10


@pytest.mark.parametrize("scale", [2.0**15, 2.0**24], ids=["grows", "overflows"])
def test_a_loss_scale_that_changes(scale):
    def scaled(graph):
        task = text_task(Gpu(), "float16")

        def begin(training):
            training.scaler.scale, training.scaler.growth_interval = scale, 3

        return trained(task, graph, resume=begin)

    plain, graphed = scaled(False), scaled(True)
    same(plain, graphed)
    assert graphed[2].scaler.scale != scale
    assert any(skipped for *_, skipped in graphed[0]) == (scale == 2.0**24)


def test_parameters_that_are_replaced_between_two_steps():
    def run(graph):
        task = text_task(Gpu())

        def begin(training):
            ask = training._steps.ask

            def replacing(number, factor):
                if number == 6:
                    task.model.params["lstm.bias_l0"] = Gpu().asarray(np.full(20, 0.1))
                return ask(number, factor)

            training._steps.ask = replacing

        return trained(task, graph, resume=begin)

    same(run(False), run(True))


@pytest.mark.parametrize("steps", [3, 4])
def test_a_run_goes_on_from_a_checkpoint(tmp_path, steps):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    logs = []
    for graph in (False, True):
        path = tmp_path / str(graph)
        for stop_at in (steps, 10):
            run = Run(text_task(Gpu()), settings(), path, {}, graph=graph)
            if stop_at == 10:
                run.resume(*folder.newest(path)[1:3])
            run.go(lambda event: None, lambda run=run, stop_at=stop_at: run.step == stop_at)
        logs.append(folder.read_log(path / folder.LOG))
    assert [line["step"] for line in logs[0]] == list(range(1, 11))
    assert logs[0] == logs[1]


def test_a_replayed_step_launches_the_graph_and_nothing_else(monkeypatch):
    replays, replay = [], Graph.replay
    monkeypatch.setattr(Graph, "replay", lambda graph: replays.append(graph) or replay(graph))
    task = text_task(Gpu())
    training, counts = Training(task, settings(validations=0), graph=True), []
    for _ in range(6):
        task.model.backend.launches.clear()
        before = len(replays)
        training._one_step()
        counts.append((len(replays) - before, len(task.model.backend.launches)))
    assert counts[0][1] > 20
    assert [graphs for graphs, _ in counts] == [0, 0, 1, 0, 1, 1]  # an epoch has 3
    assert [launches for graphs, launches in counts[3:] if graphs] == [0, 0]


def test_a_graph_reaches_no_memory_that_may_be_gone(monkeypatch):
    """What the pool has free is given back before each replay: who reads there is told by the device."""
    expected, replay = trained(text_task(Gpu()), graph=False), Graph.replay
    monkeypatch.setattr(Graph, "replay", lambda graph: (Gpu().memory(release=True), replay(graph))[1])
    same(trained(text_task(Gpu()), graph=True), expected)


FROZEN = {
    "tokens": lambda host: host.dtype == np.int64 and host.ndim == 2,
    "learning rate": lambda host: host.dtype == np.int64 and host.ndim == 1,
    "seeds": lambda host: host.dtype == np.uint32,
}


@pytest.mark.parametrize("what", FROZEN)
def test_a_number_that_is_baked_in_shows(what, monkeypatch):
    expected = trained(text_task(Gpu()), graph=False)
    replay, frozen = Graph.replay, []

    def with_old_content(graph):
        for place, (host, make) in enumerate(graph.uploads):
            if FROZEN[what](host) and not frozen.count(host.ctypes.data):
                frozen.append(host.ctypes.data)
                graph.uploads[place] = (host, partial(np.copy, make()))
        return replay(graph)

    monkeypatch.setattr(Graph, "replay", with_old_content)
    actual = trained(text_task(Gpu()), graph=True)
    assert frozen
    assert actual[0] != expected[0]


def test_tokens_out_of_range_are_told_after_a_replay():
    for graph in (False, True):
        task = text_task(Gpu())
        whole = task._batch
        task.loader._make = lambda number, whole=whole: whole(number) + 7 * (number == 4)
        training = Training(task, settings(validations=0), graph=graph)
        with pytest.raises(InputError, match=r"values 7\.\.\d+; expected"):
            training.go(lambda event: None)
        assert training.step == 4


@pytest.mark.parametrize(
    "task, error, message",
    [
        (lambda: text_task(NUMPY), BackendError, r"graph is for a GPU \(backend cupy\); this is backend numpy"),
        (lambda: text_task(Gpu(), tier="reference"), InputError, "products of tier reference"),
        (lambda: Sequences(), InputError, "this task has sequences of different lengths"),
    ],
    ids=["numpy", "reference", "lengths"],
)
def test_what_has_no_graph_is_refused_before_it_begins(task, error, message):
    with pytest.raises(error, match=message):
        Training(task(), settings(), graph=True)


class Sequences:
    """As much of a task with sequences of different lengths as is looked at."""

    steps_per_epoch, batch, one_shape = 3, 8, False

    def __init__(self):
        self.model = text_task(Gpu()).model


@pytest.mark.parametrize(
    "work, message",
    [
        (lambda backend, x: backend.asarray([1.0]), "a step that takes data of the host can't be recorded as a graph"),
        (lambda backend, x: backend.read(x), "a step that waits for the device can't be recorded as a graph"),
    ],
)
def test_what_a_graph_cannot_do_again_is_refused(work, message):
    backend = Gpu()
    x = backend.asarray(np.zeros(()))
    with pytest.raises(BackendError, match=message):
        backend.record(lambda: work(backend, x))
    assert backend.record(lambda: x + 1).replay()


def test_a_step_that_fails_while_it_is_recorded_leaves_the_backend_as_it_was(monkeypatch):
    backend = Gpu()
    x = backend.asarray(np.ones((2, 2), np.float32))

    def product():
        return backend.matmul(x, x, out=backend.xp.empty((2, 2), dtype=np.float32))

    with monkeypatch.context() as patched:
        patched.setitem(backend._cublas._kinds, x.dtype, (99, 99))  # no dtype of cuBLAS
        with pytest.raises(BackendError, match=r"cublasGemmEx failed with status \d+ while a step was recorded"):
            backend.record(product)
    with pytest.raises(BackendError, match="can't be recorded as a graph: calling cuBLAS API during stream capture"):
        backend.record(lambda: x @ x)
    np.testing.assert_array_equal(backend.to_numpy(product()), np.full((2, 2), 2))


def test_what_is_recorded_is_done_when_it_is_replayed_and_with_new_data_each_time():
    backend = Gpu()
    x, given = backend.asarray(np.zeros(2)), [1.0, 2.0]

    def work():
        x[...] = x + backend.upload(lambda: np.array(given))
        return x * 2

    graph = backend.record(work)
    np.testing.assert_array_equal(backend.to_numpy(x), 0)
    for content, expected in (([1.0, 2.0], [2, 4]), ([10.0, 20.0], [22, 44])):
        given[:] = content
        assert graph.replay()
        np.testing.assert_array_equal(backend.to_numpy(graph.result), expected)
    given.append(3.0)
    assert not graph.replay()
    np.testing.assert_array_equal(backend.to_numpy(x), [11, 22])


def test_the_command_line_trains_the_same_with_a_graph_and_refuses_it_without_a_gpu(tmp_path, monkeypatch, capsys):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    (tmp_path / "text.txt").write_text("round and round it goes\n" * 9)
    sizes = "--hidden-size 5 --embedding-size 3 --batch 3 --length 5 --epochs 1 --validations 1 --sample-length 0"
    command = ["train", "text", str(tmp_path / "text.txt"), *sizes.split()]
    assert main([*command, "--backend", "numpy", "--graph", "--out", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err == "gpu-lstm: graph is for a GPU (backend cupy); this is backend numpy\n"
    assert not (tmp_path / "none").exists()
    replays, replay = [], Graph.replay
    monkeypatch.setattr(Graph, "replay", lambda graph: replays.append(graph) or replay(graph))
    logs = []
    for more in ([], ["--graph"]):
        out = tmp_path / f"run{len(logs)}"
        assert main([*command, *more, "--backend", "cupy", "--out", str(out)]) == 0
        assert bool(replays) == bool(more)
        logs.append(folder.read_log(out / folder.LOG))
    assert logs[0] == logs[1]


@pytest.mark.parametrize("guard", [True, False])
@pytest.mark.parametrize("layers, launches", [(1, 14), (2, 32)])
def test_the_launches_of_an_lstm_forward_and_back_array_expressions_included(layers, launches, guard):
    driver = pytest.importorskip("cuda.bindings.driver", reason="cuda.bindings is not installed")
    backend = Gpu()
    lstm = LSTM(5, 5, layers, backend=backend, tier="sequence")
    x, dy = (backend.asarray(np.ones((64, 1, 5), np.float32)) for _ in range(2))

    def step():
        _, _, tape = lstm.forward(x, guard=guard)
        lstm.backward(tape, dy)

    captured = inspect.getclosurevars(backend.record(step).launch).nonlocals["captured"]
    status, _, nodes = driver.cuGraphGetNodes(captured.graph)
    assert (int(status), nodes) == (0, launches + guard)  # a copy of y, for the caller
