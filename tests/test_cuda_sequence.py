"""The sequence tier's CUDA kernels and host code, against the float64 oracle."""

import copy
import functools
import sys

import numpy as np
import pytest

from gpu_lstm import LSTM, BackendError, InputError
from gpu_lstm.layers import schedule
from gpu_lstm.native import catalogue, kernels
from gpu_lstm.native.launch import Device
from gpu_lstm.recurrence import Arriving, Mask, Problem, reference
from gpu_lstm.recurrence.cuda import auto, costs, planner
from gpu_lstm.recurrence.cuda import pointwise as pointwise_cuda
from gpu_lstm.recurrence.cuda import sequence as sequence_cuda
from gpu_lstm.recurrence.cuda.layout import BUFFERS, DIRECTIONS
from tests.conftest import gpu_or_reason
from tests.gpu import DTYPES, H100, ORDERS, Gpu, HostBackend, at_full_size, on_host, on_the_machine, room_beside, stored
from tests.support import NUMPY, loss_and_gradients, one_backward, one_forward, problem, relative_error
from tests.test_cuda_recurrence import TOLERANCE as STORED
from tests.test_cuda_recurrence import compare_twice, every_step, example, run

KIB = 1024
TOLERANCE = STORED | {"tf32": STORED["float16"]}  # as many bits
SHAPES = [(1, 1, 1), (3, 1, 33), (4, 5, 33), (5, 3, 8), (3, 2, 1), (2, 11, 40)]
"""T, B, H: single units and steps, odd sizes, whole packs of every dtype, several tiles of sequences."""


@pytest.fixture(params=catalogue.FORMS)
def form(request, monkeypatch):
    """Each form, whatever the model says of it."""
    force(monkeypatch, request.param)
    return request.param


def force(monkeypatch, form, columns=(1, 2), height=None):
    every = planner.candidates

    def allowed(*problem):
        if form == "joint" and problem[1] == "forward":
            return (x for x in every(*problem) if x.form == "grid")
        return (x for x in every(*problem) if x.form == form and x.columns in columns and height in (None, x.height))

    monkeypatch.setattr(planner, "candidates", allowed)
    plan_anew(monkeypatch)


def plan_anew(monkeypatch):
    """Forget, for this test, what was planned before, in every module that asks: no plan gets in or out by a memory."""
    for name in ("choose", "choose_pair", "choose_layers"):
        known = getattr(planner, name)
        anew = functools.lru_cache(known.__wrapped__)
        for module in [module for at, module in sys.modules.items() if at.startswith("gpu_lstm.recurrence.cuda.")]:
            if getattr(module, name, None) is known:
                monkeypatch.setattr(module, name, anew)


def device(form):
    multiprocessors, clusters = {"cluster": (32, 0), "joint": (3, 2)}.get(form, (3, 0))
    return Device(multiprocessors, shared_bytes=227 * KIB, capability=90, clusters=clusters)


def backend_for(dtype, **options):
    """A backend, and the dtype in which it stores what is multiplied as `dtype`."""
    return Gpu(tf32=dtype == "tf32", **options), dtype.replace("tf", "float")


def compare(backend, shape, dtype, lengths=False, reverse=False, keep=True):
    """All results against the oracle; returns them."""
    data = example(shape, dtype)
    mask = None
    if lengths:
        steps, batch, _ = shape
        counts = np.random.default_rng(1).integers(1, steps + 1, batch)
        mask = Mask(counts, np.arange(steps)[:, None, None] < counts[None, :, None])
    expected = run(reference, NUMPY, data, "float64", mask, reverse, keep)
    actual = run(sequence_cuda, backend, data, dtype, mask, reverse, keep)
    for name, array in expected.items():
        error = np.abs(actual[name] - array).max()
        scale = np.abs(array).max()
        if name == "dh0":  # a sum whose terms may cancel
            scale = max(scale, (np.abs(expected["dz"]) @ np.abs(data["weight_hh"])).max())
        assert error <= TOLERANCE[planner.multiplied(backend, dtype)] * scale, name
    return actual


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_forward_and_backward_equal_the_oracle(form, dtype):
    backend = Gpu(limits=device(form))
    for shape in SHAPES:
        compare(backend, shape, dtype)
        compare(backend, shape, dtype, lengths=True, reverse=True)
    assert set(backend.launches) == launched(form)


