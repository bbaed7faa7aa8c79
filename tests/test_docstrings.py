"""The docstring of every public name, of all that the reference pages have, says what a caller must know."""

import dataclasses
import functools
import importlib
import inspect
import re
from pathlib import Path

import pytest

import gpu_lstm

PAGES = Path(__file__).parents[1] / "docs" / "reference"
SKIPPED = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def rooms():
    """Modules that the reference pages name, and the names of each."""
    for page in sorted(PAGES.glob("*.md")):
        for room, names in re.findall(r"<!-- reference: (\S+) ?(.*?) ?-->", page.read_text(encoding="utf-8")):
            try:
                module = importlib.import_module(f"gpu_lstm.{room}")
            except ImportError:  # what it needs isn't installed
                continue
            own = [name for name, thing in vars(module).items() if getattr(thing, "__module__", "") == module.__name__]
            yield module, names.split() or getattr(module, "__all__", [name for name in own if name[0] != "_"])


def ours(thing):
    return (getattr(thing, "__module__", None) or "").startswith("gpu_lstm")


def public():
    """Each public class, method, property and function by its name, with the class that it belongs to."""
    found = {}
    for module, names in rooms():
        for name in names:
            thing = getattr(module, name)
            if isinstance(thing, type) and ours(thing):
                found[f"{module.__name__}.{name}"] = thing, thing
                for member in dir(thing):
                    method, bound = inspect.getattr_static(thing, member), getattr(thing, member)
                    if isinstance(method, functools.cached_property):
                        method = bound = property(method.func)
                    if member[0] != "_" and ours(getattr(method, "__func__", getattr(method, "fget", method))):
                        found[f"{module.__name__}.{name}.{member}"] = bound, thing
            elif inspect.isroutine(thing):
                found[f"{module.__name__}.{name}"] = thing, None
    return found


def text_of(thing, owner):
    """The docstring, of a class with those of its bases, and those that it leads to."""
    classes = [one for one in thing.__mro__ if ours(one)] if isinstance(thing, type) else [thing]
    text = "\n".join(inspect.getdoc(one) or "" for one in classes)
    for name in re.findall(r"(?:[Aa]s|[Ss]ee|of) `([\w.]+)`", text):
        for start in (owner, gpu_lstm, importlib.import_module(thing.__module__)):
            led = start
            for part in name.split("."):
                led = getattr(led, part, None)
            text += inspect.getdoc(led) or "" if led is not None and led is not thing else ""
    return text


def parameters(thing):
    """The parameters that a caller gives by name; those of what only keeps its fields have no need of words."""
    if isinstance(thing, property) or dataclasses.is_dataclass(thing):
        return []
    if isinstance(thing, type) and ("__init__" not in vars(thing) or getattr(thing, "_is_protocol", False)):
        return []
    given = inspect.signature(thing.__init__ if isinstance(thing, type) else thing).parameters.values()
    return [one.name for one in given if one.kind not in SKIPPED and one.name not in ("self", "backend")]


PUBLIC = public()


@pytest.mark.parametrize("name", PUBLIC)
def test_the_docstring_of_a_public_name(name):
    thing, owner = PUBLIC[name]
    own, text = inspect.getdoc(thing) or "", text_of(thing, owner) if hasattr(thing, "__module__") else ""
    attributes = "".join(text_of(owner, owner).split("Attributes\n---")[1:]) if owner else ""
    if own or not re.search(rf"^{name.rpartition('.')[2]} : ", attributes, re.M):
        assert re.match(r"\S.*?[.:](\s|$)", own, re.S), "it begins with no sentence"
    missing = [one for one in parameters(thing) if not re.search(rf"(?<!\w){one}(?!\w)", text)]
    assert not missing, f"it says nothing of {', '.join(missing)}"
    if not isinstance(thing, type | property) and ours(thing):
        assert "raise InputError" not in inspect.getsource(thing) or "InputError" in own, "it raises one, unsaid"


def test_there_are_public_names():
    assert len(PUBLIC) > 400
