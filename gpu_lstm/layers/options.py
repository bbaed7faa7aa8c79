"""The options of the LSTM family: a row each, from which follow their checks, the words of a command line and docs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, TypedDict

import numpy as np

from gpu_lstm.errors import InputError
from gpu_lstm.layers.checks import check_number, is_number
from gpu_lstm.recurrence.variant import ACTIVATIONS, OPTIONS


class Kind(NamedTuple):
    """What values an option takes, in words and as a check; how a command line gives one."""

    expected: str
    fits: Callable[[Any], bool]
    read: Callable[[str], Any]
    placeholder: str = "NUMBER"


def _whole(least: int) -> Kind:
    def fits(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    return Kind(f"a whole number of at least {least}", fits, int)


_SWITCH = Kind(
    "True or False",
    lambda value: isinstance(value, bool),
    lambda text: {"": True, "true": True, "false": False}.get(text.lower(), text),
    "",
)
_PROBABILITY = Kind("a probability in [0, 1)", lambda value: is_number(value) and 0 <= value < 1, float)
_ACTIVATION = Kind(
    f"one of {', '.join(map(repr, ACTIVATIONS))}",
    lambda value: isinstance(value, str) and value in ACTIVATIONS,
    str,
    "NAME",
)
_LIMIT = Kind(
    "a number above 0, or None", lambda value: value is None or (is_number(value) and 0 < value < math.inf), float
)


def _row(kind: Kind, default: Any, about: str, equation: str = "", source: str = "", parameters: str = "") -> Any:
    """Make an option's row: with `default` the LSTM is the plain one.

    The rest is what docs/understand/variants.md says of it: its name in words, what it changes (h', c' are the state
    before the step, s is the sigmoid), where it is from, and the parameters that a layer has more.
    """
    metadata = {"kind": kind, "about": about, "equation": equation, "source": source, "parameters": parameters}
    return field(default=default, metadata=metadata)


class Given(TypedDict, total=False):
    """The options' types, for signatures that end in ``**options: Unpack[Given]``."""

    bias: bool
    proj_size: int
    peepholes: bool
    coupled: bool
    hard_sigmoid: bool
    clip: float | None
    cell_clip: float | None
    layer_norm: bool
    zoneout_h: float
    zoneout_c: float
    input_dropout: float
    recurrent_dropout: float
    weight_dropout: float
    residual: bool
    learn_state: bool
    cells: bool
    heads: int
    cell_activation: str


