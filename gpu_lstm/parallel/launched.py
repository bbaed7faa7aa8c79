"""Which rank this process is, by the environment that MPI's launchers set; and what starts ranks."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from typing import NamedTuple

from gpu_lstm.errors import InputError

LAUNCHERS = (
    ("PMI_SIZE", "PMI_RANK", "MPI_LOCALNRANKS", "MPI_LOCALRANKID"),  # MPICH, Intel MPI, srun --mpi=pmi2
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_NTASKS_PER_NODE", "SLURM_LOCALID"),  # srun alone, no batch script
)
"""Variables of each launcher: ranks, which one this is, and the same among those of this machine."""


class Place(NamedTuple):
    """Which rank of how many, and the same on this machine, of which the launcher may not say how many there are."""

    rank: int
    size: int
    local_rank: int
    local_size: int | None
    said_by: str


def place(environment: Mapping[str, str] = os.environ) -> Place | None:
    """Return which rank this process is, by the `environment`; None where no launcher says that there are more."""
    for names in LAUNCHERS:
        size, rank, local_size, local_rank = (_whole(environment.get(name)) for name in names)
        if size is not None and rank is not None and size > 1:
            return Place(rank, size, rank if local_rank is None else local_rank, local_size, names[0])
    return None


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def mpiexec(ranks: int) -> str:
    """Path of the program that starts ranks: of this very environment, or else the first that there is.

    Raises InputError where it or mpi4py is missing.
    """
    places = (os.path.dirname(sys.executable), sysconfig.get_path("scripts"), None)
    found = next((found for path in places if (found := shutil.which("mpiexec", path=path))), None)
    for name, there in (("mpi4py", importlib.util.find_spec("mpi4py")), ("mpiexec", found)):
        if there is None:
            raise InputError(f'{ranks} ranks need {name}, which is not installed: pip install "gpu-lstm[mpi]"')
    assert found is not None, "else refused"
    return found
