"""Stacks of LSTMs of different sizes: values against the layers one by one, gradients against central differences."""

import pickle

import numpy as np
import pytest

from gpu_lstm import LSTM, InputError, Stack
from gpu_lstm.layers import Reversed
from gpu_lstm.layers.options import torch_names
from tests.support import NUMPY

LENGTHS = [2, 4, 1]
F64 = {"dtype": "float64", "backend": NUMPY}


def lstm(*sizes, seed=0, **options):
    return LSTM(*sizes, **F64 | {"seed": seed} | options)


def mixed(dropout=0.0, **options):
    """Three layers that differ in all that may differ."""
    return Stack(
        [
            lstm(2, 4, 2, bidirectional=True, dropout=dropout, **options),
            Reversed(lstm(8, 3, seed=1, peepholes=True, **options)),
            lstm(3, 5, seed=2, proj_size=2, zoneout_h=0.2 if dropout else 0.0, **options),
        ],
        dropout,
    )


def problem(stack, steps=4, batch=3, seed=0):
    """Inputs, states other than zero, and gradients that arrive, of all layers."""
    rng = np.random.default_rng(seed)
    states = [[rng.standard_normal(part.shape) for part in pair] for pair in stack.zero_state(batch)]
    last = [[rng.standard_normal(part.shape) for part in pair] for pair in states]
    x, dy = (rng.standard_normal((steps, batch, w)) for w in (stack.input_size, stack.output_size))
    return x, states, dy, last


def run(stack, x, states, dy, last, lengths=None, seed=None):
    """The sum of outputs times arriving gradients, and all gradients of it."""
    y, after, tape = stack.forward(x, states, lengths, seed)
    pairs = zip(after, last, strict=True)
    loss = np.sum(y * dy) + sum(np.sum(h * dh) + np.sum(c * dc) for (h, c), (dh, dc) in pairs)
    dx, before, gradients = stack.backward(tape, dy, last)
    return loss, dx, before, gradients


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_every_gradient_by_central_differences(lengths, dropout):
    """Of each array, along two random directions of all its elements."""
    stack, rng = mixed(dropout), np.random.default_rng(1)
    x, states, dy, last = problem(stack)
    _, dx, before, gradients = run(stack, x, states, dy, last, lengths, (7,))
    assert gradients.keys() == stack.params.keys()
    arrays, found = stack.params | {"x": x}, gradients | {"x": dx}
    for place, (given, first) in enumerate(zip(states, before, strict=True)):
        arrays |= {f"h0 of {place}": given[0], f"c0 of {place}": given[1]}
        found |= {f"h0 of {place}": first[0], f"c0 of {place}": first[1]}
    for name, array in arrays.items():
        start = array.copy()
        for direction in rng.standard_normal((2, *array.shape)):
            ends = []
            for step in (1e-6, -1e-6):
                array[...] = start + step * direction
                ends.append(run(stack, x, states, dy, last, lengths, (7,))[0])
            array[...] = start
            slope, size = np.sum(found[name] * direction), np.abs(found[name] * direction).sum()
            assert abs((ends[0] - ends[1]) / 2e-6 - slope) < 1e-6 * max(size, 0.1), name


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
def test_layers_of_one_size_are_those_of_one_lstm(lengths):
    one = lstm(2, 3, 3, dropout=0.4)
    stack = Stack([lstm(2, 3), lstm(3, 3), lstm(3, 3)], 0.4)
    for name, param in stack.params.items():
        place, inner = name.split(".")
        param[...] = one.params[inner.replace("l0", f"l{place}")]
    x, states, dy, last = problem(stack)
    joined, arrives = (tuple(np.concatenate(part) for part in zip(*given, strict=True)) for given in (states, last))
    for seed in (None, (7,)):
        y, after, tape = one.forward(x, joined, lengths, seed)
        dx, before, gradients = one.backward(tape, dy, arrives)
        y_stack, after_stack, tape = stack.forward(x, states, lengths, seed)
        dx_stack, before_stack, found = stack.backward(tape, dy, last)
        np.testing.assert_allclose(y_stack, y, rtol=0, atol=1e-14)
        np.testing.assert_allclose(dx_stack, dx, rtol=0, atol=1e-13)
        for pairs, expected in ((after_stack, after), (before_stack, before)):
            for part, whole in zip(zip(*pairs, strict=True), expected, strict=True):
                np.testing.assert_allclose(np.concatenate(part), whole, rtol=0, atol=1e-13)
        for name, gradient in found.items():
            place, inner = name.split(".")
            np.testing.assert_allclose(gradient, gradients[inner.replace("l0", f"l{place}")], rtol=0, atol=1e-13)


