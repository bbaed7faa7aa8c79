"""Models: compositions of layers for text, series, classes, numbers and labels of steps."""

from gpu_lstm.data.samples import Padded
from gpu_lstm.models.base import Model
from gpu_lstm.models.classifier import Classifier
from gpu_lstm.models.composed import Composed, compose
from gpu_lstm.models.forecaster import Forecaster
from gpu_lstm.models.language import LanguageModel
from gpu_lstm.models.quantized import quantize
from gpu_lstm.models.regressor import Regressor
from gpu_lstm.models.tagger import Tagger

MODELS: dict[str, type[Model]] = {
    model.kind: model for model in (LanguageModel, Forecaster, Classifier, Regressor, Tagger, Composed)
}
"""Model classes by kind, as checkpoints name them."""

__all__ = [
    "MODELS", "Classifier", "Composed", "Forecaster", "LanguageModel", "Model", "Padded", "Regressor", "Tagger",
    "compose", "quantize",
]  # fmt: skip
