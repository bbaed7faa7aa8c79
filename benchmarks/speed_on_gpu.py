"""Speed on a GPU: layers against torch.nn.LSTM, tiers, graphs and products beside a recurrence, options, whole models.

Parts of `benchmarks.run_on_gpu`. A point is one of `gpu-lstm bench`'s problems: every side is compared with the float64
oracle, then all take turns. In 16 bits ours keeps its weights in float32 and rounds them at each step, PyTorch's holds
them in 16 bits; cuDNN has no LSTM in bfloat16, so ours is compared with the better of PyTorch's float16 and bfloat16.
Beside each time stand the layout, and the step that the model expects beside the one that was measured.
"""

from __future__ import annotations

import contextlib
import copy
import os
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from benchmarks import model
from benchmarks.on_gpu import Log, Record, torch_here
from benchmarks.record import OPTIONS
from gpu_lstm.backend import Array, CupyBackend
from gpu_lstm.bench import peers, sweep
from gpu_lstm.bench.grid import STANDARD, Size
from gpu_lstm.bench.peers import Side
from gpu_lstm.bench.problem import KINDS, TOLERANCE, Problem, Step, parse_options
from gpu_lstm.layers import LSTM, overtime, settle, strand
from gpu_lstm.models import LanguageModel
from gpu_lstm.native import kernels
from gpu_lstm.recurrence import runnable_tiers
from gpu_lstm.recurrence.cuda import costs, explain, planner, sequence
from gpu_lstm.recurrence.cuda.layout import DIRECTIONS
from gpu_lstm.recurrence.problem import Arriving
from gpu_lstm.recurrence.problem import Problem as Recurrence
from gpu_lstm.recurrence.tier import Fit
from gpu_lstm.training import Event, Settings, Training
from gpu_lstm.training.tasks import TextTask

TORCH = ("torch", "torch-other-16")


@dataclass(frozen=True)
class Case:
    """A point: T, B, D, H, dtype, words of options, and whether sequences have unequal lengths."""

    size: Size
    dtype: str = "float32"
    options: str = ""
    ragged: bool = False

    def problem(self, backend: Any, kind: str = "training") -> Problem:
        """The problem that sides get."""
        return Problem(self.size, kind, self.dtype, backend, parse_options(self.options.split()), self.ragged)

    def layouts(self, backend: Any) -> Record:
        """What the sequence tier does with one layer of it."""
        found, (_, batch, _, hidden) = {}, self.size
        for direction in DIRECTIONS:
            layout = planner.choose(backend.limits, direction, batch, hidden, self.dtype)
            pays = planner.pays(backend.limits, direction, batch, hidden, self.dtype)
            found[direction] = (
                layout if isinstance(layout, str) else ("" if pays else "not taken: ") + explain.words(layout)
            )
        return found

    def __str__(self) -> str:
        sizes = " ".join(f"{axis}={number}" for axis, number in zip("TBDH", self.size, strict=True))
        return f"{sizes} {self.dtype}" + f", {self.options}" * bool(self.options) + ", unequal lengths" * self.ragged


PUBLISHED = Case((1024, 16, 768, 768), "float16")
HEADLINE = [
    PUBLISHED,
    replace(PUBLISHED, dtype="bfloat16"),
    Case((256, 64, 512, 512), "float16"),
    Case((256, 64, 512, 512)),
    Case((256, 16, 1024, 1024), "float16"),
    Case((64, 16, 256, 256), "float16"),
]
DTYPES = ("float16", "bfloat16", "float32")
AXES: tuple[tuple[Any, ...], ...] = ((256, 64, 1024), (64, 16, 256, 1), (512, 768, 256, 1024, 128, 2048), DTYPES)
"""T, B, H and dtypes of the grid, on each axis the most telling first."""


