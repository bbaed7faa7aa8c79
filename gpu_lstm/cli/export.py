"""``gpu-lstm export``: a trained model as an ONNX file, for any program that runs such files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from gpu_lstm.backend import PARAM_DTYPES, choose
from gpu_lstm.cli.opening import opened
from gpu_lstm.cli.options import Parsers, add_parser, add_run, place_for
from gpu_lstm.models import MODELS
from gpu_lstm.training.checkpoint import write_whole

KEPT = {
    "vocabulary": "characters, in token order, or what bytes and subwords are made of",
    "columns": "names of the columns",
    "classes": "names of the classes",
}
"""What the file keeps of a checkpoint's description, as JSON under these keys of its metadata."""


def add_command(commands: Parsers) -> None:
    """Add the command."""
    parser = add_parser(commands, "export", run, "write a trained model as an ONNX file")
    add_run(parser)
    parser.add_argument("--out", type=Path, help="file to write; model.onnx beside the model if not given")
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=PARAM_DTYPES,
        help="of the weights; ONNX Runtime computes LSTMs in float32 only",
    )


def run(options: argparse.Namespace) -> int:
    """Write the file; print what it takes and gives."""
    from gpu_lstm.interop.onnx import to_onnx

    with opened(options, *MODELS) as found:
        out = place_for("--out", options.out, found.path.parent, "model.onnx", found.path)
        model, description = found.model(choose("numpy")), found.description
    metadata = {name: json.dumps(description[name]) for name in KEPT if name in description}
    file = to_onnx(model, options.dtype, metadata)
    content = file.SerializeToString()
    write_whole(out, content)
    optional = {tensor.name for tensor in file.graph.initializer}
    print(f"wrote {out}: {len(content):,} bytes, {options.dtype}, ONNX operator set {file.opset_import[0].version}")
    for title, values in (("takes", file.graph.input), ("gives", file.graph.output)):
        for value in values:
            print(f"  {title}  {shown(value)}" + (" (may be left out)" if value.name in optional else ""))
    for name in metadata:
        print(f"  keeps  {name}: {KEPT[name]}, as JSON in the metadata")
    return 0


def shown(value: Any) -> str:
    """One line on an input or output."""
    from onnx.helper import tensor_dtype_to_np_dtype

    tensor = value.type.tensor_type
    shape = ", ".join(str(size.dim_param or size.dim_value) for size in tensor.shape.dim)
    return f"{value.name:<9} {tensor_dtype_to_np_dtype(tensor.elem_type)!s:<8} ({shape}): {value.doc_string}"
