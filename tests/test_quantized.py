"""Weights of 8 bits and of bfloat16: sums by whole numbers, the recurrence step by step, models, files, ONNX."""

import copy
import os
import pickle

import numpy as np
import pytest

from gpu_lstm import LSTM, Embedding, Linear, LSTMCell
from gpu_lstm.backend import choose
from gpu_lstm.cli import main
from gpu_lstm.errors import BackendError, InputError
from gpu_lstm.inspect import activations
from gpu_lstm.layers import Dropout
from gpu_lstm.models import Classifier, Forecaster, LanguageModel, Regressor, quantize
from gpu_lstm.native import compiled
from gpu_lstm.recurrence import Problem, inference, quantized
from gpu_lstm.recurrence.quantized import MOST, Quantized
from gpu_lstm.training import checkpoint
from tests.support import NUMPY, STRICT

needs_library = pytest.mark.skipif(compiled.library() is None, reason=f"no compiled library: {compiled.missing()}")
SETS = [(n, v) for n in compiled.SETS[: compiled.instruction_set() + 1] for v in ("0", "1")[: 1 + (n != "baseline")]]
WEIGHTS = ["int8", "bfloat16"]


@pytest.fixture(params=SETS, ids=lambda one: f"{one[0]}-{one[1]}")
def instruction_set(request, monkeypatch):
    name, vnni = request.param
    monkeypatch.setattr(compiled, "instruction_set", lambda: compiled.SETS.index(name))
    monkeypatch.setenv("GPU_LSTM_VNNI", vnni)
    if vnni == "1" and not compiled.vnni():
        pytest.skip("this processor has no VNNI for that")


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def rounded(x):
    """Whole numbers and scales of rows, one by one in Python's words: the oracle of both roundings."""
    whole, scales = np.zeros(x.shape, np.int64), np.zeros(len(x), np.float32)
    for n, row in enumerate(x):
        largest = np.abs(row).max()
        if not np.isfinite(largest):
            scales[n] = np.nan
            continue
        scales[n] = largest / np.float32(127)
        if largest > np.float32(1e-30):
            whole[n] = np.rint(row * (np.float32(127) / largest))
    return whole, scales


def product(x, weight, bias=None):
    """x W^T + b by whole numbers."""
    (q, s), (v, t) = rounded(x), rounded(weight)
    y = (q @ v.T).astype(np.float32) * (s[:, None] * t)
    return y if bias is None else y + bias


# -- products ----------------------------------------------------------------------------------------------------------