def launched(form):
    return {f"sequence_{direction}{'_cluster' * (form == 'cluster')}" for direction in DIRECTIONS}


@pytest.mark.gpu
def test_tf32_only_where_it_was_asked_for(form):
    """float32 in memory, products of tensor cores: as near to the oracle as TF32 is, and no nearer."""
    for shape in SHAPES:
        compare(Gpu(limits=device(form), tf32=True), shape, "float32", lengths=True, reverse=True)
    data = example((5, 3, 33), "float32")
    exact, rounded = (
        run(sequence_cuda, Gpu(limits=device(form), tf32=tf32), data, "float32") for tf32 in (False, True)
    )
    expected = run(reference, NUMPY, data, "float64")
    for name in ("h", "dz"):
        assert relative_error(exact[name], expected[name]) < TOLERANCE["float32"]
        assert relative_error(rounded[name], expected[name]) > 10 * TOLERANCE["float32"]
    for name in ("float64", "float16"):
        compare(Gpu(limits=device(form), tf32=True), (2, 3, 9), name)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["tf32", "float16"])
@pytest.mark.parametrize("height, columns", [(1, 1), (2, 1), (3, 1), (4, 1), (1, 2), (2, 2), (3, 2)])
def test_weights_in_registers_and_the_rest_in_shared_memory(monkeypatch, dtype, height, columns):
    """One block holds more than fits into its registers."""
    limits = Device(multiprocessors=1, shared_bytes=227 * KIB, capability=80)
    force(monkeypatch, "grid", columns=(columns,))
    sizes = {direction: catalogue.sequence_sizes(direction, dtype, "grid") for direction in DIRECTIONS}
    every = planner.candidates

    def wanted(device, direction, *problem):
        right = (height, columns) in sizes[direction]
        return (x for x in every(device, direction, *problem) if not right or x.height == height)

    monkeypatch.setattr(planner, "candidates", wanted)
    hidden = 64 if columns == 1 else 32
    backend = Gpu(limits=limits, tf32=dtype == "tf32")
    for direction in DIRECTIONS:
        layout = planner.choose(limits, direction, 9, hidden, dtype)
        assert layout.register_bytes > 0
        if (height, columns) in sizes[direction]:
            assert layout.height == height
    compare(backend, (2, 9, hidden), "float32" if dtype == "tf32" else dtype, lengths=True)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_slices_of_several_tiles_and_16_sequences_at_once(monkeypatch, dtype):
    """Two blocks of a grid share 37 sequences: tiles of 16, the last one not full."""
    force(monkeypatch, "grid", columns=(2,))
    limits = Device(multiprocessors=2, shared_bytes=227 * KIB, capability=80)
    for direction in DIRECTIONS:
        layout = planner.choose(limits, direction, 37, 40, dtype)
        assert (layout.members, layout.slice, layout.columns) == (2, 37, 2)
    compare(Gpu(limits=limits), (3, 37, 40), dtype, lengths=True)
    compare(Gpu(limits=limits), (2, 37, 40), dtype, keep=False)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_inference_gives_the_same_and_keeps_nothing(form, dtype):
    backend = Gpu(limits=device(form))
    data = example((4, 3, 12), dtype)
    kept, lean = (run(sequence_cuda, backend, data, dtype, keep=keep) for keep in (True, False))
    for name in lean:
        np.testing.assert_array_equal(lean[name], kept[name])
    z, weight_hh = (backend.asarray(stored(data[name], dtype)) for name in ("z", "weight_hh"))
    assert one_forward(sequence_cuda, backend, z, weight_hh, None, None, keep=False).c.shape[0] == 1


@on_the_machine
@pytest.mark.parametrize("dtype", [*DTYPES, "tf32"])
def test_the_order_of_threads_changes_nothing(form, dtype):
    results = []
    for seed in (None, *ORDERS[: 2 if form == "joint" else 20 if dtype == "float32" else 3]):  # joint waits much
        backend, storage = backend_for(dtype, seed=seed, limits=device(form))
        results.append(compare(backend, (2 if form == "joint" else 3, 9, 20), storage, lengths=True))
    for actual in results[1:]:
        for name in actual:
            np.testing.assert_array_equal(actual[name], results[0][name])


