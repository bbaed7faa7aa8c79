"""What a followed ONNX graph does as an LSTM: its layers in order, its axes, states and lengths; or why it is none."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from gpu_lstm.errors import InputError
from gpu_lstm.interop.onnx_cell import SAME
from gpu_lstm.interop.onnx_trace import Trace
from gpu_lstm.interop.onnx_values import Run, Value, same

SHOWN = 8
"""Nodes that a message names."""


class State(NamedTuple):
    """Initial h or c of a stack."""

    learned: np.ndarray | None = None  # (layers x directions, H) or None: one for all sequences
    # (layers x directions, B, H) or None: one for each sequence of a batch of this size
    fixed: np.ndarray | None = None

    def row(self, place: int, hidden_size: int) -> np.ndarray:
        """Return what is learned for one layer and direction, zero where nothing is."""
        return np.zeros(hidden_size) if self.learned is None else self.learned[place]


def names_of(node: Any) -> list[str] | None:
    """Return the argument `node` as a list."""
    if node is None:
        return None
    names = [node] if isinstance(node, str) else list(node) if isinstance(node, list | tuple) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"node is {node!r}; expected the name of an LSTM node, or a list of names from bottom to top")
    return names


def listed(runs: Sequence[Run]) -> str:
    """Return the names of LSTM nodes, for a message."""
    return ", ".join(repr(label) for run in runs for label in run.labels)


def alone(runs: Sequence[Run]) -> str:
    """Say how to load LSTM nodes without the rest."""
    return f"node=... loads one LSTM node alone, or a list of them as a stack: {listed(runs)}"


def chosen(trace: Trace, names: Sequence[str] | None) -> list[Run]:
    """Return the LSTM nodes of these names; all that the file may run, if there are no names.

    Raises InputError where the file has no LSTM node, none of a name, or several of one name that differ; or a name is
    given twice.
    """
    if not trace.runs:
        others = [label for label, _ in trace.strange if label.split()[0].endswith(("LSTM", "GRU", "RNN"))]
        more = f"; it has {', '.join(others)}, which is another operator" if others else ""
        raise InputError(f"ONNX file has no LSTM node; expected at least one{more}")
    if names is None:
        return [run for run in trace.runs if run.alive] or trace.runs
    found: list[Run] = []
    for name in names:
        fits = [run for run in trace.runs if name in run.labels] or [run for run in trace.runs if run.name == name]
        if not fits:
            raise InputError(f"node is {name!r}; the LSTM nodes of the ONNX file are {listed(trace.runs)}")
        if not all(fits[0].same_node(run) for run in fits):
            raise InputError(f"node is {name!r}, the name of LSTM nodes that differ; expected one of {listed(fits)}")
        if fits[0] in found:
            raise InputError(f"node names {name!r} twice")
        found.append(fits[0])
    return found


def check_whole(trace: Trace, runs: Sequence[Run]) -> None:
    """Refuse a graph of which the LSTM nodes are not all."""
    places = list(trace.places())
    parts = [
        f"{place} {'lies' if len(labels) == 1 else 'lie'} {few(labels)}"
        for place in ("in front of an LSTM node", "between two LSTM nodes", "behind the last LSTM node", "beside them")
        if (labels := [label for label, at in places if at == place])
    ]
    if parts:
        raise InputError(f"ONNX file is more than an LSTM: {', '.join(parts)}; {alone(runs)}")


def few(labels: Sequence[str]) -> str:
    """Return the first names of a list, for a message."""
    more = len(labels) - SHOWN
    return ", ".join(labels[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def in_order(trace: Trace, runs: Sequence[Run], by_name: bool) -> list[Run]:
    """Return the LSTM nodes from the one at the bottom to the one at the top.

    Raises InputError where the nodes are no stack, each on top of the one before.
    """
    labels = [run.label for run in runs]
    below: dict[str, Run] = {}
    for run in runs[1:] if by_name else runs:
        block = trace.origin(run.x)
        if not isinstance(block.owner, Run) or block.owner.label not in labels:
            continue
        lower = block.owner
        if np.array_equal(run.x, lower.out):
            below[run.label] = lower
            continue
        value = run.given[0]
        assert value is not None
        between = few(value.by) or "nothing"
        if block.what in ("h", "c"):
            raise InputError(
                f"LSTM node {run.label!r} takes what is made of the last state of {lower.label!r}; {alone(runs)}"
            )
        raise InputError(
            f"LSTM node {run.label!r} does not take Y of the node below, {lower.label!r}, as "
            f"(T, B, directions x H): between them lies {between}; {alone(runs)}"
        )
    # One at the bottom and at most one on top of each: a stack.
    bottoms = [run for run in runs if run.label not in below]
    above = {below[run.label].label: run for run in runs if run.label in below}
    if by_name:
        fits = bottoms == [runs[0]] and all(above.get(one.label) is other for one, other in pairwise(runs))
    else:
        fits = len(bottoms) == 1 and len(above) == len(below)
    if not fits:
        raise InputError(
            f"ONNX file has {len(runs)} LSTM nodes that are no stack, each taking the outputs of the one before; "
            f"{alone(runs)}"
        )
    stack = bottoms
    while len(stack) < len(runs):
        stack.append(above[stack[-1].label])
    if stack[0].sum or any(bool(run.sum) != bool(stack[-1].sum) for run in stack[1:]):
        sums = few([run.sum for run in stack if run.sum])
        raise InputError(f"ONNX file adds its input to its output in some layers: {sums}; expected all but the first")
    return stack


def order(array: np.ndarray, forms: dict[str, list[np.ndarray]]) -> set[str]:
    """Return which of the forms, by name, an array has; axes of size 1 count only where that leaves a choice."""
    exact = {name for name, ours in forms.items() if any(np.array_equal(array, one) for one in ours)}
    flat = np.squeeze(array)
    return exact or {name for name, ours in forms.items() if any(np.array_equal(flat, np.squeeze(o)) for o in ours)}


def same_order(array: np.ndarray, ours: np.ndarray) -> bool:
    """Return whether an array is ours, (layers x directions, B, H), or that batch first."""
    return bool(order(array, {"": [ours, ours.swapaxes(0, 1)]}))


def order_of_x(trace: Trace, bottom: Run) -> set[str]:
    """Return T, B or both: whether x comes as (T, B, D) or (B, T, D); empty where it is part of something else."""
    return order(trace.origin(bottom.x).array, {"T": [bottom.x], "B": [bottom.x.swapaxes(0, 1)]})


def order_of_y(array: np.ndarray, top: Run) -> set[str]:
    """Return what `order_of_x` does for an array of the top's outputs."""
    split = top.out.reshape(top.y.shape)
    return order(
        array, {"T": [top.out, split, split.transpose(0, 2, 1, 3)], "B": [top.out.swapaxes(0, 1), split.swapaxes(0, 1)]}
    )


