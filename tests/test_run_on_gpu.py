"""The script that runs on a GPU, rehearsed without one: its parts, its record, its refusals."""

import importlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from gpu_lstm.backend import NumpyBackend
from gpu_lstm.backend.cuda import Device
from gpu_lstm.recurrence import reference
from tests.emulated import EmulatedBackend, needs_emulator
from tests.support import NUMPY, relative_error

ROOT = Path(__file__).resolve().parents[1]


def benchmark(name):
    """A module of benchmarks: found after the installed package, its numbers of threads kept from other tests."""
    kept = dict(os.environ)
    sys.path.append(str(ROOT))
    try:
        return importlib.import_module(f"benchmarks.{name}")
    finally:
        sys.path.remove(str(ROOT))
        os.environ.clear()
        os.environ.update(kept)


gpu_model, run_on_gpu, sequence_on_gpu = map(benchmark, ("gpu_model", "run_on_gpu", "sequence_on_gpu"))
SMALL = Device(multiprocessors=9, shared_bytes=40 * 1024, capability=90)


class Named(EmulatedBackend):
    def describe(self):
        return {"backend": self.name, "device": "none"}


def test_without_a_gpu_it_is_refused_in_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(sys, "argv", ["run_on_gpu"])
    assert run_on_gpu.main() == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "CuPy is not installed" in said.err


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--device", "-1"], ["--only", "all"], ["--rounds", "x"]])
def test_bad_arguments_are_refused(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run_on_gpu", *arguments])
    with pytest.raises(SystemExit, match="2"):
        run_on_gpu.main()


@needs_emulator
def test_bandwidth_counts_the_bytes_of_every_kernel():
    record = run_on_gpu.bandwidth(EmulatedBackend(), rounds=1, cells=16, steps=2)
    measured = {(point["dtype"], point["kernel"]) for point in record["points"] if "kernel" in point}
    assert {("float32", "training"), ("float64", "backward"), ("float16", "inference")} <= measured
    for point in record["points"]:
        if "kernel" in point:
            moved = gpu_model.bytes_of(point["kernel"], point["dtype"]) * 16
            assert moved / point["bytes_per_second"] == pytest.approx(point["microseconds"] / 1e6)


@needs_emulator
def test_training_compares_results_before_it_measures(monkeypatch):
    backend = EmulatedBackend()
    record = run_on_gpu.training(backend, rounds=1, size=(3, 2, 4, 5))
    assert record["largest_relative_difference"]["pointwise"] < 1e-5
    assert record["times_faster_than_reference"]["reference"] == 1
    monkeypatch.setattr(run_on_gpu, "TOLERANCE", 0.0)
    with pytest.raises(RuntimeError, match=r"results differ by .*; expected less than"):
        run_on_gpu.training(backend, rounds=1, size=(3, 2, 4, 5))


@needs_emulator
def test_costs_of_waiting_are_measured_beside_what_the_model_takes():
    record = sequence_on_gpu.costs(EmulatedBackend(limits=SMALL), rounds=1, count=20)
    assert record["cluster_barrier_expected_us"] == 0.2
    assert {
        "block_barrier_us",
        "cluster_barrier_us",
        "grid_barrier_us",
        "handover_us",
        "read_in_cluster_us",
    } <= record.keys()
    old = EmulatedBackend(limits=Device(multiprocessors=2, shared_bytes=40 * 1024, capability=80))
    assert "cluster_barrier_us" not in sequence_on_gpu.costs(old, rounds=1, count=20)


@needs_emulator
def test_a_training_step_of_the_sequence_tier_is_that_of_the_layer():
    backend = EmulatedBackend(limits=SMALL)
    layer = sequence_on_gpu.Layer(backend, (3, 2, 5, "float32"))
    results = layer.step()
    x, w_ih, w_hh, dy = (
        a.astype(np.float64) for a in (layer.x, layer.weight_ih, layer.weight_hh, np.asarray(layer.dy))
    )
    saved = reference.forward(NUMPY, (x @ w_ih.T).reshape(3, 2, 20), w_hh, None, None)
    dz = reference.backward(NUMPY, saved, dy, None, None)[0].reshape(6, 20)
    expected = {"y": saved.outputs, "dx": dz @ w_ih, "dw_ih": dz.T @ x, "db": dz.sum(axis=0)}
    expected["dw_hh"] = dz.T @ saved.before.reshape(6, 5)
    for name, array in expected.items():
        assert relative_error(results[name], array) < 1e-5, name


@needs_emulator
def test_the_grid_records_layouts_expectations_and_refusals(capsys):
    grid = [(2, 1, 8, "float32"), (2, 3, 700, "float32"), (2, 1, 8, "float16")]
    record = sequence_on_gpu.against_torch(EmulatedBackend(limits=SMALL), 1, grid)
    fine, refused, _ = record["points"]
    assert "us a step expected" in fine["forward"]["layout"]
    assert fine["forward"]["floor_us_a_step"] > 0
    assert fine["seconds"]["ours_forward"] > 0
    assert "does not fit on chip" in refused["refused"]
    assert "does not fit on chip" in capsys.readouterr().out
    assert "ours alone" in record["missing"]
    assert sequence_on_gpu.PUBLISHED in list(sequence_on_gpu.problems())
    assert "no sequence kernels" in sequence_on_gpu.against_torch(NUMPY, 1)["missing"]


@needs_emulator
def test_the_soak_compares_the_tiers(monkeypatch):
    backend = EmulatedBackend(limits=SMALL)
    record = sequence_on_gpu.soak(backend, 1, 3.0, (4, 4, 12, ""))
    assert sum(record["problems"].values()) > 0
    assert 0 < record["largest_relative_difference"] < 1e-1
    monkeypatch.setattr(sequence_on_gpu, "SOAK_TOLERANCE", {"float32": 0.0, "float16": 0.0})
    with pytest.raises(RuntimeError, match=r"the tiers differ by .* at T=\d+, B="):
        sequence_on_gpu.soak(backend, 1, 3.0, (4, 4, 12, ""))
    assert "no sequence kernels" in sequence_on_gpu.soak(NUMPY, 1)["missing"]


def test_a_part_that_fails_is_recorded_and_the_others_go_on(monkeypatch, tmp_path, capsys):
    def broken(backend, rounds):
        raise RuntimeError("no such thing")

    fine = {"kernel": {"status": 0}}
    monkeypatch.setattr(run_on_gpu, "PARTS", {"tests": broken, "torch": lambda backend, rounds: fine})
    out = tmp_path / "record.json"
    record = run_on_gpu.run(Named(), ["tests", "torch"], 1, out)
    assert json.loads(out.read_text()) == record
    assert record["tests"] == {"error": "RuntimeError: no such thing"}
    assert record["torch"] == fine
    assert {"date", "device", "python", "numpy", "revision", "command"} <= record.keys()
    assert run_on_gpu.failed(record["tests"])
    assert not run_on_gpu.failed(record["torch"])
    assert run_on_gpu.failed({"pytest": {"status": 1}})
    assert "error: RuntimeError: no such thing" in capsys.readouterr().out


def test_a_command_is_recorded_with_what_it_said():
    good = run_on_gpu.run_command([sys.executable, "-c", "print('a'); print('b')"])
    assert good["status"] == 0
    assert good["said"] == ["b"]
    bad = run_on_gpu.run_command([sys.executable, "-c", "print('a'); raise SystemExit('c')"])
    assert bad["status"] == 1
    assert bad["said"] == ["a", "c"]


def test_what_is_missing_is_recorded(monkeypatch):
    monkeypatch.setattr(run_on_gpu.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(run_on_gpu.shutil, "which", lambda name: None)
    backend = NumpyBackend()
    assert run_on_gpu.against_torch(backend, 1) == {"missing": "PyTorch is not installed"}
    assert "not installed" in run_on_gpu.sanitizers(backend, 1)["missing"]


def test_the_tests_it_names_are_there():
    assert all((ROOT / "tests" / name).exists() for name in run_on_gpu.TESTS)


def test_the_tables_on_paper_are_those_of_the_model():
    text = (ROOT / "kernels" / "cuda" / "README.md").read_text()
    for table in (gpu_model.gate_table(), gpu_model.step_table(), gpu_model.sequence_table()):
        assert "\n".join(table) in text


def test_the_bytes_by_hand():
    # z, gates: 4 numbers each; c in and out, h out. Backward: gates, dz; c twice, dy, dh, dc in and out.
    assert gpu_model.bytes_of("training", "float32") == (4 + 4 + 1 + 1 + 1) * 4
    assert gpu_model.bytes_of("backward", "float32") == (4 + 4 + 2 + 1 + 1 + 2) * 4
    assert gpu_model.bytes_of("training", "float16") == (4 + 4 + 1) * 2 + 2 * 4
