"""How many numbers a model has, from its description alone: nothing is allocated."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

from gpu_lstm.errors import InputError
from gpu_lstm.layers.options import Options


def lstm_amount(
    input_size: int, hidden_size: int, num_layers: int, num_directions: int, options: Options | None = None
) -> dict[str, int]:
    """Numbers in an LSTM's biases, and in all else, its weights."""
    options = options or Options()
    width = (options.proj_size or hidden_size) * num_directions
    upper = options.parameters(hidden_size, width)
    biases = num_directions * num_layers * math.prod(upper.get("bias", (0,)))
    total = sum(math.prod(shape) for shape in options.parameters(hidden_size, input_size).values())
    total += (num_layers - 1) * sum(math.prod(shape) for shape in upper.values())
    return {"weights": num_directions * total - biases, "biases": biases}


def model_amounts(kind: str, config: dict[str, Any]) -> dict[str, int]:
    """Numbers in each part of the model that `config` describes: embedding, lstm, lstm_biases, head.

    Raises InputError where a size is missing or no whole number of at least 1.
    """

    if kind == "composed":
        return _composed_amounts(config)

    def size(name: str) -> int:
        value = config.get(name, 1 if name == "num_layers" else None)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name} is {value!r}; expected a whole number of at least 1")
        return value

    def count(name: str) -> int:
        value = config.get(name)
        if not isinstance(value, list | tuple) or not value:
            raise InputError(f"{name} is {str(value)[:40]}; expected a list of numbers")
        return len(value)

    hidden, layers, directions, summaries, embedding = size("hidden_size"), size("num_layers"), 1, 1, 0
    if kind == "text":
        inputs, outputs = size("embedding_size"), size("vocabulary_size")
        embedding = inputs * outputs
    elif kind == "series":
        count("mean"), size("horizon")
        inputs, outputs = series_widths(config)
    elif kind in ("classify", "regress", "label"):
        inputs = count("mean") * config.get("frames", (1, 1))[0]
        outputs = count("target_mean") if kind == "regress" else size("num_classes")
        directions = 2 if config.get("bidirectional", True) else 1
        summaries = len(config.get("pooling", ("mean",)))
    else:
        raise InputError(f"kind is {kind!r}; expected text, series, classify, regress, label or composed")
    options = Options.of(config.get("lstm") or {})
    lstm = lstm_amount(inputs, hidden, layers, directions, options)
    return {
        "embedding": embedding,
        "lstm": lstm["weights"] + lstm["biases"],
        "lstm_biases": lstm["biases"],
        "head": outputs * ((options.proj_size or hidden) * directions * summaries + 1),
    }


def series_widths(config: dict[str, Any]) -> tuple[int, int]:
    """Inputs of a forecaster's LSTM, and what its head says."""
    series, horizon, inputs = len(config["mean"]), config["horizon"], config.get("inputs") or {}
    width = 2 * series + len(inputs.get("mean", ())) + horizon * inputs.get("ahead", 0)
    return width, series * horizon * (2 if config.get("distribution") else len(config.get("quantiles", ())) or 1)


def _composed_amounts(config: dict[str, Any]) -> dict[str, int]:
    """Numbers in a composition, by layers' kinds: those of a Linear count as head."""
    found = dict.fromkeys(("embedding", "lstm", "lstm_biases", "head"), 0)

    def add(about: dict[str, Any]) -> None:
        kind = about["kind"]
        for inner in about.get("layers", [about["lstm"]] if kind == "Reversed" else []):
            add(inner)
        if kind == "Embedding":
            found["embedding"] += about["num_embeddings"] * about["embedding_dim"]
        elif kind == "Linear":
            found["head"] += about["output_size"] * (about["input_size"] + 1)
        elif kind == "LSTM":
            sizes = about["input_size"], about["hidden_size"], about.get("num_layers", 1)
            options = Options.of({row.name: about[row.name] for row in fields(Options) if row.name in about})
            amount = lstm_amount(*sizes, 2 if about.get("bidirectional") else 1, options)
            found["lstm"] += amount["weights"] + amount["biases"]
            found["lstm_biases"] += amount["biases"]

    for part in config["parts"]:
        if "layer" in part:
            add(part["layer"])
    return found
