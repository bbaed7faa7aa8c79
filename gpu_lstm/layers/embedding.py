"""Embedding layer: a row of a table for each token."""

from __future__ import annotations

import numpy as np

from gpu_lstm import ops
from gpu_lstm.backend import Array, Backend, widened
from gpu_lstm.errors import InputError
from gpu_lstm.layers.base import Layer, Params, Tape, any_shape, check_seed
from gpu_lstm.layers.checks import check_size


class Embedding(Layer):
    """y = weight[ids], rounded to `dtype`.

    Parameters
    ----------
    num_embeddings : int
        Size of the vocabulary.
    embedding_dim : int
        D, size of each vector.
    backend : str, Backend or None
    dtype : {"float32", "float64", "float16", "bfloat16"}
    seed : int or tuple of int
        Vectors start normal with standard deviation 1, as PyTorch's do.

    Attributes
    ----------
    params : dict
        ``weight`` (num_embeddings, embedding_dim).

    Examples
    --------
    >>> Embedding(50, 8, backend="numpy").forward(np.array([[3, 1], [4, 1]]))[0].shape
    (2, 2, 8)
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, *, backend: str | Backend | None = None, dtype: str = "float32",
        seed: int | tuple[int, ...] = 0,
    ):  # fmt: skip
        super().__init__(backend, dtype)
        self.num_embeddings = check_size("num_embeddings", num_embeddings)
        self.embedding_dim = check_size("embedding_dim", embedding_dim)
        self.add("weight", np.random.default_rng(check_seed(seed)).standard_normal((num_embeddings, embedding_dim)))

    def forward(self, ids: Array, *, guard: bool = True) -> tuple[Array, Tape]:
        """Look up ids, integers of any shape (...), to y (..., embedding_dim).

        Where `guard` is false, the tape holds `ids` themselves and not a copy; they must stay as they are then.

        Raises
        ------
        InputError
            ids aren't integers, are outside 0..num_embeddings-1, or belong to another backend. On a GPU the second is
            told by ``backend.read``, when the loss is read.
        """
        xp = self.backend.xp
        ids = self.backend.require("ids", ids, any_shape(ids))
        if not xp.isdtype(ids.dtype, "integral"):
            raise InputError(f"ids has dtype {ids.dtype}; expected integers")
        flat = xp.reshape(ids, (-1,))
        flat = xp.asarray(flat, copy=True) if guard else flat
        rows = ops.of(self.backend).take_rows(self.params["weight"], flat, "ids", "num_embeddings")
        y = self.backend.asarray(rows, self.dtype)
        return xp.reshape(y, (*ids.shape, self.embedding_dim)), Tape(self, (flat, tuple(ids.shape)))

    def backward(self, tape: Tape, dy: Array) -> tuple[None, Params]:
        """Return the table's gradient from the tape and dy (..., embedding_dim); ids have none."""
        flat, shape = self.read(tape)
        dy = self.backend.require("dy", dy, (*shape, f"embedding_dim={self.embedding_dim}"), self.dtype)
        tape.spend()
        gradient = self.backend.xp.zeros_like(self.params["weight"])
        rows = self.backend.xp.reshape(dy, (flat.shape[0], self.embedding_dim))
        ops.of(self.backend).scatter_add(gradient, flat, widened(self.backend, rows))
        return None, {"weight": gradient}
