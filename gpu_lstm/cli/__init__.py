"""The command line, ``gpu-lstm``: one module a command."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn

from gpu_lstm import __version__
from gpu_lstm.cli import (
    bench,
    check,
    evaluate,
    export,
    forecast,
    info,
    inspect,
    parallel,
    predict,
    profile,
    quantize,
    sample,
    train,
)
from gpu_lstm.cli.launch import attach
from gpu_lstm.errors import GpuLstmError

COMMANDS = (train, sample, forecast, predict, evaluate, inspect, export, quantize, check, info, bench, profile)
PACKAGES = {"PIL": "pillow", "dateutil": "python-dateutil", "sklearn": "scikit-learn"}
"""What installs a module, where that has another name."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print the message and leave with status 2."""
        self.exit(2, f"{self.prog}: {message} ({self.prog} --help shows what there is)\n" if parallel.speaks() else "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status.

    0 done, 1 a check failed, 2 bad input, 130 interrupted, 141 whoever read the output went away.
    """
    make_printable()
    attach()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    status = 0
    try:
        try:
            with notes():
                status = command(arguments)
        finally:
            sys.stdout.flush()
        return status
    except BrokenPipeError:
        status = 141
    except OSError as error:
        if status == 0:  # else the command has said so
            print(f"gpu-lstm: can't print: {error.strerror}", file=sys.stderr)
        status = 2
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still has to print as it ends
    return status


def make_printable() -> None:
    """Have standard output take any text, whatever its encoding, and whether or not it is open."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (for as long as Python runs)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


@contextlib.contextmanager
def notes() -> Iterator[None]:
    """Print on standard error what the package logs: that a kernel takes a while to compile."""
    log, handler = logging.getLogger("gpu_lstm"), logging.StreamHandler(sys.stderr)
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def parser_of_all() -> Parser:
    """The parser of all commands."""
    parser = Parser(prog="gpu-lstm", description="The LSTM, from scratch, on the CPU and on NVIDIA GPUs.")
    parser.add_argument("--version", action="version", version=f"gpu_lstm {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command", parser_class=Parser)
    for each in COMMANDS:
        each.add_command(commands)
    return parser


def command(arguments: list[str]) -> int:
    """Run one command; errors that a user can cause are one line."""
    parser = parser_of_all()
    arguments = train.with_kind(arguments)
    try:
        options = parser.parse_args(arguments)
        options.arguments = arguments
        parallel.begin(options.command)
        status: int = options.run(options)
        return status
    except GpuLstmError as error:
        parallel.complain(f"gpu-lstm: {error}")
        return 2
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        parallel.complain(f"gpu-lstm: {error.strerror or error}{where}")
        return 2
    except MemoryError as error:
        parallel.complain(f"gpu-lstm: out of memory: {error or 'no size told'}")
        return 2
    except ImportError as error:
        module = (error.name or "").partition(".")[0]
        if module in {"", "gpu_lstm", *sys.stdlib_module_names}:
            raise
        package = PACKAGES.get(module, module)
        parallel.complain(f"gpu-lstm: needs {package}: pip install {package} ({error})")
        return 2
    except KeyboardInterrupt:
        parallel.complain("gpu-lstm: interrupted")
        return 130
