"""LSTM layers on a GPU against torch.nn.LSTM, with and without products beside them; costs of waiting; a soak.

Parts of `benchmarks.run_on_gpu`. A training step here is forward and backward of the whole layer: the projections of
the input, the recurrence, and all gradients. In 16 bits ours keeps its weights in float32 and rounds them at each step,
PyTorch's holds them in 16 bits. Beside each time stand the layout, the step that the model expected
(`gpu_lstm.recurrence.onchip`), and the floor: one barrier or hand-over a step, as measured just before.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.on_gpu import Budget, Record, alternating, torch_here
from gpu_lstm.backend import Array, Backend, kernels
from gpu_lstm.backend.cuda import CudaBackend
from gpu_lstm.bench.grid import STANDARD
from gpu_lstm.bench.method import clock_for
from gpu_lstm.layers import LSTM
from gpu_lstm.layers.lstm import segments
from gpu_lstm.recurrence import Mask, onchip, pointwise_cuda, sequence_cuda

TOLERANCE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}
"""Largest difference from PyTorch's results, relative to their largest number."""
SOAK_TOLERANCE = {"float32": 1e-3, "float16": 1e-1}
"""The same between the tiers: single numbers may cancel, and 16-bit pre-activations are rounded in one tier only."""
PUBLISHED_BARRIER = {"block": onchip.BARRIER, "cluster": 0.2, "grid": 1.7}
"""Microseconds. The kernels do without those of clusters, published as under 0.2, and of the grid, 1.2 to 2.2."""
FLOOR = {
    "block": "block_barrier_us",
    "cluster": "handover_in_cluster_us",
    "grid": "handover_us",
    "joint": "handover_us",
}
"""What a step can't do without, of `costs`."""
PUBLISHED_READ = 180 / onchip.CLOCK
"""Microseconds of a read of another block's shared memory."""
WANTED = {"ratio": 2.0, "slowest": 1.0, "forward_ms": 1.0, "step_ms": 2.6}
"""Times cuDNN in the geometric mean, at any point, and milliseconds at the published point."""
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


