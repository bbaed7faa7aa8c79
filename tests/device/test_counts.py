"""What the interpreter counts of small kernels whose counts are known."""

import numpy as np
import pytest

from tests.device.support import module_of, needs_machine

pytestmark = needs_machine


def launched(body, threads=32, blocks=1):
    """Counts of a kernel of floats, one launch."""
    import cupy

    from benchmarks.counts import counted

    kernel = module_of(f'extern "C" __global__ void some(float* x) {{ {body} }}').get_function("some")
    x = cupy.zeros(4096, np.float32)
    (launch,) = counted(lambda: kernel((blocks,), (threads,), (x,)))
    assert launch.name == "some"
    return launch.counts


@pytest.mark.parametrize(
    "place, sectors",
    [("threadIdx.x", 4), ("threadIdx.x * 2", 8), ("threadIdx.x * 8", 32), ("0", 1), ("threadIdx.x + 1", 5)],
)
def test_a_warp_reads_each_sector_once(place, sectors):
    found = launched(f"if (x[{place}] == 1.0f) x[0] = 2.0f;")
    assert found["global"] == 1  # zero is there: none stores
    assert found["sectors"] == sectors


def test_every_warp_counts():
    assert launched("x[blockIdx.x * blockDim.x + threadIdx.x] = 1.0f;", 96, 3)["sectors"] == 9 * 4


@pytest.mark.parametrize("stride, turns", [(1, 1), (2, 2), (32, 32), (33, 1), (0, 1)])
def test_lanes_that_want_other_words_of_a_bank_take_turns(stride, turns):
    body = f"__shared__ float s[1100]; s[threadIdx.x * {stride}] = x[0]; __syncwarp(); x[0] = s[0];"
    assert launched(body)["turns"] == turns + 1  # all read one word


def test_sixteen_bytes_a_lane_take_four_turns():
    body = "__shared__ float4 s[32]; s[threadIdx.x].x = 1.0f; __syncwarp();"
    body += "reinterpret_cast<float4*>(x)[0] = s[threadIdx.x];"
    assert launched(body)["turns"] == 4 + 4


def test_a_loop_counts_as_often_as_it_runs_and_looking_in_vain_does_not():
    plain = launched("float y = x[1]; for (int i = 0; i < 10; ++i) y = fmaf(y, y, x[2 * i + threadIdx.x]); x[0] = y;")
    assert plain["float"] == 10
    waiting = """
        volatile float* const flag = x;
        if (threadIdx.x >= 32) { float y = x[1]; for (int i = 0; i < 4000; ++i) y = y * y + 1.0f; *flag = y > 0.0f; }
        else while (*flag == 0.0f);
    """
    found = launched(waiting, 64)
    assert found["global"] <= 4
