"""Optimizers: they update parameters in place from gradients of the same names.

``optimizer.state`` is a flat dictionary of arrays, all that has to be saved to go on later, with the number of
updates in ``optimizer.updates``.
"""

from __future__ import annotations

from gpu_lstm import ops
from gpu_lstm.backend import Backend
from gpu_lstm.layers.checks import check_choice
from gpu_lstm.optimizers.adam import Adam, AdamW
from gpu_lstm.optimizers.base import Optimizer, Params, check_max_norm, check_writeable, compiled_as
from gpu_lstm.optimizers.descent import SGD, RMSProp

__all__ = [
    "OPTIMIZERS", "SGD", "Adam", "AdamW", "Optimizer", "Params", "RMSProp", "clip_by_global_norm", "compiled_as",
    "make_optimizer",
]  # fmt: skip

OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "rmsprop": RMSProp, "adam": Adam, "adamw": AdamW}
"""Optimizers by name."""


def make_optimizer(name: str, backend: Backend, params: Params, learning_rate: float, **options: float) -> Optimizer:
    """Return the optimizer of `params` called `name`: sgd, rmsprop, adam or adamw; else it raises InputError.

    Examples
    --------
    >>> from gpu_lstm.optimizers import make_optimizer
    >>> make_optimizer("adamw", choose("numpy"), {"w": np.zeros(2)}, 0.001, weight_decay=0.1).learning_rate
    0.001
    """
    return OPTIMIZERS[check_choice("optimizer", name, OPTIMIZERS)](params, learning_rate, **options, backend=backend)


def clip_by_global_norm(backend: Backend, gradients: Params, max_norm: float) -> float:
    """Scale all gradients in place so that their joint 2-norm is at most `max_norm` (Pascanu et al., 2013).

    Returns
    -------
    float
        The norm before clipping.

    Raises
    ------
    InputError
        A gradient can't be written, or max_norm is not above 0.

    Examples
    --------
    >>> from gpu_lstm.optimizers import clip_by_global_norm
    >>> gradients = {"w": np.array([3.0, 4.0])}
    >>> clip_by_global_norm(gpu_lstm.choose("numpy"), gradients, 1.0), gradients["w"]
    (5.0, array([0.6, 0.8]))
    """
    check_max_norm(max_norm)
    for name, gradient in gradients.items():
        check_writeable(f"gradient of {name}", gradient)
    norm = float(ops.of(backend).norm(list(gradients.values())))
    if norm > max_norm:
        for gradient in gradients.values():
            gradient *= max_norm / norm
    return norm
