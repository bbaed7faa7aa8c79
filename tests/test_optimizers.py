"""Optimizers, clipping and schedules, by value and against torch.optim."""

import math

import numpy as np
import pytest

from gpu_lstm import InputError
from gpu_lstm.optimizers import clip_by_global_norm, make_optimizer
from gpu_lstm.schedules import constant, cosine, make_schedule, warm_up
from tests.support import NUMPY

GRADIENT = np.array([3.0, -4.0])


def first_update(name, **options):
    params = {"p": np.array([1.0, 2.0])}
    make_optimizer(name, NUMPY, params, 0.1, **options).update({"p": GRADIENT.copy()})
    return params["p"]


def test_first_update_by_hand():
    np.testing.assert_allclose(first_update("sgd"), [0.7, 2.4])
    np.testing.assert_allclose(first_update("rmsprop"), [0, 3], atol=1e-7)  # g / sqrt(0.01 g^2) = 10
    np.testing.assert_allclose(first_update("adam"), [0.9, 2.1], rtol=1e-8)
    np.testing.assert_allclose(first_update("adamw", weight_decay=0.5), [0.95 - 0.1, 1.9 + 0.1], rtol=1e-8)


def test_adam_with_an_unchanging_gradient_moves_by_the_rate_each_time():
    params = {"p": np.array([1.0, 2.0])}
    optimizer = make_optimizer("adam", NUMPY, params, 0.1)
    for _ in range(5):
        optimizer.update({"p": GRADIENT})
    np.testing.assert_allclose(params["p"], [0.5, 2.5], rtol=1e-7)


@pytest.mark.parametrize(
    "name, ours, theirs, their_options",
    [
        ("sgd", {"momentum": 0.9}, "SGD", {"momentum": 0.9}),
        ("rmsprop", {}, "RMSprop", {}),
        ("adam", {}, "Adam", {}),
        ("adamw", {"weight_decay": 0.1}, "AdamW", {"weight_decay": 0.1}),
    ],
)
def test_updates_equal_pytorch(name, ours, theirs, their_options):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    rng = np.random.default_rng(0)
    start = {n: rng.standard_normal((3, 4)) for n in ("a", "b")}
    params = {n: p.copy() for n, p in start.items()}
    tensors = {n: torch.tensor(p, requires_grad=True) for n, p in start.items()}
    optimizer = make_optimizer(name, NUMPY, params, 0.02, **ours)
    their_optimizer = getattr(torch.optim, theirs)(tensors.values(), lr=0.02, **their_options)
    for _ in range(8):
        for n, tensor in tensors.items():
            tensor.grad = torch.tensor(rng.standard_normal(start[n].shape))
        optimizer.update({n: tensor.grad.numpy() for n, tensor in tensors.items()})
        their_optimizer.step()
    for n in params:
        np.testing.assert_allclose(params[n], tensors[n].detach().numpy(), rtol=1e-12)


def test_the_factor_scales_the_rate():
    one, half = {"p": np.zeros(2)}, {"p": np.zeros(2)}
    make_optimizer("sgd", NUMPY, one, 0.05).update({"p": GRADIENT})
    make_optimizer("sgd", NUMPY, half, 0.1).update({"p": GRADIENT}, 0.5)
    np.testing.assert_array_equal(one["p"], half["p"])


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("sgd", {"momentum": 1.0}, "momentum is 1.0"),
        ("adam", {"beta1": -0.1}, "beta1 is -0.1"),
        ("adamw", {"weight_decay": -1}, "weight_decay is -1"),
        ("lion", {}, "optimizer is 'lion'; expected one of sgd"),
    ],
)
def test_bad_options_are_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        make_optimizer(name, NUMPY, {"p": np.zeros(2)}, 0.1, **options)


@pytest.mark.parametrize("rate", [0, -1, math.nan, math.inf])
def test_bad_learning_rates_are_refused(rate):
    with pytest.raises(InputError, match="learning_rate is"):
        make_optimizer("adam", NUMPY, {"p": np.zeros(2)}, rate)


def test_gradients_of_other_names_are_refused():
    with pytest.raises(InputError, match="gradients has not the parameters' names"):
        make_optimizer("adam", NUMPY, {"p": np.zeros(2)}, 0.1).update({"q": np.zeros(2)})


def test_clipping_scales_all_gradients_together():
    gradients = {"a": np.array([3.0]), "b": np.array([[4.0]])}
    assert clip_by_global_norm(NUMPY, gradients, 1.0) == 5.0
    np.testing.assert_allclose([gradients["a"][0], gradients["b"][0, 0]], [0.6, 0.8])


def test_clipping_leaves_small_gradients_alone():
    gradients = {"a": np.array([3.0]), "b": np.array([4.0])}
    assert clip_by_global_norm(NUMPY, gradients, 5.0) == 5.0
    assert gradients["a"][0] == 3.0
    with pytest.raises(InputError, match="max_norm is 0"):
        clip_by_global_norm(NUMPY, gradients, 0)


def test_an_update_clips_as_clipping_does():
    params = [{"a": np.zeros(1), "b": np.zeros((1, 1))} for _ in range(2)]
    gradients = [{"a": np.array([3.0]), "b": np.array([[4.0]])} for _ in range(2)]
    norm = make_optimizer("sgd", NUMPY, params[0], 0.1).update(gradients[0], max_norm=1.0)
    assert float(norm) == clip_by_global_norm(NUMPY, gradients[1], 1.0)
    assert make_optimizer("sgd", NUMPY, params[1], 0.1).update(gradients[1]) is None
    for name in params[0]:
        np.testing.assert_array_equal(params[0][name], params[1][name])
    with pytest.raises(InputError, match="max_norm is -1"):
        make_optimizer("sgd", NUMPY, params[0], 0.1).update(gradients[0], max_norm=-1)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nothing_moves_where_the_norm_is_no_number(bad):
    params = {"p": np.array([1.0, 2.0])}
    norm = make_optimizer("adam", NUMPY, params, 0.1).update({"p": np.array([1.0, bad])}, max_norm=1.0)
    assert not math.isfinite(norm)
    np.testing.assert_array_equal(params["p"], [1, 2])


def test_schedules_by_value():
    assert [constant()(step) for step in (0, 99)] == [1, 1]
    half = cosine(10, floor=0.2)
    assert [half(0), half(10), half(50)] == pytest.approx([1, 0.2, 0.2])
    assert half(5) == pytest.approx(0.6)
    rising = warm_up(4, cosine(10))
    assert [rising(step) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert rising(9) == pytest.approx(0.5)
    assert make_schedule("cosine", 100, 10)(10) == 1


def test_bad_schedules_are_refused():
    with pytest.raises(InputError, match="schedule is 'linear'; expected one of constant, cosine"):
        make_schedule("linear", 10)
    with pytest.raises(InputError, match="steps is 0"):
        cosine(0)
    with pytest.raises(InputError, match="steps is -1"):
        warm_up(-1, constant())
