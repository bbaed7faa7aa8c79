"""Mixed precision: 16 bits in what layers pass on, float32 in sums and parameters, a scaled loss with float16."""

import builtins
import itertools
import math
from functools import partial

import numpy as np
import pytest

from gpu_lstm import LSTM, BackendError, InputError, LSTMCell
from gpu_lstm.bench.problem import Problem
from gpu_lstm.cli import main
from gpu_lstm.inspect.activations import activations
from gpu_lstm.inspect.reach import gradient_reach
from gpu_lstm.layers import Linear
from gpu_lstm.models import MODELS, Classifier, Forecaster, LanguageModel, Regressor
from gpu_lstm.native.launch import Device
from gpu_lstm.recurrence import runnable_tiers
from gpu_lstm.training import Run, Settings, checkpoint
from gpu_lstm.training.folder import newest, read_log
from gpu_lstm.training.memory import Job, predict
from gpu_lstm.training.tasks import ClassifyTask, SeriesTask, TextTask
from tests import test_family
from tests.gpu import DTYPES, Gpu, HostBackend, on_host, stored
from tests.support import NUMPY, STRICT, loss_and_gradients, problem, relative_error
from tests.test_training import sequences, wave

SHORT = [dtype for dtype in DTYPES if "16" in dtype]
TOLERANCE = {"float16": 4e-3, "bfloat16": 3e-2}
"""A few roundings to 11 and to 8 bits."""
KINDS = ("text", "series", "classify")
"""What is trained from the command line."""


@pytest.fixture(params=["numpy", pytest.param("cupy", marks=pytest.mark.gpu)])
def place(request):
    """NumPy, and a GPU where there is one."""
    return NUMPY if request.param == "numpy" else Gpu()


def made(kind, backend, dtype, tier="auto", dropout=0.0):
    """A small model and a call that gives its loss and gradients on fixed data."""
    more = {"backend": backend, "dtype": dtype, "tier": tier, "dropout": dropout}
    seed = (1,) if dropout else None
    if kind == "text":
        model = LanguageModel(7, 3, 8, 2, **more)
        tokens = backend.asarray(np.random.default_rng(0).integers(0, 7, (9, 4)))
        return model, lambda: model.loss(tokens, seed=seed)[::2]
    values = np.random.default_rng(1).standard_normal((9, 4, 2))
    if kind == "series":
        model = Forecaster([0.0, 0.0], [1.0, 1.0], [1.0, 1.0], 3, 4, 8, **more)
        return model, lambda: model.loss(values, 2, seed=seed)
    lengths = np.array([9, 1, 4, 6])
    if kind == "regress":
        model = Regressor([0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 2.0], 8, **more)
        return model, lambda: model.loss(values, lengths, np.arange(8.0).reshape(4, 2), seed=seed)
    model = Classifier([0.0, 0.0], [1.0, 1.0], 3, 8, **more)
    return model, lambda: model.loss(values, lengths, np.array([0, 2, 1, 1]), seed=seed)


def task_of(kind, backend, dtype, dropout=0.0):
    """A small task that can be learned."""
    more = {"backend": backend, "dtype": dtype, "dropout": dropout}
    if kind == "text":
        tokens = np.tile([0, 1, 2, 3, 1, 4, 5, 0, 2], 40)
        return TextTask(LanguageModel(6, 4, 8, **more), tokens, batch=4, length=8, validation=0.2, seed=0)
    if kind == "series":
        model = Forecaster([0, 0], [1, 4], [0.3, 1], 3, 6, 8, **more)
        return SeriesTask(model, wave(), batch=8, length=12, parts=(0.6, 0.2), loss="mse", seed=0)
    return ClassifyTask(Classifier([0] * 3, [1] * 3, 2, 8, **more), sequences(), batch=8, validation=0.25, seed=0)


def run_of(task, folder, **more):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    return Run(
        task, Settings(**{"epochs": 4, "learning_rate": 0.04, "warm_up": 3, "validations": 3, **more}), folder, {}
    )


def weights(task):
    return {name: task.model.backend.to_numpy(param) for name, param in task.model.params.items()}