@needs_library
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 7, 13, 200])
@pytest.mark.parametrize("columns, depth", [(64, 64), (1, 1), (5, 3), (130, 67), (258, 300)])
def test_sums_are_those_of_whole_numbers_to_the_last_bit(rows, columns, depth, instruction_set, monkeypatch):
    x, weight = numbers(rows, depth), numbers(columns, depth, seed=1)
    x[rows // 2, :] *= 1e6
    expected, matrix = product(x, weight), Quantized.of(NUMPY, weight, "int8")
    monkeypatch.setattr(compiled, "SERIAL_WORK", 1)
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("GPU_LSTM_NUM_THREADS", threads)
        np.testing.assert_array_equal(quantized.CompiledProducts(NUMPY).product(x, matrix), expected)
    np.testing.assert_array_equal(quantized.Products(NUMPY).product(x, matrix), expected)


@needs_library
def test_the_longest_sum_of_the_largest_numbers(instruction_set):
    x = np.ones((3, MOST), np.float32) * np.array([[1], [-1], [2]], np.float32)
    matrix = Quantized.of(NUMPY, np.ones((4, MOST), np.float32), "int8")
    expected = np.float32(127**2 * MOST) * (np.float32(1) / 127 * (np.array([1, -1, 2], np.float32) / 127))
    actual = quantized.CompiledProducts(NUMPY).product(x, matrix)
    np.testing.assert_allclose(actual, np.broadcast_to(expected[:, None], (3, 4)), rtol=1e-6)
    with pytest.raises(InputError, match=f"a weight has {MOST + 1} columns; expected at most {MOST}"):
        Quantized.of(NUMPY, np.ones((4, MOST + 1), np.float32), "int8")


@needs_library
def test_zeros_small_numbers_and_what_is_no_number(instruction_set):
    x = numbers(8, 40)
    x[0], x[1], x[2], x[3] = 0, x[3] * 1e-38, x[3] * 1e-31, x[3] * 1e35
    x[4, 7], x[5, 39], x[6, 0] = np.nan, np.inf, -np.inf
    weight = numbers(12, 40, seed=1)
    weight[3], weight[4] = 0, weight[4] * 1e-32
    actual = quantized.CompiledProducts(NUMPY).product(x, Quantized.of(NUMPY, weight, "int8"))
    np.testing.assert_array_equal(actual, product(x, weight))
    assert np.isnan(actual[4:7]).all() and np.isfinite(actual[[0, 1, 2, 3, 7]]).all()
    assert not actual[:2].any() and not actual[3, 3:5].any()


@needs_library
def test_products_with_bfloat16_are_those_of_the_rounded_weights(instruction_set):
    x, weight, bias = numbers(9, 67), numbers(130, 67, seed=1), numbers(130, seed=2)
    matrix = Quantized.of(NUMPY, weight, "bfloat16")
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    np.testing.assert_array_equal(matrix.wide(), weight.astype(ml_dtypes.bfloat16).astype(np.float32))
    expected = x.astype(np.float64) @ matrix.wide().T + bias
    np.testing.assert_allclose(quantized.CompiledProducts(NUMPY).product(x, matrix, bias), expected, atol=2e-5)
    np.testing.assert_allclose(quantized.Products(NUMPY).product(x, matrix, bias), expected, atol=2e-5)


# -- the recurrence ----------------------------------------------------------------------------------------------------


@needs_library
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("batch, hidden, reverse", [(1, 40, False), (2, 130, True), (3, 5, False), (17, 64, True)])
def test_every_step_is_that_of_the_equations(weights, batch, hidden, reverse, instruction_set):
    z, weight = numbers(6, batch, 4 * hidden), numbers(4 * hidden, hidden, seed=1) * 0.3
    given = Quantized.of(NUMPY, weight, weights)
    h0, c0 = numbers(batch, hidden, seed=2), numbers(batch, hidden, seed=3)
    saved = quantized.compiled_forward(NUMPY, Problem(z.copy(), given, h0, c0, None, reverse))
    for t in range(6):  # from the state that came out before: roundings may differ once states differ in their last bit
        before, after = (t + 1, t) if reverse else (t, t + 1)
        h, c = saved.h[before], saved.c[before].astype(np.float64)
        through = product(h, weight) if weights == "int8" else h.astype(np.float64) @ given.wide().T
        i, f, g, o = np.split(z[t] + through.astype(np.float64), 4, axis=1)
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        expected = f * c + i * np.tanh(g)
        np.testing.assert_allclose(saved.c[after], expected, atol=2e-6)
        np.testing.assert_allclose(saved.h[after], o * np.tanh(expected), atol=2e-6)


OPTIONS = [
    {},
    {"num_layers": 2, "residual": True},
    {"bidirectional": True, "batch_first": True},
    {"learn_state": True, "bias": False},
    {"cells": True, "dropout": 0.5, "num_layers": 2},
]


@needs_library
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("lengths", [None, [7, 0, 3, 5]])
def test_layers_give_what_array_expressions_give_and_about_what_float32_gives(weights, options, lengths):
    lstm = LSTM(24, 24, backend="numpy", seed=1, **options)
    x = numbers(4, 7, 24) if lstm.batch_first else numbers(7, 4, 24)
    state = tuple(numbers(lstm.num_layers * lstm.num_directions, 4, 24, seed=n) for n in (4, 5))
    named = LSTM(24, 24, backend="numpy", seed=1, tier="reference", **options)
    results = [layer.forward(x, state, lengths, keep=False)[:2] for layer in (
        lstm, quantize(lstm, weights), quantize(named, weights),
    )]  # fmt: skip
    plain, fast, arrays = ([*(r[0] if isinstance(r[0], tuple) else (r[0],)), *r[1]] for r in results)
    for exact, actual, expected in zip(plain, fast, arrays, strict=True):
        np.testing.assert_allclose(actual, expected, atol=2e-3)  # where a last bit moves a whole number
        np.testing.assert_allclose(actual, exact, atol=0.02)
        assert actual.dtype == np.float32 and not np.array_equal(actual, exact)


@needs_library  # in array expressions, float32 sums are those of BLAS
@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_sequence_has_its_bits_in_any_batch_at_any_place_in_any_pieces_on_any_threads(weights, monkeypatch):
    lstm = quantize(LSTM(40, 72, num_layers=2, backend="numpy", seed=1), weights)
    x = numbers(20, 33, 40)
    monkeypatch.setattr(quantized, "SERIAL_BYTES", 1)
    whole = None
    for threads in ("1", "2", "3", "5"):
        monkeypatch.setenv("GPU_LSTM_NUM_THREADS", threads)
        y, state, _ = lstm.forward(x)
        whole = whole or (y, *state)
        for one, other in zip(whole, (y, *state), strict=True):
            np.testing.assert_array_equal(one, other)
        for batch in (1, 2, 3, 5, 6, 7, 12, 32):
            for first in (0, 33 - batch):
                part = np.ascontiguousarray(x[:, first : first + batch])
                np.testing.assert_array_equal(lstm.forward(part)[0], y[:, first : first + batch])
        pieces, after = [], None
        for t in (0, 1, 8):
            piece, after, _ = lstm.forward(np.ascontiguousarray(x[t : {0: 1, 1: 8, 8: 20}[t]]), after)
            pieces.append(piece)
        np.testing.assert_array_equal(np.concatenate(pieces), y)


@needs_library
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("batch", [1, 2, 4, 7])
def test_layers_in_one_call_have_the_bits_of_products_and_recurrences(weights, batch, instruction_set, monkeypatch):
    lstm, x = quantize(LSTM(20, 300, num_layers=2, backend="numpy", seed=1), weights), numbers(9, batch, 20)
    state = tuple(numbers(2, batch, 300, seed=n) for n in (4, 5))
    calls = []
    monkeypatch.setattr(inference, "CHUNK", 1)
    monkeypatch.setattr(inference, "LEAST_ROWS", 4 * batch)  # steps at a time
    monkeypatch.setattr(compiled, "run", lambda name, *rest, run=compiled.run: (calls.append(name), run(name, *rest)))
    whole = lstm.forward(x, state)
    assert calls == ["quantized_infer" + compiled.vnni()] * 2
    monkeypatch.setattr("gpu_lstm.layers.inference.WHOLE", {})
    monkeypatch.setattr("gpu_lstm.layers.inference.Ready.fits", lambda *_: False)
    apart = lstm.forward(x, state)
    for one, other in zip((whole[0], *whole[1]), (apart[0], *apart[1]), strict=True):
        np.testing.assert_array_equal(one, other)
    assert calls[2:] == ["quantized_multiply" + compiled.vnni(), "quantized_forward" + compiled.vnni()] * 2


def test_what_is_no_number_stays_in_its_sequence():
    lstm, x = quantize(LSTM(8, 16, backend="numpy")), numbers(5, 3, 8)
    clean = lstm.forward(x)[0]
    x[2, 1, 3] = np.nan
    y = lstm.forward(x)[0]
    np.testing.assert_array_equal(y[:, [0, 2]], clean[:, [0, 2]])
    np.testing.assert_array_equal(y[:2, 1], clean[:2, 1])
    assert np.isnan(y[2:, 1]).all()


def test_array_expressions_run_on_any_namespace():
    lstm, x = LSTM(6, 8, num_layers=2, backend="numpy", tier="reference"), numbers(5, 3, 6)
    strict = LSTM(6, 8, num_layers=2, backend=STRICT)
    for name in lstm.params:
        strict.params[name] = STRICT.asarray(lstm.params[name])
    for weights in WEIGHTS:
        expected = quantize(lstm, weights).forward(x, lengths=[5, 2, 4])[0]
        twin = quantize(strict, weights)
        assert "array expressions" in twin.plan.why()
        np.testing.assert_allclose(
            STRICT.to_numpy(twin.forward(STRICT.asarray(x), lengths=[5, 2, 4])[0]), expected, atol=1e-6
        )


@pytest.mark.gpu
@pytest.mark.parametrize("weights", WEIGHTS)
def test_array_expressions_run_on_a_gpu(weights):
    ids, cupy = np.arange(8).reshape(4, 2), choose("cupy")
    theirs, ours = (quantize(LanguageModel(9, 6, 8, backend=backend), weights) for backend in (cupy, NUMPY))
    assert "array expressions" in theirs.lstm.plan.why()
    logits = cupy.to_numpy(theirs.logits(cupy.asarray(ids))[0])
    np.testing.assert_allclose(logits, ours.logits(ids)[0], atol=1e-3)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"peepholes": True}, {"proj_size": 4}, {"layer_norm": True}, {"heads": 2}, {"clip": 1.0}]
)
def test_options_of_the_recurrence_are_refused_by_name(options):
    (name,) = options
    with pytest.raises(InputError, match=f"lstm has {name}; expected none of that with weights of int8"):
        quantize(LSTM(8, 8, backend="numpy", **options))


