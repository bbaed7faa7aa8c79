"""Pages of HTML in one file each: a template, what all of them share (``page.js``), and the content as JSON."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

SHARED = Path(__file__).with_name("page.js")


def fill_template(template: Path, title: str, content: dict[str, Any]) -> str:
    """Put title and content, JSON values without NaN or infinity, into a template: HTML that needs nothing else.

    The template has ``__TITLE__``, ``__SHARED__`` and ``__CONTENT__``.
    """
    # No "<" in the text: neither an end of the script element nor the start of a comment can come from the data.
    text = json.dumps(content, allow_nan=False).replace("<", "\\u003c")
    page = template.read_text(encoding="utf-8").replace("__SHARED__", SHARED.read_text(encoding="utf-8"))
    return page.replace("__TITLE__", html.escape(as_text(title))).replace("__CONTENT__", text)


def as_text(name: str) -> str:
    """A file's name, in which Python keeps bytes that are no text, with those replaced."""
    return name.encode(errors="replace").decode()
