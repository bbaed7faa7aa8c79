"""Options and look-ups that several commands share."""

from __future__ import annotations

import argparse
import atexit
import functools
import math
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from gpu_lstm.backend import VARIABLE, Backend, choose
from gpu_lstm.cli.parallel import announce_of_rank
from gpu_lstm.data import sequences, series, text
from gpu_lstm.errors import InputError, naming
from gpu_lstm.parallel import Communicator
from gpu_lstm.recurrence import TIERS
from gpu_lstm.training.folder import MADE, is_run

RUNS = Path("runs")
SHIPPED = {"shakespeare": text.SHAKESPEARE, "co2": series.CO2, "japanese_vowels": sequences.JAPANESE_VOWELS}
"""Data sets that come with the package, by the name that checkpoints keep."""
BEGINNINGS = {
    b"\x1f\x8b": ".gz", b"\xfd7zXZ\0": ".xz", b"PAR1": ".parquet", b"\x93NUMPY": ".npy", b"PK\3\4": ".npz"
}  # fmt: skip
"""How kinds of files begin that are known by their name's end."""

Parsers = Any
"""What ``ArgumentParser.add_subparsers`` returns."""


class Defaults(argparse.HelpFormatter):
    """Shows an option's default after its help; where it has none, the help says what that means."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        has_one = not any(action.default is none for none in (None, False, argparse.SUPPRESS))
        has_one = has_one and action.default not in ([], "")
        if not (action.help and has_one and (action.option_strings or action.nargs in ("?", "*"))):
            return action.help
        return action.help if "%(default)" in action.help else f"{action.help} (default: %(default)s)"


def add_parser(
    commands: Parsers, name: str, run: Callable[[argparse.Namespace], int], about: str
) -> argparse.ArgumentParser:
    """Add a command and the options that all of them have."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=about, description=about, formatter_class=Defaults)
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


def announce(options: argparse.Namespace, ranks: Communicator | None = None) -> Backend:
    """Choose the backend, that of each of some ranks, and say in one line which it is and why."""
    if ranks is not None and ranks.size > 1:
        return announce_of_rank(options.backend, ranks)
    backend = choose(options.backend)
    print(f"backend: {backend.why}", flush=True)
    return backend


def data_path(name: str) -> Path:
    """Path of a shipped data set, of the user's file, or of a copy of standard input, which is called ``-``."""
    return SHIPPED.get(name) or (standard_input(sys.stdin) if name == "-" else Path(name))


@functools.cache
def standard_input(stream: TextIO | None) -> Path:
    """Path of a file with all that is piped in, which lasts as long as the process; for data are read twice.

    Raises InputError where nothing is piped in.
    """
    if stream is None or stream.isatty():
        raise InputError("data is -, which is standard input, and nothing is piped into it")
    folder = Path(tempfile.mkdtemp(prefix="gpu_lstm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "standard_input"
    with naming(path), open(path, "wb") as file:
        shutil.copyfileobj(stream.buffer, file)
    if not path.stat().st_size:
        raise InputError("data is -, which is standard input, and that is empty")
    with open(path, "rb") as file:
        start = file.read(6)
    kind = next((suffix for first, suffix in BEGINNINGS.items() if start.startswith(first)), "")
    return path.rename(path.with_name(path.name + kind))


def next_free(path: Path) -> Path:
    """The path, with a number where something has that name already."""
    free, number = path, 1
    while free.exists():
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    return free


def place_for(option: str, given: Path | None, folder: Path, name: str, *read: str | Path) -> Path:
    """Where to write: what the user gave, else a file in the folder; never an older one, but for those that a run made.

    Raises InputError where what was given is a folder, lies in none, or is among the files that are `read`.
    """
    if given is None:
        return folder / name if name in MADE and is_run(folder) else next_free(folder / name)
    if given.is_dir():
        raise InputError(f"{option} {given} is a folder; expected a file to write")
    if not given.resolve().parent.is_dir():
        raise InputError(f"{option} {given} lies in a folder that does not exist")
    if any(given.resolve() == Path(one).resolve() for one in read):
        raise InputError(f"{option} {given} is the checkpoint itself or the data; expected another file to write")
    return given


def number(text: str) -> float:
    """Argument type: a number, which nan is not, nor 1_0: Python would read 10."""
    value = float(text.replace("_", "no digit"))
    if math.isnan(value):
        raise ValueError(text)
    return value


def whole(text: str, least: int = 0) -> int:
    """Argument type: a whole number of at least 0."""
    value = int(text.replace("_", "no digit"))
    if value < least:
        raise argparse.ArgumentTypeError(f"{text} is not at least {least}")
    return value


def positive(text: str) -> int:
    """Argument type: a whole number of at least 1."""
    return whole(text, 1)


positive.__name__ = whole.__name__ = "whole number"


def quoted(path: Path) -> str:
    """A path as one would type it in a shell, never to be taken for an option."""
    import shlex

    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def reading_text(options: dict[str, Any]) -> dict[str, Any]:
    """How a run reads its text's files, as keyword arguments, from the options in its description."""
    return {"encoding": options.get("encoding") or text.UTF8, "include": tuple(options.get("include") or ())}
