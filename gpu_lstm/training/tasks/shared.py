"""A task whose batches are cut into shares, done by the ranks of a job: the one place where a step speaks to others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gpu_lstm.backend import Array, widened
from gpu_lstm.errors import InputError
from gpu_lstm.layers import Params
from gpu_lstm.parallel.communicator import Communicator
from gpu_lstm.parallel.ordered import Partial, add, ordered_sum, whole
from gpu_lstm.training.settings import Settings
from gpu_lstm.training.tasks.base import Task

SHARES = 8
"""How many shares there are among ranks where nothing is said."""
ALIGNED = 16
"""Each gradient begins at a multiple of so many numbers."""


class Handed:
    """A loader of batches that somebody else has loaded."""

    batch: Any = None

    def get(self, number: int) -> Any:  # noqa: D102
        return self.batch


class Shared(Task):
    """The same task, its batches and its validation cut into `shares`, of which each rank does a run.

    Loss and gradients of a batch are the means over it, as without shares; but each share has a dropout of its own, and
    the sums over the batch go share by share, in an order that doesn't depend on the number of ranks: on any number
    that divides the shares a step has the same bits.

    Parameters
    ----------
    task : Task
    communicator : Communicator
    shares : int
        A multiple of the ranks.
    """

    def __init__(self, task: Task, communicator: Communicator, shares: int):
        self.whole, self.communicator, self.shares = task, communicator, shares
        self.item, self.unit, self.score_unit = task.item, task.unit, task.score_unit
        count = shares // communicator.size
        self.own = range(communicator.rank * count, (communicator.rank + 1) * count)
        self.parts = [task.part(share, shares) for share in self.own]
        for part in self.parts:
            part.loader = Handed()  # type: ignore[assignment]
        super().__init__(task.model, task.seed, task.steps_per_epoch, task.items, task.batch)
        self._places, size = {}, 0
        for name, param in task.model.params.items():
            self._places[name] = size, int(param.size)
            size += -(-int(param.size) // ALIGNED) * ALIGNED
        self._end = size
        self._size = -(-(size + 2) // communicator.size) * communicator.size

    @classmethod
    def of(cls, task: Task, settings: Settings, communicator: Communicator, graph: bool) -> tuple[Task, Settings]:
        """The task as its steps are done, and the settings with the number of shares; one share is the task itself.

        Raises
        ------
        InputError
            As `shares_for`.
        """
        shares = shares_for(settings.shares, communicator.size, task.batch, graph)
        settings = replace(settings, shares=shares)
        return (task if shares == 1 else cls(task, communicator, shares)), settings

    def _batch(self, number: int) -> list[Any]:
        return [part._batch(number) for part in self.parts]

    def begin(self, number: int) -> bool:  # noqa: D102
        super().begin(number)
        for part, batch in zip(self.parts, self._current, strict=True):
            part.loader.batch = batch  # type: ignore[attr-defined]
            part.begin(number)
        return False

    def compute(self) -> tuple[Array, Params]:  # noqa: D102
        partials: list[Partial] = []
        with self.communicator.guard(f"step {self._number.value + 1}"):
            for share, part in zip(self.own, self.parts, strict=True):
                add(partials, Partial(share, 1, self._flat(part)))
        total, xp = self._sum(partials), self.model.backend.xp
        total = total / xp.maximum(total[self._end + 1], 1)
        return xp.reshape(total[self._end : self._end + 1], ()), {
            name: xp.reshape(total[start : start + size], self.model.params[name].shape)
            for name, (start, size) in self._places.items()
        }

    def _flat(self, part: Task) -> Array:
        """Gradients and loss of a share's batch, each the sum over what it is the mean of, and of how many; (n,)."""
        backend = self.model.backend
        flat = backend.empty((self._size,), backend.dtype(self.model.param_dtype))
        if not (count := part.counted()):
            flat[...] = 0
            return flat
        loss, gradients = part.compute()
        end = 0
        for name, (start, size) in self._places.items():
            flat[end:start] = 0
            end = start + size
            flat[start:end] = backend.xp.reshape(gradients[name], (-1,)) * count
        flat[end:] = 0
        flat[self._end] = loss * count
        flat[self._end + 1] = count
        return flat

    def _sum(self, partials: list[Partial]) -> Array:
        """What `_flat` gave, added up over all shares, on all ranks."""
        communicator, backend = self.communicator, self.model.backend
        staged = communicator.on_host and communicator.size > 1 and not self.model.on_host
        if staged:
            for one in partials:
                one.total = backend.to_numpy(one.total)
        if communicator.ordered:
            total = ordered_sum(partials, self.shares, communicator)
        else:
            total = whole(partials)
            communicator.sum(total)
        return backend.asarray(total) if staged else total

    def measure(self) -> list[Any]:
        """What the validation of all shares has measured, in order."""
        with self.communicator.guard("validation"):
            measured = [part.measure() for part in self.parts]
        return [one for of_rank in self.communicator.gather(measured) for one in of_rank]

    def judge(self, measured: Sequence[Any]) -> tuple[float, str]:  # noqa: D102
        return self.whole.judge(measured[0])

    def shown(self, loss: float) -> float:  # noqa: D102
        return self.whole.shown(loss)

    def initial(self) -> float:  # noqa: D102
        return self.whole.initial()

    def remark(self, best: float) -> str:  # noqa: D102
        return self.whole.remark(best)

    def carried(self) -> dict[str, Array]:
        """What all shares carry, put together: as one task that does the whole batch would have it."""
        backend = self.model.backend
        own = [
            {name: backend.to_numpy(widened(backend, array)) for name, array in part.carried().items()}
            for part in self.parts
        ]
        every = [carried for of_rank in self.communicator.gather(own) for carried in of_rank]
        return {name: backend.asarray(np.concatenate([one[name] for one in every], axis=1)) for name in every[0]}

    def restore(self, arrays: dict[str, Array]) -> None:  # noqa: D102
        for part in self.parts:
            rows = part.rows(self.batch)
            part.restore({name: array[:, rows.start : rows.stop, ...] for name, array in arrays.items()})

    def undo(self) -> None:  # noqa: D102
        for part in self.parts:
            part.undo()


def shares_for(asked: int, ranks: int, batch: int, graph: bool = False) -> int:
    """Into how many shares each batch is cut: as asked, or (0) one without ranks, else the multiple of them from 8 on.

    Raises
    ------
    InputError
        They are no multiple of the ranks, or more than the batch has sequences; or there are several, and steps are to
        be recorded.
    """
    shares = asked or (1 if ranks == 1 else max(ranks, min(-(-SHARES // ranks), batch // ranks) * ranks))
    if shares % ranks:
        raise InputError(f"shares is {shares}; expected a multiple of the {ranks} ranks")
    if shares > batch:
        raise InputError(f"shares is {shares}; expected at most the {batch} sequences of a batch")
    if graph and shares > 1:
        raise InputError(f"graph is for steps that are not cut; shares is {shares}")
    return shares