def test_each_layer_takes_what_the_one_below_gives():
    stack = mixed()
    x, states, _, _ = problem(stack)
    y, after, _ = stack.forward(x, states, LENGTHS)
    below = x
    for layer, first, last in zip(stack.layers, states, after, strict=True):
        below, expected, _ = layer.forward(below, tuple(first), LENGTHS)
        for part, whole in zip(last, expected, strict=True):
            np.testing.assert_array_equal(part, whole)
    np.testing.assert_array_equal(y, below)
    assert (stack.input_size, stack.output_size, stack.num_directions) == (2, 2, 1)


def test_states_that_are_not_given_are_zero():
    stack = mixed()
    x, states, _, _ = problem(stack)
    zero = stack.zero_state(3)
    np.testing.assert_array_equal(stack.forward(x)[0], stack.forward(x, zero)[0])
    expected = stack.forward(x, [states[0], zero[1], (states[2][0], zero[2][1])])[0]
    np.testing.assert_array_equal(stack.forward(x, [states[0], None, (states[2][0], None)])[0], expected)


def test_batch_first_and_cells_of_the_last_layer():
    major, first = (
        Stack([lstm(2, 4, batch_first=flag), lstm(4, 3, batch_first=flag, cells=True)]) for flag in (False, True)
    )
    x = np.random.default_rng(0).standard_normal((5, 3, 2))
    turned = x.swapaxes(0, 1).copy()
    (h, c), _, tape = major.forward(x)
    (h_first, c_first), _, tape_first = first.forward(turned)
    np.testing.assert_array_equal(h_first.swapaxes(0, 1), h)
    np.testing.assert_array_equal(c_first.swapaxes(0, 1), c)
    dx = major.backward(tape, (h, c))[0]
    np.testing.assert_array_equal(first.backward(tape_first, (h_first, c_first))[0].swapaxes(0, 1), dx)


def test_resets_reach_every_layer():
    stack = Stack([lstm(2, 4), lstm(4, 3)])
    x = np.random.default_rng(0).standard_normal((5, 2, 2))
    resets = np.zeros((5, 2), dtype=bool)
    resets[3] = True
    y = stack.forward(x, resets=resets)[0]
    np.testing.assert_allclose(y[3:], stack.forward(x[3:])[0], rtol=0, atol=1e-14)
    with pytest.raises(InputError, match="resets is given; expected None, as a layer is Reversed"):
        mixed().forward(x, resets=resets)


def test_parameters_are_the_layers_own_under_pytorchs_names_of_a_list():
    layers = [lstm(2, 4), lstm(4, 3, bias=False)]
    stack = Stack(layers)
    assert list(stack.params) == ["0.weight_ih_l0", "0.weight_hh_l0", "0.bias_l0", "1.weight_ih_l0", "1.weight_hh_l0"]
    assert all(stack.params[f"{k}.{name}"] is param for k in (0, 1) for name, param in layers[k].params.items())
    torch = pytest.importorskip("torch", reason="torch is not installed")
    modules = torch.nn.ModuleList([torch.nn.LSTM(2, 4), torch.nn.LSTM(4, 3, bias=False)])
    assert {both for name in stack.params for both in torch_names(name)} == set(modules.state_dict())


def test_what_is_assigned_to_a_stack_its_layers_use():
    layers = [lstm(2, 4), lstm(4, 3)]
    stack = Stack(layers)
    stack.params["1.bias_l0"] = [0.5] * 12
    assert np.all(layers[1].params["bias_l0"] == 0.5)
    layers[0].params["bias_l0"] = np.ones(16)
    assert np.all(stack.params["0.bias_l0"] == 1)


