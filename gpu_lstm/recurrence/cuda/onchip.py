"""The planner under its old name, until nobody asks for it."""

from gpu_lstm.recurrence.cuda.beside import beside
from gpu_lstm.recurrence.cuda.choose import (
    LARGEST_BATCH,
    TYPICAL_BATCH,
    cells_of,
    choose,
    choose_layers,
    choose_pair,
    largest,
    most_that_pays,
    multiplied,
    obstacle,
    pays,
)
from gpu_lstm.recurrence.cuda.explain import explain
from gpu_lstm.recurrence.cuda.layout import DIRECTIONS, MOST_RUNS, Layout

__all__ = [
    "DIRECTIONS",
    "LARGEST_BATCH",
    "MOST_RUNS",
    "TYPICAL_BATCH",
    "Layout",
    "beside",
    "cells_of",
    "choose",
    "choose_layers",
    "choose_pair",
    "explain",
    "largest",
    "most_that_pays",
    "multiplied",
    "obstacle",
    "pays",
]
