"""Losses: each returns the mean loss and its gradient with respect to the prediction, in one call.

What they are given stays as it is, unless `softmax_cross_entropy` is told to overwrite it. The backend is that of the
arrays; one may be named as the first argument.
"""

from __future__ import annotations

import math

from gpu_lstm.losses import cross_entropy, regression
from gpu_lstm.losses.given import Loss
from gpu_lstm.losses.regression import REGRESSION

__all__ = ["BITS", "REGRESSION", "Loss", "huber", "mean_absolute", "mean_squared", "softmax_cross_entropy"]

BITS = 1 / math.log(2)
"""Bits in a nat."""

mean_squared = Loss(regression.mean_squared)
mean_absolute = Loss(regression.mean_absolute)
huber = Loss(regression.huber)
softmax_cross_entropy = Loss(cross_entropy.softmax_cross_entropy, of_classes=True)