def test_backward_notices_changes_and_a_wrong_argument_leaves_the_tape():
    stack = mixed()
    x, states, dy, last = problem(stack)
    expected = stack.backward(stack.forward(x, states)[2], dy, last)[0]
    y, _, tape = stack.forward(x, states)
    y *= 0  # the caller's own
    for wrong in ((dy[1:], last), (dy, [last[1], None, None]), (dy, last[:2])):
        with pytest.raises(InputError):
            stack.backward(tape, *wrong)
    np.testing.assert_array_equal(stack.backward(tape, dy, last)[0], expected)
    with pytest.raises(InputError, match="already used"):
        stack.backward(tape, dy)
    for array in (x, stack.params["0.weight_hh_l0"], stack.params["1.weight_ih_l0"], stack.params["2.weight_hh_l0"]):
        tape = stack.forward(x, states)[2]
        array *= 2
        with pytest.raises(InputError, match="was changed in place since forward"):
            stack.backward(tape, dy)


def test_a_stack_goes_through_pickle():
    stack = mixed(0.4)
    x, states, dy, last = problem(stack)
    again, tape = pickle.loads(pickle.dumps((stack, stack.forward(x, states, seed=3)[2])))
    expected = stack.backward(stack.forward(x, states, seed=3)[2], dy, last)
    np.testing.assert_array_equal(again.backward(tape, dy, last)[0], expected[0])
    again.params["0.bias_l0"] = np.zeros(16)
    assert not again.layers[0].params["bias_l0"].any()


def test_without_keep_nothing_is_saved():
    stack = mixed()
    x, _, dy, _ = problem(stack)
    y, _, tape = stack.forward(x, keep=False)
    np.testing.assert_array_equal(y, stack.forward(x)[0])
    with pytest.raises(InputError, match="keep=False"):
        stack.backward(tape, dy)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "layers is .*; expected a list of LSTM layers, one at least"),
        (lstm(2, 3), "layers is "),
        ([lstm(2, 3), "x"], r"layers\[1\] is a str; expected an LSTM"),
        ([lstm(2, 3), lstm(4, 3)], r"layers\[1\] has input_size=4; expected 3, as the one below gives"),
        ([lstm(2, 3), lstm(3, 3, dtype="float32")], r"layers\[1\] has dtype=float32; expected float64"),
        ([lstm(2, 3), lstm(3, 3, batch_first=True)], r"layers\[1\] has batch_first=True; expected False"),
        ([lstm(2, 3, cells=True), lstm(3, 3)], r"layers\[0\] has cells=True; expected that of the last layer alone"),
        ([lstm(3, 3)] * 2, r"layers\[1\] is there twice"),
    ],
)
def test_layers_that_do_not_go_together_are_refused(layers, message):
    with pytest.raises(InputError, match=message):
        Stack(layers)


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="dropout is 1"):
        Stack([lstm(2, 3)], dropout=1)
    stack = mixed()
    x, states, dy, last = problem(stack)
    with pytest.raises(InputError, match=r"x has shape .*; expected \(T, B, input_size=2\)"):
        stack.forward(x[:, :, :1])
    with pytest.raises(InputError, match="state is a list of 2; expected a list of 3 pairs"):
        stack.forward(x, states[:2])
    with pytest.raises(InputError, match="state is a dict; expected a list of 3 pairs"):
        stack.forward(x, {})
    with pytest.raises(InputError, match="h0 has shape"):
        stack.forward(x, [None, states[0], None])
    with pytest.raises(InputError, match="dy has shape"):
        stack.backward(stack.forward(x)[2], dy[1:])
    with pytest.raises(InputError, match="dh has shape"):
        stack.backward(stack.forward(x)[2], dy, [last[1], None, None])
    with pytest.raises(InputError, match="dstate is a tuple of 2; expected a list of 3 pairs"):
        stack.backward(stack.forward(x)[2], dy, (last[0], last[1]))
