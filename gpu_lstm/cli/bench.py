"""``gpu-lstm bench``: how fast this machine is, beside other libraries and beside what it could be."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpu_lstm.backend import DTYPES, Backend, NumpyBackend, choose
from gpu_lstm.bench import compare, grid, peers, record, report, threads
from gpu_lstm.bench.method import Patience
from gpu_lstm.bench.problem import KINDS
from gpu_lstm.bench.sweep import Point, Sweep
from gpu_lstm.cli import scaling
from gpu_lstm.cli.options import RUNS, Parsers, add_parser, next_free, positive, quoted
from gpu_lstm.errors import InputError
from gpu_lstm.recurrence import TIERS, make_plan
from gpu_lstm.training.checkpoint import write_whole
from gpu_lstm.training.signals import handled

WRITTEN = ("record.json", "record.csv", "report.html", "compare.html")
"""Names of results."""
PATIENCE = {name: Patience(10.0) for name in ("full", "standard", "odd", "few")}
"""How long to wait for a quiet machine, for the grids that are recorded; in others, ten seconds in all."""


def add_command(commands: Parsers) -> None:
    """Add the command."""
    parser = add_parser(commands, "bench", run, "measure speed and memory here, beside other libraries; writes a page")
    parser.add_argument(
        "--grid", default="small", help=f"{grid.NAMES}, or sizes: B=1,32,T=64,H=128,256 takes every combination"
    )
    parser.add_argument("--backend", help="numpy, cupy or cupy:N; all that can run if not given")
    parser.add_argument("--tier", choices=TIERS, action="append", help="again for more; all that can run if not given")
    parser.add_argument(
        "--peers", help=f"none, or some of {','.join(peer.name for peer in peers.PEERS)}; all installed if not given"
    )
    parser.add_argument(
        "--set", nargs="+", action="append", default=[], metavar="OPTION", dest="sets",
        help="options of our LSTM that are measured beside the plain one: peepholes zoneout_h=0.1, num_layers=2 "
        "bidirectional, recompute; again for others, none if not given",
    )  # fmt: skip
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="of what layers pass on")
    parser.add_argument("--train", action="store_true", help="training steps only")
    parser.add_argument("--infer", action="store_true", help="inference only")
    parser.add_argument("--rounds", type=positive, help="timed steps of each side; the grid's own number if not given")
    parser.add_argument("--threads", type=positive, help="of every side; those that gpu_lstm takes if not given")
    parser.add_argument("--no-memory", action="store_true", help="leave the peak memory out")
    parser.add_argument(
        "--ranks", nargs="+", type=positive, metavar="N",
        help="how a language model's training grows with so many ranks, as 1 2; the grid if not given",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help=f"folder of the results; the next free {RUNS}/bench if not given")
    parser.add_argument(
        "--compare", nargs=2, type=Path, metavar=("A.json", "B.json"), help="measure nothing: B against A (two records)"
    )


def run(options: argparse.Namespace) -> int:
    """Measure, or compare two records."""
    if options.compare:
        return run_compare(options)
    if options.ranks:
        return scaling.run(options.ranks, options.threads, options.rounds or 3, new_folder(options.out, "bench"))
    sizes, rounds = grid.named(options.grid)
    sweep = Sweep(
        sizes,
        [kind for kind in KINDS if {"training": options.train, "inference": options.infer}[kind]] or list(KINDS),
        options.dtype,
        find_backends(options),
        find_peers(options) + [peers.our_variant(words, (options.tier or ["auto"])[0]) for words in options.sets],
        options.rounds or rounds,
        options.tier,
        not options.no_memory,
        PATIENCE.get(options.grid, Patience(1.0, 10.0)),
    )
    out = new_folder(options.out, "bench")
    number = options.threads or threads.count()
    threads.ensure(number, ["-m", "gpu_lstm", *sys.argv[1:]])
    found = record.provenance(record.command_line("gpu-lstm")) | {"rounds": sweep.rounds, "machines": [], "points": []}
    print(f"{found['device']}, {number} threads on every side; compiled tier: {found['compiled']}")
    for backend in sweep.backends:
        print(f"backend: {backend.why}")
    names = ", ".join(peer.name for peer in sweep.peers)
    print(f"beside: {names or 'no other library'}; {len(sweep)} points, {sweep.rounds} rounds; results: {out}\n")
    with interrupted_by_signals():
        status = measure(sweep, found, out)
    print(told(found))
    if busy := report.busy(found):
        print(f"{busy}; times and ratios are less sure for it")
    print(f"page: {out / 'report.html'}   numbers: {out / 'record.json'}, {out / 'record.csv'}")
    if status:
        print(f"stopped early: {found['ended']}; what was measured is there", file=sys.stderr)
    return status


def find_backends(options: argparse.Namespace) -> list[Backend]:
    """The backend that was named, or all that can run."""
    if options.backend is not None:
        backends = [choose(options.backend)]
    else:
        best = choose("auto")
        backends = [NumpyBackend("numpy")] + ([best] if best.name != "numpy" else [])
    for backend in backends:
        for tier in options.tier or ():
            make_plan(backend, tier)  # refuses what can't run
    return backends


def find_peers(options: argparse.Namespace) -> list[peers.Side]:
    """The peers that were named, or all that are installed."""
    if options.peers is None:
        return peers.choose(None)
    return [] if options.peers == "none" else peers.choose([name.strip() for name in options.peers.split(",")])


def new_folder(given: Path | None, name: str) -> Path:
    """Folder for the results; earlier ones are never overwritten."""
    if given is not None:
        if given.exists() and not given.is_dir():
            raise InputError(f"--out {given} is a file; expected a folder")
        for written in WRITTEN:
            if (given / written).exists():
                raise InputError(f"--out {quoted(given)} already holds a {Path(written).stem}; name another folder")
        return given
    return next_free(RUNS / name)


def measure(sweep: Sweep, found: dict[str, Any], out: Path) -> int:
    """Run the sweep under a progress bar; everything is written after every point, however it ends."""
    from tqdm import tqdm

    status = 0
    bar = tqdm(total=len(sweep), unit="point", disable=None, dynamic_ncols=True, smoothing=0.2,
               bar_format="{n_fmt}/{total_fmt} points |{bar}| {elapsed}, {remaining} left")  # fmt: skip
    save(sweep, found, out)
    with bar:
        tqdm.write(HEAD)
        try:
            for point in sweep.run():
                found["points"].append(point)
                save(sweep, found, out)
                tqdm.write(lines(point))
                sys.stdout.flush()
                bar.update()
        except KeyboardInterrupt:
            found["ended"] = f"interrupted after {len(found['points'])} of {len(sweep)} points"
            save(sweep, found, out)
            status = 130
    return status


def save(sweep: Sweep, found: dict[str, Any], out: Path) -> None:
    """Write record, table and page, each whole."""
    found["machines"] = [machine.describe() for machine in sweep.machines.values() if machine.product_by]
    found["waits"] = sweep.patience.describe()
    found |= {"summary": report.summary(found), "shares": report.shares_of_product(found)}
    record.write(found, out / "record.json")
    write_whole(out / "record.csv", record.as_csv(found).encode())
    write_whole(out / "report.html", report.page(found).encode())


HEAD = f"{'':>9} {'T, B, D, H':>20} {'tier':>9} {'ms':>9} {'spread':>6} {'GF/s':>6} {'of limit':>8} {'x floor':>7}"


def lines(point: Point) -> str:
    """A point for the terminal: our fastest tier, then how many times as long the others take."""
    start = f"{point['kind']:>9} {', '.join(map(str, point['size'])):>20}"
    if "skipped" in point:
        return f"{start} left out: {point['skipped']}"
    ours = point["sides"].get(point["ours"] or "")
    text = start
    if ours:
        spread = (ours["high"] - ours["low"]) / ours["median"] / 2
        text += (
            f" {point['ours']:>9} {ours['median'] * 1e3:>9.3g} {spread:>5.0%} {ours['gflops']:>7.1f} "
            f"{ours['share_of_product']:>8.0%} {ours['over_floor']:>7.2f}"
        )
    others = []
    for name, side in point["sides"].items():
        if name == point["ours"]:
            continue
        if "median" in side:
            others.append(
                f"{name} {side['median'] / ours['median']:.2f}" if ours else f"{name} {side['median'] * 1e3:.3g} ms"
            )
        else:
            others.append(f"{name} {'WRONG' if side.get('wrong') else 'failed'}")
    bad = [f"\n{'':>12}{name}: {side['remark']}" for name, side in point["sides"].items() if "remark" in side]
    return text + (f"\n{'':>12}times as long: " + ", ".join(others) if others else "") + "".join(bad)


def told(found: dict[str, Any]) -> str:
    """Geometric means of the ratios, for each backend and kind."""
    lines = [""]
    for backend, kinds in found["summary"].items():
        for kind, sides in kinds.items():
            means = ", ".join(f"{name} {side['mean']:.2f}" for name, side in sides.items())
            if means:
                lines.append(f"{backend}, {kind}: times as long as ours, geometric mean: {means}")
    return "\n".join(lines)


def run_compare(options: argparse.Namespace) -> int:
    """Print and draw the ratios of two records."""
    a, b = (record.read(path) for path in options.compare)
    names = tuple(name_of(path) for path in options.compare)
    if names[0] == names[1]:
        names = tuple(map(str, options.compare))
    found = compare.compare(a, b)
    if not found:
        raise InputError(f"{options.compare[0]} and {options.compare[1]} have no point and side in common")
    for one, name in zip((a, b), names, strict=True):
        print(
            f"{name}: {one['device']}, {one['threads']} threads, {one['date']}, revision {one['revision'] or 'unknown'}"
            + (f"; {busy}" if (busy := report.busy(one)) else "")
        )
    print(f"\n{'':>9} {'T, B, D, H':>20} {'side':>13} {'times as fast':>13} {'between':>13}")
    for line in found:
        print(
            f"{line['kind']:>9} {', '.join(map(str, line['size'])):>20} {line['side']:>13} {line['ratio']:>13.2f} "
            f"{line['low']:>6.2f} {line['high']:>6.2f}  {'CHANGED' if line['changed'] else ''}"
        )
    for backend, value in compare.machines(a, b).items():
        print(f"the machines themselves: {backend} {value:.2f} times as fast in the large product")
    changed = sum(line["changed"] for line in found)
    print(f"{changed} of {len(found)} changed by more than the noise (the middle halves don't overlap)")
    out = new_folder(options.out, "compare")
    write_whole(out / "compare.html", compare.page(a, b, (names[0], names[1])).encode())
    print(f"page: {out / 'compare.html'}")
    return 0


def name_of(path: Path) -> str:
    """What to call a record: its file's name, or its folder's where the file has the usual one."""
    return (
        path.stem
        if path.suffix == ".json" and path.name != "record.json"
        else path.resolve().parent.name
        if path.is_file()
        else path.name
    )


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Take SIGTERM as Ctrl-C, and Ctrl-C as such in a background job too, so that the record says how it ended."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    with handled(interrupt):
        yield
