"""Keras weights in and out: of its LSTM layers, alone, stacked, or within Bidirectional.

Keras (3) has kernel (D, 4H), recurrent_kernel (H, 4H) and bias (4H,), gate order i, f, c, o: the transposes of ours in
our order. It computes x (B, T, D), so what comes in is batch-first. Its hard sigmoid is clip(z / 6 + 0.5, 0, 1), ours
clip(0.2 z + 0.5, 0, 1): the rows of i, f and o are scaled on the way in and out.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpu_lstm.backend import Backend
from gpu_lstm.errors import InputError
from gpu_lstm.interop.expressible import check_options, check_path, package
from gpu_lstm.layers import LSTM
from gpu_lstm.layers.base import check_dtype
from gpu_lstm.training.checkpoint import write_whole

SCALE = np.array([5 / 6, 5 / 6, 1.0, 5 / 6])
"""By which i, f, g, o of Keras are multiplied where they are hard sigmoids: a slope of 1/6 for one of 0.2."""


class Direction(NamedTuple):
    """Weights of one direction of a Keras layer."""

    kernel: np.ndarray
    recurrent_kernel: np.ndarray
    bias: np.ndarray | None


def from_keras(
    source: Any,
    layers: Sequence[str] | None = None,
    *,
    recurrent_activation: str = "sigmoid",
    batch_first: bool = True,
    backend: str | Backend | None = None,
    dtype: str | None = None,
    tier: str = "auto",
) -> LSTM:
    """An LSTM from Keras weights.

    Parameters
    ----------
    source : str, Path, list of arrays, or Keras layer; a list of the last two is a stack
        A path of a ``.weights.h5`` file; or ``layer.get_weights()``: kernel, recurrent_kernel, bias if there is one,
        and the same again for the backward layer of a Bidirectional; or such a layer itself, whose settings are
        checked then.
    layers : list of str, optional
        Which layers of the file, from bottom to top, by path (``"layers/lstm_1"``) or its last part. If not given,
        all of them, where their names are numbered (``lstm``, ``lstm_1``, ...).
    recurrent_activation : {"sigmoid", "hard_sigmoid"}
        Of the Keras layers; files and arrays don't tell. That of a layer itself counts instead.
    batch_first : bool
        x is (B, T, D), as Keras has it.
    backend, tier
        As of `LSTM`.
    dtype : {"float32", "float64", "float16", "bfloat16"}, optional
        Of the LSTM. That of the weights if not given; float32 for half precision.

    Returns
    -------
    LSTM
        Its y is what Keras gives with ``return_sequences=True``. Dropout is not taken over.

    Raises
    ------
    InputError
        The file can't be read, or holds no LSTM or several that are no stack; a shape doesn't fit; or a layer has a
        setting that we can't express.
    BackendError
        A file is given and the package h5py is not installed.
    """
    if isinstance(source, str | Path):
        stack = read_weights(check_path(source), layers)
    elif layers is not None:
        raise InputError("layers names layers of a file; expected a path as source")
    elif hasattr(source, "get_weights"):
        stack = [from_arrays(source.get_weights(), "layer")]
        recurrent_activation = check_settings(source, "layer")
    elif not isinstance(source, list | tuple) or not source:
        raise InputError(
            f"source is a {type(source).__name__}; expected a path, layer.get_weights(), or a list of them"
        )
    elif all(hasattr(one, "get_weights") for one in source):
        stack = [from_arrays(one.get_weights(), f"layer {place}") for place, one in enumerate(source)]
        found = {check_settings(one, f"layer {place}") for place, one in enumerate(source)}
        if len(found) > 1:
            raise InputError(
                f"layers have the recurrent activations {', '.join(sorted(found))}; expected the same in all"
            )
        (recurrent_activation,) = found
    elif isinstance(source[0], list | tuple):
        stack = [from_arrays(one, f"layer {place}") for place, one in enumerate(source)]
    else:
        stack = [from_arrays(source, "source")]
    if recurrent_activation not in ("sigmoid", "hard_sigmoid"):
        raise InputError(f"recurrent_activation is {recurrent_activation!r}; expected sigmoid or hard_sigmoid")
    check_stack(stack)
    first = stack[0][0]
    hidden_size = first.recurrent_kernel.shape[0]
    hard = recurrent_activation == "hard_sigmoid"
    options: dict[str, Any] = {"hard_sigmoid": True} if hard else {}
    if all(part.bias is None for one in stack for part in one):
        options["bias"] = False
    if dtype is None:
        dtype = "float64" if first.kernel.dtype == np.float64 else "float32"
    lstm = LSTM(
        first.kernel.shape[0],
        hidden_size,
        len(stack),
        bidirectional=len(stack[0]) == 2,
        batch_first=batch_first,
        backend=backend,
        dtype=check_dtype(dtype),
        tier=tier,
        **options,
    )
    scale = np.repeat(SCALE if hard else np.ones(4), hidden_size)
    for place, one in enumerate(stack):
        for part, ending in zip(one, (f"l{place}", f"l{place}_reverse"), strict=False):
            bias = np.zeros(4 * hidden_size) if part.bias is None else part.bias
            for name, array in (("weight_ih", part.kernel), ("weight_hh", part.recurrent_kernel), ("bias", bias)):
                if f"{name}_{ending}" in lstm.params:
                    host = np.ascontiguousarray((np.asarray(array, np.float64) * scale).T.astype(lstm.param_dtype))
                    lstm.params[f"{name}_{ending}"][...] = lstm.backend.asarray(host, lstm.param_dtype)
    return lstm


def to_keras(lstm: LSTM, path: str | Path | None = None) -> list[list[np.ndarray]]:
    """Weights for Keras layers, from bottom to top: ``layer.set_weights(to_keras(lstm)[k])``.

    Parameters
    ----------
    lstm : LSTM
    path : str or Path, optional
        ``.weights.h5`` file to write as well, for ``load_weights`` of a Sequential model of such layers only.

    Returns
    -------
    list, an entry a layer
        What ``LSTM(hidden_size, return_sequences=True)`` takes, or ``Bidirectional`` of it, with
        ``recurrent_activation="hard_sigmoid"`` where ours has hard sigmoids, ``use_bias=False`` where it has no bias.

    Raises
    ------
    InputError
        The LSTM has an option that Keras doesn't have, or the path doesn't end in ``.weights.h5``.
    BackendError
        A path is given and the package h5py is not installed.
    """
    if not isinstance(lstm, LSTM):
        raise InputError(f"lstm is a {type(lstm).__name__}; expected an LSTM")
    if path is not None and not str(path).endswith(".weights.h5"):
        raise InputError(f"path is {path}; expected a name that ends in .weights.h5, as Keras wants it")
    check_options(lstm, {"bias", "hard_sigmoid"}, "Keras's LSTM")
    scale = np.repeat(SCALE if lstm.options.hard_sigmoid else np.ones(4), lstm.hidden_size).astype(lstm.param_dtype)
    result = []
    for place in range(lstm.num_layers):
        arrays = []
        for ending in (f"l{place}", f"l{place}_reverse")[: lstm.num_directions]:
            for name in ("weight_ih", "weight_hh", "bias"):
                if f"{name}_{ending}" in lstm.params:
                    host = np.asarray(lstm.backend.to_numpy(lstm.params[f"{name}_{ending}"]))
                    arrays.append(np.ascontiguousarray(host.T) / scale)
        result.append(arrays)
    if path is not None:
        write_weights(check_path(path), result, lstm.num_directions)
    return result


def from_arrays(arrays: Sequence[Any], name: str) -> list[Direction]:
    """The directions of what ``get_weights`` gives: 2 or 3 arrays each."""
    count = len(arrays) if isinstance(arrays, list | tuple) else 0
    if count not in (2, 3, 4, 6):
        raise InputError(
            f"{name} has {count} arrays; expected kernel, recurrent_kernel and a bias or none, "
            "twice that for Bidirectional"
        )
    each = count if count < 4 else count // 2
    return [check_direction(arrays[start : start + each], name) for start in range(0, count, each)]


def check_direction(arrays: Sequence[Any], name: str) -> Direction:
    """One direction, if the shapes are those of an LSTM."""
    found = []
    for array in arrays:
        host = np.asarray(array)
        if host.dtype.kind != "f" and host.dtype.name != "bfloat16":
            raise InputError(f"{name} has weights of dtype {host.dtype}; expected floats")
        found.append(host if host.dtype == np.float64 else host.astype(np.float32))
    kernel, recurrent, *bias = found
    hidden = recurrent.shape[0] if recurrent.ndim == 2 else 0
    fits = kernel.ndim == 2 and recurrent.shape == (hidden, 4 * hidden) and kernel.shape[1] == 4 * hidden
    if not fits or 0 in kernel.shape or any(one.shape != (4 * hidden,) for one in bias):
        shapes = ", ".join(str(one.shape) for one in found)
        raise InputError(f"{name} has weights of shapes {shapes}; expected (D, 4 H), (H, 4 H) and (4 H,)")
    return Direction(kernel, recurrent, bias[0] if bias else None)


def check_settings(layer: Any, name: str) -> str:
    """A Keras layer's recurrent activation, if its other settings are such that we compute the same.

    Raises
    ------
    InputError
        They aren't.
    """
    settings = layer.get_config()
    if "layer" in settings:
        if settings.get("merge_mode") != "concat":
            raise InputError(f"{name} has merge_mode={settings.get('merge_mode')!r}; expected 'concat'")
        settings = settings["layer"]["config"]
    wanted = {"activation": ("tanh",), "recurrent_activation": ("sigmoid", "hard_sigmoid")}
    for key, values in wanted.items():
        if settings.get(key) not in values:
            raise InputError(f"{name} has {key}={settings.get(key)!r}; expected {' or '.join(values)}")
    if settings.get("go_backwards"):
        raise InputError(
            f"{name} has go_backwards=True; expected False: its outputs come in reversed order, so reverse x in time "
            "and use the weights of get_weights()"
        )
    return str(settings["recurrent_activation"])


def check_stack(stack: list[list[Direction]]) -> None:
    """Refuse layers of different sizes or directions, or that don't take what the one below gives."""
    hidden, directions = stack[0][0].recurrent_kernel.shape[0], len(stack[0])
    for place, one in enumerate(stack):
        width = stack[0][0].kernel.shape[0] if place == 0 else hidden * directions
        if len(one) != directions:
            raise InputError(f"layer {place} has {len(one)} directions, the one below {directions}; expected the same")
        for part in one:
            shape = (part.kernel.shape[0], part.recurrent_kernel.shape[0])
            if shape != (width, hidden):
                raise InputError(
                    f"layer {place} has input and hidden sizes {shape}; expected {(width, hidden)}: the layers of one "
                    "LSTM have the same hidden size, and each takes the outputs of the one below"
                )


