"""The same number of threads on every side: libraries read it from the environment as they load.

NumPy has loaded by the time that a command line is read, so a command that measures starts itself again with the
variables set (`ensure`). Children that measure memory inherit them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping, Sequence

from gpu_lstm.native import compiled

VARIABLES = (
    "GPU_LSTM_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NPROC",  # XLA's pool
)


def count() -> int:
    """Threads of each side: what our compiled code takes from the environment."""
    return compiled.threads()


def set_variables(number: int, environment: MutableMapping[str, str]) -> None:
    """Write the variables."""
    environment.update({variable: str(number) for variable in VARIABLES})


def ensure(number: int, arguments: Sequence[str]) -> None:
    """Return if the variables are set; else start ``python ARGUMENTS`` with them in the place of this process."""
    if all(os.environ.get(variable) == str(number) for variable in VARIABLES):
        return
    set_variables(number, os.environ)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *arguments])