@on_the_machine
@pytest.mark.parametrize("dtype", ["float32", "float16", "tf32"])
def test_no_races(form, dtype):
    checked, dtype = backend_for(dtype, seed=1, memory=True, limits=device(form))
    for shape in [(3, 3, 9), (2, 9, 16)]:
        compare(checked, shape, dtype, lengths=True)
    run(sequence_cuda, checked, example((2, 3, 9), dtype), dtype, keep=False)


@pytest.mark.gpu
def test_a_cluster_with_two_buffers_has_one_more_barrier(monkeypatch):
    force(monkeypatch, "cluster")
    expected = compare(Gpu(limits=device("cluster")), (5, 9, 20), "float16", lengths=True)
    monkeypatch.setitem(BUFFERS, "cluster", (2,))
    for seed in ORDERS:
        actual = compare(Gpu(seed=seed, limits=device("cluster")), (5, 9, 20), "float16", lengths=True)
        for name in expected:
            np.testing.assert_array_equal(actual[name], expected[name])
    layout = planner.choose(H100, "forward", 3, 20, "float32")
    assert (layout.buffers, costs.of(layout).barrier) == (2, costs.BARRIER)


@pytest.mark.gpu
def test_arrays_that_start_at_odd_places_are_read_one_element_at_a_time(form):
    backend = Gpu(limits=device(form))
    data = example((3, 2, 8), "float32")
    expected = run(sequence_cuda, backend, data, "float32")
    here = put(backend, data)
    z = backend.xp.empty((data["z"].size + 1,), dtype=np.float32)[1:].reshape(data["z"].shape)
    z[...] = here["z"]
    assert not kernels.aligned(16, z)
    saved = one_forward(sequence_cuda, backend, z, *(here[name] for name in ("weight_hh", "h0", "c0")))
    np.testing.assert_array_equal(on_host(backend, saved.h), expected["h"])
    gradients = one_backward(sequence_cuda, backend, saved, *(here[name] for name in ("dh", "dh_last", "dc_last")))
    np.testing.assert_array_equal(on_host(backend, gradients[0]), expected["dz"])


def put(backend, data, dtype="float32"):
    """On the device."""
    return {name: backend.asarray(stored(array, dtype)) for name, array in data.items()}


# -- two recurrences in one launch -------------------------------------------------------------------------------------

PAIR_LIMITS = {
    form: Device(32 if form == "cluster" else 6, shared_bytes=227 * KIB, capability=90, clusters=2 * (form == "joint"))
    for form in catalogue.FORMS
}


def pair(shape, dtype, lengths=True):
    """Both directions of a layer, the second one step longer: contract arguments and incoming gradients, and masks."""
    steps, batch, hidden = shape
    found = []
    for number, long in enumerate((steps, steps + 1)):
        counts = np.random.default_rng(number).integers(1, long + 1, batch)
        mask = Mask(counts, np.arange(long)[:, None, None] < counts[None, :, None]) if lengths else None
        found.append((example((long, batch, hidden), dtype, seed=number), mask, number == 1))
    return found


