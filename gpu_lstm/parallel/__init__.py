"""Ranks: processes that train one model together, each on its part of every batch.

What they say to one another goes through a `Communicator`; what starts them and carries it is MPI's or NCCL's.
"""

from __future__ import annotations

from gpu_lstm.parallel.communicator import Alone, Communicator
from gpu_lstm.parallel.launched import Place, mpiexec, place
from gpu_lstm.parallel.mpi import MPI
from gpu_lstm.parallel.nccl import NCCL, nearest

__all__ = ["MPI", "NCCL", "Alone", "Communicator", "Place", "mpiexec", "nearest", "place"]
