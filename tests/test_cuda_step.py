"""The CUDA kernels around the recurrence, against the float64 generic code."""

import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import PurePosixPath

import numpy as np
import pytest

from gpu_lstm import Embedding, InputError, losses, ops
from gpu_lstm.models import Classifier, LanguageModel
from gpu_lstm.native import catalogue, kernels, sources
from gpu_lstm.optimizers import OPTIMIZERS, clip_by_global_norm, make_optimizer
from tests.conftest import gpu_or_reason
from tests.gpu import DTYPES, ORDERS, Gpu, HostBackend, at_full_size, on_host, on_the_machine, stored
from tests.support import NUMPY, relative_error

TOLERANCE = {"float64": 1e-14, "float32": 2e-6, "float16": 2e-3, "bfloat16": 2e-2}


# -- softmax cross-entropy --------------------------------------------------------------------------------------------


def cross_entropy(backend, dtype, rows, vocabulary, ignore=None, seed=0):
    rng = np.random.default_rng(seed)
    logits = stored(rng.standard_normal((rows, vocabulary)) * 3, dtype)
    targets = rng.integers(0, vocabulary, rows)
    if ignore is not None:
        targets[::3] = ignore
    wide = logits.astype(np.float64)
    expected, right = losses.softmax_cross_entropy(NUMPY, wide, targets, ignore)
    loss, gradient = losses.softmax_cross_entropy(backend, backend.asarray(logits), backend.asarray(targets), ignore)
    (value,) = backend.read(loss)
    assert value == pytest.approx(float(expected), rel=TOLERANCE["float32" if "16" in dtype else dtype])
    gradient = on_host(backend, gradient)
    assert relative_error(gradient, right) < TOLERANCE[dtype]
    return value, gradient


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows, vocabulary", [(1, 1), (1, 33), (7, 2), (5, 65), (3, 300)])
def test_cross_entropy(cuda, dtype, rows, vocabulary):
    for ignore in (None, -100, 0):
        cross_entropy(cuda, dtype, rows, vocabulary, ignore)


@on_the_machine
@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy_has_no_races(dtype):
    cross_entropy(Gpu(seed=1, memory=True), dtype, 3, 70, ignore=-1)


