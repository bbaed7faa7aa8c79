"""The LSTM family: every option and every pair of them by central differences, and what each must mean by itself."""

import itertools

import numpy as np
import pytest

from gpu_lstm import LSTM
from gpu_lstm.errors import InputError
from gpu_lstm.layers.options import Options
from gpu_lstm.recurrence import TIERS, Arriving, Problem, family, reference, runnable_tiers
from gpu_lstm.recurrence.variant import ACTIVATIONS, Variant
from tests.support import NUMPY, STRICT, central_differences, relative_error

ON = {
    "bias": False,
    "proj_size": 2,
    "peepholes": True,
    "coupled": True,
    "hard_sigmoid": True,
    "clip": 0.7,
    "cell_clip": 0.4,
    "layer_norm": True,
    "zoneout_h": 0.3,
    "zoneout_c": 0.4,
    "input_dropout": 0.3,
    "recurrent_dropout": 0.4,
    "weight_dropout": 0.3,
    "residual": True,
    "learn_state": True,
    "cells": True,
    "heads": 2,
    "cell_activation": "leaky_relu",
}
"""Each option with a value that isn't its default."""

PAIRS = list(itertools.combinations(ON, 2))
STEPS, BATCH, INPUT, HIDDEN = 4, 3, 3, 4


def made(options, **more):
    arguments = {"bidirectional": True, "dtype": "float64", "tier": "reference", "backend": NUMPY} | more
    lstm = LSTM(INPUT, HIDDEN, 2, **arguments, **options)
    rng = np.random.default_rng(3)
    for array in lstm.params.values():  # gains off 1, initial states off 0
        array += lstm.backend.asarray(rng.uniform(-0.5, 0.5, tuple(array.shape)), lstm.dtype)
    return lstm


def data_for(lstm, seed=0):
    rng = np.random.default_rng(seed)
    h, c = lstm.sizes.state(BATCH)
    shapes = {
        "x": (STEPS, BATCH, INPUT), "h0": h, "c0": c, "dh": h, "dc": c,
        "dy": (STEPS, BATCH, lstm.output_size * lstm.num_directions),
        "dcells": (STEPS, BATCH, lstm.hidden_size * lstm.num_directions),
    }  # fmt: skip
    return {name: rng.standard_normal(shape).astype(lstm.dtype) for name, shape in shapes.items()}


def run(lstm, data, lengths=None, seed=(5, 6), given=True, resets=None):
    """The sum of all outputs times what arrives at them, and a function that gives its gradients."""
    backend = lstm.backend
    on = {name: backend.asarray(array, lstm.dtype) for name, array in data.items()}
    state = (on["h0"], on["c0"]) if given else None
    y, (h, c), tape = lstm.forward(on["x"], state, lengths, seed, resets=resets)
    outputs, sent = {"dh": h, "dc": c}, [on["dy"], on["dcells"]]
    if lstm.options.cells:
        outputs |= {"dy": y[0], "dcells": y[1]}
    else:
        outputs["dy"], sent = y, sent[0]
    loss = sum(float(np.sum(backend.to_numpy(array) * data[name])) for name, array in outputs.items())

    def gradients():
        dx, (dh0, dc0), found = lstm.backward(tape, sent, (on["dh"], on["dc"]))
        all_of_them = {"x": dx, "h0": dh0, "c0": dc0} | found
        return {name: backend.to_numpy(array) for name, array in all_of_them.items()}

    return loss, gradients


def check_gradients(lstm, data, **how):
    """Each array's gradient, by the slope along two random directions of all its elements."""
    found, rng, step = run(lstm, data, **how)[1](), np.random.default_rng(1), 1e-6
    arrays = lstm.params | {"x": data["x"]} | ({"h0": data["h0"], "c0": data["c0"]} if how.get("given", True) else {})
    for name, array in arrays.items():
        start = array.copy()
        for _ in range(2):
            direction = rng.standard_normal(array.shape)
            ends = []
            for sign in (1, -1):
                array[...] = start + sign * step * direction
                ends.append(run(lstm, data, **how)[0])
            array[...] = start
            slope, size = float(np.sum(found[name] * direction)), float(np.abs(found[name] * direction).sum())
            assert abs((ends[0] - ends[1]) / (2 * step) - slope) < 1e-6 * max(size, 0.1), name


