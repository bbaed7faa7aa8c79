"""What a function asks of a device, recorded to be asked for again at the cost of one launch (a CUDA graph)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np

Result = TypeVar("Result")


class Graph(Generic[Result]):
    """A recorded function, see `gpu_lstm.backend.Backend.record`."""

    result: Result  # what the function gave: arrays that every replay fills anew
    launch: Callable[[], None]  # asks the device for all of it
    wait: Callable[[], None]  # until it has been done
    expect: Callable[[], None]  # tells the backend what `read` has to check after a replay

    def __init__(self) -> None:
        # memory of the host that a replay reads, and what makes its content
        self.uploads: list[tuple[np.ndarray, Callable[[], np.ndarray]]] = []
        self.held: Any = None  # what must live as long as the graph: memory has fixed addresses in it

    def replay(self) -> bool:
        """Do it all once more; return False, and do nothing, where the host's data has another shape than recorded."""
        fresh = [make() for _, make in self.uploads]
        memories = [memory for memory, _ in self.uploads]
        kinds = [[(array.shape, array.dtype) for array in arrays] for arrays in (fresh, memories)]
        if kinds[0] != kinds[1]:
            return False
        self.wait()  # the replay before may still be reading
        for memory, content in zip(memories, fresh, strict=True):
            memory[...] = content
        self.expect()
        self.launch()
        return True
