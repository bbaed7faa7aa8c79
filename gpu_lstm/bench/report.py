"""A page of charts from a record: one file, no network. Python decides what is drawn, ``page.html`` draws it.

A chart is a dictionary: ``shape`` (line, dots, stack, bars), ``title``, ``note``, axis labels, and its data.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpu_lstm.bench import limits
from gpu_lstm.bench.grid import Size, line
from gpu_lstm.bench.method import ratio
from gpu_lstm.bench.record import as_table
from gpu_lstm.page import fill_template

Chart = dict[str, Any]
Record = dict[str, Any]
TEMPLATE = Path(__file__).with_name("page.html")
AXES = {"H": "hidden size", "B": "batch", "T": "steps"}
KINDS = {"training": "Training step", "inference": "Inference"}


def page(record: Record) -> str:
    """The page of one record."""
    groups = [group for backend in backends(record) for group in groups_of(record, backend)]
    title, about = f"gpu_lstm bench: {record['device']}", facts(record)
    return page_of(title, busy(record), headline(record), groups, about, as_table(record))


def page_of(
    title: str,
    warning: str,
    tiles: list[dict[str, str]],
    groups: list[dict[str, Any]],
    about: dict[str, str],
    rows: list[list[str]],
) -> str:
    """Put a page's contents into the template."""
    content = {
        "title": title,
        "warning": warning,
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
    trained = of(points, "training")
    kinds = [(of(points, kind), title) for kind, title in KINDS.items()]

    def group(title: str, about: str, charts: list[Chart | None]) -> dict[str, Any]:
        return {"title": title + where, "about": about, "charts": [chart for chart in charts if chart]}

    rate = (
        "Operations of the matrix products per second, higher is better. Dashed: a large matrix product on the same "
        "machine in the same run."
    )
    return [
        *(group(f"{title}: speed", rate, [speed(some, axis) for axis in AXES]) for some, title in kinds),
        group(
            "Against the others",
            "How many times as long the other takes as our fastest tier; right of 1 we are faster. Each dot is a size, "
            "the bar their geometric mean.",
            [ratios(some, title) for some, title in kinds],
        ),
        group(
            "Against the machine",
            "What part of the machine's own product rate is reached, and how far above the least possible time "
            "(operations, bytes and caches at their measured rates) a step is.",
            [chart(some, title) for some, title in kinds for chart in (shares, floors)],
        ),
        group(
            "Where time and memory go",
            "Our fastest tier, phase by phase, clipping and Adam included; and the peak of one training step.",
            [by_phase(trained), peak_memory(trained)],
        ),
        group(
            "How cost grows",
            "Time of a training step, both axes logarithmic; the number is the measured slope: 1 means twice as large "
            "costs twice as much.",
            [growth(trained, axis) for axis in AXES],
        ),
    ]


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


def timed(points: list[Any]) -> dict[str, list[tuple[Any, Any]]]:
    """Points and what was timed there, by side: ours first, then in the order of the record."""
    found: dict[str, list[tuple[Any, Any]]] = {}
    for point in points:
        for name, side in point["sides"].items():
            if "median" in side:
                found.setdefault(name, []).append((point, side))
    return found


def milliseconds(side: dict[str, Any]) -> str:
    """Median and quartiles of a side for people."""
    return f"{side['median'] * 1e3:.3g} ms ({side['low'] * 1e3:.3g} to {side['high'] * 1e3:.3g})"


def mark(point: Any, name: str, text: str, /, **values: Any) -> dict[str, Any]:
    """What is drawn of a side at a point, and what is told of it."""
    return {"tip": f"{name}, {label(point['size'])}\n{text}", **values}


# -- charts ------------------------------------------------------------------------------------------------------------


def speed(points: list[Any], axis: str) -> Chart | None:
    """GFLOP/s along an axis."""
    chosen = along(points, axis)
    if len(chosen) < 2:
        return None
    series = [
        {"name": name, "marks": [
            mark(
                point, name, f"{side['gflops']:.4g} GFLOP/s, {milliseconds(side)}",
                x=point["size"]["TBDH".index(axis)], y=side["gflops"],
            )
            for point, side in some
        ]}
        for name, some in timed(chosen).items()
    ]  # fmt: skip
    limit = statistics.median(point["product_flops"] for point in chosen) / 1e9
    return {
        **{"shape": "line", "title": f"by {AXES[axis]}", "note": fixed(chosen, axis), "x": AXES[axis], "y": "GFLOP/s"},
        **{"series": series, "limit": {"y": limit, "text": f"large product {limit:.0f}"}},
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
    rows: dict[str, dict[str, Any]] = {}
    for point in points:
        ours = point["sides"].get(point["ours"] or "")
        for name, side in point["sides"].items():
            if ours is None or name == point["ours"]:
                continue
            row = rows.setdefault(name, {"name": name, "marks": [], "remarks": set()})
            if "remark" in side:
                row["remarks"].add(side["remark"].split(":")[0])
            if "median" in side:
                found = ratio(ours["seconds"], side["seconds"])
                text = f"{found['ratio']:.2f} times as long ({found['low']:.2f} to {found['high']:.2f})"
                text += f"\n{name} {milliseconds(side)}\n{point['ours']} {milliseconds(ours)}"
                values = {"x": found["ratio"], "low": found["low"], "high": found["high"], "name": name}
                row["marks"].append(mark(point, name, text, **values))
    for row in rows.values():
        row["remark"] = ", ".join(sorted(row.pop("remarks")))
        if row["marks"]:
            row["mean"] = statistics.geometric_mean(one["x"] for one in row["marks"])
            row["text"] = f"{row['mean']:.2f}"
    if not any(row["marks"] for row in rows.values()):
        return None
    return dots(title, "times as long as ours", list(rows.values()), log=True, one=1)


def dots(title: str, x: str, rows: list[dict[str, Any]], **more: Any) -> Chart | None:
    """A chart of dots, a row a name."""
    return {"shape": "dots", "title": title, "x": x, **more, "rows": rows} if rows else None


def by_size(points: list[Any], value: str, tip: str, factor: float = 1.0) -> list[dict[str, Any]]:
    """Rows of a dot chart: a row for each size, a dot for each side."""
    return [
        {
            "name": label(point["size"]),
            "marks": [
                mark(point, name, f"{tip.format(side[value])}\n{milliseconds(side)}", x=side[value] * factor, name=name)
                for name, side in point["sides"].items()
                if "median" in side
            ],
        }
        for point in points
    ]


def shares(points: list[Any], title: str) -> Chart | None:
    """Share of the machine's own product rate, a row for each size."""
    rows = by_size(points, "share_of_product", "{:.0%} of the large product's rate", 100)
    return dots(f"{title}: share of the product rate", "%", rows, **{"from": 0, "to": 100})


def floors(points: list[Any], title: str) -> Chart | None:
    """Measured time over the least possible one, a row for each size."""
    rows = by_size(points, "over_floor", "{:.2f} times the least possible time")
    return dots(f"{title}: measured over floor", "times the floor", rows, log=True, one=1)


def by_phase(points: list[Any]) -> Chart | None:
    """Shares of a training step's phases, a bar for each size."""
    rows = []
    for point in points:
        if not point.get("phases"):
            continue
        total, floor = sum(point["phases"].values()), point["floor"]
        parts = []
        for phase, seconds in point["phases"].items():
            text = f"{seconds * 1e3:.3g} ms, {seconds / total:.0%} of it"
            text += f"\nfloor {floor[phase] * 1e3:.3g} ms" if phase in floor else ""
            parts.append(mark(point, phase, text, name=phase, value=seconds / total))
        rows.append({"name": label(point["size"]), "text": f"{total * 1e3:.3g} ms", "parts": parts})
    return {"shape": "stack", "title": "Time by phase", "x": "share of the step", "rows": rows} if rows else None


def peak_memory(points: list[Any]) -> Chart | None:
    """Peak bytes of each side, a group of bars for each size, and the model's."""
    rows = []
    for point in points:
        bars = []
        for name, amount in point.get("peak_bytes", {}).items():
            if amount:
                text = f"{amount / 1e6:.2f} MB at the peak of a training step\n"
                text += f"{amount / point['model_bytes']:.2f} of what the model says of ours"
                bars.append(mark(point, name, text, name=name, value=amount / 1e6, text=f"{amount / 1e6:.1f} MB"))
        if bars:
            model = point["model_bytes"] / 1e6
            model_mark = {"value": model, "text": f"model {model:.1f} MB"}
            rows.append({"name": label(point["size"]), "bars": bars, "mark": model_mark})
    return {"shape": "bars", "title": "Peak memory of a training step", "x": "MB", "rows": rows} if rows else None


def growth(points: list[Any], axis: str) -> Chart | None:
    """Time along an axis, with the measured slope of each side."""
    chosen = along(points, axis)
    sides = {name: some for name, some in timed(chosen).items() if len(some) > 2}
    if not sides:
        return None

    def series(name: str, some: list[tuple[Any, float, str]], **more: Any) -> dict[str, Any]:
        x, y = [point["size"]["TBDH".index(axis)] for point, *_ in some], [ms for _, ms, _ in some]
        slope = f"{limits.slope(x, y):.2f}"
        marks = [
            mark(point, name, f"{text}\nslope {slope}", x=a, y=ms) for a, (point, ms, text) in zip(x, some, strict=True)
        ]
        return {"name": name, "marks": marks, "text": slope, **more}

    drawn = [
        series(name, [(point, side["median"] * 1e3, milliseconds(side)) for point, side in some])
        for name, some in sides.items()
    ]
    least = [(point, sum(point["floor"].values()) * 1e3) for point in chosen]
    drawn.append(series("floor", [(point, ms, f"{ms:.3g} ms") for point, ms in least], dashed=True))
    return {
        **{"shape": "line", "title": f"by {AXES[axis]}", "note": fixed(chosen, axis), "x": AXES[axis], "y": "ms"},
        **{"log": True, "series": drawn},
    }


def over_floor(points: list[Any]) -> float:
    """How far our fastest tier was above its floor in this run: the geometric mean."""
    found = [point["sides"][point["ours"]]["over_floor"] for point in points if point["ours"]]
    return statistics.geometric_mean(found) if found else 1.0


# -- numbers and words -------------------------------------------------------------------------------------------------


def summary(record: Record) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """How many times as long as ours each side takes, by backend and kind: the geometric mean, and of which sizes.

    Where our LSTM with 8-bit weights was measured, ``inference_int8`` has the same over that one.
    """
    found: dict[str, Any] = {}
    for backend in backends(record):
        points = [point for point in record["points"] if point["backend"] == backend]
        found[backend] = {kind: _over(of(points, kind)) for kind in KINDS}
        if eights := _over(of(points, "inference"), "int8"):
            found[backend]["inference_int8"] = eights
    return found


def _over(points: list[Any], base: str = "") -> dict[str, dict[str, float]]:
    """How many times as long as `base`, or as our fastest tier, each other side takes."""
    ratios: dict[str, list[float]] = {}
    for point in points:
        base_here = base or point.get("ours") or ""
        sides = {name: side["median"] for name, side in point.get("sides", {}).items() if "median" in side}
        for name in sides if base_here in sides else ():
            if name != base_here:
                ratios.setdefault(name, []).append(sides[name] / sides[base_here])
    return {name: spread(some) for name, some in ratios.items()}


def spread(some: list[float]) -> dict[str, float]:
    """The geometric mean of numbers, the least and the largest, and how many there are."""
    return {"mean": statistics.geometric_mean(some), "least": min(some), "most": max(some), "sizes": len(some)}


def shares_of_product(record: Record) -> dict[str, dict[str, dict[str, float]]]:
    """Part of the large product's rate of each backend, kind; ``_torch``: PyTorch's; ``_large``: H >= 256, B >= 32."""
    found: dict[str, dict[str, list[float]]] = {}
    for point in (point for point in record["points"] if point.get("ours")):
        kinds = found.setdefault(point["backend"], {})
        _, batch, _, hidden = point["size"]
        sides = {"": point["sides"][point["ours"]], "_torch": point["sides"].get("torch", {})}
        for size in ["", "_large"][: 1 + (batch >= 32 and hidden >= 256)]:
            for name, side in sides.items():
                if "share_of_product" in side:
                    kinds.setdefault(point["kind"] + size + name, []).append(side["share_of_product"])
    return {backend: {kind: spread(some) for kind, some in kinds.items()} for backend, kinds in found.items()}


def headline(record: Record) -> list[dict[str, str]]:
    """The few figures on top."""
    tiles = []
    points = [point for point in record["points"] if point.get("ours")]
    for backend, kinds in summary(record).items():
        for kind in KINDS:
            against = kinds[kind]
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


def busy(record: Record) -> str:
    """That the machine was busy with something else, and how often; empty where it was not."""
    waits = record.get("waits") or {"noisy": 0}
    if not waits["noisy"]:
        return ""
    return f"the machine was busy: {waits['noisy']} of {waits['waits']} timed steps began while something else ran"


def facts(record: Record) -> dict[str, str]:
    """Machine, versions, command, method: what a reader needs to repeat it."""
    known = {
        "date": "date", "device": "processor", "cores": "cores", "threads": "threads of each side",
        "compiled": "compiled tier",
        "system": "system", "python": "Python", "gpu_lstm": "gpu_lstm", "revision": "revision", "numpy": "NumPy",
        "torch": "PyTorch", "onnxruntime": "ONNX Runtime", "jax": "JAX", "keras": "Keras",
        "command": "command",
        "rounds": "rounds", "load_before": "load before", "ended": "ended",
    }  # fmt: skip
    found = {title: str(record[key]) for key, title in known.items() if record.get(key) not in (None, "")}
    if record.get("gpu"):
        found["GPU"] = ", ".join(f"{key} {value}" for key, value in record["gpu"].items())
    if "waits" in record:
        found["quiet machine"] = busy(record) or f"at each of {record['waits']['waits']} timed steps"
    for machine in record.get("machines", []):
        found[f"limits, {machine['backend']}"] = (
            f"product {machine['flops'] / 1e9:.0f} GFLOP/s ({machine['product']}), "
            f"copy {machine['memory'] / 1e9:.1f} GB/s, "
            f"in cache {machine['cache'] / 1e9:.0f} GB/s, last cache {machine['cache_bytes'] / 1e6:.0f} MB"
        )
    found["method"] = (
        "fresh random inputs; outputs and gradients against float64 first; untimed steps before each timed one; "
        "sides in turns; medians, quartiles as spread; device events on GPUs with the cache overwritten"
    )
    return found
