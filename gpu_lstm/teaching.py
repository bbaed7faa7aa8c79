"""The LSTM step by step, for learners and for online use: one column vector a call, every quantity readable.

A thin layer over the same core as ``gpu_lstm.LSTM`` (`gpu_lstm.recurrence.reference`), on the same backends::

    layer = LstmLayer(3, 2, learning_rate=0.1)
    xs, targets = data_set(layer.backend)
    for x in xs:
        layer.forward(x)
    layer.backward(xs[-1], [h - d for h, d in zip(layer.h_list[1:], targets)], IdentityActivator())
    layer.update()
    layer.reset_state()

Sources: S. Hochreiter and J. Schmidhuber, Long Short-Term Memory, Neural Computation 9(8), 1997; F. Gers,
J. Schmidhuber and F. Cummins, Learning to Forget, Neural Computation 12(10), 2000; P. Werbos, Backpropagation
Through Time, Proc. IEEE 78(10), 1990.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from gpu_lstm.backend import PARAM_DTYPES, Array, Backend, choose
from gpu_lstm.errors import InputError
from gpu_lstm.layers.base import check_seed
from gpu_lstm.layers.checks import check_dtype, check_positive, check_size
from gpu_lstm.ops.expressions import sum_rows
from gpu_lstm.recurrence import reference
from gpu_lstm.recurrence.problem import Problem, split_gates

PARAMETERS = ("Wfh", "Wfx", "bf", "Wih", "Wix", "bi", "Woh", "Wox", "bo", "Wch", "Wcx", "bc")
"""Names of the twelve parameters; the gradient of each has ``_grad`` appended."""

GATES = "ifco"
"""The parameters' letters in the core's gate order i, f, g, o; the candidate g is ``c`` here."""

_NONE_YET: tuple[Array, ...] = (None, None, None)


class Activator(Protocol):
    """An elementwise activation function; works on arrays of any backend."""

    def forward(self, weighted_input: Array) -> Array:
        """Return the activation of `weighted_input`, of any shape."""

    def backward(self, output: Array) -> Array:
        """Return the derivative, written in terms of the activation's `output`."""


class SigmoidActivator:
    """y = 1 / (1 + exp(-x)), as tanh(x/2)/2 + 1/2: nothing overflows."""

    def forward(self, weighted_input: Array) -> Array:
        """Return the activation of `weighted_input`, of any shape."""
        return 0.5 * _namespace(weighted_input).tanh(0.5 * weighted_input) + 0.5

    def backward(self, output: Array) -> Array:
        """Return y (1 - y) of y, the `output`."""
        return output * (1 - output)


class TanhActivator:
    """y = tanh(x)."""

    def forward(self, weighted_input: Array) -> Array:
        """Return the activation of `weighted_input`, of any shape."""
        return _namespace(weighted_input).tanh(weighted_input)

    def backward(self, output: Array) -> Array:
        """Return 1 - y^2 of y, the `output`."""
        return 1 - output * output


class IdentityActivator:
    """y = x."""

    def forward(self, weighted_input: Array) -> Array:
        """Return the `weighted_input` itself."""
        return weighted_input

    def backward(self, output: Array) -> Array:
        """Return 1, like the `output`."""
        return _namespace(output).ones_like(output)


class ReluActivator:
    """y = max(0, x)."""

    def forward(self, weighted_input: Array) -> Array:
        """Return the activation of `weighted_input`, of any shape."""
        xp = _namespace(weighted_input)
        return xp.where(weighted_input < 0, xp.zeros_like(weighted_input), weighted_input)

    def backward(self, output: Array) -> Array:
        """Return 1 where the `output` is above 0, else 0."""
        xp = _namespace(output)
        return xp.where(output > 0, xp.ones_like(output), xp.zeros_like(output))


