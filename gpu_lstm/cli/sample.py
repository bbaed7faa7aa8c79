"""``gpu-lstm sample``: text from a trained language model."""

from __future__ import annotations

import argparse
import sys

from gpu_lstm.backend import choose
from gpu_lstm.cli.options import Parsers, add_device, add_parser, add_run, find_checkpoint, positive
from gpu_lstm.data.tokens import read_vocabulary
from gpu_lstm.errors import InputError
from gpu_lstm.layers.base import check_seed
from gpu_lstm.models import LanguageModel
from gpu_lstm.training.checkpoint import load_model


def add_command(commands: Parsers) -> None:
    """Add the command."""
    parser = add_parser(commands, "sample", run, "write text with a trained language model")
    add_run(parser)
    parser.add_argument("--prompt", help="text to go on from; a new line if not given")
    parser.add_argument("--length", type=positive, default=500, help="characters to write")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 always the likeliest, 1 as learned")
    parser.add_argument("--seed", type=int, default=0)
    add_device(parser)


def run(options: argparse.Namespace) -> int:
    """Print the prompt and its continuation, character by character."""
    path = find_checkpoint(options.checkpoint, "text")
    check_seed(options.seed, "--seed")
    model, description = load_model(path, "text", choose(options.backend), options.tier)
    assert isinstance(model, LanguageModel)
    vocabulary = Vocabulary(description.get("vocabulary", ""))
    if len(vocabulary) != model.config["vocabulary_size"]:
        raise InputError(f"checkpoint {path} has a vocabulary of {len(vocabulary)}; its model has another")
    text = first_prompt(vocabulary) if options.prompt is None else options.prompt
    prompt = vocabulary.encode(text)
    unknown = sorted({c for c, token in zip(text, prompt, strict=True) if token == 0})
    if unknown:
        raise InputError(f"--prompt has characters that the model never saw: {', '.join(map(repr, unknown))}")
    drawn = model.sample(prompt, options.length, options.temperature, options.seed, never=(0,))
    sys.stdout.write(text.lstrip("\n"))
    for token in drawn:
        sys.stdout.write(vocabulary.characters[token])
        sys.stdout.flush()
    sys.stdout.write("\n")
    return 0
