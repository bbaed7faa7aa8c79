"""LSTMCell: the sequence, one step at a time."""

import numpy as np
import pytest

from gpu_lstm import LSTM, LSTMCell
from gpu_lstm.errors import InputError
from gpu_lstm.recurrence import runnable_tiers
from tests.support import NUMPY

STEPS, INPUT, HIDDEN = 5, 3, 6
OPTIONS = [
    {},
    {"bias": False, "proj_size": 2, "peepholes": True, "clip": 0.8},
    {"layer_norm": True, "learn_state": True},
    {"coupled": True, "hard_sigmoid": True, "cell_clip": 0.5, "zoneout_h": 0.2, "zoneout_c": 0.1},
    {"heads": 3, "input_dropout": 0.2, "recurrent_dropout": 0.5, "weight_dropout": 0.3},
]


def both(options, tier, dtype="float64", hidden=HIDDEN):
    where = {"dtype": dtype, "tier": tier, "backend": NUMPY, "seed": 3}
    cell, lstm = LSTMCell(INPUT, hidden, **where, **options), LSTM(INPUT, hidden, **where, **options)
    for name, array in cell.params.items():
        np.testing.assert_array_equal(array, lstm.params[f"{name}_l0"])
    return cell, lstm


@pytest.mark.parametrize("tier", runnable_tiers(NUMPY))
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o) or "plain")
@pytest.mark.parametrize("batch", [1, 2, 8])
@pytest.mark.parametrize("dtype, hidden", [("float64", HIDDEN), ("float32", 48)])
def test_steps_give_the_sequence(tier, options, batch, dtype, hidden):
    if not LSTM(1, 6, backend=NUMPY, **options).options.recurrent() <= LSTM(1, 1, backend=NUMPY, tier=tier).plan.takes:
        pytest.skip("that tier refuses these options")
    cell, lstm = both(options, tier, dtype, hidden)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((STEPS, batch, INPUT)).astype(dtype)
    dy = rng.standard_normal((STEPS, batch, lstm.output_size)).astype(dtype)
    seed = None if "zoneout_h" in options else (4,)  # zoneout draws anew at every step
    y, (h_last, c_last), tape = lstm.forward(x, seed=seed)
    state, tapes, hs = None, [], []
    for x_t in x:
        h, c, step = cell.forward(x_t, state, seed=seed)
        hs.append(h)
        tapes.append(step)
        state = (h, c)
    equal = np.testing.assert_array_equal if tier == "reference" else _close
    equal(np.stack(hs), y)
    equal(state[0], h_last[0])
    equal(state[1], c_last[0])
    dx, (dh0, dc0), gradients = lstm.backward(tape, dy)
    dh, dc, total, dxs = np.zeros_like(dy[0]), np.zeros_like(state[1]), {}, []
    for t in reversed(range(STEPS)):
        dx_t, (dh, dc), found = cell.backward(tapes[t], dh + dy[t], dc)
        dxs.append(dx_t)
        for name, gradient in found.items():
            total[name] = total.get(name, 0) + gradient
    _close(np.stack(dxs[::-1]), dx)
    _close(dh, dh0[0])
    _close(dc, dc0[0])
    for name, gradient in total.items():
        _close(gradient, gradients[f"{name}_l0"])


def _close(found, expected):
    limit = 1e-12 if expected.dtype == np.float64 else 2e-5
    np.testing.assert_allclose(found, expected, rtol=0, atol=limit * max(np.abs(expected).max(), 1))


def test_new_arrays_in_params_are_those_that_run():
    cell, _ = both({}, "reference")
    x = np.ones((2, INPUT))
    before, _, _ = cell.forward(x)
    cell.params["bias"] = cell.params["bias"] + 1
    assert not np.allclose(cell.forward(x)[0], before)


def test_refusals():
    cell, _ = both({}, "reference")
    x = np.ones((2, INPUT))
    with pytest.raises(InputError, match=r"x has shape \(2, 4\); expected \(B, input_size=3\)"):
        cell.forward(np.ones((2, 4)))
    with pytest.raises(InputError, match=r"c has shape \(1, 6\); expected \(2, 6\)"):
        cell.forward(x, (None, np.zeros((1, HIDDEN))))
    with pytest.raises(InputError, match="state is ndarray; expected a pair"):
        cell.forward(x, np.zeros((2, HIDDEN)))
    with pytest.raises(InputError, match="residual is an option of LSTM"):
        LSTMCell(2, 3, residual=True)
    h, _, tape = cell.forward(x)
    with pytest.raises(InputError, match=r"dh has shape \(2, 5\); expected \(2, 6\)"):
        cell.backward(tape, h[:, :5])
    cell.backward(tape, h)
    with pytest.raises(InputError, match="already used"):
        cell.backward(tape, h)
