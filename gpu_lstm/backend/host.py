"""What the machine says of itself: its free memory and its processor."""

from __future__ import annotations

import platform
from pathlib import Path


def free_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes that this process can still take, of the machine and of its control group if that is limited."""
    found = []
    try:
        for line in (root / "proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    except (OSError, ValueError, IndexError):
        pass
    for limit, used in (
        ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current"),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            left = int((root / limit).read_text("ascii")) - int((root / used).read_text("ascii"))
            lines = (root / limit).with_name("memory.stat").read_text("ascii").splitlines()
            statistics = dict(line.split() for line in lines)
            found.append(left + int(statistics.get("inactive_file", 0)))  # files that were read: given up when needed
        except (OSError, ValueError):
            pass
    return min(found) if found else None


def processor() -> str:
    """Return the name of the processor, as the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
