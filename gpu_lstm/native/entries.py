"""What each entry of the compiled library takes, and arrays made to fit or refused.

A row of `TABLE` has the arguments in C++'s order (``kernels/cpu/entries.h``):

===================================  =====================================================================
``name``                             a whole number, C's long
``name:double``                      a C double
``name*many``                        so many whole numbers
``name[shape]``                      an array of the call's dtype, which is read
``name![shape]``                     one that is written
``name?[shape]``                     one, or None
``name*many[shape]``                 a list of so many; in the shape, n counts them
``name[~size]``                      one of any shape, with so many elements
``name:long[shape]``                 one of another dtype: long, double, byte, word
``name:long[shape]{low..high}``      whole numbers in that range
``name[shape]+row``                  with gaps between rows; how far apart they are is C++'s next argument
``name[shape]+row+column``           the same in both directions
===================================  =====================================================================

An array that is read and doesn't fit (dtype, byte order, gaps, alignment) is copied; one that is written is refused, as
a wrong shape always is.
"""

from __future__ import annotations

import ctypes
import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_lstm.errors import InputError

TABLE = """
forward
    steps batch hidden count z!*count[steps,batch,4*hidden] weight_hh*count[4*hidden,hidden]
    h!*count[steps+1,batch,hidden] c!*count[keep*steps+1,batch,hidden] lengths?*count:long[batch]{0..steps}
    reverse*count keep threads split_batch
backward
    steps batch hidden count gates!*count[steps,batch,4*hidden] weight_hh*count[4*hidden,hidden]
    c*count[steps+1,batch,hidden] dy?*count[steps,batch,hidden]+dy_row dh!*count[batch,hidden]
    dc!*count[batch,hidden] lengths?*count:long[batch]{0..steps} reverse*count threads split_batch
family_forward
    steps batch hidden size heads OPTIONS weight_hh[4*hidden,size//heads] projection?[size,hidden]
    z![steps,batch,4*hidden] h![steps+1,batch,size] c![keep*steps+1,batch,hidden] cells?![steps,batch,hidden]
    unprojected?![keep*(steps-1)+1,batch,hidden] normalised?![keep*(steps-1)+1,batch,4*hidden]
    scales?![keep*(steps-1)+1,batch,1] lengths?:long[batch]{0..steps} reverse keep threads split_batch
family_backward
    steps batch hidden size heads OPTIONS weight_hh[4*hidden,size//heads] projection?[size,hidden]
    gates![steps,batch,4*hidden] c[steps+1,batch,hidden] cells?[steps,batch,hidden] dy?[steps,batch,size]+dy_row
    dc_each?[steps,batch,hidden]+dc_row dh![batch,size] dc![batch,hidden] projected?![steps,batch,size]
    dpeepholes?![batch,3,hidden] normalised?![steps,batch,4*hidden] scales?[steps,batch,1] dnorm?![batch,6*hidden]
    lengths?:long[batch]{0..steps} reverse threads split_batch
multiply
    rows columns depth a[rows,depth]+a_row+a_column b[depth,columns]+b_row+b_column c![rows,columns] bias?[columns]
    threads
weight_gradients
    rows outputs dy[rows,outputs] count columns*count x*count[rows,columns[n]] dw!*count[outputs,columns[n]]
    db![outputs] threads
generate
    vocabulary embedding_size hidden layers embedding[vocabulary,embedding_size]
    weight_ih*layers[4*hidden,hidden*(n>0)+embedding_size*(n==0)] weight_hh*layers[4*hidden,hidden]
    bias*layers[4*hidden]
    head[vocabulary,hidden] head_bias[vocabulary] room panels?![room] state![3,layers,hidden] scores![vocabulary]
    given_count given:long[given_count]{0..vocabulary-1} count temperature:double uniforms:double[count]
    never:byte[vocabulary] drawn!:long[count] size?!:long[1] threads
cross_entropy
    rows vocabulary logits![rows,vocabulary] targets:long[rows]{-1..vocabulary-1} scale:double losses![rows] threads
scatter_add
    size rows columns target![size,columns] index:long[rows]{0..size-1} added[rows,columns] threads
square_sums
    count sizes*count arrays*count[~sizes[n]] sums!:double[blocks(sizes)] threads
fingerprints
    count sizes*count arrays*count:byte[~sizes[n]] found!:word[pages(sizes)] threads
update
    rule count sizes*count params!*count[~sizes[n]] gradients*count[~sizes[n]]
    states!*count*(1+rule//2)[~sizes[n//(1+rule//2)]] numbers:double[2<<rule] scale:double threads
activate
    tanh_instead count x[count] y![count]
"""