class LstmLayer:
    """One LSTM layer for one sequence, a step a call.

    Parameters
    ----------
    input_width : int
        D, size of x.
    state_width : int
        H, size of h and c.
    learning_rate : float
        Of `update`.
    backend : str, Backend or None
    dtype : {"float32", "float64"}
    seed : int
        Weights start uniform in ±1/sqrt(state_width), biases at zero.

    Attributes
    ----------
    Wfh, Wih, Woh, Wch : (H, H)
        Recurrent weights of the forget, input and output gate and of the candidate.
    Wfx, Wix, Wox, Wcx : (H, D)
        Input weights.
    bf, bi, bo, bc : (H, 1)
        Biases. All twelve can be assigned or changed in place.
    Wfh_grad, Wfx_grad, bf_grad, ...
        Gradient of each parameter, summed over all steps, from the last `backward`; None before the first.
    c_list, h_list, f_list, i_list, o_list, ct_list : lists of (H, 1)
        Histories: cell state, output, gates and candidate after step k at index k; index 0 is the zero start.
    x_list : list of (D, 1)
        Copies of the inputs, x of step k at index k; index 0 is zero.
    delta_h_list, delta_c_list : lists of (H, 1)
        From the last `backward`: dL/dh and dL/dc of step k, all that arrives there; index 0 for the start state.
    delta_f_list, delta_i_list, delta_o_list, delta_ct_list : lists of (H, 1)
        dL/dz of each gate's pre-activation z in step k; index 0 is zero.
    delta_x_list : list of (D, 1)
        Error handed to the layer below in step k (see `backward`); index 0 is zero.

    Raises
    ------
    InputError
        A width isn't a whole number of at least 1, the learning rate no number above 0, or the dtype neither of these.

    Examples
    --------
    >>> from gpu_lstm.teaching import IdentityActivator, LstmLayer
    >>> layer = LstmLayer(3, 2, learning_rate=0.1, backend="numpy")
    >>> for x in np.ones((4, 3, 1)):
    ...     _ = layer.forward(x)
    >>> layer.backward(x, np.ones((2, 1)), IdentityActivator())
    >>> len(layer.h_list), layer.Wfh_grad.shape  # h of the start and of four steps
    (5, (2, 2))
    """

    def __init__(
        self,
        input_width: int,
        state_width: int,
        learning_rate: float,
        *,
        backend: str | Backend | None = None,
        dtype: str = "float64",
        seed: int = 0,
    ):
        self.backend = choose(backend)
        self.dtype = check_dtype(dtype, PARAM_DTYPES)
        self.input_width = check_size("input_width", input_width)
        self.state_width = check_size("state_width", state_width)
        self.learning_rate = check_positive("learning_rate", learning_rate)
        rng = np.random.default_rng(check_seed(seed))
        self.Wfh, self.Wfx, self.bf = self._start(rng)
        self.Wih, self.Wix, self.bi = self._start(rng)
        self.Woh, self.Wox, self.bo = self._start(rng)
        self.Wch, self.Wcx, self.bc = self._start(rng)
        self.Wfh_grad, self.Wfx_grad, self.bf_grad = _NONE_YET
        self.Wih_grad, self.Wix_grad, self.bi_grad = _NONE_YET
        self.Woh_grad, self.Wox_grad, self.bo_grad = _NONE_YET
        self.Wch_grad, self.Wcx_grad, self.bc_grad = _NONE_YET
        self.reset_state()

    @property
    def times(self) -> int:
        """Steps since the start or the last `reset_state`."""
        return len(self.h_list) - 1

    def reset_state(self) -> None:
        """Start a new sequence: all six histories back to the zero state, error terms cleared.

        Parameters and their gradients stay.
        """
        start = [[self._zeros()] for _ in range(6)]
        self.c_list, self.h_list, self.f_list, self.i_list, self.o_list, self.ct_list = start
        self.x_list = [self._zeros(self.input_width)]
        empty: list[list[Array]] = [[] for _ in range(7)]
        self.delta_h_list, self.delta_c_list, self.delta_x_list = empty[:3]
        self.delta_f_list, self.delta_i_list, self.delta_o_list, self.delta_ct_list = empty[3:]

    def forward(self, x: Any) -> Array:
        """Take one step and append it to the histories.

        Parameters
        ----------
        x : (input_width, 1)
            An array of the backend; on NumPy a list will do.

        Returns
        -------
        h : (state_width, 1)
            The output, also ``h_list[-1]``.

        Raises
        ------
        InputError
            x or a parameter has the wrong shape, dtype or device; the state is unchanged.
        """
        xp = self.backend.xp
        x = self._vector("x", x, "input_width", self.input_width)
        weight_h, weight_x, bias = self._stack()
        z = xp.matmul(weight_x, x) + bias
        problem = Problem(xp.reshape(z, (1, 1, -1)), weight_h, self.h_list[-1].T, self.c_list[-1].T)
        saved = reference.forward(self.backend, problem)
        i, f, g, o = split_gates(saved.gates[0, ...])
        h, c = saved.last
        histories = (self.h_list, self.c_list, self.i_list, self.f_list, self.ct_list, self.o_list)
        for history, row in zip(histories, (h, c, i, f, g, o), strict=True):
            history.append(_column(xp, row))
        self.x_list.append(xp.asarray(x, copy=True))
        return self.h_list[-1]

    def backward(self, x: Any, delta_h: Any, activator: Activator) -> None:
        """Backpropagate through all steps of the histories, along h and along c.

        Fills the error terms and replaces the twelve gradients. The histories stay, so it can be called again;
        it reads the parameters as they are now, so call it before `update`.

        Parameters
        ----------
        x : (input_width, 1)
            The last `forward` call's input.
        delta_h : (state_width, 1), or a list with one of these or None per step
            Gradient of the loss with respect to the last h, or to the h of every step.
        activator : Activator
            The layer below's, whose output x was: ``delta_x_list[k]`` is dL/dx times ``activator.backward(x)``,
            the error at that layer's pre-activation. IdentityActivator() for raw inputs: dL/dx.

        Raises
        ------
        InputError
            No step went forward yet, x isn't the last input, or an argument has the wrong shape, dtype or device.
        """
        backend, xp, n = self.backend, self.backend.xp, self.times
        if n == 0:
            raise InputError("backward has no step to go back through; call forward first")
        if not bool(xp.all(self._vector("x", x, "input_width", self.input_width) == self.x_list[-1])):
            raise InputError("x is not the input of the last forward call; expected that one")
        if isinstance(activator, type) or not hasattr(activator, "backward"):
            raise InputError(f"activator is {activator!r}; expected an object such as IdentityActivator()")
        arriving = self._errors(delta_h)
        weight_h, weight_x, _ = self._stack()
        slopes = [backend.require("activator.backward(x)", activator.backward(v), v.shape) for v in self.x_list]

        dz_list = [xp.zeros((1, 4 * self.state_width), dtype=weight_h.dtype)] * (n + 1)
        dh_list, dc_list = [self._zeros()] * (n + 1), [self._zeros()] * (n + 1)
        dh, dc = self._zeros().T, self._zeros().T
        for k in range(n, 0, -1):
            dh = dh + arriving[k].T
            gates = xp.concat([v[k].T for v in (self.i_list, self.f_list, self.ct_list, self.o_list)], axis=1)
            c = self.c_list[k].T
            # The core goes on to c of the step before; this is what it passes on the way: c feeds c and h.
            dc_list[k] = _column(xp, dc + dh * self.o_list[k].T * (1 - xp.tanh(c) ** 2))
            dh_list[k] = _column(xp, dh)
            reference.cell_backward(backend, gates, self.c_list[k - 1].T, c, self.h_list[k].T, dh, dc)
            dz_list[k] = gates
            dh = xp.matmul(gates, weight_h)
        dh_list[0], dc_list[0] = _column(xp, dh), _column(xp, dc)

        self.delta_h_list, self.delta_c_list = dh_list, dc_list
        self.delta_i_list, self.delta_f_list, self.delta_ct_list, self.delta_o_list = (
            [_column(xp, split_gates(dz)[gate]) for dz in dz_list] for gate in range(4)
        )
        self.delta_x_list = [_column(xp, xp.matmul(dz, weight_x)) * s for dz, s in zip(dz_list, slopes, strict=True)]
        dz_rows = xp.concat(dz_list[1:], axis=0)
        h_rows, x_rows = (xp.concat([v.T for v in vectors], axis=0) for vectors in (self.h_list[:-1], self.x_list[1:]))
        weight_h_grad, weight_x_grad = xp.matmul(dz_rows.T, h_rows), xp.matmul(dz_rows.T, x_rows)
        bias_grad = _column(xp, sum_rows(xp, dz_rows))
        for number, gate in enumerate(GATES):
            part = slice(number * self.state_width, (number + 1) * self.state_width)
            setattr(self, f"W{gate}h_grad", weight_h_grad[part, :])
            setattr(self, f"W{gate}x_grad", weight_x_grad[part, :])
            setattr(self, f"b{gate}_grad", bias_grad[part, :])

    def update(self) -> None:
        """Plain gradient descent, in place: p -= learning_rate * p_grad, with the last `backward`'s gradients.

        Raises
        ------
        InputError
            `backward` has not run yet, or a parameter or gradient has the wrong shape, dtype or device.
        """
        if self.Wfh_grad is None:
            raise InputError("update has no gradients; call backward first")
        moves = [(self._parameter(name), self._parameter(name, "_grad")) for name in PARAMETERS]
        for parameter, gradient in moves:
            parameter -= self.learning_rate * gradient

    def _start(self, rng: np.random.Generator) -> tuple[Array, ...]:
        """Draw recurrent weights, input weights and bias of one gate, on the host so that all backends start equal."""
        bound, height = 1 / math.sqrt(self.state_width), self.state_width
        weights = (rng.uniform(-bound, bound, (height, width)) for width in (height, self.input_width))
        return *(self.backend.asarray(w.astype(self.dtype), self.dtype) for w in weights), self._zeros()

    def _zeros(self, height: int | None = None) -> Array:
        """Return a zero column vector."""
        return self.backend.xp.zeros((height or self.state_width, 1), dtype=self.backend.dtype(self.dtype))

    def _parameter(self, name: str, ending: str = "") -> Array:
        """Return a parameter or its gradient, checked: users assign them."""
        height, kind = self.state_width, name[-1]
        width = f"input_width={self.input_width}" if kind == "x" else f"state_width={height}" if kind == "h" else 1
        shape = (f"state_width={height}", width if name[0] == "W" else 1)
        return self.backend.require(name + ending, getattr(self, name + ending), shape, self.dtype)

    def _stack(self) -> tuple[Array, Array, Array]:
        """Return the twelve parameters as the core takes them: (4H, H), (4H, D) and (4H, 1), in its gate order."""
        names = ([f"W{gate}h" for gate in GATES], [f"W{gate}x" for gate in GATES], [f"b{gate}" for gate in GATES])
        h, x, b = (self.backend.xp.concat([self._parameter(name) for name in four], axis=0) for four in names)
        return h, x, b

    def _vector(self, name: str, value: Any, what: str, height: int) -> Array:
        """Return a column vector, checked; on NumPy, lists and other real dtypes are converted."""
        if isinstance(value, list | tuple | np.ndarray):
            try:
                host = np.asarray(value)
            except ValueError:
                raise InputError(f"{name} is uneven; expected ({what}={height}, 1) numbers") from None
            if host in self.backend:
                value = host.astype(self.dtype) if host.dtype.kind in "biuf" else host
        return self.backend.require(name, value, (f"{what}={height}", 1), self.dtype)

    def _errors(self, delta_h: Any) -> list[Array]:
        """Return the error that arrives from the loss at h of each step k, at index k."""
        steps: Sequence[Any] = delta_h if isinstance(delta_h, list | tuple) else [None] * (self.times - 1) + [delta_h]
        if len(steps) != self.times:
            raise InputError(f"delta_h has {len(steps)} entries; expected one per step, {self.times}, or one array")
        names = ["delta_h" if steps is not delta_h else f"delta_h[{n}]" for n in range(self.times)]
        return [self._zeros()] + [
            self._zeros() if step is None else self._vector(name, step, "state_width", self.state_width)
            for name, step in zip(names, steps, strict=True)
        ]