@on_the_machine
def test_cross_entropy_in_any_order_of_threads():
    first = cross_entropy(Gpu(), "float32", 6, 300, 2)
    for seed in ORDERS:
        value, gradient = cross_entropy(Gpu(seed=seed), "float32", 6, 300, 2)
        assert value == first[0]
        np.testing.assert_array_equal(gradient, first[1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cross_entropy_of_huge_logits(cuda, dtype):
    logits = cuda.asarray(np.array([[1e4, -1e4, 0], [0, 1e4, 1e4]], dtype=dtype))
    loss, gradient = losses.softmax_cross_entropy(cuda, logits, cuda.asarray(np.array([0, 2])))
    assert cuda.read(loss) == pytest.approx((math.log(2) / 2,))
    assert np.isfinite(on_host(cuda, gradient)).all()


def test_cross_entropy_with_nothing_that_counts(cuda):
    loss, gradient = losses.softmax_cross_entropy(cuda, cuda.asarray(np.ones((2, 3))), cuda.asarray([-1, -1]), -1)
    assert cuda.read(loss) == (0,)
    assert np.all(on_host(cuda, gradient) == 0)


def test_a_target_out_of_range_is_told_when_the_loss_is_read_and_touches_nothing(cuda):
    logits, targets = cuda.asarray(np.ones((3, 4), np.float32)), cuda.asarray(np.array([1, 4, -7]))
    loss, gradient = losses.softmax_cross_entropy(cuda, logits, targets)
    assert np.all(on_host(cuda, gradient)[1:] == 0)
    with pytest.raises(InputError, match=r"targets has values -7\.\.4; expected 0\.\.V-1=3"):
        cuda.read(loss)
    assert cuda.read(loss)  # told once


# -- rows of a table --------------------------------------------------------------------------------------------------


def rows_and_gradient(backend, dtype, size, width, count, seed=0):
    rng = np.random.default_rng(seed)
    table = stored(rng.standard_normal((size, width)), dtype)
    index, rows = rng.integers(0, size, count), stored(rng.standard_normal((count, width)), dtype)
    here, index_here = backend.asarray(table.copy()), backend.asarray(index)
    np.testing.assert_array_equal(backend.to_numpy(ops.of(backend).take_rows(here, index_here)), table[index])
    expected = table.astype(np.float64)
    np.add.at(expected, index, rows.astype(np.float64))
    ops.of(backend).scatter_add(here, index_here, backend.asarray(rows))
    actual = on_host(backend, here)
    assert relative_error(actual, expected) < TOLERANCE[dtype]
    return actual


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size, width, count", [(1, 1, 1), (3, 33, 40), (300, 5, 20), (2, 70, 300)])
def test_rows_of_a_table_and_their_gradient(cuda, dtype, size, width, count):
    rows_and_gradient(cuda, dtype, size, width, count)


@on_the_machine
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_have_no_races(dtype):
    rows_and_gradient(Gpu(seed=1, memory=True), dtype, 3, 35, 7)


@on_the_machine
def test_the_gradient_of_a_table_in_any_order_of_threads():
    first = rows_and_gradient(Gpu(), "float32", 3, 40, 300)
    for seed in ORDERS:
        np.testing.assert_array_equal(rows_and_gradient(Gpu(seed=seed), "float32", 3, 40, 300), first)


def test_numbers_out_of_range_are_told_at_the_next_read_and_touch_nothing(cuda):
    embedding = Embedding(3, 2, backend=cuda, dtype="float64")
    y, tape = embedding.forward(cuda.asarray(np.array([[0, 3], [-5, 1]], "int32")))
    assert y.shape == (2, 2, 2)
    _, gradients = embedding.backward(tape, cuda.asarray(np.ones((2, 2, 2))))
    np.testing.assert_array_equal(cuda.to_numpy(gradients["weight"]), [[1, 1], [1, 1], [0, 0]])
    with pytest.raises(InputError, match=r"ids has values -5\.\.3; expected 0\.\.num_embeddings-1=2"):
        cuda.read()
    assert cuda.read() == ()


def test_numbers_out_of_range_are_told_to_the_thread_that_gave_them(cuda):
    ops.of(cuda).take_rows(cuda.xp.ones((3, 1)), cuda.asarray([7]), "ids")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(cuda.read).result() == ()
    with pytest.raises(InputError, match=r"ids has values 7\.\.7"):
        cuda.read()


def test_more_ranges_than_are_kept_are_read_before(cuda):
    for size in range(1, 40):
        ops.of(cuda).take_rows(cuda.xp.ones((size, 1)), cuda.asarray([0]), "ids")
    ops.of(cuda).softmax_cross_entropy(cuda.xp.ones((2, 3)), cuda.asarray([-100, 7]), -100)
    with pytest.raises(InputError, match=r"targets has values 7\.\.7; expected 0\.\.V-1=2"):
        cuda.read()


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda b: ops.of(b).take_rows(b.xp.ones((2, 2)), b.xp.zeros((1,))),
            "index has dtype float64; expected integers",
        ),
        (
            lambda b: ops.of(b).take_rows(b.xp.ones((2, 2)), b.asarray([[0]])),
            r"index has shape \(1, 1\); expected \(N,\)",
        ),
        (
            lambda b: ops.of(b).take_rows(b.asarray([[1]]), b.asarray([0])),
            "table has dtype int64; expected one of float32",
        ),
        (lambda b: ops.of(b).take_rows(b.xp.ones((2, 3)).T, b.asarray([0])), "table is not C-contiguous"),
        (
            lambda b: ops.of(b).scatter_add(b.xp.ones((2, 3)), b.asarray([0]), b.xp.ones((1, 2))),
            r"rows has shape \(1, 2\); expected \(N=1, M=3\)",
        ),
        (
            lambda b: ops.of(b).softmax_cross_entropy(b.xp.ones((2, 3)).T, b.asarray([0]), None),
            "logits is not C-contiguous",
        ),
        (
            lambda b: ops.of(b).softmax_cross_entropy(b.xp.ones((3, 2)), b.asarray([0]), None),
            r"targets has shape \(1,\); expected \(N=3,\)",
        ),
        (lambda b: ops.of(b).dropout(b.asarray([1]), 0.5, (1,)), "x has dtype int64; expected one of float32"),
        (
            lambda b: ops.of(b).take_rows([1.0], b.asarray([0])),
            "table is a builtins.list; expected an array of backend",
        ),
    ],
)
def test_what_the_kernels_cannot_take_is_refused(cuda, call, message):
    with pytest.raises(InputError, match=message):
        call(cuda)


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


