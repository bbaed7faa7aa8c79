"""The shipped language model end to end against the same model in PyTorch: a training step, and sampling.

    python -m benchmarks.compare_model --rounds 9 --out benchmarks/results/cpu_model.json

On a GPU, `benchmarks.run_on_gpu` compares training steps of larger ones too, in 16 bits with PyTorch's autocast.

Training: embedding, LSTM 64 -> 256, linear, cross-entropy, clipping, Adam, on the shipped text, 64 tracks of 64 steps,
the state carried along. Both sides start with the same weights and see the same chunks; their first losses must be
equal up to rounding. Sampling: one sequence, a token at a time; the likeliest tokens are compared first, then tokens
are drawn at temperature 1.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.on_gpu import Log, Record, torch_here
from gpu_lstm.backend import Backend, choose
from gpu_lstm.bench import record as records
from gpu_lstm.bench import threads
from gpu_lstm.bench.method import compared, interleave, milliseconds
from gpu_lstm.cli.options import data_path
from gpu_lstm.data.text import read_text
from gpu_lstm.models import LanguageModel
from gpu_lstm.optimizers import Adam
from gpu_lstm.training.checkpoint import to_torch_names
from gpu_lstm.training.loss_scale import LossScaler
from gpu_lstm.training.tasks import TextTask

BATCH, LENGTH, CLIP, RATE = 64, 64, 1.0, 4e-3
CHECKED_STEPS = 3
TOKENS = 256
"""Tokens that one timed call draws."""
LARGE = {"embedding_size": 512, "hidden_size": 1024, "num_layers": 2}, 64, 128
SHIPPED: tuple[dict[str, int], int, int] = {}, BATCH, LENGTH
"""Sizes of the model that differ from the shipped one's, B, T: for a GPU."""


def torch_model(model: LanguageModel, device: str = "cpu") -> Any:
    """The same model in PyTorch, with a copy of the weights."""
    import torch

    torch.set_num_threads(threads.count())
    vocabulary, width = model.params["embedding.weight"].shape
    hidden = model.params["head.weight"].shape[1]
    theirs: Any = torch.nn.ModuleDict(
        {
            "embedding": torch.nn.Embedding(vocabulary, width),
            "lstm": torch.nn.LSTM(width, hidden, model.lstm.num_layers),
            "head": torch.nn.Linear(hidden, vocabulary),
        }
    )
    arrays = to_torch_names(model.params, model.backend)
    theirs.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in arrays.items()})
    for layer in range(model.lstm.num_layers):  # ours has one bias; two would move twice as far
        getattr(theirs["lstm"], f"bias_hh_l{layer}").requires_grad_(False)
    return theirs.to(device)


def our_training(task: TextTask) -> Callable[[], float]:
    """One step after the other, as the training loop takes them."""
    model = task.model
    optimizer, scaler = Adam(model.backend, model.params, RATE), LossScaler.for_dtype(model.dtype)
    done = 0

    def step() -> float:
        nonlocal done
        model.loss_scale = scaler.scale
        loss, gradients = task.step(done)
        done += 1
        norm = optimizer.update(gradients, max_norm=CLIP, loss=loss, loss_scale=scaler.scale)
        value, norm = model.backend.read(loss, norm)
        scaler.update(math.isfinite(norm))
        return value

    return step


def torch_training(task: TextTask, model: Any, device: str = "cpu", dtype: str = "float32") -> Callable[[], float]:
    """The same in PyTorch, with its fastest Adam; in 16 bits with autocast, for float16 with its GradScaler."""
    import torch

    kind, place = getattr(torch, dtype), torch.device(device).type
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, RATE, fused=True)
    scaler = torch.amp.GradScaler(place, LossScaler().scale, enabled=dtype == "float16")
    state: Any = None
    done = 0

    def step() -> float:
        nonlocal state, done
        chunk = done % task.steps_per_epoch
        done += 1
        tokens = torch.from_numpy(task.train.chunk(chunk).astype(np.int64)).to(device)
        optimizer.zero_grad()
        with torch.autocast(place, kind, enabled=dtype != "float32"):
            h, last = model["lstm"](model["embedding"](tokens[:-1]), state if chunk else None)
            state = tuple(part.detach() for part in last)
            logits = model["head"](h)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[1:].flatten())
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        scaler.step(optimizer)
        scaler.update()
        return float(loss.detach())

    return step


def torch_sample(model: Any, first: int, length: int, temperature: float = 1.0) -> list[int]:
    """What LanguageModel.sample does, as a plain loop."""
    import torch

    drawn = []
    with torch.inference_mode():
        ids, state = torch.tensor([[first]]), None
        for _ in range(length):
            h, state = model["lstm"](model["embedding"](ids), state)
            scores = model["head"](h[-1])
            if temperature == 0:
                ids = scores.argmax(-1, keepdim=True)
            else:
                ids = torch.multinomial(torch.softmax(scores / temperature, -1), 1)
            drawn.append(int(ids))
    return drawn


