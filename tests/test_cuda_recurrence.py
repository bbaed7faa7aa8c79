"""The pointwise tier's CUDA kernels and host code, against the float64 oracle."""

import numpy as np
import pytest

from gpu_lstm import LSTM, InputError
from gpu_lstm.native import catalogue, kernels
from gpu_lstm.recurrence import Mask, make_plan, reference
from gpu_lstm.recurrence.cuda import pointwise as pointwise_cuda
from gpu_lstm.recurrence.cuda import sequence as sequence_cuda
from gpu_lstm.recurrence.variant import Variant
from tests.conftest import gpu_or_reason
from tests.gpu import DTYPES, ORDERS, Gpu, HostBackend, at_full_size, on_host, on_the_machine, stored
from tests.odd import gapped, misaligned, swapped
from tests.support import NUMPY, loss_and_gradients, one_backward, one_forward, problem, relative_error

HOST = HostBackend()
# Stored numbers are rounded: to 11 bits in float16, to 8 in bfloat16; a few steps of them add up.
TOLERANCE = {"float64": 1e-14, "float32": 2e-6, "float16": 4e-3, "bfloat16": 4e-2}
SHAPES = [(1, 1, 1), (3, 1, 33), (4, 5, 33), (5, 3, 8), (3, 2, 1), (2, 9, 40)]
"""T, B, H: single units, odd sizes, whole packs of every dtype, several blocks."""
LENGTHS = {1: [1], 2: [3, 1], 3: [2, 5, 1], 5: [4, 1, 3, 2, 2], 9: [1, 2, 1, 2, 2, 1, 1, 2, 1]}


def example(shape, dtype, seed=0):
    """Contract arguments and incoming gradients, exact in `dtype`, as float64."""
    steps, batch, hidden = shape
    rng = np.random.default_rng(seed)
    shapes = {"z": (steps, batch, 4 * hidden), "weight_hh": (4 * hidden, hidden)}
    shapes |= dict.fromkeys(("h0", "c0", "dh_last", "dc_last"), (batch, hidden)) | {"dh": (steps, batch, hidden)}
    data = {name: rng.standard_normal(size) for name, size in shapes.items()}
    data["weight_hh"] /= np.sqrt(hidden)
    return {name: stored(array, dtype).astype(np.float64) for name, array in data.items()}


def run(tier, backend, data, dtype, mask=None, reverse=False, keep=True):
    """All results of the contract, as float64."""
    here = {name: backend.asarray(stored(array, dtype)) for name, array in data.items()}
    if mask is not None:
        mask = Mask(mask.lengths, backend.asarray(mask.valid))
    saved = one_forward(tier, backend, here["z"], here["weight_hh"], here["h0"], here["c0"], mask, reverse, keep)
    results = {"h": on_host(backend, saved.h), "c": on_host(backend, saved.last[1])}
    if keep:
        valid = True if mask is None else backend.to_numpy(mask.valid)
        results["gates"] = np.where(valid, on_host(backend, saved.gates), 0)
        gradients = one_backward(tier, backend, saved, here["dh"], here["dh_last"], here["dc_last"])
        results |= {name: on_host(backend, a) for name, a in zip(("dz", "dh0", "dc0"), gradients, strict=True)}
    return results


def compare(backend, shape, dtype, lengths, reverse=False, seed=0, tier=pointwise_cuda):
    data = example(shape, dtype, seed)
    mask = None
    if lengths:
        steps, batch, _ = shape
        counts = np.minimum(np.array(LENGTHS[batch]), steps)
        mask = Mask(counts, np.arange(steps)[:, None, None] < counts[None, :, None])
    expected = run(reference, NUMPY, data, "float64", mask, reverse)
    actual = run(tier, backend, data, dtype, mask, reverse)
    for name, array in expected.items():
        assert relative_error(actual[name], array) < TOLERANCE[dtype], name
    return actual


def compare_twice(tier, gpu, shape, dtype):
    """The same bits every time, and near the oracle's numbers."""
    first, second = (run(tier, gpu, example(shape, dtype), dtype) for _ in range(2))
    expected = run(reference, NUMPY, example(shape, dtype), "float64")
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], array)
        assert relative_error(array, expected[name]) < 20 * TOLERANCE[dtype], name


@pytest.mark.parametrize("lengths", [False, True], ids=["full", "lengths"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_backward_equal_the_oracle(cuda, shape, dtype, lengths):
    compare(cuda, shape, dtype, lengths, reverse=lengths)


@at_full_size
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(20, 64, 512), (7, 3, 1000), (300, 17, 130)], ids=str)
def test_a_gpu_gives_the_same_bits_every_time(shape, dtype):
    compare_twice(pointwise_cuda, gpu_or_reason(), shape, dtype)


@on_the_machine
def test_the_order_of_threads_changes_nothing():
    shape = (3, 9, 40)
    expected = compare(Gpu(), shape, "float32", lengths=True)
    for seed in ORDERS:
        actual = compare(Gpu(seed=seed), shape, "float32", lengths=True)
        for name in expected:
            np.testing.assert_array_equal(actual[name], expected[name])


