"""Calls into the compiled CPU library that come again and again, checked once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpu_lstm.native import compiled
from gpu_lstm.native.entries import ENTRIES


def prepare(name: str, dtype: np.dtype, free: Sequence[str], *arguments: Any) -> Callable[..., None]:
    """Check a call as `call` does, and return it: a function of other arrays for the arguments `free`, in order.

    Each of these is taken as `call` takes it, with the shape and dtype of the one given here, and must share memory
    with no other; the rest must stay as it is. Of entries without lists and gaps.
    """
    function, passed, taken = compiled.passed_of(name, dtype, arguments)
    row = enumerate(zip(ENTRIES[name.removesuffix("_vnni")].arguments, arguments, strict=True))
    places = [(place, argument, array.shape) for place, (argument, array) in row if argument.name in free]
    gone = {passed[place] for place, _, _ in places}  # those given here, or copies of them
    stay = [array for array in taken if compiled.address(array) not in gone]

    def again(*arrays: np.ndarray) -> None:
        now, live = list(passed), list(stay)
        for (place, argument, shape), array in zip(places, arrays, strict=True):
            live.append(argument.fit(array, shape, dtype, None))
            now[place] = compiled.address(live[-1])
        compiled.run(name, function, now, live)

    return again
