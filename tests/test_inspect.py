"""Seeing inside a model: activations by value, planted cells found, gradient norms against differences, the page."""

import base64
import html
import json
import re
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gpu_lstm import LSTM, InputError
from gpu_lstm.cli import main
from gpu_lstm.data.fingerprint import fingerprint
from gpu_lstm.data.text import read_part
from gpu_lstm.data.tokens import UNKNOWN, Characters
from gpu_lstm.inspect import (
    QUANTITIES,
    activations,
    best_cells,
    gradient_reach,
    report,
    series_features,
    series_page,
    text_features,
    text_page,
    tracking,
)
from gpu_lstm.inspect.reach import fades
from gpu_lstm.layers.schedule import segments
from gpu_lstm.models import Classifier, Forecaster, LanguageModel
from gpu_lstm.recurrence import Problem, reference, runnable_tiers
from gpu_lstm.training.checkpoint import description_of, pack, save_model, to_torch_names
from gpu_lstm.training.folder import save
from tests.support import NUMPY, relative_error

CHARACTERS = UNKNOWN + "\n !\"'(),-.:;?" + "ABCDEFGHIJKLMNOPQRSTUVWXYZ" + "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = Characters(CHARACTERS)
SERIES = {"mean": [1.0, -2.0], "spread": [2.0, 0.5], "step_spread": [1.0, 0.25]}


def language(**more):
    sizes = {"embedding_size": 3, "hidden_size": 4, "num_layers": 2, "dtype": "float64", "backend": "numpy"}
    return LanguageModel(len(VOCABULARY), **{**sizes, **more})


def forecaster(**more):
    sizes = {"horizon": 3, "memory": 4, "hidden_size": 4, "num_layers": 2, "dtype": "float64", "backend": "numpy"}
    return Forecaster(**SERIES, **{**sizes, **more})


def tokens(steps=12, seed=5):
    return np.random.default_rng(seed).integers(1, len(VOCABULARY), steps)


def values(steps=20, seed=6):
    return np.random.default_rng(seed).normal(size=(steps, 2)).cumsum(axis=0)


def by_reference(lstm, x):
    """What the reference tier saves for one sequence x (T, D), layer after layer, in one direction."""
    found = {name: [] for name in QUANTITIES}
    for layer in range(lstm.num_layers):
        z = x @ lstm.params[f"weight_ih_l{layer}"].T + lstm.params[f"bias_l{layer}"]
        saved = reference.forward(NUMPY, Problem(z[:, None, :], lstm.params[f"weight_hh_l{layer}"]))
        for name, gate in zip("ifgo", np.split(saved.gates[:, 0], 4, axis=1), strict=True):
            found[name].append(gate)
        found["h"].append(saved.h[1:, 0])
        found["c"].append(saved.c[1:, 0])
        x = saved.h[1:, 0]
    return {name: np.stack(arrays) for name, arrays in found.items()}


# -- activations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", runnable_tiers(NUMPY))
def test_activations_of_a_language_model_are_what_the_reference_tier_saves(tier):
    model, ids = language(tier=tier), tokens()
    expected = by_reference(model.lstm, model.embedding.params["weight"][ids])
    found = activations(model, ids)
    assert set(found) == set(QUANTITIES)
    for name in QUANTITIES:
        assert found[name].shape == (2, 12, 4)
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-14)


