"""Options of the LSTM family in the sequence tier's CUDA kernels, against the float64 oracle."""

import numpy as np
import pytest

from gpu_lstm import LSTM, InputError
from gpu_lstm.native import catalogue
from gpu_lstm.native.launch import Device
from gpu_lstm.recurrence import Arriving, Mask, Problem, family
from gpu_lstm.recurrence.cuda import auto, costs, explain, planner
from gpu_lstm.recurrence.cuda import pointwise as pointwise_cuda
from gpu_lstm.recurrence.cuda import sequence as sequence_cuda
from gpu_lstm.recurrence.cuda.layout import DIRECTIONS
from gpu_lstm.recurrence.variant import Variant
from tests.conftest import gpu_or_reason
from tests.gpu import DTYPES, H100, ORDERS, Gpu, HostBackend, at_full_size, on_host, on_the_machine
from tests.support import NUMPY, one_backward, one_forward, relative_error
from tests.test_cuda_sequence import KIB, PAIR_LIMITS, device, force, launched, put
from tests.test_cuda_variants import KINKS, TOLERANCE, example, layer_gives_what_reference_gives, run
from tests.test_family import ON

TAKEN = sorted(sequence_cuda.TAKES)
PAIRS = [
    {"peepholes", "cell_clip"},
    {"peepholes", "coupled"},
    {"hard_sigmoid", "clip"},
    {"zoneout_h", "resets"},
    {"zoneout_c", "cells"},
    {"zoneout_h", "zoneout_c", "rates"},
    {"recurrent_dropout", "resets"},
    {"layer_norm", "peepholes", "cell_clip"},
    {"layer_norm", "zoneout_h", "zoneout_c"},
]
ALL = frozenset(TAKEN)
KINDS = {"Family": ALL - {"layer_norm"}, "Normed": ALL}
"""All that one kernel takes at once."""
LENGTHS = [4, 0, 3, 2, 2]


@pytest.fixture(params=["block", "cluster", "grid"])
def form(request, monkeypatch):
    """Each form that takes options, whatever the model says of it."""
    force(monkeypatch, request.param)
    return request.param


def compare(backend, names, shape, dtype, lengths=None, reverse=False, seed=0, tier=sequence_cuda):
    """All results against the oracle; returns them."""
    if "16" in dtype or backend.tf32:
        names = names - KINKS
    data, numbers = example(names, shape, dtype, seed)
    expected = run(family, NUMPY, data, numbers, "float64", lengths, reverse)
    actual = run(tier, backend, data, numbers, dtype, lengths, reverse)
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        limit = TOLERANCE["float16" if backend.tf32 else dtype]
        assert relative_error(actual[name], array) < limit, (name, names)
    return actual


def everything(backend, names, dtype):
    compare(backend, names, (4, 3, 8), dtype)
    compare(backend, names, (4, 5, 33), dtype, lengths=LENGTHS, reverse=True)
    compare(backend, names, (4, 5, 33), dtype, lengths=LENGTHS)


@pytest.mark.gpu
def test_each_option_and_pairs_that_meet_equal_the_oracle(form):
    backend = Gpu(limits=device(form))
    for names in [*({name} for name in TAKEN), *PAIRS]:
        everything(backend, names, "float32")
    assert set(backend.launches) == launched(form)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "dtype, where", [*zip(DTYPES[1:], ("block", "cluster", "grid"), strict=False), ("tf32", "cluster")]
)
def test_every_dtype_equals_the_oracle(dtype, where, monkeypatch):
    force(monkeypatch, where)
    backend = Gpu(limits=device(where), tf32=dtype == "tf32")
    for names in (*KINDS.values(), ALL - {"recurrent_dropout", "resets"}):
        everything(backend, names, "float32" if dtype == "tf32" else dtype)
    assert set(backend.launches) == launched(where)


@on_the_machine
@pytest.mark.parametrize(
    "dtype, where", [*zip(DTYPES[1:], ("block", "cluster", "grid"), strict=False), ("tf32", "cluster")]
)
def test_the_order_of_threads_changes_nothing_in_any_dtype(dtype, where, monkeypatch):
    force(monkeypatch, where)
    stored = "float32" if dtype == "tf32" else dtype
    for names in KINDS.values():
        first, *more = (
            compare(Gpu(limits=device(where), tf32=dtype == "tf32", seed=seed), names, (2, 2, 9), stored, [2, 1])
            for seed in (None, 1, 2, 3)
        )
        for found in more:
            for name, array in first.items():
                np.testing.assert_array_equal(found[name], array)


