"""Large products beside a launch of the recurrence, on the multiprocessors that it leaves idle: whether that pays."""

from __future__ import annotations

from dataclasses import dataclass

from gpu_lstm.native.launch import Device
from gpu_lstm.recurrence.cuda import costs
from gpu_lstm.recurrence.cuda.planner import choose, choose_pair

MEETING = 5.0
"""Microseconds that it costs two streams to wait for each other before and after they run beside each other: an
estimate."""
SLOWER_BESIDE = 0.05
"""Part by which a recurrence takes longer while products beside it use L2, memory and power: an estimate."""


@dataclass(frozen=True)
class Beside:
    """A launch of the recurrence and large products beside it."""

    idle: int
    multiprocessors: int
    recurrence: float  # expected microseconds of the launch
    products: float  # those of the products, with all multiprocessors

    @property
    def saved(self) -> float:
        """Microseconds less than one after the other.

        What the idle multiprocessors get done until the recurrence ends; the rest of the products then takes all.
        """
        share = self.idle / self.multiprocessors
        if not share:
            return 0.0
        both = min(self.recurrence, self.products / share)
        return both * (share - SLOWER_BESIDE) - MEETING

    def words(self) -> str:
        """In words and numbers."""
        saved = f"saves {self.saved:.0f} us" if self.saved > 0 else "does not pay"
        return (
            f"{self.idle} of {self.multiprocessors} multiprocessors idle for {self.recurrence:.0f} us, products "
            f"{self.products:.0f} us with all of them: {saved}"
        )


def beside(
    device: Device,
    direction: str,
    shape: tuple[int, int, int],
    dtype: str,
    multiply_adds: int,
    together: int = 1,
    cells: str = "Plain",
) -> Beside:
    """So many multiply-adds of products beside recurrences of a shape (T, B, H), of which there are `together`."""
    steps, batch, hidden = shape
    layout = choose_pair(device, direction, batch, hidden, dtype, cells) if together == 2 else ""
    launches = 1
    if isinstance(layout, str):
        layout, launches = choose(device, direction, batch, hidden, dtype, 1, cells), together
    products = multiply_adds / costs.product_rate(device, dtype)
    if isinstance(layout, str):
        return Beside(0, device.multiprocessors, 0.0, products)
    idle = device.multiprocessors - layout.blocks if layout.waves == 1 else 0
    return Beside(idle, device.multiprocessors, launches * steps * costs.of(layout).microseconds, products)
