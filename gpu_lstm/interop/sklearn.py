"""scikit-learn estimators: `LSTMClassifier`, `LSTMRegressor`, `LSTMForecaster`.

They train this package's own models by its own loop, and keep scikit-learn's conventions around it: parameters by name,
fit and predict, cross-validation, pipelines, clone and pickle. X of a classifier or regressor is one of

- a list or Series of N arrays or data frames (T_n, D), sequences of different lengths;
- a data frame (N, D) whose cells are Series (T_n,), as sktime nests them;
- an array (N, T, D), sequences of one length;
- an array or data frame (N, T): N sequences of one feature, a column each step.

A forecaster's X is one series (steps, S), a row each step; a list or a three-dimensional array of them is many series.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np

from gpu_lstm.data.sequences import Sequences
from gpu_lstm.data.series import deviations
from gpu_lstm.interop.sklearn_base import LSTMEstimator, check_y
from gpu_lstm.interop.sklearn_forecaster import LSTMForecaster
from gpu_lstm.layers.checks import check_share, check_size
from gpu_lstm.models import Classifier, Model, Regressor
from gpu_lstm.training.fitting import DROPOUT, LEARNING_RATE, WEIGHT_DECAY, frames_for, pooling_for
from gpu_lstm.training.tasks import ClassifyTask, RegressTask, Task, in_blocks

# isort: split
from sklearn.base import ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

__all__ = ["LSTMClassifier", "LSTMForecaster", "LSTMRegressor"]


Split = tuple[np.ndarray, np.ndarray]
"""Numbers of the sequences to train and to validate on."""


@dataclass(kw_only=True, eq=False, repr=False)
class SequenceEstimator(LSTMEstimator):
    """What classifier and regressor share.

    Parameters
    ----------
    bidirectional : bool
        Read each sequence in both directions.
    standardize : bool
        Measure each feature from its mean in units of its standard deviation, over all steps of the training sequences.
    max_iter : int or None
        Epochs; None follows from how many sequences there are, see `gpu_lstm.training.fitting`.
    """

    dropout: float = DROPOUT
    learning_rate: float = LEARNING_RATE
    weight_decay: float = WEIGHT_DECAY
    max_iter: int | None = None
    bidirectional: bool = True
    standardize: bool = True

    _makes: ClassVar[tuple[str, ...]] = (*LSTMEstimator._makes, "bidirectional", "standardize")

    def _data(self, X: Any, labels: np.ndarray | None = None, reset: bool = False) -> Sequences:
        """Return X as sequences, with labels or without."""
        rows, lengths = self._read(X, reset)
        ragged = lengths is not None
        if reset:
            self._takes_sequences = ragged
        elif self._takes_sequences != ragged:
            kinds = ("a two-dimensional X", "sequences")
            raise ValueError(
                f"X holds {kinds[ragged]}; {type(self).__name__} was fitted on {kinds[self._takes_sequences]}"
            )
        if lengths is None:
            lengths = [rows.shape[1]] * len(rows)
            rows = rows.reshape(-1, 1)
        nothing = np.zeros(len(lengths), dtype=np.int64)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        return Sequences([], [], rows, starts, nothing if labels is None else labels, nothing > 0)

    def _weights(self, weights: Any, count: int) -> np.ndarray:
        if weights is None:
            return np.ones(count)
        given: np.ndarray = check_array(
            weights, ensure_2d=False, dtype=np.float64, input_name="sample_weight", estimator=self
        )
        if given.shape != (count,):
            raise ValueError(f"sample_weight has shape {given.shape}; expected ({count},)")
        if given.min() < 0 or not given.any():
            raise ValueError("sample_weight is negative or all zero; expected some weights above zero")
        return given

    def _parts(self, weights: np.ndarray, strata: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of the sequences to train and to validate on; those of weight 0 are in neither."""
        picked = np.flatnonzero(weights)
        if not self.early_stopping:
            return picked, picked[:0]
        share = check_share("validation_fraction", self.validation_fraction)
        strata = None if strata is None else strata[picked]
        train, held_out = train_test_split(picked, test_size=share, random_state=self._seed(), stratify=strata)
        return train, held_out

    def _fit(self, X: Any, labels: np.ndarray, weights: Any, more: bool) -> None:
        """Train on sequences with labels; `more` is one epoch, from where it was left."""
        goes_on = self._goes_on(more)
        data = self._data(X, labels, reset=not goes_on)
        check_consistent_length(data.lengths, labels)
        weights = self._weights(weights, len(data))
        if more:
            parts = (np.flatnonzero(weights), np.zeros(0, dtype=np.int64))
        else:
            parts = self._parts(weights, labels if isinstance(self, ClassifierMixin) else None)
        seed = self._seed(more)
        if goes_on:
            model = self.model_
        else:
            rows = data.rows(parts[0])
            mean, deviation = rows.mean(axis=0).tolist(), deviations(rows)
            if not self.standardize:
                mean, deviation = [0.0] * len(mean), [1.0] * len(mean)
            given = {"mean": mean, "spread": deviation, "bidirectional": self.bidirectional, **self._of_lstm()}
            frames = frames_for(data.lengths[parts[0]])
            given |= {"pooling": pooling_for(frames), "frames": frames}
            model = self._make_model(given, labels[parts[0]], seed)
        check_size("batch_size", self.batch_size)
        shares = weights[parts[0]]
        self._train(self._make_task(model, data, parts, seed, shares if np.ptp(shares) else None), more)

    def _make_model(self, given: dict[str, Any], labels: np.ndarray, seed: int) -> Model:
        raise NotImplementedError

    def _make_task(self, model: Any, data: Sequences, parts: Split, seed: int, weights: np.ndarray | None) -> Task:
        raise NotImplementedError

    def _say(self, X: Any, say: Callable[..., np.ndarray]) -> np.ndarray:
        """Return what a method of the model says about each sequence; those of like length together."""
        check_is_fitted(self)
        data = self._data(X)
        order = np.argsort(data.lengths, kind="stable")
        said = in_blocks(partial(say, self.model_), data, order)
        return said[np.argsort(order)]


