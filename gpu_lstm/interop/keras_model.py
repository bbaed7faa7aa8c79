"""What a Keras model says of itself: the settings of its LSTM layers, and what lies between them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from gpu_lstm.errors import InputError

NOTHING = frozenset(
    {
        "Dropout",
        "SpatialDropout1D",
        "GaussianNoise",
        "GaussianDropout",
        "AlphaDropout",
        "ActivityRegularization",
        "Identity",
    }
)
"""Layers that hand on what they take, in evaluation."""

SETTINGS = re.compile(
    r"name|trainable|dtype|autocast|batch_(input_)?shape|input_(shape|dim|length)|return_(sequences|state)|go_backwards|"
    r"stateful|unroll|zero_output_for_mask|time_major|units|activation|recurrent_activation|use_bias|unit_forget_bias|"
    r"(kernel|recurrent|bias|activity)_(initializer|regularizer|constraint)|(recurrent_)?dropout|seed|implementation|"
    r"use_cudnn|cell"
)
"""Settings of a Keras LSTM that are checked below, or that change nothing of what it computes in evaluation."""


class Node(NamedTuple):
    """A layer of a model."""

    # its own name, and its class
    name: str
    kind: str
    config: Mapping[str, Any]
    path: str  # where a ``.weights.h5`` file has it
    calls: list[list[str]]  # names of the layers whose outputs it takes, each time that it is called

    @property
    def is_lstm(self) -> bool:
        """Whether it is an LSTM, or one within Bidirectional or RNN."""
        return is_lstm({"class_name": self.kind, "config": self.config})


def is_lstm(layer: Mapping[str, Any]) -> bool:
    """Return whether a layer, as Keras describes it, is an LSTM, or one within Bidirectional or RNN.

    A class of somebody's own is none, whatever its name: it may compute something else.
    """
    kind, config = own_kind(layer), layer["config"]
    if kind == "Bidirectional":
        return is_lstm(config["layer"])
    return bool(kind == "LSTM" or (kind == "RNN" and own_kind(config["cell"]) == "LSTMCell"))


def own_kind(layer: Mapping[str, Any]) -> str:
    """Return the class of a layer as Keras describes it; another word where it isn't Keras's own."""
    module, kind = layer.get("module") or layer.get("registered_name") or "keras", layer["class_name"]
    return str(kind if module.partition(".")[0] in ("keras", "tf_keras", "tensorflow") else f"custom {kind}")


def nodes(config: Any) -> list[Node]:
    """Return the layers of a model, from its description; none where it doesn't list them."""
    listed = config.get("layers", []) if isinstance(config, Mapping) else config
    counts: Counter[str] = Counter()
    found: list[Node] = []
    for layer in listed:
        kind, own = layer["class_name"], layer["config"]
        stem = re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z]+)", r"\1_\2", kind)).lower()
        path = f"layers/{stem}" + (f"_{counts[stem]}" if counts[stem] else "")
        counts[stem] += 1
        if "inbound_nodes" in layer:
            calls = [list(sources(call)) for call in layer["inbound_nodes"]]
        else:  # one after the other
            calls = [[found[-1].name]] if found else []
        found.append(Node(str(own.get("name") or layer.get("name")), own_kind(layer), own, path, calls))
    return found


def nested(config: Any) -> Iterator[Node]:
    """Yield the layers of a model and those within them, with the paths of a ``.weights.h5`` file."""
    for node in nodes(config):
        yield node
        if "layers" in node.config:
            inner = nested(node.config)
        elif "layer" in node.config and not node.is_lstm:
            inner = (one._replace(path="layer") for one in nodes([node.config["layer"]]))
        else:
            continue
        yield from (one._replace(path=f"{node.path}/{one.path}") for one in inner)


def sources(call: Any) -> Iterator[str]:
    """Yield names of the layers that a call takes arrays of, whatever Keras described it; masks are left out."""
    if isinstance(call, Mapping):
        if "keras_history" in call:
            yield str(call["keras_history"][0])
        for key, value in call.items():
            if key not in ("mask", "keras_history"):
                yield from sources(value)
    elif isinstance(call, list | tuple):
        if len(call) in (3, 4) and isinstance(call[0], str) and isinstance(call[1], int):
            yield call[0]
            call = call[3:]
        for value in call:
            yield from sources(value)