@pytest.mark.parametrize("tier", runnable_tiers(NUMPY))
def test_activations_of_a_forecaster_are_what_the_reference_tier_saves(tier):
    model, series = forecaster(tier=tier), values()
    expected = by_reference(model.lstm, model.features(series[:, None, :])[:, 0])
    found = activations(model, series)
    for name in QUANTITIES:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-14)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_activations_of_an_lstm_fit_its_outputs_and_each_other(bidirectional, batch_first):
    lstm = LSTM(3, 4, 2, bidirectional=bidirectional, batch_first=batch_first, backend="numpy", dtype="float64")
    x = np.random.default_rng(1).normal(size=(9, 3))
    a = activations(lstm, x)
    y, (h, c), _ = lstm.forward(x[None] if batch_first else x[:, None])
    top = np.concatenate(list(a["h"][-lstm.num_directions :]), axis=1)
    np.testing.assert_array_equal(top, y[0] if batch_first else y[:, 0])
    for place in range(len(h)):
        end = 0 if bidirectional and place % 2 else -1
        np.testing.assert_array_equal(a["h"][place, end], h[place, 0])
        np.testing.assert_array_equal(a["c"][place, end], c[place, 0])
        order = slice(None, None, -1) if bidirectional and place % 2 else slice(None)
        one = {name: a[name][place, order] for name in QUANTITIES}
        before = np.concatenate([np.zeros((1, 4)), one["c"][:-1]])
        np.testing.assert_allclose(one["c"], one["f"] * before + one["i"] * one["g"], rtol=0, atol=1e-14)
        np.testing.assert_allclose(one["h"], one["o"] * np.tanh(one["c"]), rtol=0, atol=1e-14)


OPTIONS = {
    "bias": False, "proj_size": 3, "peepholes": True, "coupled": True, "hard_sigmoid": True, "clip": 0.5,
    "cell_clip": 0.2, "layer_norm": True, "zoneout_h": 0.2, "zoneout_c": 0.3, "residual": True, "learn_state": True,
    "heads": 2,
}  # fmt: skip


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("option", OPTIONS)
def test_activations_of_the_family_fit_its_outputs(option, bidirectional):
    options = {option: OPTIONS[option], "bidirectional": bidirectional, "cells": True}
    lstm = LSTM(4, 4, 2, backend="numpy", dtype="float64", seed=1, **options)
    x = np.random.default_rng(1).normal(size=(9, 4))
    a = activations(lstm, x)
    (y, cells), (h, c), _ = lstm.forward(x[:, None])
    top = np.concatenate(list(a["h"][-lstm.num_directions :]), axis=1)
    if option == "residual":
        top = top + np.concatenate(list(a["h"][: lstm.num_directions]), axis=1)  # what the layer below hands up
    np.testing.assert_allclose(top, y[:, 0], rtol=0, atol=1e-15)
    np.testing.assert_array_equal(np.concatenate(list(a["c"][-lstm.num_directions :]), axis=1), cells[:, 0])
    for place in range(len(h)):
        end = 0 if bidirectional and place % 2 else -1
        np.testing.assert_array_equal(a["h"][place, end], h[place, 0])
        np.testing.assert_array_equal(a["c"][place, end], c[place, 0])
    if option == "coupled":
        np.testing.assert_array_equal(a["f"], 1 - a["i"])


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_sequence_that_runs_piece_by_piece_comes_back_in_order(bidirectional):
    lstm = LSTM(1, 2, 2, bidirectional=bidirectional, backend="numpy", dtype="float64")
    x = np.random.default_rng(2).normal(size=(17000, 1))
    assert len(segments(len(x), 1)) > 1
    a = activations(lstm, x)
    y, _, _ = lstm.forward(x[:, None], keep=False)
    np.testing.assert_array_equal(np.concatenate(list(a["h"][-lstm.num_directions :]), axis=1), y[:, 0])
    assert a["c"].shape == (2 * lstm.num_directions, 17000, 2)
    np.testing.assert_allclose(a["h"], a["o"] * np.tanh(a["c"]), rtol=0, atol=1e-14)


@pytest.mark.parametrize("tier", ["reference", "pointwise", "sequence"])
def test_cuda_tiers_save_the_same(cuda, tier):
    expected = activations(language(dtype="float32", tier="reference", hidden_size=8), tokens())
    found = activations(language(dtype="float32", tier=tier, hidden_size=8, backend=cuda), tokens())
    for name in QUANTITIES:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=2e-6)
    ours, theirs = (
        gradient_reach(language(dtype="float32", tier=t, hidden_size=8, backend=where), tokens(), reach=4)
        for t, where in (("reference", "numpy"), (tier, cuda))
    )
    for name in "hc":
        assert relative_error(theirs[name], ours[name]) < 1e-4


