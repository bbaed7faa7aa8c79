"""The module `gpu_lstm.interop.torch.LSTM` against torch.nn.LSTM, both in PyTorch's hands: one training step.

    python -m benchmarks.compare_module --rounds 9

Both sides are modules with the same parameters; a step clears the gradients, runs forward and runs backward, with the
gradient of the input. The sides take turns, by the method of benchmarks/README.md. What the module costs beyond our
layer is shown beside: the same step by `gpu_lstm.LSTM` itself.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gpu_lstm.bench import record, threads
from gpu_lstm.bench.grid import Size
from gpu_lstm.bench.method import compared, interleave

SIZES: list[Size] = [(64, 32, 128, 128), (64, 64, 256, 256), (256, 1, 128, 128), (128, 32, 512, 512)]


def sides(size: Size) -> dict[str, Callable[[], Any]]:
    """Steps by name; their gradients agree, or this raises."""
    torch: Any = importlib.import_module("torch")
    door: Any = importlib.import_module("gpu_lstm.interop.torch")
    torch.set_num_threads(threads.count())
    steps, batch, width, hidden = size
    torch.manual_seed(0)
    theirs = torch.nn.LSTM(width, hidden)
    ours = door.LSTM(width, hidden)
    ours.load_state_dict(theirs.state_dict())
    layer = door.from_torch(theirs)
    x = torch.randn(steps, batch, width)
    dy = torch.randn(steps, batch, hidden)
    host = x.numpy().copy(), dy.numpy()

    def of(module: Any) -> Callable[[], Any]:
        leaf = x.clone().requires_grad_()

        def step() -> Any:
            leaf.grad = None
            module.zero_grad()
            module(leaf)[0].backward(dy)
            return leaf.grad

        return step

    def bare() -> Any:
        _, _, tape = layer.forward(host[0])
        return layer.backward(tape, host[1])[0]

    found = {"module": of(ours), "torch": of(theirs), "layer": bare}
    expected = found["torch"]().numpy()
    for name, step in found.items():
        if np.abs(np.asarray(step()) - expected).max() > 1e-4 * np.abs(expected).max():
            raise SystemExit(f"{size}: {name} gives other gradients than torch.nn.LSTM")
    return found


def main() -> None:
    """Measure, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--size", type=int, nargs=4, metavar=("T", "B", "D", "H"), help="this size only")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = record.provenance(record.command_line("python -m benchmarks.compare_module"))
    points = []
    print(f"{'T, B, D, H':>22} {'module ms':>10} {'nn.LSTM ms':>10} {'ratio':>6} {'layer ms':>9}")
    for size in [tuple(options.size)] if options.size else SIZES:
        times = interleave(sides(size), options.rounds)
        point: dict[str, Any] = {"size": size, "training": compared(times, "module", "torch")}
        point["layer_seconds"] = times["layer"]
        points.append(point)
        module, theirs, layer = (statistics.median(times[name]) * 1e3 for name in ("module", "torch", "layer"))
        print(
            f"{size!s:>22} {module:>10.2f} {theirs:>10.2f} {point['training']['ratio']:>6.2f} {layer:>9.2f}", flush=True
        )
    mean = statistics.geometric_mean(point["training"]["ratio"] for point in points)
    print(f"geometric mean of the ratios: {mean:.2f}")
    record.write(found | {"points": points, "geometric_mean_ratio": mean}, options.out)


if __name__ == "__main__":
    main()