def run_pair(tier, backend, problems, dtype, keep=True):
    """As `run` of each, asked for at once."""
    here = [put(backend, data, dtype) for data, _, _ in problems]
    saved = tier.forward(
        backend,
        [
            Problem(
                *(data[name] for name in ("z", "weight_hh", "h0", "c0")),
                mask and Mask(mask.lengths, backend.asarray(mask.valid)),
                reverse,
                keep,
            )
            for data, (_, mask, reverse) in zip(here, problems, strict=True)
        ],
    )
    results = [{"h": on_host(backend, one.h), "c": on_host(backend, one.last[1])} for one in saved]
    if keep:
        for result, one in zip(results, saved, strict=True):
            valid = True if one.mask is None else backend.to_numpy(one.mask.valid)
            result["gates"] = np.where(valid, on_host(backend, one.gates), 0)
        arriving = [
            Arriving(one, *(data[name] for name in ("dh", "dh_last", "dc_last")))
            for one, data in zip(saved, here, strict=True)
        ]
        for result, found in zip(results, tier.backward(backend, arriving), strict=True):
            result |= {name: on_host(backend, a) for name, a in zip(("dz", "dh0", "dc0"), found, strict=True)}
    return results


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_two_at_once_equal_the_oracle(form, dtype):
    for shape in [(1, 1, 1), (3, 2, 33), (2, 11, 40)]:
        backend = Gpu(limits=PAIR_LIMITS[form])
        problems = pair(shape, dtype)
        for (data, mask, reverse), actual in zip(
            problems, run_pair(sequence_cuda, backend, problems, dtype), strict=True
        ):
            expected = run(reference, NUMPY, data, "float64", mask, reverse)
            for name, array in expected.items():
                scale = np.abs(array).max()
                if name == "dh0":  # a sum whose terms may cancel
                    scale = max(scale, (np.abs(expected["dz"]) @ np.abs(data["weight_hh"])).max())
                assert np.abs(actual[name] - array).max() <= TOLERANCE[dtype] * scale, name
        assert len(backend.launches) == 2
        assert set(backend.launches) == launched(form)


@on_the_machine
def test_two_at_once_under_any_order_of_threads_give_the_bits_of_each_alone(form):
    """Where both have as many blocks as each has alone; a team of a grid is smaller, its sums are in the same order."""
    problems = pair((3, 9, 20), "float32")
    alone = Gpu(limits=PAIR_LIMITS[form])
    expected = [run(sequence_cuda, alone, data, "float32", mask, reverse) for data, mask, reverse in problems]
    for seed in ORDERS[:2] if form == "joint" else ORDERS:
        backend = Gpu(seed=seed, limits=PAIR_LIMITS[form])
        for one, actual in zip(expected, run_pair(sequence_cuda, backend, problems, "float32"), strict=True):
            for name in one:
                if form == "grid":
                    assert relative_error(actual[name], one[name]) < 1e-6
                else:
                    np.testing.assert_array_equal(actual[name], one[name])


@on_the_machine
def test_no_races_in_two_at_once(form):
    for keep in (True, False):
        checked = Gpu(seed=1, memory=True, limits=PAIR_LIMITS[form])
        run_pair(sequence_cuda, checked, pair((2, 9, 12), "float16"), "float16", keep)
        assert len(checked.launches) == 1 + keep


@pytest.mark.gpu
def test_what_does_not_run_at_once_runs_one_after_the_other(monkeypatch):
    force(monkeypatch, "grid")
    problems = pair((3, 2, 9), "float32")
    expected = run_pair(reference.TIER, NUMPY, problems, "float32")
    one = Gpu(limits=Device(multiprocessors=1, shared_bytes=227 * KIB, capability=80))
    more = [*problems, problems[0]]
    mixed = [problems[0], *pair((3, 4, 9), "float32")[1:]]
    for backend, each, launches in ((one, problems, 4), (Gpu(), more, 6), (Gpu(), mixed, 4)):
        actual = run_pair(sequence_cuda, backend, each, "float32")
        assert len(backend.launches) == launches
        for name, array in expected[0].items():
            assert relative_error(actual[0][name], array) < 2e-6, name
    monkeypatch.setattr(planner, "pays", lambda *problem: False)
    backend = Gpu()
    actual = run_pair(auto, backend, problems, "float32")
    assert "sequence_forward" not in backend.launches
    monkeypatch.setattr(planner, "pays", lambda *problem: True)
    backend = Gpu()
    actual += run_pair(auto, backend, problems, "float32")
    assert backend.launches == ["sequence_forward", "sequence_backward"]
    actual += run_pair(pointwise_cuda.TIER, Gpu(), problems, "float32")
    for found, one in zip(actual, 3 * expected, strict=True):
        for name, array in one.items():
            assert relative_error(found[name], array) < 2e-6, name


# -- planted mistakes: the kernels' text with one line changed --------------------------------------------------------

