"""Checkpoints: one safetensors file each, arrays under PyTorch's names, a JSON description in its header.

A file is complete in itself, written beside its final name and renamed, so that a reader finds the old one or
the new one and never a part. Its description holds the SHA-256 of the whole file (with zeros in its own place), so that
a changed byte is found wherever the file has gone. Nothing in it is ever executed.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpu_lstm.backend import Array, Backend
from gpu_lstm.errors import InputError, naming
from gpu_lstm.layers.options import torch_names
from gpu_lstm.models import MODELS, Model, quantize
from gpu_lstm.models.amounts import model_amounts
from gpu_lstm.native import compiled
from gpu_lstm.native.kernels import ARITHMETIC

FORMAT = 2
UNSEALED = 1
"""The format before this one, without a checksum of its own."""
PART = ".gpu_lstm.part"
"""What is added to a file's name while it is written: no other program's."""
SEAL = rb"\"sha256\": \""
"""What comes before the checksum in a file's header, whose description is JSON within JSON."""


OF_MODEL = "model/"
"""What the names of arrays begin with that are arguments of a model, as ``model/linear/weight``."""


def pack(arrays: dict[str, np.ndarray], description: dict[str, Any]) -> bytes:
    """A checkpoint's content: host arrays, also those among the model's arguments, and a JSON description."""
    from safetensors.numpy import save as to_bytes

    if isinstance(description.get("model"), Mapping):
        given, plain = apart(description["model"], OF_MODEL)
        arrays, description = arrays | given, {**description, "model": plain}
    header = {"gpu_lstm": json.dumps({"format": FORMAT, "sha256": "0" * 64, **description})}
    return seal(to_bytes({name: np.asarray(array, order="C") for name, array in arrays.items()}, header))