def test_looking_leaves_the_model_as_it_was():
    model = language()
    plan = model.lstm.plan
    activations(model, tokens())
    assert model.lstm.plan is plan
    model.lstm.sizes = replace(model.lstm.sizes, input_size=99)
    with pytest.raises(InputError, match="input_size=99"):
        activations(model, tokens())
    assert model.lstm.plan is plan


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.array([1, 2, 999]), r"tokens 1\.\.999; expected 0\.\.\d+"),
        (np.array([1, -1]), "tokens -1"),
        (np.array([1.5, 2.0]), "expected an array of whole numbers"),
        (np.zeros((2, 2), dtype=int), r"shape \(2, 2\); expected \(T\)"),
        (np.zeros(0, dtype=int), r"shape \(0,\)"),
    ],
)
def test_what_is_no_token_sequence_is_refused(data, message):
    with pytest.raises(InputError, match=message):
        activations(language(), data)


def test_other_models_are_refused():
    model = Classifier([0.0], [1.0], 2, hidden_size=3, backend="numpy")
    with pytest.raises(InputError, match="model is a Classifier; expected a LanguageModel, a Forecaster or an LSTM"):
        activations(model, values())
    with pytest.raises(InputError, match="expected a LanguageModel or a Forecaster"):
        gradient_reach(model, values())


# -- tracking ----------------------------------------------------------------------------------------------------------


FEATURES = {
    "": 'ROMEO:~  Ay me (sad, "1 (one)").~~X',
    "position in line": "01234560123456789++++++++++++++++00",
    "indentation": "00000001222222222222222222222222200",
    "position in word": "12345600012012012345012012345678001",
    "position in sentence": "123456789++++++++++++++++++++++0123",
    "line of paragraph": "00000011111111111111111111111111200",
    "bracket depth": "00000000000000011111111122221100000",
    "inside quotes": "00000000000000000000011111111100000",
    "start of line": "10000001000000000000000000000000011",
    "upper case": "11111000010000000000000000000000001",
    "upper-case line": "01111110000000000000000000000000000",
    "digits": "00000000000000000000001000000000000",
    "white space": "00000011100100100000100100000000110",
}
"""At each character of the first line (~ is a line's end): a digit, + for 10 and more."""


def test_features_say_what_was_read_so_far():
    found = text_features(FEATURES[""].replace("~", "\n"))
    assert list(found) == list(FEATURES)[1:]
    for name, array in found.items():
        assert "".join("+" if v >= 10 else str(int(v)) for v in array) == FEATURES[name], name


def test_quotes_of_two_marks_close_by_the_other_and_at_an_empty_line():
    text = '“a”b «c» "d\n\ne'
    inside = text_features(text)["inside quotes"]
    assert "".join(c for c, yes in zip(text, inside, strict=True) if yes) == '“a”«c»"d\n'


def test_a_tab_indents_to_the_next_stop():
    assert text_features(" \tx\n\t\ty")["indentation"].tolist() == [1, 4, 4, 4, 4, 8, 8]


def test_series_features():
    x = np.array([[1.0], [3.0], [2.0], [5.0], [6.0]])
    found = series_features(["x"], x, memory=2)
    assert found["value"].tolist() == [1, 3, 2, 5, 6]
    assert found["change"].tolist() == [0, 2, -1, 3, 1]
    assert found["deviation"].tolist() == [0, 1, 0, 1.5, 1.25]
    assert found["steps since a turn"].tolist() == [0, 1, 0, 0, 1]
    assert list(series_features(["x", "y"], np.hstack([x, x]), 2))[4] == "y: value"


def planted():
    """A text, and 40 cells of noise of which some track it: 7 its position in line, 11 quotes, upside down."""
    text = ('And then he said: "Come, let us go."\nShe laughed.\n"No," said she.\n\n' * 12)[:-1]
    features = text_features(text)
    rng = np.random.default_rng(3)
    cells = rng.normal(size=(len(text), 40))
    cells[:, 7] = 0.3 * features["position in line"] + 0.1 * rng.normal(size=len(text)) - 2
    cells[:, 11] = -features["inside quotes"] + 0.3 * rng.normal(size=len(text))
    cells[:, 20] = 1e6  # never changes
    return cells, features


