"""Dates on what the commands say of series: training's lines, forecast's table and CSV, other data, many series."""

import csv

import numpy as np
import pandas as pd
import pytest

from gpu_lstm.cli import main

TRAIN = [
    "train",
    "series",
    "--epochs",
    "1",
    "--hidden-size",
    "4",
    "--length",
    "8",
    "--horizon",
    "3",
    "--validations",
    "1",
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def months(count=60, shops="a"):
    times = pd.date_range("2019-01-31", periods=count, freq="ME")
    rows = [(time, shop, 10.0 * k + t % 12, t % 5) for t, time in enumerate(times) for k, shop in enumerate(shops)]
    return pd.DataFrame(rows, columns=["month", "shop", "sales", "price"])


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_months_go_on_at_their_ends(here, capsys):
    months().to_csv("m.csv", index=False)
    assert main([*TRAIN, "m.csv", "--target", "sales", "--out", "r"]) == 0
    said = capsys.readouterr().out
    assert "time: month (ISO 8601), every month, 2019-01-31 to 2023-12-31\n" in said
    assert "split: train 2019-01-31 to 2022-06-30 (42 rows), validation 2022-07-31 to 2022-11-30 (5 rows), test" in said
    assert main(["forecast", "r", "--steps", "3"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()[:5] in ("2024-",)] == [
        "2024-01-31", "2024-02-29", "2024-03-31",
    ]  # fmt: skip
    rows = rows_of("r/forecast.csv")
    assert rows[0][:2] == ["month", "sales_forecast"]
    assert [row[0] for row in rows[1:]] == [
        "2023-10-31", "2023-11-30", "2023-12-31", "2024-01-31", "2024-02-29", "2024-03-31",
    ]  # fmt: skip


def test_many_series_are_forecast_each_by_its_id(here, capsys):
    months(shops="ab").to_csv("m.csv", index=False)
    assert main([*TRAIN, "m.csv", "--target", "sales", "--series", "shop", "--out", "r"]) == 0
    assert main(["forecast", "r"]) == 0
    rows = rows_of("r/forecast.csv")
    assert rows[0][:3] == ["shop", "month", "sales_forecast"]
    assert [row[0] for row in rows[1:]] == [*"aaaaaabbbbbb"]
    assert (
        [row[1] for row in rows[4:7]] == [row[1] for row in rows[10:13]] == ["2024-01-31", "2024-02-29", "2024-03-31"]
    )
    capsys.readouterr()
    assert main(["evaluate", "r"]) == 0


def test_inputs_known_ahead_come_from_a_file(here, capsys):
    months().to_csv("m.csv", index=False)
    assert main([*TRAIN, "m.csv", "--target", "sales", "--future", "price", "--calendar", "--out", "r"]) == 0
    assert "known ahead: price, sin(time of year), cos(time of year)" in capsys.readouterr().out
    assert main(["forecast", "r"]) == 2
    assert "forecasting needs price for the 3 steps ahead: --future FILE" in capsys.readouterr().err
    months(62)[["month", "price"]].to_csv("f.csv", index=False)
    assert main(["forecast", "r", "--future", "f.csv"]) == 2
    assert "f.csv lacks 1 of 3 steps: 2024-03-31" in capsys.readouterr().err
    months(63)[["month", "price"]].to_csv("f.csv", index=False)
    assert main(["forecast", "r", "--future", "f.csv"]) == 0


def test_other_data_are_read_as_those_of_the_run_or_as_said(here, capsys):
    frame = months()
    frame.to_csv("m.csv", index=False)
    assert main([*TRAIN, "m.csv", "--target", "sales", "--missing", "interpolate", "--out", "r"]) == 0
    other = frame.rename(columns={"month": "when"}).drop(index=[7])
    other["when"] = other["when"].dt.strftime("%d.%m.%Y")
    other.loc[9, "sales"] = -999
    other.to_csv("o.csv", index=False)
    capsys.readouterr()
    assert main(["forecast", "r", "--data", "o.csv"]) == 2
    assert "no column 'month'" in capsys.readouterr().err
    assert main(["forecast", "r", "--data", "o.csv", "--time", "when", "--missing-value", "-999"]) == 0
    said = capsys.readouterr().out
    assert "when (day.month.year), every month" in said
    assert "1 step is missing: 1 after line 8 (2019-07-31)" in said
    assert main(["forecast", "r", "--data", "o.csv", "--time", "when", "--missing", "refuse"]) == 2
    days = pd.DataFrame({"month": pd.date_range("2024-01-01", periods=40), "sales": np.arange(40) % 7})
    days.to_csv("d.csv", index=False)
    capsys.readouterr()
    assert main(["forecast", "r", "--data", "d.csv"]) == 0
    assert "trained on steps of another length: every month; these are every day" in capsys.readouterr().out


def test_a_forecast_is_not_measured_by_what_was_filled_in(here, capsys):
    frame = months()
    frame.to_csv("m.csv", index=False)
    assert main([*TRAIN, "m.csv", "--target", "sales", "--missing", "interpolate", "--out", "r"]) == 0
    frame.loc[len(frame) - 2, "sales"] = np.nan
    frame.to_csv("o.csv", index=False)
    capsys.readouterr()
    assert main(["forecast", "r", "--data", "o.csv", "--steps", "3"]) == 0
    rows = pd.read_csv("r/forecast.csv").iloc[:3]
    assert rows["sales_truth"].isna().tolist() == [False, True, False]
    rmse = np.sqrt(np.nanmean((rows["sales_forecast"] - rows["sales_truth"]) ** 2))
    assert f"RMSE {rmse:.4g}, but for the values that were filled in, 1" in capsys.readouterr().out
    frame.loc[len(frame) - 3 :, "sales"] = [np.nan, 4, 5]
    frame.to_csv("o.csv", index=False)
    assert main(["forecast", "r", "--data", "o.csv", "--steps", "2"]) == 0
    assert "filled in" not in capsys.readouterr().out.splitlines()[-2]


def test_a_run_resumes_over_filled_series_and_its_page_shows_one_stretch(here, capsys):
    frame = months(shops="ab")
    frame.loc[30, "sales"] = np.nan
    frame.to_csv("m.csv", index=False)
    options = ["m.csv", "--target", "sales", "--series", "shop", "--missing", "drop", "--out", "r"]
    assert main([*TRAIN, *options]) == 0
    assert main(["train", "--resume", "r", "--epochs", "2"]) == 0
    assert main(["inspect", "r", "--length", "500"]) == 0
    capsys.readouterr()
    assert main(["train", "series", "--resume", "r", "--missing", "forward"]) == 2
    assert "--missing is forward; the run to go on with has drop, which stays" in capsys.readouterr().err


def test_the_horizon_is_no_longer_than_what_there_is_to_validate_on(here, capsys):
    months(96, "ab").to_csv("m.csv", index=False)
    options = ["--epochs", "1", "--hidden-size", "4", "--target", "sales", "--series", "shop", "--out", "r"]
    assert main(["train", "series", "m.csv", *options]) == 0
    assert "periods: 12 steps; forecasts of 9 steps" in capsys.readouterr().out
