"""ONNX graphs around LSTM nodes: read as the function of the whole graph, or refused by the names of the nodes."""

from typing import Any

import numpy as np
import pytest

from gpu_lstm import LSTM, InputError
from gpu_lstm.interop.onnx import from_onnx, load, to_onnx
from gpu_lstm.models import Classifier, Forecaster, LanguageModel

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from tests.test_interop_onnx import by_runtime, close, numbers, oh, to_tensor, wrap  # noqa: E402

CELL = {"hidden_size": 3}
TURN = {"perm": [1, 0, 2]}


def weights(rng, names=("",), inputs=4, hidden=3, directions=1, top=None):
    """Constants W and R of LSTM nodes of these endings; `top` is the input size of all but the first."""
    found = {}
    for place, name in enumerate(names):
        width = inputs if place == 0 or top is None else top
        found[f"W{name}"] = numbers(rng, directions, 4 * hidden, width)
        found[f"R{name}"] = numbers(rng, directions, 4 * hidden, hidden)
    return found


def one(before, after, outputs, x=(5, 2, 4), constants=None, lstm_in="x", **more):
    """A graph of nodes before and after an LSTM node "lstm" that gives Y, Y_h, Y_c."""
    nodes = [
        *before,
        ("LSTM", [lstm_in, "W", "R", *more.pop("inputs", [])], ["Y", "Y_h", "Y_c"], CELL | more),
        *after,
    ]
    known = {"one": np.array([1]), "zero": np.array([0]), "last": np.array(-1), "U": np.ones((3, 3), np.float32)}
    known |= weights(np.random.default_rng(0)) | (constants or {})
    model = wrap(nodes, [("x", list(x))], [(name, None) for name in outputs], known)
    for node in model.graph.node:
        node.name = "lstm" if node.op_type == "LSTM" else f"{node.output[0]}_node"
    return model


SQUEEZE: Any = ("Squeeze", ["Y", "one"], ["flat"], {})

MORE = {
    "a head behind it": ([], [SQUEEZE, ("MatMul", ["flat", "U"], ["out"], {})], "behind .* lies MatMul 'out_node'"),
    "a softmax behind it": ([], [SQUEEZE, ("Softmax", ["flat"], ["out"], {})], "behind .* lies Softmax 'out_node'"),
    "two behind it": (
        [],
        [SQUEEZE, ("MatMul", ["flat", "U"], ["a"], {}), ("Relu", ["a"], ["out"], {})],
        "behind .* lie MatMul 'a_node', Relu 'out_node'",
    ),
    "a head on h": (
        [],
        [("Squeeze", ["Y_h", "zero"], ["a"], {}), ("MatMul", ["a", "U"], ["out"], {})],
        "lies MatMul 'out_node'",
    ),
    "something in front": (
        [("Relu", ["x"], ["in"], {})],
        [("Identity", ["Y"], ["out"], {})],
        "front .* Relu 'in_node'",
    ),
    "something beside": ([], [("Relu", ["x"], ["out"], {})], "beside them lies Relu 'out_node'"),
    "the last step alone": ([], [("Gather", ["Y", "last"], ["out"], {})], "a part of Y, .*, after Gather 'out_node'"),
    "other axes": (
        [],
        [("Transpose", ["Y"], ["out"], {"perm": [3, 0, 1, 2]})],
        "another order, after Transpose 'out_node'",
    ),
    "a part of x": (
        [("Slice", ["x", "zero", "one"], ["in"], {})],
        [("Identity", ["Y"], ["out"], {})],
        "does not take the input 'x' whole.* after Slice 'in_node'",
    ),
    "a crop to some length": (
        [("Slice", ["x", "zero", "many"], ["in"], {})],
        [("Identity", ["Y"], ["out"], {})],
        "front .* lies Slice 'in_node'",
    ),
    "steps in reverse": (
        [("Slice", ["x", "last1", "first", "zero", "back"], ["in"], {})],
        [("Identity", ["Y"], ["out"], {})],
        "does not take the input 'x' whole",
    ),
    "a constant": ([], [("Identity", ["U"], ["out"], {})], "gives as 'out' what is none of y, h and c"),
    "a shape": ([], [("Shape", ["Y"], ["out"], {})], "gives as 'out' what is none of y, h and c"),
    "a random state": (
        [("RandomNormal", [], ["noise"], {"shape": [1, 2, 3]})],
        [("Identity", ["Y"], ["out"], {})],
        "front .* RandomNormal 'noise_node'",
    ),
    "a cast to whole numbers": ([], [("Cast", ["Y"], ["out"], {"to": 7})], "lies Cast 'out_node'"),
}


