"""The compiled CPU tiers run the LSTM family: each option at odd shapes against the float64 oracle."""

import itertools
from dataclasses import fields, replace

import numpy as np
import pytest

from gpu_lstm.errors import InputError
from gpu_lstm.native import compiled
from gpu_lstm.recurrence import cpu as sequence
from gpu_lstm.recurrence import reference
from gpu_lstm.recurrence.problem import Mask
from gpu_lstm.recurrence.variant import Variant
from tests.support import NUMPY, one_backward, one_forward, relative_error

pytestmark = pytest.mark.skipif(compiled.library() is None, reason=f"no compiled library: {compiled.missing()}")

DTYPES = ("float32", "float64")
SPREAD, NORM_SPREAD = 4, 16
"""Roundings of a sum of n terms walk at random: its error is below SPREAD sqrt(n) u, on any instruction set and in any
order of the terms, but for a chance of 2 exp(-SPREAD^2 / 2) (N. Higham and T. Mary, A New Approach to Probabilistic
Rounding Error Analysis, 2019). Layer normalisation divides by a deviation, here down to a quarter: four times that."""
SETS = compiled.SETS[: compiled.instruction_set() + 1]
ALL = (
    "projection", "peepholes", "coupled", "hard_sigmoid", "clip", "cell_clip", "zoneout_h", "zoneout_c",
    "recurrent_mask", "heads", "live", "cell_activation", "gain_hh", "gain_c", "shift_c",
)  # fmt: skip
NORM = ("gain_hh", "gain_c", "shift_c")
SETTINGS = {name: (name,) for name in ALL if name not in NORM} | {
    "layer_norm": NORM,
    "projected layer_norm": ("projection", *NORM),
    "all but layer_norm": tuple(name for name in ALL if name not in NORM),
    "all with tanh": tuple(name for name in ALL if name != "cell_activation"),
    "relu": ("relu",),
    "expected zoneout": ("zoneout in numbers",),
    "only gradients of c": (),
    "sigmoids": tuple(name for name in ALL if name not in ("hard_sigmoid", "coupled")),
    "all": ALL,
}
SHAPES = [(3, 1, 6, 4), (4, 9, 34, 18), (1, 3, 8, 2), (3, 2, 150, 70)]
"""T, B, H, and P where there is a projection; two heads divide H and P."""


