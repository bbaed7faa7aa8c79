"""Keras weights in and out: of its LSTM layers, alone, stacked, or within Bidirectional.

Keras (3) has kernel (D, 4H), recurrent_kernel (H, 4H) and bias (4H,), gate order i, f, c, o: the transposes of ours in
our order. It computes x (B, T, D), so what comes in is batch-first. Its hard sigmoid is clip(z / 6 + 0.5, 0, 1), ours
and that of Keras 2 clip(0.2 z + 0.5, 0, 1): the rows of i, f and o are scaled on the way in and out.
"""

from __future__ import annotations

import io
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpu_lstm.backend import Backend
from gpu_lstm.errors import InputError
from gpu_lstm.interop.arrays import arrays_of, gate_scale, lstm_of
from gpu_lstm.interop.expressible import check_options, check_path, package
from gpu_lstm.interop.keras_files import Content, Part, is_lstm_shape, is_old, read_parts, select, split
from gpu_lstm.interop.keras_model import NOTHING, gate, nodes
from gpu_lstm.layers import LSTM, Stack
from gpu_lstm.layers.checks import check_dtype
from gpu_lstm.training.checkpoint import write_whole


class Direction(NamedTuple):
    """Weights of one direction of a Keras layer."""

    kernel: np.ndarray
    recurrent_kernel: np.ndarray
    bias: np.ndarray | None


def from_keras(
    source: Any,
    layers: Sequence[str] | None = None,
    *,
    recurrent_activation: str | None = None,
    batch_first: bool = True,
    backend: str | Backend | None = None,
    dtype: str | None = None,
    tier: str = "auto",
) -> LSTM | Stack:
    """Make an LSTM of Keras weights.

    Parameters
    ----------
    source : str, Path, Keras model or layer, list of arrays; a list of the last two is a stack
        A path of a whole model (``.keras``, or the older ``.h5``) or of weights (``.weights.h5``, or the older
        ``.h5``); or a model or a layer itself; or ``layer.get_weights()``: kernel, recurrent_kernel, bias if there is
        one, and the same again for the backward layer of a Bidirectional. Settings of layers and whole models are
        checked.
    layers : list of str, optional
        Which layers of the file or model, from bottom to top, by path (``"layers/lstm_1"``), its last part, or the
        layer's own name. If not given, all of them, where it is certain that each takes what the one below gives.
    recurrent_activation : {"sigmoid", "hard_sigmoid"}, optional
        Of the Keras layers, where the source doesn't tell, as arrays and files of weights don't; sigmoid if not given.
    batch_first : bool
        x is (B, T, D), as Keras has it.
    backend, tier
        As of `gpu_lstm.LSTM`.
    dtype : {"float32", "float64", "float16", "bfloat16"}, optional
        Of the LSTM. That of the weights if not given; float32 for half precision.

    Returns
    -------
    gpu_lstm.LSTM, or Stack where layers differ in size, directions or recurrent activation, one LSTM of it a layer
        Its y is what Keras gives with ``return_sequences=True``. Dropout is not taken over, nor is the state that a
        layer with ``stateful=True`` holds.

    Raises
    ------
    InputError
        The file can't be read, or holds no LSTM or several that may be no stack; a shape doesn't fit; or a layer has a
        setting that we can't express.
    BackendError
        A file is given and the package h5py is not installed.
    """
    parts = parts_of(source, layers)
    if recurrent_activation not in (None, "sigmoid", "hard_sigmoid"):
        raise InputError(f"recurrent_activation is {recurrent_activation!r}; expected sigmoid or hard_sigmoid")
    for part in parts:
        if recurrent_activation and part.gate not in ("", recurrent_activation):
            raise InputError(
                f"recurrent_activation is {recurrent_activation!r}; expected {part.gate!r}, as {part.name} says"
            )
    stack = [from_arrays(part.arrays, part.name) for part in parts]
    check_stack(stack, [part.name for part in parts])
    gates = [part.gate or recurrent_activation or "sigmoid" for part in parts]
    slopes = [
        5 / 6 if name == "hard_sigmoid" and not part.old else 1.0 for name, part in zip(gates, parts, strict=True)
    ]
    kinds = {(one[0].recurrent_kernel.shape, len(one), name) for one, name in zip(stack, gates, strict=True)}
    if dtype is None:
        dtype = "float64" if any(part.kernel.dtype == np.float64 for one in stack for part in one) else "float32"
    where = {"batch_first": batch_first, "backend": backend, "dtype": check_dtype(dtype), "tier": tier}
    groups = [slice(None)] if len(kinds) == 1 else [slice(place, place + 1) for place in range(len(stack))]
    made = [make(stack[these], slopes[these], gates[these][0] == "hard_sigmoid", where) for these in groups]
    return made[0] if len(made) == 1 else Stack(made)