# -- layers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", SHORT)
def test_what_is_in_16_bits_and_what_is_not(place, dtype):
    lstm = LSTM(3, 8, 2, bidirectional=True, backend=place, dtype=dtype)
    x = place.asarray(np.ones((5, 2, 3)), dtype)
    y, (h, c), tape = lstm.forward(x, lstm.zero_state(2))
    dx, (dh0, dc0), gradients = lstm.backward(tape, y, (h, c))
    assert {str(array.dtype) for array in (y, h, dx, dh0)} == {dtype}
    wide = [c, dc0, *gradients.values(), *lstm.params.values()]
    assert {str(array.dtype) for array in wide} == {"float32"}
    with pytest.raises(InputError, match=f"x has dtype float32; expected {dtype}"):
        lstm.forward(place.asarray(np.ones((5, 2, 3)), "float32"))
    with pytest.raises(InputError, match=f"c0 has dtype {dtype}; expected float32"):
        lstm.forward(x, (h, place.asarray(c, dtype)))


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("dtype", SHORT)
def test_unequal_lengths_and_states_on_every_tier(place, dtype, recompute):
    oracle = LSTM(3, 8, 2, bidirectional=True, backend=NUMPY, tier="reference", dtype="float64")
    data = problem(oracle, 6, 3)
    expected_loss, expected = loss_and_gradients(oracle, data, [3, 6, 1])
    for tier in runnable_tiers(place, 8, dtype):
        lstm = LSTM(3, 8, 2, bidirectional=True, backend=place, dtype=dtype, tier=tier, recompute=recompute)
        for name, param in oracle.params.items():
            lstm.params[name][...] = place.asarray(param, "float32")
        state = place.asarray(data["h0"], dtype), place.asarray(data["c0"], "float32")
        arriving = place.asarray(data["dh"], dtype), place.asarray(data["dc"], "float32")
        y, (h, c), tape = lstm.forward(place.asarray(data["x"], dtype), state, [3, 6, 1])
        loss = sum(np.sum(on_host(place, a) * data[b]) for a, b in ((y, "dy"), (h, "dh"), (c, "dc")))
        assert loss == pytest.approx(expected_loss, abs=100 * TOLERANCE[dtype])
        dx, (dh0, dc0), gradients = lstm.backward(tape, place.asarray(data["dy"], dtype), arriving)
        for name, array in {"x": dx, "h0": dh0, "c0": dc0, **gradients}.items():
            assert relative_error(on_host(place, array), expected[name]) < TOLERANCE[dtype], (tier, name)


JUMPS = ("clip", "cell_clip", "hard_sigmoid", "cell_activation")
"""Options at whose edges gradients jump, where a rounded input crosses them."""


def family_results(place, options, params, dtype, begins):
    """Outputs and all gradients of the family's example, in float64 on the host."""
    lstm = test_family.made(options, backend=place, dtype=dtype, tier="auto" if dtype in SHORT else "reference")
    for name, param in (params or {}).items():
        lstm.params[name][...] = place.asarray(param, lstm.param_dtype)
    short = ("x", "h0", "dh", "dy")
    data = {
        name: place.asarray(array, lstm.dtype if name in short else lstm.param_dtype)
        for name, array in test_family.data_for(lstm).items()
    }
    y, (h, c), tape = lstm.forward(data["x"], (data["h0"], data["c0"]), [4, 2, 3], (5,), resets=begins)
    dy = (data["dy"], data["dcells"]) if lstm.options.cells else data["dy"]
    dx, (dh0, dc0), gradients = lstm.backward(tape, dy, (data["dh"], data["dc"]))
    assert {str(array.dtype) for array in gradients.values()} == {lstm.param_dtype}
    outputs = {"h": h, "c": c, **({"y": y[0], "cells": y[1]} if lstm.options.cells else {"y": y})}
    found = [outputs, {"x": dx, "h0": dh0, "c0": dc0, **gradients}]
    return lstm, [{name: on_host(place, array) for name, array in part.items()} for part in found]


