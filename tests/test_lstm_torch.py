"""The LSTM layer against torch.nn.LSTM: a second oracle."""

import numpy as np
import pytest

from gpu_lstm import LSTM
from gpu_lstm.recurrence import runnable_tiers
from tests.support import NUMPY, problem, relative_error

torch = pytest.importorskip("torch", reason="PyTorch is not installed")


@pytest.mark.parametrize("lengths", [None, [3, 7, 1, 6, 4]], ids=["full", "packed"])
@pytest.mark.parametrize("batch_first", [False, True], ids=["time_major", "batch_first"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one_way", "two_ways"])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("tier", runnable_tiers(NUMPY))
@pytest.mark.parametrize("dtype, limit", [("float64", 1e-10), ("float32", 1e-5)])
def test_outputs_and_gradients_equal_pytorch(dtype, limit, tier, layers, bidirectional, batch_first, lengths):
    ours = LSTM(
        3, 4, layers, bidirectional=bidirectional, batch_first=batch_first, dtype=dtype, backend=NUMPY, tier=tier
    )
    theirs = torch.nn.LSTM(
        3, 4, layers, bidirectional=bidirectional, batch_first=batch_first, dtype=getattr(torch, dtype)
    )
    weights = {}
    for name, array in ours.params.items():
        tensor = torch.from_numpy(array)
        weights[name.replace("bias", "bias_ih")] = tensor
        if name.startswith("bias"):
            weights[name.replace("bias", "bias_hh")] = torch.zeros_like(tensor)
    theirs.load_state_dict(weights)
    data = problem(ours, 7, 5)
    if batch_first:
        data |= {name: data[name].swapaxes(0, 1).copy() for name in ("x", "dy")}

    y, (h, c), tape = ours.forward(data["x"], (data["h0"], data["c0"]), lengths)
    dx, (dh0, dc0), gradients = ours.backward(tape, data["dy"], (data["dh"], data["dc"]))

    x, h0, c0 = (torch.tensor(data[name], requires_grad=True) for name in ("x", "h0", "c0"))
    rnn = torch.nn.utils.rnn
    packed = x if lengths is None else rnn.pack_padded_sequence(x, lengths, batch_first, enforce_sorted=False)
    y_torch, (h_torch, c_torch) = theirs(packed, (h0, c0))
    if lengths is not None:
        y_torch, _ = rnn.pad_packed_sequence(y_torch, batch_first, total_length=7)
    loss = sum(
        (out * torch.from_numpy(data[name])).sum() for out, name in ((y_torch, "dy"), (h_torch, "dh"), (c_torch, "dc"))
    )
    loss.backward()
    pairs = {"y": (y, y_torch.detach()), "h": (h, h_torch.detach()), "c": (c, c_torch.detach())}
    pairs |= {"dx": (dx, x.grad), "dh0": (dh0, h0.grad), "dc0": (dc0, c0.grad)}
    expected = dict(theirs.named_parameters())
    pairs |= {name: (gradient, expected[name.replace("bias", "bias_ih")].grad) for name, gradient in gradients.items()}
    for name, (actual, wanted) in pairs.items():
        assert relative_error(np.asarray(actual), wanted.numpy()) < limit, name
