"""The operations of a training step, three times: array expressions in float64 are the oracle of all."""

import os
import subprocess
import sys

import numpy as np
import pytest

from gpu_lstm import InputError, ops
from gpu_lstm.native import compiled
from gpu_lstm.optimizers import SGD, Adam, RMSProp
from tests.gpu import DTYPES, Gpu, on_host, stored
from tests.support import NUMPY, STRICT, relative_error

ORACLE = ops.Arrays(NUMPY)
TOLERANCE = {"float64": 1e-13, "float32": 4e-6, "float16": 4e-3, "bfloat16": 3e-2}
WIDE = {"float64": "float64", "float32": "float32", "float16": "float32", "bfloat16": "float32"}


@pytest.fixture(params=["numpy", "strict", pytest.param("cupy", marks=pytest.mark.gpu)])
def there(request):
    return {"numpy": NUMPY, "strict": STRICT}.get(request.param) or Gpu()


@pytest.fixture(params=DTYPES)
def dtype(request, there):
    if there is STRICT and "16" in request.param:
        pytest.skip("the standard has no such dtype")
    return request.param


def drawn(there, dtype, *shapes):
    """Random arrays there, and the same numbers in float64 on the host."""
    rng = np.random.default_rng(len(shapes))
    host = [stored(rng.standard_normal(shape), dtype) for shape in shapes]
    return [there.asarray(array, dtype) for array in host], [array.astype(np.float64) for array in host]


def agree(there, actual, expected, dtype):
    """An array there has the oracle's numbers, in that dtype."""
    assert str(actual.dtype).rpartition(".")[2] == dtype
    assert relative_error(on_host(there, actual), np.asarray(expected)) < TOLERANCE[dtype]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_product(there, dtype, turned, biased):
    (a, b, bias), (a_host, b_host, bias_host) = drawn(there, dtype, (5, 3), (7, 3) if turned else (3, 7), (7,))
    if turned:
        b, b_host = b.T, b_host.T
    expected = ORACLE.product(a_host, b_host, bias_host if biased else None)
    product, bias = ops.of(there).product, bias if biased else None
    agree(there, product(a, b, bias), expected, dtype)
    agree(there, product(a, b, bias, dtype=WIDE[dtype]), expected, WIDE[dtype])
    out = there.empty((5, 7), a.dtype)
    assert product(a, b, bias, out=out) is out
    agree(there, out, expected, dtype)


@pytest.mark.parametrize("widths", [[3], [3, 8], [1, 2, 3]], ids=str)
def test_weight_gradients(there, dtype, widths):
    (dy, *inputs), (dy_host, *hosts) = drawn(there, dtype, (150, 4), *[(150, width) for width in widths])
    expected, expected_sum = ORACLE.weight_gradients(dy_host, hosts)
    actual, actual_sum = ops.of(there).weight_gradients(dy, inputs)
    for one, other in zip([*actual, actual_sum], [*expected, expected_sum], strict=True):
        agree(there, one, other, WIDE[dtype])


def test_rows_of_a_table(there, dtype):
    (table, rows), (table_host, rows_host) = drawn(there, dtype, (6, 5), (9, 5))
    index = np.array([3, 0, 3, 5, 5, 3, 1, 0, 3])
    index_there = there.asarray(index)
    for checked in (False, True):
        taken = ops.of(there).take_rows(table, index_there, checked=checked)
        np.testing.assert_array_equal(on_host(there, taken), ORACLE.take_rows(table_host, index))
    ORACLE.scatter_add(table_host, index, rows_host)
    ops.of(there).scatter_add(table, index_there, rows)
    agree(there, table, table_host, dtype)


def test_dropout(there, dtype):
    (x, other), (x_host, other_host) = drawn(there, dtype, (40, 11), (40, 11))
    y, again = ops.of(there).dropout(x, 0.25, (3, 4))
    if there.kernels == "cuda":  # draws other numbers
        kept = on_host(there, y) != 0
        assert 0.6 < np.mean(kept) < 0.9
        expected, expected_again = x_host * kept / 0.75, other_host * kept / 0.75
    else:
        expected, draw = ORACLE.dropout(x_host, 0.25, (3, 4))
        expected_again = draw(other_host)
    agree(there, y, expected, dtype)
    agree(there, again(other), expected_again, dtype)
    np.testing.assert_array_equal(on_host(there, ops.of(there).dropout(x, 0.25, (3, 4))[0]), on_host(there, y))
    assert np.any(on_host(there, ops.of(there).dropout(x, 0.25, (3, 5))[0]) != on_host(there, y))


