"""The LSTM family in the pointwise tier's CUDA kernels, against the float64 oracle."""

import math

import numpy as np
import pytest

from gpu_lstm import InputError
from gpu_lstm.native import kernels
from gpu_lstm.recurrence import Arriving, Mask, Problem, family, make_plan
from gpu_lstm.recurrence.cuda import auto
from gpu_lstm.recurrence.cuda import pointwise as pointwise_cuda
from gpu_lstm.recurrence.cuda import sequence as sequence_cuda
from gpu_lstm.recurrence.variant import OPTIONS, Variant
from tests.conftest import gpu_or_reason
from tests.gpu import DTYPES, ORDERS, Gpu, HostBackend, at_full_size, on_host, on_the_machine, stored
from tests.support import NUMPY, one_backward, one_forward, relative_error
from tests.test_cuda_recurrence import CountingNamespace
from tests.test_family import BATCH, ON, STEPS, data_for, made
from tests.test_family import run as run_layer

# Stored numbers are rounded: to 11 bits in float16, to 8 in bfloat16; a few steps of them add up.
TOLERANCE = {"float64": 1e-13, "float32": 1e-5, "float16": 1e-2, "bfloat16": 8e-2}
LIMITS = {"clip", "cell_clip", "hard_sigmoid"}
KINKS = LIMITS | {"cell_activation"}
"""Where rounding decides on which side of a limit, or of 0, a number lies, the gradient is another: not compared in 16
bit."""
MIXTURES = {
    "all": OPTIONS,
    "all but layer_norm": OPTIONS - {"layer_norm", "cell_activation"},
    "all in one kernel": OPTIONS - {"layer_norm", "proj_size"},
    "normed heads": frozenset({"layer_norm", "heads", "peepholes", "zoneout_c", "zoneout_h"}),
    "rates": frozenset({"zoneout_h", "zoneout_c", "proj_size", "rates"}),
}
HEADS = 2
WIDE = (".peepholes", ".gain_hh", ".gain_c", ".shift_c", "dc")
"""What stays in float32 where the rest has 16 bits."""