@pytest.mark.parametrize("name", MORE)
def test_a_graph_that_does_more_is_refused_by_name_and_its_lstm_can_be_taken_alone(name):
    before, after, message = MORE[name]
    inputs = ["", "", "noise"] if name == "a random state" else []
    lstm_in = "in" if any(node[2] == ["in"] for node in before) else "x"
    constants = {
        "many": np.array([100]),
        "last1": np.array([-1]),
        "first": np.array([-(2**40)]),
        "back": np.array([-1]),
    }
    model = one(before, after, ["out"], ("T", "B", 4), constants, lstm_in, inputs=inputs)
    with pytest.raises(InputError, match=message) as raised:
        from_onnx(model)
    assert "node=..." in str(raised.value) and "'lstm'" in str(raised.value)
    lstm = from_onnx(model, "lstm").lstm
    x = numbers(np.random.default_rng(1), 5, 2, 4)
    close([lstm.forward(x)[0]], [y[:, 0] for y in by_runtime(one([], [], ["Y"]), {"x": x})])


@pytest.mark.parametrize(
    ("after", "outputs"),
    [
        ([], ["Y"]),
        ([], ["Y_h"]),
        ([], ["Y_c", "Y"]),
        ([SQUEEZE], ["flat", "Y_h", "Y_c"]),
        ([("Squeeze", ["Y_h", "zero"], ["out"], {})], ["out"]),
        ([SQUEEZE, ("Relu", ["flat"], ["unused"], {})], ["flat"]),
        ([("Cast", ["Y"], ["out"], {"to": 1})], ["out"]),
        ([("Identity", ["x"], ["same"], {})], ["same", "Y"]),
    ],
)
def test_any_outputs_of_an_lstm_node_are_read(after, outputs):
    model, x = one([], after, outputs), numbers(np.random.default_rng(1), 5, 2, 4)
    y, (h, c), _ = from_onnx(model).lstm.forward(x)
    ours = {
        "Y": y[:, None],
        "flat": y,
        "Y_h": h,
        "Y_c": c,
        "out": h[0] if "Y_h" in str(after) else y[:, None],
        "same": x,
    }
    close([ours[name] for name in outputs], by_runtime(model, {"x": x}))


def test_x_that_is_turned_is_batch_first_where_only_h_leaves():
    model = one([("Transpose", ["x"], ["in"], TURN)], [], ["Y_h"], ("B", "T", 4), lstm_in="in")
    x = numbers(np.random.default_rng(1), 2, 5, 4)
    lstm = from_onnx(model).lstm
    assert lstm.batch_first
    close([lstm.forward(x)[1][0]], by_runtime(model, {"x": x}))


def test_a_node_alone_is_batch_first_where_it_is_so_in_the_graph():
    before, back = [("Transpose", ["x"], ["in"], TURN)], ("Transpose", ["flat"], ["back"], TURN)
    model = one(before, [SQUEEZE, back, ("MatMul", ["back", "U"], ["out"], {})], ["out"], (2, 5, 4), lstm_in="in")
    assert from_onnx(model, "lstm").lstm.batch_first
    model = one(before, [SQUEEZE, ("MatMul", ["flat", "U"], ["out"], {})], ["out"], (2, 5, 4), lstm_in="in")
    assert not from_onnx(model, "lstm").lstm.batch_first