@pytest.mark.parametrize("how", ["training", "evaluation", "lengths", "resets", "learned"])
@pytest.mark.parametrize("name", ON)
def test_each_option_along_random_directions(name, how):
    lstm = made({name: ON[name]} | ({"learn_state": True} if how == "learned" else {}))
    resets = np.zeros((STEPS, BATCH), bool)
    resets[[0, 2, 1], [0, 1, 2]] = True
    check_gradients(
        lstm,
        data_for(lstm),
        seed=None if how == "evaluation" else (5, 6),
        lengths=[2, 4, 1] if how == "lengths" else None,
        resets=resets if how == "resets" else None,
        given=how != "learned",
    )


@pytest.mark.parametrize("name", ON)
def test_each_option_element_by_element(name):
    lstm = made({name: ON[name]}, bidirectional=False)
    data = data_for(lstm)
    found = run(lstm, data)[1]()
    for key, array in (lstm.params | {name: data[name] for name in ("x", "h0", "c0")}).items():
        expected = central_differences(lambda: run(lstm, data)[0], array)
        np.testing.assert_allclose(
            found[key], expected, rtol=0, atol=1e-6 * max(np.abs(expected).max(), 0.1), err_msg=key
        )


@pytest.mark.parametrize("first, second", PAIRS)
def test_each_pair_of_options_along_random_directions(first, second):
    lstm = made({first: ON[first], second: ON[second]})
    check_gradients(lstm, data_for(lstm), lengths=[2, 4, 1])


def test_all_options_together_along_random_directions():
    lstm = made(ON)
    check_gradients(lstm, data_for(lstm), lengths=[3, 4, 1])


def test_the_general_loop_without_options_is_the_plain_one():
    rng = np.random.default_rng(0)
    z, w = rng.standard_normal((5, 3, 16)), rng.standard_normal((16, 4))
    h0, c0, dh_last, dc_last = (rng.standard_normal((3, 4)) for _ in range(4))
    dh = rng.standard_normal((5, 3, 4))
    plain = reference.forward(NUMPY, Problem(z.copy(), w, h0, c0))
    general = family.forward(NUMPY, Problem(z.copy(), w, h0, c0, variant=Variant()))
    for name in ("h", "c", "gates"):
        np.testing.assert_allclose(getattr(general, name), getattr(plain, name), rtol=1e-13, atol=1e-15)
    pairs = (reference, plain), (family, general)
    results = (module.backward(NUMPY, Arriving(saved, dh, dh_last, dc_last)) for module, saved in pairs)
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("tier", [name for name in runnable_tiers(NUMPY) if name != "reference"])
@pytest.mark.parametrize("name", [*ON, "all", "some"])
def test_every_tier_gives_the_oracle_s_results_or_says_why_not(tier, name):
    some = {"peepholes", "clip", "cell_clip", "zoneout_h", "zoneout_c", "recurrent_dropout", "cells"}
    options = {"all": ON, "some": {key: ON[key] for key in some}}.get(name) or {name: ON[name]}
    if Options(**options).recurrent() - _takes(tier):
        with pytest.raises(Exception, match=f"tier {tier} can't run on backend numpy: it does not take"):
            made(options, tier=tier)
        return
    resets = np.zeros((STEPS, BATCH), bool)
    resets[[2, 1], [0, 2]] = True
    for how in ({}, {"lengths": [2, 4, 1]}, {"seed": None}, {"resets": resets}):
        results = [run(made(options, tier=one), data_for(made(options)), **how) for one in ("reference", tier)]
        (loss, gradients), (other_loss, other_gradients) = results
        assert other_loss == pytest.approx(loss, rel=1e-11)
        others = other_gradients()
        for key, value in gradients().items():
            np.testing.assert_allclose(
                others[key], value, rtol=0, atol=1e-11 * max(np.abs(value).max(), 1e-3), err_msg=key
            )


def _takes(tier):
    return LSTM(1, 1, backend=NUMPY, tier=tier).plan.takes


