"""Text from files and folders, as tokens; larger than memory if need be."""

from __future__ import annotations

import codecs
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from gpu_lstm.data.files import BLOCK, PACKED, SHIPPED, UNREADABLE, Spool, Stored, find_file, open_bytes, write_all
from gpu_lstm.data.tokens import CONTINUATION, KINDS, LONGEST, UNKNOWN, Bytes, Characters, Subwords, Vocabulary
from gpu_lstm.errors import InputError
from gpu_lstm.parallel import Alone, Communicator

SHAKESPEARE = SHIPPED / "shakespeare.txt.xz"
UTF8 = "utf-8"
ALONE = Alone()
Needs = Callable[[int], Sequence[range]]
"""Which parts are needed of so many tokens."""


class Unit(NamedTuple):
    """What can be read of a text by itself: about a megabyte of lines of a plain file, or else all of a file.

    It begins with the first line, or without one for a megabyte the first character, from byte `start` on.
    """

    path: Path
    start: int = 0
    stop: int | None = None


def read_text(
    path: str | Path, tokens: str = "characters", size: int = 1024, encoding: str = UTF8, include: Sequence[str] = (),
    ranks: Communicator = ALONE, needs: Needs = lambda total: [range(total)],
) -> tuple[np.ndarray, Vocabulary]:  # fmt: skip
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
    ranks, needs
        Ranks that read the text together. Each reads its share of the units (`Unit`) to make the vocabulary with the
        others, but that of subwords, for which rank 0 reads all; then what it needs. The other tokens are zeros.

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
    own = _own(units_of(path, UTF8 if tokens == "bytes" else encoding, include), ranks)
    if tokens == "bytes":
        decoded = ranks.every(lambda: all(Bytes().is_text(_spooled([one], Bytes())) for one in own))
        vocabulary = Bytes(text=all(decoded))
    elif tokens == "subwords":
        learned = ranks.first(lambda: Subwords.learn(_all_blocks(path, encoding, include), size))
        vocabulary = Subwords(ranks.every(lambda: learned and learned.content)[0] or "")
    elif tokens == "characters":
        seen = np.any(ranks.every(lambda: _seen(block for one in own for block in _blocks(one, encoding))), axis=0)
        vocabulary = Characters(UNKNOWN + "".join(map(chr, np.flatnonzero(seen).tolist())))
    else:
        raise InputError(f"tokens is {tokens!r}; expected one of {', '.join(KINDS)}")
    return encode_file(path, vocabulary, encoding, include, ranks, needs), vocabulary


def _seen(blocks: Iterable[str]) -> np.ndarray:
    """Which code points there are in a text, but for that which stands for the unknown."""
    seen = np.zeros(sys.maxunicode + 1, dtype=bool)
    for block in blocks:
        seen[np.frombuffer(block.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)] = True
    seen[ord(UNKNOWN)] = False
    return seen


def encode_file(
    path: str | Path, vocabulary: Vocabulary, encoding: str = UTF8, include: Sequence[str] = (),
    ranks: Communicator = ALONE, needs: Needs = lambda total: [range(total)],
) -> np.ndarray:  # fmt: skip
    """Read a file or folder as tokens of an existing vocabulary; see `read_text`."""
    units = units_of(path, UTF8 if isinstance(vocabulary, Bytes) else encoding, include)
    if ranks.size == 1:
        return _spooled(units, vocabulary, encoding)
    counts = ranks.every(lambda: [sum(map(len, _encoded(one, vocabulary, encoding))) for one in _own(units, ranks)])
    ends = np.cumsum([count for of_rank in counts for count in of_rank]).tolist()
    needed, spool = needs(ends[-1]), Spool(vocabulary.dtype)
    for unit, start, stop in zip(units, [0, *ends], ends, strict=False):
        if any(start < part.stop and part.start < stop for part in needed):
            for block in _encoded(unit, vocabulary, encoding):
                spool.add(block)
        else:
            spool.skip(stop - start)
    return spool.finish()


