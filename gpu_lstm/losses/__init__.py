"""Losses: each returns the mean loss and its gradient with respect to the prediction, in one call.

What they are given stays as it is, unless `softmax_cross_entropy` is told to overwrite it.
"""

from __future__ import annotations

import math

from gpu_lstm.losses.cross_entropy import softmax_cross_entropy
from gpu_lstm.losses.regression import REGRESSION, huber, mean_absolute, mean_squared

__all__ = ["BITS", "REGRESSION", "huber", "mean_absolute", "mean_squared", "softmax_cross_entropy"]

BITS = 1 / math.log(2)
"""Bits in a nat."""
