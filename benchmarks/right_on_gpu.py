"""Whether results are right on a device: every form against the oracle, the tests, sanitizers, a soak.

Parts of `benchmarks.run_on_gpu`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.on_gpu import Log, Record
from benchmarks.speed_on_gpu import Case, another, ours
from gpu_lstm.backend import Array
from gpu_lstm.backend.base import widened
from gpu_lstm.bench import sweep
from gpu_lstm.bench.problem import DRAWN
from gpu_lstm.checks import TOLERANCE as OF_THE_ORACLE
from gpu_lstm.errors import BackendError
from gpu_lstm.layers import LSTM
from gpu_lstm.native import ahead
from gpu_lstm.parallel import NCCL, Alone
from gpu_lstm.recurrence import Mask, Tier
from gpu_lstm.recurrence.cuda import explain, planner, pointwise, sequence
from gpu_lstm.recurrence.cuda.layout import DIRECTIONS, MOST_RUNS
from gpu_lstm.recurrence.problem import Arriving
from gpu_lstm.recurrence.problem import Problem as Recurrence
from gpu_lstm.recurrence.tier import Fit

ROOT = Path(__file__).resolve().parents[1]
SOAK_TOLERANCE = {"float32": 1e-3, "float16": 1e-1}
"""Largest difference between the tiers, relative to the largest number of a result: single numbers may cancel, and
16-bit pre-activations are rounded in one tier only."""


# -- against the oracle -----------------------------------------------------------------------------------------------

FORMS = {"block": 24, "cluster": 128, "grid": 256, "joint": 256, "stack": 128}
"""Of the sequence kernels, those of a stack by themselves, and at what H they are looked at first."""


def forms(backend: Any, log: Log) -> None:
    """Each form at T = 8 in float32, where the environment says that a waiting kernel gives up."""
    planned = [
        layout
        for form in FORMS
        for layout in layouts(another(backend, form=form), form, small_case(log, form, "float32")).values()
    ]
    # Those that give up are other kernels than those in the cache.
    list(ahead.compile_all(backend.kernel, [x.kernel for x in planned if not isinstance(x, str)], os.cpu_count() or 1))
    for form in FORMS:
        log.item(form, against_oracle, backend, form, small_case(log, form, "float32"))


def dtypes(backend: Any, log: Log) -> None:
    """The same in each dtype, and step by step."""
    every = [*product(("float16", "bfloat16", "tf32", "float64", "float32"), (*FORMS, "pointwise"))]
    for dtype, form in [("float16", "block"), ("float64", "pointwise")] if log.rehearse else every:
        case = small_case(log, form, dtype.replace("tf", "float"))
        log.item(f"{dtype} {form}", against_oracle, backend, form, case, dtype == "tf32")


def small_case(log: Log, form: str, dtype: str) -> Case:
    """What a form is looked at with."""
    batch, hidden = (3, 20) if log.rehearse else (16, FORMS.get(form, 128))
    return Case((8, batch, hidden, hidden), dtype, "num_layers=2" * (form == "stack"))


def layouts(backend: Any, form: str, case: Case) -> dict[str, Any]:
    """Those of a form, the only one that the backend has; none step by step."""
    if form == "pointwise":
        return {}
    limits, dtype, stacked = backend.limits, planner.multiplied(backend, case.dtype), form == "stack"
    problem = case.size[1], case.size[3], dtype, 1 + stacked, "Plain", stacked
    return {direction: planner.choose(limits, direction, *problem) for direction in DIRECTIONS}


def against_oracle(backend: Any, form: str, case: Case, tf32: bool = False) -> Record:
    """A layer, or two of a stack at once, all of whose results are compared with those of float64.

    Raises
    ------
    RuntimeError
        They differ by more than rounding.
    """
    tier, limit = "pointwise" if form == "pointwise" else "sequence", OF_THE_ORACLE["float16" if tf32 else case.dtype]
    at_once = (lambda _: Fit(2)) if form == "stack" else None
    device = another(backend, tf32, "" if form == "pointwise" else form)
    results, _ = sweep.check(case.problem(device), [ours(form, tier, at_once)])
    error = results[form]["error"]
    if error is None or not error < limit:
        raise RuntimeError(f"{case} differs by {error}; expected less than {limit:.0e} ({results[form].get('remark')})")
    told = {name: x if isinstance(x, str) else explain.words(x) for name, x in layouts(device, form, case).items()}
    return {"size": str(case), "difference": error, **told, "said": f"differs by {error:.1e}"}


# -- tests ------------------------------------------------------------------------------------------------------------


def files_of_tests() -> list[str]:
    """Those of the kernels and of graphs."""
    names = [*(f"cuda_{name}" for name in ("step", "recurrence", "sequence", "options", "stack")), "*graph"]
    return [str(path) for name in names for path in sorted(ROOT.glob(f"tests/test_{name}.py"))]


def tests(backend: Any, log: Log) -> None:
    """``pytest -m gpu``: each test is an item."""
    del backend
    try:
        import pytest
    except ImportError:
        log.item("pytest", lambda: {"missing": "pytest is not installed"})
        return
    # Warnings of other versions than those that CI has are no failures here.
    options = [
        "-q",
        "-m",
        "gpu",
        "-W",
        "default",
        "-p",
        "no:cacheprovider",
        "--no-header",
        "--no-summary",
        "--tb",
        "short",
    ]
    if log.rehearse:
        options += ["-k", "norm_alone or depends_on_seed"]
    files = files_of_tests()[: 1 if log.rehearse else None]
    ended = pytest.main([*options, "--rootdir", str(ROOT), *files], [Tests(log)])
    passed = sum("skipped" not in item for item in log.results())
    print(f"  {passed} tests have passed, {len(log.left_out)} are left", flush=True)
    if ended not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED):
        raise SystemExit(f"pytest ended with {ended!r}")


class Tests:
    """A plugin of pytest that tells a log of each test."""

    def __init__(self, log: Log):
        self.log, self.session = log, None
        self.result: Record = {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Leave out those that have a result."""
        items[:] = [item for item in items if self.log.wants(item.nodeid)]
        self.names = [item.nodeid for item in items]

    def pytest_sessionstart(self, session: Any) -> None:
        self.session = session

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.log.begin(nodeid)
        self.result = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            text = str(report.longreprtext).splitlines()
            error = next((line for line in text if line.startswith("E ")), "".join(text[-1:]))
            self.result = {"error": error[:300], "text": text[-40:]}
        elif report.skipped:
            self.result |= {"skipped": report.longreprtext[-200:]}

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.log.end(nodeid, self.result)
        self.names.remove(nodeid)
        if not self.log.left and self.names:
            self.log.left_out += self.names
            self.session.shouldstop = "its time is up"  # type: ignore[attr-defined]


