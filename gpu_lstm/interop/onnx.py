"""ONNX in and out: models of ours as files for any ONNX runtime, and the LSTM operator of any file as a layer of ours.

::

    export(model, "model.onnx")                      # LSTM, LanguageModel, Forecaster, Classifier
    lstm, state, lengths = load("theirs.onnx")       # the whole file as one LSTM; node="name" takes one node of it
    y, (h, c), _ = lstm.forward(x, state, lengths)

Equations and names are those of the operator LSTM: https://onnx.ai/onnx/operators/onnx__LSTM.html
"""

from gpu_lstm.interop.onnx_export import export, to_onnx
from gpu_lstm.interop.onnx_import import Loaded, from_onnx, load

__all__ = ["Loaded", "export", "from_onnx", "load", "to_onnx"]