def stack(between, top=3, outputs=("Y1",), x=("T", "B", 4), behind=(), **constants):
    nodes = [
        ("LSTM", ["x", "W0", "R0"], ["Y0", "h0", "c0"], CELL),
        *between,
        ("LSTM", ["middle", "W1", "R1"], ["Y1", "h1", "c1"], CELL),
        *behind,
    ]
    known = weights(np.random.default_rng(0), "01", top=top) | {"one": np.array([1]), "U": np.ones((3, 3), np.float32)}
    return wrap(nodes, [("x", list(x))], [(name, None) for name in outputs], known | constants)


def test_layers_states_may_leave_together_alone_or_not_at_all():
    squeeze = [("Squeeze", ["Y0", "one"], ["middle"], {})]
    both = ("Concat", ["h0", "h1"], ["h"], {"axis": 0})
    swapped = ("Concat", ["h1", "h0"], ["h"], {"axis": 0})
    x = numbers(np.random.default_rng(1), 5, 2, 4)
    for outputs, behind in ((["h"], [both]), (["h0", "Y1"], []), (["c1"], [])):
        model = stack(squeeze, outputs=outputs, behind=behind)
        y, (h, c), _ = from_onnx(model).lstm.forward(x)
        ours = {"h": h, "h0": h[:1], "Y1": y[:, None], "c1": c[1:]}
        close([ours[name] for name in outputs], by_runtime(model, {"x": x}))
    for outputs, behind in ((["h"], [swapped]), (["Y0"], [])):
        with pytest.raises(InputError, match="a part of Y|no stack|gives as"):
            from_onnx(stack(squeeze, outputs=[*outputs, "Y1"], behind=behind))


def test_a_stack_with_a_head_is_taken_by_the_names_of_its_nodes():
    between = [
        ("Transpose", ["Y0"], ["turned"], {"perm": [0, 2, 1, 3]}),
        ("Shape", ["x"], ["size"], {}),
        ("Slice", ["size", "nought", "two"], ["steps"], {}),
        ("Concat", ["steps", "rest"], ["shape"], {"axis": 0}),
        ("Reshape", ["turned", "shape"], ["middle"], {}),
    ]
    head = [("Squeeze", ["Y1", "one"], ["flat"], {}), ("MatMul", ["flat", "U"], ["out"], {})]
    known = {"nought": np.array([0]), "two": np.array([2]), "rest": np.array([-1])}
    model = stack(between, outputs=["out"], behind=head, **known)
    with pytest.raises(InputError, match=r"behind the last LSTM node lies MatMul 'out'; node=\.\.\. .*: 'Y0', 'Y1'"):
        from_onnx(model)
    lstm = from_onnx(model, ["Y0", "Y1"]).lstm
    assert lstm.num_layers == 2
    x = numbers(np.random.default_rng(1), 5, 2, 4)
    close([lstm.forward(x)[0].sum(axis=2)], [by_runtime(model, {"x": x})[0][..., 0]])
    for names, message in (
        (["Y1", "Y0"], "no stack"),
        (["Y0", "Y0"], "'Y0' twice"),
        (["Y0", "Y2"], "node is 'Y2'; the LSTM nodes"),
        ([], r"node is \[\]; expected the name"),
        (3, "node is 3; expected the name"),
    ):
        with pytest.raises(InputError, match=message):
            from_onnx(model, names)


