"""The door to PyTorch: what backward needs goes through PyTorch, so that its hooks reach it."""

import weakref

import numpy as np
import pytest

import gpu_lstm
from gpu_lstm.layers.changed import changed

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from torch import nn  # noqa: E402
from torch.autograd.graph import (  # noqa: E402
    allow_mutation_on_saved_tensors,
    save_on_cpu,
    saved_tensors_hooks,
)
from torch.utils.checkpoint import checkpoint  # noqa: E402

from gpu_lstm.interop import torch as door  # noqa: E402

OPTIONS = {
    "plain": {},
    "stack with dropout": {"num_layers": 3, "dropout": 0.3},
    "both directions": {"num_layers": 2, "bidirectional": True, "batch_first": True},
    "reference": {"num_layers": 2, "tier": "reference"},
    "recompute": {"num_layers": 2, "recompute": True},
    "projection": {"proj_size": 2},
    "cells": {"cells": True, "num_layers": 2},
    "many": {"num_layers": 2, "peepholes": True, "layer_norm": True, "residual": True, "zoneout_c": 0.2, "heads": 2},
    "drops": {"num_layers": 2, "weight_dropout": 0.3, "input_dropout": 0.3, "recurrent_dropout": 0.3},
}
every = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def problem(options, steps=7, batch=2):
    """A module, and x, h0 and c0 for it."""
    torch.manual_seed(3)
    module = door.LSTM(3, 4, **options, dtype=torch.float64)
    members = module.num_layers * (2 if module.bidirectional else 1)
    shapes = [(steps, batch, 3), (members, batch, module.proj_size or 4), (members, batch, 4)]
    if module.batch_first:
        shapes[0] = (batch, steps, 3)
    return module, [torch.randn(shape, dtype=torch.float64) for shape in shapes]


def run(module, x, h0, c0):
    torch.manual_seed(5)
    y, (h, c) = module(x, (h0, c0))
    return [*(y if type(y) is tuple else (y,)), h, c]


def gradients(module, given, outputs):
    loss = sum((out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)).sum() for out in outputs)
    return torch.autograd.grad(loss, [*given, *module.parameters()])


def expected(module, given):
    given = [tensor.clone().requires_grad_() for tensor in given]
    return gradients(module, given, run(module, *given))


def assert_same(found, wanted):
    for mine, other in zip(found, wanted, strict=True):
        assert torch.equal(mine, other)


SHORT = [pytest.param(options, 7, 2, id=name) for name, options in OPTIONS.items()]
LONG = [pytest.param(OPTIONS[name], 40, 410, id=f"{name}, in segments") for name in ("plain", "recompute")]


@pytest.mark.parametrize("options, steps, batch", SHORT + LONG)
def test_mutation_of_what_was_saved(options, steps, batch):
    module, given = problem(options, steps, batch)
    wanted = expected(module, given)
    leaves = [tensor.clone().requires_grad_() for tensor in given]
    with allow_mutation_on_saved_tensors():
        inner = [leaf * 1 for leaf in leaves]
        outputs = run(module, *inner)
        loss = sum((out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)).sum() for out in outputs)
        with torch.no_grad():
            for tensor in (*inner, *outputs, *module.parameters()):
                tensor.mul_(0)
        found = torch.autograd.grad(loss, [*leaves, *module.parameters()])
        assert not any(tensor.any() for tensor in (*inner, *outputs, *module.parameters())), "they stay as written"
    assert_same(found, wanted)


def transposed(tensor):
    """The same numbers in another order of memory."""
    return tensor.detach().transpose(0, -1).clone(memory_format=torch.contiguous_format).transpose(0, -1)


@every
@pytest.mark.parametrize("unpack", [lambda tensor: tensor, torch.clone, transposed], ids=["same", "copy", "strides"])
def test_hooks_that_move_what_is_saved(options, unpack):
    module, given = problem(options)
    wanted = expected(module, given)
    leaves = [tensor.clone().requires_grad_() for tensor in given]
    with saved_tensors_hooks(lambda tensor: tensor.detach().clone(), unpack):
        found = gradients(module, leaves, run(module, *leaves))
    assert_same(found, wanted)
    with save_on_cpu():
        assert_same(gradients(module, leaves, run(module, *leaves)), wanted)


