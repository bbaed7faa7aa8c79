"""What models of whole sequences are trained with where nothing else is asked for: it follows from the data.

Found by cross-validation on the training parts of small sets, see docs/do/classes.md.
"""

from __future__ import annotations

import numpy as np

EPOCHS = 60
LEAST_UPDATES = 400
"""Updates of the weights, which few sequences get in more epochs."""
FRAMES = 32
"""Frames that a sequence of middling length is at least read in."""
WARM_UP = 0.1
"""Share of the steps over which the learning rate rises."""
DROPOUT, LEARNING_RATE, WEIGHT_DECAY = 0.2, 3e-3, 0.1


HELD_OUT, FEW = 0.2, 200
"""Share held out to choose the best model by, and below how many labels all are trained on."""


def share_for(labels: int) -> float:
    """Which share of so many labels is held out: few are worth more in training than in choosing when to stop."""
    return 0.0 if labels < FEW else HELD_OUT


def epochs_for(steps_per_epoch: int) -> int:
    """How many epochs there are to be."""
    return max(EPOCHS, -(-LEAST_UPDATES // steps_per_epoch))


def frames_for(lengths: np.ndarray) -> tuple[int, int]:
    """Window and stride of frames, by the middle one of the sequences' lengths: long ones are read in fewer steps."""
    stride = max(1, int(np.median(lengths)) // FRAMES)
    return (1, 1) if stride == 1 else (2 * stride, stride)


def pooling_for(frames: tuple[int, int]) -> tuple[str, ...]:
    """What is summed up of the outputs: of few steps the mean; of many, in which it would hide what is rare, more."""
    return ("mean",) if frames == (1, 1) else ("mean", "max", "last")


def balanced(labels: np.ndarray, classes: int) -> np.ndarray:
    """Weights (classes,) with which all classes count alike, 1 in the mean over the labels; 0 where there is none."""
    counts = np.bincount(labels, minlength=classes)
    present = counts > 0
    return np.where(present, len(labels) / (present.sum() * np.maximum(counts, 1)), 0.0)
