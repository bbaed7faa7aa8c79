// Everything about the two 16-bit formats that can be compared number by number.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define GRID_STRIDE(i, n) for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)

template <typename T>
__global__ void widen(const T* x, float* y, int n) {
  GRID_STRIDE(i, n) y[i] = (float)x[i];
}

template <typename From, typename T>
__global__ void narrow(const From* x, T* y, int n) {
  GRID_STRIDE(i, n) y[i] = T(x[i]);
}

// y (6, n)
template <typename T>
__global__ void compute(const T* a, const T* b, const T* c, T* y, int n) {
  GRID_STRIDE(i, n) {
    y[i] = a[i] + b[i];
    y[n + i] = __hsub(a[i], b[i]);
    y[2 * n + i] = __hmul(a[i], b[i]);
    y[3 * n + i] = a[i] / b[i];
    y[4 * n + i] = __hfma(a[i], b[i], c[i]);
    y[5 * n + i] = -a[i];
  }
}

// y (3, n / 2) pairs
template <typename T, typename T2>
__global__ void in_pairs(const T2* a, const T2* b, T2* y, int n) {
  GRID_STRIDE(i, n / 2) {
    y[i] = __hadd2(a[i], b[i]);
    y[n / 2 + i] = __hmul2(a[i], b[i]);
    y[n + i] = __hfma2(a[i], b[i], a[i]);
  }
}

template <typename T>
__global__ void by_value(T x, float* y) {
  *y = x;
}

// The names that each format has for itself.
extern "C" __global__ void names_of_half(const float* x, unsigned short* y) {
  y[0] = __half_as_ushort(__float2half(x[0]));
  const __half2 two = __floats2half2_rn(x[0], x[1]);
  y[1] = __half_as_ushort(__low2half(two)), y[2] = __half_as_ushort(__high2half(two));
  const float2 back = __half22float2(two);
  y[3] = __half_as_ushort(__float2half_rn(back.x + back.y));
  y[4] = __half_as_ushort(__double2half(0.1)), y[5] = __half_as_ushort(__int2half_rn(2049));
  y[6] = __half2float(__ushort_as_half(0x3c00)) == 1.0f && __hlt(two.x, two.y) && !__hisnan(two.x);
}
extern "C" __global__ void names_of_bfloat16(const float* x, unsigned short* y) {
  y[0] = __bfloat16_as_ushort(__float2bfloat16(x[0]));
  const __nv_bfloat162 two = __floats2bfloat162_rn(x[0], x[1]);
  y[1] = __bfloat16_as_ushort(__low2bfloat16(two)), y[2] = __bfloat16_as_ushort(__high2bfloat16(two));
  const float2 back = __bfloat1622float2(two);
  y[3] = __bfloat16_as_ushort(__float2bfloat16_rn(back.x + back.y));
  y[4] = __bfloat16_as_ushort(__double2bfloat16(0.1)), y[5] = __bfloat16_as_ushort(__int2bfloat16_rn(257));
  y[6] = __bfloat162float(__ushort_as_bfloat16(0x3f80)) == 1.0f && __hlt(two.x, two.y) && !__hisnan(two.x);
}
