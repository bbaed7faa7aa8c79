"""The structure that a reader can rely on, held to its bounds: `python -m tests.structure` prints where it stands."""

import ast
import contextlib
import io
import tomllib

import pytest

from gpu_lstm.native import compiled
from tests.structure import BOUNDS, LISTED, NONE, ROOT, Structure, complexity, lines, walked


@pytest.fixture(scope="module")
def structure():
    return Structure()


@pytest.fixture(scope="module")
def over(structure):
    return structure.over()


@pytest.mark.parametrize("what", [*BOUNDS, *NONE])
def test_nothing_is_over_its_bound(over, what):
    assert not over[what], f"at most {BOUNDS[what]}" if what in BOUNDS else what


def test_a_training_step_goes_through_files_of_the_reading_path_only(structure, tmp_path):
    if compiled.library() is None:
        pytest.skip(compiled.missing())
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        step = walked(tmp_path)
    assert "gpu_lstm/recurrence/cpu.py" in step
    assert not set(step) - set(structure.path), f"they are missing in {LISTED}"
    unread = {path for path in structure.path if path.endswith(".py")} - set(step)
    assert unread == {"gpu_lstm/recurrence/reference.py"}, "no step goes there"


def test_the_reading_path_says_how_long_its_files_are(structure):
    for path, said in structure.path.items():
        counted = lines(structure.root / path)
        assert abs(counted - said) <= max(5, counted // 10), f"{path}: python -m tests.structure --write"


def test_complexity_is_that_of_ruff():
    source = """
def f(a):
    if a:  # 2
        pass
    elif a > 1:  # 3
        for b in a:  # 4
            pass
        else:
            with a:
                while b:  # 5
                    break
    try:
        pass
    except KeyError:  # 6
        pass
    else:  # 7
        pass
    match a:
        case 1:  # 8
            pass
        case 2 if a:  # 9
            pass
        case _:
            pass
    def g():  # 10
        return [c for c in a if c and a]
    class C:
        def h(self):  # 11
            pass
"""
    assert 1 + complexity(ast.parse(source).body[0].body) == 11


def test_what_is_installed_is_what_is_there():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    packages = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "gpu_lstm").rglob("__init__.py")}
    packages |= {"gpu_lstm/kernels", "gpu_lstm/data/shipped"}
    assert {package.replace("/", ".") for package in packages} == set(setuptools["packages"])
    headers = {path.relative_to(ROOT).as_posix() for path in (ROOT / "kernels").glob("c*/*.h")}
    assert headers == set(setuptools["ext-modules"][0]["depends"])
