"""A trained model, ready to be asked, from a file or into one."""

from __future__ import annotations

from pathlib import Path

from gpu_lstm.backend import Backend, choose
from gpu_lstm.errors import InputError
from gpu_lstm.models import MODELS, Model
from gpu_lstm.models.parts import unknown_layers
from gpu_lstm.training.checkpoint import description_of, load_model, save_model
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

    Examples
    --------
    >>> model = LanguageModel(vocabulary_size=65, hidden_size=16, backend="numpy")
    >>> gpu_lstm.save(model, "model.safetensors")
    >>> again = gpu_lstm.load("model.safetensors", backend="numpy")
    >>> again.kind, bool((again.params["lstm.bias_l0"] == model.params["lstm.bias_l0"]).all())
    ('text', True)
    """
    path = Path(where)
    if path.is_dir():
        path = path / BEST
        if not path.exists():
            raise InputError(f"folder {where} has no {BEST}; expected a run of `gpu-lstm train`")
    return load_model(path, None, choose(backend), tier)[0]


def save(model: Model, where: str | Path) -> None:
    """Write a model to one file, of which `load` makes it again.

    Parameters
    ----------
    model : Model
        Of this package's, or composed of its layers.
    where : str or Path
        The file, as ``model.safetensors``; one that is there is replaced.

    Raises
    ------
    InputError
        The model is of another kind, or composed of layers that no file can name; or `where` is a folder.
    """
    if MODELS.get(model.kind) is not type(model) or unknown_layers(model.config):
        what = ", ".join(unknown_layers(model.config)) or type(model).__name__
        raise InputError(f"{what} is of your own, and can't be named in a file; keep model.params, or pickle the model")
    save_model(Path(where), model, {**model.about, **description_of(model)})