@pytest.mark.parametrize("ignore", [None, -1, 2])
def test_softmax_cross_entropy(there, dtype, ignore):
    (logits,), (logits_host,) = drawn(there, dtype, (6, 5))
    targets = np.array([2, 0, 4, 1, 2, 3 if ignore is None else ignore])
    expected = ORACLE.softmax_cross_entropy(logits_host, targets, ignore)
    loss = ops.of(there).softmax_cross_entropy(logits, there.asarray(targets), ignore)
    assert loss.shape == ()
    assert there.read(loss) == pytest.approx((float(expected),), rel=TOLERANCE[dtype])
    agree(there, logits, logits_host, dtype)  # the gradient


def test_numbers_out_of_range_are_refused_once_by_the_name_that_the_caller_gives(there):
    (table, logits), _ = drawn(there, "float32", (3, 2), (2, 3))
    for given in ([0, 3], [-1, 2], [-5, 7]):
        index = there.asarray(np.array(given))
        told = [n for n in given if n not in range(3)] if there.kernels == "cuda" else given  # a kernel keeps no others
        with pytest.raises(InputError, match=rf"ids has values {min(told)}\.\.{max(told)}; expected 0\.\.words-1=2"):
            ops.of(there).take_rows(table, index, "ids", "words")
            there.read()
        with pytest.raises(InputError, match=r"targets has values .*; expected 0\.\.V-1=2"):
            ops.of(there).softmax_cross_entropy(logits + 0, index, None)
            there.read()
    ops.of(there).softmax_cross_entropy(logits, there.asarray(np.array([-5, 2])), -5)
    assert there.read() == ()


def test_norm(there, dtype):
    arrays, hosts = drawn(there, dtype, (3, 4), (50,), (1,), (0, 2))
    norm = ops.of(there).norm(arrays)
    assert norm.shape == ()
    assert float(norm) == pytest.approx(float(ORACLE.norm(hosts)), rel=TOLERANCE[dtype])
    assert float(ops.of(there).norm([])) == 0


@pytest.mark.parametrize("make", [SGD, RMSProp, Adam])
@pytest.mark.parametrize("max_norm, loss, loss_scale", [(None, None, 1.0), (1.0, 2.0, 4.0), (1e3, np.nan, 1.0)])
def test_update(there, dtype, make, max_norm, loss, loss_scale):
    wide = WIDE[dtype]
    narrow = dtype if ops.of(there).checks_gradients else wide
    params, params_host = drawn(there, wide, (3, 5), (4,))
    (*gradients, _), (*gradients_host, _) = drawn(there, narrow, (3, 5), (4,), (1,))
    found = []
    for backend, around, own, sent in (
        (NUMPY, ORACLE, params_host, gradients_host),
        (there, ops.of(there), params, gradients),
    ):
        optimizer = make(backend, {str(n): param for n, param in enumerate(own)}, 0.1)
        optimizer.advance()
        states = [[optimizer.state[f"{slot}.{n}"] for slot in optimizer.slots] for n in range(len(own))]
        given = None if loss is None else backend.asarray(np.array(loss), "float64" if backend is NUMPY else wide)
        norm = around.update(optimizer, own, sent, states, max_norm, given, loss_scale)
        found.append(([*own, *(array for state in states for array in state)], norm))
    (expected, expected_norm), (actual, norm) = found
    assert (norm is None) == (max_norm is None)
    if max_norm is not None:
        assert float(norm) == pytest.approx(float(expected_norm), rel=TOLERANCE[wide])
    for one, other in zip(actual, expected, strict=True):
        agree(there, one, other, wide)


def test_what_is_written_to_is_noticed(there, dtype, monkeypatch):
    monkeypatch.setenv(ops.cuda.CHECK_VARIABLE, "1")
    arrays, _ = drawn(there, dtype, (3, 4), (2,))
    changed = ops.of(there).watch(arrays)
    assert changed() is None
    arrays[1][1] = 9.0
    assert changed() == 1


@pytest.mark.parametrize("asked", ["avx513", "AVX2", "on"])
def test_a_set_of_instructions_that_nobody_knows_is_refused(asked):
    code = "from gpu_lstm.native import compiled; print(compiled.library() is not None)"
    environment = os.environ | {"GPU_LSTM_COMPILED": asked, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    expected = f"GPU_LSTM_COMPILED is {asked!r}; expected 0, 1 or one of {', '.join(compiled.SETS)}"
    assert expected in done.stderr
