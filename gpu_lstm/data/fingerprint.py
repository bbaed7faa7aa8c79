"""What tells data apart from other data: by content, and cheap for files of many gigabytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from gpu_lstm.data.files import BLOCK, find_file
from gpu_lstm.data.text import text_files
from gpu_lstm.errors import InputError, naming

WHOLE = 1 << 30
"""Bytes up to which all are hashed; of more, about as many in blocks spread evenly."""


class Fingerprint(TypedDict):
    """Size and content of a file, or of all files of a folder."""

    bytes: int
    sha256: str


def fingerprint(path: str | Path, include: Sequence[str] = ()) -> Fingerprint:
    """Hash a file or the files of a folder that `read_text` takes, in its order: their sizes and content.

    Up to `WHOLE` bytes all are read, of more a block in regular distances. Names and times don't matter. Raises
    InputError where nothing there, empty or unreadable.
    """
    files = _files(path, include)
    sizes = [file.stat().st_size for file in files]
    stride = BLOCK * max(1, -(-sum(sizes) // WHOLE))
    digest = hashlib.sha256(json.dumps(sizes).encode())
    for name, size in zip(files, sizes, strict=True):
        with naming(name), open(name, "rb") as file:
            for start in range(0, size, stride):
                file.seek(start)
                digest.update(file.read(BLOCK))
    return {"bytes": sum(sizes), "sha256": digest.hexdigest()}


def check_unchanged(path: str | Path, expected: Fingerprint, include: Sequence[str] = ()) -> None:
    """Refuse data other than those of a fingerprint; nothing is read of them where already their size is another.

    Raises InputError where the data are others, or can't be read, see `fingerprint`.
    """
    size = sum(file.stat().st_size for file in _files(path, include))
    if size != expected["bytes"]:
        raise InputError(f"{path} has {size} bytes; the run trained on {expected['bytes']}")
    if fingerprint(path, include) != expected:
        raise InputError(f"{path} has another content than what the run trained on, though as many bytes")


def _files(path: str | Path, include: Sequence[str]) -> list[Path]:
    return text_files(path, include) if Path(path).is_dir() else [find_file(path, "data file")]
