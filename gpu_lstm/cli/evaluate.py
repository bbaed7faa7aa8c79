"""``gpu-lstm evaluate``: how good a model is on data that it never trained on, beside simple ones."""

from __future__ import annotations

import argparse

from gpu_lstm.cli.measures import MEASURES
from gpu_lstm.cli.opening import opened
from gpu_lstm.cli.options import Parsers, add_device, add_parser, add_run, announce, data_path
from gpu_lstm.cli.series import add_time_options, read_otherwise
from gpu_lstm.cli.tables import add_table_options
from gpu_lstm.errors import InputError
from gpu_lstm.layers.overtime import MODES, check


def add_command(commands: Parsers) -> None:
    """Add the command."""
    parser = add_parser(commands, "evaluate", run, "measure a trained model on data that it never saw")
    add_run(parser)
    parser.add_argument("--data", help="other data, all of it; the held-out part of the training data if not given")
    parser.add_argument(
        "--include", nargs="+", metavar="PATTERN",
        help="files to take of a folder of texts given with --data; all but hidden ones if not given",
    )  # fmt: skip
    parser.add_argument(
        "--parallel", choices=MODES,
        help="go through long sequences in parallel over time where that pays; a text is one sequence then. exact: to "
        "the same bits, which small models allow; rounded: with h and c rounded every 128 steps, which others need; "
        "step after step if not given",
    )  # fmt: skip
    add_device(parser)
    add_time_options(parser)
    add_table_options(parser)


def run(options: argparse.Namespace) -> int:
    """Load whatever kind the checkpoint is, and measure it."""
    if options.include and not options.data:
        raise InputError("--include is for other data: --data names them")
    with opened(options, *MEASURES) as found:
        model = found.model(announce(options), options.tier)
        print(f"checkpoint: {found.path}")
        if options.parallel:
            model.lstm.parallel = options.parallel
            check(options.parallel, model.lstm.plan.run)
        data = data_path(found.data(options.data))
        plain = {**found.description["options"]} | ({"include": options.include} if options.data else {})
        description = {**found.description, "options": plain}
        read_otherwise(description, options)
        MEASURES[found.kind](model, description, data, found if options.data else None)
        for report in model.lstm.plan.over_time:
            print(report)
    return 0
