"""Text as tokens: one character, one token."""

from __future__ import annotations

import codecs
import functools
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpu_lstm.data.files import BLOCK, SHIPPED, UNREADABLE, Spool, Stored, find_file, not_utf8, open_bytes, write_all
from gpu_lstm.errors import InputError

SHAKESPEARE = SHIPPED / "shakespeare.txt.xz"
UNKNOWN = "\ufffd"
"""Stands for every character that the vocabulary doesn't have; token 0."""


@dataclass(frozen=True)
class Vocabulary:
    """The characters of a model, in token order."""

    characters: str  # `UNKNOWN` first, the rest in code-point order

    def __post_init__(self) -> None:
        rest = self.characters[1:]
        if not self.characters.startswith(UNKNOWN) or list(rest) != sorted(set(rest)) or UNKNOWN in rest:
            raise InputError("vocabulary is not the replacement character followed by sorted, different characters")

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> np.ndarray:
        """Return the tokens of the text's characters, (N,) of the smallest unsigned type that fits."""
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

    def decode(self, tokens: np.ndarray) -> str:
        """Return the text of tokens."""
        return "".join(self.characters[token] for token in np.asarray(tokens).reshape(-1).tolist())

    @property
    def dtype(self) -> str:
        """Type that holds any token."""
        return str(np.min_scalar_type(len(self.characters) - 1))


def read_text(path: str | Path) -> tuple[np.ndarray, Vocabulary]:
    """Read a UTF-8 file, or all files of a folder, as tokens (N,) and the vocabulary made from them.

    A file is plain, ``.xz`` or ``.gz``; a folder's files (not the hidden ones) are taken in the order of their names,
    folders within included. They are read twice, block by block; tokens larger than memory are kept in a temporary
    file. Raises InputError where nothing is there, or it is empty, unreadable, or not UTF-8.
    """
    files = text_files(path)
    seen = np.zeros(sys.maxunicode + 1, dtype=bool)
    for file in files:
        for block in _blocks(file):
            seen[np.frombuffer(block.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)] = True
    seen[ord(UNKNOWN)] = False
    vocabulary = Vocabulary(UNKNOWN + "".join(map(chr, np.flatnonzero(seen).tolist())))
    return _encode(files, vocabulary), vocabulary


def encode_file(path: str | Path, vocabulary: Vocabulary) -> np.ndarray:
    """Read a file or folder as tokens of an existing vocabulary; see `read_text`."""
    return _encode(text_files(path), vocabulary)


def read_part(path: str | Path, start: int, length: int) -> str:
    """Read up to `length` characters of a file or folder from character `start` on; empty where it has fewer.

    See `read_text` for what can be read and what is raised.
    """
    parts: list[str] = []
    for block in (block for file in text_files(path) for block in _blocks(file)):
        parts.append(block[start : start + length])
        length -= len(parts[-1])
        start = max(0, start - len(block))
        if length == 0:
            break
    return "".join(parts)


def _encode(files: list[Path], vocabulary: Vocabulary) -> np.ndarray:
    spool = Spool(vocabulary.dtype)
    for file in files:
        for block in _blocks(file):
            spool.add(vocabulary.encode(block))
    return spool.finish()


def text_files(path: str | Path) -> list[Path]:
    """Return the files of a text in the order in which they are read; see `read_text` for which, and what it raises."""
    path = Path(path)
    if not path.is_dir():
        return [find_file(path, "text")]

    def unreadable(error: OSError) -> None:
        raise InputError(f"text folder {error.filename} can't be read: {error.strerror}") from None

    files: list[Path] = []
    for place, folders, names in os.walk(path, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(place, name) for name in names if not name.startswith(".")]
    files = sorted(file for file in files if file.is_file() and file.stat().st_size)
    if not files:
        raise InputError(f"text folder {path} has no files with anything in them")
    return files


