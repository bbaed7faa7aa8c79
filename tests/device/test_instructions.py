"""Each instruction by value, against NumPy: small kernels of inline PTX, and CuPy's own."""

import numpy as np
import pytest

from tests.device.support import module_of, needs_machine

pytestmark = needs_machine

A = np.array([0, 1, 5, -7, 2**31 - 1, -(2**31), 123456789, -2], np.int32)
B = np.array([3, -1, 31, 2, -5, -(2**31), 987654321, 40], np.int32)
U, V = A.view(np.uint32), B.view(np.uint32)
X = np.array([0.0, -0.0, 1.5, -2.75, np.inf, np.nan, 1e-40, 3e38], np.float32)
Y = np.array([-0.0, 0.0, 2.0, 0.3, -np.inf, 1.0, 2.0, -3e38], np.float32)
WIDE = (A.astype(np.int64), B.astype(np.int64))


def shifted(a, n, left):
    whole = [(int(x) << int(k) if left else int(x) >> int(k)) if k < 32 else 0 for x, k in zip(a, n, strict=True)]
    return np.array([x & 0xFFFFFFFF for x in whole], np.uint32)


INTEGER = {
    "add.s32": lambda: A + B,
    "sub.s32": lambda: A - B,
    "mul.lo.s32": lambda: A * B,
    "mul.hi.s32": lambda: (WIDE[0] * WIDE[1] >> 32).astype(np.int32),
    "mul.hi.u32": lambda: (U.astype(np.uint64) * V >> np.uint64(32)).astype(np.uint32),
    "min.s32": lambda: np.minimum(A, B),
    "max.u32": lambda: np.maximum(U, V),
    "and.b32": lambda: A & B,
    "or.b32": lambda: A | B,
    "xor.b32": lambda: A ^ B,
    "div.u32": lambda: U // V,
    "rem.u32": lambda: U % V,
    "div.s32": lambda: np.array([int(a / b) for a, b in zip(*WIDE, strict=True)]).astype(np.int32),
    "rem.s32": lambda: np.fmod(*WIDE).astype(np.int32),
    "shl.b32": lambda: shifted(U, V, True),
    "shr.u32": lambda: shifted(U, V, False),
    "shr.s32": lambda: A >> np.minimum(V, 31).astype(np.int32),
}
FLOAT = {
    "add.f32": lambda: X + Y,
    "sub.rn.f32": lambda: X - Y,
    "mul.f32": lambda: X * Y,
    "div.rn.f32": lambda: X / Y,
    "min.f32": lambda: np.array([-0.0, -0.0, 1.5, -2.75, -np.inf, 1.0, 1e-40, -3e38], np.float32),
    "max.f32": lambda: np.array([0.0, 0.0, 2.0, 0.3, np.inf, 1.0, 2.0, 3e38], np.float32),
    "mul.ftz.f32": lambda: np.where(np.abs(X) < np.float32(1e-38), np.copysign(np.float32(0), X), X) * Y,
    "copysign.f32": lambda: np.copysign(Y, X),
}


def test_arithmetic_equals_numpy():
    import cupy

    names = [*INTEGER, *FLOAT]
    body = []
    for n, name in enumerate(names):
        real = name in FLOAT
        first, second = (f"__uint_as_float({each}[i])" if real else f"{each}[i]" for each in ("xy" if real else "ab"))
        c, made = ("f", "__float_as_uint(r)") if real else ("r", "r")
        asm = f'asm("{name} %0, %1, %2;" : "={c}"(r) : "{c}"({first}), "{c}"({second}));'
        body.append(f"{{ {'float' if real else 'unsigned'} r; {asm} out[{n} * 8 + i] = {made}; }}")
    given = ", ".join(f"const unsigned* {each}" for each in "abxy")
    text = f'extern "C" __global__ void all({given}, unsigned* out) {{ unsigned i = threadIdx.x; '
    text += "\n".join(body)
    kernel = module_of(text + "}").get_function("all")
    out = cupy.empty((len(names), 8), cupy.uint32)
    kernel((1,), (8,), (*(cupy.asarray(each.view(np.uint32)) for each in (A, B, X, Y)), out))
    got = dict(zip(names, cupy.asnumpy(out), strict=True))
    with np.errstate(all="ignore"):
        for name, want in INTEGER.items():
            np.testing.assert_array_equal(got[name], want().view(np.uint32), name)
        for name, want in FLOAT.items():
            number = got[name].view(np.float32)
            np.testing.assert_array_equal(number, want(), name)
            there = ~np.isnan(number)
            np.testing.assert_array_equal(np.signbit(number)[there], np.signbit(want())[there], name)


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int32", "int64", "float16", "float32", "float64"])
@pytest.mark.parametrize("to", ["int16", "uint8", "uint64", "float16", "float32", "float64"])
def test_conversions_equal_numpys(dtype, to):
    import cupy

    x = np.array([0, 1, 2, 3, 100, 77]).astype(dtype)
    x = x + x.dtype.type(0.5) if x.dtype.kind == "f" else x
    np.testing.assert_array_equal(cupy.asnumpy(cupy.asarray(x).astype(to)), x.astype(to))


