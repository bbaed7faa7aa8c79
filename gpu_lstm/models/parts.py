"""The parts of a composition: layers by name, how they go together, and their description in plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gpu_lstm.backend import Backend
from gpu_lstm.errors import InputError
from gpu_lstm.layers import LSTM, Dropout, Embedding, Layer, Linear, Reversed, Stack
from gpu_lstm.layers.described import described
from gpu_lstm.layers.pooling import Concat, Pool

KINDS: dict[str, Any] = {
    kind.__name__: kind for kind in (LSTM, Stack, Reversed, Linear, Embedding, Dropout, Pool, Concat)
}
"""Layers that a description can name."""
RECURRENT = (LSTM, Stack, Reversed)


class Part(NamedTuple):
    """A layer of a composition: its name, and the names of the parts or inputs that it takes."""

    name: str
    layer: Layer
    takes: tuple[str, ...]


class Flow(NamedTuple):
    """What a part gives: vectors of some width, at each step or not, read in so many directions; None: unknown."""

    width: int | None = None
    steps: bool | None = None
    directions: int = 1

    def __str__(self) -> str:
        rows = {True: "T, B", False: "B", None: "..., B"}[self.steps]
        return f"({rows}, {self.width or 'D'})"


def plain(layer: Layer) -> dict[str, Any]:
    """A layer's description in plain JSON values."""

    def of(value: Any) -> Any:
        if isinstance(value, Layer):
            return plain(value)
        return [of(one) for one in value] if isinstance(value, list | tuple) else value

    return {"kind": type(layer).__name__} | {name: of(value) for name, value in described(layer).items()}


def unknown_layers(config: Mapping[str, Any]) -> list[str]:
    """Names of layers of a user's own in a composition's description, which nothing can be made of."""
    kinds = [part["layer"]["kind"] for part in config.get("parts", []) if "layer" in part]
    return [kind for kind in kinds if kind not in KINDS]


def part_of(about: Mapping[str, Any], before: Sequence[Part], backend: Backend, dtype: str, tier: str) -> Part:
    """The part of a description.

    Raises InputError, KeyError, TypeError or ValueError where it is damaged.
    """
    same = next((part.layer for part in before if part.name == about.get("same")), None)
    layer = same or _layer_of(about["layer"], backend, dtype, tier)
    return Part(str(about["name"]), layer, tuple(map(str, about["takes"])))


def _layer_of(about: Mapping[str, Any], backend: Backend, dtype: str, tier: str) -> Any:
    arguments = dict(about)
    kind = KINDS.get(arguments.pop("kind"))
    if kind is None:
        known = ", ".join(KINDS)
        raise InputError(f"layer {about['kind']!r} is none of {known}; compose the model anew and assign its params")
    if kind is Stack:
        layers = [_layer_of(one, backend, dtype, tier) for one in arguments.pop("layers")]
        return Stack(layers, **arguments)
    if kind is Reversed:
        return Reversed(_layer_of(arguments["lstm"], backend, dtype, tier))
    return kind(**arguments, backend=backend, dtype=dtype, **({"tier": tier} if kind is LSTM else {}))


def moved(layer: Layer, where: Layer) -> Layer:
    """A layer without parameters, on the backend and in the dtype of another one."""
    if type(layer).__name__ not in KINDS or (layer.backend is where.backend and layer.dtype == where.dtype):
        return layer
    return type(layer)(**described(layer), backend=where.backend, dtype=where.dtype)


def first_lstm(parts: Sequence[Part]) -> LSTM:
    """The first LSTM of a composition; raises InputError where there is none."""
    for part in parts:
        layer: Any = part.layer
        while isinstance(layer, Stack | Reversed):
            layer = layer.layers[0] if isinstance(layer, Stack) else layer.lstm
        if isinstance(layer, LSTM):
            return layer
    raise InputError(f"parts are {', '.join(part.name for part in parts) or 'none'}; expected an LSTM among them")