def compare_training(task: TextTask, theirs: Any, rounds: int) -> dict[str, Any]:
    """Losses of the first steps, then interleaved times."""
    steps = {"ours": our_training(task), "theirs": torch_training(task, theirs)}
    losses = {side: [step() for _ in range(CHECKED_STEPS)] for side, step in steps.items()}
    if not np.allclose(losses["ours"], losses["theirs"], rtol=1e-4):
        raise SystemExit(f"losses differ: {losses}")
    result = {"first_losses": losses, **compared(interleave(steps, rounds), "ours", "theirs")}
    speeds = [BATCH * LENGTH / value * 1e3 for value in milliseconds(result)]
    return {**result, "characters_per_second": dict(zip(("ours", "theirs"), speeds, strict=True))}


def compare_sampling(model: LanguageModel, theirs: Any, rounds: int) -> dict[str, Any]:
    """Likeliest tokens on both sides, then interleaved times of drawing."""
    prompt = np.array([1])
    likeliest = list(model.sample(prompt, TOKENS, temperature=0)), torch_sample(theirs, 1, TOKENS, temperature=0)
    if likeliest[0] != likeliest[1]:
        raise SystemExit(f"likeliest tokens differ: {likeliest}")
    steps: dict[str, Callable[[], object]] = {
        "ours": lambda: list(model.sample(prompt, TOKENS)),
        "theirs": lambda: torch_sample(theirs, 1, TOKENS),
    }
    result = compared(interleave(steps, rounds), "ours", "theirs")
    speeds = [TOKENS / value * 1e3 for value in milliseconds(result)]
    return {**result, "tokens_per_second": dict(zip(("ours", "theirs"), speeds, strict=True))}


def on_gpu(backend: Backend, log: Log) -> None:
    """Training steps of language models in each dtype, against PyTorch's autocast."""
    sizes = [({"embedding_size": 4, "hidden_size": 8}, 2, 4)] if log.rehearse else [LARGE, SHIPPED]
    dtypes = ("float16",) if log.rehearse else ("float16", "bfloat16", "float32")
    for dtype, (config, batch, length) in product(dtypes, sizes):
        name = f"H={config.get('hidden_size', 'shipped')} B={batch} T={length} {dtype}"
        log.item(name, gpu_point, backend, log, config, batch, length, dtype)


def gpu_point(backend: Backend, log: Log, config: dict[str, int], batch: int, length: int, dtype: str) -> Record:
    """One of them. A step ends when the host has read its loss: the wall clock and the device's events time all of it.

    Raises
    ------
    RuntimeError
        The first losses differ.
    """
    torch, device, lacking = torch_here(backend)
    tokens, vocabulary = read_text(data_path("shakespeare"))
    model = LanguageModel(len(vocabulary), **config, backend=backend, dtype=dtype)  # type: ignore[arg-type]
    task = TextTask(model, tokens, batch, length, validation=0.1, seed=0)
    steps = {"ours": our_training(task)}
    if torch is not None:
        steps["torch"] = torch_training(task, torch_model(model, device), device, dtype)
    losses = {side: [step() for _ in range(CHECKED_STEPS)] for side, step in steps.items()}
    if torch is not None and not np.allclose(
        losses["ours"], losses["torch"], rtol=1e-4 if dtype == "float32" else 1e-2
    ):
        raise RuntimeError(f"first losses differ: {losses}")
    times, medians = log.alternate(steps)
    speeds = {side: batch * length / value for side, value in medians.items()}
    found: Record = {**model.config, "B": batch, "T": length, "dtype": dtype, "tier": model.lstm.plan.tier}
    found |= {"first_losses": losses, **times, "characters_per_second": speeds}
    found |= {"alone": lacking} if torch is None else {"ratio": medians["torch"] / medians["ours"]}
    said = ", ".join(f"{side} {speed:,.0f}" for side, speed in speeds.items())
    return found | {"said": f"characters per second: {said}"}


def main() -> None:
    """Measure both, print, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", default="auto")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    record: dict[str, Any] = records.provenance(records.command_line("python -m benchmarks.compare_model"))
    tokens, vocabulary = read_text(data_path("shakespeare"))
    model = LanguageModel(len(vocabulary), backend=choose("numpy"), tier=options.tier)
    theirs = torch_model(model)
    task = TextTask(model, tokens, BATCH, LENGTH, validation=0.1, seed=0)
    record |= {"tier": options.tier, "sampling": compare_sampling(model, theirs, options.rounds)}
    record["training"] = compare_training(task, theirs, options.rounds)
    for kind, rate in (("training", "characters_per_second"), ("sampling", "tokens_per_second")):
        ours, torch = record[kind][rate].values()
        print(f"{kind}: {rate.replace('_', ' ')} {ours:,.0f}, PyTorch {torch:,.0f}, ratio {record[kind]['ratio']:.2f}")
    records.write(record, options.out)


if __name__ == "__main__":
    main()