def test_philox_gives_the_published_numbers(cuda):
    source = sources.expand(PHILOX, PurePosixPath("cuda", "words.cu"))
    words = cuda.xp.RawModule(code=source, options=kernels.flags()).get_function("words")
    for given, expected in KNOWN:
        out = cuda.xp.zeros(4, dtype=np.uint32)
        words((1,), (1,), (out, *(np.uint32(int(word, 16)) for word in given.split())))
        assert [f"{word:08x}" for word in cuda.to_numpy(out)] == expected.split()


@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout_keeps_the_right_share_and_does_the_same_again(cuda, dtype):
    x = stored(np.random.default_rng(0).standard_normal((100, 333)), dtype)
    dropped, again = ops.of(cuda).dropout(cuda.asarray(x), 0.25, (1, 2))
    y = on_host(cuda, dropped)
    zero = y == 0
    assert abs(np.mean(zero) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / x.size)
    np.testing.assert_allclose(y[~zero], x[~zero].astype(float) * 4 / 3, rtol=TOLERANCE[dtype])
    np.testing.assert_array_equal(on_host(cuda, again(cuda.xp.ones_like(dropped))) == 0, zero)
    assert np.any((on_host(cuda, ops.of(cuda).dropout(cuda.asarray(x), 0.25, (1, 3))[0]) == 0) != zero)


def test_the_mask_depends_on_seed_and_place_alone(cuda):
    """Not on the grid, not on the width of an access, not on what comes after."""
    xp = cuda.xp
    ones = xp.ones((4100,), dtype=xp.float32)
    x, apart = ones[:4099], ones[1:]
    mask = on_host(cuda, ops.of(cuda).dropout(x, 0.5, (7,))[0])
    for n in (1, 2, 3, 5, 4096):
        np.testing.assert_array_equal(on_host(cuda, ops.of(cuda).dropout(ones[:n], 0.5, (7,))[0]), mask[:n])
    assert not kernels.aligned(16, apart)
    np.testing.assert_array_equal(on_host(cuda, ops.of(cuda).dropout(apart, 0.5, (7,))[0]), mask)
    kernel = catalogue.kernel("dropout", "float32", 4)
    low, high = np.random.SeedSequence((7,)).generate_state(2)
    for blocks in (1, 2, 9):
        y = xp.zeros_like(x)
        cuda.kernel(kernel)((blocks,), (64,), (x, y, np.int64(4099), None, low, high, np.uint32(2**31), np.float32(2)))
        np.testing.assert_array_equal(on_host(cuda, y), mask)


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
    arrays = {name: on_host(backend, array) for name, array in {**params, **optimizer.state}.items()}
    return {**arrays, "norms": np.array(norms)}


@pytest.mark.parametrize("max_norm", [None, 1.0, 1e6])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates(cuda, name, dtype, max_norm):
    expected = after_updates(NUMPY, name, "float64", max_norm)
    actual = after_updates(cuda, name, dtype, max_norm)
    for key, array in expected.items():
        if array.size:
            assert relative_error(actual[key], array) < 10 * TOLERANCE[dtype], key


@on_the_machine
def test_an_update_in_any_order_of_threads():
    first = after_updates(Gpu(), "adam", "float32", 1.0, steps=1)
    for seed in ORDERS:
        for key, array in after_updates(Gpu(seed=seed), "adam", "float32", 1.0, steps=1).items():
            np.testing.assert_array_equal(array, first[key])