def sanitizer(backend: Any, log: Log) -> None:
    """compute-sanitizer over tests of gates, optimizer and embedding: errors of memory, then races in shared memory."""
    del backend
    program = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    chosen = "test_updates or test_rows_of_a_table or (test_forward_and_backward and full)"
    for turns, tool in ((2, "memcheck"), (1, "racecheck")):

        def checked(tool: str = tool, turns: int = turns) -> Record:
            if program is None:
                return {"missing": "compute-sanitizer is not installed"}
            command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", "pytest", "-q", "-x"]
            command += ["-m", "gpu", "-W", "default", "-p", "no:cacheprovider", *files_of_tests()[:2], "-k", chosen]
            lines: list[str] = []
            ended = "ended"
            with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as p:
                try:
                    lines = p.communicate(timeout=max(1.0, log.left / turns))[0].splitlines()
                except subprocess.TimeoutExpired:
                    p.kill()
                    lines, ended = p.communicate()[0].splitlines(), "stopped, its time was up"
            errors = [line for line in lines if "ERROR SUMMARY" in line or line.startswith("FAILED")]
            found = {"ended": ended, "status": p.returncode, "lines": lines[-30:], "said": f"{ended}; {lines[-1:]}"}
            broke = p.returncode != 0 and ended == "ended"
            return found | ({"error": f"status {p.returncode}: {errors or lines[-3:]}"} if broke else {})

        log.item(tool, checked)


# -- the soak ---------------------------------------------------------------------------------------------------------


def soak(backend: Any, log: Log) -> None:
    """Random problems until the time is up, the sequence tier against the pointwise tier.

    Each is drawn from the seed and its number. One that fails or hangs stays in the record, and is tried again by the
    next command before others.
    """
    told = log.record["items"].get(log.key("problems"), {})
    seed = told.get("seed", 1 if log.rehearse else time.time_ns() % 2**32)
    forms, worst, number = Counter(told.get("forms", {})), told.get("difference", 0.0), told.get("number", 0)
    again = log.failures("problem_")
    while log.left and not (log.rehearse and forms.total() >= 3):
        if again:
            name = again.pop()
        else:
            number += 1
            name = f"problem_{number}"
            log.put("problems", {"seed": seed, "number": number, "forms": forms, "difference": worst})
        rng = np.random.default_rng((seed, int(name.split("_")[1])))
        found = log.item(name, one_problem, backend, rng, log.rehearse)
        if "difference" in found:
            forms[found["form"]] += 1
            worst = max(worst, found["difference"])
            log.drop(name)
    log.put("problems", {"seed": seed, "number": number, "forms": forms, "difference": worst})
    print(f"  {forms.total()} problems, of the largest difference {worst:.1e}: {dict(forms)}", flush=True)


