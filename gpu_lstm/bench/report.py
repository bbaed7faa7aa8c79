"""A page of charts from a record: one file, no network. Python decides what is drawn, ``page.html`` draws it.

A chart is a dictionary: ``shape`` (line, dots, stack, bars), ``title``, ``note``, axis labels, and its data.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpu_lstm.bench import limits
from gpu_lstm.bench.grid import Size, line
from gpu_lstm.bench.method import ratio
from gpu_lstm.page import fill_template

Chart = dict[str, Any]
Record = dict[str, Any]
TEMPLATE = Path(__file__).with_name("page.html")
AXES = {"H": "hidden size", "B": "batch", "T": "steps"}
KINDS = {"training": "Training step", "inference": "Inference"}


def page(record: Record) -> str:
    """The page of one record."""
    groups = [group for backend in backends(record) for group in groups_of(record, backend)]
    return fill(f"gpu_lstm bench: {record['device']}", headline(record), groups, facts(record), table(record))


def fill(
    title: str, tiles: list[dict[str, str]], groups: list[dict[str, Any]], about: dict[str, str], rows: list[list[str]]
) -> str:
    """Put a page's contents into the template."""
    content = {
        "title": title,
        "tiles": tiles,
        "groups": [group for group in groups if group["charts"]],
        "facts": about,
        "table": rows,
    }
    return fill_template(TEMPLATE, title, content)


def backends(record: Record) -> list[str]:
    """Backends that have points, in order."""
    return list(dict.fromkeys(point["backend"] for point in record["points"] if "sides" in point))


def groups_of(record: Record, backend: str) -> list[dict[str, Any]]:
    """All groups of charts of one backend."""
    points = [point for point in record["points"] if point["backend"] == backend and "sides" in point]
    where = f" on {backend}" if len(backends(record)) > 1 else ""
    trained = [point for point in points if point["kind"] == "training"]
    groups = [
        {
            "title": f"{title}: speed{where}",
            "about": "Operations of the matrix products per second, higher is better. "
            "Dashed: a large matrix product on the same machine in the same run.",
            "charts": [c for axis in AXES if (c := speed(of(points, kind), axis))],
        }
        for kind, title in KINDS.items()
    ]
    groups += [
        {
            "title": f"Against the others{where}",
            "about": "How many times as long the other takes as our fastest tier; right of 1 we are faster. "
            "Each dot is a size, the bar their geometric mean.",
            "charts": [c for kind, title in KINDS.items() if (c := ratios(of(points, kind), title))],
        },
        {
            "title": f"Against the machine{where}",
            "about": "What part of the machine's own product rate is reached, and how far above the least possible "
            "time (operations, bytes and caches at their measured rates) a step is.",
            "charts": [
                c
                for kind, title in KINDS.items()
                for c in (shares(of(points, kind), title), floors(of(points, kind), title))
                if c
            ],
        },
        {
            "title": f"Where time and memory go{where}",
            "about": "Our fastest tier, phase by phase, clipping and Adam included; and the peak of one training step.",
            "charts": [c for c in (by_phase(trained), peak_memory(trained)) if c],
        },
        {
            "title": f"How cost grows{where}",
            "about": "Time of a training step, both axes logarithmic; the number is the measured slope: 1 means twice "
            "as large costs twice as much.",
            "charts": [c for axis in AXES if (c := growth(trained, axis))],
        },
    ]
    return groups


def of(points: list[Any], kind: str) -> list[Any]:
    """Points of one kind."""
    return [point for point in points if point["kind"] == kind]


def label(size: Iterable[int]) -> str:
    """A size for people."""
    t, b, d, h = size
    return f"T{t} B{b} H{h}" + ("" if d == h else f" D{d}")


def along(points: list[Any], axis: str) -> list[Any]:
    """The points that differ in one axis alone."""
    by_size: dict[Size, Any] = {tuple(point["size"]): point for point in points}
    return [by_size[size] for size in line(list(by_size), axis)]


def side_names(points: list[Any]) -> list[str]:
    """Sides that were timed at some point, ours first, then in the order of the record."""
    timed = [name for point in points for name, side in point["sides"].items() if "median" in side]
    return list(dict.fromkeys(timed))


