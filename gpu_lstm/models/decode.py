"""Drawing tokens from a language model, one step at a time: with array operations, or all in compiled code.

Both draw the same way from the same random numbers: the first token at which the running sum of
exp(score / temperature) passes a uniform number times the whole sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sized
from typing import Any

import numpy as np

from gpu_lstm.backend import Array, Backend
from gpu_lstm.errors import InputError, out_of_range
from gpu_lstm.layers import State
from gpu_lstm.models.arguments import check_host
from gpu_lstm.native import compiled

CHUNK = 64
"""Tokens that are drawn ahead by one compiled call."""


def check(
    prompt: Any, never: Any, length: Any, temperature: Any, vocabulary_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The tokens (N,) of a prompt and those that are never drawn, each once, int64; see `LanguageModel.sample`."""
    if not (isinstance(temperature, float | int | np.floating | np.integer) and 0 <= temperature < np.inf):
        raise InputError(f"temperature is {temperature!r}; expected a number of at least 0")
    if isinstance(length, bool) or not isinstance(length, int | np.integer) or length < 0:
        raise InputError(f"length is {length!r}; expected a whole number of at least 0")
    if _is_empty(prompt):
        raise InputError("prompt is empty; expected at least one token")
    tokens = check_host("prompt", prompt, ("N",), whole=True)
    barred = np.zeros(0, int) if _is_empty(never) else check_host("never", never, ("N",), whole=True)
    for name, given in (("prompt", tokens), ("never", barred)):
        if given.size and (given.min() < 0 or given.max() >= vocabulary_size):
            raise out_of_range(name, given.min(), given.max(), vocabulary_size, "vocabulary_size")
    barred = np.unique(barred).astype(np.int64)
    if len(barred) == vocabulary_size:
        raise InputError(f"never has all {vocabulary_size} tokens; expected at least one that can be drawn")
    return tokens.astype(np.int64), barred


def _is_empty(tokens: object) -> bool:
    return tokens.size == 0 if isinstance(tokens, np.ndarray) else isinstance(tokens, Sized) and len(tokens) == 0


def pick(scores: np.ndarray, temperature: float, uniform: float) -> int:
    """Draw a token from scores (V,) float64; -inf is never drawn; temperature 0 takes the likeliest."""
    if temperature == 0:
        return int(scores.argmax())
    with np.errstate(over="ignore"):  # a score far below the best one is -inf then
        sums = np.cumsum(np.exp((scores - scores.max()) / temperature))
    token = int(np.searchsorted(sums, uniform * sums[-1], side="right"))
    return token if token < len(sums) else int(scores.argmax())  # rounding, or no numbers


def by_arrays(
    backend: Backend,
    logits: Callable[[Array, State | None], tuple[Array, State]],
    prompt: np.ndarray,
    length: int,
    temperature: float,
    rng: np.random.Generator,
    never: np.ndarray,
) -> Iterator[int]:
    """Draw `length` tokens after a prompt (N,), by one call of `logits` each."""
    ids, state = np.asarray(prompt, dtype=np.int64)[:, None], None
    for _ in range(length):
        scores, state = logits(backend.asarray(ids), state)
        last = backend.to_numpy(scores[-1, 0, :]).astype(np.float64)
        last[never] = -np.inf
        token = pick(last, temperature, rng.random())
        yield token
        ids = np.array([[token]])


def by_compiled_code(
    params: Mapping[str, Array],
    num_layers: int,
    prompt: np.ndarray,
    length: int,
    temperature: float,
    rng: np.random.Generator,
    never: np.ndarray,
) -> Iterator[int]:
    """The same in ``kernels/cpu/generate.h``, `CHUNK` tokens a call; `params` are those of a plain language model."""
    embedding, head, head_bias = params["embedding.weight"], params["head.weight"], params["head.bias"]
    vocabulary, width = compiled.axes("embedding.weight", embedding, 2)
    hidden, dtype = head.shape[-1], embedding.dtype.newbyteorder("=")
    weights = [
        [params[f"lstm.{part}_l{layer}"] for layer in range(num_layers)] for part in ("weight_ih", "weight_hh", "bias")
    ]
    barred = np.zeros(vocabulary, dtype=np.uint8)
    barred[never] = 1
    state = np.zeros((3, num_layers, hidden), dtype=dtype)
    scores = np.empty(vocabulary, dtype=dtype)
    threads = compiled.threads_for(sum(array.size for arrays in weights for array in arrays), hidden)

    def call(given: np.ndarray, count: int, panels: np.ndarray | None, size: np.ndarray | None = None) -> np.ndarray:
        drawn: np.ndarray = np.empty(count, dtype=compiled.LONG)
        room = 0 if panels is None else panels.size
        compiled.call(
            "generate", dtype, vocabulary, width, hidden, num_layers, embedding, *weights, head, head_bias, room,
            panels, state, scores, len(given), given, count, temperature, rng.random(count), barred, drawn, size,
            threads,
        )  # fmt: skip
        return drawn

    nothing, size = np.empty(0, dtype=compiled.LONG), np.zeros(1, dtype=compiled.LONG)
    call(nothing, 0, None, size)
    panels = np.empty(int(size[0]), dtype=dtype)
    call(nothing, 0, panels)
    given = prompt
    while length > 0:
        drawn = call(given, min(CHUNK, length), panels)
        yield from drawn.tolist()
        length -= len(drawn)
        given = drawn[-1:]