@on_the_machine
@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_threads_changes_nothing(form, kind):
    how = {"shape": (3, 3, 20), "dtype": "float32", "lengths": [3, 0, 2]}
    expected = compare(Gpu(limits=device(form)), KINDS[kind], **how)
    for seed in ORDERS:
        actual = compare(Gpu(seed=seed, limits=device(form)), KINDS[kind], **how)
        for name in expected:
            np.testing.assert_array_equal(actual[name], expected[name])


@on_the_machine
@pytest.mark.parametrize("kind", KINDS)
def test_no_races(form, kind):
    checked = Gpu(seed=1, memory=True, limits=device(form))
    compare(checked, KINDS[kind], (3, 3, 9), "float32", lengths=[3, 1, 2], reverse=True)
    compare(checked, KINDS[kind], (2, 9, 16), "float32")


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_inference_gives_the_same_and_keeps_nothing(form, kind):
    data, numbers = example(KINDS[kind], (4, 3, 12), "float32")
    for reverse in (False, True):
        backend = Gpu(limits=device(form))
        kept, lean = (
            run(sequence_cuda, backend, data, numbers, "float32", [4, 2, 1], reverse, keep) for keep in (True, False)
        )
        for key in lean:
            np.testing.assert_array_equal(lean[key], kept[key])


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_several_tiles_of_sequences(kind, monkeypatch):
    """Two blocks of a grid share 19 sequences."""
    force(monkeypatch, "grid")
    every = planner.candidates
    monkeypatch.setattr(planner, "candidates", lambda *problem: (x for x in every(*problem) if x.members == 2))
    limits = Device(multiprocessors=2, shared_bytes=227 * KIB, capability=80)
    layout = planner.choose(limits, "forward", 19, 40, "float32", 1, kind)
    assert (layout.members, layout.slice, layout.columns) == (2, 19, 1)
    lengths = np.random.default_rng(0).integers(0, 4, 19)
    compare(Gpu(limits=limits), KINDS[kind], (3, 19, 40), "float32", lengths=lengths, reverse=True)
    compare(Gpu(limits=limits), KINDS[kind], (3, 19, 40), "float32")


def two(backend, names, shape):
    """Both directions of a layer, of different lengths: arguments of `forward`, what arrives, what the oracle gives."""
    forward, arriving, expected = [], [], []
    for reverse in (False, True):
        data, numbers = example(names, shape, "float32", seed=int(reverse))
        here = put(backend, data)
        lengths = np.random.default_rng(reverse).integers(1, shape[0] + 1, shape[1])
        mask = Mask(lengths, backend.asarray(np.arange(shape[0])[:, None, None] < lengths[None, :, None]))
        variant = Variant(**numbers, **{name[1:]: array for name, array in here.items() if name[0] == "."})
        forward.append((*(here[n] for n in ("z", "weight_hh", "h0", "c0")), mask, reverse, True, variant))
        arriving.append([here.get(name) for name in ("dh", "dh_last", "dc_last", "dc")])
        expected.append(run(family, NUMPY, data, numbers, "float64", lengths, reverse))
    return forward, arriving, expected


@pytest.mark.gpu
@pytest.mark.parametrize("tier, kind", [(sequence_cuda, "Family"), (auto, "Normed")], ids=str)
def test_two_at_once_equal_the_oracle(form, tier, kind):
    backend = Gpu(limits=PAIR_LIMITS[form])
    forward, arriving, expected = two(backend, KINDS[kind], (3, 7, 20))
    saved = tier.forward(backend, [Problem(*one) for one in forward])
    gradients = tier.backward(backend, [Arriving(one, *more) for one, more in zip(saved, arriving, strict=True)])
    assert sorted(backend.launches) == sorted(launched(form))
    for one, found, right in zip(saved, gradients, expected, strict=True):
        results = {"h": one.h, "c": one.last[1], **dict(zip(("dz", "dh0", "dc0"), found, strict=True)), **one.gradients}
        results["dz_hh"] = one.dz_hh
        for name, array in right.items():
            assert relative_error(on_host(backend, results[name]), array) < TOLERANCE["float32"], name


