"""Random calls with wrong or odd arrays, in the places of parameters and of inputs.

    python -m tests.soak.calls --calls 10000

Each gives what the reference tier gives in float64 on plain copies of the same numbers, up to rounding, or raises our
own error; nothing else comes out. Under the address sanitizer, with the library built for it::

    g++ -std=c++17 -O1 -g -fsanitize=address -fno-omit-frame-pointer -fno-math-errno -fno-trapping-math \\
        -ffp-contract=fast -pthread -shared -fPIC -o gpu_lstm/_cpu.so kernels/cpu/lstm_cpu.cpp
    LD_PRELOAD=$(g++ -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 python -m tests.soak.calls --calls 10000
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_lstm.errors import GpuLstmError
from gpu_lstm.layers import LSTM, Embedding, Linear, LSTMCell
from gpu_lstm.losses import softmax_cross_entropy
from gpu_lstm.models import Classifier, Forecaster, LanguageModel, Regressor
from gpu_lstm.optimizers import OPTIMIZERS, make_optimizer
from gpu_lstm.recurrence import runnable_tiers
from tests.odd import LAYOUTS
from tests.support import NUMPY

LIMIT = {"float32": 2e-3, "float64": 1e-9, "half": 1e-2}
"""Of the largest difference, as a share of the largest number: for the worst of all options, and small errors of
places are whole numbers."""
Arrays = dict[str, Any]


@dataclass
class Case:
    """Something to call: `run(tier, dtype, params, inputs)` gives all results; both are plain arrays by name."""

    name: str
    params: Arrays
    inputs: Arrays
    run: Callable[[str, str, Callable[[Any], None], Arrays], list[Any]]


# -- what is called ----------------------------------------------------------------------------------------------------


def draw_lstm(rng: np.random.Generator) -> Case:
    """An LSTM with some options."""
    sizes: dict[str, Any] = {"input_size": int(rng.integers(1, 6)), "hidden_size": 2 * int(rng.integers(1, 10))}
    options: dict[str, Any] = {"num_layers": int(rng.integers(1, 3)), "bidirectional": bool(rng.integers(2))}
    options |= {"batch_first": bool(rng.integers(2)), "recompute": bool(rng.integers(2))}
    options |= _family(rng, sizes["hidden_size"])
    if rng.random() < 0.3 and not options["bidirectional"] and "proj_size" not in options:
        options["residual"] = options["num_layers"] > 1
    options["cells"] = bool(rng.random() < 0.3)
    steps, batch = int(rng.integers(1, 7)), int(rng.integers(1, 6))
    made = LSTM(**sizes, **options, backend=NUMPY)
    places = made.num_layers * made.num_directions
    order = (batch, steps) if made.batch_first else (steps, batch)
    widths = {"dy": made.output_size, "dyc": made.hidden_size}
    inputs = {
        "x": normal(rng, *order, made.input_size),
        "h0": normal(rng, places, batch, made.output_size),
        "c0": normal(rng, places, batch, made.hidden_size),
        **{name: normal(rng, *order, n * made.num_directions) for name, n in widths.items()},
        "dh": normal(rng, places, batch, made.output_size),
        "dc": normal(rng, places, batch, made.hidden_size),
    }
    if rng.integers(2):
        inputs["lengths"] = rng.integers(1, steps + 1, batch)
    if rng.random() < 0.2:
        inputs["resets"] = rng.random(order) < 0.3
    seed = (3,) if rng.integers(2) else None

    def run(tier: str, dtype: str, place: Callable[[Any], None], given: Arrays) -> list[Any]:
        lstm = LSTM(**sizes, **options, backend=NUMPY, tier=tier, dtype=dtype)
        place(lstm)
        y, state, tape = lstm.forward(
            given["x"], (given["h0"], given["c0"]), given.get("lengths"), seed, resets=given.get("resets")
        )
        dy = (given["dy"], given["dyc"]) if lstm.options.cells else given["dy"]
        dx, dstate, gradients = lstm.backward(tape, dy, (given["dh"], given["dc"]))
        return [*(y if isinstance(y, tuple) else (y,)), *state, dx, *dstate, *gradients.values()]

    return Case("LSTM", random_params(rng, made), inputs, run)


def _family(rng: np.random.Generator, hidden: int) -> dict[str, Any]:
    """Options of the family: none in half of the cases."""
    if rng.integers(2):
        return {}
    every: dict[str, Any] = {
        "bias": False, "proj_size": int(rng.integers(1, hidden)), "peepholes": True, "coupled": True,
        "hard_sigmoid": True, "clip": 1.5, "cell_clip": 0.5, "layer_norm": True, "zoneout_h": 0.3, "zoneout_c": 0.2,
        "input_dropout": 0.3, "recurrent_dropout": 0.3, "weight_dropout": 0.3, "learn_state": True, "heads": 2,
    }  # fmt: skip
    chosen = {name: value for name, value in every.items() if rng.random() < 0.25}
    if "heads" in chosen and chosen.get("proj_size", 2) % 2:
        del chosen["heads"]
    return chosen


def draw_cell(rng: np.random.Generator) -> Case:
    """A cell with some options, over two steps."""
    width, hidden, batch = int(rng.integers(1, 6)), 2 * int(rng.integers(1, 10)), int(rng.integers(1, 6))
    options = _family(rng, hidden)
    made = LSTMCell(width, hidden, **options, backend=NUMPY)
    shapes = {"x": width, "h": made.output_size, "c": hidden, "dh": made.output_size, "dc": hidden}

    def run(tier: str, dtype: str, place: Callable[[Any], None], given: Arrays) -> list[Any]:
        cell = LSTMCell(width, hidden, **options, backend=NUMPY, tier=tier, dtype=dtype)
        place(cell)
        h, c, tape = cell.forward(given["x"], (given["h"], given["c"]), seed=(1,))
        dx, state, gradients = cell.backward(tape, given["dh"], given["dc"])
        return [h, c, dx, *state, *gradients.values()]

    return Case("LSTMCell", random_params(rng, made), {k: normal(rng, batch, n) for k, n in shapes.items()}, run)


def draw_layer(rng: np.random.Generator) -> Case:
    """A linear layer or an embedding, over any leading axes."""
    kind: Any = Linear if rng.integers(2) else Embedding
    size, width = rng.integers(1, 30, 2).tolist()
    leading = rng.integers(0, 6, rng.integers(1, 3)).tolist()

    def run(tier: str, dtype: str, place: Callable[[Any], None], given: Arrays) -> list[Any]:
        layer = kind(size, width, backend=NUMPY, dtype=dtype)
        place(layer)
        y, tape = layer.forward(given["x"])
        dx, gradients = layer.backward(tape, given["dy"])
        return [y, *([] if dx is None else [dx]), *gradients.values()]

    x = normal(rng, *leading, size) if kind is Linear else rng.integers(0, size, leading)
    inputs = {"x": x, "dy": normal(rng, *leading, width)}
    return Case(kind.__name__, random_params(rng, kind(size, width, backend=NUMPY)), inputs, run)


def draw_cross_entropy(rng: np.random.Generator) -> Case:
    """The loss of a classifier."""
    rows, vocabulary = rng.integers(1, 20, 2).tolist()
    ignore, overwrite = (-1 if rng.integers(2) else None), bool(rng.integers(2))

    def run(tier: str, dtype: str, place: Callable[[Any], None], given: Arrays) -> list[Any]:
        return list(softmax_cross_entropy(NUMPY, given["logits"], given["targets"], ignore, overwrite=overwrite))

    targets = rng.integers(-1 if ignore else 0, vocabulary, rows)
    return Case("softmax_cross_entropy", {}, {"logits": normal(rng, rows, vocabulary), "targets": targets}, run)


def draw_optimizer(rng: np.random.Generator) -> Case:
    """An update of two parameters: the reference is the rule as array expressions."""
    name = str(rng.choice(list(OPTIMIZERS)))
    shapes = {"p": tuple(rng.integers(0, 30, 2).tolist()), "q": tuple(rng.integers(1, 9, 1).tolist())}
    max_norm = float(rng.uniform(0.1, 30)) if rng.integers(2) else None

    def run(tier: str, dtype: str, place: Callable[[Any], None], given: Arrays) -> list[Any]:
        params = {key: given[key] for key in shapes}
        optimizer = make_optimizer(name, NUMPY, params, 0.1)
        if tier == "reference":
            move = optimizer.move
            optimizer.move = lambda *arguments: move(*arguments)  # type: ignore[method-assign]
        optimizer.update({key: given[f"gradient of {key}"] for key in shapes}, max_norm=max_norm)
        return [*params.values(), *optimizer.state.values()]

    inputs = {key: normal(rng, *shape) for key, shape in shapes.items()}
    inputs |= {f"gradient of {key}": normal(rng, *shape) for key, shape in shapes.items()}
    return Case(name, {}, inputs, run)


def draw_model(rng: np.random.Generator) -> Case:
    """One of the models: its loss and gradients, and what it says."""
    steps, batch, hidden = int(rng.integers(2, 7)), int(rng.integers(1, 5)), int(rng.integers(1, 9))
    kind = str(rng.choice(["language", "classifier", "regressor", "forecaster"]))
    lengths = rng.integers(1, steps + 1, batch)
    x = normal(rng, steps, batch, 3)

    def make(tier: str, dtype: str) -> Any:
        common: dict[str, Any] = {"backend": NUMPY, "tier": tier, "dtype": dtype}
        if kind == "language":
            return LanguageModel(7, 3, hidden, int(rng.integers(1, 2)), **common)
        if kind == "classifier":
            return Classifier([0] * 3, [1] * 3, 4, hidden, **common)
        if kind == "regressor":
            return Regressor([0] * 3, [1] * 3, [0] * 2, [1] * 2, hidden, **common)
        return Forecaster([0, 0], [1, 2], [1, 1], 2, 3, hidden, **common)

    def run(tier: str, dtype: str, place: Callable[[Any], None], given: Arrays) -> list[Any]:
        model = make(tier, dtype)
        place(model)
        if kind == "language":
            loss, state, gradients = model.loss(given["tokens"], seed=(1,))
            said = [*state, *model.logits(given["tokens"])[:1]]
            for token in model.sample(given["prompt"], 3, 0.0, never=given["never"]):
                assert 0 <= token < 7
                assert token not in np.asarray(given["never"]).tolist()
        elif kind == "forecaster":
            loss, gradients = model.loss(given["values"], 1)
            said = [model.forecast(given["values"])]
        else:
            loss, gradients = model.loss(given["x"], given["lengths"], given["targets"])
            said = [(model.logits if kind == "classifier" else model.predict)(given["x"], given["lengths"])]
        return [loss, *gradients.values(), *said]

    inputs: Arrays = {
        "language": {"tokens": rng.integers(0, 7, (steps, batch)), "prompt": rng.integers(0, 7, 2),
                     "never": rng.integers(0, 7, 2)},
        "forecaster": {"values": normal(rng, 7, batch, 2)},
        "classifier": {"x": x, "lengths": lengths, "targets": rng.integers(0, 4, batch)},
        "regressor": {"x": x, "lengths": lengths, "targets": normal(rng, batch, 2)},
    }[kind]  # fmt: skip
    return Case(f"{kind} model", random_params(rng, make("auto", "float32")), inputs, run)


DRAWS = (
    draw_lstm, draw_lstm, draw_lstm, draw_cell, draw_layer, draw_layer, draw_cross_entropy, draw_optimizer,
    draw_model,
)  # fmt: skip


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Random numbers that float32 holds."""
    return rng.standard_normal(shape).astype(np.float32).astype(np.float64)


