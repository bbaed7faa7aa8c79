"""TensorBoard event files, written and cut by hand: no library is needed.

A file is a chain of records: length (8 bytes), masked crc32c of it, content, masked crc32c of that, all little-endian
(TFRecord). The content is a protobuf ``Event``: wall_time (field 1, double), step (2, varint), and file_version
(3, string) or summary (5) = values (1), each a tag (1, string) and a simple_value (2, float).
"""

from __future__ import annotations

import errno
import os
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from gpu_lstm.errors import naming
from gpu_lstm.training.checkpoint import write_whole

NAME = "events.out.tfevents.0.gpu_lstm"


def _table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _table()


def masked_crc32c(content: bytes) -> int:
    """The checksum of TFRecord: CRC-32C (Castagnoli), rotated by 15 bits, plus a constant."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def record(content: bytes) -> bytes:
    """One TFRecord."""
    length = struct.pack("<Q", len(content))
    return length + struct.pack("<I", masked_crc32c(length)) + content + struct.pack("<I", masked_crc32c(content))


def scalars_event(step: int, values: Mapping[str, float], wall_time: float) -> bytes:
    """An Event with one simple value for each tag."""
    entries = b""
    for tag, value in values.items():
        entry = _bytes(1, tag.encode()) + b"\x15" + struct.pack("<f", value)
        entries += _bytes(1, entry)
    return b"\x09" + struct.pack("<d", wall_time) + b"\x10" + _varint(step) + _bytes(5, entries)


class EventFile:
    """Appends scalars to a run's event file; every record is handed to the system at once."""

    def __init__(self, folder: Path):
        self._file: IO[bytes] = open(folder / NAME, "ab", buffering=0)  # noqa: SIM115 (closed by `close`)
        if self._file.tell() == 0:
            try:
                self._write(b"\x09" + struct.pack("<d", time.time()) + _bytes(3, b"brain.Event:2"))
            except OSError:
                self.close()
                raise

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """One record with the values of a step, by tag."""
        self._write(scalars_event(step, values, time.time()))

    def _write(self, content: bytes) -> None:
        append(self._file, record(content))

    def fileno(self) -> int:
        """Of the open file."""
        return self._file.fileno()

    def close(self) -> None:
        """End writing."""
        self._file.close()


def append(file: IO[bytes], content: bytes) -> None:
    """Write to an unbuffered file, all of it.

    Raises OSError where the disk is full, or the like; it names the file.
    """
    with naming(file.name):
        if file.write(content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def events(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Whole records of one of our files: where each ends, its step, its content without the time.

    It ends at the first torn one.
    """
    content = path.read_bytes() if path.exists() else b""
    at = 0
    while at + 12 <= len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        end = at + 12 + length + 4
        body = content[at + 12 : end - 4]
        if end > len(content) or record(body) != content[at:end]:
            return
        at = end
        yield at, _step(body[9:]), body[9:]


def cut(folder: Path, step: int) -> None:
    """Drop what comes after a step, and torn records, from a run's event file."""
    path = folder / NAME
    keep = 0
    for end, at_step, _ in events(path):
        if at_step > step:
            break
        keep = end
    if path.exists():
        write_whole(path, path.read_bytes()[:keep])


def _step(event: bytes) -> int:
    """The step of an event without its time; 0 for the first one of a file, which has none."""
    step = 0
    if event[:1] == b"\x10":
        for place, byte in enumerate(event[1:]):
            step |= (byte & 127) << 7 * place
            if byte < 128:
                break
    return step


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def _bytes(field: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return bytes([field << 3 | 2]) + _varint(len(content)) + content
