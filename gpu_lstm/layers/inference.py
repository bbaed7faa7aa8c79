"""Inference by plain LSTM layers whose tier runs one in one call: what `forward` gives, with little around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpu_lstm.backend import Array
from gpu_lstm.layers.arguments import stacked
from gpu_lstm.layers.call import State
from gpu_lstm.recurrence.inference import WHOLE

if TYPE_CHECKING:
    from gpu_lstm.layers.lstm import LSTM


def run(lstm: LSTM, x: Array, h0: Array | None, c0: Array | None) -> tuple[Array, State]:
    """Run all layers of an LSTM over x (T, B, D); h0 and c0 are those of a State, or None for zero."""
    infer, params, kept, last = WHOLE[lstm.plan.run.forward], lstm.params, lstm.kept(lstm.params, keep=False), []
    for layer, member in enumerate(lstm.members):
        weights = kept[f"weight_ih_{member.name}"], params.get(f"bias_{member.name}"), kept[f"weight_hh_{member.name}"]
        first = (None if array is None else array[layer, ...] for array in (h0, c0))
        h, c = infer(lstm.backend, x, lstm.hidden_size, *weights, *first)
        x = h[1:, ...]
        last.append((h[-1, ...], c[0, ...]))
    h, c = (stacked(lstm.backend.xp, arrays) for arrays in zip(*last, strict=True))
    return x, (h, c)
