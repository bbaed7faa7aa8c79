// One instruction set: all of it in a namespace, which SET names, and its entries for float and double.
//
// Its shape, for which it is included once each:
//   VECTOR_BYTES                 of a vector register
//   TILE_ROWS, TILE_VECTORS      a tile of sums in registers: rows by vectors of a panel; their product, the vectors of
//                                the panel and a number of A fill the registers
//   PART_OF_FLOATS               the part that has its floats; the next one has its doubles
//   VNNI                         features, with VNNI among them

namespace SET {
#include "simd.h"
#include "neon.h"
#include "transpose.h"
#include "product.h"
#include "few.h"
#include "recurrence.h"
#include "family.h"
#include "generate.h"
#include "training.h"

#if HAS(PART_OF_FLOATS)
namespace f32 {
using T = float;
#define SUFFIX f32
#include "entries.h"
}  // namespace f32
#endif
#if HAS(PART_OF_FLOATS + 1)
namespace f64 {
using T = double;
#define SUFFIX f64
#include "entries.h"
}  // namespace f64
#endif
#include "quantized_set.h"
}  // namespace SET

#undef CELL
#undef SET
#undef VNNI
#undef VECTOR_BYTES
#undef TILE_ROWS
#undef TILE_VECTORS
#undef PART_OF_FLOATS
