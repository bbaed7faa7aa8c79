// Whole numbers, bits, comparisons and moves.
#include <algorithm>

#include "machine.h"

namespace {

template <class T> using Wide = std::conditional_t<std::is_signed_v<T>, i64, u64>;
template <class T> using Wider = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;
template <class T> using Unsigned = std::make_unsigned_t<T>;
template <class T> using Twice =
    std::conditional_t<sizeof(T) == 2, std::conditional_t<std::is_signed_v<T>, i32, u32>, Wide<T>>;

// Shifts by the width or more are defined: zero, or copies of the sign.
template <class T> T shift_left(T a, u32 n) { return n < 8 * sizeof(T) ? T(Unsigned<T>(a) << n) : T(0); }
template <class T> T shift_right(T a, u32 n) {
  if (n < 8 * sizeof(T)) return T(a >> n);
  return std::is_signed_v<T> && a < 0 ? T(-1) : T(0);
}
// Division by zero has no defined result in PTX; GPUs give all bits set, and the dividend as the rest.
template <class T> T divide(T a, T b) {
  if (b == 0) return T(-1);
  if (std::is_signed_v<T> && b == T(-1)) return T(Unsigned<T>(0) - Unsigned<T>(a));
  return T(a / b);
}
template <class T> T remainder(T a, T b) {
  if (b == 0) return a;
  return std::is_signed_v<T> && b == T(-1) ? T(0) : T(a % b);
}
template <class T> T low(T a, T b) { return T(Unsigned<T>(u64(a) * u64(b))); }

template <class T> Step whole(const Opcode& op) {
  const std::string& name = op.base();
  if (name == "add") return each<[](T a, T b) { return T(u64(a) + u64(b)); }>;
  if (name == "sub") return each<[](T a, T b) { return T(u64(a) - u64(b)); }>;
  if (name == "mul" && op.has("lo")) return each<[](T a, T b) { return low<T>(a, b); }>;
  if (name == "mul" && op.has("hi")) return each<[](T a, T b) { return T((Wider<T>(a) * b) >> (8 * sizeof(T))); }>;
  if (name == "mad" && op.has("lo")) return each<[](T a, T b, T c) { return T(u64(low<T>(a, b)) + u64(c)); }>;
  if constexpr (sizeof(T) < 8) {
    using W = Twice<T>;
    if (name == "mul" && op.has("wide")) return each<[](T a, T b) { return W(W(a) * W(b)); }>;
    if (name == "mad" && op.has("wide")) return each<[](T a, T b, W c) { return W(u64(W(a) * W(b)) + u64(c)); }>;
  }
  if (name == "div") return each<[](T a, T b) { return divide<T>(a, b); }>;
  if (name == "rem") return each<[](T a, T b) { return remainder<T>(a, b); }>;
  if (name == "min") return each<[](T a, T b) { return std::min(a, b); }>;
  if (name == "max") return each<[](T a, T b) { return std::max(a, b); }>;
  if (name == "neg") return each<[](T a) { return T(0 - u64(a)); }>;
  if (name == "abs") return each<[](T a) { return T(a < 0 ? 0 - u64(a) : u64(a)); }>;
  if (name == "shl") return each<[](T a, u32 n) { return shift_left<T>(a, n); }>;
  if (name == "shr") return each<[](T a, u32 n) { return shift_right<T>(a, n); }>;
  if (name == "and") return each<[](T a, T b) { return T(a & b); }>;
  if (name == "or") return each<[](T a, T b) { return T(a | b); }>;
  if (name == "xor") return each<[](T a, T b) { return T(a ^ b); }>;
  if (name == "not") return each<[](T a) { return T(~a); }>;
  if (name == "mov") return each<[](T a) { return a; }>;
  if (name == "selp") return each<[](T a, T b, bool p) { return p ? a : b; }>;
  if (name == "popc") return each<[](T a) { return u32(std::popcount(Unsigned<T>(a))); }>;
  if (name == "clz") return each<[](T a) { return u32(std::countl_zero(Unsigned<T>(a))); }>;
  if (name == "brev")
    return each<[](T a) {
      Unsigned<T> x = 0;
      for (unsigned k = 0; k < 8 * sizeof(T); ++k) x |= ((Unsigned<T>(a) >> k) & 1) << (8 * sizeof(T) - 1 - k);
      return T(x);
    }>;
  if (name == "bfi")  // a's low bits into b
    return each<[](T a, T b, u32 at, u32 length) {
      at &= 255, length &= 255;
      Unsigned<T> mask = shift_left<Unsigned<T>>(shift_left<Unsigned<T>>(1, length) - 1, at);
      return T((b & ~mask) | (shift_left<Unsigned<T>>(a, at) & mask));
    }>;
  if (name == "bfe" && !std::is_signed_v<T>)
    return each<[](T a, u32 at, u32 length) {
      return T(shift_right<T>(a, at & 255) & (shift_left<T>(1, length & 255) - 1));
    }>;
  if (name == "setp" && op.parts.size() == 3) {
    const std::string& how = op.parts[1];
    if (how == "eq") return each<[](T a, T b) { return a == b; }>;
    if (how == "ne") return each<[](T a, T b) { return a != b; }>;
    if (how == "lt" || how == "lo") return each<[](T a, T b) { return a < b; }>;
    if (how == "le" || how == "ls") return each<[](T a, T b) { return a <= b; }>;
    if (how == "gt" || how == "hi") return each<[](T a, T b) { return (a > b); }>;
    if (how == "ge" || how == "hs") return each<[](T a, T b) { return a >= b; }>;
  }
  return nullptr;
}

u32 permute(u32 a, u32 b, u32 selector) {
  u64 both = a | u64(b) << 32;
  u32 result = 0;
  for (int k = 0; k < 4; ++k) {
    u32 which = selector >> (4 * k) & 15, byte = both >> (8 * (which & 7)) & 255;
    if (which & 8) byte = byte & 128 ? 255 : 0;  // the sign of that byte, eight times
    result |= byte << (8 * k);
  }
  return result;
}

Step predicate(const Opcode& op) {
  const std::string& name = op.base();
  if (name == "and") return each<[](bool a, bool b) { return a && b; }>;
  if (name == "or") return each<[](bool a, bool b) { return a || b; }>;
  if (name == "xor") return each<[](bool a, bool b) { return a != b; }>;
  if (name == "not") return each<[](bool a) { return !a; }>;
  if (name == "mov") return each<[](bool a) { return a; }>;
  return nullptr;
}

}  // namespace

Step arithmetic(const Opcode& op) {
  const std::string &name = op.base(), &type = op.type();
  if (op.whole == "shf.l.wrap.b32")
    return each<[](u32 a, u32 b, u32 n) { return u32((u64(b) << 32 | a) << (n & 31) >> 32); }>;
  if (op.whole == "shf.r.wrap.b32")
    return each<[](u32 a, u32 b, u32 n) { return u32((u64(b) << 32 | a) >> (n & 31)); }>;
  if (op.whole == "prmt.b32") return each<[](u32 a, u32 b, u32 c) { return permute(a, b, c); }>;
  if (type == "pred") return predicate(op);
  bool moves = name == "mov" || name == "selp";
  if (type == "u16" || type == "b16") return whole<u16>(op);
  if (type == "s16") return whole<i16>(op);
  if (type == "u32" || type == "b32" || (moves && type == "f32")) return whole<u32>(op);
  if (type == "s32") return whole<i32>(op);
  if (type == "u64" || type == "b64" || (moves && type == "f64")) return whole<u64>(op);
  if (type == "s64") return whole<i64>(op);
  return nullptr;
}