@pytest.mark.parametrize("name", [*ON, "all"])
def test_options_hold_under_the_strict_array_standard(name):
    options = ON if name == "all" else {name: ON[name]}
    data = data_for(made(options))
    (loss, gradients), (other_loss, other_gradients) = (
        run(made(options, backend=backend), data, lengths=[2, 4, 1]) for backend in (NUMPY, STRICT)
    )
    assert other_loss == pytest.approx(loss, rel=1e-12)
    others = other_gradients()
    for key, value in gradients().items():
        np.testing.assert_allclose(others[key], value, rtol=0, atol=1e-12 * max(np.abs(value).max(), 1.0), err_msg=key)


# -- what each option means, by equations written out here ------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def one_layer(**options):
    lstm = LSTM(INPUT, HIDDEN, dtype="float64", tier="reference", backend=NUMPY, seed=2, **options)
    rng = np.random.default_rng(4)
    for array in lstm.params.values():
        array += rng.uniform(-0.5, 0.5, array.shape)
    return lstm, {name.removesuffix("_l0"): array for name, array in lstm.params.items()}


def by_hand(lstm, p, x, h, c, cell):
    """All steps of one layer; `cell` takes z (B, 4H) and c, and gives h and c."""
    outputs = []
    for x_t in x:
        h, c = cell(x_t @ p["weight_ih"].T + h @ p["weight_hh"].T + p["bias"], h, c)
        outputs.append(h)
    return np.array(outputs), h, c


def inputs(width=HIDDEN):
    rng = np.random.default_rng(8)
    return (
        rng.standard_normal((STEPS, BATCH, INPUT)),
        rng.standard_normal((BATCH, width)),
        rng.standard_normal((BATCH, HIDDEN)),
    )


def test_peepholes_look_at_c_before_and_at_the_new_c():
    lstm, p = one_layer(peepholes=True)
    x, h, c = inputs()
    pi, pf, po = p["peephole"]

    def cell(z, h, c):
        i, f, g, o = np.split(z, 4, axis=1)
        c_new = sigmoid(f + pf * c) * c + sigmoid(i + pi * c) * np.tanh(g)
        return sigmoid(o + po * c_new) * np.tanh(c_new), c_new

    expected = by_hand(lstm, p, x, h, c, cell)
    y, (h_last, c_last), _ = lstm.forward(x, (h[None], c[None]))
    for found, value in zip((y, h_last[0], c_last[0]), expected, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-12)


def test_coupled_gates_forget_what_they_do_not_let_in():
    lstm, p = one_layer(coupled=True)
    x, h, c = inputs()

    def cell(z, h, c):
        i, _, g, o = np.split(z, 4, axis=1)
        c_new = (1 - sigmoid(i)) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c_new), c_new

    y, _, tape = lstm.forward(x, (h[None], c[None]))
    np.testing.assert_allclose(y, by_hand(lstm, p, x, h, c, cell)[0], rtol=1e-12)
    _, _, gradients = lstm.backward(tape, np.ones_like(y))
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_l0"):
        assert not gradients[name][HIDDEN : 2 * HIDDEN].any()


def test_hard_sigmoid_clip_and_cell_clip():
    def hard(x):
        return np.clip(0.2 * x + 0.5, 0, 1)

    x, h, c = inputs()
    for options in ({"hard_sigmoid": True}, {"clip": 0.6}, {"cell_clip": 0.3}, {"clip": 0.6, "hard_sigmoid": True}):
        lstm, p = one_layer(**options)
        gate = hard if "hard_sigmoid" in options else sigmoid
        limit, cell_limit = options.get("clip", np.inf), options.get("cell_clip", np.inf)

        def cell(z, h, c, gate=gate, limit=limit, cell_limit=cell_limit):
            i, f, g, o = np.split(np.clip(z, -limit, limit), 4, axis=1)
            c_new = np.clip(gate(f) * c + gate(i) * np.tanh(g), -cell_limit, cell_limit)
            return gate(o) * np.tanh(c_new), c_new

        y, _, _ = lstm.forward(x, (h[None], c[None]))
        np.testing.assert_allclose(y, by_hand(lstm, p, x, h, c, cell)[0], rtol=1e-12)