def chain(model: list[Node], ask: str) -> list[Node]:
    """Return the LSTM layers of a model, from bottom to top, if nothing else decides what the last one gives.

    Raises InputError where something lies between two of them, one is given more than its input, or they are no chain.
    """
    by_name = {node.name: node for node in model}
    above: dict[str | None, list[Node]] = {}
    for node in filter(lambda one: one.is_lstm, model):
        for call in node.calls or [[]]:
            if len(call) > 1:
                raise InputError(
                    f"{node.name} takes {', '.join(call)}; expected x alone: {ask}, and give forward an initial state"
                )
            below = by_name[call[0]] if call else None
            while below is not None and below.kind in NOTHING:
                below = by_name[below.calls[0][0]] if below.calls else None
            if below is not None and not below.is_lstm:
                if lower := [one for one in ancestors(below, by_name) if by_name[one].is_lstm]:
                    raise InputError(
                        f"between {lower[0]} and {node.name} lies {below.name}, a {below.kind}; expected nothing that "
                        f"computes: {ask}"
                    )
                below = None
            others = above.setdefault(below and below.name, [])
            if node not in others:
                others.append(node)
    found: list[Node] = []
    while nexts := above.pop(found[-1].name if found else None, []):
        if len(nexts) > 1:
            raise InputError(f"{' and '.join(one.name for one in nexts)} are side by side; {ask}")
        found += nexts
    return found


def ancestors(node: Node, by_name: Mapping[str, Node]) -> list[str]:
    """Return the names of all layers that a layer depends on, the nearest first."""
    seen: list[str] = []
    waiting = [node]
    while waiting:
        for name in (name for call in waiting.pop(0).calls for name in call):
            if name not in seen:
                seen.append(name)
                waiting.append(by_name[name])
    return seen


def gate(layer: Mapping[str, Any], name: str) -> str:
    """Return the recurrent activation of a layer as Keras describes it, if it is an LSTM and we compute the same.

    Raises InputError where it is something else, or a setting is one that we can't express; the message names it.
    """
    config = layer["config"]
    if own_kind(layer) != "Bidirectional":
        return direction_gate(layer, name, backwards=False)
    if config.get("merge_mode") != "concat":
        raise InputError(f"{name} has merge_mode={config.get('merge_mode')!r}; expected 'concat'")
    forward = config["layer"]
    backward = config.get("backward_layer") or {**forward, "config": {**forward["config"], "go_backwards": True}}
    gates = [
        direction_gate(forward, f"{name}'s forward layer", backwards=False),
        direction_gate(backward, f"{name}'s backward layer", backwards=True),
    ]
    if gates[0] != gates[1]:
        raise InputError(f"{name} has the recurrent activations {' and '.join(gates)}; expected the same in both")
    return gates[0]


def direction_gate(layer: Mapping[str, Any], name: str, backwards: bool) -> str:
    """Return what `gate` does of one direction, which runs backwards or doesn't."""
    config, kind = layer["config"], own_kind(layer)
    if kind == "RNN":
        kind += f" of {own_kind(config['cell'])}"
        config = {**config, **config["cell"]["config"]}
    if not is_lstm(layer):
        raise InputError(f"{name} is a {kind}; expected Keras's own LSTM; the weights alone are get_weights()")
    wanted = {"activation": ("tanh",), "recurrent_activation": ("sigmoid", "hard_sigmoid")}
    for key, values in wanted.items():
        if config.get(key) not in values:
            raise InputError(f"{name} has {key}={config.get(key)!r}; expected {' or '.join(values)}")
    if bool(config.get("go_backwards", backwards)) != backwards:
        raise InputError(
            f"{name} has go_backwards={not backwards}; expected {backwards}: its outputs come in reversed order, so "
            "reverse x in time and use the weights of get_weights()"
        )
    if config.get("time_major"):
        raise InputError(
            f"{name} has time_major=True; expected False: use the weights of get_weights() with batch_first=False"
        )
    if unknown := [key for key, value in config.items() if value and not SETTINGS.fullmatch(key)]:
        raise InputError(f"{name} has {unknown[0]}={config[unknown[0]]!r}; expected settings of Keras's LSTM alone")
    return str(config["recurrent_activation"])
