"""Records: what was measured, where and how; written whole after every point, so that nothing is ever lost."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpu_lstm import __version__
from gpu_lstm.backend import CupyBackend, NumpyBackend
from gpu_lstm.bench import threads
from gpu_lstm.bench.peers import installed
from gpu_lstm.errors import BackendError, InputError
from gpu_lstm.native import compiled
from gpu_lstm.training.checkpoint import write_whole

FORMAT = 1
PACKAGES = ("numpy", "torch", "onnxruntime", "jax", "keras", "cupy-cuda12x", "cupy-cuda13x")


def provenance(command: str, packages: tuple[str, ...] = PACKAGES) -> dict[str, Any]:
    """What is measured, where and when; call it first, since it notes the load.

    `command` is as one would type it again; versions of those `packages` that are installed are noted.
    """
    versions = {package: installed(package) for package in packages}
    return {
        "format": FORMAT,
        "gpu_lstm": __version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": NumpyBackend().describe()["device"],
        "gpu": _gpu(),
        "cores": os.cpu_count(),
        "threads": threads.count(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "compiled": compiled.missing() or compiled.words(),
        **{package: version for package, version in versions.items() if version},
        "revision": revision(),
        "command": command,
    }


def command_line(program: str) -> str:
    """The command that runs now, for `provenance`."""
    import shlex

    return shlex.join([*program.split(), *sys.argv[1:]])


def revision() -> str:
    """Git revision of this very source, empty where it is not in a checkout."""
    here = Path(__file__).resolve().parent
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=here, timeout=10
        )
        top = subprocess.run(["git", "ls-files", "."], capture_output=True, text=True, cwd=here, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    # An installed package may lie inside somebody else's repository.
    return result.stdout.strip() if result.returncode == 0 and top.stdout.strip() else ""


def _gpu() -> dict[str, str] | None:
    try:
        return CupyBackend().describe()
    except BackendError:
        return None


def write(record: dict[str, Any], path: Path | None) -> None:
    """Write a record as JSON, whole or not at all, where a path is given."""
    if path:
        write_whole(path, (json.dumps(record, indent=1) + "\n").encode())


def read(path: Path) -> dict[str, Any]:
    """Read a record of `gpu-lstm bench`.

    Raises InputError where `path` is no file, or no such record.
    """
    if path.is_dir():
        path = path / "record.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"record {path} does not exist") from None
    except (OSError, ValueError) as error:
        raise InputError(f"record {path} can't be read: {error}") from None
    parts = ("points", "machines")  # the compare scripts' records have no machines
    if (
        not isinstance(record, dict)
        or record.get("format") != FORMAT
        or not all(isinstance(record.get(part), list) for part in parts)
    ):
        raise InputError(f"record {path} is none of gpu-lstm bench (format {FORMAT})")
    return record


COLUMNS = (
    "backend", "kind", "dtype", "T", "B", "D", "H", "side", "median_ms", "low_ms", "high_ms", "gflops",
    "share_of_product", "over_floor", "error", "peak_bytes", "remark",
)  # fmt: skip


def rows(record: dict[str, Any]) -> list[dict[str, Any]]:
    """One for each side at each point, by `COLUMNS`."""
    found = []
    for point in record["points"]:
        where = {key: point[key] for key in ("backend", "kind", "dtype")} | dict(
            zip("TBDH", point["size"], strict=True)
        )
        if "skipped" in point:
            found.append(where | {"remark": point["skipped"]})
        for name, side in point.get("sides", {}).items():
            row: dict[str, Any] = where | {"side": name, "remark": side.get("remark", ""), "error": side.get("error")}
            if "median" in side:
                row |= {f"{part}_ms": side[part] * 1e3 for part in ("median", "low", "high")}
                row |= {key: side[key] for key in ("gflops", "share_of_product", "over_floor")}
            found.append(row | {"peak_bytes": point.get("peak_bytes", {}).get(name)})
    return found


def as_csv(record: dict[str, Any]) -> str:
    """`rows` as a file of comma-separated values."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(record))
    return out.getvalue()


def as_table(record: dict[str, Any]) -> list[list[str]]:
    """`rows` for reading and copying, below the names of the columns."""
    lines = ([row.get(column) for column in COLUMNS] for row in rows(record))
    shown = ([f"{cell:.4g}" if isinstance(cell, float) else str(cell or "") for cell in line] for line in lines)
    return [list(COLUMNS), *shown]
