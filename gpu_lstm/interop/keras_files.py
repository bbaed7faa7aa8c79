"""Keras files: weights (``.weights.h5``, or the older ``.h5``) and whole models (``.keras``, or the older ``.h5``)."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpu_lstm.errors import InputError
from gpu_lstm.interop.expressible import package
from gpu_lstm.interop.keras_model import Node, chain, gate, nested, nodes

APART = frozenset(
    {
        "input_layer",
        "input",
        "embedding",
        "masking",
        "flatten",
        "global_average_pooling1d",
        "global_max_pooling1d",
        "dropout",
        "gaussian_noise",
        "spatial_dropout1d",
        "gaussian_dropout",
        "alpha_dropout",
        "activity_regularization",
        "identity",
    }
)
"""Kinds of layers that change nothing between two LSTMs, or can't be there."""


class Part(NamedTuple):
    """An LSTM layer of Keras."""

    name: str
    arrays: Any  # as ``get_weights`` gives them
    gate: str = ""  # the recurrent activation; empty where nothing tells
    old: bool = False  # whether Keras 2 or 1 wrote it, whose hard sigmoid is 0.2 z + 0.5


class Content(NamedTuple):
    """What there is to know of a model."""

    weights: dict[str, list[np.ndarray]]  # arrays of the LSTM layers, by path, in the file's order
    own: dict[str, str]  # the names that the layers themselves have, by path
    others: dict[str, list[tuple[int, ...]]]  # shapes of the arrays of the other layers beside them, by name
    config: Any = None  # the model's description
    old: bool = False
    ordered: bool = True  # whether layers are in the order in which the model has them
    branched: bool = False  # whether the model may be another than a Sequential one, by its name


def read_parts(path: Path, layers: Sequence[str] | None) -> list[Part]:
    """Read the LSTM layers of a file, from bottom to top."""
    h5py = package("h5py", "a Keras file", "keras")
    if not path.is_file():
        raise InputError(f"Keras file {path} does not exist")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as whole:
                config, about = (json.loads(whole.read(name)) for name in ("config.json", "metadata.json"))
                inner = io.BytesIO(whole.read("model.weights.h5"))
            with h5py.File(inner, "r") as file:
                content = read_paths(h5py, file)
            content = content._replace(config=config.get("config"), old=is_old(about.get("keras_version")))
        else:
            with h5py.File(path, "r") as file:
                root = file.get("model_weights", file)
                content = read_names(file, root) if "layer_names" in root.attrs else read_paths(h5py, file)
        return select(content, layers, f"Keras file {path}")
    except InputError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(f"Keras file {path} can't be read: {error}") from None


def is_old(version: Any) -> bool:
    """Return whether a version of Keras is one before 3."""
    return text(version or "3").startswith(("1.", "2."))


def text(value: Any) -> str:
    """Return as str what HDF5 may give as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


def numbers(dataset: Any) -> np.ndarray:
    """Read an array of a file; bfloat16, which HDF5 doesn't know, as float32."""
    array: np.ndarray = dataset[...]
    if array.dtype == np.dtype("V2"):
        return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return array


