"""What a run leaves on the disk, and how it is found again after any crash.

    model.safetensors            the best model so far, for use
    resume-00000120.safetensors  all that is needed to go on after step 120; the last few are kept
    manifest.json                SHA-256, size and step of these files
    log.jsonl                    a line a step
    events.out.tfevents.*        the same for TensorBoard
    lock                         who trains here, see `gpu_lstm.training.lock`

A checkpoint is written beside its name, flushed, renamed, and its directory flushed; then the manifest, likewise;
then older checkpoints go. So whenever the power fails, the manifest names whole files only, and a file that it
doesn't name, or whose checksum is another, is passed over.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from gpu_lstm.errors import InputError
from gpu_lstm.training import checkpoint

BEST = "model.safetensors"
MANIFEST = "manifest.json"
LOG = "log.jsonl"


def resume_name(step: int) -> str:
    """File name of the checkpoint to go on from after `step`."""
    return f"resume-{step:08d}.safetensors"


def step_of(name: str) -> int | None:
    """The step in a resume checkpoint's name; None for any other name."""
    match = re.fullmatch(r"resume-(\d{8,18})\.safetensors", name)
    return int(match[1]) if match else None


def holds_run(folder: Path) -> bool:
    """Whether a folder holds a run that would be lost if another began there: more than an interrupted first save."""
    return (folder / MANIFEST).exists() or (folder.is_dir() and any(step_of(path.name) for path in folder.iterdir()))


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Entries by file name: ``sha256``, ``bytes``, ``step``; empty where there is none.

    Raises
    ------
    InputError
        It is damaged.
    """
    path = folder / MANIFEST
    if not path.exists():
        return {}
    try:
        files = json.loads(path.read_bytes())["files"]
        return {
            str(name): {"sha256": str(e["sha256"]), "bytes": int(e["bytes"]), "step": int(e["step"])}
            for name, e in files.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise InputError(
            f"manifest {path} is damaged, so no checkpoint here can be told whole from torn; "
            f"name the one to go on from: --resume {folder / 'resume-....safetensors'}"
        ) from None


def save(folder: Path, name: str, content: bytes, step: int, keep: int) -> None:
    """Write a checkpoint and the manifest; drop all but the last `keep` resume checkpoints up to `step`."""
    checkpoint.write_whole(folder / name, content)
    files = read_manifest(folder)
    files[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), "step": step}
    # What is from after this step is of a future that will be written again.
    steps = sorted(number for entry in files if (number := step_of(entry)) is not None and number <= step)
    kept = {resume_name(number) for number in steps[-keep:]}
    files = {entry: about for entry, about in files.items() if step_of(entry) is None or entry in kept}
    text = json.dumps({"files": dict(sorted(files.items()))}, indent=1) + "\n"
    checkpoint.write_whole(folder / MANIFEST, text.encode())
    tidy(folder, files)


def tidy(folder: Path, files: dict[str, dict[str, Any]]) -> None:
    """Remove checkpoints that the manifest's entries don't name, and parts of files that a crash left."""
    for path in folder.iterdir():
        if (step_of(path.name) is not None and path.name not in files) or path.name.endswith(".part"):
            path.unlink(missing_ok=True)


def trouble(folder: Path, name: str, files: dict[str, dict[str, Any]]) -> str:
    """Why a file can't be trusted; empty where it is whole."""
    path = folder / name
    if not path.is_file():
        return "it is missing"
    if name not in files:
        return "its save was interrupted: the manifest doesn't name it"
    size = path.stat().st_size
    if size != files[name]["bytes"]:
        return f"it is torn: {size} bytes; expected {files[name]['bytes']}"
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != files[name]["sha256"]:
            return "it is damaged: its checksum is another than the manifest's"
    return ""


def newest(folder: Path) -> tuple[Path, dict[str, np.ndarray], dict[str, Any], list[str]]:
    """The newest whole checkpoint of a run: path, arrays, description, and lines on what was passed over.

    Raises
    ------
    InputError
        There is no whole one, or the manifest is damaged.
    """
    if not folder.is_dir():
        raise InputError(f"run {folder} does not exist")
    files = read_manifest(folder)
    names = {name for name in [*files, *(path.name for path in folder.iterdir())] if step_of(name) is not None}
    if not names:
        raise InputError(f"folder {folder} has no checkpoint to go on from (resume-....safetensors)")
    notes: list[str] = []
    for name in sorted(names, key=lambda n: step_of(n) or 0, reverse=True):
        reason = trouble(folder, name, files)
        if not reason:
            try:
                return folder / name, *checkpoint.load(folder / name), notes
            except InputError as error:
                reason = str(error)
        notes.append(f"passed over {folder / name}: {reason}")
    raise InputError(f"run {folder} has no whole checkpoint to go on from; " + "; ".join(notes))


def check_best(folder: Path, step: int) -> str:
    """A line on the best model where it can't be used and won't be written again by going on from `step`."""
    files = read_manifest(folder)
    if BEST not in files or files[BEST]["step"] > step:
        return ""
    reason = trouble(folder, BEST, files)
    if not reason:
        return ""
    try:
        if int(checkpoint.load(folder / BEST)[1]["step"]) > step:
            return ""  # a newer one, whose save was interrupted before the manifest's; it will be written again
    except (InputError, KeyError, TypeError, ValueError):
        pass
    return f"{folder / BEST} can't be used: {reason}; the next better one takes its place"


def read_log(path: Path) -> list[dict[str, Any]]:
    """Lines of a log; a torn last line, from a process that was killed, is left out."""
    lines = []
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(entry, dict) and isinstance(entry.get("step"), int):
                lines.append(entry)
    return lines


def cut_log(path: Path, step: int) -> None:
    """Drop a log's lines from after a step, which will be written again."""
    kept = [line for line in read_log(path) if line["step"] <= step]
    checkpoint.write_whole(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