def test_what_cannot_be_quantised_is_refused():
    lstm = LSTM(8, 8, backend="numpy")
    with pytest.raises(InputError, match="weights is 'int4'; expected 'int8' or 'bfloat16'"):
        quantize(lstm, "int4")
    with pytest.raises(InputError, match="layer has dtype float64; expected float32"):
        quantize(LSTM(8, 8, backend="numpy", dtype="float64"))
    for other in (LSTMCell(8, 8, backend="numpy"), Dropout(0.5), quantize(lstm)):
        with pytest.raises(InputError, match="expected an LSTM, a Linear or an Embedding"):
            quantize(other)
    lstm.tier = "pointwise"
    with pytest.raises(InputError, match="tier is 'pointwise'; expected auto, reference, sequence with"):
        quantize(lstm)
    lstm.tier = "auto"
    lstm.params["weight_hh_l0"][0, 0] = np.inf
    with pytest.raises(InputError, match="not finite"):
        quantize(lstm)


def test_the_named_tier_must_run(monkeypatch):
    lstm = LSTM(8, 8, backend="numpy", tier="sequence" if compiled.library() else "reference")
    monkeypatch.setattr(compiled, "missing", lambda: "there is none")
    lstm.tier = "sequence"
    with pytest.raises(BackendError, match="tier sequence can't run with weights of int8: there is none"):
        quantize(lstm)
    lstm.tier = "auto"
    assert "compiled code can't run: there is none" in quantize(lstm).plan.why()


