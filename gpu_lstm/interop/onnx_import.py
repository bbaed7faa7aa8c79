"""The LSTM operator of any ONNX file as an LSTM of ours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpu_lstm.backend import Array, Backend
from gpu_lstm.errors import InputError
from gpu_lstm.interop.expressible import check_path
from gpu_lstm.interop.onnx_export import ORDER, require_onnx
from gpu_lstm.layers import LSTM, Reversed
from gpu_lstm.layers.base import check_dtype

PASSING = ("Identity", "Cast", "Dropout", "Transpose", "Squeeze", "Unsqueeze", "Reshape")
"""What may lie between the nodes of a stack."""
SPREADING = (*PASSING, "Expand", "Slice", "Split", "Concat", "Gather", "Tile")
"""Operators that make zeros of zeros."""
ATTRIBUTES = {
    "direction": "STRING", "layout": "INT", "input_forget": "INT", "hidden_size": "INT", "clip": "FLOAT",
    "activations": "STRINGS", "activation_alpha": "FLOATS", "activation_beta": "FLOATS",
    "perm": "INTS", "axes": "INTS",
}  # fmt: skip
"""Types of the attributes that are read."""
SAME = "expected the same in a stack; node=... loads one LSTM node alone"
SLOPE = 0.2
"""Of our hard sigmoid."""


class Loaded(NamedTuple):
    """What was in a file: ``y, (h, c), _ = lstm.forward(x, state, lengths)`` computes what its LSTM nodes compute.

    Attributes
    ----------
    lstm : LSTM, or Reversed for ``direction="reverse"``
    state : (h0, c0) or None
        Where the file holds them, other than zero.
    lengths : numpy.ndarray or None
        Where the file holds them.
    """

    lstm: LSTM | Reversed
    state: tuple[Array | None, Array | None] | None
    lengths: np.ndarray | None


def load(
    path: str | Path,
    node: str | None = None,
    *,
    backend: str | Backend | None = None,
    dtype: str | None = None,
    tier: str = "auto",
) -> Loaded:
    """Read the LSTM of an ONNX file; see `from_onnx`."""
    onnx, path = require_onnx(), check_path(path)
    if not path.is_file():
        raise InputError(f"ONNX file {path} does not exist")
    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf's own, a checker's, or one of reading external data
        raise InputError(f"ONNX file {path} can't be read: {str(error).strip() or type(error).__name__}") from None
    return from_onnx(model, node, backend=backend, dtype=dtype, tier=tier)


def from_onnx(
    model: Any,
    node: str | None = None,
    *,
    backend: str | Backend | None = None,
    dtype: str | None = None,
    tier: str = "auto",
) -> Loaded:
    """The LSTM nodes of an ONNX model as one LSTM, with all inputs and attributes of the operator.

    Nodes that feed one another, with nothing but reordering between them, become layers. What is before and after
    them is left out. The state and the lengths that the model computes or takes from outside are the caller's to give.

    Parameters
    ----------
    model : onnx.ModelProto
    node : str, optional
        Name of one LSTM node, to load that one only.
    backend, tier
        As of `LSTM`.
    dtype : {"float32", "float64", "float16", "bfloat16"}, optional
        Of the LSTM. That of the weights if not given; float32 for half precision.

    Returns
    -------
    lstm : LSTM or Reversed
        `batch_first` where the node has layout 1, or where x is transposed on its way in, and y on its way out.
        Both biases are added up. y holds ONNX's Y with the directions side by side: (T, B, directions x H).
    state : (h0, c0) or None
        In our order, (layers x directions, B, H), for both layouts.
    lengths : numpy.ndarray or None

    Raises
    ------
    InputError
        There is no LSTM node, or one that we can't express; the message names it and says what.
    BackendError
        The package onnx is not installed.
    """
    require_onnx()
    if not hasattr(model, "graph"):
        raise InputError(f"model is a {type(model).__name__}; expected an onnx.ModelProto")
    source = Source(model)
    stack = source.stack(node)
    cells = [Cell(source, one) for one in stack]
    for cell in cells[1:]:
        check_same(cells[0], cell)
    first = cells[0]
    width = first.hidden_size * first.directions
    for cell in cells[1:]:
        if cell.w.shape[2] != width:
            raise InputError(f"{cell.name} takes inputs of {cell.w.shape[2]}; the node below gives {width}")
    if dtype is None:
        dtype = "float64" if first.w.dtype == np.float64 else "float32"
    lstm = LSTM(
        first.w.shape[2],
        first.hidden_size,
        len(cells),
        bidirectional=first.directions == 2,
        batch_first=bool(first.layout) != source.swapped(stack),
        backend=backend,
        dtype=check_dtype(dtype),
        tier=tier,
        bias=any(cell.bias is not None for cell in cells),
        peepholes=any(cell.peepholes is not None for cell in cells),
        coupled=first.coupled,
        hard_sigmoid=first.slopes is not None,
        clip=first.clip,
    )
    for place, cell in enumerate(cells):
        for direction, ending in enumerate((f"l{place}", f"l{place}_reverse")[: first.directions]):
            for name, array in cell.parameters(direction).items():
                if f"{name}_{ending}" in lstm.params:
                    host = array.astype(lstm.param_dtype)
                    lstm.params[f"{name}_{ending}"][...] = lstm.backend.asarray(host, lstm.param_dtype)
    return Loaded(
        Reversed(lstm) if first.direction == "reverse" else lstm, join_states(lstm, cells), join_lengths(cells)
    )


class Cell:
    """One LSTM node: its attributes and constants, checked.

    Attributes
    ----------
    w, r : (directions, 4H, D) and (directions, 4H, H)
    bias : (directions, 4H) or None
        Both biases added up.
    peepholes : (directions, 3H) or None
        Gate order i, o, f.
    state : [h0, c0], each (directions, B, H) or None
    lengths : (B,) or None
    slopes : list of float, or None
        Of the hard sigmoid of each direction; None for the sigmoid.
    """

    def __init__(self, source: Source, node: Any):
        self.name = f"LSTM node {name_of(node)}"
        found = source.attributes(node)
        self.direction = found.get("direction", "forward")
        if self.direction not in ("forward", "reverse", "bidirectional"):
            raise InputError(f"{self.name} has direction {self.direction!r}; expected forward, reverse, bidirectional")
        self.directions = 2 if self.direction == "bidirectional" else 1
        self.layout = int(found.get("layout", 0))
        self.coupled = bool(found.get("input_forget", 0))
        self.clip: float | None = found.get("clip")
        if self.clip is not None and not (math.isfinite(self.clip) and self.clip > 0):
            raise InputError(f"{self.name} has clip {self.clip}; expected a number above 0")
        names = [input_of(node, k) for k in range(8)]
        self.w, self.r = (self._weights(source, names[k], "WR"[k - 1]) for k in (1, 2))
        self.hidden_size = int(self.r.shape[2])
        if found.get("hidden_size", self.hidden_size) != self.hidden_size:
            raise InputError(f"{self.name} has hidden_size {found['hidden_size']}; its R is for {self.hidden_size}")
        rows = 4 * self.hidden_size
        for name, array in (("W", self.w), ("R", self.r)):
            if array.shape[:2] != (self.directions, rows):
                wanted = f"({self.directions}, {rows}, .)"
                raise InputError(f"{self.name} has {name} of shape {array.shape}; expected {wanted}")
        both = self._optional(source, names[3], "B", (self.directions, 2 * rows))
        self.bias = None if both is None else both[:, :rows] + both[:, rows:]
        self.peepholes = self._optional(source, names[7], "P", (self.directions, 3 * self.hidden_size))
        if self.peepholes is not None and not self.peepholes.any():
            self.peepholes = None
        self.lengths_name = names[4]
        self.lengths = source.constant(names[4]) if names[4] else None
        self.state = [self._state(source, name) for name in names[5:7]]
        if self.layout:
            self.state = [None if s is None else s.swapaxes(0, 1) for s in self.state]
        self.slopes = self._slopes(found.get("activations", []), found)

    def _weights(self, source: Source, name: str, label: str) -> np.ndarray:
        array = source.constant(name) if name else None
        if array is None:
            raise InputError(f"{self.name} takes {label} from outside; expected one that the file holds")
        if array.ndim != 3 or 0 in array.shape:
            raise InputError(f"{self.name} has {label} of shape {array.shape}; expected three axes")
        return array if array.dtype == np.float64 else array.astype(np.float32)

    def _optional(self, source: Source, name: str, label: str, shape: tuple[int, ...]) -> np.ndarray | None:
        if not name:
            return None
        array = source.constant(name)
        if array is None:
            raise InputError(f"{self.name} takes {label} from outside; expected one that the file holds")
        if array.shape != shape:
            raise InputError(f"{self.name} has {label} of shape {array.shape}; expected {shape}")
        return array.astype(self.w.dtype)

    def _state(self, source: Source, name: str) -> np.ndarray | None:
        """A state that the file holds; None where it is zero or comes from outside."""
        if not name or source.is_zero(name):
            return None
        state = source.constant(name)
        if state is None and source.is_spread(name):
            raise InputError(
                f"{self.name} starts from a constant that is spread over the batch; "
                "expected zero, a state from outside, or one of a fixed batch"
            )
        return state

    def _slopes(self, names: Sequence[str], found: dict[str, Any]) -> list[float] | None:
        """Slopes of the gates' hard sigmoids; None for sigmoids."""
        names = [name.lower() for name in names] or ["sigmoid", "tanh", "tanh"] * self.directions
        if len(names) != 3 * self.directions:
            raise InputError(f"{self.name} has {len(names)} activations; expected {3 * self.directions}")
        alpha, beta = ([float(v) for v in found.get(f"activation_{key}", [])] for key in ("alpha", "beta"))
        slopes: list[float | None] = []
        for gates, *others in (names[k : k + 3] for k in range(0, len(names), 3)):
            if gates not in ("sigmoid", "hardsigmoid") or others != ["tanh", "tanh"]:
                raise InputError(
                    f"{self.name} has the activations {', '.join([gates, *others])}; expected Sigmoid or HardSigmoid, "
                    "Tanh, Tanh: the kernels have no other, and other ones can't be had by scaling weights"
                )
            if gates == "sigmoid":
                slopes.append(None)
                continue
            slope, centre = alpha.pop(0) if alpha else SLOPE, beta.pop(0) if beta else 0.5
            if centre != 0.5 or slope <= 0:
                raise InputError(
                    f"{self.name} has a HardSigmoid of alpha {slope:g} and beta {centre:g}; "
                    "expected alpha above 0 and beta 0.5: ours is clip(0.2 z + 0.5, 0, 1)"
                )
            # Where neither z nor the scaled z gets past the limit before the gate is 0 or 1, the limit does nothing.
            scaled = not math.isclose(slope, SLOPE, rel_tol=1e-6)
            if scaled and self.clip is not None and self.clip * min(slope, SLOPE) < 0.5:
                raise InputError(
                    f"{self.name} has clip {self.clip:g} and a HardSigmoid of alpha {slope:g}; "
                    "expected alpha 0.2 with a clip: scaling the weights would move the limit"
                )
            slopes.append(slope if scaled else SLOPE)
        if None in slopes and slopes != [None] * len(slopes):
            raise InputError(f"{self.name} has Sigmoid in one direction and HardSigmoid in the other; expected one")
        return None if slopes[0] is None else [s for s in slopes if s is not None]

    def parameters(self, direction: int) -> dict[str, np.ndarray]:
        """Arrays of one direction by our names, gate order i, f, g, o, scaled to our hard sigmoid."""
        hidden = self.hidden_size
        bias = np.zeros(4 * hidden, self.w.dtype) if self.bias is None else self.bias[direction]
        scale = np.ones(4, self.w.dtype)
        if self.slopes is not None:
            scale[[0, 1, 3]] = self.slopes[direction] / SLOPE

        def gates(array: np.ndarray) -> np.ndarray:
            ours = array.reshape(4, hidden, -1)[np.argsort(ORDER)] * scale[:, None, None]
            return ours.reshape(array.shape)

        found = {
            "weight_ih": gates(self.w[direction]),
            "weight_hh": gates(self.r[direction]),
            "bias": gates(bias),
        }
        peepholes = np.zeros(3 * hidden, self.w.dtype) if self.peepholes is None else self.peepholes[direction]
        found["peephole"] = peepholes.reshape(3, hidden)[[0, 2, 1]] * scale[[0, 1, 3], None]
        return found


