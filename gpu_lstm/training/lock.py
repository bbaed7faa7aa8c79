"""One process per run directory: a lock that a crash can't leave behind.

The lock is the system's (``flock`` on the file ``lock``): it ends with its process, whatever ended that. The file's
content only says who holds it. Where a file system has no ``flock``, that content decides, and a stale one is
recognised by the process' id and start time and the machine's boot.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from gpu_lstm.errors import InputError

HAS_FLOCK = importlib.util.find_spec("fcntl") is not None
NAME = "lock"


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

    Raises
    ------
    InputError
        Another process holds it; the message has its id and host.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
    try:
        held = _try_flock(file)
        before = Holder.read(os.pread(file, 4096, 0))
        if held is False or (held is None and before is not None and not before.gone() and before != Holder.here()):
            raise InputError(f"run {folder} is in use by {before or 'another process'}; wait for it or end it first")
        _write(file, json.dumps(asdict(Holder.here())).encode())
        yield before
        _write(file, b"")
    finally:
        os.close(file)


def _try_flock(file: int) -> bool | None:
    """Whether the system's lock was free; None where there is no such lock."""
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


def _write(file: int, content: bytes) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, content, 0)


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
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return "none"
    except OSError:
        pass
    return ""
