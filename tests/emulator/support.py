"""What the tests of the emulator share."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from . import Module, build, missing
from .compiler import Mode

KERNELS = Path(__file__).parent / "kernels"
SEEDS = range(24)

needs_compiler = pytest.mark.skipif(missing() is not None, reason=missing() or "")


@functools.cache
def module(file: str, mode: Mode, names: tuple[str, ...] = ()) -> Module:
    """The kernels of a file in `kernels`, built once."""
    source = f'#line 1 "{file}"\n{(KERNELS / file).read_text()}'
    return build(source, mode=mode, names=names)
