"""How setuptools compiles the CPU library: its parts at once, for one compiler process takes a minute for them all."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from setuptools.command.build_ext import build_ext
from setuptools.extension import Extension

PARTS = 6
"""As ``cpu/lstm_cpu.cpp`` has them."""


class Parts(build_ext):
    """Compiles each source of an extension once a part, with the macro PART."""

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
