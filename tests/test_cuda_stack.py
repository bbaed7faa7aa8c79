"""Layers of a stack in one launch, a wavefront of the sequence tier, against the float64 oracle."""

from dataclasses import replace

import numpy as np
import pytest

from gpu_lstm import LSTM, BackendError, InputError, ops
from gpu_lstm.layers import schedule
from gpu_lstm.layers.call import Call
from gpu_lstm.native.launch import Device
from gpu_lstm.recurrence import Arriving, Mask, Problem, reference
from gpu_lstm.recurrence.cuda import planner
from gpu_lstm.recurrence.cuda import sequence as sequence_cuda
from gpu_lstm.recurrence.cuda.layout import DIRECTIONS
from gpu_lstm.recurrence.problem import Joint
from gpu_lstm.recurrence.variant import Variant
from tests.gpu import DTYPES, ORDERS, Gpu, HostBackend, at_full_size, on_host, on_the_machine, room_beside, stored
from tests.support import NUMPY, loss_and_gradients, one_backward, one_forward, relative_error
from tests.support import problem as problem_of
from tests.test_cuda_recurrence import example
from tests.test_cuda_sequence import TOLERANCE, force, put

SMALL = Device(multiprocessors=8, shared_bytes=227 * 1024, capability=80)
"""For two to four layers of a few blocks each."""


@pytest.fixture(autouse=True)
def eight_sequences(monkeypatch):
    """Few of the kernels, whatever the model says."""
    force(monkeypatch, "grid", columns=(1,))


def problem(layers, shape, dtype, lengths=False, dropout=True):
    """Of each layer contract arguments and arriving gradients, joints, and a mask; exact in `dtype`, as float64."""
    steps, batch, hidden = shape
    data = [example(shape, dtype, seed) for seed in range(layers)]
    rng = np.random.default_rng(layers)
    joints = []
    for number in range(1, layers):
        weight = rng.standard_normal((4 * hidden, hidden)) / np.sqrt(hidden)
        bias = None if number == 2 else stored(rng.standard_normal(4 * hidden), dtype).astype(np.float64)
        factors = (rng.random(shape) < 0.6) / 0.5 if dropout and number != 2 else None
        joints.append(Joint(stored(weight, dtype).astype(np.float64), bias, factors))
    counts = rng.integers(1, steps + 1, batch)
    return data, joints, Mask(counts, np.arange(steps)[:, None, None] < counts[:, None]) if lengths else None


def oracle(data, joints, mask):
    """Results of each layer, one after the other in float64."""
    saved, results = [], []
    x = None
    for number, one in enumerate(data):
        z = one["z"].copy()
        if number:
            joint = joints[number - 1]
            x = saved[-1].outputs * (1 if joint.factors is None else joint.factors)
            z = x @ joint.weight_ih.T + (0 if joint.bias is None else joint.bias)
        saved.append(one_forward(reference, NUMPY, z, *(one[name] for name in ("weight_hh", "h0", "c0")), mask))
        results.append({"h": saved[-1].h, "c": saved[-1].last[1], "gates": saved[-1].gates.copy()})
    arriving = data[-1]["dh"]
    for number in reversed(range(len(data))):
        found = one_backward(
            reference, NUMPY, saved[number], arriving, data[number]["dh_last"], data[number]["dc_last"]
        )
        results[number] |= dict(zip(("dz", "dh0", "dc0"), found, strict=True))
        if number:
            joint = joints[number - 1]
            arriving = found[0] @ joint.weight_ih * (1 if joint.factors is None else joint.factors)
    return results


