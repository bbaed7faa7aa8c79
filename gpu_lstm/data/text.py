"""Text from files and folders, as tokens; larger than memory if need be."""

from __future__ import annotations

import codecs
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from gpu_lstm.data.files import BLOCK, SHIPPED, UNREADABLE, Spool, Stored, find_file, open_bytes, write_all
from gpu_lstm.data.tokens import KINDS, UNKNOWN, Bytes, Characters, Subwords, Vocabulary
from gpu_lstm.errors import InputError

SHAKESPEARE = SHIPPED / "shakespeare.txt.xz"
UTF8 = "utf-8"


def read_text(
    path: str | Path, tokens: str = "characters", size: int = 1024, encoding: str = UTF8, include: Sequence[str] = ()
) -> tuple[np.ndarray, Vocabulary]:
    """Read a file, or all files of a folder, as tokens (N,) and the vocabulary made from them.

    A file is plain, ``.xz`` or ``.gz``; a folder's files (not the hidden ones) are taken in the order of their names,
    folders within included. They are read twice, block by block; tokens larger than memory are kept in a temporary
    file.

    Parameters
    ----------
    path : str or Path
    tokens : {"characters", "bytes", "subwords"}
        Bytes are those of the files, whatever they are, and no encoding plays a part.
    size : int
        Of the vocabulary of subwords, at most.
    encoding : str
        Of the files, as Python names it.
    include : sequence of str
        Patterns as ``*.txt`` or ``letters/*``, of the files to take of a folder, in their names or in their paths
        within it; all of them if there are none.

    Raises
    ------
    InputError
        Nothing is there, or it is empty, unreadable, or not in that encoding; there is no such encoding; no file of
        the folder is included, or there are patterns and it is no folder.

    Examples
    --------
    >>> from pathlib import Path
    >>> from gpu_lstm.data.text import read_text
    >>> _ = Path("letter.txt").write_text("Dear Ada", encoding="utf-8")
    >>> tokens, vocabulary = read_text("letter.txt")
    >>> tokens.shape, vocabulary.decode(tokens)
    ((8,), 'Dear Ada')
    """
    vocabulary: Vocabulary
    if tokens == "bytes":
        vocabulary = Bytes()
    elif tokens == "subwords":
        vocabulary = Subwords.learn(_all_blocks(path, encoding, include), size)
    elif tokens == "characters":
        seen = np.zeros(sys.maxunicode + 1, dtype=bool)
        for block in _all_blocks(path, encoding, include):
            seen[np.frombuffer(block.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)] = True
        seen[ord(UNKNOWN)] = False
        vocabulary = Characters(UNKNOWN + "".join(map(chr, np.flatnonzero(seen).tolist())))
    else:
        raise InputError(f"tokens is {tokens!r}; expected one of {', '.join(KINDS)}")
    found = encode_file(path, vocabulary, encoding, include)
    return found, Bytes(text=False) if isinstance(vocabulary, Bytes) and not vocabulary.is_text(found) else vocabulary


def encode_file(
    path: str | Path, vocabulary: Vocabulary, encoding: str = UTF8, include: Sequence[str] = ()
) -> np.ndarray:
    """Read a file or folder as tokens of an existing vocabulary; see `read_text`."""
    spool = Spool(vocabulary.dtype)
    for file in text_files(path, include):
        found: Iterator[np.ndarray]
        if isinstance(vocabulary, Bytes):
            found = map(vocabulary.encode, _raw(file))
        else:
            found = vocabulary.encoded(_blocks(file, encoding))
        for block in found:
            spool.add(block)
    return spool.finish()


def read_part(path: str | Path, start: int, length: int, encoding: str = UTF8, include: Sequence[str] = ()) -> str:
    """Read up to `length` characters of a file or folder from character `start` on; empty where it has fewer.

    See `read_text` for what can be read and what is raised.
    """
    parts: list[str] = []
    for block in _all_blocks(path, encoding, include):
        parts.append(block[start : start + length])
        length -= len(parts[-1])
        start = max(0, start - len(block))
        if length == 0:
            break
    return "".join(parts)


