"""Two records against each other: how many times faster, and whether that is more than the noise."""

from __future__ import annotations

import statistics
from typing import Any

from gpu_lstm.bench import report
from gpu_lstm.bench.method import ratio

Line = dict[str, Any]


def compare(a: dict[str, Any], b: dict[str, Any]) -> list[Line]:
    """A line for each side at each point that both records have.

    It has the point; ``side``; ``ratio``, A's time over B's, above 1 where B is faster; ``low`` and ``high``, the same
    between the averted and the facing quartiles; ``changed``: the middle halves of the two don't overlap, so that the
    change is more than the noise.
    """
    earlier = {key(point): point for point in a["points"]}
    lines = []
    for point in b["points"]:
        for name, side in point.get("sides", {}).items():
            before = earlier.get(key(point), {}).get("sides", {}).get(name, {})
            if "median" not in side or "median" not in before:
                continue
            found = ratio(side["seconds"], before["seconds"])
            where = {part: point[part] for part in ("backend", "kind", "dtype", "size")}
            lines.append({**where, "side": name, **found, "changed": found["low"] > 1 or found["high"] < 1})
    return lines


def key(point: dict[str, Any]) -> tuple[Any, ...]:
    """What makes two points the same."""
    return point["backend"], point["kind"], point["dtype"], tuple(point["size"])


def page(a: dict[str, Any], b: dict[str, Any], names: tuple[str, str]) -> str:
    """A page of the ratios: a row for each side, a dot for each size, pale where the change may be noise."""
    lines = compare(a, b)
    charts = []
    for kind, title in report.KINDS.items():
        rows: dict[str, list[dict[str, Any]]] = {}
        for one in (one for one in lines if one["kind"] == kind):
            text = f"{names[1]} is {one['ratio']:.2f} times as fast ({one['low']:.2f} to {one['high']:.2f})\n"
            text += "more than the noise" if one["changed"] else "within the noise"
            values = {"x": one["ratio"], "low": one["low"], "high": one["high"], "name": one["side"]}
            rows.setdefault(one["side"], []).append(
                report.mark(one, one["side"], text, **values, pale=not one["changed"])
            )
        means = {side: statistics.geometric_mean(mark["x"] for mark in marks) for side, marks in rows.items()}
        drawn = [
            {"name": side, "marks": rows[side], "mean": mean, "text": f"{mean:.2f}"} for side, mean in means.items()
        ]
        charts.append(report.dots(title, f"times as fast as {names[0]}", drawn, log=True, one=1))
    group = {
        "title": f"{names[1]} against {names[0]}",
        "about": "Right of 1, the second record is faster. Full dots changed by more than the noise (the middle halves "
        "of the two don't overlap), pale ones did not. The bar is the geometric mean.",
        "charts": [chart for chart in charts if chart],
    }
    changed = sum(line["changed"] for line in lines)
    tiles = [{"value": f"{changed} of {len(lines)}", "text": "changed by more than the noise"}]
    tiles += [
        {"value": f"{value:.2f} x", "text": f"the large product's rate on {backend}: the machines themselves"}
        for backend, value in machines(a, b).items()
    ]
    for kind, title in report.KINDS.items():
        ratios = [line["ratio"] for line in lines if line["kind"] == kind and line["side"] == fastest(b)]
        if ratios:
            mean = statistics.geometric_mean(ratios)
            tiles.append({"value": f"{mean:.2f} x", "text": f"{fastest(b)}, {title.lower()}, geometric mean"})
    about = {
        f"{part}: {title}": value
        for part, one in zip(names, (a, b), strict=True)
        for title, value in report.facts(one).items()
    }
    table = [["backend", "what", "T", "B", "D", "H", "side", "times as fast", "from", "to", "more than the noise"]]
    for line in lines:
        where = [line["backend"], line["kind"], *map(str, line["size"]), line["side"]]
        numbers = [f"{line[part]:.3f}" for part in ("ratio", "low", "high")]
        table.append([*where, *numbers, "yes" if line["changed"] else "no"])
    warning = "; ".join(
        f"{name}: {said}" for name, one in zip(names, (a, b), strict=True) if (said := report.busy(one))
    )
    return report.page_of(f"gpu_lstm bench: {names[1]} against {names[0]}", warning, tiles, [group], about, table)


def machines(a: dict[str, Any], b: dict[str, Any]) -> dict[str, float]:
    """How many times as fast the large product was in B, by backend: what changed before a line of ours was run."""
    before = {(one["backend"], one["dtype"]): one["flops"] for one in a.get("machines", [])}
    return {
        one["backend"]: one["flops"] / before[one["backend"], one["dtype"]]
        for one in b.get("machines", [])
        if (one["backend"], one["dtype"]) in before
    }


def fastest(record: dict[str, Any]) -> str | None:
    """Our fastest tier in a record."""
    return next((point["ours"] for point in record["points"] if point.get("ours")), None)