def test_correlations_are_pearsons():
    cells, features = planted()
    found = tracking(cells, features)
    for name in ("position in line", "inside quotes", "white space"):
        expected = [np.corrcoef(cells[:, n], features[name])[0, 1] for n in range(40) if n != 20]
        np.testing.assert_allclose(np.delete(found[name], 20), expected, rtol=0, atol=1e-12)
        assert found[name][20] == 0
    assert not found["digits"].any()  # there are none in the text


def test_planted_cells_are_found():
    cells, features = planted()
    best = {rows[0].feature: rows[0] for rows in best_cells(cells, features)}
    assert (best["position in line"].cell, best["inside quotes"].cell) == (7, 11)
    assert best["position in line"].r > 0.99
    assert -1 < best["inside quotes"].r < -0.7
    assert "digits" not in best
    assert next(rows[0].feature for rows in best_cells(cells, features)) == "position in line"


def test_a_cell_that_tracks_by_chance_is_not_told_as_one_that_tracks():
    _, features = planted()
    feature = features["position in line"]
    cells = np.random.default_rng(4).normal(size=(len(feature), 500))
    half = len(feature) // 2
    cells[:half, 100] = feature[:half]
    ((row, *_),) = best_cells(cells, {"position in line": feature})
    # The cell was chosen for its first half; that is not what is reported.
    (rows,) = best_cells(cells, {"position in line": feature}, count=500)
    chosen = next(r for r in rows if r.cell == 100)
    assert chosen.chosen > 0.99
    assert abs(chosen.r) < 0.2
    assert abs(row.r) < 0.2


def test_features_of_another_length_are_refused():
    with pytest.raises(InputError, match=r"feature 'x' has shape \(3,\); expected \(T=4,\)"):
        tracking(np.zeros((4, 2)), {"x": np.zeros(3)})
    with pytest.raises(InputError, match=r"values has shape \(4,\); expected \(T, N\)"):
        tracking(np.zeros(4), {"x": np.zeros(4)})


# -- gradient reach ----------------------------------------------------------------------------------------------------


def loss_from(model, data, start, t, state):
    """The loss of step t, from the state (L, 1, H) after step `start`."""
    if isinstance(model, LanguageModel):
        logits, _ = model.logits(data[start + 1 : t + 1, None], state)
        scores = logits[-1, 0]
        return float(np.log(np.exp(scores).sum()) - scores[data[t + 1]])
    x = model.features(data[:, None, :])[start + 1 : t + 1]
    y, _, _ = model.lstm.forward(x, state, keep=False)
    prediction = model.head.forward(y[-1])[0][0]
    return float(np.mean((prediction - model.targets(data[:, None, :])[t, 0]) ** 2))


@pytest.mark.parametrize("kind", ["text", "series"])
def test_gradient_norms_are_those_of_central_differences(kind):
    model, data = (language(), tokens()) if kind == "text" else (forecaster(), values())
    found = gradient_reach(model, data, reach=5, windows=3)
    a = activations(model, data)
    assert found["distance"].tolist() == [1, 2, 3, 4, 5]
    assert found["position"].tolist() == ([5, 8, 10] if kind == "text" else [5, 10, 16])
    assert found["h"].shape == found["c"].shape == (2, 5, 3)
    for n, t in enumerate(found["position"]):
        for k in (1, 2, 5):
            for name in "hc":
                for layer in range(2):
                    state = {q: a[q][:, t - k, None, :].copy() for q in "hc"}
                    slopes = np.empty(4)
                    for cell in range(4):
                        kept, sides = state[name][layer, 0, cell], []
                        for step in (1e-5, -1e-5):
                            state[name][layer, 0, cell] = kept + step
                            sides.append(loss_from(model, data, t - k, t, (state["h"], state["c"])))
                        state[name][layer, 0, cell] = kept
                        slopes[cell] = (sides[0] - sides[1]) / 2e-5
                    assert found[name][layer, k - 1, n] == pytest.approx(np.linalg.norm(slopes), rel=1e-5, abs=1e-12)


