"""What every value of an ONNX graph is: known numbers, or elements of x, y, h and c that were moved.

The graph is followed with a prime for each axis whose size is free. What comes from outside or out of an LSTM node is a
block of numbered elements. Operators that only move elements are run on those numbers, so what arrives at a node
or at the end says which elements it holds, in which order. Shapes are computed on the way. A node that does more than
move is kept by name, as strange.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpu_lstm.errors import InputError
from gpu_lstm.interop.onnx_model import FLOATS, LIMIT, PRIMES, computed, inferred_shapes, sizes_of_inputs, upstream
from gpu_lstm.interop.onnx_nodes import (
    DEFAULT_SET,
    all_nodes,
    attributes,
    bodies,
    is_lstm,
    name_of,
    needed_names,
    reads,
    require_onnx,
)
from gpu_lstm.interop.onnx_values import UNKNOWN, Block, Run, Value, same

PASSING = frozenset({"Identity", "Cast", "Dropout"})
"""Operators that leave every element where it is."""
MOVING = frozenset(
    {"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Concat", "Gather", "Expand"}
)
SIZING = frozenset(
    {"Shape", "Size", "ConstantOfShape", "Mul", "Add", "Sub", "Div", "Equal", "Where", "Tile"} | PASSING | MOVING
)
"""Operators that treat all sizes alike; others, like Min, could say at one size what doesn't hold at another."""
RANDOM = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
END = 2**31 - 1
"""From here on, where a Slice ends means the end of the axis."""


class Visit(NamedTuple):
    """A node as the graph is followed: what it is given, its name after the path to it, whether an output needs it."""

    node: Any
    given: list[Value | None]
    name: str
    needed: bool

    @property
    def label(self) -> str:
        """Its operator and name, for a message."""
        return f"{self.node.op_type} {self.name!r}"


