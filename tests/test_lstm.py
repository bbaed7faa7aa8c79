"""The LSTM layer: gradients by value, lengths, states, options, refusals."""

import itertools
import warnings

import numpy as np
import pytest

from gpu_lstm import LSTM, InputError
from gpu_lstm.recurrence import runnable_tiers
from tests.support import NUMPY, OnDevice, central_differences, loss_and_gradients, problem, relative_error

LENGTHS = [2, 4, 1]


def make(*sizes, dtype="float64", backend=NUMPY, **options):
    return LSTM(*sizes, dtype=dtype, backend=backend, tier="reference", seed=3, **options)


def check_every_gradient(lstm, data, lengths=None, arrives=("dy", "dh", "dc"), seed=None):
    _, gradients = loss_and_gradients(lstm, data, lengths, arrives, seed)
    arrays = {name: data[name] for name in ("x", "h0", "c0")} | lstm.params
    assert gradients.keys() == arrays.keys()
    for name, array in arrays.items():
        expected = central_differences(lambda: loss_and_gradients(lstm, data, lengths, arrives, seed)[0], array)
        assert relative_error(gradients[name], expected) < 1e-6, name


ARRIVALS = [names for n in (1, 2, 3) for names in itertools.combinations(("dy", "dh", "dc"), n)]


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
@pytest.mark.parametrize("arrives", ARRIVALS, ids="+".join)
def test_gradients_for_any_subset_of_outputs(arrives, lengths):
    lstm = make(2, 3)
    check_every_gradient(lstm, problem(lstm, 4, 3), lengths, arrives)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_gradients_of_stacked_and_bidirectional_layers(layers, bidirectional, lengths):
    lstm = make(2, 2, layers, bidirectional=bidirectional)
    check_every_gradient(lstm, problem(lstm, 4, 3), lengths)


def test_gradients_when_only_one_step_gets_one():
    lstm = make(2, 3)
    data = problem(lstm, 5, 2)
    data["dy"][[0, 1, 3, 4]] = 0
    check_every_gradient(lstm, data, arrives=("dy",))


def test_gradients_through_dropout_between_layers():
    lstm = make(2, 4, 2, dropout=0.5)
    data = problem(lstm, 3, 2)
    check_every_gradient(lstm, data, seed=(5,))
    with_dropout = loss_and_gradients(lstm, data, seed=(5,))[0]
    assert with_dropout == loss_and_gradients(lstm, data, seed=(5,))[0]
    assert with_dropout != loss_and_gradients(lstm, data, seed=(6,))[0]
    assert with_dropout != loss_and_gradients(lstm, data)[0]


@pytest.mark.parametrize(
    "steps, batch, input_size, hidden_size", [(1, 1, 1, 1), (3, 1, 1, 1), (1, 4, 2, 3), (3, 2, 5, 1)]
)
def test_gradients_at_the_smallest_sizes(steps, batch, input_size, hidden_size):
    lstm = make(input_size, hidden_size, bidirectional=True)
    check_every_gradient(lstm, problem(lstm, steps, batch))


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
def test_batch_first_is_time_major_transposed(lengths):
    major, first = (make(2, 3, 2, bidirectional=True, batch_first=flag) for flag in (False, True))
    data = problem(major, 4, 3)
    turned = {k: v.swapaxes(0, 1).copy() if k in ("x", "dy") else v for k, v in data.items()}
    (loss, gradients), (loss_first, gradients_first) = (
        loss_and_gradients(major, data, lengths),
        loss_and_gradients(first, turned, lengths),
    )
    assert loss == pytest.approx(loss_first, rel=1e-14)
    gradients_first["x"] = gradients_first["x"].swapaxes(0, 1)
    for name in gradients:
        np.testing.assert_array_equal(gradients[name], gradients_first[name])


def test_batch_first_results_are_contiguous():
    lstm = make(2, 3, batch_first=True)
    y, _, tape = lstm.forward(np.zeros((4, 5, 2)))
    dx, _, _ = lstm.backward(tape, np.ones_like(y))
    assert y.shape == (4, 5, 3)
    assert y.flags.c_contiguous
    assert dx.flags.c_contiguous


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
def test_gradients_are_zero_where_none_arrives(lengths):
    lstm = make(2, 3, 2, bidirectional=True)
    for gradient in loss_and_gradients(lstm, problem(lstm, 4, 3), lengths, arrives=())[1].values():
        assert np.all(gradient == 0)


