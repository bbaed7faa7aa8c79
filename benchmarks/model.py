"""The shipped language model end to end against the same model in PyTorch: a training step, drawing text; streaming.

    python -m benchmarks.model --rounds 9 --out model.json

On a GPU, `benchmarks.run_on_gpu` compares training steps of larger ones too, in 16 bits with PyTorch's autocast.

Training: embedding, LSTM, linear, cross-entropy, clipping, Adam, on the shipped text, the state carried along. Both
sides start with the same weights and see the same chunks; their first losses must be equal up to rounding. Drawing: one
sequence, a token at a time; the likeliest tokens are compared first, then tokens are drawn at temperature 1. Streaming:
`LSTM` and `LSTMCell` by themselves, frozen, one step a call.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import need_compiled
from gpu_lstm.backend import Backend, choose
from gpu_lstm.bench import record, threads
from gpu_lstm.bench.method import interleave, quartiles
from gpu_lstm.bench.report import spread
from gpu_lstm.cli.options import data_path
from gpu_lstm.data.text import read_text
from gpu_lstm.layers import LSTM, LSTMCell
from gpu_lstm.models import LanguageModel
from gpu_lstm.optimizers import Adam
from gpu_lstm.training.checkpoint import to_torch_names
from gpu_lstm.training.loss_scale import LossScaler
from gpu_lstm.training.tasks import TextTask

CLIP, RATE = 1.0, 4e-3
CHECKED_STEPS = 3
TOKENS = 256
"""Tokens that one timed call draws, and steps that it streams."""
STREAMED = 128
"""Input and hidden size of what is streamed."""
TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 1e-2}
"""Of the first losses, relative."""
Steps = dict[str, Callable[[], float]]


def model_and_task(backend: Backend, batch: int, length: int, **config: Any) -> tuple[LanguageModel, TextTask]:
    """The language model, with these sizes besides its own, and what it learns."""
    tokens, vocabulary = read_text(data_path("shakespeare"))
    model = LanguageModel(len(vocabulary), **config, backend=backend)
    return model, TextTask(model, tokens, batch, length, validation=0.1, seed=0)


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
    optimizer, scaler = Adam(model, RATE), LossScaler.for_dtype(model.dtype)
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


def streaming(size: int = STREAMED) -> dict[str, Callable[[], Any]]:
    """A step a call, the state carried along, of layers with the same weights; h of the last step comes back."""
    import torch

    lstm, cell = (kind(size, size, backend="numpy") for kind in (LSTM, LSTMCell))
    theirs, their_cell = torch.nn.LSTM(size, size), torch.nn.LSTMCell(size, size)
    for layer, end in ((theirs, "_l0"), (their_cell, "")):
        arrays = {name.removesuffix("_l0"): torch.from_numpy(array.copy()) for name, array in lstm.params.items()}
        arrays = {name.replace("bias", "bias_ih"): array for name, array in arrays.items()}
        arrays["bias_hh"] = torch.zeros(4 * size)
        layer.load_state_dict({name + end: array for name, array in arrays.items()})
    for name, array in zip(cell.params, lstm.params.values(), strict=True):
        cell.params[name][...] = array
    lstm.freeze()
    cell.freeze()
    x = np.random.default_rng(0).standard_normal((TOKENS, 1, size), dtype=np.float32)
    x_theirs = torch.from_numpy(x)

    def ours() -> Any:
        state: Any = None
        for step in range(TOKENS):
            _, state, _ = lstm.forward(x[step : step + 1], state, keep=False)
        return state[0][0]

    def our_cell() -> Any:
        h = c = None
        for step in range(TOKENS):
            h, c, _ = cell.forward(x[step], (h, c), keep=False)
        return h

    def torch_lstm() -> Any:
        state: Any = None
        with torch.inference_mode():
            for step in range(TOKENS):
                _, state = theirs(x_theirs[step : step + 1], state)
        return state[0][0].numpy()

    def torch_cell() -> Any:
        state: Any = None
        with torch.inference_mode():
            for step in range(TOKENS):
                state = their_cell(x_theirs[step], state)
        return state[0].numpy()

    sides = {"ours": ours, "cell": our_cell, "torch": torch_lstm, "torch-cell": torch_cell}
    first, *others = (side() for side in sides.values())
    if not all(np.allclose(first, other, atol=1e-5) for other in others):
        raise RuntimeError("streamed results differ")
    return sides


def first_losses(steps: Steps, dtype: str = "float32") -> dict[str, list[float]]:
    """Losses of the first steps of each side.

    Raises
    ------
    RuntimeError
        They differ by more than rounding.
    """
    losses = {side: [step() for _ in range(CHECKED_STEPS)] for side, step in steps.items()}
    ours, *others = losses.values()
    if not all(np.allclose(ours, other, rtol=TOLERANCE[dtype]) for other in others):
        raise RuntimeError(f"first losses differ: {losses}")
    return losses


def main() -> None:
    """Measure both, print, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    need_compiled()
    found: dict[str, Any] = record.provenance(record.command_line("python -m benchmarks.model"))
    model, task = model_and_task(choose("numpy"), 64, 64)
    theirs, prompt = torch_model(model), np.array([1])
    likeliest = list(model.sample(prompt, TOKENS, temperature=0)), torch_sample(theirs, 1, TOKENS, temperature=0)
    if likeliest[0] != likeliest[1]:
        raise SystemExit(f"likeliest tokens differ: {likeliest}")
    drawing = {
        "ours": lambda: list(model.sample(prompt, TOKENS)),
        "torch": lambda: torch_sample(theirs, 1, TOKENS),
    }
    found["drawing"] = {"seconds": interleave(drawing, options.rounds), "at_once": TOKENS}
    training = {"ours": our_training(task), "torch": torch_training(task, theirs)}
    found["first_losses"] = first_losses(training)
    found["training"] = {"seconds": interleave(training, options.rounds), "at_once": 64 * 64}
    found["streaming"] = {"seconds": interleave(streaming(), options.rounds), "at_once": TOKENS}
    found["summary"] = {"numpy": {}}
    for kind in ("training", "drawing", "streaming"):
        seconds, at_once = found[kind]["seconds"], found[kind]["at_once"]
        ours = quartiles(seconds["ours"])["median"]
        ratios = {side: quartiles(some)["median"] / ours for side, some in seconds.items() if side != "ours"}
        found["summary"]["numpy"][kind] = {side: spread([value]) for side, value in ratios.items()}
        found[kind]["microseconds"] = {
            side: quartiles(some)["median"] / at_once * 1e6 for side, some in seconds.items()
        }
        each = ", ".join(f"{side} {value:,.1f}" for side, value in found[kind]["microseconds"].items())
        print(f"{kind}: microseconds for each of {at_once}: {each}; torch over ours {ratios['torch']:.2f}")
    record.write(found, options.out)


if __name__ == "__main__":
    main()