def run(backend, data, joints, mask, dtype, keep=True):
    """The same of the tier, two launches."""
    here = [put(backend, one, dtype) for one in data]
    valid = None if mask is None else np.broadcast_to(mask.valid, (*data[0]["z"].shape[:2], 1))
    mask = mask and Mask(mask.lengths, backend.asarray(mask.valid))
    wide = "float64" if dtype == "float64" else "float32"
    joints = [
        Joint(
            backend.asarray(joint.weight_ih, dtype),
            None if joint.bias is None else backend.asarray(joint.bias, wide),
            None if joint.factors is None else backend.asarray(joint.factors, dtype),
        )
        for joint in joints
    ]
    below = [None, *joints]
    saved = sequence_cuda.forward(
        backend,
        [
            Problem(
                None if number else one["z"], *(one[name] for name in ("weight_hh", "h0", "c0")), mask, keep=keep,
                below=below[number],
            )
            for number, one in enumerate(here)
        ],
    )  # fmt: skip
    results = [{"h": on_host(backend, one.h), "c": on_host(backend, one.last[1])} for one in saved]
    if keep:
        for result, one in zip(results, saved, strict=True):
            result["gates"] = on_host(backend, one.gates)
            if valid is not None:
                result["gates"] = np.where(valid, result["gates"], 0)  # nothing was written there
        problems = [
            Arriving(
                one,
                None if number < len(data) - 1 else there["dh"],
                there["dh_last"],
                there["dc_last"],
                below=below[number],
            )
            for number, (one, there) in enumerate(zip(saved, here, strict=True))
        ]
        for result, found in zip(results, sequence_cuda.backward(backend, problems), strict=True):
            result |= {name: on_host(backend, a) for name, a in zip(("dz", "dh0", "dc0"), found, strict=True)}
    return results


def compare(backend, layers, shape, dtype, **kind):
    """All results against the oracle; returns them."""
    data, joints, mask = problem(layers, shape, dtype, **kind)
    expected, actual = oracle(data, joints, mask), run(backend, data, joints, mask, dtype)
    for number, (one, other) in enumerate(zip(expected, actual, strict=True)):
        for name, array in one.items():
            scale = np.abs(array).max()
            if name == "gates" and mask is not None:
                array = np.where(mask.valid, array, 0)
            if name == "dh0":  # a sum whose terms may cancel
                scale = max(scale, (np.abs(one["dz"]) @ np.abs(data[number]["weight_hh"])).max())
            error = np.abs(other[name] - array).max()
            assert error <= layers * TOLERANCE[planner.multiplied(backend, dtype)] * scale, (number, name)
    return actual


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [*DTYPES, "tf32"])
def test_forward_and_backward_equal_the_oracle(dtype):
    for layers, shape in ((2, (1, 1, 1)), (2, (4, 5, 33)), (3, (5, 3, 8)), (4, (3, 2, 1)), (3, (4, 11, 40))):
        backend = Gpu(limits=SMALL, tf32=dtype == "tf32")
        stored_as = "float32" if dtype == "tf32" else dtype
        compare(backend, layers, shape, stored_as)
        compare(backend, layers, shape, stored_as, lengths=True, dropout=False)
        assert backend.launches == ["sequence_forward", "sequence_backward"] * 2


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_inference_gives_the_same_and_keeps_nothing(dtype):
    parts = problem(3, (4, 3, 12), dtype)
    kept, lean = (run(Gpu(limits=SMALL), *parts, dtype, keep) for keep in (True, False))
    for one, other in zip(kept, lean, strict=True):
        for name in ("h", "c"):
            np.testing.assert_array_equal(other[name], one[name])


@on_the_machine
def test_the_order_of_threads_changes_nothing():
    kind = {"layers": 3, "shape": (3, 9, 20), "dtype": "float32", "lengths": True}
    expected = compare(Gpu(limits=SMALL), **kind)
    for seed in ORDERS:
        actual = compare(Gpu(seed=seed, limits=SMALL), **kind)
        for one, other in zip(expected, actual, strict=True):
            for name in one:
                np.testing.assert_array_equal(other[name], one[name])


@on_the_machine
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_no_races(dtype):
    checked = Gpu(seed=1, memory=True, limits=SMALL)
    compare(checked, 3, (3, 3, 9), dtype, lengths=True)
    compare(checked, 2, (2, 9, 16), dtype)
    run(checked, *problem(2, (2, 3, 9), dtype), dtype, keep=False)


@pytest.mark.gpu
def test_slices_of_several_tiles():
    """Two layers of one block each: 19 sequences in tiles of 8."""
    limits = Device(multiprocessors=2, shared_bytes=227 * 1024, capability=80)
    for direction in DIRECTIONS:
        layout = planner.choose(limits, direction, 19, 9, "float32", 2, "Plain", True)
        assert (layout.teams, layout.members, layout.slice) == (1, 1, 19)
    compare(Gpu(limits=limits), 2, (3, 19, 9), "float32", lengths=True)