def batch_first(trace: Trace, stack: Sequence[Run], whole: bool) -> bool:
    """Return whether x and y are batch first, as the graph has them.

    Raises InputError where the `whole` graph gives something else than y, h and c, takes something else than x, or
    turns only one of them.
    """
    bottom, top = stack[0], stack[-1]
    orders = order_of_x(trace, bottom)
    if whole:
        check_x(trace, stack, bool(orders))
        for name, value in trace.outputs.items():
            found = check_output(trace, stack, name, value)
            if not orders & found:
                raise InputError(
                    f"ONNX file takes x {shown(orders)} and gives its output {name!r} {shown(found)}; "
                    f"expected the same order; {alone(stack)}"
                )
            orders &= found
        return "T" not in orders
    leaving = [value.array for value in trace.outputs.values() if value.kind == "elements"]
    for array in (*leaving, *trace.consumed):
        orders &= order_of_y(array, top) or orders
    return bottom.batch_first if not orders else "T" not in orders


def shown(orders: set[str]) -> str:
    """Return an order of axes, for a message."""
    return "batch first" if orders == {"B"} else "time first"


def check_x(trace: Trace, stack: Sequence[Run], whole: bool) -> None:
    """Refuse a graph whose x is not what the bottom takes."""
    value, block = stack[0].given[0], trace.origin(stack[0].x)
    if value is None or value.kind != "elements" or block.what != "input":
        raise InputError(f"LSTM node {stack[0].label!r} takes an X that is no input of the ONNX file; {alone(stack)}")
    if not whole:
        raise InputError(
            f"LSTM node {stack[0].label!r} does not take the input {block.owner!r} whole, "
            f"as (T, B, D) or (B, T, D), after {few(value.by)}; {alone(stack)}"
        )


