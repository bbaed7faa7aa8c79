"""What the doors share: packages they need, whether another library can express an LSTM of ours, and paths."""

from __future__ import annotations

import importlib
from collections.abc import Set
from pathlib import Path
from typing import Any

from gpu_lstm.errors import BackendError, InputError
from gpu_lstm.layers import LSTM

NOISE = frozenset({"input_dropout", "recurrent_dropout", "weight_dropout"})
"""Options that do nothing in evaluation."""


def package(name: str, what: str, extra: str) -> Any:
    """Import the package that `what` needs, which the named extra of ours installs.

    Raises BackendError where the package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise BackendError(
            f'{what} needs the package {name}; install it with `pip install "gpu-lstm[{extra}]"`'
        ) from None


def check_options(lstm: LSTM, takes: Set[str], other: str) -> None:
    """Refuse an LSTM with an option that changes what it computes in evaluation and that is not in `takes`.

    Raises InputError where the LSTM has such an option; the message names it.
    """
    beyond = {name: value for name, value in lstm.options.on().items() if name not in takes | NOISE}
    if beyond:
        listed = ", ".join(f"{name}={value!r}" for name, value in beyond.items())
        raise InputError(f"lstm has {listed}; expected none of that: {other} has no such option")


def check_path(path: Any) -> Path:
    """Return a path to write to, if it is one.

    Raises InputError where `path` is no path, or that of a folder.
    """
    if not isinstance(path, str | Path):
        raise InputError(f"path is a {type(path).__name__}; expected a str or a Path")
    if Path(path).is_dir():
        raise InputError(f"path is the folder {path}; expected a file")
    return Path(path)