def test_the_shape_of_what_a_strange_node_gives_tells_the_axes_behind_it():
    nodes = [
        ("Gather", ["table", "ids"], ["vectors"], {}),
        ("Transpose", ["vectors"], ["x"], TURN),
        ("LSTM", ["x", "W0", "R0"], ["Y0", "h0", "c0"], CELL),
        ("Shape", ["ids"], ["size"], {}),
        ("Gather", ["size", "swap"], ["steps"], {}),
        ("Concat", ["steps", "rest"], ["shape"], {"axis": 0}),
        ("Transpose", ["Y0"], ["turned"], {"perm": [0, 2, 1, 3]}),
        ("Reshape", ["turned", "shape"], ["middle"], {}),
        ("LSTM", ["middle", "W1", "R1"], ["Y1", "h1", "c1"], CELL),
        ("Squeeze", ["Y1", "one"], ["flat"], {}),
        ("Transpose", ["flat"], ["y"], TURN),
        ("MatMul", ["y", "U"], ["out"], {}),
    ]
    rng = np.random.default_rng(0)
    known = weights(rng, "01", top=3) | {
        "table": numbers(rng, 7, 4), "swap": np.array([1, 0]), "rest": np.array([-1]), "one": np.array([1]),
        "U": np.ones((3, 3), np.float32),
    }  # fmt: skip
    model = wrap(nodes, [("ids", ["B", "T"])], [("out", None)], known)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    with pytest.raises(
        InputError, match=r"in front of an LSTM node lies Gather 'vectors', behind .* lies MatMul 'out'"
    ):
        from_onnx(model)
    lstm = from_onnx(model, ["Y0", "Y1"]).lstm
    assert lstm.batch_first and lstm.num_layers == 2
    ids = rng.integers(0, 7, (2, 5))
    close([lstm.forward(known["table"][ids])[0].sum(axis=2)], [by_runtime(model, {"ids": ids})[0][..., 0]])
    # The same numbers in a shape with time and batch exchanged are other sequences.
    known["swap"] = np.array([0, 1])
    model = wrap(nodes, [("ids", ["B", "T"])], [("out", None)], known)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    with pytest.raises(InputError, match="'Y1' does not take Y of the node below, 'Y0'.* Reshape 'middle'"):
        from_onnx(model, ["Y0", "Y1"])


def branch(name, rng=None, size=3, between=()):
    """The body of a branch: an LSTM node of that name over X; with weights of its own where `rng` is given."""
    made = weights(rng, hidden=size) if rng else {}
    nodes = [oh.make_node(op, inputs, outputs, outputs[0], **attributes) for op, inputs, outputs, attributes in between]
    source = between[-1][2][0] if between else "X"
    nodes.append(oh.make_node("LSTM", [source, "W", "R"], ["Y"], name, hidden_size=size))
    out = oh.make_tensor_value_info("Y", onnx.TensorProto.FLOAT, ["T", 1, "B", size])
    return oh.make_graph(nodes, "body", [], [out], [to_tensor(array, key) for key, array in made.items()])


def with_if(then, other, constants, condition=None):
    inputs = [oh.make_tensor_value_info("X", onnx.TensorProto.FLOAT, ["T", "B", 4])]
    held = [to_tensor(array, key) for key, array in constants.items()]
    if condition is None:
        inputs.append(oh.make_tensor_value_info("flag", onnx.TensorProto.BOOL, []))
    else:
        held.append(to_tensor(np.array(condition), "flag"))
    node = oh.make_node("If", ["flag"], ["Z"], "rate", then_branch=then, else_branch=other)
    out = oh.make_tensor_value_info("Z", onnx.TensorProto.FLOAT, None)
    graph = oh.make_graph([node], "graph", inputs, [out], held)
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)


def same_as(lstm, model, **feeds):
    x = numbers(np.random.default_rng(1), 5, 2, 4)
    (expected,) = by_runtime(model, {"X": x} | feeds)
    close([lstm.forward(x)[0]], [expected[:, 0]])


def test_branches_that_do_the_same_are_one_lstm():
    model = with_if(branch("l"), branch("l"), weights(np.random.default_rng(0)))
    for node in (None, "l", "rate/then_branch/l", "rate/else_branch/l"):
        same_as(from_onnx(model, node).lstm, model, flag=np.array(False))


