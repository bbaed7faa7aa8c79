"""One process per run directory: a lock that a crash can't leave behind.

The lock is the system's (on the file ``lock``): it ends with its process, whatever ended that. The file's content only
says who holds it, and nothing once the run is left. Where the system or a file system has no locks, that content
decides, and a stale one is recognised by the process' id and start time and the machine's boot.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from gpu_lstm.errors import InputError, naming

HAS_FLOCK = importlib.util.find_spec("fcntl") is not None
NAME = "lock"
FAR = 1 << 30
"""Where Windows locks a byte: away from the content, which a locked byte would keep others from reading."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock: a process, told apart from a later one with the same id."""

    pid: int
    host: str
    boot: str
    started: str

    @classmethod
    def here(cls) -> Holder:
        """This process."""
        return cls(os.getpid(), socket.gethostname(), _boot(), _started(os.getpid()))

    @classmethod
    def read(cls, text: bytes) -> Holder | None:
        """From a lock file's content; None where it names no one."""
        try:
            content = json.loads(text)
            return cls(int(content["pid"]), str(content["host"]), str(content["boot"]), str(content["started"]))
        except (ValueError, TypeError, KeyError, RecursionError):
            return None

    def gone(self) -> bool:
        """Whether that process surely runs no more."""
        here = Holder.here()
        if self.host != here.host:
            return False
        return self.boot != here.boot or _started(self.pid) != self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@contextmanager
def locked(folder: Path) -> Iterator[Holder | None]:
    """Hold the folder's lock; gives the holder that died with it, if there was one.

    Raises InputError where another process holds it; the message has its id and host.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    # A link is not followed: what it points to isn't ours to write to.
    file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0), 0o644)
    try:
        with naming(path):
            held, before = _try_lock(file), Holder.read(_read(file))
        gone = before is not None and before.gone()
        if held is False or (held is None and before is not None and not gone):
            raise InputError(f"run {folder} is in use by {before or 'another process'}; wait for it or end it first")
        with naming(path):
            _write(file, json.dumps(asdict(Holder.here())).encode())
        try:
            yield before if gone else None
        finally:
            with naming(path):
                _write(file, b"")
    finally:
        os.close(file)


def _try_lock(file: int) -> bool | None:
    """Whether the system's lock was free; None where there is no such lock."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(file, FAR, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
            return True
        except OSError:
            return False
    if not HAS_FLOCK:
        return None
    from fcntl import LOCK_EX, LOCK_NB, flock

    try:
        flock(file, LOCK_EX | LOCK_NB)
        return True
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            return None
        raise


def _read(file: int) -> bytes:
    os.lseek(file, 0, os.SEEK_SET)  # not every system has pread
    return os.read(file, 4096)


def _write(file: int, content: bytes) -> None:
    os.ftruncate(file, 0)
    os.lseek(file, 0, os.SEEK_SET)
    os.write(file, content)


def _boot() -> str:
    """What tells this boot of the machine from another; empty where the system doesn't say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process started, in the system's ticks; "none" where it doesn't run."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        pass
    if sys.platform == "win32":
        return ""  # there, a signal of 0 would be a Ctrl-C
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return "none"
    except OSError:
        pass
    return ""