OPTIONS = """
    options numbers:double[options] peepholes?[3,hidden] gain_hh?[4*hidden] gain_c?[hidden] shift_c?[hidden]
    zoneout_h?[steps,batch,size] zoneout_c?[steps,batch,hidden] recurrent_mask?[batch,size] live?[steps,batch,1]
"""
"""Those of the family, as ``kernels/cell/options.h`` has them."""

PLAIN = (np.ndarray, np.memmap)
"""Kinds of arrays that have no meaning of their own, as a mask or units are."""
BLOCK, PAGE = 4096, 65536
"""Elements of a block in ``kernels/cpu/training.h``, and bytes of one that has a fingerprint."""
OTHERS: dict[str, np.dtype] = {
    "long": np.dtype("l"),
    "double": np.dtype(np.float64),
    "byte": np.dtype(np.uint8),
    "word": np.dtype(np.uint64),
}
"""Dtypes besides the call's."""

CONTIGUOUS, _ALIGNED = 0x1, 0x100
"""Bits of ``ndarray.flags.num``."""
WRITABLE = CONTIGUOUS | _ALIGNED | 0x400
"""Those of an array that can be written."""
_TOKEN = re.compile(
    r"(?P<name>\w+)(?P<marks>[!?]*)(?:\*(?P<many>[^:[]+))?(?::(?P<dtype>\w+))?(?:\[(?P<shape>.*)\])?"
    r"(?:\{(?P<low>.*)\.\.(?P<high>.*)\})?(?P<gaps>(?:\+\w+)*)"
)

Shape = tuple[int, ...] | int
"""Of an array; or how many elements one of any shape has."""
Limits = tuple[int, int] | None
"""From where to where an array's numbers may go."""