def one_problem(backend: Any, rng: np.random.Generator, small: bool = False) -> Record:
    """One of them: in which form it ran, and the largest relative difference, of two to four layers at once, too.

    Raises
    ------
    RuntimeError
        It is more than rounding.
    """
    largest = (4, 4, 12) if small else (300, 300, 1400)
    hidden, dtype = largest[2] + 1, "float32"
    while hidden > largest[2] or planner.obstacle(backend.limits, hidden, dtype):
        steps, batch, hidden = (int(limit ** rng.random()) for limit in largest)
        dtype, reverse = str(rng.choice(["float32", "float16"])), bool(rng.integers(2))
    drawn = backend.asarray(rng.standard_normal(DRAWN // 10, dtype=np.float32))

    def made(*shape: int) -> Array:
        return backend.asarray(backend.xp.resize(drawn[shape[-1] % 97 :], shape), dtype)

    lengths = rng.integers(1, steps + 1, batch)
    mask = Mask(lengths, backend.asarray(np.arange(steps)[:, None, None] < lengths[:, None]))
    z, dh, x = made(steps, batch, 4 * hidden), made(steps, batch, hidden), made(steps, batch, hidden)
    weight_hh = backend.asarray(widened(backend, made(4 * hidden, hidden)) * 0.6 * hidden**-0.5, dtype)

    def alone(tier: Tier) -> dict[str, Array]:
        (saved,) = tier.forward(
            backend, [Recurrence(backend.xp.array(z, copy=True), weight_hh, None, None, mask, reverse)]
        )
        h = saved.h
        return {"h": h, **tier.backward(backend, [Arriving(saved, dh)])[0]._asdict()}

    layers = int(rng.integers(2, MOST_RUNS + 1))

    def stacked(tier: Tier) -> dict[str, Array]:
        lstm = LSTM(hidden, hidden, layers, dropout=0.3, backend=backend, dtype=dtype, tier="pointwise")
        lstm.plan = replace(lstm.plan, run=replace(tier, fit=lambda *_: Fit(layers if tier is sequence.TIER else 1)))
        y, _, tape = lstm.forward(x, lengths=lengths, seed=(1,))
        dx, _, gradients = lstm.backward(tape, dh)
        return {"y": y, "dx": dx, **gradients}

    stack = (
        planner.choose(backend.limits, direction, batch, hidden, dtype, layers, "Plain", True)
        for direction in DIRECTIONS
    )
    several = [(layers, stacked)] * (not any(isinstance(layout, str) for layout in stack))
    worst = 0.0
    for count, results in [(1, alone), *several]:
        expected, limit = results(pointwise.TIER), count * SOAK_TOLERANCE[dtype]
        for name, array in results(sequence.TIER).items():
            error = difference(backend, array, expected[name])
            if not error < limit:  # a NaN isn't
                size = f"T={steps} B={batch} H={hidden} {dtype}, {count} layers"
                raise RuntimeError(f"{name} at {size} differs by {error:.1e}; expected less than {limit:.0e}")
            worst = max(worst, error)
    layout = planner.choose(backend.limits, "forward", batch, hidden, dtype)
    return {"form": layout if isinstance(layout, str) else layout.form, "difference": worst}


def difference(backend: Any, found: Array, expected: Array) -> float:
    """Largest difference, relative to the largest number, or to 0.1 where all are smaller."""
    xp, expected = backend.xp, widened(backend, expected)
    return float(xp.max(xp.abs(widened(backend, found) - expected))) / max(float(xp.max(xp.abs(expected))), 0.1)


# -- ranks ------------------------------------------------------------------------------------------------------------


def nccl(backend: Any, log: Log) -> None:
    """What ranks ask of NCCL, of which there is one here: the same numbers come back, and how long it takes."""
    for name in ("exchange", "join", "sum"):
        log.item(name, alone, backend, name, 1 << (10 if log.rehearse else 23), log)


def alone(backend: Any, name: str, count: int, log: Log) -> Record:
    """One call over `count` numbers of float32, and the seconds of some."""
    try:
        ranks = NCCL(Alone(), backend)
    except BackendError as error:
        return {"missing": str(error)}
    array = backend.xp.arange(count, dtype=backend.xp.float32)
    given = array[None, :] if name == "exchange" else array
    found = getattr(ranks, name)(given)
    right = bool((backend.xp.ravel(array if found is None else found) == backend.xp.arange(count)).all())
    seconds = [log.clock.seconds(lambda: getattr(ranks, name)(given)) for _ in range(log.rounds)]
    return {"bytes": int(array.nbytes), "seconds": seconds} | ({} if right else {"error": "other numbers came back"})