@pytest.mark.gpu
def test_two_of_different_kinds_run_one_after_the_other(monkeypatch):
    force(monkeypatch, "grid")
    backend = Gpu(limits=PAIR_LIMITS["grid"])
    (first, second), _, expected = two(backend, {"resets"}, (3, 2, 9))
    saved = sequence_cuda.forward(backend, [Problem(*first), Problem(*second[:-1])])
    assert backend.launches == ["sequence_forward", "sequence_forward"]
    assert relative_error(on_host(backend, saved[0].h), expected[0]["h"]) < TOLERANCE["float32"]


MISTAKES = {
    "seen by the next step, not by this one": ("place.spot(work, following)", "place.spot(work, t)"),
    "the gradient's step, not the one before": (
        "place.spot(work, shown_step)",
        "place.spot(work, last ? shown_step : t)",
    ),
    "h0 not masked": ("options.seen(h0[int64(column) * hidden + k], spot)", "h0[int64(column) * hidden + k]"),
    "what passes by is lost": ("from_h = old_h * lives;", "from_h = T(0);"),
    "a reset c": ("c_before * lives, c_after", "c_before, c_after"),
}


@on_the_machine
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_caught(mistake, monkeypatch):
    force(monkeypatch, "block")
    broken = Gpu(limits=device("block"), change=MISTAKES[mistake])
    with pytest.raises(AssertionError):
        compare(broken, {"resets", "recurrent_dropout", "zoneout_h"}, (4, 3, 8), "float32")


NORM_MISTAKES = {
    "block": {
        "no barrier before the sums": ("__syncthreads();  // the values are there", ""),
        "no barrier after the sums": ("__syncthreads();  // the result is there", ""),
    },
    "cluster": {
        "taken before it is there": (
            "if ((!is_missing(pair.first) && !is_missing(pair.second)) || patience.over())",
            "",
        ),
        "not concealed": ("      conceal_row(row);\n    }\n    __syncthreads();", "    }\n    __syncthreads();"),
        "shown by a plain store": ("publish<Memory::cluster>(there, mine.first)", "*there = mine.first"),
        "one place for both exchanges": ("(exchange * 8 * N + column) * 2", "column * 2"),
    },
    "grid": {
        "taken before it is there": ("{await(row + 2 * block, patience)", "{look<T, 1>(row + 2 * block).at[0]"),
        "shown by a plain store": ("publish(here, mine.first)", "*here = mine.first"),
        "one place for all steps": ("(exchange * steps + t) * work", "exchange * steps * work"),
    },
}


@on_the_machine
@pytest.mark.parametrize("where, mistake", [(where, name) for where, more in NORM_MISTAKES.items() for name in more])
def test_a_planted_mistake_in_the_sums_over_rows_is_caught(where, mistake, monkeypatch):
    force(monkeypatch, where)
    data, numbers = example({"layer_norm"}, (4, 3, 20), "float32")
    limits = device(where)
    right = run(sequence_cuda, Gpu(limits=limits), data, numbers, "float32", keep=False)
    broken = Gpu(limits=limits, memory=True, change=NORM_MISTAKES[where][mistake])
    with pytest.raises((RuntimeError, AssertionError)):
        for broken.seed in range(24):  # some show only where one block is far ahead
            actual = run(sequence_cuda, broken, data, numbers, "float32", keep=False)
            np.testing.assert_array_equal(actual["h"], right["h"])


@pytest.mark.gpu
def test_backward_takes_what_the_pointwise_tier_saved(monkeypatch):
    force(monkeypatch, "grid")
    results = []
    for tier in (sequence_cuda, pointwise_cuda):
        backend = Gpu(limits=device("grid"))
        data, numbers = example({"layer_norm", "zoneout_c"}, (3, 2, 9), "float64")
        data = put(backend, data, "float64")
        variant = Variant(**numbers, **{name[1:]: array for name, array in data.items() if name[0] == "."})
        start = (data[name] for name in ("z", "weight_hh", "h0", "c0"))
        saved = one_forward(tier, backend, *start, None, False, True, variant)
        dz, dh0, dc0 = one_backward(
            sequence_cuda, backend, saved, *(data[name] for name in ("dh", "dh_last", "dc_last"))
        )
        results.append([on_host(backend, a) for a in (dz, dh0, dc0, saved.dz_hh, *saved.gradients.values())])
    for one, other in zip(*results, strict=True):
        assert relative_error(other, one) < TOLERANCE["float64"]


