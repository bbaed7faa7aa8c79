"""Training steps replayed as a CUDA graph against the same launch by launch, where steps wait for the host."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np

from benchmarks.on_gpu import Log, Record
from gpu_lstm.backend import Backend
from gpu_lstm.models import LanguageModel
from gpu_lstm.training import Event, Settings, Training
from gpu_lstm.training.tasks import TextTask

VOCABULARY = 65
CASES = list(
    product([(16, 64, 128, 1), (16, 64, 256, 1), (64, 64, 256, 2), (16, 256, 512, 1)], ("float32", "bfloat16"))
)
"""B, T, H and layers, and the dtype: from steps that take a tenth of a millisecond to steps that take some."""
COMPARED = 5
"""Steps whose losses are compared to the last bit."""

Case = tuple[tuple[int, int, int, int], str]


def training(backend: Backend, case: Case, graph: bool) -> Training:
    """A language model on random characters, its dropout on."""
    (batch, length, hidden, layers), dtype = case
    model = LanguageModel(VOCABULARY, 64, hidden, layers, dropout=0.2, backend=backend, dtype=dtype)
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, 16 * batch * length)
    task = TextTask(model, tokens, batch, length, validation=0.2, seed=0)
    return Training(task, Settings(epochs=10**6, learning_rate=1e-3, schedule="constant", validations=0), graph=graph)


def stepper(training: Training, events: list[Event]) -> Callable[[], object]:
    """A function that takes a step."""
    return lambda: training.go(events.append, lambda: True)


def graphs(backend: Backend, log: Log) -> None:
    """Time of a whole training step both ways, and whether both give the same losses to the last bit."""
    for case in [((3, 5, 5, 1), "float32")] if log.rehearse else CASES:
        (batch, length, hidden, layers), dtype = case
        name = f"graph at B={batch} T={length} H={hidden} {layers} layers {dtype}"
        log.item(name, both_ways, backend, log, case)


def both_ways(backend: Backend, log: Log, case: Case) -> Record:
    """One of them.

    Raises
    ------
    RuntimeError
        The losses differ.
    """
    told: dict[str, list[Event]] = {"launches": [], "graph": []}
    sides = {side: stepper(training(backend, case, side == "graph"), events) for side, events in told.items()}
    for step in sides.values():
        for _ in range(COMPARED):
            step()
    losses, others = ([(event.loss, event.norm) for event in events] for events in told.values())
    if losses != others:
        raise RuntimeError(f"losses and norms differ: {losses} launch by launch, {others} as a graph")
    times, medians = log.alternate(sides)
    ratio = medians["launches"] / medians["graph"]
    said = f"{medians['launches'] * 1e6:.0f} us, as a graph {medians['graph'] * 1e6:.0f} us"
    return {"case": case, **times, "launches_over_graph": ratio, "said": said}
