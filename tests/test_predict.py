"""What `gpu-lstm predict` says, and `train regress` and `train label` with it: on the command line."""

import csv
import io
import json
import re

import numpy as np
import pytest

from gpu_lstm.cli import main
from gpu_lstm.data.sequences import read_sequences
from gpu_lstm.training.checkpoint import load_model
from tests.support import NUMPY

SMALL = ["--backend", "numpy", "--hidden-size", "4", "--epochs", "2", "--validations", "1", "--series", "id"]
KINDS = {"classify": ["--label", "kind"], "regress": ["--target", "y", "z"], "label": ["--label", "state"]}


def table(labels=True, order=("id", "u", "v"), count=24):
    rng = np.random.default_rng(0)
    out = io.StringIO()
    names = [*order, *(["kind", "y", "z", "state"] if labels else [])]
    rows = csv.DictWriter(out, names)
    rows.writeheader()
    for n in range(count):
        values = rng.normal(size=(3 + n % 4, 2)).round(4)
        for k, (u, v) in enumerate(values):
            row = {"id": f"s{n}", "u": u, "v": v}
            more = {"kind": "ab"[n % 2], "y": values.sum().round(4), "z": n, "state": "xyz"[k % 3]}
            rows.writerow(row | more if labels else row)
    return out.getvalue()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    (folder / "t.csv").write_text(table())
    for kind, options in KINDS.items():
        asked = [*options, *SMALL, "--columns", "u", "v", "--out", str(folder / kind)]
        assert main(["train", kind, str(folder / "t.csv"), *asked]) == 0
    return folder


def predicted(runs, kind, text, tmp_path, *more):
    data = tmp_path / "new.csv"
    data.write_text(text)
    assert main(["predict", str(runs / kind), "--data", str(data), "--out", str(tmp_path / "p.csv"), *more]) == 0
    with open(tmp_path / "p.csv", newline="") as file:
        return list(csv.DictReader(file)), read_sequences(data, ["kind"], "id", ["u", "v"], target=None)


def model_of(runs, kind):
    return load_model(runs / kind / "model.safetensors", kind, NUMPY)[0]


def test_classes_and_their_probabilities_without_labels_and_in_another_order_of_columns(runs, tmp_path):
    rows, data = predicted(runs, "classify", table(labels=False, order=("v", "id", "u")), tmp_path)
    assert [row["id"] for row in rows] == [f"s{n}" for n in range(24)]
    logits = model_of(runs, "classify").logits(*data.batch(np.arange(24))[:2])
    for row, scores in zip(rows, logits, strict=True):
        assert float(row["p(b)"]) == pytest.approx(1 / (1 + np.exp(scores[0] - scores[1])), abs=1e-6)
        assert float(row["p(a)"]) + float(row["p(b)"]) == pytest.approx(1)
        assert row["predicted"] == "ab"[int(scores.argmax())]


def test_numbers_about_sequences(runs, tmp_path):
    rows, data = predicted(runs, "regress", table(labels=False), tmp_path)
    expected = model_of(runs, "regress").predict(*data.batch(np.arange(24))[:2])
    found = [[float(row["y"]), float(row["z"])] for row in rows]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_labels_of_steps_and_json(runs, tmp_path):
    rows, data = predicted(runs, "label", table(labels=False), tmp_path, "--json")
    assert len(rows) == len(data.values)
    assert [row["step"] for row in rows[:4]] == ["0", "1", "2", "0"]
    assert json.loads((tmp_path / "p.json").read_text())[0]["predicted"] == rows[0]["predicted"]
    logits = model_of(runs, "label").logits(*data.batch(np.arange(24))[:2])
    assert rows[3]["predicted"] == "xyz"[int(logits[0, 1].argmax())]


def test_labels_that_are_there_are_no_features_and_classes_may_be_new(runs, tmp_path):
    without, _ = predicted(runs, "classify", table(labels=False), tmp_path)
    with_new, _ = predicted(runs, "classify", table().replace(",a,", ",new,"), tmp_path)
    assert with_new == without


def test_standard_input(runs, tmp_path, monkeypatch):
    expected, _ = predicted(runs, "classify", table(labels=False), tmp_path)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(table(labels=False).encode())))
    assert main(["predict", str(runs / "classify"), "--data", "-", "--out", str(tmp_path / "q.csv")]) == 0
    assert (tmp_path / "q.csv").read_text() == (tmp_path / "p.csv").read_text()
    assert len(expected) == 24


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("classify", "id,u\ns,1\n", "has no column 'v'"),
        ("label", "u,v\n1,2\n", "has no column 'id'"),
        ("regress", "id,u,v\ns,1,x\n", "column 'v'"),
    ],
)
def test_what_is_missing_is_refused_by_name(runs, tmp_path, capsys, kind, text, message):
    (tmp_path / "new.csv").write_text(text)
    assert main(["predict", str(runs / kind), "--data", str(tmp_path / "new.csv")]) == 2
    assert message in capsys.readouterr().err
    assert not (runs / kind / "predictions.csv").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_evaluate_takes_the_part_that_training_left(runs, kind, capsys):
    assert main(["evaluate", str(runs / kind), "--backend", "numpy"]) == 0
    printed = capsys.readouterr().out
    assert {"classify": "of 5 sequences right", "regress": "5 sequences\n", "label": "of 5 sequences"}[kind] in printed
    expected = {"classify": "always 'b'", "regress": "mean of the training targets", "label": "recall"}[kind]
    assert expected in printed


