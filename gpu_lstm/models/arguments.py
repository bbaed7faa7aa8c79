"""What models are made with and called with: arguments that all of them take, and arrays of the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from gpu_lstm.backend import Backend, choose
from gpu_lstm.errors import InputError
from gpu_lstm.layers.base import check_seed
from gpu_lstm.layers.options import for_model


class Where(TypedDict, total=False):
    """Keyword arguments that every model takes, as of its layers: where and how it computes, and how it starts.

    Where they are not given: None, ``"float32"``, ``"auto"``, False, False and 0.
    """

    backend: str | Backend | None
    dtype: str
    tier: str
    recompute: bool
    parallel: str | bool
    seed: int | tuple[int, ...]


def arguments(
    lstm: Mapping[str, Any] | None,
    forget_bias: float = 1.0,
    *,
    backend: str | Backend | None = None,
    dtype: str = "float32",
    tier: str = "auto",
    recompute: bool = False,
    parallel: str | bool = False,
    seed: int | tuple[int, ...] = 0,
) -> tuple[dict[str, Any], dict[str, Any], list[tuple[int, ...]]]:
    """Keyword arguments of every layer of a model, those of its LSTM, and different seeds for up to four layers.

    `lstm` has options of the LSTM family by name; the rest is `Where`.
    """
    *first, last = check_seed(seed)
    of_all = {"backend": choose(backend), "dtype": dtype}
    of_lstm = {**of_all, **for_model(lstm, forget_bias), "tier": tier, "recompute": recompute, "parallel": parallel}
    return of_all, of_lstm, [(*first, 4 * last + k) for k in range(4)]


def numbers(name: str, values: Sequence[float], like: Sequence[float] | None = None) -> list[float]:
    """Numbers as a checkpoint's description keeps them; with `like`, spreads, as many as it has.

    Raises InputError where `values` are not finite, or spreads not above 0 or not as many.
    """
    array = check_host(name, values, ("D",) if like is None else (len(like),))
    if not np.isfinite(array).all() or (like is not None and array.min() <= 0):
        raise InputError(f"{name} is {array.tolist()}; expected finite numbers{'' if like is None else ' above 0'}")
    found: list[float] = array.astype(np.float64).tolist()
    return found


def plain(value: Any) -> Any:
    """Nested values as a checkpoint's description keeps them: NumPy's numbers and arrays are Python's."""
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value


def check_host(name: str, value: Any, shape: tuple[int | str, ...], whole: bool = False) -> np.ndarray:
    """A host array of numbers, or of whole ones in 64 bits, and of that shape; ``"T"`` is any size, ``"S=3"`` is 3.

    Raises InputError where `value` has another shape, or holds something else than (whole) numbers.
    """
    try:
        array = np.asarray(value)
    except ValueError:
        raise InputError(f"{name} has no regular shape") from None
    if array.dtype.kind not in ("iu" if whole else "iuf") or isinstance(value, np.ma.MaskedArray):
        wanted = "whole numbers" if whole else "numbers"
        raise InputError(f"{name} is a {type(value).__name__} of dtype {array.dtype}; expected an array of {wanted}")
    sizes = [int(str(part).split("=")[-1]) if str(part)[-1].isdigit() else None for part in shape]
    fits = len(sizes) == array.ndim and all(w is None or w == s for w, s in zip(sizes, array.shape, strict=True))
    if not fits or 0 in array.shape:
        raise InputError(f"{name} has shape {array.shape}; expected ({', '.join(map(str, shape))}), none of them 0")
    # Sums of few bits, and negatives of unsigned ones, would wrap around; what 64 bits don't hold is out of any range.
    return array.astype(np.int64) if whole and array.max() < 2**63 else array
