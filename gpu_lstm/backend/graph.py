"""What a function asks of a device, recorded to be asked for again at the cost of one launch (a CUDA graph)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np

Result = TypeVar("Result")


class Graph(Generic[Result]):
    """A recorded function, see `gpu_lstm.backend.Backend.record`.

    Attributes
    ----------
    result : Any
        What the function gave: arrays that every replay fills anew.
    uploads : list of (array, callable)
        Memory of the host that a replay reads, and what makes its content.
    expect : callable
        Tells the backend what `read` has to check after a replay.
    launch, wait : callable
        Ask the device for all of it; wait until it has been done.
    held : Any
        What must live as long as the graph: memory has fixed addresses in it.
    """

    result: Result
    launch: Callable[[], None]
    wait: Callable[[], None]
    expect: Callable[[], None]

    def __init__(self) -> None:
        self.uploads: list[tuple[np.ndarray, Callable[[], np.ndarray]]] = []
        self.held: Any = None

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
