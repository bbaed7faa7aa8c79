"""Files, headings, modules and commands that pages and comments name are there."""

import importlib
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("gpu_lstm", "kernels", "tests", "benchmarks", "docs")
FILES = sorted([*ROOT.glob("*.*"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))])
PAGES = [path for path in FILES if path.suffix == ".md"]
SOURCES = [path for path in FILES if path.suffix in (".py", ".h", ".cuh", ".cu", ".cpp")]
MADE = r"(?:FILE|NAME|[AB]|manifest|model|recompute)\.json|gpu_DATE|_cpu\.so"
"""Files that commands make."""


def name(path):
    return path.relative_to(ROOT).as_posix()


ENDS = {"/" + name(path) for path in FILES}


def is_there(file):
    """Whether a name is the end of some file's path, or a pattern of such."""
    parts = [part for part in file.split("/") if part not in (".", "..", "")]
    return any(fnmatch(path, "*/" + "/".join(parts)) for path in ENDS)


def files_in(text):
    """Names of files of ours in a text: with a suffix of ours, or below a folder of ours."""
    for word in re.findall(r"(?<![\w./:-])([\w./*-]+)", text):
        word = word.rstrip(".")
        if re.search(r"\w\.(py|h|cuh|cu|cpp|md|json|toml)$", word) or re.match(rf"({'|'.join(FOLDERS)})/\w", word):
            yield word


def anchors(page):
    """The headings of a page, as GitHub names them in links."""
    for heading in re.findall(r"^#+ (.*)", page.read_text(encoding="utf-8"), re.M):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_what_a_page_names_is_there(page):
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"<!-- files -->.*<!-- /files -->", "", text, flags=re.S)  # records name commands of their time
    code = "\n".join("".join(words) for words in re.findall(r"`([^`\n]+)`|^    (.*)", text, re.M))
    assert not {file for file in files_in(code) if not is_there(file) and not re.fullmatch(MADE, file)}
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        target, _, anchor = link.partition("#")
        to = page.parent / target if target else page
        assert to.exists(), link
        line = re.fullmatch(r"L(\d+)(-L\d+)?", anchor)
        if line:
            assert int(line[1]) <= len(to.read_text(encoding="utf-8").splitlines()), link
        else:
            assert not anchor or anchor in anchors(to), link
    for module in re.findall(r"python -m ((?:gpu_lstm|tests|benchmarks)[\w.]*)", code):
        path = ROOT / module.replace(".", "/")
        there = path.with_suffix(".py").exists() or (path / "__main__.py").exists()
        assert page.name == "CHANGELOG.md" or there, module  # which names what was
    for tests in re.findall(r"`(test_\w+\*?)`", text):
        assert is_there(f"{tests}*.py"), tests
    for dotted in re.findall(r"\bgpu_lstm(?:\.[A-Za-z]\w*)+\b(?!/)", code):
        assert resolved(dotted), dotted


def resolved(dotted):
    """What a dotted name means: a module, or something in one."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:length]))
        except ImportError as error:
            if error.name and not error.name.startswith("gpu_lstm"):  # it is there, and what it needs isn't installed
                return True
            continue
        for part in parts[length:]:
            thing = getattr(thing, part, None)
        return thing
    return None


def test_files_that_comments_name_are_there():
    missing = {}
    for source in SOURCES:
        comments = r'#.*|"""[\s\S]*?"""' if source.suffix == ".py" else r"//.*|/\*[\s\S]*?\*/"
        for comment in re.findall(comments, source.read_text(encoding="utf-8")):
            named = [file for file in files_in(comment) if "/" in file and not re.fullmatch(f"(.*/)?({MADE})", file)]
            missing |= {file: name(source) for file in named if not is_there(file)}
    assert not missing