@pytest.mark.parametrize("tier", [name for name in runnable_tiers(NUMPY)])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_cell_activation_is_that_of_g_and_of_the_output(name, tier):
    torch = pytest.importorskip("torch")
    act = {"tanh": torch.tanh, "relu": torch.relu, "leaky_relu": torch.nn.functional.leaky_relu}[name]
    lstm = LSTM(INPUT, HIDDEN, dtype="float64", tier=tier, backend=NUMPY, seed=2, cell_activation=name)
    given = {part.removesuffix("_l0"): array for part, array in lstm.params.items()}
    given |= dict(zip("xhc", inputs(), strict=True))
    p = {part: torch.tensor(array, requires_grad=True) for part, array in given.items()}
    h, c, outputs = p["h"], p["c"], []
    for x_t in p["x"]:
        i, f, g, o = (x_t @ p["weight_ih"].T + h @ p["weight_hh"].T + p["bias"]).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * act(g)
        h = torch.sigmoid(o) * act(c)
        outputs.append(h)
    y, _, tape = lstm.forward(given["x"], (given["h"][None], given["c"][None]))
    np.testing.assert_allclose(y, torch.stack(outputs).detach(), rtol=1e-12, atol=1e-15)
    dy = np.random.default_rng(9).standard_normal(y.shape)
    torch.stack(outputs).backward(torch.tensor(dy))
    dx, (dh, dc), gradients = lstm.backward(tape, dy)
    found = {"x": dx, "h": dh[0], "c": dc[0]} | {part.removesuffix("_l0"): array for part, array in gradients.items()}
    assert found.keys() == p.keys()
    for part, array in found.items():
        np.testing.assert_allclose(array, p[part].grad, rtol=1e-11, atol=1e-14, err_msg=part)


def test_a_clipped_rectified_g_passes_no_gradient_beyond_its_bounds():
    x, h, c = inputs()
    for name, slope in (("relu", 0.0), ("leaky_relu", 0.01)):
        lstm, p = one_layer(clip=0.6, cell_activation=name)

        def cell(z, h, c, slope=slope):
            i, f, g, o = np.split(np.clip(z, -0.6, 0.6), 4, axis=1)
            c_new = sigmoid(f) * c + sigmoid(i) * np.where(g > 0, g, slope * g)
            return sigmoid(o) * np.where(c_new > 0, c_new, slope * c_new), c_new

        y, _, tape = lstm.forward(x[:1], (h[None], c[None]))
        np.testing.assert_allclose(y, by_hand(lstm, p, x[:1], h, c, cell)[0], rtol=1e-12)
        _, _, gradients = lstm.backward(tape, np.ones_like(y))
        z = (x[0] @ p["weight_ih"].T + h @ p["weight_hh"].T + p["bias"])[:, 2 * HIDDEN : 3 * HIDDEN]
        beyond = (abs(z) > 0.6).all(0)
        assert beyond.any() and not beyond.all()
        assert not gradients["bias_l0"][2 * HIDDEN : 3 * HIDDEN][beyond].any()


