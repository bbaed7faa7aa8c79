"""Which layout runs: of all that the kernels can run and that fit, the one whose step is expected to cost least."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

from gpu_lstm.backend.cuda import CudaBackend
from gpu_lstm.native.catalogue import CLUSTER, sequence_sizes
from gpu_lstm.native.launch import Device
from gpu_lstm.recurrence.cuda import costs
from gpu_lstm.recurrence.cuda.layout import BUFFERS, DIRECTIONS, MOST_RUNS, Layout, units

TYPICAL_BATCH, LARGEST_BATCH = 64, 4096
"""The batch size that a plan is explained for, and the largest that it is looked at for."""


def multiplied(backend: CudaBackend, dtype: str) -> str:
    """The form in which stored numbers are multiplied: their dtype, or "tf32" for float32 where asked for."""
    return "tf32" if backend.tf32 and dtype == "float32" else dtype


def cells_of(direction: str, options: frozenset[str]) -> str:
    """What the cells do, of `catalogue.SEQUENCE_CELLS`, for these of the LSTM's options."""
    if "layer_norm" in options:
        return "Normed"
    # Forward, c of every step is there anyway.
    return "Family" if options - ({"cells"} if direction == "forward" else set()) else "Plain"


@functools.lru_cache(maxsize=1024)
def choose(
    device: Device,
    direction: str,
    batch: int,
    hidden: int,
    dtype: str,
    together: int = 1,
    cells: str = "Plain",
    stacked: bool = False,
) -> Layout | str:
    """The layout with the least modelled time a step, or why there is none; `together` recurrences in one launch."""
    if device.capability < 80:
        return f"it needs compute capability 8.0; this device has {device.capability // 10}.{device.capability % 10}"
    every = list(candidates(device, direction, batch, hidden, dtype, together, cells, stacked))
    fitting = [layout for layout in every if layout.shared_bytes <= device.shared_bytes]
    if fitting:
        return min(fitting, key=lambda layout: costs.of(layout).microseconds)
    if not every:
        half = f"{device.multiprocessors // together} of " if together > 1 else ""
        return f"H = {hidden} has more units than {half}{device.multiprocessors} multiprocessors can take"
    weights = f"W_hh and W_ih of {together} layers of" if stacked else "W_hh of"
    least = min(layout.shared_bytes for layout in every)
    return (
        f"{weights} H = {hidden} in {dtype} {'do' if stacked else 'does'} not fit on chip: {direction} needs at least "
        f"{least / 1024:.0f} KiB of shared memory a block; {device.shared_bytes / 1024:.0f} are there on each of "
        f"{device.multiprocessors} multiprocessors"
    )