def grid() -> list[Case]:
    """The published point, the whole grid from its middle outward, and the sizes of the CPU benchmark."""
    points = sorted(product(*map(enumerate, AXES)), key=lambda point: sum(place for place, _ in point))
    cases = [Case((t, b, h, h), dtype) for (_, t), (_, b), (_, h), (_, dtype) in points]
    return list(dict.fromkeys([PUBLISHED, *cases, *map(Case, STANDARD)]))


def shapes() -> list[Case]:
    """Three layers, batches of unequal lengths, two directions, and all of it: what cuDNN has no persistent kernel for.

    The first of them come once in each dtype, then larger and smaller ones.
    """
    more = [("num_layers=3", False), ("", True), ("bidirectional", False), ("num_layers=3 bidirectional", True)]
    sizes = [(256, 64, 512), (256, 16, 1024), (64, 256, 256), (1024, 16, 768), (256, 1, 512)]
    return [Case((t, b, h, h), dtype, *kind) for (t, b, h), dtype, kind in product(sizes, DTYPES, more)]


# -- sides ------------------------------------------------------------------------------------------------------------


def ours(name: str, tier: str = "auto", change: Callable[[Fit], Fit] | None = None, options: str = "") -> Side:
    """Our layer; `change` is applied to what its tier takes at once."""

    def make(problem: Problem) -> Step:
        lstm = problem.lstm(tier)
        if change:
            fit = lstm.plan.run.fit
            run = replace(lstm.plan.run, fit=lambda backend, offer: change(fit(backend, offer)))
            lstm.plan = replace(lstm.plan, run=run)
        return problem.our_step(lstm=lstm)

    return Side(name, "", make, options=tuple(options.split()), takes=None)


def another(backend: Any, tf32: bool = False, form: str = "") -> Any:
    """Another backend on the same device, with kernels of its own: in TF32, or with layouts of one form only.

    In the grid for a stack, and forward for the joint form.
    """
    found = CupyBackend(int(backend.name.partition(":")[2]), tf32)
    if form:
        forward, backward = ("grid" if form in some else form for some in (("stack", "joint"), ("stack",)))
        found.limits = replace(found.limits, forms=((forward,), (backward,)))
    return found


def in_tf32(problem: Problem) -> Step:
    """Our layer with products in TF32, on the same data."""
    rounded = copy.copy(problem)
    rounded.backend = another(problem.backend, tf32=True)
    return rounded.our_step()


ONE_BY_ONE = ours("one by one", change=lambda fit: fit._replace(at_once=1))
AFTER = ours("after", change=lambda fit: fit._replace(beside=False))


def measured(log: Log, problem: Problem, sides: list[Side]) -> tuple[Record, dict[str, float]]:
    """Errors and times of all sides, and the medians of those that are right.

    Raises
    ------
    RuntimeError
        One of ours is wrong.
    """
    results, steps = sweep.check(problem, sides)
    for name, result in results.items():
        if "remark" in result and not name.startswith("torch"):
            raise RuntimeError(f"{name}: {result['remark']}")
    times, medians = log.alternate(steps)
    return {"checked": results, **times}, medians


# -- against PyTorch --------------------------------------------------------------------------------------------------


def point(log: Log, case: Case) -> Record:
    """Training and inference of ours and of PyTorch's in turns; and the layouts."""
    torch, _, lacking = torch_here(log.backend)
    found: Record = {**asdict(case), **case.layouts(log.backend)}
    said = []
    for kind in KINDS:
        problem = case.problem(log.backend, kind)
        sides = [ours("ours")] + [ONE_BY_ONE] * ("num_layers" in problem.options)
        if case.dtype == "float32":
            sides.append(Side("ours in tf32", "", in_tf32, takes=None, tolerance=TOLERANCE["float16"]))
        if torch is not None:
            sides += [peer for peer in peers.PEERS if peer.name in (*TORCH, "torch-tf32") and peer.fits(problem)]
        found[kind], medians = measured(log, problem, sides)
        text = f"{kind} {medians['ours'] * 1e3:.3f} ms"
        for name, mine, theirs in (("ratio", "ours", TORCH), ("ratio_tf32", "ours in tf32", ("torch-tf32",))):
            if best := min((medians[side] for side in theirs if side in medians), default=None):
                found[f"{name}_{kind}"] = best / medians[mine]
                text += f", {name} {best / medians[mine]:.2f} of {best * 1e3:.3f}"
        said.append(text)
    return found | ({"alone": lacking} if torch is None else {}) | {"said": "; ".join(said)}


