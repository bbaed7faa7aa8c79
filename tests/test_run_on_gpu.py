"""The nine minutes of a GPU, rehearsed without one: parts that hang or crash, a command that is killed, every part."""

import dataclasses
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest

from gpu_lstm.backend import CupyBackend, NumpyBackend
from gpu_lstm.bench import peers
from gpu_lstm.layers import overtime
from gpu_lstm.native.launch import Device
from gpu_lstm.recurrence.cuda import planner
from gpu_lstm.recurrence.cuda.beside import beside
from tests.support import NUMPY

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


model, gpu_model, tables = map(benchmark, ("model", "gpu_model", "tables"))
machine_on_gpu, on_gpu, right_on_gpu, run_on_gpu, speed_on_gpu = (
    benchmark(f"{name}on_gpu") for name in ("machine_", "", "right_", "run_", "speed_")
)
Case = speed_on_gpu.Case
H100 = Device(multiprocessors=132, shared_bytes=227 * 1024, capability=90, clusters=16)


# -- the command, with parts that stand in --------------------------------------------------------------------------

STAND_IN = """
import os, pathlib, sys, time
sys.path.append({root!r})
from benchmarks import right_on_gpu, run_on_gpu
from gpu_lstm.backend import CupyBackend, NumpyBackend

here = pathlib.Path(__file__).parent


def times(log, *names):
    for name in names:
        log.item(name, lambda: {{"seconds": 1.0, "said": "measured"}})


def stuck():
    (here / "stuck").touch()
    while (here / "stuck").exists():
        time.sleep(0.01)
    return {{"seconds": 1.0}}


def hangs(backend, log):
    times(log, "before")
    log.item("hangs", stuck)
    times(log, "after")


def crashes(backend, log):
    times(log, "before")
    log.item("crashes", lambda: os._exit(9) if not (here / "mended").exists() else {{"seconds": 1.0}})
    times(log, "after")
    log.item("fails", lambda: 1 / 0 if not (here / "mended").exists() else {{"seconds": 1.0}})


def tests(backend, log):
    os.environ["MENDED"] = str(here / "mended")
    right_on_gpu.files_of_tests = lambda: [str(here / "test_stand_in.py")]
    right_on_gpu.tests(backend, log)


def late(backend, log):
    log.end_of_time = 0.0 if not (here / "mended").exists() else log.end_of_time
    times(log, "late")


def ahead(backend, log):
    with (here / "ahead").open("a") as file:
        file.write("done, ")


passed = 0


def clock():
    # Hours for what hangs, more at each look: what is tested depends on no machine's speed.
    global passed
    if {impatient} and (here / "stuck").exists():
        passed = min(passed + 100, 15000)
    return time.monotonic() + passed


run_on_gpu.PARTS = {{
    "fine": run_on_gpu.Part(lambda backend, log: times(log, "one", "two"), "shared", 50000),
    "ahead": run_on_gpu.Part(ahead, "ahead", 50000, always=True),
    "hangs": run_on_gpu.Part(hangs, "hangs", 50000),
    "crashes": run_on_gpu.Part(crashes, "shared", 50000),
    "tests": run_on_gpu.Part(tests, "tests", 50000),
    "late": run_on_gpu.Part(late, "late", 50000),
    "last": run_on_gpu.Part(lambda backend, log: times(log, "last"), "last", 60),
}}
run_on_gpu.PROGRAM = [__file__]
run_on_gpu.device = lambda number: NumpyBackend()
run_on_gpu.now, run_on_gpu.SILENCE = clock, 10000.0
if __name__ == "__main__":
    sys.exit(run_on_gpu.main())
"""


TESTS = """
import os, pathlib, pytest

mended = pathlib.Path(os.environ["MENDED"]).exists()
pytestmark = pytest.mark.gpu

def test_passes(): pass
def test_crashes(): mended or os._exit(9)
def test_fails(): assert mended, "not mended"
def test_skips(): pytest.skip("no need")
"""


