"""Arrays with the numbers of another one that lie in memory in odd ways."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def gapped(a):
    """Every second element of a wider array."""
    wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
    wide[..., ::2] = a
    return wide[..., ::2]


def backward(a):
    """Its first axis runs backward."""
    return a[::-1].copy()[::-1]


def misaligned(a):
    """It begins at an odd address."""
    memory = np.zeros(a.nbytes + 1, np.uint8)
    odd = memory[1:].view(a.dtype).reshape(a.shape)
    odd[...] = a
    return odd


def in_packed_record(a):
    """A field of records, whose size is no multiple of an element's."""
    records = np.zeros(a.shape, np.dtype([("tag", "u1"), ("value", a.dtype)]))
    records["value"] = a
    return records["value"]


def swapped(a):
    """In the other byte order."""
    return a.astype(a.dtype.newbyteorder())


def read_only(a):
    """It can't be written to."""
    a = a.copy()
    a.flags.writeable = False
    return a


def mapped(a):
    """A file that can't be written to."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "array.npy"
        np.save(path, a)
        return np.load(path, mmap_mode="r")


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "gaps": gapped,
    "backward": backward,
    "Fortran order": np.asfortranarray,
    "misaligned": misaligned,
    "in a packed record": in_packed_record,
    "the other byte order": swapped,
    "read-only": read_only,
    "a memory map": mapped,
}
