// The state rounded now and then, so that runs from different states can become equal (gpu_lstm/layers/overtime.py).

// Each of so many numbers rounded to so many binary places, beyond ±1 to as many fewer as it is larger: the bits of
// round_to in gpu_lstm/layers/strand.py.
template <typename T>
void round_to(T* x, int64 count, int64 places) {
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  constexpr int mantissa = sizeof(T) == 4 ? 23 : 52;
  constexpr Bits exponent = Bits(sizeof(T) == 4 ? 0xFF : 0x7FF) << mantissa;
  const T most = std::ldexp(T(1), 100), last = std::ldexp(T(1.5), mantissa - int(places));
  for (int64 k = 0; k < count; ++k) {
    Bits bits;
    std::memcpy(&bits, x + k, sizeof bits);
    bits &= exponent;
    T power;
    std::memcpy(&power, &bits, sizeof power);
    power = power < 1 ? 1 : power > most ? most : power;
    x[k] = (x[k] + power * last) - power * last;
  }
}

// Of h (T+1, n) and c (n): the state after step t, where that is one of every `every` and there are places.
template <typename T>
void round_state(int64 t, int64 every, int64 places, int64 count, T* h, T* c) {
  if (places == 0 || t % every) return;
  round_to(h + t * count, count, places);
  round_to(c, count, places);
}

// with(first, count) of the stretches of n steps from t on, none of which goes on past one of every `every`.
template <typename With>
void for_stretches(int64 t, int64 n, int64 every, const With& with) {
  for (int64 first = t, count; first < t + n; first += count) {
    const int64 left = t + n - first, whole = every - first % every;
    with(first, count = left < whole ? left : whole);
  }
}
