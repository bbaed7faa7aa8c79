"""Ranks: processes that train one model together, each on its part of every batch.

What they say to one another goes through a `Communicator`; what starts them and carries it is MPI's or NCCL's.
"""

from __future__ import annotations

from gpu_lstm.parallel.communicator import Alone, Communicator
from gpu_lstm.parallel.launched import Place, place
from gpu_lstm.parallel.mpi import MPI

__all__ = ["MPI", "Alone", "Communicator", "Place", "place"]
