"""Other libraries on the same problem, one function each, and our own tiers beside them.

A function takes a `Problem` and returns its `Step`: a call that computes the results, complete and under our names.
What can be prepared once (weights, compilation, the inputs' transfer) is prepared outside of that call.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gpu_lstm.backend import DTYPES, Backend
from gpu_lstm.bench import threads
from gpu_lstm.bench.problem import KINDS, TOLERANCE, Problem, Step, parse_options
from gpu_lstm.errors import BackendError, InputError
from gpu_lstm.models import quantize
from gpu_lstm.native import compiled
from gpu_lstm.recurrence import runnable_tiers


@dataclass(frozen=True)
class Side:
    """One way to compute a problem."""

    name: str  # in tables and records; what ``--peers`` takes
    about: str  # one line for people
    make: Callable[[Problem], Step]
    packages: tuple[str, ...] = ()  # it needs them installed
    kinds: tuple[str, ...] = KINDS
    dtypes: tuple[str, ...] = ("float32", "float64")
    devices: tuple[str, ...] = ("cpu", "gpu")  # ``cpu``, ``gpu``
    # on a GPU it works on streams of its own, so device events of the current stream don't time it
    own_stream: bool = False
    # words of `gpu_lstm.bench.problem.parse_options`: it computes the LSTM with these, against an oracle of its own
    options: tuple[str, ...] = ()
    # options of a problem that it has, too, and ``ragged``; all, if not given
    takes: frozenset[str] | None = frozenset()
    # how far its results may be off where its products are rounded to fewer bits than those of its dtype
    tolerance: float = 0.0

    def fits(self, problem: Problem) -> bool:
        """Whether this side can compute the problem at all."""
        device = "gpu" if problem.on_gpu else "cpu"
        asked = {*problem.options, *["ragged"] * problem.ragged}
        taken = self.takes is None or asked <= self.takes
        return problem.kind in self.kinds and problem.dtype in self.dtypes and device in self.devices and taken


def installed(package: str) -> str | None:
    """Version of a package, None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def our_sides(backend: Backend, tiers: Iterable[str] | None = None) -> list[Side]:
    """Our tiers on a backend, the fastest first; those named, or all that can run."""
    named = list(reversed(runnable_tiers(backend))) if tiers is None else list(tiers)
    return [Side(tier, f"gpu_lstm, tier {tier}", partial(Problem.our_step, tier=tier), takes=None) for tier in named]


def our_variant(words: Sequence[str], tier: str = "auto") -> Side:
    """Our LSTM with these options: what they cost is told beside the plain one.

    Raises InputError where a word is no option.
    """
    parse_options(words)
    name = " ".join(words)
    return Side(name, f"gpu_lstm, {name}", partial(Problem.our_step, tier=tier), options=tuple(words), takes=None)


def our_quantized(problem: Problem, weights: str) -> Step:
    """Our LSTM with weights of few bits, in the tier that is taken by itself."""
    return problem.our_step(lstm=quantize(problem.lstm(), weights))


def choose(names: Iterable[str] | None) -> list[Side]:
    """The peers of these names; None: all that are installed.

    Raises
    ------
    InputError
        No peer has that name.
    BackendError
        The peer is not installed; the message says how to install it.
    """
    if names is None:
        return [peer for peer in PEERS if all(map(installed, peer.packages))]
    known = {peer.name: peer for peer in PEERS}
    chosen = []
    for name in names:
        if name not in known:
            raise InputError(f"peer is {name!r}; expected none, or some of {', '.join(known)}")
        lacking = [package for package in known[name].packages if not installed(package)]
        if lacking:
            raise BackendError(f"peer {name} is not installed; `pip install {' '.join(lacking)}` brings it")
        chosen.append(known[name])
    return chosen


# -- PyTorch -----------------------------------------------------------------------------------------------------------


def _torch() -> Any:
    """PyTorch, with our number of threads, and float32 meaning float32."""
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(threads.count())
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return torch


