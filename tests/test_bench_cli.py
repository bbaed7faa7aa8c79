"""`gpu-lstm bench` and `gpu-lstm profile` as a user has them: records, pages, comparison, what is refused."""

import csv
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gpu_lstm.backend import NumpyBackend
from gpu_lstm.bench import compare, grid, machine, record, report, sweep, threads
from gpu_lstm.cli import main
from gpu_lstm.recurrence import runnable_tiers
from tests.support import NUMPY

STAR = grid.Star((2, 4, 8), (2, 3, 4), (4, 8, 16), (4, 3, 8), rounds=2)
TINY = ["bench", "--peers", "none", "--no-memory"]


def make_small(monkeypatch, folder):
    """Small limits, a small grid, and threads already set, so that the command stays in this process."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(machine, "SIDE", 64)
    monkeypatch.setattr(machine, "COPIED", 1 << 16)
    monkeypatch.setitem(grid.GRIDS, "small", STAR)
    monkeypatch.setattr(sweep.Patience, "wait", lambda self: None)
    for variable in threads.VARIABLES:
        monkeypatch.setenv(variable, "2")


@pytest.fixture
def here(tmp_path, monkeypatch):
    make_small(monkeypatch, tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Results of one run."""
    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as monkeypatch:
        make_small(monkeypatch, folder)
        assert main([*TINY, "--out", "out"]) == 0
    return folder / "out"


def test_a_run_leaves_a_record_a_table_and_a_page(measured):
    found = record.read(measured / "record.json")
    assert len(found["points"]) == 7 * 2
    assert {"date", "device", "threads", "revision", "command", "numpy", "python", "compiled", "system"} <= set(found)
    assert found["threads"] == 2
    assert found["machines"][0]["flops"] > 0
    assert "ended" not in found
    point = found["points"][0]
    side = point["sides"][point["ours"]]
    assert len(side["seconds"]) == 2
    assert side["low"] <= side["median"] <= side["high"]
    assert side["error"] < 1e-4
    assert side["over_floor"] == pytest.approx(side["median"] / sum(point["floor"].values()))
    rows = list(csv.DictReader((measured / "record.csv").read_text().splitlines()))
    assert len(rows) == sum(len(point["sides"]) for point in found["points"])
    assert float(rows[0]["median_ms"]) == pytest.approx(next(iter(point["sides"].values()))["median"] * 1e3)


def test_a_run_prints_a_table(here, capsys):
    assert main([*TINY, "--grid", "T=2,B=1,H=4"]) == 0
    out = capsys.readouterr().out
    assert "training           2, 1, 4, 4" in out
    assert ("times as long: " in out) == (len(runnable_tiers(NUMPY)) > 1)
    assert "page: runs/bench/report.html" in out


def test_the_page_is_whole_and_asks_nothing_of_the_network(measured):
    text = (measured / "report.html").read_text()
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", text)
    assert "__CONTENT__" not in text
    content = json.loads(re.search(r'type="application/json">(.*?)</script>', text, re.S)[1])
    groups = {group["title"]: group["charts"] for group in content["groups"]}
    others = ["Against the others"] if len(runnable_tiers(NUMPY)) > 1 else []
    assert list(groups) == [
        "Training step: speed", "Inference: speed", *others, "Against the machine",
        "Where time and memory go", "How cost grows",
    ]  # fmt: skip
    growth = groups["How cost grows"]
    assert [chart["x"] for chart in growth] == ["hidden size", "batch", "steps"]
    assert all(re.fullmatch(r"-?\d+\.\d\d", series["text"]) for chart in growth for series in chart["series"])
    assert content["facts"]["command"]
    assert len(content["table"]) > 14


def test_every_mark_has_a_tip(measured):
    for group in report.groups_of(record.read(measured), "numpy"):
        for chart in group["charts"]:
            tips = [
                mark["tip"]
                for part in (*chart.get("series", ()), *chart.get("rows", ()))
                for mark in (*part.get("marks", ()), *part.get("bars", ()), *part.get("parts", ()))
            ]
            assert tips
            assert all(tips)


