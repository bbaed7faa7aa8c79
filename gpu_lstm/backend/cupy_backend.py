"""The CuPy backend: one NVIDIA GPU. CuPy is imported when the backend is made, never before."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu_lstm.backend.base import Array, Backend
from gpu_lstm.errors import BackendError

INSTALL = 'install it with `pip install "gpu-lstm[cuda13]"` (or [cuda12] for an older driver)'


class CupyBackend(Backend):
    """Arrays are ``cupy.ndarray`` on one device.

    Parameters
    ----------
    device : int
        CUDA device number.

    Raises
    ------
    BackendError
        CuPy isn't installed, there is no driver, or no such device; `reason` holds the short form.
    """

    def __init__(self, device: int = 0):
        self.xp, self.device = _load(device)
        self.name = f"cupy:{device}"
        self.why = f"{self.name} ({self.describe()['device']})"

    def asarray(self, value: Any, dtype: str | None = None) -> Array:  # noqa: D102
        with self.device:
            return self.xp.asarray(value, dtype=dtype)

    def to_numpy(self, x: Array) -> np.ndarray:  # noqa: D102
        host: np.ndarray = self.xp.asnumpy(x)
        return host

    def owns(self, x: Any) -> bool:  # noqa: D102
        return isinstance(x, self.xp.ndarray) and x.device == self.device

    def dtype(self, name: str) -> Any:  # noqa: D102
        return np.dtype(name)

    def matmul(self, a: Array, b: Array, out: Array, add: bool = False) -> Array:  # noqa: D102
        return super().matmul(a, b, out, add) if add else self.xp.matmul(a, b, out=out)

    def tanh(self, x: Array, out: Array) -> Array:  # noqa: D102
        return self.xp.tanh(x, out=out)

    def multiply(self, a: Array, b: Array, out: Array) -> Array:  # noqa: D102
        return self.xp.multiply(a, b, out=out)

    def synchronize(self) -> None:  # noqa: D102
        self.device.synchronize()

    def describe(self) -> dict[str, str]:  # noqa: D102
        runtime = self.xp.cuda.runtime
        name = runtime.getDeviceProperties(self.device.id)["name"]
        return {
            "backend": self.name,
            "cupy": self.xp.__version__,
            "cuda": str(runtime.runtimeGetVersion()),
            "driver": str(runtime.driverGetVersion()),
            "device": name.decode() if isinstance(name, bytes) else str(name),
        }


def _load(device: int) -> tuple[Any, Any]:
    """CuPy and the device, made current, after a first allocation has proved that it runs."""
    try:
        import cupy
    except ImportError as missing:
        if missing.name and missing.name.split(".")[0] == "cupy":
            raise unavailable("no CuPy", f"CuPy is not installed; {INSTALL}") from None
        raise unavailable("CuPy can't be imported", f"CuPy can't be imported: {missing}; {INSTALL}") from None
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise unavailable(
            "CuPy found, no NVIDIA driver",
            f"CuPy found no usable NVIDIA driver ({error}); install the driver",
        ) from None
    if device >= count:
        raise unavailable(
            f"CuPy found, {count} device(s)", f"device {device} asked for; expected one of 0..{count - 1}"
        )
    chosen = cupy.cuda.Device(device)
    try:
        chosen.use()
        cupy.zeros(1) + 1
    except Exception as error:  # whatever the first kernel raises, the device can't be used
        raise unavailable(
            "CuPy found, but its first kernel failed", f"CuPy's first kernel failed: {error}; {INSTALL}"
        ) from None
    return cupy, chosen


def unavailable(reason: str, message: str) -> BackendError:
    """Error for a GPU that can't be used, with the short `reason` that ``auto`` prints."""
    error = BackendError(f"backend cupy can't run here: {message}")
    error.add_note(reason)
    return error