def read_weights(path: Path, layers: Sequence[str] | None) -> list[list[Direction]]:
    """The LSTM layers of a ``.weights.h5`` file, from bottom to top."""
    h5py = package("h5py", ".weights.h5", "keras")
    if not path.is_file():
        raise InputError(f"Keras file {path} does not exist")
    if path.suffix == ".keras":
        raise InputError(f"{path} is a whole Keras model; expected weights, as save_weights writes, or its layers")
    groups: dict[str, dict[int, np.ndarray]] = {}

    def visit(name: str, item: Any) -> None:
        place = re.fullmatch(r"(.*?)/?(?:cell|lstm_cell(?:_\d+)?)/vars/([012])", name)
        if place and isinstance(item, h5py.Dataset) and item.dtype.kind == "f":
            group = name.rsplit("/vars/", 1)[0].removesuffix("/cell")
            groups.setdefault(group, {})[int(place[2])] = item[...]

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"Keras file {path} can't be read: {error}") from None
    found: dict[str, list[Direction]] = {}
    for name, arrays in sorted(groups.items(), key=lambda pair: (pair[0].endswith("/backward_layer"), pair[0])):
        listed = [arrays[k] for k in sorted(arrays)]
        if len(listed) < 2 or listed[1].ndim != 2 or listed[1].shape[1] != 4 * listed[1].shape[0]:
            continue  # another recurrent layer
        layer = name.removesuffix("/forward_layer").removesuffix("/backward_layer")
        found.setdefault(layer, []).append(check_direction(listed, f"{path}: {name}"))
    if not found:
        raise InputError(f"Keras file {path} has no LSTM layer; expected groups like layers/lstm/cell/vars")
    names = ", ".join(sorted(found, key=numbered))
    if layers is not None:
        chosen = []
        for layer in layers:
            fitting = [name for name in found if layer in (name, name.rsplit("/", 1)[-1])]
            if len(fitting) != 1:
                raise InputError(f"layers has {layer!r}; expected one of those of {path}: {names}")
            chosen += fitting
        if not chosen:
            raise InputError(f"layers is empty; expected some of those of {path}: {names}")
        return [found[name] for name in chosen]
    if len({numbered(name)[0] for name in found}) > 1:
        raise InputError(f"Keras file {path} has the LSTM layers {names}; say with layers=[...] which make one LSTM")
    return [found[name] for name in sorted(found, key=numbered)]


def numbered(name: str) -> tuple[str, int]:
    """``"layers/lstm_2"`` as ``("layers/lstm", 2)``: Keras numbers layers of a kind."""
    match = re.fullmatch(r"(.*?)(?:_(\d+))?", name)
    assert match
    return match[1], int(match[2] or 0)


def write_weights(path: Path, layers: list[list[np.ndarray]], directions: int) -> None:
    """Write, whole or not at all, what Keras's ``load_weights`` reads into a Sequential model of LSTM layers."""
    h5py = package("h5py", ".weights.h5", "keras")
    kind = "bidirectional" if directions == 2 else "lstm"
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.create_group("vars")
        for place, arrays in enumerate(layers):
            layer = file.create_group(f"layers/{kind}" + (f"_{place}" if place else ""))
            layer.create_group("vars")
            each = len(arrays) // directions
            for direction in range(directions):
                inner = layer if directions == 1 else layer.create_group(("forward_layer", "backward_layer")[direction])
                inner.require_group("vars")
                for number in range(each):
                    inner[f"cell/vars/{number}"] = arrays[direction * each + number]
    write_whole(path, content.getvalue())
