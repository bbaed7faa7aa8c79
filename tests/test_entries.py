"""The one way into the compiled library: what it copies, what it refuses, and that its table is the entries'."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpu_lstm
from gpu_lstm import ops
from gpu_lstm.errors import InputError
from gpu_lstm.native import compiled
from gpu_lstm.native.arguments import OTHERS
from gpu_lstm.native.entries import ENTRIES, INTERFACE
from gpu_lstm.recurrence import packed
from gpu_lstm.recurrence.quantized import Quantized
from gpu_lstm.recurrence.variant import Variant
from tests.odd import LAYOUTS, in_packed_record
from tests.support import NUMPY

SOURCES = Path(__file__).resolve().parents[1]
F32 = np.dtype(np.float32)
needs_library = pytest.mark.skipif(compiled.library() is None, reason=f"no compiled library: {compiled.missing()}")

NAMES = {"byte": "unsigned char", "int8": "signed char", "word": "std::uint64_t"}

# -- the table ---------------------------------------------------------------------------------------------------------


def entries_in_cpp():
    """Of each entry, its arguments: name and type."""
    files = (SOURCES / "kernels/cpu" / name for name in ("entries.h", "inference.h", "quantized.h"))
    text = "".join(file.read_text() for file in files).replace("\\\n", " ")
    options = re.search(r"#define OPTIONS (.*)", text)[1]
    found = re.findall(r"^ENTRY\((\w+)\)\(([^)]*)\)", text.replace("OPTIONS,", f"{options},"), re.MULTILINE)
    return {name: [re.fullmatch(r"(.*?)\s*(\w+)", part.strip()).groups()[::-1] for part in re.split(",", parts)]
            for name, parts in found}  # fmt: skip


def entries_in_table():
    """The same, from what the table says."""
    found = {}
    for name, entry in ENTRIES.items():
        arguments = found[name] = []
        for a in entry.arguments:
            number = {"": ("float" if name.startswith("quantized") else "T") if a.shape else "int64", **NAMES}.get(
                a.dtype, a.dtype
            )
            const = "" if a.written else "const "
            kind = (
                f"{const}{number}* const*"
                if a.many and a.shape
                else f"{const}{number}*"
                if a.many or a.shape
                else number
            )
            arguments.append((a.name, kind))
            arguments += [(gap, "const int64*" if a.many else "int64") for gap in a.gaps]
    return found


def test_the_table_has_the_arguments_of_every_entry():
    assert entries_in_table() == entries_in_cpp()


def test_the_library_has_the_number_of_the_table():
    found = re.search(r"gpu_lstm_interface\(\) { return (\w+);", (SOURCES / "kernels/cpu/lstm_cpu.cpp").read_text())
    assert int(found[1], 16) == INTERFACE, f"write {INTERFACE:#010x} there"


OTHER_TABLE = """
from gpu_lstm.native import library
library.INTERFACE += 1
from gpu_lstm.cli import check, main
check.gradient_check, check.parity_check = tuple, lambda backend: ()
main(["info"]), main(["check"])
"""


@needs_library
def test_a_library_of_another_table_is_refused_by_name_in_every_place(tmp_path):
    # From another folder: that of a checkout without a library would go before the installed package.
    where = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(Path(gpu_lstm.__file__).parent.parent)}}
    done = subprocess.run([sys.executable, "-c", OTHER_TABLE], capture_output=True, text=True, check=True, **where)
    refused = r"(.+)_cpu\.\w+ was compiled from other sources than these; pip install -e \. compiles it again\n"
    assert re.fullmatch(refused, done.stderr)  # said once
    assert [found.split("/")[0] for found in re.findall(refused, done.stdout)] == [
        "  tier sequence: can't run: ", "compiled library: "
    ]  # fmt: skip


def test_pointers_are_passed_in_one_place():
    package = Path(gpu_lstm.__file__).parent
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if re.search(r"\.ctypes\b|c_void_p|__array_interface__\[|\.data\.ptr", path.read_text())
    }
    assert "native/compiled.py" in found
    found.remove("parallel/nccl.py")  # CuPy's binding of NCCL takes pointers
    assert {Path(name).parent.name for name in found} == {"native"}


# -- every argument of every entry -------------------------------------------------------------------------------------

NUMBERS = dict(
    steps=3, batch=2, hidden=8, size=8, heads=2, reverse=0, keep=1, threads=1, split_batch=1,
    rows=5, columns=6, depth=4, outputs=3, count=2, vocabulary=7, embedding_size=3, layers=2, given_count=2, rule=2,
    inputs=5, around=1, tanh_instead=1, temperature=1.0, scale=0.5, options=len(packed.numbers(Variant(), "float32")),
    bits=8, some=2, every=2, places=15,
)  # fmt: skip
LISTS = dict(columns=[600, 5], sizes=[12, 9], reverse=[0, 1])


def shapes_of(entry, values):
    """By the names of an entry's arrays the shape of each, for a list those of all; and where their numbers go."""
    found = {}

    def take(argument, value, shape, limits):
        found[argument.name] = shape, limits
        return ()

    entry.passed(take, take, take, *values)
    return found