def read_paths(h5py: Any, file: Any) -> Content:
    """Read what ``.weights.h5`` holds: arrays by number, in groups by path, named by the layers' classes."""
    groups: dict[str, dict[int, Any]] = {}

    def visit(name: str, item: Any) -> None:
        place = re.fullmatch(r"(.*?)/?(?:cell|lstm_cell(?:_\d+)?)/vars/(\d+)", name)
        if place and isinstance(item, h5py.Dataset):
            groups.setdefault(name.rsplit("/vars/", 1)[0].removesuffix("/cell"), {})[int(place[2])] = item

    file.visititems(visit)
    weights: dict[str, list[np.ndarray]] = {}
    ends = re.compile("/(for|back)ward_layer$")
    for name in sorted(groups, key=lambda name: (numbered(ends.sub("", name)), "/backward_layer" in name)):
        listed = [groups[name].get(number) for number in range(len(groups[name]))]
        shape: tuple[int, ...] = () if len(listed) < 2 or listed[1] is None else listed[1].shape
        if len(shape) == 2 and shape[1] == 4 * shape[0]:  # no other recurrent layer
            weights.setdefault(ends.sub("", name), []).extend(numbers(one) for one in listed if one is not None)
    own = {layer: text(file[f"{layer}/vars"].attrs.get("name", "")) for layer in weights if f"{layer}/vars" in file}
    others: dict[str, list[Any]] = {}
    for parent in {layer.rpartition("/")[0] for layer in weights}:
        beside = file[parent] if parent else file
        for name in (name for name in beside if f"{parent}/{name}".strip("/") not in weights):
            found = others.setdefault(name, [])
            if isinstance(beside[name], h5py.Group):
                beside[name].visititems(lambda _, item, found=found: found.append(item))
    shaped = {name: [item.shape for item in items if isinstance(item, h5py.Dataset)] for name, items in others.items()}
    name = text(file["vars"].attrs.get("name", "sequential")) if "vars" in file else "sequential"
    return Content(weights, own, shaped, ordered=False, branched=not name.startswith("sequential"))


def read_names(file: Any, root: Any) -> Content:
    """Read what the older ``.h5`` holds: arrays by the names of the layers."""
    weights: dict[str, list[np.ndarray]] = {}
    others: dict[str, list[tuple[int, ...]]] = {}
    for layer in map(text, root.attrs["layer_names"]):
        listed = [text(name) for name in root[layer].attrs["weight_names"]]
        arrays = [numbers(root[layer][name]) for name in listed]
        if any("recurrent_kernel" in name for name in listed) and is_lstm_shape(arrays):
            weights[layer] = arrays
        else:
            others[layer] = [array.shape for array in arrays]
    described = json.loads(text(file.attrs["model_config"])) if "model_config" in file.attrs else {}
    version = root.attrs.get("keras_version", file.attrs.get("keras_version"))
    return Content(weights, {}, others, described.get("config"), is_old(version))


def split(arrays: Sequence[Any]) -> list[Sequence[Any]]:
    """Split arrays by direction: kernel, recurrent_kernel, and a bias or none."""
    second = next((place for place in range(2, len(arrays)) if np.ndim(arrays[place]) == 2), None)
    return [arrays] if second is None else [arrays[:second], arrays[second:]]


def is_lstm_shape(arrays: list[np.ndarray]) -> bool:
    """Return whether the second array is the recurrent kernel of an LSTM."""
    return arrays[1].ndim == 2 and arrays[1].shape[1] == 4 * arrays[1].shape[0]


def select(content: Content, layers: Sequence[str] | None, source: str) -> list[Part]:
    """Return the LSTM layers asked for, or all where it is certain that each takes what the one below gives.

    Raises InputError where the source has no LSTM layer, or none of a name; how they are connected isn't certain; or a
    layer has a setting that we can't express.
    """
    weights = content.weights
    if not weights:
        raise InputError(
            f"{source} has no LSTM layer; expected groups like layers/lstm/cell/vars or model_weights/lstm"
        )
    model, inner = nodes(content.config or []), list(nested(content.config or []))
    described = {path: node for node in inner if (path := find(content, node)) is not None}
    own = {path: described[path].name if path in described else content.own.get(path, "") for path in weights}
    listed = ", ".join(path + (f" ({own[path]})" if own[path] not in ("", path) else "") for path in weights)
    ask = "say with layers=[...] which of them make one LSTM"
    if layers is not None:
        chosen = [one for layer in layers for one in named(layer, own, f"{source}: {listed}")]
        if not chosen:
            raise InputError(f"layers is empty; expected some of those of {source}: {listed}")
    elif model:
        try:
            found = chain(model, ask)
        except InputError as error:
            raise InputError(f"{source} has the LSTM layers {listed}: {error}") from None
        chosen = [find(content, node) or node.name for node in found]
        left = [path for path in weights if path not in chosen]
        if left := left or [node.path for node in inner if node.is_lstm and node not in model]:
            top = next((node for node in model if find(content, node) == left[0]), None)
            what = f"a {top.kind}, not of Keras's own LSTM" if top else "within another layer"
            raise InputError(f"{source} has the LSTM layers {listed}; {left[0]} is {what}; {ask}")
    else:
        if (why := doubt(content)) and len(weights) > 1:
            raise InputError(f"{source} has the LSTM layers {listed}; {ask}: {why}")
        chosen = list(weights)
    if not model:
        return [Part(path, weights[path], old=content.old) for path in chosen]
    if unknown := [path for path in chosen if path not in described]:
        raise InputError(f"{source} has {unknown[0]} in its weights or its description alone; expected it in both")
    return [part(content, path, described[path]) for path in chosen]


