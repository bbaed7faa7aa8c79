"""cp.async, mbarrier and st.async, by value and with mistakes planted."""

from __future__ import annotations

import numpy as np
import pytest

from . import EmulationError
from .support import SEEDS, module, needs_compiler

pytestmark = [pytest.mark.slow, needs_compiler]

# kernel, mistake, what finds it in fast mode and in check mode
MISTAKES = [
    ("pipeline", "no_wait", "wrong", "uninitialised"),
    ("pipeline", "waits_too_little", "wrong", "uninitialised"),
    ("pipeline", "no_barrier", "wrong", "race|uninitialised"),
    ("all_to_all", "no_init_barrier", "mbarrier", "mbarrier|cluster barrier|race"),
    ("all_to_all", "no_wait", "wrong", "race|uninitialised"),
    ("all_to_all", "wrong_parity", "deadlock", "race|uninitialised"),
    ("all_to_all", "too_many_arrivals", "mbarrier", "mbarrier"),
    ("all_to_all", "wrong_bytes", "deadlock", "deadlock"),
    ("producer_consumer", "no_wait", "hang", "race|uninitialised"),
    ("producer_consumer", "no_barrier", "mbarrier", "mbarrier|race"),
]
KERNELS = ("pipeline", "all_to_all", "producer_consumer")
NAMES = (*(f"{kernel}<none>" for kernel in KERNELS), *(f"{kernel}<{mistake}>" for kernel, mistake, *_ in MISTAKES))


def run(name: str, mode, seed: int) -> str:
    """What a launch gives: "right", "wrong", or the kind of a report."""
    rng = np.random.default_rng(seed)
    launch = module("asynchronous.cu", mode, NAMES).launch
    kernel = name.split("<")[0]
    try:
        if kernel == "pipeline":
            x, y = rng.standard_normal(510).astype(np.float32), np.zeros(510, np.float32)
            launch(name, (1,), (32,), (x, y, np.int32(510)), seed=seed)
            return "right" if np.array_equal(x, y) else "wrong"
        if kernel == "all_to_all":
            x = rng.integers(-8, 9, 8).astype(np.float32)
            expected = x.reshape(2, 4)
            for _ in range(5):
                expected = np.repeat(expected @ np.arange(1, 5, dtype=np.float32)[:, None] / 64, 4, axis=1)
            launch(name, (8,), (32,), (x, np.int32(5)), cluster=(4,), seed=seed)
            return "right" if np.allclose(x.reshape(2, 4), expected, rtol=1e-5) else "wrong"
        x, y = rng.standard_normal(320).astype(np.float32), np.zeros(320, np.float32)
        launch(name, (1,), (64,), (x, y, np.int32(10)), seed=seed, step_limit=1_000_000)
        return "right" if np.array_equal(y.reshape(10, 32), x.reshape(10, 32)[:, ::-1]) else "wrong"
    except EmulationError as error:
        assert f"{name}: {error.kind}: " in str(error)
        return error.kind


@pytest.mark.parametrize("mode", ["fast", "check"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_right_kernel_passes_under_every_order(kernel, mode):
    assert [run(f"{kernel}<none>", mode, seed) for seed in SEEDS] == ["right"] * len(SEEDS)


@pytest.mark.parametrize(("kernel", "mistake", "fast", "check"), MISTAKES)
def test_mistakes_are_found(kernel, mistake, fast, check):
    name = f"{kernel}<{mistake}>"
    assert fast in {run(name, "fast", seed) for seed in SEEDS}
    assert {run(name, "check", seed) for seed in range(6)} <= set(check.split("|"))