class StandIn:
    """The command with those parts in a folder."""

    def __init__(self, folder, impatient):
        self.folder, self.out = folder, folder / "out"
        self.program = folder / "stand_in.py"
        self.program.write_text(STAND_IN.format(root=str(ROOT), impatient=impatient))
        (folder / "test_stand_in.py").write_text(TESTS)
        self.command = [sys.executable, str(self.program), "--out", str(self.out), "--seconds", "1000000"]

    def go(self):
        return subprocess.run(self.command, capture_output=True, text=True, timeout=300)

    def items(self):
        """All there are, by part and name; what each file holds is JSON at any time."""
        records = [json.loads(path.read_text()) for path in self.out.glob("*.json")]
        return {re.sub("/.*::", "/", name): item for record in records for name, item in record["items"].items()}


@pytest.mark.slow
def test_a_part_that_hangs_and_one_that_crashes_take_nothing_along_and_a_second_command_does_the_rest(tmp_path):
    stand_in = StandIn(tmp_path, impatient=True)
    run = stand_in.go()
    assert run.returncode == 1, run.stdout + run.stderr
    items = stand_in.items()
    assert items.keys() == {
        "fine/one", "fine/two", "hangs/before", "hangs/hangs", "hangs/after",
        "crashes/before", "crashes/crashes", "crashes/after", "crashes/fails", "last/last",
        "tests/test_passes", "tests/test_crashes", "tests/test_fails", "tests/test_skips",
    }  # fmt: skip
    broken = {name: item["error"] for name, item in items.items() if "error" in item}
    assert broken.keys() == {
        "hangs/hangs", "crashes/crashes", "crashes/fails", "tests/test_crashes", "tests/test_fails",
    }  # fmt: skip
    assert broken["tests/test_fails"].startswith("E   AssertionError: not mended")
    assert "no need" in items["tests/test_skips"]["skipped"]
    assert broken["hangs/hangs"].startswith("begun, and never ended: its process was killed after")
    assert broken["crashes/crashes"] == "begun, and never ended: its process was ended with status 9"
    assert broken["crashes/fails"] == "ZeroDivisionError: division by zero"
    assert "  one: measured" in run.stdout
    assert "hangs/hangs: begun, and never ended" in run.stdout.split("failed:")[1]
    late = json.loads((stand_in.out / "late.json").read_text())["parts"]["late"]
    assert late["left_out"] == ["late"]
    shared = json.loads((stand_in.out / "shared.json").read_text())
    assert {"date", "device", "python", "numpy", "revision", "gpu", "command"} <= shared.keys()
    assert str(stand_in.out) not in shared["command"]
    assert "| `out/shared.json` |" in tables.files(tmp_path)
    assert shared["parts"]["fine"]["ended"] == "well"
    assert len(list(stand_in.out.iterdir())) <= 8
    assert "  after: measured" in (stand_in.out / "log.txt").read_text()

    (tmp_path / "mended").touch()
    (tmp_path / "stuck").unlink()
    stand_in.program.write_text(STAND_IN.format(root=str(ROOT), impatient=False).replace("stuck)", "dict)"))
    again = stand_in.go()
    assert again.returncode == 0, again.stdout + again.stderr
    assert "nothing failed" in again.stdout
    rest = stand_in.items()
    assert rest.keys() == items.keys() | {"late/late"}
    assert not any("error" in item for item in rest.values())
    assert {name for name in items if rest[name]["run"] != items[name]["run"]} == broken.keys()
    assert stand_in.go().stdout.count("==") == 0  # nothing is left to do
    assert (tmp_path / "ahead").read_text() == "done, done, "

    of_another = shared | {"gpu": {"device": "another"}, "parts": {}}
    on_gpu.write(of_another, stand_in.out / "shared.json")
    refused = stand_in.go()
    assert refused.returncode == 2
    assert "the record is of another, and this is" in refused.stdout
    assert json.loads((stand_in.out / "shared.json").read_text()) == of_another