@pytest.mark.parametrize("resets", [False, True], ids=["", "resets"])
@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("option", [*test_family.ON, "all"])
def test_every_option_in_16_bits(place, option, dtype, resets, monkeypatch):
    """As close to float64 as that with rounded weights is, up to a factor: layer normalisation amplifies roundings."""
    monkeypatch.setattr(test_family, "HIDDEN", 32)
    on = test_family.ON
    options = {name: on[name] for name in on if name not in JUMPS} if option == "all" else {option: on[option]}
    begins = np.random.default_rng(0).random((test_family.STEPS, test_family.BATCH)) < 0.3 if resets else None
    oracle, expected = family_results(place, options, None, "float64", begins)
    params = {name: place.to_numpy(param) for name, param in oracle.params.items()}
    rounded = {name: stored(param, dtype).astype(np.float64) for name, param in params.items()}
    _, moved = family_results(place, options, rounded, "float64", begins)
    _, actual = family_results(place, options, params, dtype, begins)
    for part in range(1 if option in JUMPS else 2):
        limit = max(relative_error(moved[part][name], expected[part][name]) for name in expected[part])
        for name, array in expected[part].items():
            assert relative_error(actual[part][name], array) < max(TOLERANCE[dtype], 8 * limit), name


@pytest.mark.parametrize("dtype", SHORT)
def test_a_cell_takes_the_steps_of_the_layer(place, dtype):
    lstm, cell = (made(3, 8, backend=place, dtype=dtype, tier="reference", seed=1) for made in (LSTM, LSTMCell))
    x = place.asarray(np.random.default_rng(0).standard_normal((4, 2, 3)), dtype)
    y, (h_last, c_last), _ = lstm.forward(x)
    h = c = None
    for t in range(4):
        h, c, tape = cell.forward(x[t, ...], None if h is None else (h, c))
        assert relative_error(on_host(place, h), on_host(place, y[t, ...])) < TOLERANCE[dtype]
    assert (str(h.dtype), str(c.dtype)) == (dtype, "float32")
    dx, (dh, dc), gradients = cell.backward(tape, h_last[0, ...], c_last[0, ...])
    assert [str(array.dtype) for array in (dx, dh, dc)] == [dtype, dtype, "float32"]
    assert {str(array.dtype) for array in gradients.values()} == {"float32"}


@pytest.mark.parametrize("dtype", SHORT)
def test_gradients_of_weights_are_sums_in_float32(place, dtype):
    """65,536 ones: in 16 bits the sum would stay at 2,048, or at 256."""
    linear = Linear(2, 1, backend=place, dtype=dtype)
    _, tape = linear.forward(place.asarray(np.ones((2**16, 2)), dtype))
    _, gradients = linear.backward(tape, place.asarray(np.ones((2**16, 1)), dtype))
    assert on_host(place, gradients["weight"]).tolist() == [[2**16, 2**16]]
    assert on_host(place, gradients["bias"]).tolist() == [2**16]


def test_a_gpu_without_bfloat16_says_so():
    old = HostBackend(limits=Device(multiprocessors=2, shared_bytes=40 * 1024, capability=75))
    with pytest.raises(BackendError, match=r"bfloat16 needs compute capability 8\.0; cuda has 7\.5, where float16"):
        LSTM(2, 3, backend=old, dtype="bfloat16")
    assert LSTM(2, 3, backend=old, dtype="float16").dtype == "float16"


def test_a_backend_without_16_bits_says_so():
    with pytest.raises(BackendError, match="backend strict has no dtype bfloat16"):
        LSTM(2, 3, backend=STRICT, dtype="bfloat16")


# -- models -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("kind", MODELS)
def test_a_step_is_close_to_that_of_float64(place, kind, dtype, dropout):
    loss, gradients = made(kind, place, "float64", "reference", dropout)[1]()
    expected = {name: on_host(place, array) for name, array in gradients.items()}
    for tier in runnable_tiers(place, 8, dtype):
        value, gradients = made(kind, place, dtype, tier, dropout)[1]()
        assert place.read(value)[0] == pytest.approx(place.read(loss)[0], rel=TOLERANCE[dtype])
        for name, array in gradients.items():
            assert str(array.dtype) == "float32"
            assert relative_error(on_host(place, array), expected[name]) < TOLERANCE[dtype], (tier, name)


