"""What one run of the recurrence does beyond the plain LSTM: its arrays and numbers, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from gpu_lstm.backend import Array
from gpu_lstm.errors import InputError

WeightGradients = Callable[[Array, Sequence[Array]], tuple[list[Array], Array]]

EPSILON = 1e-5
"""Added to the variance by layer normalisation."""
ACTIVATIONS: dict[str, float | None] = {"tanh": None, "relu": 0.0, "leaky_relu": 0.01}
"""What the cell's activation is times its argument below 0, where it is its argument above 0."""


@dataclass(frozen=True)
class Variant:
    """The recurrence's options, each off by default; P is the size of h: that of the projection, else H."""

    heads: int = 1  # weight_hh is (4H, P / heads): unit j, of head j // (H / heads), sees that head's part of h only
    projection: Array | None = None  # (P, H) or None: W_hr: h = W_hr (o tanh(c)). H. Sak et al., Interspeech 2014.
    # (3, H) or None: p_i and p_f, times the c before, and p_o, times the new c. F. Gers and J. Schmidhuber, IJCNN 2000.
    peepholes: Array | None = None
    # f = 1 - i; the pre-activation of f is ignored. K. Greff et al., LSTM: A Search Space Odyssey, 2015.
    coupled: bool = False
    hard_sigmoid: bool = False  # gates i, f, o are min(max(z / 5 + 1/2, 0), 1)
    # What the gates' activations take, z with the peepholes' terms, is limited to ±clip. As ONNX Runtime does it.
    clip: float = math.inf
    cell_clip: float = math.inf  # the new c is limited to ±cell_clip
    cell_activation: str = "tanh"  # of `ACTIVATIONS`: g and the output take it for tanh
    # (4H,) or None: h W_hh^T is normalised over its 4H values, then multiplied by this. J. Ba et al., Layer
    # Normalization, 2016.
    gain_hh: Array | None = None
    # (H,) or None: c is normalised over its H values, multiplied and shifted, before the tanh of the output
    gain_c: Array | None = None
    shift_c: Array | None = None
    # (T, B, P) and (T, B, H), float, or None: Share of the state before that stays: 0 or 1 for each element while
    # training, one number in evaluation. The output takes the new c, before zoneout. D. Krueger et al., Zoneout, 2016,
    # equations 5 and 6.
    zoneout_h: Array | float | None = None
    zoneout_c: Array | float | None = None
    # (B, P) or None: Factor on h wherever it enters a step's pre-activations. Y. Gal and Z. Ghahramani, 2016.
    recurrent_mask: Array | None = None
    live: Array | None = None  # (T, B, 1) or None: 0 where the state before step t is set to zero, else 1

    def options(self) -> frozenset[str]:
        """Names of the options that are on, of `OPTIONS`."""
        values = {one.name: (getattr(self, one.name), one.default) for one in fields(self)}
        on = (name for name, (value, off) in values.items() if (value is not None if off is None else value != off))
        return frozenset(OF_FIELD.get(name, name) for name in on) & OPTIONS

    def part(self, start: int, stop: int) -> Variant:
        """The same for steps start..stop-1."""
        cut = {}
        for name in ("zoneout_h", "zoneout_c", "live"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, float):
                cut[name] = value[start:stop, ...]
        return replace(self, **cut) if cut else self


PARAMETERS = {
    "projection": "weight_hr", "peepholes": "peephole", "gain_hh": "gain_hh", "gain_c": "gain_c", "shift_c": "shift_c",
}  # fmt: skip
"""Fields of `Variant` that are parameters of the layer, and the beginnings of those's names."""
VALUES = frozenset(one.name for one in fields(Variant) if one.default is not None)
"""Fields that are the value of the option of that name."""
OF_FIELD = {"projection": "proj_size", "gain_hh": "layer_norm", "recurrent_mask": "recurrent_dropout", "live": "resets"}
"""The option that a field of `Variant` is of, where that has another name."""
OPTIONS = frozenset(OF_FIELD.get(one.name, one.name) for one in fields(Variant)) - {"gain_c", "shift_c"} | {"cells"}
"""The LSTM's options that change the recurrence; ``resets`` is an argument of its forward."""


