// The state rounded now and then, so that runs from different states can become equal (gpu_lstm/layers/overtime.py).

// Each of so many numbers rounded to so many binary places, beyond ±1 to as many fewer as it is larger; what is no number
// stays: the bits of round_to in gpu_lstm/layers/strand.py.
template <typename T>
void round_to(T* x, int64 count, int64 places) {
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  constexpr Bits exponent = Bits(sizeof(T) == 4 ? 0xFF : 0x7FF) << (sizeof(T) == 4 ? 23 : 52);
  const T least = std::ldexp(T(1), -int(places));
  for (int64 k = 0; k < count; ++k) {
    Bits bits;
    std::memcpy(&bits, x + k, sizeof bits);
    if ((bits &= exponent) == exponent) continue;
    T scale;
    std::memcpy(&scale, &bits, sizeof scale);
    scale = (scale > 1 ? scale : 1) * least;
    x[k] = std::nearbyint(x[k] / scale) * scale + T(0);  // without -0.0, which has other bits than 0.0
  }
}

// Of h (T+1, n) and c (n): the state after step t, where that is one of every `every` and there are places.
template <typename T>
void round_state(int64 t, int64 every, int64 places, int64 count, T* h, T* c) {
  if (places == 0 || t % every) return;
  round_to(h + t * count, count, places);
  round_to(c, count, places);
}
