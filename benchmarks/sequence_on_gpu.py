"""LSTM layers on a GPU: against torch.nn.LSTM, tier against tier, products beside them and after them.

Parts of `benchmarks.run_on_gpu`. A training step here is forward and backward of the whole layer: the projections of
the input, the recurrence, and all gradients. In 16 bits ours keeps its weights in float32 and rounds them at each step,
PyTorch's holds them in 16 bits. cuDNN has no LSTM in bfloat16: in 16 bits ours is compared with the better of PyTorch's
float16 and bfloat16. Beside each time stand the layout, and the step that the model expects
(`gpu_lstm.recurrence.cuda.onchip`) beside the one that was measured.
"""

from __future__ import annotations

import contextlib
import copy
import os
import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from benchmarks.on_gpu import Log, Record, torch_here
from gpu_lstm.backend import Array, Backend, CupyBackend
from gpu_lstm.backend.cuda import CudaBackend
from gpu_lstm.bench.grid import STANDARD
from gpu_lstm.layers import LSTM
from gpu_lstm.layers.schedule import segments
from gpu_lstm.native import kernels
from gpu_lstm.recurrence import Arriving, Problem, Tier, runnable_tiers
from gpu_lstm.recurrence.cuda import onchip
from gpu_lstm.recurrence.cuda import sequence as sequence_cuda
from gpu_lstm.recurrence.problem import Fit, one_by_one

TOLERANCE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}
"""Largest difference from PyTorch's results, relative to their largest number."""
SIXTEEN = ("float16", "bfloat16")
DRAWN = 1_000_003
"""Random numbers that inputs are made of, again and again: drawing all of a large input takes the host seconds."""