def part(content: Content, path: str, node: Node) -> Part:
    """Return an LSTM layer of a model that is described, its settings checked."""
    found = gate({"class_name": node.kind, "config": node.config}, node.name)
    first: Mapping[str, Any] = node.config["layer"]["config"] if "layer" in node.config else node.config
    units = (first["cell"]["config"] if "cell" in first else first)["units"]
    if len(content.weights[path][1]) != units:
        raise InputError(f"{node.name} has weights of {len(content.weights[path][1])} units; expected {units}")
    return Part(node.name, content.weights[path], found, content.old)


def find(content: Content, node: Node) -> str | None:
    """Return where the weights of a described layer are: under its own name, or by its class and number."""
    if node.name in content.weights:
        return node.name
    paths = (node.path, node.path.replace("layers/", "_layer_checkpoint_dependencies/"))
    return next((path for path in paths if path in content.weights), None)


def named(layer: str, own: Mapping[str, str], known: str) -> list[str]:
    """Return the path of a layer that was asked for by path, the last part of it, or its own name."""
    if layer in own:
        return [layer]
    fitting = [path for path, name in own.items() if layer in (path.rsplit("/", 1)[-1], name)]
    if len(fitting) != 1:
        raise InputError(f"layers has {layer!r}; expected one of those of {known}")
    return fitting


def doubt(content: Content) -> str:
    """Return why the LSTM layers of a file of weights may be no stack; "" if nothing else is possible."""
    paths, others = list(content.weights), content.others
    if not content.ordered and len({numbered(path)[0] for path in paths}) > 1:
        return "their order is not known"
    if not content.ordered and not re.search(r"(^|/)(layers|_layer_checkpoint_dependencies|cells)/[^/]+$", paths[0]):
        return "how they are called is not known"
    inputs = [arrays[0].shape[0] for arrays in content.weights.values()]
    outputs = [sum(len(one[1]) for one in split(arrays)) for arrays in content.weights.values()]
    if inputs[1:] != outputs[:-1]:
        return f"they take {inputs} inputs and give {outputs} outputs"
    kinds = {name: numbered(name)[0] for name in others}
    dense = [others[name][0] for name, kind in kinds.items() if kind in ("dense", "time_distributed") and others[name]]
    for below in outputs[:-1]:
        if any(one[0] == below for one in dense) and any(one[-1] == below for one in dense):
            return "a Dense may lie between them"
    free = {*APART, "vars", *(("dense", "time_distributed") if all(len(one) == 2 for one in dense) else ())}
    if unknown := [name for name, kind in kinds.items() if kind not in free]:
        return f"{', '.join(unknown)} may lie between them"
    branches = content.branched or any(kind in ("input_layer", "input") for kind in kinds.values())
    for place, width in enumerate(inputs[1:], 1):
        if branches and [inputs[0], *outputs[:place], *outputs[place + 1 :]].count(width) > 1:
            return f"{paths[place]} may take what another one gives"
    return ""


def numbered(name: str) -> tuple[str, int]:
    """Split ``"layers/lstm_2"`` into ``("layers/lstm", 2)``: Keras numbers layers of a kind."""
    match = re.fullmatch(r"(.*?)(?:_(\d+))?", name)
    assert match
    return match[1], int(match[2] or 0)