def data_set(backend: str | Backend | None = None, dtype: str = "float64") -> tuple[list[Array], list[Array]]:
    """Return two inputs and the outputs they should give, of `dtype`.

    Returns
    -------
    x : list of two (3, 1)
    d : list of two (2, 1)
        Within (-1, 1), which h never leaves.
    """
    to, kind = choose(backend).asarray, check_dtype(dtype, PARAM_DTYPES)
    x = [to([[1.0], [2.0], [3.0]], kind), to([[2.0], [3.0], [4.0]], kind)]
    return x, [to([[0.1], [0.2]], kind), to([[0.3], [0.4]], kind)]


def gradient_check(
    layer: LstmLayer | None = None, xs: Sequence[Any] | None = None, *, seed: int = 0, step: float = 1e-5
) -> float:
    """Compare `LstmLayer.backward` with central differences, for every element of all twelve parameters.

    The loss is a random weighted sum of the h of every step. Prints both numbers for each element.

    Parameters
    ----------
    layer : LstmLayer, optional
        In float64; its parameters come back as they were, its state is reset. Default: widths 3 and 2.
    xs : sequence of (input_width, 1), optional
        Default: the data set, two and a half times over: five steps.
    seed : int
        Of the loss's weights.
    step : float
        Each element is moved by this much up and down.

    Returns
    -------
    float
        Largest relative error, ``|expected - actual| / max(|expected|, |actual|, 1e-3)``: below the 1e-3,
        the difference quotient's own rounding would count as an error.

    Raises
    ------
    InputError
        The layer isn't float64, or an x doesn't fit it.
    """
    layer = layer or LstmLayer(3, 2, 1e-3)
    if layer.dtype != "float64":
        raise InputError(f"layer has dtype {layer.dtype}; expected float64: differences need its precision")
    backend = layer.backend
    if xs is None:
        xs = (data_set(backend)[0] * 3)[:5]
    rng = np.random.default_rng(check_seed(seed))
    weights = [backend.asarray(rng.uniform(-1, 1, (layer.state_width, 1)), "float64") for _ in xs]

    def loss() -> float:
        layer.reset_state()
        return math.fsum(float(backend.xp.sum(w * layer.forward(x))) for w, x in zip(weights, xs, strict=True))

    loss()
    layer.backward(layer.x_list[-1], weights, IdentityActivator())
    worst = 0.0
    for name in PARAMETERS:
        parameter, gradient = getattr(layer, name), backend.to_numpy(getattr(layer, f"{name}_grad"))
        for row, column in np.ndindex(*gradient.shape):
            kept = float(parameter[row, column])
            try:
                parameter[row, column] = kept + step
                above = loss()
                parameter[row, column] = kept - step
                expected = (above - loss()) / (2 * step)
            finally:
                parameter[row, column] = kept
            actual = float(gradient[row, column])
            worst = max(worst, abs(expected - actual) / max(abs(expected), abs(actual), 1e-3))
            print(f"{name}[{row},{column}]: expected {expected: .9e}  actual {actual: .9e}")
    layer.reset_state()
    print(f"largest relative error: {worst:.1e}")
    return worst


def _column(xp: Any, row: Array) -> Array:
    """Return a row (1, N) or vector (N,) as a column (N, 1)."""
    return xp.reshape(row, (-1, 1))


def _namespace(x: Any) -> Any:
    """Return the array namespace that `x` comes from: numpy, cupy, ..."""
    if not hasattr(x, "dtype"):
        raise InputError(f"activator got a {type(x).__name__}; expected an array")
    return sys.modules[type(x).__module__.split(".")[0]]
