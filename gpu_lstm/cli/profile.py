"""``gpu-lstm profile``: where the time of a training step goes, operation by operation."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from gpu_lstm.backend import DTYPES
from gpu_lstm.bench import record, threads, trace
from gpu_lstm.cli.options import Parsers, add_device, add_parser, announce, data_path, number, place_for, positive
from gpu_lstm.data.text import read_text
from gpu_lstm.models import LanguageModel
from gpu_lstm.native.kernels import LINES
from gpu_lstm.training import Settings, Training
from gpu_lstm.training.checkpoint import write_whole
from gpu_lstm.training.tasks import TextTask

WARM_UP = 3


def add_command(commands: Parsers) -> None:
    """Add the command."""
    parser = add_parser(commands, "profile", run, "break a training step of a language model down by operation")
    parser.epilog = f"Under NVIDIA's profilers, {LINES}=1 in the environment tells them the lines of the CUDA sources."
    add_device(parser)
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="of what layers pass on")
    parser.add_argument("--embedding-size", type=positive, default=64, help="numbers that stand for a token")
    parser.add_argument("--hidden-size", type=positive, default=256, help="units of each LSTM layer")
    parser.add_argument("--num-layers", type=positive, default=1, help="LSTM layers, one on top of the other")
    parser.add_argument("--dropout", type=number, default=0.1, help="share of outputs of a layer that are put to 0")
    parser.add_argument("--batch", type=positive, default=64, help="sequences per step")
    parser.add_argument("--length", type=positive, default=64, help="time steps of a chunk")
    parser.add_argument("--data", default="shakespeare", help="a UTF-8 text, or the name of the shipped one")
    parser.add_argument("--steps", type=positive, default=5, help="training steps to watch")
    parser.add_argument("--depth", type=positive, default=3, help="levels of the table")
    parser.add_argument("--threads", type=positive, help="those that gpu_lstm takes if not given")
    parser.add_argument("--out", type=Path, help="Chrome trace to write; the next free trace.json if not given")


def run(options: argparse.Namespace) -> int:
    """Watch some steps; print a table, write the trace."""
    out = place_for("--out", options.out, Path(), "trace.json", options.data)
    threads.ensure(options.threads or threads.count(), ["-m", "gpu_lstm", *sys.argv[1:]])
    backend = announce(options)
    tokens, vocabulary = read_text(data_path(options.data))
    model = LanguageModel(
        len(vocabulary), options.embedding_size, options.hidden_size, options.num_layers, options.dropout,
        backend=backend, dtype=options.dtype, tier=options.tier,
    )  # fmt: skip
    task = TextTask(model, tokens, options.batch, options.length, validation=0.1, seed=0)
    steps = WARM_UP + options.steps
    training = Training(task, Settings(-(-steps // task.steps_per_epoch), learning_rate=1e-3, validations=0))

    def train(until: int) -> None:
        training.go(lambda event: None, lambda: training.step == until)

    train(WARM_UP)
    layers, more = {**model.layers, "dropout": model.dropout}, {"training step": (training, "_one_step")}
    with trace.tracing(layers, training.optimizer, more | {"batch": (task.loader, "get")}) as tracer:
        train(steps)
    about = record.provenance(record.command_line("gpu-lstm")) | {
        "backend": backend.name,
        "tier": model.lstm.plan.tier,
        "clock": tracer.marks.kind,
        "steps": options.steps,
    }
    write_whole(out, json.dumps(trace.chrome(tracer.spans, about)).encode())
    print(
        f"language model of {model.count():,} parameters, {model.dtype}, tier {model.lstm.plan.tier}; "
        f"{options.batch} x {options.length} characters a step; mean of {options.steps} steps, {tracer.marks.kind}\n"
    )
    print(table(trace.table(tracer.spans), options.steps, options.depth))
    print(f"\ntrace: {out} (open it in https://ui.perfetto.dev or chrome://tracing)")
    return 0


def table(rows: list[trace.Row], steps: int, depth: int) -> str:
    """Operations, indented by what they are part of: calls, time, time outside of their parts, share of the step."""
    total = sum(row.seconds for row in rows if len(row.path) == 1)
    text = [f"{'operation':<44} {'calls':>6} {'ms':>9} {'own ms':>9} {'of step':>8}"]
    for row in rows:
        if len(row.path) <= depth:
            name = "  " * (len(row.path) - 1) + row.path[-1]
            text.append(
                f"{name:<44} {row.calls / steps:>6.0f} {row.seconds / steps * 1e3:>9.3f} {row.own / steps * 1e3:>9.3f} "
                f"{row.seconds / total:>8.1%}"
            )
    return "\n".join(text)
