"""The door to PyTorch: weights both ways, and the module that stands in for torch.nn.LSTM."""

import copy
import io
import pickle
import subprocess
import sys
import types
import warnings

import numpy as np
import pytest

import gpu_lstm
from gpu_lstm import BackendError, InputError
from gpu_lstm.recurrence import runnable_tiers
from tests.support import NUMPY, relative_error

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from torch import nn  # noqa: E402
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence  # noqa: E402

from gpu_lstm.interop import torch as door  # noqa: E402
from gpu_lstm.interop import torch_autograd  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")

F64 = {"dtype": torch.float64}
EVERY = [
    {},
    {"num_layers": 3},
    {"bidirectional": True},
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
    {"batch_first": True, "num_layers": 2},
    {"bias": False, "num_layers": 2},
    {"proj_size": 2},
    {"proj_size": 2, "num_layers": 2, "bidirectional": True, "batch_first": True, "bias": False},
]


@pytest.fixture(autouse=True)
def one_thread():
    """For tiny sizes PyTorch's threads do nothing but wait for each other, on a busy machine for long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def name_of(options):
    return ", ".join(f"{name}={value}" for name, value in options.items()) or "plain"


every_option = pytest.mark.parametrize("options", EVERY, ids=name_of)


def pair(*args, **options):
    """torch.nn.LSTM and ours with the same parameters, started from the same seed."""
    torch.manual_seed(3)
    theirs = nn.LSTM(*args, **options)
    torch.manual_seed(3)
    ours = door.LSTM(*args, **options)
    for (name, one), (name_too, other) in zip(theirs.named_parameters(), ours.named_parameters(), strict=True):
        assert name == name_too
        assert torch.equal(one, other), "both start alike"
    return theirs, ours


def inputs(module, steps=6, batch=3, state=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, steps) if module.batch_first else (steps, batch)
    directions = 2 if module.bidirectional else 1
    dtype = module.weight_ih_l0.dtype
    x = torch.randn(*shape, module.input_size, generator=generator, dtype=dtype, requires_grad=True)
    if not state:
        return x, None
    count = module.num_layers * directions
    sizes = [(count, batch, size) for size in (module.proj_size or module.hidden_size, module.hidden_size)]
    return x, tuple(torch.randn(s, generator=generator, dtype=dtype, requires_grad=True) for s in sizes)


def tensors_of(result):
    y, (h, c) = result
    return (y.data if isinstance(y, PackedSequence) else y), h, c


def results(module, x, hx, pack=lambda x: x):
    """Outputs and all gradients of a random sum of them, by name."""
    outputs = tensors_of(module(pack(x), hx))
    generator = torch.Generator().manual_seed(9)
    loss = sum((out * torch.randn(out.shape, generator=generator, dtype=out.dtype)).sum() for out in outputs)
    wanted = {"x": x, **dict(module.named_parameters())}
    if hx is not None:
        wanted |= {"h0": hx[0], "c0": hx[1]}
    gradients = torch.autograd.grad(loss, list(wanted.values()))
    named = {name: out.detach() for name, out in zip(("y", "h", "c"), outputs, strict=True)}
    return named | {f"d{name}": gradient for name, gradient in zip(wanted, gradients, strict=True)}


def assert_equal(found, expected, limit=1e-12):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].shape == tensor.shape, name
        assert found[name].dtype == tensor.dtype, name
        assert relative_error(found[name].double().numpy(), tensor.double().numpy()) < limit, name


# -- the module: results -----------------------------------------------------------------------------------------------


@every_option
@pytest.mark.parametrize("tier", runnable_tiers(NUMPY))
@pytest.mark.parametrize("state", [True, False], ids=["state", "no state"])
def test_outputs_and_gradients_are_those_of_pytorch(options, tier, state):
    theirs, ours = pair(3, 4, **options, **F64)
    ours.options["tier"] = "auto" if tier == "sequence" and "proj_size" in options else tier
    x, hx = inputs(theirs, state=state)
    assert_equal(results(ours, x, hx), results(theirs, x, hx))


@every_option
@pytest.mark.parametrize("lengths", [[6, 4, 1], [2, 6, 3]], ids=["sorted", "unsorted"])
@pytest.mark.parametrize("state", [True, False], ids=["state", "no state"])
def test_packed_sequences(options, lengths, state):
    theirs, ours = pair(3, 4, **options, **F64)
    x, hx = inputs(theirs, state=state)

    def pack(x):
        return pack_padded_sequence(x, lengths, ours.batch_first, enforce_sorted=False)

    def pack_sorted(x):
        return pack_padded_sequence(x, sorted(lengths, reverse=True), ours.batch_first)

    for how in (pack, pack_sorted):
        assert_equal(results(ours, x, hx, how), results(theirs, x, hx, how))
        y, wanted = (module(how(x), hx)[0] for module in (ours, theirs))
        assert isinstance(y, PackedSequence)
        for mine, part in zip(y[1:], wanted[1:], strict=True):
            assert (mine is None and part is None) or torch.equal(mine, part)


@every_option
def test_lengths_of_a_padded_batch_save_the_packing(options):
    _, ours = pair(3, 4, **options, **F64)
    x, hx = inputs(ours)
    lengths = torch.tensor([2, 6, 3])
    packed, state = ours(pack_padded_sequence(x, lengths, ours.batch_first, enforce_sorted=False), hx)
    y, (h, c) = ours(x, hx, lengths=lengths)
    assert torch.equal(y, pad_packed_sequence(packed, ours.batch_first)[0])
    assert torch.equal(h, state[0])
    assert torch.equal(c, state[1])
    with pytest.raises(ValueError, match="neither lengths nor resets beside a PackedSequence"):
        ours(packed, hx, lengths=lengths)


@every_option
@pytest.mark.parametrize("state", [True, False], ids=["state", "no state"])
def test_one_sequence_needs_no_batch_axis(options, state):
    theirs, ours = pair(3, 4, **options, **F64)
    x, hx = inputs(theirs, batch=1, state=state)
    x = x.detach().squeeze(0 if ours.batch_first else 1).requires_grad_()
    hx = hx and tuple(part.detach().squeeze(1).requires_grad_() for part in hx)
    assert_equal(results(ours, x, hx), results(theirs, x, hx))


@every_option
def test_a_batch_of_nothing_gives_nothing(options):
    theirs, ours = pair(3, 4, **options, **F64)
    x, hx = inputs(theirs, batch=0)
    found, expected = results(ours, x, hx), results(theirs, x, hx)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name  # empty, or zeros


@every_option
def test_gradcheck(options):
    module = door.LSTM(2, 3, **options, **F64)
    x, hx = inputs(module, steps=4, batch=2)
    weights = list(module.parameters())
    for weight in weights:  # as gradcheck wants it: leaves that it may nudge
        assert weight.is_leaf
    assert torch.autograd.gradcheck(lambda x, h, c, *_: tensors_of(module(x, (h, c))), (x, *hx, *weights))


def test_gradcheck_of_packed_sequences():
    module = door.LSTM(2, 3, 2, bidirectional=True, **F64)
    x, hx = inputs(module, steps=4, batch=3)

    def run(x, h, c):
        return tensors_of(module(pack_padded_sequence(x, [2, 4, 1], enforce_sorted=False), (h, c)))

    assert torch.autograd.gradcheck(run, (x, *hx))


@pytest.mark.parametrize("which", range(3), ids=["y", "h", "c"])
def test_outputs_that_nobody_uses_cost_no_gradient(which):
    theirs, ours = pair(3, 4, 2, **F64)
    x, hx = inputs(theirs)
    found = [
        torch.autograd.grad(tensors_of(module(x, hx))[which].square().sum(), [x, *hx, *module.parameters()])
        for module in (ours, theirs)
    ]
    for mine, wanted in zip(*found, strict=True):
        assert relative_error(mine.numpy(), wanted.numpy()) < 1e-12


def test_a_retained_graph_gives_the_same_gradients_again():
    module = door.LSTM(3, 4, 2, dropout=0.5, **F64)
    x, hx = inputs(module)
    loss = module(x, hx)[0].square().sum()
    first = torch.autograd.grad(loss, [x, *module.parameters()], retain_graph=True)
    again = torch.autograd.grad(loss, [x, *module.parameters()])
    assert all(map(torch.equal, first, again))
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(loss, [x])


@pytest.mark.parametrize("by", ["x", "weight"])
def test_second_derivatives_are_refused_by_name(by):
    module = door.LSTM(3, 4, **F64)
    x, hx = inputs(module)
    y = module(x, hx)[0].sum()  # linear in y: what arrives at backward needs no gradient itself
    (gradient,) = torch.autograd.grad(y, [{"x": x, "weight": module.weight_hh_l0}[by]], create_graph=True)
    penalized = y + gradient.square().sum()
    with pytest.raises(NotImplementedError, match=r"gpu_lstm\.interop\.torch\.LSTM has no second derivatives"):
        penalized.backward()


@pytest.mark.parametrize("what", ["input", "output", "weight"])
def test_writing_to_what_backward_needs_is_refused(what):
    theirs, ours = pair(3, 4)
    for module in (theirs, ours):
        x = inputs(module)[0].detach()
        y, _ = module(x)
        with torch.no_grad():
            {"input": x, "output": y, "weight": module.weight_hh_l0}[what].mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


def test_two_backward_passes_add_up_and_share_no_memory():
    theirs, ours = pair(3, 4, **F64)
    for module in (theirs, ours):
        for _ in range(2):
            module(inputs(module)[0])[0].square().sum().backward()
    for mine, wanted in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert relative_error(mine.grad.numpy(), wanted.grad.numpy()) < 1e-12
    assert ours.bias_ih_l0.grad.data_ptr() != ours.bias_hh_l0.grad.data_ptr()


def test_functional_call_uses_the_tensors_it_is_given():
    theirs, ours = pair(3, 4, **F64)
    x, _ = inputs(theirs)
    other = {name: param.detach() * 2 for name, param in theirs.named_parameters()}
    found = [torch.func.functional_call(module, other, (x,))[0] for module in (ours, theirs)]
    assert torch.allclose(*found, rtol=0, atol=1e-12)


def test_gradients_by_transforms():
    theirs, ours = pair(3, 4, **F64)
    x = inputs(theirs)[0].detach()
    found = [torch.func.grad(lambda x, run=module: run(x)[0].square().sum())(x) for module in (ours, theirs)]
    assert torch.allclose(*found, rtol=0, atol=1e-12)


def test_checkpointed_layers_draw_the_same_elements_again():
    module = door.LSTM(3, 4, 2, dropout=0.5, **F64)
    x, hx = inputs(module)
    torch.manual_seed(1)
    expected = torch.autograd.grad(module(x, hx)[0].square().sum(), list(module.parameters()))
    torch.manual_seed(1)
    y, _ = torch.utils.checkpoint.checkpoint(module, x, hx, use_reentrant=False)
    assert all(map(torch.equal, torch.autograd.grad(y.square().sum(), list(module.parameters())), expected))


# -- the module: memory ------------------------------------------------------------------------------------------------


def test_nothing_is_copied_on_the_way_in_or_out(monkeypatch):
    module = door.LSTM(3, 4, 2)
    seen = {}
    forward = gpu_lstm.LSTM.forward

    def spy(self, x, state, *rest, **named):
        y, final, tape = forward(self, x, state, *rest, **named)
        seen.update(x=x, h0=state[0], y=y, h=final[0], **self.params)
        return y, final, tape

    monkeypatch.setattr(gpu_lstm.LSTM, "forward", spy)
    x, hx = inputs(module)
    y, (h, _) = module(x, hx)
    for name, tensor in {"x": x, "h0": hx[0], "y": y, "h": h, "weight_ih_l1": module.weight_ih_l1}.items():
        assert seen[name].ctypes.data == tensor.data_ptr(), name


def test_inference_keeps_nothing(monkeypatch):
    module = door.LSTM(3, 4, 2)
    kept = []
    forward = gpu_lstm.LSTM.forward
    monkeypatch.setattr(
        gpu_lstm.LSTM, "forward", lambda self, *args, **named: kept.append(args[4]) or forward(self, *args, **named)
    )
    x = inputs(module)[0]
    expected = module(x)[0].detach()
    with torch.no_grad():
        assert torch.equal(module(x)[0], expected)
    with torch.inference_mode():
        assert torch.equal(module(x)[0], expected)
    module.requires_grad_(False)
    assert torch.equal(module(x.detach())[0], expected)
    assert kept == [True, False, False, False]


# -- the module: dropout, dtypes, autocast -----------------------------------------------------------------------------


def test_dropout_follows_the_seed_and_the_mode():
    module = door.LSTM(8, 8, 2, dropout=0.5)
    x = inputs(module)[0]
    torch.manual_seed(0)
    first, other = module(x)[0], module(x)[0]
    torch.manual_seed(0)
    assert torch.equal(module(x)[0], first)
    assert not torch.equal(first, other)
    module.eval()
    assert torch.equal(module(x)[0], module(x)[0])
    plain = copy.deepcopy(module).train()
    plain.dropout = 0.0  # as torch.nn.LSTM, it looks at each call
    assert torch.equal(plain(x)[0], module(x)[0])
    state = torch.get_rng_state()
    plain(x)
    assert torch.equal(torch.get_rng_state(), state), "without dropout nothing is drawn"


def test_dropout_gradients_belong_to_the_elements_kept():
    module = door.LSTM(2, 3, 2, dropout=0.5, **F64)
    x, hx = inputs(module, steps=3, batch=2)

    def run(x, h, c):
        torch.manual_seed(4)
        return tensors_of(module(x, (h, c)))

    assert torch.autograd.gradcheck(run, (x, *hx))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_16_bit_modules_compute_in_32_bits_and_round(dtype):
    module = door.LSTM(3, 4, 2).to(dtype)
    x, hx = inputs(module)
    y, (h, c) = module(x, hx)
    assert y.dtype == h.dtype == c.dtype == dtype
    wide = copy.deepcopy(module).float()
    assert torch.equal(y, wide(x.float(), tuple(part.float() for part in hx))[0].to(dtype))
    y.sum().backward()
    assert x.grad.dtype == module.weight_hh_l0.grad.dtype == dtype


def test_autocast_computes_in_float32():
    net = nn.ModuleDict({"before": nn.Linear(3, 3), "lstm": door.LSTM(3, 4), "after": nn.Linear(4, 1)})
    x = torch.randn(5, 2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = net["before"](x)
        y, (h, c) = net["lstm"](narrow)
        loss = net["after"](y).square().mean()
        again, _ = net["lstm"](narrow, (h.bfloat16(), c))
    assert narrow.dtype == torch.bfloat16
    assert y.dtype == h.dtype == c.dtype == again.dtype == torch.float32
    assert torch.equal(y, net["lstm"](narrow.float())[0])
    loss.backward()
    assert all(param.grad.dtype == torch.float32 and param.grad.isfinite().all() for param in net.parameters())


# -- the module: what PyTorch users do with modules --------------------------------------------------------------------


def saved(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@every_option
@pytest.mark.parametrize(
    "again", [copy.deepcopy, saved, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "torch.save", "pickle"]
)
def test_it_survives(options, again):
    module = door.LSTM(3, 4, **options, **F64)
    x, hx = inputs(module)
    expected = results(module, x, hx)
    twin = again(module)
    assert_equal(results(twin, x, hx), expected, 1e-300)
    assert repr(twin) == repr(module)
    with torch.no_grad():
        twin.weight_hh_l0.zero_()
    assert_equal(results(module, x, hx), expected, 1e-300)


@every_option
def test_state_dicts_load_both_ways(options):
    theirs, ours = nn.LSTM(3, 4, **options), door.LSTM(3, 4, **options)
    ours.load_state_dict(theirs.state_dict())
    x, hx = inputs(theirs)
    assert_equal(results(ours, x, hx), results(theirs, x, hx), 1e-5)
    with torch.no_grad():
        ours.weight_ih_l0.mul_(2)
    theirs.load_state_dict(ours.state_dict())
    assert_equal(results(ours, x, hx), results(theirs, x, hx), 1e-5)


def test_it_moves_between_dtypes():
    theirs, ours = pair(3, 4, 2)
    for dtype in (torch.float64, torch.float32, torch.float64):
        theirs, ours = theirs.to(dtype), ours.to(dtype)
        x, hx = inputs(theirs)
        assert_equal(results(ours, x, hx), results(theirs, x, hx), 1e-12 if dtype == torch.float64 else 1e-5)


def test_it_looks_like_torch_nn_lstm():
    options = {"num_layers": 2, "batch_first": True, "dropout": 0.25, "bidirectional": True}
    theirs, ours = pair(3, 4, **options)
    assert isinstance(ours, nn.LSTM)
    assert repr(ours) == repr(theirs)
    for name in ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional",
                 "proj_size", "training", "mode"):  # fmt: skip
        assert getattr(ours, name) == getattr(theirs, name), name
    assert [[w.shape for w in layer] for layer in ours.all_weights] == [
        [w.shape for w in layer] for layer in theirs.all_weights
    ]
    ours.flatten_parameters()
    torch.manual_seed(5)
    ours.reset_parameters()
    torch.manual_seed(5)
    theirs.reset_parameters()
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


MISTAKES = {
    "no steps": lambda x, hx: (x[:0], hx),
    "width": lambda x, hx: (x[:, :, :2], hx),
    "dtype": lambda x, hx: (x.double(), hx),
    "integers": lambda x, hx: (x.long(), hx),
    "one axis": lambda x, hx: (x[0, 0], hx),
    "four axes": lambda x, hx: (x[None], hx),
    "an array": lambda x, hx: (x.detach().numpy(), hx),
    "hx of two axes": lambda x, hx: (x, (hx[0][0], hx[1][0])),
    "hx of three axes": lambda x, hx: (x[:, 0], hx),
    "batch of h0": lambda x, hx: (x, (hx[0][:, :1], hx[1])),
    "batch of c0": lambda x, hx: (x, (hx[0], hx[1][:, :1])),
    "layers of h0": lambda x, hx: (x, (hx[0][:1], hx[1])),
    "width of c0": lambda x, hx: (x, (hx[0], hx[1][:, :, :1])),
    "three states": lambda x, hx: (x, (*hx, hx[0])),
    "one state": lambda x, hx: (x, hx[:1]),
    "h0 alone": lambda x, hx: (x, (hx[0], None)),
    "device of x": lambda x, hx: (x.to("meta"), None),
    "device of hx": lambda x, hx: (x, (hx[0].to("meta"), hx[1])),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_refused_as_pytorch_does(mistake):
    theirs, ours = pair(3, 4, 2)
    arguments = MISTAKES[mistake](*inputs(theirs))
    with pytest.raises(Exception) as wanted:
        theirs(*arguments)
    with pytest.raises(type(wanted.value)) as found:
        ours(*arguments)
    assert str(found.value) == str(wanted.value)


def test_states_of_another_dtype_are_refused():
    ours = door.LSTM(3, 4)
    x, hx = inputs(ours)
    with pytest.raises(RuntimeError, match=r"RNN hidden dtype \(torch.float64\) does not match weight dtype"):
        ours(x, (hx[0], hx[1].double()))


@pytest.mark.parametrize("mistake", ["packed", "packed batch"])
def test_mistakes_with_packed_sequences_are_errors_in_both(mistake):
    theirs, ours = pair(3, 4)
    x, hx = inputs(theirs)
    given = pack_padded_sequence(x[:, :, :2] if mistake == "packed" else x, [3, 2, 1])
    for module in (theirs, ours):
        with pytest.raises(RuntimeError):
            module(given, tuple(part[:, :2] for part in hx) if mistake == "packed batch" else None)


WRONG = [
    ((3, 0), {}), ((0, 4), {}), ((3, 4, 0), {}), ((3.0, 4), {}), ((3, 4.0), {}), ((3, 4), {"proj_size": 4}),
    ((3, 4), {"proj_size": -1}), ((3, 4), {"dropout": 2}), ((3, 4), {"dropout": True}), ((3, 4), {"bias": 1}),
    ((3, 4), {"batch_first": 0}), ((3, 4), {"dtype": torch.int32}), ((3,), {}),
]  # fmt: skip


@pytest.mark.parametrize("args, options", WRONG, ids=str)
def test_wrong_options_are_refused_as_pytorch_does(args, options):
    with pytest.raises(Exception) as wanted:
        nn.LSTM(*args, **options)
    with pytest.raises(type(wanted.value)) as found:
        door.LSTM(*args, **options)
    assert str(found.value).rpartition(".")[2] == str(wanted.value).rpartition(".")[2].replace("RNNBase", "LSTM")


def test_options_that_are_nobodys_are_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'forget_gates'"):
        door.LSTM(3, 4, forget_gates=2)
    with pytest.raises(TypeError, match="LSTM got an argument backend; the tensors' device"):
        door.LSTM(3, 4, backend="numpy")
    with pytest.raises(InputError, match="tier is 'fast'"):
        door.LSTM(3, 4, tier="fast")
    with pytest.raises(InputError, match=r"dropout is 1.0; expected a probability in \[0, 1\)"):
        door.LSTM(3, 4, 2, dropout=1.0)


def test_dropout_of_one_layer_warns_as_pytorch_does():
    said = []
    for kind in (nn.LSTM, door.LSTM):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            kind(3, 4, dropout=0.5)
        said.append([(str(warning.message), warning.category) for warning in caught])
    assert said[0] == said[1]
    assert len(said[0]) == 1


def test_devices_without_a_backend_are_refused():
    module = door.LSTM(3, 4, device="meta")
    with pytest.raises(BackendError, match="tensors are on device meta; gpu_lstm runs on cpu and cuda"):
        module(torch.zeros(2, 1, 3, device="meta"))


def test_complex_parameters_are_refused():
    module = door.LSTM(3, 4, dtype=torch.complex64)
    with pytest.raises(InputError, match=r"weight_ih_l0 has dtype torch.complex64; expected real"):
        module(torch.zeros(2, 1, 3, dtype=torch.complex64))


def test_options_of_ours_are_shown_and_start_as_ours():
    module = door.LSTM(3, 4, 2, tier="reference", recompute=True, forget_bias=1.0)
    assert repr(module) == "LSTM(3, 4, num_layers=2, tier='reference', recompute=True, forget_bias=1.0)"
    for layer in range(2):
        total = getattr(module, f"bias_ih_l{layer}") + getattr(module, f"bias_hh_l{layer}")
        assert torch.equal(total[4:8], torch.ones(4))
    x, hx = inputs(module)
    twin = nn.LSTM(3, 4, 2)
    twin.load_state_dict(module.state_dict())
    assert_equal(results(module, x, hx), results(twin, x, hx), 1e-5)


# -- the module: our variants ------------------------------------------------------------------------------------------


VARIANTS: list[dict[str, object]] = [
    {"peepholes": True, "coupled": True},
    {"layer_norm": True, "residual": True},
    {"hard_sigmoid": True, "clip": 0.9, "cell_clip": 0.5, "heads": 3},
    {"learn_state": True, "proj_size": 2},
    {"cells": True, "bias": False},
    {"zoneout_h": 0.3, "zoneout_c": 0.4, "input_dropout": 0.3},
    {"recurrent_dropout": 0.4, "weight_dropout": 0.3, "dropout": 0.2},
    {"peepholes": True, "layer_norm": True, "cells": True, "learn_state": True, "residual": True, "zoneout_c": 0.2},
]
every_variant = pytest.mark.parametrize("options", VARIANTS, ids=name_of)


def variant(options, **more):
    """A module whose parameters are off their starts."""
    torch.manual_seed(2)
    module = door.LSTM(3, 6, 2, **options, **more, **F64)
    with torch.no_grad():
        for param in module.parameters():
            param += 0.2 * torch.randn_like(param)
    return module


def flat(result):
    y, state = result
    outputs = y if type(y) is tuple else (y,)
    return [*((out.data if isinstance(out, PackedSequence) else out) for out in outputs), *state]


@every_variant
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "two ways"])
def test_variants_by_gradcheck(options, bidirectional):
    module = variant(options, bidirectional=bidirectional)
    x, hx = inputs(module, steps=3, batch=2)
    use_state = "learn_state" not in options

    def run(x, h, c, *_):
        torch.manual_seed(5)
        return tuple(flat(module(x, (h, c) if use_state else None)))

    assert torch.autograd.gradcheck(run, (x, *hx, *module.parameters()), fast_mode=True)


@every_variant
def test_variants_equal_the_layer(options):
    module = variant(options, bidirectional=True).eval()
    layer = door.from_torch(module)
    assert layer.options.on() == {name: value for name, value in options.items() if name != "dropout"}
    x, hx = inputs(module)
    y, (h, c), _ = layer.forward(x.detach(), tuple(part.detach() for part in hx))
    for mine, wanted in zip(flat(module(x, hx)), [*(y if isinstance(y, tuple) else (y,)), h, c], strict=True):
        np.testing.assert_array_equal(mine.detach().numpy(), wanted)
    twin = door.to_module(layer).eval()
    assert twin.state_dict().keys() == module.state_dict().keys()
    for mine, wanted in zip(flat(twin(x, hx)), flat(module(x, hx)), strict=True):
        assert relative_error(mine.detach().numpy(), wanted.detach().numpy()) < 1e-12


@every_variant
@pytest.mark.parametrize("again", [copy.deepcopy, saved], ids=["deepcopy", "torch.save"])
def test_variants_survive(options, again):
    module = variant(options, batch_first=True)
    twin = again(module)
    fresh = door.LSTM(3, 6, 2, batch_first=True, **options, **F64)
    fresh.load_state_dict(module.state_dict())
    x, hx = inputs(module)
    outputs = []
    for one in (module, twin, fresh):
        torch.manual_seed(7)
        outputs.append(flat(one(x, hx)))
    for other in outputs[1:]:
        assert all(map(torch.equal, outputs[0], other))
    assert repr(twin) == repr(module)
    assert sum(len(layer) for layer in module.all_weights) == len(list(module.parameters()))


@every_variant
def test_variants_of_packed_sequences_and_of_one(options):
    module = variant(options, bidirectional=True).eval()
    x, hx = inputs(module)
    together = module(x, hx, lengths=[2, 6, 3])
    packed = module(pack_padded_sequence(x, [2, 6, 3], enforce_sorted=False), hx)
    outputs = packed[0] if type(packed[0]) is tuple and not isinstance(packed[0], PackedSequence) else (packed[0],)
    for mine, wanted in zip([pad_packed_sequence(y)[0] for y in outputs], flat(together), strict=False):
        assert torch.equal(mine, wanted)
    alone = module(x[:2, 0], tuple(part[:, 0] for part in hx))
    for mine, wanted in zip(flat(alone)[:-2], flat(together), strict=False):
        assert torch.allclose(mine, wanted[:2, 0], rtol=0, atol=1e-12)
    for mine, wanted in zip(flat(alone)[-2:], flat(together)[-2:], strict=True):
        assert torch.allclose(mine, wanted[:, 0], rtol=0, atol=1e-12)
    for empty, wanted in zip(flat(module(x[:, :0])), flat(together), strict=True):
        assert empty.shape == (wanted.shape[0], 0, wanted.shape[2])


@every_variant
def test_torch_nn_lstm_cannot_express_variants(options):
    layer = door.from_torch(variant(options))
    own = [name for name in options if name not in ("bias", "proj_size", "dropout")]
    with pytest.raises(InputError, match=rf"torch.nn.LSTM has no .*{own[0]}=.*; .*to_module\(lstm\) has"):
        door.to_torch(layer)


def test_variants_start_as_those_of_the_layer():
    options = {"peepholes": True, "layer_norm": True, "learn_state": True, "heads": 2}
    torch.manual_seed(1)
    module = door.LSTM(3, 6, 2, **options)
    torch.manual_seed(1)
    first, _ = module.all_weights[0][:2]
    assert torch.equal(first, nn.LSTM(3, 6, 2).weight_ih_l0)
    assert module.weight_hh_l0.shape == (24, 3)
    assert torch.equal(module.gain_hh_l1, torch.ones(24))
    assert not module.shift_c_l0.any()
    assert not module.h0_l0.any()
    assert module.peephole_l0.abs().max() <= 6**-0.5
    assert not torch.equal(module.peephole_l0, module.peephole_l1)
    before = module.peephole_l0.clone()
    module.reset_parameters()
    assert not torch.equal(module.peephole_l0, before)
    assert [name.partition("_l")[0] for name in module._all_weights[1]] == [
        "weight_ih", "weight_hh", "bias_ih", "bias_hh",
        "peephole", "gain_ih", "gain_hh", "gain_c", "shift_c", "h0", "c0",
    ]  # fmt: skip
    narrow = door.LSTM(3, 6, device="meta", dtype=torch.bfloat16, **options)
    assert {(param.device.type, param.dtype) for param in narrow.parameters()} == {("meta", torch.bfloat16)}


@pytest.mark.parametrize("batch_first", [False, True])
def test_resets_begin_anew(batch_first):
    module = variant({}, batch_first=batch_first)
    x, hx = inputs(module)
    resets = torch.zeros(x.shape[:2], dtype=torch.bool)
    steps = resets.T if batch_first else resets
    steps[2] = True
    y, (h, _) = module(x, hx, resets=resets)
    second = x[:, 2:] if batch_first else x[2:]
    expected, (h_expected, _) = module(second)
    assert torch.allclose(y[:, 2:] if batch_first else y[2:], expected, rtol=0, atol=1e-12)
    assert torch.allclose(h, h_expected, rtol=0, atol=1e-12)
    alone = module(x[0] if batch_first else x[:, 0], resets=steps[:, 0])[0]
    y, _ = module(x, resets=resets)
    assert torch.allclose(alone, y[0] if batch_first else y[:, 0], rtol=0, atol=1e-12)


def test_options_that_do_not_go_together_are_refused():
    with pytest.raises(InputError, match="heads is 4; expected a divisor of hidden_size=6"):
        door.LSTM(3, 6, heads=4)
    with pytest.raises(InputError, match="residual is True with num_layers=1"):
        door.LSTM(3, 6, residual=True)


def test_nobody_pays_for_pytorch_who_does_not_ask_for_it():
    code = "import sys, gpu_lstm, gpu_lstm.interop, gpu_lstm.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- a new user --------------------------------------------------------------------------------------------------------


class Tagger(nn.Module):
    def __init__(self, recurrent):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.lstm = recurrent(8, 16, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, tokens, lengths):
        packed = pack_padded_sequence(self.embedding(tokens), lengths, batch_first=True, enforce_sorted=False)
        return self.head(pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0])


def train(recurrent, autocast=False):
    torch.manual_seed(0)
    model = Tagger(recurrent)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(25):
        tokens = torch.randint(20, (6, 9), generator=generator)
        lengths = torch.randint(1, 10, (6,), generator=generator)
        lengths[2] = 9
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            logits = model(tokens, lengths)
        loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), (tokens % 5).flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_a_training_loop_changes_one_import():
    theirs, ours = train(nn.LSTM), train(door.LSTM)
    assert theirs[-1] < 0.8 * theirs[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_a_training_loop_with_autocast():
    theirs, ours = train(door.LSTM), train(door.LSTM, autocast=True)
    np.testing.assert_allclose(ours, theirs, rtol=0.05)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_torch_compile_leaves_it_alone():
    torch.manual_seed(0)
    net = nn.ModuleList([nn.Linear(3, 3), door.LSTM(3, 4, 2, batch_first=True), nn.Linear(4, 1)])

    def run(x, module=net):
        return module[2](module[1](module[0](x))[0]).square().sum()

    x = torch.randn(2, 5, 3)
    expected = torch.autograd.grad(run(x), list(net.parameters()))
    found = torch.autograd.grad(torch.compile(run, backend="eager")(x), list(net.parameters()))
    for mine, wanted in zip(found, expected, strict=True):
        assert torch.allclose(mine, wanted, rtol=1e-5, atol=1e-7)


def test_parametrizations():
    module = door.LSTM(3, 4, **F64)
    x, hx = inputs(module)
    expected = module(x, hx)[0]
    nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")
    y = module(x, hx)[0]
    assert torch.allclose(y, expected, rtol=0, atol=1e-12)
    y.square().sum().backward()
    assert module.parametrizations.weight_hh_l0.original1.grad.abs().sum() > 0


def test_several_threads_share_a_module():
    import concurrent.futures

    module = door.LSTM(3, 4, 2, **F64)
    cases = [inputs(module, steps=20 + n, batch=5, seed=n) for n in range(8)]
    expected = [results(module, *case) for case in cases]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda case: results(module, *case), cases))
    for mine, wanted in zip(found, expected, strict=True):
        assert_equal(mine, wanted, 1e-300)


# -- weights both ways -------------------------------------------------------------------------------------------------


@every_option
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_from_torch_and_back(options, dtype):
    theirs = nn.LSTM(3, 4, dropout=0.25 if options.get("num_layers") else 0.0, dtype=dtype, **options).eval()
    ours = door.from_torch(theirs)
    assert (ours.dtype, ours.batch_first, ours.dropout.p) == (
        str(dtype).removeprefix("torch."), theirs.batch_first, theirs.dropout
    )  # fmt: skip
    x, hx = inputs(theirs)
    expected = results(theirs, x, hx)
    y, (h, c), tape = ours.forward(x.detach(), tuple(part.detach() for part in hx))
    generator = torch.Generator().manual_seed(9)
    dy, dh, dc = (torch.randn(out.shape, generator=generator, dtype=dtype) for out in (y, h, c))
    dx, (dh0, dc0), gradients = ours.backward(tape, dy, (dh, dc))
    found = {"y": y, "h": h, "c": c, "dx": dx, "dh0": dh0, "dc0": dc0}
    for name, gradient in gradients.items():
        both = ["bias_ih", "bias_hh"] if name.startswith("bias") else ["bias"]
        found |= {f"d{name.replace('bias', one)}": gradient for one in both}
    limit = 1e-12 if dtype == torch.float64 else 1e-5
    assert_equal({name: torch.from_numpy(array) for name, array in found.items()}, expected, limit)

    back = door.to_torch(ours).eval()
    assert type(back) is nn.LSTM
    assert repr(back) == repr(theirs)
    assert_equal(results(back, x, hx), expected, limit)
    for name, param in back.named_parameters():
        if name.startswith("bias_hh"):
            assert not param.any()
    module = door.to_module(ours).eval()
    assert type(module) is door.LSTM
    assert_equal(results(module, x, hx), expected, limit)
    assert_equal(results(door.to_module(door.from_torch(module)).eval(), x, hx), expected, limit)


def test_from_torch_takes_options_and_copies():
    theirs = nn.LSTM(3, 4)
    ours = door.from_torch(theirs, backend="numpy", tier="reference", recompute=True)
    assert (ours.plan.tier, ours.recompute) == ("reference", True)
    before = ours.params["weight_hh_l0"].copy()
    with torch.no_grad():
        theirs.weight_hh_l0.zero_()
    np.testing.assert_array_equal(ours.params["weight_hh_l0"], before)
    narrow = door.from_torch(nn.LSTM(3, 4, dtype=torch.bfloat16))
    assert narrow.params["bias_l0"].dtype == np.float32
    with pytest.raises(InputError, match=r"module is a GRU; expected a torch.nn.LSTM"):
        door.from_torch(nn.GRU(3, 4))


def test_state_dicts_of_a_layer():
    ours = gpu_lstm.LSTM(3, 4, 2, bidirectional=True, backend="numpy", seed=1)
    tensors = door.state_dict(ours)
    nn.LSTM(3, 4, 2, bidirectional=True).load_state_dict(tensors)
    other = gpu_lstm.LSTM(3, 4, 2, bidirectional=True, backend="numpy", seed=2)
    door.load_state_dict(
        other, {f"model.lstm.{name}": tensor for name, tensor in tensors.items()} | {"head": 0}, "model.lstm."
    )
    for name, array in ours.params.items():
        np.testing.assert_array_equal(other.params[name], array)
    with pytest.raises(InputError, match=r"bias_hh_l0 \(missing\), more \(not expected\)"):
        door.load_state_dict(
            other, {n: t for n, t in tensors.items() if n != "bias_hh_l0"} | {"more": tensors["bias_hh_l0"]}
        )
    with pytest.raises(InputError, match=r"weight_ih_l0 has shape \(16, 4\); expected \(16, 3\)"):
        door.load_state_dict(other, tensors | {"weight_ih_l0": torch.zeros(16, 4)})


# -- GPUs --------------------------------------------------------------------------------------------------------------


def test_cupy_works_on_the_device_and_on_the_current_stream(monkeypatch):
    order = []

    class Context:
        def __init__(self, *named):
            self.named = named

        def __enter__(self):
            order.append(("enter", *self.named))

        def __exit__(self, *error):
            order.append(("exit", *self.named))

    cuda = types.SimpleNamespace(ExternalStream=lambda address: Context("stream", address))
    backend = types.SimpleNamespace(device=Context("device", 1), xp=types.SimpleNamespace(cuda=cuda))
    tensor = types.SimpleNamespace(device=torch.device("cuda:1"))
    monkeypatch.setattr(torch_autograd, "backend_of", lambda device: backend)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: types.SimpleNamespace(cuda_stream=77))
    with torch_autograd.device_of(tensor):
        order.append("work")
    assert order == [
        ("enter", "device", 1), ("enter", "stream", 77), "work", ("exit", "stream", 77), ("exit", "device", 1),
    ]  # fmt: skip


def on_gpu():
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch sees no GPU")
    return torch.device("cuda:0")


@pytest.mark.gpu
@every_option
@pytest.mark.parametrize("stream", ["default", "another"])
def test_a_gpu_gives_what_the_cpu_gives(options, stream):
    device = on_gpu()
    module = door.LSTM(3, 8, **options, **F64)
    x, hx = inputs(module)
    expected = results(module, x, hx)
    moved = copy.deepcopy(module).to(device)
    x, hx = x.detach().to(device).requires_grad_(), tuple(h.detach().to(device).requires_grad_() for h in hx)
    chosen = torch.cuda.current_stream() if stream == "default" else torch.cuda.Stream()
    chosen.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(chosen):
        y, (h, c) = moved(x, hx)
        generator = torch.Generator().manual_seed(9)
        weights = [torch.randn(out.shape, generator=generator, dtype=out.dtype).to(device) for out in (y, h, c)]
        sum((out * weight).sum() for out, weight in zip((y, h, c), weights, strict=True)).backward()
    torch.cuda.synchronize()
    found = {"y": y, "h": h, "c": c, "dx": x.grad, "dh0": hx[0].grad, "dc0": hx[1].grad}
    found |= {f"d{name}": param.grad for name, param in moved.named_parameters()}
    assert_equal({name: tensor.detach().cpu() for name, tensor in found.items()}, expected, 1e-10)


@pytest.mark.gpu
def test_a_gpu_copies_nothing(monkeypatch):
    device = on_gpu()
    module, seen = door.LSTM(3, 8, device=device), {}
    forward = gpu_lstm.LSTM.forward

    def spy(self, x, *rest, **more):
        y, final, tape = forward(self, x, *rest, **more)
        seen.update(x=x, y=y, **self.params)
        return y, final, tape

    monkeypatch.setattr(gpu_lstm.LSTM, "forward", spy)
    x = torch.randn(5, 2, 3, device=device)
    y, _ = module(x)
    for name, tensor in {"x": x, "y": y, "weight_hh_l0": module.weight_hh_l0}.items():
        assert seen[name].data.ptr == tensor.data_ptr(), name
    assert torch.cuda.current_device() == 0


@pytest.mark.gpu
def test_a_training_loop_with_amp_on_a_gpu():
    device = on_gpu()
    curves = []
    for kind, amp in ((nn.LSTM, False), (door.LSTM, False), (door.LSTM, True)):
        torch.manual_seed(0)
        net = nn.ModuleList([nn.Linear(4, 8), kind(8, 16), nn.Linear(16, 1)]).to(device)
        optimizer, scaler = torch.optim.Adam(net.parameters(), 0.01), torch.amp.GradScaler("cuda", enabled=amp)
        generator, losses = torch.Generator().manual_seed(1), []
        for _ in range(20):
            x = torch.randn(10, 8, 4, generator=generator).to(device)
            with torch.autocast("cuda", dtype=torch.float16, enabled=amp):
                y = net[2](net[1](net[0](x))[0])
            loss = nn.functional.mse_loss(y.float(), x.cumsum(0).mean(2, keepdim=True))
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.item())
        curves.append(losses)
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-3)
    np.testing.assert_allclose(curves[2], curves[0], rtol=0.05)