SHOW = "publish(here, seen)"
LOOKS = "while (__any_sync(~0u, is_missing(values)) && !__any_sync(~0u, patience.over()))"
MISTAKES = {
    "block": {
        "no barrier before the product": ("if (tile == 0) __syncthreads();", ""),
        "no barrier after the product": (
            "        __syncthreads();\n        if (Team::conceals",
            "        if (Team::conceals",
        ),
    },
    "cluster": {
        "given before all have begun": ("      team.meet();  // others", "      // others"),
        "given by a plain store": (
            "publish<Memory::cluster>(in_block(shared, rank), value)",
            "*in_block(shared, rank) = value",
        ),
        "taken before it is there": (LOOKS, "while (false)"),
        "not concealed": ("if (Team::conceals && layout.buffers == 3 && active)", "if (false)"),
        "one buffer": ("shown + next_given * buffer", "shown + given * buffer"),
        "concealed too late for two buffers": ("given + 1 < layout.buffers ?", "given + 1 < 2 ?"),
    },
    "grid": {
        "the second takes the sequences of the first's teams": (" % layout.teams() * layout.slice", " * layout.slice"),
        "shown by a plain store": (SHOW, SHOW.replace("publish(", "*(").replace(", seen", ") = (seen")),
        "taken before it is there": (LOOKS, "while (false)"),
        "the sums are not read yet": ("if (tile == 0) __syncthreads();", ""),
        "dz shown by a plain store": ("publish(to, S(gates.i));", "*to = S(gates.i);"),
        "dz taken before it is there": (LOOKS, "while (false)"),
        "dz shown where the gates are": (
            "here = shown_to_all + line * row + unit",
            "here = const_cast<S*>(gates) + line * depth + unit",
        ),
    },
    "joint": {
        "dz's sums are sent while the cluster reads": ("if (start == 0) JointGrid::wait();", ""),
        "dz's sums are read before they are there": ("mailbox.wait(round++ % 2);", ""),
        "dz's part is read before it is there": ("  __syncthreads();\n  return {to, pitch", "  return {to, pitch"),
    },
}


@on_the_machine
@pytest.mark.parametrize("form, mistake", [(form, name) for form, changes in MISTAKES.items() for name in changes])
def test_a_planted_mistake_is_caught(form, mistake, monkeypatch):
    force(monkeypatch, form)
    data = example((16, 9, 20) if "too late" in mistake else (4, 3, 20), "float32")  # a block must get far ahead
    whole, broken = (Gpu(limits=device(form), memory=True, change=change) for change in ((), MISTAKES[form][mistake]))
    if mistake.startswith("the second"):
        broken.limits = PAIR_LIMITS[form]
        two = run_pair(sequence_cuda, broken, [(data, None, False)] * 2, "float32", keep=False)
        assert np.isnan(two[1]["h"]).any()
        return
    backward = mistake.startswith("dz")

    def result(backend, saved):
        if backward:
            return on_host(backend, one_backward(sequence_cuda, backend, copy.deepcopy(saved), None, None, None)[1])
        return on_host(backend, one_forward(sequence_cuda, backend, *started(backend, data)).h)

    saved = one_forward(sequence_cuda, whole, *started(whole, data))
    right = result(whole, saved)
    for broken.seed in range(24):  # some show under some orders only, of threads or of memory
        broken.memory_order = broken.seed % 2 == 0
        try:
            found = result(broken, saved)
        except RuntimeError:
            return
        if not np.array_equal(found, right):
            return
    pytest.fail("nothing came of it")


def started(backend, data):
    """What forward takes, in float32."""
    return [backend.asarray(stored(data[name], "float32")) for name in ("z", "weight_hh", "h0", "c0")]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["tf32", "float16"])
def test_clusters_multiply_together_in_every_size(monkeypatch, dtype):
    """Up to 16 units a block and up to 32, 16 sequences at once, several tiles of them; weights in shared memory."""
    limits = Device(12, shared_bytes=227 * KIB, capability=90, clusters=1)
    backend = Gpu(limits=limits, tf32=dtype == "tf32")
    force(monkeypatch, "joint", columns=(2,))
    for batch, hidden, height, units in ((18, 90, 1, 12), (3, 250, 2, 32)):
        layout = planner.choose(limits, "backward", batch, hidden, dtype)
        assert (layout.members, layout.height, layout.columns, layout.share) == (8, height, 2, units)
        compare(backend, (2, batch, hidden), "float32" if dtype == "tf32" else dtype, lengths=True)
    assert (layout.shared_bytes > 64 * KIB) == (dtype == "tf32")


