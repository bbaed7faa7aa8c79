"""Clusters and distributed shared memory, by value."""

from __future__ import annotations

import numpy as np
import pytest

from . import EmulationError
from .support import SEEDS, module, needs_compiler

pytestmark = needs_compiler


@pytest.fixture(params=["fast", "check"])
def launch(request):
    return module("cluster.cu", request.param).launch


def test_places(launch):
    where = np.zeros((4, 4, 6, 8), np.int32)  # z, y, x
    launch("places", (6, 4, 4), (1,), (where,), cluster=(3, 2, 1), seed=1)
    for z, y, x in np.ndindex(4, 4, 6):
        rank = y % 2 * 3 + x % 3
        assert where[z, y, x].tolist() == [rank, 6, x % 3, y % 2, 0, 3, 2, 1]


@pytest.mark.parametrize("cluster", [1, 2, 8])
def test_reading_shared_memory_of_other_blocks(launch, cluster):
    x = np.arange(16 * 40, dtype=np.float32)
    for seed in range(4):
        sums = np.zeros(16, np.float32)
        launch("sums_of_clusters", (16,), (40,), (x, sums), cluster=(cluster,), shared_mem=160, seed=seed)
        expected = x.reshape(-1, cluster * 40).sum(1)
        np.testing.assert_array_equal(sums, np.repeat(expected, cluster))


def test_atomics_on_shared_memory_of_other_blocks(launch):
    counts = np.zeros(3, np.int32)
    launch("count_in_first_block", (12,), (33,), (counts,), cluster=(4, 1, 1), seed=2)
    assert counts.tolist() == [132] * 3


def test_ring(launch):
    for seed in SEEDS:
        x = np.arange(16, dtype=np.float32)
        launch("ring", (16,), (1,), (x, np.int32(5)), cluster=(8,), seed=seed)
        np.testing.assert_array_equal(x.reshape(2, 8), np.roll(np.arange(16).reshape(2, 8), 5, axis=1))


def test_shapes_that_no_device_has(launch):
    with pytest.raises(EmulationError, match="launch: grid dimension 0, 6, is not a multiple of the cluster's, 4"):
        launch("places", (6,), (1,), (np.zeros(48, np.int32),), cluster=(4,))
    with pytest.raises(EmulationError, match="launch: clusters of 32 blocks; expected at most 16"):
        launch("places", (32,), (1,), (np.zeros(256, np.int32),), cluster=(32,))
