"""A forecaster: its error beside those of simple forecasts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gpu_lstm.cli.series import read_again
from gpu_lstm.data.series import autoregression, persistence, rmse, truth
from gpu_lstm.errors import InputError
from gpu_lstm.models import Forecaster, Model
from gpu_lstm.training.tasks import forecast_from, split_series


def measure(model: Model, description: dict[str, Any], path: Path, other: bool) -> None:
    """RMSE beside persistence and an AR(24) model fitted on all that comes before."""
    assert isinstance(model, Forecaster)
    settings = description["options"]
    values = np.asarray(read_again(path, description).values)
    parts = (settings["train"], settings["validation"])
    fitted = split_series(len(values), parts)[1]
    origins = np.arange(fitted, len(values) - model.horizon + 1)
    if not len(origins):
        raise InputError(f"series has {len(values) - fitted} steps to evaluate on; expected at least {model.horizon}")
    actual = truth(values, origins, model.horizon)
    print(f"RMSE over all {model.horizon} steps ahead, from each of {len(origins)} origins in the last part:")
    print(f"  LSTM         {rmse(forecast_from(model, values, origins, settings['length']), actual):.4g}")
    for order in (24, 60):
        if fitted > 2 * order + 1:
            forecast = autoregression(values, origins, model.horizon, fitted, order)
            print(f"  AR({order})       {rmse(forecast, actual):.4g}")
    print(f"  persistence  {rmse(persistence(values, origins, model.horizon), actual):.4g}")