MISTAKES = {
    "the layer below is not waited for": (
        "{\n    await_all(values, patience, [",
        "{\n    if (k < pitch / 2) await_all(values, patience, [",
    ),
    "nothing is shown to the layer above": ("publish(here + next, output);", ""),
    "shown to the layer above by a plain store": ("publish(here + next, output);", "here[next] = output;"),
    "shown to the layer above a step late": ("publish(here + next, output);", "publish(here + next + row, output);"),
    "dz is not shown to the layer below": ("publish_gates(here + next, hidden, one);", ""),
    "dz is shown to the layer below a step late": ("here + next, hidden, one", "here + next - row, hidden, one"),
    "sums of both halves are added twice": ("stacked ? layout.split / 2 : layout.split", "layout.split"),
}


@on_the_machine
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_caught(mistake):
    data, joints, mask = problem(2, (3, 1, 12), "float32")
    broken, expected = Gpu(limits=SMALL, memory=True, change=MISTAKES[mistake]), oracle(data, joints, mask)
    for broken.seed in range(24):  # some show under some orders only
        try:
            results = run(broken, data, joints, mask, "float32")
        except RuntimeError:
            return
        for one, other in zip(expected, results, strict=True):
            if not all(np.allclose(one[name], other[name], rtol=0, atol=1e-3) for name in one):
                return
    pytest.fail("nothing came of it")


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda low, up: (replace(low, below=up.below), up),
            "a stack of 2 layers has 2 joints; expected one below each",
        ),
        (
            lambda low, up: (low, up, replace(up, below=None)),
            "a stack of 3 layers has 1 joints; expected one below each",
        ),
        (lambda low, up: (low, *[up] * 4), "a stack of 5 layers has 4 joints; .* at most 4 layers"),
        (lambda low, up: (low, replace(up, reverse=True)), "takes no stack of variants"),
        (lambda low, up: (low, replace(up, variant=Variant())), "takes no stack of variants"),
        (lambda low, up: (low, replace(up, below=Joint(np.zeros((8, 3), np.float32)))), r"expected \(4H=8, H=2\)"),
        (
            lambda low, up: (low, replace(up, below=replace(up.below, bias=np.zeros(8)))),
            "bias has dtype float64; expected float32",
        ),
    ],
)
def test_what_a_stack_cannot_take_is_refused(change, message):
    z, weight = np.zeros((2, 1, 8), np.float32), np.zeros((8, 2), np.float32)
    problems = change(Problem(z, weight), Problem(None, weight, below=Joint(weight)))
    with pytest.raises(InputError, match=message):
        sequence_cuda.forward(HostBackend(limits=SMALL), problems)


def test_a_stack_that_does_not_fit_is_refused():
    z, weight = np.zeros((2, 1, 8), np.float32), np.zeros((8, 2), np.float32)
    problems = [Problem(z, weight), Problem(None, weight, below=Joint(weight))]
    one = Device(multiprocessors=1, shared_bytes=227 * 1024, capability=80)
    with pytest.raises(BackendError, match="H = 2 has more units than 0 of 1 multiprocessors can take"):
        sequence_cuda.forward(HostBackend(limits=one), problems)


# -- the layers -------------------------------------------------------------------------------------------------------

CASES = {
    "two layers": {"num_layers": 2},
    "three layers, dropout": {"num_layers": 3, "dropout": 0.4},
    "five layers, no bias": {"num_layers": 5, "bias": False},
    "learned states, dropped weights": {"num_layers": 2, "learn_state": True, "weight_dropout": 0.3},
}


def layers_on(backend, tier="auto", dtype="float64", **options):
    """Layers of another input than H, on a GPU or as the oracle."""
    return LSTM(3, 5, backend=backend, tier=tier, dtype=dtype, seed=1, **options)


def same_dropout(monkeypatch):
    """The backends draw differently: here all draw as the CPU does."""

    def dropout(self, x, p, seed):
        y, again = ops.of(NUMPY).dropout(self.backend.to_numpy(x), p, seed)
        return self.backend.asarray(y), lambda other: self.backend.asarray(again(self.backend.to_numpy(other)))

    monkeypatch.setattr(ops.Cuda, "dropout", dropout)


