"""The numbers and pictures of ``lstm.md`` and ``bptt.md``, computed by the project's own code.

    python docs/learn/make.py            # write them
    python docs/learn/make.py --check    # exit status 1 if a page or a picture is not what the code gives

Marks in the text say what goes where; what is between them is replaced:

    <!-- n: NAME -->0.4321<!-- /n -->          one number, see `numbers`
    <!-- made: NAME --> ... <!-- /made -->     a block, see `blocks`
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gpu_lstm import teaching
from gpu_lstm.recurrence import reference

HERE = Path(__file__).resolve().parent
PAGES = [HERE / "lstm.md", HERE / "bptt.md"]

GATES = "ifgo"
W = {"i": 2.0, "f": 0.5, "g": 1.5, "o": 0.5}
U = {"i": 0.5, "f": -0.5, "g": 0.8, "o": 1.0}
B = {"i": -0.5, "f": 1.5, "g": 0.2, "o": 0.1}
X = (1.0, 0.3, -0.6, 0.1)
TARGET = 0.9
RATE = 0.5
WALKED = 2
"""The step that is walked through forward; backward, it is the last one and the one before it."""


class Example:
    """One unit, one input, four steps: forward and backward through the teaching layer, in float64 on NumPy.

    Attributes
    ----------
    i, f, g, o, c, h, x : list of float
        By step; index 0 is the start.
    dh, dc, dz : lists
        dL/dh and dL/dc of each step, all that arrives there; dL/dz of each gate by its letter.
    dw, du, db : dict of str to float
        Gradients by gate.
    """

    def __init__(self) -> None:
        self.layer = layer(W, U, B)
        for x in X:
            self.layer.forward([[x]])
        self.loss = loss(self.layer)
        error = self.layer.h_list[-1] - TARGET
        self.layer.backward([[X[-1]]], error, teaching.IdentityActivator())
        one = self.layer
        self.i, self.f, self.g, self.o = (floats(v) for v in (one.i_list, one.f_list, one.ct_list, one.o_list))
        self.c, self.h, self.x = floats(one.c_list), floats(one.h_list), floats(one.x_list)
        self.dh, self.dc = floats(one.delta_h_list), floats(one.delta_c_list)
        deltas = (one.delta_i_list, one.delta_f_list, one.delta_ct_list, one.delta_o_list)
        self.dz = {gate: floats(delta) for gate, delta in zip(GATES, deltas, strict=True)}
        names = dict(zip(GATES, teaching.GATES, strict=True))
        self.dw, self.du, self.db = (
            {gate: float(getattr(one, pattern.format(name))[0, 0]) for gate, name in names.items()}
            for pattern in ("W{}x_grad", "W{}h_grad", "b{}_grad")
        )

    def z(self, gate: str, t: int) -> float:
        """Pre-activation of a gate in step t."""
        return W[gate] * self.x[t] + U[gate] * self.h[t - 1] + B[gate]


def layer(w: dict[str, float], u: dict[str, float], b: dict[str, float]) -> teaching.LstmLayer:
    """The example's layer with these weights."""
    made = teaching.LstmLayer(1, 1, RATE, backend="numpy", dtype="float64")
    for gate, name in zip(GATES, teaching.GATES, strict=True):
        for part, values in ((f"W{name}x", w), (f"W{name}h", u), (f"b{name}", b)):
            setattr(made, part, np.array([[values[gate]]]))
    return made


def loss(one: teaching.LstmLayer) -> float:
    """Half the squared error of the last h."""
    return float((one.h_list[-1][0, 0] - TARGET) ** 2 / 2)


def loss_with(w: dict[str, float], u: dict[str, float] = U, b: dict[str, float] = B) -> float:
    """The loss of the example with other weights."""
    one = layer(w, u, b)
    for x in X:
        one.forward([[x]])
    return loss(one)


def floats(column: list[Any]) -> list[float]:
    """Numbers of a history of (1, 1) arrays."""
    return [float(v[0, 0]) for v in column]


def n(value: float) -> str:
    """A number as it stands in the page: four digits after the point, a real minus, never -0."""
    text = f"{value:.4f}"
    return (text[1:] if float(text) == 0 and text[0] == "-" else text).replace("-", "−")


def s(value: float) -> str:
    """A given number: as short as it was given."""
    return f"{value:g}".replace("-", "−")


def p(value: str) -> str:
    """A number inside a product: negative ones in parentheses."""
    return f"({value})" if value.startswith("−") else value


