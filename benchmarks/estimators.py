"""The scikit-learn estimators on the shipped data: `python -m benchmarks.estimators`.

To hold beside ``gpu-lstm train classify`` and ``train series`` with ``gpu-lstm evaluate``: the same data, the same
held-out part.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks import need_compiled
from gpu_lstm.data.sequences import JAPANESE_VOWELS, read_sequences
from gpu_lstm.data.series import CO2, read_series


def vowels(seed: int) -> float:
    """Accuracy on the 370 test utterances."""
    from gpu_lstm.interop.sklearn import LSTMClassifier

    data = read_sequences(JAPANESE_VOWELS)
    X = [data.rows(np.array([n])) for n in range(len(data))]
    train, test = np.flatnonzero(~data.test), np.flatnonzero(data.test)
    model = LSTMClassifier(random_state=seed)
    model.fit([X[n] for n in train], data.labels[train])
    return float(model.score([X[n] for n in test], data.labels[test]))


def co2(seed: int) -> float:
    """RMSE over 12 weeks ahead, from every week of the last fifth."""
    from gpu_lstm.interop.sklearn import LSTMForecaster

    values = np.asarray(read_series(CO2).values)
    end = int(len(values) * 0.8)
    # What the LSTM learns by itself.
    alone: dict[str, Any] = {"linear": "none", "early_stopping": False, "learning_rate": 5e-3}
    model = LSTMForecaster(horizon=12, window=128, memory=52, max_iter=20, **alone, random_state=seed)
    return -model.fit(values[:end]).score(values[end - 128 :])


def main() -> None:
    """Three seeds of each."""
    need_compiled()
    for name, measure, unit in (("Japanese Vowels", vowels, "accuracy"), ("CO2", co2, "RMSE, ppm")):
        for seed in range(3):
            begun = time.perf_counter()
            print(f"{name}, seed {seed}: {measure(seed):.4f} {unit} ({time.perf_counter() - begun:.1f} s)", flush=True)


if __name__ == "__main__":
    main()
