// quantized.h in the namespace of each instruction set, without VNNI and with it: names of those entries end in _vnni.

#define CELL static inline __attribute__((always_inline))

#if defined(WITH_X86) && HAS(2)
TARGET("avx2,fma")
#define SET avx2
#define VECTOR_BYTES 32
namespace SET {
namespace plain {
#define KIND
#include "quantized.h"
#undef KIND
}  // namespace plain
#ifdef KNOWS_AVXVNNI
TARGET_END
TARGET("avx2,fma,avxvnni")
#define WITH_VNNI
namespace vnni {
#define KIND _vnni
#include "quantized.h"
#undef KIND
}  // namespace vnni
#endif
}  // namespace SET
#undef WITH_VNNI
#undef VECTOR_BYTES
#undef SET
TARGET_END
#endif

#if defined(WITH_X86) && HAS(4)
TARGET("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#define SET avx512
#define VECTOR_BYTES 64
namespace SET {
namespace plain {
#define KIND
#include "quantized.h"
#undef KIND
}  // namespace plain
TARGET_END
TARGET("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,avx512vnni")
#define WITH_VNNI
namespace vnni {
#define KIND _vnni
#include "quantized.h"
#undef KIND
}  // namespace vnni
}  // namespace SET
#undef WITH_VNNI
#undef VECTOR_BYTES
#undef SET
TARGET_END
#endif

#if HAS(0)
#define SET baseline
#define VECTOR_BYTES 16
namespace SET {
namespace plain {
#define KIND
#include "quantized.h"
#undef KIND
}  // namespace plain
}  // namespace SET
#undef VECTOR_BYTES
#undef SET

// Whether this processor has VNNI: 1 for AVX2, 2 for AVX-512, 3 for both.
EXPORTED int gpu_lstm_vnni() {
  int found = 0;
#ifdef WITH_X86
  const Processor has;
#ifdef KNOWS_AVXVNNI
  if (has.avx_vnni) found |= 1;
#endif
  if (has.avx512_vnni) found |= 2;
#endif
  return found;
}
#endif
#undef CELL
