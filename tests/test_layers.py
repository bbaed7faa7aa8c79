"""Embedding, linear, dropout: values and every gradient."""

import numpy as np
import pytest

from gpu_lstm import Dropout, Embedding, InputError, Linear
from tests.support import NUMPY, OnDevice, central_differences, relative_error

F64 = {"backend": NUMPY, "dtype": "float64"}


def check(layer, x, *more, by_input=True):
    y, _ = layer.forward(x, *more)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    dx, gradients = layer.backward(layer.forward(x, *more)[1], dy)

    def loss():
        return float(np.sum(layer.forward(x, *more)[0] * dy))

    for name, param in layer.params.items():
        assert relative_error(gradients[name], central_differences(loss, param)) < 1e-7, name
    if by_input:
        assert relative_error(dx, central_differences(loss, x)) < 1e-7


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)])
def test_linear(shape):
    layer = Linear(4, 3, **F64)
    x = np.random.default_rng(0).standard_normal(shape)
    np.testing.assert_allclose(layer.forward(x)[0], x @ layer.params["weight"].T + layer.params["bias"])
    check(layer, x)


def test_linear_refuses():
    with pytest.raises(InputError, match=r"x has shape \(2, 3\); expected \(N0, input_size=4\)"):
        Linear(4, 3, **F64).forward(np.zeros((2, 3)))
    layer = Linear(4, 3, **F64)
    with pytest.raises(InputError, match=r"dy has shape \(2, 4\); expected \(2, output_size=3\)"):
        layer.backward(layer.forward(np.zeros((2, 4)))[1], np.zeros((2, 4)))


def test_embedding_with_repeated_ids():
    layer = Embedding(5, 3, **F64)
    ids = np.array([[4, 1, 1], [1, 0, 4]])
    np.testing.assert_array_equal(layer.forward(ids)[0], layer.params["weight"][ids])
    check(layer, ids, by_input=False)


@pytest.mark.parametrize("ids", [[[5]], [[-1]], [[0, 7]]])
def test_embedding_refuses_ids_outside_the_table(ids):
    with pytest.raises(InputError, match=r"ids has values .*; expected 0\.\.num_embeddings-1=4"):
        Embedding(5, 3, **F64).forward(np.array(ids))


def test_embedding_refuses_what_is_no_integer_array():
    with pytest.raises(InputError, match="ids has dtype float64; expected integers"):
        Embedding(5, 3, **F64).forward(np.array([1.0]))
    with pytest.raises(InputError, match="ids is a .* on CUDA device 0; expected one of backend numpy"):
        Embedding(5, 3, **F64).forward(OnDevice(0))


def test_dropout_gradient_uses_the_forward_mask():
    check(Dropout(0.4, **F64), np.random.default_rng(0).standard_normal((3, 4)), (7,))


def test_dropout_keeps_the_mean_and_the_share():
    x = np.ones((200, 500))
    y, _ = Dropout(0.3, **F64).forward(x, (1,))
    assert abs(y.mean() - 1) < 0.01
    assert abs((y == 0).mean() - 0.3) < 0.01
    np.testing.assert_allclose(y[y > 0], 1 / 0.7, rtol=1e-6)


def test_dropout_is_a_function_of_its_seed():
    layer, x = Dropout(0.5, **F64), np.ones((20, 20))
    np.testing.assert_array_equal(layer.forward(x, (1, 2))[0], layer.forward(x, (1, 2))[0])
    assert np.any(layer.forward(x, (1, 2))[0] != layer.forward(x, (1, 3))[0])


@pytest.mark.parametrize("p, seed", [(0.5, None), (0.0, (1,))])
def test_dropout_off_is_the_identity(p, seed):
    x = np.arange(6.0)
    layer = Dropout(p, **F64)
    y, tape = layer.forward(x, seed)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(layer.backward(tape, x)[0], x)


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_dropout_refuses(p):
    with pytest.raises(InputError, match="p is .*; expected a probability"):
        Dropout(p)
