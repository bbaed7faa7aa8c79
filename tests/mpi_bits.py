"""Ranks of MPI that train small models: rank 0 prints the SHA-256 of each one's weights as JSON.

``mpiexec -n 4 python -m mpi4py -m tests.mpi_bits [STEPS]``; with ``FOLDER begin|go-on`` instead, a run of text in the
folder, stopped half way or gone on with.
"""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path

from gpu_lstm.parallel import MPI, Alone, place
from gpu_lstm.training import Run, Training
from gpu_lstm.training.folder import newest
from tests.test_shared import TASKS, digest, settings

STEPS = 200


def all_kinds(ranks, steps):
    found = {}
    for kind, optimizer, dtype in product(("text", "series", "classify"), ("adam", "sgd"), ("float32", "float64")):
        task = TASKS[kind](dtype=dtype)
        how = settings(shares=8, optimizer=optimizer, epochs=-(-steps // task.steps_per_epoch), validations=2)
        training = Training(task, how, parallel=ranks)
        training.go(lambda event: None, lambda training=training: training.step == steps)
        assert training.step == steps
        found[f"{kind} {optimizer} {dtype}"] = digest(task.model)
    return found


def part_of_run(ranks, folder, begins):
    task = TASKS["text"]()
    how = settings(shares=8, epochs=-(-STEPS // task.steps_per_epoch), validations=4)
    run = Run(task, how, Path(folder), {"options": {}}, parallel=ranks)
    if not begins:
        run.resume(*newest(run.folder)[1:3])
    ranks.barrier()
    run.go(lambda event: None, lambda: begins and run.step == STEPS // 2 and ranks.rank == ranks.size - 1)
    return digest(task.model)


if __name__ == "__main__":
    here = MPI() if place() is not None else Alone()
    if sys.argv[2:]:
        made = part_of_run(here, sys.argv[1], sys.argv[2] == "begin")
    else:
        made = all_kinds(here, int(sys.argv[1]) if sys.argv[1:] else STEPS)
    if here.rank == 0:
        sys.stdout.write(json.dumps(made))
