"""Mistakes in what comes before what, planted: each is found with the order of memory, and the right kernel passes."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.device.support import Seed, needs_machine

pytestmark = needs_machine

SOURCE = Path(__file__).with_name("mistakes.cu")
SEEDS = range(6)


@dataclass
class Kernel:
    """How a kernel is launched, and what it makes of its arrays."""

    arrays: Callable[[], list[np.ndarray]]
    expected: Callable[[np.ndarray], np.ndarray | None]  # of the first array; None: some number is not zero
    grid: int = 1
    block: int = 32
    scalars: tuple[int, ...] = ()
    shared: int = 0
    together: bool = False  # all blocks at once
    result: int = -1  # which array


def ramp(n):
    return np.arange(1, n + 1, dtype=np.float32)


def zeros(n, dtype=np.float32):
    return np.zeros(n, dtype)


def whole(n):
    return np.arange(1, n + 1, dtype=np.uint32)


def sent(x):
    for _ in range(5):
        x = np.repeat(x.reshape(2, 4) @ np.arange(1, 5, dtype=np.float32)[:, None] / 64, 4, axis=1)
    return x.ravel()


RIGHT = {
    "neighbours": Kernel(lambda: [ramp(128)], lambda x: np.roll(x, -2), block=128),
    "reverse": Kernel(lambda: [ramp(50), zeros(50)], lambda x: x[::-1], block=50, shared=200),
    "twice": Kernel(lambda: [ramp(50), zeros(50)], lambda x: 2 * x, grid=2, scalars=(50,)),
    "sum": Kernel(lambda: [ramp(512), zeros(1)], lambda x: x.sum(keepdims=True), grid=4, block=128, together=True),
    "reverse_warps": Kernel(lambda: [ramp(64)], lambda x: x.reshape(2, 32)[:, ::-1].ravel(), block=64),
    "spread": Kernel(lambda: [ramp(32)], lambda x: np.repeat(x[[3, 20]], 16)),
    "message": Kernel(
        lambda: [ramp(64), zeros(64), zeros(1, np.uint32), zeros(64)], lambda x: x, grid=2, block=64, together=True
    ),
    "message_by_order": Kernel(
        lambda: [ramp(64), zeros(64), zeros(2, np.uint32), zeros(64)], lambda x: x, grid=3, block=64, together=True
    ),
    "strong_message": Kernel(
        lambda: [whole(64), zeros(64, np.uint32), zeros(1, np.uint32), zeros(64, np.uint32)],
        lambda x: x,
        grid=2,
        block=64,
        together=True,
    ),
    "numbers": Kernel(
        lambda: [np.arange(64, dtype=np.uint16), np.full(64, 0xFFFF, np.uint16), zeros(64, np.uint16)],
        lambda x: x,
        grid=2,
        block=64,
        together=True,
    ),
    "one_sees": Kernel(lambda: [zeros(2, np.uint32), zeros(2, np.uint32)], lambda x: None, 2, 1, together=True),
    "rotate": Kernel(
        lambda: [ramp(128), zeros(1, np.uint32)], lambda x: np.roll(x, -3), 4, scalars=(3,), together=True, result=0
    ),
    "rotate_cluster": Kernel(
        lambda: [ramp(256)], lambda x: np.roll(x.reshape(2, 4, 32), 3, axis=1).ravel(), grid=8, scalars=(3,)
    ),
    "all_to_all": Kernel(lambda: [ramp(8)], sent, grid=8, scalars=(5,)),
    "producer_consumer": Kernel(
        lambda: [ramp(320), zeros(320)], lambda x: x.reshape(10, 32)[:, ::-1].ravel(), block=64, scalars=(10,)
    ),
}

RACE = "race: (read|write) of 4 bytes, .* by thread .*, after the (read|write) of 4 bytes by thread"
UNWRITTEN = "a read of what nobody has written"
BOUNDS = "(illegal (read|write)|shared memory out of bounds)"
MASK = "(not in its own mask|takes no part|different masks|deadlock)"

# Kernel, mistake, and what it comes to under each seed: a report, or wrong numbers.
MISTAKES = [
    ("neighbours", "no_barrier_before", f"{RACE}|{UNWRITTEN}"),
    ("neighbours", "no_barrier_after", RACE),
    ("reverse", "past_the_end", BOUNDS),
    ("reverse", "not_written", UNWRITTEN),
    ("twice", "past_the_end", BOUNDS),
    ("twice", "before_the_start", BOUNDS),
    ("sum", "barrier_in_branch", "threads have exited, and others of their block come to bar"),
    ("sum", "barriers_in_both_branches", "threads of a block come to barriers in different places"),
    ("sum", "return_before_barrier", "threads have exited, and others of their block come to bar"),
    ("sum", "not_atomic", RACE),
    ("reverse_warps", "no_syncwarp", f"{RACE}|{UNWRITTEN}"),
    ("spread", "mask_without_self", MASK),
    ("spread", "mask_too_small", MASK),
    ("spread", "mask_too_large", MASK),
    ("spread", "masks_overlap", MASK),
    ("spread", "different_operations", MASK),
    ("message", "no_fence", RACE),
    ("message", "no_fence_of_reader", RACE),
    ("message", "fence_of_block_only", RACE),
    ("message", "plain_flag", RACE),
    ("message_by_order", "no_fence", RACE),
    ("message_by_order", "no_fence_of_reader", RACE),
    ("message_by_order", "relaxed_flag", RACE),
    ("numbers", "other_size", "sizes differ: (read|write) of"),
    ("numbers", "weak_store", "race: (read|write) of"),
    ("rotate", "no_grid_barrier", RACE),
    ("rotate", "target_early", f"{RACE}|wrong"),
    ("rotate", "target_late", "no thread writes anything any more"),
    ("rotate_cluster", "no_barrier_at_start", "has not waited at the cluster's barrier"),
    ("rotate_cluster", "no_barrier_before", f"{RACE}|{UNWRITTEN}"),
    ("rotate_cluster", "relaxed_arrival", f"{RACE}|{UNWRITTEN}"),
    ("rotate_cluster", "arrives_twice", "comes to the cluster's barrier twice"),
    ("rotate_cluster", "waits_without_arrival", "waits at the cluster's barrier and has not arrived"),
    ("rotate_cluster", "no_barrier_at_end", "exits and doesn't wait|of a block that has exited|race"),
    ("all_to_all", "no_barrier_at_start", "has not waited at the cluster's barrier"),
    ("all_to_all", "no_barrier_after", "race"),
    ("all_to_all", "used_late", "race"),
    ("all_to_all", "no_wait", f"race|{UNWRITTEN}"),
    ("all_to_all", "wrong_parity", f"race|{UNWRITTEN}"),
    ("all_to_all", "too_many_arrivals", "more arrivals at an mbarrier than it expects"),
    ("all_to_all", "wrong_bytes", "no thread writes anything any more"),
    ("producer_consumer", "no_wait", f"race|{UNWRITTEN}|no thread writes"),
    ("producer_consumer", "no_barrier_before", f"race|{UNWRITTEN}"),
]

# Nothing is a race here: some seed gives numbers that are too old.
OLD = [
    ("strong_message", "relaxed_flag"),
    ("strong_message", "no_fence_of_reader"),
    ("one_sees", "fence_of_block_only"),
]


@pytest.fixture(scope="module")
def kernel():
    import cupy

    modules = {}
    for together in (False, True):
        names = [f"{name}<{mistake}>" for name, mistake, *_ in [(name, "none") for name in RIGHT] + MISTAKES + OLD]
        mine = tuple(name for name in names if RIGHT[name.split("<")[0]].together == together)
        options = {"options": ("-std=c++17",), "name_expressions": mine, "enable_cooperative_groups": together}
        modules[together] = cupy.RawModule(code=SOURCE.read_text(), **options)
    return lambda name: modules[RIGHT[name.split("<")[0]].together].get_function(name)


def run(kernel, name, seed):
    """What a launch reports, "wrong" or "right"."""
    import cupy
    from cupy_backends.cuda.api.driver import CUDADriverError

    what = RIGHT[name.split("<")[0]]
    with cupy.cuda.using_allocator(None):  # memory whose ends are known
        arrays = [cupy.asarray(each) for each in what.arrays()]
    given = (*arrays, *(np.int32(each) for each in what.scalars))
    try:
        with Seed(seed, memory=True):
            kernel(name)((what.grid,), (what.block,), given, shared_mem=what.shared)
    except CUDADriverError as error:
        return str(error)
    expected, actual = what.expected(what.arrays()[0]), cupy.asnumpy(arrays[what.result])
    right = actual.any() if expected is None else np.array_equal(actual, expected)
    return "right" if right else "wrong"


@pytest.mark.parametrize("name", RIGHT)
def test_the_right_kernel_passes_under_every_order(kernel, name):
    assert [run(kernel, f"{name}<none>", seed) for seed in SEEDS] == ["right"] * len(SEEDS)


@pytest.mark.parametrize(
    ("name", "mistake", "report"), MISTAKES, ids=[f"{name}-{mistake}" for name, mistake, _ in MISTAKES]
)
def test_a_mistake_is_found_under_every_order(kernel, name, mistake, report):
    for seed in SEEDS[:4]:
        found = run(kernel, f"{name}<{mistake}>", seed)
        assert re.search(report, found), found


@pytest.mark.parametrize(("name", "mistake"), OLD)
def test_numbers_that_are_too_old_show_under_some_orders(kernel, name, mistake):
    found = [run(kernel, f"{name}<{mistake}>", seed) for seed in range(24)]
    assert set(found) == {"right", "wrong"}
    assert found == [run(kernel, f"{name}<{mistake}>", seed) for seed in range(24)], "a seed is an order"