def example(names, shape, dtype, seed=0):
    """Arguments of the contract, those of the variant with a dot, and arriving gradients; exact in `dtype`."""
    steps, batch, hidden = shape
    rng = np.random.default_rng(seed)
    size = 2 * (hidden // 4) if "proj_size" in names else hidden
    heads = HEADS if "heads" in names else 1
    h, c = (batch, size), (batch, hidden)
    shapes = {"z": (steps, batch, 4 * hidden), "weight_hh": (4 * hidden, size // heads), "h0": h, "c0": c}
    shapes |= {"dh_last": h, "dc_last": c, "dh": (steps, *h)}
    if "cells" in names:
        shapes["dc"] = (steps, *c)
    if "proj_size" in names:
        shapes[".projection"] = (size, hidden)
    if "peepholes" in names:
        shapes[".peepholes"] = (3, hidden)
    if "layer_norm" in names:
        shapes |= {".gain_hh": (4 * hidden,), ".gain_c": (hidden,), ".shift_c": (hidden,)}
    data = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    data["weight_hh"] /= np.sqrt(size)
    if "zoneout_h" in names and "rates" not in names:
        data[".zoneout_h"] = (rng.random((steps, *h)) < 0.3) * 1.0
    if "zoneout_c" in names and "rates" not in names:
        data[".zoneout_c"] = (rng.random((steps, *c)) < 0.4) * 1.0
    if "recurrent_dropout" in names:
        data[".recurrent_mask"] = (rng.random(h) < 0.6) / 0.6
    if "resets" in names:
        data[".live"] = (rng.random((steps, batch, 1)) < 0.7) * 1.0
    numbers = {"coupled": "coupled" in names, "hard_sigmoid": "hard_sigmoid" in names}
    numbers |= {name: value for name, value in (("clip", 0.9), ("cell_clip", 0.6)) if name in names}
    if "cell_activation" in names:
        numbers["cell_activation"] = "leaky_relu"
    if "rates" in names:
        numbers |= {"zoneout_h": 0.3, "zoneout_c": 0.4}
    return {name: stored(array, dtype).astype(np.float64) for name, array in data.items()}, {"heads": heads} | numbers


def run(tier, backend, data, numbers, dtype, lengths=None, reverse=False, keep=True):
    """All results of the contract, as float64."""
    kinds = dict.fromkeys(WIDE, kernels.ARITHMETIC[dtype])
    here = {name: backend.asarray(stored(array, kinds.get(name, dtype))) for name, array in data.items()}
    variant = Variant(**numbers, **{name[1:]: array for name, array in here.items() if name[0] == "."})
    mask = None
    if lengths is not None:
        steps = data["z"].shape[0]
        valid = np.arange(steps)[:, None, None] < np.array(lengths)[None, :, None]
        mask = Mask(np.array(lengths), backend.asarray(valid))
    start = here["z"], here["weight_hh"], here["h0"], here["c0"], mask, reverse
    if tier is family:
        saved = family.forward(backend, Problem(*start, True, variant))
    else:  # the plain LSTM may have gradients of c at every step, too
        saved = one_forward(tier, backend, *start, keep, variant if variant.options() else None)
    results = {"h": saved.h, "c": saved.last[1]}
    if keep:
        arriving = saved, here["dh"], here["dh_last"], here["dc_last"], here.get("dc")
        if tier is family:
            gradients = family.backward(backend, Arriving(*arriving))
        else:
            gradients = one_backward(tier, backend, *arriving)
        results |= gradients._asdict()
        results |= saved.gradients | ({} if saved.dz_hh is None else {"dz_hh": saved.dz_hh})
    return {name: on_host(backend, array) for name, array in results.items()}


def compare(backend, names, shape, dtype, lengths=None, reverse=False, seed=0, tier=pointwise_cuda):
    data, numbers = example(names, shape, dtype, seed)
    expected = run(family, NUMPY, data, numbers, "float64", lengths, reverse)
    actual = run(tier, backend, data, numbers, dtype, lengths, reverse)
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert relative_error(actual[name], array) < TOLERANCE[dtype], name
    return actual


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_each_option_equals_the_oracle(cuda, name, dtype):
    compare(cuda, {name}, (4, 3, 8), dtype)
    compare(cuda, {name}, (4, 5, 6), dtype, lengths=[4, 1, 3, 2, 2], reverse=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MIXTURES)
def test_mixtures_of_options_equal_the_oracle(cuda, name, dtype):
    names = MIXTURES[name] - (KINKS if "16" in dtype else set())
    compare(cuda, names, (3, 3, 32), dtype)
    compare(cuda, names, (4, 5, 6), dtype, lengths=[4, 1, 3, 2, 2], reverse=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_longer_than_a_block_are_normalised(cuda, dtype):
    compare(cuda, {"layer_norm", "heads"}, (2, 2, 300), dtype)


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if "16" in dtype])
def test_activations_at_their_limits_pass_no_gradient_in_16_bit_either(cuda, dtype):
    """One step, whose units that rounding may have put on the other side of a limit are left out: one in ten or so."""
    names, shape = LIMITS | {"peepholes", "coupled"}, (1, 8, 64)
    data, numbers = example(names, shape, dtype)
    variant = Variant(**numbers, peepholes=data[".peepholes"])
    start = data["z"].copy(), data["weight_hh"], data["h0"], data["c0"]
    saved = family.forward(NUMPY, Problem(*start, variant=variant))
    gates, c = saved.gates[0].reshape(8, 4, 64), saved.c[1]
    limits = [family.bounds(variant)] * 4
    limits[2] = -math.tanh(variant.clip), math.tanh(variant.clip)
    clear = np.ones((8, 64), bool)
    for values, ends in ((gates[:, k], limits[k]) for k in range(4)):
        clear &= np.logical_and.reduce([(values == end) | (abs(values - end) > 0.02) for end in ends])
    clear &= (abs(c) == variant.cell_clip) | (abs(abs(c) - variant.cell_clip) > 0.01)
    assert 0.7 < clear.mean() < 1
    expected = run(family, NUMPY, data, numbers, "float64")["dz"].reshape(8, 4, 64)
    actual = run(pointwise_cuda, cuda, data, numbers, dtype)["dz"].reshape(8, 4, 64)
    for k in range(4):
        assert np.mean(expected[:, k][clear] == 0) > 0.1
        assert relative_error(actual[:, k][clear], expected[:, k][clear]) < TOLERANCE[dtype]


@on_the_machine
@pytest.mark.parametrize("name", ["all", "all in one kernel"])
def test_the_order_of_threads_changes_nothing(name):
    how = {"dtype": "float32", "lengths": [3, 1, 2]}
    expected = compare(Gpu(), MIXTURES[name], (3, 3, 40), **how)
    for seed in ORDERS:
        actual = compare(Gpu(seed=seed), MIXTURES[name], (3, 3, 40), **how)
        for key in expected:
            np.testing.assert_array_equal(actual[key], expected[key])


@at_full_size
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MIXTURES)
def test_a_gpu_gives_the_same_bits_every_time(name, dtype):
    data, numbers = example(MIXTURES[name] - KINKS, (20, 64, 512), dtype)
    device = gpu_or_reason()
    first, second = (run(pointwise_cuda, device, data, numbers, dtype) for _ in range(2))
    expected = run(family, NUMPY, data, numbers, "float64")
    for key, array in first.items():
        np.testing.assert_array_equal(second[key], array)
        assert relative_error(array, expected[key]) < 20 * TOLERANCE[dtype], key


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_inference_gives_the_same_and_keeps_nothing(cuda, name, dtype):
    data, numbers = example(MIXTURES[name], (4, 3, 8), dtype)
    kept, lean = (run(pointwise_cuda, cuda, data, numbers, dtype, [4, 2, 1], keep=keep) for keep in (True, False))
    for key in lean:
        np.testing.assert_array_equal(lean[key], kept[key])


LAUNCHES = {
    "peepholes": (["matmul", "cells"], ["cells", "matmul"]),
    "layer_norm": (["matmul", "cells"], ["cells", "matmul"]),
    "heads": (["matmul", "cells"], ["cells", "matmul"]),
    "proj_size": (["matmul", "cells", "matmul"], ["begin_dh", "matmul", "cells", "matmul"]),
    "all": (["matmul", "cells", "matmul", "finish_h"], ["begin_dh", "matmul", "cells", "matmul"]),
    "all in one kernel": (["matmul", "cells"], ["cells", "matmul"]),
}


@pytest.mark.parametrize("name", LAUNCHES)
def test_a_step_is_a_few_launches_and_allocates_nothing(name):
    counts = []
    for steps in (3, 8):
        backend = HostBackend()
        backend.xp = CountingNamespace()
        data, numbers = example(MIXTURES.get(name, {name}), (steps, 2, 8), "float32")
        run(pointwise_cuda, backend, data, numbers, "float32", [2, 1] if "all" in name else None)
        launches = [launch.removeprefix("family_").removesuffix("_forward") for launch in backend.launches]
        launches = [launch.removesuffix("_backward") for launch in launches]
        forward, backward = LAUNCHES[name]
        after = ["matmul"] * (name in ("proj_size", "all"))  # the gradient of the projection, over all steps
        assert launches == forward * steps + backward * steps + after
        counts.append(backend.xp.calls)
    assert counts[0] == counts[1]


def layer_gives_what_reference_gives(backend, tier, options):
    """Loss and all gradients, with lengths and dropout, and in evaluation with resets."""
    resets = np.zeros((STEPS, BATCH), bool)
    resets[[0, 2], [0, 1]] = True
    for how in ({"lengths": [2, 4, 1]}, {"seed": None, "resets": resets}):
        lstms = [made(options, tier=each, backend=backend) for each in ("reference", tier)]
        (loss, gradients), (other_loss, other) = (run_layer(lstm, data_for(lstm), **how) for lstm in lstms)
        assert other_loss == pytest.approx(loss, rel=1e-11)
        others = other()
        for key, value in gradients().items():
            np.testing.assert_allclose(
                others[key], value, rtol=0, atol=1e-11 * max(np.abs(value).max(), 1e-2), err_msg=key
            )


@pytest.mark.parametrize("name", [*(name for name in ON if name in OPTIONS), "all"])
def test_the_layer_runs_on_it(cuda, name):
    layer_gives_what_reference_gives(cuda, "pointwise", ON if name == "all" else {name: ON[name]})


# -- the plan ---------------------------------------------------------------------------------------------------------


def test_auto_takes_this_tier_for_what_the_sequence_tier_does_not_take():
    untaken = OPTIONS - sequence_cuda.TAKES
    assert untaken
    for name in sorted(untaken):
        plan = make_plan(HostBackend(), "auto", 64, options=frozenset({name}))
        assert plan.run is pointwise_cuda.TIER
        assert f"sequence: can't run: it does not take {name}" in plan.why()
        assert "pointwise: chosen, the fastest that runs here (fused CUDA kernels, cuBLAS at each step)" in plan.why()
    taken = make_plan(HostBackend(), "auto", 64, options=sequence_cuda.TAKES)
    assert taken.takes == OPTIONS
    assert "sequence: chosen" in taken.why()
    assert "forward, with options: " in taken.why()
    assert "backward, with options: " in taken.why()


@pytest.mark.parametrize("name", sorted(OPTIONS - sequence_cuda.TAKES))
def test_the_fastest_sends_what_the_sequence_tier_does_not_take_to_this_tier(cuda, name):
    compare(cuda, {name, "resets"}, (3, 2, 8), "float32", tier=auto)
    assert {"family_cells_forward", "family_cells_backward"} <= set(cuda.launches)
    assert not {"sequence_forward", "sequence_backward"} & set(cuda.launches)


def test_a_variant_knows_its_options():
    for name in OPTIONS - {"cells"}:
        data, numbers = example({name}, (1, 1, 4), "float64")
        variant = Variant(**numbers, **{key[1:]: array for key, array in data.items() if key[0] == "."})
        assert variant.options() == {name}
    assert Variant().options() == frozenset()
    assert Variant(zoneout_h=0.1, zoneout_c=0.2).options() == {"zoneout_h", "zoneout_c"}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"peepholes": np.zeros((3, 3), np.float32)}, r"peepholes has shape \(3, 3\); expected \(3, H=2\)"),
        ({"live": np.zeros((2, 3, 1))}, "live has dtype float64; expected float32"),
        ({"zoneout_c": np.zeros((2, 3, 4), np.float32)[..., ::2]}, "zoneout_c is not C-contiguous"),
        ({"projection": np.zeros((1, 2), np.float32)}, r"weight_hh has shape \(8, 2\); expected \(4H=8, P/heads=1\)"),
        ({"gain_hh": np.zeros(8, np.float32)}, "gain_hh, gain_c and shift_c go together"),
    ],
)
def test_what_the_kernels_cannot_take_is_refused(change, message):
    z, weight_hh = np.zeros((2, 3, 8), np.float32), np.zeros((8, 2), np.float32)
    with pytest.raises(InputError, match=message):
        one_forward(pointwise_cuda, HostBackend(), z, weight_hh, None, None, variant=Variant(**change))
