"""Nodes of ONNX graphs: their names and attributes, and the graphs inside them; and the package that reads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gpu_lstm.errors import InputError
from gpu_lstm.interop.expressible import package

ORDER = (0, 3, 1, 2)
"""Where ONNX's gates i, o, f, c are in ours: i, f, g, o."""
DEFAULT_SET = ("", "ai.onnx")
"""Names of ONNX's own domain."""
ATTRIBUTES = {
    "direction": "STRING", "layout": "INT", "input_forget": "INT", "hidden_size": "INT", "clip": "FLOAT",
    "activations": "STRINGS", "activation_alpha": "FLOATS", "activation_beta": "FLOATS",
    "to": "INT", "starts": "INTS", "ends": "INTS", "axes": "INTS",
}  # fmt: skip
"""Types of the attributes that are read."""


def require_onnx() -> Any:
    """Import the package onnx; see `gpu_lstm.interop.expressible.package`."""
    return package("onnx", "ONNX", "onnx")


def attributes(node: Any) -> dict[str, Any]:
    """Return the attributes of a node, those that are read, by name."""
    onnx, found = require_onnx(), {}
    for attribute in node.attribute:
        wanted = ATTRIBUTES.get(attribute.name)
        if wanted is None:
            continue
        if attribute.type != onnx.AttributeProto.AttributeType.Value(wanted):
            raise InputError(f"node {name_of(node)!r} has an attribute {attribute.name} that is no {wanted}")
        value = onnx.helper.get_attribute_value(attribute)
        if wanted == "STRING":
            value = value.decode("utf-8", "replace")
        elif wanted == "STRINGS":
            value = [one.decode("utf-8", "replace") for one in value]
        found[attribute.name] = list(value) if wanted in ("INTS", "FLOATS") else value
    return found


def is_lstm(node: Any) -> bool:
    """Return whether a node is of the operator LSTM."""
    return node.op_type == "LSTM" and node.domain in DEFAULT_SET


def name_of(node: Any) -> str:
    """Return a node's name, or that of its first output."""
    name = node.name or next(iter(node.output), "")
    return name if isinstance(name, str) else repr(name)  # bytes, where a damaged file has no UTF-8


def bodies(node: Any) -> list[tuple[str, Any]]:
    """Return the graphs inside a node, by the names of its attributes."""
    return [(attribute.name, attribute.g) for attribute in node.attribute if attribute.HasField("g")]


def all_nodes(graph: Any) -> Iterator[Any]:
    """Yield the nodes of a graph, and of those inside them."""
    for node in graph.node:
        yield node
        for _, body in bodies(node):
            yield from all_nodes(body)


def reads(node: Any) -> set[str]:
    """Return all names that a node takes, or a graph inside it takes or gives."""
    names = {name for name in node.input if name}
    for _, body in bodies(node):
        names |= {entry.name for entry in body.output}.union(*(reads(inner) for inner in body.node))
    return names


def needed_names(graph: Any) -> set[str]:
    """Return all names that a graph's outputs depend on."""
    wanted = {entry.name for entry in graph.output}
    for node in reversed(graph.node):
        if not wanted.isdisjoint(node.output):
            wanted |= reads(node)
    return wanted