def parts_of(source: Any, layers: Sequence[str] | None) -> list[Part]:
    """Return the LSTM layers of any source that `from_keras` takes, from bottom to top."""
    if isinstance(source, str | Path):
        return read_parts(check_path(source), layers)
    if hasattr(source, "layers") and hasattr(source, "get_config"):
        return of_model(source, layers)
    if layers is not None:
        raise InputError("layers names layers of a file or model; expected a path as source, or a model")
    if hasattr(source, "get_weights"):
        return [from_layer(source, "layer")]
    if not isinstance(source, list | tuple) or not source:
        raise InputError(
            f"source is a {type(source).__name__}; expected a path, a model, layer.get_weights(), or a list of them"
        )
    if all(hasattr(one, "get_weights") for one in source):
        return of_layers(source)
    if isinstance(source[0], list | tuple):
        return [Part(f"layer {place}", one) for place, one in enumerate(source)]
    return [Part("source", source)]


def make(stack: list[list[Direction]], slopes: list[float], hard: bool, where: dict[str, Any]) -> LSTM:
    """Make one LSTM of layers that are alike; the rows of i, f and o of each are multiplied by its slope."""
    options: dict[str, Any] = {"hard_sigmoid": True} if hard else {}
    if all(part.bias is None for one in stack for part in one):
        options["bias"] = False
    layers = [[ours(part, slope) for part in one] for one, slope in zip(stack, slopes, strict=True)]
    return lstm_of(layers, **options, **where)


def ours(part: Direction, slope: float) -> dict[str, np.ndarray]:
    """Return the weights of one direction under our names."""
    hidden = len(part.recurrent_kernel)
    bias = np.zeros(4 * hidden) if part.bias is None else part.bias
    arrays = {"weight_ih": part.kernel, "weight_hh": part.recurrent_kernel, "bias": bias}
    return {name: (np.asarray(array, np.float64) * gate_scale(hidden, slope)).T for name, array in arrays.items()}


def to_keras(lstm: LSTM | Stack, path: str | Path | None = None) -> list[list[np.ndarray]]:
    """Return weights for Keras layers, from bottom to top: ``layer.set_weights(to_keras(lstm)[k])``.

    Parameters
    ----------
    lstm : gpu_lstm.LSTM or Stack
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

    Examples
    --------
    >>> from gpu_lstm.interop.keras import from_keras, to_keras
    >>> weights = to_keras(LSTM(8, 16, backend="numpy"))  # for layer.set_weights(weights[0])
    >>> [array.shape for array in weights[0]]
    [(8, 64), (16, 64), (64,)]
    >>> from_keras(weights[0], backend="numpy").hidden_size
    16
    """
    stack: Sequence[Any] = lstm.layers if isinstance(lstm, Stack) else (lstm,)
    for one in stack:
        if not isinstance(one, LSTM):
            raise InputError(f"lstm is a {type(one).__name__}; expected an LSTM, or a Stack of them")
    if path is not None and not str(path).endswith(".weights.h5"):
        raise InputError(f"path is {path}; expected a name that ends in .weights.h5, as Keras wants it")
    result = []
    for one in stack:
        check_options(one, {"bias", "hard_sigmoid"}, "Keras's LSTM")
        scale = gate_scale(one.hidden_size, 5 / 6 if one.options.hard_sigmoid else 1.0).astype(one.param_dtype)
        for layer in arrays_of(one):
            names = [name for name in ("weight_ih", "weight_hh", "bias") if name in layer[0]]
            result.append([np.ascontiguousarray(arrays[name].T) / scale for arrays in layer for name in names])
    if path is not None:
        write_weights(check_path(path), result)
    return result


