"""``gpu-lstm quantize``: a trained model with weights of 8 bits, or of bfloat16, as a smaller checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from gpu_lstm.backend import choose
from gpu_lstm.cli.opening import opened
from gpu_lstm.cli.options import Parsers, add_parser, add_run, place_for, quoted
from gpu_lstm.errors import InputError
from gpu_lstm.models import MODELS, quantize
from gpu_lstm.training.checkpoint import save_model
from gpu_lstm.training.folder import QUANTIZED


def add_command(commands: Parsers) -> None:
    """Add the command."""
    parser = add_parser(commands, "quantize", run, "write a trained model with weights of 8 bits")
    add_run(parser)
    parser.add_argument("--weights", default="int8", choices=QUANTIZED, help="int8: a quarter; bfloat16: half of it")
    parser.add_argument("--out", type=Path, help="file to write; model-int8.safetensors beside the model if not given")


def run(options: argparse.Namespace) -> int:
    """Write the file; print how large it is."""
    with opened(options, *MODELS) as found:
        path, description = found.path, found.description
        out = place_for("--out", options.out, path.parent, QUANTIZED[options.weights], path)
        model = found.model(choose("numpy"))
    if model.weights:
        raise InputError(f"checkpoint {path} has weights of {model.weights} already; expected the one it was made of")
    description.pop("format", None)
    save_model(out, quantize(model, options.weights), description)
    small, large = out.stat().st_size, path.stat().st_size
    print(f"wrote {out}: {small:,} bytes, {small / large:.0%} of {path}; `gpu-lstm evaluate {quoted(out)}` measures it")
    return 0
