#!/usr/bin/env bash
# Memory checks: the files that strangers may send, and what reads them, under AddressSanitizer and UBSan with bounds checked.
# Without optimisation, which compiles faster; every fuzz target gets its seeds and two seconds of mutations.
set -euo pipefail
cd "$(dirname "$0")/.."
echo "== memory checks (build/smoke)"
cmake -S . -B build/smoke -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-O0 -DROPEWALK_SANITIZE=ON -DROPEWALK_ASSERTIONS=ON -DROPEWALK_APPS=OFF >/dev/null
cmake --build build/smoke -j "$(nproc)" --target smoke >build/smoke/build.log 2>&1 || { grep -E 'error|Error' build/smoke/build.log | head -n 40; tail -n 20 build/smoke/build.log; exit 1; }
ctest --test-dir build/smoke -L smoke --output-on-failure -j "$(nproc)"