def test_the_summary_is_of_the_medians(measured):
    found = record.read(measured)
    ratios = [
        point["sides"]["reference"]["median"] / point["sides"][point["ours"]]["median"]
        for point in found["points"]
        if point["kind"] == "training" and point["ours"] != "reference"
    ]
    if not ratios:
        pytest.skip("the compiled tier is not there")
    told = found["summary"]["numpy"]["training"]["reference"]
    assert (told["least"], told["most"], told["sizes"]) == (min(ratios), max(ratios), len(ratios))
    assert told["least"] <= told["mean"] <= told["most"]


def test_the_summary_has_8_bits_over_8_bits_and_shares_of_the_large_product():
    def point(batch, **medians):
        sides = {name: {"median": seconds, "share_of_product": 1 / seconds} for name, seconds in medians.items()}
        where = {"backend": "numpy", "kind": "inference", "size": [64, batch, 256, 256], "ours": "sequence"}
        return where | {"sides": sides | {"jax": {"remark": "failed"}}}

    found = {
        "points": [
            point(1, sequence=2.0, int8=1.0, onnxruntime=4.0, torch=6.0),
            point(32, sequence=8.0, int8=2.0, torch=4.0),
            {**point(2), "ours": None},
        ]
    }
    said = report.summary(found)["numpy"]
    assert said["inference"]["torch"] == {"mean": pytest.approx(1.5**0.5), "least": 0.5, "most": 3.0, "sizes": 2}
    assert said["inference_int8"]["torch"] == {"mean": pytest.approx(12**0.5), "least": 2.0, "most": 6.0, "sizes": 2}
    assert said["inference_int8"]["onnxruntime"]["mean"] == pytest.approx(4.0)
    assert said["training"] == {}
    shares = report.shares_of_product(found)["numpy"]
    assert (shares["inference"]["least"], shares["inference_large"]["most"]) == (1 / 8, 1 / 8)
    assert shares["inference_large_torch"]["mean"] == pytest.approx(1 / 4)


def test_a_busy_machine_is_told_of_at_the_end_and_at_the_head_of_the_page(here, monkeypatch, capsys):
    def wait(self):
        self.waits += 1
        self.noisy += self.waits % 2

    for busy in (False, True):
        if busy:
            monkeypatch.setattr(sweep.Patience, "wait", wait)
        assert main([*TINY, "--grid", "T=2,B=1,H=4", "--rounds", "2", "--out", f"{busy}"]) == 0
        out, page = capsys.readouterr().out, (here / f"{busy}" / "report.html").read_text()
        told = re.search(r"the machine was busy: (\d+) of (\d+) timed steps began while something else ran", out)
        assert bool(told) == busy
        assert ('"warning": "the machine was busy' in page) == busy
        if told:
            assert 0 < int(told[1]) < int(told[2])
    assert main(["bench", "--compare", "False", "True", "--out", "both"]) == 0
    assert "; the machine was busy: " in capsys.readouterr().out
    assert '"warning": "True: the machine was busy: ' in (here / "both" / "compare.html").read_text()


def test_options_are_measured_beside_the_plain_layer(here):
    sets = ["--set", "peepholes", "zoneout_h=0.1", "--set", "num_layers=2", "bidirectional", "--set", "recompute"]
    assert main(["bench", "--grid", "T=5,B=2,H=4", "--peers", "none", "--rounds", "1", "--out", "o", *sets]) == 0
    training, inference = record.read(here / "o")["points"]
    for name in ("peepholes zoneout_h=0.1", "num_layers=2 bidirectional", "recompute"):
        assert training["sides"][name]["error"] < 1e-4 > inference["sides"][name]["error"]
        assert name in training["peak_bytes"]


