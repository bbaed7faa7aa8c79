"""What was counted of the CUDA kernels (kernels/cuda/counts.json), how, and that the model on paper has the same."""

import importlib
import sys
from itertools import product
from pathlib import Path

import pytest

from gpu_lstm.native import catalogue, kernels
from gpu_lstm.recurrence.cuda import costs
from gpu_lstm.recurrence.cuda.counted import ALIKE, counted, table
from gpu_lstm.recurrence.cuda.layout import DIRECTIONS, Layout
from tests.nvrtc import matrix

ROOT = str(Path(__file__).resolve().parents[1])
sys.path.append(ROOT)  # after the installed package
counts, gpu_model = (importlib.import_module(f"benchmarks.{name}") for name in ("counts", "gpu_model"))
sys.path.remove(ROOT)


def test_the_counts_are_of_these_sources():
    again = "count again: python -m tests.device -m benchmarks.counts --write"
    assert table()["sources"] == matrix.digest(), again
    assert set(table()["sequence"]) == {catalogue.sequence(*each).expression for each in counts.instances()}, again


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_every_instance_has_counts_that_its_arithmetic_needs(direction):
    kinds = product((*kernels.STORAGE, "tf32"), catalogue.FORMS, catalogue.SEQUENCE_CELLS)
    for dtype, form, cells in kinds:
        for height, columns in catalogue.sequence_sizes(direction, dtype, form, cells):
            found = counted(direction, dtype, form, height, columns, cells)
            *_, chunk, again = found.product
            # Of 64 bytes of 16 rows and 8 columns: mma.sync, or multiply-adds of each lane.
            of_one = 2 if dtype in catalogue.TENSOR else 8 * 2 * kernels.neighbours(dtype)
            assert chunk >= of_one * height * columns or form == "block"  # which has one chunk a warp
            assert again >= 0
            assert min(*found.turns, found.cells[0]) >= 0 < sum(found.cells)


def test_a_chunk_of_float32_is_bound_by_its_instructions_and_not_by_its_multiply_adds():
    """16 rows twice, 8 columns, 16 k: each lane has 128 multiply-adds and 32 shuffles, and reads 16 bytes."""
    found = counted("forward", "float32", "grid", 2, 1, "Plain")
    assert found.turns[2] == pytest.approx(32 + 4, rel=0.02)
    assert found.turns[3] == pytest.approx(2 * 2 * 4, rel=0.02)  # weights in shared memory: 4 times 16 bytes
    assert found.product[2] / 4 > found.turns[2] > 128 / 4


def test_options_cost_more_instructions_than_none():
    for direction, dtype in product(DIRECTIONS, ("float32", "bfloat16")):
        plain, family, normed = (
            sum(counted(direction, dtype, "cluster", 2, 1, cells).cells) for cells in catalogue.SEQUENCE_CELLS
        )
        assert plain < family < normed


def test_what_the_model_has_of_a_step_is_what_was_counted():
    """Small layouts tell of large ones; of a stack, the first layer (in backward the last) has half of a product."""
    assert len(table()["steps"]) == 2 * len(counts.SHAPES)
    for step in table()["steps"]:
        layers, dtype = step["layers"], step["dtype"]
        kind = gpu_model.H100, step["direction"], step["hidden"], dtype, layers, "Plain", layers > 1
        layout = Layout(*kind, *step["layout"])
        found = counted(layout.direction, dtype, layout.form, layout.height, layout.columns, "Plain")
        more = table()["machine"][layout.direction][dtype.replace("tf", "float")]["more"]
        of_cells = costs.dot(found.cells, costs.of_all_else(layout)) - more * costs.of_all_else(layout)[1]
        of_product = costs.dot(found.product, costs.of_product(layout)) / table()["machine"]["product"][dtype]["ratio"]
        expected = layout.tiles * (of_product + of_cells)
        less = layout.tiles * of_product / 4 * (layers > 1)
        assert step["instructions"] == pytest.approx(expected - less, rel=0.03 if layers == 1 else 0.1)