@dataclass(frozen=True)
class Case:
    """What is compared: T, B, D, H, the dtype, and how many layers and directions.

    With `packed`, lengths are random in T/4..T, PyTorch gets a PackedSequence, packed beforehand, and hands one out.
    """

    steps: int
    batch: int
    width: int
    hidden: int
    dtype: str = "float32"
    layers: int = 1
    directions: int = 1
    packed: bool = False

    @property
    def lengths(self) -> np.ndarray | None:
        """Of each sequence; None: all have T steps."""
        if not self.packed:
            return None
        lengths = np.random.default_rng(1).integers(max(1, self.steps // 4), self.steps + 1, self.batch)
        lengths[0] = self.steps
        return lengths

    def __str__(self) -> str:
        more = [f"{self.layers} layers"] * (self.layers > 1) + ["2 directions"] * (self.directions > 1)
        more += ["packed"] * self.packed
        return ", ".join([f"T={self.steps} B={self.batch} D={self.width} H={self.hidden} {self.dtype}", *more])


PUBLISHED = Case(1024, 16, 768, 768, "float16")
HEADLINE = [
    PUBLISHED,
    replace(PUBLISHED, dtype="bfloat16"),
    Case(256, 64, 512, 512, "float16"),
    Case(256, 64, 512, 512),
    Case(256, 16, 1024, 1024, "float16"),
    Case(64, 16, 256, 256, "float16"),
]
AXES: tuple[tuple[Any, ...], ...] = (
    (256, 64, 1024),
    (64, 16, 256, 1),
    (512, 768, 256, 1024, 128, 2048),
    ("float16", "bfloat16", "float32"),
)
"""T, B, H and dtypes of the grid, on each axis the most telling first."""


def grid() -> list[Case]:
    """The published point, the whole grid from its middle outward, and the sizes of the CPU benchmark."""
    points = sorted(product(*map(enumerate, AXES)), key=lambda point: sum(place for place, _ in point))
    cases = [Case(t, b, h, h, dtype) for (_, t), (_, b), (_, h), (_, dtype) in points]
    return list(dict.fromkeys([PUBLISHED, *cases, *(Case(*size) for size in STANDARD)]))


def shapes() -> list[Case]:
    """Three layers, batches of unequal lengths, two directions, and all of it: what cuDNN has no persistent kernel for.

    The first of them come once in each dtype, then larger and smaller ones.
    """
    more: list[dict[str, Any]] = [
        {"layers": 3},
        {"packed": True},
        {"directions": 2},
        {"layers": 3, "directions": 2, "packed": True},
    ]
    sizes = [(256, 64, 512), (256, 16, 1024), (64, 256, 256), (1024, 16, 768), (256, 1, 512)]
    return [Case(t, b, h, h, dtype, **kind) for (t, b, h), dtype, kind in product(sizes, AXES[3], more)]


class Ours:
    """Our layers for a case, with inputs that other sides share: x and dy in float32 numbers that the dtype has."""

    def __init__(self, backend: Backend, case: Case, tier: str = "auto"):
        self.backend, self.case, self.lengths = backend, case, case.lengths
        self.lstm = LSTM(
            case.width, case.hidden, case.layers, bidirectional=case.directions == 2, backend=backend, dtype=case.dtype,
            tier=tier,
        )  # fmt: skip
        for param in self.lstm.params.values():
            param[...] = backend.widened(backend.asarray(param, case.dtype))
        drawn = backend.asarray(np.random.default_rng(0).standard_normal(DRAWN, dtype=np.float32))

        def made(width: int, first: int) -> tuple[Array, Array]:
            shape = case.steps, case.batch, width
            short = backend.asarray(backend.xp.resize(drawn[first:], shape), case.dtype)
            return short, backend.widened(short)

        (self.x, self.wide_x), (self.dy, self.wide_dy) = (
            made(width, first) for first, width in enumerate((case.width, case.hidden * case.directions))
        )

    def forward(self) -> tuple[Array, Any]:
        """Outputs, and what backward needs."""
        y, _, tape = self.lstm.forward(self.x, lengths=self.lengths)
        return y, tape

    def step(self) -> dict[str, Array]:
        """Forward and backward: outputs and gradients."""
        y, tape = self.forward()
        dx, _, gradients = self.lstm.backward(tape, self.dy)
        return {"y": y, "dx": dx, **gradients}


def layers_at_once(run: Tier, count: int) -> Tier:
    """The tier, which takes so many layers of a stack at once, whatever the planner expects; 1: one by one."""
    return replace(
        run, fit=lambda backend, round: Fit(count), forward=sequence_cuda.forward, backward=sequence_cuda.backward
    )


def layer_sides(backend: CudaBackend, case: Case) -> tuple[dict[str, Callable[[], object]], Record]:
    """Layers at once and one by one, both whatever the planner expects; and what it expects, us a step."""
    if case.layers == 1 or case.directions > 1:
        return {}, {}
    expected = {
        direction: onchip.layer_times(backend.limits, direction, case.batch, case.hidden, case.dtype, case.layers)
        for direction in onchip.DIRECTIONS
    }
    fits = [n for n in range(1, case.layers + 1) if all(n in times for times in expected.values())]
    if max(fits, default=1) == 1:
        return {}, {"layers_at_once": "more than one do not fit on chip"}
    sides: dict[str, Callable[[], object]] = {}
    for name, at_once in (("one_by_one", 1), ("at_once", max(fits))):
        ours = Ours(backend, case)
        ours.lstm.plan = replace(ours.lstm.plan, run=layers_at_once(ours.lstm.plan.run, at_once))
        sides |= {f"{name}_forward": ours.forward, name: ours.step}
    found = {direction: {str(n): time for n, time in times.items()} for direction, times in expected.items()}
    return sides, {"layers_at_once": max(fits), "layers_expected_us_a_step": found}


class Torch:
    """torch.nn.LSTM with the same weights and inputs, on the same device; in `dtype`, else in that of ours."""

    def __init__(self, ours: Ours, torch: Any, device: str, dtype: str = ""):
        case, self.torch = ours.case, torch
        kind = getattr(torch, dtype or case.dtype)

        def there(array: Array) -> Any:
            return torch.from_dlpack(array).to(device, kind, copy=True)

        self.lstm: Any = torch.nn.LSTM(
            case.width, case.hidden, case.layers, bidirectional=case.directions == 2, device=device, dtype=kind
        )
        self.params = {}
        with torch.no_grad():
            for name, param in ours.lstm.params.items():
                theirs = name.replace("bias_", "bias_ih_")
                getattr(self.lstm, theirs).copy_(there(param))
                self.params[name] = getattr(self.lstm, theirs)
                if theirs != name:
                    other = getattr(self.lstm, name.replace("bias_", "bias_hh_"))
                    other.zero_()
                    other.requires_grad_(False)  # ours has one bias
        self.x, self.dy, self.lengths = there(ours.wide_x), there(ours.wide_dy), None
        if ours.lengths is not None:
            self.lengths = torch.from_numpy(ours.lengths)
            self.x, self.dy = (self._packed(array) for array in (self.x, self.dy))
            self.leaf = self.x.data.detach().requires_grad_()
            self.x = torch.nn.utils.rnn.PackedSequence(self.leaf, *self.x[1:])
        else:
            self.leaf = self.x.requires_grad_()

    def _packed(self, array: Any) -> Any:
        pack = self.torch.nn.utils.rnn.pack_padded_sequence
        return pack(array, self.lengths, enforce_sorted=False)

    def forward(self) -> Any:
        """Outputs, packed where the inputs are."""
        return self.lstm(self.x)[0]

    def step(self) -> dict[str, Any]:
        """Forward and backward: outputs and gradients."""
        self.lstm.zero_grad()
        self.leaf.grad = None
        y = self.forward()
        if self.lengths is None:
            y.backward(self.dy)
        else:
            y.data.backward(self.dy.data)
        return {"y": y, "dx": self.leaf.grad, **{name: param.grad for name, param in self.params.items()}}

    def in_tf32(self, work: Callable[[], object]) -> Callable[[], None]:
        """The same, with products in TF32."""
        flags = self.torch.backends.cudnn

        def rounded() -> None:
            flags.allow_tf32 = True
            work()
            flags.allow_tf32 = False

        return rounded

    def results(self) -> dict[str, Any]:
        """Those of `step` in float32, padded with zeros."""
        found = self.step()
        if self.lengths is not None:
            rnn = self.torch.nn.utils.rnn
            dx = rnn.PackedSequence(found["dx"], *self.x[1:])
            found |= {name: rnn.pad_packed_sequence(packed)[0] for name, packed in (("y", found["y"]), ("dx", dx))}
        return {name: array.detach().float() for name, array in found.items()}


def disagreement(
    backend: Backend,
    ours: dict[str, Array],
    theirs: dict[str, Any],
    case: Case,
    limit: float | None = None,
    floor: float = 1e-30,
) -> float:
    """Largest difference of all results, relative to the largest number of each, `floor` at least.

    Raises
    ------
    RuntimeError
        It is more than `limit`, that of the dtype where None is given, or no number.
    """
    xp, worst, limit = backend.xp, 0.0, TOLERANCE[case.dtype] if limit is None else limit
    for name, array in theirs.items():
        expected = xp.from_dlpack(array)
        largest = float(xp.max(xp.abs(backend.widened(ours[name]) - expected)))
        error = largest / max(float(xp.max(xp.abs(expected))), floor)
        if not error < limit:  # a NaN isn't
            raise RuntimeError(f"{name} at {case} differs by {error:.1e}; expected less than {limit:.0e}")
        worst = max(worst, error)
    return worst


# -- against PyTorch --------------------------------------------------------------------------------------------------


def point(backend: CudaBackend, log: Log, case: Case) -> Record:
    """Ours and PyTorch's in turns, the results compared before; and the layouts."""
    torch, device, lacking = torch_here(backend)
    ours = Ours(backend, case)
    found: Record = {**asdict(case), "tier": ours.lstm.plan.tier}
    for direction in onchip.DIRECTIONS:
        layout = onchip.choose(backend.limits, direction, case.batch, case.hidden, case.dtype)
        pays = onchip.pays(backend.limits, direction, case.batch, case.hidden, case.dtype)
        found[direction] = layout if isinstance(layout, str) else ("" if pays else "not taken: ") + layout.describe()
    sides: dict[str, Callable[[], object]] = {"ours": ours.step, "ours_forward": ours.forward}
    if case.dtype == "float32":
        rounding = copy.copy(backend)
        rounding.tf32 = True
        rounded = Ours(rounding, case)
        sides |= {"ours_tf32": rounded.step, "ours_tf32_forward": rounded.forward}
    peers: tuple[str, ...] = SIXTEEN if case.dtype in SIXTEEN else (case.dtype,)
    if torch is None:
        found["alone"], peers = lacking, ()
    for dtype in peers:
        theirs = Torch(ours, torch, device, dtype)
        try:
            theirs.step()
        except RuntimeError as error:  # what PyTorch has no LSTM for
            found[f"torch_{dtype}"] = str(error)
            continue
        if dtype == case.dtype:
            found["difference"] = disagreement(backend, ours.step(), theirs.results(), case)
        for end, work in (("", theirs.step), ("_forward", theirs.forward)):
            sides[f"torch_{dtype}{end}"] = work
            if dtype == "float32":
                sides[f"torch_tf32{end}"] = theirs.in_tf32(work)
    layers, expected = layer_sides(backend, case)
    times, medians = log.alternate(sides | layers)
    said = [f"{medians['ours_forward'] * 1e3:.3f} / {medians['ours'] * 1e3:.3f} ms"]
    for kind, names in (("", peers), ("_tf32", ("tf32",))):
        told = []
        for end in ("_forward", ""):
            if best := min((medians[side] for n in names if (side := f"torch_{n}{end}") in medians), default=None):
                ratio = found[f"ratio{kind}{end}"] = best / medians[f"ours{kind}{end}"]
                told.append(f"{ratio:.2f} of {best * 1e3:.3f}")
        said += [f"PyTorch{kind} {' / '.join(told)}"] * bool(told)
    return found | times | expected | {"said": ", ".join(said)}


def steps_alone(backend: CudaBackend, log: Log, case: Case) -> Record:
    """Microseconds a step of the recurrence by itself, beside what the model expects.

    From the difference between T steps and half as many: what a launch costs, with all around it, drops out, and is
    told, too.
    """
    lengths = case.steps, case.steps // 2
    sides = {
        f"{name} {steps}": work
        for steps in lengths
        for name, work in alone(backend, replace(case, steps=steps)).items()
    }
    times, medians = log.alternate(sides)
    found: Record = {**asdict(case), **times}
    said = []
    for direction, before in (("forward", "copy"), ("backward", "forward")):
        whole, part = (medians[f"{direction} {n}"] - medians[f"{before} {n}"] for n in lengths)
        step = (whole - part) / (lengths[0] - lengths[1])
        layout = onchip.choose(backend.limits, direction, case.batch, case.hidden, case.dtype)
        expected = float("nan") if isinstance(layout, str) else layout.microseconds
        around = (whole - case.steps * step) * 1e6
        found[direction] = {"us_a_step": step * 1e6, "expected_us_a_step": expected, "us_around": around}
        said.append(f"{direction} {step * 1e6:.2f} us a step, {expected:.2f} expected, {around:.0f} around")
    return found | {"said": "; ".join(said)}


def alone(backend: CudaBackend, case: Case) -> dict[str, Callable[[], Any]]:
    """A recurrence by itself: a copy of z, forward after it, backward after both."""
    weight = backend.asarray(Ours(backend, replace(case, steps=1)).lstm.params["weight_hh_l0"], case.dtype)
    z, dh = (
        backend.asarray(backend.xp.full((case.steps, case.batch, width), 0.25), case.dtype)
        for width in (4 * case.hidden, case.hidden)
    )

    def copied() -> Array:
        return backend.xp.array(z, copy=True)

    def forward() -> Any:
        return sequence_cuda.forward(backend, [Problem(copied(), weight)])

    def backward() -> Any:
        return sequence_cuda.backward(backend, [Arriving(forward()[0], dh)])

    return {"copy": copied, "forward": forward, "backward": backward}


def kernels_of_torch(backend: CudaBackend, case: Case) -> Record:
    """Names of the kernels that PyTorch launches for a training step, how often, and microseconds of each."""
    torch, device, lacking = torch_here(backend)
    if torch is None:
        return {"missing": lacking}
    work = Torch(Ours(backend, case), torch, device).step
    work()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        torch.cuda.synchronize()
    names: Counter[str] = Counter()
    times: Counter[str] = Counter()
    for event in profile.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            names[event.name] += 1
            times[event.name] += round(event.time_range.elapsed_us())
    most = times.most_common(12)
    said = "; ".join(f"{names[name]} x {name[:60]}" for name, _ in most[:3])
    return {"kernels": {name: {"launches": names[name], "us": time} for name, time in most}, "said": said}


def headline(backend: CudaBackend, log: Log) -> None:
    """The points that tell most, what PyTorch launches at the first, and a step of the recurrence by itself."""
    seen: set[str] = set()
    for case in [Case(4, 2, 8, 8, "float16"), Case(4, 2, 8, 8)] if log.rehearse else HEADLINE:
        log.item(str(case), point, backend, log, case)
        log.item(f"steps of {case}", steps_alone, backend, log, case)
        if case.dtype not in seen:
            log.item(f"PyTorch's kernels in {case.dtype}", kernels_of_torch, backend, case)
        seen.add(case.dtype)
    tell_ratios(log)


def over(cases: Callable[[], list[Case]]) -> Callable[[CudaBackend, Log], None]:
    """A part that compares these cases with PyTorch, as many as there is time for."""

    def part(backend: CudaBackend, log: Log) -> None:
        for case in [Case(4, 2, 8, 8, layers=2, packed=True)] if log.rehearse else cases():
            log.item(str(case), point, backend, log, case)
        tell_ratios(log)

    return part


def tell_ratios(log: Log) -> None:
    """How many times as fast as PyTorch, over all points of a part: the geometric mean, and the least."""
    for kind in ("ratio", "ratio_forward", "ratio_tf32"):
        if ratios := [item[kind] for item in log.results() if kind in item]:
            mean = statistics.geometric_mean(ratios)
            print(f"  {kind}: {mean:.2f} in the mean of {len(ratios)}, {min(ratios):.2f} at least", flush=True)


# -- ours against ours ------------------------------------------------------------------------------------------------

TIERS = Case(128, 64, 512, 512)


def tiers(backend: CudaBackend, log: Log) -> None:
    """A training step of every tier against the reference tier, which is plain array expressions."""
    case = Case(3, 2, 4, 5) if log.rehearse else TIERS

    def measured() -> Record:
        sides = {tier: Ours(backend, case, tier) for tier in runnable_tiers(backend, case.hidden, case.dtype)}
        expected = {name: backend.widened(array) for name, array in sides["reference"].step().items()}
        differences = {tier: disagreement(backend, side.step(), expected, case) for tier, side in sides.items()}
        times, medians = log.alternate({tier: side.step for tier, side in sides.items()})
        ratio = {tier: medians["reference"] / value for tier, value in medians.items()}
        said = ", ".join(f"{tier} {value * 1e3:.2f} ms" for tier, value in medians.items())
        return {"size": str(case), **times, "times_reference": ratio, "differences": differences, "said": said}

    log.item("tiers", measured)


@contextlib.contextmanager
def only(form: str) -> Iterator[None]:
    """Let the planner see layouts of one form; of the grid for a stack, and for the joint form forward."""
    every = onchip._candidates

    def allowed(device: Any, direction: str, *problem: Any) -> Iterator[onchip.Layout]:
        wanted = "grid" if form == "stack" or (form, direction) == ("joint", "forward") else form
        return (layout for layout in every(device, direction, *problem) if layout.form == wanted)

    def see(candidates: Any) -> None:
        onchip._candidates = candidates
        for choose in (onchip.choose, onchip.choose_pair, onchip.choose_layers):
            choose.cache_clear()

    see(allowed)
    try:
        yield
    finally:
        see(every)


def relaxed(backend: CudaBackend, log: Log) -> None:
    """The joint form's barrier of a cluster, relaxed and released: microseconds a step of forward and backward."""
    for case in [Case(4, 2, 20, 20)] if log.rehearse else [PUBLISHED, Case(256, 64, 512, 512, "float16")]:
        log.item(f"barrier at {case}", relaxed_and_released, backend, log, case)


def relaxed_and_released(backend: CudaBackend, log: Log, case: Case) -> Record:
    """One of them.

    Raises
    ------
    RuntimeError
        The two differ in a bit.
    """
    another = CupyBackend(int(backend.name.split(":")[1]))  # with kernels of its own
    sides = {name: alone(side, case)["backward"] for name, side in (("relaxed", backend), ("released", another))}
    with only("joint"):
        layout = onchip.choose(backend.limits, "backward", case.batch, case.hidden, case.dtype)
        os.environ[kernels.RELEASED] = "1"  # while it is compiled
        try:
            expected = backend.to_numpy(sides["released"]()[0])
        finally:
            del os.environ[kernels.RELEASED]
        if expected.tobytes() != backend.to_numpy(sides["relaxed"]()[0]).tobytes():
            raise RuntimeError(f"dz at {case} has other bits where the barrier is released")
        times, medians = log.alternate(sides)
    saved = (medians["released"] - medians["relaxed"]) / case.steps * 1e6
    told = layout if isinstance(layout, str) else layout.describe()
    return {**asdict(case), "layout": told, **times, "saved_us_a_step": saved, "said": f"{saved:.3f} us a step saved"}


BESIDE = [
    Case(1024, 64, 256, 256),
    Case(1024, 64, 256, 256, "bfloat16"),
    Case(256, 64, 256, 256, layers=3),
    Case(2048, 16, 256, 256, directions=2),
    Case(1024, 64, 128, 128),
    Case(1024, 64, 256, 256, layers=3, packed=True),
]
"""Where products are expected to pay beside a recurrence, forward, backward or in both."""


def beside(backend: CudaBackend, log: Log) -> None:
    """Training steps with products beside the recurrence and with them after it: the same bits, and both times."""
    for case in [Case(4, 2, 8, 8)] if log.rehearse else BESIDE:
        log.item(f"beside at {case}", beside_and_after, backend, log, case)


def beside_and_after(backend: CudaBackend, log: Log, case: Case) -> Record:
    """One of them."""
    both, after = Ours(backend, case), Ours(backend, case)
    without = replace(after.lstm.plan.run, fit=one_by_one)
    after.lstm.plan = replace(after.lstm.plan, run=without)
    found, expected = both.step(), after.step()
    for name, array in expected.items():
        if backend.to_numpy(array).tobytes() != backend.to_numpy(found[name]).tobytes():
            raise RuntimeError(f"{name} at {case} has other bits with products beside the recurrence")
    times, medians = log.alternate({"beside": both.step, "after": after.step})
    saved, hoped = (medians["after"] - medians["beside"]) * 1e6, expected_saved(backend, case)
    said = f"{saved:.0f} us saved of {medians['after'] * 1e6:.0f}, {hoped:.0f} expected"
    return {**asdict(case), **times, "saved_us": saved, "expected_saved_us": hoped, "said": said}


def expected_saved(backend: CudaBackend, case: Case) -> float:
    """Microseconds that a training step should save, of all launches that products go beside."""
    parts = segments(case.steps, case.batch, least_steps=backend.least_steps)
    steps = parts[0][1] - parts[0][0]
    one = steps * case.batch * 4 * case.hidden * case.directions
    stacked = case.layers if case.directions == 1 else 1
    launches = {"forward": len(parts) - 1, "backward": len(parts) * stacked - 1}
    saved = 0.0
    for layer in range(case.layers if case.directions == 2 else 1):
        width = case.width if layer == 0 else case.hidden * case.directions
        for direction, products in (("forward", width), ("backward", 2 * width + case.hidden)):
            launch = onchip.beside(
                backend.limits, direction, (steps, case.batch, case.hidden), case.dtype, one * products, case.directions
            )
            saved += launches[direction] * max(launch.saved, 0.0)
    return saved
