"""The script that runs on a GPU, rehearsed without one: its parts, its record, its refusals."""

import dataclasses
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gpu_lstm.backend import NumpyBackend
from gpu_lstm.backend.cuda import Device
from gpu_lstm.recurrence import onchip
from tests.emulated import DTYPES, EmulatedBackend, needs_emulator
from tests.recorded import RecordingBackend
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


NAMES = (
    "compare_model",
    "gpu_model",
    "graph_on_gpu",
    "on_gpu",
    "run_on_gpu",
    "sequence_on_gpu",
    "tables",
    "variants_on_gpu",
)
compare_model, gpu_model, graph_on_gpu, on_gpu, run_on_gpu, sequence_on_gpu, tables, variants_on_gpu = map(
    benchmark, NAMES
)
Budget, Case = on_gpu.Budget, sequence_on_gpu.Case
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


@pytest.mark.parametrize(
    "arguments", [["--rounds", "0"], ["--device", "-1"], ["--only", "all"], ["--rounds", "x"], ["--seconds", "0"]]
)
def test_bad_arguments_are_refused(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run_on_gpu", *arguments])
    with pytest.raises(SystemExit, match="2"):
        run_on_gpu.main()


@needs_emulator
def test_bandwidth_counts_the_bytes_of_every_kernel():
    record = run_on_gpu.bandwidth(EmulatedBackend(), Budget(1), cells=16, steps=2)
    measured = {(point["dtype"], point["kernel"]) for point in record["points"] if "kernel" in point}
    assert {("float32", "training"), ("float64", "backward"), ("float16", "inference")} <= measured
    for point in record["points"]:
        if "kernel" in point:
            moved = gpu_model.bytes_of(point["kernel"], point["dtype"]) * 16
            assert moved / point["bytes_per_second"] == pytest.approx(point["microseconds"] / 1e6)


@needs_emulator
def test_training_compares_results_before_it_measures(monkeypatch):
    backend = EmulatedBackend()
    record = run_on_gpu.training(backend, Budget(1), Case(3, 2, 4, 5))
    assert record["largest_relative_difference"]["pointwise"] < 1e-5
    assert record["times_faster_than_reference"]["reference"] == 1
    monkeypatch.setitem(sequence_on_gpu.TOLERANCE, "float32", 0.0)
    with pytest.raises(RuntimeError, match=r"results at T=3 B=2 D=4 H=5 float32 differ by .*; expected less than"):
        run_on_gpu.training(backend, Budget(1), Case(3, 2, 4, 5))


@needs_emulator
def test_costs_of_waiting_are_measured_beside_what_the_model_takes():
    record = sequence_on_gpu.costs(EmulatedBackend(limits=SMALL), Budget(1), count=20)
    assert record["cluster_barrier_expected_us"] == 0.2
    assert {
        "block_barrier_us",
        "cluster_barrier_us",
        "grid_barrier_us",
        "handover_us",
        "read_in_cluster_us",
        "handover_in_cluster_us",
    } <= record.keys()
    assert "sums_in_cluster_us" not in record
    own = 4 * -(-12 * 1024 // (16 * SMALL.multiprocessors))
    assert record["gather_expected_us"] == pytest.approx(0.7 + 4 * own * SMALL.multiprocessors / 40e3)
    assert {"gather_us", "gather_an_eighth_us"} <= record.keys()
    joint = dataclasses.replace(SMALL, clusters=1)
    record = sequence_on_gpu.costs(EmulatedBackend(limits=joint), Budget(1), count=2)
    assert "sums_in_cluster_us" in record  # a difference of times, which noise can turn
    assert record["sums_in_cluster_expected_us"] == pytest.approx(onchip.EXCHANGE["cluster"] + 7 * 512 / 20e3)
    old = EmulatedBackend(limits=Device(multiprocessors=2, shared_bytes=40 * 1024, capability=80))
    assert "cluster_barrier_us" not in sequence_on_gpu.costs(old, Budget(1), count=20)


# -- layers against PyTorch -------------------------------------------------------------------------------------------

CASES = [
    Case(5, 3, 4, 8),
    Case(5, 3, 4, 8, layers=3),
    Case(9, 4, 4, 8, packed=True),
    Case(5, 3, 4, 8, directions=2),
    Case(9, 4, 4, 8, layers=3, directions=2, packed=True),
]


@needs_emulator
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_same_case_in_pytorch_has_the_same_results(case):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    backend = EmulatedBackend(limits=SMALL)
    ours = sequence_on_gpu.Ours(backend, case)
    theirs = sequence_on_gpu.Torch(ours, torch, "cpu").results()
    assert set(theirs) == {"y", "dx", *ours.lstm.params}
    assert sequence_on_gpu.disagreement(backend, ours.step(), theirs, case) < 1e-5
    for name in theirs:
        wrong = ours.step() | {name: -ours.step()[name]}
        with pytest.raises(RuntimeError, match="differ by"):
            sequence_on_gpu.disagreement(backend, wrong, theirs, case)


@needs_emulator
@pytest.mark.parametrize("dtype", DTYPES[2:])
def test_both_sides_get_numbers_that_16_bits_have(dtype):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    backend, case = EmulatedBackend(limits=SMALL), Case(5, 3, 4, 8, dtype, packed=True)
    ours = sequence_on_gpu.Ours(backend, case)
    theirs = sequence_on_gpu.Torch(ours, torch, "cpu")
    for name, param in ours.lstm.params.items():
        np.testing.assert_array_equal(theirs.params[name].detach().float().numpy(), param)
    y, tape = ours.forward()
    del tape
    expected, lengths = torch.nn.utils.rnn.pad_packed_sequence(theirs.forward())
    np.testing.assert_array_equal(lengths, case.lengths)
    expected = expected.detach().float().numpy()
    assert relative_error(y.astype(np.float32), expected) < sequence_on_gpu.TOLERANCE[dtype]


def test_lengths_are_unequal_and_the_longest_is_all_steps():
    lengths = Case(64, 30, 4, 8, packed=True).lengths
    assert lengths.max() == 64
    assert lengths.min() >= 16
    assert len(set(lengths)) > 10
    assert Case(64, 30, 4, 8).lengths is None


def test_the_most_telling_cases_come_first():
    cases = sequence_on_gpu.grid()
    assert cases[:2] == [sequence_on_gpu.PUBLISHED, Case(256, 64, 512, 512, "bfloat16")]
    assert len(set(cases)) == len(cases) > 3 * 4 * 6 * 3
    assert {Case(*size) for size in sequence_on_gpu.STANDARD} < set(cases)
    first = sequence_on_gpu.shapes()[:4]
    assert {str(case).split(" bfloat16")[1] for case in first} == {
        ", 3 layers", ", packed", ", 2 directions", ", 3 layers, 2 directions, packed",
    }  # fmt: skip


@needs_emulator
def test_the_grid_records_layouts_expectations_and_what_failed(monkeypatch, capsys):
    cases = [Case(2, 1, 8, 8), Case(2, 3, 700, 700), Case(2, 1, 8, 8, "float16"), Case(2, 2, 8, 8, layers=2)]
    monkeypatch.setitem(sys.modules, "torch", None)
    real = sequence_on_gpu.Ours

    def fails(backend, case):
        if case.layers == 2:
            raise MemoryError("no room")
        return real(backend, case)

    monkeypatch.setattr(sequence_on_gpu, "Ours", fails)
    record = sequence_on_gpu.against_torch(EmulatedBackend(limits=SMALL), Budget(1), cases, 20)
    fine, large, short, failed = record["points"]
    assert "us a step expected" in fine["forward"]["layout"]
    assert "blocks alone" in fine["forward"]["layout"]
    assert fine["forward"]["floor_us_a_step"] == record["costs"]["block_barrier_us"]  # in an emulator any number
    assert fine["seconds"].keys() == {"ours", "ours_forward", "ours_tf32"}
    assert 0 < fine["seconds"]["ours"]["low"] <= fine["seconds"]["ours"]["median"]
    assert (fine["clock"], fine["rounds"], fine["tier"]) == ("wall", 1, "sequence")
    assert "does not fit on chip" in large["forward"]["layout"]
    assert large["tier"] == "pointwise"
    assert short["seconds"].keys() == {"ours", "ours_forward"}
    assert failed["error"] == "MemoryError: no room"
    assert record["error"] == "1 points failed, the first: MemoryError: no room"
    assert "PyTorch is not installed: ours alone" in record["missing"]
    assert record["left_out"] == 0
    assert "T=2 B=3 D=700 H=700 float32" in capsys.readouterr().out
    assert "no sequence kernels" in sequence_on_gpu.against_torch(NUMPY, Budget(1))["missing"]


@needs_emulator
def test_the_grid_is_compared_with_pytorch_where_it_is_there():
    pytest.importorskip("torch", reason="PyTorch is not installed")
    cases = [Case(4, 2, 8, 8), Case(4, 2, 8, 8, "float16", packed=True)]
    record = sequence_on_gpu.against_torch(EmulatedBackend(limits=SMALL), Budget(1), cases, 20)
    one, other = record["points"]
    assert one["seconds"].keys() == {"ours", "ours_forward", "ours_tf32", "torch", "torch_forward", "torch_tf32"}
    assert one["ratio"] == one["seconds"]["torch"]["median"] / one["seconds"]["ours"]["median"]
    assert 0 < other["largest_relative_difference"] < sequence_on_gpu.TOLERANCE["float16"]
    assert record["slowest_ratio"] == min(one["ratio"], other["ratio"])
    assert "reached" in record


@needs_emulator
def test_layers_are_timed_at_once_and_one_by_one():
    limits = dataclasses.replace(SMALL, multiprocessors=6)
    cases = [Case(3, 2, 8, 8, layers=2), Case(2, 2, 8, 8, layers=2, directions=2)]
    backend = EmulatedBackend(limits=limits)
    both, other = sequence_on_gpu.against_torch(backend, Budget(1), cases, 20)["points"]
    assert {"at_once", "at_once_forward", "one_by_one", "one_by_one_forward"} < both["seconds"].keys()
    assert both["layers_at_once"] == 2
    assert both["layers_expected_us_a_step"]["forward"].keys() == {"1", "2"}
    assert "at_once" not in other["seconds"]
    backend.launches.clear()
    sides, _ = sequence_on_gpu.layer_sides(backend, cases[0])
    for name, launches in (("one_by_one_forward", 2), ("at_once_forward", 1)):
        backend.launches.clear()
        sides[name]()
        assert sum(launch.startswith("sequence_forward") for launch in backend.launches) == launches
    large = Case(2, 2, 8, 700, "float64", layers=2)
    assert sequence_on_gpu.layer_sides(backend, large)[1] == {"layers_at_once": "more than one do not fit on chip"}


@needs_emulator
def test_products_beside_the_recurrence_are_timed_with_what_was_expected(monkeypatch):
    backend = EmulatedBackend(limits=SMALL)
    case = Case(4, 2, 8, 8)
    record = sequence_on_gpu.beside(backend, Budget(1), [case])
    (point,) = record["points"]
    assert point["seconds"].keys() == {"beside", "after"}
    assert point["saved_us"] == pytest.approx(
        1e6 * (point["seconds"]["after"]["median"] - point["seconds"]["beside"]["median"])
    )
    assert point["expected_saved_us"] == 0  # of a single segment
    assert record["left_out"] == 0
    monkeypatch.setattr(backend, "to_numpy", lambda array: np.random.default_rng().standard_normal(array.shape))
    with pytest.raises(RuntimeError, match="T=4 B=2 D=8 H=8 float32 has other bits with products beside"):
        sequence_on_gpu.beside(backend, Budget(1), [case])
    assert "no sequence kernels" in sequence_on_gpu.beside(NUMPY, Budget())["missing"]


def test_something_goes_beside_in_every_case_that_is_timed():
    backend = EmulatedBackend()
    assert all(sequence_on_gpu.expected_saved(backend, case) > 0 for case in sequence_on_gpu.BESIDE)
    first = sequence_on_gpu.BESIDE[0]
    one = first.batch * 256 * 4 * first.hidden * first.hidden
    launches = [
        onchip.beside(backend.limits, direction, (256, first.batch, first.hidden), "float32", count * one)
        for direction, count in (("forward", 1), ("backward", 3))
    ]
    assert sequence_on_gpu.expected_saved(backend, first) == pytest.approx(3 * sum(each.saved for each in launches))


@needs_emulator
def test_when_the_time_is_up_what_is_left_is_counted():
    cases = [Case(2, 1, 8, 8), Case(2, 2, 8, 8)]
    record = sequence_on_gpu.against_torch(EmulatedBackend(limits=SMALL), Budget(1, seconds=0.0), cases, 20)
    assert (record["points"], record["left_out"]) == ([], 2)
    times, _ = on_gpu.alternating(NUMPY, {"a": lambda: None}, Budget(5, seconds=0.0))
    assert times["rounds"] == 1
    times, medians = on_gpu.alternating(NUMPY, {"a": lambda: None, "b": lambda: None}, Budget(5))
    assert times["rounds"] == 5
    assert medians == {side: found["median"] for side, found in times["seconds"].items()}


# -- models against PyTorch -------------------------------------------------------------------------------------------


@needs_emulator
def test_models_are_trained_beside_pytorch_in_every_dtype(monkeypatch):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)  # it has no float16 LSTM on a CPU
    sizes = [({"embedding_size": 4, "hidden_size": 8, "num_layers": 2}, 2, 4)]
    record = compare_model.on_gpu(EmulatedBackend(limits=SMALL), Budget(1), sizes)
    assert [point["dtype"] for point in record["points"]] == ["bfloat16", "float16", "float32"]
    for point in record["points"]:
        assert "error" not in point
        assert len(point["first_losses"]["ours"]) == len(point["first_losses"]["torch"]) == compare_model.CHECKED_STEPS
        assert point["characters_per_second"]["ours"] == pytest.approx(8 / point["seconds"]["ours"]["median"])
        assert point["num_layers"] == 2
    assert record["left_out"] == 0
    assert record["geometric_mean_ratio"] > 0


@needs_emulator
def test_losses_that_differ_are_told(monkeypatch):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    real = compare_model.our_training

    def doubled(task):
        step = real(task)
        return lambda: 2 * step()

    monkeypatch.setattr(compare_model, "our_training", doubled)
    record = compare_model.on_gpu(EmulatedBackend(limits=SMALL), Budget(1), [({"hidden_size": 8}, 2, 4)])
    assert record["error"].startswith("first losses differ")
    monkeypatch.setitem(sys.modules, "torch", None)
    record = compare_model.on_gpu(EmulatedBackend(limits=SMALL), Budget(1), [({"hidden_size": 8}, 2, 4)])
    assert record["missing"] == "PyTorch is not installed: ours alone"
    assert "ratio" not in record["points"][0]


@needs_emulator
def test_options_are_compared_with_the_plain_lstm_and_with_the_pointwise_tier(monkeypatch):
    monkeypatch.setattr(
        variants_on_gpu, "VARIANTS", {"plain": {}, "zoneout_h": {"zoneout_h": 0.1}, "heads 2": {"heads": 2}}
    )
    backend = EmulatedBackend(limits=SMALL)
    record = variants_on_gpu.on_gpu(backend, Budget(1), [Case(3, 2, 4, 8)])
    assert "error" not in record
    assert [(point["option"], point["tier"]) for point in record["points"]] == [
        ("zoneout_h", "sequence"),
        ("heads 2", "pointwise"),
        ("resets", "sequence"),
    ]
    for point in record["points"]:
        assert set(point["seconds"]) == {"plain", "ours", "pointwise"}
        assert point["largest_relative_difference"] < 1e-5
        assert point["times_plain"] > 0
        assert ("forward, with options: " in point.get("forward", "")) == (point["tier"] == "sequence")
    assert record["geometric_mean_ratio"] > 0
    monkeypatch.setitem(sequence_on_gpu.TOLERANCE, "float32", 0.0)
    record = variants_on_gpu.on_gpu(backend, Budget(1), [Case(3, 2, 4, 8)])
    assert record["error"].startswith("RuntimeError: results at T=3 B=2 D=4 H=8 float32 differ")


# -- the rest ---------------------------------------------------------------------------------------------------------


class Turns(Budget):  # type: ignore[misc, valid-type]
    """So many problems, however long they take."""

    @property
    def left(self):
        self.rounds -= 1
        return float(self.rounds >= 0)


@needs_emulator
def test_the_soak_compares_the_tiers(monkeypatch):
    backend = EmulatedBackend(limits=SMALL)
    record = sequence_on_gpu.soak(backend, Turns(12), (4, 4, 12))
    assert sum(record["problems"].values()) > 0
    assert 0 < record["largest_relative_difference"] < 1e-1
    monkeypatch.setattr(sequence_on_gpu, "SOAK_TOLERANCE", {"float32": 0.0, "float16": 0.0})
    with pytest.raises(RuntimeError, match=r"the tiers differ by .* at T=\d+, B="):
        sequence_on_gpu.soak(backend, Turns(12), (4, 4, 12))
    assert "no sequence kernels" in sequence_on_gpu.soak(NUMPY, Budget())["missing"]


def test_a_part_that_fails_is_recorded_and_the_others_go_on(monkeypatch, tmp_path, capsys):
    def broken(backend, budget):
        raise RuntimeError("no such thing")

    given = []

    def fine(backend, budget):
        given.append(budget)
        return {"kernel": {"status": 0}, "left_out": 3}

    monkeypatch.setattr(run_on_gpu, "PARTS", {"tests": (broken, 10), "shapes": (fine, 20)})
    out = tmp_path / "record.json"
    record = run_on_gpu.run(Named(), ["tests", "shapes"], 7, out)
    assert json.loads(out.read_text()) == record
    assert record["tests"]["error"] == "RuntimeError: no such thing"
    assert record["shapes"]["kernel"] == {"status": 0}
    assert record["shapes"]["took_seconds"] >= 0
    assert (given[0].rounds, given[0].seconds) == (7, 20)
    run_on_gpu.run(Named(), ["shapes"], 7, out, 5.0)
    assert given[1].seconds == 5
    assert {"date", "device", "python", "numpy", "revision", "command"} <= record.keys()
    assert record["gpu"] == Named().describe()
    assert "| `record.json` |" in tables.files(tmp_path)
    assert run_on_gpu.failed(record["tests"])
    assert not run_on_gpu.failed(record["shapes"])
    assert run_on_gpu.failed({"pytest": {"status": 1}})
    said = capsys.readouterr().out
    assert "error: RuntimeError: no such thing" in said
    assert "no time for 3 points; kernel: status 0" in said


@needs_emulator
def test_graphs_are_compared_with_launches_by_bit_and_by_time():
    cases = [((3, 5, 5, 1), "float32"), ((3, 5, 5, 1), "float32")]
    record = graph_on_gpu.graph_against_launches(RecordingBackend(), Budget(2), cases)
    assert [point["same_bits"] for point in record["points"]] == [True, True]
    assert record["reached"] and record["geometric_mean_ratio"] > 0
    assert record["points"][0]["rounds"] == 2
    assert graph_on_gpu.graph_against_launches(NUMPY, Budget(1))["missing"] == "backend numpy has no graphs"


def test_all_parts_fit_into_calls_of_ten_minutes_and_half_an_hour_or_so():
    calls = [line.split("--only ")[1].split() for line in run_on_gpu.__doc__.splitlines() if "--only" in line]
    calls = [[word for word in call if word in run_on_gpu.PARTS] for call in calls[:4]]
    assert sorted(name for call in calls for name in call) == sorted(run_on_gpu.PARTS)
    assert all(sum(run_on_gpu.PARTS[name][1] for name in call) <= 570 for call in calls)
    assert sum(limit for _, limit in run_on_gpu.PARTS.values()) <= 33 * 60


def test_a_command_is_recorded_with_what_it_said():
    good = run_on_gpu.run_command([sys.executable, "-c", "print('a'); print('b')"])
    assert good["status"] == 0
    assert good["said"] == ["b"]
    bad = run_on_gpu.run_command([sys.executable, "-c", "print('a', flush=True); raise SystemExit('c')"])
    assert bad["status"] == 1
    assert bad["said"] == ["a", "c"]


def test_a_command_that_takes_too_long_is_stopped(monkeypatch, tmp_path):
    begun = tmp_path / "begun"

    class Patient(subprocess.Popen):
        """The time is over when the program has begun, however long that takes on a busy machine."""

        def communicate(self, input=None, timeout=None):
            if timeout != 2.0:
                return super().communicate(input)
            while not begun.exists() and self.poll() is None:
                time.sleep(0.01)
            raise subprocess.TimeoutExpired(self.args, timeout)

    monkeypatch.setattr(run_on_gpu.subprocess, "Popen", Patient)
    program = (
        f"import pathlib, time\ntry: pathlib.Path({str(begun)!r}).touch(); time.sleep(60)\n"
        "except KeyboardInterrupt: print('ended')"
    )
    record = run_on_gpu.run_command([sys.executable, "-c", program], 2.0)
    assert record["stopped"] == "after 2 s, its time"
    assert record["said"][-1] == "ended"


def test_the_bench_s_record_is_taken_over(monkeypatch):
    def instead(command, seconds):
        folder = Path(command[command.index("--out") + 1])
        record = {"format": 1, "points": [{"a": 1}] * points, "machines": []}
        (folder / "record.json").write_text(json.dumps(record))
        return {"command": "", "status": 130, "stopped": "after 2 s, its time"}

    monkeypatch.setattr(run_on_gpu, "run_command", instead)
    for points, status in ((1, 0), (0, 130)):
        record = run_on_gpu.bench(NUMPY, Budget())
        assert record["bench"]["status"] == status
        assert record["bench"]["command"].endswith("-m gpu_lstm bench --grid full --backend numpy")
        assert len(record["record"]["points"]) == points


def test_what_is_missing_is_recorded(monkeypatch):
    monkeypatch.setattr(run_on_gpu.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(run_on_gpu.shutil, "which", lambda name: None)
    assert "not installed" in run_on_gpu.sanitizers(NumpyBackend(), Budget())["missing"]


def test_the_tests_it_names_are_there():
    assert all((ROOT / "tests" / name).exists() for name in run_on_gpu.TESTS)


def test_the_tables_on_paper_are_those_of_the_model():
    text = (ROOT / "kernels" / "cuda" / "README.md").read_text()
    for table in (
        gpu_model.gate_table(),
        gpu_model.step_table(),
        gpu_model.sequence_table(),
        gpu_model.joint_table(),
        gpu_model.options_table(),
    ):
        assert "\n".join(table) in text


def test_the_tables_of_products_beside_the_recurrence_are_those_of_the_model():
    text = (ROOT / "kernels" / "cuda" / "README.md").read_text()
    for table in (gpu_model.segment_table(), gpu_model.beside_table()):
        assert "\n".join(table) in text


def test_the_bytes_by_hand():
    # z, gates: 4 numbers each; c in and out, h out. Backward: gates, dz; c twice, dy, dh, dc in and out.
    assert gpu_model.bytes_of("training", "float32") == (4 + 4 + 1 + 1 + 1) * 4
    assert gpu_model.bytes_of("backward", "float32") == (4 + 4 + 2 + 1 + 1 + 2) * 4
    assert gpu_model.bytes_of("training", "float16") == (4 + 4 + 1) * 2 + 2 * 4