def numbers(e: Example) -> dict[str, str]:
    """Numbers in running text."""
    last = len(X)
    along_c = e.f[last] * e.f[last - 1] * e.f[last - 2]
    after = [{gate: old[gate] - RATE * d[gate] for gate in GATES} for old, d in ((W, e.dw), (U, e.du), (B, e.db))]
    return {
        "loss": n(e.loss),
        "h": n(e.h[last]),
        "dh": n(e.dh[last]),
        "f product": n(along_c),
        "loss after": n(loss_with(*after)),
        "target": s(TARGET),
        "rate": s(RATE),
        **{function.__name__: link(function) for function in (reference.cell_forward, reference.cell_backward)},
    }


def blocks(e: Example) -> dict[str, Callable[[], str]]:
    """Blocks on lines of their own."""
    last = len(X)
    return {
        "example": given,
        "forward step": lambda: fenced(forward_step(e, WALKED)),
        "all steps": lambda: all_steps(e),
        "backward last": lambda: fenced(backward_step(e, last)),
        "backward before": lambda: fenced(backward_step(e, last - 1)),
        "errors": lambda: errors(e),
        "sums": lambda: fenced(sums(e)),
        "check": lambda: fenced(check(e)),
        "code": code,
    }


def fenced(lines: list[str]) -> str:
    """Lines as they are."""
    return "\n".join(["```text", *lines, "```"])


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, numbers to the right."""
    lines = [head, ["---:"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def given() -> str:
    """Weights and inputs."""
    rows = [[f"**{gate}**", s(W[gate]), s(U[gate]), s(B[gate])] for gate in GATES]
    steps = ", ".join(s(x) for x in X)
    return (
        table(["gate", "w (times x)", "u (times h before)", "b"], rows)
        + f"\n\nInputs x of the {len(X)} steps: {steps}. Wanted: h = {s(TARGET)} after the last one. Start: h = c = 0."
    )


def forward_step(e: Example, t: int) -> list[str]:
    """One step forward, line by line."""
    i, f, g, o, c, before = e.i[t], e.f[t], e.g[t], e.o[t], e.c[t], e.c[t - 1]
    weighted = []
    for gate in GATES:
        products = f"{s(W[gate])}·{p(s(e.x[t]))} + {p(s(U[gate]))}·{p(n(e.h[t - 1]))} + {p(s(B[gate]))}"
        weighted.append((f"z_{gate} = w x + u h_before + b", products, n(e.z(gate, t))))
    squashed = [
        f"{gate} = {name + f'(z_{gate})':<12}  = {n(value):>7}    {meaning}"
        for gate, name, value, meaning in (
            ("i", "sigmoid", i, "how much of the new is let in"),
            ("f", "sigmoid", f, "how much of the old is kept"),
            ("g", "tanh", g, "the new"),
            ("o", "sigmoid", o, "how much is shown"),
        )
    ]
    tanh_c = float(np.tanh(c))
    return [
        f"given  x = {s(e.x[t])}   h_before = {n(e.h[t - 1])}   c_before = {n(before)}",
        "",
        *aligned(weighted),
        "",
        *squashed,
        "",
        f"c = f c_before + i g  =  {n(f)}·{p(n(before))} + {n(i)}·{p(n(g))}",
        f"                      =  {n(f * before)} + {p(n(i * g))}  =  {n(c)}",
        f"h = o tanh(c)         =  {n(o)}·tanh({n(c)})",
        f"                      =  {n(o)}·{p(n(tanh_c))}  =  {n(e.h[t])}",
    ]


def aligned(rows: list[tuple[str, str, str]]) -> list[str]:
    """Lines ``what  =  with numbers  =  result``, the equals signs below one another."""
    first, second = (max(len(row[part]) for row in rows) for part in (0, 1))
    return [f"{what:<{first}}  =  {numbers_:<{second}}  = {result:>7}" for what, numbers_, result in rows]


def all_steps(e: Example) -> str:
    """Table of the forward pass."""
    rows = [
        [str(t), s(e.x[t]), *(n(v[t]) for v in (e.i, e.f, e.g, e.o)), f"**{n(e.c[t])}**", f"**{n(e.h[t])}**"]
        for t in range(1, len(X) + 1)
    ]
    return table(["step", "x", "i", "f", "g", "o", "c", "h"], rows)


def backward_step(e: Example, t: int) -> list[str]:
    """One step backward, line by line."""
    i, f, g, o, c, before = e.i[t], e.f[t], e.g[t], e.o[t], e.c[t], e.c[t - 1]
    tanh_c, dh, dc = float(np.tanh(c)), e.dh[t], e.dc[t]
    last = t == len(X)
    arriving = 0.0 if last else e.dc[t + 1] * e.f[t + 1]
    do, di, df, dg = dh * tanh_c, dc * g, dc * before, dc * i
    from_where = (
        ("h − target, from the loss", "nothing: c of the last step feeds only its own h")
        if last
        else (f"from step {t + 1}, along h", f"from step {t + 1}, along c")
    )
    weighted = " + ".join(f"{p(n(e.dz[gate][t]))}·{p(s(U[gate]))}" for gate in GATES)
    return [
        f"arrives  dh = {n(dh):>7}   {from_where[0]}",
        f"         dc = {n(arriving):>7}   {from_where[1]}",
        "",
        "c feeds h too, so dc gets its part of dh:",
        f"dc + dh o (1 − tanh(c)²)  =  {n(arriving)} + {p(n(dh))}·{n(o)}·(1 − {p(n(tanh_c))}²)",
        f"                          =  {n(dc)}   this is dc from here on",
        "",
        *aligned(
            [
                ("do = dh tanh(c)", f"{p(n(dh))}·{p(n(tanh_c))}", n(do)),
                ("di = dc g", f"{p(n(dc))}·{p(n(g))}", n(di)),
                ("df = dc c_before", f"{p(n(dc))}·{p(n(before))}", n(df)),
                ("dg = dc i", f"{p(n(dc))}·{p(n(i))}", n(dg)),
            ]
        ),
        "",
        *aligned(
            [
                ("dz_i = di i (1 − i)", f"{p(n(di))}·{n(i)}·{n(1 - i)}", n(e.dz["i"][t])),
                ("dz_f = df f (1 − f)", f"{p(n(df))}·{n(f)}·{n(1 - f)}", n(e.dz["f"][t])),
                ("dz_g = dg (1 − g²)", f"{p(n(dg))}·{n(1 - g * g)}", n(e.dz["g"][t])),
                ("dz_o = do o (1 − o)", f"{p(n(do))}·{n(o)}·{n(1 - o)}", n(e.dz["o"][t])),
            ]
        ),
        "",
        f"to step {t - 1}, along h:",
        "dh_before = u_i dz_i + u_f dz_f + u_g dz_g + u_o dz_o",
        f"          = {weighted}  =  {n(e.dh[t - 1])}",
        f"to step {t - 1}, along c:",
        f"dc_before = dc f = {p(n(dc))}·{n(f)}  =  {n(dc * f)}",
    ]


def errors(e: Example) -> str:
    """Table of the backward pass, in the order in which it runs."""
    rows = [
        [str(t), n(e.dh[t]), n(e.dc[t]), *(n(e.dz[gate][t]) for gate in GATES), n(e.f[t])] for t in range(len(X), 0, -1)
    ]
    return table(["step", "dh", "dc", "dz_i", "dz_f", "dz_g", "dz_o", "f"], rows)


def sums(e: Example) -> list[str]:
    """Gradients of one gate's three weights as sums over the steps."""
    steps = range(1, len(X) + 1)
    dz = e.dz["i"]
    return [
        "dw_i = Σ dz_i x         =  " + " + ".join(f"{p(n(dz[t]))}·{p(s(e.x[t]))}" for t in steps),
        f"                        =  {n(e.dw['i'])}",
        "du_i = Σ dz_i h_before  =  " + " + ".join(f"{p(n(dz[t]))}·{p(n(e.h[t - 1]))}" for t in steps),
        f"                        =  {n(e.du['i'])}",
        "db_i = Σ dz_i           =  " + " + ".join(p(n(dz[t])) for t in steps),
        f"                        =  {n(e.db['i'])}",
    ]


