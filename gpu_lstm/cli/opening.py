"""The trained model that a command was given: which file it is, of what kind, its data, and the model itself."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpu_lstm.backend import Backend
from gpu_lstm.cli.options import RUNS, SHIPPED, data_path
from gpu_lstm.data.fingerprint import Fingerprint, check_unchanged
from gpu_lstm.errors import InputError
from gpu_lstm.models import Model
from gpu_lstm.training.checkpoint import load, model_of
from gpu_lstm.training.folder import is_run


class Opened(NamedTuple):
    """A checkpoint that was read; its model isn't made yet."""

    path: Path
    kind: str
    description: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def model(self, backend: Backend, tier: str = "auto") -> Model:
        """Make the model."""
        return model_of(self.arrays, self.description, self.path, backend, tier)

    def data(self, given: str | None) -> str:
        """What the user gave as data, else what the model was trained on, see `trained_on`."""
        return given or trained_on(self.path, self.description)


@contextmanager
def opened(options: argparse.Namespace, *kinds: str) -> Iterator[Opened]:
    """Read the checkpoint that options name, which is of one of these kinds, for as long as the command works with it.

    Raises InputError where there is none or it is of another kind; and where something that the command asks of its
    description isn't there.
    """
    path = find_checkpoint(options.checkpoint, kinds[0] if len(kinds) == 1 else None)
    arrays, description = load(path)
    kind = description.get("kind")
    if kind not in kinds:
        hint = "; gpu-lstm sample writes text with it" if kind == "text" else ""
        expected = ("one of " if len(kinds) > 1 else "") + ", ".join(kinds)
        raise InputError(f"checkpoint {path} is of kind {kind!r}; expected {expected}{hint}")
    try:
        yield Opened(path, kind, description, arrays)
    except KeyError as error:
        raise InputError(f"checkpoint {path} has a damaged description: it lacks {error}") from None


def find_checkpoint(given: Path | None, kind: str | None) -> Path:
    """The model file that the user means: a file, a run's folder, or the newest run of that kind.

    Raises InputError where the user points at no model file, or no run is of that kind.
    """
    if given is None:
        pattern = f"{kind or '*'}*/model.safetensors"
        found = sorted(RUNS.glob(pattern), key=lambda path: path.stat().st_mtime)
        if not found:
            example = f"gpu-lstm train {kind or 'text'}"
            raise InputError(f"no run found as {RUNS / pattern}; make one with `{example}` or name a checkpoint")
        return found[-1]
    if given.is_dir():
        model = given / "model.safetensors"
        if not model.exists():
            raise InputError(f"folder {given} has no model.safetensors; expected a run of `gpu-lstm train`")
        return model
    return given


def trained_on(checkpoint: Path, description: dict[str, Any]) -> str:
    """The data that a checkpoint names, a shipped set's name or a path, once it is sure that they are the same still.

    A checkpoint may come from anyone. So a path in it is followed only from within its run's folder, is told before it
    is read, and nothing of what lies there goes further unless it is what the checkpoint's fingerprint says. Raises
    InputError where the data are others now, or have a path that isn't to be followed: then the user has to name them.
    """
    try:
        name, known = str(description["options"]["data"]), description.get("fingerprint")
        if known is not None:
            known = Fingerprint(bytes=int(known["bytes"]), sha256=str(known["sha256"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"checkpoint {checkpoint} has a damaged description: {error}") from None
    if name not in SHIPPED:
        if known is None or not is_run(checkpoint.parent):
            why = "it keeps no fingerprint of them" if known is None else "it lies outside of its run's folder"
            raise InputError(f"checkpoint {checkpoint} names {name} as its data, but {why}; name the data yourself")
        print(f"data: {name}, as {checkpoint} has it", flush=True)
    if known is not None:
        check_unchanged(data_path(name), known, description["options"].get("include") or ())
    return name
