"""Arrays of other libraries: taken where they lie, by address; refused by name where they lie elsewhere."""

import numpy as np
import pytest

from gpu_lstm import LSTM, Embedding, InputError, Linear
from gpu_lstm.backend import exchange
from gpu_lstm.losses import mean_squared, softmax_cross_entropy
from gpu_lstm.optimizers import make_optimizer
from tests.support import NUMPY, STRICT, OnDevice, problem

VALUES = np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 10


def torch_tensor(values):
    return pytest.importorskip("torch", reason="PyTorch is not installed").tensor(values)


def jax_array(values):
    pytest.importorskip("jax", reason="JAX is not installed")
    import jax.numpy

    return jax.numpy.asarray(values)


class OnlyDlpack:
    """What the standard asks of an array, and nothing else."""

    def __init__(self, values):
        self.values, self.shape, self.ndim = values, values.shape, values.ndim

    def __dlpack__(self, **how):
        return self.values.__dlpack__(**how)

    def __dlpack_device__(self):
        return self.values.__dlpack_device__()


class OnlyArray:
    """As pandas, xarray and others have it."""

    def __init__(self, values):
        self.values, self.ndim = values, values.ndim

    def __array__(self, dtype=None, copy=None):
        return self.values


ADDRESS = {
    torch_tensor: lambda x: x.data_ptr(),
    jax_array: lambda x: x.unsafe_buffer_pointer(),
    OnlyDlpack: lambda x: x.values.ctypes.data,
    OnlyArray: lambda x: x.values.ctypes.data,
}


@pytest.mark.parametrize("make", list(ADDRESS), ids=lambda make: make.__name__)
def test_memory_in_reach_is_taken_as_it_is(make):
    x = make(VALUES.copy())
    taken = NUMPY.require("x", x)
    assert type(taken) is np.ndarray
    assert taken.ctypes.data == ADDRESS[make](x)
    changes = make is not jax_array and (make is not OnlyDlpack or np.from_dlpack(x).flags.writeable)  # 2.1: no
    assert taken.flags.writeable is changes  # JAX's arrays never change
    np.testing.assert_array_equal(taken, VALUES)


@pytest.mark.parametrize("make", list(ADDRESS), ids=lambda make: make.__name__)
@pytest.mark.parametrize("tier", ["auto", "reference"])
def test_an_lstm_takes_them_all(make, tier):
    lstm = LSTM(3, 4, 2, bidirectional=True, backend=NUMPY, tier=tier)
    data = problem(lstm, 5, 2)
    y, state, tape = lstm.forward(data["x"], (data["h0"], data["c0"]), lengths=[2, 5])
    expected = [
        y,
        *state,
        *(lambda dx, dstate, found: [dx, *dstate, *found.values()])(*lstm.backward(tape, data["dy"])),
    ]
    other = {name: make(array) for name, array in data.items()}
    lengths = [2, 5] if make is OnlyDlpack else make(np.array([2, 5]))  # lengths may be any sequence
    y, state, tape = lstm.forward(other["x"], (other["h0"], other["c0"]), lengths)
    dx, dstate, gradients = lstm.backward(tape, other["dy"])
    for ours, wanted in zip([y, *state, dx, *dstate, *gradients.values()], expected, strict=True):
        np.testing.assert_array_equal(ours, wanted)
    for name, array in other.items():
        np.testing.assert_array_equal(NUMPY.require(name, array), data[name], err_msg="was written to")


