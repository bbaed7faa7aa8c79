"""What compilers made of the products' inner loops: `python -m tests.assembly FILE ...` counts and judges.

An inner loop of a product does nothing with vectors but load, spread an element over one, multiply and add. A share is
that of multiply-adds among its vector instructions; a sum that went to the stack and came back is a spill.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

FUNCTION = re.compile(r"^[0-9a-f]+ <(.+)>:$")
INSTRUCTION = re.compile(r"^ *([0-9a-f]+):\t(\S+) *([^#<]*)")
BACK = re.compile(r"j(?!mp)\w+|b\.\w+|cbn?z|tbn?z")
"""Instructions that may go back to where a loop begins: those without a condition join other code."""
MULTIPLY_ADD = re.compile(
    r"vfn?m(add|sub)\d+p[sd]|fml[as]|vpdpbusds?|[us]?usdot|[us]dot|vdpbf16ps|bf(dot|mmla)|[us]mmla"
)
OTHERS = re.compile(
    r"v?(mov\w+|broadcast\w+|pbroadcast\w+|(add|mul)p[sd]|pmovz\w+|pmovs\w+|pslld|p?xor\w*|p?and\w*|p?or\w*)"
    r"|ldu?r|ld[1234]r?|ldp|str|stur|stp|dup|mov|fmov|f(add|mul)|movi|u?shll2?|zip[12]"
)
"""Other instructions on vectors that an inner loop of a product may have."""
VECTOR = re.compile(r"%[xyz]mm\d|\bv\d+\.\w|\b[sdq]\d+")
LEAST = 4
"""Multiply-adds of a loop that is looked at."""


@dataclass(frozen=True)
class Loop:
    """The inner loop of a product, in instructions."""

    function: str
    instructions: int
    multiply_adds: int
    vector: int
    """Of all, those with a vector register."""
    spills: int

    @property
    def share(self) -> float:
        """Of multiply-adds among vector instructions."""
        return self.multiply_adds / self.vector

    def __str__(self) -> str:
        counts = f"{self.instructions:5d} {self.multiply_adds:4d} {self.vector:7d} {self.share:5.0%} {self.spills:7d}"
        return f"{counts}  {self.function}"


def functions(lines: Iterable[str]) -> Iterator[tuple[str, list[tuple[int, str, str]]]]:
    """Each function of a disassembly: its name, and (address, mnemonic, operands) of its instructions."""
    name = ""
    body: list[tuple[int, str, str]] = []
    for line in lines:
        if found := FUNCTION.match(line):
            if body:
                yield name, body
            name, body = found[1], []
        elif found := INSTRUCTION.match(line):
            body.append((int(found[1], 16), found[2], found[3].strip()))
    if body:
        yield name, body


def loops(name: str, body: list[tuple[int, str, str]]) -> Iterator[Loop]:
    """The inner loops of products in a function."""
    places = {address: n for n, (address, _, _) in enumerate(body)}
    ends = []
    for n, (address, mnemonic, operands) in enumerate(body):
        target = re.search(r"([0-9a-f]+)$", operands)
        if BACK.fullmatch(mnemonic) and target and (start := int(target[1], 16)) <= address and start in places:
            ends.append((places[start], n))
    frame = any(mnemonic == "mov" and operands == "%rsp,%rbp" for _, mnemonic, operands in body)
    stack = re.compile(r"\(%r(sp|bp)" if frame else r"\(%rsp|\[(sp|x29)")
    for first, last in ends:
        if any(first <= start and end <= last and (start, end) != (first, last) for start, end in ends):
            continue
        inside = body[first : last + 1]
        vector = [mnemonic for _, mnemonic, operands in inside if VECTOR.search(operands)]
        adds = sum(bool(MULTIPLY_ADD.fullmatch(mnemonic)) for mnemonic in vector)
        plain = all(MULTIPLY_ADD.fullmatch(mnemonic) or OTHERS.fullmatch(mnemonic) for mnemonic in vector)
        if adds >= LEAST and plain:
            spills = sum(bool(stack.search(operands)) for _, _, operands in inside)
            yield Loop(name, len(inside), adds, len(vector), spills)


def found(file: Path, objdump: str) -> list[Loop]:
    """The inner loops of products in an object file, a library or a program."""
    command = [objdump, "-d", "-C", "--no-show-raw-insn", str(file)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [loop for name, body in functions(text.splitlines()) for loop in loops(name, body)]


def main() -> int:
    """Print the loops of some files; 1 where there is none, one spills, or the widest have too small a share."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--objdump", default="objdump")
    parser.add_argument("--of", default="", help="functions to look at: a regular expression")
    parser.add_argument(
        "--share", type=float, default=0, help="what the widest tiles must have; only these are printed"
    )
    arguments = parser.parse_args()
    wrong = 0
    for file in arguments.files:
        all_loops = [loop for loop in found(file, arguments.objdump) if re.search(arguments.of, loop.function)]
        widest = set()
        for of in ("float", "double"):
            of_type = [loop for loop in all_loops if f"<{of}" in loop.function]
            most = max((loop.multiply_adds for loop in of_type), default=0)
            widest |= {loop for loop in of_type if loop.multiply_adds == most}
        print(f"{file}: {len(all_loops)} inner loops of products\n  all  FMA  vector  share  spills  function")
        for loop in sorted(all_loops, key=lambda loop: loop.function):
            if loop in widest or loop.spills or not arguments.share:
                print(loop)
        wrong += not all_loops or any(loop.spills for loop in all_loops)
        wrong += any(loop.share < arguments.share for loop in widest)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
