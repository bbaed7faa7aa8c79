"""Pictures: the loss curve of a run, a forecast beside its history and truth."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from gpu_lstm.page import as_text
from gpu_lstm.training.checkpoint import write_whole

INK, MUTED, ONE, TWO = "#1f2328", "#8c959f", "#0969da", "#d1590a"


def loss_curve(log: list[dict[str, Any]], path: Path, unit: str, title: str) -> None:
    """Draw training loss and validation score over steps, as a PNG."""
    figure, axes = _figure(1)
    (axis,) = axes
    steps = np.array([line["step"] for line in log])
    losses = np.array([line["loss"] for line in log])
    axis.plot(steps, losses, color=ONE, alpha=0.25, linewidth=0.8)
    width = max(1, len(steps) // 100)
    if len(steps) >= width:
        smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
        axis.plot(steps[width - 1 :], smooth, color=ONE, label=f"training, mean of {width} steps")
    scored = [(line["step"], line["score"]) for line in log if "score" in line]
    if scored:
        axis.plot(*zip(*scored, strict=True), color=TWO, marker="o", markersize=4, label="held out")
    top = np.quantile(losses, 0.99) if len(losses) else 1.0
    best = min([score for _, score in scored] + losses.tolist())
    margin = 0.08 * (top - best) or 0.5
    axis.set_ylim(best - margin, top + margin)
    axis.set_xlabel("step")
    axis.set_ylabel(unit)
    axis.set_title(as_text(title), loc="left", color=INK, parse_math=False)
    axis.legend(frameon=False)
    _save(figure, path)


def forecast(names: list[str], history: np.ndarray, tested: np.ndarray | None, future: np.ndarray, path: Path) -> None:
    """Draw each series: its history, a forecast of its own last steps beside what came, and the future.

    History is (N, S), all that is known; `tested` (K, S) its last K steps as they were forecast from those before,
    None: they weren't.
    """
    steps, ahead = len(history), len(future)
    figure, axes = _figure(len(names))
    first, origin = max(0, steps - max(8 * ahead, 60)), steps - ahead
    for s, (axis, name) in enumerate(zip(axes, names, strict=True)):
        axis.plot(range(first, steps), history[first:, s], color=INK, linewidth=1.2, label="history and truth")
        if tested is not None:
            joined = np.concatenate([history[origin - 1 : origin, s], tested[:, s]])
            axis.plot(range(origin - 1, steps), joined, color=TWO, label=f"forecast made at step {origin}")
            axis.axvline(origin - 1, color=MUTED, linewidth=0.8, linestyle=":")
        joined = np.concatenate([history[-1:, s], future[:, s]])
        axis.plot(range(steps - 1, steps + ahead), joined, color=ONE, label="forecast of the future")
        axis.axvline(steps - 1, color=MUTED, linewidth=0.8, linestyle=":")
        axis.set_ylabel(name, parse_math=False)
        if s == 0:
            axis.legend(frameon=False, loc="upper left")
    axes[-1].set_xlabel("step")
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    write_whole(path, content.getvalue())


def _figure(rows: int) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.6 + 2.8 * rows), layout="constrained")
    axes = [figure.add_subplot(rows, 1, row + 1) for row in range(rows)]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=INK)
        axis.grid(axis="y", color="#d8dee4", linewidth=0.6)
    return figure, axes
