// quantized.h for one instruction set, without VNNI and, where VNNI says which features that takes, with it: names of
// those entries end in _vnni.

#if HAS(PART_OF_FLOATS)
namespace plain {
#define KIND
#include "quantized.h"
#undef KIND
}  // namespace plain

#if defined(VNNI) && (VECTOR_BYTES == 64 || defined(KNOWS_AVXVNNI))
TARGET_END
TARGET(VNNI)
#define WITH_VNNI
namespace vnni {
#define KIND _vnni
#include "quantized.h"
#undef KIND
}  // namespace vnni
#undef WITH_VNNI
#endif

#if PART_OF_FLOATS == 0
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
#endif
