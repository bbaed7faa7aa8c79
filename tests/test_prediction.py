"""Predicted memory against measured memory, and what is said where it doesn't fit."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_lstm import InputError
from gpu_lstm.backend.host import free_memory
from gpu_lstm.cli import main
from gpu_lstm.models import MODELS
from gpu_lstm.models.amounts import model_amounts
from gpu_lstm.native import compiled
from gpu_lstm.training.memory import Job, check_fits, predict, readable
from tests.support import NUMPY
from tests.test_training import TASKS

CONFIGS: dict[str, dict[str, Any]] = {
    "text": {"vocabulary_size": 90, "embedding_size": 64, "hidden_size": 384, "num_layers": 2, "dropout": 0.1},
    "series": {
        "mean": [0.0], "spread": [1.0], "step_spread": [1.0],
        "horizon": 12, "memory": 24, "hidden_size": 256, "num_layers": 1, "dropout": 0.0,
    },
    "classify": {
        "mean": [0.0] * 12, "spread": [1.0] * 12,
        "num_classes": 9, "hidden_size": 192, "num_layers": 1, "bidirectional": True, "dropout": 0.3,
    },
}  # fmt: skip
JOBS = {
    "text": Job("text", CONFIGS["text"], "float32", "adam", steps=128, batch=64),
    "text, large vocabulary": Job(
        "text", CONFIGS["text"] | {"vocabulary_size": 3000, "num_layers": 1}, "float32", "adam", steps=64, batch=64
    ),
    "text, recompute": Job(
        "text", CONFIGS["text"] | {"hidden_size": 256}, "float32", "sgd", steps=400, batch=64, recompute=True
    ),
    "text, float64": Job("text", CONFIGS["text"] | {"dropout": 0.0}, "float64", "rmsprop", steps=64, batch=64),
    "text, float16": Job("text", CONFIGS["text"], "float16", "adam", steps=128, batch=64, widened=True),
    "text, bfloat16, recompute": Job(
        "text",
        CONFIGS["text"] | {"hidden_size": 256},
        "bfloat16",
        "sgd",
        steps=400,
        batch=64,
        recompute=True,
        widened=True,
    ),
    "text, projected": Job(
        "text", CONFIGS["text"] | {"lstm": {"proj_size": 96}}, "float32", "adam", steps=128, batch=64
    ),
    "text, zoneout": Job(
        "text",
        CONFIGS["text"] | {"lstm": {"zoneout_c": 0.1, "zoneout_h": 0.1, "peepholes": True}},
        "float32",
        "adam",
        steps=128,
        batch=64,
    ),
    "text, layer norm": Job(
        "text", CONFIGS["text"] | {"lstm": {"layer_norm": True}}, "float32", "adam", steps=128, batch=64
    ),
    "series": Job("series", CONFIGS["series"], "float32", "adamw", steps=256, batch=64),
    "classify": Job("classify", CONFIGS["classify"], "float32", "adamw", steps=120, batch=96),
    "classify, all summaries of frames": Job(
        "classify",
        CONFIGS["classify"] | {"pooling": ["mean", "max", "last"], "frames": [4, 2]},
        "float32",
        "adamw",
        steps=120,
        batch=96,
    ),
    "label": Job("label", CONFIGS["classify"], "float32", "adamw", steps=120, batch=96),
    "classify, bfloat16": Job("classify", CONFIGS["classify"], "bfloat16", "adamw", steps=120, batch=96, widened=True),
}

MEASURE = """
import json, sys, tempfile
import numpy as np
from pathlib import Path
sys.path.append(sys.argv[2])  # at the end: gpu_lstm is the installed one
from gpu_lstm.data.sequences import Sequences
from gpu_lstm.models import MODELS
from gpu_lstm.training import Run, Settings
from gpu_lstm.training.tasks import ClassifyTask, LabelTask, SeriesTask, TextTask
from tests import test_training as small

job = json.loads(sys.argv[1])
config, steps, batch = job["config"], job["steps"], job["batch"]
rng = np.random.default_rng(0)
if job["kind"] == "text":
    data = rng.integers(0, config["vocabulary_size"], 6 * batch * (steps + 1)).astype(np.uint16)
elif job["kind"] == "series":
    data = rng.normal(size=(2000, 1))
else:
    count = 3 * batch
    lengths = np.full(count, steps * config.get("frames", [1, 1])[1])
    of_steps = job["kind"] == "label"
    labels = np.arange(lengths.sum() if of_steps else count) % config["num_classes"]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    data = Sequences(list("abcdefghijkl"), [str(n) for n in range(9)], rng.normal(size=(lengths.sum(), 12)), starts,
                     labels, np.zeros(count, bool), of_steps=of_steps)
settings = Settings(epochs=1, learning_rate=1e-3, optimizer=job["optimizer"], validations=1)
np.ones((2000, 900), np.float32) @ np.ones((900, 900), np.float32)  # BLAS takes its buffers here, once
with tempfile.TemporaryDirectory() as folder:  # libraries load and start their threads here
    for kind, make in small.TASKS.items():
        Run(make(), small.settings(epochs=1), Path(folder, kind), {}).go(lambda event: None, lambda: True)

def resident(field):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024

