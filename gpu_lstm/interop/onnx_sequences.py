"""What models of sequences do before and after their LSTM, as ONNX nodes: frames of steps, and summaries of outputs."""

from __future__ import annotations

from typing import Any

from gpu_lstm.models.classifier import SequenceModel

Graph = Any
"""`gpu_lstm.interop.onnx_export.Graph`, which imports this."""
INT64, LEAST = 7, -3.0e38
"""ONNX's number of a type; and what no output is below, which float32 and float64 have."""


def frames(graph: Graph, x: str, lengths: str, model: SequenceModel) -> tuple[str, str]:
    """Add `gpu_lstm.models.summaries.framed`: of x (T, B, D) and lengths (B,) int32 the names of both as frames."""
    window, stride = model.window, model.stride
    if window == stride == 1:
        return x, lengths
    own = graph.add("Cast", [lengths], "frames.lengths", to=INT64)
    up = graph.add("Add", [own, graph.constant("frames.up", stride - 1)], "frames.rounded")
    count = graph.add("Div", [up, graph.constant("frames.stride", stride)], "frames.count")
    most = graph.add("ReduceMax", [count], "frames.most", keepdims=0)
    number = graph.add("Range", [graph.constant("frames.0", 0), most, graph.constant("frames.1", 1)], "frames.number")
    begins = graph.add("Mul", [number, "frames.stride"], "frames.begins")
    column = graph.add("Unsqueeze", [begins, graph.constant("frames.axes12", [1, 2])], "frames.column")
    within = graph.constant("frames.within", [[list(range(window))]])
    asked = graph.add("Add", [column, within], "frames.asked")  # (T', 1, window)
    last = graph.add("Sub", [own, "frames.1"], "frames.last")
    limit = graph.add("Unsqueeze", [last, graph.constant("frames.axes02", [0, 2])], "frames.limit")
    steps = graph.add("Min", [asked, limit], "frames.steps")  # (T', B, window)
    batch = graph.size("x", 1)
    rows = graph.add("Mul", [steps, batch], "frames.rows")
    scalar = graph.add("Squeeze", [batch], "frames.batch")
    places = graph.add("Range", ["frames.0", scalar, "frames.1"], "frames.places")
    across = graph.add("Unsqueeze", [places, "frames.axes02"], "frames.across")
    index = graph.add("Add", [rows, across], "frames.index")
    flat = graph.add("Reshape", [x, graph.constant("frames.flat_shape", [-1, len(model.mean)])], "frames.flat")
    taken = graph.add("Gather", [flat, index], "frames.taken", axis=0)
    shape = graph.constant("frames.shape", [0, 0, window * len(model.mean)])
    return graph.add("Reshape", [taken, shape], "frames.x"), graph.add("Cast", [count], "frames.lens", to=6)


def summary(graph: Graph, model: SequenceModel, y: str, lengths: str) -> str:
    """Add the `gpu_lstm.layers.Pool`s of y (T, B, W), whose sequences have lengths (B,) int32."""
    parts = []
    own = graph.add("Cast", [lengths], "summary.lengths", to=INT64)
    if "mean" in model.pooling:
        total = graph.add("ReduceSum", [y, graph.constant("steps_axis", [0])], "total", keepdims=0)
        counts = graph.add("CastLike", [lengths, y], "counts")
        column = graph.add("Unsqueeze", [counts, graph.constant("column_axis", [1])], "column")
        parts.append(graph.add("Div", [total, column], "summary.mean"))
    if "max" in model.pooling:
        zero, one = graph.constant("summary.0", 0), graph.constant("summary.1", 1)
        size = graph.add("Squeeze", [graph.size(y, 0)], "summary.steps")
        number = graph.add("Range", [zero, size, one], "summary.number")
        column = graph.add("Unsqueeze", [number, graph.constant("summary.axes12", [1, 2])], "summary.column")
        ends = graph.add("Unsqueeze", [own, graph.constant("summary.axes02", [0, 2])], "summary.ends")
        inside = graph.add("Less", [column, ends], "summary.inside")
        least = graph.constant("summary.least", LEAST, graph.dtype)
        kept = graph.add("Where", [inside, y, least], "summary.kept")
        parts.append(graph.add("ReduceMax", [kept], "summary.max", axes=[0], keepdims=0))
    if "last" in model.pooling:
        parts += last_outputs(graph, model, y, own)
    return parts[0] if len(parts) == 1 else str(graph.add("Concat", parts, "summary", axis=1))


def last_outputs(graph: Graph, model: SequenceModel, y: str, lengths: str) -> list[str]:
    """Add the output of the last step of each sequence, and of its first where the LSTM reads backward, too."""
    size = model.lstm.output_size
    final = graph.add("Sub", [lengths, graph.constant("last.1", 1)], "last.step")
    index = graph.add("Unsqueeze", [final, graph.constant("last.axes02", [0, 2])], "last.index")  # (1, B, 1)
    shape = graph.add("Concat", ["last.1row", graph.size(y, 1), graph.size(y, 2)], "last.shape", axis=0)
    graph.constant("last.1row", [1])
    spread = graph.add("Expand", [index, shape], "last.spread")
    taken = graph.add("GatherElements", [y, spread], "last.taken", axis=0)
    row = graph.add("Squeeze", [taken, graph.constant("last.axis0", [0])], "last.row")
    zero, axis = graph.constant("last.begin", [0]), graph.constant("last.axis1", [1])
    half = graph.constant("last.half", [size])
    parts = [graph.add("Slice", [row, zero, half, axis], "last.forward")]
    if model.lstm.num_directions == 2:
        first = graph.add("Gather", [y, graph.constant("last.first", 0)], "last.first_row", axis=0)
        end = graph.constant("last.end", [2 * size])
        parts.append(graph.add("Slice", [first, half, end, axis], "last.backward"))
    return parts