@dataclass(kw_only=True, eq=False, repr=False)
class LSTMClassifier(ClassifierMixin, SequenceEstimator):  # type: ignore[misc]
    """Classifies sequences, by a summary of an LSTM's outputs over each one's own steps.

    Parameters are those of `SequenceEstimator` and `LSTMEstimator`, and

    Parameters
    ----------
    class_weight : dict, "balanced" or None
        How much sequences of each class count in the loss; ``balanced`` has all classes count alike.

    Attributes
    ----------
    classes_ : array
        Class labels, of any type that scikit-learn takes, sorted.

    Examples
    --------
    >>> from gpu_lstm.interop.sklearn import LSTMClassifier
    >>> x = np.random.default_rng(0).normal(size=(60, 12)).cumsum(axis=1)  # 60 sequences of 12 steps
    >>> model = LSTMClassifier(hidden_size=8, max_iter=40, learning_rate=0.02, backend="numpy", random_state=0)
    >>> model.fit(x, np.where(x[:, -1] > 0, "up", "down")).score(x, np.where(x[:, -1] > 0, "up", "down")) > 0.9
    True
    """

    class_weight: Any = None

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on labelled sequences.

        Parameters
        ----------
        X : list of (T_n, D), or (N, T, D), or (N, T)
        y : (N,)
            Class labels.
        sample_weight : (N,), optional
            How often each sequence is taken in an epoch, in proportion; none of weight 0.
        """
        labels = self._labels(y)
        classes = np.unique(labels)
        with self._all_or_nothing():
            if self._goes_on(False):
                self._check_known(classes)
            else:
                self.classes_ = classes
            self._fit(X, np.searchsorted(self.classes_, labels), sample_weight, more=False)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train one epoch more, at a constant learning rate.

        Parameters
        ----------
        X, y, sample_weight
            As of `fit`. The first call also settles how features are scaled.
        classes : array
            All class labels that will come; needed in the first call.
        """
        labels = self._labels(y)
        with self._all_or_nothing():
            if not hasattr(self, "model_"):
                if classes is None:
                    raise ValueError("classes must be passed on the first call to partial_fit.")
                self.classes_ = np.unique(classes)
            elif classes is not None and not np.array_equal(self.classes_, np.unique(classes)):
                raise ValueError(
                    f"classes is {classes!r}; expected {self.classes_!r}, as on the first call to partial_fit"
                )
            self._check_known(np.unique(labels))
            self._fit(X, np.searchsorted(self.classes_, labels), sample_weight, more=True)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the likeliest class of each sequence of X, (N,)."""
        scores = self._say(X, Classifier.logits)
        chosen: np.ndarray = self.classes_[scores.argmax(axis=1)]
        return chosen

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class for X, (N, number of classes), in the order of `classes_`."""
        shares: np.ndarray = np.exp(self.predict_log_proba(X))
        return shares

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the logarithm of `predict_proba` of X."""
        scores = self._say(X, Classifier.logits).astype(np.float64)
        scores -= scores.max(axis=1, keepdims=True)
        logs: np.ndarray = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        return logs

    def _labels(self, y: Any) -> np.ndarray:
        labels = check_y(self, y)
        check_classification_targets(labels)
        flat: np.ndarray = column_or_1d(labels, warn=True)
        return flat

    def _check_known(self, labels: np.ndarray) -> None:
        new = np.setdiff1d(labels, self.classes_)
        if len(new):
            raise ValueError(f"y has class labels {new.tolist()}; expected those of classes {self.classes_.tolist()}")

    def _make_model(self, given: dict[str, Any], labels: np.ndarray, seed: int) -> Model:
        return Classifier(num_classes=len(self.classes_), **given, seed=seed)

    def _make_task(self, model: Any, data: Sequences, parts: Split, seed: int, weights: np.ndarray | None) -> Task:
        labels, by_class = data.labels[parts[0]], None
        if self.class_weight is not None:
            present = self.classes_[np.unique(labels)]
            found = compute_class_weight(self.class_weight, classes=present, y=self.classes_[labels])
            if not (np.isfinite(found).all() and found.min() >= 0 and found.any()):
                raise ValueError(f"class_weight is {self.class_weight!r}; expected weights of at least 0, some above")
            by_class = np.ones(len(self.classes_))
            by_class[np.unique(labels)] = found
        return ClassifyTask(model, data, self.batch_size, parts, seed, weights, class_weights=by_class)


@dataclass(kw_only=True, eq=False, repr=False)
class LSTMRegressor(MultiOutputMixin, RegressorMixin, SequenceEstimator):  # type: ignore[misc]
    """Says one number about each sequence, or several, by a summary of an LSTM's outputs.

    Parameters are those of `SequenceEstimator` and `LSTMEstimator`, and

    Parameters
    ----------
    loss : {"mse", "mae", "huber"}
        Of targets in units of their standard deviation.

    Examples
    --------
    >>> from gpu_lstm.interop.sklearn import LSTMRegressor
    >>> x = np.random.default_rng(0).normal(size=(60, 12))
    >>> model = LSTMRegressor(hidden_size=8, max_iter=5, backend="numpy", random_state=0).fit(x, x.mean(axis=1))
    >>> model.predict(x[:3]).shape
    (3,)
    """

    loss: str = "mse"

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on sequences X with targets y, (N,) or (N, K); `sample_weight` and all else as `LSTMClassifier.fit`."""
        with self._all_or_nothing():
            self._fit(X, self._targets(y, self._goes_on(False)), sample_weight, more=False)
        return self

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train one epoch more, as `LSTMRegressor.fit`, at a constant rate; the first call settles the scales."""
        with self._all_or_nothing():
            self._fit(X, self._targets(y, self._goes_on(True)), sample_weight, more=True)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the targets (N,) or (N, K) of X, as `fit` saw them."""
        said = self._say(X, Regressor.predict)
        return said[:, 0] if self._one_target else said

    def _targets(self, y: Any, goes_on: bool) -> np.ndarray:
        targets = check_y(self, y, np.float64)
        if targets.ndim not in (1, 2):
            raise ValueError(f"y has shape {targets.shape}; expected (N,) or (N, K)")
        self._one_target = targets.ndim == 1
        targets = targets.reshape(len(targets), -1)
        if goes_on and targets.shape[1] != len(self.model_.target_mean):
            raise ValueError(f"y has {targets.shape[1]} targets; expected {len(self.model_.target_mean)}, as at first")
        return targets

    def _make_model(self, given: dict[str, Any], labels: np.ndarray, seed: int) -> Model:
        units = {"target_mean": labels.mean(axis=0).tolist(), "target_spread": deviations(labels)}
        return Regressor(**units, **given, seed=seed)

    def _make_task(self, model: Any, data: Sequences, parts: Split, seed: int, weights: np.ndarray | None) -> Task:
        return RegressTask(model, data, self.batch_size, parts, seed, weights, loss=self.loss)