@pytest.mark.gpu
@pytest.mark.parametrize("lengths", [None, [3, 6, 1]], ids=["full", "lengths"])
@pytest.mark.parametrize("case", CASES)
def test_the_layers_run_on_it(monkeypatch, case, lengths):
    same_dropout(monkeypatch)
    monkeypatch.setattr(planner, "choose_layers", at_most(4))
    backend = Gpu(limits=SMALL)
    results = []
    for where, tier in ((NUMPY, "reference"), (backend, "auto")):
        lstm = layers_on(where, tier, **CASES[case])
        results.append(loss_and_gradients(lstm, problem_of(lstm, 6, 3), lengths, seed=(7,)))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-12)
    for name, expected in results[0][1].items():
        assert relative_error(results[1][1][name], expected) < 1e-12, name
    launches = [name for name in backend.launches if name.startswith("sequence")]
    stacks = -(-lstm.num_layers // 4)
    assert launches == ["sequence_forward"] * stacks + ["sequence_backward"] * stacks


def at_most(most):
    """So many layers at once, whatever the model says."""

    def choose(device, direction, batch, hidden, dtype, layers):
        return planner.choose(device, direction, batch, hidden, dtype, min(layers, most), "Plain", True)

    return choose


def test_layer_after_layer_where_something_else_passes_between_them(monkeypatch):
    monkeypatch.setattr(planner, "choose_layers", at_most(4))
    for options in ({"residual": True}, {"input_dropout": 0.1}, {"bidirectional": True}):
        backend = HostBackend(limits=SMALL)
        lstm = layers_on(backend, "sequence", num_layers=2, **options)
        lstm.forward(np.zeros((2, 1, 3)), seed=(1,))
        assert backend.launches.count("sequence_forward") == 2


def test_nothing_goes_beside_layers_at_once(monkeypatch):
    backend = HostBackend()
    for most, beside in ((1, True), (2, False)):
        monkeypatch.setattr(planner, "choose_layers", at_most(most) if most > 1 else lambda *problem: "they don't pay")
        lstm = layers_on(backend, "sequence", num_layers=2)
        room_beside(monkeypatch)
        work = lstm._work({}, Call(400, 64, None, None, None, True))
        for direction in DIRECTIONS:
            assert [one.beside for one in schedule.passes(work, direction)] == [beside]


@pytest.mark.gpu
def test_recomputation_gives_the_same_bits_and_the_state_is_carried(monkeypatch):
    monkeypatch.setattr(schedule, "segments", lambda *_, **__: [(0, 2), (2, 5), (5, 6)])
    monkeypatch.setattr(planner, "choose_layers", at_most(2))
    for lengths in (None, [6, 1, 3]):
        results = []
        for recompute in (False, True):
            lstm = layers_on(Gpu(limits=SMALL), num_layers=3, dropout=0.4, recompute=recompute)
            results.append(loss_and_gradients(lstm, problem_of(lstm, 6, 3), lengths, seed=(7,)))
        assert results[0][0] == results[1][0]
        for name, gradient in results[0][1].items():
            assert gradient.tobytes() == results[1][1][name].tobytes(), name


@pytest.mark.gpu
def test_sixteen_bits_end_to_end(monkeypatch):
    monkeypatch.setattr(planner, "choose_layers", at_most(3))
    results = []
    for where, tier, dtype in ((NUMPY, "reference", "float64"), (Gpu(limits=SMALL), "auto", "float16")):
        lstm = layers_on(where, tier, dtype, num_layers=3)
        data = problem_of(lstm, 4, 3)
        here = [where.asarray(data[name], lstm.dtype) for name in ("x", "dy", "h0", "dh")]
        c0, dc = (where.asarray(data[name], lstm.param_dtype) for name in ("c0", "dc"))
        _, _, tape = lstm.forward(here[0], (here[2], c0))
        dx, (dh0, dc0), gradients = lstm.backward(tape, here[1], (here[3], dc))
        found = {"dx": dx, "dh0": dh0, "dc0": dc0, **gradients}
        results.append({name: on_host(where, array) for name, array in found.items()})
    for name, expected in results[0].items():
        assert relative_error(results[1][name], expected) < 3 * TOLERANCE["float16"], name


@at_full_size
@pytest.mark.parametrize("dtype", [*DTYPES, "tf32"])
def test_a_gpu_gives_the_same_bits_every_time(dtype):
    gpu = Gpu(tf32=dtype == "tf32")
    stored_as = "float32" if dtype == "tf32" else dtype
    for layers, shape in ((2, (20, 9, 200)), (3, (7, 3, 130)), (4, (60, 2, 64))):
        first, second = (compare(gpu, layers, shape, stored_as, lengths=True) for _ in range(2))
        for one, other in zip(first, second, strict=True):
            for name, array in one.items():
                np.testing.assert_array_equal(other[name], array)
