"""What a text is cut into: characters, bytes or subwords, each with how to cut and how to put together again."""

from __future__ import annotations

import codecs
import functools
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from gpu_lstm.errors import InputError

UNKNOWN = "\ufffd"
"""Stands for every character that the characters of a model don't have; their token 0."""
CONTINUATION = bytes(range(0x80, 0xC0))
"""What a character in UTF-8 can have as its second to fourth byte."""
CODE_POINTS = 0x110000 - 0x800
"""Characters that Unicode has room for: all code points but the surrogates."""
LONGEST = 1 << 20
"""Characters of a line above which it is cut before subwords are made of it."""


class Rate(NamedTuple):
    """What bits a token are in bits a character of some text: its `characters` a token, and bits added a token."""

    characters: float = 1.0
    added: float = 0.0

    def bits(self, of_token: float) -> float:
        """Bits a character, of bits a token."""
        return (of_token + self.added) / self.characters


class Vocabulary(ABC):
    """The tokens of a text, numbers in 0..len-1."""

    tokens: ClassVar[str]  # what they are, for people
    unit: ClassVar[str]  # one of them
    never: ClassVar[tuple[int, ...]] = ()  # tokens that aren't drawn
    most: ClassVar[int] = 1  # tokens that a character may take
    counted: str = "characters"  # what bits are told of
    added: float = 0.0  # bits that token 0 costs besides its own, for it stands for many characters

    @abstractmethod
    def __len__(self) -> int:
        """V, how many there are."""

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Return the tokens of a text, (N,) of `dtype`."""

    @property
    @abstractmethod
    def pieces(self) -> list[bytes]:
        """What each token stands for, in UTF-8; a part of a character where it has several tokens."""

    @abstractmethod
    def describe(self) -> Any:
        """What `read_vocabulary` makes it of again, plain JSON."""

    @property
    def newline(self) -> int | None:
        """The token that ends a line."""
        return int(self.encode("\n")[0])

    @property
    def first(self) -> str:
        """What a text begins after: a new line, or where there is none the first character that is known."""
        return "\n"

    @property
    def dtype(self) -> str:
        """Smallest unsigned type that holds any token."""
        return str(np.min_scalar_type(len(self) - 1))

    @functools.cached_property
    def characters_of(self) -> np.ndarray:
        """How many characters each token begins, (V,)."""
        return np.array([sum((byte & 0xC0) != 0x80 for byte in piece) for piece in self.pieces])

    def encoded(self, blocks: Iterable[str]) -> Iterator[np.ndarray]:
        """Yield the tokens of a text that comes in blocks, wherever those are cut."""
        return map(self.encode, blocks)

    def lacks(self, text: str) -> list[str]:
        """Return the characters of a text that have no token of their own, each once, in order."""
        return []

    def decode(self, tokens: np.ndarray) -> str:
        """Return the text of tokens; what is no UTF-8 becomes the replacement character."""
        return b"".join(self.pieces[token] for token in np.asarray(tokens).reshape(-1).tolist()).decode(
            errors="replace"
        )

    def written(self, tokens: Iterable[int]) -> Iterator[str]:
        """Yield the text of tokens as they come, whole characters."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token in tokens:
            yield decoder.decode(self.pieces[token])
        yield decoder.decode(b"", final=True)

    def rate(self, counts: np.ndarray) -> Rate:
        """Characters of a token, and bits added to one, of a text with `counts` (V,) of each token."""
        tokens, characters = int(counts.sum()), int(counts @ self.characters_of)
        return Rate(characters / tokens, self.added * int(counts[0]) / tokens) if tokens and characters else Rate()