def problem(options, steps, batch, hidden, size, lengths=False, seed=0):
    """A variant and all arrays that a tier takes, rounded to float32, and the mask."""
    rng = np.random.default_rng((steps, batch, hidden, seed))

    def normal(*shape):
        return rng.standard_normal(shape).astype("float32").astype("float64")

    def zeros_and_ones(p, *shape):
        return (rng.random(shape) < p).astype("float64")

    size = size if "projection" in options else hidden
    heads = 2 if "heads" in options else 1
    made = {
        "heads": heads,
        "projection": normal(size, hidden) / 4,
        "peepholes": normal(3, hidden),
        "coupled": True,
        "hard_sigmoid": True,
        "clip": 0.75,
        "cell_clip": 0.375,
        "cell_activation": "leaky_relu",
        "zoneout_h": zeros_and_ones(0.3, steps, batch, size),
        "zoneout_c": zeros_and_ones(0.3, steps, batch, hidden),
        "recurrent_mask": zeros_and_ones(0.7, batch, size) * 1.5,
        "live": zeros_and_ones(0.7, steps, batch, 1),
        "gain_hh": 1 + normal(4 * hidden) / 4, "gain_c": 1 + normal(hidden) / 4, "shift_c": normal(hidden) / 4,
    }  # fmt: skip
    variant = Variant(**{name: made[name] for name in options if name in made})
    if "relu" in options:
        variant = replace(variant, cell_activation="relu")
    if "zoneout in numbers" in options:
        variant = replace(variant, zoneout_h=0.25, zoneout_c=0.125)
    both = normal(steps, batch, size + hidden)  # rows that are not contiguous, as of one direction of two
    arrays = {
        "z": normal(steps, batch, 4 * hidden),
        "weight_hh": normal(4 * hidden, size // heads) / 4,
        "h0": normal(batch, size), "c0": normal(batch, hidden),
        "dh": both[:, :, :size], "dh_last": normal(batch, size), "dc_last": normal(batch, hidden),
        "dc": both[:, :, size:],
    }  # fmt: skip
    if not lengths:
        return variant, arrays, None
    ends = rng.integers(1, steps + 1, batch)
    return variant, arrays, Mask(ends, np.arange(steps)[:, None, None] < ends[None, :, None])


def run(tier, dtype, variant, arrays, mask, reverse=False, send=("dh", "dh_last", "dc_last", "dc")):
    """All results of forward and backward."""

    def cast(array):
        return array.astype(dtype) if isinstance(array, np.ndarray) else array

    variant = Variant(**{field.name: cast(getattr(variant, field.name)) for field in fields(variant)})
    z, weight_hh, h0, c0 = (cast(arrays[name]) for name in ("z", "weight_hh", "h0", "c0"))
    saved = one_forward(tier, NUMPY, z, weight_hh, h0, c0, mask, reverse, True, variant)
    results = {"h": saved.h.copy(), "c": saved.c.copy()}
    sent = (arrays[name].astype(dtype) if name in send else None for name in ("dh", "dh_last", "dc_last", "dc"))
    results["dz"], results["dh0"], results["dc0"] = one_backward(tier, NUMPY, saved, *sent)
    if saved.dz_hh is not None:
        results["dz_hh"] = saved.dz_hh
    return results | saved.gradients | {"before": saved.before}


def rounding(dtype, sizes, spread=SPREAD):
    """Bound of the relative error: the longest sums have 4H terms, and T B more where a gradient adds up all steps."""
    steps, batch, hidden, _ = sizes
    return spread * np.sqrt(4 * hidden + steps * batch) * np.finfo(dtype).eps / 2


def check(tier, dtype, options, sizes, lengths=False, reverse=False):
    given = problem(options, *sizes, lengths)
    expected, actual = run(reference, "float64", *given, reverse), run(tier, dtype, *given, reverse)
    assert expected.keys() == actual.keys()
    limit = rounding(dtype, sizes, NORM_SPREAD if set(NORM) & set(options) else SPREAD)
    for name, value in expected.items():
        assert relative_error(actual[name], value) < limit, (name, sizes, lengths, reverse)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_each_option_at_odd_shapes(dtype, name):
    for sizes, lengths, reverse in itertools.product(SHAPES, (False, True), (False, True)):
        check(sequence, dtype, SETTINGS[name], sizes, lengths, reverse)


@pytest.mark.parametrize("instruction_set", SETS)
@pytest.mark.parametrize("name", ["sigmoids", "all but layer_norm", "all"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_instruction_set(dtype, name, instruction_set, monkeypatch):
    monkeypatch.setattr(compiled, "instruction_set", lambda: compiled.SETS.index(instruction_set))
    for sizes in SHAPES:
        check(sequence, dtype, SETTINGS[name], sizes, lengths=True)


@pytest.mark.parametrize("name", ["heads", "projection", "layer_norm", "all but layer_norm", "all"])
@pytest.mark.parametrize("batch", [3, 14], ids=["by units", "by batch"])
def test_the_bytes_do_not_depend_on_the_threads(batch, name, monkeypatch):
    monkeypatch.setattr(compiled, "SERIAL_WORK", 1)
    results = []
    for threads in (1, 2, 3):
        monkeypatch.setenv("GPU_LSTM_NUM_THREADS", str(threads))
        results.append(run(sequence, "float32", *problem(SETTINGS[name], 5, batch, 70, 34, lengths=True)))
    for key, array in results[0].items():
        for other in results[1:]:
            assert other[key].tobytes() == array.tobytes(), key


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", SETTINGS)
def test_inference_gives_the_same_bytes(name, reverse):
    variant, arrays, mask = problem(SETTINGS[name], 4, 5, 34, 18, lengths=True)
    kept, not_kept = (
        one_forward(
            sequence,
            NUMPY,
            arrays["z"].copy(),
            arrays["weight_hh"],
            arrays["h0"],
            arrays["c0"],
            mask,
            reverse,
            keep,
            variant,
        )
        for keep in (True, False)
    )
    for one, other in zip((kept.outputs, *kept.last), (not_kept.outputs, *not_kept.last), strict=True):
        assert one.tobytes() == other.tobytes()
    assert not_kept.c.shape[0] == 1


def test_the_sequence_tier_refuses_a_part_of_layer_normalisation():
    variant, arrays, _ = problem(("gain_hh",), 2, 3, 4, 4)
    with pytest.raises(InputError, match="this tier takes no part of layer normalisation; the reference tier does"):
        run(sequence, "float64", variant, arrays, None)


@pytest.mark.parametrize("send", [(), ("dh",), ("dc",), ("dh_last",), ("dc_last",)], ids="+".join)
def test_any_subset_of_gradients(send):
    given = problem(ALL, 4, 5, 34, 18, lengths=True)
    expected, actual = (run(one, "float64", *given, send=send) for one in (reference, sequence))
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-10, atol=1e-13, err_msg=name)


def test_without_options_gradients_may_arrive_at_every_c():
    _, arrays, mask = problem((), 4, 5, 34, 34, lengths=True)
    given = [arrays[name] for name in ("weight_hh", "h0", "c0")]
    results = []
    for one in (reference, sequence):
        saved = one_forward(one, NUMPY, arrays["z"].copy(), *given, mask)
        results.append(one_backward(one, NUMPY, saved, *(arrays[name] for name in ("dh", "dh_last", "dc_last", "dc"))))
    for actual, expected in zip(results[1], results[0], strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-13)