def random_params(rng: np.random.Generator, made: Any) -> Arrays:
    """Parameters like those of a layer or model, small."""
    return {name: 0.3 * normal(rng, *param.shape) for name, param in made.params.items()}


# -- wrong and odd arrays ----------------------------------------------------------------------------------------------


def with_nan(a: np.ndarray, rng: np.random.Generator) -> Any:
    """One number is none."""
    a = a.copy()
    if a.size and a.dtype.kind == "f":
        a.flat[rng.integers(a.size)] = np.nan
    return a


def out_of_range(a: np.ndarray, rng: np.random.Generator) -> Any:
    """A whole number that is no place in anything."""
    a = a.copy()
    if a.size and a.dtype.kind == "i":
        a.flat[rng.integers(a.size)] = rng.choice([-1, -(2**40), 2**40, 7, 100])
    return a


WRONG: dict[str, Callable[[np.ndarray, np.random.Generator], Any]] = {
    "one more row": lambda a, rng: np.concatenate([a, a[-1:]]) if a.ndim else a[None],
    "an axis more": lambda a, rng: a[None],
    "an axis less": lambda a, rng: a.reshape(-1)[0] if a.ndim == 1 and a.size else a.reshape(-1),
    "axes swapped": lambda a, rng: np.ascontiguousarray(a.T),
    "no rows": lambda a, rng: a[:0],
    "a masked array": lambda a, rng: np.ma.masked_array(a),
    "a subclass": lambda a, rng: a.view(type("Units", (np.ndarray,), {})),
    "complex": lambda a, rng: a.astype(complex),
    "text": lambda a, rng: a.astype(str),
    "objects": lambda a, rng: a.astype(object),
    "a list": lambda a, rng: a.tolist(),
    "half precision": lambda a, rng: a.astype(np.float16),
    "small whole numbers": lambda a, rng: a.astype(np.int8),
    "NaN": with_nan,
    "out of range": out_of_range,
    "nothing": lambda a, rng: None,
}


