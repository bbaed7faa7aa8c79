"""The pages under docs/ say what the code does: the tiers that take an option, and the code blocks."""

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest

from gpu_lstm.layers.options import Given, Options
from gpu_lstm.recurrence.plan import _KERNELS, TIERS
from gpu_lstm.recurrence.variant import OPTIONS

DOCS = Path(__file__).parent.parent / "docs"
NEEDS = {"doors/pytorch.md": "torch"}
"""What a page's code needs beyond a plain install."""
SHORT = {r"^STEPS = \d+$": "STEPS = 20", r"^EPOCHS = \d+$": "EPOCHS = 2"}
"""How long a page's code trains here: numbers that have a line of their own."""


def rows() -> Iterator[tuple[str, list[str]]]:
    """Option and its cells, of the table in docs/understand/variants.md."""
    for line in (DOCS / "understand" / "variants.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            yield re.sub(r"^`(?:forward\()?(\w+)=.*", r"\1", cells[0]), cells


def test_the_table_of_variants_has_every_option_once():
    names = [name for name, _ in rows()]
    assert sorted(names) == sorted([*(f.name for f in fields(Options)), "resets"])


def test_the_table_of_variants_says_what_the_options_rows_say():
    said = dict(rows())
    for row in fields(Options):
        expected = [row.metadata[name] for name in ("about", "source", "equation", "parameters")]
        assert said[row.name][1:5] == expected, f"{row.name}: the page differs from gpu_lstm/layers/options.py"


def test_the_options_have_their_types_in_signatures():
    assert get_type_hints(Given) == get_type_hints(Options)


@pytest.mark.parametrize("name, cells", list(rows()), ids=lambda value: value if isinstance(value, str) else "")
def test_the_table_of_variants_names_the_tiers(name, cells):
    for kernels, said in (("cpu", cells[5]), ("cuda", cells[6])):
        tiers = _KERNELS[kernels].tiers
        takes = [tier for tier in TIERS[1:] if tier in tiers and (name not in OPTIONS or name in tiers[tier].takes)]
        expected = "all" if len(takes) == len(tiers) else " ".join(["reference", *takes])
        assert said == expected, f"{name} on {kernels}: the page says {said!r}, the tiers take {expected!r}"


@pytest.mark.parametrize(
    "page", sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md") if page.name != "sklearn.md")
)
def test_code_blocks_run(page, tmp_path, monkeypatch):
    if page in NEEDS:
        pytest.importorskip(NEEDS[page], reason=f"{NEEDS[page]} is not installed")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.S)
    names: dict = {}
    for block in blocks:
        for line, shorter in SHORT.items():
            block = re.sub(line, shorter, block, flags=re.M)
        exec(compile(block, page, "exec"), names)


def test_the_reference_has_every_room_that_lists_public_names():
    pages = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md"))
    rooms = {
        path.parent.name for path in DOCS.parent.glob("gpu_lstm/*/__init__.py") if "__all__ = " in path.read_text()
    }
    assert rooms - {"ops"} <= set(re.findall(r"<!-- reference: (\w+) -->", pages))
