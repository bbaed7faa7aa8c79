"""The compiled CPU library: found and loaded.

It is built from ``kernels/cpu`` when the package is installed, and it is optional: without a compiler, or in a bare
checkout, the tiers that are plain NumPy run, and `missing` says why.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from gpu_lstm.errors import InputError
from gpu_lstm.native.entries import ENTRIES, INTERFACE, Entry

OFF_VARIABLE = "GPU_LSTM_COMPILED"
SETS = ("baseline", "avx2", "avx512")
"""Instruction sets in the library, by number."""
SUFFIXES = {np.dtype(np.float32): "f32", np.dtype(np.float64): "f64"}
"""Of its entries' names, by dtype."""


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled library, or None where there is none."""
    return _load()[0]


def missing() -> str:
    """Return why there is no compiled library; empty where there is one."""
    return _load()[1]


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    asked = os.environ.get(OFF_VARIABLE, "")
    if asked not in ("", "0", "1", *SETS):
        raise InputError(f"environment variable {OFF_VARIABLE} is {asked!r}; expected 0, 1 or one of {', '.join(SETS)}")
    if asked == "0":
        return None, f"turned off by {OFF_VARIABLE}=0"
    folder = Path(__file__).resolve().parent.parent
    path = folder / f"_cpu{importlib.machinery.EXTENSION_SUFFIXES[-1]}"  # the same for every Python of a platform
    if path.exists():
        try:
            loaded = ctypes.CDLL(str(path))
        except OSError as error:
            return None, f"the compiled library can't be loaded: {error}"
        if getattr(loaded, "gpu_lstm_interface", int)() == INTERFACE:
            return loaded, ""
        refused = f"{path} was compiled from other sources than these; pip install -e . compiles it again"
        logging.getLogger(__name__).warning("%s", refused)
        return None, refused
    return None, "not compiled: a bare checkout, or no C++17 compiler when it was installed (pip install . builds it)"


@functools.cache
def instruction_set() -> int:
    """Return the number of this processor's best instruction set, or of that which GPU_LSTM_COMPILED names (for tests).

    Raises InputError where the processor has not the named one.
    """
    loaded, named = library(), os.environ.get(OFF_VARIABLE)
    if loaded is None:
        return 0  # nothing is called then, and `missing` says why
    best = int(loaded.gpu_lstm_best_set())
    if named in SETS and SETS.index(named) > best:
        raise InputError(f"environment variable {OFF_VARIABLE} is {named}; this processor has up to {SETS[best]}")
    return SETS.index(named) if named in SETS else best


@functools.cache
def vnni_sets() -> int:
    """Return the numbers of instruction sets for which this processor has VNNI, added up."""
    loaded = library()
    return int(loaded.gpu_lstm_vnni()) if loaded else 0


@functools.cache
def function_of(name: str, dtype: np.dtype, instructions: str) -> tuple[Any, Entry, np.dtype]:
    """The library's function for a dtype and an instruction set, its row, and that dtype in native byte order."""
    loaded = library()
    assert loaded is not None, "only called where the library is there"
    entry, native = ENTRIES[name.removesuffix("_vnni")], dtype.newbyteorder("=")
    if native not in SUFFIXES:
        raise InputError(f"{entry.first} has dtype {dtype}; expected {' or '.join(map(str, SUFFIXES))}")
    function = loaded[f"gpu_lstm_{name}_{SUFFIXES[native]}_{instructions}"]
    function.restype = ctypes.c_int
    kinds: list[Any] = []
    for argument in entry.arguments:
        number = ctypes.c_double if argument.dtype == "double" else ctypes.c_int64
        kinds.append(ctypes.c_void_p if argument.shape or argument.many else number)
        kinds += [ctypes.c_void_p if argument.many else ctypes.c_int64] * len(argument.gaps)
    function.argtypes = kinds
    return function, entry, native
