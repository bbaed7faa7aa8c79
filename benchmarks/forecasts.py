"""Our default forecaster beside simple forecasts: `python -m benchmarks.forecasts`, on a few series, one table.

The CO2 series ships; El Nino and the sunspots come with statsmodels, temperatures by the hour with vega_datasets, if
those are installed. Loads of three meters with cycles of a day and a week are made here, from a seed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from gpu_lstm.cli import main as command
from gpu_lstm.data.series import CO2


def meter(seed: int, weeks: int = 60) -> pd.DataFrame:
    """Return a made-up load by the hour: days and weeks, heating below a temperature that is not told, noise."""
    rng, hours = np.random.default_rng(seed), np.arange(24 * 7 * weeks)
    hour, free = hours % 24, (hours // 24) % 7 >= 5
    day = np.exp(-0.5 * ((hour - 8) / 2) ** 2) * (1 - 0.7 * free) + 1.3 * np.exp(-0.5 * ((hour - 19) / 2.5) ** 2)
    day += 0.4 * np.exp(-0.5 * ((hour - 13) / 3) ** 2) * free
    cold, noise = np.zeros(len(hours)), np.zeros(len(hours))
    for t in range(1, len(hours)):
        cold[t] = 0.985 * cold[t - 1] + 0.17 * rng.standard_normal()
        noise[t] = 0.7 * noise[t - 1] + 0.35 * rng.standard_normal() * (0.4 + day[t])
    load = 10 + 6 * day + 2.4 * np.maximum(0, -cold) * (0.5 + 0.5 * day) + 1.3 * noise
    return pd.DataFrame({"time": pd.date_range("2023-01-02", periods=len(hours), freq="h"), "load": load.round(3)})


def series() -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the series that can be had here, by name."""
    yield "CO2, weekly", pd.read_csv(CO2)
    found = importlib.util.find_spec("statsmodels")
    if found is not None and found.origin is not None:
        folder = Path(found.origin).parent / "datasets"
        table = pd.read_csv(folder / "elnino/elnino.csv").iloc[:, 1:].to_numpy().ravel()
        yield "El Nino, monthly", monthly(table, "1950-01-01")
        table = pd.read_csv(folder / "sunspots/sunspots.csv")
        yield "sunspots, yearly", table[["SUNACTIVITY"]]
        lines = (folder / "sunspots/src/sunspots_monthly.dat").read_text(encoding="latin-1").splitlines()
        rows = [line.split() for line in lines]
        values = [float(cell) for row in rows if row and row[0].isdigit() for cell in row[1:13]]
        yield "sunspots, monthly", monthly(np.array(values), "1749-01-01")
    found = importlib.util.find_spec("vega_datasets")
    if found is not None and found.origin is not None:
        for name in ("seattle", "sf"):
            table = pd.read_csv(Path(found.origin).parent / f"_data/{name}-temps.csv")
            yield f"{name}-temps, hourly", table[["date", "temp"]]
    for seed in (1, 2, 3):
        yield f"meter {seed}, hourly, made here", meter(seed)


def monthly(values: np.ndarray, first: str) -> pd.DataFrame:
    """Return a table of values month by month."""
    return pd.DataFrame({"date": pd.date_range(first, periods=len(values), freq="MS"), "value": values})


def measured(table: pd.DataFrame, more: list[str]) -> tuple[dict[str, float], str]:
    """Train with the command's defaults and evaluate: RMSE by forecast, and the verdict."""
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        path, run = Path(folder) / "series.csv", str(Path(folder) / "run")
        table.to_csv(path, index=False)
        filled = ["--missing", "interpolate"]
        if command(["train", "series", str(path), "--out", run, *filled, *more]) or command(["evaluate", run]):
            raise RuntimeError(said.getvalue())
    lines = said.getvalue().splitlines()
    start = next(k for k, line in enumerate(lines) if " RMSE " in line and " MASE " in line)
    rows = (re.match(r"  (\S.*?) {2,}(\S+)", line) for line in lines[start + 1 : -1])
    return {row[1]: float(row[2]) for row in rows if row}, lines[-1]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], help="series whose names begin so")
    parser.add_argument("options", nargs="*", help="more options of gpu-lstm train series, after --")
    options = parser.parse_args()
    print("| series | LSTM | ridge | best AR | other | verdict |\n| --- | --- | --- | --- | --- | --- |", flush=True)
    for name, table in series():
        if options.only and not name.startswith(tuple(options.only)):
            continue
        try:
            found, verdict = measured(table, options.options)
        except RuntimeError as error:
            print(f"| {name} | {str(error).splitlines()[-1]} |", flush=True)
            continue
        own = found.pop("LSTM")
        ridge = min((value for name, value in found.items() if name.startswith("ridge")), default=np.nan)
        order = min((value, name) for name, value in found.items() if name.startswith("AR"))
        other = min((value, name) for name, value in found.items() if not name.startswith(("AR", "ridge")))
        cells = [f"{own:.4g}", f"{ridge:.4g}", f"{order[0]:.4g}: {order[1]}", f"{other[0]:.4g}: {other[1]}", verdict]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
