"""The operations of a training step, one by one, watched from outside: layers and tiers know nothing of it.

`tracing` replaces functions by ones that note begin and end, and puts the old ones back when it ends; outside of it
nothing costs anything. On a CPU the marks are times; on a GPU they are events on the current stream, read when all
is done, and each span is an NVTX range too, so that Nsight Systems shows the same names.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

from gpu_lstm import ops
from gpu_lstm.backend import Backend
from gpu_lstm.bench.method import on_gpu
from gpu_lstm.layers import LSTM, Layer
from gpu_lstm.models import language
from gpu_lstm.native import compiled
from gpu_lstm.optimizers import Optimizer
from gpu_lstm.recurrence import reference

OF_BACKEND = ("matmul", "upload", "read", "record")
OF_OPS = ("product", "weight_gradients", "take_rows", "scatter_add", "dropout", "softmax_cross_entropy", "norm")
"""What is watched besides layers and the recurrence; ``update`` is what an optimizer's own span holds."""


@dataclass
class Span:
    """One call: its name, when it began and ended in seconds from the start, the span around it."""

    name: str
    begin: Any
    end: Any = None
    parent: Span | None = None
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Duration."""
        return float(self.end - self.begin)

    @property
    def path(self) -> tuple[str, ...]:
        """Names from the outermost span to this one."""
        return (*(self.parent.path if self.parent else ()), self.name)


class HostMarks:
    """Marks are wall-clock seconds."""

    kind = "wall"

    def mark(self) -> float:
        """Now."""
        return time.perf_counter()

    def push(self, name: str) -> None:
        """A range begins."""

    def pop(self) -> None:
        """The innermost range ends."""

    def resolve(self, marks: list[Any]) -> list[float]:
        """Seconds since the first mark."""
        return [mark - marks[0] for mark in marks]


class DeviceMarks:
    """Marks are events on CuPy's current stream, ranges are NVTX ranges."""

    kind = "device events"

    def __init__(self, cupy: Any):
        self._cuda = cupy.cuda

    def mark(self) -> Any:  # noqa: D102
        event = self._cuda.Event()
        event.record()
        return event

    def push(self, name: str) -> None:  # noqa: D102
        self._cuda.nvtx.RangePush(name)

    def pop(self) -> None:  # noqa: D102
        self._cuda.nvtx.RangePop()

    def resolve(self, marks: list[Any]) -> list[float]:  # noqa: D102
        marks[-1].synchronize()
        return [float(self._cuda.get_elapsed_time(marks[0], mark)) / 1e3 for mark in marks]


class Tracer:
    """Collects `spans`, in the order of their beginnings; their times are in seconds after `finish`."""

    def __init__(self, backend: Backend):
        self.marks = DeviceMarks(backend.xp) if on_gpu(backend) else HostMarks()
        self.spans: list[Span] = []
        self._open: list[Span] = []
        self._order: list[tuple[Span, str]] = []

    @contextmanager
    def span(self, name: str, **detail: Any) -> Iterator[None]:
        """Note what runs inside as one span."""
        span = Span(name, self.marks.mark(), parent=self._open[-1] if self._open else None, detail=detail)
        self._order.append((span, "begin"))
        self.spans.append(span)
        self._open.append(span)
        self.marks.push(name)
        try:
            yield
        finally:
            self.marks.pop()
            self._open.pop()
            span.end = self.marks.mark()
            self._order.append((span, "end"))

    def watch(self, function: Callable[..., Any], name: str | Callable[..., str]) -> Callable[..., Any]:
        """`function`, each call of it a span; `name` may be made from the call's arguments."""

        def watched(*arguments: Any, **named: Any) -> Any:
            label = name if isinstance(name, str) else name(*arguments, **named)
            with self.span(label):
                return function(*arguments, **named)

        return watched

    def finish(self) -> None:
        """Turn all marks into seconds since the first."""
        if not self._order:
            return
        resolved = self.marks.resolve([getattr(span, end) for span, end in self._order])
        for (span, end), seconds in zip(self._order, resolved, strict=True):
            setattr(span, end, seconds)


