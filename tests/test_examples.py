"""The examples in docstrings give what stands there, and the names that users call most have one."""

import doctest
import importlib
import pkgutil

import numpy as np
import pytest

import gpu_lstm

PUBLIC = vars(gpu_lstm)["__all__"]
NAMES = {"np": np, "gpu_lstm": gpu_lstm, **{name: getattr(gpu_lstm, name) for name in PUBLIC}}
"""What examples begin with: `import numpy as np`, `import gpu_lstm`, `from gpu_lstm import *`."""
NEEDS = {
    "gpu_lstm.interop.torch": "torch",
    "gpu_lstm.interop.onnx_export": "onnx",
    "gpu_lstm.interop.sklearn": "sklearn",
    "gpu_lstm.interop.sklearn_forecaster": "sklearn",
}
WITHOUT = {"AdamW", "BackendError", "GpuLstmError", "InputError", "Model", "Padded", "TensorBoard", "TrainingError"}
"""Names of gpu_lstm that need no example of their own: AdamW is used as Adam is."""


def examples():
    """The examples of all modules; those of what isn't installed by their module's name."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    for module in pkgutil.walk_packages(gpu_lstm.__path__, "gpu_lstm."):
        if module.name in ("gpu_lstm.__main__", "gpu_lstm._cpu") or module.name.startswith("gpu_lstm.kernels"):
            continue
        try:
            loaded = importlib.import_module(module.name)
        except ImportError:
            yield module.name
            continue
        yield from (found for found in finder.find(loaded, module.name) if found.examples)


@pytest.mark.parametrize("example", list(examples()), ids=lambda one: getattr(one, "name", one))
def test_an_example_gives_what_stands_there(example, tmp_path, monkeypatch):
    if isinstance(example, str):
        pytest.skip(f"{example} needs what isn't installed")
    module = ".".join(example.name.split(".")[:3])
    if module in NEEDS:
        pytest.importorskip(NEEDS[module])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPU_LSTM_BACKEND", "numpy")
    example.globs = dict(NAMES)
    said = []
    doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF).run(example, out=said.append)
    assert not said, "".join(said)


def test_what_users_call_most_has_an_example():
    having = {found.name.rpartition(".")[2] for found in examples() if not isinstance(found, str)}
    having |= {"save"}  # in that of load
    missing = set(PUBLIC) - WITHOUT - having
    assert not missing