def test_what_is_inside_is_looked_at_in_the_model_that_it_was_made_of():
    for model, data in ((LanguageModel(9, 4, 8, backend="numpy"), np.arange(5)), (LSTM(3, 8), np.zeros((5, 3)))):
        with pytest.raises(InputError, match="model has quantised weights, whose gates are not kept"):
            activations(quantize(model), data)


def test_training_is_refused():
    lstm, model = quantize(LSTM(8, 8, backend="numpy")), quantize(LanguageModel(9, 4, 8, backend="numpy"))
    y, _, tape = lstm.forward(numbers(3, 2, 8))
    for attempt in (
        lambda: lstm.backward(tape, y),
        lambda: lstm.forward(numbers(3, 2, 8), seed=0),
        lambda: model.loss(np.zeros((4, 2), int)),
        lambda: model.params.update({}),
        lambda: model.params.__setitem__("head.bias", 0),
        lambda: model.head.backward(tape, y),
    ):
        with pytest.raises(InputError, match="quantised weights can't be trained; train the one that it was made of"):
            attempt()
    with pytest.raises(TypeError):
        lstm.forward(numbers(3, 2, 8), resets=np.zeros((3, 2), bool))


# -- models ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", WEIGHTS)
def test_models_say_about_the_same(weights):
    rng = np.random.default_rng(0)
    text = LanguageModel(30, 12, 24, 2, backend="numpy")
    ids = rng.integers(0, 30, (21, 3))
    twin = quantize(text, weights)
    assert twin.weights == weights and not text.weights
    np.testing.assert_allclose(twin.logits(ids)[0], text.logits(ids)[0], atol=0.02)
    assert twin.evaluate(ids)[0] == pytest.approx(text.evaluate(ids)[0], abs=1e-3)
    assert len(list(twin.sample(ids[:3, 0], 12, temperature=0))) == 12
    series = Forecaster([0.0], [1.0], [1.0], 4, backend="numpy")
    history = rng.standard_normal((30, 2, 1))
    np.testing.assert_allclose(quantize(series, weights).forecast(history, 9), series.forecast(history, 9), atol=0.02)
    x, lengths = rng.standard_normal((9, 4, 3)), np.array([9, 4, 1, 7])
    classes = Classifier([0.0] * 3, [1.0] * 3, 5, backend="numpy")
    np.testing.assert_allclose(quantize(classes, weights).logits(x, lengths), classes.logits(x, lengths), atol=0.02)
    amounts = Regressor([0.0] * 3, [1.0] * 3, [0.0, 1.0], [1.0, 2.0], backend="numpy")
    np.testing.assert_allclose(quantize(amounts, weights).predict(x, lengths), amounts.predict(x, lengths), atol=0.03)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_copies_give_the_same(weights):
    model, ids = quantize(LanguageModel(30, 12, 24, backend="numpy"), weights), np.arange(12).reshape(6, 2)
    expected = model.logits(ids)[0]
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        np.testing.assert_array_equal(twin.logits(ids)[0], expected)
        assert twin.params["lstm.weight_hh_l0"] is twin.lstm.params["weight_hh_l0"].values


