"""Where the module for PyTorch differs from torch.nn.LSTM: each row of docs/doors/pytorch.md's table, tried on both."""

import re
from pathlib import Path

import pytest

from gpu_lstm import BackendError, InputError

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from torch import nn  # noqa: E402
from torch.nn.utils.rnn import PackedSequence  # noqa: E402

from gpu_lstm.interop import torch as door  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
PAGE = Path(__file__).parent.parent / "docs" / "doors" / "pytorch.md"
X = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0))


def autocast(kind):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return kind(4, 5)(X.bfloat16())[0].dtype


def sixteen_bits(kind):
    """Whether the steps are computed in float32, and only results rounded."""
    torch.manual_seed(0)
    narrow = kind(4, 5).to(torch.bfloat16)
    wide = nn.LSTM(4, 5)
    wide.load_state_dict(narrow.state_dict())
    return torch.equal(narrow(X.bfloat16())[0], wide(X.bfloat16().float())[0].bfloat16())


def dropped_elements(kind):
    """Whether they are those that PyTorch draws."""
    found = []
    for one in (nn.LSTM, kind):
        torch.manual_seed(0)
        module = one(4, 5, 2, dropout=0.5)
        torch.manual_seed(1)
        found.append(module(X)[0])
    return torch.allclose(*found, rtol=0, atol=1e-6)


def dropout_of_all(kind):
    return kind(4, 5, 2, dropout=1.0)(X)[0].shape


def second_derivatives(kind):
    x = X.double().requires_grad_()
    (first,) = torch.autograd.grad(kind(4, 5, dtype=torch.float64)(x)[0].sum(), x, create_graph=True)
    return torch.autograd.grad(first.square().sum(), x)[0].shape


def many_gradients(kind):
    return torch.func.jacrev(lambda x: kind(4, 5)(x)[0].sum())(X).shape


def sizes_that_do_not_add_up(kind):
    packed = PackedSequence(X.reshape(18, 4)[:6], torch.tensor([3, 2]))
    return kind(4, 5)(packed)[0].data.shape


def devices(kind):
    return kind(4, 5, device="meta")(X.to("meta"))[0].shape


def subclasses(kind):
    kept = type("Own", (torch.Tensor,), {})
    return type(kind(4, 5)(X.as_subclass(kept))[0]) is kept


def quantisation(kind):
    model = nn.Sequential(kind(4, 5))
    return type(torch.ao.quantization.quantize_dynamic(model, {nn.LSTM}, dtype=torch.qint8)[0])


def lengths(kind):
    return kind(4, 5)(X, lengths=[6, 2, 1])[0][2:, 1:].abs().sum().item()


SHAPE = torch.Size([6, 3, 5])
ROWS = {
    "autocast": (autocast, torch.bfloat16, torch.float32),
    "16-bit parameters": (sixteen_bits, False, True),
    "dropout": (dropped_elements, True, False),
    "`dropout=1`": (dropout_of_all, SHAPE, InputError),
    "second derivatives": (second_derivatives, X.shape, NotImplementedError),
    "many gradients at once (`is_grads_batched`, `jacrev`)": (many_gradients, X.shape, InputError),
    "a `PackedSequence` whose sizes don't add up": (sizes_that_do_not_add_up, torch.Size([5, 5]), InputError),
    "devices": (devices, SHAPE, BackendError),
    "subclasses of `Tensor`": (subclasses, True, False),
    "quantisation that asks for `nn.LSTM`": (quantisation, torch.ao.nn.quantized.dynamic.LSTM, InputError),
    "`lengths=`, `resets=`": (lengths, TypeError, 0.0),
}
"""What a row is about: what tries it, and what comes of it with torch.nn.LSTM and with ours."""


def outcome(run, kind):
    try:
        return run(kind)
    except Exception as error:
        return type(error)


@pytest.mark.parametrize("row", ROWS)
def test_a_difference_is_one(row):
    run, theirs, ours = ROWS[row]
    assert outcome(run, nn.LSTM) == theirs
    assert outcome(run, door.LSTM) == ours


def test_the_page_tells_all_differences_and_no_others():
    table = re.search(r"\| where it differs.*?\n\n", PAGE.read_text(encoding="utf-8"), re.S)
    rows = [line.strip("|").split(" | ")[0].strip() for line in table.group().splitlines()[2:] if line]
    assert rows == list(ROWS)
