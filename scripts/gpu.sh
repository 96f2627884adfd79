#!/usr/bin/env bash
# Everything that needs a GPU, in one command: build, test, check memory accesses and races, measure.
#
#   bash scripts/gpu.sh
#
#   BUILD=build/gpu          where to build; kept between runs
#   JOBS=16                  parallel compilations
#   ROPEWALK_PREFIX=DIR      where Eigen, doctest, nlohmann_json and CLI11 are, if not in the system
#   SANITIZE="memcheck racecheck initcheck"   tools of compute-sanitizer to run ("" for none)
#   SANITIZE_FILTER=PATTERN  which test cases run under them (a regular expression; they run 10 to 100 times slower)
#   SANITIZE_JOBS=12         how many of them at once
#   SANITIZE_LIMIT=300       seconds for one
#   BENCH=1                  measure the kernels too
#   OUT=DIR                  where full logs go; default: the build folder
set -uo pipefail
cd "$(dirname "$0")/.."

BUILD=${BUILD:-build/gpu}
JOBS=${JOBS:-16}
SANITIZE=${SANITIZE-memcheck racecheck initcheck}
SANITIZE_FILTER=${SANITIZE_FILTER:-.}
SANITIZE_JOBS=${SANITIZE_JOBS:-12}
SANITIZE_LIMIT=${SANITIZE_LIMIT:-300}
BENCH=${BENCH:-1}
mkdir -p "$BUILD"
logs=${OUT:-$BUILD}
summary=()
failed=0

# step NAME LOG COMMAND...: runs it with its output in LOG and keeps a line for the summary.
step() {
  local name=$1 log=$logs/$2 start=$SECONDS
  shift 2
  if "$@" >"$log" 2>&1; then
    summary+=("ok      $name ($((SECONDS - start)) s)")
  else
    summary+=("FAILED  $name ($((SECONDS - start)) s): $log")
    failed=1
    tail -n 40 "$log"
    return 1
  fi
}

finish() {
  printf '\n'
  printf '%s\n' "${summary[@]}"
  exit $failed
}

generator=()
if command -v ninja >/dev/null; then generator=(-G Ninja); fi
# configure FOLDER OPTION...
configure() {
  cmake -S . -B "$1" "${generator[@]}" -DROPEWALK_CUDA=ON -DROPEWALK_NATIVE=ON \
    ${ROPEWALK_PREFIX:+-DCMAKE_PREFIX_PATH=$ROPEWALK_PREFIX} ${CMAKE_ARGS:-} "${@:2}"
}
step configure configure.log configure "$BUILD" || finish
step build build.log cmake --build "$BUILD" -j "$JOBS" ${TARGETS:+--target $TARGETS} || finish
step tests tests.log ctest --test-dir "$BUILD" -L gpu --output-on-failure

test_gpu=$(find "$BUILD" -name test_gpu -type f -perm -u+x | head -n 1)

# Racecheck follows barriers at which every lane arrives, not those at which one arrives for its warp (docs/kernels-log.md).
racecheck_gpu=
if command -v compute-sanitizer >/dev/null && [[ " $SANITIZE " == *" racecheck "* ]]; then
  step "configure for racecheck" configure-racecheck.log configure "$BUILD-racecheck" -DROPEWALK_RACECHECK=ON || finish
  step "build for racecheck" build-racecheck.log cmake --build "$BUILD-racecheck" -j "$JOBS" --target test_gpu || finish
  racecheck_gpu=$(find "$BUILD-racecheck" -name test_gpu -type f -perm -u+x | head -n 1)
fi

# sanitize_case TOOL NAME: one test case under one tool, a line of result. A comma would end a doctest pattern.
sanitize_case() {
  local tool=$1 name=$2 binary=$test_gpu log options=()
  log=$(mktemp)
  if [ "$tool" = racecheck ]; then binary=$racecheck_gpu; fi
  if [ "$tool" = memcheck ]; then options=(--report-api-errors no); fi  # a refused allocation is what some tests ask for
  OMP_NUM_THREADS=1 ROPEWALK_FEW_REPETITIONS=1 ROPEWALK_INITCHECK=$([ "$tool" = initcheck ] && echo 1) timeout "$SANITIZE_LIMIT" \
    compute-sanitizer --tool "$tool" "${options[@]}" --error-exitcode 9 "$binary" -tc="${name//,/?}" >"$log" 2>&1
  local rc=$?
  if [ $rc = 0 ] && grep -q 'SUMMARY: 0 ' "$log"; then
    printf 'clean      %s: %s\n' "$tool" "$name"
  elif grep -q 'before first instrumented API call' "$log"; then
    printf 'clean      %s: %s (nothing of it runs on the GPU)\n' "$tool" "$name"
  elif ! grep -qE 'ERROR|Internal' "$log" && grep -q 'Race reported' "$log" && ! grep 'Race reported' "$log" | grep -qv nvjet; then
    printf 'clean      %s: %s (but for reports inside of cuBLASLt)\n' "$tool" "$name"
  elif [ $rc = 124 ]; then
    printf 'unfinished %s: %s\n' "$tool" "$name"
  else
    printf 'FOUND      %s: %s\n' "$tool" "$name"
    grep -E '^=========|ERROR' "$log" | head -n 60
  fi
  rm -f "$log"
}
# sanitize: every test case under every tool, SANITIZE_JOBS at a time; fails if one is not clean.
sanitize() {
  export -f sanitize_case
  export test_gpu racecheck_gpu SANITIZE_LIMIT
  local names
  names=$("$test_gpu" -ltc -ntx 2>/dev/null | grep -vE '^\[doctest\]|^===|^bench|^asking' | grep -E "$SANITIZE_FILTER")
  # The longest first, and alone what takes all of the card's memory.
  sanitize_each "$SANITIZE_JOBS" < <(grep -E 'steps|decod|attention|graph|LLaMA|generation|profiled' <<<"$names")
  sanitize_each "$SANITIZE_JOBS" < <(grep -vE 'steps|decod|attention|graph|LLaMA|generation|profiled|out of' <<<"$names")
  sanitize_each 1 < <(grep 'out of' <<<"$names")
}
# sanitize_each JOBS: of the names on standard input.
sanitize_each() {
  while IFS= read -r name; do for tool in $SANITIZE; do printf '%s\0%s\0' "$tool" "$name"; done; done |
    xargs -0 -r -n 2 -P "$1" bash -c 'sanitize_case "$@"' _
}
if command -v compute-sanitizer >/dev/null && [ -n "$SANITIZE" ]; then
  step "compute-sanitizer: $SANITIZE" sanitizers.log sanitize
  for word in clean unfinished FOUND; do summary+=("        $(grep -c "^$word " "$logs/sanitizers.log") test cases x tools $word"); done
  if grep -qE '^(unfinished|FOUND) ' "$logs/sanitizers.log"; then
    failed=1
    grep -E '^(unfinished|FOUND) ' "$logs/sanitizers.log"
  fi
else
  summary+=("absent  compute-sanitizer")
fi

if [ "$BENCH" = 1 ]; then
  step bench bench.log env ROPEWALK_BENCH=1 "$test_gpu" -tc="bench*" && grep -v doctest "$logs/bench.log"
  cli=$BUILD/bin/ropewalk
  if [ -x "$cli" ] && "$cli" bench --help >/dev/null 2>&1; then
    step "ropewalk bench cuda" bench_cli.log "$cli" bench cuda && cat "$logs/bench_cli.log"
  fi
fi
finish