def headline(backend: Any, log: Log) -> None:
    """The points that tell most, and a step of the recurrence by itself."""
    for case in [Case((4, 2, 8, 8), "float16"), Case((4, 2, 8, 8))] if log.rehearse else HEADLINE:
        log.item(str(case), point, log, case)
        log.item(f"steps of {case}", steps_alone, backend, log, case)
    tell_ratios(log)


def over(cases: Callable[[], list[Case]]) -> Callable[[Any, Log], None]:
    """A part that compares these cases with PyTorch, as many as there is time for."""

    def part(backend: Any, log: Log) -> None:
        for case in [Case((4, 2, 8, 8), options="num_layers=2", ragged=True)] if log.rehearse else cases():
            log.item(str(case), point, log, case)
        tell_ratios(log)

    return part


def tell_ratios(log: Log) -> None:
    """How many times as fast as PyTorch, over all points of a part: the geometric mean, and the least."""
    for name, kind in product(("ratio", "ratio_tf32"), KINDS):
        if ratios := [item[f"{name}_{kind}"] for item in log.results() if f"{name}_{kind}" in item]:
            mean = statistics.geometric_mean(ratios)
            print(f"  {name}, {kind}: {mean:.2f} in the mean of {len(ratios)}, {min(ratios):.2f} at least", flush=True)


# -- the recurrence by itself -----------------------------------------------------------------------------------------


def alone(backend: Any, case: Case, steps: int) -> dict[str, Callable[[], Any]]:
    """A recurrence by itself: a copy of z, forward after it, backward after both."""
    _, batch, _, hidden = case.size
    weight = backend.asarray(LSTM(1, hidden, backend="numpy").params["weight_hh_l0"], case.dtype)
    z, dh = (
        backend.asarray(backend.xp.full((steps, batch, width), 0.25), case.dtype) for width in (4 * hidden, hidden)
    )

    def copied() -> Array:
        return backend.xp.array(z, copy=True)

    def forward() -> Any:
        return sequence.TIER.forward(backend, [Recurrence(copied(), weight)])[0]

    def backward() -> Any:
        return sequence.TIER.backward(backend, [Arriving(forward(), dh)])[0]

    return {"copy": copied, "forward": forward, "backward": backward}


def steps_alone(backend: Any, log: Log, case: Case) -> Record:
    """Microseconds a step of the recurrence by itself, beside what the model expects.

    From the difference between T steps and half as many: what a launch costs, with all around it, drops out, and is
    told, too.
    """
    whole, half = case.size[0], case.size[0] // 2
    sides = {f"{name} {n}": work for n in (whole, half) for name, work in alone(backend, case, n).items()}
    times, medians = log.alternate(sides)
    found: Record = {**asdict(case), **times}
    said = []
    for direction, before in (("forward", "copy"), ("backward", "forward")):
        long, short = (medians[f"{direction} {n}"] - medians[f"{before} {n}"] for n in (whole, half))
        step = (long - short) / (whole - half)
        layout = planner.choose(backend.limits, direction, case.size[1], case.size[3], case.dtype)
        expected = float("nan") if isinstance(layout, str) else costs.of(layout).microseconds
        around = (long - whole * step) * 1e6
        found[direction] = {"us_a_step": step * 1e6, "expected_us_a_step": expected, "us_around": around}
        said.append(f"{direction} {step * 1e6:.2f} us a step, {expected:.2f} expected, {around:.0f} around")
    return found | {"said": "; ".join(said)}


