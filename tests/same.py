"""Whether two versions of gpu_lstm give the same bytes: hashes of outputs and gradients in about 900 settings.

python -m tests.same record OLD.json                          # of the gpu_lstm that Python finds, on NumPy
PYTHONPATH=/other/tree python tests/same.py record NEW.json   # of that of another tree
python -m tests.device -m tests.same record GPU.json --gpu    # the CUDA kernels, and which ones are launched
python -m tests.same compare OLD.json NEW.json                # exit status 1 where one differs

Two records are comparable that one machine made, with one NumPy and one number of threads: 1, or OMP_NUM_THREADS.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")

import ml_dtypes
import numpy as np

import gpu_lstm
from gpu_lstm import layers, losses, models, optimizers, training
from gpu_lstm.training import tasks

Case = tuple[str, Callable[[], Any]]  # a setting's name, and what gives its results
TIERS, DTYPES = ("reference", "pointwise", "sequence", "auto"), ("float32", "float64", "float16", "bfloat16")
GONE = "numpy pointwise"  # so begin the names of settings that later versions refuse on purpose
DRAWN = {"zoneout_h": 0.2, "zoneout_c": 0.3, "input_dropout": 0.2, "recurrent_dropout": 0.25, "weight_dropout": 0.3}
LIMITS = {"clip": 0.8, "cell_clip": 0.3, "hard_sigmoid": True}
MORE = dict.fromkeys(("peepholes", "coupled", "layer_norm", "residual", "learn_state", "cells"), True)
FAMILY: tuple[dict[str, Any], ...] = (
    *({}, {}, {}, *({name: value} for name, value in (DRAWN | LIMITS | MORE).items())),
    *({"bias": False}, {"proj_size": 4}, {"heads": 2}, {"proj_size": 4, "heads": 4, "cells": True, "zoneout_h": 0.1}),
    *(DRAWN, LIMITS | {"peepholes": True, "bias": False}, {"cells": True, "residual": True}, DRAWN | LIMITS | MORE),
    {"layer_norm": True, "coupled": True, "peepholes": True, "learn_state": True, "cell_clip": 1.0},
)
SHARES = {  # how many of the settings of LSTM have what
    **{"bidirectional": 0.4, "batch_first": 0.3, "dropout": 0.4, "forget_bias": 0.3, "recompute": 0.3, "train": 0.6},
    **{"lengths": 0.4, "resets": 0.3, "keep": 0.85, "guard": 0.6, "h0": 0.6, "c0": 0.6, "dstate": 0.7},
}
backend: Callable[[str], Any] = functools.cache(gpu_lstm.choose)


def normal(where: str, seed: int, shape: tuple[int, ...], dtype: str) -> Any:
    """Normal numbers, of the backend and in that dtype."""
    host = np.random.default_rng(seed).standard_normal(shape)
    return backend(where).xp.asarray(host.astype(getattr(ml_dtypes if dtype == "bfloat16" else np, dtype)))


def digest(value: Any) -> str:
    """SHA-256 of all arrays' names, dtypes, shapes and bytes, and of whatever else there is."""
    if hasattr(value, "items") or isinstance(value, list | tuple):
        text = str([digest(part) for part in (value.items() if hasattr(value, "items") else value)]).encode()
    elif hasattr(value, "dtype"):
        host = np.asarray(value.get() if hasattr(value, "get") else value)
        text = f"{host.dtype} {value.shape} ".encode() + host.tobytes()
    else:
        text = repr(value).encode()
    return hashlib.sha256(text).hexdigest()


def lstm(number: int, where: str, tier: str, dtype: str, options: dict[str, Any], long: bool = False) -> Case:
    """A setting of LSTM, the rest of it drawn by its number; `long` is more than one segment."""
    rng, tiny, even = random.Random(number), where != "numpy", bool({"heads", "proj_size"} & options.keys())
    steps, batch = map(rng.choice, ((1, 2, 5), (1, 2, 4)) if tiny else ((1, 2, 11, 20), (1, 2, 3, 8, 19)))
    width, hidden = rng.randint(1, 9), rng.choice((8, 16, 32) if even else (1, 5, 16, 31) if tiny else (1, 7, 33, 70))
    if long:
        hidden, (steps, batch) = 8, rng.choice(((83, 200), (83, 200), (2100, 8)))
    depth = max(rng.choice((1, 2, 3)), 1 + options.get("residual", False))
    no = {"forget_bias"} if {"coupled", "bias"} & options.keys() else set()
    has = [name for name, share in SHARES.items() if rng.random() < share and name not in no]
    name = f"{where} {tier} {dtype} {'+'.join(options if len(options) < 8 else ['everything']) or 'plain'} #{number}"

    def given(name: str, value: Any) -> Any:
        return value if name in has else None

    def work() -> Any:
        make, host, both = functools.partial(normal, where), np.random.default_rng(number), 1 + ("bidirectional" in has)
        flags: dict[str, Any] = {name: name in has for name in ("bidirectional", "batch_first", "recompute")}
        layer = gpu_lstm.LSTM(
            width, hidden, depth, backend=backend(where), dtype=dtype, tier=tier, seed=number, **flags, **options,
            dropout=given("dropout", 0.2) or 0.0, forget_bias=given("forget_bias", 1.0),
        )  # fmt: skip
        out, wide = options.get("proj_size", hidden), "float64" if dtype == "float64" else "float32"
        order = (batch, steps) if "batch_first" in has else (steps, batch)
        h, c = ((depth * both, batch, size) for size in (out, hidden))
        y, after, tape = layer.forward(
            make(1, (*order, width), dtype), (given("h0", make(2, h, dtype)), given("c0", make(3, c, wide))),
            given("lengths", host.integers(0, steps + 1, batch)), given("train", (number, 7) if tiny else number),
            "keep" in has, given("resets", host.random(order) < 0.2), guard="guard" in has,
        )  # fmt: skip
        outputs = digest((y, after))  # now: without guard they are the tape's
        dy, dc = make(4, (*order, out * both), dtype), make(5, (*order, hidden * both), wide)
        arrives = (dy, dc) if options.get("cells") else dy, given("dstate", (make(6, h, dtype), make(7, c, wide)))
        return outputs, layer.backward(tape, *arrives) if "keep" in has else None

    return f"{name} T{steps} B{batch} D{width} H{hidden} L{depth} {' '.join(has)}", work


