"""What the CuPy backend promises and only a real CuPy shows: devices, graphs, clusters, commands."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from gpu_lstm import LSTM
from gpu_lstm.backend import CupyBackend
from gpu_lstm.layers import Linear
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


def test_layers_of_two_devices_by_turns():
    layers = [Linear(3, 2, backend=CupyBackend(n)) for n in (0, 1)]
    for _ in range(2):
        for n, layer in enumerate(layers):
            y, _ = layer.forward(layer.backend.asarray(np.ones((4, 3), np.float32)))
            assert y.device.id == n


def test_clusters_are_launched_by_the_real_bindings():
    backend = CupyBackend()
    assert backend.describe()["clusters at once"] == str(backend.limits.multiprocessors // 8)
    assert "no clusters at once" not in backend.describe()


@pytest.mark.parametrize("command", ["info", "check"])
def test_commands(command, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "gpu_lstm", command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cupy:0" in done.stdout


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
