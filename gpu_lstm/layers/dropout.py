"""Dropout layer (N. Srivastava et al., Dropout, JMLR 15, 2014), scaled at training time."""

from __future__ import annotations

from gpu_lstm import ops
from gpu_lstm.backend import Array, Backend
from gpu_lstm.layers.base import Layer, Params, Tape, any_shape, training_seed
from gpu_lstm.layers.checks import check_probability


class Dropout(Layer):
    """Each element is zero with probability p, else multiplied by 1/(1-p).

    The mask is a pure function of the shape and the seed given to `forward`, so that a step can be repeated
    exactly and a resumed training run has no generator to restore.

    Parameters
    ----------
    p : float
        In [0, 1); 0 changes nothing.
    backend : str, Backend or None
    dtype : {"float32", "float64", "float16", "bfloat16"}

    Examples
    --------
    >>> Dropout(0.5, backend="numpy").forward(np.ones(6, dtype="float32"), seed=1)[0]
    array([0., 2., 2., 0., 0., 0.], dtype=float32)
    """

    def __init__(self, p: float, *, backend: str | Backend | None = None, dtype: str = "float32"):
        super().__init__(backend, dtype)
        self.p = check_probability("p", p)

    def forward(self, x: Array, seed: int | tuple[int, ...] | None = None) -> tuple[Array, Tape]:
        """Drop elements of x, of any shape; a seed of None means evaluation: x itself comes back."""
        x = self.backend.require("x", x, any_shape(x), self.dtype)
        seed = training_seed(seed)
        if seed is None or self.p == 0:
            return x, Tape(self, (None, tuple(x.shape)))
        y, again = ops.of(self.backend).dropout(x, self.p, seed)
        return y, Tape(self, (again, tuple(x.shape)))

    def backward(self, tape: Tape, dy: Array) -> tuple[Array, Params]:
        """Return the gradient dx from dy, through the tape's mask."""
        again, shape = self.read(tape)
        dy = self.backend.require("dy", dy, shape, self.dtype)
        tape.spend()
        return (dy if again is None else again(dy)), {}
