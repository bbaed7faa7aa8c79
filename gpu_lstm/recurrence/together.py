"""Recurrences that run at once on tiers that can: both directions of a layer, or layers of a stack.

A tier may have `forward_all` and `backward_all`, which take several problems that don't depend on each other; on other
tiers they run one after the other. Stacks are described in `gpu_lstm.recurrence.contract`.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, TypeAlias, TypeVar

from gpu_lstm.backend import Array, Backend
from gpu_lstm.recurrence.contract import Saved, Tier

Problem = tuple[Any, ...]
"""All that the tier's `forward` (`backward`) takes after the backend, in its order."""
Gradients = tuple[Array, Array, Array]
"""dz, dh0, dc0."""
Result = TypeVar("Result")
Steps: TypeAlias = Generator[tuple[str, Problem], Any, Result]
"""Yields recurrences, ("forward", problem) or ("backward", problem), and is sent what the tier gives; or layers of a
stack, ("forward_stack", (problems, joints)) or ("backward_stack", (problems, joints))."""


def forward(run: Tier, backend: Backend, problems: Sequence[Problem]) -> list[Saved]:
    """`run.forward` of each problem."""
    at_once = getattr(run, "forward_all", None)
    found: list[Saved] = at_once(backend, problems) if at_once else [run.forward(backend, *each) for each in problems]
    return found


def backward(run: Tier, backend: Backend, problems: Sequence[Problem]) -> list[Gradients]:
    """`run.backward` of each problem."""
    at_once = getattr(run, "backward_all", None)
    found: list[Gradients] = (
        at_once(backend, problems) if at_once else [run.backward(backend, *each) for each in problems]
    )
    return found


def layers_at_once(
    run: Tier, backend: Backend, direction: str, batch: int, hidden: int, dtype: str, layers: int
) -> int:
    """How many of so many layers of a stack the tier is to be given at once; 1 where it takes no stacks."""
    at_once = getattr(run, "layers_at_once", None)
    return 1 if at_once is None else int(at_once(backend, direction, batch, hidden, dtype, layers))


def in_step(run: Tier, backend: Backend, work: Sequence[Steps[Result]]) -> list[Result]:
    """What each of `work` returns; the recurrences that they yield in the same round run together."""
    results: dict[int, Result] = {}
    answers: dict[int, Any] = dict.fromkeys(range(len(work)))
    while answers:
        asked: dict[str, list[tuple[int, Problem]]] = {"forward": [], "backward": []}
        asked |= {"forward_stack": [], "backward_stack": []}
        for number, answer in answers.items():
            try:
                direction, problem = work[number].send(answer)
                asked[direction].append((number, problem))
            except StopIteration as end:
                results[number] = end.value
        answers = {
            number: getattr(run, kind)(backend, *stack)
            for kind in ("forward_stack", "backward_stack")
            for number, stack in asked[kind]
        }
        for direction, run_all in (("forward", forward), ("backward", backward)):
            found: list[Any] = run_all(run, backend, [problem for _, problem in asked[direction]])
            answers |= dict(zip([number for number, _ in asked[direction]], found, strict=True))
    return [results[number] for number in range(len(work))]
