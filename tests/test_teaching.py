"""The teaching form against central differences, against the LSTM layer, and by value."""

import re
from typing import Any

import numpy as np
import pytest

from gpu_lstm import LSTM, InputError, teaching
from gpu_lstm.teaching import (
    PARAMETERS,
    IdentityActivator,
    LstmLayer,
    ReluActivator,
    SigmoidActivator,
    TanhActivator,
    data_set,
    gradient_check,
)
from tests.support import StrictBackend

HISTORIES = ("c_list", "h_list", "f_list", "i_list", "o_list", "ct_list")
DELTAS = ("delta_h_list", "delta_c_list", "delta_x_list", "delta_f_list", "delta_i_list", "delta_o_list")


@pytest.fixture(params=["numpy", "strict", pytest.param("cupy", marks=pytest.mark.gpu)])
def backend(request):
    if request.param == "cupy":
        pytest.importorskip("cupy")
    return StrictBackend() if request.param == "strict" else request.param


def make(widths=(3, 2), backend: Any = "numpy", dtype="float64"):
    """A layer with every parameter, biases too, of ordinary size."""
    layer = LstmLayer(widths[0], widths[1], 0.1, backend=backend, dtype=dtype)
    rng = np.random.default_rng(7)
    for name in PARAMETERS:
        shape = tuple(getattr(layer, name).shape)
        setattr(layer, name, layer.backend.asarray(rng.uniform(-0.8, 0.8, shape), layer.dtype))
    return layer


def columns(layer, steps, height, seed):
    rng = np.random.default_rng(seed)
    return [layer.backend.asarray(rng.normal(size=(height, 1)), layer.dtype) for _ in range(steps)]


def run(layer, xs, errors, activator=None):
    layer.reset_state()
    for x in xs:
        layer.forward(x)
    layer.backward(xs[-1], errors, activator or IdentityActivator())


def differences(function, array, step=1e-5):
    """Central differences of function() for every element of `array`, which it reads."""
    result = np.zeros(array.shape)
    for index in np.ndindex(*array.shape):
        kept = float(array[index])
        array[index] = kept + step
        above = function()
        array[index] = kept - step
        result[index] = (above - function()) / (2 * step)
        array[index] = kept
    return result


def loss_of(layer, xs, errors):
    """Sum of errors[t] * h_t: its gradient at each h is the error."""
    layer.reset_state()
    return sum(float(np.sum(e * layer.forward(x))) for x, e in zip(xs, errors, strict=True))


def same(actual, expected, tolerance=1e-9):
    np.testing.assert_allclose(actual, expected, rtol=1e-7, atol=tolerance)


# -- gradients -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 3, 6])
@pytest.mark.parametrize("name", PARAMETERS)
def test_gradient_of_every_parameter_is_the_difference_quotient(name, steps):
    layer = make((3, 4))
    xs, errors = columns(layer, steps, 3, 1), columns(layer, steps, 4, 2)
    run(layer, xs, errors)
    gradient = getattr(layer, f"{name}_grad")
    expected = differences(lambda: loss_of(layer, xs, errors), getattr(layer, name))
    assert gradient.shape == getattr(layer, name).shape
    if steps > 1 or (name[-1] != "h" and name not in ("Wfx", "bf")):  # in the first step h and c before are 0
        assert np.abs(expected).min() > 1e-6  # no element is right by being zero
    same(gradient, expected)


def test_one_error_is_the_error_at_the_last_step():
    layer = make()
    xs, (error,) = columns(layer, 4, 3, 1), columns(layer, 1, 2, 2)
    run(layer, xs, error)
    alone = [getattr(layer, f"{name}_grad") for name in PARAMETERS]
    run(layer, xs, [None, None, None, error])
    for name, gradient in zip(PARAMETERS, alone, strict=True):
        np.testing.assert_array_equal(getattr(layer, f"{name}_grad"), gradient)