class Trace:
    """An ONNX graph, followed.

    Parameters
    ----------
    model : onnx.ModelProto
        Without functions.
    sizes : (T, B), optional
        Of the first LSTM node, where an earlier trace told them. Lengths from outside are fed then.
    omit : bool
        Lengths that may be left out are.
    shapes : bool
        Give the outputs of strange nodes in front of LSTM nodes the shapes that onnx infers, to follow them on.
    """

    def __init__(
        self, model: Any, sizes: tuple[int, ...] | None = None, omit: bool = False, shapes: bool = False
    ) -> None:
        self.onnx, self.model, self.sizes = require_onnx(), model, sizes
        self.runs: list[Run] = []
        # nodes that the outputs need and that do more than move, and the name of an output
        self.strange: list[tuple[str, str]] = []
        self.consumed: list[np.ndarray] = []  # what strange nodes take
        self.blocks: list[Block] = []
        self.lengths: np.ndarray | None = None  # that were fed
        self.lengths_default: np.ndarray | None = None  # that the file has where none are given
        self.count = 0
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        free = {entry.name for entry in model.graph.input}
        # Before IR version 4, initializers had to be listed as inputs, and were constants all the same.
        optional = free & tensors.keys() if model.ir_version >= 4 else set()
        self.dims = sizes_of_inputs(model.graph, None if sizes is None else sizes[1])
        self.free_sizes = {size for sizes in self.dims.values() for size, declared in sizes if not declared}
        self.shapes = inferred_shapes(model, self.dims, optional) if shapes else {}
        counts, states = upstream(model.graph, 4), upstream(model.graph, 0, 5, 6)
        self.defaults: dict[str, np.ndarray] = {}  # of inputs that may be left out
        env: ChainMap[str, Value] = ChainMap({name: self._read(tensor) for name, tensor in tensors.items()})
        for entry in model.graph.input:
            name, shape = entry.name, tuple(size for size, _ in self.dims[entry.name])
            kind = entry.type.tensor_type.elem_type
            whole = kind not in FLOATS
            if name in tensors and (name not in optional or name not in (counts if whole else states) or not shape):
                continue  # a constant; weights that may be replaced from outside count as such
            if name in optional:
                self.defaults[name] = env[name].array
            if whole and len(shape) == 1 and name in counts:
                env[name] = self._lengths(name, shape[0], kind, omit)
            elif np.prod(shape, dtype=float) < LIMIT:
                env[name] = Value("elements", self.block("input", shape, name))
            else:
                env[name] = UNKNOWN
        self._sweep(model.graph, env, "", True)
        self.outputs = {entry.name: env.get(entry.name, UNKNOWN) for entry in model.graph.output}

    def _lengths(self, name: str, batch: int, kind: int, omit: bool) -> Value:
        """Return what an input gives that holds the steps of each sequence."""
        self.lengths_default = self.defaults.get(name)
        if omit and self.lengths_default is not None:
            return Value("lengths", self.lengths_default)
        if self.sizes is None or self.lengths is not None:
            return UNKNOWN
        self.lengths = (self.sizes[0] - 2 - np.arange(batch)) % self.sizes[0] + 1
        return Value("lengths", self.lengths.astype(np.int32 if kind == self.onnx.TensorProto.INT32 else np.int64))

    def block(self, what: str, shape: Sequence[int], owner: Any) -> np.ndarray:
        """Number elements as no others are."""
        size = int(np.prod(shape))
        array = np.arange(self.count, self.count + size).reshape(shape)
        self.count += size
        self.blocks.append(Block(what, array, owner))
        return array

    def origin(self, array: np.ndarray) -> Block:
        """Return the block of an array's first element."""
        first = array.flat[0]
        return next(block for block in self.blocks if block.array.size and first <= block.array.flat[-1])

    def fed(self, array: np.ndarray) -> bool:
        """Return whether these are the lengths that were fed."""
        return self.lengths is not None and np.array_equal(array, self.lengths)

    def places(self) -> Iterator[tuple[str, str]]:
        """Yield the strange nodes, and where they lie."""
        nodes = list(all_nodes(self.model.graph))
        before = {name for node in nodes if is_lstm(node) for name in node.input}
        for node in reversed(nodes):
            if not before.isdisjoint(node.output):
                before |= reads(node)
        after = {name for node in nodes if is_lstm(node) for name in node.output if name}
        for node in nodes:
            if not after.isdisjoint(reads(node)):
                after |= set(node.output)
        for label, output in self.strange:
            if output in before:
                yield label, "between two LSTM nodes" if output in after else "in front of an LSTM node"
            else:
                yield label, "behind the last LSTM node" if output in after else "beside them"

    def _read(self, tensor: Any) -> Value:
        try:
            return Value("constant", np.asarray(self.onnx.numpy_helper.to_array(tensor)))
        except Exception as error:  # of a damaged tensor, or one whose data lie in another file
            raise InputError(f"ONNX file is damaged: the tensor {tensor.name!r} can't be read: {error}") from None

    def _sweep(self, graph: Any, env: ChainMap[str, Value], path: str, alive: bool) -> None:
        """Find what all values of a graph are; `env` holds what is known from outside, and then all."""
        later = {name for node in graph.node for name in node.output if name}
        wanted = needed_names(graph)
        lstms = [node for node in graph.node if is_lstm(node)]
        names = [node.name for node in lstms]
        for node in graph.node:
            if not later.isdisjoint(node.input) or not later.issuperset(filter(None, node.output)):
                raise InputError(f"ONNX file is damaged: node {name_of(node)!r} is not in the order of the graph")
            later -= set(node.output)
            given = [env.get(name, UNKNOWN) if name else None for name in node.input]
            step = Visit(node, given, path + name_of(node), alive and not wanted.isdisjoint(node.output))
            if is_lstm(node):
                label = str(node.output[0]) if names.count(node.name) > 1 and len(node.output) else name_of(node)
                values = self._lstm(node, given, path + label, alive)
            elif bodies(node):
                values = self._bodies(step, env, alive)
            else:
                values = self._values(step)
            env.update({name: value for name, value in zip(node.output, values, strict=False) if name})

    def _values(self, step: Visit) -> list[Value]:
        """Return what an ordinary node gives."""
        node, op, known = step.node, step.node.op_type, [value for value in step.given if value is not None]
        kinds = {value.kind for value in known}
        if node.domain not in DEFAULT_SET or op in RANDOM or "unknown" in kinds:
            # Moved or not, what is unknown stays so; only the nodes that do more than move are strange.
            if node.domain in DEFAULT_SET and op in PASSING | MOVING | {"Shape", "Size"}:
                return [next((value for value in known if value.kind == "unknown"), UNKNOWN)] * len(node.output)
            return self._strange(step)
        if op in ("Shape", "Size"):
            fixed = not self.free_sizes or kinds == {"constant"}
            return self._run(step, "constant" if fixed else "sizes")
        if "elements" in kinds:
            if op == "Add" and (total := self._residual(step)) is not None:
                return [total]
            return self._move(step)
        kind = next((one for one in ("lengths", "sizes") if one in kinds), "constant")
        if kind == "sizes" and op not in SIZING:
            return self._strange(step)
        values = self._run(step, kind)
        if kind == "lengths" and any(value.array.dtype.kind == "f" for value in values):
            return self._strange(step)
        return values

    def _move(self, step: Visit) -> list[Value]:
        """Return what a node gives that takes elements."""
        (node, given, *_), op, (data, *others) = step, step.node.op_type, step.given
        if op == "Concat":
            fits = all(value is not None and value.kind == "elements" for value in given)
        else:
            fits = data is not None and data.kind == "elements"
            fits = fits and all(one is None or one.kind in ("constant", "sizes") for one in others)
        if op == "Cast":
            fits = fits and attributes(node).get("to") in FLOATS
        elif op == "Dropout":
            training = given[2] if len(given) > 2 else None
            fits = fits and (training is None or not np.any(training.array))
        elif op == "Slice":
            fits = fits and not self._crops(step)
        if data is None or not fits or op not in PASSING | MOVING:
            return self._strange(step)
        if op in PASSING:
            return [data, *[UNKNOWN] * (len(node.output) - 1)]
        values = self._run(step, "elements")
        by = dict.fromkeys(name for value in given if value is not None for name in value.by)
        return [value._replace(by=(*by, step.label)) for value in values]

    def _crops(self, step: Visit) -> bool:
        """Return whether a Slice ends at a number that a free axis would reach at other sizes."""
        given, found = step.given, attributes(step.node)

        def numbers(place: int, name: str) -> list[int]:
            value = given[place] if len(given) > place else None
            return [int(n) for n in np.ravel(found.get(name, []) if value is None else value.array)]

        shape, ends = np.shape(given[0].array if given[0] else ()), numbers(2, "ends")
        axes = numbers(3, "axes") or range(len(ends))
        sizes = [shape[axis] for axis in axes if -len(shape) <= axis < len(shape)]
        return any(size in self.free_sizes and size < end < END for size, end in zip(sizes, ends, strict=False))

    def _run(self, step: Visit, kind: str) -> list[Value]:
        """Return what a node makes of known arrays."""
        try:
            arrays = computed(self.model, step.node, step.given)
        except Exception as error:
            why = f"the node {step.name!r} can't be computed: {error}"
            return [value._replace(why=why) for value in self._strange(step)]
        return [UNKNOWN if array is None else Value(kind, array) for array in arrays]

    def _strange(self, step: Visit) -> list[Value]:
        """Return what a node gives that does more than move: elements of its own where their shape is known."""
        self.consumed += [value.array for value in step.given if value is not None and value.kind == "elements"]
        if step.needed:
            self.strange.append((step.label, next(iter(step.node.output), "")))
        shapes = [self.shapes.get(name) for name in step.node.output]
        return [
            UNKNOWN
            if shape is None or np.prod(shape, dtype=float) > LIMIT
            else Value("elements", self.block("node", shape, step.label))
            for shape in shapes
        ]

    def _bodies(self, step: Visit, env: ChainMap[str, Value], alive: bool) -> list[Value]:
        """Return what a node with graphs inside gives: of an If, what both branches give, or the one that is taken."""
        node, given, taken = step.node, step.given, ""
        choice = node.op_type == "If"
        if choice and given and given[0] is not None and given[0].kind == "constant":
            taken = "then_branch" if np.any(given[0].array) else "else_branch"
        ends: dict[str, list[Value]] = {}
        for name, graph in bodies(node):
            inside = env.new_child({tensor.name: self._read(tensor) for tensor in graph.initializer})
            inside.update({entry.name: UNKNOWN for entry in graph.input})
            self._sweep(graph, inside, f"{step.name}/{name}/", alive and choice and taken in ("", name))
            ends[name] = [inside.get(entry.name, UNKNOWN) for entry in graph.output]
        if taken in ends:
            return ends[taken]
        if choice and len(ends) == 2:
            one, other = ends.values()
            if len(one) == len(other) and all(map(same, one, other)):
                return one
        return self._strange(step._replace(given=[*given, *(value for values in ends.values() for value in values)]))

    def _lstm(self, node: Any, given: list[Value | None], label: str, alive: bool) -> list[Value]:
        """Return what an LSTM node gives; the same where the same node was met before, as in two branches of an If."""
        given = [*given, *[None] * (8 - len(given))]
        run = Run([label], name_of(node), attributes(node), given, alive)
        for other in self.runs:
            if alive == other.alive and run.same_node(other) and all(map(same, given, other.given)):
                other.labels.append(label)
                return other.outputs()
        self.runs.append(run)
        weights = [value.array for value in given[1:3] if value is not None and value.kind == "constant"]
        if len(weights) < 2 or any(one.ndim != 3 or 0 in one.shape for one in weights):
            return [UNKNOWN] * 3
        x, (w, r) = given[0], weights
        if x is not None and x.kind == "elements" and x.array.ndim == 3 and x.array.size:
            run.x = run.turned(x.array)
        else:
            run.x = run.turned(self.block("node", (*PRIMES[:2], w.shape[2]), ""))
        (steps, batch, _), (directions, _, hidden) = run.x.shape, r.shape
        run.y = self.block("y", (steps, batch, directions, hidden), run)
        run.h, run.c = (self.block(name, (directions, batch, hidden), run) for name in "hc")
        run.out = run.y.reshape(steps, batch, directions * hidden)
        return run.outputs()

    def _residual(self, step: Visit) -> Value | None:
        """Return what an Add gives of what an LSTM node takes and what it gives, in the same order."""
        arrays = [value.array for value in step.given if value is not None]
        if not len(arrays) == len(step.given) == 2:
            return None
        one, other = arrays
        for run in (run for run in self.runs if run.y.size):
            for x, y in ((one, other), (other, one)):
                for swap in (False, True):
                    ours = [a.swapaxes(0, 1) if swap else a for a in (run.x, run.y.reshape(*run.y.shape[:2], -1))]
                    if np.array_equal(ours[0], x) and np.array_equal(ours[1], y):
                        if not run.sum:
                            run.sum, run.out = step.label, self.block("sum", run.out.shape, run)
                        return Value("elements", run.out.swapaxes(0, 1) if swap else run.out)
        return None
