"""Language model: embedding, LSTM, linear map to the scores of the next token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, ClassVar, Unpack

import numpy as np

from gpu_lstm.backend import Array
from gpu_lstm.data.tokens import Vocabulary, read_vocabulary
from gpu_lstm.layers import LSTM, Dropout, Embedding, Linear, Params, State
from gpu_lstm.layers.base import check_seed, training_seed
from gpu_lstm.layers.checks import check_size
from gpu_lstm.losses.cross_entropy import softmax_cross_entropy
from gpu_lstm.models import decode
from gpu_lstm.models.arguments import Where, arguments
from gpu_lstm.models.base import Model, gather


class LanguageModel(Model):
    """Predicts each next token from all before it.

    Parameters
    ----------
    vocabulary_size : int
        V, number of different tokens.
    embedding_size, hidden_size, num_layers : int
    dropout : float
        On the outputs of every LSTM layer while training.
    forget_bias : float
    lstm : dict, optional
        Options of the LSTM family by name, as `gpu_lstm.LSTM` takes them.
    backend, dtype, tier, recompute, seed
        As of the layers.

    Examples
    --------
    >>> model = LanguageModel(vocabulary_size=65, hidden_size=16, backend="numpy")
    >>> tokens = np.random.default_rng(0).integers(0, 65, (33, 8))  # (T + 1, B)
    >>> loss, state, gradients = model.loss(tokens)
    """

    kind: ClassVar[str] = "text"

    def __init__(
        self, vocabulary_size: int, embedding_size: int = 64, hidden_size: int = 256, num_layers: int = 1,
        dropout: float = 0.0, forget_bias: float = 1.0, lstm: Mapping[str, Any] | None = None, **where: Unpack[Where],
    ):  # fmt: skip
        of_all, of_lstm, seeds = arguments(lstm, forget_bias, **where)
        check_size("vocabulary_size", vocabulary_size)
        self.embedding = Embedding(vocabulary_size, embedding_size, **of_all, seed=seeds[0])
        self.lstm = LSTM(embedding_size, hidden_size, num_layers, dropout=dropout, **of_lstm, seed=seeds[1])
        self.dropout = Dropout(dropout, **of_all)
        self.head = Linear(self.lstm.output_size, vocabulary_size, wide=True, **of_all, seed=seeds[2])
        config = {
            "vocabulary_size": vocabulary_size, "embedding_size": embedding_size, "hidden_size": hidden_size,
            "num_layers": num_layers, "dropout": dropout, "forget_bias": forget_bias, "lstm": lstm or {},
        }  # fmt: skip
        super().__init__({"embedding": self.embedding, "lstm": self.lstm, "head": self.head}, config)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """How text becomes tokens, of a model that was trained by a command and loaded."""
        return read_vocabulary(self.about.get("vocabulary"))

    def loss(
        self, tokens: Array, state: State | None = None, seed: int | tuple[int, ...] | None = None
    ) -> tuple[Array, State, Params]:
        """Loss and gradients of one chunk; the state goes in from the chunk before, its gradient stops there.

        Parameters
        ----------
        tokens : (T + 1, B) integers
            Inputs are the first T, targets the last T.
        state : State, optional
            From the chunk before; zero if not given.
        seed : int or tuple of int, optional
            Seeds dropout; None turns it off.

        Returns
        -------
        loss : array of shape ()
            Mean over T B targets, in nats.
        state : State
            After the chunk.
        gradients : dict
            Named as ``params``.
        """
        tokens, seed = self.backend.require("tokens", tokens, ("T + 1", "B")), training_seed(seed)
        vectors, embedding_tape = self.embedding.forward(tokens[:-1, :], guard=False)
        h, state, lstm_tape = self.lstm.forward(vectors, state, seed=seed, guard=False)
        h, dropout_tape = self.dropout.forward(h, None if seed is None else (*seed, 0))
        logits, head_tape = self.head.forward(h, guard=False)
        loss, dlogits = softmax_cross_entropy(self.backend, logits, tokens[1:, :], overwrite=True)
        dh, head = self.head.backward(head_tape, self.scaled(dlogits))
        dh, _ = self.dropout.backward(dropout_tape, dh)
        dvectors, _, lstm = self.lstm.backward(lstm_tape, dh)
        _, embedding = self.embedding.backward(embedding_tape, dvectors)
        return loss, state, gather({"embedding": embedding, "lstm": lstm, "head": head})

    def logits(self, ids: Array, state: State | None = None) -> tuple[Array, State]:
        """Scores (T, B, V) of the token after each of ids (T, B), and the state after them."""
        vectors, _ = self.embedding.forward(ids, guard=False)
        h, state, _ = self.lstm.forward(vectors, state, keep=False)
        return self.head.forward(h, keep=False)[0], state

    def evaluate(self, tokens: Array, state: State | None = None) -> tuple[float, State]:
        """Mean loss in nats of a chunk of `tokens` (T + 1, B), without dropout, and the state after it."""
        tokens = self.backend.require("tokens", tokens, ("T + 1", "B"))
        logits, state = self.logits(tokens[:-1, :], state)
        loss, _ = softmax_cross_entropy(self.backend, logits, tokens[1:, :], overwrite=True)
        return self.backend.read(loss)[0], state

    def sample(
        self, prompt: np.ndarray | str, length: int = 200, temperature: float = 1.0, seed: int | tuple[int, ...] = 0,
        never: Sequence[int] = (), top_k: int = 0, top_p: float = 1.0,
    ) -> Iterator[Any]:  # fmt: skip
        """Draw what continues a prompt, tokens or text; a seed gives the same on all backends, up to rounding.

        Parameters
        ----------
        prompt : (N,) integers or str
            Of a text, pieces of text are drawn by the model's `vocabulary`: ``"".join(model.sample("ROMEO:"))``.
        length : int
            Number of tokens to draw, or of characters.
        temperature : float
            Below 1 more certain, 0 always the likeliest.
        seed : int
        never : sequence of int
            Tokens that are not drawn; not all that there are.
        top_k, top_p : int, float
            Draw only among the `top_k` likeliest, and of these the fewest that have the share `top_p`; 0 and 1: all.

        Raises
        ------
        InputError
            `prompt` or `never` has other than tokens of the vocabulary, `prompt` none, `never` all; `length` is no
            whole number, or `temperature`, `top_k` or `top_p` out of range.
        """
        if isinstance(prompt, str):
            tokens_of = partial(self.sample, temperature=temperature, seed=seed, top_k=top_k, top_p=top_p)
            return decode.as_text(self.vocabulary, prompt, length, never, tokens_of)
        tokens, barred = decode.check(prompt, never, length, temperature, top_k, top_p, self.embedding.num_embeddings)
        draw = decode.Draw(float(temperature), int(top_k), float(top_p))
        what = tokens, int(length), draw, np.random.default_rng(check_seed(seed)), barred
        if self.on_host and self.lstm.plan.tier == "sequence" and not self.lstm.options.on():
            begun = decode.read(self.backend, self.logits, tokens) if self.lstm.parallel else None
            return decode.by_compiled_code(self.params, self.lstm.num_layers, *what, begun)
        return decode.by_arrays(self.backend, self.logits, *what)
