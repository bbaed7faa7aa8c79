"""Our LSTM against ONNX Runtime (inference) and JAX (a training step) on the CPU, each where it is installed.

    pip install onnx onnxruntime jax
    python -m benchmarks.compare_peers --rounds 9 --out benchmarks/results/cpu_peers.json

Same inputs, weights and number of threads. Results are compared first: a peer whose results are not ours up to
rounding is shown as wrong, without a time. Then the steps alternate as in compare_torch.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import THREADS
from benchmarks.grid import SIZES, Size, Step, disagreement, inputs, our_inference, our_lstm, our_step
from benchmarks.method import compared, installed, interleave, milliseconds, provenance, write

DEFAULT_SIZES = [*SIZES[:3], (256, 1, 128, 128)]
TOLERANCE = 1e-4


def onnx_inference(size: Size, x: np.ndarray, dy: np.ndarray) -> Step:
    """The LSTM operator of ONNX; gate order i, o, f, c, input and recurrent bias one after the other."""
    onnx: Any = importlib.import_module("onnx")
    runtime: Any = importlib.import_module("onnxruntime")
    hidden = size[3]

    def reorder(array: np.ndarray) -> np.ndarray:
        i, f, g, o = np.split(array, 4)
        return np.concatenate([i, o, f, g])[None]

    ours = {name: np.asarray(array) for name, array in our_lstm(size).params.items()}
    bias = reorder(ours["bias_l0"])
    weights = {
        "W": reorder(ours["weight_ih_l0"]),
        "R": reorder(ours["weight_hh_l0"]),
        "B": np.concatenate([bias, np.zeros_like(bias)], axis=1),
    }
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("LSTM", ["X", "W", "R", "B"], ["Y"], hidden_size=hidden)],
        "lstm",
        [helper.make_tensor_value_info("X", kind, size[:3])],
        [helper.make_tensor_value_info("Y", kind, (size[0], 1, size[1], hidden))],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: {"y": session.run(["Y"], {"X": x})[0][:, 0]}


def jax_step(size: Size, x: np.ndarray, dy: np.ndarray) -> Step:
    """Forward and backward of lax.scan over the steps, jitted; the inputs' product is outside of the scan."""
    jax: Any = importlib.import_module("jax")
    jnp = jax.numpy
    start = jnp.zeros((size[1], size[3]), dtype=jnp.float32)

    def loss(values: dict[str, Any], dy: Any) -> tuple[Any, Any]:
        def step(state: tuple[Any, Any], z: Any) -> tuple[tuple[Any, Any], Any]:
            h, c = state
            i, f, g, o = jnp.split(z + h @ values["weight_hh_l0"].T, 4, axis=1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        z = values["dx"] @ values["weight_ih_l0"].T + values["bias_l0"]
        _, y = jax.lax.scan(step, (start, start), z)
        return jnp.vdot(y, dy), y

    both = jax.jit(jax.value_and_grad(loss, has_aux=True))
    # Under the names that their gradients get.
    values = {name: jnp.asarray(np.asarray(array)) for name, array in our_lstm(size).params.items()}
    values["dx"] = jnp.asarray(x)
    dy_jax = jnp.asarray(dy)

    def step() -> dict[str, Any]:
        (_, y), gradients = jax.block_until_ready(both(values, dy_jax))
        return {"y": y, **gradients}

    return step


def our_inference_of(size: Size, x: np.ndarray, dy: np.ndarray) -> Step:
    """`our_inference` with the arguments that all steps here have."""
    return our_inference(size, x)


Maker = Callable[[Size, np.ndarray, np.ndarray], Step]
PEERS: dict[str, tuple[str, tuple[str, ...], Maker, Maker]] = {
    "ONNX Runtime": ("inference", ("onnx", "onnxruntime"), our_inference_of, onnx_inference),
    "JAX": ("training", ("jax", "jaxlib"), our_step, jax_step),
}
"""What is measured, the packages it needs, our side, their side."""


def measure(size: Size, ours: Maker, theirs: Maker, rounds: int) -> dict[str, Any]:
    """Results compared, then interleaved times."""
    x, dy = inputs(size)
    steps = {"ours": ours(size, x, dy), "theirs": theirs(size, x, dy)}
    difference = disagreement(steps["ours"](), steps["theirs"]())
    point: dict[str, Any] = {"size": size, "largest_relative_difference": difference}
    if not difference < TOLERANCE:
        return {**point, "wrong": True}
    return {**point, "wrong": False, **compared(interleave(steps, rounds), "ours", "theirs")}


def main() -> None:
    """Measure all peers at all sizes, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--all-sizes", action="store_true", help="the whole grid of compare_torch")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    packages = [package for _, needed, _, _ in PEERS.values() for package in needed]
    record: dict[str, Any] = {**provenance(*packages), "points": []}
    print(f"{'peer':>13} {'':>9} {'T, B, D, H':>22} {'ours ms':>9} {'theirs ms':>9} {'ratio':>6}")
    for peer, (kind, needed, ours, theirs) in PEERS.items():
        if not all(map(installed, needed)):
            print(f"{peer:>13} {kind:>9} not installed")
            continue
        for size in SIZES if options.all_sizes else DEFAULT_SIZES:
            point = {"peer": peer, "kind": kind, **measure(size, ours, theirs, options.rounds)}
            record["points"].append(point)
            if point["wrong"]:
                result = f"wrong: differs by {point['largest_relative_difference']:.1e}"
            else:
                our_time, their_time = milliseconds(point)
                result = f"{our_time:>9.2f} {their_time:>9.2f} {point['ratio']:>6.2f}"
            print(f"{peer:>13} {kind:>9} {size!s:>22} {result}", flush=True)
    write(record, options.out)


if __name__ == "__main__":
    main()