@on_the_machine
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 2, 5), (2, 2, 8)], ids=str)
def test_no_races(shape, dtype):
    checked = Gpu(seed=1, memory=True)
    compare(checked, shape, dtype, lengths=True)
    compare(checked, shape, dtype, lengths=False)
    run(pointwise_cuda, checked, example(shape, dtype), dtype, keep=False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", [5, 8])
def test_inference_gives_the_same_and_keeps_nothing(cuda, dtype, hidden):
    data = example((4, 3, hidden), dtype)
    kept, lean = (run(pointwise_cuda, cuda, data, dtype, keep=keep) for keep in (True, False))
    for name in lean:
        np.testing.assert_array_equal(lean[name], kept[name])
    z, weight_hh = (cuda.asarray(stored(data[name], dtype)) for name in ("z", "weight_hh"))
    saved = one_forward(pointwise_cuda, cuda, z, weight_hh, None, None, keep=False)
    assert saved.c.shape[0] == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", [5, 8])
def test_lengths_that_leave_nothing_out_change_no_bit(cuda, dtype, hidden):
    data = example((4, 3, hidden), dtype)
    whole, masked = (run(pointwise_cuda, cuda, data, dtype, mask) for mask in (None, every_step(4, 3)))
    for name in whole:
        np.testing.assert_array_equal(masked[name], whole[name])


def every_step(steps, batch):
    """The mask of sequences that all have `steps` steps."""
    return Mask(np.full(batch, steps), np.ones((steps, batch, 1), bool))


def test_arrays_that_start_at_odd_places_take_the_scalar_path(cuda):
    data = example((3, 2, 8), "float32")
    expected = run(pointwise_cuda, cuda, data, "float32")
    z = cuda.xp.empty((data["z"].size + 1,), dtype=np.float32)[1:].reshape(data["z"].shape)
    z[...] = cuda.asarray(data["z"].astype(np.float32))
    assert not kernels.aligned(16, z)
    weight_hh, h0, c0 = (cuda.asarray(data[name].astype(np.float32)) for name in ("weight_hh", "h0", "c0"))
    saved = one_forward(pointwise_cuda, cuda, z, weight_hh, h0, c0)
    np.testing.assert_array_equal(on_host(cuda, saved.h), expected["h"])


class CountingNamespace:
    """NumPy, counting every call that makes an array."""

    def __init__(self):
        self.calls = 0

    def __getattr__(self, name):
        value = getattr(HostBackend.xp, name)
        if not callable(value) or isinstance(value, type):
            return value

        def counted(*args, **kwargs):
            self.calls += 1
            return value(*args, **kwargs)

        return counted


@pytest.mark.parametrize("lengths", [False, True], ids=["full", "lengths"])
def test_a_step_is_two_launches_each_way_and_allocates_nothing(lengths):
    counts = []
    for steps in (3, 11):
        backend = HostBackend()
        backend.xp = CountingNamespace()
        data = {name: array.astype(np.float32) for name, array in example((steps, 2, 4), "float32").items()}
        given = np.array([2, 1])
        mask = Mask(given, np.arange(steps)[:, None, None] < given[None, :, None]) if lengths else None
        saved = one_forward(pointwise_cuda, backend, data["z"], data["weight_hh"], data["h0"], data["c0"], mask)
        assert backend.launches == ["matmul", "gates_forward"] * steps
        backend.launches.clear()
        one_backward(pointwise_cuda, backend, saved, data["dh"], None, None)
        assert backend.launches == ["gates_backward", "matmul"] * steps
        counts.append(backend.xp.calls)
    assert counts[0] == counts[1]


@pytest.mark.parametrize("lengths", [None, [3, 6, 1]], ids=["full", "lengths"])
def test_the_layer_runs_on_it(cuda, lengths):
    results = []
    for backend, tier in ((NUMPY, "reference"), (cuda, "pointwise")):
        lstm = LSTM(3, 5, 2, bidirectional=True, backend=backend, tier=tier, dtype="float64")
        results.append(loss_and_gradients(lstm, problem(lstm, 6, 3), lengths))
    for name, expected in results[0][1].items():
        assert relative_error(results[1][1][name], expected) < 1e-13, name


def test_gradients_that_nobody_sent_are_zeros(cuda):
    results = []
    for tier, backend in ((reference, NUMPY), (pointwise_cuda, cuda)):
        data = {name: backend.asarray(array) for name, array in example((4, 3, 2), "float64").items()}
        saved = one_forward(tier, backend, data["z"], data["weight_hh"], None, None)
        results.append([on_host(backend, a) for a in one_backward(tier, backend, saved, None, data["dh_last"], None)])
    for expected, actual in zip(*results, strict=True):
        assert relative_error(actual, expected) < 1e-13


def test_the_plan_says_what_runs():
    assert "pointwise: chosen, asked for by name (fused CUDA kernels" in make_plan(HOST, "pointwise").why()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"z": np.zeros((2, 3, 6), np.float32)}, r"z has shape \(2, 3, 6\); expected \(T, B, 4H\)"),
        (
            {"z": np.zeros((2, 3, 8), np.int32)},
            "z has dtype int32; expected one of float32, float64, float16, bfloat16",
        ),
        ({"z": np.zeros((2, 3, 16), np.float32)[:, :, ::2]}, "z is not C-contiguous"),
        ({"weight_hh": np.zeros((8, 3), np.float32)}, r"weight_hh has shape \(8, 3\); expected \(4H=8, H=2\)"),
        ({"weight_hh": np.zeros((8, 2))}, "weight_hh has dtype float64; expected float32"),
        ({"weight_hh": np.zeros((2, 8), np.float32).T}, "weight_hh is not C-contiguous"),
        ({"z": [1.0]}, "z is a builtins.list; expected an array of backend cuda"),
        ({"z": swapped(np.zeros((2, 3, 8), np.float32))}, "z has dtype >f4"),
        ({"z": misaligned(np.zeros((2, 3, 8), np.float32))}, "z is misaligned"),
        ({"weight_hh": misaligned(np.zeros((8, 2), np.float32))}, "weight_hh is misaligned"),
    ],
)
def test_what_the_kernels_cannot_take_is_refused(change, message):
    given = {"z": np.zeros((2, 3, 8), np.float32), "weight_hh": np.zeros((8, 2), np.float32)} | change
    with pytest.raises(InputError, match=message):
        one_forward(pointwise_cuda, HOST, given["z"], given["weight_hh"], None, None)


