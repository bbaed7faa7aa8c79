"""What this machine can do at most, measured in the same run: a large matrix product, large and small copies."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from gpu_lstm.backend import Backend
from gpu_lstm.bench import limits, threads
from gpu_lstm.bench.method import Patience, clock_for, interleave, on_gpu
from gpu_lstm.bench.peers import installed
from gpu_lstm.native.kernels import ARITHMETIC

SIDE = 2048
"""Of the square matrices on a CPU; four times that on a GPU."""
COPIED = 1 << 28
"""Bytes of the large copy."""
IN_CACHE = 1 << 18
"""Bytes that each thread copies, again and again, for the cache's rate."""
LAUNCHES = 1000


class Machine:
    """The limits of one backend's device in one dtype."""

    def __init__(self, backend: Backend, dtype: str):
        self.backend, self.dtype = backend, dtype
        self.on_gpu = on_gpu(backend)
        self.product_dtype = dtype if self.on_gpu else ARITHMETIC[dtype]  # what a CPU has in 16 bits it widens first
        self.clock = clock_for(backend)
        self.side = SIDE * (4 if self.on_gpu else 1)
        self.products = {backend.xp.__name__: self._product()}
        if not self.on_gpu and installed("torch"):
            self.products["torch"] = self._torch_product()
        self.copies, self.copied = (self._gpu_copies if self.on_gpu else self._cpu_copies)()
        self.cache_bytes = self._cache_bytes()
        self.seconds: dict[str, list[float]] = {}  # every time that `measure` took, by name
        self.product_by = ""  # the library whose matrix product was the fastest

    def measure(self, patience: Patience, rounds: int = 3) -> None:
        """Time everything, in turns; later calls time the fastest product again and add to what there is."""
        steps: dict[str, Callable[[], object]] = (
            {f"product {self.product_by}": self.products[self.product_by]}
            if self.product_by
            else {f"product {name}": step for name, step in self.products.items()} | self.copies
        )
        for name, times in interleave(steps, rounds, patience, dict.fromkeys(steps, self.clock)).items():
            self.seconds[name] = self.seconds.get(name, []) + times
        self.product_by = min(self.products, key=lambda name: min(self.seconds[f"product {name}"]))

    def ceilings(self) -> limits.Ceilings:
        """Rates from the best times: what the machine can do when nothing disturbs it."""
        best = {name: min(times) for name, times in self.seconds.items()}
        return limits.Ceilings(
            flops=2 * self.side**3 / best[f"product {self.product_by}"],
            memory=self.copied["copy"] / best["copy"],
            cache=self.copied["copy in cache"] / best["copy in cache"],
            cache_bytes=self.cache_bytes,
            launch=best["launches"] / LAUNCHES if "launches" in best else 0.0,
        )

    def describe(self) -> dict[str, Any]:
        """For the record."""
        ceilings = self.ceilings()
        return {
            "backend": self.backend.name,
            "dtype": self.dtype,
            "product": f"{self.side} x {self.side} by {self.product_by}",
            "flops": ceilings.flops,
            "memory": ceilings.memory,
            "cache": ceilings.cache,
            "cache_bytes": ceilings.cache_bytes,
            "launch": ceilings.launch,
            "seconds": self.seconds,
        }

    def _product(self) -> Callable[[], object]:
        shape, draw = (self.side, self.side), np.random.default_rng().random
        a, b = (self.backend.asarray(draw(shape, dtype=np.float32), self.product_dtype) for _ in range(2))
        out = self.backend.xp.empty(shape, dtype=a.dtype)
        return lambda: self.backend.matmul(a, b, out=out)

    def _torch_product(self) -> Callable[[], object]:
        torch: Any = importlib.import_module("torch")
        torch.set_num_threads(threads.count())
        a, b = (torch.rand(self.side, self.side, dtype=getattr(torch, self.product_dtype)) for _ in range(2))
        out = torch.empty_like(a)
        return lambda: torch.mm(a, b, out=out)

    def _cpu_copies(self) -> tuple[dict[str, Callable[[], object]], dict[str, float]]:
        """Each thread copies its part; NumPy releases the GIL for it."""
        workers, repeats = threads.count(), 1000
        pool = ThreadPoolExecutor(workers)
        large = [(np.ones(COPIED // workers, np.uint8), np.empty(COPIED // workers, np.uint8)) for _ in range(workers)]
        # The target repeats itself in memory, so that one call copies many times without a word of Python between.
        small = [
            (
                np.broadcast_to(np.ones(IN_CACHE // 2, np.uint8), (repeats, IN_CACHE // 2)),
                np.lib.stride_tricks.as_strided(np.empty(IN_CACHE // 2, np.uint8), (repeats, IN_CACHE // 2), (0, 1)),
            )
            for _ in range(workers)
        ]

        steps: dict[str, Callable[[], object]] = {
            "copy": lambda: list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), large)),
            "copy in cache": lambda: list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), small)),
        }
        return steps, {"copy": 2.0 * COPIED, "copy in cache": float(repeats * workers * IN_CACHE)}

    def _gpu_copies(self) -> tuple[dict[str, Callable[[], object]], dict[str, float]]:
        """Copies on the device, one that fits into the second-level cache, and empty launches."""
        xp = self.backend.xp
        size = max(int(self._cache_bytes()) // 4, 1)
        repeats = 64
        large, small = ((xp.ones(n, xp.uint8), xp.empty(n, xp.uint8)) for n in (4 * COPIED, size))
        one = xp.zeros(1, dtype=xp.float32)

        def again() -> None:
            for _ in range(repeats):
                xp.copyto(small[1], small[0])

        def launches() -> None:
            for _ in range(LAUNCHES):
                xp.add(one, 1, out=one)

        steps: dict[str, Callable[[], object]] = {
            "copy": lambda: xp.copyto(large[1], large[0]),
            "copy in cache": again,
            "launches": launches,
        }
        return steps, {"copy": 8.0 * COPIED, "copy in cache": 2.0 * repeats * size}

    def _cache_bytes(self) -> float:
        """Size of the last cache; 0 where the system doesn't tell."""
        if self.on_gpu:
            runtime = self.backend.xp.cuda.runtime
            return float(runtime.getDeviceProperties(self.backend.xp.cuda.Device().id)["l2CacheSize"])
        units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
        sizes = [0.0]
        for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
            text = path.read_text(encoding="ascii").strip()
            sizes.append(float(text[:-1]) * units[text[-1]] if text[-1] in units else float(text))
        return max(sizes)
