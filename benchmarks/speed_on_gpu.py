"""Training steps of whole language models on a GPU, beside PyTorch's: a part of `benchmarks.run_on_gpu`."""

from __future__ import annotations

from itertools import product

from benchmarks import model
from benchmarks.on_gpu import Log, Record, torch_here
from gpu_lstm.backend import Backend

MODELS = [({"embedding_size": 512, "hidden_size": 1024, "num_layers": 2}, 64, 128), ({}, 64, 64)]
"""Sizes of language models that differ from the shipped one's, B, T."""


def models(backend: Backend, log: Log) -> None:
    """Training steps of language models in each dtype, against PyTorch's autocast."""
    sizes = [({"embedding_size": 4, "hidden_size": 8}, 2, 4)] if log.rehearse else MODELS
    dtypes = ("float16",) if log.rehearse else ("float16", "bfloat16", "float32")
    for dtype, (config, batch, length) in product(dtypes, sizes):
        name = f"H={config.get('hidden_size', 'shipped')} B={batch} T={length} {dtype}"
        log.item(name, one_model, backend, log, config, batch, length, dtype)


def one_model(backend: Backend, log: Log, config: dict[str, int], batch: int, length: int, dtype: str) -> Record:
    """One of them. A step ends when the host has read its loss: the wall clock and the device's events time all of it.

    Raises
    ------
    RuntimeError
        The first losses differ.
    """
    torch, device, lacking = torch_here(backend)
    ours, task = model.model_and_task(backend, batch, length, dtype=dtype, **config)
    steps = {"ours": model.our_training(task)}
    if torch is not None:
        steps["torch"] = model.torch_training(task, model.torch_model(ours, device), device, dtype)
    losses = model.first_losses(steps, dtype)
    times, medians = log.alternate(steps)
    speeds = {side: batch * length / value for side, value in medians.items()}
    found: Record = {**ours.config, "B": batch, "T": length, "dtype": dtype, "tier": ours.lstm.plan.tier}
    found |= {"first_losses": losses, **times, "characters_per_second": speeds}
    found |= {"alone": lacking} if torch is None else {"ratio": medians["torch"] / medians["ours"]}
    said = ", ".join(f"{side} {speed:,.0f}" for side, speed in speeds.items())
    return found | {"said": f"characters per second: {said}"}