def milliseconds(side: dict[str, Any]) -> str:
    """Median and quartiles of a side for people."""
    return f"{side['median'] * 1e3:.3g} ms ({side['low'] * 1e3:.3g} to {side['high'] * 1e3:.3g})"


# -- charts ------------------------------------------------------------------------------------------------------------


def speed(points: list[Any], axis: str) -> Chart | None:
    """GFLOP/s along an axis."""
    chosen = along(points, axis)
    if len(chosen) < 2:
        return None
    series = []
    for name in side_names(chosen):
        marks = [
            {
                "x": point["size"]["TBDH".index(axis)],
                "y": side["gflops"],
                "tip": f"{name}, {label(point['size'])}\n{side['gflops']:.4g} GFLOP/s, {milliseconds(side)}",
            }
            for point in chosen
            if "median" in (side := point["sides"].get(name, {}))
        ]
        series.append({"name": name, "marks": marks})
    limit = statistics.median(point["product_flops"] for point in chosen) / 1e9
    return {
        "shape": "line",
        "title": f"by {AXES[axis]}",
        "note": fixed(chosen, axis),
        "x": AXES[axis],
        "y": "GFLOP/s",
        "series": series,
        "limit": {"y": limit, "text": f"large product {limit:.0f}"},
    }


def fixed(chosen: list[Any], axis: str) -> str:
    """What the other axes are."""
    t, b, d, h = chosen[0]["size"]
    parts = {"T": f"T = {t}", "B": f"B = {b}", "H": f"D = H = {h}" if d == h else f"D = {d}, H = {h}"}
    if axis == "H":
        parts["H"] = "D = H" if d == h else f"D = {d}"
    else:
        del parts[axis]
    return ", ".join(parts.values())


def ratios(points: list[Any], title: str) -> Chart | None:
    """One row for each other side: how many times as long it takes as our fastest tier, at each size."""
    rows = []
    for name in dict.fromkeys(name for point in points for name in point["sides"]):
        marks, remarks = [], set()
        for point in points:
            side, ours = point["sides"].get(name), point["sides"].get(point["ours"] or "")
            if side is None or ours is None or name == point["ours"]:
                continue
            if "remark" in side:
                remarks.add(side["remark"].split(":")[0])
            if "median" not in side or "median" not in ours:
                continue
            found = ratio(ours["seconds"], side["seconds"])
            marks.append(
                {
                    "x": found["ratio"],
                    "low": found["low"],
                    "high": found["high"],
                    "name": name,
                    "tip": f"{name}, {label(point['size'])}\n{found['ratio']:.2f} times as long "
                    f"({found['low']:.2f} to {found['high']:.2f})\n{name} {milliseconds(side)}\n"
                    f"{point['ours']} {milliseconds(ours)}",
                }
            )
        if marks or remarks:
            row: dict[str, Any] = {"name": name, "marks": marks, "remark": ", ".join(sorted(remarks))}
            if marks:
                row["mean"] = statistics.geometric_mean(mark["x"] for mark in marks)
                row["text"] = f"{row['mean']:.2f}"
            rows.append(row)
    if not any(row["marks"] for row in rows):
        return None
    return {"shape": "dots", "title": title, "x": "times as long as ours", "log": True, "one": 1, "rows": rows}


def by_size(points: list[Any], value: str, tip: str, factor: float = 1.0) -> list[dict[str, Any]]:
    """Rows of a dot chart: a row for each size, a dot for each side."""
    return [
        {
            "name": label(point["size"]),
            "marks": [
                {
                    "x": side[value] * factor,
                    "name": name,
                    "tip": f"{name}, {label(point['size'])}\n{tip.format(side[value])}\n{milliseconds(side)}",
                }
                for name, side in point["sides"].items()
                if "median" in side
            ],
        }
        for point in points
    ]


def shares(points: list[Any], title: str) -> Chart | None:
    """Share of the machine's own product rate, a row for each size."""
    rows = by_size(points, "share_of_product", "{:.0%} of the large product's rate", 100)
    chart = {"shape": "dots", "title": f"{title}: share of the product rate", "x": "%", "from": 0, "to": 100}
    return {**chart, "rows": rows} if rows else None


def floors(points: list[Any], title: str) -> Chart | None:
    """Measured time over the least possible one, a row for each size."""
    rows = by_size(points, "over_floor", "{:.2f} times the least possible time")
    chart = {"shape": "dots", "title": f"{title}: measured over floor", "x": "times the floor", "log": True, "one": 1}
    return {**chart, "rows": rows} if rows else None


