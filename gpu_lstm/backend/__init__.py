"""Where arrays live: a backend, NumPy and CuPy as such, and the choice between them."""

from __future__ import annotations

import os

from gpu_lstm.backend.base import DTYPES, PARAM_DTYPES, Array, Backend, into, widened
from gpu_lstm.backend.cupy_backend import CupyBackend, devices
from gpu_lstm.backend.numpy_backend import NumpyBackend
from gpu_lstm.errors import BackendError, InputError

__all__ = [
    "DTYPES", "PARAM_DTYPES", "VARIABLE", "Array", "Backend", "CupyBackend", "NumpyBackend", "choose", "devices",
    "into", "widened",
]  # fmt: skip

VARIABLE = "GPU_LSTM_BACKEND"
"""Environment variable that names the backend where no argument does."""


def choose(name: str | Backend | None = None) -> Backend:
    """Return the backend of that name.

    Parameters
    ----------
    name : {"auto", "numpy", "cupy", "cupy:N"}, Backend or None
        ``auto`` takes the GPU where one can run, else the CPU, and says why in ``backend.why``.
        None reads the environment variable ``GPU_LSTM_BACKEND``, then means ``auto``.

    Raises
    ------
    InputError
        No backend has that name.
    BackendError
        The named backend can't run here; the message says what to install.

    Examples
    --------
    >>> choose("numpy").why
    'numpy (chosen by name)'
    """
    if isinstance(name, Backend):
        return name
    source = "backend"
    if name is None:
        name, source = os.environ.get(VARIABLE) or "auto", f"environment variable {VARIABLE}"
    kind, colon, device = name.partition(":") if isinstance(name, str) else ("", "", "")
    if kind == "cupy" and (not colon or device.isdecimal()):
        return CupyBackend(int(device or 0))
    if kind == "numpy" and not colon:
        return NumpyBackend("numpy (chosen by name)")
    if kind == "auto" and not colon:
        try:
            return CupyBackend()
        except BackendError as error:
            return NumpyBackend(f"numpy ({error.__notes__[0]})")
    raise InputError(f"{source} is {name!r}; expected auto, numpy, cupy or cupy:N")
