"""The recurrence's contract, for every tier that runs here: where states lie, what is overwritten, its derivatives."""

import numpy as np
import pytest

from gpu_lstm import LSTM
from gpu_lstm.recurrence import TIERS, Mask, make_plan, runnable_tiers
from gpu_lstm.recurrence.problem import slots
from tests.support import NUMPY, central_differences, one_backward, one_forward, relative_error

STEPS, BATCH, HIDDEN = 4, 3, 2
LENGTHS = np.array([2, 4, 1])
VALID = np.arange(STEPS)[:, None, None] < LENGTHS[None, :, None]


@pytest.fixture(params=runnable_tiers(NUMPY))
def tier(request):
    return make_plan(NUMPY, request.param).run


@pytest.fixture(params=[False, True], ids=["forward", "reverse"])
def reverse(request):
    return request.param


@pytest.fixture(params=[None, Mask(LENGTHS, VALID)], ids=["full", "lengths"])
def mask(request):
    return request.param


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    shapes = {"z": (STEPS, BATCH, 4 * HIDDEN), "weight_hh": (4 * HIDDEN, HIDDEN)}
    shapes |= {"h0": (BATCH, HIDDEN), "c0": (BATCH, HIDDEN)}
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def run(tier, data, mask, reverse):
    """Forward on a copy of z, because it is overwritten."""
    return one_forward(tier, NUMPY, data["z"].copy(), data["weight_hh"], data["h0"], data["c0"], mask, reverse)


def test_slots_chain_the_states():
    assert slots(3, False) == [(0, 0, 1), (1, 1, 2), (2, 2, 3)]
    assert slots(3, True) == [(2, 3, 2), (1, 2, 1), (0, 1, 0)]


def test_mask_knows_the_steps_that_all_have():
    assert [Mask(LENGTHS, VALID).full(t) for t in range(STEPS)] == [True, False, False, False]


def test_states_lie_in_their_slots(tier, data, mask, reverse):
    saved = run(tier, data, mask, reverse)
    first, last = (STEPS, 0) if reverse else (0, STEPS)
    np.testing.assert_array_equal(saved.h[first], data["h0"])
    np.testing.assert_array_equal(saved.c[first], data["c0"])
    np.testing.assert_array_equal(saved.last[0], saved.h[last])
    np.testing.assert_array_equal(saved.last[1], saved.c[last])
    for view in (saved.outputs, saved.before):
        assert view.shape == (STEPS, BATCH, HIDDEN)
        assert np.shares_memory(view, saved.h)


def test_a_sequence_keeps_its_state_outside_its_steps(tier, data, reverse):
    saved = run(tier, data, Mask(LENGTHS, VALID), reverse)
    for t, before, after in slots(STEPS, reverse):
        outside = ~VALID[t, :, 0]
        np.testing.assert_array_equal(saved.h[after][outside], saved.h[before][outside])
        np.testing.assert_array_equal(saved.c[after][outside], saved.c[before][outside])


def test_reverse_is_forward_on_flipped_time(tier, data):
    flipped = run(tier, data | {"z": data["z"][::-1].copy()}, None, False)
    saved = run(tier, data, None, True)
    np.testing.assert_allclose(saved.h, flipped.h[::-1], rtol=1e-14)
    np.testing.assert_allclose(saved.c, flipped.c[::-1], rtol=1e-14)


def test_backward_returns_dz_that_is_zero_outside_a_sequence(tier, data, mask, reverse):
    saved = run(tier, data, mask, reverse)
    dz, _, _ = one_backward(tier, NUMPY, saved, np.ones((STEPS, BATCH, HIDDEN)), None, None)
    assert dz.shape == data["z"].shape
    if mask is not None:
        assert np.all(dz[~VALID[:, :, 0]] == 0)
        assert np.all(dz[VALID[:, :, 0]] != 0)


def test_derivatives(tier, data, mask, reverse):
    rng = np.random.default_rng(1)
    dh, dh_last, dc_last = (rng.standard_normal(s) for s in ((STEPS, BATCH, HIDDEN), *[(BATCH, HIDDEN)] * 2))
    inside = 1.0 if mask is None else VALID

    def loss():
        saved = run(tier, data, mask, reverse)
        return float(
            np.sum(saved.outputs * dh * inside) + np.sum(saved.last[0] * dh_last) + np.sum(saved.last[1] * dc_last)
        )

    results = one_backward(tier, NUMPY, run(tier, data, mask, reverse), dh, dh_last, dc_last)
    for name, gradient in zip(("z", "h0", "c0"), results, strict=True):
        assert relative_error(gradient, central_differences(loss, data[name])) < 1e-6, name


@pytest.mark.parametrize("name", ["auto", *runnable_tiers(NUMPY)])
def test_the_plan_has_a_line_for_every_tier(name):
    plan = make_plan(NUMPY, name)
    assert plan.tier == (runnable_tiers(NUMPY)[-1] if name == "auto" else name)
    assert [line.split(":")[0] for line in plan.why().splitlines()] == list(reversed(TIERS))
    assert LSTM(2, 3, backend=NUMPY, tier=name).plan == plan
