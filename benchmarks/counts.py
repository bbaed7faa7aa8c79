"""What the CUDA kernels execute, counted without a GPU: an interpreter runs their PTX (tests/device).

    python -m tests.device -m benchmarks.counts            # fails where kernels/cuda/counts.json says another thing
    python -m tests.device -m benchmarks.counts --write    # writes it

`gpu_lstm.recurrence.cuda.layout` takes the costs of the sequence kernels from there. A launch counts the
instructions of warps, the turns of shared memory's banks and the sectors of global memory; two numbers of steps,
subtracted, leave what a step takes. Looks in vain are left out, for how many there are is the interpreter's doing; so
are moves, of which machine code has next to none. Where machine code has other instructions than PTX, as a division has
many, nvdisasm counts them in kernels that are nothing but cells (pip install nvidia-cuda-nvdisasm).
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from gpu_lstm.backend import CupyBackend
from gpu_lstm.native import catalogue, kernels
from gpu_lstm.native.catalogue import CLUSTER
from gpu_lstm.native.kernels import Kernel
from gpu_lstm.native.launch import Device
from gpu_lstm.recurrence import Arriving, Problem
from gpu_lstm.recurrence.cuda import costs, planner
from gpu_lstm.recurrence.cuda import pointwise as pointwise_cuda
from gpu_lstm.recurrence.cuda import sequence as sequence_cuda
from gpu_lstm.recurrence.cuda.counted import ALIKE, with_options
from gpu_lstm.recurrence.cuda.layout import BUFFERS, DIRECTIONS, Layout, units
from gpu_lstm.recurrence.problem import Joint, Saved
from gpu_lstm.recurrence.variant import Variant
from tests.nvrtc import matrix

TABLE = Path(__file__).resolve().parents[1] / "kernels" / "cuda" / "counts.json"
FILE = "GPU_LSTM_DEVICE_COUNTS"
"""Environment variable of the interpreter: where it writes."""
H100 = Device(multiprocessors=132, shared_bytes=227 * 1024, capability=90, clusters=16)
STEPS = 2, 4
LAYOUT = ("form", "height", "columns", "teams", "members", "share", "slice", "buffers")
"""What a layout is made of, besides the problem."""
DTYPES = ("float32", "float64", "tf32", "float16")
"""bfloat16 has the code of float16."""
OURS = ("gates_forward", "gates_backward")
CLASSES = {
    "mma": r"mma",
    "special": r"ex2|lg2|rcp|sqrt|rsqrt|tanh|div\.\w+\.f",
    "float": r"(fma|add|sub|mul|min|max|neg|abs|selp|setp|cvt)\b.*\.b?f(16|32|64)",
    "shared": r"(ld|st|atom|red)\b.*\.shared(?!::cluster)",
    "cluster": r"st\.async|mapa|(ld|st)\.relaxed\.cluster\.[^s]",
    "global": r"(ld|st|atom|red)\.(?!param)",
    "waiting": r"bar|mbarrier|fence|membar|shfl|vote",
    "moves": r"mov|cvta|ld\.param",
    "whole": r"",
}
"""Classes of instructions, by the first that fits: tensor cores; special function units and divisions; other arithmetic
in floating point; shared memory, that of other blocks, global memory; barriers, shuffles and votes; moves; all else,
which is whole numbers and branches."""
MEMBERS: dict[str, dict[int, tuple[int, ...]]] = {
    "block": {1: (1, 2, 4)},
    "cluster": {CLUSTER: (1, 2, 4)},
    "grid": {2: (1, 2, 4), 6: (1, 2, 4)},
    "joint": {CLUSTER: (1, 2, 4), 7 * CLUSTER: (1,)},
}
"""Of each form, the blocks of a team that are counted, and by what the largest share of one is divided."""
MOVED = 128
"""Bytes that a multiprocessor's memory pipe gives to lanes in a cycle."""


Code = list[list[Any]]
"""Of each instruction its name, executions by warps and by lanes, what they touched of memory; a branch's target."""
Instance = tuple[str, str, str, int, int, str]
"""Arguments of `catalogue.sequence`."""
Counts = dict[str, float]
"""Instructions of warps by `CLASSES`; turns of shared memory, sectors of global memory."""


