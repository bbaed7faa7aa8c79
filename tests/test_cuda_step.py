"""The CUDA kernels around the recurrence, emulated, against the float64 generic code."""

import math
from pathlib import PurePosixPath

import numpy as np
import pytest

from gpu_lstm import Embedding, InputError, losses
from gpu_lstm.backend import kernels
from gpu_lstm.backend.base import Backend
from gpu_lstm.models import Classifier, LanguageModel
from gpu_lstm.optimizers import OPTIMIZERS, clip_by_global_norm, make_optimizer
from tests import emulator
from tests.emulated import DTYPES, EmulatedBackend, needs_emulator
from tests.support import NUMPY, relative_error

pytestmark = needs_emulator

EMULATED, CHECKED = EmulatedBackend(), EmulatedBackend("check")
TOLERANCE = {"float64": 1e-14, "float32": 2e-6, "float16": 2e-3, "bfloat16": 2e-2}
SEEDS = range(20)


def stored(array, dtype):
    return array.astype(EMULATED.dtype(dtype))


# -- softmax cross-entropy --------------------------------------------------------------------------------------------


def cross_entropy(backend, dtype, rows, vocabulary, ignore=None, seed=0):
    rng = np.random.default_rng(seed)
    logits = stored(rng.standard_normal((rows, vocabulary)) * 3, dtype)
    targets = rng.integers(0, vocabulary, rows)
    if ignore is not None:
        targets[::3] = ignore
    wide = logits.astype(np.float64)
    expected, _ = losses.softmax_cross_entropy(NUMPY, wide, targets, ignore)
    loss, gradient = losses.softmax_cross_entropy(backend, logits, targets, ignore)
    (value,) = backend.read(loss)
    assert value == pytest.approx(float(expected), rel=TOLERANCE["float32" if "16" in dtype else dtype])
    assert relative_error(gradient.astype(np.float64), wide) < TOLERANCE[dtype]
    return value, gradient


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows, vocabulary", [(1, 1), (1, 33), (7, 2), (5, 65), (3, 300)])
def test_cross_entropy(dtype, rows, vocabulary):
    for ignore in (None, -100, 0):
        cross_entropy(EMULATED, dtype, rows, vocabulary, ignore)


@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy_is_clean_in_check_mode(dtype):
    cross_entropy(CHECKED, dtype, 3, 70, ignore=-1)