def test_a_kind_without_shipped_data_asks_for_some(capsys):
    assert main(["train", "label"]) == 2
    assert "needs data: gpu-lstm train label FILE" in capsys.readouterr().err


def test_a_share_to_test_on_is_refused_where_the_data_say_which(tmp_path, capsys):
    rows = [f"{n},{'train' if n < 8 else 'test'},{n % 2},{n % 3}.5" for n in range(10)]
    (tmp_path / "t.csv").write_text("\n".join(["id,split,label,u", *rows]))
    assert main(["train", "classify", str(tmp_path / "t.csv"), *SMALL, "--test", "0.3"]) == 2
    assert "--test is 0.3; expected none, for the data have a column 'split'" in capsys.readouterr().err


def test_a_run_of_labels_goes_on_to_the_same_bytes(runs, tmp_path, monkeypatch):
    from gpu_lstm.training import Run

    arguments = ["train", "label", str(runs / "t.csv"), *KINDS["label"], *SMALL, "--columns", "u", "v"]
    going = Run.go
    monkeypatch.setattr(Run, "go", lambda self, report, stop: going(self, report, lambda: self.step == 1))
    assert main([*arguments, "--out", str(tmp_path / "r")]) == 130
    monkeypatch.setattr(Run, "go", going)
    assert main(["train", "--resume", str(tmp_path / "r")]) == 0
    one, other = ((folder / "model.safetensors").read_bytes() for folder in (tmp_path / "r", runs / "label"))
    assert one == other


@pytest.fixture(scope="module")
def wave(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wave")
    rng = np.random.default_rng(0)
    values = np.sin(np.arange(300) / 4) + 0.02 * rng.normal(size=300)
    values[250] += 4
    rows = [f"2026-01-{1 + k // 24:02d} {k % 24:02d}:00,{value:.5f}" for k, value in enumerate(values)]
    (folder / "s.csv").write_text("\n".join(["time,v", *rows]))
    small = ["--hidden-size", "8", "--epochs", "3", "--validations", "1", "--backend", "numpy", "--horizon", "4"]
    assert main(["train", "series", str(folder / "s.csv"), *small, "--length", "32", "--out", str(folder / "r")]) == 0
    return folder


def test_anomalies_of_a_series_come_first_with_their_times(wave, capsys):
    asked = ["predict", str(wave / "r"), "--data", str(wave / "s.csv"), "--anomalies", "--normal", "0.7"]
    assert main([*asked, "--out", str(wave / "p.csv")]) == 0
    with open(wave / "p.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 300
    assert rows[0]["time"] == "2026-01-11T10:00" and rows[0]["anomaly"] == "yes"
    early = sum(row["anomaly"] == "" for row in rows)
    assert early > 1 and all((row["v unexpected"] == "") == (row["anomaly"] == "") for row in rows)
    said = capsys.readouterr().out
    assert "usual is what the first 210 of 300 rows have" in said and f"{early} steps are not judged" in said
    assert main([*asked[:-2], "--normal", "1.5", "--out", str(wave / "p.csv")]) == 2
    assert "--normal is 1.5" in capsys.readouterr().err


def test_a_forecaster_says_what_comes_after(wave, capsys):
    asked = ["predict", str(wave / "r"), "--data", str(wave / "s.csv"), "--steps", "6", "--json"]
    assert main([*asked, "--out", str(wave / "f.csv")]) == 0
    assert len(json.loads((wave / "f.json").read_text())) == 12  # the last 6 known, and the next 6
    said = capsys.readouterr().out
    assert "2026-01-13T17:00" in said and "looks back" not in said
    (wave / "few.csv").write_text("\n".join((wave / "s.csv").read_text().splitlines()[:4]))
    assert main(["forecast", str(wave / "r"), "--data", str(wave / "few.csv"), "--csv", str(wave / "f.csv")]) == 0
    assert re.search(r"note: 3 known steps, and the forecast looks back to \d+", capsys.readouterr().out)


def test_anomalies_are_of_series(runs, capsys):
    asked = ["predict", str(runs / "label"), "--data", str(runs / "t.csv"), "--anomalies"]
    assert main(asked) == 2
    assert "--anomalies is for forecasters" in capsys.readouterr().err
