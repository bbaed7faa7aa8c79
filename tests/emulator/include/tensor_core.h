// mma.sync on fragments laid out as in the PTX manual ("Matrix Fragments for mma.m16n8k16 with floating point type",
// "... for mma.m16n8k8"), and ldmatrix. With group = lane / 4 and t = lane % 4, a lane holds
//
//   of D and C (16 x 8)         rows group, group + 8;   columns 2t, 2t + 1
//   of A (16 x 16, 16 bits)     rows group, group + 8;   columns 2t, 2t + 1, and the same + 8
//   of B (16 x 8, 16 bits)      rows 2t, 2t + 1, and the same + 8;   column group
//   of A (16 x 8, tf32)         rows group, group + 8;   columns t, t + 4
//   of B (8 x 8, tf32)          rows t, t + 4;           column group
//
// Products are exact and added up in float, in the order of k. A GPU adds in another order and truncates on the way:
// compare with a tolerance.
#pragma once

namespace emulator {

// What each lane brings, to all lanes.
template <typename Fragment>
EMULATOR_INLINE void exchange_fragments(const Fragment& mine, Fragment (&all)[32]) {
  const unsigned lanes = warp_exchange(WarpOperation::matrix, 0xffffffffu, &mine, all, sizeof mine);
  if (lanes != 0xffffffffu) mistake("wrong mask", "a matrix operation needs all 32 lanes; here came %08x", lanes);
}

struct Operands {
  unsigned a[4], b[2];
};

// d (16x8) = a (16x16) b (16x8) + c, where Number is __half or __nv_bfloat16. Registers hold two numbers each, low
// bits first: a[0] row group, a[1] row group + 8, a[2], a[3] the same for columns + 8; b[0] rows 2t.., b[1] rows + 8.
template <typename Number>
EMULATOR_INLINE void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], const float (&c)[4]) {
  Operands all[32];
  exchange_fragments({{a[0], a[1], a[2], a[3]}, {b[0], b[1]}}, all);
  const auto number = [](unsigned two, int which) { return (float)Number::from_bits((uint16_t)(two >> (16 * which))); };
  float result[4];
  for (int e = 0; e < 4; ++e) {
    const int row = lane() / 4 + e / 2 * 8, column = lane() % 4 * 2 + e % 2;
    result[e] = c[e];
    for (int k = 0; k < 16; ++k) {
      const int t = k % 8 / 2;
      const unsigned of_a = all[row % 8 * 4 + t].a[k / 8 * 2 + row / 8], of_b = all[column * 4 + t].b[k / 8];
      result[e] += number(of_a, k % 2) * number(of_b, k % 2);
    }
  }
  for (int e = 0; e < 4; ++e) d[e] = result[e];
}

// The upper 19 bits of a float: what tensor cores read of a tf32 operand.
EMULATOR_INLINE float tf32_read(unsigned bits) { return __uint_as_float(bits & 0xffffe000u); }

// cvt.rna.tf32.f32: to nearest, ties away from zero
EMULATOR_INLINE unsigned tf32_from_float(float f) {
  const unsigned bits = __float_as_uint(f);
  return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & 0xffffe000u;
}

// d (16x8) = a (16x8) b (8x8) + c in tf32: a[0] (group, t), a[1] (group + 8, t), a[2] (group, t + 4),
// a[3] (group + 8, t + 4); b[0] (t, group), b[1] (t + 4, group).
EMULATOR_INLINE void mma_m16n8k8_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                                      const float (&c)[4]) {
  Operands all[32];
  exchange_fragments({{a[0], a[1], a[2], a[3]}, {b[0], b[1]}}, all);
  float result[4];
  for (int e = 0; e < 4; ++e) {
    const int row = lane() / 4 + e / 2 * 8, column = lane() % 4 * 2 + e % 2;
    result[e] = c[e];
    for (int k = 0; k < 8; ++k) {
      const int t = k % 4;
      const unsigned of_a = all[row % 8 * 4 + t].a[k / 4 * 2 + row / 8], of_b = all[column * 4 + t].b[k / 4];
      result[e] += tf32_read(of_a) * tf32_read(of_b);
    }
  }
  for (int e = 0; e < 4; ++e) d[e] = result[e];
}

// ldmatrix: Count (1, 2, 4) matrices of 8 x 8 numbers of 16 bits. Lanes 8i .. 8i + 7 bring the addresses of the rows
// of matrix i, 16 bytes each in shared memory. Register i of a lane: of matrix i, row group, columns 2t and 2t + 1;
// transposed: rows 2t and 2t + 1, column group.
template <int Count, bool Transposed = false>
EMULATOR_INLINE void load_matrix(unsigned (&registers)[Count], const void* row) {
  struct Row {
    uint16_t numbers[8];
  } mine = {}, all[32];
  if (lane() < 8 * Count) mine = *(const Row*)__builtin_assume_aligned(row, 16);
  exchange_fragments(mine, all);
  const int group = lane() / 4, t = lane() % 4;
  for (int i = 0; i < Count; ++i) {
    const Row* matrix = all + 8 * i;
    const unsigned low = Transposed ? matrix[2 * t].numbers[group] : matrix[group].numbers[2 * t];
    const unsigned high = Transposed ? matrix[2 * t + 1].numbers[group] : matrix[group].numbers[2 * t + 1];
    registers[i] = low | high << 16;
  }
}

}  // namespace emulator