def test_every_tier_gives_the_same_reach():
    expected = gradient_reach(language(tier="reference"), tokens(), reach=4)
    for tier in runnable_tiers(NUMPY)[1:]:
        found = gradient_reach(language(tier=tier), tokens(), reach=4)
        for name in "hc":
            assert relative_error(found[name], expected[name]) < 1e-12


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", ["text", "series"])
def test_models_of_16_bits_are_seen_too(kind, dtype):
    make, data = (language, tokens()) if kind == "text" else (forecaster, values())
    expected, found = (make(dtype=name) for name in ("float32", dtype))
    a, b = activations(expected, data), activations(found, data)
    for name in QUANTITIES:
        assert b[name].dtype == np.float32
        assert relative_error(b[name], a[name]) < (0.005 if dtype == "float16" else 0.04)
    a, b = (gradient_reach(model, data, reach=5) for model in (expected, found))
    for name in "hc":
        assert relative_error(b[name], a[name]) < (0.02 if dtype == "float16" else 0.1)


def test_reach_needs_enough_steps():
    assert gradient_reach(language(), tokens(7), reach=5)["position"].tolist() == [5]
    with pytest.raises(InputError, match=r"data has 6 steps; expected at least reach \+ 1 \+ 1 = 7"):
        gradient_reach(language(), tokens(6), reach=5)
    with pytest.raises(InputError, match="reach is 0"):
        gradient_reach(language(), tokens(), reach=0)


def test_where_a_gradient_has_faded():
    distance = np.arange(1, 6)
    assert fades(distance, np.array([1, 0.1, 0.02, 0.009, 0.001])) == 4
    assert fades(distance, np.array([1, 0.001, 0.02, 0.5, 0.001])) == 5
    assert fades(distance, np.ones(5)) is None


# -- the page ----------------------------------------------------------------------------------------------------------


def content_of(page):
    return json.loads(re.search(r'<script id="content" type="application/json">(.*?)</script>', page, re.S)[1])


def unpack(content):
    """Activations (quantity, cell, step) as the page has them."""
    raw = np.frombuffer(zlib.decompress(base64.b64decode(content["data"])), dtype=np.int8)
    raw = raw.reshape(len(QUANTITIES), len(content["cells"]), content["steps"])
    scale = [np.array(content["scale"].get(q, [1.0] * raw.shape[1]))[:, None] for q in QUANTITIES]
    return {q: raw[k] / 127 * scale[k] for k, q in enumerate(QUANTITIES)}, scale


def test_a_page_holds_the_activations():
    model, ids = language(), tokens(60)
    content = content_of(text_page(model, ids, VOCABULARY.decode(ids), "Inside", {"text": "random"}))
    assert content["cells"] == [[layer, cell] for layer in range(2) for cell in range(4)]
    found, scale = unpack(content)
    expected = activations(model, ids)
    for k, name in enumerate(QUANTITIES):
        rows = expected[name].transpose(0, 2, 1).reshape(8, 60)
        assert np.all(np.abs(found[name] - rows) <= scale[k] * 0.6 / 127), name
    assert content["text"] == VOCABULARY.decode(ids)
    assert content["facts"]["text"] == "random"
    np.testing.assert_allclose(
        np.array(content["reach"]["h"])[:, 1], np.median(gradient_reach(model, ids, 29, 64)["h"], axis=2), rtol=1e-3
    )


def test_surprise_is_the_loss_of_each_character():
    model, ids = language(), tokens(30)
    bits = report.token_bits(model, ids)
    assert bits[0] == 0
    loss, _ = model.evaluate(ids[:, None])
    assert np.mean(bits[1:]) == pytest.approx(loss / np.log(2), rel=1e-12)