@pytest.mark.parametrize("tier", [pointwise_cuda, sequence_cuda])
@pytest.mark.parametrize("options", [{}, {"gain_hh": 16, "gain_c": 4, "shift_c": 4}])
def test_what_backward_cannot_take_is_refused_by_name(tier, options):
    variant = Variant(**{name: np.ones(n, np.float32) for name, n in options.items()}) if options else None

    def backward(name, change):
        z, weight_hh = np.zeros((2, 3, 16), np.float32), np.zeros((16, 4), np.float32)
        saved = one_forward(tier, HOST, z, weight_hh, None, None, variant=variant)
        if getattr(saved, name, None) is not None:
            setattr(saved, name, change(getattr(saved, name)))
            with pytest.raises(InputError, match=r"^(saved\.\w+|z|weight_hh) (has|is)"):
                one_backward(tier, HOST, saved, None, None, None)

    for name in ("gates", "weight_hh", "c", "normalised", "scales", "c_means", "c_scales"):
        for change in (
            gapped, misaligned, swapped, lambda a: a.astype(np.float64), lambda a: a[:-1], lambda a: a.tolist(),
        ):  # fmt: skip
            backward(name, change)
    for dh in (np.zeros((2, 3, 5), np.float32), np.zeros((2, 3, 4)), [0.0]):
        with pytest.raises(InputError, match="^dh (has|is)"):
            saved = one_forward(tier, HOST, np.zeros((2, 3, 16), np.float32), np.zeros((16, 4), np.float32), None, None)
            one_backward(tier, HOST, saved, dh, None, None)


def test_too_many_cells_are_refused_by_name():
    huge = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (1, 2**20, 4 * 2**12), (0, 0, 0))
    huge.flags.writeable = False
    with pytest.raises(InputError, match="z has B H = 4294967296 cells; expected at most 2147483647"):
        one_forward(pointwise_cuda, HOST, huge, np.zeros((4 * 2**12, 2**12), np.float32), None, None)


@pytest.mark.gpu
def test_more_than_2_to_the_31_elements(cuda):
    """z of 2^31 + 8192 numbers, of which a step's are touched."""
    steps, hidden, xp = 2**19 + 2, 1024, cuda.xp
    t = steps - 1
    z = xp.empty((steps, 1, 4 * hidden), dtype=np.float16)
    h, c = (xp.empty((steps + 1, 1, hidden), dtype=dtype) for dtype in (np.float16, np.float32))
    assert z.size > 2**31
    z[t] = cuda.asarray(np.linspace(-3, 3, 4 * hidden))
    c[t] = 0.5
    weight_hh, c0 = (cuda.asarray(array) for array in (np.zeros((4 * hidden, hidden), "f2"), np.full((1, hidden), 0.5)))
    expected = one_forward(pointwise_cuda, cuda, z[t:].copy(), weight_hh, None, c0)
    slots = [np.int64(n) for n in (t, t, t + 1, t, t + 1)]
    arguments = (z, h, c, None, *slots, np.uint32(1), np.uint32(hidden))
    cuda.kernel(catalogue.kernel("gates_forward", "float16", 8, True, False))((1,), (hidden // 8,), arguments)
    for array, whole in ((h[t + 1], expected.h[1]), (c[t + 1], expected.c[1]), (z[t], expected.gates[0])):
        np.testing.assert_array_equal(cuda.to_numpy(array), cuda.to_numpy(whole))
    del z, h, c
    cuda.memory(release=True)
