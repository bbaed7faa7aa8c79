// cuBLAS, as far as CuPy's matmul and ours call it: matrix products, in columns, without any cleverness.
#include <algorithm>
#include <vector>

#include "../ptx/half.h"
#include "device.h"

namespace {

enum Type { FLOAT = 0, DOUBLE = 1, HALF = 2, BFLOAT = 14 };
enum Compute { IN_FLOAT = 68, IN_DOUBLE = 70, IN_TF32 = 77 };

struct Handle {
  int device = current_device();
  void* stream = nullptr;
  int math_mode = 0, pointer_mode = 0;
};

int bytes(int type) { return type == DOUBLE ? 8 : type == FLOAT ? 4 : 2; }

double read(const char* p, int type) {
  u64 bits = 0;
  std::memcpy(&bits, p, bytes(type));
  switch (type) {
    case FLOAT: return as_float(bits);
    case DOUBLE: return as_double(bits);
    case HALF: return half_to_float(u16(bits));
    case BFLOAT: return bfloat_to_float(u16(bits));
  }
  throw Fault("cuBLAS: a dtype that isn't modelled, " + std::to_string(type));
}
void write(char* p, int type, double x) {
  u64 bits = type == DOUBLE ? to_bits(x) : type == FLOAT ? to_bits(float(x)) : type == HALF ? float_to_half(float(x)) : float_to_bfloat(float(x));
  std::memcpy(p, &bits, bytes(type));
}

struct Matrix {
  const void* start;
  int type, leading;
  i64 stride = 0;  // elements from one product's matrix to the next one's
};

struct Product {
  bool a_transposed, b_transposed;
  int m, n, k, count;
  Matrix a, b, c;
  int compute;
  double alpha, beta;

  // In rows of one depth each, whatever way it lies.
  std::vector<double> rows(const Matrix& x, bool deep_columns, int width, int which) const {
    const char* start = static_cast<const char*>(x.start) + which * x.stride * bytes(x.type);
    check(x, start, deep_columns ? k : width, deep_columns ? width : k, false);
    std::vector<double> all(std::size_t(k) * width);
    for (int d = 0; d < k; ++d)
      for (int n = 0; n < width; ++n) {
        i64 at = deep_columns ? i64(n) * x.leading + d : i64(d) * x.leading + n;
        double value = read(start + at * bytes(x.type), x.type);
        all[std::size_t(d) * width + n] =
            compute == IN_TF32 ? as_float(to_tf32(u32(to_bits(float(value))))) : value;
      }
    return all;
  }
  void check(const Matrix& x, const char* start, int rows, int columns, bool writes) const {
    if (rows && columns)
      require_access(reinterpret_cast<u64>(start), (i64(x.leading) * (columns - 1) + rows) * bytes(x.type), writes,
                     current_device(), "a matrix of cuBLAS");
  }
  void run() const {
    std::vector<double> sums(m);
    for (int which = 0; which < count; ++which) {
      std::vector<double> left = rows(a, a_transposed, m, which), right = rows(b, !b_transposed, n, which);
      char* out = static_cast<char*>(const_cast<void*>(c.start)) + which * c.stride * bytes(c.type);
      check(c, out, m, n, true);
      for (int column = 0; column < n; ++column) {
        std::fill(sums.begin(), sums.end(), 0);
        for (int d = 0; d < k; ++d) {
          double factor = right[std::size_t(d) * n + column];
          for (int row = 0; row < m; ++row) sums[row] += left[std::size_t(d) * m + row] * factor;
        }
        for (int row = 0; row < m; ++row) {
          char* to = out + (i64(column) * c.leading + row) * bytes(c.type);
          write(to, c.type, alpha * sums[row] + (beta == 0 ? 0 : beta * read(to, c.type)));
        }
      }
    }
  }
};

double scalar(const void* p, int compute) { return compute == IN_DOUBLE ? *static_cast<const double*>(p) : *static_cast<const float*>(p); }

int multiply(Handle* handle, int a_op, int b_op, int m, int n, int k, const void* alpha, Matrix a, Matrix b,
             const void* beta, Matrix c, int count, int compute) {
  if (handle->device != current_device()) return refuse(INVALID_HANDLE, "a cuBLAS handle of another device"), 7;
  if (handle->pointer_mode) return refuse(UNSUPPORTED, "scalars of cuBLAS in device memory"), 15;
  if (m < 0 || n < 0 || k < 0 || a.leading < std::max(1, a_op ? k : m) || b.leading < std::max(1, b_op ? n : k) ||
      c.leading < std::max(1, m) || (compute != IN_FLOAT && compute != IN_DOUBLE && compute != IN_TF32))
    return 7;  // CUBLAS_STATUS_INVALID_VALUE
  std::lock_guard guard(lock());
  Product product{a_op != 0, b_op != 0, m, n, k, count, a, b, c, compute, scalar(alpha, compute), scalar(beta, compute)};
  return submit(handle->stream, [=] { product.run(); }) == DONE ? 0 : 13;  // CUBLAS_STATUS_EXECUTION_FAILED
}

}  // namespace

