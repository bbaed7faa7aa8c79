"""The backend-independent code under array-api-strict: NumPy-only habits are caught without a GPU."""

import numpy as np
import pytest

from gpu_lstm import LSTM, Dropout, Embedding, Linear, losses
from gpu_lstm.optimizers import OPTIMIZERS, clip_by_global_norm, make_optimizer
from tests.support import NUMPY, STRICT, loss_and_gradients, problem, relative_error

BOTH = (NUMPY, STRICT)


@pytest.mark.parametrize("lengths", [None, [2, 4, 1]], ids=["full", "lengths"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_lstm(lengths, batch_first):
    results = []
    for backend in BOTH:
        lstm = LSTM(
            2, 3, 2, bidirectional=True, dropout=0.5, batch_first=batch_first, dtype="float64", backend=backend,
            tier="reference", forget_bias=1.0,
        )  # fmt: skip
        data = problem(lstm, 4, 3)
        if batch_first:
            data |= {name: data[name].swapaxes(0, 1).copy() for name in ("x", "dy")}
        results.append(loss_and_gradients(lstm, data, lengths, seed=(1, 2)))
    (loss, gradients), (strict_loss, strict) = results
    assert loss == pytest.approx(strict_loss, rel=1e-12)
    for name in gradients:
        assert relative_error(strict[name], gradients[name]) < 1e-12, name


def through(layer, x, dy, *more):
    y, tape = layer.forward(layer.backend.asarray(x), *more)
    dx, gradients = layer.backward(tape, layer.backend.asarray(dy))
    arrays = {"y": y, **gradients} | ({} if dx is None else {"dx": dx})
    return {name: layer.backend.to_numpy(array) for name, array in arrays.items()}


@pytest.mark.parametrize(
    "make, x, width, more",
    [
        (lambda **where: Embedding(5, 3, **where), np.array([[1, 4, 1], [0, 1, 3]]), 3, ()),
        (lambda **where: Linear(2, 3, **where), np.arange(8.0).reshape(2, 2, 2), 3, ()),
        (lambda **where: Dropout(0.4, **where), np.arange(8.0).reshape(2, 2, 2), 2, ((3,),)),
    ],
    ids=["embedding", "linear", "dropout"],
)
def test_layers(make, x, width, more):
    dy = np.random.default_rng(0).standard_normal((*x.shape[:2], width))
    plain, strict = (through(make(backend=backend, dtype="float64"), x, dy, *more) for backend in BOTH)
    for name in plain:
        assert relative_error(strict[name], plain[name]) < 1e-12, name


@pytest.mark.parametrize("name", ["mean_squared", "mean_absolute", "huber", "softmax_cross_entropy", "ignoring"])
def test_losses(name):
    rng = np.random.default_rng(0)
    prediction, target = rng.standard_normal((2, 3, 4)) * 2, rng.standard_normal((2, 3, 4))
    classes = np.array([[0, 3, 1], [2, 2, -1 if name == "ignoring" else 0]])
    results = []
    for backend in BOTH:
        if name in ("softmax_cross_entropy", "ignoring"):
            ignore = -1 if name == "ignoring" else None
            loss, gradient = losses.softmax_cross_entropy(
                backend, backend.asarray(prediction.copy()), backend.asarray(classes), ignore
            )
        else:
            loss, gradient = getattr(losses, name)(backend, backend.asarray(prediction), backend.asarray(target))
        results.append((float(loss), backend.to_numpy(gradient)))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-12)
    assert relative_error(results[1][1], results[0][1]) < 1e-12


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_and_clipping(name):
    results = []
    for backend in BOTH:
        rng = np.random.default_rng(0)
        params = {n: backend.asarray(rng.standard_normal((2, 3))) for n in ("a", "b")}
        optimizer = make_optimizer(name, backend, params, 0.1)
        for _ in range(3):
            gradients = {n: backend.asarray(rng.standard_normal((2, 3)) * 5) for n in params}
            clip_by_global_norm(backend, gradients, 1.0)
            optimizer.update(gradients, 0.5)
        results.append({n: backend.to_numpy(p) for n, p in params.items()})
    for n in results[0]:
        assert relative_error(results[1][n], results[0][n]) < 1e-12