class Source:
    """An ONNX graph, with its constants evaluated as they are needed."""

    def __init__(self, model: Any):
        self.onnx = require_onnx()
        if model.functions:
            from onnx.inliner import inline_local_functions

            model = inline_local_functions(model)
        self.model, self.graph = model, model.graph
        self.initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self.producers: dict[str, Any] = {}
        later = {name for node in model.graph.node for name in node.output if name}
        for node in model.graph.node:
            if not later.isdisjoint(node.input) or not later.issuperset(filter(None, node.output)):
                raise InputError(f"ONNX file is damaged: node {name_of(node)} is not in the order of the graph")
            later -= set(node.output)
            self.producers |= {name: node for name in node.output if name}

    def constant(self, name: str) -> np.ndarray | None:
        """The value of a name that depends on no input; None for others."""
        if name in self.initializers:
            return self._array(self.initializers[name])
        nodes = self._before(name)
        if nodes is None:
            return None
        helper = self.onnx.helper
        used = {key for node in nodes for key in node.input}
        tensors = [tensor for key, tensor in self.initializers.items() if key in used]
        graph = helper.make_graph(nodes, "constant", [], [helper.make_empty_tensor_value_info(name)], tensors)
        part = helper.make_model(graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version)
        from onnx.reference import ReferenceEvaluator

        try:
            (value,) = ReferenceEvaluator(part).run(None, {})
        except Exception as error:  # whatever a node of the file makes the evaluator raise
            raise InputError(f"ONNX file: the constant {name!r} can't be computed: {error}") from None
        return np.asarray(value)

    def attributes(self, node: Any) -> dict[str, Any]:
        """Attributes of a node, those that are read, by name."""
        found = {}
        for attribute in node.attribute:
            wanted = ATTRIBUTES.get(attribute.name)
            if wanted is None:
                continue
            if attribute.type != self.onnx.AttributeProto.AttributeType.Value(wanted):
                raise InputError(f"node {name_of(node)} has an attribute {attribute.name} that is no {wanted}")
            value = self.onnx.helper.get_attribute_value(attribute)
            if wanted == "STRING":
                value = value.decode("utf-8", "replace")
            elif wanted == "STRINGS":
                value = [one.decode("utf-8", "replace") for one in value]
            found[attribute.name] = value
        return found

    def _array(self, tensor: Any) -> np.ndarray:
        try:
            return np.asarray(self.onnx.numpy_helper.to_array(tensor))
        except (ValueError, TypeError, KeyError, OverflowError, OSError) as error:
            raise InputError(f"ONNX file is damaged: the tensor {tensor.name!r} can't be read: {error}") from None

    def _before(self, name: str) -> list[Any] | None:
        """The nodes that make a value, in order; None where an input of the graph is among what they need."""
        needed, seen = [name], set()
        while needed:
            one = needed.pop()
            if not one or one in seen or one in self.initializers:
                continue
            if one not in self.producers:
                return None
            seen.add(one)
            needed += self.producers[one].input
        return [node for node in self.graph.node if any(output in seen for output in node.output)]

    def is_zero(self, name: str) -> bool:
        """Whether a value is zero whatever its size, as the first states are that exporters write."""
        return all(origin is not None and not np.any(origin) for origin in self._origins(name))

    def is_spread(self, name: str) -> bool:
        """Whether a value is made of a constant, in a shape that depends on the inputs'."""
        return any(origin is not None for origin in self._origins(name))

    def _origins(self, name: str) -> list[np.ndarray | None]:
        """What a value's numbers are taken from: constants, and None for all else."""
        needed = [name]
        found: list[np.ndarray | None] = []
        while needed:
            one = needed.pop()
            node = self.producers.get(one)
            if node is not None and node.op_type in SPREADING:
                needed += list(node.input) if node.op_type == "Concat" else [input_of(node, 0)]
            elif node is not None and node.op_type == "ConstantOfShape":
                values = [self._array(attribute.t) for attribute in node.attribute if attribute.name == "value"]
                found.append(values[0] if values else np.zeros(1))
            elif one in self.initializers or (node is not None and node.op_type == "Constant"):
                found.append(self.constant(one))
            else:
                found.append(None)
        return found

    def stack(self, name: str | None) -> list[Any]:
        """The LSTM nodes, from the one at the bottom to the one at the top."""
        nodes = [node for node in self.graph.node if node.op_type == "LSTM" and node.domain in ("", "ai.onnx")]
        names = ", ".join(name_of(node) for node in nodes)
        if not nodes:
            raise InputError("ONNX file has no LSTM node in its main graph; expected at least one")
        if name is not None:
            found = [node for node in nodes if repr(name) == name_of(node)]
            if not found:
                raise InputError(f"node is {name!r}; the LSTM nodes of the ONNX file are {names}")
            return found[:1]
        below: dict[int, int | None] = {}
        for place, node in enumerate(nodes):
            try:
                origin = self._origin(input_of(node, 0))
                if origin is not None:
                    self._check_order(origin, node)
            except InputError as error:
                raise InputError(f"{error}; node=... loads one LSTM node alone: {names}") from None
            below[place] = next((k for k, other in enumerate(nodes) if other is origin), None)
        # One at the bottom and at most one on top of each: a stack.
        if len(set(below.values())) < len(nodes):
            raise InputError(
                f"ONNX file has {len(nodes)} LSTM nodes that are no stack, each taking the outputs of the one before; "
                f"node=... loads one of them: {names}"
            )
        above = {before: place for place, before in below.items()}
        chosen, top = [], above.get(None)
        while top is not None:
            chosen.append(nodes[top])
            top = above.get(top)
        for node in chosen:
            states = [input_of(node, place) for place in (5, 6)]
            before = [one for state in states if state and not self.is_zero(state) for one in self._all_before(state)]
            if any(one.op_type == "LSTM" for one in before):
                raise InputError(
                    f"LSTM node {name_of(node)} starts from the state of another; expected states from outside; "
                    f"node=... loads one LSTM node alone: {names}"
                )
        return chosen

    def _all_before(self, name: str) -> list[Any]:
        """The nodes that a value depends on."""
        needed, seen = [name], set()
        while needed:
            one = needed.pop()
            if one in self.producers and one not in seen:
                seen.add(one)
                needed += self.producers[one].input
        return [self.producers[one] for one in seen]

    def _origin(self, name: str) -> Any:
        """The LSTM node whose Y a value is, reordered; None where no LSTM is behind it.

        Raises
        ------
        InputError
            An LSTM is behind it, with more than reordering between.
        """
        first = name
        while name in self.producers:
            node = self.producers[name]
            if node.op_type == "LSTM":
                if name != node.output[0]:
                    raise InputError(f"an LSTM node takes {first!r}, which is made of the last state of another")
                return node
            if node.op_type not in PASSING:
                if any(other.op_type == "LSTM" for other in self._all_before(name)):
                    raise InputError(
                        f"between two LSTM nodes lies a {node.op_type} ({name_of(node)}); "
                        f"expected nothing but {', '.join(PASSING)}"
                    )
                return None
            name = input_of(node, 0)
        return None

    def _path(self, lower: Any, name: str) -> list[Any]:
        """The nodes from the Y of `lower` to `name`."""
        path: list[Any] = []
        while name != lower.output[0]:
            path.insert(0, self.producers[name])
            name = input_of(path[0], 0)
        return path

    def _check_order(self, lower: Any, upper: Any) -> None:
        """Refuse anything but (T, B, directions x H), or batch first in layout 1, between two nodes."""
        axes = self._y_axes(lower)
        wanted = "BT" if axes[0] == "B" else "TB"
        for node in self._path(lower, input_of(upper, 0)):
            axes = self._reorder(axes, node)
        if "".join(a for a in axes if a != "1") != wanted + "H":
            raise InputError(
                f"LSTM node {name_of(upper)} does not take Y of the node below as "
                "(T, B, directions x H); expected Squeeze, or Transpose and Reshape, between them"
            )

    def _y_axes(self, node: Any) -> list[str]:
        """Axes of Y: T, B, H, and N for two directions or 1 for one."""
        found = self.attributes(node)
        directions = "N" if found.get("direction") == "bidirectional" else "1"
        return ["B", "T", directions, "H"] if found.get("layout", 0) else ["T", directions, "B", "H"]

    def _reorder(self, axes: list[str], node: Any) -> list[str]:
        """Axes of a node's output from those of its input; ["?"] where they can't be told."""
        found = self.attributes(node)
        if node.op_type in ("Identity", "Cast", "Dropout"):
            return axes
        if node.op_type == "Transpose":
            order = list(found.get("perm", range(len(axes))[::-1]))
            return [axes[k] for k in order] if sorted(order) == list(range(len(axes))) else ["?"]
        if node.op_type == "Reshape":
            shape = self.constant(input_of(node, 1))
            # (T, B, N, H) to (T, B, N H); an axis of size 1 may come and go.
            real = [axis for axis in axes if axis != "1"]
            if shape is None or shape.shape != (3,) or real[-1:] != ["H"] or "N" in real[:-2]:
                return ["?"]
            return [axis for axis in real if axis != "N"]
        if node.op_type == "Squeeze":
            where = self.constant(node.input[1]) if len(node.input) > 1 else found.get("axes")
            if where is None and len(node.input) > 1:
                return ["?"]
            ones = [k for k, axis in enumerate(axes) if axis == "1"]
            dropped = ones if where is None else [int(k) % len(axes) for k in np.atleast_1d(where)]
            if set(dropped) <= set(ones):
                return [axis for k, axis in enumerate(axes) if k not in dropped]
        return ["?"]

    def swapped(self, stack: list[Any]) -> bool:
        """Whether x is transposed before the first node, and y after the last, as a batch-first layer is exported."""
        before = self.producers.get(input_of(stack[0], 0))
        if before is None or before.op_type != "Transpose":
            return False
        if list(self.attributes(before).get("perm", [])) != [1, 0, 2]:
            return False
        axes, name = self._y_axes(stack[-1]), next(iter(stack[-1].output), "")
        wanted = ["B", "T", "H"] if axes[0] == "T" else ["T", "B", "H"]
        while len(users := [node for node in self.graph.node if name in node.input and node.op_type in PASSING]) == 1:
            axes, name = self._reorder(axes, users[0]), users[0].output[0]
            if axes == wanted:
                return True
        return False


