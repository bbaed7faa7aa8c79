// cvt: from every type to every other that is asked for; and the types of 16 bits.
#include <cmath>
#include <limits>

#include "half.h"
#include "machine.h"

namespace {

// Rounded to a whole number and kept within T's range; NaN is 0.
template <class T> T clamped(double x) {
  if (std::isnan(x)) return 0;
  if (x <= double(std::numeric_limits<T>::min())) return std::numeric_limits<T>::min();
  if (x >= double(std::numeric_limits<T>::max())) return std::numeric_limits<T>::max();
  return T(x);
}

template <class T> double plain(T x) {
  if constexpr (std::is_same_v<T, Half> || std::is_same_v<T, BFloat16>) return x.value;
  else return double(x);
}

template <class T> constexpr bool real = !std::is_integral_v<T>;

template <class To, class From> Step to(const Opcode& op) {
  if constexpr (!real<To> && !real<From>) {
    if (op.parts.size() == 3) return each<[](From a) { return To(a); }>;
  } else if constexpr (!real<To>) {
    if (op.has("rzi")) return each<[](From a) { return clamped<To>(std::trunc(plain(a))); }>;
    if (op.has("rni")) return each<[](From a) { return clamped<To>(std::nearbyint(plain(a))); }>;
    if (op.has("rmi")) return each<[](From a) { return clamped<To>(std::floor(plain(a))); }>;
    if (op.has("rpi")) return each<[](From a) { return clamped<To>(std::ceil(plain(a))); }>;
  } else if constexpr (!real<From>) {
    if (!op.has("rn")) return nullptr;
    if constexpr (std::is_same_v<To, double>) return each<[](From a) { return double(a); }>;
    else if constexpr (std::is_same_v<To, float>) return each<[](From a) { return float(a); }>;
    else return each<[](From a) { return To{float(a)}; }>;
  } else {
    if (op.has("sat")) {
      if constexpr (std::is_same_v<To, float> && std::is_same_v<From, float>)
        return each<[](float a) { return std::isnan(a) ? 0.0f : std::fmin(std::fmax(a, 0.0f), 1.0f); }>;
      return nullptr;
    }
    if constexpr (std::is_same_v<To, From> && (std::is_same_v<To, float> || std::is_same_v<To, double>)) {
      if (op.has("rzi")) return each<[](From a) { return To(std::trunc(a)); }>;
      if (op.has("rni")) return each<[](From a) { return To(std::nearbyint(a)); }>;
      if (op.has("rmi")) return each<[](From a) { return To(std::floor(a)); }>;
      if (op.has("rpi")) return each<[](From a) { return To(std::ceil(a)); }>;
    }
    bool wider = std::is_same_v<To, double> || (std::is_same_v<To, float> && !std::is_same_v<From, double>);
    if (!wider && !op.has("rn")) return nullptr;
    if constexpr (std::is_same_v<To, double>) return each<[](From a) { return plain(a); }>;
    else if (op.has("ftz")) return each<[](From a) { return Flushed(float(plain(a))); }>;
    else if constexpr (std::is_same_v<To, float>) return each<[](From a) { return float(plain(a)); }>;
    else return each<[](From a) { return To{float(plain(a))}; }>;
  }
  return nullptr;
}

template <class To> Step from(const Opcode& op) {
  const std::string& type = op.type();
  if (type == "u8") return to<To, u8>(op);
  if (type == "s8") return to<To, i8>(op);
  if (type == "u16") return to<To, u16>(op);
  if (type == "s16") return to<To, i16>(op);
  if (type == "u32") return to<To, u32>(op);
  if (type == "s32") return to<To, i32>(op);
  if (type == "u64") return to<To, u64>(op);
  if (type == "s64") return to<To, i64>(op);
  if (type == "f32") return to<To, float>(op);
  if (type == "f64") return to<To, double>(op);
  if (type == "f16") return to<To, Half>(op);
  if (type == "bf16") return to<To, BFloat16>(op);
  return nullptr;
}

}  // namespace

Step conversion(const Opcode& op) {
  if (op.base() != "cvt" || op.parts.size() < 3) return nullptr;
  if (op.whole == "cvt.rna.tf32.f32") return each<[](u32 a) { return to_tf32(a); }>;
  const std::string& result = op.parts[op.parts.size() - 2];
  if (result == "u8") return from<u8>(op);
  if (result == "s8") return from<i8>(op);
  if (result == "u16") return from<u16>(op);
  if (result == "s16") return from<i16>(op);
  if (result == "u32") return from<u32>(op);
  if (result == "s32") return from<i32>(op);
  if (result == "u64") return from<u64>(op);
  if (result == "s64") return from<i64>(op);
  if (result == "f32") return from<float>(op);
  if (result == "f64") return from<double>(op);
  if (result == "f16") return from<Half>(op);
  if (result == "bf16") return from<BFloat16>(op);
  return nullptr;
}
