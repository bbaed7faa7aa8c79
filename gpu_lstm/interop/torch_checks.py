"""What `gpu_lstm.interop.torch.LSTM` refuses, in ``torch.nn.LSTM``'s words, and what it leaves to PyTorch's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from gpu_lstm.errors import InputError

DISPATCH = Tensor.__torch_dispatch__
"""What only classes of tensors that have no memory of their own replace."""


def recorded(tensors: Iterable[Any]) -> bool:
    """Return whether PyTorch wants operations of its own: it traces, exports or transforms, or has no numbers."""
    grad = torch._C._functorch.TransformType.Grad
    return bool(
        torch.jit.is_tracing()
        or torch.compiler.is_exporting()
        or get_proxy_mode() is not None
        or forward_ad._current_level >= 0
        or any(transform.key() != grad for transform in torch._C._functorch.get_interpreter_stack() or ())
        # No tensor, such as None of an initial state, has the method.
        or any(getattr(type(tensor), "__torch_dispatch__", DISPATCH) != DISPATCH for tensor in tensors)
    )


def tracing(given: Iterable[Any], module: nn.Module) -> Any:
    """Return the tracer of ``torch.fx`` that an argument is from; None without one, or where the module is its root."""
    found = next((value.tracer for value in given if isinstance(value, torch.fx.Proxy)), None)
    return None if found is None or found.root is module else found


def computed_in(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that the recurrence computes in, for parameters of a dtype."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def name_of(dtype: torch.dtype) -> str:
    """Return a dtype's name, as NumPy has it."""
    return str(dtype).removeprefix("torch.")


def check_call(module: nn.LSTM, x: Tensor, hx: Any, batch_sizes: Tensor | None) -> None:
    """Refuse what ``torch.nn.LSTM`` refuses, by the same error."""
    weight = module._flat_weights[0]
    if batch_sizes is not None:
        check_sizes(batch_sizes, x)
    if hx is None:
        module.check_input(x, batch_sizes)
    else:
        if len(hx) != 2:
            raise RuntimeError("lstm expects two hidden states")
        module.check_forward_args(x, hx, batch_sizes)
        for state in hx:
            check_state(state, x, weight)
    if weight.device != x.device:
        raise RuntimeError(
            f"Input and parameter tensors are not at the same device, found input tensor at {x.device} "
            f"and parameter tensor at {weight.device}"
        )
    if batch_sizes is None and x.size(1 if module.batch_first else 0) == 0:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
    if not weight.dtype.is_floating_point:
        raise InputError(f"weight_ih_l0 has dtype {weight.dtype}; expected real floating-point parameters")
    dtype = computed_in(weight.dtype)
    for name, tensor in zip(("input", "h0", "c0"), (x, *(hx or ())), strict=False):
        if tensor.layout != torch.strided:
            raise InputError(f"{name} has layout {tensor.layout}; expected a dense one: {name}.to_dense()")
        if not tensor.is_floating_point() or torch.promote_types(tensor.dtype, dtype) != dtype:
            raise InputError(f"{name} has dtype {tensor.dtype}; expected {dtype}, or fewer bits under autocast")


def check_state(state: Tensor, x: Tensor, weight: Tensor) -> None:
    """Refuse an initial state on another device than the input, or of another dtype than the parameters."""
    if state.device != x.device:
        raise RuntimeError(
            f"Input and hidden tensors are not at the same device, found input tensor at {x.device} "
            f"and hidden tensor at {state.device}"
        )
    if state.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        raise RuntimeError(
            f"RNN hidden dtype ({state.dtype}) does not match weight dtype ({weight.dtype}). "
            f"Convert hx: hx.to({weight.dtype})"
        )


def check_sizes(batch_sizes: Tensor, data: Tensor) -> None:
    """Refuse a packed sequence that is none: PyTorch's own reads past its end."""
    sizes = batch_sizes.tolist()
    falls = all(size >= after for size, after in zip(sizes, [*sizes[1:], 1], strict=False))
    if not sizes or not falls or sum(sizes) != data.size(0):
        raise InputError(
            f"input has batch_sizes {sizes} of {data.size(0)} rows of data; expected sizes that fall to 1 at least and "
            f"add up to the rows"
        )


def check_rank(hx: tuple[Tensor, Tensor], rank: int) -> None:
    """Refuse states of another rank than the input's, in ``torch.nn.LSTM``'s words."""
    if hx[0].dim() != rank or hx[1].dim() != rank:
        raise RuntimeError(
            f"For {'batched 3-D' if rank == 3 else 'unbatched 2-D'} input, hx and cx should also be {rank}-D but got "
            f"({hx[0].dim()}-D, {hx[1].dim()}-D) tensors"
        )
