"""What the CUDA kernels move and how long that takes, on paper: the tables of kernels/cuda/README.md.

    python -m benchmarks.gpu_model            # prints them
    python -m benchmarks.gpu_model --write    # puts them in place

Instructions and sectors are those that ``benchmarks.counts`` has counted.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from gpu_lstm.backend.cuda import LEAST_STEPS
from gpu_lstm.native import catalogue, kernels
from gpu_lstm.native.launch import Device
from gpu_lstm.recurrence.cuda import costs, planner
from gpu_lstm.recurrence.cuda.beside import beside
from gpu_lstm.recurrence.cuda.counted import counted, table
from gpu_lstm.recurrence.cuda.layout import DIRECTIONS, Layout

README = Path(__file__).resolve().parents[1] / "kernels" / "cuda" / "README.md"
BANDWIDTH = 3e12
"""Bytes per second of device memory: an H100's, rounded."""
CELLS = 2**20
"""B H of a step in the tables."""
KERNELS = ("training", "inference", "backward")
HOST_MICROSECONDS = 8.0
"""What a launch from Python costs the host: assumed, to be measured."""
SEGMENT_LAUNCHES = 8 + 12
"""Launches of a segment of one layer, forward and backward, products and copies included: counted by hand."""
DEVICE_MICROSECONDS = 2.0
"""What one of many small launches takes the device: assumed, to be measured."""
H100 = Device(multiprocessors=132, shared_bytes=227 * 1024, capability=90, clusters=16)


def sizes(dtype: str) -> tuple[int, int]:
    """Bytes of a stored number and of a number of the state."""
    return (
        {"float64": 8, "float32": 4}.get(dtype, 2),
        {"float64": 8}.get(kernels.ARITHMETIC[dtype], 4),
    )


def bytes_of(kernel: str, dtype: str) -> int:
    """Bytes that a gate kernel reads and writes for each cell, one element of c.

    Forward reads z (4) and c; training writes gates (4), c and h; inference writes c and h. Backward reads gates (4),
    c before and after, dy, dh and dc, and writes dz (4) and dc.
    """
    stored, state = sizes(dtype)
    if kernel == "backward":
        return (4 + 1 + 4) * stored + (2 + 1 + 1 + 1) * state
    return (4 + 1 + (4 if kernel == "training" else 0)) * stored + 2 * state


def microseconds(kernel: str, dtype: str, cells: int = CELLS) -> float:
    """Time that the bytes take."""
    return bytes_of(kernel, dtype) * cells / BANDWIDTH * 1e6


def gate_table() -> Iterator[str]:
    """Lines of the table of the gate kernels."""
    yield "| storage | " + " | ".join(f"{kernel}: bytes a cell | us at 1M cells" for kernel in KERNELS) + " |"
    yield "| --- |" + " ---: | ---: |" * len(KERNELS)
    for dtype in kernels.STORAGE:
        cells = (f"{bytes_of(kernel, dtype)} | {microseconds(kernel, dtype):.1f}" for kernel in KERNELS)
        yield f"| {dtype} | " + " | ".join(cells) + " |"


def counted_table() -> Iterator[str]:
    """Lines of the table of what a block executes in a step, counted, and what the model has of it."""
    yield (
        "| H | storage | B | direction | form | instructions | model | of them product | turns of banks | sectors "
        "| instructions, us | turns, us | sectors, us | step, us |"
    )
    yield "| ---: | --- | --- | --- | --- |" + " ---: |" * 9
    for step in table()["steps"]:
        layers = step["layers"]
        kind = H100, step["direction"], step["hidden"], step["dtype"], layers, "Plain", layers > 1
        layout = Layout(*kind, *step["layout"])
        counts = counted(step["direction"], step["dtype"], layout.form, layout.height, layout.columns, "Plain")
        multiplied = layout.tiles * costs.dot(counts.product, costs.of_product(layout))
        cells = (
            *(step["hidden"], step["dtype"], f"{step['batch']}{', 2 layers' * (layers == 2)}", step["direction"]),
            *(
                layout.form,
                step["instructions"],
                round(multiplied + layout.tiles * costs.dot(counts.cells, costs.of_all_else(layout))),
                round(multiplied),
                step["turns"],
                step["sectors"],
            ),
            f"{step['instructions'] / costs.ISSUE_RATE:.2f}",
            f"{step['turns'] / costs.CLOCK:.2f}",
            f"{32 * step['sectors'] / costs.L2_RATE:.2f}",
            f"{costs.of(layout).microseconds:.2f}",
        )
        yield f"| {' | '.join(map(str, cells))} |"


