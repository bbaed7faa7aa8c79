"""What is read off an ONNX model before and while it is followed: sizes of its inputs, shapes, what a node computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpu_lstm.errors import InputError
from gpu_lstm.interop.onnx_nodes import all_nodes, bodies, is_lstm, require_onnx
from gpu_lstm.interop.onnx_values import Value

FLOATS = frozenset({1, 10, 11, 16})
"""ONNX's numbers of the types float32, float16, float64 and bfloat16."""
QUANTIZED = frozenset({"QuantizeLinear", "DequantizeLinear"})
"""Operators that onnx's evaluator knows in new operator sets only; older files mean the same by them."""
LIMIT = 2**27
"""Elements of the largest array that is followed."""
PRIMES = [n for n in range(23, 1000) if all(n % k for k in range(2, 32) if k < n)]
"""Sizes of the axes whose size is free."""

Sizes = dict[str, list[tuple[int, bool]]]
"""Of each input, the size of each axis and whether the file gives it."""


def sizes_of_inputs(graph: Any, batch: int | None) -> Sizes:
    """Return the sizes of a graph's inputs; free ones get primes by their names, or the known `batch`."""
    taken = {size for tensor in graph.initializer for size in tensor.dims}
    for entry in graph.input:
        taken |= {dim.dim_value for dim in entry.type.tensor_type.shape.dim}
    primes = iter([n for n in PRIMES if n not in taken])
    named: dict[str, int] = {}
    found: Sizes = {}
    for entry in graph.input:
        tensor = entry.type.tensor_type
        if tensor.HasField("shape"):
            dims = [(dim.dim_value, dim.dim_param) for dim in tensor.shape.dim]
        else:  # what an LSTM takes from outside has three axes, lengths have one
            dims = [(0, "")] * (3 if tensor.elem_type in FLOATS else 1)
        sizes: list[tuple[int, bool]] = []
        for size, name in dims:
            if size <= 0 and name not in named:
                named[name or f"{entry.name} {len(sizes)}"] = prime = next(primes, PRIMES[-1])
                sizes.append((prime, False))
            else:
                sizes.append((size, True) if size > 0 else (named[name], False))
        # Exporters give the batch of each input another name: where none is that of x, the free axes are.
        if batch is not None and batch not in [size for size, _ in sizes]:
            sizes = [(size if declared else batch, declared) for size, declared in sizes]
        found[entry.name] = sizes
    return found


def upstream(graph: Any, *places: int) -> set[str]:
    """Return all names that the LSTM nodes' inputs at these places depend on, but through other LSTM nodes."""
    nodes = list(all_nodes(graph))
    producers = {name: node for node in nodes if not is_lstm(node) for name in node.output}
    needed = [name for node in nodes if is_lstm(node) for k, name in enumerate(node.input) if k in places]
    seen: set[str] = set()
    while needed:
        name = needed.pop()
        if name and name not in seen:
            seen.add(name)
            needed += producers[name].input if name in producers else []
    return seen


def inferred_shapes(model: Any, dims: Sizes, optional: set[str]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of what LSTM nodes depend on, as far as onnx can tell, where inputs have the sizes `dims`.

    `optional` names the inputs that may be left out.
    """
    onnx, graph = require_onnx(), model.graph
    helper, tensors = onnx.helper, {tensor.name: tensor for tensor in graph.initializer}
    large = {name: t for name, t in tensors.items() if np.prod(t.dims, dtype=float) > 1024 or name in optional}
    kept = [tensor for name, tensor in tensors.items() if name not in large]
    try:
        outputs = [helper.make_empty_tensor_value_info(entry.name) for entry in graph.output]
        inputs = [
            helper.make_tensor_value_info(
                entry.name, entry.type.tensor_type.elem_type, [size for size, _ in dims[entry.name]]
            )
            for entry in graph.input
            if entry.name not in tensors or entry.name in optional
        ] + [helper.make_tensor_value_info(n, t.data_type, t.dims) for n, t in large.items() if n not in optional]
        part = part_of(model, helper.make_graph(graph.node, "shapes", inputs, outputs, kept), model.opset_import)
        inferred = onnx.shape_inference.infer_shapes(part, data_prop=True).graph
    except Exception:  # of whatever the file makes the inference raise; it is a help only
        return {}
    found, ahead = {}, upstream(graph, *range(8))
    for one in (inferred, *(body for node in all_nodes(inferred) for _, body in bodies(node))):
        for entry in one.value_info:
            tensor = entry.type.tensor_type
            shape = tuple(dim.dim_value for dim in tensor.shape.dim)
            if entry.name in ahead and tensor.HasField("shape") and min(shape, default=1) > 0:
                found[entry.name] = shape
    return found


def computed(model: Any, node: Any, given: Sequence[Value | None]) -> list[np.ndarray | None]:
    """Return what onnx's evaluator makes of a node's inputs, an entry an output; None for what is no array.

    Raises an exception of any kind: whatever a node of the file makes the evaluator raise; `InputError` for a result
    above `LIMIT`.
    """
    from onnx.reference import ReferenceEvaluator

    helper = require_onnx().helper
    feeds = {name: value.array for name, value in zip(node.input, given, strict=True) if value is not None}
    outputs = [name for name in node.output if name]
    imports = list(model.opset_import)
    if node.op_type in QUANTIZED:
        imports = [helper.make_opsetid("", max([21, *(one.version for one in imports if not one.domain)]))]
    if node.op_type in ("ConstantOfShape", "Expand"):
        shape = feeds[node.input[-1]]
        if np.prod(shape, dtype=float) > LIMIT:
            raise InputError(f"it has the shape {tuple(shape)}")
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), None)
        for name, array in feeds.items()
    ]
    ends = [helper.make_empty_tensor_value_info(name) for name in outputs]
    part = part_of(model, helper.make_graph([node], "part", inputs, ends), imports)
    with np.errstate(all="ignore"):
        results = dict(zip(outputs, ReferenceEvaluator(part).run(None, feeds), strict=True))
    arrays = [results.get(name) for name in node.output]
    return [np.asarray(array) if isinstance(array, np.ndarray | np.generic) else None for array in arrays]


def part_of(model: Any, graph: Any, imports: Any) -> Any:
    """Return a model of a part of another's graph."""
    return require_onnx().helper.make_model(graph, opset_imports=imports, ir_version=model.ir_version)