def test_an_embedding_gives_its_rows_and_refuses_others():
    table, ids = Embedding(9, 5, backend="numpy"), np.array([[3, 8], [0, 3]])
    for weights, near in (("int8", 0.02), ("bfloat16", 0.02)):
        twin = quantize(table, weights)
        np.testing.assert_allclose(twin.forward(ids)[0], table.forward(ids)[0], atol=near)
        with pytest.raises(InputError, match="ids has values 0..9; expected 0..num_embeddings-1=8"):
            twin.forward(np.array([0, 9]))
        with pytest.raises(InputError, match="ids has dtype float64; expected integers"):
            twin.forward(np.zeros(2))


def test_a_linear_layer_of_any_width():
    for width in (1, 4, 7):
        linear, x = Linear(11, width, backend="numpy"), numbers(3, 2, 11)
        np.testing.assert_allclose(quantize(linear).forward(x)[0], linear.forward(x)[0], atol=0.02)
        with pytest.raises(InputError, match=r"x has shape \(2, 3\); expected \(N0, input_size=11\)"):
            quantize(linear).forward(numbers(2, 3))


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of each kind, small."""
    folder = tmp_path_factory.mktemp("runs")
    text = folder / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 60)
    small = ["--epochs", "1", "--hidden-size", "64", "--backend", "numpy"]
    assert (
        main(["train", "text", str(text), "--out", str(folder / "text"), "--batch", "4", "--length", "20", *small]) == 0
    )
    assert main(["train", "series", "--out", str(folder / "series"), *small]) == 0
    assert main(["train", "classify", "--out", str(folder / "classify"), *small]) == 0
    return folder


@pytest.mark.parametrize("kind", ["text", "series", "classify"])
@pytest.mark.parametrize("weights, share", [("int8", 0.4), ("bfloat16", 0.6)])
def test_a_run_is_quantised_and_used(trained, capsys, kind, weights, share):
    folder = trained / kind
    share += 0.1 * (kind == "series")  # whose description has the linear forecast, which stays as it is
    assert main(["quantize", str(folder), "--weights", weights]) == 0
    small = folder / f"model-{weights}.safetensors"
    assert f"wrote {small}: {small.stat().st_size:,} bytes" in capsys.readouterr().out
    assert small.stat().st_size < share * (folder / "model.safetensors").stat().st_size
    whole, description = checkpoint.load_model(folder / "model.safetensors", kind, NUMPY)
    loaded, about = checkpoint.load_model(small, kind, NUMPY)
    made = quantize(whole, weights)
    assert about["weights"] == loaded.weights == weights and "weights" not in description
    assert {k: v.tobytes() for k, v in loaded.params.items()} == {k: v.tobytes() for k, v in made.params.items()}
    assert (
        loaded.lstm.forward(x := numbers(4, 2, loaded.lstm.input_size))[0].tobytes()
        == made.lstm.forward(x)[0].tobytes()
    )
    assert main(["evaluate", str(small)]) == 0
    if kind == "text":
        assert main(["sample", str(small), "--length", "5"]) == 0
    if kind == "series":
        assert main(["forecast", str(small), "--steps", "3"]) == 0
    assert main(["quantize", str(folder), "--weights", weights]) == 0  # once more, in its place
    capsys.readouterr()


def said(capsys, *words):
    capsys.readouterr()
    assert main(list(map(str, words))) == 2
    return capsys.readouterr().err


def test_what_a_quantised_checkpoint_is_not_for(trained, capsys, tmp_path):
    small = tmp_path / "small.safetensors"
    assert main(["quantize", str(trained / "text"), "--out", str(small)]) == 0
    assert "has weights of int8 already" in said(capsys, "quantize", small, "--out", tmp_path / "again")
    assert "is a model for use" in said(capsys, "train", "text", "--resume", small)
    assert "weights of int8" in said(capsys, "inspect", small, "--text", "the fox")
    arrays, description = checkpoint.load(small)
    description.pop("format")
    for name, change, expected in (
        ("lstm.weight_hh_l0", lambda a: np.where(a == a.min(), np.int8(-128), a), "aren't finite"),
        ("lstm.weight_hh_l0_scale", lambda a: a * np.nan, "aren't finite"),
        ("lstm.weight_hh_l0", lambda a: a.astype(np.float32), "does not fit its own description"),
        ("lstm.weight_hh_l0_scale", lambda a: a[1:], "does not fit its own description"),
    ):
        checkpoint.save(tmp_path / "bad", arrays | {name: change(arrays[name])}, description)
        assert expected in said(capsys, "evaluate", tmp_path / "bad"), name
    checkpoint.save(tmp_path / "bad", arrays, description | {"weights": "int4"})
    assert "weights is 'int4'" in said(capsys, "evaluate", tmp_path / "bad")


# -- ONNX --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights, near", [("int8", 0.02), ("bfloat16", 1e-6)])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"bidirectional": True}])
def test_onnx_runtime_computes_about_the_same(weights, near, options):
    pytest.importorskip("onnx", reason="onnx is not installed")
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    from gpu_lstm.interop.onnx import to_onnx

    def session(model):
        proto = to_onnx(model)
        settings = ort.SessionOptions()
        settings.log_severity_level = 3
        return [node.op_type for node in proto.graph.node], ort.InferenceSession(proto.SerializeToString(), settings)

    lstm, x = quantize(LSTM(12, 20, backend="numpy", **options), weights), numbers(7, 3, 12)
    state = tuple(numbers(lstm.num_layers * lstm.num_directions, 3, 20, seed=n) for n in (1, 2))
    if weights == "int8" and not compiled.vnni():
        near = 0.25  # without VNNI ONNX Runtime adds pairs of products in 16 bits, in which they don't always fit
    nodes, run = session(lstm)
    assert ("DynamicQuantizeLSTM" in nodes) == (weights == "int8")
    given = {"x": x, "lengths": np.array([7, 2, 4]), "h0": state[0], "c0": state[1]}
    y, h, c = run.run(["y", "h", "c"], given)
    expected, after, _ = lstm.forward(x, state, [7, 2, 4])
    for actual, wanted in ((y, expected), (h, after[0]), (c, after[1])):
        np.testing.assert_allclose(actual, wanted, atol=near)
    model, ids = quantize(LanguageModel(30, 12, 24, backend="numpy"), weights), np.arange(12).reshape(6, 2)
    nodes, run = session(model)
    assert ("DynamicQuantizeMatMul" in nodes) == (weights == "int8")
    np.testing.assert_allclose(run.run(["logits"], {"ids": ids})[0], model.logits(ids)[0], atol=near)


def test_info_and_the_plan_say_whether_vnni_is_used(monkeypatch, capsys):
    if not compiled.vnni():
        pytest.skip("this processor has no VNNI, or there is no compiled library")
    lstm = LSTM(8, 8, backend="numpy")
    assert "VNNI" in quantize(lstm).plan.why() and "VNNI" not in quantize(lstm, "bfloat16").plan.why()
    assert main(["info", "--backend", "numpy"]) == 0
    assert "VNNI" in capsys.readouterr().out
    monkeypatch.setitem(os.environ, "GPU_LSTM_VNNI", "0")
    assert "VNNI" not in quantize(lstm).plan.why()
