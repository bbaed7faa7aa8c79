"""The documentation site: `sphinx-build -W docs site`, then open site/index.html; no network is needed."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(HERE))

from sphinx.pycode import ModuleAnalyzer  # noqa: E402

import gpu_lstm  # noqa: E402
import gpu_lstm.losses  # noqa: E402

project = "gpu_lstm"
author = copyright = "the gpu_lstm authors"
version = release = gpu_lstm.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
highlight_language = "none"
default_role = "py:obj"

myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings say types, with shapes
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

# Backticks in a docstring hold a name of ours, an argument or code: only full names have to lead somewhere.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!gpu_lstm\.).*")]

html_theme = "furo"
html_title = "gpu_lstm"
html_static_path = ["style.css"]
html_css_files = ["style.css"]
html_copy_source = html_show_sourcelink = html_show_sphinx = False
pygments_dark_style = "github-dark"


INCLUDED = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "understand/contributing.md",
    "README.md": "index.md",
    "benchmarks/README.md": "method.md",
    "benchmarks/results/README.md": "records.md",
    "kernels/cpu/README.md": "understand/kernels_cpu.md",
    "kernels/cuda/README.md": "understand/kernels_cuda.md",
}
"""Pages of the repository that lie elsewhere, by the page of the site that takes them in."""


def place(text: str, target: str, anchor: str) -> str:
    """Return the Markdown of a link to a file of the repository, as the site has it: what isn't there is text alone."""
    page = INCLUDED.get(target, target.removeprefix("docs/") if target.startswith("docs/") else "")
    if page:
        return f"[{text}](/{page}{'#' + anchor if anchor else ''})"
    if target.startswith("gpu_lstm/") and target.endswith(".py"):
        name = target.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        line = re.match(r"L(\d+)", anchor)
        if line:
            tree = ast.parse((ROOT / target).read_text(encoding="utf-8"))
            found = [one.name for one in tree.body if isinstance(one, ast.FunctionDef) and one.lineno == int(line[1])]
            name = ".".join([name, *found])
        return f"{{py:obj}}`{text.strip('`')} <{name}>`"
    return text


def linked(text: str, folder: Path) -> str:
    """Return a page whose links between files of the repository lead to pages of the site."""

    def one(link: re.Match[str]) -> str:
        target, _, anchor = link[2].partition("#")
        if not target or ":" in target:
            return link[0]
        path = Path(os.path.normpath(folder / target)).relative_to(ROOT).as_posix()
        return place(link[1], path, anchor)

    return re.sub(r"(?<!!)\[([^\]\[]+)\]\(([^)\s]+)\)", one, text)


LEFT_OUT = "set_fit_request, set_partial_fit_request, set_predict_request, set_score_request"
"""Methods that scikit-learn makes, for its metadata routing."""


PUBLIC: list[str] = sorted(vars(gpu_lstm)["__all__"], key=str.lower)


def short(room: str, name: str) -> str:
    """Return a name as users import it: from gpu_lstm where it is there."""
    module = importlib.import_module(f"gpu_lstm.{room}" if room else "gpu_lstm")
    of_all = name in PUBLIC and getattr(gpu_lstm, name) is getattr(module, name)
    return f"gpu_lstm.{name}" if of_all else f"gpu_lstm.{room}.{name}"


def names_of(room: str) -> list[str]:
    """Return the public names of a module: those it lists, else the classes and functions that it defines."""
    module = importlib.import_module(f"gpu_lstm.{room}")
    defined = [
        name
        for name, thing in vars(module).items()
        if name[0] != "_" and getattr(thing, "__module__", "") == module.__name__ and inspect.getdoc(thing)
    ]
    return sorted(getattr(module, "__all__", defined), key=str.lower)