def test_of_branches_that_differ_one_is_taken_by_its_path():
    rng = np.random.default_rng(0)
    model = with_if(branch("l", rng), branch("l", rng), {})
    with pytest.raises(InputError, match=r"If 'rate'.*'rate/\w+_branch/l', 'rate/\w+_branch/l'"):
        from_onnx(model)
    with pytest.raises(InputError, match="node is 'l', the name of LSTM nodes that differ"):
        from_onnx(model, "l")
    for flag, name in ((True, "then"), (False, "else")):
        same_as(from_onnx(model, f"rate/{name}_branch/l").lstm, model, flag=np.array(flag))


@pytest.mark.parametrize("flag", [True, False])
def test_the_branch_that_a_constant_takes_is_the_graph(flag):
    rng = np.random.default_rng(0)
    model = with_if(branch("one", rng), branch("other", rng, between=[("Relu", ["X"], ["a"], {})]), {}, flag)
    if flag:
        same_as(from_onnx(model).lstm, model)
    else:
        with pytest.raises(InputError, match="front of an LSTM node lies Relu 'rate/else_branch/a'"):
            from_onnx(model)
    assert from_onnx(model, "one").lstm.hidden_size == from_onnx(model, "other").lstm.hidden_size == 3


def test_an_lstm_inside_a_loop_is_found():
    rng = np.random.default_rng(0)
    float_ = onnx.TensorProto.FLOAT
    body = oh.make_graph(
        [
            oh.make_node("LSTM", ["now", "W", "R"], ["Y"], "l", hidden_size=4),
            oh.make_node("Squeeze", ["Y", "one"], ["next"]),
            oh.make_node("Identity", ["go"], ["on"]),
        ],
        "body",
        [
            oh.make_tensor_value_info("k", onnx.TensorProto.INT64, []),
            oh.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
            oh.make_tensor_value_info("now", float_, ["T", "B", 4]),
        ],
        [
            oh.make_tensor_value_info("on", onnx.TensorProto.BOOL, []),
            oh.make_tensor_value_info("next", float_, ["T", "B", 4]),
        ],
    )
    held = weights(rng, hidden=4) | {"times": np.array(2), "one": np.array([1])}
    graph = oh.make_graph(
        [oh.make_node("Loop", ["times", "", "X"], ["Z"], "again", body=body)],
        "graph",
        [oh.make_tensor_value_info("X", float_, ["T", "B", 4])],
        [oh.make_tensor_value_info("Z", float_, ["T", "B", 4])],
        [to_tensor(array, key) for key, array in held.items()],
    )
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(InputError, match=r"Loop 'again'; node=.* 'again/body/l'"):
        from_onnx(model)
    x = numbers(rng, 5, 2, 4)
    for name in ("l", "again/body/l"):
        lstm = from_onnx(model, name).lstm
        close([lstm.forward(lstm.forward(x)[0])[0]], by_runtime(model, {"X": x}))


@pytest.mark.parametrize("opset", [10, 13, 17, 21])
def test_weights_of_8_bits_are_read_from_any_operator_set(opset):
    rng = np.random.default_rng(0)
    wide = rng.integers(-128, 128, (1, 12, 4)).astype(np.int8)
    known = {"Wq": wide, "scale": np.float32(0.01), "zero": np.int8(3), "R": numbers(rng, 1, 12, 3)}
    nodes = [("DequantizeLinear", ["Wq", "scale", "zero"], ["W"], {}), ("LSTM", ["x", "W", "R"], ["Y"], CELL)]
    model = wrap(nodes, [("x", ["T", "B", 4])], [("Y", None)], known, opset)
    lstm = from_onnx(model).lstm
    np.testing.assert_allclose(lstm.params["weight_ih_l0"][:3], (wide[0, :3] - 3.0) * 0.01, rtol=1e-6)
    x = numbers(rng, 5, 2, 4)
    close([lstm.forward(x)[0][:, None]], by_runtime(model, {"x": x}))