def until(holds):
    end = time.monotonic() + 100
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_command_that_is_killed_leaves_what_it_had_and_no_process(tmp_path, end):
    stand_in = StandIn(tmp_path, impatient=False)
    process = subprocess.Popen(stand_in.command, stdout=subprocess.DEVNULL)
    until((tmp_path / "stuck").exists)
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    command = Path(f"/proc/{child}/cmdline")  # empty where nobody has asked how it ended
    process.send_signal(end)
    process.wait()
    until(lambda: not command.exists() or not command.read_bytes())
    items = stand_in.items()
    assert items.keys() == {"fine/one", "fine/two", "hangs/before", "hangs/hangs"}
    assert items["hangs/hangs"]["error"].startswith("begun, and never ended")
    (tmp_path / "stuck").unlink()
    (tmp_path / "mended").touch()
    stand_in.program.write_text(STAND_IN.format(root=str(ROOT), impatient=False).replace("stuck)", "dict)"))
    assert stand_in.go().returncode == 0
    rest = stand_in.items()
    assert len(rest) == 15
    assert all(rest[name] == items[name] for name in items.keys() - {"hangs/hangs"})


def test_without_a_gpu_it_is_refused_in_a_line_and_leaves_nothing(tmp_path):
    (tmp_path / "cupy.py").write_text("raise ModuleNotFoundError('none', name='cupy')")
    command = [sys.executable, "-m", "benchmarks.run_on_gpu", "--out", str(tmp_path / "out")]
    run = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 2
    assert run.stdout.count("CuPy is not installed") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--device", "-1"], "--device at least 0"),
        (["--only", "all"], "--only has all; expected some of describe, compile"),
        (["--seconds", "0"], "--seconds above 0"),
        (["--rehearse"], "has a record of measurements"),
    ],
)
def test_bad_arguments_are_refused(arguments, said, monkeypatch, capsys, tmp_path):
    on_gpu.write({"rehearsal": False, "parts": {}, "items": {}}, tmp_path / "a.json")
    monkeypatch.setattr(sys, "argv", ["run_on_gpu", "--out", str(tmp_path), *arguments])
    with pytest.raises(SystemExit, match="2"):
        run_on_gpu.main()
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("parts", [run_on_gpu.PARTS, run_on_gpu.SECOND])
def test_the_parts_are_nine_minutes_in_eight_files(parts):
    assert sum(part.seconds for part in parts.values()) == 540
    assert len({part.file for part in parts.values()}) <= 6  # and the log, and one that is being written
    assert len(right_on_gpu.files_of_tests()) >= 6


def test_what_is_printed_ends_before_the_terminal_does(tmp_path, capsys):
    terminal = run_on_gpu.Terminal(tmp_path / "log.txt")
    for part in ("one", "two"):
        terminal.title(part)
        for _ in range(100):
            terminal.say("x" * 1000)
    said = capsys.readouterr().out
    assert len(said) <= run_on_gpu.PRINTED
    assert said.index("two") <= run_on_gpu.PRINTED / 2
    assert (tmp_path / "log.txt").stat().st_size == 8 + 200 * 1001


# -- every part -------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("second", [False, True])
def test_all_of_it_runs(tmp_path, second):
    command = [sys.executable, "-m", "benchmarks.run_on_gpu", "--rehearse", "--out", str(tmp_path / "out")]
    few = os.environ | {"GPU_LSTM_DEVICE_MULTIPROCESSORS": "16"}  # of a device that is none: grids are small
    run = subprocess.run([*command, *["--second"] * second], cwd=ROOT, env=few, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "nothing failed" in run.stdout
    assert len(run.stdout) < 12000
    parts, items = {}, {}
    for path in (tmp_path / "out").glob("*.json"):
        record = json.loads(path.read_text())
        assert record["rehearsal"] is True
        assert record["gpu"]["device"]
        parts |= record["parts"]
        items |= record["items"]
    assert parts.keys() == (run_on_gpu.SECOND if second else run_on_gpu.PARTS).keys()
    assert all(part["ended"] == "well" and not part["left_out"] for part in parts.values())
    lacking = {name for name, item in items.items() if "missing" in item}
    # What another machine may have.
    waiting = {"state", "PyTorch", "memcheck", "racecheck"}
    assert {name.split("/")[1] for name in lacking} <= waiting
    count = {name: sum(key.startswith(f"{name}/") for key in items.keys() - lacking) for name in parts}
    if second:
        assert min(count[name] for name in ("grid", "shapes", "options", "models", "over_time")) == 1
        return
    expected = {
        "forms": 5,
        "dtypes": 2,
        "costs": 9,
        "tests": 2,
        "headline": 4,
        "relaxed": 1,
        "steps": 3,
    }
    assert {name: count[name] for name in expected} == expected
    for name in ("forms/block", "forms/cluster", "forms/grid", "forms/joint", "forms/stack"):
        assert 0 < items[name]["difference"] < 2e-5
    for form, words in (("block", "blocks alone"), ("cluster", "clusters of 8"), ("joint", "grid in clusters of 8")):
        assert words in items[f"forms/{form}"]["backward"]
    assert sum(items["soak/problems"]["forms"].values()) == 3
    assert items["steps/tiers"]["checked"]["sequence"]["error"] < 1e-5


# -- layers against PyTorch -------------------------------------------------------------------------------------------


@pytest.fixture
def torch(monkeypatch):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)  # it has no float16 LSTM on a CPU
    return torch


