"""ONNX files: what we write against ONNX Runtime and onnx's own evaluator, what we read against the same."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_lstm import LSTM, InputError
from gpu_lstm.cli import main
from gpu_lstm.errors import BackendError
from gpu_lstm.interop.onnx import export, from_onnx, load, to_onnx
from gpu_lstm.layers import Reversed
from gpu_lstm.models import Classifier, Forecaster, LanguageModel, Regressor, Tagger
from gpu_lstm.training.checkpoint import load_model
from tests.support import NUMPY, loss_and_gradients, problem

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
oh, to_tensor = onnx.helper, onnx.numpy_helper.from_array
CLOSE = {"rtol": 0, "atol": 1e-5}
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")


def runtime(model):
    """A session that runs an ONNX model, on one thread, quiet about inputs that may be left out."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def by_runtime(model, feeds, names=None):
    return runtime(model).run(names, feeds)


def by_reference(model, feeds, names=None):
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.ops.op_lstm import CommonLSTM

    if not hasattr(CommonLSTM, "_run_forward"):
        pytest.skip(f"the evaluator of onnx {onnx.__version__} knows one direction and no Y_c")
    return ReferenceEvaluator(model).run(names, feeds)


def close(found, expected, **tolerance):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, **(tolerance or CLOSE))


def numbers(rng, *shape, dtype="float32"):
    return rng.standard_normal(shape).astype(dtype)


# What we write


def make(layer, options):
    lstm = LSTM(4, 6, seed=3, **options)
    rng = np.random.default_rng(0)
    for array in lstm.params.values():
        array[...] = rng.standard_normal(array.shape)
    return Reversed(lstm) if layer == "reversed" else lstm


