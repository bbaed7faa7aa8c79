"""What each option of the LSTM family costs against the plain LSTM, and all beside torch.nn.LSTMCell step by step.

    python -m benchmarks.compare_variants --rounds 9
    python -m benchmarks.compare_variants --rounds 9 --processor-time

The loop over torch.nn.LSTMCell is the plain LSTM: what a variant written in PyTorch costs at least. Training is timed
with a seed, so that dropouts and zoneout draw their noise. With --processor-time the compiled kernels and PyTorch run
on one thread, and the times are those that the processor worked: for a machine that others use too.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gpu_lstm.backend import NumpyBackend
from gpu_lstm.bench import record, threads
from gpu_lstm.bench.grid import Size
from gpu_lstm.bench.method import Patience, Times, interleave, ratio
from gpu_lstm.layers import LSTM

SIZE = (64, 32, 128, 256)
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
TORCH = "torch.nn.LSTMCell"


class ProcessorClock:
    """Processor time of this process."""

    kind = "processor"

    def seconds(self, step: Callable[[], object]) -> float:
        begun = time.process_time()
        step()
        return time.process_time() - begun


def our_step(size: Size, options: dict[str, Any], training: bool, tier: str) -> Callable[[], object]:
    """A training step, or inference, of one layer."""
    steps, batch, inputs, hidden = size
    lstm = LSTM(inputs, hidden, backend=NumpyBackend(), tier=tier, **options)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((steps, batch, inputs), dtype=np.float32)
    dy: Any = rng.standard_normal((steps, batch, lstm.output_size), dtype=np.float32)
    if lstm.options.cells:
        dy = (dy, rng.standard_normal((steps, batch, hidden), dtype=np.float32))

    def train() -> object:
        _, _, tape = lstm.forward(x, seed=(1,))
        return lstm.backward(tape, dy)

    return train if training else lambda: lstm.forward(x, keep=False)


def torch_step(size: Size, training: bool) -> Callable[[], object]:
    """The same of a loop over torch.nn.LSTMCell."""
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(threads.count())
    steps, batch, inputs, hidden = size
    cell: Any = torch.nn.LSTMCell(inputs, hidden)
    x, dy = torch.randn(steps, batch, inputs), torch.randn(steps, batch, hidden)

    def run() -> Any:
        state, outputs = None, []
        for x_t in x:
            state = cell(x_t, state)
            outputs.append(state[0])
        return torch.stack(outputs)

    def train() -> None:
        cell.zero_grad()
        x.grad = None
        run().backward(dy)

    def infer() -> Any:
        with torch.inference_mode():
            return run()

    if training:
        x.requires_grad_()
    return train if training else infer


def compare(size: Size, rounds: int, tier: str, clock: ProcessorClock | None, wait: float) -> dict[str, Any]:
    """All variants at one size, with a table."""
    found: dict[str, Any] = {"size": size, "tier": tier, "clock": clock.kind if clock else "wall"}
    times: dict[str, Times] = {}
    for kind in ("training", "inference"):
        steps = {name: our_step(size, given, kind == "training", tier) for name, given in VARIANTS.items()}
        steps[TORCH] = torch_step(size, kind == "training")
        times[kind] = interleave(steps, rounds, Patience(wait), dict.fromkeys(steps, clock) if clock else None)
    print(f"{'T, B, D, H = ' + str(size):>30} {'training ms':>12} {'/ plain':>8} {'inference ms':>13} {'/ plain':>8}")
    for name in times["training"]:
        parts = []
        for kind in times:
            seconds, cost = times[kind][name], ratio(times[kind]["plain"], times[kind][name])
            found.setdefault(kind, {})[name] = {"seconds": seconds, **cost}
            parts += [f"{statistics.median(seconds) * 1e3:.2f}", f"{cost['ratio']:.2f}"]
        print(f"{name:>30} {parts[0]:>12} {parts[1]:>8} {parts[2]:>13} {parts[3]:>8}", flush=True)
    return found


def main() -> None:
    """Measure, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", default="auto")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--size", type=int, nargs=4, metavar=("T", "B", "D", "H"), default=SIZE)
    parser.add_argument("--processor-time", action="store_true")
    parser.add_argument("--wait", type=float, default=10.0, help="seconds to wait for a quiet machine before each step")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.processor_time:
        threads.set_variables(1, os.environ)
    found = record.provenance(record.command_line("python -m benchmarks.compare_variants"))
    clock = ProcessorClock() if options.processor_time else None
    found |= compare(tuple(options.size), options.rounds, options.tier, clock, options.wait)
    record.write(found, options.out)


if __name__ == "__main__":
    main()