@pytest.mark.parametrize("max_norm", [None, 1.0, 1e6])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_scaled_loss_changes_no_bit_of_an_update(cuda, name, max_norm):
    for backend in (NUMPY, cuda):
        found = []
        for scale in (1.0, 2.0**15):
            rng = np.random.default_rng(0)
            params = {n: backend.asarray(rng.standard_normal(shape), "float32") for n, shape in SHAPES.items()}
            optimizer = make_optimizer(name, backend, params, 0.1)
            for _ in range(2):
                gradients = {
                    n: backend.asarray(rng.standard_normal(shape) * 3, "float32") * np.float32(scale)
                    for n, shape in SHAPES.items()
                }
                norm = optimizer.update(gradients, max_norm=max_norm, loss_scale=scale)
            norms = [] if norm is None else list(backend.read(norm))
            found.append([norms, *(on_host(backend, array) for array in {**params, **optimizer.state}.values())])
        for one, other in zip(*found, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if "16" in dtype])
def test_16_bit_gradients_move_float32_parameters(cuda, dtype):
    rng = np.random.default_rng(0)
    gradient = stored(rng.standard_normal(40), dtype)
    expected, actual = np.ones(40, np.float64), cuda.asarray(np.ones(40, np.float32))
    for there, param, array in ((NUMPY, expected, gradient.astype(np.float64)), (cuda, actual, cuda.asarray(gradient))):
        norm = make_optimizer("adam", there, {"p": param}, 0.1).update({"p": array}, max_norm=1.0)
        assert float(norm) == pytest.approx(np.linalg.norm(gradient.astype(np.float64)), rel=1e-6)
    assert relative_error(on_host(cuda, actual), expected) < 1e-6


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nothing_moves_where_norm_or_loss_is_no_number(cuda, bad):
    for gradient, loss in ((bad, 1.0), (1.0, bad)):
        params = {"p": cuda.asarray(np.array([1.0, 2.0]))}
        optimizer = make_optimizer("adam", cuda, params, 0.1)
        optimizer.update({"p": cuda.asarray([1.0, gradient])}, max_norm=1.0, loss=cuda.asarray(np.array(loss)))
        np.testing.assert_array_equal(on_host(cuda, params["p"]), [1, 2])
        np.testing.assert_array_equal(on_host(cuda, optimizer.state["mean.p"]), [0, 0])


def test_an_update_with_clipping_is_three_launches():
    backend = HostBackend()
    after_updates(backend, "adam", "float32", 1.0, steps=1)
    assert backend.launches == ["sum_of_squares", "norm_of_sums", "update"]
    backend.launches.clear()
    after_updates(backend, "adam", "float32", None, steps=1)
    assert backend.launches == ["update"]


def test_gradients_with_gaps_are_copied_and_parameters_with_gaps_refused(cuda):
    wide = cuda.asarray(np.arange(12.0).reshape(3, 4))
    params = {"p": cuda.asarray(np.zeros((4, 3)))}
    norm = make_optimizer("sgd", cuda, params, 0.5).update({"p": wide.T}, max_norm=100.0)
    assert float(norm) == pytest.approx(math.sqrt(sum(n * n for n in range(12))))
    np.testing.assert_array_equal(on_host(cuda, params["p"]), -0.5 * np.arange(12.0).reshape(3, 4).T)
    with pytest.raises(InputError, match=r"params\[0\] is not C-contiguous"):
        make_optimizer("sgd", cuda, {"p": wide.T}, 0.5).update({"p": params["p"]})


def test_the_norm_alone(cuda):
    gradients = {"a": cuda.asarray([3.0]), "b": cuda.asarray([[4.0]])}
    assert clip_by_global_norm(cuda, gradients, 1.0) == 5.0
    np.testing.assert_allclose([float(gradients["a"][0]), float(gradients["b"][0, 0])], [0.6, 0.8])
    assert clip_by_global_norm(cuda, {}, 1.0) == 0


@pytest.mark.parametrize(
    "gradient, message",
    [
        (np.zeros((2, 2), np.float32), r"params\[0\] has shape \(3, 2\); expected \(2, 2\)"),
        (np.zeros((3, 2)), r"params\[0\] has dtype float32; expected float64"),
        (np.zeros((3, 2), np.int32), r"gradients\[0\] has dtype int32; expected one of float32"),
        ([0.0], "gradient of p is a builtins.list; expected an array of backend cuda"),
    ],
)
def test_updates_refuse_what_the_kernel_cannot_take(gradient, message):
    params = {"p": np.zeros((3, 2), np.float32)}
    with pytest.raises(InputError, match=message):
        make_optimizer("sgd", HostBackend(), params, 0.1).update({"p": gradient})


# -- all together -----------------------------------------------------------------------------------------------------


