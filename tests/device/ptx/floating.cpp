// float and double. Results of `approx` are off by as much as PTX allows, up or down as the argument's bits say.
#include <cmath>

#include "machine.h"

namespace {

template <class T> bool unordered(T a, T b) { return std::isnan(double(a)) || std::isnan(double(b)); }

// A number is preferred to NaN, and -0 is less than +0.
template <class T> T smaller(T a, T b) {
  if (a != a) return b;
  if (b != b) return a;
  if (a == b) return std::signbit(double(a)) ? a : b;
  return a < b ? a : b;
}
template <class T> T negative(T a) { return T(-double(a)); }

template <class T> Step compare(const std::string& how) {
  if (how == "eq") return each<[](T a, T b) { return a == b; }>;
  if (how == "ne") return each<[](T a, T b) { return (a < b) || (a > b); }>;
  if (how == "lt") return each<[](T a, T b) { return a < b; }>;
  if (how == "le") return each<[](T a, T b) { return a <= b; }>;
  if (how == "gt") return each<[](T a, T b) { return (a > b); }>;
  if (how == "ge") return each<[](T a, T b) { return a >= b; }>;
  // With a u: true, too, where one of them is NaN.
  if (how == "equ") return each<[](T a, T b) { return !((a < b) || (a > b)); }>;
  if (how == "neu") return each<[](T a, T b) { return !(a == b); }>;
  if (how == "ltu") return each<[](T a, T b) { return !(a >= b); }>;
  if (how == "leu") return each<[](T a, T b) { return !(a > b); }>;
  if (how == "gtu") return each<[](T a, T b) { return !(a <= b); }>;
  if (how == "geu") return each<[](T a, T b) { return !(a < b); }>;
  if (how == "nan") return each<[](T a, T b) { return unordered(a, b); }>;
  if (how == "num") return each<[](T a, T b) { return !unordered(a, b); }>;
  return nullptr;
}

double rounded_down(double exact) {  // to float, towards minus infinity
  float nearest = float(exact);
  return nearest > exact ? std::nextafterf(nearest, -INFINITY) : nearest;
}

// The float nearest to a number that is off by some of so many units of the 23rd bit behind its first.
template <class T> T near(double exact, double units, T argument) {
  if (double(float(exact)) == exact || !std::isfinite(exact)) return T(float(exact));  // CUDA's library counts on 2^n
  double share = (u32(to_bits(float(argument))) * 2654435761u >> 16) / 32767.5 - 1;  // -1 to 1
  return T(float(exact + share * units * std::ldexp(1.0, std::ilogb(exact) - 23)));
}

// PTX adds no rounding that isn't written: one of .rn, .rm, .approx and so on, .rn where none is.
template <class T> Step number(const Opcode& op) {
  constexpr bool wide = std::is_same_v<T, double>;
  using F = std::conditional_t<wide, double, float>;
  const std::string& name = op.base();
  for (const char* other : {"rz", "rp", "sat", "xorsign"})
    if (op.has(other)) return nullptr;
  if (op.has("rm")) {
    if constexpr (!wide)
      if (name == "fma")  // the product of two floats is exact in double; the sum is near enough to it
        return each<[](T a, T b, T c) { return T(float(rounded_down(std::fma(double(a), double(b), double(c))))); }>;
    return nullptr;
  }
  if (name == "add") return each<[](T a, T b) { return T(F(a) + F(b)); }>;
  if (name == "sub") return each<[](T a, T b) { return T(F(a) - F(b)); }>;
  if (name == "mul") return each<[](T a, T b) { return T(F(a) * F(b)); }>;
  if constexpr (!wide)
    if (name == "div" && op.has("approx")) return each<[](T a, T b) { return near<T>(double(a) / double(b), 2, b); }>;
  if (name == "div") return each<[](T a, T b) { return T(F(a) / F(b)); }>;
  if (name == "fma") return each<[](T a, T b, T c) { return T(std::fma(F(a), F(b), F(c))); }>;
  if (name == "neg") return each<[](T a) { return negative(a); }>;
  if (name == "abs") return each<[](T a) { return T(std::fabs(F(a))); }>;
  if (name == "min" && op.has("NaN")) return each<[](T a, T b) { return unordered(a, b) ? T(NAN) : smaller(a, b); }>;
  if (name == "max" && op.has("NaN"))
    return each<[](T a, T b) { return unordered(a, b) ? T(NAN) : negative(smaller(negative(a), negative(b))); }>;
  if (name == "min") return each<[](T a, T b) { return smaller(a, b); }>;
  if (name == "max") return each<[](T a, T b) { return negative(smaller(negative(a), negative(b))); }>;
  if (name == "copysign") return each<[](T a, T b) { return T(std::copysign(F(b), F(a))); }>;
  if (name == "sqrt") return each<[](T a) { return T(std::sqrt(F(a))); }>;
  if (name == "setp" && op.parts.size() == (op.has("ftz") ? 4 : 3)) return compare<T>(op.parts[1]);
  if (name == "testp") {
    if (op.has("infinite")) return each<[](T a) { return std::isinf(F(a)); }>;
    if (op.has("finite")) return each<[](T a) { return std::isfinite(F(a)); }>;
    if (op.has("notanumber")) return each<[](T a) { return std::isnan(F(a)); }>;
  }
  if constexpr (wide) {
    if (name == "rcp" && op.has("rn")) return each<[](T a) { return 1 / a; }>;
    // approx.ftz.f64: a start for Newton's steps, of which the low half is zero.
    constexpr u64 high = ~u64(0) << 32;
    if (op.whole == "rcp.approx.ftz.f64") return each<[](T a) { return as_double(to_bits(1 / a) & high); }>;
    if (op.whole == "rsqrt.approx.ftz.f64")
      return each<[](T a) { return as_double(to_bits(1 / std::sqrt(a)) & high); }>;
  } else {
    if (name == "rcp" && op.has("approx")) return each<[](T a) { return near<T>(1 / double(a), 1, a); }>;
    if (name == "rcp") return each<[](T a) { return T(1 / F(a)); }>;
    if (name == "rsqrt") return each<[](T a) { return near<T>(1 / std::sqrt(double(a)), 1, a); }>;
    if (name == "ex2") return each<[](T a) { return near<T>(std::exp2(double(a)), 2, a); }>;
    if (name == "lg2") return each<[](T a) { return T(float(std::log2(double(a)))); }>;
    if (name == "sin") return each<[](T a) { return T(float(std::sin(double(a)))); }>;
    if (name == "cos") return each<[](T a) { return T(float(std::cos(double(a)))); }>;
    if (name == "tanh") return each<[](T a) { return T(float(std::tanh(double(a)))); }>;
  }
  return nullptr;
}

}  // namespace

Step floating(const Opcode& op) {
  if (op.base() == "mov" || op.base() == "selp" || op.base() == "cvt") return nullptr;
  if (op.type() == "f64") return number<double>(op);
  if (op.type() == "f32") return op.has("ftz") ? number<Flushed>(op) : number<float>(op);
  return nullptr;
}