def check(e: Example) -> list[str]:
    """The gradient of one weight by central differences."""
    step = 1e-5
    up, down = loss_with(W | {"i": W["i"] + step}), loss_with(W | {"i": W["i"] - step})
    return [
        f"L(w_i + 0.00001)  =  {up:.10f}",
        f"L(w_i − 0.00001)  =  {down:.10f}",
        f"difference / 0.00002   =  {(up - down) / (2 * step):.7f}".replace("-", "−"),
        f"dw_i by BPTT           =  {e.dw['i']:.7f}".replace("-", "−"),
    ]


def link(function: Callable[..., Any]) -> str:
    """A link to a function of the reference tier."""
    lines, start = inspect.getsourcelines(function)
    return f"[`{function.__name__}`](../../gpu_lstm/recurrence/reference.py#L{start}-L{start + len(lines) - 1})"


def code() -> str:
    """Where each equation is in the code."""
    rows = [
        [
            "the loop over the steps: z += h_before W_hh^T, where z was X W_ih^T + b of all steps",
            link(reference.forward),
        ],
        ["i, f, g, o; c = f c_before + i g; h = o tanh(c)", link(reference.cell_forward)],
        ["dc += ..., di, df, dg, do, the four dz, dc_before = dc f", link(reference.cell_backward)],
        ["the loop from the last step to the first; dh_before = dz W_hh", link(reference.backward)],
    ]
    return "\n".join(["| what | where |", "| --- | --- |", *("| " + " | ".join(row) + " |" for row in rows)])


