"""Loss scaling for half precision (P. Micikevicius et al., Mixed Precision Training, ICLR 2018)."""

from __future__ import annotations

from dataclasses import dataclass

from gpu_lstm.errors import InputError


@dataclass
class LossScaler:
    """A factor on the loss that keeps small gradients above float16's smallest number.

    It doubles after `growth_interval` good steps in a row and halves whenever a gradient overflows, and that step is
    left out. All factors are powers of two, so that scaling rounds nothing.
    """

    scale: float = 2.0**15  # by which the loss' gradient is multiplied before backward, and gradients divided after it
    growth_interval: int = 2000
    good: int = 0  # steps in a row without overflow
    active: bool = True  # whether it scales at all; else `scale` is 1 for ever
    smallest: float = 1.0
    largest: float = 2.0**24

    @classmethod
    def for_dtype(cls, dtype: str) -> LossScaler:
        """Active for float16; float32, float64 and bfloat16 have range enough."""
        return cls() if dtype == "float16" else cls(scale=1.0, active=False)

    def update(self, finite: bool) -> None:
        """Take note of a step: whether all of its gradients were finite."""
        if not self.active:
            return
        if not finite:
            self.scale, self.good = max(self.scale / 2, self.smallest), 0
            return
        self.good += 1
        if self.good >= self.growth_interval:
            self.scale, self.good = min(self.scale * 2, self.largest), 0

    @property
    def exhausted(self) -> bool:
        """Whether it can't halve any more: an overflow is then no matter of the scale."""
        return not self.active or self.scale <= self.smallest

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"scale": self.scale, "good": self.good}

    def restore(self, state: dict[str, float]) -> None:
        """Take back what `state` gave."""
        scale, good = float(state["scale"]), int(state["good"])
        if not (self.smallest <= scale <= self.largest and good >= 0):
            raise InputError(f"loss scale is {scale} after {good} good steps; expected 1..2^24 after at least 0")
        if self.active:
            self.scale, self.good = scale, good
