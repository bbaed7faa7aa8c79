"""Models of one's own: layers by name, each with what it takes; forward in that order, backward from the end.

::

    model = compose(lstm=LSTM(3, 32), last=Pool("last"), head=Linear(32, 1))
    model = compose(lstm=LSTM(3, 32), last=Pool("last"), both=(Concat(), "last", "static"), head=Linear(36, 1))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from gpu_lstm import ops
from gpu_lstm.backend import Array, Backend, choose
from gpu_lstm.data.samples import Padded, Samples, time_major
from gpu_lstm.errors import InputError
from gpu_lstm.layers import Dropout, Embedding, Layer, Linear, Params, Tape
from gpu_lstm.layers.assigned import fitting, whole
from gpu_lstm.layers.base import training_seed
from gpu_lstm.layers.checks import check_size
from gpu_lstm.layers.described import call
from gpu_lstm.layers.pooling import Pool
from gpu_lstm.losses import Loss, huber, mean_absolute, mean_squared, softmax_cross_entropy
from gpu_lstm.models.base import Model
from gpu_lstm.models.parts import RECURRENT, Part, check_starts, first_lstm, flows, moved, part_of, plain

LOSSES: dict[str, Loss[Any]] = {
    "mse": mean_squared,
    "mae": mean_absolute,
    "huber": huber,
    "cross_entropy": softmax_cross_entropy,
}
"""Losses by name."""
Criterion = str | Callable[[Array, Array], tuple[Array, Array]]
"""A loss: a name of `LOSSES`, or what gives of a prediction and a target the mean loss and its gradient."""


class Tapes(NamedTuple):
    """What a composition's forward hands to its backward: a tape a part, and the steps of its output's sequences."""

    parts: list[Tape]
    lengths: np.ndarray | None


def compose(**parts: Layer | tuple[Any, ...]) -> Composed:
    """Return a model of layers, given by name in the order in which they run.

    Parameters
    ----------
    **parts : Layer, or (Layer, name, ...)
        A layer alone takes what the part before it gives, the first one the model's input ``x``. Names behind a layer
        say what it takes instead: earlier parts, and any other name is an input of the model. The last part is what the
        model predicts. The same layer under two names is one, with one set of parameters.

    Raises
    ------
    InputError
        No part is an LSTM, or two parts don't go together in width, backend or dtype; a part takes what comes later, or
        nobody takes what it gives; two layers of the same sizes start with the same numbers, for want of a seed each.

    Examples
    --------
    >>> model = compose(lstm=LSTM(2, 8, backend="numpy"), last=Pool("last"), head=Linear(8, 1, backend="numpy"))
    >>> y, tapes = model.forward(np.ones((20, 3, 2), dtype="float32"))  # (T, B, D)
    >>> y.shape, list(model.params)[0]
    ((3, 1), 'lstm.weight_ih_l0')
    """
    made: list[Part] = []
    for name, given in parts.items():
        layer, *takes = given if isinstance(given, tuple) and given else (given,)
        if not isinstance(layer, Layer):
            raise InputError(f"{name} is a {type(layer).__name__}; expected a layer, or a layer and what it takes")
        made.append(Part(name, layer, tuple(takes) or ((made[-1].name,) if made else ("x",))))
    where = next((part.layer for part in made if part.layer.params), None)
    if where is not None:  # what has no parameters goes where the others are
        made = [part if part.layer.params else part._replace(layer=moved(part.layer, where)) for part in made]
    check_starts(made)
    return Composed(made)


class Composed(Model):
    """A model composed of layers, see `compose`.

    Parameters
    ----------
    parts : list of Part, or of their descriptions as `config` has them
    backend, dtype, tier
        Of layers that are made of descriptions.

    Attributes
    ----------
    parts : tuple of Part
    inputs : tuple of str
        Names of the inputs, in the order in which they are first taken.
    tokens : frozenset of str
        The inputs that an `Embedding` takes: whole numbers.
    """

    kind: ClassVar[str] = "composed"

    def __init__(
        self,
        parts: Sequence[Part | Mapping[str, Any]],
        *,
        backend: str | Backend | None = None,
        dtype: str = "float32",
        tier: str = "auto",
    ):
        made: list[Part] = []
        for part in parts:
            made.append(part if isinstance(part, Part) else part_of(part, made, choose(backend), dtype, tier))
        self.parts = tuple(made)
        self.lstm = first_lstm(self.parts)
        names, taken = [part.name for part in self.parts], [name for part in self.parts for name in part.takes]
        self.inputs = tuple(dict.fromkeys(name for name in taken if name not in names))
        self.tokens = frozenset(
            name
            for part in self.parts
            for name in part.takes
            if isinstance(part.layer, Embedding) and name not in names
        )
        self.flows = flows(self.parts, self.lstm)
        self._owners: dict[int, str] = {}  # of a layer that is there twice the first name
        for part in self.parts:
            self._owners.setdefault(id(part.layer), part.name)
        owned = {part.name: part.layer for part in self.parts if self._owners[id(part.layer)] == part.name}
        super().__init__(owned, {"parts": [self._describe(part) for part in self.parts]})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._owners = {id(self.layers[name]): name for name in self.layers}  # layers are others now

    def __repr__(self) -> str:
        lines = [f"Composed: {self.count():,} parameters, {self.dtype} on {self.backend.name}"]
        for part in self.parts:
            count = sum(int(array.size) for array in part.layer.params.values())
            lines.append(
                f"  {part.name}: {call(part.layer)}, {' + '.join(part.takes)} -> {self.flows[part.name]}"
                + (f", {count:,}" if count else "")
            )
        return "\n".join(lines)

    def forward(
        self, inputs: Any, seed: int | tuple[int, ...] | None = None, keep: bool = True, *, guard: bool = True
    ) -> tuple[Array, Tapes]:
        """Run all parts.

        Parameters
        ----------
        inputs : array, `Padded`, or a mapping of names to such
            Of sequences (T, B, D), or tokens (T, B); of sequences as a whole (B, D), or (B,). Converted to the model's
            dtype and backend where that is harmless. One that isn't a mapping is the model's only input.
        seed : int or tuple of int, optional
            Given while training: seeds dropout and the like.
        keep : bool
            False for inference: nothing is saved for `backward`.
        guard : bool
            As of the layers.

        Returns
        -------
        y : (T, B, D) or (B, D)
            Of the last part.
        tapes : Tapes
            For `backward`.

        Raises
        ------
        InputError
            An input is missing or one too many, or a part refuses what it is given; the message names it.
        """
        drawn = training_seed(seed)
        values = self._read(inputs)
        tapes = []
        for place, part in enumerate(self.parts):
            arrays = [values[name][0] for name in part.takes]
            known = [found for name in part.takes if (found := values[name][1]) is not None]
            lengths = known[0] if known else None
            if any(list(other) != list(known[0]) for other in known):
                raise InputError(f"{part.name} takes sequences of other lengths at once; expected the same of each")
            where = None if drawn is None else (*drawn, place)
            try:
                y, tape = _forward(part.layer, arrays, lengths, where, keep, guard)
            except InputError as error:
                raise InputError(f"{part.name}, which takes {' and '.join(part.takes)}: {error}") from None
            values[part.name] = y, lengths if y.ndim == 3 else None
            tapes.append(tape)
        y, lengths = values[self.parts[-1].name]
        return y, Tapes(tapes, lengths)

    def backward(self, tapes: Tapes, dy: Array) -> tuple[dict[str, Array], Params]:
        """Backpropagate from `tapes` and dy, like y, through all parts.

        Returns
        -------
        dinputs : dict
            The gradient of each input; tokens have none.
        gradients : dict
            Of every parameter, as in `params`: ``lstm.weight_hh_l0``.
        """
        arriving: dict[str, Array] = {self.parts[-1].name: dy}
        found: Params = {}
        for part, tape in zip(reversed(self.parts), reversed(tapes.parts), strict=True):
            dxs, gradients = _backward(part.layer, tape, arriving.pop(part.name))
            for name, dx in zip(part.takes, dxs, strict=True):
                if dx is not None:
                    arriving[name] = arriving[name] + dx if name in arriving else dx
            owner = self._owners[id(part.layer)]
            for name, gradient in gradients.items():
                name = f"{owner}.{name}"
                found[name] = found[name] + gradient if name in found else gradient
        return arriving, {name: found[name] for name in self.params}

    def loss(
        self, inputs: Any, target: Any, loss: Criterion = "mse", seed: int | tuple[int, ...] | None = None
    ) -> tuple[Array, Params]:
        """Mean loss and gradients of a batch.

        Parameters
        ----------
        inputs
            As of `forward`.
        target : like y, or for ``"cross_entropy"`` whole numbers like y without its last axis
            Where y has one number, the last axis may be missing. Of sequences of different lengths only the own steps
            of each count; the target may be `Padded`, too.
        loss : {"mse", "mae", "huber", "cross_entropy"}, or callable
            A callable gets prediction and target, arrays of the backend, and gives the mean loss and its gradient;
            of sequences of different lengths it gets the rows that count, (N, D).
        seed
            As of `forward`.
        """
        y, tapes = self.forward(inputs, seed, guard=False)
        prediction, rows = self._counted(y, tapes.lengths)
        value, dprediction = self._criterion(loss, prediction, self._target(loss, target, y, tapes.lengths))
        dprediction = self.scaled(dprediction)
        if rows is not None:
            dy = self.backend.xp.zeros((y.shape[0] * y.shape[1], y.shape[2]), dtype=dprediction.dtype)
            ops.of(self.backend).scatter_add(dy, rows, dprediction)
            dprediction = self.backend.xp.reshape(dy, y.shape)
        return value, self.backward(tapes, self.backend.xp.astype(dprediction, y.dtype, copy=False))[1]

    def evaluate(self, inputs: Any, target: Any, loss: Criterion = "mse") -> tuple[float, np.ndarray, np.ndarray]:
        """Mean loss of a batch of `inputs`, without dropout, and prediction and target of all that counts, on the host.

        Arguments are as of `loss`.
        """
        y, tapes = self.forward(inputs, keep=False, guard=False)
        prediction, _ = self._counted(y, tapes.lengths)
        aim = self._target(loss, target, y, tapes.lengths)
        value, _ = self._criterion(loss, prediction, aim)
        to_numpy = self.backend.to_numpy
        return self.backend.read(value)[0], to_numpy(prediction), to_numpy(aim)

    def samples(self, x: Any, y: Any = None) -> Samples:
        """Data x and y, sample first: arrays, lists of sequences, or mappings of names to such; see `Samples`."""
        return Samples.of(x if isinstance(x, Mapping) else {self.inputs[0]: x}, y)

    def arranged(self, samples: Samples) -> dict[str, Any]:
        """Inputs as `forward` takes them, of a batch of samples."""
        least = {name: 1 if name in self.tokens else 2 for name in samples.inputs}
        return {name: time_major(part, np.ndim(part[0]) >= least[name]) for name, part in samples.inputs.items()}

    def predict(self, x: Any, batch_size: int = 256) -> np.ndarray | list[np.ndarray]:
        """What the model says of samples, on the host.

        Parameters
        ----------
        x : array (N, T, D), list of N sequences (T_n, D), or a mapping of the inputs' names to such
            The first axis is the sample's; tokens are without the last axis, what has no steps without T.
        batch_size : int

        Returns
        -------
        (N, K), or (N, T, K) where the last part says something at each step; a list of (T_n, K) where lengths differ
        """
        samples, found = self.samples(x), []
        for start in range(0, len(samples), check_size("batch_size", batch_size)):
            inputs = self.arranged(samples.take(range(start, min(start + batch_size, len(samples)))))
            y, tapes = self.forward(inputs, keep=False, guard=False)
            host = self.backend.to_numpy(self.backend.asarray(y, self.param_dtype))
            host = np.swapaxes(host, 0, 1) if host.ndim == 3 else host
            found += (
                list(host) if tapes.lengths is None else [one[:n] for one, n in zip(host, tapes.lengths, strict=True)]
            )
        return np.stack(found) if len({one.shape for one in found}) == 1 else found

    def _criterion(self, loss: Criterion, prediction: Array, target: Array) -> tuple[Array, Array]:
        known = _known(loss)
        return loss(prediction, target) if known is None else known(self.backend, prediction, target)  # type: ignore[operator]

    def _read(self, inputs: Any) -> dict[str, tuple[Array, np.ndarray | None]]:
        """Inputs by name, on the backend, with the lengths of their sequences."""
        named = inputs if isinstance(inputs, Mapping) else {self.inputs[0]: inputs}
        if set(named) != set(self.inputs):
            told = ", ".join(map(str, named)) if isinstance(inputs, Mapping) else "one without a name"
            raise InputError(f"inputs has {told}; expected {', '.join(self.inputs)}")
        read = {}
        for name in self.inputs:
            value, lengths = named[name], None
            if isinstance(value, Padded):
                value, lengths = value
            if name in self.tokens:
                array = whole(self.backend, name, value)
            else:
                array = fitting(self.backend, self.dtype, name, value)
            read[name] = array, lengths
        return read

    def _counted(self, y: Array, lengths: np.ndarray | None) -> tuple[Array, Array | None]:
        """Of the output what counts, in the dtype of losses; where that isn't all, rows of it, and which they are."""
        y = self.backend.asarray(y, self.param_dtype)
        if lengths is None:
            return y, None
        rows = self.backend.asarray(_own_steps(lengths, y.shape[0]))
        flat = self.backend.xp.reshape(y, (-1, y.shape[2]))
        return ops.of(self.backend).take_rows(flat, rows, checked=True), rows

    def _target(self, loss: Criterion, target: Any, y: Array, lengths: np.ndarray | None) -> Array:
        """The target of what counts, as an array of the backend; a last axis of one number is added where it lacks."""
        backend, known = self.backend, _known(loss)
        if isinstance(target, Padded):
            target, steps = target
            if lengths is None or list(steps) != list(lengths):
                raise InputError("target has other lengths than the sequences that it is of")
        if lengths is not None:
            target = np.asarray(target) if isinstance(target, list | tuple) else target
            if tuple(target.shape[:2]) != tuple(y.shape[:2]):
                raise InputError(f"target has shape {tuple(target.shape)}; expected {tuple(y.shape[:2])}, and more")
            rows = _own_steps(lengths, y.shape[0])
            flat, xp = (-1, *target.shape[2:]), backend.xp
            if isinstance(target, np.ndarray):
                target = target.reshape(flat)[rows]
            else:
                target = xp.take(xp.reshape(target, flat), backend.asarray(rows), axis=0)
        kind = getattr(getattr(target, "dtype", None), "kind", "")
        if (known is None and kind in ("i", "u")) or (known is not None and known.of_classes):
            return whole(backend, "target", target)
        target = fitting(backend, self.param_dtype, "target", target)
        lacks_axis = y.shape[-1] == 1 and target.ndim == (y.ndim if lengths is None else 2) - 1
        return backend.xp.reshape(target, (*target.shape, 1)) if lacks_axis else target

    def _describe(self, part: Part) -> dict[str, Any]:
        about: dict[str, Any] = {"name": part.name, "takes": list(part.takes)}
        owner = self._owners[id(part.layer)]
        return about | ({"layer": plain(part.layer)} if owner == part.name else {"same": owner})


