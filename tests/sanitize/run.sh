#!/usr/bin/env bash
# Builds driver.cpp with ThreadSanitizer, and with AddressSanitizer and UBSan, and runs both; any report fails.
set -euo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
flags=(-std=c++17 -g -O1 -fno-math-errno -fno-trapping-math -ffp-contract=fast -fno-omit-frame-pointer -pthread -Wno-psabi)
checked() {  # by which sanitizers, under which name, with more options
  "${CXX:-g++}" "${flags[@]}" "-fsanitize=$1" "${@:3}" driver.cpp -o "$work/$2"
  "$work/$2" > "$work/$2.txt" 2>&1
}
export TSAN_OPTIONS=halt_on_error=1 ASAN_OPTIONS=detect_stack_use_after_return=1

checked thread ThreadSanitizer &
checked address,undefined AddressSanitizer -fno-sanitize-recover=all && status=0 || status=$?
wait $! || status=$?
tail -n 30 "$work"/*.txt
exit $status
