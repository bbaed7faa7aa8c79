"""Batches for training, of data as they come: arrays, lists of sequences, functions, anything that can be run through.

Here the first axis is the sample's, as people keep data; `time_major` makes of a batch what layers take.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gpu_lstm.data.batches import ByLength, ragged
from gpu_lstm.errors import InputError

Column = np.ndarray | list[np.ndarray]
"""Something of each sample: an array (N, ...), or a list of N sequences (T_n, ...) of different lengths."""


class Padded(NamedTuple):
    """Sequences of different lengths in one array: values (T, B, ...) and lengths (B,), whole numbers."""

    values: Any
    lengths: Any


def column(name: str, value: Any) -> Column:
    """Data of samples, one by one along the first axis; a list of arrays of one shape is one array.

    Raises InputError where they are no numbers, or sequences that differ in more than their length.
    """
    if isinstance(value, np.ndarray) and value.dtype == object:
        value = list(value)
    if isinstance(value, list | tuple) and len(value) and np.ndim(value[0]) > 0:
        parts = [_numbers(f"{name}[{place}]", part) for place, part in enumerate(value)]
        kinds = {part.shape[1:] for part in parts}
        if len(kinds) > 1 or min(map(len, parts)) == 0:
            told = ", ".join(sorted({str(part.shape) for part in parts})[:4])
            raise InputError(f"{name} has sequences of shapes {told}; expected (T, ...) with one step at least")
        return np.stack(parts) if len({len(part) for part in parts}) == 1 else parts
    array = _numbers(name, value)
    if array.ndim == 0 or len(array) == 0:
        raise InputError(f"{name} has shape {array.shape}; expected samples along the first axis, one at least")
    return array


def _numbers(name: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError:
        raise InputError(f"{name} has no regular shape; expected numbers") from None
    if array.dtype.kind not in "iufb" or isinstance(value, np.ma.MaskedArray):
        raise InputError(f"{name} is a {type(value).__name__} of dtype {array.dtype}; expected numbers")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"{name} has NaN or infinity; expected finite numbers")
    return array.astype(np.int8) if array.dtype.kind == "b" else array


def time_major(data: Column, steps: bool) -> np.ndarray | Padded:
    """A batch as layers take it: with `steps` the first two axes change places; sequences of a list are padded by 0."""
    if isinstance(data, np.ndarray):
        return np.ascontiguousarray(np.swapaxes(data, 0, 1)) if steps and data.ndim > 1 else data
    lengths = np.array([len(part) for part in data])
    values = np.zeros((lengths.max(), len(data), *data[0].shape[1:]), np.result_type(*data))
    for place, part in enumerate(data):
        values[: len(part), place] = part
    return Padded(values, lengths)


@dataclass(frozen=True)
class Samples:
    """Inputs by name, and what is to be said of them; None where that isn't known."""

    inputs: dict[str, Column]
    target: Column | None = None

    @classmethod
    def of(cls, x: Any, y: Any = None) -> Samples:
        """From arrays, lists of sequences, or a mapping of names to such; without a name it is input ``x``.

        Raises InputError as `column`, or where there are more of one than of another.
        """
        named = x if isinstance(x, Mapping) else {"x": x}
        if not named:
            raise InputError("x has no inputs; expected one at least")
        inputs = {str(name): column(str(name), value) for name, value in named.items()}
        samples = cls(inputs, None if y is None else column("y", y))
        counts = {name: len(part) for name, part in [*inputs.items(), ("y", samples.target)] if part is not None}
        if len(set(counts.values())) > 1:
            raise InputError(
                f"samples are {', '.join(f'{n} of {k}' for k, n in counts.items())}; expected as many of each"
            )
        return samples

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def take(self, picked: Sequence[int] | np.ndarray) -> Samples:
        """Return some of the samples."""

        def some(part: Column) -> Column:
            return part[np.asarray(picked)] if isinstance(part, np.ndarray) else [part[n] for n in picked]

        inputs = {name: some(part) for name, part in self.inputs.items()}
        return Samples(inputs, None if self.target is None else some(self.target))

    def lengths(self) -> np.ndarray | None:
        """Steps of each sample's longest list; None where there are arrays alone."""
        lists = [list(map(len, part)) for part in self.inputs.values() if isinstance(part, list)]
        return np.max(lists, axis=0) if lists else None

    def fingerprint(self) -> str:
        """SHA-256 of all bytes, by name."""
        digest = hashlib.sha256()
        for name, part in [*self.inputs.items(), ("y", self.target)]:
            for array in [] if part is None else [part] if isinstance(part, np.ndarray) else part:
                digest.update(f"{name} {array.dtype} {array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


class Batches(NamedTuple):
    """Batches by the step's number, so many to an epoch; what they are made of has a fingerprint, if it is arrays."""

    make: Callable[[int], Any]
    steps: int
    fingerprint: str | None = None


def shuffled(samples: Samples, batch_size: int, seed: tuple[int, ...]) -> Batches:
    """Batches of samples, each epoch in a new order.

    What doesn't fill a batch is left out of that epoch. Where lengths differ much, batches are of similar ones, all
    samples in each epoch, and of the longest there are fewer in a batch.
    """
    size = min(batch_size, len(samples))
    lengths = samples.lengths()
    alike = ByLength(lengths, size) if lengths is not None and ragged(lengths) else None
    steps = len(samples) // size if alike is None else len(alike.parts)

    def make(number: int) -> Samples:
        epoch, place = divmod(number, steps)
        rng = np.random.default_rng((*seed, 1, epoch))
        if alike is not None:
            return samples.take(alike.epoch(rng)[place])
        return samples.take(rng.permutation(len(samples))[place * size : (place + 1) * size])

    return Batches(make, steps, samples.fingerprint())


def given(data: Any, steps: int | None) -> Batches:
    """Batches that somebody else makes.

    Parameters
    ----------
    data : callable or iterable
        A function that takes a step's number 0, 1, ... to its batch, a tuple; or one that takes an epoch's number to
        something that gives its batches; or that something itself, which must give them anew each time.
    steps : int, optional
        Batches of an epoch; not needed where ``len(data)`` says so.

    Raises InputError where it can be read once only, or it isn't known how many batches an epoch has.
    """
    if callable(data) and isinstance(first := data(0), tuple):
        del first
        if steps is None:
            raise InputError("steps is None; expected how many batches an epoch has, for data is a function")
        return Batches(data, steps)
    of_epoch: Callable[[int], Any] = data if callable(data) else lambda epoch: data
    if isinstance(data, Iterator):
        raise InputError(f"data is a {type(data).__name__}, which can be read once; expected a function that gives one")
    if isinstance(data, tuple) or (not callable(data) and not isinstance(data, Iterable)):
        raise InputError(f"data is a {type(data).__name__}; expected (x, y), a function, or an iterable of batches")
    if steps is None:
        if not hasattr(data, "__len__"):
            raise InputError("steps is None; expected how many batches an epoch has, for data has no length")
        steps = len(data)
    if steps < 1:
        raise InputError(f"data has {steps} batches; expected one at least")
    return Batches(Stream(of_epoch, steps), steps)


class Stream:
    """Batches by number out of what gives them in order: an epoch is begun anew, and skipped to where training is."""

    def __init__(self, of_epoch: Callable[[int], Iterable[Any]], steps: int):
        self.of_epoch, self.steps = of_epoch, steps
        self._next = -1
        self._open: Iterator[Any] = iter(())

    def __call__(self, number: int) -> Any:
        """Return the batch of that number; raises InputError where the epoch ends before it."""
        epoch, place = divmod(number, self.steps)
        skip = 0
        if number != self._next or place == 0:
            self._open, skip = iter(self.of_epoch(epoch)), place
        found: Any = self
        for _ in range(skip + 1):
            found = next(self._open, self)
        if found is self:
            raise InputError(f"data has ended before batch {place + 1} of epoch {epoch + 1}; expected {self.steps}")
        self._next = number + 1
        return found
