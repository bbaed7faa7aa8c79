// Shuffles, votes and the barrier of a warp. Threads of a warp run independently (as from sm_70 on): what needs them
// together waits for all lanes named in the mask that have not returned.
#pragma once

EMULATOR_INLINE unsigned __activemask() { return emulator::active_lanes(); }

EMULATOR_INLINE void __syncwarp(unsigned mask = 0xffffffffu) {
  emulator::warp_exchange(emulator::WarpOperation::barrier, mask, nullptr, nullptr, 0);
}

namespace emulator {

template <typename T>
EMULATOR_INLINE T shuffle(unsigned mask, T value, int from) {
  T values[32];
  const unsigned lanes = warp_exchange(WarpOperation::shuffle, mask, &value, values, sizeof(T));
  if (!(lanes >> from & 1))
    mistake("wrong mask", "a shuffle reads lane %d, which takes no part in it (mask %08x, lanes that took part %08x)",
            from, mask, lanes);
  copy(&value, &values[from], sizeof(T));
  return value;
}

// All values of the lanes in the mask, folded; lanes outside it count for nothing.
template <typename T, typename Fold>
EMULATOR_INLINE T reduce(WarpOperation operation, unsigned mask, T value, Fold fold) {
  T values[32];
  const unsigned lanes = warp_exchange(operation, mask, &value, values, sizeof(T)) & mask;
  bool first = true;
  for (int i = 0; i < 32; ++i) {
    if (!(lanes >> i & 1)) continue;
    value = first ? values[i] : fold(value, values[i]);
    first = false;
  }
  return value;
}

// Lanes with the same value, of those that took part.
template <typename T>
EMULATOR_INLINE unsigned matching_lanes(unsigned mask, T value, unsigned& lanes) {
  T values[32];
  lanes = warp_exchange(WarpOperation::match, mask, &value, values, sizeof(T)) & mask;
  unsigned same = 0;
  for (int i = 0; i < 32; ++i)
    if (lanes >> i & 1 && __builtin_memcmp(&values[i], &value, sizeof(T)) == 0) same |= 1u << i;
  return same;
}

}  // namespace emulator

// `width`: a power of two, the warp falls into groups of so many lanes
template <typename T>
EMULATOR_INLINE T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
  return emulator::shuffle(mask, value, (emulator::lane() & ~(width - 1)) | (from & (width - 1)));
}
template <typename T>
EMULATOR_INLINE T __shfl_xor_sync(unsigned mask, T value, int flip, int width = 32) {
  const int lane = emulator::lane(), from = lane ^ flip;
  return emulator::shuffle(mask, value, (from & ~(width - 1)) > (lane & ~(width - 1)) ? lane : from);
}
template <typename T>
EMULATOR_INLINE T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32) {
  const int lane = emulator::lane();
  return emulator::shuffle(mask, value, (lane & (width - 1)) < (int)distance ? lane : lane - (int)distance);
}
template <typename T>
EMULATOR_INLINE T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32) {
  const int lane = emulator::lane();
  return emulator::shuffle(mask, value, (lane & (width - 1)) + (int)distance >= width ? lane : lane + (int)distance);
}

EMULATOR_INLINE unsigned __ballot_sync(unsigned mask, int predicate) {
  const unsigned mine = predicate ? 1u << emulator::lane() : 0u;
  return emulator::reduce(emulator::WarpOperation::vote, mask, mine, [](unsigned a, unsigned b) { return a | b; });
}
EMULATOR_INLINE int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
EMULATOR_INLINE int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }

template <typename T>
EMULATOR_INLINE unsigned __match_any_sync(unsigned mask, T value) {
  unsigned lanes;
  return emulator::matching_lanes(mask, value, lanes);
}
template <typename T>
EMULATOR_INLINE unsigned __match_all_sync(unsigned mask, T value, int* all_same) {
  unsigned lanes;
  const unsigned same = emulator::matching_lanes(mask, value, lanes);
  *all_same = same == lanes;
  return *all_same ? same : 0;
}

template <typename T>
EMULATOR_INLINE T __reduce_add_sync(unsigned mask, T value) {
  return emulator::reduce(emulator::WarpOperation::reduce, mask, value, [](T a, T b) { return T(a + b); });
}
template <typename T>
EMULATOR_INLINE T __reduce_max_sync(unsigned mask, T value) {
  return emulator::reduce(emulator::WarpOperation::reduce, mask, value, [](T a, T b) { return a < b ? b : a; });
}
template <typename T>
EMULATOR_INLINE T __reduce_min_sync(unsigned mask, T value) {
  return emulator::reduce(emulator::WarpOperation::reduce, mask, value, [](T a, T b) { return b < a ? b : a; });
}
EMULATOR_INLINE unsigned __reduce_or_sync(unsigned mask, unsigned value) {
  return emulator::reduce(emulator::WarpOperation::reduce, mask, value, [](unsigned a, unsigned b) { return a | b; });
}
EMULATOR_INLINE unsigned __reduce_and_sync(unsigned mask, unsigned value) {
  return emulator::reduce(emulator::WarpOperation::reduce, mask, value, [](unsigned a, unsigned b) { return a & b; });
}
