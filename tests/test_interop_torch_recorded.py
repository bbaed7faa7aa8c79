"""The door to PyTorch: where PyTorch records or transforms operations, those of torch.nn.LSTM run, or it is refused."""

import io
import logging

import numpy as np
import pytest

from gpu_lstm import InputError

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from torch import nn  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch.nn.utils.rnn import pack_padded_sequence  # noqa: E402

from gpu_lstm.interop import torch as door  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of PyTorch's own: all but the last way are deprecated
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]


class Net(nn.Module):
    def __init__(self, lstm):
        super().__init__()
        self.lstm, self.head = lstm, nn.Linear(lstm.hidden_size, 2)

    def forward(self, x):
        return self.head(self.lstm(x)[0])


def net(frozen=False, **options):
    torch.manual_seed(0)
    return Net(door.LSTM(4, 6, **options)).eval().requires_grad_(not frozen)


def steps(count=7, seed=1):
    return torch.randn(count, 3, 4, generator=torch.Generator().manual_seed(seed))


def traced(model, x):
    return torch.jit.trace(model, (x,))


def scripted(model, x):
    return torch.jit.script(model)


def exported(model, x):
    return torch.export.export(model, (x,)).module()


def exported_strictly(model, x):
    return torch.export.export(model, (x,), strict=True).module()


def made_fx(model, x):
    return make_fx(model)(x)


def symbolically_traced(model, x):
    return torch.fx.symbolic_trace(model)


def functionalized(model, x):
    return torch.func.functionalize(model)


WAYS = [traced, scripted, exported, exported_strictly, made_fx, symbolically_traced, functionalized]
every_way = pytest.mark.parametrize(
    "way",
    [
        pytest.param(way, id=way.__name__.replace("_", " "), marks=[pytest.mark.slow] if "exp" in way.__name__ else [])
        for way in WAYS
    ],
)


@every_way
@pytest.mark.parametrize("frozen", [False, True], ids=["trained on", "frozen"])
def test_a_recorded_model_computes_what_the_model_does(way, frozen):
    model = net(frozen, num_layers=2, bidirectional=False, tier="reference")
    again, other = way(model, steps()), steps(seed=2)
    assert torch.allclose(again(other), model(other), rtol=0, atol=1e-6), "the output is no constant"


@every_way
def test_what_torch_nn_lstm_lacks_is_refused_by_name(way):
    model = net(peepholes=True)
    if way is symbolically_traced:  # it records a call of the module as it is
        assert torch.equal(way(model, steps())(steps()), model(steps()))
    else:  # PyTorch's compiler has errors of its own
        with pytest.raises(
            (InputError, torch._dynamo.exc.Unsupported), match=r"to_torch makes of it, which has no peep"
        ):
            way(model, steps())(steps())


def test_arguments_that_torch_nn_lstm_lacks_are_refused_by_name():
    lstm = door.LSTM(4, 6)
    with pytest.raises(InputError, match="to_torch makes of it, which has no lengths"):
        torch.jit.trace(lambda x: lstm(x, lengths=[7, 2, 3])[0], (steps(),))
    with pytest.raises(InputError, match="to_torch makes of it, which has no resets"):
        make_fx(lambda x: lstm(x, resets=torch.zeros(7, 3, dtype=torch.bool))[0])(steps())


@pytest.mark.parametrize("dynamo", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["older", "dynamo"])
@pytest.mark.parametrize("frozen", [False, True], ids=["trained on", "frozen"])
@pytest.mark.parametrize("alone", [False, True], ids=["in a model", "alone"])
def test_onnx_files_hold_an_lstm(dynamo, frozen, alone, capsys):
    onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    if dynamo:
        pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    model, file, level = net(frozen), io.BytesIO(), logging.root.manager.disable
    model = model.lstm if alone else model
    logging.disable(logging.WARNING)
    with torch.set_grad_enabled(not frozen):
        torch.onnx.export(model, (steps(),), file, dynamo=dynamo, input_names=["x"])
    logging.disable(level)
    graph = onnx.load_from_string(file.getvalue()).graph
    assert [value.name for value in graph.input] == ["x"]
    assert [node.op_type for node in graph.node].count("LSTM") == 1
    other = steps(seed=2)
    found = onnxruntime.InferenceSession(file.getvalue()).run(None, {"x": other.numpy()})[0]
    expected = model(other)
    np.testing.assert_allclose(found, (expected[0] if alone else expected).detach(), rtol=0, atol=1e-6)