def check_output(trace: Trace, stack: Sequence[Run], name: str, value: Value) -> set[str]:
    """Return the order of axes of an output; both where it is another one than y.

    Raises InputError where the output is none of y, h and c.
    """
    array, both = value.array, {"T", "B"}
    if value.kind == "elements" and array.size:
        if found := order_of_y(array, stack[-1]):
            return found
        states = [np.concatenate([getattr(run, part) for run in stack]) for part in "hc"]
        block = trace.origin(array)
        if isinstance(block.owner, Run) and block.what in ("h", "c"):
            # Some layers' states, one after the other.
            rows = len(block.owner.h)
            whole = states["hc".index(block.what)]
            start = next(k for k in range(0, len(whole), rows) if whole[k].flat[0] == block.array.flat[0])
            part = whole[start : start + max(1, array.size // whole[0].size)]
            if same_order(array, part) and len(part) % rows == 0:
                return both
        elif np.array_equal(array, block.array) and block.what == "input":
            return both
        by = f", after {few(value.by)}" if value.by else ""
        what = {"y": "Y", "h": "Y_h", "c": "Y_c", "sum": "Y", "input": "an input"}.get(block.what, "another value")
        raise InputError(
            f"ONNX file gives as {name!r} a part of {what}, or all in another order{by}; "
            f"expected all of y, h or c of the LSTM; {alone(stack)}"
        )
    if value.kind == "lengths" and trace.fed(array):
        return both
    raise InputError(f"ONNX file gives as {name!r} what is none of y, h and c of its LSTM; {alone(stack)}")


def states_of(trace: Trace, stack: Sequence[Run], whole: bool) -> list[State]:
    """Return the initial h and c of a stack, from the file.

    Raises InputError where the states are no arrays of one shape, or come from somewhere else in each layer; or, for
    the `whole` graph, from outside in another order, or from another LSTM node.
    """
    return [state_of(trace, stack, part, whole) for part in (0, 1)]


def state_of(trace: Trace, stack: Sequence[Run], part: int, whole: bool) -> State:
    """Return the initial h (0) or c (1) of a stack, from the file."""
    name = ("initial_h", "initial_c")[part]
    kinds, arrays = zip(*[one_state(trace, run, part, whole) for run in stack], strict=True)
    if len(set(kinds) - ({"zero"} if "outside" not in kinds else set())) > 1:
        told = ", ".join(f"{run.label!r}: {kind}" for run, kind in zip(stack, kinds, strict=True))
        raise InputError(f"ONNX file has {name} of another kind in each layer ({told}); {alone(stack)}")
    label = f"LSTM node {stack[0].label!r}"
    entering = [value for run in stack if (value := run.state(part)) is not None and value.kind == "elements"]
    if whole and entering:
        ours = [value.array for value in entering]
        theirs = [trace.origin(array).array for array in ours]
        if len({array.shape for array in ours}) > 1 or any(their is trace.origin(stack[0].x).array for their in theirs):
            fits = False
        else:
            fits = same_order(theirs[0], np.concatenate(ours)) or all(map(same_order, theirs, ours))
        if not fits:
            raise InputError(
                f"{label} does not take an input of the ONNX file whole, and in the order of the layers, as {name}, "
                f"after {few([name for value in entering for name in value.by])}; {alone(stack)}"
            )
    known = [array for array in arrays if array is not None]
    if not known:
        return State()
    shape = (len(stack[0].h), known[0].shape[1] if known[0].ndim == 3 else 0, stack[0].h.shape[2])
    if any(array.shape != shape or 0 in shape for array in known):
        raise InputError(f"{label} has an initial state of shape {known[0].shape}; expected {shape}")
    full = np.concatenate([np.zeros(shape) if array is None else array for array in arrays])
    return State(learned=full[:, 0]) if "learned" in kinds else State(fixed=full)


def one_state(trace: Trace, run: Run, part: int, whole: bool) -> tuple[str, np.ndarray | None]:
    """Return where the initial h or c of an LSTM node comes from, and what the file holds of it."""
    value = run.state(part)
    if value is None:
        return "zero", None
    array, kind = value.array, "fixed"
    if value.kind != "unknown" and array.ndim != 3:
        raise InputError(f"LSTM node {run.label!r} has an initial state of shape {array.shape}; expected three axes")
    if (
        value.kind in ("constant", "sizes") and array.shape[::2] != run.h.shape[::2]
    ):  # of zeros, too: it is no LSTM then
        shape = (run.h.shape[0], array.shape[1], run.h.shape[2])
        raise InputError(f"LSTM node {run.label!r} has an initial state of shape {array.shape}; expected {shape}")
    if value.kind == "elements" and array.size:
        block = trace.origin(array)
        if block.what != "input":
            if whole:
                raise InputError(
                    f"LSTM node {run.label!r} starts from the state of another; expected states from outside; "
                    f"{alone(trace.runs)}"
                )
            return "outside", None
        default = trace.defaults.get(block.owner)
        if default is None or not np.any(default):
            return "outside", None
        kind = "fixed" if default.shape == block.array.shape else "learned"
        try:
            array = np.broadcast_to(default, block.array.shape).ravel()[array - block.array.flat[0]]
        except ValueError:
            raise InputError(f"{block.owner!r} has a default of shape {default.shape}") from None
    elif value.kind == "sizes":
        kind = "learned"
    elif value.kind != "constant":
        if whole:
            raise InputError(f"LSTM node {run.label!r} starts from a state that can't be followed; {alone([run])}")
        return "outside", None
    if kind == "learned" and np.any(array != array[:, :1]):
        raise InputError(f"LSTM node {run.label!r} starts from a constant that differs over a batch of any size")
    return (kind, array) if np.any(array) else ("zero", None)


def lengths_of(trace: Trace, stack: Sequence[Run], whole: bool) -> np.ndarray | None:
    """Return the lengths that the file holds; None where it holds none.

    Raises InputError where the lengths differ from node to node, or the `whole` graph computes them.
    """
    value = stack[0].given[4]
    for run in stack[1:]:
        other = run.given[4]
        if not same(value, other) and (
            whole or value is None or other is None or {value.kind, other.kind} != {"unknown"}
        ):
            raise InputError(f"LSTM node {run.label!r} has other sequence_lens than the one below it; {SAME}")
    if value is None:
        return None
    steps = stack[0].x.shape[0]
    if value.kind == "constant" or (value.kind == "lengths" and trace.lengths is None):
        lengths = value.array.astype(np.int64)
        return None if value.kind == "lengths" and np.all(lengths == steps) else lengths
    every = value.kind == "sizes" and np.all(value.array == steps)
    if whole and not every and not (value.kind == "lengths" and trace.fed(value.array)):
        raise InputError(f"LSTM node {stack[0].label!r} takes sequence_lens that the file computes; {alone(stack)}")
    return None
