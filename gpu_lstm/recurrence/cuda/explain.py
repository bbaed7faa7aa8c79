"""A layout, and the plan of the sequence tier, in words and numbers."""

from __future__ import annotations

from itertools import product

from gpu_lstm.backend.cuda import LEAST_STEPS
from gpu_lstm.native import clusters
from gpu_lstm.native.catalogue import CLUSTER, JOINT
from gpu_lstm.native.launch import Device
from gpu_lstm.recurrence.cuda import costs
from gpu_lstm.recurrence.cuda.beside import beside
from gpu_lstm.recurrence.cuda.layout import DIRECTIONS, Layout
from gpu_lstm.recurrence.cuda.planner import cells_of, choose, choose_layers, choose_pair, layer_times, most_that_stacks

ALONE = "in both directions, or with residual, input_dropout, cells or an option of the recurrence,"
"""Which layers of a stack never run at once."""


def team(layout: Layout) -> str:
    """The blocks of a launch."""
    return ("" if layout.together == 1 else f"{layout.together} x ") + {
        "block": f"{layout.teams} blocks alone",
        "cluster": f"{layout.teams} clusters of {layout.members} blocks",
        "grid": f"{layout.teams} x {layout.members} blocks of the grid",
        "joint": f"{layout.teams} x {layout.members} blocks of the grid in clusters of {CLUSTER}",
    }[layout.form]


def words(layout: Layout) -> str:
    """A layout and what a step of it is expected to cost."""
    expected = costs.of(layout)
    barriers = f"{layout.barriers or 'no'} barrier{'s' if layout.barriers > 1 else ''}"
    held = f" ({layout.register_bytes / 1024:.0f} of them registers)" if layout.register_bytes else ""
    waves = f"{layout.waves} waves of " if layout.waves > 1 else ""
    options = "" if layout.cells == "Plain" else ", with options"
    return (
        f"{layout.direction}{options}: {team(layout)}, {layout.share} units and {layout.slice} sequences each, "
        f"{(layout.register_bytes + layout.shared_bytes) / 1024:.0f} KiB on chip a block{held}, "
        f"{barriers}{' of a block a step' if layout.barriers else ''}, "
        f"{expected.microseconds:.2f} us a step expected ({waves}product {expected.product:.2f}, cells "
        f"{expected.cell:.2f}, exchange {expected.exchange:.2f}, barrier {expected.barrier:.2f})"
    )


def explain(device: Device, batch: int, hidden: int, dtype: str, options: frozenset[str] = frozenset()) -> str:
    """Forward and backward, what a bidirectional layer and a stack do, and which products run beside."""
    found = [choose(device, name, batch, hidden, dtype, 1, cells_of(name, options)) for name in DIRECTIONS]
    said = [layout if isinstance(layout, str) else words(layout) for layout in found]
    if any(not isinstance(layout, str) and layout.form == "cluster" for layout in found):
        how = "assumed, as the driver can't be asked" if device.counted is None else "as the driver says"
        said.append(f"{device.clusters_at_once} clusters run at once, {how}")
    if device.capability in JOINT and not device.clusters:
        said.append(f"no grid of clusters: cuda.bindings launches it, which can't here ({clusters.INSTALL})")
    for direction in DIRECTIONS:
        layout = choose_pair(device, direction, batch, hidden, dtype, cells_of(direction, options))
        if isinstance(layout, str):
            how = f"one after the other ({layout})"
        else:
            how = f"in one launch of {team(layout)}, {costs.of(layout).microseconds:.2f} us a step expected"
        said.append(f"both directions of a layer {direction}: {how}")
    said += _explain_layers(device, batch, hidden, dtype) if not options else []
    shape = LEAST_STEPS, batch, hidden
    for direction, count, what in (("forward", 1, "the next x W_ih^T"), ("backward", 3, "dx, dW_ih and dW_hh")):
        multiply_adds = count * 4 * hidden * hidden * batch * LEAST_STEPS
        products = beside(device, direction, shape, dtype, multiply_adds, 1, cells_of(direction, options))
        said.append(f"{what} of D = {hidden} beside {LEAST_STEPS} steps {direction}: {products.words()}")
    return "; ".join(said)


def _explain_layers(device: Device, batch: int, hidden: int, dtype: str) -> list[str]:
    """Whether layers of a stack run at once, and where never."""
    said = []
    for layers, direction in product((2, 3), DIRECTIONS):
        layout = choose_layers(device, direction, batch, hidden, dtype, layers)
        if isinstance(layout, str):
            how = f"one after the other ({layout})"
        else:
            times = layer_times(device, direction, batch, hidden, dtype, layers)
            how = (
                f"{'' if layout.together == layers else f'{layout.together} '}in one launch of {team(layout)}, "
                f"{times[layout.together]:.2f} us a step expected instead of {times[1]:.2f}"
            )
        said.append(f"{layers} layers {direction}: {how}")
    most = {direction: most_that_stacks(device, direction, hidden, dtype) for direction in DIRECTIONS}
    if any(most.values()):
        ends = (f"B = {batch} {direction}" for direction, batch in most.items() if batch)
        said.append(f"3 layers run at once, or some of them, up to {' and '.join(ends)}")
    said.append(f"layers {ALONE} run one after the other")
    return said