@dataclass(frozen=True)
class Characters(Vocabulary):
    """One character, one token. What has none is `UNKNOWN`, and costs so many bits more as say which one it was.

    With these, a model's probabilities are of every text there is, and add up to 1.

    Examples
    --------
    >>> from gpu_lstm.data.tokens import Characters
    >>> vocabulary = Characters("\ufffdabc")  # what is unknown, then the rest in order
    >>> vocabulary.encode("cab"), vocabulary.decode(vocabulary.encode("cab"))
    (array([3, 1, 2], dtype=uint8), 'cab')
    """

    characters: str  # `UNKNOWN` first, the rest in code-point order

    tokens, unit, never = "characters", "char", (0,)

    def __post_init__(self) -> None:
        rest = self.characters[1:]
        if not self.characters.startswith(UNKNOWN) or list(rest) != sorted(set(rest)) or UNKNOWN in rest:
            raise InputError("vocabulary is not the replacement character followed by sorted, different characters")

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> np.ndarray:  # noqa: D102
        table = self._table
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        tokens: np.ndarray = table[np.minimum(codes, len(table) - 1)]
        return tokens

    @functools.cached_property
    def _table(self) -> np.ndarray:
        """Token of every code point up to one beyond the last known one, which stands for all that follow."""
        known = np.array([ord(c) for c in self.characters[1:]], dtype=np.int64)
        table = np.zeros(int(known.max(initial=0)) + 2, self.dtype)
        table[known] = np.arange(1, len(self.characters))
        return table

    @property
    def pieces(self) -> list[bytes]:  # noqa: D102
        return [c.encode("utf-8", "surrogatepass") for c in self.characters]

    def describe(self) -> str:  # noqa: D102
        return self.characters

    @property
    def added(self) -> float:  # type: ignore[override]
        """log2 of how many characters `UNKNOWN` may stand for."""
        return math.log2(CODE_POINTS - len(self.characters) + 1)

    @property
    def newline(self) -> int | None:  # noqa: D102
        return self.characters.index("\n") if "\n" in self.characters else None

    @property
    def first(self) -> str:  # noqa: D102
        return "\n" if "\n" in self.characters else self.characters[1]

    @functools.cached_property
    def characters_of(self) -> np.ndarray:
        """One character a token, (V,)."""
        return np.ones(len(self), np.int64)

    def lacks(self, text: str) -> list[str]:  # noqa: D102
        return sorted({c for c, token in zip(text, self.encode(text).tolist(), strict=True) if token == 0})

    def decode(self, tokens: np.ndarray) -> str:  # noqa: D102
        return "".join(self.characters[token] for token in np.asarray(tokens).reshape(-1).tolist())

    def written(self, tokens: Iterable[int]) -> Iterator[str]:  # noqa: D102
        return (self.characters[token] for token in tokens)


