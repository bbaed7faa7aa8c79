"""What a run leaves on the disk, and how it is found again after any crash.

    model.safetensors            the best model so far, for use; until the first validation the last one that was saved
    resume-00000120.safetensors  all that is needed to go on after step 120; the last few are kept
    manifest.json                SHA-256, size and step of these files
    log.jsonl                    a line a step
    events.out.tfevents.*        the same for TensorBoard
    lock                         who trains here, see `gpu_lstm.training.lock`
    loss.png, inspect.html, ...  what the commands make of it, see `MADE`

A checkpoint is written beside its name, flushed, renamed, and its directory flushed; then the manifest, likewise;
then older checkpoints go. So whenever the power fails, the manifest names whole files only, and a file that it
doesn't name, or whose checksum is another, is passed over.

The manifest also says that the folder is a run's, in which these names are ours. Where there is none, no file with such
a name is written to, and files with other names are never touched.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from gpu_lstm.errors import InputError
from gpu_lstm.training import checkpoint, lock, tensorboard

BEST = "model.safetensors"
MANIFEST = "manifest.json"
LOG = "log.jsonl"
PICTURE = "loss.png"
QUANTIZED = {"int8": "model-int8.safetensors", "bfloat16": "model-bfloat16.safetensors"}
"""The best model with weights of few bits, by what they are."""
MADE = (
    PICTURE, "forecast.csv", "forecast.png", "predictions.csv", "predictions.json", "inspect.html", "model.onnx",
    *QUANTIZED.values(),
)  # fmt: skip
"""What commands write beside a model if not told otherwise."""
OURS = (BEST, LOG, tensorboard.NAME, *MADE)
"""Names in a run's folder besides those of the manifest, the lock and the checkpoints to go on from."""


def resume_name(step: int) -> str:
    """File name of the checkpoint to go on from after `step`."""
    return f"resume-{step:08d}.safetensors"


def step_of(name: str) -> int | None:
    """The step in a resume checkpoint's name; None for any other name."""
    match = re.fullmatch(r"resume-(\d{8,18})\.safetensors", name)
    return int(match[1]) if match else None


def is_part(name: str) -> bool:
    """Whether a file is one that we were writing when a crash came."""
    whole = name.removesuffix(checkpoint.PART)
    return whole != name and (step_of(whole) is not None or whole in (MANIFEST, *OURS))


def holds_run(folder: Path) -> bool:
    """Whether a folder holds a run that would be lost if another began there: more than an interrupted first save."""
    return is_run(folder) or (folder.is_dir() and any(step_of(path.name) for path in folder.iterdir()))


def is_run(folder: Path) -> bool:
    """Whether a folder has a manifest, or what is left of one beside its checkpoints: its names are ours."""
    try:
        return bool(read_manifest(folder))
    except InputError:
        return any(step_of(path.name) is not None for path in folder.iterdir())


def check_unused(folder: Path) -> None:
    """Refuse a folder where a new run would overwrite something.

    Raises InputError where the folder holds a run, or files of others that have our names.
    """
    if holds_run(folder):
        raise InputError(
            f"{folder} already holds a run; go on with it by --resume {shlex.quote(str(folder))}, or name another"
        )
    check_names(folder)


def check_names(folder: Path) -> None:
    """Refuse a folder without a manifest that has files with our names, for nobody can tell whose they are.

    Raises InputError where the folder has such a file.
    """
    taken = [name for name in (MANIFEST, *OURS) if os.path.lexists(folder / name)]
    note = folder / lock.NAME
    if note.is_file() and (content := note.read_bytes()) and lock.Holder.read(content) is None:
        taken.append(lock.NAME)
    if taken:
        raise InputError(f"{folder / taken[0]} belongs to no run, and one here would overwrite it; name another folder")


