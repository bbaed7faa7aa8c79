"""Arrays of other libraries, taken where they lie: by DLPack, ``__cuda_array_interface__`` or ``__array__``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gpu_lstm.errors import InputError

CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13
"""Device types as DLPack numbers them; memory of the last two is reached from both sides."""

_PLAIN_DISPATCH = "_disabled_torch_dispatch_impl"
"""What PyTorch calls it where a class of tensors doesn't put its own operations in place of those on memory."""

_PLACES = {CPU: "in host memory", CUDA: "on CUDA device {}", CUDA_HOST: "in pinned host memory"}
_TO_HOST = {"torch": "{}.cpu()", "cupy": "{}.get()", "jax": "jax.device_get({})", "cudf": "{}.to_numpy()"}
_TO_DEVICE = {"torch": '{}.to("cuda:DEVICE")'}


def adopt(
    name: str, x: Any, backend: str, types: Sequence[int], device: int, ways: Sequence[tuple[str, Callable[[Any], Any]]]
) -> Any:
    """Return an array of a backend on the memory of `x`, an object of another library.

    `types` are DLPack's types of the devices whose memory the backend reaches; for `CUDA` it must be number `device`.
    `ways` are attributes by which libraries offer their arrays, and what takes an object that has one; the best first.

    Raises InputError where `x` is on another device, is part of a graph of gradients, isn't what its memory says, or
    offers nothing that the backend can take.
    """
    kind = f"{type(x).__module__}.{type(x).__name__}"
    if getattr(x, "requires_grad", False) is True:
        raise InputError(
            f"{name} is a {kind} that requires gradients, which would be lost; pass {name}.detach(), or use "
            f"gpu_lstm.interop.torch.LSTM, which takes part in autograd"
        )
    if getattr(x, "is_neg", bool)():  # what DLPack doesn't tell
        raise InputError(f"{name} is a {kind} with the negative bit; pass {name}.resolve_neg()")
    dispatch = getattr(type(x), "__torch_dispatch__", None)
    if getattr(dispatch, "__name__", _PLAIN_DISPATCH) != _PLAIN_DISPATCH:
        raise InputError(f"{name} is a {kind}, whose numbers lie elsewhere; expected an array of backend {backend}")
    where = _where(x)
    if where is not None and (where[0] not in types or (where[0] == CUDA and where[1] not in (device, None))):
        library = type(x).__module__.partition(".")[0].replace("jaxlib", "jax")
        if CUDA in types:
            move = _TO_DEVICE.get(library, "backend.asarray({})").replace("DEVICE", str(device))
        else:
            move = _TO_HOST.get(library, "a copy in host memory")
        place = _PLACES.get(where[0], f"on a device of DLPack's type {where[0]}").format(where[1])
        raise InputError(
            f"{name} is a {kind} {place}; expected one of backend {backend} (move it with {move.format(name)})"
        )
    reasons = []
    for attribute, take in ways:
        if hasattr(x, attribute):
            try:
                return take(x)
            except Exception as error:  # each library raises its own; the last word is ours
                reasons.append(f"{attribute}: {error}")
    if reasons:
        raise InputError(
            f"{name} is a {kind} that can't be taken as it is; expected an array of backend {backend} "
            f"({'; '.join(reasons)})"
        )
    raise foreign(name, x, backend)


def foreign(name: str, x: Any, backend: str) -> InputError:
    """Return the error for what is no array of a backend."""
    return InputError(
        f"{name} is a {type(x).__module__}.{type(x).__name__}; expected an array of backend {backend} "
        f"(make it one with backend.asarray)"
    )


def _where(x: Any) -> tuple[int, int | None] | None:
    """Device type and number of an object that tells; only the type where it offers CUDA's interface alone."""
    if hasattr(x, "__dlpack_device__"):
        try:
            kind, number = x.__dlpack_device__()
        except Exception:  # no DLPack for such arrays; there are other ways
            return None
        return int(kind), int(number)
    return (CUDA, None) if hasattr(x, "__cuda_array_interface__") else None