def test_the_page_opens_in_a_browser_with_every_chart_drawn(measured, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    open_page = importlib.import_module("benchmarks.open_page")
    program = open_page.browser()
    if program is None:
        pytest.skip("there is no Chromium here")
    assert open_page.wrong_with(measured / "report.html", program) == ""


def test_an_interrupted_run_keeps_what_it_measured(here, monkeypatch, capsys):
    true_measure, calls = sweep.Sweep.measure, []

    def measure(self, *arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return true_measure(self, *arguments)

    monkeypatch.setattr(sweep.Sweep, "measure", measure)
    assert main([*TINY, "--out", "out"]) == 130
    found = record.read(here / "out")
    assert len(found["points"]) == 3
    assert found["ended"] == "interrupted after 3 of 14 points"
    assert "interrupted after 3 of 14 points" in (here / "out" / "report.html").read_text()
    assert "what was measured is there" in capsys.readouterr().err


def test_a_size_that_does_not_fit_is_left_out_and_the_rest_goes_on(here, monkeypatch, capsys):
    monkeypatch.setattr(NumpyBackend, "memory", lambda backend, release=False: 1e6)
    assert main(["bench", "--grid", "T=2,B=1,H=4,1024", "--peers", "none", "--rounds", "1", "--out", "out"]) == 0
    points = record.read(here / "out")["points"]
    assert ["skipped" in point for point in points] == [False, False, True, True]
    assert re.fullmatch(r"needs about \d+\.\d GB of memory; 0\.0 GB are free", points[2]["skipped"])
    assert "left out: needs about" in capsys.readouterr().out
    assert "needs about" in (here / "out" / "record.csv").read_text()


def test_a_point_that_runs_out_of_memory_says_so_and_the_rest_goes_on(here, monkeypatch):
    true_measure = sweep.Sweep.measure

    def measure(self, problem, machine):
        if problem.size[3] == 8:
            raise MemoryError("Unable to allocate 9 GiB")
        return true_measure(self, problem, machine)

    monkeypatch.setattr(sweep.Sweep, "measure", measure)
    assert (
        main(["bench", "--grid", "T=2,B=1,H=4,8,16", "--peers", "none", "--rounds", "1", "--train", "--out", "o"]) == 0
    )
    points = record.read(here / "o")["points"]
    assert [point.get("skipped") for point in points] == [None, "MemoryError: Unable to allocate 9 GiB", None]


def test_if_everything_is_left_out_there_is_a_page_still(here, monkeypatch):
    monkeypatch.setattr(NumpyBackend, "memory", lambda backend, release=False: 1.0)
    assert main(["bench", "--grid", "T=2,B=1,H=4", "--peers", "none", "--out", "out"]) == 0
    assert "needs about" in (here / "out" / "report.html").read_text()


def test_train_and_infer_choose_the_kind(here):
    for option, kinds in (("--train", {"training"}), ("--infer", {"inference"})):
        assert main(["bench", "--grid", "T=2,B=1,H=4", "--peers", "none", "--rounds", "1", "--no-memory", option]) == 0
        newest = max((here / "runs").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        assert {point["kind"] for point in record.read(newest)["points"]} == kinds
    assert sorted(path.name for path in (here / "runs").iterdir()) == ["bench", "bench-2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grid", "huge"], "grid is 'huge'; expected small, full, standard, odd, few, or sizes"),
        (["--set", "peepholes", "holes"], "'holes' is no option of the LSTM"),
        (["--set", "num_layers=0"], "num_layers is '0'; expected num_layers=NUMBER, at least 1"),
        (["--set", "recompute=1"], "recompute is '1'; expected no value"),
        (["--peers", "torhc"], "peer is 'torhc'; expected none, or some of torch, "),
        (["--backend", "tpu"], "backend is 'tpu'; expected auto, numpy, cupy or cupy:N"),
        (["--out", "file"], "--out file is a file; expected a folder"),
        (["--out", "taken"], "--out taken already holds a record; name another folder"),
        (["--compare", "a.json", "b.json"], "record a.json does not exist"),
        (["--compare", "file", "file"], "record file can't be read"),
        (["--compare", "other.json", "other.json"], "record other.json is none of gpu-lstm bench"),
        (["--compare", "script.json", "script.json"], "record script.json is none of gpu-lstm bench"),
    ],
)
def test_bad_input_is_one_line_and_status_2(here, capsys, arguments, message):
    (here / "file").write_text("not a record")
    (here / "other.json").write_text("{}")
    (here / "script.json").write_text('{"format": 1, "points": [{"size": [1, 2, 3, 4]}]}')
    (here / "taken").mkdir()
    (here / "taken" / "record.json").write_text("{}")
    assert main(["bench", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"gpu-lstm: {message}")
    assert error.count("\n") == 1
    assert not (here / "runs").exists()


@pytest.mark.parametrize("arguments", ["--rounds 0", "--threads x", "--tier fast", "--compare a.json"])
def test_bad_options_are_status_2(here, arguments):
    with pytest.raises(SystemExit) as left:
        main(["bench", *arguments.split()])
    assert left.value.code == 2


def scaled(found, factor):
    """A record as if everything took `factor` times as long."""
    copy = json.loads(json.dumps(found))
    for point in copy["points"]:
        for side in point["sides"].values():
            side["seconds"] = [factor * (1 + k / 100) for k in range(3)]
            side["median"] = factor
    return copy


def test_comparison_marks_what_changed_by_more_than_the_noise(measured):
    found = record.read(measured)
    base = scaled(found, 1.0)
    assert not any(line["changed"] for line in compare.compare(base, base))
    assert not any(line["changed"] for line in compare.compare(base, scaled(found, 1.005)))
    faster = compare.compare(base, scaled(found, 0.5))
    assert all(line["changed"] and line["ratio"] == pytest.approx(2.0) for line in faster)
    slower = compare.compare(base, scaled(found, 2.0))
    assert all(line["changed"] and line["high"] < 1 for line in slower)


def test_compare_prints_and_draws(measured, here, capsys):
    found = scaled(record.read(measured), 1.0)
    record.write(found, here / "before.json")
    record.write(scaled(found, 0.5), here / "after.json")
    capsys.readouterr()
    assert main(["bench", "--compare", "before.json", "after.json", "--out", "both"]) == 0
    out = capsys.readouterr().out
    assert out.count("CHANGED") == len(compare.compare(found, found))
    text = (here / "both" / "compare.html").read_text()
    assert "after against before" in text
    assert "more than the noise" in text


def test_records_with_nothing_in_common_are_refused(measured, here, capsys):
    found = record.read(measured)
    record.write(found, here / "a.json")
    record.write(found | {"points": []}, here / "b.json")
    assert main(["bench", "--compare", "a.json", "b.json"]) == 2
    assert "have no point and side in common" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_starts_itself_again_with_threads_set(tmp_path):
    """A process of its own, without the variables: both sides get the number that was asked for."""
    environment = {name: value for name, value in os.environ.items() if name not in threads.VARIABLES}
    arguments = [
        "bench",
        "--grid",
        "T=2,B=1,H=4",
        "--peers",
        "none",
        "--rounds",
        "1",
        "--threads",
        "1",
        "--no-memory",
        "--out",
        "out",
    ]
    result = subprocess.run(
        [sys.executable, "-m", "gpu_lstm", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    found = record.read(tmp_path / "out")
    assert found["threads"] == 1
    assert found["command"] == "gpu-lstm " + " ".join(arguments)


def test_profile_prints_a_table_and_writes_a_trace(here, capsys):
    arguments = ["--hidden-size", "8", "--embedding-size", "4", "--batch", "3", "--length", "5", "--steps", "2"]
    assert main(["profile", *arguments]) == 0
    out = capsys.readouterr().out
    assert "training step" in out
    assert "recurrence forward" in out
    content = json.loads((here / "trace.json").read_text())
    steps = [event for event in content["traceEvents"] if event["name"] == "training step"]
    assert len(steps) == 2
    inside = [event for event in content["traceEvents"] if event["ph"] == "X" and event["name"] != "training step"]
    whole = steps[0]["ts"], steps[1]["ts"] + steps[1]["dur"]
    assert all(whole[0] <= event["ts"] and event["ts"] + event["dur"] <= whole[1] + 1e-3 for event in inside)
    # What the step waits for; the batch after it is made in another thread, beside what follows.
    assert [event["name"] for event in inside if event["cat"] == "batch"] == ["batch"] * 2


def test_profile_refuses_a_place_it_cannot_write(here, capsys):
    assert main(["profile", "--out", "missing/trace.json"]) == 2
    assert "lies in a folder that does not exist" in capsys.readouterr().err
    assert main(["profile", "--out", "."]) == 2
