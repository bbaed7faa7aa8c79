"""Options and look-ups that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_lstm.backend import VARIABLE, Backend, choose
from gpu_lstm.data import sequences, series, text
from gpu_lstm.errors import InputError
from gpu_lstm.recurrence import TIERS

RUNS = Path("runs")
SHIPPED = {
    "shakespeare": text.SHAKESPEARE,
    "co2": series.CO2,
    "japanese_vowels": sequences.JAPANESE_VOWELS,
}
"""Data sets that come with the package, by the name that checkpoints keep."""

Parsers = Any
"""What ``ArgumentParser.add_subparsers`` returns."""


def add_parser(
    commands: Parsers, name: str, run: Callable[[argparse.Namespace], int], about: str
) -> argparse.ArgumentParser:
    """Add a command and the options that all of them have."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=about, description=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.set_defaults(run=run)
    return parser


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --backend and --tier."""
    parser.add_argument(
        "--backend", help=f"auto, numpy, cupy or cupy:N; the environment variable {VARIABLE} if not given"
    )
    parser.add_argument("--tier", default="auto", choices=("auto", *TIERS), help="how the recurrence is computed")


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the positional argument that says which run or checkpoint."""
    parser.add_argument(
        "checkpoint", nargs="?", type=Path, help="a run's folder or a .safetensors file; the newest run if not given"
    )


def announce(options: argparse.Namespace) -> Backend:
    """Choose the backend and say in one line which it is and why."""
    backend = choose(options.backend)
    print(f"backend: {backend.why}", flush=True)
    return backend


def data_path(name: str) -> Path:
    """Path of a shipped data set, or of the user's file."""
    return SHIPPED.get(name, Path(name))


def find_checkpoint(given: Path | None, kind: str | None) -> Path:
    """The model file that the user means: a file, a run's folder, or the newest run of that kind.

    Raises
    ------
    InputError
        There is none.
    """
    if given is None:
        pattern = f"{kind or '*'}*/model.safetensors"
        found = sorted(RUNS.glob(pattern), key=lambda path: path.stat().st_mtime)
        if not found:
            example = f"gpu-lstm train {kind or 'text'}"
            raise InputError(f"no run found as {RUNS / pattern}; make one with `{example}` or name a checkpoint")
        return found[-1]
    if given.is_dir():
        model = given / "model.safetensors"
        if not model.exists():
            raise InputError(f"folder {given} has no model.safetensors; expected a run of `gpu-lstm train`")
        return model
    return given


def positive(text: str) -> int:
    """Argument type: a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


positive.__name__ = "whole number"


def quoted(path: Path) -> str:
    """A path as one would type it in a shell, never to be taken for an option."""
    import shlex

    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def first_prompt(vocabulary: text.Vocabulary) -> str:
    """What a text begins after: a new line, or where the model never saw one the first character that it knows."""
    return "\n" if "\n" in vocabulary.characters else vocabulary.characters[1]