PUBLISHED = Case(1024, 16, 768, 768, "bfloat16")
AXES: tuple[tuple[Any, ...], ...] = (
    (256, 64, 1024),
    (64, 16, 256, 1),
    (512, 768, 256, 1024, 128, 2048),
    ("bfloat16", "float32", "float16"),
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


def costs(backend: CudaBackend, budget: Budget, count: int = 20000) -> Record:
    """Microseconds of barriers, of a number handed over, of a read of another block's memory, of sums sent."""
    record: Record = {}
    xp, limits, clock = backend.xp, backend.limits, clock_for(backend)
    members = {"block": 1, "cluster": kernels.CLUSTER, "grid": limits.multiprocessors}
    forms = [form for form in members if form != "cluster" or limits.capability >= 90]

    def each(launch: Callable[[int], None]) -> float:
        # The difference of two counts: what the launch itself costs drops out.
        launch(count)
        long, short = (
            statistics.median(clock.seconds(lambda n=n: launch(n)) for _ in range(budget.rounds))  # type: ignore[misc]
            for n in (2 * count, count)
        )
        return (long - short) / count

    for form in forms:
        arrived = xp.zeros((1,), dtype=xp.uint32)
        kernel, blocks = backend.kernel(kernels.barriers(form)), members[form]

        def barriers(number: int, kernel: Any = kernel, blocks: int = blocks, arrived: Any = arrived) -> None:
            arrived[...] = 0
            kernel((blocks,), (kernels.SEQUENCE_THREADS,), (arrived, np.uint32(blocks), np.int32(number)))

        record[f"{form}_barrier_us"] = each(barriers) * 1e6
        record[f"{form}_barrier_expected_us"] = PUBLISHED_BARRIER[form]
    slots = xp.empty((2 * count, limits.multiprocessors), dtype=xp.uint32)
    hand_over = backend.kernel(kernels.handovers())

    def handovers(number: int) -> None:
        slots[...] = 2**32 - 1
        hand_over(
            (limits.multiprocessors,),
            (32,),
            (slots.view(xp.float32), np.uint32(limits.multiprocessors), np.int32(number)),
        )

    record["handover_us"] = each(handovers) * 1e6
    record["handover_expected_us"] = onchip.EXCHANGE["grid"]
    if "cluster" in forms:
        out = xp.zeros((kernels.CLUSTER,), dtype=xp.uint32)
        kernel = backend.kernel(kernels.reads_in_cluster())
        record["read_in_cluster_us"] = each(lambda n: kernel((kernels.CLUSTER,), (32,), (out, np.int32(n)))) * 1e6
        record["read_in_cluster_expected_us"] = PUBLISHED_READ
        numbers = xp.zeros((kernels.CLUSTER,), dtype=xp.float32)
        given = backend.kernel(kernels.handovers_in_cluster())
        record["handover_in_cluster_us"] = (
            each(lambda n: given((kernels.CLUSTER,), (32,), (numbers, np.int32(n)))) * 1e6
        )
        record["handover_in_cluster_expected_us"] = onchip.EXCHANGE["cluster"]
    if limits.clusters:
        blocks, sent = limits.clusters * kernels.CLUSTER, 512 * kernels.CLUSTER
        sums = xp.zeros((blocks, kernels.BLOCK), dtype=xp.float32)
        kernel = backend.kernel(kernels.sums_in_cluster())
        threads = (kernels.BLOCK,)
        record["sums_in_cluster_us"] = each(lambda n: kernel((blocks,), threads, (sums, np.int32(n)), sent + 16)) * 1e6
        record["sums_in_cluster_expected_us"] = onchip.from_others(sent)
    return record


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


class Torch:
    """torch.nn.LSTM with the same weights and inputs, on the same device."""

    def __init__(self, ours: Ours, torch: Any, device: str):
        case, self.torch = ours.case, torch
        kind = getattr(torch, case.dtype)

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

    def in_tf32(self) -> None:
        """A step whose products are in TF32."""
        flags = self.torch.backends.cudnn
        flags.allow_tf32 = True
        self.step()
        flags.allow_tf32 = False

    def results(self) -> dict[str, Any]:
        """Those of `step` in float32, padded with zeros."""
        found = self.step()
        if self.lengths is not None:
            rnn = self.torch.nn.utils.rnn
            dx = rnn.PackedSequence(found["dx"], *self.x[1:])
            found |= {name: rnn.pad_packed_sequence(packed)[0] for name, packed in (("y", found["y"]), ("dx", dx))}
        return {name: array.detach().float() for name, array in found.items()}


def disagreement(backend: Backend, ours: dict[str, Array], theirs: dict[str, Any], case: Case) -> float:
    """Largest difference of all results, relative to the largest number of each.

    Raises
    ------
    RuntimeError
        It is more than rounding.
    """
    xp, worst = backend.xp, 0.0
    for name, array in theirs.items():
        expected = xp.from_dlpack(array)
        difference = xp.max(xp.abs(backend.widened(ours[name]) - expected)) / xp.max(xp.abs(expected))
        worst = max(worst, float(difference))
    if not worst < TOLERANCE[case.dtype]:
        raise RuntimeError(f"results at {case} differ by {worst:.1e}; expected less than {TOLERANCE[case.dtype]:.0e}")
    return worst


def one_point(backend: CudaBackend, case: Case, budget: Budget, waiting: Record) -> Record:
    """Ours, PyTorch's, interleaved, with what was expected."""
    torch, device, _ = torch_here(backend)
    ours = Ours(backend, case)
    point: Record = {**asdict(case), "tier": ours.lstm.plan.tier}
    for direction in onchip.DIRECTIONS:
        layout = onchip.choose(backend.limits, direction, case.batch, case.hidden, case.dtype)
        if isinstance(layout, str) or not onchip.pays(backend.limits, direction, case.batch, case.hidden, case.dtype):
            point[direction] = {"layout": layout if isinstance(layout, str) else "pointwise is expected to be faster"}
            continue
        point[direction] = {
            "layout": layout.describe(),
            "expected_us_a_step": layout.microseconds,
            "floor_us_a_step": waiting[FLOOR[layout.form]],
        }
    sides: dict[str, Callable[[], object]] = {"ours": ours.step, "ours_forward": ours.forward}
    if torch is not None:
        theirs = Torch(ours, torch, device)
        point["largest_relative_difference"] = disagreement(backend, ours.step(), theirs.results(), case)
        sides |= {"torch": theirs.step, "torch_forward": theirs.forward}
    if case.dtype == "float32":
        if torch is not None:
            sides["torch_tf32"] = theirs.in_tf32
        rounding = copy.copy(backend)
        rounding.tf32 = True
        sides["ours_tf32"] = Ours(rounding, case).step
    times, medians = alternating(backend, sides, budget)
    point |= times
    if torch is not None:
        point["ratio"] = medians["torch"] / medians["ours"]
        if "torch_tf32" in medians:
            point["ratio_tf32"] = medians["torch_tf32"] / medians["ours_tf32"]
    return point


def against_torch(backend: Backend, budget: Budget, cases: list[Case] | None = None, count: int = 20000) -> Record:
    """The costs of waiting, then as many points of the grid as there is time for; one that fails stops no other."""
    if not isinstance(backend, CudaBackend):
        return {"missing": f"backend {backend.name} has no sequence kernels of CUDA"}
    cases = grid() if cases is None else cases
    record: Record = {"costs": costs(backend, budget, count), "points": []}
    torch, _, lacking = torch_here(backend)
    if torch is None:
        record["missing"] = f"{lacking}: ours alone"
    else:
        record |= {"torch": torch.__version__, "cudnn": torch.backends.cudnn.version()}
    for case in budget.within(cases, record):
        try:
            point = one_point(backend, case, budget, record["costs"])
        except Exception as error:  # PyTorch's and CuPy's are of many kinds
            point = {**asdict(case), "error": f"{type(error).__name__}: {error}"}
        backend.release()  # the two libraries don't see what the other one keeps
        if torch is not None:
            torch.cuda.empty_cache()
        record["points"].append(point)
        times = {side: f"{found['median'] * 1e3:.3f} ms" for side, found in point.get("seconds", {}).items()}
        print(f"  {case}: {times or point['error']}", flush=True)
    ratios = [point["ratio"] for point in record["points"] if "ratio" in point]
    if ratios:
        record |= {"geometric_mean_ratio": statistics.geometric_mean(ratios), "slowest_ratio": min(ratios)}
        record["reached"] = record["geometric_mean_ratio"] >= WANTED["ratio"] and min(ratios) >= WANTED["slowest"]
        head = record["points"][0]
        if cases[0] == PUBLISHED and "seconds" in head:
            forward, step = (head["seconds"][side]["median"] * 1e3 for side in ("ours_forward", "ours"))
            record["reached"] &= forward <= WANTED["forward_ms"] and step <= WANTED["step_ms"]
    if errors := [point["error"] for point in record["points"] if "error" in point]:
        record["error"] = f"{len(errors)} points failed, the first: {errors[0]}"
    return record


def shapes_against_torch(backend: Backend, budget: Budget) -> Record:
    """The same over `shapes`."""
    return against_torch(backend, budget, shapes())


BESIDE = [
    Case(1024, 64, 256, 256),
    Case(1024, 64, 256, 256, "bfloat16"),
    Case(256, 64, 256, 256, layers=3),
    Case(1024, 64, 512, 512, "bfloat16"),
    Case(2048, 16, 256, 256, directions=2),
    Case(1024, 64, 128, 128),
    Case(1024, 64, 256, 256, layers=3, packed=True),
]
"""Where products are expected to pay beside a recurrence, forward, backward or in both."""


def beside(backend: Backend, budget: Budget, cases: list[Case] | None = None) -> Record:
    """Training steps with products beside the recurrence and with them after it: the same bits, and both times."""
    if not isinstance(backend, CudaBackend):
        return {"missing": f"backend {backend.name} has no sequence kernels of CUDA"}
    record: Record = {"points": []}
    for case in budget.within(BESIDE if cases is None else cases, record):
        both, after = Ours(backend, case), Ours(backend, case)
        run = after.lstm.plan.run
        kept = ("forward", "backward", "forward_all", "backward_all", "TAKES")
        without = SimpleNamespace(**{name: getattr(run, name) for name in kept})  # no `room_beside`
        after.lstm.plan = replace(after.lstm.plan, run=without)
        found, expected = both.step(), after.step()
        for name, array in expected.items():
            if backend.to_numpy(array).tobytes() != backend.to_numpy(found[name]).tobytes():
                raise RuntimeError(f"{name} at {case} has other bits with products beside the recurrence")
        times, medians = alternating(backend, {"beside": both.step, "after": after.step}, budget)
        saved = (medians["after"] - medians["beside"]) * 1e6
        point = {**asdict(case), **times, "saved_us": saved, "expected_saved_us": expected_saved(backend, case)}
        record["points"].append(point)
        print(f"  {case}: {saved:.0f} us saved, {point['expected_saved_us']:.0f} expected", flush=True)
    return record


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


def soak(backend: Backend, budget: Budget, largest: tuple[int, int, int] = (300, 300, 1400)) -> Record:
    """Random problems until the time is up, the sequence tier against the pointwise tier; a hang never comes back."""
    if not isinstance(backend, CudaBackend):
        return {"missing": f"backend {backend.name} has no sequence kernels of CUDA"}
    rng = np.random.default_rng()
    forms = dict.fromkeys(onchip.BUFFERS, 0)
    worst, refused, begun = 0.0, 0, time.monotonic()
    while budget.left:
        steps, batch, hidden = (int(limit ** rng.random()) for limit in largest)
        dtype, reverse = str(rng.choice(["float32", "float16"])), bool(rng.integers(2))
        if onchip.obstacle(backend.limits, hidden, dtype):
            refused += 1
            continue
        lengths = rng.integers(1, steps + 1, batch)
        mask = Mask(lengths, backend.asarray(np.arange(steps)[:, None, None] < lengths[:, None]))
        weight_hh, z, dh = (
            backend.asarray(array.astype(np.float32), dtype)
            for array in (
                rng.uniform(-(hidden**-0.5), hidden**-0.5, (4 * hidden, hidden)),
                rng.standard_normal((steps, batch, 4 * hidden)),
                rng.standard_normal((steps, batch, hidden)),
            )
        )
        results = []
        for tier in (pointwise_cuda, sequence_cuda):
            saved = tier.forward(backend, backend.xp.asarray(z, copy=True), weight_hh, None, None, mask, reverse)
            results.append([saved.h, *tier.backward(backend, saved, dh, None, None)])
        for expected, actual in zip(*(map(backend.to_numpy, arrays) for arrays in results), strict=True):
            there = expected.astype(np.float32)
            error = np.max(np.abs(actual.astype(np.float32) - there)) / max(float(np.max(np.abs(there))), 0.1)
            worst = max(worst, float(error))
            if not error < SOAK_TOLERANCE[dtype]:
                problem = f"T={steps}, B={batch}, H={hidden}, {dtype}, reverse={reverse}, lengths={lengths.tolist()}"
                raise RuntimeError(f"the tiers differ by {error:.1e} at {problem}")
        layout = onchip.choose(backend.limits, "forward", batch, hidden, dtype)
        forms[layout.form if not isinstance(layout, str) else layout] += 1
    took = time.monotonic() - begun
    return {"seconds": took, "problems": forms, "refused": refused, "largest_relative_difference": worst}