def manifest(folder: Path) -> bytes | None:
    """The manifest as it lies there; None where there is none."""
    path = folder / MANIFEST
    return path.read_bytes() if path.exists() else None


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Entries by file name: ``sha256``, ``bytes``, ``step``; empty where there is none.

    Raises InputError where the manifest is damaged.
    """
    path, content = folder / MANIFEST, manifest(folder)
    if content is None:
        return {}
    try:
        files = json.loads(content)["files"]
        return {
            str(name): {"sha256": str(e["sha256"]), "bytes": int(e["bytes"]), "step": int(e["step"])}
            for name, e in files.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise InputError(
            f"manifest {path} is damaged, so no checkpoint here can be told whole from torn; "
            f"name the one to go on from: --resume {folder / 'resume-....safetensors'}"
        ) from None


def repair_manifest(folder: Path) -> bool:
    """Write a manifest that is damaged or missing anew, with what can be read; whether that was needed."""
    try:
        if read_manifest(folder):
            return False
    except InputError:
        pass
    files = {}
    for path in folder.glob("*.safetensors"):
        if path.name != BEST and step_of(path.name) is None:
            continue
        try:
            description = checkpoint.load(path)[1]
            step = step_of(path.name)
            step = int(description["step"]) if step is None else step
        except (InputError, KeyError, TypeError, ValueError, OverflowError):
            continue
        content = path.read_bytes()
        files[path.name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), "step": step}
    needed = bool(files) or manifest(folder) is not None
    if needed:
        _write_manifest(folder, files)
    return needed


def _write_manifest(folder: Path, files: dict[str, dict[str, Any]]) -> None:
    text = json.dumps({"files": dict(sorted(files.items()))}, indent=1) + "\n"
    checkpoint.write_whole(folder / MANIFEST, text.encode())


def save(folder: Path, name: str, content: bytes, step: int, keep: int) -> None:
    """Write a checkpoint and the manifest; drop all but the last `keep` resume checkpoints up to `step`."""
    checkpoint.write_whole(folder / name, content)
    files = read_manifest(folder)
    files[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), "step": step}
    # What is from after this step is of a future that will be written again.
    steps = sorted(number for entry in files if (number := step_of(entry)) is not None and number <= step)
    kept = {resume_name(number) for number in steps[-keep:]}
    files = {entry: about for entry, about in files.items() if step_of(entry) is None or entry in kept}
    _write_manifest(folder, files)
    tidy(folder, files)


def tidy(folder: Path, files: dict[str, dict[str, Any]]) -> None:
    """Remove checkpoints that the manifest's entries don't name, and parts of our files that a crash left."""
    for path in folder.iterdir():
        if (step_of(path.name) is not None and path.name not in files) or is_part(path.name):
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

    Raises InputError where the run has no whole checkpoint, or its manifest is damaged.
    """
    if not folder.is_dir():
        raise InputError(f"run {folder} does not exist")
    files = read_manifest(folder)
    names = {name for name in [*files, *(path.name for path in folder.iterdir())] if step_of(name) is not None}
    if not names:
        raise InputError(f"folder {folder} has no checkpoint to go on from (resume-....safetensors)")
    notes: list[str] = []
    for name in sorted(names, key=lambda n: step_of(n) or 0, reverse=True):
        try:
            reason = trouble(folder, name, files)
            if not reason:
                return folder / name, *checkpoint.load(folder / name), notes
        except (InputError, OSError) as error:
            reason = str(error)
        notes.append(f"passed over {folder / name}: {reason}")
    raise InputError(f"run {folder} has no whole checkpoint to go on from; " + "; ".join(notes))


def check_best(folder: Path, step: int) -> str:
    """A line on the best model where it can't be used and won't be written again by going on from `step`."""
    try:
        files = read_manifest(folder)
    except InputError:
        return ""
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


class Logs:
    """The two logs of a run, open to be written on after a step: what they have from later goes.

    What is in the folder and not named by its manifest is removed, too.
    """

    def __init__(self, folder: Path, step: int):
        cut_log(folder / LOG, step)
        tensorboard.cut(folder, step)
        tidy(folder, read_manifest(folder))
        self._lines: IO[bytes] = open(folder / LOG, "ab", buffering=0)  # noqa: SIM115 (closed by `close`)
        try:
            self._board = tensorboard.EventFile(folder)
        except BaseException:
            self._lines.close()
            raise

    def add(self, line: dict[str, Any], values: Mapping[str, float]) -> None:
        """Write a step's line, and its values by tag for TensorBoard."""
        tensorboard.append(self._lines, (json.dumps(line) + "\n").encode())
        self._board.add(line["step"], values)

    def flush(self) -> None:
        """Wait until all is on the disk."""
        for file in (self._lines, self._board):
            os.fsync(file.fileno())

    def close(self) -> None:
        """End writing."""
        self._board.close()
        self._lines.close()


def cut_log(path: Path, step: int) -> None:
    """Drop a log's lines from after a step, which will be written again."""
    kept = [line for line in read_log(path) if line["step"] <= step]
    checkpoint.write_whole(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