WRITTEN: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("lstm", {}),
    "layers": ("lstm", {"num_layers": 3, "dropout": 0.5}),
    "directions": ("lstm", {"num_layers": 2, "bidirectional": True}),
    "batch first": ("lstm", {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    "reversed": ("reversed", {"num_layers": 2}),
    "no bias": ("lstm", {"bias": False, "bidirectional": True}),
    "peepholes": ("lstm", {"peepholes": True, "num_layers": 2, "bidirectional": True}),
    "coupled": ("lstm", {"coupled": True, "bidirectional": True}),
    "hard sigmoid": ("lstm", {"hard_sigmoid": True, "bidirectional": True}),
    "clip": ("lstm", {"clip": 0.6, "bidirectional": True}),
    "all of these": (
        "lstm",
        {"peepholes": True, "coupled": True, "hard_sigmoid": True, "clip": 0.6, "num_layers": 2, "batch_first": True},
    ),
    "noise": ("lstm", {"input_dropout": 0.3, "recurrent_dropout": 0.3, "weight_dropout": 0.3}),
    "reversed, batch first": ("reversed", {"batch_first": True}),
}


WRITTEN_ONLY: dict[str, tuple[str, dict[str, Any]]] = {
    "residual": ("lstm", {"num_layers": 3, "residual": True}),
    "residual, directions": ("lstm", {"num_layers": 3, "residual": True, "bidirectional": True}),
    "learned state": ("lstm", {"num_layers": 2, "learn_state": True, "bidirectional": True}),
    "heads": ("lstm", {"heads": 3, "num_layers": 2, "bidirectional": True}),
}


def feeds_of(layer, rng, with_state, lengths):
    lstm = layer.lstm if isinstance(layer, Reversed) else layer
    shape = (3, 7, 4) if lstm.batch_first else (7, 3, 4)
    feeds = {"x": numbers(rng, *shape, dtype=lstm.dtype)}
    if with_state:
        state = lstm.zero_state(3)
        feeds |= {name: numbers(rng, *s.shape, dtype=lstm.dtype) for name, s in zip(("h0", "c0"), state, strict=True)}
    if lengths is not None:
        feeds["lengths"] = np.array(lengths)
    return feeds


def outputs_of(layer, feeds):
    state = (feeds["h0"], feeds["c0"]) if "h0" in feeds else None
    y, (h, c), _ = layer.forward(feeds["x"], state, feeds.get("lengths"), keep=False)
    return y, h, c


@pytest.mark.parametrize("name", WRITTEN | WRITTEN_ONLY)
def test_a_written_lstm_computes_the_same_in_onnx_runtime(name):
    layer = make(*(WRITTEN | WRITTEN_ONLY)[name])
    session = runtime(to_onnx(layer))
    rng = np.random.default_rng(1)
    for with_state in (False, True):
        for lengths in (None, [2, 7, 1]):
            feeds = feeds_of(layer, rng, with_state, lengths)
            close(session.run(["y", "h", "c"], feeds), outputs_of(layer, feeds))


# onnx's evaluator leaves input_forget, activations and clip out.
EVALUATED = [
    name
    for name, (_, options) in (WRITTEN | WRITTEN_ONLY).items()
    if not {"coupled", "hard_sigmoid", "clip"} & {*options}
]


@pytest.mark.parametrize("name", EVALUATED)
def test_a_written_lstm_in_float64_computes_the_same_in_onnxs_evaluator(name):
    kind, options = (WRITTEN | WRITTEN_ONLY)[name]
    layer = make(kind, options | {"dtype": "float64"})
    feeds = feeds_of(layer, np.random.default_rng(1), True, None)
    close(by_reference(to_onnx(layer), feeds, ["y", "h", "c"]), outputs_of(layer, feeds), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_written_lstm_is_read_back_to_the_same_bytes(name, tmp_path):
    layer = make(*WRITTEN[name])
    export(layer, tmp_path / "lstm.onnx")
    back, state, lengths = load(tmp_path / "lstm.onnx")
    assert type(back) is type(layer) and state is None and lengths is None
    assert set(back.params) == set(layer.params)
    if isinstance(layer, LSTM):
        assert back.options.recurrent() - {"recurrent_dropout"} == layer.options.recurrent() - {"recurrent_dropout"}
    for key, array in layer.params.items():
        np.testing.assert_array_equal(back.params[key], array)
    feeds = feeds_of(layer, np.random.default_rng(1), True, [2, 7, 1])
    close(outputs_of(back, feeds), outputs_of(layer, feeds), rtol=0, atol=1e-6)


def test_a_state_of_one_row_stands_for_the_whole_batch():
    layer, rng = make("lstm", {}), np.random.default_rng(1)
    feeds = {"x": numbers(rng, 5, 3, 4), "h0": numbers(rng, 1, 1, 6), "c0": numbers(rng, 1, 1, 6)}
    wide = feeds | {name: np.repeat(feeds[name], 3, axis=1) for name in ("h0", "c0")}
    close(by_runtime(to_onnx(layer), feeds, ["y", "h", "c"]), outputs_of(layer, wide))


@pytest.mark.parametrize("layers", [1, 2])
def test_a_written_language_model_computes_the_same(layers):
    model = LanguageModel(30, 8, 12, layers, dropout=0.3, seed=1)
    session, rng = runtime(to_onnx(model)), np.random.default_rng(0)
    ids = rng.integers(0, 30, (9, 4))
    logits, (h, c) = model.logits(ids)
    close(session.run(["logits", "h", "c"], {"ids": ids}), [logits, h, c])
    again, state = model.logits(ids[:2], (h, c))
    close(session.run(["logits", "h", "c"], {"ids": ids[:2], "h0": h, "c0": c}), [again, *state])


@pytest.mark.parametrize(("memory", "steps"), [(1, 30), (4, 30), (24, 30), (24, 1)])
def test_a_written_forecaster_computes_the_same(memory, steps):
    model = Forecaster([300.0, -5.0], [3.0, 0.1], [0.5, 0.01], horizon=5, memory=memory, hidden_size=9, num_layers=2)
    values = np.random.default_rng(0).standard_normal((steps, 3, 2)).cumsum(axis=0) + np.array([300, -5])
    (found,) = by_runtime(to_onnx(model), {"values": values})
    assert found.dtype == np.float64 and found.shape == (5, 3, 2)
    np.testing.assert_allclose(found, model.forecast(values), rtol=0, atol=1e-5)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_written_classifier_computes_the_same(bidirectional):
    model = Classifier([1.0, 200.0, 3.0], [1.0, 2.0, 0.3], 4, 10, num_layers=2, bidirectional=bidirectional)
    session, rng = runtime(to_onnx(model)), np.random.default_rng(0)
    x, lengths = rng.standard_normal((9, 5, 3)) + np.array([1, 200, 3]), np.array([9, 1, 3, 4, 5])
    close(session.run(["logits"], {"x": x, "lengths": lengths}), [model.logits(x, lengths)])
    close(session.run(["logits"], {"x": x}), [model.logits(x, np.full(5, 9))])


@pytest.mark.parametrize(
    "model",
    [
        LanguageModel(30, 8, 12, 2, dtype="float64"),
        Forecaster([300.0], [3.0], [0.5], horizon=5, memory=4, hidden_size=9, dtype="float64"),
        Classifier([1.0, 2.0], [1.0, 2.0], 4, 10, dtype="float64"),
    ],
    ids=lambda model: model.kind,
)
def test_written_models_in_float64_compute_the_same_in_onnxs_evaluator(model):
    rng = np.random.default_rng(0)
    if model.kind == "text":
        ids = rng.integers(0, 30, (9, 4))
        logits, state = model.logits(ids)
        feeds, names, expected = {"ids": ids}, ["logits", "h", "c"], [logits, *state]
    elif model.kind == "series":
        values = rng.standard_normal((12, 3, 1)).cumsum(axis=0) + 300
        feeds, names, expected = {"values": values}, ["forecast"], [model.forecast(values)]
    else:
        x = rng.standard_normal((6, 3, 2))
        feeds, names, expected = {"x": x}, ["logits"], [model.logits(x, np.full(3, 6))]
    close(by_reference(to_onnx(model), feeds, names), expected, rtol=0, atol=1e-11)


def test_a_float64_model_can_be_written_in_float32():
    model = LanguageModel(30, 8, 12, dtype="float64")
    ids = np.arange(12).reshape(6, 2)
    (found,) = by_runtime(to_onnx(model, "float32"), {"ids": ids}, ["logits"])
    np.testing.assert_allclose(found, model.logits(ids)[0], **CLOSE)


def test_a_model_in_16_bits_is_written_with_its_float32_parameters_and_read_in_16_bits():
    wide, narrow = LSTM(4, 6, seed=3), LSTM(4, 6, seed=3, dtype="float16")
    assert to_onnx(narrow) == to_onnx(wide)
    for dtype in ("float16", "bfloat16"):
        back = from_onnx(to_onnx(narrow), dtype=dtype).lstm
        assert back.dtype == dtype
        for name, array in wide.params.items():
            np.testing.assert_array_equal(back.params[name], array)
    arrays = choose(node_arrays(np.random.default_rng(0)), ["P", "sequence_lens"])
    held = node_model(arrays, {"hidden_size": 5}, tuple(name for name in arrays if name != "X"))
    lstm, state, _ = from_onnx(held, dtype="float16")
    y, _, _ = lstm.forward(arrays["X"].astype("float16"), state)
    (expected, _, _) = by_runtime(held, {"X": arrays["X"]})
    np.testing.assert_allclose(y, expected[:, 0], rtol=0, atol=1e-2)


def test_a_written_file_says_what_it_is(tmp_path):
    model = LanguageModel(30, 8, 12)
    export(model, tmp_path / "model.onnx", metadata={"vocabulary": "abc"})
    file = onnx.load(tmp_path / "model.onnx")
    kept = {entry.key: entry.value for entry in file.metadata_props}
    assert kept["kind"] == "text" and kept["vocabulary"] == "abc"
    assert json.loads(kept["config"]) == model.config
    assert file.producer_name == "gpu_lstm"
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in file.graph.input}
    assert shapes == {"ids": ["T", "B"], "h0": [1, "B or 1", 12], "c0": [1, "B or 1", 12]}


def test_what_can_not_be_written_is_refused(tmp_path):
    with pytest.raises(InputError, match="model is a str"):
        to_onnx("lstm")
    with pytest.raises(InputError, match="dtype is float16"):
        to_onnx(LSTM(2, 3), "float16")
    for metadata in ({"a": 3}, "abc"):
        with pytest.raises(InputError, match="metadata is no dictionary of str to str"):
            to_onnx(LSTM(2, 3), metadata=metadata)
    for path, message in ((tmp_path, "path is the folder"), (None, "path is a NoneType")):
        for call in (lambda path: export(LSTM(2, 3), path), load):
            with pytest.raises(InputError, match=message):
                call(path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="bidirectional"):
        Reversed(LSTM(2, 3, bidirectional=True))


@pytest.mark.parametrize(
    "options",
    [
        {"proj_size": 2},
        {"cell_clip": 1.0},
        {"layer_norm": True},
        {"zoneout_h": 0.1},
        {"zoneout_c": 0.1},
        {"cells": True},
    ],
    ids=str,
)
def test_options_that_the_operator_lacks_are_refused_by_name(options):
    ((name, value),) = options.items()
    with pytest.raises(InputError, match=f"lstm has {name}={value}; .* the ONNX operator LSTM has no such option"):
        to_onnx(LSTM(2, 4, **options))


@pytest.mark.parametrize("name", WRITTEN_ONLY)
def test_what_is_expressed_around_the_operator_is_read_back_as_the_same_function(name):
    layer = make(*WRITTEN_ONLY[name])
    back, state, lengths = from_onnx(to_onnx(layer))
    assert state is None and lengths is None
    assert back.options.residual is layer.options.residual
    assert back.options.learn_state is layer.options.learn_state
    assert back.options.heads == 1  # zeros stand between the heads, and are trained from there on
    for with_state in (False, True):
        feeds = feeds_of(layer, np.random.default_rng(1), with_state, [2, 7, 1])
        close(outputs_of(back, feeds), outputs_of(layer, feeds), rtol=0, atol=1e-6)


@pytest.mark.parametrize("clip", [1e-50, 1e39])
def test_a_clip_that_the_operator_can_not_keep_is_refused(clip):
    with pytest.raises(InputError, match=f"lstm has clip={re.escape(repr(clip))}; expected a float32 number"):
        to_onnx(LSTM(2, 3, clip=clip))
    wide = LSTM(2, 3, clip=0.6, dtype="float64")
    with pytest.raises(InputError, match=r"lstm has clip=0\.6; expected a float32 number"):
        to_onnx(wide)
    assert from_onnx(to_onnx(wide, "float32")).lstm.options.clip == np.float32(0.6)
    assert from_onnx(to_onnx(LSTM(2, 3, clip=0.75, dtype="float64"))).lstm.options.clip == 0.75


def test_without_the_package_the_message_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    for call in (lambda: to_onnx(LSTM(2, 3)), lambda: load(tmp_path / "no.onnx")):
        with pytest.raises(BackendError, match=r"pip install \"gpu-lstm\[onnx\]\""):
            call()


# The command


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of one trained model of each kind."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 40)
    small = ["--epochs", "1", "--hidden-size", "8", "--batch", "4"]
    assert (
        main(["train", "text", str(folder / "text.txt"), *small, "--length", "16", "--out", str(folder / "text")]) == 0
    )
    assert main(["train", "series", *small, "--out", str(folder / "series")]) == 0
    assert main(["train", "classify", *small, "--out", str(folder / "classify")]) == 0
    return folder


def exported(folder, capsys, *arguments):
    assert main(["export", str(folder), *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_the_command_writes_a_language_model_that_can_be_run(trained, tmp_path, capsys):
    printed = exported(trained / "text", capsys, "--out", tmp_path / "model.onnx")
    assert f"wrote {tmp_path / 'model.onnx'}: " in printed and "float32, ONNX operator set 17" in printed
    assert "takes  ids       int64    (T, B): tokens\n" in printed
    assert "takes  h0        float32  (1, B or 1, 8): state before (may be left out)\n" in printed
    assert "keeps  vocabulary: characters, in token order" in printed
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    kept = session.get_modelmeta().custom_metadata_map
    characters = json.loads(kept["vocabulary"])
    ids = np.array([[characters.index(c)] for c in "the quick"])
    model, _ = load_model(trained / "text" / "model.safetensors", "text", NUMPY)
    close(session.run(["logits"], {"ids": ids}), [model.logits(ids)[0]])


def test_the_command_writes_a_forecaster_and_a_classifier(trained, capsys):
    printed = exported(trained / "series", capsys)
    assert "gives  forecast  float64  (12, B, 1): the next values\n" in printed
    session = ort.InferenceSession(trained / "series" / "model.onnx", providers=["CPUExecutionProvider"])
    model, _ = load_model(trained / "series" / "model.safetensors", "series", NUMPY)
    values = np.linspace(300, 400, 40)[:, None, None] + np.zeros((1, 2, 1))
    close(session.run(None, {"values": values}), [model.forecast(values)])
    assert "keeps  classes" in exported(trained / "classify", capsys, "--dtype", "float64")
    file = onnx.load(trained / "classify" / "model.onnx")
    model, description = load_model(trained / "classify" / "model.safetensors", "classify", NUMPY)
    kept = {entry.key: json.loads(entry.value) for entry in file.metadata_props if entry.key in ("classes", "columns")}
    assert kept == {name: description[name] for name in kept} and len(kept) == 2
    x = np.random.default_rng(0).standard_normal((5, 2, 12))
    close(by_reference(file, {"x": x}, ["logits"]), [model.logits(x, np.array([5, 5]))])


def test_the_command_refuses_what_it_can_not_do(trained, tmp_path, capsys, monkeypatch):
    def refused(*arguments):
        assert main(["export", *map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "has no model.safetensors" in refused(tmp_path)
    assert "expected a file to write" in refused(trained / "text", "--out", tmp_path)
    path = trained / "text" / "model.safetensors"
    assert "the checkpoint" in refused(path, "--out", path)
    assert load_model(path, "text", NUMPY)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert "pip install" in refused(path, "--out", tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


# The layer that reads backwards


@pytest.mark.parametrize("batch_first", [False, True])
def test_reversed_is_the_second_direction_of_a_bidirectional_lstm(batch_first):
    both = LSTM(4, 6, bidirectional=True, batch_first=batch_first, dtype="float64", seed=1)
    one = Reversed(LSTM(4, 6, batch_first=batch_first, dtype="float64"))
    for name, array in one.params.items():
        array[...] = both.params[f"{name}_reverse"]
    data, lengths = problem(both, 7, 3), [2, 7, 1]
    if batch_first:
        data = {k: np.ascontiguousarray(v.swapaxes(0, 1)) if k in ("x", "dy") else v for k, v in data.items()}
    y, (h, c), tape = both.forward(data["x"], (data["h0"], data["c0"]), lengths)
    dy = data["dy"].copy()
    dy[..., :6] = 0
    dh, dc = data["dh"].copy(), data["dc"].copy()
    dh[0], dc[0] = 0, 0
    dx, (dh0, dc0), gradients = both.backward(tape, dy, (dh, dc))
    y1, (h1, c1), tape1 = one.forward(data["x"], (data["h0"][1:], data["c0"][1:]), lengths)
    close([y1, h1, c1], [y[..., 6:], h[1:], c[1:]], rtol=0, atol=1e-14)
    dx1, (dh01, dc01), gradients1 = one.backward(tape1, np.ascontiguousarray(dy[..., 6:]), (dh[1:], dc[1:]))
    close([dx1, dh01, dc01], [dx, dh0[1:], dc0[1:]], rtol=0, atol=1e-13)
    for name, gradient in gradients1.items():
        np.testing.assert_allclose(gradient, gradients[f"{name}_reverse"], rtol=0, atol=1e-13)


def test_reversed_refuses_what_does_not_fit():
    layer = Reversed(LSTM(4, 6))
    with pytest.raises(InputError, match="x has shape"):
        layer.forward(np.zeros((5, 3, 2), np.float32))
    with pytest.raises(InputError, match="at least one step"):
        layer.forward(np.zeros((0, 3, 4), np.float32))
    with pytest.raises(InputError, match="lengths"):
        layer.forward(np.zeros((5, 3, 4), np.float32), None, [1, 2, 9])
    _, _, tape = layer.forward(np.zeros((5, 3, 4), np.float32))
    with pytest.raises(InputError, match="dy has shape"):
        layer.backward(tape, np.zeros((5, 2, 6), np.float32))


# What we read


def node_model(arrays, attributes, kept=(), dtype="float32", opset=17, outputs=("Y", "Y_h", "Y_c")):
    """A model of one LSTM node; `kept` inputs are held in the file, the others taken from outside."""
    names = [name if name in arrays else "" for name in INPUTS]
    graph = oh.make_graph(
        [oh.make_node("LSTM", names, list(outputs), "node", **attributes)],
        "graph",
        [
            oh.make_tensor_value_info(name, oh.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in arrays.items()
            if name not in kept
        ],
        [
            oh.make_tensor_value_info(name, oh.np_dtype_to_tensor_dtype(np.dtype(dtype)), [None] * rank)
            for name, rank in zip(outputs, (4, 3, 3), strict=True)
        ],
        [to_tensor(arrays[name], name) for name in kept],
    )
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def node_arrays(rng, steps=6, batch=3, inputs=4, hidden=5, directions=1, dtype="float32", scale=1.0):
    shapes = {
        "X": (steps, batch, inputs),
        "W": (directions, 4 * hidden, inputs),
        "R": (directions, 4 * hidden, hidden),
        "B": (directions, 8 * hidden),
        "initial_h": (directions, batch, hidden),
        "initial_c": (directions, batch, hidden),
        "P": (directions, 3 * hidden),
    }
    arrays = {name: scale * numbers(rng, *shape, dtype=dtype) for name, shape in shapes.items()}
    lengths = rng.integers(1, steps + 1, batch).astype(np.int32)
    return {name: arrays.get(name, lengths) for name in INPUTS}


WEIGHTS = ("W", "R", "B", "P")


def ours(model, arrays, layout=0):
    """Our outputs in ONNX's shapes, from what the file holds and what it takes from outside."""
    lstm, state, lengths = from_onnx(model)
    outside = {entry.name for entry in model.graph.input}
    given_state = [arrays[n] if n in outside else None for n in ("initial_h", "initial_c")]
    if layout:
        given_state = [None if s is None else np.ascontiguousarray(s.swapaxes(0, 1)) for s in given_state]
    if state is not None:
        given_state = [one if one is not None else other for one, other in zip(given_state, state, strict=True)]
    if "sequence_lens" in outside:
        assert lengths is None
        lengths = arrays["sequence_lens"]
    y, (h, c), _ = lstm.forward(arrays["X"], tuple(given_state), lengths, keep=False)
    directions = h.shape[0]
    y = y.reshape(*y.shape[:2], directions, -1)
    if layout:
        return y, h.swapaxes(0, 1), c.swapaxes(0, 1)
    return y.swapaxes(1, 2), h, c


def by_layout_0(arrays, attributes, dtype="float32"):
    """ONNX Runtime's outputs; it has no layout 1, so the arrays are turned for it."""
    arrays, attributes = dict(arrays), dict(attributes)
    layout = attributes.pop("layout", 0)
    if layout:
        for name in {"X", "initial_h", "initial_c"} & set(arrays):
            arrays[name] = np.ascontiguousarray(arrays[name].swapaxes(0, 1))
    y, h, c = by_runtime(node_model(arrays, attributes), arrays)
    return (y.transpose(2, 0, 1, 3), h.swapaxes(0, 1), c.swapaxes(0, 1)) if layout else (y, h, c)


def choose(arrays, drop=()):
    return {name: array for name, array in arrays.items() if name not in drop}


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("kept", [("W", "R", "B"), ("W", "R", "B", "initial_h", "initial_c", "sequence_lens")])
def test_read_node_computes_what_onnx_runtime_computes(direction, layout, kept):
    rng = np.random.default_rng(0)
    arrays = choose(node_arrays(rng, directions=2 if direction == "bidirectional" else 1), ["P"])
    if layout:
        for name in ("X", "initial_h", "initial_c"):
            arrays[name] = np.ascontiguousarray(arrays[name].swapaxes(0, 1))
    attributes = {"hidden_size": 5, "direction": direction, "layout": layout}
    close(ours(node_model(arrays, attributes, kept), arrays, layout), by_layout_0(arrays, attributes))


@pytest.mark.parametrize("drop", [("initial_h",), ("initial_c",), ("initial_h", "initial_c", "sequence_lens")])
def test_inputs_may_be_left_out(drop):
    arrays = choose(node_arrays(np.random.default_rng(0)), ["P", *drop])
    for kept in (("W", "R", "B"), tuple(n for n in arrays if n != "X")):
        close(
            ours(node_model(arrays, {"hidden_size": 5}, kept), arrays),
            by_runtime(node_model(arrays, {"hidden_size": 5}), arrays),
        )


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_read_node_in_float64_computes_what_onnxs_evaluator_computes(direction):
    rng = np.random.default_rng(0)
    arrays = node_arrays(rng, directions=2 if direction == "bidirectional" else 1, dtype="float64")
    arrays = choose(arrays, ["P", "sequence_lens"])
    for layout in (0, 1):
        if layout:
            for name in ("X", "initial_h", "initial_c"):
                arrays[name] = np.ascontiguousarray(arrays[name].swapaxes(0, 1))
        attributes = {"hidden_size": 5, "direction": direction, "layout": layout}
        model = node_model(arrays, attributes, ("W", "R", "B"), "float64")
        feeds = {entry.name: arrays[entry.name] for entry in model.graph.input}
        y, h, c = by_reference(model, feeds)
        if layout:  # the evaluator turns Y as (B, T, directions, H), and its states as the operator says
            assert y.shape[0] == 3
        close(ours(model, arrays, layout), (y, h, c), rtol=0, atol=1e-12)


def wrap(nodes, inputs, outputs, constants, opset=17):
    """A model of nodes (op, inputs, outputs, attributes); inputs are (name, shape)."""
    graph = oh.make_graph(
        [oh.make_node(op, ins, outs, name=outs[0], **attributes) for op, ins, outs, attributes in nodes],
        "graph",
        [oh.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in inputs],
        [oh.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in outputs],
        [to_tensor(array, name) for name, array in constants.items()],
    )
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", opset)], ir_version=8)


def two_nodes(between, directions=1, upper_inputs=None, **attributes):
    """Two LSTM nodes "low" and "top", and what is between them, which gives "middle"."""
    rng = np.random.default_rng(0)
    direction = "bidirectional" if directions == 2 else "forward"
    shared = {"hidden_size": 3, "direction": direction}
    constants = {
        "W0": numbers(rng, directions, 12, 4), "R0": numbers(rng, directions, 12, 3),
        "W1": numbers(rng, directions, 12, 3 * directions), "R1": numbers(rng, directions, 12, 3),
        "one": np.array([1]), "merged": np.array([0, 0, -1]), "lengths": np.array([5, 3], np.int32),
    }  # fmt: skip
    nodes = [
        ("LSTM", ["x", "W0", "R0"], ["low", "low_h", "low_c"], shared),
        *between,
        ("LSTM", ["middle", "W1", "R1", *(upper_inputs or [])], ["top", "top_h", "top_c"], shared | attributes),
    ]
    return wrap(nodes, [("x", [5, 2, 4])], [("top", [None] * 4)], constants)


MERGED: list[Any] = [
    ("Transpose", ["low"], ["turned"], {"perm": [0, 2, 1, 3]}),
    ("Reshape", ["turned", "merged"], ["middle"], {}),
]
SQUEEZED: list[Any] = [("Squeeze", ["low", "one"], ["middle"], {})]


@pytest.mark.parametrize(
    ("between", "directions"),
    [
        (MERGED, 1),
        (MERGED, 2),
        (SQUEEZED, 1),
        ([("Squeeze", ["low"], ["middle"], {})], 1),
        ([("Squeeze", ["low", "one"], ["a"], {}), ("Dropout", ["a"], ["middle"], {})], 1),
        (
            [
                ("Squeeze", ["low", "one"], ["a"], {}),
                ("Transpose", ["a"], ["b"], {"perm": [1, 0, 2]}),
                ("Identity", ["b"], ["c"], {}),
                ("Transpose", ["c"], ["middle"], {"perm": [1, 0, 2]}),
            ],
            1,
        ),
    ],
)
def test_a_stack_of_nodes_becomes_one_lstm(between, directions):
    model = two_nodes(between, directions)
    lstm, state, lengths = from_onnx(model)
    assert (lstm.num_layers, lstm.num_directions, state, lengths) == (2, directions, None, None)
    x = numbers(np.random.default_rng(1), 5, 2, 4)
    (top,) = by_runtime(model, {"x": x})
    y, _, _ = lstm.forward(x)
    np.testing.assert_allclose(y.reshape(5, 2, directions, 3), top.swapaxes(1, 2), **CLOSE)


@pytest.mark.parametrize(
    ("between", "more", "message"),
    [
        (
            [("Squeeze", ["low", "one"], ["a"], {}), ("Relu", ["a"], ["middle"], {})],
            {},
            "between two LSTM nodes lies Relu",
        ),
        ([("Reshape", ["low", "merged"], ["middle"], {})], {"directions": 2}, "does not take Y"),
        (
            [("Squeeze", ["low", "one"], ["a"], {}), ("Transpose", ["a"], ["middle"], {"perm": [1, 0, 2]})],
            {},
            "does not take Y",
        ),
        ([("Identity", ["low_h"], ["middle"], {})], {}, "last state"),
        ([("Identity", ["x"], ["middle"], {})], {}, "no stack"),
        (SQUEEZED, {"direction": "reverse"}, "direction 'reverse'"),
        (SQUEEZED, {"upper_inputs": ["", "", "low_h"]}, "state of another"),
        (SQUEEZED, {"upper_inputs": ["", "lengths"]}, "other sequence_lens"),
        (SQUEEZED, {"clip": 1.0}, "has clip 1.0, the one below it None"),
        (SQUEEZED, {"activations": ["HardSigmoid", "Tanh", "Tanh"]}, "other activations"),
    ],
)
def test_nodes_that_are_no_stack_are_refused_and_can_be_loaded_alone(between, more, message):
    model = two_nodes(between, **more)
    with pytest.raises(InputError, match=message) as raised:
        from_onnx(model)
    assert "node=" in str(raised.value)
    alone = from_onnx(model, "low").lstm
    x = numbers(np.random.default_rng(1), 5, 2, 4)
    low = two_nodes(MERGED, more.get("directions", 1))
    low.graph.output[0].name = "low"
    (expected,) = by_runtime(low, {"x": x})
    np.testing.assert_allclose(alone.forward(x)[0].reshape(5, 2, -1, 3), expected.swapaxes(1, 2), **CLOSE)


def test_a_name_that_no_node_has_is_refused():
    with pytest.raises(InputError, match=r"node is 'other'; the LSTM nodes of the ONNX file are 'low', 'top'"):
        from_onnx(two_nodes(SQUEEZED), "other")


def test_batch_first_around_a_node_is_found():
    rng = np.random.default_rng(0)
    constants = {"W": numbers(rng, 1, 12, 4), "R": numbers(rng, 1, 12, 3), "one": np.array([1])}
    nodes = [
        ("Transpose", ["x"], ["turned"], {"perm": [1, 0, 2]}),
        ("LSTM", ["turned", "W", "R"], ["Y"], {"hidden_size": 3}),
        ("Squeeze", ["Y", "one"], ["flat"], {}),
        ("Transpose", ["flat"], ["y"], {"perm": [1, 0, 2]}),
    ]
    model, x = wrap(nodes, [("x", [2, 5, 4])], [("y", [2, 5, 3])], constants), numbers(rng, 2, 5, 4)
    lstm = from_onnx(model).lstm
    assert lstm.batch_first
    close([lstm.forward(x)[0]], by_runtime(model, {"x": x}))
    model = wrap(nodes[:-1], [("x", [2, 5, 4])], [("flat", [5, 2, 3])], constants)
    with pytest.raises(InputError, match="takes x batch first and gives its output 'flat' time first"):
        from_onnx(model)
    assert not from_onnx(model, "Y").lstm.batch_first  # y stays time-major, so x is what the node takes


def test_weights_that_are_computed_from_constants_are_read():
    rng = np.random.default_rng(0)
    w, r, x = numbers(rng, 12, 4), numbers(rng, 12, 3), numbers(rng, 5, 2, 4)
    nodes = [
        ("Constant", [], ["axis"], {"value": to_tensor(np.array([0]))}),
        ("Unsqueeze", ["w", "axis"], ["W"], {}),
        ("Unsqueeze", ["r", "axis"], ["R"], {}),
        ("Shape", ["x"], ["shape"], {}),
        ("Gather", ["shape", "one"], ["batch"], {}),
        ("Concat", ["one", "batch", "three"], ["state_shape"], {"axis": 0}),
        ("ConstantOfShape", ["state_shape"], ["zeros"], {}),
        ("LSTM", ["x", "W", "R", "", "", "zeros", "zeros"], ["Y"], {"hidden_size": 3}),
    ]
    model = wrap(
        nodes,
        [("x", [5, "B", 4])],
        [("Y", [5, 1, "B", 3])],
        {"w": w, "r": r, "one": np.array([1]), "three": np.array([3])},
    )
    lstm, state, _ = from_onnx(model)
    assert state is None
    close([lstm.forward(x)[0][:, None]], by_runtime(model, {"x": x}))


def test_half_precision_weights_become_float32():
    rng = np.random.default_rng(0)
    arrays = choose(node_arrays(rng, dtype="float16"), ["P", "B", "sequence_lens", "initial_h", "initial_c"])
    model = node_model(arrays, {"hidden_size": 5}, ("W", "R"), "float16")
    lstm = from_onnx(model).lstm
    assert lstm.dtype == "float32"
    (weight,) = arrays["R"]
    np.testing.assert_array_equal(lstm.params["weight_hh_l0"][:5], weight[:5].astype(np.float32))
    assert (
        from_onnx(node_model(arrays, {"hidden_size": 5}, ("W", "R"), "float16"), dtype="float64").lstm.dtype
        == "float64"
    )


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"activations": ["Relu", "Tanh", "Tanh"]}, "activations relu, tanh, tanh"),
        ({"activations": ["Sigmoid", "Tanh", "Softsign"]}, "softsign"),
        ({"activations": ["Sigmoid", "Tanh"]}, "2 activations; expected 3"),
        ({"activations": ["HardSigmoid", "Tanh", "Tanh"], "activation_beta": [0.4]}, "beta 0.4"),
        ({"activations": ["HardSigmoid", "Tanh", "Tanh"], "activation_alpha": [-1.0]}, "alpha -1"),
        ({"activations": ["HardSigmoid", "Tanh", "Tanh"], "activation_alpha": [0.3], "clip": 1.0}, "clip 1 and a Hard"),
        ({"clip": 0.0}, "clip 0.0"),
        ({"hidden_size": 7}, "hidden_size 7; its R is for 5"),
        ({"direction": "bidirectional"}, r"W of shape \(1, 20, 4\); expected \(2, 20, .\)"),
        ({"direction": "sideways"}, "direction 'sideways'"),
    ],
)
def test_attributes_that_we_can_not_express_are_refused(attributes, message):
    arrays = choose(node_arrays(np.random.default_rng(0)), ["P"])
    with pytest.raises(InputError, match=f"LSTM node 'node' has .*{message}"):
        from_onnx(node_model(arrays, {"hidden_size": 5} | attributes, ("W", "R", "B")))


def test_sigmoid_in_one_direction_only_is_refused():
    arrays = choose(node_arrays(np.random.default_rng(0), directions=2), ["P"])
    names = ["Sigmoid", "Tanh", "Tanh", "HardSigmoid", "Tanh", "Tanh"]
    attributes = {"hidden_size": 5, "direction": "bidirectional", "activations": names}
    with pytest.raises(InputError, match="Sigmoid in one direction"):
        from_onnx(node_model(arrays, attributes, ("W", "R", "B")))


@pytest.mark.parametrize("name", ["W", "R", "B", "P"])
def test_weights_from_outside_are_refused(name):
    arrays = node_arrays(np.random.default_rng(0))
    kept = tuple(n for n in WEIGHTS if n != name)
    with pytest.raises(InputError, match=f"takes {name} from outside"):
        from_onnx(node_model(arrays, {"hidden_size": 5}, kept))


@pytest.mark.parametrize("name", ["R", "B", "initial_h"])
def test_arrays_of_another_shape_are_refused(name):
    arrays = choose(node_arrays(np.random.default_rng(0)), ["P"])
    arrays[name] = arrays[name][..., :-1]
    with pytest.raises(InputError, match="LSTM node 'node' has .* of shape|hidden_size 5; its R is for 4"):
        from_onnx(node_model(arrays, {"hidden_size": 5}, ("W", "R", "B", "initial_h")))


@pytest.mark.parametrize("name", ["initial_h", "initial_c"])
def test_a_state_of_zeros_has_the_shape_of_a_state(name):
    """As PyTorch's exporter writes an LSTM with a projection, which it leaves out: ONNX Runtime refuses that file."""
    arrays = choose(node_arrays(np.random.default_rng(0)), ["P"])
    arrays[name] = np.zeros((1, 3, 6), np.float32)
    with pytest.raises(InputError, match="LSTM node 'node' has an initial state of shape"):
        from_onnx(node_model(arrays, {"hidden_size": 5}, ("W", "R", "B", "initial_h", "initial_c")))


def test_files_without_an_lstm_or_no_files_at_all_are_refused(tmp_path):
    with pytest.raises(InputError, match="no LSTM node"):
        from_onnx(wrap([("Relu", ["x"], ["y"], {})], [("x", [2])], [("y", [2])], {}))
    with pytest.raises(InputError, match=r"expected an onnx\.ModelProto"):
        from_onnx(b"bytes")
    with pytest.raises(InputError, match="does not exist"):
        load(tmp_path / "none.onnx")
    (tmp_path / "torn.onnx").write_bytes(to_onnx(LSTM(2, 3)).SerializeToString()[:100])
    with pytest.raises(InputError, match=r"torn\.onnx can't be read"):
        load(tmp_path / "torn.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(InputError):
        load(tmp_path / "text.onnx")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_file_is_read_or_refused_by_our_own_error(data):
    content = bytearray(DAMAGED[data.draw(st.integers(0, len(DAMAGED) - 1))])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content[place] = data.draw(st.integers(0, 255))
        else:
            other = data.draw(st.integers(0, len(content) - 1))
            content[place : place + data.draw(st.integers(0, 9))] = content[
                other : other + data.draw(st.integers(0, 30))
            ]
    try:
        model = onnx.load_from_string(bytes(content))
    except Exception:  # protobuf's own refusal, which load turns into ours
        return
    try:
        from_onnx(model, data.draw(st.sampled_from([None, "lstm.l0.Y"])))
    except InputError as error:
        assert str(error)


DAMAGED = [
    to_onnx(model).SerializeToString()
    for model in (
        LSTM(2, 3, 2, bidirectional=True, hard_sigmoid=True, clip=1.0, peepholes=True),
        LanguageModel(5, 2, 3),
    )
]


@pytest.mark.parametrize(
    ("dynamo", "bidirectional", "batch_first", "with_state"),
    [
        (False, False, False, False),
        (False, False, True, True),
        (False, True, False, True),
        (False, True, True, False),
        (True, False, True, False),
        (True, True, False, True),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_torch_exports_is_read(dynamo, bidirectional, batch_first, with_state, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if dynamo:
        pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    torch.manual_seed(0)
    layer = torch.nn.LSTM(4, 5, 2, bidirectional=bidirectional, batch_first=batch_first, dropout=0.1).eval()
    x = torch.randn(6, 3, 4)
    state = tuple(torch.randn(4 if bidirectional else 2, 6 if batch_first else 3, 5) for _ in range(2))
    arguments = (x, state) if with_state else (x,)
    path = tmp_path / "torch.onnx"
    how = {"dynamo": True, "external_data": False, "verbose": False} if dynamo else {"dynamo": False}
    torch.onnx.export(layer, arguments, str(path), **how)
    lstm, kept, lengths = load(path)
    assert lstm.batch_first is batch_first and kept is None and lengths is None
    with torch.no_grad():
        y, (h, c) = layer(*arguments)
    given_state = tuple(s.numpy() for s in state) if with_state else None
    found, (fh, fc), _ = lstm.forward(x.numpy(), given_state)
    close([found, fh, fc], [y.numpy(), h.numpy(), c.numpy()])


@pytest.mark.filterwarnings("ignore")
def test_what_torch_exports_of_packed_sequences_is_read(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    rnn = torch.nn.utils.rnn

    class Packed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch.nn.LSTM(4, 5, 2, bidirectional=True)

        def forward(self, x, lengths):
            y, (h, c) = self.lstm(rnn.pack_padded_sequence(x, lengths))
            return rnn.pad_packed_sequence(y)[0], h, c

    model, x, lengths = Packed().eval(), torch.randn(6, 3, 4), torch.tensor([6, 4, 2])
    torch.onnx.export(model, (x, lengths), str(tmp_path / "packed.onnx"), dynamo=False)
    with torch.no_grad():
        expected = [value.numpy() for value in model(x, lengths)]
    y, (h, c), _ = load(tmp_path / "packed.onnx").lstm.forward(x.numpy(), None, lengths.numpy())
    close([y, h, c], expected)


def test_a_loaded_lstm_trains():
    arrays = choose(node_arrays(np.random.default_rng(0), dtype="float64"), ["P", "sequence_lens"])
    loaded = from_onnx(node_model(arrays, {"hidden_size": 5}, ("W", "R", "B"), "float64")).lstm
    plain = LSTM(4, 5, dtype="float64")
    for name, array in plain.params.items():
        array[...] = loaded.params[name]
    data = problem(plain, 6, 3)
    expected, found = loss_and_gradients(plain, data), loss_and_gradients(loaded, data)
    assert found[0] == expected[0]
    for name, gradient in expected[1].items():
        np.testing.assert_array_equal(found[1][name], gradient)


@st.composite
def nodes(draw):
    """Arrays and attributes of an LSTM node, whatever ONNX Runtime takes, and which inputs the file holds."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    direction = draw(st.sampled_from(["forward", "reverse", "bidirectional"]))
    directions = 2 if direction == "bidirectional" else 1
    sizes = {name: draw(st.integers(1, 6)) for name in ("steps", "batch", "inputs", "hidden")}
    arrays = node_arrays(rng, directions=directions, scale=draw(st.sampled_from([0.3, 1.0, 2.0])), **sizes)
    optional = ["B", "sequence_lens", "initial_h", "initial_c", "P"]
    arrays = choose(arrays, [name for name in optional if draw(st.booleans())])
    attributes = {"hidden_size": sizes["hidden"], "direction": direction, "layout": draw(st.sampled_from([0, 1]))}
    if attributes["layout"]:
        for name in {"X", "initial_h", "initial_c"} & set(arrays):
            arrays[name] = np.ascontiguousarray(arrays[name].swapaxes(0, 1))
    if draw(st.booleans()):
        attributes["input_forget"] = 1
    if draw(st.booleans()):
        attributes["clip"] = draw(st.sampled_from([0.2, 0.7, 1.5, 3.0]))
    kind = draw(st.sampled_from(["none", "named", "hard", "hard, slopes"]))
    if kind == "named":
        attributes["activations"] = [draw(st.sampled_from(["Sigmoid", "sigmoid"])), "Tanh", "tanh"]
        attributes["activations"] *= directions
    elif kind != "none":
        attributes["activations"] = ["HardSigmoid", "Tanh", "Tanh"] * directions
    if kind == "hard, slopes":
        slopes = [0.2] if attributes.get("clip", 9) < 2.5 else [0.2, 0.17, 0.5, 1.0]
        attributes["activation_alpha"] = [draw(st.sampled_from(slopes)) for _ in range(directions)]
        attributes["activation_beta"] = [0.5] * directions
    kept = [n for n in ("sequence_lens", "initial_h", "initial_c") if n in arrays and draw(st.booleans())]
    return arrays, attributes, (*(n for n in WEIGHTS if n in arrays), *kept)


@settings(max_examples=150, deadline=None)
@given(nodes())
def test_any_node_computes_what_onnx_runtime_computes(drawn):
    arrays, attributes, kept = drawn
    found = ours(node_model(arrays, attributes, kept), arrays, attributes["layout"])
    close(found, by_layout_0(arrays, attributes))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_lstm_of_ours_computes_the_same_in_onnx_runtime_and_read_back(data):
    draw, flag = data.draw, st.booleans()
    options = {name: draw(flag) for name in ("bias", "peepholes", "coupled", "hard_sigmoid", "learn_state")}
    options |= {"num_layers": draw(st.integers(1, 3)), "bidirectional": draw(flag), "batch_first": draw(flag)}
    options |= {"heads": draw(st.sampled_from([1, 2, 6])), "clip": draw(st.sampled_from([None, 0.5, 2.0]))}
    options["residual"] = options["num_layers"] > 1 and draw(flag)
    layer = make("lstm" if options["bidirectional"] or draw(flag) else "reversed", options)
    lengths = draw(st.none() | st.lists(st.integers(1, 7), min_size=3, max_size=3))
    feeds = feeds_of(layer, np.random.default_rng(0), draw(flag), lengths)
    file, expected = to_onnx(layer), outputs_of(layer, feeds)
    close(by_runtime(file, feeds, ["y", "h", "c"]), expected)
    back, state, held = from_onnx(file)
    assert type(back) is type(layer) and state is None and held is None
    close(outputs_of(back, feeds), expected)


def test_the_code_on_the_page_runs(tmp_path, monkeypatch):
    page = Path(__file__).parent.parent / "docs" / "doors" / "onnx.md"
    monkeypatch.chdir(tmp_path)
    vocabulary = {"vocabulary": json.dumps("\ufffd" + "".join(sorted(set("to be"))))}
    model = LanguageModel(6, 4, 8)
    export(model, "model.onnx", metadata=vocabulary)
    export(LSTM(4, 8), "theirs.onnx")
    names: dict = {"x": np.zeros((5, 2, 4), np.float32)}
    blocks = re.findall(r"```py\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, page, "exec"), names)
    ids = np.array([["\ufffd beot".index(c)] for c in "to be"])
    logits, state = model.logits(ids)
    again, state = model.logits(logits[-1:].argmax(axis=2), state)
    close([names["logits"]], [again])
    assert names["y"].shape == (5, 2, 8)


@pytest.mark.parametrize("frames", [(1, 1), (3, 2)])
@pytest.mark.parametrize("pooling", [("max",), ("last",), ("mean", "max", "last")])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_written_classifier_of_other_summaries_and_of_frames(bidirectional, pooling, frames):
    more = {"bidirectional": bidirectional, "pooling": pooling, "frames": frames}
    model = Classifier([1.0, 200.0, 3.0], [1.0, 2.0, 0.3], 4, 6, **more)
    session, rng = runtime(to_onnx(model)), np.random.default_rng(0)
    x, lengths = rng.standard_normal((9, 5, 3)) + np.array([1, 200, 3]), np.array([9, 1, 3, 4, 5])
    close(session.run(["logits"], {"x": x, "lengths": lengths}), [model.logits(x, lengths)])
    close(session.run(["logits"], {"x": x}), [model.logits(x, np.full(5, 9))])
    x, lengths = x[:6], lengths[1:]
    close(session.run(["logits"], {"x": x[:, 1:], "lengths": lengths}), [model.logits(x[:, 1:], lengths)])


def test_written_regressors_and_taggers_compute_the_same():
    rng = np.random.default_rng(0)
    x, lengths = rng.standard_normal((9, 5, 2)), np.array([9, 1, 3, 4, 5])
    said = Regressor([0.0, 1.0], [1.0, 2.0], [5.0, 100.0], [2.0, 30.0], 6, pooling=("mean", "last"), frames=(4, 2))
    feeds = {"x": x, "lengths": lengths}
    close(runtime(to_onnx(said)).run(["numbers"], feeds), [said.predict(x, lengths)], rtol=1e-5, atol=1e-4)
    tagger = Tagger([0.0, 1.0], [1.0, 2.0], 3, 6)
    (found,) = runtime(to_onnx(tagger)).run(["logits"], feeds)
    for b, length in enumerate(lengths):
        close([found[:length, b]], [tagger.logits(x, lengths)[:length, b]])
