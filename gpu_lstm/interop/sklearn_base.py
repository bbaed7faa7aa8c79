"""What the scikit-learn estimators share: how they train, pickle and read X."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

import numpy as np

from gpu_lstm.errors import InputError
from gpu_lstm.layers.checks import check_flag, check_size
from gpu_lstm.models import MODELS, Model
from gpu_lstm.optimizers import OPTIMIZERS, make_optimizer
from gpu_lstm.training import Event, Settings, Training
from gpu_lstm.training.fitting import epochs_for
from gpu_lstm.training.tasks import Task

try:
    from sklearn import get_config
    from sklearn.base import BaseEstimator
    from sklearn.utils import check_array, check_random_state
    from sklearn.utils.validation import validate_data
except ImportError as error:
    raise ImportError("gpu_lstm.interop.sklearn needs scikit-learn 1.6 or later: pip install scikit-learn") from error


@dataclass(kw_only=True, eq=False, repr=False)
class LSTMEstimator(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """What the three estimators share: how they train, show progress, stop early and pickle.

    Parameters
    ----------
    hidden_size, num_layers : int
    dropout : float
        On the inputs (not a forecaster's), between layers and on the outputs, while training.
    optimizer : {"adamw", "adam", "sgd", "rmsprop"}
    learning_rate : float
        It rises over the first tenth of the steps (50 at most), then follows `schedule`.
    weight_decay : float
        Of adamw alone.
    schedule : {"cosine", "constant"}
        `partial_fit` keeps to a constant rate.
    clip : float
        Largest joint norm of the gradients.
    batch_size : int
        Sequences or windows of a step.
    max_iter : int
        Epochs.
    early_stopping : bool
        Hold out `validation_fraction` of the training data, stop after `n_iter_no_change` epochs without a better score
        on it, and take the best epoch's weights.
    validation_fraction : float
    n_iter_no_change : int
    warm_start : bool
        `fit` goes on from the weights, scales and classes of the fit before.
    random_state : int, RandomState or None
        The same whole number gives the same weights, bit for bit.
    verbose : bool
        Show a progress bar.
    backend : {"auto", "numpy", "cupy", "cupy:N"} or None
    dtype : {"float32", "float64", "float16", "bfloat16"}
        16 bits are mixed precision: sums and weights stay in float32.
    tier : {"auto", "reference", "pointwise", "sequence"}
    recompute : bool
        See `gpu_lstm.LSTM`.

    Attributes
    ----------
    n_features_in_ : int
        D of sequences; the columns of a two-dimensional X.
    model_ : Model
        The trained model, of `gpu_lstm.models`.
    n_iter_ : int
        Epochs trained.
    loss_curve_ : list of float
        Mean loss of each epoch.
    validation_curve_ : list of float
        With `early_stopping`, what each epoch scored on the held-out part; lower is better.
    """

    hidden_size: int = 64
    num_layers: int = 1
    dropout: float = 0.0
    optimizer: str = "adamw"
    learning_rate: float = 5e-3
    weight_decay: float = 0.01
    schedule: str = "cosine"
    clip: float = 1.0
    batch_size: int = 32
    max_iter: int | None = 100
    early_stopping: bool = False
    validation_fraction: float = 0.1
    n_iter_no_change: int = 10
    warm_start: bool = False
    random_state: Any = None
    verbose: bool = False
    backend: str | None = None
    dtype: str = "float32"
    tier: str = "auto"
    recompute: bool = False

    _makes: ClassVar[tuple[str, ...]] = (
        "hidden_size", "num_layers", "dropout", "backend", "dtype", "tier", "recompute",
    )  # fmt: skip
    """Parameters that a model is made with, and keeps."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    # -- training -----------------------------------------------------------------------------------------

    def _seed(self, more: bool = False) -> int:
        """Return a seed of the random state; with `more`, another one for each epoch that was trained."""
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        return seed + (self.n_iter_ if more and hasattr(self, "n_iter_") else 0)

    def _of_lstm(self) -> dict[str, Any]:
        """Return the models' arguments that are parameters here, under the same names."""
        return {name: getattr(self, name) for name in LSTMEstimator._makes}

    def _goes_on(self, more: bool) -> bool:
        """Return whether training begins with the weights, scales and classes that are there.

        Raises
        ------
        InputError
            Training goes on, and a parameter that the model was made with has another value now.
        """
        goes_on = hasattr(self, "model_") and (more or self.warm_start)
        for name, value in self._made_with.items() if goes_on else ():
            if getattr(self, name) != value:
                raise InputError(
                    f"{name} is {getattr(self, name)!r}; expected {value!r}, as the model has it that partial_fit, or "
                    "fit with warm_start=True, goes on with"
                )
        return goes_on

    def _epochs(self, steps: int) -> int:
        """Return how many epochs of so many steps there are to be where `max_iter` doesn't say."""
        return epochs_for(steps)

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """What was fitted before stays as it was where a fit fails."""
        before = self.__dict__.copy()
        try:
            yield
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    def _train(self, task: Task, more: bool) -> None:
        """Train the task's model, `max_iter` epochs or one `more`; it becomes this estimator's."""
        for name in (field.name for field in fields(self) if field.type == "bool" and field.name != "verbose"):
            check_flag(name, getattr(self, name))
        asked = self._epochs(task.steps_per_epoch) if self.max_iter is None else check_size("max_iter", self.max_iter)
        epochs = 1 if more else asked
        steps = epochs * task.steps_per_epoch
        stops_early = self.early_stopping and not more
        settings = Settings(
            epochs=epochs,
            learning_rate=self.learning_rate,
            optimizer=self.optimizer,
            options={"weight_decay": self.weight_decay} if self.optimizer == "adamw" else {},
            schedule="constant" if more else self.schedule,
            warm_up=0 if more else min(50, steps // 10),
            clip=self.clip,
            validations=epochs if stops_early else 0,
            patience=check_size("n_iter_no_change", self.n_iter_no_change) if stops_early else 0,
        )
        optimizer = make_optimizer(
            self.optimizer, task.model.backend, task.model.params, self.learning_rate, **settings.options
        )
        before = getattr(self, "_optimizer", None)
        if more and type(before) is type(optimizer):
            optimizer.state, optimizer.updates = before.state, before.updates
        training = Training(task, settings, optimizer)
        losses: list[float] = []
        scores: list[float] = []
        starts = math.isfinite(training.best)  # as a forecast that is to be beaten
        best = to_host(task.model, task.model.params) if stops_early and starts else {}

        from tqdm import tqdm

        bar = tqdm(total=steps, unit="step", desc=type(self).__name__, disable=not self.verbose, dynamic_ncols=True)

        def report(event: Event) -> None:
            losses.append(event.loss)
            bar.update()
            if event.score is not None:
                scores.append(event.score)
            if event.best:
                best.update(to_host(task.model, task.model.params))
            if event.step % task.steps_per_epoch == 0:
                words = (f"epoch {event.step // task.steps_per_epoch}/{epochs}", f"{event.loss:.4g} {task.unit}")
                bar.set_postfix_str(", ".join((*words, event.text) if event.text else words))

        with bar:
            training.go(report)
        assign(task.model, task.model.params, best)
        curve = np.mean(np.reshape(losses, (-1, task.steps_per_epoch)), axis=1).tolist()
        earlier: list[float] = getattr(self, "loss_curve_", []) if more else []
        self.loss_curve_ = [*earlier, *curve]
        self.n_iter_ = len(self.loss_curve_)
        self.model_: Any = task.model
        self._optimizer = optimizer
        self._made_with = {name: getattr(self, name) for name in self._makes}
        if stops_early:
            self.validation_curve_ = scores
        elif not more:
            self.__dict__.pop("validation_curve_", None)

    # -- pickling: arrays on the host and what makes the model again ----------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "model_" in state:
            model, optimizer = state.pop("model_"), state.pop("_optimizer")
            state["_packed"] = {
                "kind": model.kind,
                "config": model.config,
                "dtype": model.dtype,
                "params": to_host(model, model.params),
                "optimizer": next(name for name, kind in OPTIMIZERS.items() if kind is type(optimizer)),
                "updates": optimizer.updates,
                "state": to_host(model, optimizer.state),
            }
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        packed = state.pop("_packed", None)
        super().__setstate__(state)
        if packed is not None:
            maker: Any = MODELS[packed["kind"]]
            where = {name: self._made_with[name] for name in ("backend", "tier", "recompute")}
            self.model_ = maker(**packed["config"], dtype=packed["dtype"], **where)
            assign(self.model_, self.model_.params, packed["params"])
            backend, params = self.model_.backend, self.model_.params
            self._optimizer = make_optimizer(packed["optimizer"], backend, params, 1.0)
            self._optimizer.updates = packed["updates"]
            assign(self.model_, self._optimizer.state, packed["state"])

    # -- reading X ----------------------------------------------------------------------------------------

    def _read(self, X: Any, reset: bool) -> tuple[np.ndarray, list[int] | None]:
        """Return the rows of X, and how many of them each sequence has; None for a two-dimensional X.

        Raises
        ------
        ValueError
            In scikit-learn's words: NaN, infinity, no numbers, other features than at `fit`, nothing in it.
        """
        refuse_dispatched("X", X)
        X = as_sequences(X)
        for name, dtype in X.dtypes.items() if hasattr(X, "iloc") and X.ndim == 2 else ():
            if dtype.kind in "Mm":
                raise ValueError(f"X has a column {name!r} of {dtype}; expected numbers")
        if not isinstance(X, Ragged):
            return validate_data(self, X, reset=reset, dtype=np.float64, order="C"), None
        return validate_data(self, X.rows, reset=reset, dtype=np.float64, order="C"), X.lengths


class Ragged(NamedTuple):
    """Sequences: all their rows, an array or a data frame, and how many each has."""

    rows: Any
    lengths: list[int]


def as_sequences(X: Any) -> Any:
    """Return the sequences of X, as `Ragged`; X itself, or a list of its rows, where it holds none.

    Sequences are a list, a Series or an array of objects that are arrays (T_n, D) or data frames; a three-dimensional
    array; or, as sktime has them, a data frame whose cells are Series: a row a sequence, a column a feature.

    Raises
    ------
    ValueError
        Sequences differ in width or columns, have no step or a mask, or lengths differ within a row of cells.
    """
    if isinstance(X, np.ma.MaskedArray):
        raise ValueError("X is a masked array; expected one without a mask")
    if getattr(X, "ndim", None) == 3:
        X = list(np.asarray(X))
    elif hasattr(X, "iloc"):
        values = X.to_numpy()  # in order, whatever labels the index has
        X = values if holds_sequences(values) else X
    if isinstance(X, np.ndarray) and holds_sequences(X):
        X = list(X) if X.ndim == 1 else [side_by_side(n, row) for n, row in enumerate(X)]
    if not isinstance(X, list | tuple) or len(X) == 0:
        return X
    if np.ndim(X[0]) == 1 and len({np.size(part) for part in X}) > 1:
        raise ValueError("X holds rows of different lengths; expected sequences (T, D), of one feature (T, 1)")
    if np.ndim(X[0]) != 2:
        return X
    if any(isinstance(part, np.ma.MaskedArray) for part in X):
        raise ValueError("X holds a masked array; expected arrays without a mask")
    parts = [of_frame(n, part) if hasattr(part, "iloc") else np.asarray(part) for n, part in enumerate(X)]
    for n, part in enumerate(parts):
        if part.ndim != 2 or part.shape[1:] != parts[0].shape[1:] or len(part) == 0:
            raise ValueError(f"X[{n}] has shape {part.shape}; expected (T, {parts[0].shape[1]}) with T of at least 1")
    rows = np.concatenate(parts)
    if all(hasattr(part, "iloc") for part in X):
        for n, part in enumerate(X):
            if list(part.columns) != list(X[0].columns):
                raise ValueError(f"X[{n}] has columns {list(part.columns)}; expected {list(X[0].columns)}, as X[0] has")
        rows = type(X[0])(rows, columns=X[0].columns)
    return Ragged(rows, [len(part) for part in parts])


def of_frame(n: int, frame: Any) -> np.ndarray:
    """Return the numbers of a sequence that is a data frame, NaN where one is missing.

    Raises
    ------
    ValueError
        A column holds other things than numbers.
    """
    columns = []
    for name, column in zip(frame.columns, (frame.iloc[:, k] for k in range(frame.shape[1])), strict=True):
        kind = column.dtype.kind
        try:
            given = column.to_numpy() if kind in "Mm" else column.to_numpy(np.float64, na_value=np.nan)
        except (TypeError, ValueError):
            given = column.to_numpy()
        if given.dtype.kind not in "biuf":
            raise ValueError(f"X[{n}] has a column {name!r} of {column.dtype}; expected numbers")
        columns.append(given)
    return np.column_stack(columns) if columns else np.empty(frame.shape)


def holds_sequences(values: np.ndarray) -> bool:
    """Return whether the first element of an array is a sequence."""
    return values.dtype == object and values.size > 0 and np.ndim(values.flat[0]) > 0


def side_by_side(n: int, row: np.ndarray) -> np.ndarray:
    """Return the features (T,) of one sequence as (T, D)."""
    shapes = {np.shape(cell) for cell in row}
    if len(shapes) > 1 or len(*shapes) != 1:
        found = ", ".join(map(str, sorted(shapes, key=str)))
        raise ValueError(f"X has cells of shapes {found} in row {n}; expected one length (T,) for all of its features")
    return np.column_stack(list(row))


def to_host(model: Model, arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Copy arrays to the host."""
    return {name: np.array(model.backend.to_numpy(array)) for name, array in arrays.items()}


def assign(model: Model, arrays: Mapping[str, Any], values: dict[str, np.ndarray]) -> None:
    """Copy values from the host into arrays of the same names."""
    for name, value in values.items():
        arrays[name][...] = model.backend.asarray(value, str(arrays[name].dtype))


def refuse_dispatched(name: str, array: Any) -> None:
    """Refuse another library's array where scikit-learn's metrics would compute there: predictions are NumPy's."""
    if get_config()["array_api_dispatch"] and not isinstance(array, np.ndarray) and hasattr(array, "__dlpack__"):
        kind = f"{type(array).__module__}.{type(array).__name__}"
        raise ValueError(
            f"{name} is a {kind} under array_api_dispatch=True; expected a NumPy array (np.asarray({name})), "
            f"or sklearn.config_context(array_api_dispatch=False), where it is taken as one"
        )


def check_y(estimator: Any, y: Any, dtype: Any = None) -> np.ndarray:
    """Return y as an array without NaN; refuse others in scikit-learn's words."""
    if y is None:
        raise ValueError(
            f"This {type(estimator).__name__} estimator requires y to be passed, but the target y is None."
        )
    refuse_dispatched("y", y)
    checked: np.ndarray = check_array(y, ensure_2d=False, dtype=dtype, input_name="y", estimator=estimator)
    return checked