def test_bytes_of_the_gate_kernels_are_those_that_were_counted():
    for dtype, (kernel, of_state) in product(table()["elements"], {"gates_forward": 2, "gates_backward": 5}.items()):
        assert dtype not in ALIKE
        stored, state = gpu_model.sizes(dtype)
        of_dy = stored * (kernel == "gates_backward")  # wasn't there
        twice = of_state * state * (dtype == "float16")  # a lane's 8 numbers of 4 bytes are two accesses of each sector
        whole = gpu_model.bytes_of("training" if kernel == "gates_forward" else "backward", dtype)
        assert table()["elements"][dtype][kernel]["bytes"] + of_dy - twice == pytest.approx(whole, rel=0.01)


# -- how it is counted


def entry(name, warps=1, memory=0, target=-1):
    return [name, warps, 32 * warps, memory, target]


def test_looks_in_vain_are_left_out():
    code = [
        entry("ld.relaxed.gpu.global.v2.u64", 2, 8),
        entry("setp.eq.s32", 7),  # of two looks, and of five again
        entry("bra", 7, target=4),
        entry("ld.relaxed.gpu.global.v2.u64", 5, 20),
        entry("bra", 5, target=1),
        entry("fma.rn.f32", 2),
    ]
    launch = counts.Launch({"kernel": "k", "code": code})
    assert launch.counts["global"] == 2
    assert launch.counts["sectors"] == 8
    assert launch.counts["whole"] == 2 + 2
    assert launch.counts["float"] == 2


def test_a_loop_that_does_something_else_counts_as_a_whole():
    code = [entry("ld.relaxed.gpu.global.u32", 5, 5), entry("st.shared.u32", 5, 5), entry("bra", 5, target=0)]
    launch = counts.Launch({"kernel": "k", "code": code})
    assert launch.counts["global"] == launch.counts["shared"] == launch.counts["turns"] == 5


@pytest.mark.parametrize("tensor", [False, True])
def test_the_product_is_what_lies_between_the_barriers_around(tensor):
    multiply = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32" if tensor else "fma.rn.f32"
    step = [
        *(entry("bar.sync"), entry("add.s32"), entry("ld.shared.v4.f32", memory=4)),
        *[entry(multiply) for _ in range(8)],
        *(entry("bra", target=3), entry("st.shared.f32", memory=1), entry("bar.sync")),
    ]
    code = [entry("mov.u32"), *step, *(entry("fma.rn.f32") for _ in range(20)), entry("bra", target=1)]
    found = counts.Launch({"kernel": "sequence_forward", "code": code}).counts
    assert found["product"] == len(step) - 2
    assert found["product turns"] == 5
    assert found["turns"] == 5


@pytest.mark.parametrize(
    "name, kind, size",
    [
        ("ld.shared.v4.f32", "shared", 16),
        ("ld.relaxed.cluster.shared::cta.v2.u64", "shared", 16),
        ("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32", "cluster", 16),
        ("st.relaxed.cluster.u32", "cluster", 4),
        ("ld.global.nc.u16", "global", 2),
        ("red.global.add.u32", "global", 4),
        ("ld.param.u64", "moves", 8),
        ("div.rn.f64", "special", 8),
        ("div.u32", "whole", 4),
        ("rcp.approx.ftz.f32", "special", 4),
        ("fma.rn.f64", "float", 8),
        ("setp.lt.ftz.f32", "float", 4),
        ("setp.lt.u32", "whole", 4),
        ("bra.uni", "whole", 0),
        ("barrier.cluster.arrive.release.aligned", "waiting", 0),
        ("shfl.sync.bfly.b32", "waiting", 4),
    ],
)
def test_instructions_by_their_names(name, kind, size):
    assert counts._class(name) == kind
    assert counts._bytes(name) == size


def test_tables_are_put_in_place():
    text = gpu_model.README.read_text()
    assert gpu_model.placed(text) == text, "write them again: python -m benchmarks.gpu_model --write"
    first = next(gpu_model.gate_table())
    assert gpu_model.placed(text.replace("| float64 | 88 |", "| float64 | 89 |")) == text
    with pytest.raises(ValueError, match="no table begins with"):
        gpu_model.placed(text.replace(first, "gone"))