@pytest.mark.gpu
def test_numbers_that_look_as_if_they_were_missing_are_not_waited_for(monkeypatch):
    """h0 of NaNs with all bits set, kept by zoneout and shown through a mask."""
    force(monkeypatch, "grid")
    data, numbers = example({"zoneout_h", "recurrent_dropout", "resets"}, (4, 2, 9), "float32")
    backend = Gpu(limits=device("grid"))
    here = put(backend, data)
    here["h0"].view(np.uint32)[...] = 2**32 - 1
    here[".zoneout_h"][...] = here[".live"][...] = 1
    variant = Variant(**numbers, **{name[1:]: array for name, array in here.items() if name[0] == "."})
    mask = Mask(np.array([4, 2]), backend.asarray(np.arange(4)[:, None, None] < np.array([4, 2])[None, :, None]))
    start = (here[name] for name in ("z", "weight_hh", "h0", "c0"))
    saved = one_forward(sequence_cuda, backend, *start, mask, True, True, variant)
    assert np.isnan(on_host(backend, saved.outputs)).all()


@pytest.mark.gpu
@pytest.mark.parametrize("name", [*(name for name in ON if name in TAKEN), "all"])
def test_the_layer_runs_on_it(name, monkeypatch):
    force(monkeypatch, "grid")
    options = {key: value for key, value in ON.items() if key in (TAKEN if name == "all" else [name])}
    backend = Gpu(limits=PAIR_LIMITS["grid"])
    layer_gives_what_reference_gives(backend, "sequence", options)
    assert {name for name in backend.launches if name not in ("matmul", "dropout")} == launched("grid")


def test_what_it_does_not_take_is_refused_by_name():
    z, weight_hh = np.zeros((2, 3, 8), np.float32), np.zeros((8, 2), np.float32)
    for name, variant in (("proj_size", Variant(projection=np.zeros((1, 2), np.float32))), ("heads", Variant(heads=2))):
        assert name not in TAKEN
        with pytest.raises(InputError, match=f"this tier takes no {name}; the reference tier does"):
            one_forward(sequence_cuda, HostBackend(), z, weight_hh, None, None, variant=variant)
    with pytest.raises(InputError, match=r"peepholes has shape \(3, 3\); expected \(3, H=2\)"):
        variant = Variant(peepholes=np.zeros((3, 3), np.float32))
        one_forward(sequence_cuda, HostBackend(), z, weight_hh, None, None, variant=variant)


def test_the_plan_knows_what_options_cost():
    for direction in DIRECTIONS:
        plain, options, normed = (
            planner.choose(H100, direction, 64, 256, "float32", 1, cells) for cells in catalogue.SEQUENCE_CELLS
        )
        assert costs.of(plain).microseconds < costs.of(options).microseconds < costs.of(normed).microseconds
        assert f"{direction}, with options: " in explain.words(options)
        assert normed.barriers >= 4
        assert f"{normed.barriers} barriers of a block a step" in explain.words(normed)
    said = LSTM(4, 256, backend=HostBackend(), cells=True).plan.why()
    assert "H = 256, B = 64, float32, forward: " in said  # c of every step is there anyway
    assert "; backward, with options: " in said


@at_full_size
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(20, 64, 512), (7, 3, 1000), (50, 5, 64), (9, 256, 250)], ids=str)
def test_a_gpu_gives_the_oracles_numbers_and_the_same_bits_every_time(shape, dtype):
    gpu = gpu_or_reason()
    if obstacle := planner.obstacle(gpu.limits, shape[2], dtype, ALL):
        pytest.skip(obstacle)
    data, numbers = example(ALL - KINKS, shape, dtype)
    first, second = (run(sequence_cuda, gpu, data, numbers, dtype) for _ in range(2))
    expected = run(family, NUMPY, data, numbers, "float64")
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], array)
        assert relative_error(array, expected[name]) < 20 * TOLERANCE[dtype], name
