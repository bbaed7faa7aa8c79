"""Sequences of no steps: they end where they begin, and give nothing but their initial state's gradient."""

from typing import Any

import numpy as np
import pytest

from gpu_lstm import LSTM, InputError
from gpu_lstm.layers import Reversed, schedule
from gpu_lstm.models import Classifier
from gpu_lstm.recurrence import runnable_tiers
from tests.support import NUMPY

KINDS: dict[str, Any] = {
    "plain": {},
    "both directions": {"bidirectional": True},
    "stack": {"num_layers": 2, "bidirectional": True},
    "deep": {"num_layers": 3},
    "recompute": {"recompute": True},
    "16 bits": {"dtype": "float16"},
    "projection": {"proj_size": 2, "peepholes": True, "bidirectional": True},
    "normalised": {"layer_norm": True, "zoneout_h": 0.3, "zoneout_c": 0.2},
    "learned": {"learn_state": True, "num_layers": 2, "residual": True},
    "dropped": {"input_dropout": 0.2, "recurrent_dropout": 0.2, "weight_dropout": 0.2},
    "limited": {"coupled": True, "hard_sigmoid": True, "clip": 1.0, "cell_clip": 0.5, "heads": 2, "cells": True},
}
STEPS, BATCH = 5, 4
LENGTHS = [[3, 0, 5, 0], [0, 0, 0, 0], [0, 0, 0, 5]]


def check(layer, lengths, seed=(1,), batch=BATCH):
    """A batch with sequences of no steps against the batch without them."""
    backend, rng = layer.backend, np.random.default_rng(0)
    lengths = np.asarray(lengths)
    some, none = np.flatnonzero(lengths), np.flatnonzero(lengths == 0)
    places = layer.num_layers * layer.num_directions

    def draw(*shape):
        return rng.standard_normal(shape)

    widths = [layer.output_size, layer.hidden_size]
    state, dstate = ([draw(places, batch, size) for size in widths] for _ in range(2))
    x = draw(STEPS, batch, layer.input_size)
    dy = [draw(STEPS, batch, size * layer.num_directions) for size in widths]

    def run(columns):
        kinds = layer.dtype, layer.param_dtype
        on = [backend.asarray(a[:, columns], kind) for a, kind in zip((*state, *dstate, *dy), kinds * 3, strict=True)]
        y, (h, c), tape = layer.forward(
            backend.asarray(x[:, columns], layer.dtype), (on[0], on[1]), lengths[columns], seed
        )
        sent = (on[4], on[5]) if layer.options.cells else on[4]
        dx, (dh0, dc0), gradients = layer.backward(tape, sent, (on[2], on[3]))
        ys = y if isinstance(y, tuple) else (y,)
        return [[backend.to_numpy(a).astype(np.float64) for a in part] for part in (ys, (h, c), (dx,), (dh0, dc0))], {
            name: backend.to_numpy(gradient).astype(np.float64) for name, gradient in gradients.items()
        }

    (ys, finals, (dx,), firsts), gradients = run(np.arange(batch))
    kept = [
        backend.to_numpy(backend.asarray(a, kind))
        for a, kind in zip(state + dstate, (layer.dtype, layer.param_dtype) * 2, strict=True)
    ]
    for y in (*ys, dx):
        assert not y[:, none].any()
    for found, expected in zip((*finals, *firsts), kept, strict=True):
        np.testing.assert_allclose(found[:, none], expected[:, none].astype(np.float64), rtol=1e-6)
    for gradient in gradients.values():
        assert np.isfinite(gradient).all()
    if not some.size:
        assert not any(gradient.any() for gradient in gradients.values())
    elif not any((layer.options.zoneout_h, layer.options.input_dropout)):  # what these draw goes by place in the batch
        (ys_alone, finals_alone, dx_alone, firsts_alone), gradients_alone = run(some)
        limit = {"float64": 1e-12, "float32": 2e-5, "float16": 2e-2}[layer.dtype]
        pairs = zip((*ys, *finals, dx, *firsts), (*ys_alone, *finals_alone, *dx_alone, *firsts_alone), strict=True)
        for found, expected in pairs:
            np.testing.assert_allclose(found[:, some], expected, rtol=0, atol=limit)
        for name, gradient in gradients.items():
            np.testing.assert_allclose(gradient, gradients_alone[name], rtol=0, atol=20 * limit)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tier", runnable_tiers(NUMPY))
def test_every_tier(tier, kind, lengths):
    options = {"dtype": "float64", **KINDS[kind]}
    if not LSTM(2, 4, backend=NUMPY, **options).options.recurrent() <= LSTM(1, 1, backend=NUMPY, tier=tier).plan.takes:
        pytest.skip("that tier refuses these options")
    check(LSTM(3, 4, backend=NUMPY, tier=tier, **options), lengths)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("kind", ["plain", "both directions", "deep", "projection"])
@pytest.mark.parametrize("tier", ["pointwise", "sequence"])
def test_cuda_kernels(cuda, tier, kind, lengths):
    if tier not in runnable_tiers(cuda, 4, "float32", LSTM(2, 4, backend=NUMPY, **KINDS[kind]).options.recurrent()):
        pytest.skip("that tier refuses these options")
    check(LSTM(3, 4, backend=cuda, tier=tier, **KINDS[kind]), lengths)


def test_in_segments(monkeypatch):

    parts = lambda steps, batch, reverse=False, least=1: [(0, 2), (2, 5)][:: -1 if reverse else 1]  # noqa: E731
    monkeypatch.setattr(schedule, "segments", lambda *given, least_steps=1, **named: parts(*given[:3], **named))
    for tier in runnable_tiers(NUMPY):
        for options in ({}, {"recompute": True}, {"bidirectional": True, "peepholes": True}):
            check(LSTM(3, 4, backend=NUMPY, tier=tier, dtype="float64", **options), LENGTHS[0])


def test_read_backwards_and_batch_first():
    layer = Reversed(LSTM(3, 4, backend=NUMPY))
    x = np.ones((5, 2, 3), np.float32)
    y, (h, _), tape = layer.forward(x, lengths=[0, 2])
    assert not y[:, 0].any() and not h[0, 0].any() and y[:2, 1].all()
    assert not layer.backward(tape, np.ones_like(y))[0][:, 0].any()
    y, _, _ = LSTM(3, 4, backend=NUMPY, batch_first=True).forward(x, lengths=[0, 2, 0, 1, 2])
    assert not y[0].any() and y[1].all()


def test_a_mean_over_no_steps_is_refused():
    model = Classifier([0] * 3, [1] * 3, 2, 4, backend=NUMPY)
    for call in (lambda x, n: model.loss(x, n, np.array([0, 1])), model.logits):
        with pytest.raises(InputError, match="lengths has a 0; expected at least 1"):
            call(np.ones((5, 2, 3)), np.array([0, 2]))