def arguments_of(name, **changed):
    """Arguments that fit an entry, by name: random numbers in float32, of sizes like `NUMBERS` but for some."""
    rng, entry, sizes = np.random.default_rng(0), ENTRIES[name], NUMBERS | changed
    if name.startswith("quantized"):
        depths = sizes["depth" if name == "quantized_multiply" else "hidden"], sizes["inputs"], sizes["hidden"]
        for key, depth in zip(("bytes", "bytes_ih", "bytes_hh"), depths, strict=True):
            weight = np.zeros((4 * sizes["hidden"], depth), np.float32)
            sizes[key] = Quantized.of(NUMPY, weight, "int8").packed().size
    values = [None if a.shape else (LISTS if a.many else sizes).get(a.name, 0) for a in entry.arguments]
    shapes = shapes_of(entry, values)

    def draw(argument, shape, limits):
        if limits:
            return rng.integers(limits[0], limits[1] + 1, shape)
        if argument.dtype in ("byte", "int8", "word"):
            return np.zeros(shape, OTHERS[argument.dtype])
        kind = {"int64": int, "double": np.float64}.get(argument.dtype, np.float32)
        return rng.uniform(0.1, 0.9, shape).astype(np.float32).astype(kind)

    for place, argument in enumerate(entry.arguments):
        if argument.shape:
            shape, limits = shapes[argument.name]
            values[place] = (
                [draw(argument, each, limits) for each in shape] if argument.many else draw(argument, shape, limits)
            )
    found = dict(zip((argument.name for argument in entry.arguments), values, strict=True))
    if name == "generate":  # what it needs, it says
        compiled.call(name, F32, *found.values())
        found |= {"room": int(found["size"][0]), "panels": np.zeros(found["size"][0], np.float32), "size": None}
        nothing = {key: found[key][:0] for key in ("given", "uniforms", "drawn")}
        compiled.call(name, F32, *(found | nothing | {"given_count": 0, "count": 0}).values())
    return found


def copied(value):
    """A value with arrays of its own."""
    if isinstance(value, list):
        return [copied(each) for each in value]
    return value.copy() if isinstance(value, np.ndarray) else value


def bytes_of(arguments):
    parts = itertools.chain.from_iterable(v if isinstance(v, list) else [v] for v in arguments.values())
    return [part.tobytes() for part in parts if isinstance(part, np.ndarray)]


def outcome(name, arguments):
    """All that an entry has written."""
    compiled.call(name, F32, *arguments.values())
    return bytes_of({a.name: arguments[a.name] for a in ENTRIES[name].arguments if a.written})


ODD = LAYOUTS | {
    "another dtype": lambda a: a.astype(np.int32 if a.dtype.kind == "i" else np.uint16 if a.dtype == "u1" else float)
}


def is_odd(argument, array):
    """Whether an array differs from what C++ reads or writes."""
    kind = {"int64": "i8", "double": "f8", "byte": "u1", "int8": "i1", "word": "u8"}.get(argument.dtype, "f4")
    flags = array.flags
    return array.dtype != kind or not (
        flags.c_contiguous and flags.aligned and (flags.writeable or not argument.written)
    )


