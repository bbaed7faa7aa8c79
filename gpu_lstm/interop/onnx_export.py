"""Models of ours as ONNX graphs: embedding = Gather, LSTM = LSTM, linear = MatMul and Add."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpu_lstm.backend import PARAM_DTYPES
from gpu_lstm.data.linear import LinearForecast
from gpu_lstm.errors import InputError
from gpu_lstm.interop.arrays import arrays_of, endings, wide
from gpu_lstm.interop.expressible import check_options, check_path
from gpu_lstm.interop.onnx_nodes import ORDER, require_onnx
from gpu_lstm.interop.onnx_sequences import frames, summary
from gpu_lstm.layers import LSTM, Linear, Reversed
from gpu_lstm.layers.checks import check_dtype
from gpu_lstm.models import Forecaster, LanguageModel, Model, Regressor, Tagger
from gpu_lstm.models.classifier import SequenceModel
from gpu_lstm.training.checkpoint import write_whole

OPSET, IR_VERSION = 17, 8
"""Of January 2022: what ONNX Runtime reads from 1.12 on."""
TAKES = frozenset({"bias", "peepholes", "coupled", "hard_sigmoid", "clip", "residual", "learn_state", "heads"})
"""Options of ours that the operator, or one beside it, has."""
MICROSOFT = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""
TYPES = {"float32": 1, "float64": 11, "int64": 7}
"""ONNX's numbers of the types."""