def test_cross_entropy_in_any_order_of_threads():
    first = cross_entropy(EMULATED, "float32", 6, 300, 2)
    for seed in SEEDS:
        value, gradient = cross_entropy(EmulatedBackend(seed=seed), "float32", 6, 300, 2)
        assert value == first[0]
        np.testing.assert_array_equal(gradient, first[1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cross_entropy_of_huge_logits(dtype):
    logits = np.array([[1e4, -1e4, 0], [0, 1e4, 1e4]], dtype=dtype)
    loss, gradient = losses.softmax_cross_entropy(EMULATED, logits, np.array([0, 2]))
    assert EMULATED.read(loss) == pytest.approx((math.log(2) / 2,))
    assert np.isfinite(gradient).all()


def test_cross_entropy_with_nothing_that_counts():
    loss, gradient = losses.softmax_cross_entropy(EMULATED, np.ones((2, 3)), np.array([-1, -1]), -1)
    assert EMULATED.read(loss) == (0,)
    assert np.all(gradient == 0)


def test_a_target_out_of_range_is_told_when_the_loss_is_read_and_touches_nothing():
    for backend in (EMULATED, CHECKED):
        logits = np.ones((3, 4), np.float32)
        loss, gradient = losses.softmax_cross_entropy(backend, logits, np.array([1, 4, -7]))
        assert np.all(gradient[1:] == 0)
        with pytest.raises(InputError, match=r"targets has values -7\.\.4; expected 0\.\.V-1=3"):
            backend.read(loss)
        assert backend.read(loss)  # told once


# -- rows of a table --------------------------------------------------------------------------------------------------


def rows_and_gradient(backend, dtype, size, width, count, seed=0):
    rng = np.random.default_rng(seed)
    table = stored(rng.standard_normal((size, width)), dtype)
    index, rows = rng.integers(0, size, count), stored(rng.standard_normal((count, width)), dtype)
    np.testing.assert_array_equal(backend.take_rows(table, index), table[index])
    expected = table.astype(np.float64)
    np.add.at(expected, index, rows.astype(np.float64))
    backend.scatter_add(table, index, rows)
    assert relative_error(table.astype(np.float64), expected) < TOLERANCE[dtype]
    return table


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size, width, count", [(1, 1, 1), (3, 33, 40), (300, 5, 20), (2, 70, 300)])
def test_rows_of_a_table_and_their_gradient(dtype, size, width, count):
    rows_and_gradient(EMULATED, dtype, size, width, count)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_clean_in_check_mode(dtype):
    rows_and_gradient(CHECKED, dtype, 3, 35, 7)


def test_the_gradient_of_a_table_in_any_order_of_threads():
    first = rows_and_gradient(EMULATED, "float32", 3, 40, 300)
    for seed in SEEDS:
        np.testing.assert_array_equal(rows_and_gradient(EmulatedBackend(seed=seed), "float32", 3, 40, 300), first)


@pytest.mark.parametrize("backend", [EMULATED, CHECKED], ids=["fast", "check"])
def test_numbers_out_of_range_are_told_at_the_next_read_and_touch_nothing(backend):
    embedding = Embedding(3, 2, backend=backend, dtype="float64")
    ids = np.array([[0, 3], [-5, 1]], "int32")
    y, tape = embedding.forward(ids)
    assert y.shape == (2, 2, 2)
    _, gradients = embedding.backward(tape, np.ones((2, 2, 2)))
    np.testing.assert_array_equal(gradients["weight"], [[1, 1], [1, 1], [0, 0]])
    with pytest.raises(InputError, match=r"ids has values -5\.\.3; expected 0\.\.num_embeddings-1=2"):
        backend.read()
    assert backend.read() == ()


def test_more_ranges_than_are_kept_are_read_before():
    backend = EmulatedBackend()
    for size in range(1, 40):
        backend.require_range("ids", np.array([0]), size, "V")
    backend.require_range("ids", np.array([-100, 7]), 3, "V", besides=-100)
    with pytest.raises(InputError, match=r"ids has values 7\.\.7; expected 0\.\.V-1=2"):
        backend.read()


# -- dropout ----------------------------------------------------------------------------------------------------------

PHILOX = """
#include "common.cuh"
#include "philox.cuh"
extern "C" __global__ void words(unsigned* out, unsigned x, unsigned y, unsigned z, unsigned w,
                                 unsigned low, unsigned high) {
  const Words words = philox({x, y, z, w}, low, high);
  out[0] = words.x, out[1] = words.y, out[2] = words.z, out[3] = words.w;
}
"""
# From the Random123 library's file of known answers (kat_vectors, philox4x32, 10 rounds).
KNOWN = [
    ("00000000 00000000 00000000 00000000 00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize("given, expected", KNOWN)
def test_philox_gives_the_published_numbers(given, expected):
    out = np.zeros(4, np.uint32)
    numbers = [np.uint32(int(word, 16)) for word in given.split()]
    emulator.build(kernels.expand(PHILOX, PurePosixPath("cuda", "words.cu"))).launch(
        "words", (1,), (1,), (out, *numbers)
    )
    assert [f"{word:08x}" for word in out] == expected.split()


@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout_keeps_the_right_share_and_does_the_same_again(dtype):
    x = stored(np.random.default_rng(0).standard_normal((100, 333)), dtype)
    y, again = EMULATED.dropout(x, 0.25, (1, 2))
    dropped = y == 0
    assert abs(np.mean(dropped) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / x.size)
    np.testing.assert_allclose(y[~dropped].astype(float), x[~dropped].astype(float) * 4 / 3, rtol=TOLERANCE[dtype])
    np.testing.assert_array_equal(again(np.ones_like(x)) == 0, dropped)
    assert np.any((EMULATED.dropout(x, 0.25, (1, 3))[0] == 0) != dropped)


def test_the_mask_depends_on_seed_and_place_alone():
    """Not on the grid, not on the width of an access, not on what comes after."""
    x = np.ones(4099, np.float32)
    mask = EMULATED.dropout(x, 0.5, (7,))[0]
    for n in (1, 2, 3, 5, 4096):
        np.testing.assert_array_equal(EMULATED.dropout(np.ones(n, np.float32), 0.5, (7,))[0], mask[:n])
    apart = np.ones(4100, np.float32)[1:]
    assert not kernels.aligned(16, apart)
    np.testing.assert_array_equal(EMULATED.dropout(apart, 0.5, (7,))[0], mask)
    kernel = kernels.dropout("float32", 4)
    low, high = np.random.SeedSequence((7,)).generate_state(2)
    for blocks in (1, 2, 9):
        y = np.zeros_like(x)
        EMULATED.kernel(kernel)((blocks,), (64,), (x, y, np.int64(4099), low, high, np.uint32(2**31), np.float32(2)))
        np.testing.assert_array_equal(y, mask)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [6, 8])
def test_dropout_is_clean_in_check_mode(dtype, count):
    whole = stored(np.ones(count + 1), dtype)
    for x in (whole[:-1].copy(), whole[1:]):
        y, _ = CHECKED.dropout(x, 0.5, (1,))
        np.testing.assert_array_equal(y, EMULATED.dropout(x, 0.5, (1,))[0])


# -- optimizers -------------------------------------------------------------------------------------------------------

SHAPES = {"weight": (33, 130), "bias": (5,), "one": (1,), "none": (0, 3)}
"""More than one chunk, less than a warp, a single element, nothing."""


def after_updates(backend, name, dtype, max_norm, steps=3, shapes=SHAPES):
    rng = np.random.default_rng(0)
    params = {n: backend.asarray(rng.standard_normal(shape), dtype) for n, shape in shapes.items()}
    options = {"sgd": {"momentum": 0.9}, "adamw": {"weight_decay": 0.1}}.get(name, {})
    optimizer = make_optimizer(name, backend, params, 0.1, **options)
    norms = []
    for step in range(steps):
        gradients = {n: backend.asarray(rng.standard_normal(shape) * 2, dtype) for n, shape in shapes.items()}
        loss = None if step == 0 else backend.asarray(np.array(1.0), dtype)
        norms.append(optimizer.update(gradients, 0.5, max_norm, loss))
    norms = [] if max_norm is None else [float(norm) for norm in norms]
    return {**params, **optimizer.state, "norms": np.array(norms)}


@pytest.mark.parametrize("max_norm", [None, 1.0, 1e6])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates(name, dtype, max_norm):
    expected = after_updates(NUMPY, name, "float64", max_norm)
    actual = after_updates(EMULATED, name, dtype, max_norm)
    for key, array in expected.items():
        if array.size:
            assert relative_error(actual[key], array) < 10 * TOLERANCE[dtype], key


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_are_clean_in_check_mode(name):
    shapes = {"a": (3, 5), "b": (2,)}
    actual = after_updates(CHECKED, name, "float32", 1.0, steps=1, shapes=shapes)
    for key, array in after_updates(EMULATED, name, "float32", 1.0, steps=1, shapes=shapes).items():
        np.testing.assert_array_equal(actual[key], array)


def test_an_update_in_any_order_of_threads():
    first = after_updates(EMULATED, "adam", "float32", 1.0, steps=1)
    for seed in SEEDS:
        for key, array in after_updates(EmulatedBackend(seed=seed), "adam", "float32", 1.0, steps=1).items():
            np.testing.assert_array_equal(array, first[key])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("backend", [EMULATED, CHECKED], ids=["fast", "check"])
def test_16_bit_gradients_move_float32_parameters(backend, dtype):
    rng = np.random.default_rng(0)
    gradient = stored(rng.standard_normal(40), dtype)
    expected, actual = np.ones(40, np.float64), np.ones(40, np.float32)
    for there, param, array in ((NUMPY, expected, gradient.astype(np.float64)), (backend, actual, gradient)):
        norm = make_optimizer("adam", there, {"p": param}, 0.1).update({"p": array}, max_norm=1.0)
        assert float(norm) == pytest.approx(np.linalg.norm(gradient.astype(np.float64)), rel=1e-6)
    assert relative_error(actual, expected) < 1e-6


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nothing_moves_where_norm_or_loss_is_no_number(bad):
    for gradient, loss in ((bad, 1.0), (1.0, bad)):
        params = {"p": np.array([1.0, 2.0])}
        optimizer = make_optimizer("adam", EMULATED, params, 0.1)
        optimizer.update({"p": np.array([1.0, gradient])}, max_norm=1.0, loss=np.array(loss))
        np.testing.assert_array_equal(params["p"], [1, 2])
        np.testing.assert_array_equal(optimizer.state["mean.p"], [0, 0])


def test_an_update_with_clipping_is_three_launches():
    backend = EmulatedBackend()
    after_updates(backend, "adam", "float32", 1.0, steps=1)
    assert backend.launches == ["sum_of_squares", "norm_of_sums", "update"]
    backend.launches.clear()
    after_updates(backend, "adam", "float32", None, steps=1)
    assert backend.launches == ["update"]


def test_the_norm_alone():
    gradients = {"a": np.array([3.0]), "b": np.array([[4.0]])}
    assert clip_by_global_norm(EMULATED, gradients, 1.0) == 5.0
    np.testing.assert_allclose([gradients["a"][0], gradients["b"][0, 0]], [0.6, 0.8])
    assert clip_by_global_norm(EMULATED, {}, 1.0) == 0


@pytest.mark.parametrize(
    "gradient, message",
    [
        (np.zeros((2, 3), np.float32).T, r"gradients\[0\] is not C-contiguous"),
        (np.zeros((2, 2), np.float32), r"params\[0\] has shape \(3, 2\); expected \(2, 2\)"),
        (np.zeros((3, 2)), r"params\[0\] has dtype float32; expected float64"),
        (np.zeros((3, 2), np.int32), r"gradients\[0\] has dtype int32; expected one of float32"),
        ([0.0], "gradients.* is a builtins.list; expected an array of backend emulated"),
    ],
)
def test_updates_refuse_what_the_kernel_cannot_take(gradient, message):
    params = {"p": np.zeros((3, 2), np.float32)}
    with pytest.raises(InputError, match=message):
        make_optimizer("sgd", EMULATED, params, 0.1).update({"p": gradient})


# -- all together -----------------------------------------------------------------------------------------------------


def trained(backend, make, *batch):
    model = make(backend)
    optimizer = make_optimizer("adamw", backend, model.params, 0.01)
    values = []
    for _ in range(3):
        loss, *_, gradients = model.loss(*batch)
        values.append(backend.read(loss, optimizer.update(gradients, max_norm=0.5, loss=loss)))
    return np.array(values), {name: backend.to_numpy(param) for name, param in model.params.items()}


@pytest.mark.parametrize("kind", ["text", "classify"])
def test_training_steps_equal_those_on_numpy(kind):
    rng = np.random.default_rng(0)
    if kind == "text":
        batch = (rng.integers(0, 7, (6, 3)),)

        def make(backend):
            return LanguageModel(7, 3, 5, 2, backend=backend, dtype="float64")
    else:
        batch = rng.standard_normal((6, 3, 2)), np.array([6, 1, 4]), np.array([0, 2, 1])

        def make(backend):
            return Classifier([0.0, 0.0], [1.0, 1.0], 3, 4, backend=backend, dtype="float64")

    expected, actual = (trained(backend, make, *batch) for backend in (NUMPY, EMULATED))
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-12)
    for name, param in expected[1].items():
        assert relative_error(actual[1][name], param) < 1e-12, name


class WithoutReading(EmulatedBackend):
    """Fails where the host would wait for the device."""

    reading = False

    def to_numpy(self, x):
        assert self.reading, "the host waits for the device"
        return super().to_numpy(x)

    def read(self, *scalars):
        self.reading = True
        try:
            return super().read(*scalars)
        finally:
            self.reading = False


def test_a_step_waits_for_the_device_only_to_read_loss_and_norm(monkeypatch):
    for name in ("require_range", "softmax_cross_entropy", "norm", "update", "dropout", "take_rows", "scatter_add"):
        monkeypatch.setattr(Backend, name, None)  # no generic body, which may wait, is used
    backend = WithoutReading()
    model = LanguageModel(7, 3, 5, 1, dropout=0.5, backend=backend)
    optimizer = make_optimizer("adam", backend, model.params, 0.01)
    loss, _, gradients = model.loss(np.arange(12).reshape(4, 3) % 7, seed=(1,))
    norm = optimizer.update(gradients, max_norm=1.0, loss=loss)
    assert all(math.isfinite(number) for number in backend.read(loss, norm))
