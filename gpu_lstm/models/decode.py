"""Drawing tokens from a language model, one step at a time: with array operations, or all in compiled code.

Both draw the same way from the same random numbers: the first token at which the running sum of
exp(score / temperature) passes a uniform number times the whole sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from typing import Any, NamedTuple

import numpy as np

from gpu_lstm.backend import Array, Backend
from gpu_lstm.data.tokens import Vocabulary
from gpu_lstm.errors import InputError, out_of_range
from gpu_lstm.layers import State
from gpu_lstm.models.arguments import check_host
from gpu_lstm.native import compiled

PROMPT = 1 << 16
"""Tokens of a prompt that are read at a time, where that is done in parallel over time."""
CHUNK = 64
"""Tokens that are drawn ahead by one compiled call."""


def check(
    prompt: Any, never: Any, length: Any, temperature: Any, top_k: Any, top_p: Any, vocabulary_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The tokens (N,) of a prompt and those that are never drawn, each once, int64; see `LanguageModel.sample`."""
    if not (isinstance(temperature, float | int | np.floating | np.integer) and 0 <= temperature < np.inf):
        raise InputError(f"temperature is {temperature!r}; expected a number of at least 0")
    if isinstance(length, bool) or not isinstance(length, int | np.integer) or length < 0:
        raise InputError(f"length is {length!r}; expected a whole number of at least 0")
    if isinstance(top_k, bool) or not isinstance(top_k, int | np.integer) or top_k < 0:
        raise InputError(f"top_k is {top_k!r}; expected a whole number of at least 0, 0 for all tokens")
    if not (isinstance(top_p, float | int | np.floating | np.integer) and 0 < top_p <= 1):
        raise InputError(f"top_p is {top_p!r}; expected a number above 0 and at most 1, 1 for all tokens")
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


def as_text(
    vocabulary: Vocabulary,
    prompt: str,
    length: int,
    never: Sequence[int],
    sample: Callable[..., Iterator[int]],
) -> Iterator[str]:
    """Draw text that continues a prompt, `length` characters of it, in pieces; `sample` draws tokens.

    Raises InputError where the prompt has characters that have no token, or `length` is no whole number.
    """
    if unknown := vocabulary.lacks(prompt):
        raise InputError(f"prompt has characters that the model never saw: {', '.join(map(repr, unknown))}")
    drawn = sample(vocabulary.encode(prompt), length * vocabulary.most, never=(*vocabulary.never, *never))
    return _cut(vocabulary.written(drawn), int(length))


def _cut(parts: Iterator[str], length: int) -> Iterator[str]:
    """Yield parts up to so many characters."""
    while length > 0 and (part := next(parts, None)) is not None:
        yield part[:length]
        length -= len(part)


class Draw(NamedTuple):
    """How a token is drawn from scores."""

    temperature: float
    top_k: int = 0
    top_p: float = 1.0

    @property
    def of_all(self) -> bool:
        """Whether every token may be drawn."""
        return self.temperature == 0 or (self.top_k == 0 and self.top_p == 1)


def likeliest(scores: np.ndarray, draw: Draw) -> np.ndarray:
    """Scores with -inf in place of all but the `top_k` best, and of these but the fewest that have a share `top_p`.

    The share is that of the probabilities at the temperature, among the `top_k` (nucleus sampling, Holtzman et al.,
    2020). Of equal scores the first are kept.
    """
    order = np.argsort(-scores, kind="stable")[: draw.top_k or None]
    with np.errstate(over="ignore"):
        sums = np.cumsum(np.exp((scores[order] - scores[order[0]]) / draw.temperature))
    kept = order[: 1 + int(np.searchsorted(sums[:-1], draw.top_p * sums[-1]))]
    left = np.full_like(scores, -np.inf)
    left[kept] = scores[kept]
    return left


def pick(scores: np.ndarray, draw: Draw, uniform: float) -> int:
    """Draw a token from scores (V,) float64; -inf is never drawn; temperature 0 takes the likeliest."""
    temperature = draw.temperature
    if temperature == 0:
        return int(scores.argmax())
    if not draw.of_all:
        scores = likeliest(scores, draw)
    with np.errstate(over="ignore"):  # a score far below the best one is -inf then
        sums = np.cumsum(np.exp((scores - scores.max()) / temperature))
    token = int(np.searchsorted(sums, uniform * sums[-1], side="right"))
    return token if token < len(sums) else int(scores.argmax())  # rounding, or no numbers