def _torch_step(problem: Problem, run: Callable[[Any], Any], parameters: dict[str, Any], dtype: str = "") -> Step:
    """A step around ``y = run(x)`` whose parameters are leaves with our names."""
    torch = _torch()
    kind = getattr(torch, dtype or problem.dtype)
    x = torch.from_numpy(problem.x).to(problem.device, kind)
    if problem.kind == "inference":

        def infer() -> dict[str, Any]:
            with torch.inference_mode():
                return {"y": run(x)}

        return infer
    dy = torch.from_numpy(problem.dy).to(problem.device, kind)
    leaves = {"dx": x.requires_grad_(), **parameters}

    def train() -> dict[str, Any]:
        for leaf in leaves.values():
            leaf.grad = None
        y = run(x)
        y.backward(dy)
        return {"y": y, **{name: leaf.grad for name, leaf in leaves.items()}}

    return train


def torch_lstm(problem: Problem, dtype: str = "", module: str = "torch.nn") -> Step:
    """torch.nn.LSTM; cuDNN on a GPU. Its second bias is zero and not trained, as ours has one.

    Sequences of unequal lengths are packed before and padded after, as PyTorch asks for.
    """
    torch = _torch()
    more = {"num_layers": 1, **problem.options, "device": problem.device}
    lstm: Any = importlib.import_module(module).LSTM(*problem.size[2:], **more)
    lstm.to(getattr(torch, dtype or problem.dtype))
    leaves = {}
    with torch.no_grad():
        for name, array in problem.weights.items():
            leaves[name] = getattr(lstm, name.replace("bias_", "bias_ih_"))
            leaves[name].copy_(torch.from_numpy(array))
            if name.startswith("bias_"):
                other = getattr(lstm, name.replace("bias_", "bias_hh_"))
                other.zero_()
                other.requires_grad_(False)
    lstm.train(problem.kind == "training")
    rnn, lengths = torch.nn.utils.rnn, None if problem.lengths is None else torch.from_numpy(problem.lengths)

    def run(x: Any) -> Any:
        if lengths is None:
            return lstm(x)[0]
        return rnn.pad_packed_sequence(lstm(rnn.pack_padded_sequence(x, lengths, enforce_sorted=False))[0])[0]

    return _torch_step(problem, run, leaves, dtype)


def torch_other(problem: Problem) -> Step:
    """torch.nn.LSTM in the other of the dtypes of 16 bits: cuDNN has no LSTM in bfloat16."""
    return torch_lstm(problem, "float16" if problem.dtype == "bfloat16" else "bfloat16")


def torch_tf32(problem: Problem) -> Step:
    """torch.nn.LSTM, products in TF32, which is PyTorch's own default for cuDNN."""
    step, flags = torch_lstm(problem), _torch().backends.cudnn

    def rounded() -> dict[str, Any]:
        flags.allow_tf32 = True
        try:
            return step()
        finally:
            flags.allow_tf32 = False

    return rounded


def torch_int8(problem: Problem) -> Step:
    """torch.nn.LSTM quantised dynamically: weights of 8 bits, inputs and states rounded to 8 bits at each step."""
    torch = _torch()
    lstm = torch.nn.LSTM(*problem.size[2:])
    values = {name.replace("bias_", "bias_ih_"): torch.from_numpy(array) for name, array in problem.weights.items()}
    lstm.load_state_dict({**values, "bias_hh_l0": torch.zeros(4 * problem.size[3])})
    with warnings.catch_warnings(action="ignore"):  # it is deprecated, and there is no other in PyTorch itself
        (lstm,) = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(lstm), {torch.nn.LSTM}, dtype=torch.qint8)
    return _torch_step(problem, lambda x: lstm(x)[0], {})


def torch_cell(problem: Problem, compiled: bool = False) -> Step:
    """The equations by hand, one step after the other; with `compiled`, one torch.compile serves all sizes."""
    torch = _torch()
    leaves = {name: torch.from_numpy(array.copy()).to(problem.device) for name, array in problem.weights.items()}
    leaves = {name: leaf.requires_grad_(problem.kind == "training") for name, leaf in leaves.items()}
    cell = _compiled_cell(problem.kind, problem.device) if compiled else _cell

    def run(x: Any) -> Any:
        z = torch.nn.functional.linear(x, leaves["weight_ih_l0"], leaves["bias_l0"])
        h = c = x.new_zeros(problem.size[1], problem.size[3])
        outputs = []
        for z_t in z.unbind():
            h, c = cell(z_t, h, c, leaves["weight_hh_l0"])
            outputs.append(h)
        return torch.stack(outputs)

    return _torch_step(problem, run, leaves)