def test_a_page_stays_small_and_says_which_cells_are_left_out():
    model = language(hidden_size=320, num_layers=2, embedding_size=8, dtype="float32")
    text = VOCABULARY.decode(tokens(2000))
    page = text_page(model, VOCABULARY.encode(text), text, "Large", {})
    content = content_of(page)
    assert len(page.encode()) < 5_000_000
    assert 300 < len(content["cells"]) < 640
    cells = {tuple(cell) for cell in content["cells"]}
    assert {(row["layer"], row["cell"]) for rows in content["tracked"] for row in rows} <= cells
    found, _ = unpack(content)
    expected = activations(model, VOCABULARY.encode(text))["f"]
    picked = np.array([expected[layer, :, cell] for layer, cell in content["cells"]])
    assert np.all(np.abs(found["f"] - picked) <= 0.6 / 127)


def test_a_page_needs_no_network_and_text_can_not_break_out():
    nasty = "A</script><script>B<!--C"
    vocabulary = Characters(UNKNOWN + "".join(sorted(set(nasty))))
    model = language()
    page = text_page(model, vocabulary.encode(nasty), nasty, "<b>T</b>", {"text": nasty})
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert "<!--" not in page
    assert html.escape("<b>T</b>") in page
    assert content_of(page)["text"] == nasty
    assert re.findall(r"https?://[^\"]*", page) == ["http://www.w3.org/2000/svg"]  # a name, never fetched
    assert set(re.findall(r"(?:src|href|url)\s*[=(]\s*\"?([a-z:]+|#)", page)) == {"data:", "#"}


def test_short_sequences_make_a_page():
    for steps in (1, 2, 5):
        ids = tokens(steps)
        content = content_of(text_page(language(), ids, VOCABULARY.decode(ids), "Short", {}))
        assert content["steps"] == steps
        assert content["reach"] is None
        content = content_of(series_page(forecaster(), values(steps), ["a", "b"], "Short", {}, first=3))
        assert (content["first"], content["reach"]) == (3, None)
        assert [s["name"] for s in content["series"]] == ["a", "b"]


def test_a_diverged_model_is_refused():
    model = language()
    model.lstm.params["weight_ih_l0"][0, 0] = np.nan
    with pytest.raises(InputError, match="not finite"):
        text_page(model, tokens(), VOCABULARY.decode(tokens()), "", {})


# -- the command -------------------------------------------------------------------------------------------------------

TEXT = 'ROMEO:\n  Ay me! "Sad hours seem long."\n\nBENVOLIO:\n  What sadness (tell me) lengthens these hours?\n\n' * 8


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A folder with a text run, a series run, and their data."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "play.txt").write_text(TEXT)
    rows = "\n".join(f"{a:.3f},{b:.3f}" for a, b in values(120))
    (tmp_path / "series.csv").write_text("a,b\n" + rows + "\n")
    for folder, model, data, more in (
        ("t", language(dtype="float32"), "play.txt", {"vocabulary": CHARACTERS, "step": 12}),
        ("s", forecaster(dtype="float32"), "series.csv", {"columns": ["a", "b"], "step": 7}),
    ):
        options = {"data": data, "validation": 0.5, "length": 24, "batch": 2}
        about = description_of(model, options=options, fingerprint=fingerprint(data), **more)
        content = pack(to_torch_names(model.params, model.backend), about)
        (tmp_path / folder).mkdir()
        save(tmp_path / folder, "model.safetensors", content, about["step"], keep=1)
    return tmp_path


def test_inspect_of_the_held_out_text(run, capsys):
    assert main(["inspect", "t", "--length", "100", "--start", "10"]) == 0
    assert "wrote t/inspect.html (0.1 MB)" in capsys.readouterr().out
    content = content_of((run / "t" / "inspect.html").read_text())
    cut = len(TEXT) - len(TEXT) // 2
    assert content["text"] == TEXT[cut + 10 : cut + 110]
    assert (content["title"], content["first"]) == ("Inside t", 10)
    assert content["facts"]["trained"] == "12 steps"


def test_inspect_of_other_text(run, capsys):
    (run / "other.txt").write_text("Other text")
    assert main(["inspect", "t", "--data", "other.txt", "--out", "a.html"]) == 0
    assert content_of((run / "a.html").read_text())["text"] == "Other text"
    assert main(["inspect", "t/model.safetensors", "--text", "Given", "--out", "b.html"]) == 0
    assert content_of((run / "b.html").read_text())["text"] == "Given"
    capsys.readouterr()


