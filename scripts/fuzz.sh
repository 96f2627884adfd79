#!/usr/bin/env bash
# Runs every fuzz target for ten minutes (or --seconds N each) under AddressSanitizer and UBSan, from its seeds and the
# inputs in tests/fuzz/corpus; for the night. Needs clang. Two targets run at a time, or --jobs N.
#   bash scripts/fuzz.sh [--seconds 600] [--jobs 2] [--only NAME] [--corpus FOLDER]
# What was found lies in FOLDER/found: a file there becomes a test, and goes into tests/fuzz/corpus.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=600 jobs=2 only="" corpus=build/fuzz/corpus
while [ $# -gt 0 ]; do
  case $1 in
    --seconds) seconds=$2 ;;
    --jobs) jobs=$2 ;;
    --only) only=$2 ;;
    --corpus) corpus=$2 ;;
    *) echo "fuzz.sh: unknown option $1" >&2; exit 2 ;;
  esac
  shift 2
done
cmake --preset fuzz >/dev/null
cmake --build build/fuzz -j "$(nproc)" >build/fuzz/build.log 2>&1 || { tail -n 30 build/fuzz/build.log; exit 1; }
mkdir -p "$corpus/found"
one() {
  local name=$1 seconds=$2 corpus=$3 places=("$3/$1")
  mkdir -p "$corpus/$name"
  "build/fuzz/tests/fuzz/fuzz_$name" --seeds-to "$corpus/$name" >/dev/null
  [ -d "tests/fuzz/corpus/$name" ] && places+=("tests/fuzz/corpus/$name")
  if "build/fuzz/tests/fuzz/libfuzzer_$name" -max_len=16384 -timeout=10 -malloc_limit_mb=64 -rss_limit_mb=2048 -max_total_time="$seconds" \
    -print_final_stats=1 -artifact_prefix="$corpus/found/$name-" "${places[@]}" >"$corpus/$name.log" 2>&1; then
    echo "$name: $(sed -n 's/^stat::number_of_executed_units: *//p' "$corpus/$name.log") runs, no finding"
  else
    echo "$name: FOUND something, see $corpus/$name.log"
  fi
}
export -f one
export OMP_NUM_THREADS=1
for program in build/fuzz/tests/fuzz/libfuzzer_*; do
  name=${program##*libfuzzer_}
  [ -n "$only" ] && [ "$only" != "$name" ] && continue
  echo "$name"
done | xargs -P "$jobs" -I{} bash -c "one {} $seconds $corpus" | tee "$corpus/summary.txt"
! grep -q FOUND "$corpus/summary.txt"