def apart(about: Mapping[str, Any], prefix: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays of nested dictionaries under joined names, and the dictionaries without them."""
    arrays, rest = {}, dict[str, Any]()
    for name, value in about.items():
        if isinstance(value, np.ndarray):
            arrays[prefix + name] = value
        elif isinstance(value, Mapping):
            inner, rest[name] = apart(value, f"{prefix}{name}/")
            arrays |= inner
        else:
            rest[name] = value
    return arrays, rest


def seal(content: bytes) -> bytes:
    """The content of a checkpoint with the checksum that it should have."""
    head, _, rest = content.partition(SEAL)
    digest = hashlib.sha256(head + SEAL + b"0" * 64)
    digest.update(memoryview(rest)[64:])
    return b"".join((head, SEAL, digest.hexdigest().encode(), memoryview(rest)[64:]))


def seal_holds(path: Path) -> bool:
    """Whether a file's checksum is the one that it says."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        file.seek(0)
        head, mark, rest = file.read(8 + length).partition(SEAL)
        digest = hashlib.sha256(head + mark + b"0" * 64 + rest[64:])
        hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest().encode() == rest[:64]


def save(path: Path, arrays: dict[str, np.ndarray], description: dict[str, Any]) -> None:
    """Write host arrays and a JSON description to `path`, whole or not at all."""
    write_whole(path, pack(arrays, description))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that after a crash at any moment `path` holds its old content or the new one.

    Raises
    ------
    InputError
        At `path` is something that is no file, as a folder or a device.
    OSError
        The disk is full, or the like; it names the path.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is no file; expected one that may be replaced, or a new name")
    path.parent.mkdir(parents=True, exist_ok=True)
    waiting = path.with_name(path.name + PART)
    try:
        with naming(path), open(waiting, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(waiting, path)
    except OSError:
        waiting.unlink(missing_ok=True)  # a full disk needs the room
        raise
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            with naming(path.parent):
                os.fsync(folder)
        finally:
            os.close(folder)


def load(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read arrays and description.

    Raises InputError where there is no such file, or one that can't be read, is damaged or torn, was not written
    by gpu_lstm, or has numbers that are none.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"checkpoint {path} does not exist")
    try:
        with safe_open(path, framework="np") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except PermissionError:
        raise InputError(f"checkpoint {path} can't be read: permission denied") from None
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"checkpoint {path} is damaged, half-written or no checkpoint: {error}") from None
    if "gpu_lstm" not in header:
        raise InputError(f"checkpoint {path} was not written by gpu_lstm: its header has no description")
    try:
        description = json.loads(header["gpu_lstm"])
        written = description["format"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InputError(f"checkpoint {path} has a damaged description") from None
    if written not in (UNSEALED, FORMAT):
        raise InputError(f"checkpoint {path} has format {written!r}; expected {FORMAT}")
    sealed = description.pop("sha256", None) is not None
    if (sealed or written == FORMAT) and not seal_holds(path):
        raise InputError(f"checkpoint {path} is damaged: its checksum is another than the one that was written")
    for name, array in arrays.items():
        if bad := array.size - np.count_nonzero(usable(array)):
            raise InputError(f"checkpoint {path} can't be used: {bad} of {array.size} numbers in {name} aren't finite")
    for name in [name for name in arrays if name.startswith(OF_MODEL)]:
        *groups, last = name.split("/")
        inner = description
        for group in groups:
            inner = inner.setdefault(group, {}) if isinstance(inner, dict) else {}
        inner[last] = arrays.pop(name)
    return arrays, description


def usable(array: np.ndarray) -> np.ndarray:
    """Which numbers are some: whole ones of 8 bits in -127..127, finite ones, also those of bfloat16 in 16 bits."""
    if array.dtype == np.int8:
        return np.asarray(array != -128)
    return np.asarray((array & 0x7F80) != 0x7F80 if array.dtype == np.uint16 else np.isfinite(array))


def to_torch_names(params: Mapping[str, Array], backend: Backend) -> dict[str, np.ndarray]:
    """Host copies under PyTorch's names: an LSTM's one bias becomes ``bias_ih``, with zeros as ``bias_hh``."""
    named: dict[str, np.ndarray] = {}
    for name, array in params.items():
        first, *second = torch_names(name)
        named[first] = backend.to_numpy(array)
        named |= {other: np.zeros_like(named[first]) for other in second}
    return named


def assign(model: Model, arrays: dict[str, np.ndarray], path: Path) -> None:
    """Copy arrays under PyTorch's names into the model's parameters.

    Raises InputError where a name is missing or a shape is another than the description's model has.
    """
    expected = to_torch_names(model.params, model.backend)
    for name, array in expected.items():
        if name not in arrays or arrays[name].shape != array.shape or arrays[name].dtype != array.dtype:
            found = f"{arrays[name].dtype} {arrays[name].shape}" if name in arrays else "nothing"
            raise InputError(
                f"checkpoint {path} does not fit its own description: {name} is {found}; "
                f"expected {array.dtype} {array.shape}"
            )
    for name, param in model.params.items():
        first, *second = (arrays[one] for one in torch_names(name))
        host = first + second[0] if second else first
        param[...] = model.backend.asarray(host, model.param_dtype)


def description_of(model: Model, **more: Any) -> dict[str, Any]:
    """Description from which `build` makes the model again."""
    return {"kind": model.kind, "model": model.config, "dtype": model.dtype, "versions": versions(model), **more}


def versions(model: Model) -> dict[str, str]:
    """What the bytes of a run depend on besides its description: libraries, device and tier; but not threads."""
    from gpu_lstm import __version__

    tier = model.lstm.plan.tier
    found = {"gpu_lstm": __version__, "python": platform.python_version(), **model.backend.describe(), "tier": tier}
    if tier != "reference" and model.on_host:
        found["compiled"] = compiled.SETS[compiled.instruction_set()]
    return found


def differences(then: Any, now: dict[str, str]) -> str:
    """One line on versions that changed since a checkpoint was written; empty where none did."""
    then = then if isinstance(then, dict) else {}
    changed = [
        f"{name} {then.get(name, 'unknown')} then, {now.get(name, 'none')} now"
        for name in {**then, **now}
        if then.get(name) != now.get(name)
    ]
    return "going on, though not to the last bit as before: " + "; ".join(changed) if changed else ""


def check_amounts(arrays: dict[str, np.ndarray], description: dict[str, Any], path: Path) -> None:
    """Refuse a description whose model is far larger than the arrays beside it, before anything is allocated.

    Raises InputError where the model would be far larger than the arrays, or the description is damaged.
    """
    try:
        amounts = model_amounts(description["kind"], description["model"])
    except (InputError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"checkpoint {path} has a damaged description: {error}") from None
    expected = amounts["embedding"] + amounts["lstm"] + amounts["lstm_biases"] + amounts["head"]
    found = sum(array.size for name, array in arrays.items() if not name.startswith(("optimizer.", "carried.")))
    if expected > 2 * found + 65536:
        raise InputError(f"checkpoint {path} does not fit its own description: {found} numbers; expected {expected}")


def build(description: dict[str, Any], path: Path, backend: Backend, tier: str = "auto") -> Model:
    """The described model, with its first parameters; one that was trained in 16 bits in float32, as they are.

    Raises InputError where the description is damaged.
    """
    try:
        maker = MODELS[description["kind"]]
        dtype = ARITHMETIC[description["dtype"]]
        return maker(**description["model"], dtype=dtype, backend=backend, tier=tier)  # type: ignore[call-arg]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"checkpoint {path} has a damaged description: {error}") from None


def save_model(path: Path, model: Model, description: dict[str, Any]) -> None:
    """Write a model for use: parameters under PyTorch's names, and its description."""
    description = {**description, "weights": model.weights} if model.weights else description
    save(path, to_torch_names(model.params, model.backend), description)


def load_model(path: Path, kind: str | None, backend: Backend, tier: str = "auto") -> tuple[Model, dict[str, Any]]:
    """Read a model of that kind, or of any, and its description, which is the model's `about`, too.

    Raises InputError as `load`, or where the checkpoint is of another kind of model.
    """
    arrays, description = load(path)
    found = description.get("kind")
    if found != kind and (kind is not None or found not in MODELS):
        raise InputError(f"checkpoint {path} is of kind {found!r}; expected {kind or ', '.join(MODELS)!r}")
    return model_of(arrays, description, path, backend, tier), description


def model_of(
    arrays: dict[str, np.ndarray], description: dict[str, Any], path: Path, backend: Backend, tier: str = "auto"
) -> Model:
    """Return the described model with these parameters; raises InputError where they don't fit each other."""
    check_amounts(arrays, description, path)
    model = build(description, path, backend, tier)
    if "weights" in description:
        model = quantize(model, description["weights"])
    assign(model, arrays, path)
    model.about = description
    return model