def _blocks(path: Path) -> Iterator[str]:
    """Yield the file's text, about a megabyte at a time; a byte order mark is dropped."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    done = 0
    try:
        with open_bytes(path) as raw:
            while block := raw.read(BLOCK):
                text = decoder.decode(block)
                if 4 * text.count("\0") > len(text):
                    raise not_utf8(path, "too many bytes are 0")
                yield text
                done += len(block)
            yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise not_utf8(path, f"{error.reason} near byte {done + error.start}") from None
    except UNREADABLE as error:
        raise InputError(f"{path} can't be read: {error}") from None


SHUFFLED = 1 << 22
"""Tokens that are shuffled at a time."""


def shuffle_lines(tokens: np.ndarray, newline: int, seed: tuple[int, ...]) -> np.ndarray:
    """Return the lines of tokens in random order, a pure function of the seed; larger than memory if need be.

    First every line, which ends with the token `newline`, goes to a random one of as many buckets as make each fit into
    memory; then each bucket's lines are shuffled, and the buckets follow one another. A line longer than `SHUFFLED`
    tokens is cut.
    """
    rng = np.random.default_rng(seed)
    buckets = -(-len(tokens) // SHUFFLED)
    if buckets <= 1:
        return _take_lines(np.asarray(tokens), newline, rng.permutation)
    spool, sizes = Spool(str(tokens.dtype)), []
    with tempfile.TemporaryFile(buffering=0) as file:
        start = 0
        while start < len(tokens):
            block = np.asarray(tokens[start : start + SHUFFLED])
            last = np.flatnonzero(block == newline)[-1:]
            if len(last) and start + len(block) < len(tokens):
                block = block[: int(last[0]) + 1]
            ends = _line_ends(block, newline)
            bucket = rng.integers(0, buckets, len(ends))
            order = np.argsort(bucket, kind="stable")
            write_all(file, _take_lines(block, newline, lambda count, order=order: order))  # type: ignore[misc]
            sizes.append(np.bincount(bucket, np.diff(ends, prepend=0), buckets).astype(np.uint32))
            start += len(block)
        # Where each block's share of each bucket begins, in the order in which all were written.
        shares = np.stack(sizes)
        stored, begins = Stored(file, tokens.dtype, 0, start), np.cumsum(shares.sum(axis=1, dtype=np.int64))
        begins -= shares.sum(axis=1, dtype=np.int64)
        for share in shares.T:
            parts = [stored[at : at + size] for at, size in zip(begins.tolist(), share.tolist(), strict=True) if size]
            begins += share
            if parts:
                spool.add(_take_lines(np.concatenate([np.asarray(part) for part in parts]), newline, rng.permutation))
    return spool.finish()


def _line_ends(tokens: np.ndarray, newline: int) -> np.ndarray:
    """Return where each line ends; the last one may lack its newline."""
    ends = np.flatnonzero(tokens == newline) + 1
    return ends if len(ends) and ends[-1] == len(tokens) else np.append(ends, len(tokens))


def _take_lines(tokens: np.ndarray, newline: int, order: Callable[[int], np.ndarray]) -> np.ndarray:
    """Return the lines in the order that `order` gives for their number."""
    ends = _line_ends(tokens, newline)
    lengths = np.diff(ends, prepend=0)
    picked = order(len(ends))
    lengths_now = lengths[picked]
    # What must be added to a token's new place to get its old one is the same for all tokens of a line.
    moved = (ends - lengths)[picked] - (np.cumsum(lengths_now) - lengths_now)
    index = np.repeat(moved.astype(np.int32), lengths_now)
    index += np.arange(len(tokens), dtype=np.int32)
    taken: np.ndarray = tokens[index]
    return taken


class Tracks:
    """A long token sequence as a batch: B=`batch` tracks, each read from start to end in chunks of T=`length`.

    Each chunk continues the one before it, so that the recurrent state can be carried over (truncated BPTT). Raises
    InputError where there are fewer than B (T + 1) tokens, in memory or mapped from a file.
    """

    def __init__(self, tokens: np.ndarray, batch: int, length: int):
        self.tokens, self.batch, self.length = tokens, batch, length
        self.track = len(tokens) // batch
        if self.track < length + 1:
            raise InputError(
                f"text has {len(tokens)} characters here; expected at least {batch * (length + 1)}, "
                f"batch={batch} sequences of length={length} and one more"
            )

    @classmethod
    def fitting(cls, tokens: np.ndarray, batch: int, length: int) -> Tracks:
        """Make as many tracks as there are tokens for, at most `batch`."""
        return cls(tokens, max(1, min(batch, len(tokens) // (length + 1))), length)

    def __len__(self) -> int:
        return (self.track - 1) // self.length

    def chunk(self, number: int) -> np.ndarray:
        """Return chunk `number` of every track with the token after it, (T + 1, B) int64, contiguous."""
        start = number * self.length
        columns = [self.tokens[b * self.track + start :][: self.length + 1] for b in range(self.batch)]
        return np.stack(columns, axis=1).astype(np.int64)
