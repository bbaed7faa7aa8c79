"""The LSTM operator of any ONNX file as an LSTM of ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpu_lstm.backend import Array, Backend
from gpu_lstm.errors import InputError
from gpu_lstm.interop.arrays import lstm_of
from gpu_lstm.interop.expressible import check_path
from gpu_lstm.interop.onnx_cell import Cell, check_same
from gpu_lstm.interop.onnx_nodes import require_onnx
from gpu_lstm.interop.onnx_stack import (
    State,
    batch_first,
    check_whole,
    chosen,
    in_order,
    lengths_of,
    names_of,
    states_of,
)
from gpu_lstm.interop.onnx_trace import Trace
from gpu_lstm.layers import LSTM, Reversed
from gpu_lstm.layers.checks import check_dtype


class Loaded(NamedTuple):
    """What was in a file: ``y, (h, c), _ = lstm.forward(x, state, lengths)`` computes what the file computes.

    Attributes
    ----------
    lstm : LSTM, or Reversed for ``direction="reverse"``
    state : (h0, c0) or None
        Where the file holds them for a batch of one size, other than zero. One for all sequences is learned instead,
        see `LSTM`'s `learn_state`.
    lengths : numpy.ndarray or None
        Where the file holds them.
    """

    lstm: LSTM | Reversed
    state: tuple[Array | None, Array | None] | None
    lengths: np.ndarray | None


def load(
    path: str | Path,
    node: str | Sequence[str] | None = None,
    *,
    backend: str | Backend | None = None,
    dtype: str | None = None,
    tier: str = "auto",
) -> Loaded:
    """Read the LSTM of an ONNX file at `path`; see `from_onnx`, also for InputError."""
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
    node: str | Sequence[str] | None = None,
    *,
    backend: str | Backend | None = None,
    dtype: str | None = None,
    tier: str = "auto",
) -> Loaded:
    """Make one LSTM of an ONNX model's function, or of some of its LSTM nodes.

    Without `node`, the whole model is an LSTM or it is refused: its outputs are y, h and c of a stack of LSTM nodes,
    whose inputs, states and lengths come from outside or lie in the file, with nothing but reordering around and
    between, or sums of a layer's input and output. Nodes inside an If count where both branches give the same.

    Parameters
    ----------
    model : onnx.ModelProto
    node : str or list of str, optional
        Names of one LSTM node, or of a stack of them from bottom to top, wherever in the model they lie. What is
        around them is left out then; a state and lengths that the model computes are the caller's to give.
    backend, tier
        As of `LSTM`.
    dtype : {"float32", "float64", "float16", "bfloat16"}, optional
        Of the LSTM. That of the weights if not given; float32 for half precision.

    Returns
    -------
    lstm : LSTM or Reversed
        `batch_first` as x and y are on their way in and out. Both biases are added up. y holds ONNX's Y with the
        directions side by side: (T, B, directions x H).
    state : (h0, c0) or None
        In our order, (layers x directions, B, H), for both layouts.
    lengths : numpy.ndarray or None

    Raises
    ------
    InputError
        The model has no LSTM node, has one that we can't express, or does more than its LSTM nodes; the message names
        the nodes.
    BackendError
        The package onnx is not installed.
    """
    require_onnx()
    if not hasattr(model, "graph"):
        raise InputError(f"model is a {type(model).__name__}; expected an onnx.ModelProto")
    names = names_of(node)
    whole = names is None
    if model.functions:
        from onnx.inliner import inline_local_functions

        model = inline_local_functions(model)
    trace = Trace(model, shapes=not whole)
    first = next((run for run in trace.runs if run.x.size), None)
    if first is not None:  # once more, with what depends on the first LSTM node's sizes
        trace = Trace(model, first.x.shape[:2], shapes=not whole)
    runs = chosen(trace, names)
    made = {run.label: Cell(run) for run in runs}
    if whole:
        check_whole(trace, runs)
    runs = in_order(trace, runs, not whole)
    cells = [made[run.label] for run in runs]
    check_same(cells)
    options = {"batch_first": batch_first(trace, runs, whole), "residual": bool(runs[-1].sum)}
    states = states_of(trace, runs, whole)
    lengths = lengths_of(trace, runs, whole)
    if lengths is None and trace.lengths_default is not None:
        omitted = Trace(model, trace.sizes, shapes=not whole, omit=True)
        lengths = lengths_of(omitted, chosen(omitted, [run.label for run in runs]), False)
    if dtype is None:
        dtype = "float64" if cells[0].w.dtype == np.float64 else "float32"
    lstm = made_of(cells, states, **options, backend=backend, dtype=check_dtype(dtype), tier=tier)
    back = cells[0].direction == "reverse"
    return Loaded(Reversed(lstm) if back else lstm, given_state(lstm, states), lengths)


def made_of(cells: Sequence[Cell], states: Sequence[State], **options: Any) -> LSTM:
    """Make an LSTM of the nodes of a stack."""
    bottom = cells[0]
    layers = [[cell.parameters(direction) for direction in range(cell.directions)] for cell in cells]
    for row, arrays in enumerate(arrays for directions in layers for arrays in directions):
        for name, state in zip(("h0", "c0"), states, strict=True):
            arrays[name] = state.row(row, bottom.hidden_size)
    return lstm_of(
        layers, bias=any(cell.bias is not None for cell in cells), coupled=bottom.coupled, clip=bottom.clip,
        peepholes=any(cell.peepholes is not None for cell in cells), hard_sigmoid=bottom.slopes is not None,
        learn_state=any(state.learned is not None for state in states), **options,
    )  # fmt: skip


def given_state(lstm: LSTM, states: Sequence[State]) -> tuple[Array | None, Array | None] | None:
    """Return the initial state that the file holds for one size of batch; None where it holds none."""
    found = [
        None if state.fixed is None else lstm.backend.asarray(state.fixed.astype(lstm.param_dtype), dtype)
        for state, dtype in zip(states, (lstm.dtype, lstm.param_dtype), strict=True)
    ]
    return None if all(one is None for one in found) else (found[0], found[1])