@pytest.mark.parametrize("kind", MODELS)
def test_the_loss_is_scaled_before_anything_is_rounded_to_16_bits(place, kind):
    """Scaled down by 2^-16, gradients leave float16's range; scaled by 2^-16 and 2^26 they don't."""
    expected = {name: on_host(place, array) for name, array in made(kind, place, "float32")[1]()[1].items()}
    errors = []
    for scale in (2.0**-16, 2.0**10):
        model, step = made(kind, place, "float16")
        model.loss_scale = scale
        found = {name: on_host(place, array) / scale for name, array in step()[1].items()}
        errors.append(max(relative_error(found[name], expected[name]) for name in expected))
    assert errors[1] < TOLERANCE["float16"] < errors[0]


@pytest.mark.parametrize("dtype", SHORT)
def test_a_bench_problem_has_numbers_that_the_dtype_has(dtype):
    problem = Problem((4, 3, 5, 6), "training", dtype, NUMPY)
    for array in (problem.x, problem.dy, *problem.weights.values()):
        np.testing.assert_array_equal(on_host(NUMPY, NUMPY.asarray(array, dtype)), array)
    for tier in runnable_tiers(NUMPY):
        assert 0 < problem.error(problem.our_step(tier)()) < TOLERANCE[dtype]


# -- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("kind", KINDS)
def test_training_ends_about_where_that_in_float32_ends(place, kind, dtype, tmp_path):
    outcomes, first = {}, {}
    for each in ("float32", dtype):
        run = run_of(task_of(kind, place, each), tmp_path / each)
        outcomes[each] = run.go(lambda event: None, lambda: False)
        lines = read_log(tmp_path / each / "log.jsonl")
        first[each] = lines[0]["loss"]
        assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    assert outcomes[dtype].skipped == 0
    assert first[dtype] == pytest.approx(first["float32"], rel=TOLERANCE[dtype])
    assert outcomes[dtype].best == pytest.approx(outcomes["float32"].best, rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_an_overflow_is_skipped_and_the_scale_falls_and_grows_again(place, kind, tmp_path):
    task = task_of(kind, place, "float16")
    run = run_of(task, tmp_path)
    run.scaler.scale, run.scaler.growth_interval = 2.0**24, 6
    before, scales, skips = weights(task), [], []

    def report(event):
        scales.append(run.scaler.scale)
        skips.append(bool(event.skipped))
        if event.skipped:
            assert "the loss was scaled by" in event.skipped
        if not any(not skip for skip in skips):  # no step has counted yet
            assert all(np.array_equal(array, before[name]) for name, array in weights(task).items())

    outcome = run.go(report, lambda: False)
    assert outcome.end == "finished"
    assert outcome.skipped == sum(skips) > 0
    falls = sum(later < earlier for earlier, later in itertools.pairwise(scales))
    assert falls + (scales[0] < 2.0**24) == sum(skips)
    assert any(later > earlier for earlier, later in itertools.pairwise(scales))
    assert run.optimizer.updates == run.steps - outcome.skipped
    assert math.isfinite(outcome.best)
    assert any(not np.array_equal(array, before[name]) for name, array in weights(task).items())


@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_to_the_same_bits(place, kind, dtype, tmp_path):
    tasks = []
    for name, stop_after in (("whole", None), ("parts", 5)):
        task = task_of(kind, place, dtype, dropout=0.2)
        run = run_of(task, tmp_path / name)
        run.scaler.growth_interval = 3
        run.go(lambda event: None, lambda run=run, at=stop_after: run.step == at)
        tasks.append((task, run))
    task = task_of(kind, place, dtype, dropout=0.2)
    run = run_of(task, tmp_path / "parts")
    run.scaler.growth_interval = 3
    arrays, description = newest(tmp_path / "parts")[1:3]
    assert {array.dtype for array in arrays.values()} == {np.dtype("float32")}
    run.resume(arrays, description)
    assert run.scaler.state() == tasks[1][1].scaler.state()
    run.go(lambda event: None, lambda: False)
    whole = weights(tasks[0][0])
    assert all(array.tobytes() == whole[name].tobytes() for name, array in weights(task).items())
    assert run.scaler.state() == tasks[0][1].scaler.state()


def test_what_was_trained_in_16_bits_is_used_in_float32_anywhere(place, tmp_path):
    task = task_of("text", place, SHORT[-1])
    run_of(task, tmp_path).go(lambda event: None, lambda: False)
    model, description = checkpoint.load_model(tmp_path / "model.safetensors", "text", NUMPY)
    assert (description["dtype"], model.dtype) == (SHORT[-1], "float32")
    assert all(np.array_equal(model.params[name], array) for name, array in weights(task).items())


@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("kind", ["text", "series"])
def test_what_a_model_in_16_bits_does_can_be_looked_at(place, kind, dtype):
    data = np.arange(9) % 7 if kind == "text" else np.random.default_rng(1).standard_normal((12, 2))
    wide, short = (made(kind, place, each)[0] for each in ("float32", dtype))
    for look in (activations, partial(gradient_reach, reach=3, windows=2)):
        expected, found = look(wide, data), look(short, data)
        for name, array in expected.items():
            assert relative_error(found[name].astype(np.float64), array) < TOLERANCE[dtype], name


@pytest.mark.parametrize("dtype", SHORT)
def test_a_model_in_16_bits_is_exported_with_its_parameters_as_they_are(dtype):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    from gpu_lstm.interop.onnx import to_onnx

    model = made("text", NUMPY, dtype)[0]
    tables = [onnx.numpy_helper.to_array(tensor) for tensor in to_onnx(model).graph.initializer]
    assert any(np.array_equal(table, model.params["embedding.weight"]) for table in tables)
    with pytest.raises(InputError, match=f"dtype is {dtype}; expected one of float32, float64"):
        to_onnx(model, dtype)


# -- on the command line ----------------------------------------------------------------------------------------------

TEXT = "To be, or not to be, that is the question.\n" * 40


@pytest.mark.parametrize("dtype", SHORT)
def test_train_resume_sample_and_evaluate(dtype, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    arguments = [
        "train",
        "text",
        "text.txt",
        "--dtype",
        dtype,
        "--backend",
        "numpy",
        "--hidden-size",
        "8",
        "--batch",
        "4",
    ]
    assert main([*arguments, "--length", "16", "--epochs", "2", "--out", "run"]) == 0
    said = capsys.readouterr().out
    assert f" parameters, {dtype}, tier " in said
    assert f"note: here, numbers of {dtype} are computed with in float32 and then rounded" in said
    assert main(["train", "--resume", "run", "--backend", "numpy"]) == 0
    assert "is finished" in capsys.readouterr().out
    assert main(["sample", "run", "--backend", "numpy", "--length", "9", "--prompt", "To"]) == 0
    assert main(["evaluate", "run", "--backend", "numpy"]) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_without_ml_dtypes_is_refused_in_one_line(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    real = builtins.__import__

    def without(name, *more, **named):
        if name == "ml_dtypes":
            raise ImportError(name)
        return real(name, *more, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["train", kind, "--dtype", "bfloat16", "--backend", "numpy"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "dtype bfloat16 needs ml_dtypes; install it with `pip install ml_dtypes`" in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_kernels_that_store_in_16_bits_need_less_memory(dtype):
    config = {"vocabulary_size": 90, "embedding_size": 64, "hidden_size": 512, "num_layers": 2, "dropout": 0.1}
    wide, short = (predict(Job("text", config, each, "adam", steps=128, batch=64)) for each in ("float32", dtype))
    assert (short.parameters, short.optimizer, short.gradients) == (wide.parameters, wide.optimizer, wide.gradients)
    rounded = (wide.parameters - 4 * 90 * 64) // 2
    assert 0.5 < (short.activations - rounded) / wide.activations < 0.65