def _cell(z: Any, h: Any, c: Any, weight_hh: Any) -> tuple[Any, Any]:
    i, f, g, o = (z + h @ weight_hh.T).chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


_COMPILED: dict[tuple[str, str], Any] = {}


def _compiled_cell(kind: str, device: str) -> Any:
    """One compiled cell for each kind and device, with sizes left open."""
    if (kind, device) not in _COMPILED:
        _COMPILED[kind, device] = _torch().compile(_cell, dynamic=True)
    return _COMPILED[kind, device]


# -- ONNX Runtime ------------------------------------------------------------------------------------------------------


def onnx_runtime(problem: Problem, int8: bool = False) -> Step:
    """The LSTM operator of ONNX; gate order i, o, f, g, input and recurrent bias one after the other.

    With `int8` its dynamically quantised form, the weights in 7 bits where products of 8 would overflow (no VNNI).
    """
    onnx: Any = importlib.import_module("onnx")
    runtime: Any = importlib.import_module("onnxruntime")
    steps, batch, _, hidden = problem.size

    def reorder(array: np.ndarray) -> np.ndarray:
        i, f, g, o = np.split(array, 4)
        return np.concatenate([i, o, f, g])[None]

    bias = reorder(problem.weights["bias_l0"])
    weights = {
        "W": reorder(problem.weights["weight_ih_l0"]),
        "R": reorder(problem.weights["weight_hh_l0"]),
        "B": np.concatenate([bias, np.zeros_like(bias)], axis=1),
    }
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("LSTM", ["X", "W", "R", "B"], ["Y"], hidden_size=hidden)],
        "lstm",
        [helper.make_tensor_value_info("X", kind, problem.size[:3])],
        [helper.make_tensor_value_info("Y", kind, (steps, 1, batch, hidden))],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    if int8:
        quantization: Any = importlib.import_module("onnxruntime.quantization")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "int8.onnx"
            logging.disable(logging.WARNING)  # of what would change nothing in a graph of one node
            quantization.quantize_dynamic(model, path, per_channel=True, reduce_range=not compiled.vnni())
            logging.disable(logging.NOTSET)
            model = onnx.load(path)
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads.count(), 1
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: {"y": session.run(["Y"], {"X": problem.x})[0][:, 0]}


# -- JAX, Keras --------------------------------------------------------------------------------------------------------


def _jax(problem: Problem) -> Any:
    jax: Any = importlib.import_module("jax")
    jax.config.update("jax_enable_x64", problem.dtype == "float64")
    jax.config.update("jax_default_matmul_precision", "highest")  # float32 means float32 on a GPU too
    return jax


def _jax_step(problem: Problem, jax: Any, run: Callable[[dict[str, Any]], Any], weights: dict[str, Any]) -> Step:
    """A jitted step around ``y = run(values)``; values are the weights and x, under the names of their gradients."""
    platform = "gpu" if problem.on_gpu else "cpu"
    on = jax.devices(platform)[int(problem.device.partition(":")[2] or 0)]
    values = {name: jax.device_put(array, on) for name, array in {**weights, "dx": problem.x}.items()}
    dy = jax.device_put(problem.dy, on)
    if problem.kind == "inference":
        infer = jax.jit(run)
        return lambda: {"y": jax.block_until_ready(infer(values))}

    def loss(values: dict[str, Any], dy: Any) -> tuple[Any, Any]:
        y = run(values)
        return jax.numpy.vdot(y, dy), y

    both = jax.jit(jax.value_and_grad(loss, has_aux=True))

    def train() -> dict[str, Any]:
        (_, y), gradients = jax.block_until_ready(both(values, dy))
        return {"y": y, **gradients}

    return train