class Planned(NumpyBackend):
    """NumPy, for which layouts are planned as for a GPU."""

    limits, tf32 = H100, False


@pytest.fixture
def everywhere(monkeypatch):
    """PyTorch's sides of a GPU on the CPU, too."""
    sides = [dataclasses.replace(peer, devices=("cpu", "gpu")) for peer in peers.PEERS]
    monkeypatch.setattr(peers, "PEERS", sides)
    monkeypatch.setattr(speed_on_gpu, "another", lambda backend, tf32: backend)


def test_in_16_bits_the_better_of_pytorch_s_two_is_what_ours_is_compared_with(torch, everywhere, tmp_path):
    pytest.importorskip("ml_dtypes")
    log = on_gpu.Log(tmp_path / "a.json", "headline", Planned(), rehearse=True)
    found = speed_on_gpu.point(log, Case((4, 2, 8, 8), "float16"))
    for kind in ("training", "inference"):
        medians = {side: spread["median"] for side, spread in found[kind]["seconds"].items()}
        assert medians.keys() == {"ours", "torch", "torch-other-16"}
        assert found[f"ratio_{kind}"] == min(medians["torch"], medians["torch-other-16"]) / medians["ours"]
        assert 0 < found[kind]["checked"]["torch"]["error"] < 2e-2
    assert "us a step expected" in found["forward"]


def test_float32_is_compared_in_tf32_too(torch, everywhere, tmp_path):
    log = on_gpu.Log(tmp_path / "a.json", "headline", Planned(), rehearse=True)
    found = speed_on_gpu.point(log, Case((4, 2, 8, 8), options="num_layers=2", ragged=True))
    sides = {"ours", "one by one", "ours in tf32", "torch", "torch-tf32"}
    assert found["training"]["seconds"].keys() == found["inference"]["seconds"].keys() == sides
    assert found["ratio_tf32_training"] > 0 < found["ratio_training"]
    assert not torch.backends.cudnn.allow_tf32
    assert machine_on_gpu.torch_loaded(NUMPY)["torch"] == torch.__version__


def test_a_point_at_which_ours_is_wrong_has_no_times(tmp_path):
    def wrong(problem):
        step = problem.our_step()
        return lambda: {name: 2 * array for name, array in step().items()}

    log = on_gpu.Log(tmp_path / "a.json", "headline", Planned(), rehearse=True)
    with pytest.raises(RuntimeError, match="ours: wrong: differs by 1.0e\\+00, 1e-04 allowed"):
        speed_on_gpu.measured(log, Case((4, 2, 8, 8)).problem(NUMPY), [peers.Side("ours", "", wrong)])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_models_are_trained_beside_pytorch_in_every_dtype(torch, tmp_path, monkeypatch, dtype):
    pytest.importorskip("ml_dtypes")
    log = on_gpu.Log(tmp_path / "a.json", "models", NUMPY, rehearse=True)
    size = {"embedding_size": 4, "hidden_size": 8, "num_layers": 2}, 2, 4, dtype
    found = speed_on_gpu.one_model(NUMPY, log, *size)
    assert len(found["first_losses"]["ours"]) == len(found["first_losses"]["torch"]) == model.CHECKED_STEPS
    assert found["characters_per_second"]["ours"] == pytest.approx(8 / found["seconds"]["ours"]["median"])
    real = model.torch_training
    monkeypatch.setattr(model, "torch_training", lambda *task: lambda: 2 * real(*task)())
    with pytest.raises(RuntimeError, match="first losses differ"):
        speed_on_gpu.one_model(NUMPY, log, *size)