WIDTHS, STORED, BATCHES = (64, 128, 256, 512, 768, 1024, 2048), ("float32", "tf32", "bfloat16"), (16, 64)


def sequence_table() -> Iterator[str]:
    """Lines of the table of the sequence tier on an H100: what the planner chooses and expects."""
    yield (
        "| H | storage | B | direction | form | teams x blocks | units | registers, KiB a block | shared memory, KiB "
        "| us a step | both directions, us |"
    )
    yield "| ---: | --- | ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for hidden, dtype, batch in product(WIDTHS, STORED, BATCHES):
        for direction in DIRECTIONS:
            layout = planner.choose(H100, direction, batch, hidden, dtype)
            start = f"| {hidden} | {dtype} | {batch} | {direction} |"
            if isinstance(layout, str):
                yield f"{start} does not fit | | | | | | |"
                continue
            pair = planner.choose_pair(H100, direction, batch, hidden, dtype)
            one = f"{costs.of(layout).microseconds:.2f}"
            both = f"2 x {one}" if isinstance(pair, str) else f"{costs.of(pair).microseconds:.2f}"
            yield (
                f"{start} {layout.form} | {layout.teams} x {layout.members} | {layout.share} "
                f"| {layout.register_bytes / 1024:.0f} | {layout.shared_bytes / 1024:.0f} | {one} "
                f"| {both} |"
            )


def layers_table() -> Iterator[str]:
    """Lines of the table of two and three layers: one after the other, with the products between them, and at once."""
    yield (
        "| H | storage | B | direction | 2 layers, us a step | at once | blocks a layer | 3 layers, us a step "
        "| at once | blocks a layer |"
    )
    yield "| ---: | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for hidden, dtype, batch in product((256, 512, 1024), ("float32", "bfloat16"), (1, 16, 64)):
        for direction in DIRECTIONS:
            cells = []
            for layers in (2, 3):
                times = planner.layer_times(H100, direction, batch, hidden, dtype, layers)
                layout = planner.choose_layers(H100, direction, batch, hidden, dtype, layers)
                cells.append(f"{times[1]:.2f}" if 1 in times else "does not fit")
                if isinstance(layout, str):
                    cells += [
                        f"no: {min(times[n] for n in times if n > 1):.2f}" if len(times) > 1 else "does not fit",
                        "",
                    ]
                    continue
                some = "" if layout.together == layers else f", {layout.together} of {layers}"
                cells += [f"{times[layout.together]:.2f}{some}", f"{layout.teams} x {layout.members}"]
            yield f"| {hidden} | {dtype} | {batch} | {direction} | {' | '.join(cells)} |"


def joint_table() -> Iterator[str]:
    """Lines of the table of what a grid of clusters saves in backward, where each block reads an eighth of dz."""
    yield "| H | storage | B | exchange, us | in clusters, us | a step, us | in clusters, us |"
    yield "| ---: | --- | ---: | ---: | ---: | ---: | ---: |"
    plain = dataclasses.replace(H100, clusters=0)
    for hidden, dtype, batch in product((512, 768, 1024, 2048), STORED, BATCHES):
        alone, joint = (planner.choose(device, "backward", batch, hidden, dtype) for device in (plain, H100))
        if isinstance(joint, str) or joint.form != "joint":
            continue
        without = (
            "does not fit | {} | does not fit"
            if isinstance(alone, str)
            else f"{costs.of(alone).exchange:.2f} | {{}} | {costs.of(alone).microseconds:.2f}"
        )
        expected = costs.of(joint)
        exchange, step = without.format(f"{expected.exchange:.2f}"), f"{expected.microseconds:.2f}"
        yield f"| {hidden} | {dtype} | {batch} | {exchange} | {step} |"