def text_files(path: str | Path, include: Sequence[str] = ()) -> list[Path]:
    """Return the files of a text in the order in which they are read; see `read_text` for which, and what it raises."""
    path = Path(path)
    if not path.is_dir():
        if include:
            raise InputError(f"text {path} is no folder; --include says which files to take of one")
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
    taken = [file for file in files if not include or _is_included(file.relative_to(path), include)]
    if not taken:
        some = ", ".join(file.relative_to(path).as_posix() for file in files[:5])
        raise InputError(f"--include {' '.join(include)} takes none of the {len(files)} files of {path}: {some}, ...")
    return taken


def _is_included(name: Path, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name.as_posix(), one) or fnmatchcase(name.name, one) for one in patterns)


def _all_blocks(path: str | Path, encoding: str, include: Sequence[str]) -> Iterator[str]:
    return (block for file in text_files(path, include) for block in _blocks(file, encoding))


def _raw(path: Path) -> Iterator[bytes]:
    """Yield the file's bytes, a megabyte at a time."""
    try:
        with open_bytes(path) as raw:
            while block := raw.read(BLOCK):
                yield block
    except UNREADABLE as error:
        raise InputError(f"{path} can't be read: {error}") from None


def _blocks(path: Path, encoding: str) -> Iterator[str]:
    """Yield the file's text, about a megabyte at a time; a byte order mark is dropped."""
    name = check_encoding(encoding)
    plain = name == UTF8
    decoder = codecs.getincrementaldecoder("utf-8-sig" if plain else name)()
    done = 0
    try:
        for block in _raw(path):
            text = decoder.decode(block)
            if plain and 4 * text.count("\0") > len(text):
                raise _undecodable(path, encoding, "too many bytes are 0")
            yield text
            done += len(block)
        yield decoder.decode(b"", final=True)
    except UnicodeError as error:
        place = f" near byte {done + error.start}" if isinstance(error, UnicodeDecodeError) else ""
        raise _undecodable(path, encoding, f"{getattr(error, 'reason', error)}{place}") from None


def check_encoding(name: str) -> str:
    """Return Python's own name of an encoding of text.

    Raises InputError where there is none.
    """
    try:
        "".encode(name)  # refuses encodings of something else than text
        return codecs.lookup(name).name
    except (LookupError, ValueError):
        raise InputError(f"--encoding is {name!r}; expected one that Python has, as utf-8, utf-16, latin-1") from None


def _undecodable(path: Path, encoding: str, why: str) -> InputError:
    """Return the error for a file of another encoding, which is guessed from the file's first bytes."""
    with open_bytes(path) as file:
        head = file.read(1000)
    utf16 = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    guess = "UTF-16" if utf16 or 4 * head.count(0) > len(head) else "Latin-1 or Windows-1252"
    if encoding == UTF8:
        encoding, why = "UTF-8", f"{why}; it may be {guess}, or no text"
    return InputError(
        f"{path} is not {encoding} text: {why} (--encoding says what it is, --include which files to take of a folder, "
        "--tokens bytes takes any)"
    )


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
                f"text has {len(tokens)} tokens here; expected at least {batch * (length + 1)}, "
                f"batch={batch} sequences of length={length} and one more"
            )

    @classmethod
    def fitting(cls, tokens: np.ndarray, batch: int, length: int) -> Tracks:
        """Make as many tracks as there are tokens for, at most `batch`."""
        return cls(tokens, max(1, min(batch, len(tokens) // (length + 1))), length)

    def __len__(self) -> int:
        return (self.track - 1) // self.length

    def chunk(self, number: int, tracks: range | None = None) -> np.ndarray:
        """Return chunk `number` of all or some tracks with the token after it, (T + 1, B) int64, contiguous."""
        start = number * self.length
        which = range(self.batch) if tracks is None else tracks
        columns = [self.tokens[b * self.track + start :][: self.length + 1] for b in which]
        return np.stack(columns, axis=1).astype(np.int64)