def odd(a: np.ndarray, rng: np.random.Generator) -> tuple[str, Any]:
    """The same numbers in another way, or something wrong."""
    if rng.random() < 0.65 and a.ndim:
        kind = str(rng.choice(list(LAYOUTS)))
        return kind, LAYOUTS[kind](a) if a.size or kind != "a memory map" else a
    kind = str(rng.choice(list(WRONG)))
    return kind, WRONG[kind](a, rng)


def changed_in_place(a: np.ndarray, rng: np.random.Generator) -> str:
    """An array that a layer has already, changed where it is."""
    kind = str(rng.choice(["read-only", "shape", "byte order", "numbers"]))
    if kind == "read-only":
        a.flags.writeable = False
    elif kind == "shape":
        a.shape = (1, *a.shape)
    elif kind == "byte order":
        a.byteswap(inplace=True)
        a.dtype = a.dtype.newbyteorder()  # type: ignore[misc]
    else:
        a *= 0.5
    return f"changed in place: {kind}"


def overlapping(arrays: Arrays, rng: np.random.Generator) -> list[str]:
    """Two arrays of one dtype become views of the same memory."""
    names = [name for name, array in arrays.items() if array.size]
    if len(names) < 2:
        return []
    one, two = rng.choice(names, 2, replace=False)
    a, b = arrays[one], arrays[two]
    if a.dtype != b.dtype:
        return []
    start = int(rng.integers(0, a.size))
    memory = np.concatenate([a.ravel(), b.ravel()])[: max(a.size, start + b.size)]
    arrays[one] = memory[: a.size].reshape(a.shape)
    arrays[two] = memory[start : start + b.size].reshape(b.shape)
    return [f"{one} and {two}: overlapping"]