@dataclass(frozen=True)
class Options:
    """What `gpu_lstm.LSTM` takes beyond sizes, a row an option. All are off by default, as in the plain LSTM.

    Raises InputError where a value is none that its option takes.
    """

    bias: bool = _row(_SWITCH, True, "no bias", "b = 0", parameters="no `bias`")
    proj_size: int = _row(
        _whole(0), 0, "projected LSTM", "h = W_hr (o tanh c)", "Sak et al., Interspeech 2014", "`weight_hr` (P, H)"
    )
    peepholes: bool = _row(
        _SWITCH, False, "peephole connections", "i = s(z_i + p_i c'), f = s(z_f + p_f c'), o = s(z_o + p_o c)",
        "Gers, Schmidhuber, IJCNN 2000", "`peephole` (3, H)",
    )  # fmt: skip
    coupled: bool = _row(_SWITCH, False, "coupled input and forget gate", "f = 1 - i", "Greff et al., 2015")
    hard_sigmoid: bool = _row(
        _SWITCH, False, "hard sigmoid", "s(z) = min(max(z/5 + 1/2, 0), 1)", "Courbariaux et al., 2015"
    )
    clip: float | None = _row(
        _LIMIT, None, "clipped gates", "z of the gates, with the peepholes' terms, limited to ±a",
        "ONNX, operator LSTM, as ONNX Runtime has it",
    )  # fmt: skip
    cell_clip: float | None = _row(_LIMIT, None, "cell clipping", "c limited to ±a", "Sak et al., 2014")
    layer_norm: bool = _row(
        _SWITCH, False, "layer-normalised LSTM",
        "z = N(x W_ih^T) g_ih + N(h' W_hh^T) g_hh + b, h = o tanh(N(c) g_c + b_c)", "Ba et al., 2016, eq. 20-22",
        "`gain_ih`, `gain_hh` (4H), `gain_c`, `shift_c` (H)",
    )  # fmt: skip
    zoneout_h: float = _row(
        _PROBABILITY, 0.0, "zoneout", "h keeps elements of h' with probability p", "Krueger et al., 2016, eq. 5, 6"
    )
    zoneout_c: float = _row(
        _PROBABILITY, 0.0, "zoneout", "c keeps elements of c' with probability p; h takes the new c",
        "Krueger et al., 2016, eq. 5, 6",
    )  # fmt: skip
    input_dropout: float = _row(
        _PROBABILITY, 0.0, "variational dropout", "one mask on x for all steps", "Gal, Ghahramani, 2016"
    )
    recurrent_dropout: float = _row(
        _PROBABILITY, 0.0, "variational dropout", "one mask on the h' of W_hh h' for all steps", "Gal, Ghahramani, 2016"
    )
    weight_dropout: float = _row(
        _PROBABILITY, 0.0, "DropConnect", "one mask on W_hh for all steps", "Merity et al., 2017"
    )
    residual: bool = _row(
        _SWITCH, False, "residual connections", "a layer above the first adds its input", "Kim et al., Interspeech 2017"
    )
    learn_state: bool = _row(
        _SWITCH, False, "learned initial state", "h_0, c_0 where none is given", parameters="`h0` (H), `c0` (H)"
    )
    cells: bool = _row(_SWITCH, False, "c of every step, and gradients into it", "y = (h, c)")
    heads: int = _row(
        _whole(1), 1, "block-diagonal recurrence", "each group of H/n units sees its own h'",
        "Kuchaiev, Ginsburg, 2017", "`weight_hh` (4H, H/n)",
    )  # fmt: skip
    cell_activation: str = _row(
        _ACTIVATION, "tanh", "rectified cell", "g = a(z_g), h = o a(c), a(x) = max(x, 0) or max(x, 0.01 x)",
        "Maas et al., 2013; Keras, argument `activation`",
    )  # fmt: skip

    def __post_init__(self) -> None:
        for row in fields(self):
            value, kind = getattr(self, row.name), row.metadata["kind"]
            if isinstance(value, np.generic):  # arithmetic of its few bits would wrap around
                value = value.item()
                object.__setattr__(self, row.name, value)
            if not kind.fits(value):
                raise InputError(f"{row.name} is {value!r}; expected {kind.expected}")

    @classmethod
    def of(cls, named: Mapping[str, Any]) -> Options:
        """Make the `named` options, from a model's description.

        Raises
        ------
        InputError
            An option has no such name or value.
        """
        known = [row.name for row in fields(cls)]
        for name in named:
            if name not in known:
                raise InputError(f"{name!r} is no option of the LSTM; expected one of {', '.join(known)}")
        return cls(**named)

    @classmethod
    def parse(cls, words: Sequence[str]) -> dict[str, Any]:
        """Read options by name, from words of a command line like ``peepholes`` and ``zoneout_h=0.1``.

        Raises InputError where a word is no option, or has no value that the option takes.
        """
        named: dict[str, Any] = {}
        kinds = {row.name: row.metadata["kind"] for row in fields(cls)}
        for word in words:
            name, equals, text = word.partition("=")
            kind = kinds.get(name, _SWITCH)
            if not equals and kind.placeholder:
                raise InputError(f"{name} has no value; expected {name}={kind.placeholder}")
            try:
                named[name] = kind.read(text)
            except ValueError:
                named[name] = text
        cls.of(named)
        return named

    @classmethod
    def words(cls) -> str:
        """Return the words that `parse` takes, for a command line's help."""
        return ", ".join(f"{row.name}={row.metadata['kind'].placeholder}".rstrip("=") for row in fields(cls))

    def check_sizes(self, hidden_size: int, num_layers: int, forget_bias: float | None) -> None:
        """Refuse what doesn't go together with `hidden_size`, `num_layers` and `forget_bias`.

        Raises InputError where two of them don't go together, or one with a size.
        """
        if forget_bias is not None:
            check_number("forget_bias", forget_bias)
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
        """Return the options that differ from their defaults."""
        return {row.name: getattr(self, row.name) for row in fields(self) if getattr(self, row.name) != row.default}

    def recurrent(self) -> frozenset[str]:
        """Return those of `on` that change the recurrence, which a tier must take."""
        return OPTIONS & set(self.on())

    def parameters(self, hidden_size: int, input_size: int) -> dict[str, tuple[int, ...]]:
        """Return shapes of all parameters of a layer (`hidden_size`, `input_size`) and direction, by name."""
        gates, out = 4 * hidden_size, self.proj_size or hidden_size
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (gates, input_size), "weight_hh": (gates, out // self.heads)}
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


NOISE = tuple(row.name for row in fields(Options) if row.metadata["kind"] is _PROBABILITY)
"""Options that draw random numbers while training."""


def for_model(named: Mapping[str, Any] | None, forget_bias: float | None) -> dict[str, Any]:
    """Return arguments of a model's LSTM: options by name, and a forget gate's bias where there is one to set.

    Raises InputError where an option has no such name or value, or is none for a model.
    """
    if not isinstance(named, Mapping | None):
        raise InputError(f"lstm is {named!r}; expected options by name")
    options = Options.of(named or {})
    if options.cells:
        raise InputError("cells is True; expected False, a model takes h only")
    return {**options.on(), "forget_bias": None if options.coupled or not options.bias else forget_bias}


def torch_names(name: str) -> list[str]:
    """Return PyTorch's names of a parameter, also behind a prefix: an LSTM's bias is the sum of two."""
    prefix, dot, last = name.rpartition(".")
    if not last.startswith("bias_l"):
        return [name]
    return [f"{prefix}{dot}{last.replace('bias', both, 1)}" for both in ("bias_ih", "bias_hh")]


STARTS = {"gain_ih": 1.0, "gain_hh": 1.0, "gain_c": 1.0, "shift_c": 0.0, "h0": 0.0, "c0": 0.0}
"""Where parameters start that don't start at random."""
