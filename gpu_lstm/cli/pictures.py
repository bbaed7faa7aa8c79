"""Pictures: the loss curve of a run, a forecast beside its history and truth."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from gpu_lstm.data.clock import written
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


def forecast(
    names: list[str],
    history: np.ndarray,
    tested: np.ndarray | None,
    future: np.ndarray,
    path: Path,
    times: np.ndarray | None = None,
    unit: str = "step",
    title: str = "",
) -> None:
    """Draw each series: its history, a forecast of its own last steps beside what came, and the future.

    History is (N, S), all that is known; `tested` (K, S) its last K steps as they were forecast from those before,
    None: they weren't. `times` (N + K,) datetime64 are of the history and the future, which are counted if not given;
    `unit` says what they are.
    """
    steps, ahead = len(history), len(future)
    figure, axes = _figure(len(names))
    first, origin = max(0, steps - max(8 * ahead, 60)), steps - ahead
    when = np.arange(steps + ahead) if times is None else times
    made = f"step {origin}" if times is None else written(when[[origin - 1]])[0]
    for s, (axis, name) in enumerate(zip(axes, names, strict=True)):
        axis.plot(when[first:steps], history[first:, s], color=INK, linewidth=1.2, label="history and truth")
        if tested is not None:
            joined = np.concatenate([history[origin - 1 : origin, s], tested[:, s]])
            axis.plot(when[origin - 1 : steps], joined, color=TWO, label=f"forecast made at {made}")
            axis.axvline(when[origin - 1], color=MUTED, linewidth=0.8, linestyle=":")
        joined = np.concatenate([history[-1:, s], future[:, s]])
        axis.plot(when[steps - 1 :], joined, color=ONE, label="forecast of the future")
        axis.axvline(when[steps - 1], color=MUTED, linewidth=0.8, linestyle=":")
        axis.set_ylabel(as_text(name), parse_math=False)
    axes[0].legend(frameon=False, fontsize="small", loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)
    if title:
        figure.suptitle(as_text(title), x=0.01, ha="left", color=INK, parse_math=False)
    if times is not None:
        _date_axes(axes)
    axes[-1].set_xlabel(as_text(unit), parse_math=False)
    _save(figure, path)


def _date_axes(axes: list[Any]) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    for axis in axes:
        locator = AutoDateLocator()
        axis.xaxis.set_major_locator(locator)
        axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))


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
