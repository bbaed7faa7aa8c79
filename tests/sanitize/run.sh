#!/usr/bin/env bash
# Builds driver.cpp with ThreadSanitizer, and with AddressSanitizer and UBSan, for parts of the library (an instruction set's
# floats or doubles): those of the two widest sets that this processor runs; as many at once as there are cores. Runs them;
# any report fails.
set -euo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export work TSAN_OPTIONS="halt_on_error=1 atexit_sleep_ms=0" ASAN_OPTIONS=detect_stack_use_after_return=1
has() { grep -qw "$1" /proc/cpuinfo; }
parts="0 1"
if has avx2; then parts="2 3 $parts"; fi
if has avx512dq; then parts="4 5 2 3"; fi

checked() {  # of which part, by which sanitizers, with more options: without -O where UBSan would compile for minutes
  "${CXX:-g++}" -std=c++17 -g -fno-math-errno -fno-trapping-math -ffp-contract=fast -fno-omit-frame-pointer -pthread \
    -Wno-psabi "-DPART=$1" "-fsanitize=$2" "${@:3}" driver.cpp -o "$work/$1-$2"
  "$work/$1-$2" > "$work/$1-$2.txt" 2>&1
}
export -f checked
for part in $parts; do
  echo "$part address,undefined -fno-sanitize-recover=all"
  echo "$part thread -O1"
done | xargs -P "$(nproc)" -I{} bash -euo pipefail -c "checked {}" && status=0 || status=$?
tail -n 30 "$work"/*.txt
exit $status