def around(where: str, tier: str, dtype: str, options: dict[str, Any]) -> Any:
    """Three steps of LSTMCell, each with its backward; Linear, Embedding, Dropout, Stack, Reversed; the losses."""
    there: dict[str, Any] = {"backend": backend(where), "dtype": dtype}
    cell, h, c = gpu_lstm.LSTMCell(4, 8, tier=tier, seed=2, **there, **options), None, None
    x, found = normal(where, 1, (5, 3, 4), dtype), []
    for step in range(3):
        h, c, tape = cell.forward(x[step], (h, c), seed=(4, step))
        found.append(digest((h, c, cell.backward(tape, h, c))))
    xp, below, above = there["backend"].xp, *(gpu_lstm.LSTM(4, 4, tier=tier, seed=k, **there) for k in (1, 2))
    deep, ids = gpu_lstm.Stack([below, layers.Reversed(above)], 0.2), xp.asarray(np.arange(15).reshape(5, 3) % 6)
    linear, wide = (gpu_lstm.Linear(4, 6, wide=wide, **there) for wide in (False, True))
    embedding, dropout = gpu_lstm.Embedding(7, 4, **there), gpu_lstm.Dropout(0.3, **there)
    calls: Any = (linear, x), (wide, x), (embedding, ids), (dropout, x, 1), (deep, x, None, [5, 0, 3], 3)
    for layer, *given in calls:
        y, *rest, tape = layer.forward(*given)
        found += [digest((y, rest)), digest(layer.backward(tape, y))]
    a, b = (normal(where, seed, (4, 9), "float64" if dtype == "float64" else "float32") for seed in (5, 6))
    found += [digest(loss(there["backend"], a, b)) for loss in losses.REGRESSION.values()]
    return found, losses.softmax_cross_entropy(there["backend"], a, xp.asarray(np.array([1, 8, 2, 0])), 2)


def trained(where: str, kind: str, tier: str, dtype: str, rule: str, options: dict[str, Any]) -> Any:
    """Five steps of a model with clipping, and what it says then; with text a run of the training loop, too."""
    there = {"backend": backend(where), "dtype": dtype, "tier": tier, "seed": 5, "lstm": options, "dropout": 0.1}
    x, lengths = np.random.default_rng(3).standard_normal((12, 4, 2)), np.array([12, 1, 7, 9])
    model: Any = {
        "text": lambda: models.LanguageModel(11, 5, 12, 2, **there),
        "series": lambda: models.Forecaster([0, 1], [1, 2], [0.5, 1], 3, 6, 9, 2, **there),
        "classify": lambda: models.Classifier([0, 1], [1, 2], 3, 8, 2, **there),
        "regress": lambda: models.Regressor([0, 1], [1, 2], [0.0], [2.0], 8, 2, recompute=True, **there),
    }[kind]()
    ids = model.backend.xp.asarray(np.arange(24).reshape(8, 3) ** 2 % 11)
    labelled = [x, lengths, np.arange(4) % 3 if kind == "classify" else x[0, :, :1]]
    given, said = {"text": [ids, None], "series": [x, 2]}.get(kind, labelled), list[Any]()
    optimizer = optimizers.make_optimizer(rule, model.backend, model.params, 0.02)
    for step in range(5):
        loss, *after, gradients = model.loss(*given, seed=step)
        given[1:] = after or given[1:]
        if where == "numpy" and step == 4:
            said.append(optimizers.clip_by_global_norm(model.backend, gradients, 0.1))
        said.append(digest((optimizer.update(gradients, 1 / (1 + step), 0.5, loss), loss, model.params)))
    if kind == "text":
        said += [list(model.sample([1, 2], 70 if where == "numpy" else 3, 0.8, never=[3])), digest(model.evaluate(ids))]
        task = tasks.TextTask(model, np.arange(300) ** 2 % 11, batch=4, length=8, validation=0.2, seed=2)
        training.Training(task, training.Settings(1, 0.01, rule, validations=2)).go(said.append)
        return said, model.params
    ask = {"series": "forecast", "classify": "logits", "regress": "predict"}[kind]
    return said, getattr(model, ask)(x, 7 if kind == "series" else lengths)