def export(
    model: LSTM | Reversed | Model,
    path: str | Path,
    dtype: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a model as an ONNX file at `path`, whole or not at all; see `to_onnx`.

    Examples
    --------
    >>> from gpu_lstm.interop import onnx
    >>> onnx.export(LSTM(8, 16, backend="numpy"), "lstm.onnx")
    >>> onnx.load("lstm.onnx", backend="numpy").lstm.hidden_size
    16
    """
    path = check_path(path)
    write_whole(path, to_onnx(model, dtype, metadata).SerializeToString())


def to_onnx(model: LSTM | Reversed | Model, dtype: str | None = None, metadata: Mapping[str, str] | None = None) -> Any:
    """Make an ONNX model that computes what `model` computes in evaluation.

    ========== ===================================================== ==============================================
    model      takes                                                 gives
    ========== ===================================================== ==============================================
    LSTM       x (T, B, D), lengths (B,), h0 and c0 (L, B, H)        y (T, B, H x directions), h and c (L, B, H)
    Language-  ids (T, B) int64, h0 and c0 (L, B, H)                 logits (T, B, V), h and c (L, B, H)
    Model
    Forecaster values (T, B, S) float64, in the data's own units     forecast (horizon, B, S) float64
    Classifier x (T, B, D) float64, in the data's own units; lengths logits (B, classes)
    Regressor  the same                                              numbers (B, K) float64, in their own units
    Tagger     the same                                              logits (T, B, classes)
    ========== ===================================================== ==============================================

    T and B are free. lengths, h0 and c0 may be left out: then all sequences have T steps, and states start from zero,
    or from the learned state. L counts layers times directions, as of `gpu_lstm.LSTM`; batch-first it takes (B, T, D).

    Parameters
    ----------
    model : gpu_lstm.LSTM, Reversed or one of the models
    dtype : {"float32", "float64"}, optional
        Of the weights; that of the model's parameters if not given. ONNX Runtime computes LSTMs in float32 only.
    metadata : dict of str, optional
        Kept in the file, beside ``kind`` and ``config`` (JSON) of the model.

    Returns
    -------
    onnx.ModelProto
        Passed by onnx.checker.

    Raises
    ------
    InputError
        The operator has no such option, or the model is too large for a file of 2 GB.
    BackendError
        The package onnx is not installed.
    """
    onnx = require_onnx()
    if not isinstance(model, LSTM | Reversed | Model):
        raise InputError(f"model is a {type(model).__name__}; expected an LSTM or one of the models")
    dtype = model.param_dtype if dtype is None else check_dtype(dtype, PARAM_DTYPES)
    graph = Graph(onnx, model.backend, dtype)
    if isinstance(model, LanguageModel):
        language_model(graph, model)
    elif isinstance(model, Forecaster):
        forecaster(graph, model)
    elif isinstance(model, SequenceModel):
        sequence_model(graph, model)
    elif isinstance(model, LSTM | Reversed):
        lstm_alone(graph, model)
    else:
        raise InputError(f"model is of kind {model.kind!r}; expected one of text, series, classify, regress, label")
    size = sum(array.nbytes for array in graph.values.values())
    if size > 2**31 - 2**20:
        raise InputError(f"model has {size:,} bytes of weights; an ONNX file holds 2 GB")
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, Mapping) or not all(isinstance(one, str) for pair in metadata.items() for one in pair):
        raise InputError("metadata is no dictionary of str to str")
    about = {"kind": "lstm"}
    if isinstance(model, Model):
        about = {"kind": model.kind, "config": json.dumps(model.config, default=np.ndarray.tolist)}
    proto = graph.model(about | dict(metadata))
    onnx.checker.check_model(proto, full_check=True)
    return proto


class Graph:
    """An ONNX graph that grows node by node; values are named by strings.

    Parameters
    ----------
    onnx : module
    backend : Backend
        Of the arrays that `weight` takes.
    dtype : str
        Of the weights.
    """

    def __init__(self, onnx: Any, backend: Any, dtype: str):
        self.onnx, self.backend, self.dtype = onnx, backend, dtype
        self.nodes: list[Any] = []
        self.values: dict[str, np.ndarray] = {}
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def add(self, op: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> str:
        """Add a node; returns the name of its first output."""
        self.nodes.append(self.onnx.helper.make_node(op, list(inputs), list(outputs), outputs[0], **attributes))
        return outputs[0]

    def constant(self, name: str, value: Any, dtype: str = "int64") -> str:
        """Add a constant; returns its name."""
        self.values[name] = np.asarray(value, dtype=dtype, order="C")
        return name

    def weight(self, name: str, array: np.ndarray) -> str:
        """Add a constant in the graph's dtype; returns its name."""
        return self.constant(name, array, self.dtype)

    def host(self, array: Any) -> np.ndarray:
        """Copy a parameter to the host, of few bits as the numbers that it stands for."""
        return np.asarray(self.backend.to_numpy(wide(array)))

    def take(self, name: str, dtype: str, shape: Sequence[int | str], about: str, default: Any = None) -> str:
        """Add an input; one with a default value may be left out."""
        self.inputs.append(self._value(name, dtype, shape, about))
        return name if default is None else self.constant(name, default, dtype)

    def give(self, name: str, dtype: str, shape: Sequence[int | str], about: str) -> None:
        """Add an output."""
        self.outputs.append(self._value(name, dtype, shape, about))

    def size(self, value: str, axis: int) -> str:
        """Add the size of an axis, (1,), where it isn't there yet; returns its name."""
        name = f"{value}.size{axis}"
        if not any(name in node.output for node in self.nodes):
            self.add("Shape", [value], name, start=axis, end=axis + 1)
        return name

    def model(self, metadata: dict[str, str]) -> Any:
        """Make the model of this graph."""
        from gpu_lstm import __version__

        helper = self.onnx.helper
        initializers = [self.onnx.numpy_helper.from_array(array, name) for name, array in self.values.items()]
        model = helper.make_model(
            helper.make_graph(self.nodes, "gpu_lstm", self.inputs, self.outputs, initializers),
            opset_imports=[
                helper.make_opsetid("", OPSET),
                *(helper.make_opsetid(domain, 1) for domain in {node.domain for node in self.nodes if node.domain}),
            ],
            ir_version=IR_VERSION,
            producer_name="gpu_lstm",
            producer_version=__version__,
        )
        helper.set_model_props(model, metadata)
        return model

    def _value(self, name: str, dtype: str, shape: Sequence[int | str], about: str) -> Any:
        return self.onnx.helper.make_tensor_value_info(name, TYPES[dtype], list(shape), about)


def language_model(graph: Graph, model: LanguageModel) -> None:
    """Add ``ids`` and the state before them to ``logits`` and the state after them."""
    graph.take("ids", "int64", ("T", "B"), "tokens")
    graph.give("logits", graph.dtype, ("T", "B", model.head.output_size), "scores of the token after each")
    table = model.embedding.params["weight"]
    if is_int8(table):
        whole = graph.add("Gather", [graph.constant("embedding.weight", table.values, "int8"), "ids"], "whole", axis=0)
        scales = graph.add("Gather", [graph.weight("embedding.scale", table.scales[:, None]), "ids"], "scales", axis=0)
        vectors = graph.add(
            "Mul", [graph.add("Cast", [whole], "vectors.whole", to=TYPES["float32"]), scales], "vectors"
        )
    else:
        table = graph.weight("embedding.weight", graph.host(table))
        vectors = graph.add("Gather", [table, "ids"], "vectors", axis=0)
    y = lstm(graph, model.lstm, vectors, carried=True)
    linear(graph, model.head, y, "logits")


def forecaster(graph: Graph, model: Forecaster) -> None:
    """Add ``values`` to ``forecast``, as `Forecaster.forecast` for `horizon` steps, with its features in float64."""
    series = model.num_series
    if model.num_inputs or not model.outcome.certain:
        what = f"{model.num_inputs} inputs" if model.num_inputs else "quantiles or a distribution"
        raise InputError(f"model has {what}; expected a forecaster of values alone, from values alone")
    graph.take("values", "float64", ("T", "B", series), "known values, in the data's own units")
    axis = graph.constant("steps_axis", [0])
    first = graph.add("Slice", ["values", graph.constant("zero", [0]), graph.constant("one", [1]), axis], "first")
    last = graph.constant("last", [-1])
    but_last = graph.add("Slice", ["values", "zero", last, axis], "but_last")
    before = graph.add("Concat", [first, but_last], "before", axis=0)
    step = graph.add("Sub", ["values", before], "step")
    change = graph.add("Div", [step, graph.constant("step_spread", model.step_spread, "float64")], "change")
    slow = running_mean(graph, first, model.memory)
    above = graph.add("Sub", ["values", slow], "above")
    spread = graph.constant("spread", model.spread, "float64")
    deviation = graph.add("Div", [above, spread], "deviation")
    both = graph.add("Concat", [change, deviation], "features.float64", axis=2)
    features = graph.add("Cast", [both], "features", to=TYPES[graph.dtype])
    y = lstm(graph, model.lstm, features)
    final = graph.add("Gather", [y, graph.constant("final", -1)], "final_y", axis=0)
    ahead = linear(graph, model.head, final, "ahead")
    shape = graph.constant("ahead_shape", [-1, model.horizon, series])
    steps = graph.add("Transpose", [graph.add("Reshape", [ahead, shape], "by_step")], "by_time", perm=[1, 0, 2])
    wide = graph.add("Cast", [steps], "ahead.float64", to=TYPES["float64"])
    difference = graph.add("Mul", [wide, graph.constant("unit", model.unit[:, None, :], "float64")], "difference")
    if model.linear is None:
        simple = graph.add("Slice", ["values", last, graph.constant("end", [2**62]), axis], "newest")
    else:
        simple = linear_forecast(graph, model, model.linear, first, spread)
    graph.add("Add", [simple, difference], "forecast")
    graph.give("forecast", "float64", (model.horizon, "B", series), "the next values")


def linear_forecast(graph: Graph, model: Forecaster, linear: LinearForecast, first: str, spread: str) -> str:
    """Add what `Forecaster.simple` gives at the last step, (horizon, B, S)."""
    repeats = graph.constant("repeats", [linear.lags, 1, 1])
    padded = graph.add("Concat", [graph.add("Tile", [first, repeats], "before_first"), "values"], "padded", axis=0)
    from_lag, end = graph.constant("from_lag", [-linear.lags]), graph.constant("window_end", [2**62])
    window = graph.add("Slice", [padded, from_lag, end, "steps_axis"], "window")
    mean = graph.constant("mean", model.mean, "float64")
    units = graph.add("Div", [graph.add("Sub", [window, mean], "window_centred"), spread], "window_units")
    by_series = graph.add("Transpose", [units], "window_by_series", perm=[2, 0, 1])  # (S, L, B)
    weight = graph.constant("linear.weight", linear.weight, "float64")
    products = graph.add("MatMul", [weight, by_series], "linear_products")  # (S, H, B)
    bias = graph.constant("linear.bias", linear.bias[:, :, None], "float64")
    ahead = graph.add("Transpose", [graph.add("Add", [products, bias], "linear_units")], "linear_ahead", perm=[1, 2, 0])
    return graph.add("Add", [graph.add("Mul", [ahead, spread], "linear_difference"), mean], "simple")


def running_mean(graph: Graph, first: str, memory: int) -> str:
    """Add the slow mean (T, B, S) of `Forecaster.features`: s += (v - s) / min(t + 1, memory), step by step."""
    helper, double = graph.onnx.helper, TYPES["float64"]
    body = helper.make_graph(
        [
            helper.make_node("Sub", ["value", "mean"], ["apart"]),
            helper.make_node("Div", ["apart", "count"], ["move"]),
            helper.make_node("Add", ["mean", "move"], ["next"]),
            helper.make_node("Identity", ["next"], ["kept"]),
        ],
        "running_mean",
        [helper.make_tensor_value_info(name, double, None) for name in ("mean", "count", "value")],
        [helper.make_tensor_value_info(name, double, None) for name in ("next", "kept")],
    )
    steps = graph.add("Squeeze", [graph.size("values", 0)], "num_steps")
    graph.constant("from_one", 1)
    after = graph.add("Add", [steps, "from_one"], "after_last")
    number = graph.add("Range", ["from_one", after, "from_one"], "number")
    count = graph.add("Min", [number, graph.constant("memory", memory)], "count_int")
    counts = graph.add("Cast", [count], "counts", to=double)
    start = graph.add("Squeeze", [first, "steps_axis"], "start")
    graph.add("Scan", [start, counts, "values"], "slow_last", "slow", body=body, num_scan_inputs=2)
    return "slow"


def sequence_model(graph: Graph, model: SequenceModel) -> None:
    """Add ``x`` and ``lengths`` to the ``logits`` of each sequence or step, or the ``numbers`` about each sequence."""
    graph.take("x", "float64", ("T", "B", len(model.mean)), "features of each step, in the data's own units")
    centred = graph.add("Sub", ["x", graph.constant("mean", model.mean, "float64")], "centred")
    scaled = graph.add("Div", [centred, graph.constant("spread", model.spread, "float64")], "scaled.float64")
    inputs = graph.add("Cast", [scaled], "scaled", to=TYPES[graph.dtype])
    inputs, lengths = frames(graph, inputs, take_lengths(graph, graph.size("x", 0), graph.size("x", 1)), model)
    y = lstm(graph, model.lstm, inputs, lengths)
    outputs = model.head.output_size
    if isinstance(model, Tagger):
        linear(graph, model.head, y, "logits")
        graph.give("logits", graph.dtype, ("T", "B", outputs), "score of each class of each step")
    elif isinstance(model, Regressor):
        said = linear(graph, model.head, summary(graph, model, y, lengths), "said")
        wide = graph.add("Cast", [said], "said.float64", to=TYPES["float64"])
        spread = graph.constant("target_spread", model.target_spread, "float64")
        apart = graph.add("Mul", [wide, spread], "apart")
        graph.add("Add", [apart, graph.constant("target_mean", model.target_mean, "float64")], "numbers")
        graph.give("numbers", "float64", ("B", outputs), "the numbers, in their own units")
    else:
        linear(graph, model.head, summary(graph, model, y, lengths), "logits")
        graph.give("logits", graph.dtype, ("B", outputs), "score of each class")


def lstm_alone(graph: Graph, layer: LSTM | Reversed) -> None:
    """Add ``x``, ``lengths`` and the state before to ``y`` and the state after."""
    inner = layer.lstm if isinstance(layer, Reversed) else layer
    axes = ("B", "T") if inner.batch_first else ("T", "B")
    x = graph.take("x", graph.dtype, (*axes, inner.input_size), "input of each step")
    graph.give("y", graph.dtype, (*axes, inner.hidden_size * inner.num_directions), "h of the last layer at each step")
    if inner.batch_first:
        x = graph.add("Transpose", [x], "x_by_time", perm=[1, 0, 2])
    y = lstm(graph, layer, x, take_lengths(graph, graph.size(x, 0), graph.size(x, 1)), carried=True)
    if inner.batch_first:
        graph.add("Transpose", [y], "y", perm=[1, 0, 2])
    else:
        graph.add("Identity", [y], "y")


def linear(graph: Graph, layer: Linear, x: str, name: str) -> str:
    """Add y = x W^T + b; of weights of 8 bits in ONNX Runtime's operator."""
    matrix = layer.params["weight"]
    if is_int8(matrix):
        held = [graph.constant(f"{name}.weight", matrix.values.T, "int8"), graph.weight(f"{name}.scale", matrix.scales)]
        held += ["", graph.weight(f"{name}.bias", graph.host(layer.params["bias"]))]
        return graph.add("DynamicQuantizeMatMul", [x, *held], name, domain=MICROSOFT)
    weight = graph.weight(f"{name}.weight", graph.host(layer.params["weight"]).T)
    bias = graph.weight(f"{name}.bias", graph.host(layer.params["bias"]))
    return graph.add("Add", [graph.add("MatMul", [x, weight], f"{name}.product"), bias], name)


def take_lengths(graph: Graph, steps: str, batch: str) -> str:
    """Add the input ``lengths`` as int32 (B,); where it is left out, or -1, all T steps."""
    graph.take("lengths", "int64", ("B or 1",), "steps of each sequence", [-1])
    unknown = graph.add("Less", ["lengths", graph.constant("lengths.zero", [0])], "lengths.unknown")
    known = graph.add("Where", [unknown, steps, "lengths"], "lengths.known")
    full = graph.add("Expand", [known, batch], "lengths.full")
    return graph.add("Cast", [full], "sequence_lens", to=6)


def lstm(graph: Graph, layer: LSTM | Reversed, x: str, lengths: str = "", carried: bool = False) -> str:
    """Add one LSTM node a layer over x (T, B, D); return the name of y (T, B, H x directions).

    With `carried`, the graph takes ``h0`` and ``c0``, which may be left out, and gives ``h`` and ``c``.
    """
    inner = layer.lstm if isinstance(layer, Reversed) else layer
    layers, rows = inner.num_layers, inner.num_layers * inner.num_directions
    check_options(inner, TAKES, "the ONNX operator LSTM")
    attributes = operator_attributes(inner, graph.dtype)
    direction = "reverse" if isinstance(layer, Reversed) else ("forward", "bidirectional")[inner.num_directions - 1]
    arrays = arrays_of(inner)
    before = {"h": [""] * layers, "c": [""] * layers}
    if carried or inner.options.learn_state:
        before = first_states(graph, inner, arrays, x, carried)
    for place in range(layers):
        name = f"lstm.l{place}"
        held = operands(inner, arrays[place])
        operator, more = "LSTM", []
        if is_int8(inner.params[f"weight_hh_l{place}"]):
            operator, attributes["domain"] = "DynamicQuantizeLSTM", MICROSOFT
            parts = [whole_numbers(graph, inner, place, part) for part in ("weight_ih", "weight_hh")]
            del held["W"], held["R"]
            more = [one for part in parts for one in part[1:]]
        given = {key: graph.weight(f"{name}.{key}", array) for key, array in held.items()}
        if more:
            given |= {"W": parts[0][0], "R": parts[1][0]}
        state = [before["h"][place], before["c"][place]]
        inputs = [x, given["W"], given["R"], given.get("B", ""), lengths, *state, given.get("P", ""), *more]
        outputs = [f"{name}.Y", f"{name}.Y_h", f"{name}.Y_c"]
        graph.add(operator, inputs, *outputs, hidden_size=inner.hidden_size, direction=direction, **attributes)
        ordered = graph.add("Transpose", [f"{name}.Y"], f"{name}.by_batch", perm=[0, 2, 1, 3])
        y = graph.add("Reshape", [ordered, graph.constant(f"{name}.shape", [0, 0, -1])], f"{name}.y")
        x = graph.add("Add", [x, y], f"{name}.sum") if inner.options.residual and place > 0 else y
    if carried:
        for name in before:
            graph.add("Concat", [f"lstm.l{place}.Y_{name}" for place in range(layers)], name, axis=0)
            graph.give(name, graph.dtype, (rows, "B", inner.hidden_size), "state after")
    return x


def is_int8(parameter: Any) -> bool:
    """Return whether a parameter has weights of 8 bits; those of bfloat16 are written in the graph's dtype."""
    return getattr(parameter, "scales", None) is not None


def whole_numbers(graph: Graph, layer: LSTM, place: int, part: str) -> list[str]:
    """Add a layer's ``weight_ih`` or ``weight_hh`` of 8 bits, transposed, with scales and zeros; return all names."""
    found = [layer.params[f"{part}{ending}"] for ending in endings(layer, place)]
    rows = np.arange(4 * layer.hidden_size).reshape(4, -1)[list(ORDER)].ravel()
    values, scales = (np.stack([getattr(one, name)[rows] for one in found]) for name in ("values", "scales"))
    name = f"lstm.l{place}.{part}"
    return [
        graph.constant(name, values.swapaxes(1, 2), "int8"),
        graph.weight(f"{name}.scale", scales),
        graph.constant(f"{name}.zero", np.zeros(scales.shape), "int8"),
    ]


def first_states(
    graph: Graph, layer: LSTM, arrays: list[list[dict[str, np.ndarray]]], x: str, carried: bool
) -> dict[str, list[str]]:
    """Add the ``h`` and ``c`` before each layer, (directions, B, H): zero, learned, or with `carried` as they come."""
    rows, hidden = layer.num_layers * layer.num_directions, layer.hidden_size
    batch = graph.size(x, 1)
    ends = [graph.constant("state.rows", [rows]), batch, graph.constant("state.width", [hidden])]
    shape = graph.add("Concat", ends, "state.shape", axis=0)
    sizes = graph.constant("state.sizes", [layer.num_directions] * layer.num_layers)
    before = {}
    for name in ("h", "c"):
        start = np.zeros((rows, 1, hidden))
        if layer.options.learn_state:
            start = np.stack([part[f"{name}0"] for directions in arrays for part in directions])[:, None]
        if carried:
            graph.take(f"{name}0", graph.dtype, (rows, "B or 1", hidden), "state before", start)
        else:
            graph.weight(f"{name}0", start)
        full = graph.add("Expand", [f"{name}0", shape], f"{name}0.full")
        before[name] = [f"{name}0.l{place}" for place in range(layer.num_layers)]
        graph.add("Split", [full, sizes], *before[name], axis=0)
    return before


def operator_attributes(layer: LSTM, dtype: str) -> dict[str, Any]:
    """Return the operator's attributes for our options.

    Raises
    ------
    InputError
        `clip` can't be kept: attributes are float32.
    """
    options = layer.options
    found: dict[str, Any] = {}
    if options.hard_sigmoid:
        found["activations"] = ["HardSigmoid", "Tanh", "Tanh"] * layer.num_directions
        found["activation_alpha"] = [0.2] * layer.num_directions
        found["activation_beta"] = [0.5] * layer.num_directions
    if options.coupled:
        found["input_forget"] = 1
    if options.clip is not None:
        with np.errstate(over="ignore"):
            clip = float(np.float32(options.clip))
        if not 0 < clip < np.inf or (dtype == "float64" and clip != options.clip):
            raise InputError(
                f"lstm has clip={options.clip!r}; expected a float32 number, as the ONNX operator's clip is"
            )
        found["clip"] = clip
    return found


def operands(layer: LSTM, directions: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return W (directions, 4H, D), R (directions, 4H, H), B (directions, 8H), P (directions, 3H) of a layer.

    Gate order i, o, f, c; that of the peepholes i, o, f.
    """
    hidden, heads = layer.hidden_size, layer.options.heads
    ours = {name: np.stack([arrays[name] for arrays in directions]) for name in directions[0]}
    rows = np.arange(4 * hidden).reshape(4, hidden)[list(ORDER)].ravel()
    recurrent = ours["weight_hh"]
    if heads > 1:
        # Unit j of head j // (H / heads) sees that head's part of h: zero elsewhere.
        head = np.arange(hidden) // (hidden // heads)
        seen = np.tile(head[:, None] == head, (4, 1))
        recurrent = np.where(seen, np.tile(recurrent, (1, 1, heads)), 0)
    found = {"W": ours["weight_ih"][:, rows], "R": recurrent[:, rows]}
    if layer.options.bias:
        bias = ours["bias"][:, rows]
        found["B"] = np.concatenate([bias, np.zeros_like(bias)], axis=1)
    if layer.options.peepholes:
        found["P"] = ours["peephole"][:, [0, 2, 1]].reshape(-1, 3 * hidden)
    return found