def candidates(
    device: Device, direction: str, batch: int, hidden: int, dtype: str, together: int, cells: str, stacked: bool
) -> Iterator[Layout]:
    """Layouts that the kernels can run, fitting into shared memory or not."""
    for form in ("grid",) if stacked else device.forms[direction == "backward"]:
        for height, columns in sequence_sizes(direction, dtype, form, cells):
            most = units(direction, form, height, columns, 1 + stacked)
            for members, share, part in _parts(device, form, batch, hidden, together, 8 * columns):
                if share <= most:
                    teams = -(-batch // part)
                    for buffers in BUFFERS[form]:
                        yield Layout(
                            device, direction, hidden, dtype, together, cells, stacked,
                            form, height, columns, teams, members, share, part, buffers,
                        )  # fmt: skip


def _parts(
    device: Device, form: str, batch: int, hidden: int, together: int, tile: int
) -> Iterator[tuple[int, int, int]]:
    """Blocks of a team, hidden units of a block, sequences of a team: each way to cut the batch and the units."""
    if form == "block":
        yield 1, hidden, tile
    elif form == "cluster" and device.clusters_at_once:
        yield CLUSTER, -(-hidden // CLUSTER), tile
    elif device.cooperative and form in ("grid", "joint"):
        unit = CLUSTER if form == "joint" else 1
        most = (device.clusters if form == "joint" else device.multiprocessors) // together  # all must be resident
        for teams in range(1, min(-(-batch // tile), most) + 1):
            share = -(-hidden // min(most // teams * unit, hidden))
            yield -(-hidden // (share * unit)) * unit, share, -(-batch // teams)


@functools.lru_cache(maxsize=1024)
def choose_pair(
    device: Device, direction: str, batch: int, hidden: int, dtype: str, cells: str = "Plain"
) -> Layout | str:
    """The layout that runs two recurrences at once, or why they run one after the other."""
    one, pair = (choose(device, direction, batch, hidden, dtype, together, cells) for together in (1, 2))
    if isinstance(pair, str) or isinstance(one, str):
        return pair if isinstance(pair, str) else str(one)
    once, both = costs.of(one).microseconds, costs.of(pair).microseconds
    return f"that would take {both:.2f} us a step instead of 2 x {once:.2f}" if both >= 2 * once else pair


@functools.lru_cache(maxsize=1024)
def choose_layers(device: Device, direction: str, batch: int, hidden: int, dtype: str, layers: int) -> Layout | str:
    """The layout that runs so many layers of a stack, or some of them, at once, or why they run one after the other.

    Of long sequences: L layers at once take T + L - 1 steps.
    """
    times = layer_times(device, direction, batch, hidden, dtype, layers)
    if len(times) < 2:
        return str(choose(device, direction, batch, hidden, dtype, 1 + len(times), "Plain", len(times) > 0))
    best = min(times, key=lambda n: times[n])
    if best > 1:
        return choose(device, direction, batch, hidden, dtype, best, "Plain", True)
    several = min((n for n in times if n > 1), key=lambda n: times[n])
    return f"{several} at once would take {times[several]:.2f} us a step instead of {times[1]:.2f}"


def layer_times(device: Device, direction: str, batch: int, hidden: int, dtype: str, layers: int) -> dict[int, float]:
    """Expected microseconds a step of so many layers, by how many run at once, of those numbers that fit.

    With the large products between layers that don't run at once.
    """
    counts = range(1, min(layers, MOST_RUNS) + 1)
    found = {n: choose(device, direction, batch, hidden, dtype, n, "Plain", n > 1) for n in counts}
    steps = {n: costs.of(layout).microseconds for n, layout in found.items() if not isinstance(layout, str)}
    between = batch * 4 * hidden * hidden / costs.product_rate(device, dtype)
    times = {}
    for n in steps:
        launches = [n] * (layers // n) + [layers % n] * (layers % n > 0)
        times[n] = sum(steps[launch] for launch in launches) + (len(launches) - 1) * between
    return times


def pays(device: Device, direction: str, batch: int, hidden: int, dtype: str, cells: str = "Plain") -> bool:
    """Whether a layout fits and its step is expected to be no longer than one of the pointwise tier."""
    layout = choose(device, direction, batch, hidden, dtype, 1, cells)
    if isinstance(layout, str):
        return False
    return costs.of(layout).microseconds <= costs.pointwise(device, batch, hidden, dtype)


def most_that_pays(device: Device, direction: str, hidden: int, dtype: str, cells: str = "Plain") -> int:
    """The largest power of two as a batch size, up to `LARGEST_BATCH`, where it does; 0 for none."""
    return _most(lambda batch: pays(device, direction, batch, hidden, dtype, cells))


def most_that_stacks(device: Device, direction: str, hidden: int, dtype: str) -> int:
    """The same for some of three layers at once."""
    return _most(lambda batch: not isinstance(choose_layers(device, direction, batch, hidden, dtype, 3), str))


def _most(holds: Callable[[int], bool]) -> int:
    return max((size for size in (2**n for n in range(LARGEST_BATCH.bit_length())) if holds(size)), default=0)


def obstacle(device: Device, hidden: int, dtype: str, options: frozenset[str] = frozenset()) -> str:
    """Why no layout fits, whatever the batch; empty where one does."""
    found = (choose(device, name, 1, hidden, dtype, 1, cells_of(name, options)) for name in DIRECTIONS)
    return next((layout for layout in found if isinstance(layout, str)), "")


def largest(device: Device, dtype: str) -> int:
    """The largest H that fits, 0 where none does."""
    low, high = 0, 1 << 16
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if not obstacle(device, middle, dtype) else (low, middle)
    return low