@every
@pytest.mark.parametrize("reentrant", [False, True], ids=["not reentrant", "reentrant"])
def test_checkpoints(options, reentrant):
    module, given = problem(options)
    wanted = expected(module, given)
    leaves = [tensor.clone().requires_grad_() for tensor in given]
    outputs = checkpoint(lambda *args: tuple(run(module, *args)), *leaves, use_reentrant=reentrant)
    loss = sum((out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)).sum() for out in outputs)
    loss.backward()
    assert_same([tensor.grad for tensor in (*leaves, *module.parameters())], wanted)


def watch(monkeypatch):
    """Weak references to all arrays of the recurrence that backward needs, as they are made."""
    made, forward = [], gpu_lstm.LSTM.forward

    def spy(self, *args, **more):
        y, state, tape = forward(self, *args, **more)

        def note(value):
            if isinstance(value, np.ndarray):
                made.append(weakref.ref(value))
            return value

        changed(tape, note)
        return y, state, tape

    monkeypatch.setattr(gpu_lstm.LSTM, "forward", spy)
    return made


@pytest.mark.parametrize("how", ["plain", "checkpoint", "moved"])
def test_nothing_stays_that_hooks_dropped(how, monkeypatch):
    made = watch(monkeypatch)
    module, (x, *_) = problem({"num_layers": 2})
    x.requires_grad_()
    if how == "checkpoint":
        y = checkpoint(lambda x: module(x)[0], x, use_reentrant=False)
    elif how == "moved":
        with saved_tensors_hooks(lambda tensor: tensor.detach().clone(), lambda tensor: tensor):
            y, _ = module(x)
    else:
        y, _ = module(x)
    gates = [ref for ref in made if ref() is not None and ref().ndim == 3 and ref().shape[-1] == 16]
    assert len(gates) == {"plain": 2, "checkpoint": 0, "moved": 0}[how]
    assert len(made) > 8
    y.sum().backward()


def test_what_is_saved_is_what_backward_needs():
    """Everything in the memory of another tensor is saved once: h of all steps with its initial state, c, gates."""
    sizes = []
    module, (x, h0, c0) = problem({"num_layers": 2})
    with saved_tensors_hooks(lambda tensor: sizes.append(tensor.numel()) or tensor, lambda tensor: tensor):
        run(module, x, h0, c0)
    steps, batch, hidden, params = 7, 2, 4, sum(p.numel() for p in module.parameters()) - 2 * 16
    states = 2 * 2 * (steps + 1) * batch * hidden
    gates = 2 * steps * batch * 4 * hidden
    y = steps * batch * hidden
    assert sum(sizes) == x.numel() + h0.numel() + c0.numel() + params + states + gates + y


def test_transforms_and_threads_of_the_graph():
    module, given = problem({"num_layers": 2})
    wanted = expected(module, given)

    def loss(*given):
        outputs = run(module, *given)
        return sum((out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)).sum() for out in outputs)

    assert_same(torch.func.grad(loss, argnums=(0, 1, 2))(*given), wanted[:3])
    nested = torch.func.grad(lambda scale: torch.func.vjp(lambda x: loss(x, *given[1:]), given[0])[0] * scale)
    assert torch.allclose(nested(torch.ones((), dtype=torch.float64)), loss(*given))


def test_modules_side_by_side_in_one_graph():
    torch.manual_seed(0)
    theirs = nn.ModuleList([nn.LSTM(3, 3, dtype=torch.float64) for _ in range(3)])
    ours = nn.ModuleList([door.LSTM(3, 3, dtype=torch.float64) for _ in range(3)])
    ours.load_state_dict(theirs.state_dict())
    x, found = torch.randn(5, 2, 3, dtype=torch.float64), []
    for stack in (theirs, ours):
        y = x
        for module in stack:
            y = checkpoint(lambda y, module=module: module(y)[0], y, use_reentrant=False) + y
        y.square().sum().backward()
        found.append([param.grad for param in stack.parameters()])
    for wanted, mine in zip(*found, strict=True):
        assert torch.allclose(mine, wanted, rtol=0, atol=1e-12)
