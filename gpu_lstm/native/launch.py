"""CUDA kernels compiled by NVRTC through CuPy, and launched; and what a GPU has, as far as that matters to them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_lstm.errors import BackendError
from gpu_lstm.native import catalogue, clusters, kernels
from gpu_lstm.native.kernels import Kernel, Launch, flags, passed

INSTALL = 'install it with `pip install "gpu-lstm[cuda13]"` (or [cuda12] for an older driver)'
ALWAYS_THERE = 48 * 1024
"""Bytes of shared memory that a block may have without being allowed more."""
_NULL = np.uintp(0)


@dataclass(frozen=True)
class Device:
    """What a GPU has, as far as a kernel that keeps data on chip must know."""

    multiprocessors: int
    shared_bytes: int  # shared memory that one block may have
    capability: int  # compute capability, 90 for 9.0
    cooperative: bool = True  # whether a launch can have all its blocks resident
    # clusters of `catalogue.CLUSTER` blocks, one block a multiprocessor, that a cooperative launch can have resident; 0
    # where there is no way to launch them so
    clusters: int = 0
    # such clusters of any launch that run at once, as the driver says; None where it couldn't be asked
    counted: int | None = None
    # of `catalogue.FORMS`, those in which a recurrence may be planned, forward and backward
    forms: tuple[tuple[str, ...], tuple[str, ...]] = (catalogue.FORMS, catalogue.FORMS)

    @property
    def clusters_at_once(self) -> int:
        """Clusters of any launch that run at once: where the driver couldn't be asked, on all multiprocessors."""
        if self.counted is not None:
            return self.counted
        return self.multiprocessors // catalogue.CLUSTER if self.capability >= catalogue.CLUSTERS_SINCE else 0


def function_of(xp: Any, kernel: Kernel, architecture: int) -> Any:
    """Return CuPy's function for a kernel, compiled for the current device.

    Raises BackendError where the kernel can't be compiled here.
    """
    from gpu_lstm.native.ahead import said_if_slow  # not before CuPy, whose import takes longer

    module = xp.RawModule(
        code=kernel.source,
        options=flags(),
        name_expressions=[kernel.expression],
        enable_cooperative_groups=kernel.cooperative,
    )
    try:
        with said_if_slow(kernel, architecture):
            return module.get_function(kernel.expression)
    except Exception as error:  # compiler, loader and missing libraries each raise their own
        raise not_compiled(kernel, error) from None


def compiled(xp: Any, device: Any, limits: Device, kernel: Kernel) -> Launch:
    """Return a kernel, compiled for CuPy's `device`, as what launches it on that device's current stream.

    A launch raises `BackendError` where its blocks wait for each other and can't all run at once.
    """
    function = function_of(xp, kernel, limits.capability)
    # What a function is asked and told once: the driver takes microseconds for each.
    allowed, fitting = ALWAYS_THERE, set()

    def launch(grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], shared_bytes: int = 0) -> None:
        nonlocal allowed
        device.use()
        if shared_bytes > allowed:
            most = limits.shared_bytes - function.shared_size_bytes
            function.max_dynamic_shared_size_bytes = most
            allowed = most
        if kernel.cooperative and (asked := (*grid, *block, shared_bytes)) not in fitting:
            _require_resident(xp, limits, kernel, function, math.prod(grid), math.prod(block), shared_bytes)
            fitting.add(asked)
        if kernel.cooperative and kernel.cluster > 1:
            stream = xp.cuda.get_current_stream().ptr
            clusters.launch(function.kernel.ptr, grid, block, kernel.cluster, args, shared_bytes, stream)
            return
        function(grid, block, tuple([_argument(arg) for arg in args]), shared_mem=shared_bytes)

    return launch


def _require_resident(
    xp: Any, limits: Device, kernel: Kernel, function: Any, blocks: int, threads: int, shared_bytes: int
) -> None:
    """Refuse a launch whose blocks wait for each other and can't all run at once: it would never end."""
    if kernel.cluster > 1:
        resident = clusters.resident(function.kernel.ptr, kernel.cluster, threads, shared_bytes) * kernel.cluster
    else:
        occupancy = xp.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor
        resident = occupancy(function.kernel.ptr, threads, shared_bytes) * limits.multiprocessors
    if blocks > resident:
        raise BackendError(
            f"CUDA kernel {kernel.expression} needs {blocks} blocks at once; this device can run {resident} "
            f"of {threads} threads and {shared_bytes} bytes of shared memory (use tier pointwise)"
        )


def count_clusters(xp: Any, limits: Device) -> tuple[Device, str]:
    """Ask the driver how many clusters run at once, one block a multiprocessor: the limits with what it said.

    And why it can't be asked, or that there is no room for any; empty where all is well.
    """
    if limits.capability < catalogue.CLUSTERS_SINCE:
        return limits, ""
    if not clusters.available():
        return limits, f"no cuda.bindings ({clusters.INSTALL})"
    kernel, why_none = catalogue.kernel("sums_in_cluster"), ""
    try:
        function = function_of(xp, kernel, limits.capability)
        function.max_dynamic_shared_size_bytes = limits.shared_bytes
        asked = function.kernel.ptr, kernel.cluster, kernels.BLOCK, limits.shared_bytes
        limits = dataclasses.replace(limits, counted=clusters.resident(*asked, waiting=False))
        if limits.capability in catalogue.JOINT and limits.cooperative:
            limits = dataclasses.replace(limits, clusters=clusters.resident(*asked))
    except Exception as error:  # the compiler's, the driver's, of a library that is too old
        why_none = str(error) or type(error).__name__
    return limits, "the driver says that none fits" if limits.counted == 0 else why_none


def copied_at_replay(xp: Any, host: np.ndarray) -> tuple[np.ndarray, Any]:
    """Return pinned memory like `host`, and an array that is filled from it, now or whenever a graph is replayed."""
    pinned = xp.cuda.alloc_pinned_memory(host.nbytes)
    memory = np.frombuffer(pinned, host.dtype, host.size).reshape(host.shape)
    array, cuda = xp.empty(host.shape, dtype=host.dtype), xp.cuda
    # CuPy's own copy refuses while a stream is captured.
    cuda.runtime.memcpyAsync(
        array.data.ptr, memory.ctypes.data, host.nbytes, cuda.runtime.memcpyHostToDevice,
        cuda.get_current_stream().ptr,
    )  # fmt: skip
    return memory, array


def not_compiled(kernel: Kernel, error: Exception) -> BackendError:
    """Return the error for a kernel that can't be compiled: what is missing and how to get it, or the compiler's own
    words."""
    text = str(error)
    lines = [line.strip() for line in text.splitlines() if "error" in line] or text.strip().splitlines()[:1]
    said = lines[0] if lines else type(error).__name__
    if "could not open source file" in text or "cannot open source file" in text:
        cure = f"CUDA's headers are missing; {INSTALL}"
    elif "nvrtc" in text.lower() or isinstance(error, ImportError | OSError):
        cure = f"CUDA's compiler NVRTC is missing or too old for this device; {INSTALL}"
    else:
        cure = "tier reference runs without kernels; please report this with the output of `gpu-lstm info`"
    return BackendError(f"CUDA kernel {kernel.expression} can't be compiled: {said}; {cure}")


def _argument(value: Any) -> Any:
    """As CuPy takes it, which has no other form of a null pointer or of a struct."""
    if value is None:
        return _NULL
    return passed(value) if isinstance(value, tuple) else value