@pytest.mark.gpu
def test_what_is_sent_within_clusters_comes_from_all_of_one():
    cuda = Gpu(limits=device("joint"))
    out = cuda.xp.empty((16, 256), dtype=np.float32)
    for rounds in (1, 3):
        cuda.kernel(catalogue.kernel("sums_in_cluster"))((16,), (256,), (out, np.int32(rounds)), 4096 + 16)
        np.testing.assert_array_equal(cuda.to_numpy(out), 3.5)


@pytest.mark.gpu
def test_numbers_that_look_as_if_they_were_missing_are_not_waited_for(monkeypatch):
    """h0 of NaNs with all bits set; the second sequence begins late, so that they go from block to block."""
    force(monkeypatch, "grid")
    backend = Gpu(limits=device("grid"))
    z, weight_hh, h0, c0 = started(backend, example((4, 2, 9), "float32"))
    h0.view(np.uint32)[...] = 2**32 - 1
    valid = backend.asarray(np.arange(4)[:, None, None] < np.array([4, 2])[None, :, None])
    saved = one_forward(sequence_cuda, backend, z, weight_hh, h0, c0, Mask(np.array([4, 2]), valid), True)
    assert np.isnan(on_host(backend, saved.outputs)).all()


@pytest.mark.gpu
def test_the_watchdog_turns_a_hang_into_an_error(monkeypatch):
    force(monkeypatch, "grid")
    whole = Gpu(limits=device("grid"))
    here = started(whole, example((4, 3, 20), "float32"))
    saved = one_forward(sequence_cuda, whole, *here)
    silent = Gpu(limits=device("grid"), change=(SHOW, "0"))
    broken = Gpu(limits=device("grid"), change=("publish(to, S(gates.i));", ""))
    monkeypatch.setenv(kernels.WATCHDOG, "300")
    with pytest.raises(
        BackendError, match=r"sequence_backward<float, Grid, \d, 1> waited in vain: .*GPU_LSTM_WATCHDOG=300"
    ):
        one_backward(sequence_cuda, broken, saved, None, None, None)
    with pytest.raises(BackendError, match=r"sequence_forward<float, Grid, \d, 1> waited in vain"):
        one_forward(sequence_cuda, silent, *here)
    with pytest.raises(BackendError, match=r"waited in vain: .*forward: 2 x 1 x 3 blocks of the grid"):
        silent.limits = PAIR_LIMITS["grid"]
        sequence_cuda.forward(silent, [Problem(*here)] * 2)
    monkeypatch.setenv(kernels.WATCHDOG, "soon")
    with pytest.raises(InputError, match="GPU_LSTM_WATCHDOG is 'soon'; expected a whole number"):
        one_backward(sequence_cuda, broken, saved, None, None, None)


@pytest.mark.gpu
def test_the_watchdog_ends_clusters_of_a_grid_too(monkeypatch):
    force(monkeypatch, "joint")
    whole = Gpu(limits=device("joint"))
    saved = one_forward(sequence_cuda, whole, *started(whole, example((4, 3, 20), "float32")))
    broken = Gpu(limits=device("joint"), change=("publish(to, S(gates.i));", ""))
    monkeypatch.setenv(kernels.WATCHDOG, "300")
    with pytest.raises(
        BackendError, match=r"<float, JointGrid, 1, 1> waited in vain: .*1 x 16 blocks .* clusters of 8"
    ):
        one_backward(sequence_cuda, broken, saved, None, None, None)


# -- the layer, and a GPU ---------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("lengths", [None, [3, 6, 1]], ids=["full", "lengths"])
def test_the_layer_runs_on_it(lengths):
    results = []
    backend = Gpu()
    for where, tier in ((NUMPY, "reference"), (backend, "auto")):
        lstm = LSTM(3, 5, 2, bidirectional=True, backend=where, tier=tier, dtype="float64")
        results.append(loss_and_gradients(lstm, problem(lstm, 6, 3), lengths))
    assert lstm.plan.tier == "sequence"
    for name in ("sequence_forward", "sequence_backward"):
        assert backend.launches.count(name) == 2  # of each layer both directions at once
    for name, expected in results[0][1].items():
        assert relative_error(results[1][1][name], expected) < 1e-13, name


