"""What the training loop needs of a task.

Each step's batch and dropout are pure functions of the seed and the step's number, so that the same seed gives
the same weights to the last bit and a resumed run needs no generator states.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

from gpu_lstm.backend import Array
from gpu_lstm.backend.count import Count
from gpu_lstm.data.loader import Loader
from gpu_lstm.layers import Params
from gpu_lstm.layers.base import check_seed
from gpu_lstm.models import Model


class Task(ABC):
    """A model with its data: `steps_per_epoch` steps, each of which reads so many `items`."""

    item: str  # what a step reads, for people
    unit: str = "loss"  # of the loss, and of the score
    score_unit: str = ""  # of the score, where that is another
    one_shape: bool = False  # whether all steps have the same shapes: one can be recorded and replayed
    share: tuple[int, ...] = ()  # which part of each batch is done here, of how many; all of it if empty

    def __init__(self, model: Model, seed: int | tuple[int, ...], steps_per_epoch: int, items: int, batch: int):
        self.model, self.seed = model, check_seed(seed)
        self.steps_per_epoch, self.items, self.batch = steps_per_epoch, items, batch
        self.loader = Loader(self._batch)
        self._number: Any = Count()  # of the step that `compute` does
        self._current: Any = None  # its batch

    @abstractmethod
    def _batch(self, number: int) -> Any:
        """Make the batch of step `number`, on the host."""

    @property
    def _step_seed(self) -> tuple[int, ...]:
        """Of the current step's dropout; a replayed graph reads the number anew."""
        return (*self.seed, self._number, *self.share[:1])

    def part(self, share: int, shares: int) -> Self:
        """The twin that does one of so many shares of each batch, with the same model and a dropout of its own."""
        twin = copy.copy(self)
        twin.share, twin._number = (share, shares), Count()
        return twin

    def rows(self, count: int) -> range:
        """Which of so many sequences are this share's."""
        share, shares = self.share or (0, 1)
        return range(count * share // shares, count * (share + 1) // shares)

    def counted(self) -> int:
        """Of how many the current batch's loss is the mean; 0 where there is nothing to compute."""
        return len(self.rows(self.batch))

    def begin(self, number: int) -> bool:
        """Make `number` the step that `compute` does; whether that is like most, so that it may be replayed."""
        self._number.value, self._current = number, self.loader.get(number)
        return True

    @abstractmethod
    def compute(self) -> tuple[Array, Params]:
        """Loss, in nats or as the loss function has it, and gradients of the step that was begun.

        Recorded once where steps are replayed: all that changes from step to step reaches it by `Backend.upload`.
        """

    def step(self, number: int) -> tuple[Array, Params]:
        """Loss and gradients of step `number`."""
        self.begin(number)
        return self.compute()

    def shown(self, loss: float) -> float:
        """The loss in `unit`."""
        return loss

    @abstractmethod
    def measure(self) -> Any:
        """What `judge` needs of this share of the validation part, on the host."""

    @abstractmethod
    def judge(self, measured: Sequence[Any]) -> tuple[float, str]:
        """Score, lower is better, and the same for people to read, of what all shares have measured, in order."""

    def validate(self) -> tuple[float, str]:
        """Score on the validation part, and the same for people to read."""
        return self.judge([self.measure()])

    def initial(self) -> float:
        """Score before the first step, to be beaten by what is learned; infinite where a model starts with nothing."""
        return math.inf

    def remark(self, best: float) -> str:
        """What has to be said of a run whose best score that is; nothing, most often."""
        return ""

    def carried(self) -> dict[str, Array]:
        """Arrays (..., B, ...), B second, that the next step depends on besides parameters and the step's number."""
        return {}

    def restore(self, arrays: dict[str, Array]) -> None:  # noqa: B027 (most tasks carry nothing)
        """Take back what `carried` gave."""

    def hold(self) -> None:  # noqa: B027 (most tasks carry nothing)
        """From now on, what is carried stays in the same arrays, as a graph needs it."""

    def undo(self) -> None:  # noqa: B027 (most tasks carry nothing)
        """Make what is carried what it was before the last step."""
