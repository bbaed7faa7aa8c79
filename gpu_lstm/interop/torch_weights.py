"""PyTorch's parameters as ours and back: state dicts, and the weights that a module is about to compute with."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gpu_lstm import layers
from gpu_lstm.errors import InputError
from gpu_lstm.layers.options import torch_names


def state_dict(lstm: layers.LSTM) -> dict[str, Tensor]:
    """Copy the parameters of `lstm`, under PyTorch's names, on the layer's device; ``bias_hh`` is zero."""
    found = {}
    for name, array in lstm.params.items():
        first, *second = torch_names(name)
        found[first] = torch.from_dlpack(array).clone()
        found |= {other: torch.zeros_like(found[first]) for other in second}
    return found


def load_state_dict(lstm: layers.LSTM, tensors: Mapping[str, Tensor], prefix: str = "") -> None:
    """Copy parameters under PyTorch's names into a `gpu_lstm.LSTM`; its two biases are added up.

    Parameters
    ----------
    lstm : gpu_lstm.LSTM
    tensors : mapping of str to Tensor
        As ``state_dict()`` gives them; on any device, of any float dtype.
    prefix : str
        What the names begin with, ``"encoder.lstm."`` for a part of a larger model; other names are left alone.

    Raises
    ------
    InputError
        A name is missing, a shape is another, or under the prefix is a name that the layer doesn't have; nothing was
        copied.
    """
    found = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    expected = {name: tuple(tensor.shape) for name, tensor in state_dict(lstm).items()}
    odd = sorted(found.keys() ^ expected.keys())
    if odd:
        sides = [f"{prefix}{name} ({'missing' if name in expected else 'not expected'})" for name in odd]
        raise InputError(f"state dict has not the layer's names: {', '.join(sides)}")
    for name, shape in expected.items():
        if tuple(found[name].shape) != shape:
            raise InputError(f"{prefix}{name} has shape {tuple(found[name].shape)}; expected {shape}")
    with torch.no_grad():
        for name, param in lstm.params.items():
            target = torch.from_dlpack(param)
            parts = [found[one].detach().to(target.device, target.dtype) for one in torch_names(name)]
            target.copy_(parts[0] if len(parts) == 1 else parts[0] + parts[1])


def weights_of(module: nn.LSTM, names: Sequence[str]) -> dict[str, Tensor]:
    """Return the weights that the module's next forward call would take.

    What isn't a parameter is computed of others: by a parametrization, or by a hook before each forward call, as by
    pruning and by the older norms. A copy of the module computes it.
    """
    if any(name not in module._parameters for name in names):
        held = [*module._flat_weights, *vars(module).values()]
        memo: dict[int, Any] = {id(t): t.detach() for t in held if isinstance(t, Tensor) and not t.is_leaf}
        module = copy.deepcopy(module, memo)
        module._flat_weight_refs = [weakref.ref(weight) for weight in module._flat_weights]  # of the copy's own
        module._forward_hooks.clear()
        module.forward = lambda *_: module._update_flat_weights()  # type: ignore[method-assign,unused-ignore]
        with torch.no_grad():
            module(torch.zeros(1, 1, module.input_size))
            computed = dict(zip(module._flat_weights_names, module._flat_weights, strict=True))
            return {name: computed[name] if name in computed else getattr(module, name) for name in names}
    return {name: module._parameters[name] for name in names}