def test_one_sequence_over_time_and_bits_that_do_not_repeat(tmp_path, monkeypatch):
    before = overtime.STEPS, overtime.TRIAL, overtime.LEAST_STEPS
    log = on_gpu.Log(tmp_path / "a.json", "over_time", NUMPY, rehearse=True)
    speed_on_gpu.over_time(NUMPY, log)
    (item,) = log.results()
    assert item["seconds"].keys() == {"plain", "rounded in sequence", "rounded"} and item["over_time"]
    assert item["apart"] == 0 and item["ratio"] > 0
    assert before == (overtime.STEPS, overtime.TRIAL, overtime.LEAST_STEPS)
    places = iter(range(12, 15))
    monkeypatch.setattr(overtime, "PLACES", mock.MagicMock(__getitem__=lambda *_: next(places)))
    with pytest.raises(RuntimeError, match="bits repeat: False"):
        speed_on_gpu.one_sequence(log, 1024, 8, "float32")


def test_the_most_telling_cases_come_first():
    assert str(speed_on_gpu.HEADLINE[0]) == "T=1024 B=16 D=768 H=768 float16"
    cases = speed_on_gpu.grid()
    assert cases[:2] == [speed_on_gpu.PUBLISHED, Case((256, 64, 512, 512), "float16")]
    assert len(set(cases)) == len(cases) > 3 * 4 * 6 * 3
    assert {Case(size) for size in speed_on_gpu.STANDARD} < set(cases)
    first = speed_on_gpu.shapes()[:4]
    assert [str(case).split(" float16")[1] for case in first] == [
        ", num_layers=3", ", unequal lengths", ", bidirectional", ", num_layers=3 bidirectional, unequal lengths",
    ]  # fmt: skip


@pytest.mark.gpu
def test_a_form_is_looked_at_alone_and_tf32_beside_float32():
    backend = CupyBackend()
    for form, direction in (("block", "forward"), ("joint", "backward"), ("grid", "backward")):
        limits = speed_on_gpu.another(backend, form=form).limits
        assert planner.choose(limits, direction, 16, 24, "float32").form == form
    assert isinstance(
        planner.choose(speed_on_gpu.another(backend, form="block").limits, "forward", 9, 512, "float32"), str
    )
    assert speed_on_gpu.another(backend, tf32=True).tf32 and not backend.tf32


# -- on paper ---------------------------------------------------------------------------------------------------------


def test_something_goes_beside_in_every_case_that_is_timed():
    for case in speed_on_gpu.BESIDE:
        _, batch, width, hidden = case.size
        one, two = 256 * batch * 4 * hidden, 1 + ("bidirectional" in case.options)
        saved = [
            beside(H100, direction, (256, batch, hidden), case.dtype, one * two * products, two).saved
            for direction, products in (("forward", width), ("backward", 2 * width + hidden))
        ]
        assert max(saved) > 0


def test_the_tables_on_paper_are_those_of_the_model():
    text = (ROOT / "kernels" / "cuda" / "README.md").read_text()
    for table in gpu_model.TABLES:
        assert "\n".join(table()) in text


def test_the_bytes_by_hand():
    # z, gates: 4 numbers each; c in and out, h out. Backward: gates, dz; c twice, dy, dh, dc in and out.
    assert gpu_model.bytes_of("training", "float32") == (4 + 4 + 1 + 1 + 1) * 4
    assert gpu_model.bytes_of("backward", "float32") == (4 + 4 + 2 + 1 + 1 + 2) * 4
    assert gpu_model.bytes_of("training", "float16") == (4 + 4 + 1) * 2 + 2 * 4
