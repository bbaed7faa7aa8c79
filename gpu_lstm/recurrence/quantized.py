"""Weights of 8 bits or of bfloat16, for inference: what they hold, products with them, and a tier of the recurrence.

``int8``: a row w of a matrix is s_w q_w with s_w = max|w| / 127 and whole q_w. A row x of what is multiplied with it,
each step of each sequence by itself, is rounded likewise while it runs, and::

    x . w = s_x s_w sum_k(q_x q_w)

The sums are whole numbers of 32 bits, the same in whatever order: so neither the batch nor the number of threads nor
the instruction set changes a bit of them. A row that is zero stays zero; one with NaN or infinity in it becomes NaN.
``bfloat16``: weights are rounded, sums are those of float32.

Source: Y. Wu et al., Google's Neural Machine Translation System, 2016, section 6, without its clipping; as ONNX
Runtime's DynamicQuantizeLSTM, but symmetric, and with a scale for each sequence where that has one for the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from gpu_lstm import ops
from gpu_lstm.backend import Array, Backend
from gpu_lstm.errors import BackendError, InputError
from gpu_lstm.native import compiled
from gpu_lstm.native.blocks import new_block
from gpu_lstm.native.kept import Made
from gpu_lstm.recurrence import cpu, reference
from gpu_lstm.recurrence.plan import Plan
from gpu_lstm.recurrence.problem import Arriving, Gradients, Problem, Saved, begin, slots
from gpu_lstm.recurrence.tier import Tier, each, one_by_one

BITS = {"int8": 8, "bfloat16": 16}
"""Of a weight, by the names of what there is."""
LARGEST, TINY = 127.0, 1e-30
"""Of the whole numbers; and up to what a row counts as zero, for 127 times its inverse must be a number."""
MOST = (2**31 - 1) // 127**2
"""Columns of a matrix: more, and a sum might pass 32 bits."""
SERIAL_BYTES = 1 << 16
"""Of weights times sequences, below which a second thread costs more than it saves; twice as many with VNNI."""
BYTES_TO_SPLIT = 5 << 17
"""Of weights for each sequence of a thread, up to which the threads split the batch: caches of their own hold them.
Half as many with VNNI: products take less time then, and reading as much as ever."""


class Quantized:
    """A matrix (N, K) of few bits.

    Parameters
    ----------
    backend : Backend
    values : (N, K)
        int8 in -127..127; or uint16, the upper halves of float32 numbers.
    scales : (N,) float32, or None
        Of the rows; None for bfloat16.
    """

    def __init__(self, backend: Backend, values: Array, scales: Array | None):
        self.backend, self.values, self.scales = backend, values, scales
        self._packed: tuple[int, np.ndarray] | None = None  # for vectors of that width

    @classmethod
    def of(cls, backend: Backend, weight: Array, weights: str) -> Self:
        """Round a matrix of float32.

        Raises
        ------
        InputError
            `weights` is none of `BITS`, a number is not finite, or a row is too long for 32 bits.
        """
        if weights not in BITS:
            raise InputError(f"weights is {weights!r}; expected {' or '.join(map(repr, BITS))}")
        host = backend.to_numpy(weight)
        if host.dtype != np.float32 or not np.isfinite(host).all():
            raise InputError(f"a weight is {host.dtype} or not finite; expected float32 numbers")
        if weights == "bfloat16":  # to the nearest, of two the even one
            bits = host.view(np.uint32)
            return cls(backend, backend.asarray(((bits + (0x7FFF + (bits >> 16 & 1))) >> 16).astype(np.uint16)), None)
        if host.shape[1] > MOST:
            raise InputError(f"a weight has {host.shape[1]} columns; expected at most {MOST}, for sums of 32 bits")
        values, scales = whole_numbers(backend, weight)
        return cls(backend, backend.xp.astype(values, backend.dtype("int8")), scales[:, 0])

    @property
    def T(self) -> Self:
        """Itself: whoever multiplies by a weight asks for its transpose."""
        return self

    @property
    def weights(self) -> str:
        """Which of `BITS` it is."""
        return "bfloat16" if self.scales is None else "int8"

    def bits(self) -> int:
        """Of a weight."""
        return BITS[self.weights]

    def wide(self) -> Array:
        """The matrix that it stands for, (N, K) float32."""
        if self.scales is not None:
            return self.backend.xp.astype(self.values, self.scales.dtype) * self.scales[:, None]
        bits = self.backend.to_numpy(self.values).astype(np.uint32) << 16
        return self.backend.asarray(bits.view(np.float32))

    def packed(self) -> np.ndarray:
        """As ``kernels/cpu/quantized.h`` takes it, padded to 4 n rows; made once: from then on the values stay."""
        width = 4 << compiled.instruction_set()
        if self._packed is None or self._packed[0] != width:
            self._packed = width, self._pack(width)
            self.values.flags.writeable = False
        return self._packed[1]

    def _pack(self, width: int) -> np.ndarray:
        (rows, depth), group = self.values.shape, 1 if self.scales is None else 4
        hidden = -(-rows // 4)
        blocks, groups = -(-hidden // width), -(-depth // group)

        def by_gate(array: np.ndarray) -> np.ndarray:
            whole = np.zeros((4 * hidden, array.shape[1]), array.dtype)
            whole[:rows] = array
            padded = np.zeros((4, blocks * width, array.shape[1]), array.dtype)
            padded[:, :hidden] = whole.reshape(4, hidden, -1)
            return padded.reshape(4, blocks, width, -1)

        columns = np.zeros((rows, groups * group), self.values.dtype)
        columns[:, :depth] = self.values
        panels = by_gate(columns)
        if self.scales is None:  # two gates to four bytes
            panels = panels.reshape(2, 2, blocks, width, depth).transpose(2, 4, 0, 3, 1)
        else:
            panels = panels.reshape(4, blocks, width, groups, group).transpose(1, 3, 0, 2, 4)
        parts = [panels]
        if self.scales is not None:
            sums = self.values.sum(axis=1, dtype=np.int32) * np.int32(-128)
            parts = [by_gate(sums[:, None]).swapaxes(0, 1), by_gate(self.scales[:, None]).swapaxes(0, 1), panels]
        found = [np.ascontiguousarray(part).reshape(blocks, -1).view(np.int8) for part in parts]
        size = sum(part.size for part in found)
        aligned = np.frombuffer(new_block(size), np.int8, size)  # no vector across cache lines
        np.concatenate(found, axis=1, out=aligned.reshape(blocks, -1))
        return aligned


def whole_numbers(backend: Backend, x: Array) -> tuple[Array, Array]:
    """Rows (R, K) as whole numbers in -127..127, of the dtype of x, and their scales (R, 1)."""
    xp = backend.xp
    largest = xp.max(xp.abs(x), axis=1, keepdims=True)
    finite, zero = xp.isfinite(largest), xp.zeros_like(largest)
    counts = finite & (largest > TINY)
    inverse = xp.where(counts, LARGEST / xp.where(counts, largest, zero + LARGEST), zero)
    whole = xp.where(finite, xp.round(xp.where(finite, x, zero) * inverse), zero)
    return whole, xp.where(finite, largest / LARGEST, zero + float("nan"))


# -- in array expressions, on any backend ------------------------------------------------------------------------------


class Products(ops.Arrays):
    """Products with quantised matrices: x (R, K), b the matrix, bias (N,) to (R, N)."""

    def product(  # noqa: D102
        self, a: Array, b: Any, bias: Array | None = None, dtype: str | None = None, out: Array | None = None,
        kept: Made | None = None,
    ) -> Array:  # fmt: skip
        xp = self.backend.xp
        if b.scales is None:
            y = xp.matmul(a, b.wide().T)
        else:
            whole, scales = whole_numbers(self.backend, a)
            double = self.backend.dtype("float64")
            sums = xp.matmul(xp.astype(whole, double), xp.astype(b.values, double).T)
            y = xp.astype(sums, a.dtype) * (scales * b.scales)
        y = y if bias is None else y + bias
        if out is None:
            return y
        out[...] = y
        return out


def forward(backend: Backend, problem: Problem) -> Saved:
    """Run the recurrence over all steps, as `reference.forward`; `problem.weight_hh` is a `Quantized`."""
    z, mask, products = problem.z, problem.mask, Products(backend)
    num_steps, batch, width = z.shape
    h, c = (backend.empty((num_steps + 1, batch, width // 4), z.dtype) for _ in range(2))
    begin(problem, h, c)
    constants = reference.gate_constants(backend, batch, width, z.dtype)
    for t, before, after in slots(num_steps, problem.reverse):
        z_t = z[t, ...] + products.product(h[before, ...], problem.weight_hh)
        reference.cell_forward(backend, z_t, c[before, ...], c[after, ...], h[after, ...], *constants)
        if mask is not None and not mask.full(t):
            for state in (h, c):
                state[after, ...] = backend.xp.where(mask.valid[t, ...], state[after, ...], state[before, ...])
    return Saved(h, c, z, problem.weight_hh, mask, problem.reverse)


# -- in compiled code --------------------------------------------------------------------------------------------------


class CompiledProducts(Products):
    """The same in compiled code, on the host."""

    def product(  # noqa: D102
        self, a: Array, b: Any, bias: Array | None = None, dtype: str | None = None, out: Array | None = None,
        kept: Made | None = None,
    ) -> Array:  # fmt: skip
        (rows, depth), columns, packed = a.shape, b.values.shape[0], b.packed()
        hidden = -(-columns // 4)
        if bias is not None and columns % 4:
            bias = np.pad(bias, (0, -columns % 4))
        y = self.backend.empty((rows, 4 * hidden), a.dtype) if out is None else out
        compiled.call(
            "quantized_multiply" + compiled.vnni(), a.dtype, rows, hidden, depth, b.bits(), packed.size, a,
            packed, bias, y, around(packed, rows, hidden),
        )  # fmt: skip
        return y[:, :columns]


def products(backend: Backend) -> Products:
    """The fastest that run on a backend."""
    return CompiledProducts(backend) if backend.kernels == "cpu" and not compiled.missing() else Products(backend)


def compiled_forward(backend: Backend, problem: Problem) -> Saved:
    """The same as `forward` in one call of compiled code."""
    z, weight, keep = problem.z, problem.weight_hh, problem.keep
    num_steps, batch, width = compiled.axes("z", z, 3)
    packed, lengths = weight.packed(), None if problem.mask is None else problem.mask.lengths
    h = backend.empty((num_steps + 1, batch, width // 4), z.dtype)
    c = backend.empty((num_steps + 1 if keep else 1, batch, width // 4), z.dtype)
    begin(problem, h, c)
    compiled.call(
        "quantized_forward" + compiled.vnni(), z.dtype, num_steps, batch, width // 4, weight.bits(), packed.size,
        z, packed, h, c, lengths, int(problem.reverse), int(keep), *shared_out(packed, batch),
    )  # fmt: skip
    return Saved(h, c, z, weight, problem.mask, problem.reverse)


def around(packed: np.ndarray, rows: int, hidden: int) -> int:
    """Number of threads for a product of so many rows."""
    return compiled.threads_for(rows * packed.size // 4, max(rows, hidden))


def shared_out(packed: np.ndarray, batch: int) -> tuple[int, int]:
    """Number of threads for the recurrence, and 1 where they split the batch, 0 where the hidden units."""
    fast = bool(compiled.vnni())
    threads = compiled.threads() if packed.size * batch >= SERIAL_BYTES << fast else 1
    by_batch = batch >= cpu.BATCH_TO_SPLIT * threads or packed.size <= batch // threads * (BYTES_TO_SPLIT >> fast)
    return (min(threads, batch) if by_batch else threads), int(by_batch)


def _backward(backend: Backend, arriving: Sequence[Arriving]) -> list[Gradients]:
    raise InputError("a quantised layer has no gradients; train the layer that it was made of")


ARRAYS = Tier(frozenset({"cells"}), lambda *_: "", one_by_one, each(forward), _backward)
COMPILED = Tier(ARRAYS.takes, cpu.obstacle, one_by_one, each(compiled_forward), _backward)


def make_plan(backend: Backend, tier: str, weights: str, options: frozenset[str]) -> tuple[Plan, ops.Arrays]:
    """What runs the recurrence, and the products around it.

    Raises
    ------
    InputError
        There is an option of the recurrence that quantised weights don't go with, or no tier has that name.
    BackendError
        The named tier doesn't run here.
    """
    if beyond := options - ARRAYS.takes:
        raise InputError(f"lstm has {', '.join(sorted(beyond))}; expected none of that with weights of {weights}")
    missing = compiled.missing() if backend.kernels == "cpu" else f"backend {backend.name} has no kernels for it"
    if tier not in ("auto", "reference", "sequence"):
        raise InputError(f"tier is {tier!r}; expected auto, reference, sequence with weights of {weights}")
    if tier == "sequence" and missing:
        raise BackendError(f"tier sequence can't run with weights of {weights}: {missing}")
    if tier == "reference" or missing:
        why = f"{weights}: chosen, in array expressions" + (f"; compiled code can't run: {missing}" if missing else "")
        return Plan(weights, ARRAYS, (why,), False), Products(backend)
    said = compiled.words() + (", VNNI" if weights == "int8" and compiled.vnni() else "")
    return Plan(weights, COMPILED, (f"{weights}: chosen, in compiled code ({said})",), False), CompiledProducts(backend)
