"""What the CuPy backend promises and only a real CuPy shows: devices, graphs, clusters, commands."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gpu_lstm import LSTM, ops
from gpu_lstm.backend import CupyBackend, into, widened
from gpu_lstm.layers import Linear
from gpu_lstm.models import LanguageModel
from gpu_lstm.native import catalogue
from gpu_lstm.ops.cuda import CHECK_VARIABLE
from gpu_lstm.optimizers import SGD, make_optimizer
from gpu_lstm.recurrence.cuda import needed
from tests.device.support import needs_machine
from tests.support import NUMPY, loss_and_gradients, problem, relative_error

pytestmark = needs_machine


def agrees(backend, tier):
    lstm = LSTM(4, 8, backend=backend, tier=tier, dtype="float64")
    oracle = LSTM(4, 8, backend=NUMPY, tier="reference", dtype="float64")
    for name, param in oracle.params.items():
        lstm.params[name][...] = backend.asarray(param)
    data = problem(oracle, 3, 2)
    expected, actual = (loss_and_gradients(one, data)[1] for one in (oracle, lstm))
    return max(relative_error(actual[name], array) for name, array in expected.items()) < 1e-12


@pytest.mark.parametrize("tier", ["reference", "pointwise", "sequence"])
def test_a_second_device_from_any_thread(tier):
    first, second = CupyBackend(0), CupyBackend(1)
    assert agrees(second, tier) and agrees(first, tier) and agrees(second, tier)
    found = []
    thread = threading.Thread(target=lambda: found.append(agrees(second, tier)))
    thread.start()
    thread.join()
    assert found == [True]


TOLD = {
    "name", "why", "kernels", "tf32", "takes_out", "least_steps", "records", "recording", "dtype", "xp", "require",
    "checks_gradients",
}  # fmt: skip
"""What a backend has besides entries that ask the device for something."""


class OwnRule(SGD):
    """A rule that no kernel has."""

    def move(self, param, gradient, state, numbers):
        param -= numbers[0] * gradient


def entries(backend):
    """Each entry as a call that gives an array, or nothing; all arrays are made before."""
    x, w, out, dw, logits = (backend.asarray(np.arange(1.0, 13).reshape(3, 4), "float32") for _ in range(5))
    square, half, number = backend.asarray(np.ones((3, 3), np.float32)), backend.asarray(x, "float16"), w[0, 0].copy()
    index, targets, rows = backend.asarray(np.array([2, 0])), backend.asarray(np.array([2, 0, 1])), x[:2]
    optimizer, own = SGD(backend, {"w": w}), OwnRule(backend, {"w": w})
    around, functions = ops.of(backend), backend.xp
    again = around.dropout(x, 0.5, (7,))[1]

    def recorded():
        graph = backend.record(lambda: into(backend, functions.multiply, x, x, out=out))
        graph.replay()
        return graph.result

    return {
        "asarray": lambda: backend.asarray(np.ones(3, np.float32)),
        "beside": lambda: backend.beside(lambda: around.product(x, w.T), [lambda: backend.matmul(x, w.T, square)]),
        "describe": lambda: backend.describe() and None,
        "dropout": lambda: again(x),
        "bounds": lambda: backend.bounds("index", 3, "N")[0] * 0,
        "empty": lambda: into(backend, functions.tanh, x, out=backend.empty(x.shape, x.dtype)),
        "kernel": lambda: backend.kernel(catalogue.kernel("check_range")) and None,
        "matmul": lambda: backend.matmul(x, w.T, square, add=True),
        "memory": lambda: backend.memory() and backend.memory(release=True) and None,
        "update by a rule of one's own": lambda: own.update({"w": dw}, max_norm=1.0, loss=number) is None or w,
        "norm": lambda: around.norm([x, w]),
        "product": lambda: around.product(x, w.T, number, out=square),
        "read": lambda: (around.take_rows(x, index), backend.asarray(np.array(backend.read(number))))[1],
        "record": recorded,
        "scatter_add": lambda: around.scatter_add(out, index, rows) or out,
        "softmax_cross_entropy": lambda: around.softmax_cross_entropy(logits, targets, None),
        "read nothing": lambda: backend.read() or None,
        "take_rows": lambda: around.take_rows(x, index),
        "to_numpy": lambda: backend.asarray(backend.to_numpy(x)),
        "update": lambda: optimizer.update({"w": dw}, max_norm=1.0, loss=number) is None or w,
        "upload": lambda: backend.upload(lambda: np.ones(3, np.float32)),
        "watch": lambda: around.watch([x])(),
        "weight_gradients": lambda: around.weight_gradients(x, [w])[0][0],
        "widened": lambda: widened(backend, half),
    }


@pytest.mark.parametrize("fresh", [False, True], ids=["this thread", "another thread"])
def test_every_entry_runs_on_the_backends_device(fresh, monkeypatch):
    import cupy

    monkeypatch.setenv(CHECK_VARIABLE, "1")
    first, second = (entries(CupyBackend(number)) for number in (0, 1))
    public = {name for kind in (CupyBackend, ops.Cuda) for name in dir(kind) if not name.startswith("_")}
    assert public - TOLD == {name for name in second if " " not in name} - {"widened"}

    def both(name):
        with cupy.cuda.Device(0):
            expected = first[name]()
            found = second[name]()
            if found is not None:
                assert found.device.id == 1, name
                np.testing.assert_array_equal(cupy.asnumpy(found), cupy.asnumpy(expected), err_msg=name)

    for name in second:
        if fresh:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(both, name).result()
        else:
            both(name)


def test_models_of_two_devices_train_in_two_threads_as_alone():
    tokens = np.random.default_rng(0).integers(0, 7, (6, 3))

    def trained(number):
        backend = CupyBackend(number)
        model = LanguageModel(7, 3, 8, 2, 0.2, backend=backend)
        optimizer = make_optimizer("adam", backend, model.params, 0.01)
        for step in range(3):
            loss, _, gradients = model.loss(backend.asarray((tokens + number) % 7), seed=step)
            backend.read(loss, optimizer.update(gradients, max_norm=0.5, loss=loss))
        return {name: backend.to_numpy(param) for name, param in model.params.items()}

    alone = [trained(number) for number in (0, 1)]
    with ThreadPoolExecutor(4) as pool:
        beside = list(pool.map(trained, [0, 1, 0, 1]))
    for number, params in zip([0, 1, 0, 1], beside, strict=True):
        for name, param in params.items():
            np.testing.assert_array_equal(param, alone[number][name])


def test_layers_of_two_devices_by_turns():
    layers = [Linear(3, 2, backend=CupyBackend(n)) for n in (0, 1)]
    for _ in range(2):
        for n, layer in enumerate(layers):
            y, _ = layer.forward(layer.backend.asarray(np.ones((4, 3), np.float32)))
            assert y.device.id == n


def test_clusters_are_launched_by_the_real_bindings():
    backend = CupyBackend()
    assert (backend.limits.multiprocessors, backend.describe()["clusters at once"]) == (32, "3"), "2 of 18, 1 of 14"
    assert backend.limits.clusters == backend.limits.counted == backend.limits.clusters_at_once == 3
    assert "no clusters at once" not in backend.describe()


@pytest.mark.parametrize("command", ["info", "check"])
def test_commands(command, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "gpu_lstm", command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cupy:0" in done.stdout


def test_kernels_are_compiled_ahead_into_cupys_cache(tmp_path):
    command = [sys.executable, "-m", "gpu_lstm", "info", "--compile", "--dtype", "float64", "--jobs", "2"]
    environment = {**os.environ, "CUPY_CACHE_DIR": str(tmp_path)}
    wanted, caches = needed.of_training(CupyBackend().limits, "float64"), []
    for _ in range(2):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"{len(wanted)} of {len(wanted)} there after" in done.stdout
        assert f"  clusters at once: {CupyBackend().limits.counted}\n" in done.stdout
        caches.append({(each.name, each.stat().st_mtime_ns) for each in tmp_path.iterdir()})
    assert caches[0] == caches[1], "the second time, all is there"
    assert len(caches[0]) > len(wanted)  # and CuPy's own


def test_a_run_goes_on_on_the_other_backend(tmp_path):
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question: " * 60)

    def command(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "gpu_lstm", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    size = ["--hidden-size", "8", "--batch", "4", "--length", "8", "--epochs", "2", "--save-minutes", "0"]
    command("train", "text", "text.txt", "--backend", "cupy", "--tier", "pointwise", "--graph", "--out", "run", *size)
    finished = (tmp_path / "run" / "model.safetensors").read_bytes()
    earlier = min((tmp_path / "run").glob("resume-*.safetensors"))
    bits = []
    for backend, tier in (("numpy", "reference"), ("cupy", "pointwise")):
        assert "going on with" in command("train", "--resume", str(earlier), "--backend", backend, "--tier", tier)
        bits.append(command("evaluate", "run", "--backend", backend).split()[-1])
    assert bits[0] == bits[1]
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == finished, "the same as without a stop"