class Launch:
    """A launch of a kernel: its name and code, and what it took, less moves and looks in vain.

    Of the sequence kernels also what their product took of it, up to the barriers around: "product", and of memory
    "product turns".
    """

    def __init__(self, line: dict[str, Any]) -> None:
        for each in line["code"]:
            each[0] = each[0].replace(".elements", "")  # the interpreter's own mark
        self.name: str = line["kernel"]
        self.code = [(name, target) for name, *_, target in line["code"]]
        self.counts: Counts = dict.fromkeys((*CLASSES, "turns", "sectors", "product", "product turns"), 0.0)
        product = _product(line["code"]) if "sequence_" in self.name else range(0)
        vain = _in_vain(line["code"])
        for n, (name, warps, lanes, memory, _) in enumerate(line["code"]):
            kind, share = _class(name), max(0, warps - vain[n]) / max(warps, 1)
            self.counts[kind] += warps * share
            if kind in ("shared", "global"):
                self.counts["turns" if kind == "shared" else "sectors"] += memory * share
            if n in product and kind != "moves":
                self.counts["product"] += warps * share
                moved = memory if kind == "shared" else lanes * _bytes(name) / MOVED if name.startswith("ld") else 0
                self.counts["product turns"] += share * (warps if name.startswith("shfl") else moved)
        del self.counts["moves"]


@functools.cache
def _class(name: str) -> str:
    return next(kind for kind, pattern in CLASSES.items() if re.match(pattern, name))


@functools.cache
def _bytes(name: str) -> int:
    """Of one lane: those of ``ld.global.v4.f32`` are 16."""
    found = re.search(r"(?:\.v([24]))?\.[a-z]+(\d+)$", name)
    return int(found[1] or 1) * int(found[2]) // 8 if found else 0


def _loops(code: Sequence[Sequence[Any]]) -> Iterator[range]:
    """Instructions between a branch back and where it goes to."""
    for end, (*_, target) in enumerate(code):
        if 0 <= target <= end:
            yield range(target, end + 1)


def _in_vain(code: Code) -> list[int]:
    """By instruction, how often it was executed because a number that others write was not there yet.

    Where a loop does nothing but look, that is as often as it looked again.
    """
    vain = [0] * len(code)
    for loop in _loops(code):
        inside = [code[n] for n in loop]
        looks = [warps for name, warps, *_ in inside if re.match(r"ld\.(relaxed|volatile)|mbarrier\.try_wait", name)]
        if looks and not any(re.match(r"st|fma|mma|bar\.sync|barrier|atom|red|ex2", name) for name, *_ in inside):
            for n in loop:
                vain[n] = max(vain[n], *looks)
    return vain


def _product(code: Code) -> range:
    """The instructions of a step's product, between the barriers around: that on tensor cores, or the smallest loop of
    many multiply-adds."""
    names = [name for name, *_ in code]
    inner = [n for n, name in enumerate(names) if name.startswith("mma")]
    if not inner:
        loops = (loop for loop in _loops(code) if sum(names[n].startswith("fma.rn") for n in loop) >= 8)
        inner = min((list(loop) for loop in loops), key=len)
    waits = [n for n, name in enumerate(names) if re.match(r"bar\.sync|mbarrier\.try_wait", name)]
    return range(max(n for n in waits if n < inner[0]) + 1, min(n for n in waits if n > inner[-1]))


def counted(work: Callable[[], Any]) -> list[Launch]:
    """The launches of some work."""
    with tempfile.NamedTemporaryFile("r", suffix=".jsonl") as file:
        os.environ[FILE] = file.name
        try:
            work()
        finally:
            del os.environ[FILE]
        return [Launch(json.loads(line)) for line in file]


# -- the sequence kernels ---------------------------------------------------------------------------------