def by_phase(points: list[Any]) -> Chart | None:
    """Shares of a training step's phases, a bar for each size."""
    rows = []
    for point in points:
        if not point.get("phases"):
            continue
        total = sum(point["phases"].values())
        floor = point["floor"]
        rows.append(
            {
                "name": label(point["size"]),
                "text": f"{total * 1e3:.3g} ms",
                "parts": [
                    {
                        "name": phase,
                        "value": seconds / total,
                        "tip": f"{phase}, {label(point['size'])}\n{seconds * 1e3:.3g} ms, {seconds / total:.0%} of it"
                        + (f"\nfloor {floor[phase] * 1e3:.3g} ms" if phase in floor else ""),
                    }
                    for phase, seconds in point["phases"].items()
                ],
            }
        )
    return {"shape": "stack", "title": "Time by phase", "x": "share of the step", "rows": rows} if rows else None


def peak_memory(points: list[Any]) -> Chart | None:
    """Peak bytes of each side, a group of bars for each size, and the model's."""
    rows = []
    for point in points:
        measured = {name: amount for name, amount in point.get("peak_bytes", {}).items() if amount}
        if not measured:
            continue
        model = point["model_bytes"]
        rows.append(
            {
                "name": label(point["size"]),
                "bars": [
                    {
                        "name": name,
                        "value": amount / 1e6,
                        "text": f"{amount / 1e6:.1f} MB",
                        "tip": f"{name}, {label(point['size'])}\n{amount / 1e6:.2f} MB at the peak of a training step\n"
                        f"{amount / model:.2f} of what the model says of ours",
                    }
                    for name, amount in measured.items()
                ],
                "mark": {"value": model / 1e6, "text": f"model {model / 1e6:.1f} MB"},
            }
        )
    return {"shape": "bars", "title": "Peak memory of a training step", "x": "MB", "rows": rows} if rows else None


def growth(points: list[Any], axis: str) -> Chart | None:
    """Time along an axis, with the measured slope of each side."""
    chosen = along(points, axis)
    if len(chosen) < 3:
        return None
    series: list[dict[str, Any]] = []
    for name in side_names(chosen):
        timed = [point for point in chosen if "median" in point["sides"].get(name, {})]
        if len(timed) < 3:
            continue
        x = [point["size"]["TBDH".index(axis)] for point in timed]
        y = [point["sides"][name]["median"] * 1e3 for point in timed]
        steepness = limits.slope(x, y)
        marks = [
            {
                "x": a,
                "y": b,
                "tip": f"{name}, {label(point['size'])}\n{milliseconds(point['sides'][name])}\nslope {steepness:.2f}",
            }
            for a, b, point in zip(x, y, timed, strict=True)
        ]
        series.append({"name": name, "marks": marks, "text": f"{steepness:.2f}"})
    if not series:
        return None
    x = [point["size"]["TBDH".index(axis)] for point in chosen]
    y = [sum(point["floor"].values()) * 1e3 for point in chosen]
    marks = [{"x": a, "y": b, "tip": f"floor at {axis} = {a}\n{b:.3g} ms"} for a, b in zip(x, y, strict=True)]
    series.append({"name": "floor", "marks": marks, "text": f"{limits.slope(x, y):.2f}", "dashed": True})
    return {
        "shape": "line",
        "title": f"by {AXES[axis]}",
        "note": fixed(chosen, axis),
        "x": AXES[axis],
        "y": "ms",
        "log": True,
        "series": series,
    }


def over_floor(points: list[Any]) -> float:
    """How far our fastest tier was above its floor in this run: the geometric mean."""
    found = [point["sides"][point["ours"]]["over_floor"] for point in points if point["ours"]]
    return statistics.geometric_mean(found) if found else 1.0


# -- numbers and words -------------------------------------------------------------------------------------------------


def summary(record: Record) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """How many times as long as ours each side takes, by backend and kind: the geometric mean, and of which sizes."""
    found: dict[str, Any] = {}
    for backend in backends(record):
        for kind in KINDS:
            ratios: dict[str, list[float]] = {}
            for point in of(record["points"], kind):
                if point["backend"] == backend and point.get("ours"):
                    ours = point["sides"][point["ours"]]["median"]
                    for name, side in point["sides"].items():
                        if name != point["ours"] and "median" in side:
                            ratios.setdefault(name, []).append(side["median"] / ours)
            found.setdefault(backend, {})[kind] = {
                name: {
                    "mean": statistics.geometric_mean(some), "least": min(some), "most": max(some), "sizes": len(some)
                }
                for name, some in ratios.items()
            }  # fmt: skip
    return found