@dataclass(frozen=True)
class Argument:
    """One of a row.

    Attributes
    ----------
    name, dtype, shape, low, high : str
        As the row has them, empty where it has none.
    many : str
        Of a list, how many it has.
    written, optional : bool
    gaps : tuple of str
        Names of C++'s arguments that tell how far rows, or rows and columns, are apart.
    """

    name: str
    dtype: str
    many: str
    shape: str
    low: str
    high: str
    written: bool
    optional: bool
    gaps: tuple[str, ...]

    @functools.cached_property
    def flags(self) -> int:
        """What the memory of an array must have."""
        return WRITABLE if self.written else _ALIGNED if self.gaps else _ALIGNED | CONTIGUOUS

    def fit(self, array: Any, shape: Shape, dtype: np.dtype, limits: Limits, n: int | None = None) -> np.ndarray | None:
        """The array as C++ takes it: itself, or a copy.

        Parameters
        ----------
        array
            What was given.
        shape : tuple of int, or int
            That it must have.
        dtype : numpy.dtype
            Of the call.
        limits : pair of int, or None
            From where to where its numbers may go.
        n : int, optional
            Its place in a list.

        Raises
        ------
        InputError
            It has another shape, is no plain array, has a dtype that another can't stand for, has a number that is no
            place in another array, or is to be written and has another dtype, gaps, an odd address or no permission to.
        """
        if array is None and self.optional:
            return None
        if type(array) not in PLAIN:
            kind = f"{type(array).__module__}.{type(array).__name__}"
            raise InputError(f"{self.label(n)} is a {kind}; expected a NumPy array")
        if array.shape != shape and (isinstance(shape, tuple) or array.size != shape):
            raise InputError(f"{self.label(n)} has shape {array.shape}; expected {self._expected(shape)}")
        needed, dtype = self.flags, OTHERS.get(self.dtype, dtype)
        if not (array.dtype == dtype and array.flags.num & needed == needed and (not self.gaps or self.apart(array))):
            if array.dtype != dtype and (self.written or not np.can_cast(array.dtype, dtype, "same_kind")):
                raise InputError(f"{self.label(n)} has dtype {array.dtype}; expected {dtype}")
            if self.written:
                raise InputError(f"{self.label(n)} {self._unfit(array)}")
            array = np.array(array, dtype, order="C")
        if limits and array.size and not limits[0] <= array.min() <= array.max() <= limits[1]:
            numbers, expected = f"{array.min()}..{array.max()}", f"{self.low}..{self.high}={limits[1]}"
            raise InputError(f"{self.label(n)} has values {numbers}; expected {expected}")
        fitting: np.ndarray = array
        return fitting

    def label(self, n: int | None) -> str:
        """Its name, or that of an array of its list."""
        return self.name if n is None else f"{self.name}[{n}]"

    def copied(self, value: Any) -> Any:
        """The value, with arrays that are read in memory of their own."""
        if self.written or not self.shape:
            return value
        if self.many:
            return [None if array is None else array.copy() for array in value]
        return None if value is None else value.copy()

    def apart(self, array: np.ndarray) -> tuple[int, ...]:
        """Elements from row to row, or also from column to column; empty where no whole numbers say it."""
        item, strides = array.itemsize, array.strides
        if len(self.gaps) == 2:
            row, column = strides
            return () if row % item or column % item else (row // item, column // item)
        _, batch, width = array.shape
        row = strides[1] // item
        return (row,) if (strides == (batch * row * item, row * item, item) and row >= width) or not array.size else ()

    def _expected(self, shape: Shape) -> str:
        if not isinstance(shape, tuple):
            return f"{shape} elements"
        texts = zip(self.shape.split(","), shape, strict=True)
        parts = [text if text.isdigit() else f"{text}={n}" for text, n in texts]
        return f"({', '.join(parts)}{',' * (len(parts) == 1)})"

    def _unfit(self, array: np.ndarray) -> str:
        """What is wrong with an array that is to be written."""
        if not array.flags.writeable:
            return "is read-only; expected an array to write to"
        if not array.flags.c_contiguous:
            return "is not C-contiguous; expected an array without gaps (np.ascontiguousarray)"
        return "is misaligned; expected an array whose elements begin at multiples of their size"


@dataclass(frozen=True)
class Entry:
    """A row of `TABLE`.

    Attributes
    ----------
    arguments : tuple of Argument
    passed : callable
        What C++ takes, of two functions and all arguments. The first function makes it of an array: given its
        `Argument`, the array, the shape that it must have, and from where to where its numbers may go, or None; the
        second of a list of arrays, given the shapes of all.
    """

    arguments: tuple[Argument, ...]
    passed: Callable[..., tuple[Any, ...]]

    @property
    def first(self) -> str:
        """The first array of the call's dtype."""
        return next(argument.name for argument in self.arguments if argument.shape and not argument.dtype)


def _entry(tokens: Sequence[str]) -> Entry:
    """A row, read."""
    arguments, passed = [], []
    for number, token in enumerate(tokens):
        found = _TOKEN.fullmatch(token)
        assert found is not None, token
        name, marks, many, dtype, shape, low, high, gaps = (part or "" for part in found.groups())
        arguments.append(
            Argument(name, dtype, many, shape, low, high, "!" in marks, "?" in marks, tuple(gaps.split("+")[1:]))
        )
        size = shape[1:] if shape.startswith("~") else f"({shape},)"
        limits = f"({low}, {high})" if low else "None"
        if shape and many:
            passed.append(f"*take_all(arguments[{number}], {name}, [{size} for n in range({many})], {limits})")
        elif shape:
            passed.append(f"*take(arguments[{number}], {name}, {size}, {limits})")
        else:
            passed.append(f"longs({name})" if many else name)
    names = ", ".join(argument.name for argument in arguments)
    known = {"arguments": arguments, "blocks": blocks, "pages": pages, "longs": longs, "range": range}
    return Entry(tuple(arguments), eval(f"lambda take, take_all, {names}: ({', '.join(passed)},)", known))


def longs(numbers: Sequence[int]) -> Any:
    """Whole numbers as C++ takes a list of them."""
    return (ctypes.c_long * len(numbers))(*numbers)


def blocks(sizes: Sequence[int]) -> int:
    """Blocks of arrays with so many elements."""
    return sum(-(-size // BLOCK) for size in sizes)


def pages(sizes: Sequence[int]) -> int:
    """Fingerprints of arrays with so many bytes."""
    return sum(-(-size // PAGE) for size in sizes)


def _read() -> dict[str, Entry]:
    rows = (row.split() for row in re.split(r"\n(?=\w)", TABLE.replace("OPTIONS", OPTIONS).strip()))
    return {name: _entry(tokens) for name, *tokens in rows}


ENTRIES = _read()
