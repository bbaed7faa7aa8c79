"""The page of `gpu-lstm inspect`: one file, no network. Python computes what is shown, ``page.html`` draws it."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpu_lstm.errors import InputError
from gpu_lstm.inspect.activations import QUANTITIES, activations
from gpu_lstm.inspect.reach import fades, gradient_reach
from gpu_lstm.inspect.tracking import Tracked, best_cells, series_features, text_features
from gpu_lstm.losses import BITS
from gpu_lstm.models import Forecaster, LanguageModel
from gpu_lstm.page import fill_template

TEMPLATE = Path(__file__).with_name("page.html")
BUDGET = 4_400_000
"""Bytes of activations in a page, as base64; with all else it stays below 5 MB for texts of ordinary length."""
LEVELS = 127
"""Activations are kept as whole numbers from -127 to 127."""
REACH = 64
"""Steps that the picture of the gradients goes back, where there are as many."""
WINDOWS = 64
"""Steps whose losses it is made of."""


def text_page(
    model: LanguageModel, tokens: np.ndarray, text: str, title: str, about: Mapping[str, str], first: int = 0
) -> str:
    """The page of a language model on a text.

    Parameters
    ----------
    model : LanguageModel
    tokens : (T,) integers
    text : str
        The same, T characters.
    title : str
    about : dict of str to str
        Facts for the page's end.
    first : int
        Number of the first character.

    Returns
    -------
    str
        HTML.

    Raises
    ------
    InputError
        See `summary`; or text and tokens are not of one length.
    """
    if len(text) != len(tokens):
        raise InputError(f"text has {len(text)} characters; expected {len(tokens)}, one a token")
    found = summary(model, tokens, text_features(text))
    bits = token_bits(model, tokens)
    tiles = [] if len(bits) < 2 else [tile(f"{np.mean(bits[1:]):.2f}", "bits per character on this text")]
    content = {"kind": "text", "text": text, "bits": [round(float(b), 2) for b in bits], "first": first}
    return page(title, tiles, found | content, about)


def series_page(
    model: Forecaster, values: np.ndarray, names: list[str], title: str, about: Mapping[str, str], first: int = 0
) -> str:
    """The page of a forecaster on its series.

    Parameters
    ----------
    model : Forecaster
    values : (T, S)
    names : S names
    title, about
        As of `text_page`.
    first : int
        Number of the first step.
    """
    found = summary(model, values, series_features(names, values, model.memory))
    series = [{"name": name, "values": short(values[:, s])} for s, name in enumerate(names)]
    return page(title, [], found | {"kind": "series", "series": series, "first": first}, about)


def summary(model: LanguageModel | Forecaster, data: np.ndarray, features: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What both kinds of page show: activations, tracking, gradient reach.

    Raises InputError as `activations`, or where the model has diverged.
    """
    found = activations(model, data)
    if not all(np.isfinite(array).all() for array in found.values()):
        raise InputError("model has activations that are not finite; expected a trained model that did not diverge")
    layers, steps, hidden = found["c"].shape
    cells = found["c"].transpose(1, 0, 2).reshape(steps, layers * hidden)
    tracked = best_cells(cells, features)
    kept, packed = pack(found, tracked)
    ahead = model.horizon if isinstance(model, Forecaster) else 1
    reach = min(REACH, (steps - 1 - ahead) // 2)
    lags = gradient_reach(model, data, reach, WINDOWS) if reach >= 4 else None
    shown = {rows[0].feature for rows in tracked}
    return {
        "layers": layers, "options": model.lstm.options.on(), "hidden": hidden, "steps": steps,
        "cells": [[cell // hidden, cell % hidden] for cell in kept], **packed,
        "tracked": [
            [
                {"feature": row.feature, "layer": row.cell // hidden, "cell": row.cell % hidden,
                 "chosen": round(row.chosen, 3), "r": round(row.r, 3)}
                for row in rows
            ]
            for rows in tracked
        ],
        "features": {name: short(features[name]) for name in features if name in shown},
        "still": [name for name in features if name not in shown], "reach": None if lags is None else reach_chart(lags),
    }  # fmt: skip


def token_bits(model: LanguageModel, tokens: np.ndarray) -> np.ndarray:
    """-log2 of the probability that the model gave each token, (T,); 0 for the first, which nothing predicts."""
    backend = model.backend
    ids = backend.asarray(np.asarray(tokens, dtype=np.int64)[:, None])
    scores = backend.to_numpy(model.logits(ids)[0])[:-1, 0, :].astype(np.float64)
    scores -= scores.max(axis=1, keepdims=True, initial=0)
    picked = scores[np.arange(len(scores)), np.asarray(tokens)[1:]]
    return np.concatenate([[0.0], (np.log(np.exp(scores).sum(axis=1)) - picked) * BITS])


def pack(found: Mapping[str, np.ndarray], tracked: list[list[Tracked]]) -> tuple[list[int], dict[str, Any]]:
    """Cells that fit into the page, and their activations as text.

    h and c are divided by the cell's own largest value, which is kept beside; everything is then rounded to a
    `LEVELS`-th. Where not all cells fit, those that track something come first, then those that move most.
    """
    layers, steps, hidden = found["c"].shape
    rows, scales = {}, {}
    for name in QUANTITIES:
        # A projection makes h narrower than c; what is not there is 0.
        array = np.pad(found[name], ((0, 0), (0, 0), (0, hidden - found[name].shape[2])))
        row = array.transpose(0, 2, 1).reshape(layers * hidden, steps).astype(np.float64)
        if name in "hc":
            scales[name] = np.abs(row).max(axis=1)
            row = row / np.where(scales[name] > 0, scales[name], 1)[:, None]
        rows[name] = np.round(row * LEVELS).astype(np.int8)
    moving = np.argsort(-found["c"].transpose(0, 2, 1).reshape(layers * hidden, steps).std(axis=1), kind="stable")
    order = list(dict.fromkeys([row.cell for rows_ in tracked for row in rows_] + moving.tolist()))
    count = layers * hidden
    while True:
        kept = sorted(order[:count])
        packed = zlib.compress(b"".join(rows[name][kept].tobytes() for name in QUANTITIES), 6)
        size = -(-len(packed) // 3) * 4
        if size <= BUDGET or count == 1:
            break
        count = max(1, min(count - 1, int(count * 0.98 * BUDGET / size)))
    data = base64.b64encode(packed).decode()
    return kept, {"data": data, "scale": {name: short(scale[kept]) for name, scale in scales.items()}}


def reach_chart(lags: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Median and quartiles over the windows, (num_layers, K) each, and where the top layer's h has faded to 1 %."""
    chart: dict[str, Any] = {"distance": lags["distance"].tolist(), "windows": len(lags["position"])}
    for name in "hc":
        quartiles = np.quantile(lags[name], (0.25, 0.5, 0.75), axis=2)
        chart[name] = [[short(line) for line in part] for part in quartiles.transpose(1, 0, 2)]
    chart["fades"] = fades(lags["distance"], np.median(lags["h"][-1], axis=1))
    return chart


def tile(value: str, label: str) -> dict[str, str]:
    """A large number with a line of text."""
    return {"value": value, "label": label}


def short(values: np.ndarray) -> list[float]:
    """Numbers with four digits."""
    return [float(f"{value:.4g}") for value in np.asarray(values, dtype=np.float64).tolist()]


def page(title: str, tiles: list[dict[str, str]], content: dict[str, Any], about: Mapping[str, str]) -> str:
    """Put a page's contents into the template."""
    if content["tracked"]:
        best = content["tracked"][0][0]
        where = f"layer {best['layer']}, cell {best['cell']}"
        tiles.append(
            tile(
                f"{best['r']:+.2f}".replace("-", "\u2212"),
                f"correlation of {where} with {best['feature']}, the best tracked",
            )
        )
    if content["reach"]:
        faded, farthest = content["reach"]["fades"], content["reach"]["distance"][-1]
        far = f"{faded} steps" if faded else f"> {farthest} steps"
        tiles.append(tile(far, "back: from there on the gradient at the top layer's h is below 1 % of its largest"))
    whole = {"title": title, "tiles": tiles, "facts": dict(about), **content}
    return fill_template(TEMPLATE, title, whole)
