// From the arguments that Python hands over to a call of the kernel on each fiber.
#pragma once

#include "../runtime/launch_config.h"

namespace emulator {

bool run(const LaunchConfig&, void (*kernel)());
void refuse(const LaunchConfig&, const char* format, ...) __attribute__((format(printf, 2, 3)));

template <typename T>
constexpr char kind_of() {
  if constexpr (std::is_pointer_v<T>) return 'p';
  if constexpr (std::is_integral_v<T> || std::is_enum_v<T>) return 'i';
  if constexpr (std::is_floating_point_v<T>) return 'f';
  return '?';  // structures, 16-bit floats: only their size is compared
}

template <auto Kernel>
struct Call;

template <typename... Parameters, void (*Kernel)(Parameters...)>
struct Call<Kernel> {
  static inline std::tuple<std::remove_cv_t<Parameters>...> arguments;

  template <size_t I>
  static bool take(const LaunchConfig& config) {
    using T = std::tuple_element_t<I, decltype(arguments)>;
    const Argument& given = config.arguments[I];
    const char wanted = kind_of<T>();
    if (given.size != sizeof(T) || (wanted != '?' && given.kind != '?' && given.kind != wanted)) {
      refuse(config,
             "argument %zu has %u bytes of kind '%c'; the kernel's parameter has %zu of kind '%c' "
             "(p: pointer, i: integer, f: floating point)",
             I, given.size, given.kind, sizeof(T), wanted);
      return false;
    }
    __builtin_memcpy((void*)&std::get<I>(arguments), given.value, sizeof(T));
    return true;
  }
  template <size_t... I>
  static bool take_all(const LaunchConfig& config, std::index_sequence<I...>) {
    if (config.argument_count != sizeof...(I)) {
      refuse(config, "%u arguments for %zu parameters", config.argument_count, sizeof...(I));
      return false;
    }
    return (take<I>(config) && ...);
  }

  static void on_this_thread() { std::apply(Kernel, arguments); }
  static bool launch(const LaunchConfig* config) {
    return take_all(*config, std::index_sequence_for<Parameters...>()) && run(*config, on_this_thread);
  }
};

}  // namespace emulator
