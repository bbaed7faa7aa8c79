"""What a run shows of itself: its loss picture, and lines in a log that no terminal shows."""

import json
import math

import pytest

from gpu_lstm.cli import main, pictures, progress
from gpu_lstm.cli.progress import span

SMALL = ["--hidden-size", "4", "--epochs", "2", "--validations", "3", "--batch", "4"]
ARGUMENTS = {
    "text": ["t.txt", "--length", "8", "--embedding-size", "2", "--sample-length", "0"],
    "series": ["t.csv", "--length", "16", "--horizon", "4"],
    "classify": ["c.csv", "--validation", "0.2"],
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.txt").write_text("the quick brown fox\n" * 30, encoding="utf-8")
    rows = "\n".join(f"{math.sin(k / 4):.4f}" for k in range(300))
    (tmp_path / "t.csv").write_text(f"v\n{rows}\n", encoding="utf-8")
    rows = "\n".join(f"{n},{'ab'[n % 2]},{n % 2 + k}" for n in range(24) for k in range(3))
    (tmp_path / "c.csv").write_text(f"series,label,v\n{rows}\n", encoding="utf-8")
    return tmp_path


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved, drawn."""
    found = []

    def keep(figure, path):
        figure.savefig(path)
        found.append(figure)

    monkeypatch.setattr(pictures, "_save", keep)
    return found


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_every_loss_picture_has_a_held_out_curve_in_its_own_unit(here, figures, kind):
    assert main(["train", kind, *ARGUMENTS[kind], *SMALL, "--out", "r"]) == 0
    (figure,) = figures
    log = [json.loads(line) for line in (here / "r" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    scores = [line["score"] for line in log if "score" in line]
    assert len(scores) >= 2
    curves = {line.get_label(): line for axis in figure.axes for line in axis.lines}
    assert list(curves["held out"].get_ydata()) == scores
    assert len(curves["training"].get_ydata()) == len(log)
    labels = [axis.get_ylabel() for axis in figure.axes]
    assert labels == {"text": ["bits/char"], "classify": ["nats"], "series": ["scaled loss", "RMSE"]}[kind]
    assert figure.axes[-1].get_xlabel() == "training step"


def test_a_legend_covers_neither_data_nor_title(here, figures):
    log = [{"step": k, "loss": 1 / k} | ({"score": 2 / k} if k % 50 == 0 else {}) for k in range(1, 1000)]
    pictures.loss_curve(log, here / "p.png", ("nats", "nats"), "a name of a folder that is too long to be a title")
    pictures.loss_curve(log, here / "p.png", ("nats", "m"), "r")
    for figure in figures:
        for axis in figure.axes:
            legend = axis.get_legend().get_window_extent()
            assert legend.y0 >= axis.bbox.y1 - 1
            assert axis._left_title.get_window_extent().x1 < legend.x0
            low, high = axis.get_ylim()
            held = [line for line in axis.lines if line.get_label() == "held out"]
            assert all(low < value < high for line in held for value in line.get_ydata())


@pytest.mark.parametrize(
    "log",
    [[{"step": 1, "loss": 1.0}], [{"step": 1}, {"step": 2, "loss": 3.0, "score": 3.0}], [{"step": 1, "score": 1.0}],
     [{"step": 1, "loss": math.inf}, {"step": 2, "loss": 0.0}]],
)  # fmt: skip
def test_a_log_of_few_lines_or_of_steps_without_a_loss_is_drawn(here, log):
    pictures.loss_curve(log, here / "p.png", ("nats", "m"), "r")
    assert (here / "p.png").stat().st_size > 1000


def test_a_log_without_a_terminal_has_a_line_a_minute(here, capsys, monkeypatch):
    now = iter(range(0, 10**6, 7))
    monkeypatch.setattr(progress.time, "perf_counter", lambda: float(next(now)))
    assert main(["train", "series", *ARGUMENTS["series"], *SMALL, "--epochs", "6", "--out", "r"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    between = [line for line in lines if "held" not in line and " of " in line.split(":")[0]]
    assert len(between) >= 3
    assert between[0].split(":")[0].split(" of ")[1].isdigit()
    assert "scaled loss in training, " in between[0]
    assert between[0].endswith(" left")


def test_times_for_people():
    assert [span(seconds) for seconds in (0, 40, 89, 90, 600, 5399, 5400, 86400, 86400 * 12)] == [
        "0 s", "40 s", "89 s", "1.5 min", "10 min", "90 min", "1.5 h", "24 h", "12 days",
    ]  # fmt: skip