@pytest.mark.parametrize("activator", [IdentityActivator(), TanhActivator(), SigmoidActivator()])
def test_error_for_the_layer_below_is_the_derivative_at_its_pre_activation(activator):
    layer = make()
    below, errors = columns(layer, 4, 3, 1), columns(layer, 4, 2, 2)
    run(layer, [activator.forward(a) for a in below], errors, activator)
    deltas = layer.delta_x_list
    assert len(deltas) == 5
    assert not deltas[0].any()
    for k, a in enumerate(below, start=1):
        expected = differences(lambda: loss_of(layer, [activator.forward(b) for b in below], errors), a)
        same(deltas[k], expected)


def test_state_and_gate_errors_are_derivatives_at_every_step():
    layer = make()
    steps = 4
    xs, errors = columns(layer, steps, 3, 1), columns(layer, steps, 2, 2)
    run(layer, xs, errors)
    deltas = {name: getattr(layer, f"delta_{name}_list") for name in ("h", "c", "f", "i", "o", "ct")}
    biases = {"f": layer.bf, "i": layer.bi, "o": layer.bo, "ct": layer.bc}

    def loss(step, kind, nudge):
        """The loss with `nudge` added to a state after `step`, or to a pre-activation in it."""
        layer.reset_state()
        total = 0.0
        for k in range(steps + 1):
            if k > 0:
                if k == step and kind in biases:
                    biases[kind] += nudge
                layer.forward(xs[k - 1])
                if k == step and kind in biases:
                    biases[kind] -= nudge
            if k == step and kind == "c":  # c also feeds h of the same step, except in the start state
                before = np.tanh(layer.c_list[-1])
                layer.c_list[-1] = layer.c_list[-1] + nudge
                if k > 0:
                    layer.h_list[-1] = layer.h_list[-1] + layer.o_list[-1] * (np.tanh(layer.c_list[-1]) - before)
            if k == step and kind == "h":
                layer.h_list[-1] = layer.h_list[-1] + nudge
            if k > 0:
                total += float(np.sum(errors[k - 1] * layer.h_list[-1]))
        return total

    for kind, histories in deltas.items():
        assert len(histories) == steps + 1
        for step in range(0 if kind in "hc" else 1, steps + 1):
            nudge = np.zeros((2, 1))
            same(histories[step], differences(lambda k=step, n=nudge, kind=kind: loss(k, kind, n), nudge))
        if kind not in "hc":
            assert not histories[0].any()


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-13), ("float32", 1e-5)])
def test_agrees_with_the_lstm_layer(backend, dtype, tolerance):
    layer = make((3, 4), backend, dtype=dtype)
    core = LSTM(3, 4, backend=layer.backend, dtype=dtype, tier="reference")
    xp, host = layer.backend.xp, layer.backend.to_numpy
    core.params["weight_ih_l0"] = xp.concat([layer.Wix, layer.Wfx, layer.Wcx, layer.Wox])
    core.params["weight_hh_l0"] = xp.concat([layer.Wih, layer.Wfh, layer.Wch, layer.Woh])
    core.params["bias_l0"] = xp.concat([b[:, 0] for b in (layer.bi, layer.bf, layer.bc, layer.bo)])
    xs, errors = columns(layer, 6, 3, 1), columns(layer, 6, 4, 2)
    run(layer, xs, errors, IdentityActivator())
    y, (h, c), tape = core.forward(xp.stack([x.T for x in xs]))
    dx, (dh0, dc0), gradients = core.backward(tape, xp.stack([e.T for e in errors]))

    def close(actual, expected):
        np.testing.assert_allclose(host(actual), host(expected), rtol=0, atol=tolerance)

    close(xp.stack([v[:, 0] for v in layer.h_list[1:]]), y[:, 0, :])
    close(layer.h_list[-1].T, h[0, ...])
    close(layer.c_list[-1].T, c[0, ...])
    close(xp.stack([v[:, 0] for v in layer.delta_x_list[1:]]), dx[:, 0, :])
    close(layer.delta_h_list[0].T, dh0[0, ...])
    close(layer.delta_c_list[0].T, dc0[0, ...])
    close(
        xp.concat([layer.Wix_grad, layer.Wfx_grad, layer.Wcx_grad, layer.Wox_grad]),
        gradients["weight_ih_l0"],
    )
    close(
        xp.concat([layer.Wih_grad, layer.Wfh_grad, layer.Wch_grad, layer.Woh_grad]),
        gradients["weight_hh_l0"],
    )
    biases = (layer.bi_grad, layer.bf_grad, layer.bc_grad, layer.bo_grad)
    close(xp.concat([b[:, 0] for b in biases]), gradients["bias_l0"])
    assert all(getattr(layer, f"{name}_grad").dtype == layer.backend.dtype(dtype) for name in PARAMETERS)


