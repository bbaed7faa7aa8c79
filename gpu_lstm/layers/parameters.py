"""Parameters by name: what may be put in their place, and one truth for all who hold them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, Self

from gpu_lstm.backend import Array, Backend
from gpu_lstm.errors import InputError
from gpu_lstm.layers.assigned import fitting
from gpu_lstm.native.kept import frozen


class Parameters(MutableMapping[str, Array]):
    """Arrays by parameter name, those of a layer or those of several as one.

    It behaves as a dictionary whose names stay. What is assigned must have the shape of what it replaces and hold real
    numbers: an array of the backend, of this dtype, without gaps, that may be written to, is kept, the very array;
    everything else becomes a new one. Mappings that have a parameter in common see the same array.

    Raises
    ------
    InputError
        On assignment, of a name that isn't there, another shape, or what are no real numbers that the dtype can hold;
        on deletion. Nothing was replaced.
    """

    def __init__(self, backend: Backend, dtype: str):
        self.backend, self.dtype = backend, dtype
        self._places: dict[str, list[Any]] = {}  # an array and its shape, which all have who hold that parameter

    def add(self, name: str, array: Array) -> None:
        """Add the parameter `name`, an `array`."""
        self._places[name] = [array, tuple(array.shape)]

    def renamed(self, names: Mapping[str, str]) -> Self:
        """Return the same parameters under the names that `names` gives for theirs."""
        twin = type(self)(self.backend, self.dtype)
        twin._places = {names[name]: place for name, place in self._places.items()}
        return twin

    @classmethod
    def joined(cls, parts: Mapping[str, Parameters]) -> Parameters:
        """Return the parameters of all parts as one, under ``part.name``."""
        first = next(iter(parts.values()))
        whole = cls(first.backend, first.dtype)
        for part, params in parts.items():
            whole._places |= {f"{part}.{name}": place for name, place in params._places.items()}
        return whole

    def replace(self, arrays: Mapping[str, Any]) -> None:
        """Assign `arrays` to all parameters at once; raises InputError where the names are others or one is refused."""
        odd = sorted(arrays.keys() ^ self.keys())
        if odd:
            raise InputError(f"params has not the names of these parameters; these are on one side only: {odd}")
        self.update(arrays)

    def __getitem__(self, name: str) -> Array:
        array, shape = self._places[name]
        if array.shape != shape:  # changed in place
            raise InputError(f"{name} has shape {tuple(array.shape)}; expected {shape}")
        return array

    def __setitem__(self, name: str, value: Any) -> None:
        self.update({name: value})

    def __delitem__(self, name: str) -> None:
        raise InputError(f"{name} can't be removed; its layer needs it")

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __repr__(self) -> str:
        return repr(self.copy())

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**self, **other}

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**other, **self}

    def __ior__(self, other: Any) -> Self:  # type: ignore[misc]  # as dict's: of names and values, in place
        self.update(other)
        return self

    def copy(self) -> dict[str, Array]:
        """Return a dictionary of the same arrays."""
        return dict(self)

    def update(self, /, *arrays: Any, **more: Any) -> None:
        """Assign `arrays` as ``dict.update`` does, all of them or, where one is refused by an InputError, none."""
        kept = {}
        for name, value in dict(*arrays, **more).items():
            if name not in self._places:
                raise InputError(f"{name!r} is no parameter; expected one of {', '.join(self)}")
            now, shape = self._places[name]
            kept[name] = now if value is now else fitting(self.backend, self.dtype, name, value, shape)
        for name, array in kept.items():
            self._places[name][0] = array

    def freeze(self) -> None:
        """Replace all by copies that nobody can write to."""
        for place, copy in zip(self._places.values(), [frozen(array) for array in self.values()], strict=True):
            place[0] = copy