# -- one call ----------------------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """The same numbers, as the reference takes them: float64 or whole numbers, in memory of their own."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu" and type(value) in (np.ndarray, np.memmap):
        kind = value.dtype.newbyteorder("=") if value.dtype.kind != "f" else np.float64
        return np.array(value, kind, order="C")
    return value


def difference(actual: Any, expected: Any, with_nan: bool) -> float:
    """The largest difference, as a share of the largest number; infinite where other numbers are none.

    With a NaN among what was given, some gradients of saturated gates are one on some tiers only, and 0 on others.
    """
    a, b = (np.asarray(value, np.float64) for value in (actual, expected))
    if a.shape != b.shape:
        return np.inf
    both = np.isfinite(a) & np.isfinite(b)
    if not with_nan and not (np.isfinite(a) == np.isfinite(b)).all():
        return np.inf
    a, b = a[both], b[both]
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-3)) if a.size else 0.0


def one_call(number: int, counts: Counter[str]) -> str:
    """Make the call of that number and count what came of it; what is wrong with it, or nothing."""
    rng = np.random.default_rng((2026, number))
    case = DRAWS[rng.integers(len(DRAWS))](rng)
    dtype, tier = str(rng.choice(["float32", "float64"])), str(rng.choice(runnable_tiers(NUMPY)))
    told = [f"call {number}: {case.name}, tier {tier}, {dtype}"]

    def cast(arrays: Arrays) -> Arrays:
        return {name: a.astype(dtype) if a.dtype.kind == "f" else a for name, a in arrays.items()}

    params, inputs = cast(case.params), cast(case.inputs)
    if rng.random() < 0.15:
        told += overlapping(inputs, rng)
    for _ in range(rng.integers(1, 3)):
        arrays = params if params and rng.integers(2) else inputs
        name = str(rng.choice(list(arrays)))
        if type(arrays[name]) is np.ndarray and arrays[name].dtype.kind in "fib":
            kind, arrays[name] = odd(arrays[name], rng)
            told.append(f"{name}: {kind}")
    in_place = str(rng.choice(list(params))) if params and rng.random() < 0.15 else None
    text = "; ".join(told)
    plain_params, plain_inputs = ({name: plain(value) for name, value in arrays.items()} for arrays in (params, inputs))
    found: list[Any] = []

    def place(made: Any) -> None:
        made.params.update(params)
        if in_place is not None:
            array = made.params[in_place]
            found.append(changed_in_place(array, rng))
            plain_params[in_place] = plain(array)

    def place_plain(made: Any) -> None:
        made.params.update(plain_params)

    def attempt(tier: str, dtype: str, place: Callable[[Any], None], given: Arrays) -> Any:
        try:
            return case.run(tier, dtype, place, given)
        except GpuLstmError as error:
            return error
        except Exception:
            return traceback.format_exc(limit=-6)

    actual = attempt(tier, dtype, place, inputs)
    text, wrong = "; ".join([text, *found]), ""
    if isinstance(actual, str):
        wrong = f"\n{actual}"
    elif not isinstance(actual, GpuLstmError):
        expected = attempt("reference", "float64", place_plain, plain_inputs)
        if isinstance(expected, GpuLstmError | str):
            wrong = f": was taken; the reference: {expected}"
        elif (worst := max(difference(*pair, "NaN" in text) for pair in zip(actual, expected, strict=True))) > (
            LIMIT["half" if "half" in text else dtype]
        ):
            wrong = f": differs by {worst:.2g}"
    counts["wrong" if wrong else "refused" if isinstance(actual, GpuLstmError) else "right"] += 1
    return wrong and text + wrong


def calls(first: int, count: int, counts: Counter[str]) -> list[str]:
    """So many calls from a number on; what is wrong."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return [wrong for number in range(first, first + count) if (wrong := one_call(number, counts))]


def main() -> int:
    """Call and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="number of the first call")
    options = parser.parse_args()
    begun, counts = time.perf_counter(), Counter[str]()
    for first in range(options.seed, options.seed + options.calls, 500):
        for text in calls(first, min(500, options.seed + options.calls - first), counts):
            print(text, flush=True)
        print(
            f"{counts.total():,} calls: {counts['right']:,} right, {counts['refused']:,} refused by our own error, "
            f"{counts['wrong']:,} wrong; {time.perf_counter() - begun:.0f} s",
            flush=True,
        )
    return 1 if counts["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