@pytest.mark.gpu
def test_auto_takes_the_tier_that_pays(monkeypatch):
    data, results = example((3, 2, 5), "float32"), []
    for pays in (True, False):
        monkeypatch.setattr(planner, "pays", lambda *problem, pays=pays: pays)
        backend = Gpu()
        results.append(run(auto, backend, data, "float32"))
        assert ("sequence_forward" in backend.launches) == pays == ("matmul" not in backend.launches)
    for name, expected in results[0].items():
        assert relative_error(results[1][name], expected) < 2e-6, name


@pytest.mark.gpu
def test_gradients_that_nobody_sent_are_zeros(form):
    results = []
    for tier, backend in ((reference, NUMPY), (sequence_cuda, Gpu(limits=device(form)))):
        data = put(backend, example((4, 3, 2), "float64"), "float64")
        saved = one_forward(tier, backend, data["z"], data["weight_hh"], None, None)
        results.append([on_host(backend, a) for a in one_backward(tier, backend, saved, None, data["dh_last"], None)])
    for expected, actual in zip(*results, strict=True):
        assert relative_error(actual, expected) < 1e-13


def test_what_does_not_fit_is_refused_by_name():
    backend = HostBackend(limits=Device(multiprocessors=2, shared_bytes=16 * KIB, capability=80))
    with pytest.raises(
        BackendError, match=r"tier sequence can't run .*: W_hh of H = 100 in float32 does not fit on chip"
    ):
        one_forward(
            sequence_cuda, backend, np.zeros((2, 3, 400), np.float32), np.zeros((400, 100), np.float32), None, None
        )


@at_full_size
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "recompute": True}, {"bidirectional": True}], ids=str)
def test_on_a_gpu_products_beside_the_recurrence_have_the_same_bits(monkeypatch, options, dtype):
    gpu, found = gpu_or_reason(), []
    data = problem(LSTM(64, 256, backend=NUMPY, **options), 700, 32)
    lengths = np.random.default_rng(0).integers(300, 701, 32)
    for room in (False, True, True):
        room_beside(monkeypatch, room)
        one = LSTM(64, 256, backend=gpu, dtype=dtype, tier="sequence", **options)
        assert len(schedule.segments(*data["x"].shape[:2], least_steps=gpu.least_steps)) == 3
        x, dy = (gpu.asarray(data[name], dtype) for name in ("x", "dy"))
        y, state, tape = one.forward(x, None, lengths)
        dx, dstate, gradients = one.backward(tape, dy)
        found.append([gpu.to_numpy(array) for array in (y, *state, dx, *dstate, *gradients.values())])
    for apart, beside, again in zip(*found, strict=True):
        assert apart.tobytes() == beside.tobytes() == again.tobytes()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_inference_and_lengths_change_no_bit(form, dtype):
    gpu, data = Gpu(limits=device(form)), example((5, 3, 24), dtype)
    expected = run(sequence_cuda, gpu, data, dtype)
    for actual in (
        run(sequence_cuda, gpu, data, dtype, keep=False),
        run(sequence_cuda, gpu, data, dtype, every_step(5, 3)),
        run(sequence_cuda, gpu, data, dtype, every_step(5, 3), keep=False),
    ):
        for name in actual:
            np.testing.assert_array_equal(actual[name], expected[name])


@at_full_size
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gpu_runs_a_grid_of_clusters(dtype, monkeypatch):
    gpu = gpu_or_reason()
    if not gpu.limits.clusters:
        pytest.skip("no grid of clusters can be launched here")
    force(monkeypatch, "joint")
    compare_twice(sequence_cuda, gpu, (40, 16, 200), dtype)


@at_full_size
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(20, 64, 512), (7, 3, 1000), (300, 17, 130), (50, 5, 64), (9, 256, 250)], ids=str)
def test_a_gpu_gives_the_oracles_numbers_and_the_same_bits_every_time(shape, dtype):
    gpu = gpu_or_reason()
    if obstacle := planner.obstacle(gpu.limits, shape[2], dtype):
        pytest.skip(obstacle)
    compare_twice(sequence_cuda, gpu, shape, dtype)
