"""Pictures: the loss curve of a run, a forecast beside its history and truth."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpu_lstm.data.clock import written
from gpu_lstm.page import as_text
from gpu_lstm.training.checkpoint import write_whole

INK, MUTED, ONE, TWO = "#1f2328", "#8c959f", "#0969da", "#d1590a"


def loss_curve(log: list[dict[str, Any]], path: Path, units: tuple[str, str], title: str) -> None:
    """Draw training loss and held-out score over steps, as a PNG: in one panel where they have the same unit.

    `log` has a line a step, see `gpu_lstm.training.folder.read_log`; what isn't finite is left out.
    """
    kept = [line for line in log if math.isfinite(line.get("loss", math.nan))]
    steps, losses = (np.array([line[name] for line in kept]) for name in ("step", "loss"))
    scores = np.array([(line["step"], line["score"]) for line in log if "score" in line]).reshape(-1, 2)
    panels = 1 if units[0] == units[1] or not len(scores) else 2
    figure, axes = _figure(panels)
    first, last = axes[0], axes[-1]
    width = max(1, len(steps) // 100)
    if width > 1:
        first.plot(steps, losses, color=ONE, alpha=0.25, linewidth=0.8)
    smooth = np.convolve(losses, np.ones(width) / width, mode="valid") if len(steps) else losses
    first.plot(steps[width - 1 :], smooth, color=ONE, label="training" + f", mean of {width} steps" * (width > 1))
    if len(scores):
        last.plot(*scores.T, color=TWO, marker="o", markersize=4, label="held out")
    _limit(first, losses, scores[:, 1] if panels == 1 else losses[:0])
    if panels == 2:
        _limit(last, losses[:0], scores[:, 1])
        last.sharex(first)
    first.set_title(as_text(title if len(title) <= 40 else title[:39] + "…"), loc="left", color=INK, parse_math=False)
    for axis, unit in zip(axes, units, strict=False):
        axis.set_ylabel(unit)
        # Above the axis, where it covers no data.
        axis.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2, ncols=2)
    last.set_xlabel("training step")
    _save(figure, path)


def _limit(axis: Any, losses: np.ndarray, scores: np.ndarray) -> None:
    """Have an axis show all scores, and all losses but the first ones, beside which all others look alike."""
    tops = [np.quantile(losses, 0.99)] if len(losses) else []
    shown = np.concatenate([losses, scores])
    if len(shown):
        low, high = shown.min(), max([*tops, *scores.tolist()])
        margin = max(0.08 * (high - low), 0.01 * abs(high)) or 0.5  # what is all but the same looks so
        axis.set_ylim(low - margin, high + margin)


@dataclass(frozen=True)
class Outlook:
    """One series, what was forecast of its last known steps, and its forecast."""

    name: str
    history: np.ndarray  # (N,): all that is known
    tested: np.ndarray | None  # (K,): its last K steps, as forecast from those before; None: they weren't
    future: np.ndarray  # (K,)
    times: np.ndarray | None  # (N + K,) datetime64, as clocks show them; None: steps are counted
    quantiles: np.ndarray | None = None  # (at most K, Q) of the future, ascending in Q


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
        for k in range(0 if one.quantiles is None else one.quantiles.shape[1] // 2):
            assert one.quantiles is not None
            bounds = [np.append(one.history[-1], one.quantiles[:, side]) for side in (k, -1 - k)]
            span = when[steps - 1 : steps + len(one.quantiles)]
            axis.fill_between(span, *bounds, color=ONE, alpha=0.18, linewidth=0, label=None if k else "its quantiles")
        axis.plot(when[steps - 1 :], np.append(one.history[-1], one.future), color=ONE, label="forecast of the future")
        axis.axvline(when[steps - 1], color=MUTED, linewidth=0.8, linestyle=":")
        axis.set_ylabel(as_text(one.name), parse_math=False)
        if one.times is not None:
            _date_axis(axis)
    axes[0].legend(frameon=False, fontsize="small", loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0.2)
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
