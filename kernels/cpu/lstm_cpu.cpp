// The compiled CPU tier: the same code once for each instruction set, in one library that takes at run time what the
// processor has. Called through ctypes (gpu_lstm/native/compiled.py), which releases the GIL. Compiled whole, or in six
// parts at once (kernels/build.py): -DPART=0 to 5, an instruction set's floats or doubles.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

#include "target.h"  // first: what is int64
#include "rounded.h"
#include "scratch.h"
#include "team.h"

#ifdef PART
#define HAS(part) (PART == (part))
#else
#define HAS(part) 1
#endif
#define JOIN(name, suffix, set) gpu_lstm_##name##_##suffix##_##set
#define JOINED(name, suffix, set) JOIN(name, suffix, set)

namespace {

// What every entry returns; none throws.
enum Status { kDone, kNoMemory, kRefused };
struct Refused {};

template <typename Body>
int guarded(const Body& body) noexcept {
  try {
    body();
    return kDone;
  } catch (const std::bad_alloc&) {
    return kNoMemory;
  } catch (...) {
    return kRefused;
  }
}

// How many recurrences or products an entry takes at once.
constexpr int64 kMost = 2;
int64 at_most(int64 count) { return count < 1 || count > kMost ? throw Refused() : count; }

}  // namespace

#if defined(WITH_X86) && (HAS(2) || HAS(3))
TARGET("avx2,fma")
#define SET avx2
#define VNNI "avx2,fma,avxvnni"
#define VECTOR_BYTES 32
#define TILE_ROWS 6
#define TILE_VECTORS 2
#define PART_OF_FLOATS 2
#include "set.h"
TARGET_END
#endif

#if defined(WITH_X86) && (HAS(4) || HAS(5))
TARGET("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#define SET avx512
#define VNNI "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,avx512vnni"
#define VECTOR_BYTES 64
#define TILE_ROWS 6
#define TILE_VECTORS 4
#define PART_OF_FLOATS 4
#include "set.h"
TARGET_END
#endif

#if HAS(0) || HAS(1)
#define SET baseline
#define VECTOR_BYTES 16
#ifdef WITH_NEON
#define TILE_ROWS 5
#define TILE_VECTORS 4
#else
#define TILE_ROWS 6
#define TILE_VECTORS 2
#endif
#define PART_OF_FLOATS 0
#include "set.h"
#endif

#if HAS(0)
// Of the entries' arguments: gpu_lstm/native/entries.py has the same number, or the library is refused.
EXPORTED int gpu_lstm_interface() { return 0x09b08019; }

// The best instruction set of this processor: 0 baseline, 1 AVX2 with FMA, 2 AVX-512.
EXPORTED int gpu_lstm_best_set() {
#ifdef WITH_X86
  const Processor has;
  if (has.avx2) return has.avx512 ? 2 : 1;
#endif
  return 0;
}
#endif