def relaxed(backend: Any, log: Log) -> None:
    """The joint form's barrier of a cluster, relaxed and released: microseconds a step of forward and backward."""
    for case in [Case((4, 2, 20, 20))] if log.rehearse else [PUBLISHED, Case((256, 64, 512, 512), "float16")]:
        log.item(f"barrier at {case}", relaxed_and_released, log, case)


def relaxed_and_released(log: Log, case: Case) -> Record:
    """One of them.

    Raises
    ------
    RuntimeError
        The two differ in a bit.
    """
    both = {name: another(log.backend, form="joint") for name in ("relaxed", "released")}
    sides = {name: alone(backend, case, case.size[0])["backward"] for name, backend in both.items()}
    os.environ[kernels.RELEASED] = "1"  # while it is compiled
    try:
        expected = log.backend.to_numpy(sides["released"]().dz)
    finally:
        del os.environ[kernels.RELEASED]
    if expected.tobytes() != log.backend.to_numpy(sides["relaxed"]().dz).tobytes():
        raise RuntimeError(f"dz at {case} has other bits where the barrier is released")
    times, medians = log.alternate(sides)
    saved = (medians["released"] - medians["relaxed"]) / case.size[0] * 1e6
    told = case.layouts(both["relaxed"])
    return {**asdict(case), **told, **times, "saved_us_a_step": saved, "said": f"{saved:.3f} us a step saved"}


# -- ours against ours ------------------------------------------------------------------------------------------------

BESIDE = [
    Case((1024, 64, 256, 256)),
    Case((1024, 64, 256, 256), "bfloat16"),
    Case((256, 64, 256, 256), options="num_layers=3"),
    Case((2048, 16, 256, 256), options="bidirectional"),
    Case((1024, 64, 128, 128)),
    Case((1024, 64, 256, 256), options="num_layers=3", ragged=True),
]
"""Where products are expected to pay beside a recurrence, forward, backward or in both."""
GRAPHS = list(
    product([(16, 64, 128, 1), (16, 64, 256, 1), (64, 64, 256, 2), (16, 256, 512, 1)], ("float32", "bfloat16"))
)
"""B, T, H and layers, and the dtype: from steps that take a tenth of a millisecond to steps that take some."""


def steps(backend: Any, log: Log) -> None:
    """Training steps of ours beside each other: tiers, graphs, products beside the recurrence."""
    log.item("tiers", tiers, log, Case((3, 2, 4, 5) if log.rehearse else (128, 64, 512, 512)))
    for (batch, length, hidden, layers), dtype in [((3, 5, 5, 1), "float32")] if log.rehearse else GRAPHS:
        name = f"graph at B={batch} T={length} H={hidden} {layers} layers {dtype}"
        log.item(name, as_a_graph, backend, log, (batch, length, hidden, layers), dtype)
    for case in [Case((4, 2, 8, 8))] if log.rehearse else BESIDE:
        log.item(f"beside at {case}", beside_and_after, log, case)


def tiers(log: Log, case: Case) -> Record:
    """Every tier against the reference tier, which is plain array expressions."""
    names = runnable_tiers(log.backend, case.size[3], case.dtype)
    found, medians = measured(log, case.problem(log.backend), [ours(tier, tier) for tier in names])
    ratio = {tier: medians["reference"] / value for tier, value in medians.items()}
    said = ", ".join(f"{tier} {value * 1e3:.2f} ms" for tier, value in medians.items())
    return {**asdict(case), **found, "times_reference": ratio, "said": said}