before = resident("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # resets the peak
model = MODELS[job["kind"]](**config, dtype=job["dtype"], backend="numpy", recompute=job["recompute"])
if job["kind"] == "text":
    task = TextTask(model, data, batch, steps, 0.2, 0)
elif job["kind"] == "series":
    task = SeriesTask(model, data, batch, steps, (0.6, 0.2), "mse", 0)
else:
    task = (LabelTask if of_steps else ClassifyTask)(model, data, batch, 0.2, 0)
with tempfile.TemporaryDirectory() as folder:
    run = Run(task, settings, Path(folder), {})
    run.save = lambda: None
    run.go(lambda event: None, lambda: run.step == 2)
print(resident("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux' /proc")
@pytest.mark.skipif(bool(compiled.missing()), reason="BLAS has buffers of its own, which nothing tells the size of")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in CONFIGS else [pytest.mark.slow]) for name in JOBS]
)
def test_the_predicted_peak_is_within_a_tenth_of_the_measured(name):
    job = JOBS[name]
    root = str(Path(__file__).parent.parent)
    command = [sys.executable, "-P", "-c", MEASURE, json.dumps(vars(job)), root]
    child = subprocess.run(command, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    measured, predicted = int(child.stdout), predict(job).peak
    assert predicted == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("kind", TASKS)
def test_amounts_are_those_of_the_model(kind):
    model = TASKS[kind]().model
    amounts = model_amounts(kind, model.config)
    parts = {layer: sum(array.size for array in model.layers[layer].params.values()) for layer in model.layers}
    assert {name: amounts[name] for name in parts} == parts
    biases = sum(array.size for name, array in model.params.items() if name.startswith("lstm.bias"))
    assert amounts["lstm_biases"] == biases


def test_amounts_of_several_layers_and_directions():
    config = CONFIGS["classify"] | {"num_layers": 3, "hidden_size": 7}
    model = MODELS["classify"](**config, backend=NUMPY)
    amounts = model_amounts("classify", config)
    assert amounts["lstm"] + amounts["head"] == model.count()


def test_recomputation_is_predicted_to_need_less():
    job = Job("text", CONFIGS["text"], "float32", "adam", steps=4096, batch=64)
    again = Job(**{**vars(job), "recompute": True})
    assert predict(again).peak < predict(job).peak / 3


def test_longer_segments_and_products_beside_the_next_one_need_more_again():
    job = Job("text", CONFIGS["text"], "float32", "adam", steps=4096, batch=64, recompute=True)
    peaks = [
        predict(replace(job, **more)).peak for more in ({}, {"least_steps": 256}, {"least_steps": 256, "beside": True})
    ]
    assert peaks == sorted(set(peaks))
    assert peaks[-1] < predict(replace(job, recompute=False)).peak / 3
    # One layer's gates, h and c of a segment: 4 + 1 + 1 numbers a unit.
    assert peaks[2] - peaks[1] == 256 * 64 * CONFIGS["text"]["hidden_size"] * 6 * 4
    short = replace(job, steps=256)
    assert predict(short) == predict(replace(short, least_steps=256, beside=True))


@pytest.mark.parametrize(
    ("available", "told"),
    [
        (2 * 10**8, [r"needs 264.7 MB of memory, 200.0 MB are free; would fit: --length 64 \(", r".*--batch 32 \("]),
        (10**6, ["a smaller --hidden-size is needed"]),
    ],
)
def test_what_would_fit_is_told(available, told):
    with pytest.raises(InputError) as error:
        check_fits(JOBS["text"], available)
    for part in told:
        error.match(part)


def test_recomputation_is_offered_where_it_helps():
    with pytest.raises(InputError, match=r"would fit: --recompute \("):
        check_fits(Job("text", CONFIGS["text"], "float32", "adam", steps=8192, batch=64), 8 * 10**9)


def test_what_fits_or_can_not_be_told_passes():
    check_fits(JOBS["text"], 10**9)
    check_fits(JOBS["text"], None)


def test_free_memory_is_the_smaller_of_machine_and_control_group(tmp_path):
    assert free_memory(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    4000 kB\n")
    assert free_memory(tmp_path) == 4000 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("3000000\n")
    (group / "memory.current").write_text("2000000\n")
    (group / "memory.stat").write_text("anon 5\ninactive_file 500000\n")
    assert free_memory(tmp_path) == 1_500_000
    (group / "memory.max").write_text("max\n")
    assert free_memory(tmp_path) == 4000 * 1024


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2.5e9, "2.5 GB"), (4e13, "40.0 TB")]
)
def test_sizes_for_people(size, text):
    assert readable(size) == text


@pytest.mark.parametrize("kind", ["text", "series", "classify"])
def test_a_dry_run_prints_the_parts_and_trains_nothing(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = []
    if kind == "text":
        Path("t.txt").write_text("to be or not to be\n" * 60)
        data = ["t.txt", "--batch", "4"]
    assert main(["train", kind, *data, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    first = [line.split()[0] for line in lines]
    assert first[0] == "backend:" and first[-5:] == ["parameters", "optimizer", "gradients", "activations", "peak"]
    assert not Path("runs").exists()


def test_what_does_not_fit_is_refused_before_anything_is_allocated(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text("to be or not to be\n" * 600)
    sizes = ["--hidden-size", str(10**9), "--num-layers", str(10**9)]
    assert main(["train", "text", "t.txt", *sizes]) == 2
    assert "a smaller --hidden-size is needed" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_run_with_recomputation_ends_with_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text("to be or not to be, that is the question\n" * 800)
    command = ["train", "text", "t.txt", "--hidden-size", "8", "--batch", "8", "--length", "1024", "--epochs", "1"]
    for name, more in (("plain", []), ("again", ["--recompute"])):
        assert main([*command, "--sample-length", "0", "--out", name, *more]) == 0
    one, other = (
        np.frombuffer(max(Path(n).glob("resume-*")).read_bytes()[-4000:], np.uint8) for n in ("plain", "again")
    )
    assert np.array_equal(one, other)
