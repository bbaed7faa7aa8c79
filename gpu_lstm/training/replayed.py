"""Training steps recorded once and replayed as a CUDA graph."""

from __future__ import annotations

import operator

from gpu_lstm.backend import Array
from gpu_lstm.backend.graph import Graph
from gpu_lstm.errors import BackendError, InputError
from gpu_lstm.optimizers import Optimizer
from gpu_lstm.training.steps import Asked, Launched
from gpu_lstm.training.tasks import Task


class Replayed(Launched):
    """The same steps, to the same bits, at the cost of one launch each.

    The first step of an epoch of text runs without, for it has no state from before. The first one that is like most
    runs without, too, so that all kernels are there; the next one is recorded, and it and all that follow are replayed.
    A new loss scale is recorded anew, for it is a number in the graph, and so are parameters that were replaced.

    Raises
    ------
    BackendError
        The backend has no graphs.
    InputError
        The task's steps have different shapes, or the LSTM is on the reference tier, whose products can't be recorded.
    """

    def __init__(self, task: Task, optimizer: Optimizer, clip: float):
        super().__init__(task, optimizer, clip)
        backend = task.model.backend
        if not backend.records:
            raise BackendError(f"graph is for a GPU (backend cupy); this is backend {backend.name}")
        if not task.one_shape:
            raise InputError("graph is for steps of one shape; this task has sequences of different lengths")
        if task.model.lstm.plan.tier == "reference":
            raise InputError("graph is for tiers pointwise and sequence; the products of tier reference take no part")
        self._graph: Graph[Asked] | None = None
        self._scale = 0.0
        self._params: list[Array] = []
        self._warm = False
        task.hold()

    def ask(self, number: int, factor: float) -> Asked:  # noqa: D102
        like_most = self.task.begin(number)
        if not (like_most and self._warm):
            self._warm = self._warm or like_most
            return self._compute(factor)
        graph = self._current(factor)
        if graph.replay():
            return graph.result
        self.optimizer.updates -= 1  # begun again by that which runs instead
        return self._compute(factor)

    def _current(self, factor: float) -> Graph[Asked]:
        """The graph for the loss scale and the parameters as they are now, and the optimizer's update begun."""
        model = self.task.model
        params = list(model.params.values())
        same = len(params) == len(self._params) and all(map(operator.is_, params, self._params))
        if self._graph is not None and self._scale == model.loss_scale and same:
            self.optimizer.advance(factor)
        else:
            self._graph = None  # gives its memory back before the next one takes some
            model.backend.memory(release=True)
            self._graph = model.backend.record(lambda: self._compute(factor))
            self._scale, self._params = model.loss_scale, params
        return self._graph

    def _compute(self, factor: float) -> Asked:
        return self._move(factor, *self.task.compute())
