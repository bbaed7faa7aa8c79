"""The shipped language model end to end against the same model in PyTorch: a training step, and sampling.

    python -m benchmarks.compare_model --rounds 9 --out benchmarks/results/cpu_model.json

Training: embedding, LSTM 64 -> 256, linear, cross-entropy, clipping, Adam, on the shipped text, 64 tracks of 64 steps,
the state carried along. Both sides start with the same weights and see the same chunks; their first losses must be
equal up to rounding. Sampling: one sequence, a token at a time; the likeliest tokens are compared first, then tokens
are drawn at temperature 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gpu_lstm.backend import choose
from gpu_lstm.bench import record as records
from gpu_lstm.bench import threads
from gpu_lstm.bench.method import compared, interleave, milliseconds
from gpu_lstm.cli.options import data_path
from gpu_lstm.data.text import read_text
from gpu_lstm.models import LanguageModel
from gpu_lstm.optimizers import Adam
from gpu_lstm.training.checkpoint import to_torch_names
from gpu_lstm.training.tasks import TextTask

BATCH, LENGTH, CLIP, RATE = 64, 64, 1.0, 4e-3
CHECKED_STEPS = 3
TOKENS = 256
"""Tokens that one timed call draws."""


def torch_model(model: LanguageModel) -> Any:
    """The same model in PyTorch, with a copy of the weights."""
    import torch

    torch.set_num_threads(threads.count())
    vocabulary, width = model.params["embedding.weight"].shape
    hidden = model.params["head.weight"].shape[1]
    theirs: Any = torch.nn.ModuleDict(
        {
            "embedding": torch.nn.Embedding(vocabulary, width),
            "lstm": torch.nn.LSTM(width, hidden),
            "head": torch.nn.Linear(hidden, vocabulary),
        }
    )
    arrays = to_torch_names(model.params, model.backend)
    theirs.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in arrays.items()})
    theirs["lstm"].bias_hh_l0.requires_grad_(False)  # ours has one bias; two would move twice as far
    return theirs


def our_training(task: TextTask) -> Callable[[], float]:
    """One step after the other, as the training loop takes them."""
    model = task.model
    optimizer = Adam(model.backend, model.params, RATE)

    def step() -> float:
        loss, gradients = task.step(optimizer.updates)
        value, _ = model.backend.read(loss, optimizer.update(gradients, max_norm=CLIP, loss=loss))
        return value

    return step


def torch_training(task: TextTask, model: Any) -> Callable[[], float]:
    """The same in PyTorch, with its fastest Adam for the CPU."""
    import torch

    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, RATE, fused=True)
    state: Any = None
    done = 0

    def step() -> float:
        nonlocal state, done
        chunk = done % task.steps_per_epoch
        done += 1
        tokens = torch.from_numpy(task.train.chunk(chunk).astype(np.int64))
        optimizer.zero_grad()
        h, last = model["lstm"](model["embedding"](tokens[:-1]), state if chunk else None)
        state = tuple(part.detach() for part in last)
        logits = model["head"](h)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
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