def cases(where: str) -> Iterator[Case]:
    """All settings on a backend; fewer and smaller ones where kernels are interpreted."""
    tiny, pairs = where != "numpy", list(enumerate(product(TIERS, DTYPES)))
    for row, options in enumerate(FAMILY if tiny else FAMILY * 2):
        for place, (tier, dtype) in pairs:
            if not tiny or place % 4 == (row + place // 4) % 4:
                yield lstm(16 * row + place, where, tier, dtype, options)
            if not tiny and (16 * row + place) % 13 == 0:
                yield lstm(16 * row + place, where, tier, dtype, options, long=True)
    for place, (tier, dtype) in pairs[:: 5 if tiny else 1]:
        options = ({}, FAMILY[11], DRAWN, FAMILY[13])[(place + place // 4) % 4]
        yield f"{where} {tier} {dtype} around", functools.partial(around, where, tier, dtype, options)
        for turn, kind in enumerate(("text", "series", "classify", "regress")):
            rule, options = list(optimizers.OPTIMIZERS)[(place + turn) % 4], FAMILY[11 * ((place + turn) % 3 == 0)]
            settings = where, kind, tier, dtype, rule, options
            yield f"{where} {tier} {dtype} {kind} {rule}", functools.partial(trained, *settings)


def noted(launches: Path, asked: Callable[..., None], handle: int, *sizes: Any) -> None:
    """A product of cuBLAS, as CuPy's binding is asked for it, that is among the launches."""
    with launches.open("a") as lines:
        lines.write(json.dumps({"kernel": asked.__name__, "blocks": sizes[2:5], "threads": sizes[:2]}) + "\n")
    asked(handle, *sizes)


def record(where: str, launches: Path) -> dict[str, str]:
    """Hashes by setting; of the GPU that is not there also its launches: kernels, blocks, threads; matrix products."""
    found = {}
    if where != "numpy":
        os.environ["GPU_LSTM_DEVICE_COUNTS"] = str(launches)
        from cupy_backends.cuda.libs import cublas

        for name in ("gemmEx", "gemmStridedBatchedEx"):
            setattr(cublas, name, functools.partial(noted, launches, getattr(cublas, name)))
    for name, work in cases(where):
        launches.write_text("")
        try:
            with np.errstate(all="ignore"):
                found[name] = digest(work())
        except Exception as error:  # ours, or that of a version that is broken
            refused = isinstance(error, gpu_lstm.GpuLstmError)
            found[name] = f"refused: {type(error).__name__}" if refused else f"failed: {error!r}"
        if where != "numpy":
            each = [json.loads(line) for line in launches.read_text().splitlines()]
            found[f"{name}: launches"] = "; ".join(f"{one['kernel']} {one['blocks']} {one['threads']}" for one in each)
    launches.unlink()
    return found


def compare(old: dict[str, str], new: dict[str, str]) -> int:
    """Say what isn't the same; the exit status."""
    count = dict.fromkeys(("same", "differs", "missing", "new", "gone on purpose"), 0)
    for name in old | new:
        a, b = old.get(name, "none"), new.get(name, "none")
        kind = "same" if a == b else "missing" if b == "none" else "new" if a == "none" else "differs"
        if kind != "same" and name.startswith(GONE) and b.startswith(("none", "refused")):
            kind = "gone on purpose"
        elif kind != "same":
            pairs = zip((*a.split("; "), "end"), (*b.split("; "), "end"), strict=False)
            print(f"{kind}: {name}: {' -> '.join(next(pair for pair in pairs if pair[0] != pair[1]))}")
        count[kind] += 1
    print(", ".join(f"{number} {kind}" for kind, number in count.items()))
    return int(count["differs"] + count["missing"] > 0)


if __name__ == "__main__":
    what, *files = (Path(each) for each in sys.argv[1:] if each != "--gpu")
    if str(what) == "compare":
        sys.exit(compare(*(json.loads(file.read_text()) for file in files)))
    hashes = record("cupy" if "--gpu" in sys.argv else "numpy", files[0].with_suffix(".launches"))
    files[0].write_text(json.dumps(hashes, indent=0))
    odd = sorted(text for text in hashes.values() if text.startswith(("refused", "failed")))
    print(f"{len(hashes)} of {gpu_lstm.__file__}, of which {len(odd)} refused or failed:", *dict.fromkeys(odd))