def reference(room: str, names: str = "") -> str:
    """Return the directives that make the reference of a module's names: those given, else all public ones."""
    module = importlib.import_module(f"gpu_lstm.{room}")
    lines = ["```{eval-rst}", f".. automodule:: gpu_lstm.{room}", ""]
    for name in names.split() or names_of(room):
        thing, full = getattr(module, name), short(room, name)
        if isinstance(thing, type):
            lines += [f".. autoclass:: {full}", "   :members:", f"   :exclude-members: {LEFT_OUT}", ""]
        elif inspect.isroutine(thing) or isinstance(thing, gpu_lstm.losses.Loss):
            lines += [f".. autofunction:: {full}", ""]
        else:
            lines += [f".. py:data:: {full}", "", *(f"   {line}" for line in said(module, name)), ""]
    return "\n".join([*lines, "```"])


def said(module: Any, name: str) -> list[str]:
    """Return what stands below a constant, in its module or where that has it from."""
    room = ".".join(module.__name__.split(".")[:2])
    for other in [module.__name__, *(one for one in sorted(sys.modules) if one.startswith(room + "."))]:
        found = ModuleAnalyzer.for_module(other).find_attr_docs().get(("", name))
        if found and getattr(sys.modules[other], name) is getattr(module, name):
            return list(found)
    return []


def names() -> str:
    """Return a table of what `import gpu_lstm` offers, with the first sentence of each docstring."""
    rows = ["| name | |", "| --- | --- |"]
    for name in PUBLIC:
        about = (inspect.getdoc(getattr(gpu_lstm, name)) or "").split("\n\n")[0].replace("\n", " ").replace("|", r"\|")
        rows.append(f"| {{py:obj}}`gpu_lstm.{name}` | {about} |")
    return "\n".join(rows)


def commands() -> str:
    """Return the help of every command, as it prints it."""
    from gpu_lstm.cli import parser_of_all

    os.environ["COLUMNS"] = "100"
    found: list[str] = []

    def walk(parser: Any, depth: int) -> None:
        inner = [action for action in parser._actions if action.__class__.__name__ == "_SubParsersAction"]
        found.append(f"{'#' * depth} {parser.prog}\n\n```text\n{parser.format_help()}```\n")
        for action in inner:
            for one in action.choices.values():
                walk(one, min(depth + 1, 3))

    walk(parser_of_all(), 1)
    return "\n".join(found).split("\n", 1)[1]


ALL = {"names": names, "commands": commands}


def read(app: Any, page: str, source: list[str]) -> None:
    """Put what is made into a page, and its links to where things are in the site."""
    text = re.sub(r"<!-- reference: (\S+) ?(.*?) ?-->", lambda mark: reference(mark[1], mark[2]), source[0])
    text = re.sub(
        r"<!-- all: (names|commands) -->", lambda mark: {"names": names, "commands": commands}[mark[1]](), text
    )
    source[0] = linked(text, (HERE / page).parent)


def read_included(app: Any, path: Path, page: str, source: list[str]) -> None:
    """Treat a file that a page takes in."""
    source[0] = linked(source[0], (HERE / path).parent)


def missing(app: Any, env: Any, node: Any, shown: Any) -> Any:
    """Leave a full name that the reference doesn't have as it is, if there is something of that name."""
    target = node["reftarget"]
    return shown if target.startswith("gpu_lstm.") and exists(target.removesuffix("()")) else None


def exists(name: str) -> bool:
    """Tell whether a dotted name can be imported."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        return all(hasattr(thing, part) and (thing := getattr(thing, part)) is not None for part in parts[length:])
    return False


def mend(app: Any, failure: Exception | None) -> None:
    """Take out of source pages those ways back that viewcode gets wrong: it gives all names of a file one prefix."""
    known = app.env.domaindata["py"]["objects"]
    for page in (Path(app.outdir) / "_modules").rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        back = r'<a class="viewcode-back" href="[^"#]*#([^"]+)">\[docs\]</a>'
        page.write_text(re.sub(back, lambda m: m[0] if m[1] in known else "", text), encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.connect("source-read", read)
    app.connect("include-read", read_included)
    app.connect("missing-reference", missing)
    app.connect("build-finished", mend)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
