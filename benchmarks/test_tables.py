"""The README's numbers from the records: by value, and what is refused."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks import tables

RECORD = {
    "device": "A CPU", "cores": 2, "threads": 2, "python": "3.11", "numpy": "2.4", "date": "2026-11-24T10:00:00+00:00",
    "revision": "abc123", "command": "gpu-lstm bench --grid standard",
    "summary": {"numpy": {"training": {"torch": {"mean": 1.444, "least": 1.2, "sizes": 2}}}},
    "points": [{"sides": {"sequence": {"share_of_product": 0.8}}}],
}  # fmt: skip
MEAN = "summary.numpy.training.torch.mean"


@pytest.fixture
def results(tmp_path):
    (tmp_path / "torch.json").write_text(json.dumps(RECORD))
    return tmp_path


@pytest.mark.parametrize(
    ("mark", "text"),
    [
        (f"torch.json {MEAN} .2f", "1.44"),
        ("torch.json summary.numpy.training.torch.least .1f", "1.2"),
        ("torch.json points.0.sides.sequence.share_of_product .0%", "80%"),
    ],
    ids=["one", "least", "percent"],
)
def test_a_number(results, mark, text):
    before = f"reaches <!-- n: {mark} -->9.99<!-- /n --> times"
    after = tables.made(before, results)
    assert after == f"reaches <!-- n: {mark} -->{text}<!-- /n --> times"
    assert tables.made(after, results) == after


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("other.json a .2f", "record other.json can't be read"),
        ("torch.json summary.numpy.speed .2f", "has no summary.numpy.speed"),
        ("torch.json points.1.sides .2f", r"has no points.1.sides \(at 1\)"),
        ("torch.json device .2f", "device is no number"),
        ("torch.json cores .2z", "'.2z' is no format for a number"),
    ],
)
def test_a_mark_that_fits_no_record_is_refused(results, mark, message):
    with pytest.raises(tables.WrongMark, match=message):
        tables.made(f"<!-- n: {mark} -->1<!-- /n -->", results)


def test_machine_and_tables(results):
    text = "<!-- machine: torch.json -->old<!-- /machine -->\n<!-- files --><!-- /files -->"
    made = tables.made(text, results)
    assert "A CPU, 2 cores, 2 threads on each side, Python 3.11, NumPy 2.4, 2026-11-24, revision abc123" in made
    assert "| `torch.json` | A CPU, 2 threads | 2026-11-24 | abc123 | `gpu-lstm bench --grid standard` |" in made
    assert "old" not in made
    assert tables.made(made, results) == made


def test_a_cpu_has_a_column_for_each_set_once_it_is_recorded(results):
    text = "<!-- cpu -->as before<!-- /cpu -->"
    assert tables.made(text, results) == text
    (results / "cpu_training_step_avx2.json").write_text(json.dumps(RECORD))
    ratio = {"mean": 2.0, "least": 1.5, "most": 2.5, "sizes": 3}
    told = {"inference": {"onnxruntime": ratio}, "inference_int8": {"torch": ratio | {"least": 2.0, "most": 2.0}}}
    (results / "cpu_few_avx2.json").write_text(json.dumps(RECORD | {"summary": {"numpy": told}}))
    (results / "cpu_model_avx2.json").write_text(json.dumps({"streaming": {"microseconds": {"ours": 41.3}}}))
    made = tables.made(text, results)
    assert "as before" not in made
    assert "| times as fast, geometric mean, least to most | AVX2 | command |" in made
    assert (
        "| 1, 2, 4 sequences over ONNX Runtime | **2.00**, 1.50 to 2.50 | `gpu-lstm bench --grid few --infer` |" in made
    )
    assert "| 8-bit weights over `torch.nn.LSTM` | 2.00 |" in made
    assert "one step a call: microseconds | 41 | the same |" in made
    assert "| inference over `torch.nn.LSTM`, 7 sizes | not measured |" in made
    assert tables.made(made, results) == made


def test_check_says_what_differs(results, monkeypatch, capsys, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("first line\n<!-- n: torch.json summary.numpy.training.torch.mean .2f -->1.90<!-- /n -->\n")
    monkeypatch.setattr(tables, "FILES", [readme])
    monkeypatch.setattr(tables, "RESULTS", results)
    monkeypatch.setattr("sys.argv", ["tables", "--check"])
    assert tables.main() == 1
    assert "line 2 says" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["tables"])
    assert tables.main() == 0
    assert ">1.44<" in readme.read_text()
    monkeypatch.setattr("sys.argv", ["tables", "--check"])
    assert tables.main() == 0


@pytest.mark.parametrize("program", ["model", "guard", "estimators", "record"])
def test_what_is_not_compiled_is_not_measured_but_said_in_a_line(program):
    command = [sys.executable, "-m", f"benchmarks.{program}"]
    environment = os.environ | {"GPU_LSTM_COMPILED": "0"}
    ended = subprocess.run(command, cwd=tables.HERE.parent, env=environment, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.endswith("`pip install -e .` builds it\n")
    assert ended.stderr.count("\n") == 1
