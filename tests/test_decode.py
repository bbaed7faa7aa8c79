"""Drawing tokens: the compiled generator draws what the array form draws, from the same seed."""

import itertools

import numpy as np
import pytest

from gpu_lstm.errors import InputError
from gpu_lstm.models import LanguageModel
from gpu_lstm.models.decode import Draw, pick
from gpu_lstm.native import compiled
from tests.support import NUMPY

needs_library = pytest.mark.skipif(compiled.library() is None, reason=f"no compiled library: {compiled.missing()}")


def model(tier, dtype, hidden, layers, vocabulary=71):
    made = LanguageModel(vocabulary, 9, hidden, layers, backend=NUMPY, dtype=dtype, seed=2, tier=tier)
    for param in made.params.values():
        param *= 1.5  # a less even choice
    return made


@needs_library
@pytest.mark.parametrize("kind", compiled.SETS[: compiled.instruction_set() + 1])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("hidden", [1, 17, 130])
@pytest.mark.parametrize("temperature", [0, 0.7])
def test_both_forms_draw_the_same(temperature, hidden, layers, kind, monkeypatch):
    monkeypatch.setattr(compiled, "instruction_set", lambda: compiled.SETS.index(kind))
    prompt = np.array([3, 1, 2])
    one, two = (
        list(model(tier, "float64", hidden, layers).sample(prompt, 140, temperature, seed=4, never=(0, 5)))
        for tier in ("sequence", "reference")
    )
    assert one == two
    assert len(one) == 140
    assert not {0, 5} & set(one)


@needs_library
@pytest.mark.parametrize("threads", ["1", "2", "5"])
def test_the_threads_do_not_change_what_is_drawn(threads, monkeypatch):
    monkeypatch.setattr(compiled, "SERIAL_WORK", 1)
    monkeypatch.setenv("GPU_LSTM_NUM_THREADS", threads)
    drawn = list(model("sequence", "float32", 90, 2).sample(np.array([7]), 100, seed=1))
    monkeypatch.setenv("GPU_LSTM_NUM_THREADS", "1")
    assert drawn == list(model("sequence", "float32", 90, 2).sample(np.array([7]), 100, seed=1))


@pytest.mark.parametrize("tier", ["auto", "reference"])
def test_a_stream_may_be_left_early(tier):
    stream = model(tier, "float32", 8, 1).sample(np.array([1]), 10_000)
    assert len(list(itertools.islice(stream, 5))) == 5


def test_a_draw_follows_the_probabilities():
    scores = np.log(np.array([0.5, 0.0001, 0.25, 0.2499]))
    drawn = (
        np.bincount([pick(scores, Draw(1.0), u) for u in np.linspace(0, 1, 1000, endpoint=False)], minlength=4) / 1000
    )
    np.testing.assert_allclose(drawn, [0.5, 0.0001, 0.25, 0.2499], atol=2e-3)
    scores[0] = -np.inf
    assert pick(scores, Draw(1.0), 0.0) == 1
    assert pick(scores, Draw(0), 0.9) == 2
    assert pick(np.array([0.0, 1e6]), Draw(1e-3), 0.999999) == 1


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        (Draw(1.0, top_k=2), [0.5 / 0.75, 0, 0.25 / 0.75, 0]),
        (Draw(1.0, top_k=9), [0.5, 0.05, 0.25, 0.2]),
        (Draw(1.0, top_p=0.5), [1, 0, 0, 0]),
        (Draw(1.0, top_p=0.51), [0.5 / 0.75, 0, 0.25 / 0.75, 0]),
        (Draw(1.0, top_p=0.94), [0.5 / 0.95, 0, 0.25 / 0.95, 0.2 / 0.95]),
        (Draw(1.0, top_p=0.96), [0.5, 0.05, 0.25, 0.2]),
        (Draw(1.0, top_k=2, top_p=0.6), [1, 0, 0, 0]),  # 2/3 of what the two have
        (Draw(0.5, top_p=0.75), [0.25 / 0.3125, 0, 0.0625 / 0.3125, 0]),  # shares are 0.25, 0.0025, 0.0625, 0.04
        (Draw(1.0, top_k=1), [1, 0, 0, 0]),
        (Draw(0, top_k=3), [1, 0, 0, 0]),
    ],
)
def test_a_draw_among_the_likeliest_follows_their_probabilities(draw, expected):
    scores = np.log(np.array([0.5, 0.05, 0.25, 0.2])) + 3
    uniforms = (np.arange(4000) + 0.5) / 4000
    drawn = np.bincount([pick(scores, draw, u) for u in uniforms], minlength=4) / 4000
    np.testing.assert_allclose(drawn, expected, atol=1e-3)


