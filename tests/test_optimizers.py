"""Optimizers, clipping and schedules, by value and against torch.optim."""

import math

import numpy as np
import pytest

from gpu_lstm import InputError, ops
from gpu_lstm.native import compiled
from gpu_lstm.optimizers import OPTIMIZERS, Adam, Optimizer, clip_by_global_norm, make_optimizer
from gpu_lstm.schedules import constant, cosine, make_schedule, warm_up
from tests.odd import LAYOUTS, read_only
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


class Sign(Optimizer):
    """A rule of a user's own."""

    def numbers(self):
        return (self.rate,)

    def move(self, param, gradient, state, numbers):
        param -= numbers[0] * np.sign(gradient)


class Halved(Adam):
    """A rule that compiled code has, changed."""

    def move(self, param, gradient, state, numbers):
        super().move(param, gradient, state, numbers)
        param *= 0.5


class Hot(Adam):
    """The same rule with other numbers."""

    def numbers(self):
        return (0.5, *super().numbers()[1:])


@pytest.mark.parametrize("shape", [(3,), (40, 300)])
def test_a_rule_of_ones_own_runs_on_every_backend(shape, cuda):
    gradient = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for kind, expected in (
        (Sign, lambda p: p - 0.1 * np.sign(gradient)),
        (Halved, lambda p: 0.5 * (p - 0.1 * np.sign(gradient))),
        (Hot, lambda p: p - 0.05 * np.sign(gradient)),
    ):
        for backend in (NUMPY, cuda):
            params = {"p": backend.asarray(np.ones(shape, np.float32))}
            norm = kind(backend, params, 0.1).update({"p": backend.asarray(gradient)}, max_norm=1e6)
            np.testing.assert_allclose(backend.to_numpy(params["p"]), expected(np.ones(shape)), rtol=0, atol=1e-5)
            assert float(norm) == pytest.approx(np.linalg.norm(gradient), rel=1e-5)


def test_a_rule_set_on_the_optimizer_itself_runs():
    params = {"p": np.ones(3, np.float32)}
    optimizer = Adam(NUMPY, params, 0.1)
    optimizer.move = lambda param, gradient, state, numbers: param.fill(7)
    optimizer.update({"p": np.ones(3, np.float32)})
    np.testing.assert_array_equal(params["p"], [7, 7, 7])


def test_parameters_that_cannot_be_written_are_refused_at_once(tmp_path):
    np.save(tmp_path / "p.npy", np.zeros(5000, np.float32))
    for param in (read_only(np.zeros(3, np.float32)), np.load(tmp_path / "p.npy", mmap_mode="r")):
        with pytest.raises(InputError, match="parameter p is read-only; expected an array to write to"):
            Adam(NUMPY, {"p": param})
    for param in ([1.0], np.ma.masked_array([1.0]), np.ones((1, 1)).view(np.matrix)):
        with pytest.raises(InputError, match="parameter p is a .*; expected an array of backend numpy"):
            Adam(NUMPY, {"p": param})


