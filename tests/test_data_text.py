"""Text: vocabulary, reading files and folders, chunks."""

import gzip
import itertools
import lzma

import numpy as np
import pytest

from gpu_lstm import InputError
from gpu_lstm.data import files, text
from gpu_lstm.data.text import SHAKESPEARE, Tracks, encode_file, read_text
from gpu_lstm.data.tokens import UNKNOWN, Characters


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(text, "BLOCK", 7)


def vocabulary_of(size):
    """A vocabulary of `size` tokens, the unknown one among them."""
    return Characters(UNKNOWN + "".join(chr(0x100 + n) for n in range(size - 1)))


def test_encoding_and_decoding_gives_the_text_back():
    vocabulary = Characters(UNKNOWN + "\nabcé😀")
    assert vocabulary.decode(vocabulary.encode("é\na😀cab")) == "é\na😀cab"


def test_tokens_are_the_places_in_the_vocabulary():
    assert Characters(UNKNOWN + "bdf").encode("fbd").tolist() == [3, 1, 2]


@pytest.mark.parametrize("character", ["a", "c", "z", UNKNOWN, "\U0010ffff", "\ud800"])
def test_characters_outside_the_vocabulary_become_token_0(character):
    vocabulary = Characters(UNKNOWN + "bdf")
    assert vocabulary.encode("b" + character).tolist() == [1, 0]
    assert vocabulary.decode(np.array([1, 0])) == "b" + UNKNOWN


def test_a_vocabulary_of_the_unknown_alone_knows_nothing():
    assert Characters(UNKNOWN).encode("ab").tolist() == [0, 0]


@pytest.mark.parametrize(("size", "dtype"), [(2, "uint8"), (256, "uint8"), (257, "uint16"), (65537, "uint32")])
def test_dtype_is_the_smallest_that_holds_every_token(size, dtype):
    characters = [chr(0x100 + n) for n in range(70000) if not 0xD800 <= 0x100 + n < 0xE000 and n + 0x100 != 0xFFFD]
    vocabulary = Characters(UNKNOWN + "".join(characters[: size - 1]))
    tokens = vocabulary.encode(characters[size - 2])
    assert tokens.dtype == dtype
    assert tokens.tolist() == [size - 1]


@pytest.mark.parametrize("characters", ["", "ab", UNKNOWN + "ba", UNKNOWN + "aa", UNKNOWN + "a" + UNKNOWN])
def test_characters_in_no_order_are_refused(characters):
    with pytest.raises(InputError, match="vocabulary is not"):
        Characters(characters)


def test_reading_a_file_gives_its_tokens_and_sorted_characters(tmp_path):
    (tmp_path / "a.txt").write_text("hello\n", encoding="utf-8")
    tokens, vocabulary = read_text(tmp_path / "a.txt")
    assert vocabulary.characters == UNKNOWN + "\nehlo"
    assert vocabulary.decode(tokens) == "hello\n"


def test_a_replacement_character_in_the_file_is_the_unknown_token(tmp_path):
    (tmp_path / "a.txt").write_text("a" + UNKNOWN, encoding="utf-8")
    tokens, vocabulary = read_text(tmp_path / "a.txt")
    assert tokens.tolist() == [1, 0]
    assert len(vocabulary) == 2


def test_line_ends_are_kept_as_they_are(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a\r\nb\n")
    tokens, vocabulary = read_text(tmp_path / "a.txt")
    assert vocabulary.decode(tokens) == "a\r\nb\n"


@pytest.mark.parametrize("block", [1, 2, 3, 7])
def test_characters_of_many_bytes_may_cross_the_borders_of_blocks(tmp_path, monkeypatch, block):
    monkeypatch.setattr(text, "BLOCK", block)
    content = "aé€😀" * 9 + "ß"
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + content.encode())
    tokens, vocabulary = read_text(tmp_path / "a.txt")
    assert vocabulary.decode(tokens) == content


def test_a_byte_order_mark_is_dropped_from_every_file_of_a_folder(tmp_path):
    for name in "ab":
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + name.encode())
    tokens, vocabulary = read_text(tmp_path)
    assert vocabulary.decode(tokens) == "ab"