def test_a_graph_without_an_lstm_node_names_what_it_has_instead():
    model = wrap([("GRU", ["x", "W", "R"], ["Y"], CELL)], [("x", [5, 2, 4])], [("Y", None)], {})
    with pytest.raises(InputError, match="no LSTM node; expected at least one; it has GRU 'Y'"):
        from_onnx(model)


def test_a_state_that_is_spread_over_any_batch_is_learned():
    rng = np.random.default_rng(0)
    before = [
        ("Shape", ["x"], ["size"], {"start": 1, "end": 2}),
        ("Concat", ["one", "size", "three"], ["shape"], {"axis": 0}),
        ("Expand", ["row", "shape"], ["h"], {}),
    ]
    known = {"three": np.array([3]), "row": numbers(rng, 1, 1, 3)}
    model = one(before, [], ["Y", "Y_h", "Y_c"], ("T", "B", 4), known, inputs=["", "", "h"])
    lstm, state, _ = from_onnx(model)
    assert state is None and lstm.options.learn_state
    np.testing.assert_array_equal(lstm.params["h0_l0"], known["row"][0, 0])
    x = numbers(rng, 5, 2, 4)
    y, (h, c), _ = lstm.forward(x)
    close([y[:, None], h, c], by_runtime(model, {"x": x}))


def with_states(nodes, inputs, state=("S", [2, "B", 3])):
    """Two LSTM nodes, whose initial h are made of an input by `nodes`."""
    between = [("Squeeze", ["Y0", "one"], ["middle"], {}), *nodes]
    model = stack(between)
    model.graph.input.append(oh.make_tensor_value_info(state[0], onnx.TensorProto.FLOAT, state[1]))
    lstms = [node for node in model.graph.node if node.op_type == "LSTM"]
    for node, name in zip(lstms, inputs, strict=True):
        node.input.extend(["", "", name])
    made = [node for node in model.graph.node if node.op_type in ("Split", "Mul", "Shape", "Concat", "Expand")]
    kept = [node for node in model.graph.node if node not in made]
    del model.graph.node[:]
    model.graph.node.extend([*made, *kept])
    return model


def test_states_from_outside_are_those_of_the_layers_in_order_or_refused():
    rng = np.random.default_rng(1)
    split = [("Split", ["S"], ["low", "top"], {"axis": 0})]
    model, x, s = with_states(split, ["low", "top"]), numbers(rng, 5, 2, 4), numbers(rng, 2, 2, 3)
    close([from_onnx(model).lstm.forward(x, (s, None))[0][:, None]], by_runtime(model, {"x": x, "S": s}))
    with pytest.raises(InputError, match="in the order of the layers, as initial_h, after Split 'low'"):
        from_onnx(with_states(split, ["top", "low"]))
    with pytest.raises(InputError, match="Y0' does not take an input of the ONNX file whole"):
        from_onnx(with_states([], ["x", "x"]))
    with pytest.raises(InputError, match="initial_h of another kind in each layer"):
        from_onnx(with_states(split, ["low", ""]))
    with pytest.raises(InputError, match="front of an LSTM node lies Mul 'more'|between"):
        from_onnx(with_states([*split, ("Mul", ["top", "top"], ["more"], {})], ["low", "more"]))


def test_lengths_that_a_graph_computes_are_refused():
    def model(nodes, name):
        made = one(nodes, [], ["Y"], ("T", "B", 4), {"many": np.array([3], np.int32)}, inputs=["", name])
        made.graph.input.append(oh.make_tensor_value_info("n", onnx.TensorProto.INT64, ["N"]))
        return made

    cast = ("Cast", ["n"], ["lens"], {"to": 6})
    x, n = numbers(np.random.default_rng(1), 5, 2, 4), np.array([2, 5])
    taken = model([cast], "lens")
    close([from_onnx(taken).lstm.forward(x, None, n)[0][:, None]], by_runtime(taken, {"x": x, "n": n}))
    with pytest.raises(InputError, match="sequence_lens that the file computes"):
        from_onnx(model([cast, ("Min", ["lens", "many"], ["fewer"], {})], "fewer"))


