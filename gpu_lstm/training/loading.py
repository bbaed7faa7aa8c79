"""A trained model, ready to be asked."""

from __future__ import annotations

from pathlib import Path

from gpu_lstm.backend import Backend, choose
from gpu_lstm.errors import InputError
from gpu_lstm.models import Model
from gpu_lstm.training.checkpoint import load_model
from gpu_lstm.training.folder import BEST


def load(where: str | Path, backend: str | Backend | None = None, tier: str = "auto") -> Model:
    """Read the best model of a run, or a checkpoint.

    The model's `about` is what its checkpoint says of it: its kind, the options of its run, and its vocabulary, columns
    or classes.

    Parameters
    ----------
    where : str or Path
        A run's folder, as ``runs/text``, or a ``.safetensors`` file.
    backend : str or Backend, optional
        As of the layers.
    tier : str

    Raises
    ------
    InputError
        There is no such model, or it can't be read, see `gpu_lstm.training.checkpoint.load`.
    """
    path = Path(where)
    if path.is_dir():
        path = path / BEST
        if not path.exists():
            raise InputError(f"folder {where} has no {BEST}; expected a run of `gpu-lstm train`")
    return load_model(path, None, choose(backend), tier)[0]