extern "C" {

int cublasCreate_v2(Handle** handle) { return *handle = new Handle, 0; }
int cublasDestroy_v2(Handle* handle) { return delete handle, 0; }
int cublasGetVersion_v2(Handle*, int* version) { return *version = 130000, 0; }
int cublasSetStream_v2(Handle* handle, void* stream) { return handle->stream = stream, 0; }
int cublasGetStream_v2(Handle* handle, void** stream) { return *stream = handle->stream, 0; }
int cublasSetWorkspace_v2(Handle*, void* memory, std::size_t bytes) { return !memory && bytes ? 7 : 0; }
int cublasSetPointerMode_v2(Handle* handle, int mode) { return handle->pointer_mode = mode, 0; }
int cublasGetPointerMode_v2(Handle* handle, int* mode) { return *mode = handle->pointer_mode, 0; }
int cublasSetMathMode(Handle* handle, int mode) { return handle->math_mode = mode, 0; }
int cublasGetMathMode(Handle* handle, int* mode) { return *mode = handle->math_mode, 0; }

int cublasGemmEx(Handle* h, int a_op, int b_op, int m, int n, int k, const void* alpha, const void* a, int a_type,
                 int a_leading, const void* b, int b_type, int b_leading, const void* beta, void* c, int c_type,
                 int c_leading, int compute, int) {
  return multiply(h, a_op, b_op, m, n, k, alpha, {a, a_type, a_leading}, {b, b_type, b_leading}, beta,
                  {c, c_type, c_leading}, 1, compute);
}
int cublasGemmStridedBatchedEx(Handle* h, int a_op, int b_op, int m, int n, int k, const void* alpha, const void* a,
                               int a_type, int a_leading, long long a_stride, const void* b, int b_type, int b_leading,
                               long long b_stride, const void* beta, void* c, int c_type, int c_leading,
                               long long c_stride, int count, int compute, int) {
  return multiply(h, a_op, b_op, m, n, k, alpha, {a, a_type, a_leading, a_stride}, {b, b_type, b_leading, b_stride},
                  beta, {c, c_type, c_leading, c_stride}, count, compute);
}

#define OF_ONE_TYPE(LETTER, TYPE, REAL, COMPUTE)                                                                     \
  int cublas##LETTER##gemm_v2(Handle* h, int a_op, int b_op, int m, int n, int k, const REAL* alpha, const void* a,  \
                              int a_leading, const void* b, int b_leading, const REAL* beta, void* c, int c_leading) { \
    return multiply(h, a_op, b_op, m, n, k, alpha, {a, TYPE, a_leading}, {b, TYPE, b_leading}, beta,                 \
                    {c, TYPE, c_leading}, 1, COMPUTE);                                                               \
  }                                                                                                                  \
  int cublas##LETTER##gemmStridedBatched(Handle* h, int a_op, int b_op, int m, int n, int k, const REAL* alpha,      \
                                         const void* a, int a_leading, long long a_stride, const void* b,            \
                                         int b_leading, long long b_stride, const REAL* beta, void* c,               \
                                         int c_leading, long long c_stride, int count) {                             \
    return multiply(h, a_op, b_op, m, n, k, alpha, {a, TYPE, a_leading, a_stride}, {b, TYPE, b_leading, b_stride},   \
                    beta, {c, TYPE, c_leading, c_stride}, count, COMPUTE);                                           \
  }                                                                                                                  \
  int cublas##LETTER##gemmBatched(Handle* h, int a_op, int b_op, int m, int n, int k, const REAL* alpha,             \
                                  const void* const* a, int a_leading, const void* const* b, int b_leading,          \
                                  const REAL* beta, const void* const* c, int c_leading, int count) {                \
    int status = 0; /* the matrices' addresses lie in memory of the device: nothing may be under way */              \
    for (int each = 0; each < count && !status; ++each)                                                              \
      status = multiply(h, a_op, b_op, m, n, k, alpha, {a[each], TYPE, a_leading}, {b[each], TYPE, b_leading}, beta, \
                        {c[each], TYPE, c_leading}, 1, COMPUTE);                                                     \
    return status;                                                                                                   \
  }                                                                                                                  \
  int cublas##LETTER##dot_v2(Handle* h, int n, const REAL* x, int x_step, const REAL* y, int y_step, REAL* result) { \
    return submit(h->stream, [=] {                                                                                   \
             double sum = 0;                                                                                         \
             for (i64 d = 0; d < n; ++d) sum += double(x[d * x_step]) * double(y[d * y_step]);                       \
             *result = REAL(sum);                                                                                    \
           }) == DONE && finish(h->stream) == DONE ? 0 : 13;                                                         \
  }
OF_ONE_TYPE(S, FLOAT, float, IN_FLOAT)
OF_ONE_TYPE(D, DOUBLE, double, IN_DOUBLE)

}  // extern "C"