@at_full_size
def test_a_gpu_gives_the_same_bits_every_time():
    device = gpu_or_reason()

    def once():
        value, gradient = cross_entropy(device, "float32", 999, 1000, 2)
        table = rows_and_gradient(device, "float32", 70, 300, 5000)
        return [value, gradient, table, *after_updates(device, "adam", "float32", 1.0).values()]

    for first, second in zip(once(), once(), strict=True):
        np.testing.assert_array_equal(second, first)


def trained(backend, make, *batch):
    model = make(backend)
    optimizer = make_optimizer("adamw", backend, model.params, 0.01)
    values = []
    for _ in range(3):
        loss, *_, gradients = model.loss(*batch)
        values.append(backend.read(loss, optimizer.update(gradients, max_norm=0.5, loss=loss)))
    return np.array(values), {name: backend.to_numpy(param) for name, param in model.params.items()}


@pytest.mark.parametrize("kind", ["text", "classify"])
def test_training_steps_equal_those_on_numpy(cuda, kind):
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 7, (6, 3))
    if kind == "text":
        batch = ()

        def make(backend):
            model = LanguageModel(7, 3, 5, 2, backend=backend, dtype="float64")
            model.loss = partial(model.loss, backend.asarray(tokens))
            return model
    else:
        batch = rng.standard_normal((6, 3, 2)), np.array([6, 1, 4]), np.array([0, 2, 1])

        def make(backend):
            return Classifier([0.0, 0.0], [1.0, 1.0], 3, 4, backend=backend, dtype="float64")

    expected, actual = (trained(backend, make, *batch) for backend in (NUMPY, cuda))
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-12)
    for name, param in expected[1].items():
        assert relative_error(actual[1][name], param) < 1e-12, name


class WithoutReading(HostBackend):
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
    for name in ("_require_range", "softmax_cross_entropy", "norm", "update", "dropout", "take_rows", "scatter_add"):
        monkeypatch.setattr(ops.Arrays, name, None)  # no generic body, which may wait, is used
    backend = WithoutReading()
    model = LanguageModel(7, 3, 5, 1, dropout=0.5, backend=backend)
    optimizer = make_optimizer("adam", backend, model.params, 0.01)
    loss, _, gradients = model.loss(np.arange(12).reshape(4, 3) % 7, seed=(1,))
    backend.read(loss, optimizer.update(gradients, max_norm=1.0, loss=loss))


@pytest.mark.parametrize("tier, each", [("pointwise", 4), ("sequence", 0)])
def test_the_launches_of_a_step_grow_by_four_for_each_time_step_and_layer_or_not_at_all(tier, each):
    counts = []
    for steps in (3, 8):
        backend = HostBackend()
        model = LanguageModel(7, 3, 5, 2, dropout=0.5, backend=backend, tier=tier)
        loss, _, gradients = model.loss(np.arange((steps + 1) * 3).reshape(-1, 3) % 7, seed=(1,))
        make_optimizer("adam", backend, model.params, 0.01).update(gradients, max_norm=1.0, loss=loss)
        counts.append(len(backend.launches))
    assert counts[1] - counts[0] == each * 5 * 2
    assert counts[0] - 4 * 3 * 2 < 32  # all else together


def test_a_run_of_the_training_loop_equals_that_on_numpy(cuda, tmp_path):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    from gpu_lstm.training import Run, Settings
    from gpu_lstm.training.folder import read_log
    from gpu_lstm.training.tasks import TextTask

    tokens = np.random.default_rng(1).integers(0, 6, 200)
    logs = []
    for backend in (NUMPY, cuda):
        model = LanguageModel(6, 4, 8, backend=backend, dtype="float64")
        task = TextTask(model, tokens, batch=4, length=8, validation=0.2, seed=0)
        folder = tmp_path / backend.name.replace(":", "")
        run = Run(task, Settings(epochs=2, learning_rate=0.01, warm_up=3, validations=2), folder, {})
        assert run.go(lambda event: None, lambda: False).end == "finished"
        logs.append([(line["loss"], line["norm"]) for line in read_log(folder / "log.jsonl")])
        assert (folder / "model.safetensors").exists()
    np.testing.assert_allclose(logs[1], logs[0], rtol=1e-11)
