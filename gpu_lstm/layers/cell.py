"""The LSTM one step at a time: for loops of the user's own, and for whatever decides on its next input as it goes."""

from __future__ import annotations

from typing import Any

from gpu_lstm.backend import Array, Backend
from gpu_lstm.errors import InputError
from gpu_lstm.layers.base import Layer, Params, Tape
from gpu_lstm.layers.lstm import LSTM
from gpu_lstm.recurrence import Plan


class LSTMCell(Layer):
    """One layer, one step a call.

    It gives what `gpu_lstm.LSTM` gives for a sequence, on the reference tier to the last bit: the same functions run,
    over one step. What that draws at random for all steps together must be the same at all steps: give each call the
    same seed for `input_dropout`, `recurrent_dropout` and `weight_dropout`, another one for zoneout.

    Parameters
    ----------
    input_size, hidden_size : int
        D and H.
    forget_bias, backend, dtype, tier, seed
        As of `gpu_lstm.LSTM`.
    **options
        Those of `gpu_lstm.LSTM` from `bias` on, but `residual`, which needs layers, and `cells`, which a cell always
        gives.

    Attributes
    ----------
    params : dict
        ``weight_ih`` (4H, D), ``weight_hh`` (4H, H), ``bias`` (4H,), and those of the options.

    Examples
    --------
    >>> cell = LSTMCell(8, 16, backend="numpy")
    >>> state, tapes = None, []
    >>> for x in np.ones((5, 3, 8), dtype="float32"):
    ...     h, c, tape = cell.forward(x, state)
    ...     state, tapes = (h, c), [*tapes, tape]
    >>> h.shape, c.shape
    ((3, 16), (3, 16))
    >>> dx, (dh, dc), gradients = cell.backward(tapes.pop(), dh=np.ones_like(h))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        forget_bias: float | None = None,
        backend: str | Backend | None = None,
        dtype: str = "float32",
        tier: str = "auto",
        seed: int | tuple[int, ...] = 0,
        **options: Any,
    ):
        super().__init__(backend, dtype)
        for name in ("residual", "cells"):
            if name in options:
                raise InputError(f"{name} is an option of LSTM; a cell has none")
        self._lstm = LSTM(
            input_size, hidden_size, forget_bias=forget_bias, backend=self.backend, dtype=dtype, tier=tier, seed=seed,
            **options,
        )  # fmt: skip
        self.input_size, self.hidden_size = self._lstm.input_size, self._lstm.hidden_size
        self.output_size, self.options = self._lstm.output_size, self._lstm.options
        self._params = self._lstm.params.renamed({name: name.removesuffix("_l0") for name in self._lstm.params})

    @property
    def plan(self) -> Plan:
        """Which tier runs; ``plan.why()`` explains it."""
        return self._lstm.plan

    def forward(
        self,
        x: Array,
        state: tuple[Array | None, Array | None] | None = None,
        seed: int | tuple[int, ...] | None = None,
        keep: bool = True,
        *,
        guard: bool = True,
    ) -> tuple[Array, Array, Tape]:
        """Take one step.

        x and the parameters lie on the tape themselves; until `backward` has run they must stay as they are, and where
        they don't, `backward` says so.

        Parameters
        ----------
        x : (B, input_size)
        state : (h, c), (B, P) and (B, H), optional
            Before the step; None, for the pair or for one of them, is zero, or what was learned with `learn_state`.
        seed : int or tuple of int, optional
            Given while training: seeds all that is drawn at random.
        keep : bool
            False for inference: nothing is saved for `backward`.
        guard : bool
            False for a caller who writes to neither x nor the parameters before `backward`: nothing is checked.

        Returns
        -------
        h, c : (B, P) and (B, H)
            After the step.
        tape : Tape
            For `backward`.

        Raises
        ------
        InputError
            An argument has the wrong shape, dtype, device or value; nothing was computed.
        """
        x = self.backend.require("x", x, ("B", f"input_size={self.input_size}"), self.dtype)
        given = (None, None) if state is None else state
        if not isinstance(given, tuple | list) or len(given) != 2:
            raise InputError(f"state is {type(state).__name__}; expected a pair (h, c)")
        first = self._one_layer(("h", "c"), given, x.shape[0])
        _, (h, c), tape = self._lstm.forward(x[None, ...], (first[0], first[1]), seed=seed, keep=keep, guard=False)
        guarded: Params = {}
        if guard and keep:
            guarded = {name.removesuffix("_l0"): array for name, array in self._lstm.needed().items()} | {"x": x}
        return h[0, ...], c[0, ...], Tape(self, (tape, x.shape[0]) if keep else None, guarded)

    def backward(
        self, tape: Tape, dh: Array | None = None, dc: Array | None = None
    ) -> tuple[Array, tuple[Array, Array], Params]:
        """Backpropagate through the step.

        Parameters
        ----------
        tape : Tape
            From `forward`; used once.
        dh, dc : (B, P) and (B, H), or None
            All that arrives at h and c, from the loss and from the step after; None is zero.

        Returns
        -------
        dx : (B, input_size)
        dstate : (dh, dc), (B, P) and (B, H)
            Gradient of the state before the step.
        gradients : dict
            Of every parameter, by name; a loop adds up those of its steps.

        Raises
        ------
        InputError
            The tape was used before or is that of another layer, x or a parameter was written to since `forward`, or an
            argument has the wrong shape, dtype or device; nothing was computed, and the tape is as it was.
        """
        inner, batch = self.read(tape)
        last = self._one_layer(("dh", "dc"), (dh, dc), batch)
        tape.spend()
        dx, (dh0, dc0), gradients = self._lstm.backward(inner, None, (last[0], last[1]))
        names = {name.removesuffix("_l0"): gradient for name, gradient in gradients.items()}
        return dx[0, ...], (dh0[0, ...], dc0[0, ...]), names

    def _one_layer(self, names: tuple[str, str], pair: Any, batch: int) -> list[Array | None]:
        """Return a checked pair like (h, c), as the state of a stack of one layer."""
        taken = []
        kinds = zip((self.output_size, self.hidden_size), (self.dtype, self.param_dtype), strict=True)
        for name, array, (size, dtype) in zip(names, pair, kinds, strict=True):
            whole = None if array is None else self.backend.require(name, array, (batch, size), dtype)
            taken.append(None if whole is None else whole[None, ...])
        return taken