def as_a_graph(backend: Any, log: Log, size: Size, dtype: str) -> Record:
    """Training steps of a language model replayed as a CUDA graph, and the same launch by launch.

    Raises
    ------
    RuntimeError
        The losses of the first steps differ in a bit.
    """
    batch, length, hidden, layers = size
    told: dict[str, list[Event]] = {"launches": [], "graph": []}
    sides: dict[str, Callable[[], object]] = {}
    for side, events in told.items():
        network = LanguageModel(65, 64, hidden, layers, dropout=0.2, backend=backend, dtype=dtype)
        tokens = np.random.default_rng(0).integers(0, 65, 16 * batch * length)
        settings = Settings(epochs=10**6, learning_rate=1e-3, schedule="constant", validations=0)
        training = Training(TextTask(network, tokens, batch, length, 0.2, 0), settings, graph=side == "graph")
        sides[side] = partial(training.go, events.append, lambda: True)
    for _, step in product(range(5), sides.values()):
        step()
    losses, others = ([(event.loss, event.norm) for event in events] for events in told.values())
    if losses != others:
        raise RuntimeError(f"losses and norms differ: {losses} launch by launch, {others} as a graph")
    times, medians = log.alternate(sides)
    ratio = medians["launches"] / medians["graph"]
    said = f"{medians['launches'] * 1e6:.0f} us, as a graph {medians['graph'] * 1e6:.0f} us"
    return {"size": size, "dtype": dtype, **times, "launches_over_graph": ratio, "said": said}


def beside_and_after(log: Log, case: Case) -> Record:
    """Training steps with products beside the recurrence and with them after it.

    Raises
    ------
    RuntimeError
        The two differ in a bit.
    """
    problem = case.problem(log.backend)
    sides = {side.name: side.make(problem) for side in (ours("beside"), AFTER)}
    found, expected = (step() for step in sides.values())
    for name, array in expected.items():
        if log.backend.to_numpy(array).tobytes() != log.backend.to_numpy(found[name]).tobytes():
            raise RuntimeError(f"{name} at {case} has other bits with products beside the recurrence")
    times, medians = log.alternate(sides)
    saved = (medians["after"] - medians["beside"]) * 1e6
    return {**asdict(case), **times, "saved_us": saved, "said": f"{saved:.0f} us saved of {medians['after'] * 1e6:.0f}"}


# -- options and models -----------------------------------------------------------------------------------------------


def options(backend: Any, log: Log) -> None:
    """What each option of the LSTM family costs against the plain LSTM, and on the pointwise tier."""
    cases = [Case((256, 64, 512, 512), dtype) for dtype in ("bfloat16", "float32")]
    every = product([Case((3, 2, 4, 8))], OPTIONS[:1]) if log.rehearse else product(cases, OPTIONS)
    for case, words in every:
        log.item(f"{words} at {case}", one_option, log, case, words)


def one_option(log: Log, case: Case, words: str) -> Record:
    """An option at a size."""
    problem = case.problem(log.backend)
    sides = [ours("plain"), ours("ours", options=words), ours("pointwise", "pointwise", options=words)]
    found, medians = measured(log, problem, sides)
    tier = problem.with_options(parse_options(words.split())).lstm().plan.tier
    plain, pointwise = medians["ours"] / medians["plain"], medians["pointwise"] / medians["ours"]
    said = f"{plain:.2f} of plain on the {tier} tier, {pointwise:.2f} times as fast as pointwise"
    return {"tier": tier, **found, "times_plain": plain, "times_pointwise": pointwise, "said": said}


MODELS = [({"embedding_size": 512, "hidden_size": 1024, "num_layers": 2}, 64, 128), ({}, 64, 64)]
"""Sizes of language models that differ from the shipped one's, B, T."""


def models(backend: Any, log: Log) -> None:
    """Training steps of language models in each dtype, against PyTorch's autocast."""
    sizes = [({"embedding_size": 4, "hidden_size": 8}, 2, 4)] if log.rehearse else MODELS
    for dtype, (config, batch, length) in product(DTYPES[:1] if log.rehearse else DTYPES, sizes):
        name = f"H={config.get('hidden_size', 'shipped')} B={batch} T={length} {dtype}"
        log.item(name, one_model, backend, log, config, batch, length, dtype)