def test_gradients_are_replaced_and_backward_repeats():
    layer = make()
    xs, errors = columns(layer, 3, 3, 1), columns(layer, 3, 2, 2)
    run(layer, xs, errors)
    first = [getattr(layer, f"{name}_grad").copy() for name in PARAMETERS]
    layer.backward(xs[-1], errors, IdentityActivator())
    for name, gradient in zip(PARAMETERS, first, strict=True):
        np.testing.assert_array_equal(getattr(layer, f"{name}_grad"), gradient)


# -- forward, histories, update ------------------------------------------------------------------------


def test_histories_hold_the_equations_values():
    layer = make()
    xs = columns(layer, 5, 3, 1)
    for k, x in enumerate(xs, start=1):
        h = layer.forward(x)
        assert h is layer.h_list[-1]
        assert layer.times == k
    for name in HISTORIES:
        assert [v.shape for v in getattr(layer, name)] == [(2, 1)] * 6
        assert not getattr(layer, name)[0].any()

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    for k, x in enumerate(xs, start=1):
        before, c_before = layer.h_list[k - 1], layer.c_list[k - 1]
        f = sigmoid(layer.Wfh @ before + layer.Wfx @ x + layer.bf)
        i = sigmoid(layer.Wih @ before + layer.Wix @ x + layer.bi)
        o = sigmoid(layer.Woh @ before + layer.Wox @ x + layer.bo)
        ct = np.tanh(layer.Wch @ before + layer.Wcx @ x + layer.bc)
        c = f * c_before + i * ct
        for name, value in zip(HISTORIES, (c, o * np.tanh(c), f, i, o, ct), strict=True):
            same(getattr(layer, name)[k], value, 1e-15)


def test_history_does_not_follow_a_reused_input_buffer(backend):
    layer = make(backend=backend)
    buffer = layer.backend.asarray(np.ones((3, 1)), "float64")
    layer.forward(buffer)
    buffer[...] = 5.0
    layer.forward(buffer)
    np.testing.assert_array_equal(layer.backend.to_numpy(layer.x_list[1]), np.ones((3, 1)))


def test_start_is_ordinary_and_the_same_for_the_same_seed(backend):
    one, two, other = (LstmLayer(3, 16, 0.1, backend=backend, seed=seed) for seed in (1, 1, 2))
    for name in PARAMETERS:
        a, b, c = (layer.backend.to_numpy(getattr(layer, name)) for layer in (one, two, other))
        np.testing.assert_array_equal(a, b)
        assert np.abs(a).max() <= 0.25
        if name[0] == "W":
            assert np.abs(a).max() > 0.2
            assert (a != c).all()
        else:
            assert not a.any()