# -- pictures ----------------------------------------------------------------------------------------------------------

INK, SOFT, BLUE, RED, GREEN, PAPER = "#1f2328", "#59636e", "#0072b2", "#b34700", "#00785a", "#ffffff"
"""Blue for c, red for h, green for gates: told apart by all kinds of colour vision, and named beside."""


class Picture:
    """An SVG, built line by line, so that the same numbers give the same bytes everywhere."""

    def __init__(self, width: int, height: int, about: str):
        heads = "".join(
            f'<marker id="{color[1:]}" viewBox="0 0 12 12" refX="1" refY="6" markerWidth="12" markerHeight="12" '
            f'orient="auto" markerUnits="userSpaceOnUse"><path d="M0 0L12 6L0 12z" fill="{color}"/></marker>'
            for color in (INK, SOFT, BLUE, RED, GREEN)
        )
        self.lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'font-family="Helvetica, Arial, sans-serif" font-size="15" role="img">',
            f"<title>{about}</title>",
            f"<defs>{heads}</defs>",
            f'<rect width="{width}" height="{height}" rx="10" fill="{PAPER}"/>',
        ]

    def text(self, x: float, y: float, text: str, color: str = INK, anchor: str = "middle", **more: Any) -> None:
        """Text at a point of its baseline."""
        extra = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in more.items())
        self.lines.append(f'<text x="{x:g}" y="{y:g}" fill="{color}" text-anchor="{anchor}"{extra}>{text}</text>')

    def line(self, points: list[tuple[float, float]], color: str, width: float = 2, arrow: bool = True) -> None:
        """A line through points, horizontal or vertical in the end, with an arrow head that ends at the last one."""
        if arrow:
            (x0, y0), (x1, y1) = points[-2:]
            points = [*points[:-1], (x1 - 11 * float(np.sign(x1 - x0)), y1 - 11 * float(np.sign(y1 - y0)))]
        path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
        head = f' marker-end="url(#{color[1:]})"' if arrow else ""
        self.lines.append(f'<path d="{path}" fill="none" stroke="{color}" stroke-width="{width:g}"{head}/>')

    def box(self, x: float, y: float, width: float, height: float, color: str, fill: str = PAPER) -> None:
        """A box with its middle at x, y."""
        self.lines.append(
            f'<rect x="{x - width / 2:g}" y="{y - height / 2:g}" width="{width:g}" height="{height:g}" rx="7" '
            f'fill="{fill}" stroke="{color}" stroke-width="2"/>'
        )

    def sign(self, x: float, y: float, sign: str, color: str = INK) -> None:
        """A circle with an operation in it."""
        self.lines.append(f'<circle cx="{x:g}" cy="{y:g}" r="15" fill="{PAPER}" stroke="{color}" stroke-width="2"/>')
        self.text(x, y + 6, sign, color, font_size=19)

    def dot(self, x: float, y: float, color: str) -> None:
        """Where a line branches."""
        self.lines.append(f'<circle cx="{x:g}" cy="{y:g}" r="4" fill="{color}"/>')

    def svg(self) -> str:
        """The whole file."""
        return "\n".join([*self.lines, "</svg>", ""])