def test_a_memory_map_that_can_be_written_is_trained(tmp_path):
    np.save(tmp_path / "p.npy", np.zeros(5000, np.float32))
    mapped = np.load(tmp_path / "p.npy", mmap_mode="r+")
    Adam(NUMPY, {"p": mapped}, 0.1).update({"p": np.ones(5000, np.float32)})
    mapped.flush()
    np.testing.assert_allclose(np.load(tmp_path / "p.npy"), -0.1, rtol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_no_longer_fits_is_refused_by_name_before_anything_moves(name):
    for change, message in (
        (lambda o: o.params.update(b=read_only(o.params["b"])), "parameter b is read-only"),
        (lambda o: o.params.update(b=np.ones((3, 2))), r"parameter b has dtype float64; expected float32"),
        (lambda o: o.params.update(b=np.ones((2, 3), "f4")), r"parameter b has shape \(2, 3\); expected \(3, 2\)"),
        (lambda o: o.params.update(b=np.ones((3, 2), ">f4")), r"parameter b has dtype >f4; expected float32"),
        (lambda o: o.params.update(b=[[1.0] * 2] * 3), r"parameter b is a builtins.list"),
        (lambda o: o.params.pop("b"), r"params has not the parameters' names.*\['b'\]"),
        (lambda o: o.params.update(c=np.ones(1)), r"params has not the parameters' names.*\['c'\]"),
        (lambda o: o.state[f"{o.slots[-1]}.b"].setflags(write=False), r"state \w+\.b is read-only"),
    ):
        params = {"a": np.ones(5, np.float32), "b": np.ones((3, 2), np.float32)}
        gradients = {key: np.ones_like(p) for key, p in params.items()}
        optimizer = make_optimizer(name, NUMPY, params, 0.1)
        first = params["a"]
        change(optimizer)
        with pytest.raises(InputError, match=message):
            optimizer.update(gradients)
        assert optimizer.updates == 0
        np.testing.assert_array_equal(first, np.ones(5))
        assert all(not state.any() for state in optimizer.state.values())


def test_one_array_under_two_names_is_refused():
    array = np.ones(5, np.float32)
    with pytest.raises(InputError, match="parameters a and b are the same array"):
        Adam(NUMPY, {"a": array, "b": array})


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parameters_and_gradients_may_lie_in_memory_in_any_way(name):
    rng = np.random.default_rng(0)
    start, gradient = (rng.standard_normal((30, 7)).astype(np.float32) for _ in range(2))

    def train(param, gradient):
        optimizer = make_optimizer(name, NUMPY, {"p": param}, 0.1)
        for _ in range(3):
            optimizer.update({"p": gradient})
        return param

    expected = train(start.copy(), gradient)
    for kind, change in LAYOUTS.items():
        if kind not in ("read-only", "a memory map"):  # those are refused
            param = change(start)
            np.testing.assert_allclose(train(param, gradient.astype(param.dtype)), expected, atol=2e-6, err_msg=kind)
        if kind != "the other byte order":
            np.testing.assert_array_equal(train(start.copy(), change(gradient)), expected, err_msg=kind)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_gradient_that_shares_memory_with_a_parameter_counts_as_it_was(name, monkeypatch):
    def train(shared):
        params = {"a": np.linspace(1, 2, 12, dtype=np.float32), "b": np.linspace(-1, 1, 12, dtype=np.float32)}
        gradients = {"a": params["a"], "b": params["a"]}
        if not shared:
            gradients = {key: value.copy() for key, value in gradients.items()}
        make_optimizer(name, NUMPY, params, 0.1).update(gradients, max_norm=1.0)
        return np.concatenate(list(params.values()))

    expected = train(False)
    np.testing.assert_array_equal(train(True), expected)
    monkeypatch.setattr(ops.cpu, "RULES", ())
    np.testing.assert_allclose(train(True), expected, rtol=1e-6, atol=1e-6)


def test_moving_arrays_that_do_not_fit_together_is_refused():
    good = [np.ones((3, 2), np.float32)]
    optimizer = Adam(NUMPY, {"p": np.ones(1, np.float32)})
    optimizer.advance()
    for params, gradients, states, message in (
        ([read_only(good[0].copy())], good, [good * 2], r"params\[0\] is read-only"),
        (good, [np.ones((2, 3), np.float32)], [good * 2], r"gradients\[0\] has shape \(2, 3\)"),
        (good, good, [[good[0], np.ones(6, np.float32)]], r"states\[0\] has shape \(6,\)"),
        (good, good, [[good[0], good[0]]], r"shares memory"),
    )[: 3 if compiled.library() is None else 4]:  # array expressions go one after the other
        with pytest.raises(InputError, match=message):
            ops.of(NUMPY).update(optimizer, params, gradients, states, None, None)


def test_gradients_that_cannot_be_written_are_taken_and_not_clipped_in_place():
    gradient = read_only(np.full(4, 3.0))
    moved = {}
    for kind in (Adam, Halved):
        params = {"p": np.ones(4)}
        kind(NUMPY, params, 0.1).update({"p": gradient}, max_norm=1.0)
        moved[kind] = params["p"]
    np.testing.assert_allclose(moved[Halved], 0.5 * moved[Adam])
    with pytest.raises(InputError, match="gradient of p is read-only"):
        clip_by_global_norm(NUMPY, {"q": np.ones(3), "p": gradient}, 1.0)