def _spooled(units: Iterable[Unit], vocabulary: Vocabulary, encoding: str = UTF8) -> np.ndarray:
    spool = Spool(vocabulary.dtype)
    for unit in units:
        for block in _encoded(unit, vocabulary, encoding):
            spool.add(block)
    return spool.finish()


def _encoded(unit: Unit, vocabulary: Vocabulary, encoding: str) -> Iterator[np.ndarray]:
    if isinstance(vocabulary, Bytes):
        return map(vocabulary.encode, _raw(unit))
    return vocabulary.encoded(_blocks(unit, encoding))


def _own(units: list[Unit], ranks: Communicator) -> list[Unit]:
    """A rank's share."""
    first, last = (len(units) * rank // ranks.size for rank in (ranks.rank, ranks.rank + 1))
    return units[first:last]


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


def units_of(path: str | Path, encoding: str = UTF8, include: Sequence[str] = ()) -> list[Unit]:
    """Return what a text can be read in, in order: packed files, and those of other encodings, as they are."""
    plain = check_encoding(encoding) == UTF8
    found: list[Unit] = []
    for file in text_files(path, include):
        size = file.stat().st_size
        cut = plain and file.suffix not in PACKED
        found += [Unit(file, at, at + BLOCK) for at in range(0, size, BLOCK)] if cut else [Unit(file)]
    return found


def _all_blocks(path: str | Path, encoding: str, include: Sequence[str]) -> Iterator[str]:
    return (block for unit in units_of(path, encoding, include) for block in _blocks(unit, encoding))


def _raw(unit: Unit) -> Iterator[bytes]:
    """Yield the unit's bytes, a megabyte at a time."""
    try:
        with open_bytes(unit.path) as raw:
            left = sys.maxsize
            if unit.stop is not None:
                left = _line(raw, unit.stop)
                left -= raw.seek(_line(raw, unit.start))
            while block := raw.read(min(BLOCK, left)):
                yield block
                left -= len(block)
    except UNREADABLE as error:
        raise InputError(f"{unit.path} can't be read: {error}") from None


def _line(file: IO[bytes], place: int) -> int:
    """Return where the first line begins from a place on, or where there is none for long the first character."""
    if place == 0:
        return 0
    file.seek(place - 1)
    line = file.readline(LONGEST)
    if line.endswith(b"\n"):
        return place - 1 + len(line)
    file.seek(place)
    head = file.read(3)
    return place + len(head) - len(head.lstrip(CONTINUATION))


def _blocks(unit: Unit, encoding: str) -> Iterator[str]:
    """Yield the unit's text, about a megabyte at a time; a byte order mark is dropped."""
    path, name = unit.path, check_encoding(encoding)
    plain = name == UTF8
    decoder = codecs.getincrementaldecoder("utf-8-sig" if plain and unit.start == 0 else name)()
    done = unit.start
    try:
        for block in _raw(unit):
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

    @classmethod
    def split(cls, tokens: np.ndarray, batch: int, length: int, validation: float) -> tuple[Tracks, Tracks]:
        """Tracks to train on, and of the share at the end that is held out."""
        cut = len(tokens) - int(len(tokens) * validation)
        return cls(tokens[:cut], batch, length), cls.fitting(tokens[cut:], batch, length)

    def __len__(self) -> int:
        return (self.track - 1) // self.length

    def span(self, part: int, parts: int) -> slice:
        """Where one of so many parts of the tracks lies in the tokens; what no track has is of the last."""
        first, last = (self.batch * one // parts * self.track for one in (part, part + 1))
        return slice(first, len(self.tokens) if part + 1 == parts else last)

    def chunk(self, number: int, tracks: range | None = None) -> np.ndarray:
        """Return chunk `number` of all or some tracks with the token after it, (T + 1, B) int64, contiguous."""
        start = number * self.length
        which = range(self.batch) if tracks is None else tracks
        columns = [self.tokens[b * self.track + start :][: self.length + 1] for b in which]
        return np.stack(columns, axis=1).astype(np.int64)
