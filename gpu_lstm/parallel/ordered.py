"""A sum over shares whose order is the shares', whichever ranks they lie on.

Neighbours are added in pairs, pairs in pairs, and so on: shares 0 to 7 as ((0+1)+(2+3))+((4+5)+(6+7)). So a rank with
a run of shares adds up most of them itself, and 1, 2, 4, 8 ranks send what a sum in any order would: the engine moves
the numbers, each rank adds its part of them in this order, and the sums go back to all.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpu_lstm.backend import Array
from gpu_lstm.parallel.communicator import Communicator


@dataclass
class Partial:
    """The sum of some shares in a row; `total` is added to."""

    first: int
    shares: int
    total: Array


def add(partials: list[Partial], new: Partial) -> None:
    """Append the shares that come next, and add up what makes a pair."""
    partials.append(new)
    while len(partials) > 1 and _pair(partials[-2], partials[-1]):
        last = partials.pop()
        partials[-1].total += last.total
        partials[-1].shares += last.shares


def _pair(left: Partial, right: Partial) -> bool:
    return left.shares == right.shares and left.first % (2 * left.shares) == 0


def whole(partials: list[Partial]) -> Array:
    """The sum of all that is left, once there are no more shares: where their number is no power of two."""
    while len(partials) > 1:
        last = partials.pop()
        partials[-1].total += last.total
    return partials[0].total


def left_over(first: int, shares: int) -> list[tuple[int, int]]:
    """What is left of a run of shares once its pairs are added up: the first of each, and how many."""
    found: list[Partial] = []
    for share in range(first, first + shares):
        add(found, Partial(share, 1, 0))
    return [(one.first, one.shares) for one in found]


def ordered_sum(partials: list[Partial], shares: int, communicator: Communicator) -> Array:
    """The sum over all ranks of what each has of its own shares, (n,) with n a multiple of the ranks.

    Every rank sends each other one 1/size of its partial sums, as a reduce-scatter does, and of the sum as much again.
    """
    size = communicator.size
    if size == 1:
        return whole(partials)
    count = shares // size
    each = [left_over(rank * count, count) for rank in range(size)]
    arrived = []
    for place in range(max(map(len, each))):
        mine = partials[min(place, len(partials) - 1)].total  # who has fewer sends one again, which nobody reads
        arrived.append(communicator.exchange(mine.reshape(size, -1)))
    merged: list[Partial] = []
    for rank, runs in enumerate(each):
        for place, (first, run) in enumerate(runs):
            add(merged, Partial(first, run, arrived[place][rank]))
    return communicator.join(whole(merged)).reshape(-1)