def test_layer_norm_normalises_both_products_and_the_output_s_cell():
    lstm, p = one_layer(layer_norm=True)
    x, h, c = inputs()

    def norm(a):
        return (a - a.mean(1, keepdims=True)) / np.sqrt(a.var(1, keepdims=True) + 1e-5)

    outputs = []
    for x_t in x:
        z = norm(x_t @ p["weight_ih"].T) * p["gain_ih"] + norm(h @ p["weight_hh"].T) * p["gain_hh"] + p["bias"]
        i, f, g, o = np.split(z, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(norm(c) * p["gain_c"] + p["shift_c"])
        outputs.append(h)
    y, _, _ = lstm.forward(x, tuple(a[None] for a in inputs()[1:]))
    np.testing.assert_allclose(y, outputs, rtol=1e-11)


def test_projection_and_heads():
    x, h, c = inputs(2)
    lstm, p = one_layer(proj_size=2)

    def cell(z, h, c):
        i, f, g, o = np.split(z, 4, axis=1)
        c_new = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return (sigmoid(o) * np.tanh(c_new)) @ p["weight_hr"].T, c_new

    y, _, _ = lstm.forward(x, (h[None], c[None]))
    assert y.shape == (STEPS, BATCH, 2)
    np.testing.assert_allclose(y, by_hand(lstm, p, x, h, c, cell)[0], rtol=1e-12)

    x, h, c = inputs()
    lstm, p = one_layer(heads=2)
    dense = LSTM(INPUT, HIDDEN, dtype="float64", tier="reference", backend=NUMPY)
    whole = np.zeros((4 * HIDDEN, HIDDEN))
    for row in range(4 * HIDDEN):  # unit j = row % 4 belongs to head j // 2
        head = (row % HIDDEN) // 2
        whole[row, 2 * head : 2 * head + 2] = p["weight_hh"][row]
    dense.params["weight_ih_l0"], dense.params["weight_hh_l0"], dense.params["bias_l0"] = (
        p["weight_ih"],
        whole,
        p["bias"],
    )
    ys = [one.forward(x, (h[None], c[None]))[0] for one in (lstm, dense)]
    np.testing.assert_allclose(*ys, rtol=1e-12)


def test_zoneout_keeps_elements_in_training_and_mixes_in_evaluation():
    x, h, c = inputs()
    lstm, p = one_layer(zoneout_h=0.25, zoneout_c=0.5)

    def cell(z, h, c):
        i, f, g, o = np.split(z, 4, axis=1)
        c_new = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return 0.75 * sigmoid(o) * np.tanh(c_new) + 0.25 * h, 0.5 * c_new + 0.5 * c

    y, _, _ = lstm.forward(x, (h[None], c[None]))
    np.testing.assert_allclose(y, by_hand(lstm, p, x, h, c, cell)[0], rtol=1e-12)
    big = LSTM(2, 50, dtype="float64", tier="reference", backend=NUMPY, zoneout_h=0.25)
    y, _, _ = big.forward(np.random.default_rng(0).standard_normal((40, 10, 2)), seed=(1,))
    kept = np.mean(y[1:] == y[:-1])
    assert 0.24 < kept < 0.26


@pytest.mark.parametrize("name, axis", [("input_dropout", "x"), ("recurrent_dropout", "h")])
def test_variational_dropout_drops_the_same_elements_at_all_steps(name, axis):
    lstm, _ = one_layer(**{name: 0.5})
    x, h, c = inputs()
    y, _, tape = lstm.forward(x, (h[None], c[None]), seed=(3,))
    dx, (dh0, _), _ = lstm.backward(tape, np.ones_like(y))
    if axis == "x":
        dropped = dx == 0
        assert dropped.any() and not dropped.all()
        assert (dropped == dropped[0]).all()
    else:  # an element of h0 that never enters
        assert (dh0 == 0).any() and not (dh0 == 0).all()
    plain, _, _ = lstm.forward(x, (h[None], c[None]))
    assert not np.allclose(plain, y)


def test_weight_dropout_drops_weights_and_their_gradients():
    lstm, _ = one_layer(weight_dropout=0.5)
    x, h, c = inputs()
    y, _, tape = lstm.forward(x, (h[None], c[None]), seed=(3,))
    _, _, gradients = lstm.backward(tape, np.ones_like(y))
    dropped = gradients["weight_hh_l0"] == 0
    assert 0.2 < dropped.mean() < 0.8
    other = LSTM(INPUT, HIDDEN, dtype="float64", tier="reference", backend=NUMPY)
    other.params.update(lstm.params)
    other.params["weight_hh_l0"] = np.where(dropped, 0, 2 * lstm.params["weight_hh_l0"])
    np.testing.assert_allclose(other.forward(x, (h[None], c[None]))[0], y, rtol=1e-12)


def test_residual_adds_the_input_of_upper_layers():
    lstm = LSTM(INPUT, HIDDEN, 2, dtype="float64", tier="reference", backend=NUMPY, residual=True)
    below, above = (LSTM(n, HIDDEN, dtype="float64", tier="reference", backend=NUMPY) for n in (INPUT, HIDDEN))
    for name, array in lstm.params.items():
        (below if name.endswith("l0") else above).params[name.replace("l1", "l0")] = array
    x, _, _ = inputs()
    first, _, _ = below.forward(x)
    np.testing.assert_allclose(lstm.forward(x)[0], first + above.forward(first)[0], rtol=1e-12)


def test_cells_gives_h_and_c_of_every_step():
    lstm = made({"cells": True})
    plain = LSTM(INPUT, HIDDEN, 2, bidirectional=True, dtype="float64", tier="reference", backend=NUMPY)
    plain.params.update(lstm.params)
    x, _, _ = inputs()
    (h, c), (h_last, c_last), _ = lstm.forward(x, lengths=[2, 4, 1])
    y, _, _ = plain.forward(x, lengths=[2, 4, 1])
    np.testing.assert_array_equal(h, y)
    for b, length in enumerate((2, 4, 1)):
        np.testing.assert_array_equal(c[length - 1, b, :HIDDEN], c_last[2, b])
        np.testing.assert_array_equal(c[0, b, HIDDEN:], c_last[3, b])
        np.testing.assert_array_equal(h[length - 1, b, :HIDDEN], h_last[2, b])
        assert not c[length:, b].any()
    (h, c), _, tape = lstm.forward(x, keep=False)
    assert c.shape == (STEPS, BATCH, 2 * HIDDEN)
    with pytest.raises(InputError, match="keep=False"):
        lstm.backward(tape)


@pytest.mark.parametrize("tier", runnable_tiers(NUMPY))
def test_resets_cut_a_sequence_in_two(tier):
    lstm = LSTM(INPUT, HIDDEN, 2, bidirectional=True, dtype="float64", backend=NUMPY)
    if "resets" not in _takes(tier):
        pytest.skip("that tier refuses resets, as another test shows")
    lstm = LSTM(INPUT, HIDDEN, 2, bidirectional=True, dtype="float64", backend=NUMPY, tier=tier)
    x, _, _ = inputs()
    resets = np.zeros((STEPS, BATCH), bool)
    resets[2] = True
    y, _, tape = lstm.forward(x, resets=resets)
    parts = [lstm.forward(x[:2]), lstm.forward(x[2:])]
    np.testing.assert_allclose(y, np.concatenate([part[0] for part in parts]), rtol=1e-12)
    dy = np.random.default_rng(0).standard_normal(y.shape)
    dx, _, gradients = lstm.backward(tape, dy)
    backs = [lstm.backward(part[2], d) for part, d in zip(parts, (dy[:2], dy[2:]), strict=True)]
    np.testing.assert_allclose(dx, np.concatenate([back[0] for back in backs]), rtol=1e-11)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, backs[0][2][name] + backs[1][2][name], rtol=1e-10, atol=1e-14)


