#!/usr/bin/env bash
# Everything that needs a GPU, in one command: build, test, check memory accesses and races, measure.
#
#   bash scripts/gpu.sh
#
#   BUILD=build/gpu          where to build; kept between runs
#   JOBS=16                  parallel compilations
#   ROPEWALK_PREFIX=DIR      where Eigen, doctest, nlohmann_json and CLI11 are, if not in the system
#   SANITIZE="memcheck racecheck initcheck"   tools of compute-sanitizer to run ("" for none)
#   SANITIZE_FILTER=PATTERN  which test cases run under them (doctest's -tc; they run 10 to 100 times slower)
#   BENCH=1                  measure the kernels too
#   OUT=DIR                  where full logs go; default: the build folder
set -uo pipefail
cd "$(dirname "$0")/.."

BUILD=${BUILD:-build/gpu}
JOBS=${JOBS:-16}
SANITIZE=${SANITIZE-memcheck racecheck initcheck}
SANITIZE_FILTER=${SANITIZE_FILTER:-*}
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
step configure configure.log cmake -S . -B "$BUILD" "${generator[@]}" -DROPEWALK_CUDA=ON -DROPEWALK_NATIVE=ON \
  ${ROPEWALK_PREFIX:+-DCMAKE_PREFIX_PATH=$ROPEWALK_PREFIX} ${CMAKE_ARGS:-} || finish
step build build.log cmake --build "$BUILD" -j "$JOBS" ${TARGETS:+--target $TARGETS} || finish
step tests tests.log ctest --test-dir "$BUILD" -L gpu --output-on-failure

test_gpu=$(find "$BUILD" -name test_gpu -type f -perm -u+x | head -n 1)
if command -v compute-sanitizer >/dev/null; then
  for tool in $SANITIZE; do
    # racecheck knows no error exit code of its own for hazards unless told; initcheck looks at global memory.
    step "compute-sanitizer $tool" "$tool.log" compute-sanitizer --tool "$tool" --error-exitcode 9 "$test_gpu" -tc="$SANITIZE_FILTER"
  done
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
