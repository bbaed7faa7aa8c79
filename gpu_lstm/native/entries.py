"""What each entry of the compiled library takes, and arrays made to fit or refused.

A row of `TABLE` has the arguments in C++'s order (``kernels/cpu/entries.h``, ``inference.h``):

===================================  =====================================================================
``name``                             a whole number, C++'s int64
``name:double``                      a C double
``name*many``                        so many whole numbers
``name[shape]``                      an array of the call's dtype, which is read
``name![shape]``                     one that is written
``name?[shape]``                     one, or None
``name*many[shape]``                 a list of so many; in the shape, n counts them
``name[~size]``                      one of any shape, with so many elements
``name:int64[shape]``                one of another dtype: int64, double, byte, int8, word
``name:int64[shape]{low..high}``     whole numbers in that range
``name[shape]+row``                  with gaps between rows; how far apart they are is C++'s next argument
``name[shape]+row+column``           the same in both directions
===================================  =====================================================================

An array that is read and doesn't fit (dtype, byte order, gaps, alignment) is copied; one that is written is refused, as
a wrong shape always is. A library compiled for other rows is refused whole, by `INTERFACE`; so an array whose elements
come to mean something else takes another name.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gpu_lstm.native.arguments import Argument, blocks, int64s, packed, pages

TABLE = """
forward
    steps batch hidden count z!*count[steps,batch,4*hidden] weight_hh*count[4*hidden,hidden]
    kept?*count[~packed(4*hidden,hidden)] h!*count[steps+1,batch,hidden] c!*count[keep*steps+1,batch,hidden]
    lengths?*count:int64[batch]{0..steps} reverse*count keep threads split_batch
backward
    steps batch hidden count gates!*count[steps,batch,4*hidden] weight_hh*count[4*hidden,hidden]
    c*count[steps+1,batch,hidden] dy?*count[steps,batch,hidden]+dy_row dh!*count[batch,hidden]
    dc!*count[batch,hidden] lengths?*count:int64[batch]{0..steps} reverse*count threads split_batch