def headline(record: Record) -> list[dict[str, str]]:
    """The few figures on top."""
    tiles = []
    points = [point for point in record["points"] if point.get("ours")]
    for backend, kinds in summary(record).items():
        for kind, against in kinds.items():
            some = [point for point in of(points, kind) if point["backend"] == backend]
            what = f"{KINDS[kind].lower()}" + f" on {backend}" * (len(backends(record)) > 1)
            if torch := against.get("torch"):
                text = f"torch.nn.LSTM's speed, {what}: geometric mean of {torch['sizes']} sizes, "
                tiles.append({"value": f"{torch['mean']:.2f} x", "text": f"{text}{torch['least']:.2f} at the least"})
            if some:
                mean = statistics.geometric_mean(point["sides"][point["ours"]]["share_of_product"] for point in some)
                tiles.append({"value": f"{mean:.0%}", "text": f"of a large product's rate, {what}, geometric mean"})
    if trained := of(points, "training"):
        text = "the least possible time, training steps, geometric mean"
        tiles.append({"value": f"{over_floor(trained):.2f} x", "text": text})
    return tiles


def facts(record: Record) -> dict[str, str]:
    """Machine, versions, command, method: what a reader needs to repeat it."""
    known = {
        "date": "date", "device": "processor", "cores": "cores", "threads": "threads of each side",
        "compiled": "compiled tier",
        "system": "system", "python": "Python", "gpu_lstm": "gpu_lstm", "revision": "revision", "numpy": "NumPy",
        "torch": "PyTorch", "onnxruntime": "ONNX Runtime", "jax": "JAX", "keras": "Keras", "thinc": "thinc",
        "command": "command",
        "rounds": "rounds", "load_before": "load before", "ended": "ended",
    }  # fmt: skip
    found = {title: str(record[key]) for key, title in known.items() if record.get(key) not in (None, "")}
    if record.get("gpu"):
        found["GPU"] = ", ".join(f"{key} {value}" for key, value in record["gpu"].items())
    if "waits" in record:
        found["quiet machine"] = (
            f"{record['waits']['noisy']} of {record['waits']['waits']} timed steps began on a busy one"
        )
    for machine in record.get("machines", []):
        found[f"limits, {machine['backend']}"] = (
            f"product {machine['flops'] / 1e9:.0f} GFLOP/s ({machine['product']}), "
            f"copy {machine['memory'] / 1e9:.1f} GB/s, "
            f"in cache {machine['cache'] / 1e9:.0f} GB/s, last cache {machine['cache_bytes'] / 1e6:.0f} MB"
        )
    found["method"] = (
        "fresh random inputs; outputs and gradients against float64 first; an untimed step before each timed one; "
        "sides in turns; medians, quartiles as spread; device events on GPUs with the cache overwritten"
    )
    return found


def table(record: Record) -> list[list[str]]:
    """Every side at every point, for reading and copying."""
    rows = [
        [
            "backend", "what", "T", "B", "D", "H", "side", "ms", "quartiles", "GFLOP/s", "of product", "over floor",
            "error",
        ]
    ]  # fmt: skip
    for point in record["points"]:
        where = [point["backend"], point["kind"], *map(str, point["size"])]
        if "skipped" in point:
            rows.append([*where, "", point["skipped"], *[""] * 5])
        for name, side in point.get("sides", {}).items():
            error = "" if side.get("error") is None or not math.isfinite(side["error"]) else f"{side['error']:.1e}"
            if "median" not in side:
                rows.append([*where, name, side["remark"], "", "", "", "", error])
                continue
            rows.append(
                [
                    *where, name, f"{side['median'] * 1e3:.4g}", f"{side['low'] * 1e3:.4g} to {side['high'] * 1e3:.4g}",
                    f"{side['gflops']:.1f}", f"{side['share_of_product']:.0%}", f"{side['over_floor']:.2f}", error,
                ]
            )  # fmt: skip
    return rows