@pytest.mark.parametrize("dtype", ["int32", "float32", "float64"])
def test_cupys_reductions_and_copies(dtype):
    import cupy

    x = np.random.default_rng(0).integers(-9, 9, (7, 300)).astype(dtype)
    y = cupy.asarray(x)
    for axis in (None, 0, 1):
        np.testing.assert_array_equal(cupy.asnumpy(y.sum(axis)), x.sum(axis))
        np.testing.assert_array_equal(cupy.asnumpy(y.max(axis)), x.max(axis))
    np.testing.assert_array_equal(cupy.asnumpy(cupy.ascontiguousarray(y.T)), x.T)
    np.testing.assert_array_equal(cupy.asnumpy(cupy.concatenate([y[:, ::2], y[:, 1::2]], axis=1)[:, :5]), x[:, :10:2])
    np.testing.assert_array_equal(cupy.asnumpy(y[y > 3]), x[x > 3])


WARP = r"""
extern "C" __global__ void lanes(int* out, unsigned* votes) {
  int i = threadIdx.x, v = 10 * i;
  out[i] = __shfl_xor_sync(~0u, v, 5);
  out[32 + i] = __shfl_up_sync(~0u, v, 3);
  out[64 + i] = __shfl_down_sync(~0u, v, 30, 16);
  out[96 + i] = __shfl_sync(~0u, v, 9, 8);
  votes[i] = __ballot_sync(~0u, i % 3 == 0);
  votes[32 + i] = __any_sync(~0u, i == 7) + 2 * __all_sync(~0u, i < 32) + 4 * __all_sync(~0u, i < 31);
  if (i < 8) votes[i] += __shfl_xor_sync(0xffu, i, 1);  // some lanes only
}
extern "C" __global__ void block(int* out) {
  int i = threadIdx.x;
  if (i < 64) asm volatile("bar.sync 1, 64;");  // some warps only
  int n = __syncthreads_count(i % 2), any = __syncthreads_or(i == 95), all = __syncthreads_and(i < 95);
  out[i] = n + 1000 * (any != 0) + 2000 * (all != 0);
}
extern "C" __global__ void product(const unsigned* a, const unsigned* b, float* d) {
  int l = threadIdx.x;
  float x[4] = {1.0f, 2.0f, 3.0f, 4.0f};
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
      "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(x[0]), "+f"(x[1]), "+f"(x[2]), "+f"(x[3])
      : "r"(a[4 * l]), "r"(a[4 * l + 1]), "r"(a[4 * l + 2]), "r"(a[4 * l + 3]), "r"(b[2 * l]), "r"(b[2 * l + 1]));
  for (int k = 0; k < 4; ++k) d[4 * l + k] = x[k];
}
"""


def test_what_lanes_do_together():
    import cupy

    module = module_of(WARP)
    out, votes = cupy.empty((4, 32), cupy.int32), cupy.empty((2, 32), cupy.uint32)
    module.get_function("lanes")((1,), (32,), (out, votes))
    lane = np.arange(32)
    np.testing.assert_array_equal(cupy.asnumpy(out[0]), 10 * (lane ^ 5))
    np.testing.assert_array_equal(cupy.asnumpy(out[1]), 10 * np.where(lane < 3, lane, lane - 3))
    np.testing.assert_array_equal(cupy.asnumpy(out[2]), 10 * lane)  # 30 lanes up is beyond every 16
    np.testing.assert_array_equal(cupy.asnumpy(out[3]), 10 * (lane // 8 * 8 + 1))
    ballot = sum(1 << k for k in range(0, 32, 3))
    np.testing.assert_array_equal(cupy.asnumpy(votes[0]), ballot + np.where(lane < 8, lane ^ 1, 0))
    np.testing.assert_array_equal(cupy.asnumpy(votes[1]), np.full(32, 3))
    out = cupy.empty(96, cupy.int32)
    module.get_function("block")((1,), (96,), (out,))
    np.testing.assert_array_equal(cupy.asnumpy(out), np.full(96, 1048))


def test_a_product_of_tensor_cores():
    import cupy

    rng = np.random.default_rng(1)
    a, b = rng.integers(-8, 8, (16, 16)).astype(np.float16), rng.integers(-8, 8, (16, 8)).astype(np.float16)
    c = np.empty((16, 8), np.float32)
    left, right, place = np.empty((32, 8), np.float16), np.empty((32, 4), np.float16), []
    for lane in range(32):
        g, t = divmod(lane, 4)
        for r in range(4):
            left[lane, 2 * r : 2 * r + 2] = a[g + 8 * (r % 2), 2 * t + 8 * (r // 2) :][:2]
            place.append((g + 8 * (r // 2), 2 * t + r % 2))
            c[place[-1]] = r + 1
        for r in range(2):
            right[lane, 2 * r : 2 * r + 2] = b[2 * t + 8 * r : 2 * t + 8 * r + 2, g]
    d = cupy.empty(128, cupy.float32)
    given = (cupy.asarray(left.view(np.uint32)), cupy.asarray(right.view(np.uint32)), d)
    module_of(WARP).get_function("product")((1,), (32,), given)
    want = a.astype(np.float32) @ b.astype(np.float32) + c
    np.testing.assert_array_equal(cupy.asnumpy(d), [want[at] for at in place])
