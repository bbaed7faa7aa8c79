"""PyTorch: `LSTM`, a ``torch.nn.LSTM`` whose recurrence runs in our tiers, and weights both ways.

    from gpu_lstm.interop.torch import LSTM  # in place of: from torch.nn import LSTM

Tensors aren't copied on the way in or out: on a CPU both sides see the same memory, on a GPU CuPy works on the memory
and on the current stream of PyTorch. Only PyTorch's own autograd, optimizers and modules are around.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from gpu_lstm import layers
from gpu_lstm.backend import Backend, NumpyBackend
from gpu_lstm.errors import InputError
from gpu_lstm.interop.torch_autograd import PLAIN, Call, Recurrence, backend_of, core, nothing, untraced
from gpu_lstm.interop.torch_checks import check_call, check_rank, computed_in, name_of, recorded, tracing
from gpu_lstm.interop.torch_weights import load_state_dict, state_dict, weights_of
from gpu_lstm.layers.options import NOISE, Options, torch_names

__all__ = ["LSTM", "from_torch", "load_state_dict", "state_dict", "to_module", "to_torch"]

DEFAULTS = {field.name: field.default for field in dataclasses.fields(Options)}
"""Of the options that change what is computed."""


class LSTM(nn.LSTM):
    """``torch.nn.LSTM``, its recurrence computed by gpu_lstm, with the variants of `gpu_lstm.LSTM` as further options.

    Everything about it is ``torch.nn.LSTM``'s: arguments, attributes, names and start of the parameters, packed
    sequences, 2-D input, errors, warnings. State dicts load both ways. ``docs/doors/pytorch.md`` says where not.
    Where PyTorch records or transforms operations, in tracing, exporting, ``vmap`` or forward-mode derivatives for
    instance, those of ``torch.nn.LSTM`` run.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype
        Those of ``torch.nn.LSTM``.
    **options
        Further options of `gpu_lstm.LSTM`, ``peepholes=True`` for instance, ``tier`` and ``recompute`` among them.
        Parameters that an option brings follow PyTorch's, under the names of `gpu_lstm.LSTM`.

    Raises
    ------
    ValueError, TypeError
        As ``torch.nn.LSTM`` does; `InputError` is a ValueError. Also where operations of ``torch.nn.LSTM`` would have
        to run with an option that it lacks, and where quantisation asks for the module.
    BackendError
        A RuntimeError: at the first call, where the tensors' device has no backend here.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
        **options: Any,
    ):
        for name in ("backend", "seed"):
            if name in options:
                raise TypeError(f"LSTM got an argument {name}; the tensors' device and torch.manual_seed decide that")
        self.options = options
        self._complete = not options  # until then there is nothing to start
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype
        )
        if self.dropout == 1:
            raise InputError("dropout is 1.0; expected a probability in [0, 1)")
        if options:
            self._add_parameters()

    def _add_parameters(self) -> None:
        """Register what the options bring, or shape anew, and let it start."""
        like = self.weight_ih_l0
        for name, array in self._make(NumpyBackend(), "float32").params.items():
            if name.startswith("bias_l"):
                continue
            if not hasattr(self, name) or getattr(self, name).shape != array.shape:
                new = nn.Parameter(torch.empty(array.shape, device=like.device, dtype=like.dtype))
                ending = name[name.index("_l") + 1 :]
                place = next(names for names in self._all_weights if f"weight_ih_{ending}" in names)
                if name not in place:
                    place.append(name)
                setattr(self, name, new)
        self._complete = True
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start all parameters anew, PyTorch's own as ``torch.nn.LSTM`` does."""
        if not self._complete:
            return
        super().reset_parameters()
        if not self.options:
            return
        start = self._make(NumpyBackend(), "float32", seed=_draw_seed())
        with torch.no_grad():
            for name, array in start.params.items():
                if hasattr(self, name):
                    if name not in self._flat_weights_names:
                        getattr(self, name).copy_(torch.from_numpy(array))
                elif self.options.get("forget_bias") is not None and name.startswith("bias_l"):
                    forget = slice(self.hidden_size, 2 * self.hidden_size)
                    for one, value in zip(torch_names(name), (self.options["forget_bias"], 0), strict=True):
                        getattr(self, one)[forget] = value

    def __setattr__(self, name: str, value: Any) -> None:
        # Quantisation goes by a module's exact type: it would leave this one in float without a word.
        if name == "qconfig" and (value is not None or nn.LSTM in sys._getframe(1).f_locals.get("qconfig_dict", ())):
            raise InputError(f"LSTM of gpu_lstm can't be quantised; {PLAIN}, which can")
        super().__setattr__(name, value)

    def __prepare_scriptable__(self) -> nn.LSTM:
        """Return what ``torch.jit.script`` compiles in its place: a ``torch.nn.LSTM`` with the same parameters."""
        self._check_plain("scripted")
        plain = nn.LSTM.__new__(nn.LSTM)
        plain.__dict__ |= {name: value for name, value in vars(self).items() if name not in ("options", "_complete")}
        return plain

    def flatten_parameters(self) -> None:
        """Do nothing: cuDNN wants its weights in one piece of memory, our kernels don't."""

    def extra_repr(self) -> str:
        """Return the arguments that aren't at their defaults."""
        return ", ".join([super().extra_repr(), *(f"{name}={value!r}" for name, value in self.options.items())])

    def forward(  # type: ignore[override,unused-ignore]
        self,
        input: Tensor | PackedSequence,
        hx: tuple[Tensor, Tensor] | None = None,
        lengths: Sequence[int] | Tensor | None = None,
        resets: Tensor | None = None,
    ) -> tuple[Any, tuple[Tensor, Tensor]]:
        """Run all layers over all steps.

        Parameters
        ----------
        input : Tensor or PackedSequence
            (T, B, input_size), (B, T, input_size) with batch_first, or (T, input_size) for one sequence. A packed
            sequence is padded first, which costs a copy; `lengths` doesn't. One whose sizes don't add up to its rows is
            refused.
        hx : (h0, c0), optional
            Initial state, as ``torch.nn.LSTM`` takes it.
        lengths : B whole numbers in 0..T, optional
            Steps of each sequence of a padded batch, in any order; `output` is zero after a sequence's end.
        resets : like input without its last axis, bool, optional
            True at the first step of an episode, see `gpu_lstm.LSTM`; not for packed sequences.

        Returns
        -------
        output : like input
            With ``cells=True`` the pair of that and c of each step.
        hx : (h, c)
        """
        further = {"hx": hx, "lengths": lengths, "resets": resets}
        further = {name: value for name, value in further.items() if value is not None}
        if tracer := tracing((input, hx, *(hx if isinstance(hx, list | tuple) else ()), lengths, resets), self):
            # One step of the graph, as PyTorch's own modules are.
            return tracer.create_proxy("call_module", tracer.path_of_module(self), (input,), further)
        packed = isinstance(input, PackedSequence)
        if recorded((input.data if packed else input, *(hx or ()), *self._parameters.values())):
            self._check_plain("recorded or transformed", lengths=lengths, resets=resets)
            return super().forward(input, hx)
        self._update_flat_weights()
        batch_sizes = sorted_indices = unsorted_indices = None
        if packed:
            if lengths is not None or resets is not None:
                raise ValueError("LSTM: expected neither lengths nor resets beside a PackedSequence")
            x, batch_sizes, sorted_indices, unsorted_indices = input
            if hx is not None:
                hx = self.permute_hidden(hx, sorted_indices)
        else:
            x = input
            if x.dim() not in (2, 3):
                raise ValueError(f"LSTM: Expected input to be 2D or 3D, got {x.dim()}D instead")
        unbatched, batch_dim = not packed and x.dim() == 2, 0 if self.batch_first else 1
        if hx is not None and not packed:
            check_rank(hx, 2 if unbatched else 3)
        if unbatched:
            x = x.unsqueeze(batch_dim)
            hx = None if hx is None else (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
        check_call(self, x, hx, batch_sizes)
        if packed:
            x, lengths = pad_packed_sequence(PackedSequence(x, batch_sizes))
        elif self.batch_first:
            x = x.transpose(0, 1).contiguous()
        if resets is not None:
            resets = resets.unsqueeze(1) if unbatched else resets.transpose(0, 1) if self.batch_first else resets

        outputs, h, c = self._run(x, hx, lengths, resets)

        if packed:
            outputs = [pack_padded_sequence(y, lengths).data for y in outputs]
            outputs = [PackedSequence(y, batch_sizes, sorted_indices, unsorted_indices) for y in outputs]
            h, c = self.permute_hidden((h, c), unsorted_indices)
        elif self.batch_first:
            outputs = [y.transpose(0, 1) for y in outputs]
        if unbatched:
            outputs, h, c = [y.squeeze(batch_dim) for y in outputs], h.squeeze(1), c.squeeze(1)
        return outputs[0] if len(outputs) == 1 else tuple(outputs), (h, c)

    def _check_plain(self, what: str, **given: Any) -> None:
        """Refuse what ``torch.nn.LSTM`` lacks, where that has to run."""
        more = [name for name, value in self.options.items() if value != DEFAULTS.get(name, value)]
        more += [name for name, value in given.items() if value is not None]
        if more:
            raise InputError(
                f"LSTM of gpu_lstm is {what} as the torch.nn.LSTM that gpu_lstm.interop.torch.to_torch makes of it, "
                f"which has no {', '.join(more)}"
            )

    def _run(self, x: Tensor, hx: Any, lengths: Any, resets: Tensor | None) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return outputs, h and c of a time-major batch."""
        weights = dict(zip(self._flat_weights_names, self._flat_weights, strict=True))  # what PyTorch has computed
        kept_dtype = weights["weight_ih_l0"].dtype
        dtype = computed_in(kept_dtype)
        lstm, names = core(backend_of(x.device), name_of(dtype), *self._arguments())
        call = Call(lstm, names, lengths, None if resets is None else resets.clone())
        noisy = bool(self.dropout) or any(map(self.options.get, NOISE))
        if self.training and noisy:
            call.seed = (_draw_seed(),)
        h0, c0 = (None, None) if hx is None else (state.to(dtype) for state in hx)
        tensors = [x.to(dtype), h0, c0, *(self._weight(name, weights, dtype) for name in names)]
        call.keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
        h, c, *outputs = untraced(nothing if x.size(1) == 0 else Recurrence.apply)(call, *tensors)
        if not torch.is_autocast_enabled(x.device.type):
            h, c, *outputs = (tensor.to(kept_dtype) for tensor in (h, c, *outputs))
        return outputs, h, c

    def _weight(self, name: str, weights: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Return the parameter of `gpu_lstm.LSTM` that has this name."""
        one, *other = (
            (weights[part] if part in weights else getattr(self, part)).to(dtype) for part in torch_names(name)
        )
        one = one.contiguous()  # as kernels want it, and as it nearly always is
        return one + other[0] if other else one

    def _arguments(self) -> tuple[int, int, int, tuple[tuple[str, Any], ...]]:
        """Return the arguments of `gpu_lstm.LSTM` that are this module's, without those about arrays."""
        return self.input_size, self.hidden_size, self.num_layers, tuple((named(self) | self.options).items())

    def _make(self, backend: Backend, dtype: str, seed: int = 0) -> layers.LSTM:
        """Make a `gpu_lstm.LSTM` like this module, with parameters of its own."""
        *sizes, named = self._arguments()
        return layers.LSTM(*sizes, **dict(named), backend=backend, dtype=dtype, seed=seed)


def named(module: nn.LSTM) -> dict[str, Any]:
    """Return the arguments of a ``torch.nn.LSTM`` that `gpu_lstm.LSTM` takes by the same name, sizes aside."""
    flags = {name: bool(getattr(module, name)) for name in ("bidirectional", "bias")}
    return flags | {name: getattr(module, name) for name in ("dropout", "proj_size")}


def _draw_seed() -> int:
    """Draw a seed from PyTorch's generator of the CPU."""
    return int(torch.randint(2**62, (), dtype=torch.int64, device="cpu"))


def from_torch(
    module: nn.LSTM, *, backend: str | Backend | None = None, tier: str = "auto", recompute: bool = False
) -> layers.LSTM:
    """Make a `gpu_lstm.LSTM` with the options and copies of the parameters of a ``torch.nn.LSTM``, or of `LSTM`.

    PyTorch's two biases are added up to our one.

    Parameters
    ----------
    module : torch.nn.LSTM
        16-bit parameters become float32.
    backend : str, Backend or None
        None: the one of the module's device.
    tier, recompute
        Those of `gpu_lstm.LSTM`.

    Raises
    ------
    InputError
        `module` is no ``torch.nn.LSTM``.
    BackendError
        The backend, or that of the module's device, can't run here.

    Examples
    --------
    >>> import torch
    >>> from gpu_lstm.interop.torch import from_torch
    >>> module = torch.nn.LSTM(8, 16)
    >>> y, state, tape = from_torch(module).forward(torch.ones(20, 3, 8))
    >>> bool(abs(y - module(torch.ones(20, 3, 8))[0].detach().numpy()).max() < 1e-6)
    True
    """
    if not isinstance(module, nn.LSTM):
        raise InputError(f"module is a {type(module).__name__}; expected a torch.nn.LSTM")
    weight = module.weight_ih_l0
    further = module.options if isinstance(module, LSTM) else {}
    options = named(module) | {name: value for name, value in further.items() if name in DEFAULTS}
    lstm = layers.LSTM(
        module.input_size, module.hidden_size, module.num_layers, batch_first=bool(module.batch_first), **options,
        backend=backend_of(weight.device) if backend is None else backend, dtype=name_of(computed_in(weight.dtype)),
        tier=tier, recompute=recompute,
    )  # fmt: skip
    load_state_dict(lstm, weights_of(module, [one for name in lstm.params for one in torch_names(name)]))
    return lstm


def to_torch(lstm: layers.LSTM) -> nn.LSTM:
    """Make a ``torch.nn.LSTM`` with options and copies of the parameters of `lstm`, a `gpu_lstm.LSTM`, on its device.

    Our one bias becomes PyTorch's ``bias_ih``; ``bias_hh`` is zero.

    Raises
    ------
    InputError
        An option is none of ``torch.nn.LSTM``'s; the message names it. `to_module` takes all.
    """
    options = lstm.options.on()
    more = [f"{name}={value!r}" for name, value in options.items() if name not in ("bias", "proj_size")]
    if more:
        raise InputError(f"torch.nn.LSTM has no {', '.join(more)}; gpu_lstm.interop.torch.to_module(lstm) has")
    return _filled(nn.LSTM, lstm, options)


def to_module(lstm: layers.LSTM) -> LSTM:
    """Make an `LSTM` of this file with the options of `lstm`, a `gpu_lstm.LSTM`, and copies of its parameters."""
    options = lstm.options.on()
    if lstm.tier != "auto":
        options["tier"] = lstm.tier
    if lstm.recompute:
        options["recompute"] = True
    module: LSTM = _filled(LSTM, lstm, options)
    return module


def _filled(kind: Any, lstm: layers.LSTM, options: dict[str, Any]) -> Any:
    """Make a module of a kind with the parameters of a layer."""
    tensors = state_dict(lstm)
    like = tensors["weight_ih_l0"]
    module = kind(
        lstm.input_size, lstm.hidden_size, lstm.num_layers, batch_first=lstm.batch_first, dropout=lstm.dropout.p,
        bidirectional=lstm.num_directions == 2, device=like.device, dtype=like.dtype, **options,
    )  # fmt: skip
    module.load_state_dict(tensors)
    return module
