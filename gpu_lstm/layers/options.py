"""The options of the LSTM family: their values, checked, and what follows from them for parameters and tiers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from gpu_lstm.errors import InputError
from gpu_lstm.recurrence.variant import OPTIONS


@dataclass(frozen=True)
class Options:
    """What `gpu_lstm.LSTM` takes beyond sizes; see there. All off by default, as in the plain LSTM.

    Raises
    ------
    InputError
        A value is none that the option takes.
    """

    bias: bool = True
    proj_size: int = 0
    peepholes: bool = False
    coupled: bool = False
    hard_sigmoid: bool = False
    clip: float | None = None
    cell_clip: float | None = None
    layer_norm: bool = False
    zoneout_h: float = 0.0
    zoneout_c: float = 0.0
    input_dropout: float = 0.0
    recurrent_dropout: float = 0.0
    weight_dropout: float = 0.0
    residual: bool = False
    learn_state: bool = False
    cells: bool = False
    heads: int = 1

    def __post_init__(self) -> None:
        for name in ("bias", "peepholes", "coupled", "hard_sigmoid", "layer_norm", "residual", "learn_state", "cells"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} is {getattr(self, name)!r}; expected True or False")
        for name in ("zoneout_h", "zoneout_c", "input_dropout", "recurrent_dropout", "weight_dropout"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
                raise InputError(f"{name} is {value!r}; expected a probability in [0, 1)")
        for name in ("clip", "cell_clip"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (number and 0 < value < math.inf):
                raise InputError(f"{name} is {value!r}; expected a number above 0, or None")
        for name, least in (("proj_size", 0), ("heads", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise InputError(f"{name} is {value!r}; expected a whole number of at least {least}")

    @classmethod
    def of(cls, named: Mapping[str, Any]) -> Options:
        """Options by name, from a model's description.

        Raises
        ------
        InputError
            One has no such name or value.
        """
        known = [f.name for f in fields(cls)]
        for name in named:
            if name not in known:
                raise InputError(f"{name!r} is no option of the LSTM; expected one of {', '.join(known)}")
        return cls(**named)

    @classmethod
    def parse(cls, words: Sequence[str]) -> dict[str, Any]:
        """Options by name, from words of a command line like ``peepholes`` and ``zoneout_h=0.1``.

        Raises
        ------
        InputError
            A word is none.
        """
        named: dict[str, Any] = {}
        defaults = {f.name: f.default for f in fields(cls)}
        for word in words:
            name, equals, text = word.partition("=")
            default = defaults.get(name)
            if isinstance(default, bool):
                value: Any = {"": True, "true": True, "false": False}.get(text.lower(), text)
            elif not equals:
                value = None
            else:
                kinds = (int,) if isinstance(default, int) else (float,)
                try:
                    value = kinds[0](text)
                except ValueError:
                    value = text
            if name in defaults and value is None:
                raise InputError(f"{name} has no value; expected {name}=NUMBER")
            named[name] = value
        cls.of(named)
        return named

    def check_sizes(self, hidden_size: int, num_layers: int, forget_bias: float | None) -> None:
        """Refuse what doesn't go together.

        Raises
        ------
        InputError
            It doesn't.
        """
        if self.proj_size >= hidden_size:
            raise InputError(f"proj_size is {self.proj_size}; expected less than hidden_size={hidden_size}")
        for name, size in (("hidden_size", hidden_size), ("proj_size", self.proj_size)):
            if size % self.heads:
                raise InputError(f"heads is {self.heads}; expected a divisor of {name}={size}")
        if self.residual and num_layers == 1:
            raise InputError("residual is True with num_layers=1; expected a layer above the first, to add its input")
        if not self.bias and forget_bias is not None:
            raise InputError(f"forget_bias is {forget_bias} with bias=False; expected None, there is no bias to set")
        if self.coupled and forget_bias is not None:
            raise InputError(f"forget_bias is {forget_bias} with coupled=True; expected None, f = 1 - i has no bias")

    def on(self) -> dict[str, Any]:
        """The options that differ from their defaults."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}

    def recurrent(self) -> frozenset[str]:
        """Those of them that change the recurrence, which a tier must take."""
        return OPTIONS & set(self.on())

    def parameters(self, hidden_size: int, input_size: int) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter of one layer and direction, by the beginning of its name."""
        gates, out = 4 * hidden_size, self.proj_size or hidden_size
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (gates, input_size),
            "weight_hh": (gates, out // self.heads),
        }
        if self.bias:
            shapes["bias"] = (gates,)
        if self.proj_size:
            shapes["weight_hr"] = (out, hidden_size)
        if self.peepholes:
            shapes["peephole"] = (3, hidden_size)
        if self.layer_norm:
            shapes |= {"gain_ih": (gates,), "gain_hh": (gates,), "gain_c": (hidden_size,), "shift_c": (hidden_size,)}
        if self.learn_state:
            shapes |= {"h0": (out,), "c0": (hidden_size,)}
        return shapes


def for_model(named: Mapping[str, Any] | None, forget_bias: float | None) -> dict[str, Any]:
    """Arguments of a model's LSTM: options by name, and a forget gate's bias where there is one to set.

    Raises
    ------
    InputError
        One has no such name or value, or is none for a model.
    """
    options = Options.of(named or {})
    if options.cells:
        raise InputError("cells is True; expected False, a model takes h only")
    return {**options.on(), "forget_bias": None if options.coupled or not options.bias else forget_bias}


def torch_names(name: str) -> list[str]:
    """PyTorch's names of a parameter, also behind a prefix: of an LSTM's bias there are two, which are added up."""
    prefix, dot, last = name.rpartition(".")
    if not last.startswith("bias_l"):
        return [name]
    return [f"{prefix}{dot}{last.replace('bias', both, 1)}" for both in ("bias_ih", "bias_hh")]


STARTS = {"gain_ih": 1.0, "gain_hh": 1.0, "gain_c": 1.0, "shift_c": 0.0, "h0": 0.0, "c0": 0.0}
"""Where parameters start that don't start at random."""