def from_arrays(arrays: Any, name: str) -> list[Direction]:
    """Return the directions of what ``get_weights`` gives: 2 or 3 arrays each."""
    each = split(arrays) if isinstance(arrays, list | tuple) else []
    if not each or any(len(one) not in (2, 3) for one in each):
        count = sum(map(len, each))
        raise InputError(
            f"{name} has {count} arrays; expected kernel, recurrent_kernel and a bias or none, "
            "twice that for Bidirectional"
        )
    return [check_direction(one, name) for one in each]


def check_direction(arrays: Sequence[Any], name: str) -> Direction:
    """Return the weights of one direction, if the shapes are those of an LSTM."""
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


def from_layer(layer: Any, name: str) -> Part:
    """Return an LSTM layer of Keras, its settings checked."""
    kind = type(layer)
    described = {"class_name": kind.__name__, "module": kind.__module__, "config": layer.get_config()}
    return Part(name, layer.get_weights(), gate(described, name), made_by_old(layer))


def made_by_old(source: Any) -> bool:
    """Return whether a layer or model is one of Keras 2."""
    modules = {kind.__module__.partition(".")[0] for kind in type(source).__mro__} & {"keras", "tf_keras"}
    return any(is_old(sys.modules[name].__version__) for name in modules)


def of_model(model: Any, layers: Sequence[str] | None) -> list[Part]:
    """Return the LSTM layers of a Keras model."""
    try:
        config = model.get_config()
    except NotImplementedError:  # of a model of the user's own class
        config = {}
    if not nodes(config):
        raise InputError(
            f"source is a {type(model).__name__}, which doesn't say how its layers are called; expected a Sequential "
            "or functional model, or a list of LSTM layers, from bottom to top"
        )
    weights = {layer.name: layer.get_weights() for layer in model.layers}
    lstms = {name: arrays for name, arrays in weights.items() if len(arrays) > 1 and is_lstm_shape(arrays)}
    return select(Content(lstms, {}, {}, config, made_by_old(model)), layers, "the model")


def of_layers(source: Sequence[Any]) -> list[Part]:
    """Return the LSTM layers of a list of Keras layers, each of which takes what the one before it gives."""
    kept = [
        (f"layer {place}", one)
        for place, one in enumerate(source)
        if type(one).__name__ not in NOTHING or one.get_weights()
    ]
    for name, one in kept[:-1]:
        settings = one.get_config()
        if settings.get("layer", {}).get("config", settings).get("return_sequences") is False:
            raise InputError(f"{name} has return_sequences=False; expected True: the next one takes every step")
    return [from_layer(one, name) for name, one in kept]


def check_stack(stack: list[list[Direction]], names: list[str]) -> None:
    """Refuse directions of different sizes, and layers that don't take what the one below gives."""
    for place, (one, name) in enumerate(zip(stack, names, strict=True)):
        hidden = one[0].recurrent_kernel.shape[0]
        width = sum(part.recurrent_kernel.shape[0] for part in stack[place - 1]) if place else one[0].kernel.shape[0]
        for part in one:
            shape = (part.kernel.shape[0], part.recurrent_kernel.shape[0])
            if shape != (width, hidden):
                raise InputError(
                    f"{name} has input and hidden sizes {shape}; expected {(width, hidden)}: both directions have the "
                    "same sizes, and each layer takes the outputs of the one below; say with layers=[...] which of a "
                    "file's layers do"
                )


def write_weights(path: Path, layers: list[list[np.ndarray]]) -> None:
    """Write, whole or not at all, what Keras's ``load_weights`` reads into a Sequential model of LSTM layers."""
    h5py = package("h5py", ".weights.h5", "keras")
    content = io.BytesIO()
    counts: Counter[str] = Counter()
    with h5py.File(content, "w") as file:
        file.create_group("vars")
        for directions in map(split, layers):
            kind = "bidirectional" if len(directions) == 2 else "lstm"
            place = f"layers/{kind}" + (f"_{counts[kind]}" if counts[kind] else "")
            counts[kind] += 1
            file.create_group(f"{place}/vars")
            inner = ("/forward_layer", "/backward_layer") if len(directions) == 2 else ("",)
            for ending, arrays in zip(inner, directions, strict=True):
                file.require_group(f"{place}{ending}/vars")
                for number, array in enumerate(arrays):
                    file[f"{place}{ending}/cell/vars/{number}"] = array
    write_whole(path, content.getvalue())
