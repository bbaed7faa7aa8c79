"""A forecaster: its errors beside those of simple forecasts, and how sure it may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gpu_lstm.cli.opening import Opened
from gpu_lstm.cli.series import read_again, tell_start
from gpu_lstm.models import Forecaster, Model
from gpu_lstm.training.comparison import Comparison, compare, verdict

SHOWN = 8
"""The most columns whose errors are printed one by one."""


def measure(model: Model, description: dict[str, Any], path: Path, other: Opened | None) -> None:
    """Errors of each column in its own unit and scaled, beside simple forecasts from the same origins."""
    assert isinstance(model, Forecaster)
    settings = description["options"]
    data = read_again(path, description)
    found = compare(model, data, (settings["train"], settings["validation"]), settings["length"])
    some = f"{len(found.origins)} of {found.of}" if len(found.origins) < found.of else str(found.of)
    print(
        f"forecasts of {model.horizon} steps, from each of {some} origins in the last part; RMSE in the data's units:"
    )
    if model.linear:
        tell_start(model.linear, model.spread, data.targets)
    if missing := int(np.isnan(found.actual).sum()):
        print(f"{missing:,} of {found.actual.size:,} values that came were filled in, and don't count")
    print(f"MASE is the mean absolute error in units of that of {found.naive}, one step ahead, before the last part")
    for s, name in enumerate(data.names[: model.num_series][:SHOWN]):
        tell_errors(found, s, name)
    if model.num_series > 1:
        print(f"all {model.num_series} columns, each in units of its own:")
        for name, value in found.scores().items():
            print(f"  {name:<26} {value:.4g}")
    if found.quantiles is not None:
        tell_sureness(found, data.names[: model.num_series], model.outcome.distribution != "")
    print(verdict(found.scores()))


def tell_errors(found: Comparison, s: int, name: str) -> None:
    """Print the errors of one column, over all steps ahead and at three of them."""
    horizon = found.actual.shape[1]
    steps = sorted({1, (horizon + 1) // 2, horizon})
    print(f"  {name:<26} {'RMSE':>9} {'MAE':>9} {'MASE':>7}   at step " + " ".join(f"{step:>9}" for step in steps))
    for forecast in found.forecasts:
        errors = found.errors(forecast)
        whole = f"{errors['rmse'][s]:9.4g} {errors['mae'][s]:9.4g} {errors['mase'][s]:7.3f}"
        ahead = " ".join(f"{errors['by_step'][step - 1, s]:9.4g}" for step in steps)
        print(f"  {forecast:<26} {whole}           {ahead}")


def tell_sureness(found: Comparison, names: list[str], distribution: bool) -> None:
    """Print how much of what came lies within the intervals, and what they cost."""
    below, loss = found.sureness()
    pairs = [(k, len(found.levels) - 1 - k) for k in range(len(found.levels) // 2)]
    for s, name in enumerate(names[:SHOWN]):
        shown = [(a, b) for a, b in pairs if not distribution or found.levels[a] in (0.05, 0.1, 0.25)]
        inside = ", ".join(
            f"{below[b, s] - below[a, s]:.1%} of {found.levels[b] - found.levels[a]:.0%}" for a, b in shown
        )
        cost = f"CRPS {2 * loss[s]:.4g}" if distribution else f"pinball loss {loss[s]:.4g}"
        bias = f"{found.below(found.forecasts['LSTM'])[s]:.1%} of 50% below the median"
        print(f"  {name}: within the intervals lie {inside}; {bias}; {cost}")
