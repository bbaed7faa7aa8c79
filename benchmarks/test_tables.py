"""The README's numbers from the records: by value, and what is refused."""

import json

import pytest

from benchmarks import tables

RECORD = {
    "device": "A CPU", "cores": 2, "threads": 2, "python": "3.11", "numpy": "2.4", "date": "2026-11-24T10:00:00+00:00",
    "revision": "abc123", "command": "python -m benchmarks.compare_torch --rounds 9",
    "geometric_mean_ratio": {"training": 1.444, "inference": 1.5},
    "points": [
        {
            "size": [64, 32, 128, 128], "peak_bytes": {"ours": 8e6, "torch": None},
            **{
                kind: {"seconds": {"ours": [1e-3], "theirs": [ratio * 1e-3]}, "ratio": ratio, "share_of_sgemm": 0.8}
                for kind, ratio in (("training", 1.2), ("inference", 1.6))
            },
        },
        {
            "size": [1, 2, 3, 4], "peak_bytes": {"ours": 1e6, "torch": 2e6},
            **{
                kind: {"seconds": {"ours": [2e-3], "theirs": [6e-3]}, "ratio": 3.0, "share_of_sgemm": 0.5}
                for kind in ("training", "inference")
            },
        },
    ],
}  # fmt: skip


@pytest.fixture
def results(tmp_path):
    (tmp_path / "torch.json").write_text(json.dumps(RECORD))
    return tmp_path


@pytest.mark.parametrize(
    ("mark", "text"),
    [
        ("torch.json geometric_mean_ratio.training .2f", "1.44"),
        ("torch.json points.0.training.share_of_sgemm .0%", "80%"),
        ("torch.json points.*.training.ratio min .1f", "1.2"),
        ("torch.json points.*.training.ratio max .1f", "3.0"),
        ("torch.json points.*.training.ratio mean .3f", "1.897"),
    ],
    ids=["one", "percent", "min", "max", "mean"],
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
        ("torch.json geometric_mean_ratio.speed .2f", "has no geometric_mean_ratio.speed"),
        ("torch.json points.*.training.ratio .2f", "is 2 numbers; expected min, max or mean"),
        ("torch.json device .2f", "device is no number"),
        ("torch.json cores .2z", "'.2z' is no format for a number"),
    ],
)
def test_a_mark_that_fits_no_record_is_refused(results, mark, message):
    with pytest.raises(tables.WrongMark, match=message):
        tables.made(f"<!-- n: {mark} -->1<!-- /n -->", results)


def test_machine_and_tables(results):
    text = "<!-- machine: torch.json -->\n<!-- /machine -->\n<!-- table: torch.json -->old<!-- /table -->\n"
    made = tables.made(text + "<!-- files --><!-- /files -->", results)
    assert "A CPU, 2 cores, 2 threads on each side, Python 3.11, NumPy 2.4, 2026-11-24, revision abc123" in made
    assert "| 64, 32, 128, 128 | 1.00 | 1.20 | **1.20** | 80% | 1.00 | 1.60 | **1.60** | 80% | 8 / ? |" in made
    assert "| geometric mean |  |  | **1.44** |" in made
    assert "| `torch.json` | A CPU, 2 threads | 2026-11-24 | abc123 |" in made
    assert "old" not in made
    assert tables.made(made, results) == made


def test_check_says_what_differs(results, monkeypatch, capsys, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("first line\n<!-- n: torch.json geometric_mean_ratio.training .2f -->1.90<!-- /n -->\n")
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
