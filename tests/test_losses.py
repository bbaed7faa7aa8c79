"""Losses: values, gradients, extremes."""

import math

import numpy as np
import pytest

from gpu_lstm import InputError, losses
from tests.support import NUMPY, STRICT, central_differences, relative_error

RNG = np.random.default_rng(0)


def cross_entropy(logits, targets, ignore=None):
    return losses.softmax_cross_entropy(NUMPY, logits, targets, ignore)


@pytest.mark.parametrize("ignore", [None, -100, 2])
def test_cross_entropy_gradient(ignore):
    logits = RNG.standard_normal((3, 2, 4)) * 2
    targets = np.array([[0, 1], [2, 3], [-100 if ignore == -100 else 1, 2]])
    gradient = cross_entropy(logits, targets, ignore)[1]
    expected = central_differences(lambda: float(cross_entropy(logits, targets, ignore)[0]), logits)
    assert relative_error(gradient, expected) < 1e-7
    if ignore is not None:
        assert np.all(gradient[targets == ignore] == 0)


def test_cross_entropy_value():
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]))
    loss = cross_entropy(logits, np.array([0, 2]))[0]
    assert float(loss) == pytest.approx(-(math.log(0.5) + math.log(0.7)) / 2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cross_entropy_of_huge_logits(dtype):
    logits = np.array([[1e4, -1e4, 0], [0, 1e4, 1e4]], dtype=dtype)
    loss, gradient = cross_entropy(logits, np.array([0, 2]))
    assert float(loss) == pytest.approx(math.log(2) / 2)
    assert np.isfinite(gradient).all()


def test_cross_entropy_leaves_the_logits_for_an_accuracy_unless_told_to_overwrite():
    logits, targets = RNG.standard_normal((4, 3)), np.array([0, 1, 2, 0])
    before = logits.copy()
    loss, gradient = losses.softmax_cross_entropy(NUMPY, logits, targets)
    np.testing.assert_array_equal(logits, before)
    assert not np.shares_memory(gradient, logits)
    same_loss, same = losses.softmax_cross_entropy(NUMPY, logits, targets, overwrite=True)
    assert same_loss == loss
    np.testing.assert_array_equal(same, gradient)
    assert np.shares_memory(same, logits)


def test_cross_entropy_with_nothing_that_counts():
    loss, gradient = cross_entropy(RNG.standard_normal((2, 3)), np.array([-1, -1]), -1)
    assert float(loss) == 0
    assert np.all(gradient == 0)


@pytest.mark.parametrize("targets", [[0, 4], [-1, 0]])
def test_cross_entropy_refuses_targets_out_of_range(targets):
    with pytest.raises(InputError, match=r"targets has values .*; expected 0\.\.V-1=3"):
        cross_entropy(np.zeros((2, 4)), np.array(targets))


def test_cross_entropy_refuses_shapes():
    with pytest.raises(InputError, match=r"targets has shape \(3,\); expected \(2,\)"):
        cross_entropy(np.zeros((2, 4)), np.array([0, 1, 2]))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint64"])
@pytest.mark.parametrize("backend", [NUMPY, STRICT], ids=["numpy", "strict"])
def test_cross_entropy_with_more_classes_than_the_targets_type_can_count(backend, dtype):
    logits, targets = RNG.standard_normal((3, 300)), np.array([5, 44, 255])
    expected, expected_gradient = cross_entropy(logits, targets)
    narrow = backend.asarray(targets.astype(dtype))
    loss, gradient = losses.softmax_cross_entropy(backend, backend.asarray(logits), narrow, ignore_index=-100)
    assert float(loss) == pytest.approx(float(expected), rel=1e-12)
    assert relative_error(backend.to_numpy(gradient), expected_gradient) < 1e-12


def test_losses_refuse_what_is_no_array_of_the_backend():
    targets = np.array([0, 1])
    with pytest.raises(InputError, match="targets has dtype float64; expected integers"):
        cross_entropy(np.zeros((2, 4)), targets.astype(float))
    with pytest.raises(InputError, match="logits is a builtins.list; expected an array of backend numpy"):
        losses.softmax_cross_entropy(NUMPY, [[0.0, 1.0]], targets)
    with pytest.raises(InputError, match=r"logits has shape \(\); expected \(V,\)"):
        cross_entropy(np.zeros(()), targets)
    for loss in losses.REGRESSION.values():
        with pytest.raises(InputError, match="prediction is a builtins.list; expected an array of backend numpy"):
            loss(NUMPY, [0.0], np.zeros(1))
        with pytest.raises(InputError, match="target has dtype float32; expected float64"):
            loss(NUMPY, np.zeros(1), np.zeros(1, "float32"))


@pytest.mark.parametrize("name", losses.REGRESSION)
def test_regression_gradient(name):
    loss = losses.REGRESSION[name]
    prediction, target = RNG.standard_normal((2, 3, 4)) * 2, RNG.standard_normal((2, 3, 4))
    gradient = loss(NUMPY, prediction, target)[1]
    assert (
        relative_error(gradient, central_differences(lambda: float(loss(NUMPY, prediction, target)[0]), prediction))
        < 1e-7
    )


def test_regression_values():
    prediction, target = np.array([0.0, 3.0]), np.array([0.5, 0.0])
    assert float(losses.mean_squared(NUMPY, prediction, target)[0]) == pytest.approx((0.25 + 9) / 2)
    assert float(losses.mean_absolute(NUMPY, prediction, target)[0]) == pytest.approx(1.75)
    assert float(losses.huber(NUMPY, prediction, target, delta=1.0)[0]) == pytest.approx((0.125 + 2.5) / 2)


@pytest.mark.parametrize("name", losses.REGRESSION)
def test_regression_refuses(name):
    with pytest.raises(InputError, match=r"target has shape \(3,\); expected \(2,\)"):
        losses.REGRESSION[name](NUMPY, np.zeros(2), np.zeros(3))
    with pytest.raises(InputError, match="target has dtype float32; expected float64"):
        losses.REGRESSION[name](NUMPY, np.zeros(2), np.zeros(2, "float32"))
    with pytest.raises(InputError, match="at least one element"):
        losses.REGRESSION[name](NUMPY, np.zeros(0), np.zeros(0))


@pytest.mark.parametrize("ignore", [None, 1])
def test_losses_equal_pytorch(ignore):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    f = torch.nn.functional
    logits, targets = RNG.standard_normal((5, 4)), np.array([0, 1, 3, 1, 2])
    their_logits = torch.tensor(logits, requires_grad=True)
    theirs = f.cross_entropy(their_logits, torch.tensor(targets), ignore_index=-100 if ignore is None else ignore)
    theirs.backward()
    loss, gradient = cross_entropy(logits, targets, ignore)
    assert float(loss) == pytest.approx(theirs.item(), rel=1e-12)
    assert relative_error(gradient, their_logits.grad.numpy()) < 1e-12
    prediction, target = RNG.standard_normal((5, 4)) * 2, RNG.standard_normal((5, 4))
    for name, their in (("mse", f.mse_loss), ("mae", f.l1_loss), ("huber", f.huber_loss)):
        p = torch.tensor(prediction, requires_grad=True)
        their(p, torch.tensor(target)).backward()
        assert relative_error(losses.REGRESSION[name](NUMPY, prediction, target)[1], p.grad.numpy()) < 1e-12
