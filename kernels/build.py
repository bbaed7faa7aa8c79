"""How setuptools compiles the CPU library, and what it calls the wheel with it.

Its parts are compiled at once, for one compiler process takes a minute for them all. It is loaded by ctypes and knows
nothing of Python's own headers, so one file, and one wheel, is for every Python of a platform.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import EXTENSION_SUFFIXES
from typing import Any

from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.extension import Extension

PARTS = 6
"""As ``cpu/lstm_cpu.cpp`` has them."""


class Parts(build_ext):
    """Compiles each source of an extension once a part, with the macro PART."""

    def get_ext_filename(self, fullname: str) -> str:
        """Name the library without the version of Python: ``gpu_lstm/_cpu.so``, on Windows ``_cpu.pyd``."""
        return os.path.join(*fullname.split(".")) + os.environ.get("GPU_LSTM_SUFFIX", EXTENSION_SUFFIXES[-1])

    def build_extension(self, ext: Extension) -> None:
        """Compile the parts, as many at once as there are processors, and link them."""
        compile_sources = self.compiler.compile

        def compile_parts(sources: list[str], output_dir: str, macros: list[Any], **others: Any) -> list[str]:
            def compile_part(part: int) -> list[str]:
                return compile_sources(sources, f"{output_dir}/{part}", [*macros, ("PART", str(part))], **others)

            with ThreadPoolExecutor(os.cpu_count()) as pool:
                return [made for objects in pool.map(compile_part, range(PARTS)) for made in objects]

        self.compiler.compile = compile_parts
        try:
            super().build_extension(ext)
        finally:
            self.compiler.compile = compile_sources


class Wheel(bdist_wheel):
    """A wheel for every Python 3: of one platform where it holds the library, else of any."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return what the wheel's name says of Python, its binary interface and the platform."""
        built = self.get_finalized_command("build_ext")
        there = any(os.path.exists(built.get_ext_fullpath(ext.name)) for ext in built.extensions)
        return "py3", "none", super().get_tag()[2] if there else "any"