def test_packed_sequences_are_recorded_too():
    lstm, packed = door.LSTM(4, 6).requires_grad_(False), pack_padded_sequence(steps(), [7, 4, 2])
    graph = torch.jit.trace(lambda data: lstm(type(packed)(data, packed.batch_sizes))[0].data, (packed.data,))
    other = 2 * packed.data
    assert torch.allclose(graph(other), lstm(packed._replace(data=other))[0].data, rtol=0, atol=1e-6)


def test_tensors_without_numbers_give_shapes():
    with FakeTensorMode():
        model = Net(door.LSTM(4, 6, 2, proj_size=0))
        assert model(torch.randn(7, 3, 4)).shape == (7, 3, 2)


def test_gradients_of_each_sequence():
    """Of vmap PyTorch's own LSTM takes the form that gives gradients."""
    torch.manual_seed(0)
    lstm = door.LSTM(4, 6)
    params, x = dict(lstm.named_parameters()), torch.randn(3, 7, 1, 4)

    def loss(params, x):
        return torch.func.functional_call(lstm, params, (x,))[0].square().sum()

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(params, x)
    for name in params:
        alone = torch.stack([torch.func.grad(loss)(params, one)[name] for one in x])
        assert torch.allclose(found[name], alone, rtol=0, atol=1e-5)


def test_forward_mode_derivatives():
    torch.manual_seed(0)
    theirs = nn.LSTM(4, 6, dtype=torch.float64)
    ours = door.LSTM(4, 6, dtype=torch.float64)
    ours.load_state_dict(theirs.state_dict())
    x, outcomes = steps().double(), []
    for module in (theirs, ours):
        try:
            outcomes.append(torch.func.jvp(lambda x, run=module: run(x)[0], (x,), (x,))[1])
        except NotImplementedError as error:  # where PyTorch runs oneDNN
            outcomes.append(torch.tensor(len(str(error))))
    assert torch.allclose(*outcomes)


@pytest.mark.parametrize("inlined", [False, True], ids=["as it is", "allow_rnn"])
def test_torch_compile_runs_ours(inlined):
    torch._dynamo.reset()
    model = net(peepholes=True)
    with torch._dynamo.config.patch(allow_rnn=inlined):
        found = torch.compile(model, backend="eager")(steps())
    assert torch.allclose(found, model(steps()), rtol=0, atol=1e-6)


def test_quantisation_is_refused_where_it_asks_for_the_module():
    quantize, options = torch.ao.quantization.quantize_dynamic, {"dtype": torch.qint8}
    model, x = net(), steps()
    for asked in ({nn.LSTM}, {door.LSTM}, {"lstm"}, None):
        with pytest.raises(InputError, match="LSTM of gpu_lstm can't be quantised; .*to_torch"):
            quantize(model, asked, **options)
    head = quantize(model, {nn.Linear}, **options)
    assert type(head.lstm) is door.LSTM
    assert torch.equal(head.lstm(x)[0], model.lstm(x)[0])
    model.lstm = door.to_torch(door.from_torch(model.lstm))
    assert isinstance(quantize(model, {nn.LSTM}, **options).lstm, torch.ao.nn.quantized.dynamic.LSTM)
    model = net()
    model.qconfig = torch.ao.quantization.get_default_qconfig("x86")
    with pytest.raises(InputError, match="LSTM of gpu_lstm can't be quantised"):
        torch.ao.quantization.prepare(model)


def test_whatever_comes_from_the_tracer_of_fx_makes_a_step_of_the_graph():
    class Goes(nn.Module):
        def __init__(self, lstm):
            super().__init__()
            self.lstm, self.x = lstm, steps()

        def forward(self, h, c):
            y, state = self.lstm(self.x, (h, c))
            return self.lstm(self.x, state)[0] + y

    class Padded(Goes):
        def forward(self, lengths):
            return self.lstm(self.x, lengths=lengths)[0]

    lstm, state = door.LSTM(4, 6), (torch.ones(1, 3, 6), torch.ones(1, 3, 6))
    torch.testing.assert_close(torch.fx.symbolic_trace(Goes(lstm))(*state), Goes(lstm)(*state), rtol=0, atol=0)
    lengths = torch.tensor([7, 2, 5])
    torch.testing.assert_close(torch.fx.symbolic_trace(Padded(lstm))(lengths), Padded(lstm)(lengths), rtol=0, atol=0)
    with pytest.raises(torch.fx.proxy.TraceError):  # alone it is no step, and its insides can't be traced: as PyTorch's
        torch.fx.symbolic_trace(lstm)