@needs_library
@pytest.mark.parametrize("name", ENTRIES)
def test_what_is_read_may_lie_in_memory_in_any_way_and_what_is_written_is_refused_by_name(name):
    plain = arguments_of(name)
    expected = outcome(name, {key: copied(value) for key, value in plain.items()})
    for argument, (kind, change) in itertools.product(ENTRIES[name].arguments, ODD.items()):
        if not argument.shape or plain[argument.name] is None:
            continue
        given = {key: copied(value) for key, value in plain.items()}
        value = given[argument.name]
        if argument.many:
            value[-1] = array = change(value[-1])
        else:
            given[argument.name] = array = change(value)
        if argument.written and is_odd(argument, array):
            before = bytes_of(given)
            label = f"{argument.name}[{len(value) - 1}]" if argument.many else argument.name
            with pytest.raises(InputError, match=rf"^{re.escape(label)} (has dtype|is read-only|is not C-c|is misal)"):
                outcome(name, given)
            assert bytes_of(given) == before, kind
        else:
            assert outcome(name, given) == expected, (argument.name, kind)


@needs_library
@pytest.mark.parametrize("name", ENTRIES)
def test_what_has_another_shape_or_is_no_plain_array_is_refused_by_name(name):
    plain = arguments_of(name)
    wrong = {
        "one element more": lambda a: np.concatenate([a.ravel(), a.ravel()[-1:]]),
        "another axis": lambda a: a[None, None],
        "a list": lambda a: a.tolist(),
        "a masked array": np.ma.masked_array,
        "a matrix": lambda a: a.reshape(-1, 1).view(np.matrix),
        "text": lambda a: a.astype(str),
        "complex": lambda a: a.astype(complex),
        "None": lambda a: None,
    }
    for argument, (kind, change) in itertools.product(ENTRIES[name].arguments, wrong.items()):
        if not argument.shape or plain[argument.name] is None or (argument.optional and kind == "None"):
            continue
        if kind == "another axis" and argument.shape.startswith("~"):
            continue  # any shape will do
        given = {key: copied(value) for key, value in plain.items()}
        value, label = given[argument.name], argument.name
        if argument.many:
            value[0], label = change(value[0]), f"{label}[0]"
        else:
            given[argument.name] = change(value)
        before = bytes_of(given)
        with pytest.raises(InputError, match=rf"^{re.escape(label)} (is a|has shape|has dtype)"):
            outcome(name, given)
        assert bytes_of(given) == before, (argument.name, kind)


@needs_library
@pytest.mark.parametrize("name", ENTRIES)
def test_numbers_that_are_no_places_in_an_array_are_refused_by_name(name):
    plain = arguments_of(name)
    shapes = shapes_of(ENTRIES[name], plain.values())
    for argument in ENTRIES[name].arguments:
        _, limits = shapes.get(argument.name, (None, None))
        for number in (limits[0] - 1, limits[1] + 1, -(2**62), 2**62) if limits else ():
            given = {key: copied(value) for key, value in plain.items()}
            array = given[argument.name][0] if argument.many else given[argument.name]
            array[-1] = number
            with pytest.raises(
                InputError, match=rf"^{argument.name}(\[0\])? has values .*{number}.*; expected {limits[0]}"
            ):
                outcome(name, given)


@needs_library
def test_what_is_read_may_share_memory_with_what_is_written_and_two_that_are_written_may_not():
    rng = np.random.default_rng(0)
    memory = rng.standard_normal(40).astype(np.float32)
    for first in (0, 3, 8):  # all of it, a part, a part of nothing that is written
        plain = [memory.copy() for _ in range(2)]
        target, added = plain[0][:12].reshape(3, 4), plain[1][first : first + 8].reshape(2, 4)
        compiled.call("scatter_add", F32, 3, 2, 4, target, np.array([2, 0]), added, 1)
        shared = memory.copy()
        target, added = shared[:12].reshape(3, 4), shared[first : first + 8].reshape(2, 4)
        compiled.call("scatter_add", F32, 3, 2, 4, target, np.array([2, 0]), added, 1)
        np.testing.assert_array_equal(shared[:12], plain[0][:12])
    z, c, weight = rng.standard_normal((2, 16)).astype("f4"), np.ones((2, 2, 4), "f4"), np.ones((16, 4), "f4")
    before = z.copy()
    with pytest.raises(InputError, match=r"^z shares memory with h|^h shares memory with z"):
        shared = z.reshape(4, 2, 4)[2:]
        compiled.call("forward", F32, 1, 2, 4, 1, [z[None]], [weight], [None], [shared], [c], [None], [0], 1, 1, 1)
    np.testing.assert_array_equal(z, before)


