"""The CUDA sources: ``kernels/cuda/*.cu`` with the headers they include put in place.

So a compiler needs no search path, and CuPy's cache on disk, whose key is the source, sees a change of any of them.
"""

from __future__ import annotations

import functools
import importlib.resources
import posixpath
import re
from pathlib import Path, PurePosixPath
from typing import Any

from gpu_lstm.errors import BackendError

_INCLUDE = re.compile(r'^#include "([^"]+)"$', re.MULTILINE)


@functools.cache
def read_source(file: str) -> str:
    """Text of a file in ``kernels/cuda`` with each header it includes put in place, once.

    Raises BackendError where the sources are not where the package was installed.
    """
    path = PurePosixPath("cuda", file)
    return expand(read_text(path), path)


def expand(text: str, path: PurePosixPath) -> str:
    """CUDA text at that place in ``kernels``, with ``#line`` directives so that messages name the right file."""
    seen: set[PurePosixPath] = set()

    def included(text: str, path: PurePosixPath) -> str:
        def header(match: re.Match[str]) -> str:
            name = PurePosixPath(posixpath.normpath(path.parent / match[1]))
            if name in seen:
                return ""
            seen.add(name)
            line = text.count("\n", 0, match.start()) + 2
            return f'{included(read_text(name), name)}#line {line} "{path}"'

        return f'#line 1 "{path}"\n' + _INCLUDE.sub(header, text)

    return included(text, path)


def read_text(path: PurePosixPath | str) -> str:
    """A file of ``kernels``.

    Raises BackendError where the file is not where the package was installed.
    """
    try:
        text: str = _folder().joinpath(str(path)).read_text(encoding="utf-8")
    except OSError as error:
        raise BackendError(
            f"CUDA source {path} is missing: {error}; reinstall gpu_lstm (pip install --force-reinstall gpu-lstm)"
        ) from None
    return text


def _folder() -> Any:
    """``kernels``: a part of the installed package, or beside it in a checkout."""
    try:
        return importlib.resources.files("gpu_lstm.kernels")
    except ModuleNotFoundError:
        return Path(__file__).resolve().parents[2] / "kernels"