def test_learned_states_start_where_none_is_given():
    lstm = made({"learn_state": True})
    plain = LSTM(INPUT, HIDDEN, 2, bidirectional=True, dtype="float64", tier="reference", backend=NUMPY)
    plain.params.update({name: array for name, array in lstm.params.items() if name in plain.params})
    names = ("l0", "l0_reverse", "l1", "l1_reverse")
    state = tuple(np.stack([np.tile(lstm.params[f"{part}_{n}"], (BATCH, 1)) for n in names]) for part in ("h0", "c0"))
    x, _, _ = inputs()
    np.testing.assert_array_equal(lstm.forward(x)[0], plain.forward(x, state)[0])
    _, _, tape = lstm.forward(x, state)
    gradients = lstm.backward(tape, np.ones((STEPS, BATCH, 2 * HIDDEN)))[2]
    assert not gradients["h0_l0"].any() and gradients["weight_hh_l0"].any()


@pytest.mark.parametrize("name", [*ON, "all"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_segments_and_recomputation_change_nothing(name, bidirectional, monkeypatch):
    options = ON if name == "all" else {name: ON[name]}
    both = {"zoneout_h", "zoneout_c"} & set(options)  # drawn anew for each segment, whose borders these are
    results = []
    for recompute in (False, True):
        lstm = made(options, recompute=recompute, bidirectional=bidirectional)
        monkeypatch.setattr("gpu_lstm.layers.schedule.segments", _by_two)
        results.append(run(lstm, data_for(lstm), lengths=[2, 4, 1]))
        monkeypatch.undo()
    (loss, gradients), (other_loss, other) = results
    monkeypatch.setattr("gpu_lstm.layers.schedule.segments", _by_two)
    ours, theirs = gradients(), other()
    assert loss == other_loss
    for key, value in ours.items():
        np.testing.assert_array_equal(theirs[key], value, err_msg=key)
    monkeypatch.undo()
    if not both:
        whole_loss, whole = run(made(options, bidirectional=bidirectional), data_for(lstm), lengths=[2, 4, 1])
        assert whole_loss == pytest.approx(loss, rel=1e-12)
        for key, value in whole().items():
            np.testing.assert_allclose(ours[key], value, rtol=0, atol=1e-11 * max(np.abs(value).max(), 1), err_msg=key)


def _by_two(num_steps, *_, **__):
    return [(start, min(start + 2, num_steps)) for start in range(0, num_steps, 2)]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"bias": 1}, "bias is 1; expected True or False"),
        ({"proj_size": 4}, "proj_size is 4; expected less than hidden_size=4"),
        ({"proj_size": -1}, "proj_size is -1; expected a whole number of at least 0"),
        ({"heads": 3}, "heads is 3; expected a divisor of hidden_size=4"),
        ({"heads": 2, "proj_size": 3}, "heads is 2; expected a divisor of proj_size=3"),
        ({"heads": 0}, "heads is 0; expected a whole number of at least 1"),
        ({"clip": 0.0}, "clip is 0.0; expected a number above 0, or None"),
        ({"cell_clip": float("nan")}, "cell_clip is nan; expected a number above 0, or None"),
        ({"zoneout_h": 1.0}, r"zoneout_h is 1.0; expected a probability in \[0, 1\)"),
        ({"weight_dropout": "0.1"}, "weight_dropout is '0.1'; expected a probability"),
        ({"residual": True}, "residual is True with num_layers=1"),
        ({"bias": False, "forget_bias": 1.0}, "forget_bias is 1.0 with bias=False"),
        ({"coupled": True, "forget_bias": 1.0}, "forget_bias is 1.0 with coupled=True"),
    ],
)
def test_refusals_name_the_option(options, message):
    with pytest.raises(InputError, match=message):
        LSTM(INPUT, HIDDEN, backend=NUMPY, **options)