def cell_picture(e: Example, t: int) -> str:
    """One step of the cell with its numbers."""
    c = Picture(900, 480, f"One LSTM cell in step {t}, with the number on every wire")
    top, low, feed = 80, 250, 430  # the lanes of c, of h, and of what the gates read
    at = {"f": 230, "i": 380, "g": 520, "o": 690}
    # c lane
    c.line([(40, top), (at["f"] - 16, top)], BLUE, 3)
    c.line([(at["f"] + 15, top), (450 - 16, top)], BLUE, 3)
    c.line([(450 + 15, top), (860, top)], BLUE, 3)
    c.text(40, top - 34, "c before", BLUE, "start", font_weight="bold")
    c.text(40, top - 14, n(e.c[t - 1]), BLUE, "start")
    c.text(860, top - 34, "c", BLUE, "end", font_weight="bold")
    c.text(860, top - 14, n(e.c[t]), BLUE, "end")
    c.text(340, top - 14, f"f · c before = {n(e.f[t] * e.c[t - 1])}", BLUE)
    # gates
    gate_y = 350
    for gate, values, name in (("f", e.f, "sigmoid"), ("i", e.i, "sigmoid"), ("g", e.g, "tanh"), ("o", e.o, "sigmoid")):
        x = at[gate]
        c.line([(x, feed), (x, gate_y + 33)], SOFT)
        c.dot(x, feed, SOFT)
        c.box(x, gate_y, 124, 62, GREEN, "#eef8f4")
        c.text(x, gate_y - 7, f'<tspan font-weight="bold">{gate}</tspan> = {name}(z)', GREEN)
        c.text(x, gate_y + 16, n(values[t]), GREEN, font_weight="bold")
        c.text(x + 8, gate_y + 54, f"z = {n(e.z(gate, t))}", SOFT, "start", font_size=13)
    c.line([(at["f"], gate_y - 31), (at["f"], top + 17)], GREEN)
    product = 190
    c.line([(at["i"], gate_y - 31), (at["i"], product), (450 - 17, product)], GREEN)
    c.line([(at["g"], gate_y - 31), (at["g"], product), (450 + 17, product)], GREEN)
    c.line([(450, product - 15), (450, top + 17)], GREEN)
    c.text(462, 140, f"i · g = {n(e.i[t] * e.g[t])}", GREEN, "start")
    # output
    c.dot(at["o"], top, BLUE)
    c.line([(at["o"], top), (at["o"], 119)], BLUE)
    c.box(at["o"], 138, 70, 34, BLUE, "#eef5fa")
    c.text(at["o"], 143, "tanh", BLUE)
    c.line([(at["o"], 155), (at["o"], low - 17)], BLUE)
    c.text(at["o"] + 12, 200, n(float(np.tanh(e.c[t]))), BLUE, "start")
    c.line([(at["o"], gate_y - 31), (at["o"], low + 17)], GREEN)
    c.line([(at["o"] + 15, low), (860, low)], RED, 3)
    c.text(860, low - 34, "h", RED, "end", font_weight="bold")
    c.text(860, low - 14, n(e.h[t]), RED, "end")
    # inputs
    c.line([(40, feed), (at["o"], feed)], SOFT, 2, arrow=False)
    c.text(40, feed - 62, "h before", RED, "start", font_weight="bold")
    c.text(40, feed - 42, n(e.h[t - 1]), RED, "start")
    c.text(40, feed - 14, f'<tspan font-weight="bold">x</tspan> {s(e.x[t])}', INK, "start")
    c.text(40, feed + 30, "z = w x + u h_before + b, each gate with its own w, u, b", SOFT, "start", font_size=13)
    c.sign(at["f"], top, "×")
    c.sign(450, top, "+")
    c.sign(450, product, "×")
    c.sign(at["o"], low, "×")
    return c.svg()


