"""How to train: what a run is set up with, and a checkpoint keeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_lstm.errors import InputError
from gpu_lstm.layers.checks import check_choice, check_least, check_positive, check_size


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes
    ----------
    epochs : int
    learning_rate : float
    optimizer : {"adam", "adamw", "sgd", "rmsprop"}
    options : dict
        Further arguments of the optimizer.
    schedule : {"cosine", "constant"}
    warm_up : float
        Over which the learning rate rises: a share of the steps where it is below 1, else a number of them.
    clip : float
        Largest joint norm of the gradients.
    validations : int
        How often to validate, evenly spread over the run; 0 never does.
    patience : int
        Stop after this many validations in a row without a better score; 0 never stops early.
    keep : int
        How many of the last checkpoints to keep, besides the best model.
    save_minutes : float
        Save at the latest after so many minutes, besides at every validation; 0 saves after every step.
    on_nonfinite : {"stop", "skip"}
        What to do where the loss or a gradient is NaN or infinite.
    shares : int
        Into how many parts each batch is cut, which ranks do: a multiple of their number. The same shares make the same
        bits on any number of ranks. 0: one without ranks, else 8, or the next multiple.
    """

    epochs: int
    learning_rate: float
    optimizer: str = "adam"
    options: dict[str, float] = field(default_factory=dict)
    schedule: str = "cosine"
    warm_up: float = 50
    clip: float = 1.0
    validations: int = 10
    patience: int = 0
    keep: int = 3
    save_minutes: float = 10.0
    on_nonfinite: str = "stop"
    shares: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("keep", 1), ("validations", 0), ("patience", 0), ("shares", 0)):
            check_size(name, getattr(self, name), least)
        for name in ("warm_up", "save_minutes"):
            check_least(name, getattr(self, name))
        for name in ("learning_rate", "clip"):
            check_positive(name, getattr(self, name))
        check_choice("on_nonfinite", self.on_nonfinite, ("stop", "skip"))
        if self.warm_up >= 1 and self.warm_up != int(self.warm_up):
            raise InputError(f"warm_up is {self.warm_up}; expected a share below 1, or a whole number of steps")

    @classmethod
    def read(cls, saved: Any, path: Path) -> Settings:
        """From the description of a checkpoint at `path`.

        Raises
        ------
        InputError
            `saved` lacks the settings' names, or has values of another type.
        """
        try:
            return cls(**{"shares": 1} | saved)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"checkpoint {path} has damaged settings: {error}") from None

    def warm_up_steps(self, steps: int) -> int:
        """Over how many of a run's steps the learning rate rises."""
        return min(steps, int(self.warm_up) if self.warm_up >= 1 else round(self.warm_up * steps))

    def validates_at(self, steps: int) -> frozenset[int]:
        """The steps after which to validate, of so many in the run; the last one is always among them."""
        if not self.validations:
            return frozenset()
        every = max(1, steps // self.validations)
        return frozenset({*range(every, steps - every // 2, every), steps})