@pytest.mark.parametrize(
    "options", [{}, {"lstm": {"learn_state": True}}, {"lstm": {"residual": True, "peepholes": True, "heads": 2}}]
)
def test_models_with_any_options_compute_the_same_and_are_more_than_an_lstm(options):
    rng = np.random.default_rng(0)
    for model in (
        LanguageModel(9, 4, 6, 2, **options),
        Forecaster([0.0], [1.0], [1.0], horizon=3, hidden_size=6, num_layers=2, **options),
        Classifier([0.0, 1.0], [1.0, 2.0], 3, 6, num_layers=2, **options),
    ):
        for array in model.params.values():
            array[...] = rng.standard_normal(array.shape) / 2
        file = to_onnx(model)
        x, lengths = rng.standard_normal((7, 3, 2)), np.array([7, 2, 4])
        ids, values = rng.integers(0, 9, (7, 3)), rng.standard_normal((7, 3, 1))
        if model.kind == "text":
            expected, feeds = model.logits(ids)[0], {"ids": ids}
        elif model.kind == "series":
            expected, feeds = model.forecast(values), {"values": values}
        else:
            expected, feeds = model.logits(x, lengths), {"x": x, "lengths": lengths}
        close(by_runtime(file, feeds)[:1], [expected])
        with pytest.raises(InputError, match="is more than an LSTM: .*MatMul"):
            from_onnx(file)
        lstm = from_onnx(file, ["lstm.l0.Y", "lstm.l1.Y"]).lstm
        inner = rng.standard_normal((5, 2, model.lstm.input_size)).astype(np.float32)
        close([lstm.forward(inner)[0]], [model.lstm.forward(inner)[0]])


@pytest.mark.parametrize("held", ["initializers", "inputs too", "nodes", "beside the file"])
def test_weights_are_read_wherever_a_file_keeps_them(held, tmp_path):
    model, path = one([], [], ["Y"], ("T", "B", 4)), tmp_path / "model.onnx"
    w = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    if held == "inputs too":  # as older exporters list them
        for name in ("W", "R"):
            model.graph.input.append(oh.make_tensor_value_info(name, onnx.TensorProto.FLOAT, w[name].shape))
    elif held == "nodes":
        del model.graph.initializer[:]
        for name in ("W", "R"):
            model.graph.node.insert(0, oh.make_node("Constant", [], [name], value=to_tensor(w[name])))
    onnx.save(model, path, save_as_external_data=held == "beside the file", location="weights.bin", size_threshold=0)
    lstm = load(path).lstm
    np.testing.assert_array_equal(lstm.params["weight_ih_l0"][:3], w["W"][0, :3])
    if held == "beside the file":
        (tmp_path / "weights.bin").unlink()
        with pytest.raises(InputError, match=r"model\.onnx can't be read"):
            load(path)


