"""What a text is cut into: characters, bytes, subwords; and the n-gram model of them."""

import json
import math

import numpy as np
import pytest

from gpu_lstm import InputError
from gpu_lstm.data import files, ngram, text
from gpu_lstm.data.text import encode_file, read_text
from gpu_lstm.data.tokens import CODE_POINTS, UNKNOWN, Bytes, Characters, Subwords, count_tokens, read_vocabulary

MIXED = "Größe, naïve — 日本語 😀\r\n\n  two  spaces\tand\x00more \n" * 3
WORDS = "the quick brown fox jumps over the lazy dog\n" * 20 + MIXED


@pytest.fixture(scope="module")
def subwords():
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    return Subwords.learn([WORDS], 300)


def of(kind, subwords):
    return {"characters": Characters(UNKNOWN + "".join(sorted(set(WORDS)))), "bytes": Bytes(), "subwords": subwords}[
        kind
    ]


@pytest.mark.parametrize("kind", ["characters", "bytes", "subwords"])
def test_tokens_give_the_text_back_whole_and_as_they_come(kind, subwords):
    vocabulary = of(kind, subwords)
    tokens = vocabulary.encode(MIXED)
    assert vocabulary.decode(tokens) == MIXED
    assert "".join(vocabulary.written(tokens.tolist())) == MIXED
    assert tokens.dtype == vocabulary.dtype
    assert int(vocabulary.characters_of[tokens].sum()) == len(MIXED)
    assert (vocabulary.newline, vocabulary.first) == (vocabulary.encode("\n")[0], "\n")
    again = read_vocabulary(json.loads(json.dumps(vocabulary.describe())))
    assert type(again) is type(vocabulary)
    assert len(again) == len(vocabulary)
    assert np.array_equal(again.encode(MIXED), tokens)


def test_characters_are_whole_when_written():
    assert list(Bytes().written(Bytes().encode("é😀").tolist())) == ["", "é", "", "", "", "😀", ""]
    assert "".join(Bytes().written([0xC3, 0x41, 0xF0])) == UNKNOWN + "A" + UNKNOWN


def test_bytes_that_came_as_surrogates_are_bytes_again():
    assert Bytes().encode(b"a\xff".decode(errors="surrogateescape")).tolist() == [97, 255]


def test_subwords_are_learned_the_same_again_and_end_at_lines(subwords, monkeypatch):
    assert len(subwords) == 300
    assert Subwords.learn([WORDS[:50], WORDS[50:]], 300).content == subwords.content
    whole = subwords.encode(WORDS)
    assert len(whole) < 0.6 * len(WORDS.encode())
    lines = [subwords.encode(line + "\n") for line in WORDS.split("\n")[:-1]]
    assert np.array_equal(np.concatenate(lines), whole)
    blocks = [WORDS[at : at + 7] for at in range(0, len(WORDS), 7)]
    assert np.array_equal(np.concatenate(list(subwords.encoded(blocks))), whole)
    assert [subwords.pieces[token] for token in whole[-2:]][-1] == b"\n"
    assert subwords.encode("").tolist() == []


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({"tokens": "words"}, r"expected that of characters, bytes, subwords"),
        (None, "vocabulary is null"),
        ({"tokens": "subwords", "tokenizer": "{}"}, "vocabulary of subwords is damaged"),
    ],
)
def test_a_damaged_vocabulary_is_refused(saved, message, subwords):
    with pytest.raises(InputError, match=message):
        read_vocabulary(saved)


def test_too_few_subwords_are_refused(subwords):
    with pytest.raises(InputError, match="vocabulary is 256; expected at least 257"):
        Subwords.learn(["a"], 256)


def test_what_a_character_costs_that_has_no_token():
    vocabulary = Characters(UNKNOWN + "ab")
    assert vocabulary.added == math.log2(CODE_POINTS - 2)
    assert vocabulary.lacks("abÄÄ1") == ["1", "Ä"]
    rate = vocabulary.rate(count_tokens(vocabulary.encode("aabÄ"), 3))
    assert rate == (1.0, vocabulary.added / 4)
    assert rate.bits(2.0) == 2.0 + vocabulary.added / 4
    assert Bytes().rate(count_tokens(Bytes().encode("é😀a"), 256)).bits(1.5) == 1.5 * 7 / 3


def test_whether_bytes_are_text():
    content = Bytes().encode(MIXED)
    for cut in range(30):
        assert Bytes().is_text(content[cut : len(content) - cut])
    assert not Bytes().is_text(np.array([65, 0xFF, 65], np.uint8))
    assert Bytes().is_text(np.zeros(0, np.uint8))


# -- files -------------------------------------------------------------------------------------------------------------


def test_bytes_are_those_of_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "BLOCK", 7)
    for name in "ab":
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf\xff\0" * 5 + name.encode())
    tokens, vocabulary = read_text(tmp_path, "bytes")
    assert np.asarray(tokens).tobytes() == (b"\xef\xbb\xbf\xff\0" * 5 + b"a") + (b"\xef\xbb\xbf\xff\0" * 5 + b"b")
    assert len(vocabulary) == 256
    assert vocabulary.counted == "bytes"
    assert read_vocabulary(vocabulary.describe()).counted == "bytes"
    assert vocabulary.rate(count_tokens(tokens, 256)) == (1.0, 0.0)