def at(value: Array | float, t: int) -> Any:
    """What holds at step `t`, of an array over all steps or of one number."""
    return value if isinstance(value, float) else value[t, ...]


def split_heads(xp: Any, weight_hh: Array, heads: int) -> Array:
    """weight_hh (4H, P/n) as (n, 4H/n, P/n), one matrix a head, each with its rows of all four gates."""
    rows, width = weight_hh.shape
    parts = xp.reshape(weight_hh, (4, heads, rows // (4 * heads), width))
    return xp.reshape(xp.permute_dims(parts, (1, 0, 2, 3)), (heads, rows // heads, width))


def join_heads(xp: Any, parts: Array) -> Array:
    """The inverse of `split_heads`."""
    heads, rows, width = parts.shape
    gates = xp.permute_dims(xp.reshape(parts, (heads, 4, rows // 4, width)), (1, 0, 2, 3))
    return xp.reshape(gates, (heads * rows, width))


def from_h(xp: Any, h: Array, weight_hh: Array, heads: int) -> Array:
    """h W_hh^T: (N, 4H) from h (N, P), head by head."""
    if heads == 1:
        return xp.matmul(h, weight_hh.T)
    by_head = xp.permute_dims(xp.reshape(h, (h.shape[0], heads, h.shape[1] // heads)), (1, 0, 2))
    z = xp.matmul(by_head, xp.matrix_transpose(split_heads(xp, weight_hh, heads)))  # (n, N, 4H/n)
    z = xp.reshape(z, (heads, h.shape[0], 4, z.shape[2] // 4))
    return xp.reshape(xp.permute_dims(z, (1, 2, 0, 3)), (h.shape[0], weight_hh.shape[0]))


def to_h(xp: Any, dz: Array, weight_hh: Array, heads: int) -> Array:
    """dz W_hh: (N, P) from dz (N, 4H), head by head."""
    if heads == 1:
        return xp.matmul(dz, weight_hh)
    dh = xp.matmul(_gates_by_head(xp, dz, heads), split_heads(xp, weight_hh, heads))  # (n, N, P/n)
    return xp.reshape(xp.permute_dims(dh, (1, 0, 2)), (dz.shape[0], heads * dh.shape[2]))


def weight_hh_gradient(xp: Any, products: WeightGradients, dz: Array, h: Array, heads: int) -> Array:
    """dz^T h of all rows, (4H, P/n): from dz (N, 4H) and h (N, P), head by head, by `ops.Arrays.weight_gradients`."""
    if heads == 1:
        return products(dz, [h])[0][0]
    by_head, width = _gates_by_head(xp, dz, heads), h.shape[1] // heads
    parts = [products(by_head[k, ...], [h[:, k * width : (k + 1) * width]])[0][0] for k in range(heads)]
    return join_heads(xp, xp.stack(parts))


def _gates_by_head(xp: Any, dz: Array, heads: int) -> Array:
    """dz (N, 4H) as (n, N, 4H/n)."""
    rows, width = dz.shape
    parts = xp.permute_dims(xp.reshape(dz, (rows, 4, heads, width // (4 * heads))), (2, 0, 1, 3))
    return xp.reshape(parts, (heads, rows, width // heads))


def normalise(xp: Any, x: Array) -> tuple[Array, Array]:
    """Rows of x (..., N) with mean 0 and variance 1, and the factor (..., 1) that made their variance so."""
    centred = x - xp.mean(x, axis=-1, keepdims=True)
    scale = 1 / xp.sqrt(xp.mean(centred * centred, axis=-1, keepdims=True) + EPSILON)
    return centred * scale, scale


def normalise_backward(xp: Any, dy: Array, y: Array, scale: Array) -> Array:
    """Gradient of x from dy, the gradient of y, for ``y, scale = normalise(x)``."""
    shared = xp.mean(dy, axis=-1, keepdims=True) + y * xp.mean(dy * y, axis=-1, keepdims=True)
    return scale * (dy - shared)


def refuse(asked: bool, what: str) -> None:
    """Refuse what a tier doesn't take; the plan picks another one, so only a direct call gets here.

    Raises InputError where `asked` is true: a caller wants what the tier lacks.
    """
    if asked:
        raise InputError(f"this tier takes no {what}; the reference tier does")
