"""Seeing inside a trained model: activations of every cell, what they track, how far gradients reach back in time.

Functions over arrays, and a page made of them::

    a = activations(model, tokens)              # {"h": (L, T, H), "c": ..., "i": ..., "f": ..., "g": ..., "o": ...}
    r = tracking(a["c"][0], text_features(text))  # {"position in line": (H,) correlations, ...}
    n = gradient_reach(model, tokens)           # norms of dL_t/dh_{t-k}, (L, K, N)
"""

from gpu_lstm.inspect.activations import QUANTITIES, activations
from gpu_lstm.inspect.reach import gradient_reach
from gpu_lstm.inspect.report import series_page, text_page
from gpu_lstm.inspect.tracking import Tracked, best_cells, series_features, text_features, tracking

__all__ = [
    "QUANTITIES", "Tracked", "activations", "best_cells", "gradient_reach", "series_features", "series_page",
    "text_features", "text_page", "tracking",
]  # fmt: skip
