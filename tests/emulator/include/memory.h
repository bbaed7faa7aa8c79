// Atomics, cached loads and stores, and what stands for the memory instructions of PTX that C++ has no name for.
#pragma once

namespace emulator {

template <typename T>
using Same = std::common_type_t<T>;  // keeps a parameter out of deduction: atomicAdd(unsigned*, 1)

template <typename T, typename Update>
EMULATOR_INLINE T atomic(T* address, Update update, Order order = Order::relaxed) {
  T before;
  atomic_begin(address, sizeof(T), Access::exchange, order);
  copy(&before, address, sizeof(T));
  const T after = update(before);
  const bool changed = __builtin_memcmp(&before, &after, sizeof(T)) != 0;
  copy(address, &after, sizeof(T));
  atomic_end(changed);
  return before;
}

// ld.relaxed, ld.acquire: for T of up to 16 bytes
template <typename T>
EMULATOR_INLINE T load_atomic(const T* address, Order order) {
  T value;
  atomic_begin(address, sizeof(T), Access::load, order);
  copy(&value, address, sizeof(T));
  atomic_end(false);
  return value;
}
template <typename T>
EMULATOR_INLINE T load_relaxed(const T* address) {
  return load_atomic(address, Order::relaxed);
}
template <typename T>
EMULATOR_INLINE T load_acquire(const T* address) {
  return load_atomic(address, Order::synchronizing);
}

// st.relaxed, st.release
template <typename T>
EMULATOR_INLINE void store_atomic(T* address, Same<T> value, Order order) {
  atomic_begin(address, sizeof(T), Access::store, order);
  copy(address, &value, sizeof(T));
  atomic_end(true);
}
template <typename T>
EMULATOR_INLINE void store_relaxed(T* address, Same<T> value) {
  store_atomic<T>(address, value, Order::relaxed);
}
template <typename T>
EMULATOR_INLINE void store_release(T* address, Same<T> value) {
  store_atomic<T>(address, value, Order::synchronizing);
}

// atom.acq_rel.add, red.release.add
template <typename T>
EMULATOR_INLINE T add_acquire_release(T* address, Same<T> value) {
  return atomic(address, [=](T before) { return T(before + value); }, Order::synchronizing);
}

}  // namespace emulator

#define EMULATOR_ATOMIC(name, expression)                                        \
  template <typename T>                                                          \
  EMULATOR_INLINE T name(T* address, emulator::Same<T> value) {                  \
    return emulator::atomic(address, [=](T before) -> T { return expression; }); \
  }                                                                              \
  template <typename T>                                                          \
  EMULATOR_INLINE T name##_block(T* address, emulator::Same<T> value) {          \
    return name(address, value);                                                 \
  }                                                                              \
  template <typename T>                                                          \
  EMULATOR_INLINE T name##_system(T* address, emulator::Same<T> value) {         \
    return name(address, value);                                                 \
  }

EMULATOR_ATOMIC(atomicAdd, before + value)
EMULATOR_ATOMIC(atomicSub, before - value)
EMULATOR_ATOMIC(atomicExch, value)
EMULATOR_ATOMIC(atomicMin, value < before ? value : before)
EMULATOR_ATOMIC(atomicMax, before < value ? value : before)
EMULATOR_ATOMIC(atomicInc, before >= value ? T(0) : T(before + 1))
EMULATOR_ATOMIC(atomicDec, before == 0 || before > value ? value : T(before - 1))
EMULATOR_ATOMIC(atomicAnd, before& value)
EMULATOR_ATOMIC(atomicOr, before | value)
EMULATOR_ATOMIC(atomicXor, before ^ value)
#undef EMULATOR_ATOMIC

template <typename T>
EMULATOR_INLINE T atomicCAS(T* address, emulator::Same<T> expected, emulator::Same<T> desired) {
  return emulator::atomic(
      address, [=](T before) { return __builtin_memcmp(&before, &expected, sizeof(T)) == 0 ? desired : before; });
}

// Caches are not modelled: all these are plain loads and stores.
template <typename T>
EMULATOR_INLINE T __ldg(const T* address) {
  return *address;
}
template <typename T>
EMULATOR_INLINE T __ldcg(const T* address) {
  return *address;
}
template <typename T>
EMULATOR_INLINE T __ldca(const T* address) {
  return *address;
}
template <typename T>
EMULATOR_INLINE T __ldcs(const T* address) {
  return *address;
}
template <typename T>
EMULATOR_INLINE T __ldlu(const T* address) {
  return *address;
}
template <typename T>
EMULATOR_INLINE T __ldcv(const T* address) {
  return *(const volatile T*)address;
}
template <typename T>
EMULATOR_INLINE void __stcg(T* address, emulator::Same<T> value) {
  *address = value;
}
template <typename T>
EMULATOR_INLINE void __stcs(T* address, emulator::Same<T> value) {
  *address = value;
}
template <typename T>
EMULATOR_INLINE void __stwb(T* address, emulator::Same<T> value) {
  *address = value;
}
template <typename T>
EMULATOR_INLINE void __stwt(T* address, emulator::Same<T> value) {
  *address = value;
}
