"""Models: compositions of layers for text, series and classes."""

from gpu_lstm.models.base import Model
from gpu_lstm.models.classifier import Classifier
from gpu_lstm.models.forecaster import Forecaster
from gpu_lstm.models.language import LanguageModel

MODELS: dict[str, type[Model]] = {model.kind: model for model in (LanguageModel, Forecaster, Classifier)}
"""Model classes by kind, as ``gpu-lstm train`` and checkpoints name them."""

__all__ = ["MODELS", "Classifier", "Forecaster", "LanguageModel", "Model"]