def test_calls_refuse_what_does_not_fit():
    lstm = LSTM(INPUT, HIDDEN, backend=NUMPY, dtype="float64", cells=True)
    x, _, _ = inputs()
    with pytest.raises(InputError, match=r"resets has shape \(3, 4\) and dtype bool; expected \(4, 3\) of bool"):
        lstm.forward(x, resets=np.zeros((3, 4), bool))
    with pytest.raises(InputError, match=r"resets has shape \(4, 3\) and dtype int64"):
        lstm.forward(x, resets=np.zeros((4, 3), np.int64))
    (y, _), _, tape = lstm.forward(x)
    with pytest.raises(InputError, match=r"dy is a ndarray; expected a pair \(dh, dc\)"):
        lstm.backward(tape, y)


def test_the_plan_names_what_a_tier_does_not_take():
    lstm = LSTM(INPUT, HIDDEN, backend=NUMPY, layer_norm=True, heads=2)
    refused = [name for name in TIERS if f"{name}: can't run: it does not take" in lstm.plan.why()]
    assert lstm.plan.tier not in refused
    for name in refused:
        assert not {"layer_norm", "heads"} <= _takes(name)


def test_batch_first_turns_everything():
    options = {key: ON[key] for key in ON if key not in ("zoneout_h", "zoneout_c")}
    lstm, turned = made(options), made(options, batch_first=True)
    data = data_for(lstm)
    resets = np.zeros((STEPS, BATCH), bool)
    resets[1, 2] = True
    loss, gradients = run(lstm, data, resets=resets)
    swapped = data | {name: data[name].swapaxes(0, 1).copy() for name in ("x", "dy", "dcells")}
    other_loss, other = run(turned, swapped, resets=resets.T)
    assert other_loss == pytest.approx(loss, rel=1e-12)
    ours, theirs = gradients(), other()
    np.testing.assert_allclose(theirs["x"].swapaxes(0, 1), ours["x"], rtol=1e-12)
    assert relative_error(theirs["weight_hh_l1"], ours["weight_hh_l1"]) < 1e-12
