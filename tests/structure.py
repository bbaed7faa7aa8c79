"""The code's structure, counted: `python -m tests.structure` prints it, `test_structure.py` holds it to `BOUNDS`."""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import re
import sys
import tempfile
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[1]

BOUNDS = {
    "methods of Backend": 12,
    "lines of a file": 500,
    "lines of a class": 350,
    "lines of a function": 60,
    "complexity of a function": 15,
    "code files that name the newest option": 5,
    "lines of Python on the reading path": 4000,
    "lines of C++ on the reading path": 1500,
}
"""The most that each may be. A function counts without its docstring; its complexity is T. McCabe's, as ruff's C901."""

NONE = (
    "imports that climb",
    "files of the reading path that are gone",
    "imports in a circle",
    "asks for a backend's kind",
    "measuring is larger than what it measures",
)
"""Of which there may be none."""

FLOORS = (
    ("errors", "page"),
    ("backend", "native"),
    ("ops", "parallel", "data"),
    ("recurrence",),
    ("layers", "losses", "optimizers", "schedules"),
    ("models",),
    ("training",),
    ("bench", "interop", "inspect", "teaching", "checks"),
    ("cli",),
)
"""Rooms of gpu_lstm, from the ground up: a module imports from its own floor and from those below, in no circle."""

KNOWS_ITS_BACKEND = ("backend", "native", "ops", "parallel", "recurrence")
"""Rooms that may ask which backend they have."""

ASKS = (
    r"isinstance\(.*\w*Backend\b|(\w+\.)*kernels (==|!=|in|not in) |(\w+\.)*startswith\(['\"]cupy|(typing\.)?cast\("
    r"|(get|has)attr\((\w+\.)*_?(backend|tier|plan|ops)\b"
)
"""How a call or a comparison begins that asks: for a class, a name, an attribute that only some have."""

LISTED = "docs/understand/one_step.md"
READING_PATH = re.compile(r"(?<=<!-- path -->).*(?=<!-- /path -->)", re.S)
"""The page that lists the files that a step of the plain LSTM on a CPU goes through, in reading order, and where."""

STEP = "Training._one_step"
"""The function that does a training step."""

MEASURING, MEASURED = ("gpu_lstm/bench", "benchmarks"), ("gpu_lstm/recurrence", "gpu_lstm/ops", "gpu_lstm/layers")

CODE = (".py", ".h", ".cuh", ".cpp", ".cu")


@dataclass(frozen=True)
class Sized:
    """Something of some size, and where it stands."""

    size: int
    where: str

    def __str__(self) -> str:
        return f"{self.size:6,}  {self.where}"


def lines(path: Path) -> int:
    """Return the lines of a file, as `wc -l` counts them."""
    return path.read_bytes().count(b"\n")


def lines_of_code(path: Path) -> int:
    """Return the lines of a file that hold code: neither blank nor comments nor docstrings alone."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return sum(bool(line.strip()) for line in re.sub(r"//.*|/\*[\s\S]*?\*/", "", text).splitlines())
    kept: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
            kept |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            kept -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(kept) - 1  # the end of the file is a token, too


def complexity(body: list[ast.stmt]) -> int:
    """Return how many ways there are through statements, less one: McCabe's number as ruff's rule C901 counts it."""
    found = 0
    for statement in body:
        match statement:
            case (
                ast.If(body=then, orelse=other) | ast.For(body=then, orelse=other) | ast.While(body=then, orelse=other)
            ):
                found += 1 + complexity(then) + complexity(other)
            case ast.Try(body=tried, handlers=handlers, orelse=other, finalbody=last):
                found += complexity(tried) + bool(other) + complexity(other) + complexity(last)
                found += sum(1 + complexity(handler.body) for handler in handlers)
            case ast.With(body=inner):
                found += complexity(inner)
            case ast.Match(cases=cases):
                found += sum(1 + complexity(case.body) for case in cases)
                pattern = cases[-1].pattern
                found -= cases[-1].guard is None and isinstance(pattern, ast.MatchAs) and pattern.pattern is None
            case ast.FunctionDef(body=inner):
                found += 1 + complexity(inner)
            case ast.ClassDef(body=inner):
                found += complexity(inner)
    return found


def docstring_lines(node: ast.FunctionDef | ast.ClassDef) -> int:
    """Return the lines that a definition's docstring takes."""
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return (first.end_lineno or first.lineno) - first.lineno + 1
    return 0


