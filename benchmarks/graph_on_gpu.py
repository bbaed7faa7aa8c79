"""Training steps replayed as a CUDA graph against the same launch by launch, where steps wait for the host."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np

from benchmarks.on_gpu import Budget, Record, alternating
from gpu_lstm.backend import Backend
from gpu_lstm.errors import BackendError
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


def graph_against_launches(backend: Backend, budget: Budget, cases: Sequence[Case] = CASES) -> Record:
    """Time of a whole training step both ways, and whether both give the same losses to the last bit."""
    if not backend.records:
        return {"missing": f"backend {backend.name} has no graphs"}
    record: Record = {"points": []}
    for case in budget.within(cases, record):
        (batch, length, hidden, layers), dtype = case
        point = {"B": batch, "T": length, "H": hidden, "layers": layers, "dtype": dtype}
        events: dict[str, list[Event]] = {"launches": [], "graph": []}
        try:
            sides = {side: stepper(training(backend, case, side == "graph"), told) for side, told in events.items()}
        except BackendError as error:  # no ml_dtypes
            record["points"].append(point | {"missing": str(error)})
            continue
        for step in sides.values():
            for _ in range(COMPARED):
                step()
        losses, others = ([(event.loss, event.norm) for event in told] for told in events.values())
        times, medians = alternating(backend, sides, budget)
        point |= {"same_bits": losses == others, **times, "launches_over_graph": medians["launches"] / medians["graph"]}
        record["points"].append(point)
        name = f"B={batch} T={length} H={hidden} {layers} layer(s) {dtype}"
        print(
            f"  {name:<42} {medians['launches'] * 1e6:7.0f} us, as a graph {medians['graph'] * 1e6:7.0f} us"
            f"{'' if point['same_bits'] else '; the losses differ'}",
            flush=True,
        )
    measured = [point for point in record["points"] if "same_bits" in point]
    if measured:
        record["geometric_mean_ratio"] = statistics.geometric_mean(point["launches_over_graph"] for point in measured)
        record["reached"] = all(point["same_bits"] for point in measured)
    return record
