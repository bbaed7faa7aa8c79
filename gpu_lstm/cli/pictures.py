"""Pictures: the loss curve of a run, a forecast beside its history and truth."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Outlook:
    """One series, what was forecast of its last known steps, and its forecast."""

    name: str
    history: np.ndarray  # (N,): all that is known
    tested: np.ndarray | None  # (K,): its last K steps, as forecast from those before; None: they weren't
    future: np.ndarray  # (K,)
    times: np.ndarray | None  # (N + K,) datetime64, as clocks show them; None: steps are counted


def forecast(outlooks: Sequence[Outlook], path: Path, unit: str = "step") -> None:
    """Draw each series: its history, a forecast of its own last steps beside what came, and the future.

    `unit` says what times or steps are.
    """
    figure, axes = _figure(len(outlooks))
    for axis, one in zip(axes, outlooks, strict=True):
        steps, ahead = len(one.history), len(one.future)
        first, origin = max(0, steps - max(8 * ahead, 60)), steps - ahead
        when = np.arange(steps + ahead) if one.times is None else one.times
        axis.plot(when[first:steps], one.history[first:], color=INK, linewidth=1.2, label="history and truth")
        if one.tested is not None:
            joined = np.append(one.history[origin - 1], one.tested)
            made = f"step {origin}" if one.times is None else f"{written(when[[origin - 1]])[0].replace('T', ' ')}"
            axis.plot(when[origin - 1 : steps], joined, color=TWO, label=f"forecast made at {made}")
            axis.axvline(when[origin - 1], color=MUTED, linewidth=0.8, linestyle=":")
        axis.plot(when[steps - 1 :], np.append(one.history[-1], one.future), color=ONE, label="forecast of the future")
        axis.axvline(when[steps - 1], color=MUTED, linewidth=0.8, linestyle=":")
        axis.set_ylabel(as_text(one.name), parse_math=False)
        if one.times is not None:
            _date_axis(axis)
    axes[0].legend(frameon=False, fontsize="small", loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)
    axes[-1].set_xlabel(as_text(unit), parse_math=False)
    _save(figure, path)


def _date_axis(axis: Any) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator()  # type: ignore[no-untyped-call]
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]


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