def test_forward_follows_the_equations():
    lstm = make(2, 3)
    data = problem(lstm, 3, 2)
    p = lstm.params
    sigmoid = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    h, c = data["h0"][0], data["c0"][0]
    y, (h_last, c_last), _ = lstm.forward(data["x"], (data["h0"], data["c0"]))
    for t in range(3):
        z = data["x"][t] @ p["weight_ih_l0"].T + h @ p["weight_hh_l0"].T + p["bias_l0"]
        i, f, g, o = np.split(z, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        np.testing.assert_allclose(y[t], h, rtol=1e-12)
    np.testing.assert_allclose(h_last[0], h, rtol=1e-12)
    np.testing.assert_allclose(c_last[0], c, rtol=1e-12)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_each_sequence_is_as_if_it_ran_alone(bidirectional):
    lstm = make(2, 3, 2, bidirectional=bidirectional)
    lengths = [3, 5, 1, 4]
    data = problem(lstm, 5, 4)
    y, (h, c), tape = lstm.forward(data["x"], (data["h0"], data["c0"]), lengths)
    dx, (dh0, dc0), _ = lstm.backward(tape, data["dy"], (data["dh"], data["dc"]))
    for b, length in enumerate(lengths):
        one = slice(b, b + 1)
        own = {k: v[:, one].copy() if k not in ("x", "dy") else v[:length, one].copy() for k, v in data.items()}
        y1, (h1, c1), tape1 = lstm.forward(own["x"], (own["h0"], own["c0"]))
        dx1, (dh1, dc1), _ = lstm.backward(tape1, own["dy"], (own["dh"], own["dc"]))
        np.testing.assert_allclose(y[:length, one], y1, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(dx[:length, one], dx1, rtol=1e-12, atol=1e-15)
        for whole, alone in ((h, h1), (c, c1), (dh0, dh1), (dc0, dc1)):
            np.testing.assert_allclose(whole[:, one], alone, rtol=1e-12, atol=1e-15)
        assert np.all(y[length:, b] == 0)
        assert np.all(dx[length:, b] == 0)


def test_the_second_direction_reads_each_sequence_from_its_own_end():
    both, one = make(2, 3, bidirectional=True), make(2, 3)
    for name, array in one.params.items():
        array[...] = both.params[f"{name}_reverse"]
    x = problem(one, 4, 3)["x"]
    y, (h, c), _ = both.forward(x, lengths=LENGTHS)
    for b, length in enumerate(LENGTHS):
        expected, (h_alone, c_alone), _ = one.forward(x[:length, b : b + 1][::-1].copy())
        np.testing.assert_allclose(y[:length, b, 3:], expected[::-1, 0], rtol=1e-12)
        np.testing.assert_allclose(h[1, b], h_alone[0, 0], rtol=1e-12)
        np.testing.assert_allclose(c[1, b], c_alone[0, 0], rtol=1e-12)


@pytest.mark.parametrize("rubbish", [np.nan, np.inf, 1e30])
def test_what_lies_beyond_a_sequence_is_ignored(rubbish):
    lstm = make(2, 3, 2, bidirectional=True)
    data = problem(lstm, 4, 3)
    spoiled = {k: v.copy() for k, v in data.items()}
    for b, length in enumerate(LENGTHS):
        spoiled["x"][length:, b] = rubbish
        spoiled["dy"][length:, b] = rubbish
    results = []
    for given in (data, spoiled):
        y, (h, c), tape = lstm.forward(given["x"], (data["h0"], data["c0"]), LENGTHS)
        dx, (dh0, dc0), gradients = lstm.backward(tape, given["dy"], (data["dh"], data["dc"]))
        results.append({"y": y, "h": h, "c": c, "dx": dx, "dh0": dh0, "dc0": dc0} | gradients)
    for name, clean in results[0].items():
        np.testing.assert_array_equal(results[1][name], clean, err_msg=name)


def test_lengths_that_are_all_full_change_nothing():
    lstm = make(2, 3)
    data = problem(lstm, 4, 3)
    for (_, a), (_, b) in zip(
        loss_and_gradients(lstm, data)[1].items(), loss_and_gradients(lstm, data, [4, 4, 4])[1].items(), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_state_carried_over_equals_one_long_sequence():
    lstm = make(2, 3, 2)
    x = problem(lstm, 6, 2)["x"]
    whole, last, _ = lstm.forward(x)
    first, state, _ = lstm.forward(x[:4].copy())
    second, state, _ = lstm.forward(x[4:].copy(), state)
    np.testing.assert_allclose(whole, np.concatenate([first, second]), rtol=1e-13)
    np.testing.assert_allclose(last[1], state[1], rtol=1e-13)


@pytest.mark.parametrize("missing", [None, (None, None), "h0", "c0"])
def test_a_state_not_given_is_zero(missing):
    lstm = make(2, 3, 2)
    data = problem(lstm, 3, 2)
    zero = np.zeros_like(data["h0"])
    h0, c0 = data["h0"], data["c0"]
    if missing in ("h0", "c0"):
        given = (None, c0) if missing == "h0" else (h0, None)
        expected = (zero, c0) if missing == "h0" else (h0, zero)
    else:
        given, expected = missing, (zero, zero)
    np.testing.assert_array_equal(lstm.forward(data["x"], given)[0], lstm.forward(data["x"], expected)[0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_large_inputs_give_no_warning_and_finite_results(dtype, size):
    lstm = make(3, 4, 2, dtype=dtype, bidirectional=True)
    data = problem(lstm, 5, 2)
    data["x"] = np.sign(data["x"]) * np.dtype(dtype).type(size)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y, (h, c), tape = lstm.forward(data["x"], (data["h0"], data["c0"]))
        dx, _, gradients = lstm.backward(tape, data["dy"])
    arrays = [y, h, c, dx]
    if size < 1e30:
        arrays += gradients.values()
    assert all(np.isfinite(array).all() for array in arrays)
    assert np.abs(y).max() <= 1


@pytest.mark.parametrize("lengths", [None, [3, 7, 1, 5, 7]], ids=["full", "lengths"])
@pytest.mark.parametrize("dtype, limit", [("float64", 1e-12), ("float32", 5e-6)])
def test_every_backend_agrees_with_the_oracle(backend, dtype, limit, lengths):
    oracle = make(3, 6, 2, bidirectional=True)
    other = make(3, 6, 2, bidirectional=True, dtype=dtype, backend=backend)
    data = problem(oracle, 7, 5)
    _, expected = loss_and_gradients(oracle, data, lengths)
    for name in oracle.params:
        other.params[name][...] = backend.asarray(oracle.params[name].astype(dtype))
    cast = {name: array.astype(dtype) for name, array in data.items()}
    for name, actual in loss_and_gradients(other, cast, lengths)[1].items():
        assert relative_error(actual, expected[name]) < limit, name


def test_inputs_are_left_as_they_were():
    lstm = make(2, 3, 2, bidirectional=True)
    data = problem(lstm, 4, 3)
    kept = {k: v.copy() for k, v in (data | lstm.params).items()}
    loss_and_gradients(lstm, data, LENGTHS)
    for name, array in (data | lstm.params).items():
        np.testing.assert_array_equal(array, kept[name])


def test_forget_bias_sets_that_quarter_only():
    plain, set_to_one = make(2, 3, 2), make(2, 3, 2, forget_bias=1.0)
    for name, array in set_to_one.params.items():
        expected = plain.params[name].copy()
        if name.startswith("bias"):
            expected[3:6] = 1
        np.testing.assert_array_equal(array, expected)


def test_parameters_have_pytorch_names_and_shapes():
    shapes = {name: array.shape for name, array in LSTM(5, 3, 2, bidirectional=True, backend=NUMPY).params.items()}
    assert shapes["weight_ih_l0"] == (12, 5)
    assert shapes["weight_ih_l1_reverse"] == (12, 6)
    assert shapes["weight_hh_l1"] == (12, 3)
    assert shapes["bias_l0_reverse"] == (12,)
    assert len(shapes) == 12


def test_the_same_seed_gives_the_same_weights():
    one, same, other = (LSTM(3, 4, seed=seed, backend=NUMPY).params["weight_ih_l0"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.any(one != other)


def test_a_tape_is_used_once():
    lstm = make(2, 3)
    _, _, tape = lstm.forward(problem(lstm, 3, 2)["x"])
    lstm.backward(tape)
    with pytest.raises(InputError, match="tape was already used"):
        lstm.backward(tape)


@pytest.mark.parametrize("tier", runnable_tiers(NUMPY))
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
def test_inference_gives_the_same_and_keeps_nothing(tier, lengths):
    lstm = LSTM(2, 3, 2, bidirectional=True, dtype="float64", backend=NUMPY, tier=tier)
    data = problem(lstm, 4, 3)
    state = (data["h0"], data["c0"])
    y, (h, c), _ = lstm.forward(data["x"], state, lengths)
    y_only, (h_only, c_only), tape = lstm.forward(data["x"], state, lengths, keep=False)
    for kept, alone in ((y, y_only), (h, h_only), (c, c_only)):
        np.testing.assert_array_equal(kept, alone)
    with pytest.raises(InputError, match="tape is that of a forward call with keep=False"):
        lstm.backward(tape)


def refusals():
    x, state = np.zeros((3, 2, 4)), np.zeros((1, 2, 5))
    yield "rank", dict(x=np.zeros((5, 3))), r"x has shape \(5, 3\); expected \(T, B, input_size=4\)"
    yield "width", dict(x=np.zeros((3, 2, 5))), r"x has shape \(3, 2, 5\); expected \(T, B, input_size=4\)"
    yield "no steps", dict(x=np.zeros((0, 2, 4))), "x has shape .* at least one step and one sequence"
    yield "empty batch", dict(x=np.zeros((3, 0, 4))), "x has shape .* at least one step and one sequence"
    yield "dtype", dict(x=x.astype("float32")), "x has dtype float32; expected float64"
    yield "list", dict(x=x.tolist()), "x is a builtins.list; expected an array of backend numpy"
    yield "device", dict(x=OnDevice(0)), "x is a tests.support.OnDevice on CUDA device 0; expected one of backend numpy"
    yield "h0", dict(x=x, state=(state[0], state)), r"h0 has shape \(2, 5\); expected \(1, 2, 5\)"
    yield "c0", dict(x=x, state=(state, state[:, :1])), r"c0 has shape \(1, 1, 5\); expected \(1, 2, 5\)"
    yield "state", dict(x=x, state=state), "state is ndarray; expected a pair"
    yield "short", dict(x=x, state=()), "state is tuple; expected a pair"
    yield "negative", dict(x=x, lengths=[-1, 3]), r"lengths has values -1\.\.3; expected 0\.\.T=3"
    yield "long", dict(x=x, lengths=[1, 4]), r"lengths has values 1\.\.4; expected 0\.\.T=3"
    yield "count", dict(x=x, lengths=[1, 2, 3]), r"lengths has shape \(3,\) .*; expected 2 whole numbers"
    yield "float", dict(x=x, lengths=[1.0, 2.0]), "lengths .* float64; expected 2 whole numbers"


@pytest.mark.parametrize("case", list(refusals()), ids=lambda case: case[0])
def test_bad_input_is_refused(case):
    _, arguments, message = case
    with pytest.raises(InputError, match=message):
        make(4, 5).forward(**arguments)


def test_bad_gradients_are_refused():
    lstm = make(2, 3)
    for dy, dstate, message in (
        (np.zeros((3, 2, 4)), None, r"dy has shape \(3, 2, 4\); expected \(3, 2, 3\)"),
        (None, (None, np.zeros((2, 3))), r"dc has shape \(2, 3\); expected \(1, 2, 3\)"),
    ):
        _, _, tape = lstm.forward(np.zeros((3, 2, 2)))
        with pytest.raises(InputError, match=message):
            lstm.backward(tape, dy, dstate)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(input_size=0), "input_size is 0; expected a whole number"),
        (dict(hidden_size=2.5), "hidden_size is 2.5; expected a whole number"),
        (dict(num_layers=True), "num_layers is True; expected a whole number"),
        (dict(dropout=1.0), r"dropout is 1.0; expected a probability in \[0, 1\)"),
        (dict(dtype="float8"), "dtype is float8; expected one of float32, float64, float16, bfloat16"),
        (dict(tier="warp"), "tier is 'warp'; expected auto, reference"),
        (dict(backend="tpu"), "backend is 'tpu'; expected auto, numpy"),
    ],
    ids=str,
)
def test_bad_options_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        LSTM(**{"input_size": 2, "hidden_size": 3, "backend": NUMPY} | arguments)
