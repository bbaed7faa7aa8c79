"""Each kind of mistake is planted in a small kernel and found; the right kernel passes under all orders."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from . import EmulationError
from .support import KERNELS, SEEDS, module, needs_compiler

pytestmark = [pytest.mark.slow, needs_compiler]

Arrays = dict[str, np.ndarray]


@dataclass
class Kernel:
    """How a kernel is launched, and what it makes of its arrays."""

    arrays: Callable[[], Arrays]
    expected: Callable[[Arrays], Arrays]
    grid: int = 1
    block: int = 32
    scalars: tuple[Any, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()


def ramp(n: int) -> np.ndarray:
    return np.arange(1, n + 1, dtype=np.float32)


def zeros(n: int) -> np.ndarray:
    return np.zeros(n, np.float32)


COUNTER = np.zeros(1, np.uint32)
COOPERATIVE = (("cooperative", True), ("step_limit", 2_000_000))
CLUSTER = (("cluster", (4, 1, 1)),)


def moved(x: np.ndarray, steps: int, group: int) -> np.ndarray:
    """Blocks of 32 moved on by so many places within each group of blocks."""
    return np.roll(x.reshape(-1, group, 32), steps, axis=1).reshape(-1)


def messages() -> Arrays:
    return {"x": ramp(64), "data": zeros(64), "flag": COUNTER.copy(), "seen": zeros(64)}


RIGHT = {
    "neighbours": Kernel(lambda: {"x": ramp(128)}, lambda a: {"x": np.roll(a["x"], -2)}, block=128),
    "reverse": Kernel(
        lambda: {"x": ramp(50), "y": zeros(50)},
        lambda a: {"y": a["x"][::-1]},
        block=64,
        scalars=(np.int32(50),),
        options=(("shared_mem", 200),),
    ),
    "reverse_32": Kernel(lambda: {"x": ramp(32), "y": zeros(32)}, lambda a: {"y": a["x"][::-1]}),
    "twice": Kernel(
        lambda: {"x": ramp(50), "y": zeros(50)}, lambda a: {"y": 2 * a["x"]}, grid=2, scalars=(np.int32(50),)
    ),
    "copy_by_four": Kernel(
        lambda: {"x": ramp(128), "y": zeros(128)}, lambda a: {"y": a["x"]}, scalars=(np.int32(128),)
    ),
    "sum": Kernel(
        lambda: {"x": ramp(512), "total": zeros(1)}, lambda a: {"total": a["x"].sum(keepdims=True)}, grid=4, block=128
    ),
    "reverse_warps": Kernel(
        lambda: {"x": ramp(64)}, lambda a: {"x": a["x"].reshape(2, 32)[:, ::-1].reshape(64)}, block=64
    ),
    "spread": Kernel(lambda: {"x": ramp(32)}, lambda a: {"x": np.repeat(a["x"][[3, 20]], 16)}),
    "message": Kernel(messages, lambda a: {"seen": a["x"]}, grid=2, block=64, options=COOPERATIVE),
    "message_by_order": Kernel(messages, lambda a: {"seen": a["x"]}, grid=2, block=64, options=COOPERATIVE),
    "rotate": Kernel(
        lambda: {"x": ramp(128), "arrived": COUNTER.copy()},
        lambda a: {"x": np.roll(a["x"], -3)},
        grid=4,
        scalars=(np.int32(3),),
        options=COOPERATIVE,
    ),
    "rotate_cluster": Kernel(
        lambda: {"x": ramp(256)},
        lambda a: {"x": moved(a["x"], 3, 4)},
        grid=8,
        scalars=(np.int32(3),),
        options=CLUSTER,
    ),
}


@dataclass
class Mistake:
    """A mistake, and what finds it: in either mode a kind of report, or "wrong" for a wrong result.

    In fast mode None: order alone can't show it.
    """

    kernel: str
    name: str
    fast: str | None
    check: str
    line: str = ""  # what stands in the line that the report names


MISTAKES = [
    Mistake("neighbours", "no_barrier_before", "wrong", "race|uninitialised", "shown["),
    Mistake("neighbours", "no_barrier_after", "wrong", "race", "shown["),
    Mistake("reverse", "past_the_end", "out of bounds", "out of bounds", "memory["),
    Mistake("reverse", "not_written", "wrong", "uninitialised", "y[i] = memory["),
    Mistake("reverse_32", "past_the_end", "wrong", "out of bounds", "memory[M == past_the_end"),
    Mistake("twice", "past_the_end", "out of bounds", "out of bounds", "y[i] = 2.0f"),
    Mistake("twice", "before_the_start", "wrong", "out of bounds", "y[i] = 2.0f"),
    Mistake("copy_by_four", "misaligned", "misaligned", "misaligned", "float4"),
    Mistake("sum", "barrier_in_branch", "divergent barrier", "divergent barrier", "__syncthreads"),
    Mistake("sum", "barriers_in_both_branches", "divergent barrier", "divergent barrier", "__syncthreads"),
    Mistake("sum", "return_before_barrier", "divergent barrier", "divergent barrier", "__syncthreads"),
    Mistake("sum", "not_atomic", None, "race", "*total += all"),
    Mistake("reverse_warps", "no_syncwarp", "wrong", "race|uninitialised", "memory[i"),
    Mistake("spread", "mask_without_self", "wrong mask", "wrong mask", "__shfl_sync"),
    Mistake("spread", "mask_too_small", "wrong mask", "wrong mask", "__shfl_sync"),
    Mistake("spread", "mask_too_large", "wrong mask", "wrong mask", "__shfl_sync"),
    Mistake("spread", "masks_overlap", "wrong mask", "wrong mask", "__shfl_sync"),
    Mistake("spread", "different_operations", "divergent warp", "divergent warp", "__s"),
    Mistake("message", "no_fence", None, "race", "data[i]"),
    Mistake("message", "no_fence_of_reader", None, "race", "data[i]"),
    Mistake("message", "fence_of_block_only", None, "race", "data[i]"),
    Mistake("message", "plain_flag", None, "race", "flag"),
    Mistake("message_by_order", "no_fence", None, "race", "data[i]"),
    Mistake("message_by_order", "no_fence_of_reader", None, "race", "data[i]"),
    Mistake("rotate", "no_grid_barrier", "wrong", "race", "x"),
    Mistake("rotate", "target_early", "wrong", "race", "x"),
    Mistake("rotate", "target_late", "hang", "hang", "while"),
    Mistake("rotate_cluster", "no_barrier_at_start", None, "cluster barrier", "map_shared"),
    Mistake("rotate_cluster", "no_barrier_before", "wrong", "race|uninitialised", "mine["),
    Mistake("rotate_cluster", "relaxed_arrival", None, "race", "mine["),
    Mistake("rotate_cluster", "arrives_twice", "cluster barrier", "cluster barrier", "cluster_arrive"),
    Mistake("rotate_cluster", "waits_without_arrival", "cluster barrier", "cluster barrier", "cluster_wait"),
    Mistake("rotate_cluster", "no_barrier_at_end", None, "cluster barrier", "map_shared"),
]

NAMES = tuple([f"{kernel}<none>" for kernel in RIGHT] + [f"{mistake.kernel}<{mistake.name}>" for mistake in MISTAKES])


def run(name: str, mode, seed: int) -> tuple[str, str]:
    """What a launch gives: "right", "wrong", or the kind of a report, and its message."""
    kernel = RIGHT[name.split("<")[0]]
    arrays = kernel.arrays()
    expected = kernel.expected(kernel.arrays())
    try:
        module("mistakes.cu", mode, NAMES).launch(
            name,
            (kernel.grid,),
            (kernel.block,),
            (*arrays.values(), *kernel.scalars),
            seed=seed,
            **dict(kernel.options),
        )
    except EmulationError as error:
        return error.kind, str(error)
    same = all(np.array_equal(arrays[key], value) for key, value in expected.items())
    return ("right" if same else "wrong"), ""


@pytest.mark.parametrize("mode", ["fast", "check"])
@pytest.mark.parametrize("kernel", RIGHT)
def test_the_right_kernel_passes_under_every_order(kernel, mode):
    assert [run(f"{kernel}<none>", mode, seed) for seed in SEEDS] == [("right", "")] * len(SEEDS)


@pytest.mark.parametrize("mistake", [m for m in MISTAKES if m.fast], ids=lambda m: f"{m.kernel}-{m.name}")
def test_fast_mode_finds_it(mistake):
    found = {run(f"{mistake.kernel}<{mistake.name}>", "fast", seed)[0] for seed in SEEDS}
    assert mistake.fast in found


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: f"{m.kernel}-{m.name}")
def test_check_mode_finds_it_under_every_order(mistake):
    source = (KERNELS / "mistakes.cu").read_text().splitlines()
    for seed in range(6):
        kind, message = run(f"{mistake.kernel}<{mistake.name}>", "check", seed)
        assert re.fullmatch(mistake.check, kind), message
        assert f"{mistake.kernel}<{mistake.name}>: {kind}: " in message
        assert re.search(r"block \(\d+,\d+,\d+\) thread \(\d+,\d+,\d+\)", message)
        lines = [int(number) for number in re.findall(r"mistakes\.cu:(\d+)", message)]
        assert any(mistake.line in source[number - 1] for number in lines), message