def by_arrays(
    backend: Backend,
    logits: Callable[[Array, State | None], tuple[Array, State]],
    prompt: np.ndarray,
    length: int,
    draw: Draw,
    rng: np.random.Generator,
    never: np.ndarray,
) -> Iterator[int]:
    """Draw `length` tokens after a prompt (N,), by one call of `logits` each."""
    ids, state = np.asarray(prompt, dtype=np.int64)[:, None], None
    for _ in range(length):
        scores, state = logits(backend.asarray(ids), state)
        last = backend.to_numpy(scores[-1, 0, :]).astype(np.float64)
        last[never] = -np.inf
        token = pick(last, draw, rng.random())
        yield token
        ids = np.array([[token]])


def read(
    backend: Backend, logits: Callable[[Array, State | None], tuple[Array, State]], prompt: np.ndarray
) -> State | None:
    """Read a prompt (N,) but for its last token, and return the state after it; None where there is one token only."""
    state: State | None = None
    for start in range(0, len(prompt) - 1, PROMPT):
        state = logits(backend.asarray(prompt[start : min(start + PROMPT, len(prompt) - 1), None]), state)[1]
    return state


def by_compiled_code(
    params: Mapping[str, Array],
    num_layers: int,
    prompt: np.ndarray,
    length: int,
    draw: Draw,
    rng: np.random.Generator,
    never: np.ndarray,
    begun: State | None = None,
) -> Iterator[int]:
    """The same in ``kernels/cpu/generate.h``, `CHUNK` tokens a call; `params` are those of a plain language model.

    `begun` is the state after all of the prompt but its last token, where that was read.
    Compiled code draws from all tokens; from fewer, it computes the scores of one token a call.
    """
    embedding, head, head_bias = params["embedding.weight"], params["head.weight"], params["head.bias"]
    vocabulary, width = compiled.axes("embedding.weight", embedding, 2)
    hidden, dtype = head.shape[-1], embedding.dtype.newbyteorder("=")
    weights = [
        [params[f"lstm.{part}_l{layer}"] for layer in range(num_layers)] for part in ("weight_ih", "weight_hh", "bias")
    ]
    barred = np.zeros(vocabulary, dtype=np.uint8)
    barred[never] = 1
    state = np.zeros((3, num_layers, hidden), dtype=dtype)
    temperature, scores = draw.temperature, np.empty(vocabulary, dtype=dtype)
    threads = compiled.threads_for(sum(array.size for arrays in weights for array in arrays), hidden)

    def call(given: np.ndarray, count: int, panels: np.ndarray | None, size: np.ndarray | None = None) -> np.ndarray:
        drawn: np.ndarray = np.empty(count, dtype=np.int64)
        uniforms = rng.random(count) if draw.of_all else np.zeros(count)
        room = 0 if panels is None else panels.size
        compiled.call(
            "generate", dtype, vocabulary, width, hidden, num_layers, embedding, *weights, head, head_bias, room,
            panels, state, scores, len(given), given, count, temperature, uniforms, barred, drawn, size,
            threads,
        )  # fmt: skip
        return drawn

    nothing, size = np.empty(0, dtype=np.int64), np.zeros(1, dtype=np.int64)
    call(nothing, 0, None, size)
    panels = np.empty(int(size[0]), dtype=dtype)
    call(nothing, 0, panels)
    given = prompt
    if begun is not None:
        state[0], state[1], given = begun[0][:, 0], begun[1][:, 0], prompt[-1:]
    while length > 0:
        drawn = call(given, min(CHUNK, length) if draw.of_all else 1, panels)
        if not draw.of_all:  # its own draw is put aside
            last = scores.astype(np.float64)
            last[never] = -np.inf
            drawn[0] = pick(last, draw, rng.random())
        yield from drawn.tolist()
        length -= len(drawn)
        given = drawn[-1:]
