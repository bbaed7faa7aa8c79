"""What each option of the LSTM family costs on a device: a part of `benchmarks.run_on_gpu`.

A training step with the option, on the tier that the plan takes, against the plain LSTM's and against the same on the
pointwise tier, in turns; their results were compared before. Beside it the layout, and the step that was expected.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, cast

import numpy as np

from benchmarks.on_gpu import Log, Record
from benchmarks.sequence_on_gpu import Case, disagreement
from gpu_lstm.backend import Array, Backend
from gpu_lstm.backend.cuda import CudaBackend
from gpu_lstm.layers import LSTM
from gpu_lstm.recurrence.cuda import explain, planner
from gpu_lstm.recurrence.cuda.layout import DIRECTIONS

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "peepholes": {"peepholes": True},
    "coupled": {"coupled": True},
    "hard_sigmoid": {"hard_sigmoid": True},
    "clip": {"clip": 3.0},
    "cell_clip": {"cell_clip": 3.0},
    "proj_size H/2": {"proj_size": 128},
    "zoneout_h": {"zoneout_h": 0.1},
    "zoneout_c": {"zoneout_c": 0.1},
    "recurrent_dropout": {"recurrent_dropout": 0.1},
    "heads 4": {"heads": 4},
    "cells": {"cells": True},
    "peepholes, projection, clip": {"peepholes": True, "proj_size": 128, "cell_clip": 3.0},
    "layer_norm": {"layer_norm": True},
}
CASES = [Case(256, 64, 512, 512, dtype) for dtype in ("bfloat16", "float32")]
RESETS = "resets"
"""Beside `VARIANTS`: an argument of forward."""


class Step:
    """A training step of one layer with these options on a tier."""

    def __init__(self, backend: Backend, case: Case, options: dict[str, Any], tier: str, resets: bool) -> None:
        self.backend = backend
        scaled: dict[str, Any] = {
            name: case.hidden // 2 if name == "proj_size" else value for name, value in options.items()
        }
        self.lstm = LSTM(case.width, case.hidden, backend=backend, dtype=case.dtype, tier=tier, **scaled)
        rng = np.random.default_rng(0)
        rows = case.steps, case.batch
        self.x = backend.asarray(rng.standard_normal((*rows, case.width), dtype=np.float32), case.dtype)
        self.dy = backend.asarray(rng.standard_normal((*rows, self.lstm.output_size), dtype=np.float32), case.dtype)
        self.resets = rng.random(rows) < 0.01 if resets else None

    def __call__(self) -> dict[str, Array]:
        """The results."""
        y, _, tape = self.lstm.forward(self.x, seed=(1,), resets=self.resets)
        cells = self.lstm.options.cells
        dx, _, gradients = self.lstm.backward(tape, (self.dy, None) if cells else self.dy)
        return {"y": y[0] if cells else y, "dx": dx, **gradients}

    def layouts(self, case: Case) -> Record:
        """What the sequence tier does, where it runs."""
        backend, options = cast(CudaBackend, self.backend), self.lstm.options.recurrent()
        found = {}
        for name in DIRECTIONS:
            cells = planner.cells_of(name, options | ({RESETS} if self.resets is not None else set()))
            layout = planner.choose(backend.limits, name, case.batch, case.hidden, case.dtype, 1, cells)
            found[name] = layout if isinstance(layout, str) else explain.describe(layout)
        return found


def options(backend: Backend, log: Log) -> None:
    """Every option at every size, as many as there is time for."""
    names = [*(name for name in VARIANTS if name != "plain"), RESETS]
    cases = list(product(CASES, names))
    for case, name in [(Case(3, 2, 4, 8), "zoneout_h")] if log.rehearse else cases:
        log.item(f"{name} at {case}", one_point, backend, log, case, name)


def one_point(backend: Backend, log: Log, case: Case, name: str) -> Record:
    """An option at a size."""
    options = VARIANTS.get(name, {})
    ours, pointwise = (Step(backend, case, options, tier, name == RESETS) for tier in ("auto", "pointwise"))
    expected = {key: backend.widened(array) for key, array in pointwise().items()}
    difference = disagreement(backend, ours(), expected, case)
    sides: dict[str, Callable[[], object]] = {
        "plain": Step(backend, case, {}, "auto", False),
        "ours": ours,
        "pointwise": pointwise,
    }
    times, medians = log.alternate(sides)
    plain, ratio = medians["ours"] / medians["plain"], medians["pointwise"] / medians["ours"]
    said = f"{plain:.2f} of plain on the {ours.lstm.plan.tier} tier, {ratio:.2f} times as fast as pointwise"
    return {
        "tier": ours.lstm.plan.tier,
        **(ours.layouts(case) if ours.lstm.plan.tier == "sequence" else {}),
        "largest_relative_difference": difference,
        **times,
        "times_plain": plain,
        "times_pointwise": ratio,
        "said": said,
    }