def segment_table() -> Iterator[str]:
    """Lines of the table of how long segments should be: T = 1024, B = 64, H = 256, forward and backward."""
    yield "| storage | steps a segment | segments | recurrence, us | launches, device us | host, us | together, us |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    steps, batch, hidden = 1024, 64, 256
    for dtype in ("float32", "bfloat16"):
        layouts = [planner.choose(H100, direction, batch, hidden, dtype) for direction in DIRECTIONS]
        recurrence = steps * sum(costs.of(layout).microseconds for layout in layouts if not isinstance(layout, str))
        weights = 2 * 4 * hidden * hidden * sizes(dtype)[0] / BANDWIDTH * 1e6
        for length in (32, 64, 128, 256, 512, 1024):
            count = steps // length
            device = count * (SEGMENT_LAUNCHES * DEVICE_MICROSECONDS + weights)
            host = count * SEGMENT_LAUNCHES * HOST_MICROSECONDS
            yield (
                f"| {dtype} | {length} | {count} | {recurrence:.0f} | {device:.0f} | {host:.0f} "
                f"| {max(recurrence + device, host):.0f} |"
            )


def beside_table() -> Iterator[str]:
    """Lines of the table of products beside a launch of the recurrence on an H100, D = H, wherever that pays."""
    yield (
        "| H | storage | B | forward: multiprocessors idle | recurrence, us | product, us | saved, us "
        "| backward: idle | recurrence, us | products, us | saved, us |"
    )
    yield "| ---: | --- | ---: |" + " ---: | ---: | ---: | ---: |" * 2
    for hidden, dtype, batch in product(WIDTHS, STORED, BATCHES):
        shape = LEAST_STEPS, batch, hidden
        one = LEAST_STEPS * batch * 4 * hidden * hidden
        sides = [
            beside(H100, direction, shape, dtype, count * one)
            for direction, count in zip(DIRECTIONS, (1, 3), strict=True)
        ]
        if any(side.saved > 0 for side in sides):
            cells = (
                f"{side.idle} | {side.recurrence:.0f} | {side.products:.0f} | "
                + (f"{side.saved:.0f}" if side.saved > 0 else "does not pay")
                for side in sides
            )
            yield f"| {hidden} | {dtype} | {batch} | {' | '.join(cells)} |"


def options_table() -> Iterator[str]:
    """Lines of the table of what options cost the sequence tier: form and expected step of each kind of cells."""
    yield "| H | storage | B | direction | plain, us a step | options, us | with layer normalisation, us |"
    yield "| ---: | --- | ---: | --- | ---: | ---: | ---: |"
    for hidden, dtype, batch, direction in product((128, 512, 1024), ("float32", "bfloat16"), (64,), DIRECTIONS):
        said = []
        for cells in catalogue.SEQUENCE_CELLS:
            layout = planner.choose(H100, direction, batch, hidden, dtype, 1, cells)
            if isinstance(layout, str):
                said.append("does not fit")
            else:
                said.append(f"{layout.form} {costs.of(layout).microseconds:.2f}")
        yield f"| {hidden} | {dtype} | {batch} | {direction} | {' | '.join(said)} |"


TABLES = (
    gate_table, options_table, counted_table, sequence_table, joint_table, layers_table, segment_table, beside_table
)  # fmt: skip


def placed(text: str) -> str:
    """The text with every table in place of the one that has the same head.

    Raises
    ------
    ValueError
        There is none.
    """
    for lines in map(list, (each() for each in TABLES)):
        before, head, after = text.partition(f"{lines[0]}\n")
        if not head:
            raise ValueError(f"no table begins with {lines[0]!r}")
        old = after.split("\n")
        rest = next(n for n, line in enumerate(old) if not line.startswith("|"))
        text = before + "\n".join([*lines, *old[rest:]])
    return text


def main() -> None:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"put them in {README.name} of the kernels")
    if parser.parse_args().write:
        README.write_text(placed(README.read_text(encoding="utf-8")), encoding="utf-8")
        return
    for each in TABLES:
        print("\n".join(each()) + "\n")


if __name__ == "__main__":
    main()
