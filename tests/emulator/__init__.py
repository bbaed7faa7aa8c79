"""CUDA kernels on a CPU: `build` compiles an unmodified CUDA text with g++, `Module.launch` runs a kernel on arrays.

What is modelled, what is not, and how to read a report: README.md beside this file.
"""

from .compiler import build, missing
from .launch import EmulationError, Module

__all__ = ["EmulationError", "Module", "build", "missing"]