def check_starts(parts: Sequence[Part]) -> None:
    """Refuse two layers that start with the same numbers: what one learns, the other would."""
    seen: list[Part] = []
    for part in parts:
        weights = {name: array for name, array in part.layer.params.items() if "weight" in name}
        for other in seen:
            pairs = [(array, other.layer.params.get(name)) for name, array in weights.items()]
            every = part.layer.backend.xp.all
            same = all(b is not None and a.shape == b.shape and bool(every(a == b)) for a, b in pairs)
            if pairs and same and part.layer is not other.layer:
                raise InputError(f"{part.name} starts with the numbers of {other.name}; give one of them another seed")
        seen.append(part)


def flows(parts: Sequence[Part], lstm: LSTM) -> dict[str, Flow]:
    """What each part gives.

    Raises InputError where two parts don't go together.
    """
    names = [part.name for part in parts]
    found: dict[str, Flow] = {}
    for place, part in enumerate(parts):
        layer = part.layer
        for name in part.takes:
            if name in names[place:]:
                raise InputError(f"{part.name} takes {name}, which comes later; expected an earlier part or an input")
        if (layer.backend.name, layer.dtype) != (lstm.backend.name, lstm.dtype):
            told, wanted = (f"{one.dtype} on {one.backend.name}" for one in (layer, lstm))
            raise InputError(f"{part.name} computes in {told}; expected {wanted}, as the first LSTM does")
        found[part.name] = _flow(part, [found.get(name, Flow()) for name in part.takes])
    unread = set(names[:-1]) - {name for part in parts for name in part.takes}
    if unread or len(set(names)) < len(names):
        raise InputError(f"{', '.join(sorted(unread)) or names}: expected each part once, and all but the last taken")
    return found


def _flow(part: Part, given: list[Flow]) -> Flow:
    """What a part gives; refuses what it can't take."""
    layer: Any = part.layer
    first, source = given[0], part.takes[0]
    if type(layer).__name__ not in KINDS:  # one of a user's own
        return Flow()
    if isinstance(layer, Concat):
        widths, steps = [flow.width for flow in given], {flow.steps for flow in given}
        any_steps = True if True in steps else None if None in steps else False
        return Flow(None if None in widths else sum(w or 0 for w in widths), any_steps)
    if len(part.takes) != 1:
        raise InputError(f"{part.name} takes {', '.join(part.takes)}; expected one thing (Concat makes one of several)")
    expected = getattr(layer, "input_size", None)
    if expected is not None and first.width not in (None, expected):
        raise InputError(f"{part.name} has input_size={expected}; expected {first.width}, the width of {source}")
    if isinstance(layer, (*RECURRENT, Pool)) and first.steps is False:
        raise InputError(f"{part.name} takes {source}, which has no steps; expected sequences")
    if isinstance(layer, RECURRENT):
        return _flow_of_lstm(part)
    if isinstance(layer, Pool):
        if layer.how == "last" and layer.directions != first.directions:
            wanted = f"directions={first.directions}, as {source} has"
            raise InputError(f"{part.name} has directions={layer.directions}; expected {wanted}")
        return Flow(first.width, False)
    if isinstance(layer, Dropout):
        return first
    return Flow(getattr(layer, "output_size", getattr(layer, "embedding_dim", None)), first.steps)


def _flow_of_lstm(part: Part) -> Flow:
    """What one or several LSTMs give, none of which may have another order of axes or a second output."""
    layer: Any = part.layer
    inner = [getattr(one, "lstm", one) for one in (layer.layers if isinstance(layer, Stack) else [layer])]
    for lstm in inner:
        if lstm.batch_first or lstm.options.cells:
            raise InputError(f"{part.name} has batch_first or cells; expected neither: a composition is time-major")
    last = inner[-1]
    return Flow(last.output_size * last.num_directions, True, last.num_directions)