@dataclass(frozen=True)
class Module:
    """A Python file of gpu_lstm, parsed."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """The file's syntax tree."""
        return ast.parse(self.text)

    @property
    def name(self) -> str:
        """The dotted name by which it is imported."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def room(self) -> str:
        """The part of gpu_lstm that it belongs to, "" for the package's own front."""
        return self.name.split(".", 2)[1] if "." in self.name else ""

    def definitions(self) -> Iterator[ast.FunctionDef | ast.ClassDef]:
        """Yield every function and class, inner ones too."""
        yield from (node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef | ast.ClassDef))

    def imports(self, known: Iterable[str]) -> set[str]:
        """Return the modules of `known` that it imports, at its head or within a function."""
        known, found = set(known), set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found |= {name.name for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found |= {one if (one := f"{node.module}.{name.name}") in known else node.module for name in node.names}
        return found & known - {self.name}

    def words(self) -> set[str]:
        """Return the names and words in its code and strings; comments and docstrings don't count."""
        strings = {
            (node.value.lineno, node.value.col_offset)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        found: set[str] = set()
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type in (tokenize.NAME, tokenize.STRING) and token.start not in strings:
                found |= set(re.findall(r"\w+", token.string))
        return found


def asks_for_a_kind(module: Module) -> Iterator[str]:
    """Yield where a module asks which backend or tier it has, which rooms above `KNOWS_ITS_BACKEND` must not."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call | ast.Compare) and re.match(ASKS, text := ast.unparse(node)):
            yield f"{module.path}:{node.lineno}  {text[:90]}"


class Structure:
    """The Python of gpu_lstm and the sources of kernels, of one checkout."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        files = sorted((root / "gpu_lstm").rglob("*.py"))
        self.modules = [Module(str(path.relative_to(root)), path.read_text(encoding="utf-8")) for path in files]
        self.graph = {module.name: module.imports(m.name for m in self.modules) for module in self.modules}

    def files(self) -> list[Sized]:
        """Return every file's lines, the largest first."""
        return _largest(Sized(lines(self.root / module.path), module.path) for module in self.modules)

    def sizes(self, kind: type[ast.FunctionDef] | type[ast.ClassDef]) -> list[Sized]:
        """Return the lines of every function or class, the largest first."""
        return _largest(
            Sized(
                (node.end_lineno or 0) - node.lineno + 1 - docstring_lines(node),
                f"{module.path}:{node.lineno} {node.name}",
            )
            for module in self.modules
            for node in module.definitions()
            if isinstance(node, kind)
        )

    def complexities(self) -> list[Sized]:
        """Return every function's complexity, the largest first."""
        return _largest(
            Sized(1 + complexity(node.body), f"{module.path}:{node.lineno} {node.name}")
            for module in self.modules
            for node in module.definitions()
            if isinstance(node, ast.FunctionDef)
        )

    def backend_methods(self) -> list[str]:
        """Return the public methods and properties that the class Backend promises."""
        (backend,) = (node for m in self.modules for node in m.definitions() if node.name == "Backend")
        return [node.name for node in backend.body if isinstance(node, ast.FunctionDef) and node.name[0] != "_"]

    def climbing(self) -> list[str]:
        """Return every import of a room on a higher floor."""
        floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
        floor |= {"": floor["layers"], "__main__": len(FLOORS)}
        room = {module.name: module.room for module in self.modules}
        return [
            f"{name} imports {other}"
            for name, others in self.graph.items()
            for other in sorted(others)
            if floor[room[name]] < floor[room[other]]
        ]

    def circles(self) -> list[str]:
        """Return every import whose module, by way of others, imports the one that imports it."""
        above = {name: self._reached(name) for name in self.graph}
        return [
            f"{name} imports {other}"
            for name, others in self.graph.items()
            for other in sorted(others)
            if name in above[other]
        ]

    def _reached(self, name: str) -> set[str]:
        found: set[str] = set()
        ahead = [name]
        while ahead:
            new = self.graph[ahead.pop()] - found
            found |= new
            ahead += new
        return found

    def asking(self) -> list[str]:
        """Return where rooms above recurrence and ops ask which backend it is."""
        return [
            where
            for module in self.modules
            if module.room not in KNOWS_ITS_BACKEND
            for where in asks_for_a_kind(module)
        ]

    def options(self) -> dict[str, list[str]]:
        """Return, for each option of the LSTM, as their rows go, the files of gpu_lstm and kernels that name it."""
        from gpu_lstm.layers.options import Options

        words = {module.path: module.words() for module in self.modules}
        for path in sorted((self.root / "kernels").rglob("*")):
            if path.suffix in CODE[1:]:
                text = re.sub(r"//.*|/\*.*?\*/", "", path.read_text(encoding="utf-8"))
                words[str(path.relative_to(self.root))] = set(re.findall(r"\w+", text))
        return {f.name: [path for path, found in words.items() if f.name in found] for f in fields(Options)}

    @cached_property
    def path(self) -> dict[str, int]:
        """Files on the reading path, with the lines that `LISTED` says they have."""
        listed = READING_PATH.findall((self.root / LISTED).read_text(encoding="utf-8"))[0]
        return {file: int(said.replace(",", "")) for file, said in re.findall(r"`(\S+)` (\d[\d,]*)\b", listed)}

    def reading_path(self) -> dict[str, int]:
        """Return the lines of Python and of C++ on the reading path, and how many of them are code."""
        there = [self.root / path for path in self.path if (self.root / path).exists()]
        python, cpp = ([path for path in there if (path.suffix == ".py") == is_python] for is_python in (True, False))
        return {
            "Python": sum(map(lines, python)), "Python code": sum(map(lines_of_code, python)),
            "C++": sum(map(lines, cpp)), "C++ code": sum(map(lines_of_code, cpp)),
        }  # fmt: skip

    def write_path(self) -> None:
        """Put the lines that files have into the reading path."""
        page = self.root / LISTED
        counted = READING_PATH.sub(
            lambda listed: re.sub(
                r"`(\S+)` \d[\d,]*\b", lambda one: f"`{one[1]}` {lines(self.root / one[1]):,}", listed[0]
            ),
            page.read_text(encoding="utf-8"),
        )
        page.write_text(counted, encoding="utf-8")

    def of_folders(self, folders: Iterable[str], suffixes: tuple[str, ...] = (".py",)) -> int:
        """Return the lines of all files under some folders."""
        paths = (path for folder in folders for path in (self.root / folder).rglob("*"))
        return sum(lines(path) for path in paths if path.suffix in suffixes)

    def over(self) -> dict[str, list[str]]:
        """Return all that is over its bound, by what is bounded."""
        path = self.reading_path()
        newest, naming = list(self.options().items())[-1]
        measuring, measured = self.of_folders(MEASURING), self.of_folders(MEASURED)
        counts = {
            "methods of Backend": [Sized(len(self.backend_methods()), ", ".join(self.backend_methods()))],
            "lines of a file": self.files(),
            "lines of a class": self.sizes(ast.ClassDef),
            "lines of a function": self.sizes(ast.FunctionDef),
            "complexity of a function": self.complexities(),
            "code files that name the newest option": [Sized(len(naming), f"{newest}: {', '.join(naming)}")],
            **{f"lines of {kind} on the reading path": [Sized(count, "")] for kind, count in path.items()},
        }
        found = {what: [str(one) for one in counts[what] if one.size > most] for what, most in BOUNDS.items()}
        gone = [path for path in self.path if not (self.root / path).exists()]
        larger = [f"{measuring:,} > {measured:,}"] * (measuring > measured)
        return found | dict(zip(NONE, [self.climbing(), gone, self.circles(), self.asking(), larger], strict=True))


def walked(folder: Path) -> dict[str, set[str]]:
    """Return the files that a step of `gpu-lstm train text` goes through, on a CPU, and the functions it enters.

    A step is what the loop does for one batch: forward, backward, the optimizer's move, and looking at the loss. What
    the command does around it (showing, writing, validating) and the thread that makes batches ahead are not in it.
    """
    import gpu_lstm
    from gpu_lstm.cli import main as command

    package = Path(gpu_lstm.__file__).parent  # the checkout's, or the one that is installed
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 400, encoding="utf-8")
    found: dict[str, set[str]] = {}
    steps, inside = 0, False

    def enter(frame: FrameType, event: str, _: object) -> None:
        nonlocal steps, inside
        code = frame.f_code
        if code.co_qualname == STEP and event in ("call", "return"):
            steps += event == "call"
            inside = event == "call" and steps == 2  # the first one loads and sets up
        path = Path(code.co_filename)
        if inside and event == "call" and path.is_relative_to(package):
            found.setdefault(path.relative_to(package.parent).as_posix(), set()).add(code.co_qualname)

    words = f"train text {folder}/text.txt --out {folder}/run --epochs 1 --hidden-size 16 --batch 8 --backend numpy"
    sys.setprofile(enter)
    try:
        command(words.split())
    finally:
        sys.setprofile(None)
    return found


def _largest(sized: Iterable[Sized]) -> list[Sized]:
    return sorted(sized, key=lambda one: (-one.size, one.where))


def report(structure: Structure) -> Iterator[str]:
    """Yield the lines of the report."""
    methods = structure.backend_methods()
    yield f"methods of Backend          {len(methods):6}  {' '.join(methods)}"
    yield f"largest file                {structure.files()[0]}"
    yield f"largest class               {structure.sizes(ast.ClassDef)[0]}"
    yield f"largest function            {structure.sizes(ast.FunctionDef)[0]}"
    yield f"largest complexity          {structure.complexities()[0]}"
    yield f"imports that climb          {len(structure.climbing()):6}"
    yield f"imports in a circle         {len(structure.circles()):6}"
    yield f"questions about the backend {len(structure.asking()):6}"
    options = structure.options()
    for name, files in options.items():
        yield f"code files that name {name:17}{len(files):3}"
    for kind, count in structure.reading_path().items():
        yield f"reading path, {kind:14}{count:6,}"
    measuring, measured = structure.of_folders(MEASURING), structure.of_folders(MEASURED)
    yield f"lines that measure          {measuring:6,}  what they measure {measured:,}"
    cpp = structure.of_folders(["kernels"], CODE[1:])
    yield f"lines of Python, gpu_lstm   {structure.of_folders(['gpu_lstm']):6,}  C++ and CUDA, kernels {cpp:,}"


def main() -> None:
    """Print the report, or what is over its bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--over", action="store_true", help="only what is over its bound")
    parser.add_argument("--walk", action="store_true", help="the files that a training step goes through, too")
    parser.add_argument("--write", action="store_true", help="put the lines into the reading path")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to look at")
    given = parser.parse_args()
    structure = Structure(given.root)
    if given.write:
        structure.write_path()
    if not given.over:
        print("\n".join(report(structure)), end="\n\n")
    if given.walk:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            step = walked(Path(folder))
        for path, functions in step.items():
            here = "" if path in structure.path else "  not on the reading path"
            print(f"{lines(given.root / path):6,}  {path:40}{len(functions):3} functions{here}")
        whole = sum(lines(given.root / path) for path in step)
        print(f"{whole:6,}  in all {len(step)} files\n")
    for what, places in structure.over().items():
        if places:
            bound = f" (at most {BOUNDS[what]})" if what in BOUNDS else ""
            print(f"OVER: {what}{bound}", *(f"  {place}" for place in places), sep="\n")


if __name__ == "__main__":
    main()