@needs_library
def test_rows_with_gaps_are_taken_where_they_lie_or_copied():
    plain = arguments_of("backward")
    dy, other = plain["dy"]
    expected = outcome("backward", {key: copied(value) for key, value in plain.items()})
    wide = np.concatenate([dy, dy], axis=2)
    records = np.zeros(dy.shape, np.dtype([("value", "f4"), ("more", "f4")]))
    records["value"] = dy
    for given in (
        wide[:, :, :8],
        dy.transpose(1, 0, 2).copy().transpose(1, 0, 2),
        records["value"],
        in_packed_record(dy),
    ):
        both = {"dy": [given, other]}
        assert outcome("backward", {key: copied(value) for key, value in plain.items()} | both) == expected


@needs_library
def test_a_dtype_that_the_library_has_not_is_refused():
    for dtype in ("float16", "int32", "complex64", "O"):
        x = np.zeros(3, dtype)
        with pytest.raises(InputError, match=r"^x has dtype .*; expected float32 or float64"):
            compiled.call("activate", x.dtype, 1, 3, x, x.copy())


@needs_library
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_of_nothing_are_zero_or_the_bias(dtype):
    bias = np.arange(3, dtype=dtype)
    np.testing.assert_array_equal(
        ops.of(NUMPY).product(np.ones((2, 0), dtype), np.ones((0, 3), dtype), bias), [bias, bias]
    )
    dw, db = ops.of(NUMPY).weight_gradients(np.ones((0, 5), dtype), [np.ones((0, 2), dtype), np.ones((0, 4), dtype)])
    for actual, shape in ((dw[0], (5, 2)), (dw[1], (5, 4)), (db, (5,))):
        np.testing.assert_array_equal(actual, np.zeros(shape))


# -- memory that isn't there -------------------------------------------------------------------------------------------

STARVED = """
import json, os, resource, sys
sys.path.append(sys.argv.pop(1))  # last: the installed package, and not the checkout beside the tests
from concurrent.futures import ThreadPoolExecutor
from gpu_lstm.native import compiled
from tests.test_entries import F32, arguments_of, bytes_of, copied, outcome

def starved(name, arguments):
    # In a thread that has not called the library before, without memory for what it needs.
    before = bytes_of(arguments)
    used = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + 500_000, resource.RLIM_INFINITY))
    try:
        compiled.call(name, F32, *arguments.values())
        return "nothing was missing"
    except MemoryError:
        pass
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    return "MemoryError" if bytes_of(arguments) == before else "MemoryError, and something was written"

threads = int(os.environ["T"])
sizes = dict(hidden=512, size=512, rows=512, outputs=600, columns=2000, depth=512, threads=threads)
found = {}
for name in sys.argv[1:]:
    arguments = arguments_of(name, **sizes)
    if "kept" in arguments:  # which would need no memory
        arguments["kept"] = [None, None] if name == "forward" else None
    again = {key: copied(value) for key, value in arguments.items()}
    with ThreadPoolExecutor(1) as thread:
        said = thread.submit(starved, name, arguments).result()
        found[name] = said, outcome(name, again) == thread.submit(outcome, name, arguments).result()
print(json.dumps(found))
"""
ALLOCATE = (
    "forward", "backward", "family_forward", "family_backward", "multiply", "weight_gradients",
)  # fmt: skip


@needs_library
@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space, and knows malloc's settings")
@pytest.mark.parametrize("threads", ["1", "2"])
def test_memory_that_is_missing_is_an_error_that_changes_nothing(threads):
    environment = os.environ | {
        "T": threads,
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_ARENA_MAX": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-P", "-c", STARVED, str(SOURCES), *ALLOCATE], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {name: ["MemoryError", True] for name in ALLOCATE}


def test_an_array_for_which_there_is_no_memory_is_a_memory_error():
    with pytest.raises(MemoryError, match="no memory for an array of"):
        NUMPY.empty((1 << 58,), np.float32)