def launched(backend: CupyBackend, layout: Layout, steps: int, before: Layout | None = None) -> Launch:
    """A recurrence, or layers of a stack, with that layout; `before`: forward's, where backward needs its results."""
    batch, hidden, layers = layout.teams * layout.slice, layout.members * layout.share, layout.together
    stored = layout.dtype.replace("tf", "float")
    wide, rng = kernels.ARITHMETIC[stored], np.random.default_rng(0)
    backend.tf32 = layout.dtype == "tf32"

    def array(*shape: int, dtype: str = stored) -> Any:
        return backend.asarray(rng.uniform(0.1, 0.9, shape), dtype)

    z, weights = array(steps, batch, 4 * hidden), array(4 * hidden, hidden) / hidden
    below = [None, *[Joint(weights, None, None)] * (layers - 1)]
    variant = {
        "Plain": lambda: None,
        "Family": lambda: Variant(peepholes=array(3, hidden, dtype=wide), zoneout_h=array(steps, batch, hidden)),
        "Normed": lambda: Variant(gain_hh=array(4 * hidden), gain_c=array(hidden), shift_c=array(hidden)),
    }[layout.cells]()

    def forward(layout: Any) -> list[Saved]:
        problems = [Problem(None if joint else z, weights, variant=variant, below=joint) for joint in below]
        return sequence_cuda._forward(backend, problems, layout)

    def backward(saved: list[Saved]) -> None:
        arriving = [Arriving(one, below=joint) for one, joint in zip(saved, below, strict=True)]
        sequence_cuda._backward(backend, arriving, layout)

    if layout.direction == "forward":
        launches = counted(lambda: forward(layout))
    else:
        h, c = array(steps + 1, batch, hidden), array(steps + 1, batch, hidden, dtype=wide)
        plain = [Saved(h, c, z.copy(), weights, None, False) for _ in range(layers)]
        saved = forward(before) if before else plain
        launches = counted(lambda: backward(saved))
    (found,) = (each for each in launches if "sequence_" in each.name)
    return found


def step(backend: CupyBackend, layout: Layout, before: Layout | None = None) -> Counts:
    """What a step of a launch takes, by block."""
    few, many = (launched(backend, layout, steps, before).counts for steps in STEPS)
    return _difference(few, many, (STEPS[1] - STEPS[0]) * layout.blocks)


def _difference(few: Counts, many: Counts, count: int) -> Counts:
    return {name: (many[name] - few[name]) / count for name in many}


def _instructions(counts: Counts) -> float:
    return sum(counts[kind] for kind in CLASSES if kind in counts)


def layout_of(kernel: Instance, members: int, share: int, part: int) -> Layout:
    """One team of that instance."""
    direction, dtype, form, height, columns, cells = kernel
    return Layout(
        H100, direction, members * share, dtype, 1, cells, False, form, height, columns, 1, members, share, part,
        BUFFERS[form][0],
    )  # fmt: skip


def instances() -> Iterator[Instance]:
    """All that are counted: of options, what they add is taken from one form and dtype."""
    for direction, dtype, form in product(DIRECTIONS, DTYPES, catalogue.FORMS):
        for height, columns in catalogue.sequence_sizes(direction, dtype, form):
            yield direction, dtype, form, height, columns, "Plain"
    for direction, cells in product(DIRECTIONS, catalogue.SEQUENCE_CELLS[1:]):
        yield direction, *with_options(direction), cells