def test_inspect_of_a_series(run, capsys):
    assert main(["inspect", "s", "--length", "50"]) == 0
    content = content_of((run / "s" / "inspect.html").read_text())
    assert (content["kind"], content["steps"], content["first"]) == ("series", 50, 70)
    np.testing.assert_allclose(content["series"][1]["values"], values(120)[70:, 1], atol=0.01)
    assert main(["inspect", "s", "--start", "5", "--length", "40"]) == 0
    assert content_of((run / "s" / "inspect.html").read_text())["first"] == 5
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing"], "checkpoint missing does not exist"),
        (["t", "--text", ""], "--text is empty"),
        (["t", "--text", "caf\u00e9 \u20ac"], "--text has characters that the model never saw: '\u00e9', '\u20ac'"),
        (["t", "--text", "a" + UNKNOWN], "never saw"),
        (["t", "--data", "foreign.txt"], "foreign.txt has characters that the model never saw: '\u00df'"),
        (["t", "--data", "missing.txt"], "text missing.txt does not exist"),
        (["t", "--data", "empty.txt"], "text empty.txt is empty"),
        (["t", "--data", "binary.txt"], "binary.txt is not UTF-8 text"),
        (["t", "--data", "a.txt", "--text", "b"], "not allowed with"),
        (["t", "--start", "100000"], "--start is 100000; play.txt has no character there"),
        (["t", "--start", "-1"], "--start is -1; expected at least 0"),
        (["t", "--length", "0"], "0 is not at least 1"),
        (["t", "--length", "1000000"], "expected at most 20000"),
        (["t", "--out", "folder"], "--out folder is a folder"),
        (["t", "--out", "nowhere/a.html"], "does not exist"),
        (["s", "--text", "a"], "--text is for language models"),
        (["s", "--data", "play.txt"], "play.txt"),
        (["s", "--start", "120"], "--start is 120; series.csv has 120 steps"),
        (["k"], "is of kind 'classify'; expected one of text, series"),
        (["t", "--backend", "cuda"], "cuda"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(run, capsys, arguments, message):
    (run / "folder").mkdir()
    (run / "foreign.txt").write_text("Stra\u00dfe")
    (run / "empty.txt").write_text("")
    (run / "binary.txt").write_bytes(b"\xff\xfe\x00")
    model = Classifier([0.0], [1.0], 2, hidden_size=3, backend="numpy")
    save_model(run / "k" / "model.safetensors", model, description_of(model))
    try:
        status = main(["inspect", *arguments])
    except SystemExit as left:
        status = left.code
    error = capsys.readouterr().err
    assert status == 2
    assert message in error
    assert error.count("\n") == 1
    assert not (run / "t" / "inspect.html").exists()


def test_part_of_a_file_is_read_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("gpu_lstm.data.text.BLOCK", 7)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.txt").write_text("abcdefghijklm\u00e4nop")
    (tmp_path / "a" / "2.txt").write_text("QRSTUVW")
    whole = "abcdefghijklm\u00e4nopQRSTUVW"
    for start in range(0, 30, 3):
        for length in (1, 6, 20, 99):
            assert read_part(tmp_path / "a", start, length) == whole[start : start + length]


def test_the_page_draws_itself_in_a_browser(run):
    for kind in "ts":
        assert main(["inspect", kind, "--length", "90"]) == 0
    pages = [str(run / kind / "inspect.html") for kind in "ts"]
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-m", "benchmarks.open_page", *pages]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    if "skipped" in result.stdout:
        pytest.skip(result.stdout.strip())
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("opens without an error, every chart is drawn") == 2


def test_the_page_names_the_options_of_the_family():
    model = LanguageModel(5, 3, 4, lstm={"peepholes": True, "zoneout_h": 0.1}, backend="numpy")
    page = text_page(model, np.arange(30) % 5, "abcde" * 6, "Inside", {})
    assert content_of(page)["options"] == {"peepholes": True, "zoneout_h": 0.1}
