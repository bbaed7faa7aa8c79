"""A variant's numbers and arrays reach compiled code in the order of the one struct that C++ and CUDA share."""

import re
from pathlib import Path

import numpy as np
import pytest

from gpu_lstm.errors import BackendError
from gpu_lstm.native import compiled
from gpu_lstm.recurrence import packed
from gpu_lstm.recurrence.variant import ACTIVATIONS, Variant

HEADER = Path(__file__).resolve().parents[1] / "kernels" / "cell" / "options.h"
DTYPES = ("float32", "float64", "float16", "bfloat16")


def members(kind):
    """Names of the struct's members of that type, in order."""
    text = re.sub(r"//.*", "", HEADER.read_text())
    body = re.search(r"struct Options \{(.*?)\};", text, re.S)[1]
    found = re.findall(rf"^\s*{re.escape(kind)} ?((?:\*?\w+, )*\*?\w+);", body, re.M)
    return [name.lstrip("*") for names in found for name in re.split(r",\s*", names)]


def test_the_struct_has_the_numbers_in_the_order_in_which_they_are_packed():
    numbers = packed.numbers(Variant(), "float32")
    assert [*members("T"), *members("int")] == list(numbers)
    assert [name for name, number in numbers.items() if isinstance(number, int)] == members("int")
    assert f"numbers = {len(numbers)};" in HEADER.read_text()


def test_the_struct_has_the_arrays_in_the_order_in_which_they_are_packed():
    assert (*members("const T"), *members("const S")) == packed.PARAMETERS + packed.STATES


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("clip", [0.25, 1.0, 7.0, 30.0])
@pytest.mark.parametrize("hard_sigmoid", [False, True])
@pytest.mark.parametrize("cell_activation", ACTIVATIONS)
def test_activations_move_between_their_packed_bounds_and_nowhere_else(cell_activation, hard_sigmoid, clip, dtype):
    numbers = packed.numbers(Variant(clip=clip, hard_sigmoid=hard_sigmoid, cell_activation=cell_activation), dtype)
    z = np.array([-clip, -clip * 0.9, clip * 0.9, clip])
    gate = np.clip(z / 5 + 0.5, 0, 1) if hard_sigmoid else 1 / (1 + np.exp(-z))
    leak = ACTIVATIONS[cell_activation]
    g = np.tanh(z) if leak is None else np.where(z > 0, z, leak * z)
    for values, low, high in ((gate, "gate_low", "gate_high"), (g, "g_low", "g_high")):
        if numbers[high] == np.inf:  # tanh has no other limits than its own, which it reaches by rounding
            assert values[3] == 1.0
            continue
        assert values[3] >= numbers[high]
        assert values[0] <= numbers[low] or (numbers[low] == -np.inf and leak == 0)
        if clip < 2:
            assert numbers[low] < values[1] < values[2] < numbers[high] or leak == 0


@pytest.mark.skipif(compiled.library() is None, reason=f"no compiled library: {compiled.missing()}")
def test_a_library_with_other_options_is_refused():
    count, numbers, *arrays = packed.listed(Variant(), "float32")
    z, h, c = (np.zeros(shape, np.float32) for shape in ((1, 1, 4), (2, 1, 1), (2, 1, 1)))
    rest = np.zeros((4, 1), np.float32), None, z, h, c, None, None, None, None, None, 0, 1, 1, 1
    compiled.call("family_forward", z.dtype, 1, 1, 1, 1, 1, count, numbers, *arrays, *rest)
    with pytest.raises(BackendError, match="family_forward refused its arguments"):
        compiled.call("family_forward", z.dtype, 1, 1, 1, 1, 1, count - 1, numbers[:-1], *arrays, *rest)
