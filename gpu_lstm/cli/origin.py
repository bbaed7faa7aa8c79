"""``gpu-lstm train --init``: a new run that begins with the weights of another."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpu_lstm.cli.opening import find_checkpoint
from gpu_lstm.cli.recipes import Recipe
from gpu_lstm.cli.tables import NAMES
from gpu_lstm.errors import InputError
from gpu_lstm.models import Model
from gpu_lstm.training import checkpoint

OF_THE_DATA = ("data", "include", "time", "date_format", "time_zone", "missing_value", *NAMES)
"""Options that say which data there are and how they are written, which a new run doesn't take from another."""
OF_A_RUN = ("vocabulary", "columns", "classes", "targets")
"""What a description has that must be the same in the new data."""


@dataclass(frozen=True)
class Origin:
    """The model that a run begins with."""

    path: Path
    arrays: dict[str, np.ndarray]
    description: dict[str, Any]

    @classmethod
    def read(cls, given: Path, kind: str) -> Origin:
        """The best model of a run, or a checkpoint, of that kind.

        Raises InputError where there is none, or one of another kind or with weights of few bits.
        """
        path = find_checkpoint(given, kind)
        arrays, description = checkpoint.load(path)
        if description.get("kind") != kind:
            found = description.get("kind")
            raise InputError(f"--init {path} is of kind {found!r}; expected {kind!r}, or: gpu-lstm train {found}")
        if "weights" in description:
            raise InputError(f"--init {path} has weights of {description['weights']}; expected the one it was made of")
        checkpoint.check_amounts(arrays, description, path)
        if not isinstance(description.get("options"), dict) or not isinstance(description.get("settings"), dict):
            raise InputError(f"checkpoint {path} has a damaged description")
        return cls(path, arrays, {**description, "amount": None})

    def adopt(self, options: argparse.Namespace, given: dict[str, Any]) -> None:
        """Make the run's options those of the new one, but for those that are given and those of the data."""
        for name, value in self.description["options"].items():
            if name not in given and name not in OF_THE_DATA and hasattr(options, name):
                setattr(options, name, value)

    def agree(self, recipe: Recipe, options: dict[str, Any]) -> None:
        """Have the recipe make the same model: what its description has of the first data stays, as means.

        Raises InputError where an option or the data ask for another model.
        """
        for name in OF_A_RUN:
            if recipe.extra.get(name) != self.description.get(name):
                raise InputError(
                    f"the data have {name} {str(recipe.extra.get(name))[:80]}; --init {self.path} has "
                    f"{str(self.description.get(name))[:80]}, which stay"
                )
        model = self.description["model"]
        for name, asked in recipe.config.items():
            has = model.get(name, {} if name == "lstm" else asked)  # what it lacks came after it
            measured = isinstance(has, list) and isinstance(asked, list) and name not in options
            if name != "dropout" and asked != has and not measured:
                raise InputError(f"{name} is {asked}; --init {self.path} has {has or 'none'}, which stays")
        recipe.config.update({name: value for name, value in model.items() if name != "dropout"})

    def begin(self, model: Model) -> None:
        """Give the model its first weights, and say what is new."""
        checkpoint.assign(model, self.arrays, self.path)
        step, score = self.description.get("step"), self.description.get("score")
        told = f" after step {step:,}" if isinstance(step, int) else ""
        told += f", score {score:.4g}" if isinstance(score, float) else ""
        print(f"begins with the weights of {self.path}{told}; optimizer, learning rate's schedule and steps begin anew")


def changes(before: dict[str, Any], after: dict[str, Any]) -> str:
    """One line on options that changed; empty where none did."""
    changed = [
        f"{name.replace('_', '-')} {before[name]} -> {after[name]}"
        for name in before
        if name in after and after[name] != before[name]
    ]
    return "changed: " + "; ".join(changed) if changed else ""
