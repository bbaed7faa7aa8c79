#!/usr/bin/env bash
# The compiled tier on ARM, without such a processor: compiled by Debian's cross compiler with the flags of the package,
# run by qemu. Every entry's results are held to those of this processor, which the tests in Python hold to the oracle;
# then the inner loops are looked at (tests/assembly.py): no spill, and multiply-adds to 85 % of the widest tiles'.
# Installs compiler and emulator where it may (root, apt); where it may not and they are missing, it says so.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=(g++-aarch64-linux-gnu qemu-user binutils-aarch64-linux-gnu)
there() { command -v aarch64-linux-gnu-g++ qemu-aarch64 aarch64-linux-gnu-objdump > /dev/null; }
if ! there && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
  { apt-get update && apt-get install -y --no-install-recommends "${packages[@]}"; } > "$work/apt.log" 2>&1 ||
    tail -n 3 "$work/apt.log"
fi
if ! there; then
  echo "ARM was left out: it takes ${packages[*]}" >&2
  [ "${1:-}" != --require ]
  exit
fi

flags=$(python3 -c "
import tomllib
print(*tomllib.load(open('pyproject.toml', 'rb'))['tool']['setuptools']['ext-modules'][0]['extra-compile-args'])")
driver=tests/sanitize/driver.cpp
# shellcheck disable=SC2086
"${CXX:-g++}" $flags -O1 -Wno-psabi "$driver" -o "$work/here" && "$work/here" record "$work/results" &
aarch64-linux-gnu-g++ $flags -Wno-psabi -static "$driver" -o "$work/arm"
wait $!
qemu-aarch64 "$work/arm" compare "$work/results"
looked() { python3 -m tests.assembly --objdump aarch64-linux-gnu-objdump --of "baseline::.*<$1" --share "$2" "$work/arm"; }
looked float 0.85
looked double 0.80  # a multiply-add of two doubles takes as many loads as one of four floats
