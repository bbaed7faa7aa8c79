"""``gpu-lstm check``: is the arithmetic right on this very machine."""

from __future__ import annotations

import argparse
from itertools import chain

from gpu_lstm.backend import NumpyBackend, choose
from gpu_lstm.checks import gradient_check, parity_check
from gpu_lstm.cli.options import Parsers, add_device, add_parser
from gpu_lstm.native import compiled


def add_command(commands: Parsers) -> None:
    """Add the command."""
    parser = add_parser(
        commands, "check", run, "check gradients and backends on this machine; exit status 1 if one is wrong"
    )
    add_device(parser)


def run(options: argparse.Namespace) -> int:
    """Print a table: gradients against central differences, then every tier against the float64 oracle."""
    chosen = choose(options.backend)
    backends = {backend.name: backend for backend in (NumpyBackend(), chosen)}
    print(f"backend: {chosen.why}")
    print(f"compiled library: {compiled.missing() or compiled.words()}")
    print(f"{'check':<52} {'relative error':>14} {'limit':>8}")
    failed = total = 0
    for result in chain(gradient_check(), *(parity_check(backend) for backend in backends.values())):
        total += 1
        failed += not result.passed
        verdict = "ok" if result.passed else "WRONG"
        print(f"{result.what:<52} {result.error:>14.1e} {result.limit:>8.0e}  {verdict}", flush=True)
    print(f"{total - failed} of {total} checks passed")
    return 1 if failed else 0
