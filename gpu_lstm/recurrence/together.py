"""Recurrences that run at once on tiers that can: both directions of a layer, or layers of a stack.

A tier may have `forward_all` and `backward_all`, which take several problems that don't depend on each other; on other
tiers they run one after the other. Stacks are described in `gpu_lstm.recurrence.problem`. It may have `room_beside`,
too: whether its recurrence leaves room on the device for large products beside it.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar

from gpu_lstm.backend import Array, Backend
from gpu_lstm.recurrence.problem import Saved, Tier

Problem = tuple[Any, ...]
"""All that the tier's `forward` (`backward`) takes after the backend, in its order."""
Gradients = tuple[Array, Array, Array]
"""dz, dh0, dc0."""
Result = TypeVar("Result")


class Round(NamedTuple):
    """Recurrences of one kind, so many at once: "forward" or "backward", of (T, B, H), with options."""

    direction: str
    shape: tuple[int, int, int]
    dtype: str
    options: frozenset[str]
    at_once: int = 1


Steps: TypeAlias = Generator[tuple[str, Any], Any, Result]
"""Yields recurrences, ("forward", problem) or ("backward", problem), and is sent what the tier gives; or layers of a
stack, ("forward_stack", (problems, joints)) or ("backward_stack", (problems, joints)).

Before one, it may yield ("beside", job): work without arguments that neither needs the recurrence nor is needed by it,
see `Backend.beside`. It is done before the recurrence after that one starts.
"""


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


def room_beside(run: Tier, backend: Backend, recurrences: Round, multiply_adds: int) -> bool:
    """Whether so many multiply-adds of large products should go beside recurrences of the tier."""
    room = getattr(run, "room_beside", None)
    return room is not None and bool(room(backend, recurrences, multiply_adds))


def in_step(run: Tier, backend: Backend, work: Sequence[Steps[Result]]) -> list[Result]:
    """What each of `work` returns; the recurrences that they yield in the same round run together.

    What they yield to go beside them does.
    """
    results: dict[int, Result] = {}
    answers: dict[int, Any] = dict.fromkeys(range(len(work)))
    while answers:
        asked: dict[str, list[tuple[int, Any]]] = {"forward": [], "backward": [], "beside": []}
        asked |= {"forward_stack": [], "backward_stack": []}
        for number, answer in answers.items():
            try:
                kind, what = work[number].send(answer)
                asked[kind].append((number, what))
                while kind == "beside":
                    kind, what = work[number].send(None)
                    asked[kind].append((number, what))
            except StopIteration as end:
                results[number] = end.value
        answers = backend.beside(partial(_answers, run, backend, asked), [job for _, job in asked["beside"]])
    return [results[number] for number in range(len(work))]


def _answers(run: Tier, backend: Backend, asked: dict[str, list[tuple[int, Problem]]]) -> dict[int, Any]:
    """Run all recurrences of a round; what the tier gives, by the number of who asked."""
    answers: dict[int, Any] = {
        number: getattr(run, kind)(backend, *stack)
        for kind in ("forward_stack", "backward_stack")
        for number, stack in asked[kind]
    }
    for direction, run_all in (("forward", forward), ("backward", backward)):
        if asked[direction]:
            found: list[Any] = run_all(run, backend, [problem for _, problem in asked[direction]])
            answers |= dict(zip([number for number, _ in asked[direction]], found, strict=True))
    return answers
