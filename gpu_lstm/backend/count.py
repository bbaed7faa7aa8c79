"""A number that goes on while those who hold it stay: what a seed is made of where a step is recorded."""

from __future__ import annotations


class Count:
    """A whole number that goes on: whoever holds it sees it as it stands now."""

    def __init__(self, value: int = 0):
        self.value = value

    def __index__(self) -> int:
        return self.value

    __int__ = __index__