@contextmanager
def tracing(
    layers: Mapping[str, Layer], optimizer: Optimizer | None = None, more: Mapping[str, tuple[Any, str]] | None = None
) -> Iterator[Tracer]:
    """Watch layers, their backend, the compiled kernels, the loss and an optimizer until the block ends.

    `layers` are as a model has them; `more` has further functions to watch, (owner, attribute) by name.
    """
    backend = next(iter(layers.values())).backend
    tracer = Tracer(backend)
    with ExitStack() as stack:

        def watch(owner: Any, attribute: str, name: str | Callable[..., str]) -> None:
            stack.enter_context(replaced(owner, attribute, tracer.watch(getattr(owner, attribute), name)))

        for title, layer in layers.items():
            if isinstance(layer, LSTM):
                run = replace(
                    layer.plan.run,
                    forward=tracer.watch(layer.plan.run.forward, "recurrence forward"),
                    backward=tracer.watch(layer.plan.run.backward, "recurrence backward"),
                )
                stack.enter_context(replaced(layer, "plan", replace(layer.plan, run=run)))
                stack.enter_context(replaced(layer, "_ops", copy(layer._ops)))
                watch(layer._ops, "product", role)
                watch(layer._ops, "weight_gradients", "weight gradients")
            watch(layer, "forward", f"{title} forward")
            watch(layer, "backward", f"{title} backward")
        for owner, names in ((backend, OF_BACKEND), (ops.of(backend), OF_OPS)):
            for name in names:
                watch(owner, name, name)
        watch(reference, "cell_forward", "cell forward")
        watch(reference, "cell_backward", "cell backward")
        watch(compiled, "call", lambda name, *_: f"kernel {name}")
        watch(language, "softmax_cross_entropy", "loss")
        if optimizer is not None:
            watch(optimizer, "update", "optimizer")
        for name, (owner, attribute) in (more or {}).items():
            watch(owner, attribute, name)
        try:
            yield tracer
        finally:
            tracer.finish()


def role(*arguments: Any, **_: Any) -> str:
    """Which of an LSTM's large products a call of `ops.Arrays.product` is: the projection adds a bias, or None."""
    return "input projection" if len(arguments) > 2 else "input gradient"


@contextmanager
def replaced(owner: Any, attribute: str, value: Any) -> Iterator[None]:
    """Set an attribute of an object or module, and afterwards restore it or let the class's show again."""
    own = attribute in vars(owner)
    before = getattr(owner, attribute)
    setattr(owner, attribute, value)
    try:
        yield
    finally:
        if own:
            setattr(owner, attribute, before)
        else:
            delattr(owner, attribute)


# -- what to make of the spans -----------------------------------------------------------------------------------------

PHASES = (
    "input projection",
    "recurrence forward",
    "recurrence backward",
    "weight gradients",
    "input gradient",
    "optimizer",
)
"""Of a training step of one LSTM layer; the rest is ``other``."""


def by_phase(spans: list[Span], root: str) -> dict[str, float]:
    """Seconds of each phase inside one root span, and of all the rest as ``other``."""
    total = sum(span.seconds for span in spans if span.name == root)
    phases = {phase: sum(span.seconds for span in spans if span.name == phase) for phase in PHASES}
    return {**phases, "other": max(0.0, total - sum(phases.values()))}


@dataclass
class Row:
    """A line of the table: all spans with the same path."""

    path: tuple[str, ...]
    calls: int = 0
    seconds: float = 0.0
    own: float = 0.0


def table(spans: list[Span]) -> list[Row]:
    """Calls, seconds, and seconds outside of inner spans, by path; children after their parents, the longest first."""
    rows: dict[tuple[str, ...], Row] = {}
    for span in spans:
        row = rows.setdefault(span.path, Row(span.path))
        row.calls += 1
        row.seconds += span.seconds
        row.own += span.seconds
        if span.parent is not None:
            rows[span.parent.path].own -= span.seconds

    def below(parent: tuple[str, ...]) -> Iterator[Row]:
        children = [row for row in rows.values() if row.path[:-1] == parent]
        for row in sorted(children, key=lambda row: -row.seconds):
            yield row
            yield from below(row.path)

    return list(below(()))


def chrome(spans: list[Span], about: dict[str, Any]) -> dict[str, Any]:
    """The Trace Event Format that chrome://tracing and Perfetto open; complete events, in microseconds."""
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": 1, "tid": 1, "name": "process_name", "args": {"name": "gpu_lstm"}},
        {"ph": "M", "pid": 1, "tid": 1, "name": "thread_name", "args": {"name": about.get("clock", "training step")}},
    ]
    for span in spans:
        events.append(
            {
                "ph": "X",
                "pid": 1,
                "tid": 1,
                "name": span.name,
                "cat": span.path[1] if len(span.path) > 1 else span.name,
                "ts": span.begin * 1e6,
                "dur": span.seconds * 1e6,
                "args": span.detail,
            }
        )
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": about}