def test_subwords_of_files_larger_than_memory(tmp_path, monkeypatch, subwords):
    (tmp_path / "a").write_text(WORDS, encoding="utf-8", newline="")
    expected, vocabulary = read_text(tmp_path / "a", "subwords", 300)
    assert vocabulary.decode(expected) == WORDS
    monkeypatch.setattr(text, "BLOCK", 7)
    monkeypatch.setattr(files, "IN_MEMORY", 50)
    stored, again = read_text(tmp_path / "a", "subwords", 300)
    assert isinstance(stored, files.Stored)
    assert again.describe() == vocabulary.describe()
    assert np.array_equal(stored, expected)
    assert np.array_equal(encode_file(tmp_path / "a", vocabulary), expected)


def test_a_folder_is_read_by_patterns_and_in_an_encoding(tmp_path):
    for name, content in {"a.txt": "ä", "sub/b.txt": "ö", "sub/c.md": "ü", "d.png": "\x89"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="latin-1")

    def read(*include):
        tokens, vocabulary = read_text(tmp_path, encoding="latin-1", include=include)
        return vocabulary.decode(tokens)

    assert read("*.txt") == "äö"
    assert read("sub/*") == "öü"
    assert read("*.md", "a.*") == "äü"
    with pytest.raises(InputError, match=r"--include \*\.tex takes none of the 4 files of .*: a\.txt, d\.png, sub/b"):
        read("*.tex")
    with pytest.raises(InputError, match=r"text .*a\.txt is no folder; --include says which files to take of one"):
        read_text(tmp_path / "a.txt", include=["*"])
    with pytest.raises(InputError, match=r"a\.txt is not UTF-8 text: .*--encoding says .*, --include which files"):
        read_text(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "cp1252", "shift_jis"])
def test_encodings(tmp_path, encoding):
    content = "plain text\n" * 3 + ("日本" if encoding == "shift_jis" else "é")
    (tmp_path / "a").write_bytes(content.encode(encoding))
    tokens, vocabulary = read_text(tmp_path / "a", encoding=encoding)
    assert vocabulary.decode(tokens) == content


@pytest.mark.parametrize("name", ["utf-99", "hex", "rot13", "", "a\0b"])
def test_an_encoding_that_is_none_is_refused(tmp_path, name):
    (tmp_path / "a").write_text("a", encoding="utf-8")
    with pytest.raises(InputError, match="--encoding is .*; expected one that Python has"):
        read_text(tmp_path / "a", encoding=name)


def test_a_file_that_is_not_in_the_encoding_is_named(tmp_path):
    (tmp_path / "a").write_bytes(b"abc\xff\xfe")
    with pytest.raises(InputError, match=r"a is not ascii text: ordinal not in range\(128\) near byte 3 \(--enc"):
        read_text(tmp_path / "a", encoding="ascii")
    with pytest.raises(InputError, match=r"a is not utf-16 text: "):
        read_text(tmp_path / "a", encoding="utf-16")


# -- n-grams -----------------------------------------------------------------------------------------------------------


def test_an_n_gram_model_finds_what_there_is_to_find():
    rng = np.random.default_rng(0)
    assert ngram.bits_of_ngrams(np.tile([0, 1, 2], 2000), np.tile([0, 1, 2], 200), 3) < 0.01
    even = ngram.bits_of_ngrams(rng.integers(0, 8, 60_000), rng.integers(0, 8, 5000), 8)
    assert 3 <= even < 3.02
    # Each token is the sum of the three before it, or by a chance of 1/8 another: an entropy of 0.9 bits.
    tokens = list(rng.integers(0, 4, 3))
    for noise in rng.integers(0, 4, 60_000) * (rng.random(60_000) < 1 / 8):
        tokens.append((sum(tokens[-3:]) + noise) % 4)
    shares = np.array([7 / 8 + 1 / 32, *[1 / 32] * 3])
    entropy = -(shares * np.log2(shares)).sum()
    found = ngram.bits_of_ngrams(np.array(tokens[:-8000]), np.array(tokens[-8000:]), 4)
    assert entropy - 0.03 < found < entropy + 0.03


def test_the_probabilities_of_n_grams_add_up_to_one():
    rng = np.random.default_rng(1)
    train, size, order = rng.integers(0, 5, 400), 6, 4
    mixed, kinds = ngram._probabilities(train[:350], train[350:], size, order)
    weights = ngram._fit(mixed, kinds, order)
    for context in ([0, 1, 2], [3, 3, 3], [5, 5, 5], [1, 5, 2]):
        each = np.concatenate([[*context, token] for token in range(size)])
        mixed, kinds = ngram._probabilities(train, each, size, order)
        whole = np.sum(mixed * weights[kinds], axis=1)[::order]
        assert whole.sum() == pytest.approx(1)
        assert (whole > 0).all()


def test_the_order_is_what_fits_into_a_number():
    assert [ngram.order_for(size) for size in (1, 2, 66, 40_000, 60_000, 2_000_000)] == [4, 4, 4, 4, 3, 2]


def test_long_texts_are_looked_at_in_part(monkeypatch):
    tokens = np.random.default_rng(0).integers(0, 5, 3000)
    expected = ngram.bits_of_ngrams(tokens[1000:2000], tokens[2000:], 5)
    monkeypatch.setattr(ngram, "MOST", 1000)
    assert ngram.bits_of_ngrams(tokens[:2000], tokens[2000:], 5) == expected