def test_a_folder_is_read_in_order_of_names_without_hidden_and_empty_files(tmp_path):
    for name, content in {
        "b.txt": "2",
        "a/z.txt": "1",
        "c/d/e.txt": "3",
        ".hidden": "x",
        ".git/config": "y",
        "c/.swp": "z",
        "empty": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    tokens, vocabulary = read_text(tmp_path)
    assert vocabulary.decode(tokens) == "123"


def test_a_folder_below_a_hidden_one_is_read(tmp_path):
    (tmp_path / ".cache/text").mkdir(parents=True)
    (tmp_path / ".cache/text/a").write_text("ab", encoding="utf-8")
    assert len(read_text(tmp_path / ".cache/text")[0]) == 2


@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip.compress), ("xz", lzma.compress)])
def test_packed_files_read_like_plain_ones(tmp_path, small_blocks, ending, pack):
    content = "packed tëxt, longer than a block"
    (tmp_path / f"a.txt.{ending}").write_bytes(pack(content.encode()))
    tokens, vocabulary = read_text(tmp_path / f"a.txt.{ending}")
    assert vocabulary.decode(tokens) == content


def test_a_known_vocabulary_encodes_another_file(tmp_path):
    (tmp_path / "a.txt").write_text("abz", encoding="utf-8")
    assert encode_file(tmp_path / "a.txt", Characters(UNKNOWN + "ab")).tolist() == [1, 2, 0]


def test_tokens_larger_than_memory_are_read_from_a_file_with_the_same_values(tmp_path, monkeypatch, small_blocks):
    (tmp_path / "a.txt").write_text("the quick brown fox " * 20, encoding="utf-8")
    expected, _ = read_text(tmp_path / "a.txt")
    monkeypatch.setattr(files, "IN_MEMORY", 50)
    tokens, _ = read_text(tmp_path / "a.txt")
    assert isinstance(tokens, files.Stored)
    assert isinstance(expected, np.ndarray)
    assert (len(tokens), tokens.shape) == (len(expected), expected.shape)
    assert np.array_equal(tokens[7:90][3:], expected[10:90])
    assert tokens.dtype == expected.dtype
    assert np.array_equal(tokens, expected)


def test_tokens_in_a_file_make_the_same_chunks(tmp_path, monkeypatch, small_blocks):
    (tmp_path / "a.txt").write_text("the quick brown fox " * 20, encoding="utf-8")
    expected = Tracks(read_text(tmp_path / "a.txt")[0], 4, 8).chunk(3)
    monkeypatch.setattr(files, "IN_MEMORY", 50)
    assert np.array_equal(Tracks(read_text(tmp_path / "a.txt")[0], 4, 8).chunk(3), expected)


@pytest.mark.parametrize("cut", [1, 20, 60])
@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip.compress), ("xz", lzma.compress)])
def test_a_truncated_packed_file_is_named(tmp_path, ending, pack, cut):
    content = pack(np.random.default_rng(0).bytes(200).hex().encode())
    (tmp_path / f"a.{ending}").write_bytes(content[:-cut])
    with pytest.raises(InputError, match=rf"a\.{ending} can't be read: "):
        read_text(tmp_path / f"a.{ending}")


@pytest.mark.parametrize("place", [0, 4, 12, 30, 80])
@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip.compress), ("xz", lzma.compress)])
def test_a_damaged_packed_file_is_refused(tmp_path, ending, pack, place):
    content = bytearray(pack(np.random.default_rng(0).bytes(200).hex().encode()))
    content[place : place + 6] = b"\xff" * 6
    (tmp_path / f"a.{ending}").write_bytes(content)
    try:
        tokens, _ = read_text(tmp_path / f"a.{ending}")
    except InputError as error:
        assert f"a.{ending}" in str(error)
    else:
        assert ending == "gz" and place == 4  # the time stamp and the system in gzip's header, which nothing checks
        assert len(tokens) == 400


@pytest.mark.parametrize("ending", ["gz", "xz"])
def test_a_plain_file_named_as_packed_is_refused(tmp_path, ending):
    (tmp_path / f"a.{ending}").write_text("plain text", encoding="utf-8")
    with pytest.raises(InputError, match=f"{ending} can't be read"):
        read_text(tmp_path / f"a.{ending}")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"text .*nothing\.txt does not exist"):
        read_text(tmp_path / "nothing.txt")


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / "a.txt").touch()
    with pytest.raises(InputError, match=r"text .*a\.txt is empty"):
        read_text(tmp_path / "a.txt")