def name_of(node: Any) -> str:
    """A node's name, or that of its first output, quoted."""
    return repr(node.name or next(iter(node.output), ""))


def input_of(node: Any, place: int) -> str:
    """Name of an input; empty where it is left out."""
    return str(node.input[place]) if place < len(node.input) else ""


def check_same(first: Cell, other: Cell) -> None:
    """Refuse a stack whose nodes differ in what all layers of an LSTM share."""
    for name in ("direction", "hidden_size", "layout", "coupled", "clip"):
        ours, theirs = getattr(first, name), getattr(other, name)
        if ours != theirs:
            raise InputError(f"{other.name} has {name} {theirs!r}, the one below it {ours!r}; {SAME}")
    if (first.slopes is None) != (other.slopes is None):
        raise InputError(f"{other.name} has other activations than the one below it; {SAME}")


def join_states(lstm: LSTM, cells: list[Cell]) -> tuple[Array | None, Array | None] | None:
    """The state that the file holds; None where it holds none but zeros."""
    found: list[Array | None] = []
    for k, dtype in enumerate((lstm.dtype, lstm.param_dtype)):
        parts = [cell.state[k] for cell in cells]
        known = [part for part in parts if part is not None]
        if not known:
            found.append(None)
            continue
        shape = (cells[0].directions, known[0].shape[1] if known[0].ndim == 3 else 0, cells[0].hidden_size)
        if any(part.shape != shape or 0 in shape for part in known):
            raise InputError(f"{cells[0].name} has an initial state of shape {known[0].shape}; expected {shape}")
        full = np.concatenate([np.zeros(shape) if part is None else part for part in parts])
        found.append(lstm.backend.asarray(full.astype(lstm.param_dtype), dtype))
    return None if all(one is None for one in found) else (found[0], found[1])


def join_lengths(cells: list[Cell]) -> np.ndarray | None:
    """The lengths that the file holds; None where it holds none."""
    first = cells[0]
    for cell in cells[1:]:
        if first.lengths is None or cell.lengths is None:
            same = first.lengths_name == cell.lengths_name
        else:
            same = np.array_equal(first.lengths, cell.lengths)
        if not same:
            raise InputError(f"{cell.name} has other sequence_lens than the one below it; {SAME}")
    return None if first.lengths is None else first.lengths.astype(np.int64)
