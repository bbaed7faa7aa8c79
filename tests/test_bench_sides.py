"""Every side computes the same problem, and one that doesn't is shown as wrong; the operations of a step, watched."""

import json
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from gpu_lstm.bench import memory, peers, sweep, trace
from gpu_lstm.bench.machine import Machine
from gpu_lstm.bench.method import Patience
from gpu_lstm.bench.problem import KINDS, TOLERANCE, Problem, parse_options, to_host
from gpu_lstm.errors import BackendError, InputError
from gpu_lstm.layers import LSTM, schedule
from gpu_lstm.models import LanguageModel
from gpu_lstm.native import compiled
from gpu_lstm.optimizers import Adam
from gpu_lstm.recurrence import reference, runnable_tiers
from tests.gpu import HostBackend, room_beside
from tests.support import NUMPY
from tests.test_bench_method import FakeCuda
from tests.test_beside import by_two

SIZE = (5, 3, 4, 6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tier", runnable_tiers(NUMPY))
def test_our_tiers_are_right_and_return_everything(tier, kind, dtype):
    problem = Problem(SIZE, kind, dtype)
    result = problem.our_step(tier)()
    assert set(result) == set(problem.oracle)
    assert ("dx" in result) == (kind == "training")
    assert problem.error(result) < TOLERANCE[problem.dtype]


LIGHT = {
    "torch": ("torch", "torch-cell", "module", "torch-int8"),
    "onnxruntime": ("onnxruntime", "onnxruntime-int8"),
    "": ("int8", "bfloat16"),
}
"""Peers that a test run can afford; the others need seconds to compile and run where they are asked for (below)."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for names in LIGHT.values() for name in names])
def test_peers_agree_with_the_oracle(name, kind):
    agree(name, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["jax", "keras"])
def test_peers_with_compilers_agree_with_the_oracle(name, kind):
    """In a process of its own, since XLA's threads would stay for the rest of the test run."""
    side = next(peer for peer in peers.PEERS if peer.name == name)
    for package in side.packages:
        if not peers.installed(package):
            pytest.skip(f"{package} is not installed")
    program = (
        "from gpu_lstm.bench.problem import Problem; from gpu_lstm.bench import peers\n"
        f"p = Problem({SIZE}, {kind!r}); r = peers.choose([{name!r}])[0].make(p)()\n"
        "assert p.error(r) < 1e-4, p.error(r)"
    )
    result = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def agree(name, kind):
    side = next(peer for peer in peers.PEERS if peer.name == name)
    problem = Problem(SIZE, kind)
    if not side.fits(problem):
        pytest.skip(f"{name} has no {kind}")
    for package in side.packages:
        pytest.importorskip(package)
    result = side.make(problem)()
    assert set(result) == set(problem.oracle)
    assert problem.error(result) < max(TOLERANCE[problem.dtype], side.tolerance)
    assert (problem.error(result) > 1e-4) == bool(side.tolerance), "rounded, where it says so"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize(
    "words", [["num_layers=3"], ["bidirectional"], ["num_layers=2", "bidirectional", "proj_size=2"]]
)
@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
def test_pytorch_computes_the_same_of_layers_directions_and_unequal_lengths(words, ragged, kind):
    pytest.importorskip("torch")
    problem = Problem((9, 4, 3, 5), kind, options=parse_options(words), ragged=ragged)
    (side,) = peers.choose(["torch"])
    assert side.fits(problem)
    assert problem.error(side.make(problem)()) < 1e-5
    assert problem.error(problem.our_step()()) < 1e-5


def test_lengths_are_unequal_and_the_longest_is_all_steps():
    lengths = Problem((64, 30, 2, 2), ragged=True).lengths
    assert lengths.max() == 64
    assert lengths.min() >= 16
    assert len(set(lengths)) > 10
    assert Problem(SIZE).lengths is None


def test_who_lacks_an_option_stands_aside():
    holes, ragged = Problem(SIZE, options={"peepholes": True}), Problem(SIZE, ragged=True)
    for name, does in (("torch", [ragged]), ("jax", []), ("module", [])):
        (side,) = (peer for peer in peers.PEERS if peer.name == name)
        assert [problem for problem in (holes, ragged) if side.fits(problem)] == does
        assert side.fits(Problem(SIZE))
    assert all(side.fits(problem) for side in peers.our_sides(NUMPY) for problem in (holes, ragged))


@pytest.mark.parametrize(
    "words", [["peepholes", "zoneout_h=0.2"], ["cells"], ["recompute"], ["layer_norm", "num_layers=2"]]
)
def test_options_have_an_oracle_of_their_own(words):
    results, steps = sweep.check(Problem(SIZE), [peers.our_variant(words)])
    assert list(steps) == [" ".join(words)]
    assert results[" ".join(words)]["error"] < TOLERANCE["float32"]


def test_what_is_rounded_may_differ_as_much_as_16_bits():
    def make(problem):
        step = problem.our_step()
        return lambda: {name: array * 1.005 for name, array in step().items()}

    for tolerance in (0.0, TOLERANCE["float16"]):
        _, steps = sweep.check(Problem(SIZE), [peers.Side("near", "", make, tolerance=tolerance)])
        assert bool(steps) == bool(tolerance)


def test_inputs_and_weights_are_drawn_anew():
    first, second = Problem(SIZE), Problem(SIZE)
    assert not np.array_equal(first.x, second.x)
    assert not np.array_equal(first.weights["weight_hh_l0"], second.weights["weight_hh_l0"])


def spoiled(how):
    def make(problem):
        step = problem.our_step("reference")

        def run():
            result = {name: np.array(array) for name, array in step().items()}
            how(result)
            return result

        return run

    return peers.Side("spoiled", "", make)


@pytest.mark.parametrize(
    "how",
    [
        lambda r: r["dx"].__imul__(1.001),
        lambda r: r["bias_l0"].__imul__(0),
        lambda r: r["y"].__setitem__((0, 0, 0), np.nan),
        lambda r: r.pop("weight_hh_l0"),
        lambda r: r.update(dx=r["dx"][:1]),
    ],
    ids=["dx", "zeros", "nan", "missing", "shape"],
)
def test_a_side_that_disagrees_is_wrong_and_not_timed(how):
    results, steps = sweep.check(Problem(SIZE), [*peers.our_sides(NUMPY, ["reference"]), spoiled(how)])
    assert list(steps) == ["reference"]
    assert results["spoiled"]["wrong"]
    assert results["spoiled"]["remark"].startswith("wrong: differs by ")
    json.dumps(results, allow_nan=False)


def test_a_side_that_raises_says_why_and_the_others_go_on():
    def make(problem):
        raise ValueError("no such thing\nsecond line")

    results, steps = sweep.check(
        Problem(SIZE), [peers.Side("broken", "", make), *peers.our_sides(NUMPY, ["reference"])]
    )
    assert results["broken"] == {"error": None, "remark": "failed: ValueError: no such thing"}
    assert list(steps) == ["reference"]


def test_peers_by_name(monkeypatch):
    with pytest.raises(InputError, match=r"peer is 'tensorflow'; expected none, or some of torch, "):
        peers.choose(["tensorflow"])
    monkeypatch.setattr(peers, "installed", lambda package: None)
    assert [side.name for side in peers.choose(None)] == ["int8", "bfloat16"], "ours"
    with pytest.raises(
        BackendError, match="peer onnxruntime is not installed; `pip install onnx onnxruntime` brings it"
    ):
        peers.choose(["onnxruntime"])


def test_onnx_runtime_has_no_training_and_no_float64():
    side = next(peer for peer in peers.PEERS if peer.name == "onnxruntime")
    assert side.fits(Problem(SIZE, "inference"))
    assert not side.fits(Problem(SIZE, "training"))
    assert not side.fits(Problem(SIZE, "inference", "float64"))


def test_results_of_other_libraries_become_host_arrays():
    array = np.ones(3)
    on_gpu = SimpleNamespace(get=lambda: array)
    of_torch = SimpleNamespace(detach=lambda: SimpleNamespace(cpu=lambda: array))
    assert to_host(on_gpu) is array
    assert to_host(of_torch) is array


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_machines_limits_are_measured(monkeypatch, dtype):
    from gpu_lstm.bench import machine

    monkeypatch.setattr(machine, "SIDE", 64)
    monkeypatch.setattr(machine, "COPIED", 1 << 16)
    found = Machine(NUMPY, dtype)
    found.measure(Patience(0, 0), rounds=2)
    found.measure(Patience(0, 0), rounds=1)
    ceilings = found.ceilings()
    assert ceilings.flops > 0 < ceilings.memory
    assert ceilings.cache > 0 <= ceilings.cache_bytes
    product = f"product {found.product_by}"
    assert len(found.seconds[product]) == 3
    assert len(found.seconds["copy"]) == 2
    json.dumps(found.describe(), allow_nan=False)


# -- watching a step ---------------------------------------------------------------------------------------------------


def model_and_tokens(tier):
    model = LanguageModel(11, 5, 8, num_layers=2, dropout=0.3, backend=NUMPY, tier=tier)
    tokens = np.random.default_rng(0).integers(0, 11, (7, 3))
    return model, tokens


@pytest.mark.parametrize("tier", runnable_tiers(NUMPY))
def test_a_watched_step_computes_the_same_and_leaves_nothing_behind(tier):
    model, tokens = model_and_tokens(tier)
    expected = model.loss(tokens, seed=(1,))
    functions = (compiled.call, reference.cell_forward, reference.cell_backward)
    before = {name: dict(vars(layer)) for name, layer in model.layers.items()}
    optimizer = Adam(NUMPY, model.params)
    with trace.tracing({**model.layers, "dropout": model.dropout}, optimizer) as tracer, tracer.span("step"):
        loss, _, gradients = model.loss(tokens, seed=(1,))
        optimizer.update(gradients, max_norm=1.0)
    assert loss == expected[0]
    assert all(np.array_equal(gradients[name], expected[2][name]) for name in gradients)
    assert functions == (compiled.call, reference.cell_forward, reference.cell_backward)
    assert before == {name: dict(vars(layer)) for name, layer in model.layers.items()}
    assert not {"matmul", "product"} & set(vars(NUMPY))
    assert "update" not in vars(optimizer)


@pytest.mark.parametrize("tier", runnable_tiers(NUMPY))
def test_every_operation_of_a_step_is_seen_under_what_it_is_part_of(tier):
    model, tokens = model_and_tokens(tier)
    optimizer = Adam(NUMPY, model.params)
    with trace.tracing({**model.layers, "dropout": model.dropout}, optimizer) as tracer, tracer.span("step"):
        _, _, gradients = model.loss(tokens, seed=(1,))
        optimizer.update(gradients, max_norm=1.0)
    calls = {row.path: row.calls for row in trace.table(tracer.spans)}
    assert calls["step", "lstm forward"] == calls["step", "lstm backward"] == 1
    assert calls["step", "lstm forward", "input projection"] == 2
    assert calls["step", "lstm forward", "recurrence forward"] == 2
    assert calls["step", "lstm backward", "recurrence backward"] == 2
    assert calls["step", "lstm backward", "input gradient"] == 2
    assert calls["step", "lstm backward", "weight gradients"] == 2
    for name in ("embedding forward", "embedding backward", "head forward", "head backward", "loss", "optimizer"):
        assert calls["step", name] == 1
    assert calls["step", "dropout forward"] == calls["step", "optimizer", "norm"] == 1
    if tier == "reference":
        assert calls["step", "lstm forward", "recurrence forward", "cell forward"] == 2 * 6
    if tier == "sequence":
        assert calls["step", "lstm forward", "recurrence forward", "kernel forward"] == 2


SETTINGS = {
    "one layer": {},
    "stack": {"num_layers": 3, "dropout": 0.3},
    "both directions": {"num_layers": 2, "bidirectional": True},
    "recompute": {"num_layers": 2, "recompute": True},
    "both, recompute": {"bidirectional": True, "recompute": True},
    "16 bits": {"bidirectional": True, "dtype": "float16"},
    "family": {"bidirectional": True, "peepholes": True, "proj_size": 3},
}


class Launches(HostBackend):
    """Every launch and every job beside one by name; nothing is computed."""

    def beside(self, work, jobs):
        self.launches.append(f"{len(jobs)} beside")
        return super().beside(work, jobs)


def asked_of(lstm, names, watched):
    """What a step asks of compiled code, in order, with or without being watched; and the spans."""
    names.clear()
    x = np.zeros((6, 3, 4), lstm.dtype)
    with trace.tracing({"lstm": lstm}) if watched else nullcontext() as tracer, np.errstate(all="ignore"):
        y, _, tape = lstm.forward(x, seed=(1,))
        lstm.backward(tape, np.ones_like(y))
    return list(names), tracer and [span.name for span in tracer.spans]


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("tier", runnable_tiers(NUMPY))
def test_what_is_watched_makes_the_calls_that_train(monkeypatch, tier, setting):
    names = []
    for module, name in ((compiled, "call"), (reference, "cell_forward"), (reference, "cell_backward")):
        real = getattr(module, name)

        def noted(*arguments, real=real, name=name, **named):
            names.append(arguments[0] if name == "call" else name)
            return real(*arguments, **named)

        monkeypatch.setattr(module, name, noted)
    monkeypatch.setattr(schedule, "segments", by_two)
    lstm = LSTM(4, 8, backend=NUMPY, tier=tier, **SETTINGS[setting])
    expected, _ = asked_of(lstm, names, watched=False)
    assert expected or tier == "reference"
    found, spans = asked_of(lstm, names, watched=True)
    assert found == expected
    # What is computed again is projected again, and the gradient of each layer's input is found once a segment.
    assert spans.count("input gradient") == 3 * lstm.num_layers * lstm.num_directions
    assert spans.count("input projection") == spans.count("input gradient") * (2 if lstm.recompute else 1)


@pytest.mark.parametrize("setting", SETTINGS)
def test_what_is_watched_makes_the_launches_that_train(monkeypatch, setting):
    monkeypatch.setattr(schedule, "segments", by_two)
    room_beside(monkeypatch)
    backend = Launches()
    lstm = LSTM(4, 64, backend=backend, **SETTINGS[setting])
    expected, _ = asked_of(lstm, backend.launches, watched=False)
    found, spans = asked_of(lstm, backend.launches, watched=True)
    assert found == expected
    if setting == "stack":
        assert found.count("sequence_forward") == 3  # a launch a segment for all layers
    if setting == "both directions":
        assert "2 beside" in found
    assert {"recurrence forward", "recurrence backward"} <= set(spans)


def test_own_time_is_what_inner_spans_leave():
    step = trace.Span("step", 0.0, 10.0)
    first, second = trace.Span("a", 1.0, 4.0, step), trace.Span("a", 5.0, 6.0, step)
    inner = trace.Span("b", 2.0, 3.0, first)
    rows = {row.path: row for row in trace.table([step, first, inner, second])}
    assert (rows["step",].seconds, rows["step",].own) == (10.0, 6.0)
    assert (rows["step", "a"].calls, rows["step", "a"].seconds, rows["step", "a"].own) == (2, 4.0, 3.0)
    assert list(rows) == [("step",), ("step", "a"), ("step", "a", "b")]


def test_phases_and_other_add_up_to_the_step():
    step = trace.Span("step", 0.0, 10.0)
    spans = [step, trace.Span("input projection", 0.0, 3.0, step), trace.Span("optimizer", 4.0, 5.0, step)]
    phases = trace.by_phase(spans, "step")
    assert phases["input projection"] == 3.0
    assert phases["other"] == 6.0
    assert sum(phases.values()) == 10.0


def test_phases_of_a_measured_point():
    phases = sweep.phases(Problem(SIZE), "reference", 2)
    assert list(phases) == [*trace.PHASES, "other"]
    assert all(seconds >= 0 for seconds in phases.values())
    assert phases["recurrence forward"] > 0 < phases["optimizer"]


def test_chrome_trace_holds_nested_complete_events():
    step = trace.Span("step", 0.0, 1e-3)
    inner = trace.Span("loss", 2e-4, 3e-4, step)
    content = json.loads(json.dumps(trace.chrome([step, inner], {"clock": "wall"})))
    events = [event for event in content["traceEvents"] if event["ph"] == "X"]
    assert [event["name"] for event in events] == ["step", "loss"]
    assert events[0]["ts"] == 0
    assert events[0]["dur"] == pytest.approx(1000)
    assert events[1]["ts"] == pytest.approx(200)
    assert content["otherData"]["clock"] == "wall"


def test_on_a_gpu_spans_are_events_and_nvtx_ranges():
    cuda = FakeCuda()
    tracer = trace.Tracer(SimpleNamespace(describe=lambda: {"cuda": "12"}, xp=SimpleNamespace(cuda=cuda)))
    with tracer.span("step"), tracer.span("loss"):
        pass
    tracer.finish()
    assert cuda.calls == ["record", "push step", "record", "push loss", "pop", "record", "pop", "record", "synchronize"]
    step, loss = tracer.spans
    assert (step.begin, loss.begin, loss.end, step.end) == (0.0, 5e-3, 10e-3, 15e-3)
    assert loss.path == ("step", "loss")


def test_peak_memory_of_a_gpu_side_is_what_its_allocator_says():
    sizes = iter([100, 700])
    pool = SimpleNamespace(free_all_blocks=lambda: None, total_bytes=lambda: next(sizes))
    gpu = SimpleNamespace(xp=SimpleNamespace(get_default_memory_pool=lambda: pool), read=lambda: None)
    assert memory._gpu_growth("reference", lambda: None, gpu) == 600
