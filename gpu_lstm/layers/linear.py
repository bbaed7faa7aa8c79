"""Linear layer: y = x W^T + b."""

from __future__ import annotations

import math

import numpy as np

from gpu_lstm import ops
from gpu_lstm.backend import Array, Backend
from gpu_lstm.layers.base import Layer, Params, Tape, any_shape, check_seed
from gpu_lstm.layers.checks import check_size


class Linear(Layer):
    """y = x W^T + b over the last axis of x.

    Parameters
    ----------
    input_size, output_size : int
    backend : str, Backend or None
    dtype : {"float32", "float64", "float16", "bfloat16"}
    wide : bool
        y is in `param_dtype`, and so is dy: a loss takes its sums of 16-bit numbers as they are, not rounded.
    seed : int or tuple of int
        Weights and bias start uniform in ±1/sqrt(input_size), as PyTorch's do.

    Attributes
    ----------
    params : dict
        ``weight`` (output_size, input_size), ``bias`` (output_size,).

    Examples
    --------
    >>> layer = Linear(8, 2, backend="numpy")
    >>> y, tape = layer.forward(np.ones((3, 8), dtype="float32"))
    >>> layer.backward(tape, np.ones_like(y))[1]["bias"]
    array([3., 3.], dtype=float32)
    """

    def __init__(
        self, input_size: int, output_size: int, *, backend: str | Backend | None = None, dtype: str = "float32",
        wide: bool = False, seed: int | tuple[int, ...] = 0,
    ):  # fmt: skip
        super().__init__(backend, dtype)
        self.output_dtype = self.param_dtype if wide else self.dtype
        self.input_size = check_size("input_size", input_size)
        self.output_size = check_size("output_size", output_size)
        rng = np.random.default_rng(check_seed(seed))
        bound = 1 / math.sqrt(self.input_size)
        self.add("weight", rng.uniform(-bound, bound, (self.output_size, self.input_size)))
        self.add("bias", rng.uniform(-bound, bound, self.output_size))

    def forward(self, x: Array, keep: bool = True, *, guard: bool = True) -> tuple[Array, Tape]:
        """Map x (..., input_size) to y (..., output_size).

        x and the weight must stay as they are until `backward` has run, which says where they don't.

        Parameters
        ----------
        x : (..., input_size)
        keep : bool
            False for inference: nothing is saved for `backward`, which then refuses the tape.
        guard : bool
            False for a caller who writes to neither x nor the weight before `backward`: nothing is checked.

        Raises
        ------
        InputError
            x has another last axis or dtype, or belongs to another backend.
        """
        x = self.backend.require("x", x, (*any_shape(x)[:-1], f"input_size={self.input_size}"), self.dtype)
        xp = self.backend.xp
        rows = xp.reshape(x, (-1, self.input_size))
        params = self.rounded()
        kept = self.kept(params, keep).get("weight")
        around = ops.of(self.backend)
        y = around.product(rows, params["weight"].T, params["bias"], self.output_dtype, kept=kept)
        guarded = {"x": x, "weight": params["weight"]} if guard and keep else {}
        tape = Tape(self, (rows, x.shape, params["weight"]) if keep else None, guarded)
        return xp.reshape(y, (*x.shape[:-1], self.output_size)), tape

    def backward(self, tape: Tape, dy: Array) -> tuple[Array, Params]:
        """Return gradients from the tape and dy (..., output_size): dx (..., input_size) and the parameters'."""
        rows, shape, weight = self.read(tape)
        xp = self.backend.xp
        dy = self.backend.require("dy", dy, (*shape[:-1], f"output_size={self.output_size}"), self.output_dtype)
        tape.spend()
        dy_rows = self.backend.asarray(xp.reshape(dy, (-1, self.output_size)), self.dtype)
        (dweight,), dbias = ops.of(self.backend).weight_gradients(dy_rows, [rows])
        dx = ops.of(self.backend).product(dy_rows, weight)
        return xp.reshape(dx, shape), {"weight": dweight, "bias": dbias}
