"""The door to PyTorch: tensors that aren't what their memory says, weights that are computed, and what is refused."""

import warnings

import numpy as np
import pytest

import gpu_lstm
from gpu_lstm import InputError

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from torch import nn  # noqa: E402
from torch.nn.utils import prune  # noqa: E402
from torch.nn.utils.rnn import PackedSequence  # noqa: E402

from gpu_lstm.interop import torch as door  # noqa: E402


def pair(*args, **options):
    """torch.nn.LSTM and ours with the same parameters."""
    torch.manual_seed(3)
    theirs, ours = nn.LSTM(*args, **options), door.LSTM(*args, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def negative(*shape, dtype=torch.complex64):
    """A tensor with the negative bit: its memory holds its numbers with the other sign."""
    tensor = torch.randn(*shape, dtype=dtype).conj().imag
    assert tensor.is_neg()
    return tensor


class Wrapper(torch.Tensor):  # type: ignore[name-defined,unused-ignore]
    """A tensor without memory: its numbers lie in another one."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, run, types, args=(), kwargs=None):
        unwrap = torch.utils._pytree.tree_map(lambda x: x.inner if isinstance(x, cls) else x, (args, kwargs or {}))
        return run(*unwrap[0], **unwrap[1])


def test_negative_bits_of_what_goes_in():
    theirs, ours = pair(4, 5)
    x, h, c = negative(6, 3, 4), negative(1, 3, 5), negative(1, 3, 5)
    for mine, wanted in zip(ours(x, (h, c))[1], theirs(x, (h, c))[1], strict=True):
        assert torch.allclose(mine, wanted, rtol=0, atol=1e-6)
    y, _ = ours.requires_grad_(False)(x)
    assert torch.allclose(y, theirs(x)[0], rtol=0, atol=1e-6)


def test_negative_bits_of_arriving_gradients():
    theirs, ours = pair(4, 5)
    x, target, found = torch.randn(6, 3, 4), torch.randn(6, 3, 5, dtype=torch.complex64), []
    for module in (theirs, ours):
        given = x.clone().requires_grad_()
        y, _ = module(given)
        (torch.complex(y.detach(), y).conj() * target).real.sum().backward()
        found.append([given.grad, *(param.grad for param in module.parameters())])
    for wanted, mine in zip(*found, strict=True):
        assert torch.allclose(mine, wanted, rtol=0, atol=1e-5)


def test_negative_bits_of_weights():
    theirs, ours = pair(4, 5)
    x = torch.randn(6, 3, 4)
    other = {name: negative(*param.shape) for name, param in theirs.named_parameters()}
    found = [torch.func.functional_call(module, other, (x,))[0] for module in (theirs, ours)]
    assert torch.allclose(*found, rtol=0, atol=1e-6)


def test_layers_refuse_tensors_that_are_not_what_their_memory_says():
    lstm = gpu_lstm.LSTM(4, 5, backend="numpy")
    with pytest.raises(InputError, match=r"x is a torch.Tensor with the negative bit; pass x.resolve_neg\(\)"):
        lstm.forward(negative(6, 3, 4))
    with pytest.raises(InputError, match=r"x is a .*Wrapper, whose numbers lie elsewhere"):
        lstm.forward(Wrapper(torch.randn(6, 3, 4)))
    x = negative(6, 3, 4).resolve_neg()
    np.testing.assert_array_equal(lstm.forward(x)[0], lstm.forward(x.numpy())[0])


def test_tensors_without_memory_go_through_operations_of_pytorch():
    theirs, ours = pair(4, 5)
    x = torch.randn(6, 3, 4)
    assert torch.equal(ours(Wrapper(x))[0], theirs(x)[0])
    with pytest.raises(InputError, match="to_torch makes of it, which has no peepholes"):
        door.LSTM(4, 5, peepholes=True)(Wrapper(x))


@pytest.mark.parametrize("make", ["to_sparse", "to_sparse_csr", "to_mkldnn"])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning")
def test_tensors_that_are_not_dense_are_refused(make):
    ours, x = door.LSTM(4, 5), torch.randn(6, 3, 4)
    with pytest.raises(InputError, match=r"input has layout .*; expected a dense one: input.to_dense\(\)"):
        ours(getattr(x, make)())
    assert ours(getattr(x, make)().to_dense())[0].shape == (6, 3, 5)


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.float64], ids=str)
def test_autocast_does_not_hide_another_dtype(dtype):
    theirs, ours = pair(4, 5)
    x, state = torch.randn(6, 3, 4), torch.zeros(1, 3, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(RuntimeError):
            theirs(x.to(dtype))
        with pytest.raises(InputError, match=f"input has dtype {dtype}; expected torch.float32"):
            ours(x.to(dtype))
        with pytest.raises(InputError, match=f"c0 has dtype {dtype}; expected torch.float32"):
            ours(x, (state, state.to(dtype)))


def test_many_gradients_at_once_are_refused():
    ours, x = door.LSTM(4, 5), torch.randn(6, 3, 4)
    with pytest.raises(InputError, match="takes one gradient at a time; .*to_torch"):
        torch.func.jacrev(lambda x: ours(x)[0].sum(0))(x)
    x.requires_grad_()
    with pytest.raises(InputError, match="gradient is a tensor that can't be read; .*to_torch"):
        torch.autograd.grad(ours(x)[0], x, torch.ones(2, 6, 3, 5), is_grads_batched=True)


@pytest.mark.parametrize("sizes", [[3, 2], [3, 2, 2], [2, 3, 1], [3, 2, 0, 1], [3, 3, 0], [7, -1], []], ids=str)
def test_packed_sequences_that_do_not_add_up_are_refused(sizes):
    packed = PackedSequence(torch.randn(6, 4), torch.tensor(sizes, dtype=torch.int64))
    with pytest.raises(InputError, match=r"input has batch_sizes \[.*\] of 6 rows of data"):
        door.LSTM(4, 5)(packed)


# -- weights that are computed -----------------------------------------------------------------------------------------


def old_norm(norm):
    def apply(module, name):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the older form is deprecated
            norm(module, name)

    return apply


COMPUTED = {
    "weight norm": nn.utils.parametrizations.weight_norm,
    "spectral norm": nn.utils.parametrizations.spectral_norm,
    "older weight norm": old_norm(nn.utils.weight_norm),
    "older spectral norm": old_norm(nn.utils.spectral_norm),
    "pruning": lambda module, name: prune.l1_unstructured(module, name, 0.5),
}


@pytest.mark.parametrize("how", COMPUTED)
@pytest.mark.parametrize("kind", [nn.LSTM, door.LSTM], ids=["torch.nn", "ours"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_from_torch_takes_weights_that_are_computed(how, kind, training):
    torch.manual_seed(0)
    module, x = kind(4, 5, 2), torch.randn(6, 3, 4)
    for name in ("weight_hh_l0", "weight_ih_l1"):
        COMPUTED[how](module, name)
    module(x)[0].sum().backward()
    with torch.no_grad():  # as an optimizer does; what hooks have computed is stale now
        for param in module.parameters():
            param += 0.3 * torch.randn_like(param)
    module.train(training)
    layer = door.from_torch(module)
    y = layer.forward(x)[0]
    np.testing.assert_allclose(y, module(x)[0].detach(), rtol=0, atol=2e-6)
    np.testing.assert_allclose(door.to_torch(layer)(x)[0].detach(), y, rtol=0, atol=2e-6)


def test_from_torch_draws_nothing_and_calls_no_hooks_for_plain_weights():
    module, seen = nn.LSTM(4, 5, 2, dropout=0.5), []
    module.register_forward_pre_hook(lambda *_: seen.append("before"))
    state = torch.get_rng_state()
    door.from_torch(module)
    nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")
    module.register_forward_hook(lambda *_: seen.append("after"))
    door.from_torch(module)
    assert torch.equal(torch.get_rng_state(), state)
    assert seen == ["before"]


class Counted(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, weight):
        self.calls += 1
        return 2 * weight


@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0", "bias_hh_l1"])
def test_computed_weights_are_computed_as_often_as_by_pytorch(name):
    counts, outputs = [], []
    for module in pair(4, 5, 2):
        nn.utils.parametrize.register_parametrization(module, name, Counted())
        counter, seen = module.parametrizations[name][0], []
        for _ in range(3):
            counter.calls = 0
            y, _ = module(torch.ones(2, 3, 4), (torch.zeros(2, 3, 5), torch.zeros(2, 3, 5)))
            seen.append(counter.calls)
        counts.append(seen)
        outputs.append(y.detach())
    assert counts[0] == counts[1]
    assert torch.allclose(*outputs, rtol=0, atol=1e-6)


def test_spectral_norm_moves_on_as_with_pytorch():
    theirs, ours = pair(4, 5)
    x, outputs = torch.randn(6, 3, 4), []
    for module in (theirs, ours):
        torch.manual_seed(1)
        nn.utils.parametrizations.spectral_norm(module, "weight_hh_l0")
        outputs.append(torch.stack([module(x)[0].detach() for _ in range(3)]))
    assert torch.allclose(*outputs, rtol=0, atol=1e-6)