@needs_library
@pytest.mark.parametrize("limits", [{"top_k": 3}, {"top_p": 0.7}, {"top_k": 9, "top_p": 0.5}])
def test_both_forms_draw_the_same_among_the_likeliest(limits):
    one, two = (
        list(model(tier, "float64", 17, 2).sample(np.array([3, 1, 2]), 90, 0.9, seed=4, never=(0, 5), **limits))
        for tier in ("sequence", "reference")
    )
    assert one == two
    assert len(set(one)) > 5
    assert not {0, 5} & set(one)
    assert list(model("sequence", "float64", 17, 2).sample([3], 20, top_k=1)) == list(
        model("sequence", "float64", 17, 2).sample([3], 20, 0)
    )


@pytest.mark.parametrize("tier", ["auto", "reference"])
@pytest.mark.parametrize(
    "change, message",
    [
        ({"never": range(11)}, "never has all 11 tokens; expected at least one that can be drawn"),
        ({"never": (3, 11)}, r"never has values 3\.\.11; expected 0\.\.vocabulary_size-1=10"),
        ({"never": (-1,)}, r"never has values -1\.\.-1"),
        ({"never": (0.5,)}, "never is a tuple of dtype float64; expected an array of whole numbers"),
        ({"prompt": [2, -1]}, r"prompt has values -1\.\.2; expected 0\.\.vocabulary_size-1=10"),
        ({"prompt": [11]}, r"prompt has values 11\.\.11"),
        ({"prompt": np.array([2**63], np.uint64)}, "prompt has values 9223372036854775808"),
        ({"prompt": [[1, 2]]}, r"prompt has shape \(1, 2\); expected \(N\)"),
        ({"prompt": [1.0]}, "prompt is a list of dtype float64"),
        ({"prompt": []}, "prompt is empty"),
        ({"prompt": np.int64(3)}, r"prompt has shape \(\); expected \(N\)"),
        ({"never": 3}, r"never has shape \(\); expected \(N\)"),
        ({"length": -1}, "length is -1; expected a whole number of at least 0"),
        ({"length": 2.0}, "length is 2.0"),
        ({"length": True}, "length is True"),
        ({"temperature": -1}, "temperature is -1; expected a number of at least 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"top_k": -1}, "top_k is -1; expected a whole number of at least 0"),
        ({"top_k": 2.0}, "top_k is 2.0"),
        ({"top_p": 0}, "top_p is 0; expected a number above 0 and at most 1"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_p": float("nan")}, "top_p is nan"),
    ],
)
def test_what_is_no_token_or_number_is_refused_before_anything_is_drawn(tier, change, message):
    with pytest.raises(InputError, match=message):
        model(tier, "float32", 8, 1, 11).sample(**({"prompt": [1], "length": 3} | change))


@pytest.mark.parametrize("tier", ["auto", "reference"])
def test_only_what_is_left_is_drawn(tier):
    one = model(tier, "float32", 8, 1, 11)
    assert list(one.sample([1], 5, never=[n for n in range(11) if n != 4] * 2)) == [4] * 5
    assert list(one.sample(np.array([1], np.uint8), np.int64(5), np.float32(0.5), never=np.array([0]))) == list(
        one.sample([1], 5, 0.5, never=(0,))
    )
    one.params["head.weight"][...] = np.nan
    assert 10 not in set(one.sample([1], 50, never=(10,)))