class Wrapped:
    """Makes a torch module of an LSTM that gives y only."""

    def __new__(cls, torch, *layers, **options):
        class Module(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.lstm = torch.nn.LSTM(4, 5, **options)
                self.behind = torch.nn.Sequential(*layers)

            def forward(self, x, *state):
                return self.behind(self.lstm(x, *state)[0])

        return Module().eval()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("dynamo", [False, True])
def test_torchs_exporters_with_a_free_batch_are_read(dynamo, batch_first, bidirectional, layers, tmp_path):
    for head in (False, True):
        check_torch(tmp_path, dynamo, batch_first, bidirectional, layers, head)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_stack_of_torch_with_a_free_batch_is_read(batch_first, tmp_path):
    check_torch(tmp_path, True, batch_first, False, 2, False)


def check_torch(folder, dynamo, batch_first, bidirectional, layers, head):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if dynamo:
        pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    torch.manual_seed(0)
    options = {"num_layers": layers, "bidirectional": bidirectional, "batch_first": batch_first}
    x = torch.randn(6, 3, 4)
    behind = (torch.nn.Linear(10 if bidirectional else 5, 2),) if head else ()
    module, path = Wrapped(torch, *behind, **options), folder / "torch.onnx"
    if dynamo:
        free = ({0 if batch_first else 1: torch.export.Dim("batch")},)
        how = {"dynamo": True, "external_data": False, "verbose": False, "dynamic_shapes": free}
    else:
        how = {"dynamo": False, "input_names": ["x"], "dynamic_axes": {"x": [0, 1]}}
    torch.onnx.export(module, (x,), str(path), **how)
    if head:
        with pytest.raises(InputError, match="behind the last LSTM node lie.*MatMul") as raised:
            load(path)
        lstm = load(path, str(raised.value).split("stack: ")[1].replace("'", "").split(", ")).lstm
    else:
        lstm, state, lengths = load(path)
        assert state is None and lengths is None
    assert lstm.batch_first is batch_first and lstm.num_layers == layers
    more = torch.randn(*((8, 3) if batch_first else (6, 8)), 4)
    with torch.no_grad():
        close([lstm.forward(more.numpy())[0]], [module.lstm(more)[0].numpy()])


def test_what_is_read_back_is_what_the_file_says_where_it_has_a_default_state():
    layer = LSTM(4, 3, 2, learn_state=True)
    rng = np.random.default_rng(0)
    for array in layer.params.values():
        array[...] = rng.standard_normal(array.shape)
    back = from_onnx(to_onnx(layer)).lstm
    for name, array in layer.params.items():
        np.testing.assert_array_equal(back.params[name], array)


def test_a_default_state_of_a_batch_first_node_is_learned_too():
    rng = np.random.default_rng(0)
    before = [
        ("Shape", ["x"], ["size"], {"start": 0, "end": 1}),
        ("Concat", ["size", "one", "three"], ["shape"], {"axis": 0}),
        ("Expand", ["h0", "shape"], ["h"], {}),
    ]
    known = {"three": np.array([3]), "h0": numbers(rng, 1, 1, 3)}
    model = one(before, [], ["Y"], ("B", "T", 4), known, inputs=["", "", "h"], layout=1)
    model.graph.input.append(oh.make_tensor_value_info("h0", onnx.TensorProto.FLOAT, ["B or 1", 1, 3]))
    lstm, state, _ = from_onnx(model)
    assert lstm.batch_first and state is None
    np.testing.assert_array_equal(lstm.params["h0_l0"], known["h0"][0, 0])
    for wrong in (numbers(rng, 3, 1, 3), numbers(rng, 3)):  # three sequences' states for a batch of any size
        known["h0"] = wrong
        model = one(before, [], ["Y"], ("B", "T", 4), known, inputs=["", "", "h"], layout=1)
        model.graph.input.append(oh.make_tensor_value_info("h0", onnx.TensorProto.FLOAT, ["B or 1", 1, 3]))
        if wrong.ndim == 3:
            with pytest.raises(InputError, match=r"'h0' has a default of shape \(3, 1, 3\)"):
                from_onnx(model)
        else:
            np.testing.assert_array_equal(from_onnx(model).lstm.params["h0_l0"], wrong)


def test_x_in_front_of_which_all_is_left_out_may_have_any_shape():
    """Without shapes to be had, of an operator that onnx doesn't know, a node is still taken alone."""
    nodes = [("Magic", ["x"], ["in"], {"domain": "acme"}), ("LSTM", ["in", "W", "R"], ["Y"], CELL | {"layout": 1})]
    model = wrap(nodes, [("x", ["B", "T", 9])], [("Y", None)], weights(np.random.default_rng(0)))
    with pytest.raises(InputError, match="in front of an LSTM node lies Magic 'in'"):
        from_onnx(model)
    assert from_onnx(model, "Y").lstm.batch_first