def jax_scan(problem: Problem) -> Step:
    """lax.scan over the steps, jitted; the inputs' product is outside of the scan."""
    jax = _jax(problem)
    jnp = jax.numpy

    def run(values: dict[str, Any]) -> Any:
        def step(state: tuple[Any, Any], z: Any) -> tuple[tuple[Any, Any], Any]:
            h, c = state
            i, f, g, o = jnp.split(z + h @ values["weight_hh_l0"].T, 4, axis=1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        z = values["dx"] @ values["weight_ih_l0"].T + values["bias_l0"]
        start = jnp.zeros((problem.size[1], problem.size[3]), dtype=z.dtype)
        return jax.lax.scan(step, (start, start), z)[1]

    return _jax_step(problem, jax, run, problem.weights)


def keras_lstm(problem: Problem) -> Step:
    """keras.layers.LSTM on its JAX backend, jitted; it reads (B, T, D) and holds the weights transposed."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras: Any = importlib.import_module("keras")
    if keras.backend.backend() != "jax":
        raise BackendError(f"Keras runs on {keras.backend.backend()} here (KERAS_BACKEND); expected jax")
    steps, batch, width, hidden = problem.size
    jax = _jax(problem)
    layer = keras.layers.LSTM(hidden, return_sequences=True, dtype=problem.dtype)
    layer.build((batch, steps, width))

    def run(values: dict[str, Any]) -> Any:
        weights = [values["weight_ih_l0"].T, values["weight_hh_l0"].T, values["bias_l0"]]
        state = [variable.value for variable in layer.non_trainable_variables]
        return layer.stateless_call(weights, state, values["dx"].swapaxes(0, 1))[0].swapaxes(0, 1)

    return _jax_step(problem, jax, run, problem.weights)


SHARED = frozenset({"num_layers", "bidirectional", "proj_size", "ragged"})
"""What `torch.nn.LSTM` has of ours."""
INT8 = 0.1
"""How far results of weights of few bits may be off, relative to the largest."""
PEERS = [
    Side("torch", "torch.nn.LSTM", torch_lstm, ("torch",), dtypes=DTYPES, takes=SHARED),
    Side(
        "torch-other-16", "torch.nn.LSTM in the other 16 bits", torch_other, ("torch",), dtypes=DTYPES[2:],
        devices=("gpu",), takes=SHARED, tolerance=TOLERANCE["float16"],
    ),
    Side(
        "torch-tf32", "torch.nn.LSTM in TF32", torch_tf32, ("torch",), dtypes=("float32",), devices=("gpu",),
        takes=SHARED, tolerance=TOLERANCE["float16"],
    ),
    Side(
        "module", "our LSTM as a module of PyTorch", partial(torch_lstm, module="gpu_lstm.interop.torch"), ("torch",),
        dtypes=("float32",), devices=("cpu",), takes=SHARED - {"ragged"},
    ),
    Side("torch-cell", "the cell written by hand in PyTorch", torch_cell, ("torch",)),
    Side("torch-compile", "the same cell under torch.compile", partial(torch_cell, compiled=True), ("torch",)),
    Side(
        "onnxruntime", "ONNX Runtime's LSTM operator", onnx_runtime, ("onnx", "onnxruntime"), ("inference",),
        ("float32",), ("cpu",),
    ),
    Side(
        "onnxruntime-int8", "ONNX Runtime's DynamicQuantizeLSTM", partial(onnx_runtime, int8=True),
        ("onnx", "onnxruntime"), ("inference",), ("float32",), ("cpu",), tolerance=INT8,
    ),
    Side(
        "torch-int8", "torch.nn.LSTM, quantised dynamically", torch_int8, ("torch",), ("inference",), ("float32",),
        ("cpu",), tolerance=INT8,
    ),
    Side("jax", "JAX, lax.scan under jit", jax_scan, ("jax", "jaxlib"), own_stream=True),
    Side("keras", "keras.layers.LSTM on JAX", keras_lstm, ("keras", "jax", "jaxlib"), own_stream=True),
    *(
        Side(
            weights, f"our LSTM with weights of {weights}", partial(our_quantized, weights=weights), (),
            ("inference",), ("float32",), takes=frozenset({"num_layers", "bidirectional", "ragged"}), tolerance=INT8,
        )
        for weights in ("int8", "bfloat16")
    ),
]  # fmt: skip
"""All that can be measured beside our tiers."""
