"""``gpu-lstm sample``: text from a trained language model."""

from __future__ import annotations

import argparse
import sys

from gpu_lstm.backend import choose
from gpu_lstm.cli.opening import opened
from gpu_lstm.cli.options import Parsers, add_device, add_parser, add_run, number, positive, whole
from gpu_lstm.errors import InputError
from gpu_lstm.layers.base import check_seed
from gpu_lstm.models import LanguageModel


def add_command(commands: Parsers) -> None:
    """Add the command."""
    parser = add_parser(commands, "sample", run, "write text with a trained language model")
    add_run(parser)
    parser.add_argument("--prompt", help="text to go on from; a new line if not given")
    parser.add_argument("--length", type=positive, default=500, help="characters to write")
    parser.add_argument("--temperature", type=number, default=0.8, help="0 always the likeliest, 1 as learned")
    parser.add_argument("--top-k", type=whole, default=0, metavar="K", help="draw among the K likeliest tokens; 0 all")
    parser.add_argument(
        "--top-p", type=number, default=1.0, metavar="P",
        help="draw among the likeliest tokens that have a share P of the probability together; 1 all",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same text")
    add_device(parser)


def run(options: argparse.Namespace) -> int:
    """Print the prompt and its continuation, character by character."""
    check_seed(options.seed, "--seed")
    with opened(options, "text") as found:
        model = found.model(choose(options.backend), options.tier)
    assert isinstance(model, LanguageModel)
    vocabulary = model.vocabulary
    if len(vocabulary) != model.config["vocabulary_size"]:
        raise InputError(f"checkpoint {found.path} has a vocabulary of {len(vocabulary)}; its model has another")
    text = vocabulary.first if options.prompt is None else options.prompt
    if unknown := vocabulary.lacks(text):
        raise InputError(f"--prompt has characters that the model never saw: {', '.join(map(repr, unknown))}")
    sys.stdout.write(text.lstrip("\n"))
    limits = options.top_k, options.top_p
    for part in model.sample(text, options.length, options.temperature, options.seed, (), *limits):
        sys.stdout.write(part)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return 0
