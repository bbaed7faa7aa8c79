"""Text as tokens: one character, one token."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpu_lstm.data.files import BLOCK, SHIPPED, UNREADABLE, Spool, find_file, open_bytes
from gpu_lstm.errors import InputError

SHAKESPEARE = SHIPPED / "shakespeare.txt.xz"
UNKNOWN = "\ufffd"
"""Stands for every character that the vocabulary doesn't have; token 0."""


@dataclass(frozen=True)
class Vocabulary:
    """The characters of a model, in token order.

    Attributes
    ----------
    characters : str
        `UNKNOWN` first, the rest in code-point order.
    """

    characters: str

    def __post_init__(self) -> None:
        rest = self.characters[1:]
        if not self.characters.startswith(UNKNOWN) or list(rest) != sorted(set(rest)) or UNKNOWN in rest:
            raise InputError("vocabulary is not the replacement character followed by sorted, different characters")

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> np.ndarray:
        """Tokens of the text's characters, (N,) of the smallest unsigned type that fits."""
        known = np.array([ord(c) for c in self.characters[1:]], dtype=np.uint32)
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        if not known.size:
            return np.zeros(codes.shape, self.dtype)
        place = np.minimum(np.searchsorted(known, codes), known.size - 1)
        return np.where(known[place] == codes, place + 1, 0).astype(self.dtype)

    def decode(self, tokens: np.ndarray) -> str:
        """Text of tokens."""
        return "".join(self.characters[token] for token in np.asarray(tokens).reshape(-1).tolist())

    @property
    def dtype(self) -> str:
        """Type that holds any token."""
        return str(np.min_scalar_type(len(self.characters) - 1))


def read_text(path: str | Path) -> tuple[np.ndarray, Vocabulary]:
    """Tokens of a UTF-8 file, or of all files of a folder, and the vocabulary made from them.

    The files are read twice, block by block; tokens larger than memory are kept in a temporary file.

    Parameters
    ----------
    path : path
        A file, plain or ``.xz`` or ``.gz``; or a folder, whose files (not the hidden ones) are taken in
        the order of their names, folders within included.

    Returns
    -------
    tokens : (N,) unsigned integers
    vocabulary : Vocabulary

    Raises
    ------
    InputError
        Nothing there, empty, unreadable, or not UTF-8.
    """
    files = _files(path)
    seen: set[str] = set()
    for file in files:
        for block in _blocks(file):
            seen.update(block)
    vocabulary = Vocabulary(UNKNOWN + "".join(sorted(seen - {UNKNOWN})))
    return _encode(files, vocabulary), vocabulary


def encode_file(path: str | Path, vocabulary: Vocabulary) -> np.ndarray:
    """Tokens of a file or folder in an existing vocabulary; see `read_text`."""
    return _encode(_files(path), vocabulary)


def _encode(files: list[Path], vocabulary: Vocabulary) -> np.ndarray:
    spool = Spool(vocabulary.dtype)
    for file in files:
        for block in _blocks(file):
            spool.add(vocabulary.encode(block))
    return spool.finish()


def _files(path: str | Path) -> list[Path]:
    path = Path(path)
    if not path.is_dir():
        return [find_file(path, "text")]
    files = sorted(
        f for f in path.rglob("*") if f.is_file() and not any(p.startswith(".") for p in f.relative_to(path).parts)
    )
    files = [f for f in files if f.stat().st_size]
    if not files:
        raise InputError(f"text folder {path} has no files with anything in them")
    return files


def _blocks(path: Path) -> Iterator[str]:
    """The file's text, about a megabyte at a time; a byte order mark is dropped."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    done = 0
    try:
        with open_bytes(path) as raw:
            while block := raw.read(BLOCK):
                yield decoder.decode(block)
                done += len(block)
            yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error.reason} near byte {done + error.start}") from None
    except UNREADABLE as error:
        raise InputError(f"{path} can't be read: {error}") from None


class Tracks:
    """A long token sequence as a batch: B tracks side by side, each read from start to end in chunks of T.

    Each chunk continues the one before it, so that the recurrent state can be carried over (truncated BPTT).

    Parameters
    ----------
    tokens : (N,) integers
        An array in memory or mapped from a file.
    batch : int
        B, number of tracks.
    length : int
        T, steps of a chunk.

    Raises
    ------
    InputError
        There are fewer than B (T + 1) tokens.
    """

    def __init__(self, tokens: np.ndarray, batch: int, length: int):
        self.tokens, self.batch, self.length = tokens, batch, length
        self.track = len(tokens) // batch
        if self.track < length + 1:
            raise InputError(
                f"text has {len(tokens)} characters here; expected at least {batch * (length + 1)}, "
                f"batch={batch} sequences of length={length} and one more"
            )

    def __len__(self) -> int:
        return (self.track - 1) // self.length

    def chunk(self, number: int) -> np.ndarray:
        """Chunk `number` of every track with the token after it, (T + 1, B) int64, contiguous."""
        start = number * self.length
        columns = [self.tokens[b * self.track + start :][: self.length + 1] for b in range(self.batch)]
        return np.stack(columns, axis=1).astype(np.int64)