def fitted(kernel: Instance) -> dict[str, Any]:
    """Coefficients of `gpu_lstm.recurrence.cuda.counted` from small layouts, and by how much they miss any of these."""
    direction, _, form, height, columns, _ = kernel
    shares = [2**n for n in range(7) if 2**n <= units(direction, form, height, columns)]
    deepest = max(MEMBERS[form])
    fits = (n for n in reversed(shares) if layout_of(kernel, deepest, n, 1).shared_bytes <= H100.shared_bytes)
    largest = next(fits)
    sizes = [(members, largest // n, 8 * columns) for members, parts in MEMBERS[form].items() for n in parts]
    sizes += [(min(MEMBERS[form]), largest // n, 4 * columns) for n in (2, 4)]
    layouts = [layout_of(kernel, *each) for each in sizes]
    backend = CupyBackend()
    steps = [step(backend, layout, _before(kernel, layout)) for layout in layouts]
    full = [n for n, layout in enumerate(layouts) if layout.slice == 8 * columns]  # whose lanes all have columns
    product_of = [costs.of_product(layouts[n]) for n in full]
    cells_of = [costs.of_all_else(layout) for layout in layouts]
    found: dict[str, Any] = {"missed": []}
    for name, how_often, numbers in (
        ("product", product_of, [steps[n]["product"] for n in full]),
        ("turns", product_of, [steps[n]["product turns"] for n in full]),
        ("cells", cells_of, [_instructions(each) - each["product"] for each in steps]),
    ):
        parts = np.array(how_often, float) / np.array(numbers)[:, None]
        coefficients = _coefficients(parts)
        found[name] = [round(float(number), 2) for number in coefficients]
        found["missed"].append(round(float(abs(parts @ coefficients - 1).max()), 3))
    return found


def _coefficients(parts: np.ndarray) -> np.ndarray:
    """Those, none of them negative, with which each row adds up to about one."""
    found, kept = np.zeros(parts.shape[1]), np.ones(parts.shape[1], bool)
    while True:
        found[kept] = np.linalg.lstsq(parts[:, kept], np.ones(len(parts)), rcond=1e-9)[0]
        if (found >= 0).all():
            return found
        kept[found.argmin()] = False
        found[~kept] = 0


def _before(kernel: Instance, layout: Layout) -> Layout | None:
    direction, dtype, form, _, columns, cells = kernel
    if direction == "forward" or cells == "Plain":
        return None
    return layout_of(("forward", dtype, form, 2, columns, cells), layout.members, layout.share, layout.slice)


SHAPES = (
    *(
        (hidden, batch, dtype, 1)
        for dtype in ("float32", "tf32", "float16")
        for hidden, batch in ((64, 16), (256, 64), (512, 16))
    ),
    (256, 16, "float64", 1),
    (256, 16, "float16", 2),
)
"""H, B, dtype and layers at once of what the planner chooses, by the file that is there, to be counted as a whole."""


def steps(backend: CupyBackend) -> Iterator[dict[str, Any]]:
    """A step of each of `SHAPES`, by block."""
    for (hidden, batch, dtype, layers), direction in product(SHAPES, DIRECTIONS):
        layout = planner.choose(H100, direction, batch, hidden, dtype, layers, "Plain", layers > 1)
        assert isinstance(layout, Layout)
        found = step(backend, layout)
        yield {
            **{"hidden": hidden, "batch": batch, "dtype": dtype, "layers": layers, "direction": direction},
            "layout": [getattr(layout, name) for name in LAYOUT],
            "instructions": round(_instructions(found)),
            **{name: round(count) for name, count in found.items()},
        }


# -- the gate kernels --------------------------------------------------------------------------------------


def work_of(backend: CupyBackend, dtype: str, rows: int) -> Iterator[Callable[[], Any]]:
    """What launches kernels over so many rows of 512."""
    rng, width = np.random.default_rng(0), 512
    wide = kernels.ARITHMETIC[dtype]

    def array(*shape: int, dtype: str = dtype) -> Any:
        return backend.asarray(rng.uniform(0.1, 0.9, shape), dtype)

    weights = array(4 * width, width)
    h, c = array(2, rows, width), array(2, rows, width, dtype=wide)
    saved = Saved(h, c, array(1, rows, 4 * width), weights, None, False)
    yield lambda: pointwise_cuda.forward(backend, Problem(array(1, rows, 4 * width), weights))
    yield lambda: pointwise_cuda.backward(backend, Arriving(saved))


def elements(backend: CupyBackend, dtype: str) -> dict[str, dict[str, float]]:
    """Instructions of lanes and bytes of memory, by kernel and number of 512 wide rows."""
    found: dict[str, dict[str, float]] = {}
    for works in zip(*(work_of(backend, dtype, rows) for rows in (32, 64)), strict=True):
        few, many = ({each.name: each for each in counted(work)} for work in works)
        for name in many:
            ours = next((each for each in OURS if f"{len(each)}{each}" in name), None)
            if ours:
                each = _difference(few[name].counts, many[name].counts, 32 * 512)
                found[ours] = {
                    "instructions": round(32 * _instructions(each), 1),
                    "bytes": round(32 * each["sectors"], 1),
                    "length": sum(not _nothing(each) for each, _ in many[name].code),
                }
    return found


def machine_code(kernel: Kernel) -> list[tuple[str, int]]:
    """Instructions of the machine, as they stand in a kernel compiled for an H100, each with where it branches to."""
    program, options = matrix.compiler()
    options += ("-ftz=true", "-arch=sm_90", "--device-as-default-execution-space")
    cubin, _ = program(kernel.source, "kernel.cu", (), (), name_expressions=[kernel.expression]).compile(options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin + b"\0")  # the last byte, which CuPy takes for the end of a text
        file.flush()
        said = subprocess.run([nvdisasm(), "-c", file.name], capture_output=True, text=True, check=True).stdout
    labels: dict[str, int] = {}
    code: list[tuple[str, str]] = []
    for line in said.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = len(code)
        if found := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+ +)?([A-Z][\w.]*)(.*)", line):
            target = re.search(r"\.L_x_\d+", found[2]) if found[1].startswith("BRA") else None
            code.append((found[1], target[0] if target else ""))
    return [(name, labels.get(target, -1)) for name, target in code]


def machine_chunk(kernel: Kernel) -> float:
    """Instructions of the machine for a chunk, in a product's inner loop, without loops in it that look in vain."""
    code = machine_code(kernel)
    multiply = {n for n, (name, _) in enumerate(code) if re.match("[FD]FMA|HMMA", name)}
    inner = min((loop for loop in _loops(code) if len(multiply.intersection(loop)) >= 8), key=len)
    vain = {n for loop in _loops(code) for n in loop if len(loop) < len(inner)}
    dtype, height, columns = kernel.arguments[0], *map(int, kernel.arguments[2:4])
    each = height * columns * {"float": 64, "double": 32}.get(dtype, 2)  # multiply-adds of a lane, or mma.sync
    length = sum(n not in vain and not _nothing(code[n][0]) for n in inner)
    return length * each / len(multiply.intersection(inner))


def _nothing(name: str) -> bool:
    return name == "NOP" or _class(name) == "moves"


def nvdisasm() -> str:
    """NVIDIA's disassembler, from its wheel or the path."""
    wheel = next(Path(sysconfig.get_path("platlib"), "nvidia").glob("*/bin/nvdisasm"), None)
    if found := wheel or shutil.which("nvdisasm"):
        return str(found)
    raise SystemExit("nvdisasm isn't there: pip install nvidia-cuda-nvdisasm")


def machine(of_elements: dict[str, Any], of_sequence: dict[str, Any]) -> dict[str, Any]:
    """How many instructions there are of the machine, and of PTX: of cells, and for a chunk of a product."""
    found: dict[str, Any] = {direction: {} for direction in DIRECTIONS} | {"product": {}}
    for direction, dtype in product(DIRECTIONS, of_elements):
        wide = kernels.neighbours(dtype)
        kernel = catalogue.kernel("gates_backward", dtype, wide, False)
        if direction == "forward":
            kernel = catalogue.kernel("gates_forward", dtype, wide, True, False)
        length, ptx = (
            sum(not _nothing(name) for name, _ in machine_code(kernel)),
            of_elements[dtype][kernel.name]["length"],
        )
        more = round((length - ptx) / wide, 2)  # executed or, as a division's slow path, not
        found[direction][dtype] = {"kernel": kernel.expression, "machine": length, "ptx": ptx, "more": more}
    for dtype in DTYPES:
        kernel = catalogue.sequence("forward", dtype, "grid", 2, 1)
        chunk, ptx = machine_chunk(kernel), sum(of_sequence[kernel.expression]["product"][2:])
        found["product"][dtype] = {
            "kernel": kernel.expression, "machine": round(chunk, 1), "ptx": ptx, "ratio": round(chunk / ptx, 2)
        }  # fmt: skip
    return found


def main() -> None:
    """Count, then compare or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name} instead of comparing with it")
    options = parser.parse_args()
    os.environ["GPU_LSTM_DEVICE_MULTIPROCESSORS"] = "160"  # an H100's clusters find room, whatever its groups
    nvdisasm()
    backend = CupyBackend()
    of_elements = {dtype: elements(backend, dtype) for dtype in kernels.STORAGE if dtype not in ALIKE}
    made: dict[str, Any] = {"sources": matrix.digest(), "nvrtc": matrix.nvrtc_version()}
    every = list(instances())
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        names = (catalogue.sequence(*kernel).expression for kernel in every)
        of_sequence = dict(zip(names, pool.map(fitted, every), strict=True))
    made |= {"machine": machine(of_elements, of_sequence), "elements": of_elements, "sequence": of_sequence}
    made["steps"] = list(steps(backend))
    text = rendered(made)
    if options.write:
        TABLE.write_text(text, encoding="utf-8")
    elif TABLE.read_text(encoding="utf-8") != text:
        raise SystemExit(f"{TABLE} differs from what is counted; write it again with --write")


def rendered(made: dict[str, Any]) -> str:
    """A line an entry."""
    lines = []
    for name, value in made.items():
        if isinstance(value, dict):
            inside = ",\n".join(f"  {json.dumps(key)}: {json.dumps(each)}" for key, each in value.items())
            lines.append(f" {json.dumps(name)}: {{\n{inside}\n }}")
        elif isinstance(value, list):
            inside = ",\n".join(f"  {json.dumps(each)}" for each in value)
            lines.append(f" {json.dumps(name)}: [\n{inside}\n ]")
        else:
            lines.append(f" {json.dumps(name)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    main()
