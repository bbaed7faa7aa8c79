"""Launches whose blocks all run at once, in clusters: CuPy has none, NVIDIA's ``cuda.bindings`` does, where installed.

It takes CuPy's function handles, arrays and streams.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from gpu_lstm.errors import BackendError
from gpu_lstm.native.kernels import passed

INSTALL = "pip install cuda-bindings, of CuPy's major version of CUDA"


def available() -> bool:
    """Return whether ``cuda.bindings`` is there."""
    try:
        from cuda.bindings import driver  # noqa: F401
    except ImportError:
        return False
    return True


@functools.lru_cache(maxsize=256)
def resident(function: int, cluster: int, threads: int, shared_bytes: int, waiting: bool = True) -> int:
    """Return how many clusters of so many blocks can run at once; `waiting`: all of a launch, for each other.

    A driver that doesn't take the question with both attributes is asked with that of clusters alone: it is one of how
    much there is, not of who waits for whom.
    """
    from cuda.bindings import driver

    config = _config(driver, (cluster,), (threads,), cluster, shared_bytes, 0)
    both, alone = config.attrs, config.attrs[1:]
    for attributes in (both, alone) if waiting else (alone,):
        config.attrs, config.numAttrs = attributes, len(attributes)
        answer = driver.cuOccupancyMaxActiveClusters(function, config)
        if int(answer[0]) == 0:
            break
    return int(_done("cuOccupancyMaxActiveClusters", answer))


def launch(
    function: int,
    grid: tuple[int, ...],
    block: tuple[int, ...],
    cluster: int,
    args: tuple[Any, ...],
    shared_bytes: int,
    stream: int,
) -> None:
    """Launch with arguments as `kernels.Launch` has them."""
    from cuda.bindings import driver

    config = _config(driver, grid, block, cluster, shared_bytes, stream)
    values = [passed(arg) for arg in args]
    places = np.array([value.ctypes.data for value in values], dtype=np.uint64)
    _done("cuLaunchKernelEx", driver.cuLaunchKernelEx(config, function, places.ctypes.data, 0))


def _config(
    driver: Any, grid: tuple[int, ...], block: tuple[int, ...], cluster: int, shared_bytes: int, stream: int
) -> Any:
    config, together, clusters = driver.CUlaunchConfig(), driver.CUlaunchAttribute(), driver.CUlaunchAttribute()
    config.gridDimX, config.gridDimY, config.gridDimZ = math.prod(grid), 1, 1
    config.blockDimX, config.blockDimY, config.blockDimZ = math.prod(block), 1, 1
    config.sharedMemBytes, config.hStream = shared_bytes, driver.CUstream(stream)
    together.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_COOPERATIVE
    together.value.cooperative = 1
    clusters.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
    clusters.value.clusterDim.x, clusters.value.clusterDim.y, clusters.value.clusterDim.z = cluster, 1, 1
    config.attrs, config.numAttrs = [together, clusters], 2
    return config


def _done(name: str, answer: tuple[Any, ...]) -> Any:
    """What a call gave besides its status."""
    from cuda.bindings import driver

    status, *results = answer
    if int(status) != 0:
        why = driver.cuGetErrorString(status)[1] or b""
        raise BackendError(f"{name} failed: {status!r}, {why.decode()} (use tier pointwise)")
    return results[0] if results else None