family_forward
    steps batch hidden size heads OPTIONS weight_hh[4*hidden,size//heads] projection?[size,hidden]
    z![steps,batch,4*hidden] h![steps+1,batch,size] c![keep*steps+1,batch,hidden] cells?![steps,batch,hidden]
    unprojected?![keep*(steps-1)+1,batch,hidden] normalised?![keep*(steps-1)+1,batch,4*hidden]
    scales?![keep*(steps-1)+1,batch,1] lengths?:int64[batch]{0..steps} reverse keep threads split_batch
family_backward
    steps batch hidden size heads OPTIONS weight_hh[4*hidden,size//heads] projection?[size,hidden]
    gates![steps,batch,4*hidden] c[steps+1,batch,hidden] cells?[steps,batch,hidden] dy?[steps,batch,size]+dy_row
    dc_each?[steps,batch,hidden]+dc_row dh![batch,size] dc![batch,hidden] projected?![steps,batch,size]
    dpeepholes?![batch,3,hidden] normalised?![steps,batch,4*hidden] scales?[steps,batch,1] dnorm?![batch,6*hidden]
    lengths?:int64[batch]{0..steps} reverse threads split_batch
multiply
    rows columns depth a[rows,depth]+a_row+a_column b[depth,columns]+b_row+b_column kept?[~packed(columns,depth)]
    c![rows,columns] bias?[columns] threads
pack
    gates rows depth weight[rows,depth] panels![~packed(rows,depth)]
infer
    steps batch inputs hidden x[steps,batch,inputs] kept_ih[~packed(4*hidden,inputs)] bias?[4*hidden]
    kept_hh[~packed(4*hidden,hidden)] some h![steps+1,batch,hidden] c![1,batch,hidden]
    around threads split_batch every places
weight_gradients
    rows outputs dy[rows,outputs] count columns*count x*count[rows,columns[n]] dw!*count[outputs,columns[n]]
    db![outputs] threads
generate
    vocabulary embedding_size hidden layers embedding[vocabulary,embedding_size]
    weight_ih*layers[4*hidden,hidden*(n>0)+embedding_size*(n==0)] weight_hh*layers[4*hidden,hidden]
    bias*layers[4*hidden]
    head[vocabulary,hidden] head_bias[vocabulary] room panels?![room] state![3,layers,hidden] scores![vocabulary]
    given_count given:int64[given_count]{0..vocabulary-1} count temperature:double uniforms:double[count]
    never:byte[vocabulary] drawn!:int64[count] size?!:int64[1] threads
cross_entropy
    rows vocabulary logits![rows,vocabulary] targets:int64[rows]{-1..vocabulary-1} scale:double losses![rows] threads
scatter_add
    size rows columns target![size,columns] index:int64[rows]{0..size-1} added[rows,columns] threads
square_sums
    count sizes*count arrays*count[~sizes[n]] sums!:double[blocks(sizes)] threads
fingerprints
    count sizes*count arrays*count:byte[~sizes[n]] found!:word[pages(sizes)] threads
update
    rule count sizes*count params!*count[~sizes[n]] gradients*count[~sizes[n]]
    states!*count*(1+rule//2)[~sizes[n//(1+rule//2)]] numbers:double[2<<rule] scale:double threads
activate
    tanh_instead count x[count] y![count]
quantized_multiply
    rows hidden depth bits bytes x[rows,depth] packed:int8[bytes] bias?[4*hidden] y![rows,4*hidden] threads
quantized_forward
    steps batch hidden bits bytes z![steps,batch,4*hidden] packed:int8[bytes] h![steps+1,batch,hidden]
    c![keep*steps+1,batch,hidden] lengths?:int64[batch]{0..steps} reverse keep threads split_batch
quantized_infer
    steps batch inputs hidden bits bytes_ih bytes_hh x[steps,batch,inputs] ih:int8[bytes_ih] bias?[4*hidden]
    hh:int8[bytes_hh] some h![steps+1,batch,hidden] c![1,batch,hidden]
    around threads split_batch every places
"""

OPTIONS = """
    options numbers:double[options] peepholes?[3,hidden] gain_hh?[4*hidden] gain_c?[hidden] shift_c?[hidden]
    zoneout_h?[steps,batch,size] zoneout_c?[steps,batch,hidden] recurrent_mask?[batch,size] live?[steps,batch,1]
"""
"""Those of the family, as ``kernels/cell/options.h`` has them."""
INTERFACE = zlib.crc32(" ".join((TABLE + OPTIONS).split()).encode()) & 0x7FFFFFFF
"""A number of all rows, which the library must have, too: in ``kernels/cpu/lstm_cpu.cpp``."""

_TOKEN = re.compile(
    r"(?P<name>\w+)(?P<marks>[!?]*)(?:\*(?P<many>[^:[]+))?(?::(?P<dtype>\w+))?(?:\[(?P<shape>.*)\])?"
    r"(?:\{(?P<low>.*)\.\.(?P<high>.*)\})?(?P<gaps>(?:\+\w+)*)"
)


@dataclass(frozen=True)
class Entry:
    """A row of `TABLE`."""

    arguments: tuple[Argument, ...]
    # What C++ takes, of three functions and all arguments. The first function makes it of an array: given its
    # `Argument`, the array, the shape that it must have, and from where to where its numbers may go, or None; the
    # second of one that may have gaps, with how far its parts are apart; the third of a list of arrays, given the
    # shapes of all.
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
            take = "*take_apart" if gaps else "take"
            passed.append(f"{take}(arguments[{number}], {name}, {size}, {limits})")
        else:
            passed.append(f"int64s({name})" if many else name)
    names = ", ".join(argument.name for argument in arguments)
    known = {"arguments": arguments, **{f.__name__: f for f in (blocks, pages, int64s, packed, range)}}
    return Entry(tuple(arguments), eval(f"lambda take, take_apart, take_all, {names}: ({', '.join(passed)},)", known))


def _read() -> dict[str, Entry]:
    rows = (row.split() for row in re.split(r"\n(?=\w)", TABLE.replace("OPTIONS", OPTIONS).strip()))
    return {name: _entry(tokens) for name, *tokens in rows}


ENTRIES = _read()