def flow_picture(e: Example) -> str:
    """Gradients of h and c on their way back through all steps."""
    steps, pitch, half, first = len(X), 240, 78, 170
    last = first + pitch * (steps - 1)
    top, middle, low = 110, 190, 270  # the lanes of c, of the gates, of h
    c = Picture(last + half + 112, 468, "Gradients of h and c flow back from the loss through all steps")
    most = max(*map(abs, e.dh), *(abs(e.dc[t] * e.f[t]) for t in range(1, steps + 1)))

    def width(value: float) -> float:
        return round(1.5 + 5 * abs(value) / most, 1)

    c.text(
        (first + last) / 2,
        448,
        "times x, times h before, times 1, summed over the steps: dw, du, db of each gate",
        SOFT,
    )
    c.text(last + half + 92, 28, "← time runs backward; the wider an arrow, the larger its number", SOFT, "end")
    for t in range(1, steps + 1):
        x = first + pitch * (t - 1)
        c.box(x, middle, 2 * half, low - top + 84, SOFT, "#f6f8fa")
        c.text(x, top - 54, f"step {t}", INK, font_weight="bold")
        c.text(x + 8, top - 16, f"dc {n(e.dc[t])}", BLUE)
        c.text(x + 14, low + 28, f"dh {n(e.dh[t])}", RED)
        # along c: what tanh sends up joins, then the forget gate multiplies
        if t < steps:
            c.line([(x + half, top), (x + 40, top)], BLUE, width(e.dc[t + 1] * e.f[t + 1]), arrow=False)
        c.line([(x + 40, top), (x - 50, top)], BLUE, width(e.dc[t]), arrow=False)
        # along h: to c through tanh, to the output gate, and out of all gates to h before
        c.line([(x + half, low), (x + 40, low)], RED, width(e.dh[t]), arrow=False)
        c.line([(x + 40, low), (x + 40, top + 4)], RED, 2)
        c.dot(x + 40, middle, RED)
        c.line([(x + 40, middle), (x + 14, middle)], RED, 2)
        c.text(x + 47, middle - 20, "tanh", RED, "start", font_size=12)
        c.line([(x - 20, top), (x - 20, middle - 18)], BLUE, 2)
        c.box(x - 20, middle, 66, 34, GREEN, "#eef8f4")
        c.text(x - 20, middle + 5, "gates", GREEN)
        c.line([(x - 20, middle + 17), (x - 20, low), (x - half - 3, low)], GREEN, width(e.dh[t - 1]), arrow=False)
        c.sign(x - 56, top, "×")
        c.text(x - 72, top + 32, f"f {n(e.f[t])}", GREEN, "start", font_size=13)
        c.line([(x - 20, low + 43), (x - 20, low + 68)], GREEN, 2)
        for row, gate in enumerate(GATES):
            c.text(x - 20, low + 86 + 20 * row, f"dz_{gate} {n(e.dz[gate][t])}", GREEN, font_size=14)
        # to the step before
        end = x - pitch + half if t > 1 else x - half - 74
        c.line([(x - 72, top), (end, top)], BLUE, width(e.dc[t] * e.f[t]))
        c.line([(x - half, low), (end, low)], RED, width(e.dh[t - 1]))
        for y, value, color in ((top, e.dc[t] * e.f[t], BLUE), (low, e.dh[t - 1], RED)):
            c.text((x - half + end) / 2, y - 16, n(value), color)
    c.line([(last + half + 84, low), (last + half, low)], RED, width(e.dh[steps]))
    c.text(last + half + 46, low - 16, n(e.dh[steps]), RED)
    c.text(last + half + 46, low + 28, "loss", INK, font_weight="bold")
    c.text(first - half - 84, top + 28, "c of the start", BLUE, "start", font_size=12)
    c.text(first - half - 84, low + 22, "h of the start", RED, "start", font_size=12)
    return c.svg()


def pictures(e: Example) -> dict[str, str]:
    """SVG files by name."""
    return {"cell.svg": cell_picture(e, WALKED), "flow.svg": flow_picture(e)}


def made(text: str, e: Example) -> str:
    """The text with everything between marks replaced by what the code gives.

    Raises
    ------
    KeyError
        A mark names nothing that is made.
    """
    values, parts = numbers(e), blocks(e)
    text = re.sub(r"(<!-- n: (.+?) -->).*?(<!-- /n -->)", lambda m: m[1] + values[m[2]] + m[3], text)
    return re.sub(
        r"(<!-- made: (.+?) -->\n)(?:.*?\n)??(<!-- /made -->)",
        lambda m: m[1] + parts[m[2]]() + "\n" + m[3],
        text,
        flags=re.S,
    )


def main() -> int:
    """Write the pages and their pictures, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if something differs")
    options = parser.parse_args()
    example = Example()
    wanted = {page: made(page.read_text(encoding="utf-8"), example) for page in PAGES}
    wanted |= {HERE / name: svg for name, svg in pictures(example).items()}
    wrong = 0
    for path, text in wanted.items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        wrong += 1
        if options.check:
            print(f"{path} is not what the code gives (python docs/learn/make.py mends it)", file=sys.stderr)
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path}")
    return 1 if wrong and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