def one_model(backend: Any, log: Log, config: dict[str, int], batch: int, length: int, dtype: str) -> Record:
    """One of them. A step ends when the host has read its loss: the wall clock and the device's events time all of it.

    Raises
    ------
    RuntimeError
        The first losses differ.
    """
    torch, device, lacking = torch_here(backend)
    network, task = model.model_and_task(backend, batch, length, dtype=dtype, **config)
    steps = {"ours": model.our_training(task)}
    if torch is not None:
        steps["torch"] = model.torch_training(task, model.torch_model(network, device), device, dtype)
    losses = model.first_losses(steps, dtype)
    times, medians = log.alternate(steps)
    speeds = {side: batch * length / value for side, value in medians.items()}
    found: Record = {**network.config, "B": batch, "T": length, "dtype": dtype, "tier": network.lstm.plan.tier}
    found |= {"first_losses": losses, **times, "characters_per_second": speeds}
    found |= {"alone": lacking} if torch is None else {"ratio": medians["torch"] / medians["ours"]}
    said = ", ".join(f"{side} {speed:,.0f}" for side, speed in speeds.items())
    return found | {"said": f"characters per second: {said}"}


# -- in parallel over time --------------------------------------------------------------------------------------------


def over_time(backend: Any, log: Log) -> None:
    """Inference on one long sequence in parallel over time, and rounded and plain in sequence."""
    sizes = [(16384, 256, "bfloat16"), (16384, 256, "float32"), (16384, 1024, "bfloat16"), (65536, 256, "bfloat16")]
    for steps, hidden, dtype in [(1024, 8, "float32")] if log.rehearse else sizes:
        log.item(f"T={steps} H={hidden} {dtype}", one_sequence, log, steps, hidden, dtype)


def one_sequence(log: Log, steps: int, hidden: int, dtype: str) -> Record:
    """One of them; in a rehearsal, of 1,024 steps, in chunks of 32.

    Raises
    ------
    RuntimeError
        The same call gives other bits the next time, or is further from the one in sequence than rounding explains.
    """
    backend, rng = log.backend, np.random.default_rng(0)
    lstm = LSTM(64, hidden, backend=backend, dtype=dtype, forget_bias=1.0)
    x = backend.asarray(rng.standard_normal((steps, 1, 64), dtype=np.float32), dtype)

    def forward(mode: str | bool, least: int) -> Array:
        lstm.parallel = mode
        with changed(overtime, LEAST_STEPS=least):
            return lstm.forward(x, keep=False)[0]

    least = 1 if log.rehearse else overtime.LEAST_STEPS
    sides: dict[str, tuple[str | bool, int]] = {
        "plain": (False, least),
        "rounded in sequence": ("rounded", steps + 1),
        "rounded": ("rounded", least),
    }
    with contextlib.ExitStack() as tiny:
        for module in (overtime, settle, strand) if log.rehearse else ():
            tiny.enter_context(changed(module, STEPS=32))
        if log.rehearse:
            tiny.enter_context(changed(overtime, TRIAL=0.5))
        first, again = (backend.to_numpy(forward(*sides["rounded"])) for _ in range(2))
        said = [str(report) for report in lstm.plan.over_time]
        expected = backend.to_numpy(forward(*sides["rounded in sequence"]))
        apart = float(np.abs(first.astype(np.float32) - expected.astype(np.float32)).max())
        if first.tobytes() != again.tobytes() or not apart < (1e-3 if dtype == "float32" else 3e-2):
            raise RuntimeError(f"bits repeat: {first.tobytes() == again.tobytes()}; {apart:.1e} from that in sequence")
        times, medians = log.alternate({name: partial(forward, *side) for name, side in sides.items()})
    ratio = medians["plain"] / medians["rounded"]
    return {"over_time": said, "apart": apart, **times, "ratio": ratio, "said": f"{ratio:.1f} times as fast; {said[0]}"}


@contextlib.contextmanager
def changed(module: Any, **values: float) -> Iterator[None]:
    """Constants of a module are others meanwhile."""
    before = {name: getattr(module, name) for name in values}
    vars(module).update(values)
    try:
        yield
    finally:
        vars(module).update(before)
