#!/usr/bin/env bash
# Builds driver.cpp with ThreadSanitizer, and with AddressSanitizer and UBSan, and runs both; any report fails.
set -euo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
flags=(-std=c++17 -g -O1 -fno-math-errno -fno-trapping-math -ffp-contract=fast -fno-omit-frame-pointer -pthread -Wno-psabi)
build() { "${CXX:-g++}" "${flags[@]}" "-fsanitize=$1" "${@:3}" driver.cpp -o "$work/$2"; }

build thread thread &
build address,undefined address -fno-sanitize-recover=all
wait $!
echo "ThreadSanitizer:"
TSAN_OPTIONS=halt_on_error=1 "$work/thread"
echo "AddressSanitizer, UBSan:"
ASAN_OPTIONS=detect_stack_use_after_return=1 "$work/address"