def test_a_file_used_as_a_folder_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("a", encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.txt.b can't be read: Not a directory"):
        read_text(tmp_path / "a.txt" / "b")


@pytest.mark.parametrize("names", [[], [".hidden"], ["empty"]])
def test_a_folder_without_text_is_refused(tmp_path, names):
    for name in names:
        (tmp_path / name).write_text("x" * (name != "empty"), encoding="utf-8")
    with pytest.raises(InputError, match="has no files with anything in them"):
        read_text(tmp_path)


@pytest.mark.parametrize(
    "content", [b"abc\xff\xfe", b"ab\xc3", "héllo".encode("latin-1"), "hi".encode("utf-16"), b"\xed\xa0\x80"]
)
def test_bytes_that_are_not_utf_8_are_refused_with_their_place(tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.txt is not UTF-8 text: .* near byte \d"):
        read_text(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("encoding", "cause"),
    [
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16"),
        ("utf-32-be", "UTF-16"),
        ("cp1252", "Latin-1 or Windows-1252"),
    ],
)
@pytest.mark.parametrize("content", ["Größe und Maß\n", "plain\n"])
def test_another_encoding_is_named(tmp_path, encoding, cause, content):
    path = tmp_path / "a.txt"
    path.write_bytes(content.encode(encoding))
    if (encoding, content) == ("cp1252", "plain\n"):
        assert len(read_text(path)[0]) == 6
    else:
        with pytest.raises(InputError, match=rf"a\.txt is not UTF-8 text: .*; it may be {cause}, or no text"):
            read_text(path)


def test_the_place_of_a_bad_byte_counts_from_the_start_of_the_file(tmp_path, small_blocks):
    (tmp_path / "a.txt").write_bytes(b"x" * 25 + b"\xff" + b"x" * 9)
    with pytest.raises(InputError, match="near byte 25"):
        read_text(tmp_path / "a.txt")


def test_a_folder_with_one_bad_file_names_it(tmp_path):
    (tmp_path / "a.txt").write_text("good", encoding="utf-8")
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(InputError, match=r"b\.png is not UTF-8"):
        read_text(tmp_path)


def test_shipped_shakespeare_has_a_million_known_characters():
    tokens, vocabulary = read_text(SHAKESPEARE)
    assert 1_060_000 < len(tokens) < 1_120_000
    assert tokens.dtype == np.uint8
    assert 60 <= len(vocabulary) <= 110
    assert tokens.min() > 0
    assert int(tokens.max()) == len(vocabulary) - 1
    assert "ROMEO" in vocabulary.decode(tokens)


def test_chunks_hold_each_track_s_own_part_of_the_text():
    tracks = Tracks(np.arange(20, dtype=np.uint8), 2, 3)
    assert len(tracks) == 3
    assert tracks.chunk(0).T.tolist() == [[0, 1, 2, 3], [10, 11, 12, 13]]
    assert tracks.chunk(2).T.tolist() == [[6, 7, 8, 9], [16, 17, 18, 19]]


def test_chunks_are_contiguous_and_of_int64():
    chunk = Tracks(np.arange(20, dtype=np.uint8), 2, 3).chunk(0)
    assert chunk.dtype == np.int64
    assert chunk.flags.c_contiguous


@pytest.mark.parametrize(("count", "batch", "length"), [(40, 3, 4), (101, 4, 8), (18, 2, 8), (500, 7, 5)])
def test_each_chunk_continues_the_one_before(count, batch, length):
    tracks = Tracks(np.arange(count), batch, length)
    chunks = [tracks.chunk(n) for n in range(len(tracks))]
    assert all(chunk.shape == (length + 1, batch) for chunk in chunks)
    for before, after in itertools.pairwise(chunks):
        assert np.array_equal(before[-1], after[0])
    joined = np.concatenate([chunk[:-1] for chunk in chunks])
    assert np.array_equal(np.diff(joined, axis=0), np.ones((len(joined) - 1, batch)))
    assert all(np.array_equal(chunk[1:], chunk[:-1] + 1) for chunk in chunks)


def test_no_two_chunks_share_an_input():
    tracks = Tracks(np.arange(101), 4, 8)
    inputs = np.concatenate([tracks.chunk(n)[:-1].ravel() for n in range(len(tracks))])
    assert len(set(inputs.tolist())) == inputs.size


@pytest.mark.parametrize(("count", "batch", "length"), [(17, 2, 8), (0, 1, 1), (8, 1, 8)])
def test_a_text_too_short_for_one_chunk_says_what_it_needs(count, batch, length):
    with pytest.raises(InputError, match=rf"text has {count} tokens here; expected at least {batch * (length + 1)}"):
        Tracks(np.zeros(count, np.uint8), batch, length)