def _known(loss: Criterion) -> Loss[Any] | None:
    """The loss of that name; None for a function."""
    if callable(loss):
        return None
    if not isinstance(loss, str) or loss not in LOSSES:
        raise InputError(f"loss is {loss!r}; expected one of {', '.join(LOSSES)}, or a function")
    return LOSSES[loss]


def _own_steps(lengths: Any, num_steps: int) -> np.ndarray:
    """Places (t, b), counted through all rows, of the steps that sequences have."""
    return np.flatnonzero(np.arange(num_steps)[:, None] < np.asarray(lengths)[None, :])


def _forward(
    layer: Any, arrays: list[Array], lengths: Any, seed: tuple[int, ...] | None, keep: bool, guard: bool
) -> tuple[Array, Tape]:
    """Output and tape of any layer; one of a user's own takes arrays and gives these two."""
    more: tuple[Any, ...] = ()
    named = {"guard": guard} if isinstance(layer, (*RECURRENT, Linear, Embedding)) else {}
    if isinstance(layer, RECURRENT):
        more = (None, lengths, seed, keep)
    elif isinstance(layer, Linear):
        more = (keep,)
    elif isinstance(layer, Dropout):
        more = (seed,)
    elif isinstance(layer, Pool):
        more = (lengths, keep)
    y, *_, tape = layer.forward(*arrays, *more, **named)
    return y, tape


def _backward(layer: Any, tape: Tape, dy: Array) -> tuple[Sequence[Array | None], Params]:
    """Gradients of all that a layer took, and of its parameters."""
    dx, *_, gradients = layer.backward(tape, dy)
    return dx if isinstance(dx, list | tuple) else [dx], gradients