@pytest.mark.parametrize("form", ["transposed", "every second", "expanded"])
def test_any_strides_give_the_same(form):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x = {
        "transposed": lambda: torch.randn(3, 5, 4).transpose(0, 1),
        "every second": lambda: torch.randn(5, 3, 8)[:, :, ::2],
        "expanded": lambda: torch.randn(5, 1, 4).expand(5, 3, 4),
    }[form]()
    lstm = LSTM(4, 3, backend=NUMPY)
    taken = NUMPY.require("x", x)
    assert taken.ctypes.data == x.data_ptr()
    assert [stride // 4 for stride in taken.strides] == list(x.stride())
    y, _, tape = lstm.forward(x)
    expected, _, plain = lstm.forward(x.contiguous().numpy())
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(lstm.backward(tape, y)[0], lstm.backward(plain, y)[0])


def test_all_that_takes_arrays_takes_them():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    linear, embedding = Linear(4, 3, backend=NUMPY), Embedding(5, 4, backend=NUMPY)
    x, ids = torch.randn(6, 4), torch.tensor([1, 4, 0, 1, 2, 3])
    y, tape = linear.forward(x)
    np.testing.assert_array_equal(y, linear.forward(x.numpy())[0])
    _, gradients = linear.backward(tape, torch.ones(6, 3))
    np.testing.assert_array_equal(gradients["bias"], np.full(3, 6, np.float32))
    np.testing.assert_array_equal(embedding.forward(ids)[0], embedding.params["weight"][ids.numpy()])
    assert mean_squared(NUMPY, x, torch.zeros(6, 4))[0] == pytest.approx(float((x**2).mean()))
    logits = torch.randn(6, 4)
    loss = torch.nn.functional.cross_entropy(logits, ids % 4)
    ours, dlogits = softmax_cross_entropy(NUMPY, logits, ids % 4, overwrite=True)
    assert ours == pytest.approx(float(loss), rel=1e-5)
    assert dlogits.ctypes.data == logits.data_ptr()  # the gradient lies in the logits' memory, as for our own arrays


def test_gradients_of_another_library_move_parameters():
    gradient = jax_array(np.ones(3, np.float32))  # read-only: clipping must not write to it
    params = {"bias": np.zeros(3, np.float32)}
    optimizer = make_optimizer("sgd", NUMPY, params, 0.5)
    optimizer.update({"bias": gradient}, max_norm=0.1)
    np.testing.assert_allclose(params["bias"], -0.5 * 0.1 / np.sqrt(3), rtol=1e-5)
    np.testing.assert_array_equal(np.asarray(gradient), 1)


def test_what_is_read_only_is_not_overwritten():
    logits = jax_array(np.zeros((2, 3), np.float32))
    with pytest.raises(InputError, match="logits is read-only; expected an array to overwrite, or overwrite=False"):
        softmax_cross_entropy(NUMPY, logits, np.array([0, 1]), overwrite=True)
    assert softmax_cross_entropy(NUMPY, logits, np.array([0, 1]))[0] == pytest.approx(np.log(3))
    np.testing.assert_array_equal(np.asarray(logits), 0)


def test_tables_of_numbers_are_taken():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    table = pandas.DataFrame(VALUES[0], columns=list("abcd"))
    linear = Linear(4, 2, backend=NUMPY)
    np.testing.assert_array_equal(linear.forward(table)[0], linear.forward(VALUES[0])[0])
    assert np.shares_memory(NUMPY.require("x", table["a"]), table["a"].to_numpy())
    with pytest.raises(InputError, match="x has dtype float64; expected float32"):
        linear.forward(table.astype("float64"))
    with pytest.raises(InputError, match="x has dtype object; expected float32"):
        linear.forward(table.astype(str).astype(object))


def test_the_standard_alone_is_enough():
    np.testing.assert_array_equal(NUMPY.require("x", STRICT.xp.asarray([1.0, 2.0])), [1, 2])


@pytest.mark.parametrize(
    "x, message",
    [
        (
            OnDevice(1),
            r"x is a .*OnDevice on CUDA device 1; expected one of backend numpy \(move it with a copy in host",
        ),
        (OnDevice(0, kind=10), "x is a .*OnDevice on a device of DLPack's type 10; expected one of backend numpy"),
        ([1.0], r"x is a builtins.list; expected an array of backend numpy \(make it one with backend.asarray\)"),
        (None, "x is a builtins.NoneType; expected an array of backend numpy"),
        (np.ma.ones(3), "x is a numpy.ma.MaskedArray; expected an array of backend numpy"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_what_lies_elsewhere_is_refused_by_name(x, message):
    with pytest.raises(InputError, match=message):
        NUMPY.require("x", x)


@pytest.mark.parametrize(
    "library, how", [("torch", r"x\.cpu\(\)"), ("cupy", r"x\.get\(\)"), ("jaxlib._jax", "device_get")]
)
def test_it_says_how_to_move_an_array(library, how):
    kind = type("Array", (OnDevice,), {"__module__": library})
    with pytest.raises(InputError, match=f"x is a {library}.Array on CUDA device 0; .*move it with .*{how}"):
        NUMPY.require("x", kind(0))
    host = kind(0, kind=exchange.CPU)
    with pytest.raises(
        InputError, match=r"in host memory; .*cupy:1 \(move it with .*(x\.to\(\"cuda:1\"\)|asarray\(x\))"
    ):
        exchange.adopt("x", host, "cupy:1", (exchange.CUDA,), 1, [])
    with pytest.raises(InputError, match="x is a .* on CUDA device 0; expected one of backend cupy:1"):
        exchange.adopt("x", kind(0), "cupy:1", (exchange.CUDA,), 1, [])


def test_the_cuda_interface_alone_tells_the_device():
    column = type("Series", (), {"__module__": "cudf.core", "__cuda_array_interface__": {}})()
    with pytest.raises(InputError, match=r"x is a cudf.core.Series on CUDA device .*move it with x\.to_numpy\(\)"):
        NUMPY.require("x", column)
    taken = exchange.adopt("x", column, "cupy:0", (exchange.CUDA,), 0, [("__cuda_array_interface__", lambda x: [x])])
    assert taken == [column]


def test_gradients_are_not_lost_in_silence():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    lstm, x = LSTM(4, 3, backend=NUMPY), torch.randn(2, 3, 4, requires_grad=True)
    with pytest.raises(InputError, match=r"x is a torch.Tensor that requires gradients.*x\.detach\(\).*interop.torch"):
        lstm.forward(x)
    assert lstm.forward(x.detach())[0].shape == (2, 3, 3)


@pytest.mark.parametrize("kind", ["bfloat16", "sparse", "meta"])
def test_what_torch_cannot_hand_over_is_refused_with_its_reason(kind):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x = {
        "bfloat16": lambda: torch.ones(2, dtype=torch.bfloat16),
        "sparse": lambda: torch.eye(2).to_sparse(),
        "meta": lambda: torch.ones(2, device="meta"),
    }[kind]()
    with pytest.raises(InputError, match=r"x is a torch.Tensor that can't be taken as it is; .*\(__dlpack__: "):
        NUMPY.require("x", x)


@pytest.mark.gpu
def test_memory_of_a_gpu_is_taken_as_it_is():
    cupy = pytest.importorskip("cupy")
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch sees no GPU")
    from gpu_lstm.backend import CupyBackend

    backend = CupyBackend()
    x = torch.tensor(VALUES, device="cuda:0")
    taken = backend.require("x", x)
    assert isinstance(taken, cupy.ndarray)
    assert taken.data.ptr == x.data_ptr()
    with pytest.raises(InputError, match=r'x is a torch.Tensor in host memory; .*x\.to\("cuda:0"\)'):
        backend.require("x", x.cpu())
    with pytest.raises(InputError, match=r"x is a torch.Tensor on CUDA device 0; .*x\.cpu\(\)"):
        NUMPY.require("x", x)
    lstm = LSTM(4, 3, backend=backend)
    np.testing.assert_array_equal(lstm.forward(x)[0].get(), lstm.forward(cupy.asarray(VALUES))[0].get())