def test_reset_state_resets_all_histories_and_nothing_else(backend):
    layer = make(backend=backend)
    xs, host = columns(layer, 3, 3, 1), layer.backend.to_numpy
    first = host(layer.forward(xs[0]))
    layer.forward(xs[1])
    layer.backward(xs[1], columns(layer, 1, 2, 2)[0], IdentityActivator())
    kept = [host(getattr(layer, name + end)) for name in PARAMETERS for end in ("", "_grad")]
    layer.reset_state()
    assert layer.times == 0
    for name in HISTORIES:
        (zero,) = getattr(layer, name)
        np.testing.assert_array_equal(host(zero), np.zeros((2, 1)))
    assert all(getattr(layer, name) == [] for name in (*DELTAS, "delta_ct_list"))
    after = [host(getattr(layer, name + end)) for name in PARAMETERS for end in ("", "_grad")]
    for a, b in zip(kept, after, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(host(layer.forward(xs[0])), first)


def test_update_moves_each_parameter_by_its_own_gradient(backend):
    layer = make(backend=backend)
    host = layer.backend.to_numpy
    xs, errors = columns(layer, 4, 3, 1), columns(layer, 4, 2, 2)
    run(layer, xs, errors)
    before = {name: host(getattr(layer, name)) for name in PARAMETERS}
    held = layer.Wfh
    layer.update()
    assert layer.Wfh is held
    for name in PARAMETERS:
        gradient = host(getattr(layer, f"{name}_grad"))
        assert np.abs(gradient).min() > 0
        np.testing.assert_array_equal(host(getattr(layer, name)), before[name] - 0.1 * gradient)


def test_training_on_the_data_set_reduces_the_loss(backend):
    layer = LstmLayer(3, 2, 0.5, backend=backend)
    xs, targets = data_set(layer.backend)
    losses = []
    for _ in range(200):
        layer.reset_state()
        errors = [layer.forward(x) - d for x, d in zip(xs, targets, strict=True)]
        losses.append(sum(float((layer.backend.to_numpy(e) ** 2).sum()) / 2 for e in errors))
        layer.backward(xs[-1], errors, IdentityActivator())
        layer.update()
    assert losses[-1] < 0.01 * losses[0]


def test_assigned_parameters_are_used():
    layer = make()
    x = np.ones((3, 1))
    for name in PARAMETERS:
        setattr(layer, name, np.zeros_like(getattr(layer, name)))
    layer.bi = layer.bo = np.full((2, 1), 50.0)
    layer.Wcx[...] = 0.5
    same(layer.forward(x), np.full((2, 1), np.tanh(np.tanh(1.5))), 1e-15)


def test_numpy_takes_lists_and_whole_numbers():
    layer, other = make(), make()
    layer.forward([[1], [2], [3]])
    other.forward(np.array([[1.0], [2.0], [3.0]]))
    np.testing.assert_array_equal(layer.h_list[-1], other.h_list[-1])
    layer.backward(np.array([[1], [2], [3]]), [[[1], [0]]], IdentityActivator())
    other.backward([[1], [2], [3]], np.array([[1.0], [0.0]]), IdentityActivator())
    np.testing.assert_array_equal(layer.Wfx_grad, other.Wfx_grad)


# -- activators, data, gradient_check --------------------------------------------------------------------

POINTS = [-2.0, -0.5, 0.25, 3.0]


@pytest.mark.parametrize(
    "activator, function",
    [
        (SigmoidActivator(), lambda x: 1 / (1 + np.exp(-x))),
        (TanhActivator(), np.tanh),
        (IdentityActivator(), lambda x: x),
        (ReluActivator(), lambda x: np.maximum(x, 0)),
    ],
)
def test_activators_by_value_and_by_differences(activator, function, backend):
    layer = make(backend=backend)
    host = layer.backend.to_numpy
    x = layer.backend.asarray(POINTS, "float64")
    y = activator.forward(x)
    same(host(y), function(np.array(POINTS)), 1e-15)
    expected = (function(np.array(POINTS) + 1e-6) - function(np.array(POINTS) - 1e-6)) / 2e-6
    same(host(activator.backward(y)), expected)
    assert y.dtype == x.dtype == activator.backward(y).dtype


def test_activators_at_the_ends():
    ends = np.array([-1e4, 0.0, 1e4])
    np.testing.assert_array_equal(SigmoidActivator().forward(ends), [0.0, 0.5, 1.0])
    np.testing.assert_array_equal(ReluActivator().backward(ReluActivator().forward(ends)), [0.0, 0.0, 1.0])
    np.testing.assert_array_equal(SigmoidActivator().backward(np.array([0.0, 0.5, 1.0])), [0.0, 0.25, 0.0])


def test_data_set(backend):
    layer = make(backend=backend)
    xs, targets = data_set(layer.backend)
    assert [x.shape for x in xs] == [(3, 1)] * 2
    assert [d.shape for d in targets] == [(2, 1)] * 2
    np.testing.assert_array_equal(layer.backend.to_numpy(xs[1]), [[2.0], [3.0], [4.0]])
    assert all(np.abs(layer.backend.to_numpy(d)).max() < 1 for d in targets)
    assert data_set("numpy", "float32")[0][0].dtype == np.float32


def test_gradient_check_prints_every_element_and_passes(backend, capsys):
    layer = LstmLayer(3, 2, 1e-3, backend=backend)
    before = [layer.backend.to_numpy(getattr(layer, name)) for name in PARAMETERS]
    error = gradient_check(layer)
    lines = capsys.readouterr().out.splitlines()
    assert 0 < error < 1e-6
    elements = [line for line in lines if re.fullmatch(r"\w+\[\d,\d\]: expected +\S+  actual +\S+", line)]
    assert len(elements) == 4 * (4 + 6 + 2) == len(lines) - 1
    for name, values in zip(PARAMETERS, before, strict=True):
        assert sum(line.startswith(f"{name}[") for line in elements) == values.size
        np.testing.assert_array_equal(layer.backend.to_numpy(getattr(layer, name)), values)
    assert lines[-1] == f"largest relative error: {error:.1e}"
    assert layer.times == 0


def test_gradient_check_of_own_layer_and_sequence(capsys):
    layer = make((2, 3))
    assert gradient_check(layer, columns(layer, 7, 2, 3), seed=4) < 1e-6
    assert gradient_check() < 1e-6
    assert capsys.readouterr().out.count("Wcx[2,1]: expected") == 1


@pytest.mark.parametrize("name", PARAMETERS)
def test_gradient_check_finds_a_wrong_gradient(name, monkeypatch, capsys):
    right = LstmLayer.backward

    def wrong(self, *args):
        right(self, *args)
        setattr(self, f"{name}_grad", getattr(self, f"{name}_grad") * 1.01)

    monkeypatch.setattr(LstmLayer, "backward", wrong)
    assert gradient_check(make()) > 1e-3


def test_module_example_in_its_docstring_runs():
    code = re.search(r"::\n\n((?:    .*\n)+)", teaching.__doc__ or "")
    assert code is not None
    names = vars(teaching).copy()
    exec("\n".join(line[4:] for line in code[1].splitlines()), names)
    assert names["layer"].times == 0


# -- errors ----------------------------------------------------------------------------------------------


def ready():
    layer = make()
    layer.forward(np.ones((3, 1)))
    return layer


ONES, ERROR = np.ones((3, 1)), np.ones((2, 1))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: LstmLayer(0, 2, 0.1), "input_width is 0; expected a whole number of at least 1"),
        (lambda: LstmLayer(3, 1.5, 0.1), "state_width is 1.5; expected a whole number of at least 1"),  # type: ignore[arg-type]
        (lambda: LstmLayer(3, 2, 0), "learning_rate is 0; expected a number above 0"),
        (lambda: LstmLayer(3, 2, float("nan")), "learning_rate is nan; expected a number above 0"),
        (lambda: LstmLayer(3, 2, 0.1, dtype="float16"), "dtype is float16; expected one of float32, float64"),
        (lambda: make().forward(np.ones((5, 1))), "x has shape (5, 1); expected (input_width=3, 1)"),
        (lambda: make().forward(np.ones(3)), "x has shape (3,); expected (input_width=3, 1)"),
        (lambda: make().forward([[1], [2, 3], [4]]), "x is uneven; expected (input_width=3, 1) numbers"),
        (lambda: make().forward(np.ones((3, 1), complex)), "x has dtype complex128; expected float64"),
        (lambda: make().forward([["a"], ["b"], ["c"]]), "x has dtype <U1; expected float64"),
        (lambda: make().forward(None), "x is a builtins.NoneType; expected an array of backend numpy"),
        (
            lambda: make().backward(ONES, ERROR, IdentityActivator()),
            "backward has no step to go back through; call forward first",
        ),
        (
            lambda: ready().backward(2 * ONES, ERROR, IdentityActivator()),
            "x is not the input of the last forward call; expected that one",
        ),
        (
            lambda: ready().backward(np.ones((2, 1)), ERROR, IdentityActivator()),
            "x has shape (2, 1); expected (input_width=3, 1)",
        ),
        (
            lambda: ready().backward(ONES, np.ones((2, 2)), IdentityActivator()),
            "delta_h has shape (2, 2); expected (state_width=2, 1)",
        ),
        (
            lambda: ready().backward(ONES, [np.ones(2)], IdentityActivator()),
            "delta_h[0] has shape (2,); expected (state_width=2, 1)",
        ),
        (
            lambda: ready().backward(ONES, [ERROR, ERROR], IdentityActivator()),
            "delta_h has 2 entries; expected one per step, 1, or one array",
        ),
        (
            lambda: ready().backward(ONES, ERROR, "tanh"),
            "activator is 'tanh'; expected an object such as IdentityActivator()",
        ),
        (
            lambda: ready().backward(ONES, ERROR, TanhActivator),
            "activator is <class 'gpu_lstm.teaching.TanhActivator'>; expected an object such as IdentityActivator()",
        ),
        (lambda: ready().update(), "update has no gradients; call backward first"),
        (lambda: TanhActivator().forward([1.0]), "activator got a list; expected an array"),
        (
            lambda: gradient_check(LstmLayer(3, 2, 0.1, dtype="float32", backend="numpy")),
            "layer has dtype float32; expected float64: differences need its precision",
        ),
    ],
)
def test_errors_say_what_was_expected(call, message):
    with pytest.raises(InputError, match=re.escape(message)):
        call()


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("Wfh", np.ones((2, 3)), "Wfh has shape (2, 3); expected (state_width=2, state_width=2)"),
        ("Wcx", np.ones((3, 2)), "Wcx has shape (3, 2); expected (state_width=2, input_width=3)"),
        ("bo", np.ones(2), "bo has shape (2,); expected (state_width=2, 1)"),
        ("bi", np.ones((2, 1), np.float32), "bi has dtype float32; expected float64"),
        ("Wix", [[1.0]], "Wix is a builtins.list; expected an array of backend numpy"),
    ],
)
def test_a_parameter_assigned_wrongly_is_named(name, value, message):
    layer = make()
    setattr(layer, name, value)
    with pytest.raises(InputError, match=re.escape(message)):
        layer.forward(ONES)
    assert layer.times == 0
    assert all(len(getattr(layer, history)) == 1 for history in HISTORIES)


def test_a_gradient_assigned_wrongly_moves_nothing():
    layer = ready()
    layer.backward(ONES, ERROR, IdentityActivator())
    before = layer.Wfh.copy()
    layer.bc_grad = np.ones((1, 1))
    with pytest.raises(InputError, match=re.escape("bc_grad has shape (1, 1); expected (state_width=2, 1)")):
        layer.update()
    np.testing.assert_array_equal(layer.Wfh, before)


def test_arrays_of_another_backend_are_refused():
    layer = make(backend=StrictBackend())
    with pytest.raises(InputError, match=r"x is a numpy\.ndarray; expected an array of backend strict"):
        layer.forward(ONES)
    with pytest.raises(InputError, match=r"x is a array_api_strict\..*; expected an array of backend numpy"):
        make().forward(StrictBackend().xp.ones((3, 1)))
