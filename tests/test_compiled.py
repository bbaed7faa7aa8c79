"""What the compiled library does around the recurrence, against the generic array expressions in float64."""

import numpy as np
import pytest

from gpu_lstm import ops
from gpu_lstm.native import compiled
from gpu_lstm.optimizers import OPTIMIZERS, make_optimizer
from tests.support import NUMPY, relative_error

pytestmark = pytest.mark.skipif(compiled.library() is None, reason=f"no compiled library: {compiled.missing()}")

LIMIT = {"float32": 2e-6, "float64": 1e-13}
SETS = compiled.SETS[: compiled.instruction_set() + 1]


@pytest.fixture(params=SETS, autouse=True)
def instruction_set(request, monkeypatch):
    monkeypatch.setattr(compiled, "instruction_set", lambda: compiled.SETS.index(request.param))


@pytest.fixture(params=LIMIT)
def dtype(request):
    return request.param


def on_threads(monkeypatch, compute):
    """The result of compute(), which must be the same bytes on 1, 2 and 5 threads."""
    monkeypatch.setattr(compiled, "SERIAL_WORK", 1)
    results = []
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("GPU_LSTM_NUM_THREADS", threads)
        results.append([np.asarray(part) for part in compute()])
    for other in results[1:]:
        assert [part.tobytes() for part in other] == [part.tobytes() for part in results[0]]
    return results[0]


@pytest.mark.parametrize(
    "rows, outputs, widths", [(1, 1, [1]), (300, 130, [17, 65]), (1000, 12, [3]), (70, 400, [5, 9])]
)
def test_weight_gradients(dtype, rows, outputs, widths, monkeypatch):
    rng = np.random.default_rng(0)
    dy = rng.standard_normal((rows, outputs)).astype(dtype)
    inputs = [rng.standard_normal((rows, width)).astype(dtype) for width in widths]

    def compute():
        dw, db = ops.of(NUMPY).weight_gradients(dy, inputs)
        return [*dw, db]

    *dw, db = on_threads(monkeypatch, compute)
    for actual, x in zip(dw, inputs, strict=True):
        assert relative_error(actual, dy.T.astype("float64") @ x.astype("float64")) < LIMIT[dtype]
    assert relative_error(db, dy.astype("float64").sum(axis=0)) < LIMIT[dtype]


def test_weight_gradients_of_arrays_with_gaps():
    rng = np.random.default_rng(0)
    dy, x = rng.standard_normal((20, 8))[:, ::2], rng.standard_normal((20, 9))[:, 1:8:3]
    (dw,), db = ops.of(NUMPY).weight_gradients(dy, [x])
    np.testing.assert_allclose(dw, dy.T @ x)
    np.testing.assert_allclose(db, dy.sum(axis=0))


@pytest.mark.parametrize("ignore", [None, -100, 2])
@pytest.mark.parametrize("rows, vocabulary", [(1, 1), (7, 3), (40, 83), (3, 1000)])
def test_cross_entropy(dtype, rows, vocabulary, ignore, monkeypatch):
    rng = np.random.default_rng(0)
    logits = (rng.standard_normal((rows, vocabulary)) * 20).astype(dtype)
    targets = rng.integers(0, vocabulary, rows)
    targets[::3] = targets[::3] if ignore is None else ignore
    expected = logits.astype("float64")
    expected_loss = ops.Arrays(NUMPY).softmax_cross_entropy(expected, targets, ignore)

    def compute():
        gradient = logits.copy()
        return ops.of(NUMPY).softmax_cross_entropy(gradient, targets, ignore), gradient

    loss, gradient = on_threads(monkeypatch, compute)
    assert loss.dtype == gradient.dtype == dtype
    assert float(loss) == pytest.approx(float(expected_loss), rel=LIMIT[dtype] * 10, abs=1e-30)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=LIMIT[dtype] * max(np.abs(expected).max(), 1e-30))


def test_cross_entropy_hands_on_what_is_not_finite(dtype):
    for column in (0, 5, 18):
        logits = np.zeros((2, 19), dtype)
        logits[1, column] = np.nan
        loss = ops.of(NUMPY).softmax_cross_entropy(logits, np.array([0, 0]), None)
        assert np.isnan(loss)
        assert np.isfinite(logits[0]).all()


@pytest.mark.parametrize("width", [1, 16, 50])
def test_scatter_add(dtype, width, monkeypatch):
    rng = np.random.default_rng(0)
    index, rows = rng.integers(0, 5, 200), rng.standard_normal((200, width)).astype(dtype)
    expected = np.ones((6, width))
    np.add.at(expected, index, rows.astype("float64"))

    def compute():
        target = np.ones((6, width), dtype)
        ops.of(NUMPY).scatter_add(target, index, rows)
        return [target]

    (actual,) = on_threads(monkeypatch, compute)
    assert relative_error(actual, expected) < LIMIT[dtype]
    assert np.all(actual[5] == 1)


def test_norm(dtype, monkeypatch):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in ((1,), (3, 5), (9000,), (0,), (4096,))]
    (actual,) = on_threads(monkeypatch, lambda: [ops.of(NUMPY).norm(arrays)])
    assert float(actual) == pytest.approx(float(ops.Arrays(NUMPY).norm(arrays)), rel=LIMIT[dtype])


@pytest.mark.parametrize("max_norm", [None, 0.5, 1e9])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(dtype, name, max_norm, monkeypatch):
    shapes = {"a": (3, 7), "b": (5000,), "c": (1,)}

    def train(kind, compute_dtype):
        rng = np.random.default_rng(0)
        params = {n: rng.standard_normal(shape).astype(dtype).astype(compute_dtype) for n, shape in shapes.items()}
        optimizer = make_optimizer(name, NUMPY, params, 0.01, **({"momentum": 0.9} if name == "sgd" else {}))
        for _ in range(5):
            gradients = {n: rng.standard_normal(p.shape).astype(dtype).astype(compute_dtype) for n, p in params.items()}
            with monkeypatch.context() as patch:
                if kind == "generic":
                    patch.setattr(ops.of(NUMPY), "_move", ops.Arrays(NUMPY)._move)
                optimizer.update(gradients, max_norm=max_norm)
        return [*params.values(), *optimizer.state.values()]

    expected = train("generic", "float64")
    for actual, wanted in zip(train("compiled", dtype), expected, strict=True):
        assert relative_error(actual, wanted) < (1e-5 if dtype == "float32" else 1e-12)


def test_optimizers_on_any_number_of_threads(dtype, monkeypatch):
    def compute():
        rng = np.random.default_rng(0)
        params = {name: rng.standard_normal(20_000).astype(dtype) for name in "ab"}
        optimizer = make_optimizer("adam", NUMPY, params, 0.01)
        for _ in range(3):
            gradients = {name: rng.standard_normal(20_000).astype(dtype) for name in "ab"}
            optimizer.update(gradients, max_norm=1.0)
        return list(params.values())

    on_threads(monkeypatch, compute)