class Bytes(Vocabulary):
    """The 256 bytes: any file at all; of a text, those of its encoding.

    Where the files to train on are no UTF-8, bits are counted a byte and not a character: `text` is False.
    """

    tokens, unit, most = "bytes", "byte", 4
    pieces = [bytes([value]) for value in range(256)]  # noqa: RUF012

    def __init__(self, text: bool = True):
        self.text, self.counted = text, "characters" if text else "bytes"

    def __len__(self) -> int:
        return 256

    @functools.cached_property
    def characters_of(self) -> np.ndarray:
        """How many characters each byte begins, (V,); one where bytes are no text."""
        return super().characters_of if self.text else np.ones(256, np.int64)

    def encode(self, text: str | bytes) -> np.ndarray:  # noqa: D102
        # What is no text on a command line was made surrogates of, and becomes its bytes again.
        content = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
        return np.frombuffer(content, np.uint8)

    def describe(self) -> dict[str, Any]:  # noqa: D102
        return {"tokens": self.tokens} | ({} if self.text else {"text": False})

    def is_text(self, tokens: np.ndarray) -> bool:
        """Whether `tokens` are UTF-8, but for what is cut off at both ends; only then they have characters."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        head = np.asarray(tokens[:3]).tobytes()
        start = len(head) - len(head.lstrip(CONTINUATION))
        try:
            for block in _blocks_of(tokens[start:]):
                decoder.decode(block.tobytes())
        except UnicodeDecodeError:
            return False
        return True


class Subwords(Vocabulary):
    """Frequent strings of bytes within words, found by byte pair encoding: any text, nothing is unknown.

    Made and applied by the `tokenizers` library (``pip install "gpu-lstm[subwords]"``). A new line is always a token by
    itself, so a text's tokens are those of its lines.

    Parameters
    ----------
    content : str
        The library's own JSON.
    """

    tokens, unit, most = "subwords", "token", 4

    def __init__(self, content: str):
        try:
            self._tokenizer = _library().Tokenizer.from_str(content)
        except InputError:
            raise
        except Exception as error:  # the library has no class of its own for what it doesn't understand
            raise InputError(f"vocabulary of subwords is damaged: {error}") from None
        self.content = content

    @classmethod
    def learn(cls, blocks: Iterable[str], size: int) -> Subwords:
        """Find the subwords of a text that comes in `blocks`, `size` at most, the 256 bytes among them.

        Raises InputError where `size` is below 257.
        """
        if size < 257:
            raise InputError(f"vocabulary is {size}; expected at least 257: the 256 bytes and what is made of them")
        library = _library()
        before = library.pre_tokenizers
        tokenizer = library.Tokenizer(library.models.BPE())
        tokenizer.pre_tokenizer = before.Sequence([
            before.Split("\n", "isolated"), before.ByteLevel(add_prefix_space=False),
        ])  # fmt: skip
        tokenizer.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=size, initial_alphabet=sorted(before.ByteLevel.alphabet()), show_progress=False
        )
        tokenizer.train_from_iterator(_by_lines(blocks), trainer)
        return cls(tokenizer.to_str())

    def __len__(self) -> int:
        size: int = self._tokenizer.get_vocab_size()
        return size

    def encode(self, text: str) -> np.ndarray:  # noqa: D102
        whole = text.encode("utf-8", "replace").decode()
        parts = [whole] if len(whole) < 1 << 14 else list(_pieces_of(whole, 1 << 14))
        found = self._tokenizer.encode_batch_fast(parts, add_special_tokens=False)
        return np.concatenate([np.array(part.ids, dtype=self.dtype) for part in found])

    def encoded(self, blocks: Iterable[str]) -> Iterator[np.ndarray]:  # noqa: D102
        return map(self.encode, _by_lines(blocks))

    @functools.cached_property
    def pieces(self) -> list[bytes]:
        """The bytes of each subword."""
        bytes_of = {letter: byte for byte, letter in enumerate(_letters())}
        names = [self._tokenizer.id_to_token(token) for token in range(len(self))]
        try:
            return [bytes(bytes_of[letter] for letter in name) for name in names]
        except (KeyError, TypeError):
            raise InputError("vocabulary of subwords is damaged: it is not one of bytes") from None

    def describe(self) -> dict[str, str]:  # noqa: D102
        return {"tokens": self.tokens, "tokenizer": self.content}


KINDS = ("characters", "bytes", "subwords")


def read_vocabulary(saved: Any) -> Vocabulary:
    """Return the vocabulary that `Vocabulary.describe` told of; a string is that of `Characters`.

    Raises InputError where it is none.
    """
    match saved:
        case str():
            return Characters(saved)
        case {"tokens": "bytes"}:
            return Bytes(saved.get("text") is not False)
        case {"tokens": "subwords", "tokenizer": str(content)}:
            return Subwords(content)
    raise InputError(f"vocabulary is {json.dumps(saved, default=repr)[:60]}; expected that of {', '.join(KINDS)}")


def count_tokens(tokens: np.ndarray, size: int) -> np.ndarray:
    """How often each of `size` tokens is there, (V,); they may be larger than memory."""
    return sum((np.bincount(block, minlength=size) for block in _blocks_of(tokens)), np.zeros(size, np.int64))


def _blocks_of(tokens: np.ndarray) -> Iterator[np.ndarray]:
    return (np.asarray(tokens[at : at + LONGEST]) for at in range(0, len(tokens), LONGEST))


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise InputError('subwords need the tokenizers library: pip install "gpu-lstm[subwords]"') from None
    return tokenizers


def _by_lines(blocks: Iterable[str]) -> Iterator[str]:
    """Yield the same text, cut only after new lines, or within lines that are longer than `LONGEST`."""
    rest = ""
    for block in blocks:
        rest += block
        cut = rest.rfind("\n") + 1
        if not cut and len(rest) > LONGEST:
            cut = len(rest)
        if cut:
            yield rest[:cut]
            rest = rest[cut:]
    if rest:
        yield rest


def _pieces_of(text: str, least: int) -> Iterator[str]:
    """Yield a text in pieces that end with a line, of about `least` characters or one line."""
    start = 0
    while start < len(text):
        end = text.find("\n", min(start + least, len(text))) + 1 or len(text)
        yield text[start:end]
        start = end


def _letters() -> list[str]:
    """The printable letter that stands for each byte in a byte-level vocabulary (Radford et al.: GPT-2, 2019)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in shown else next(others)) for byte in range(256)]
