#!/usr/bin/env bash
# Memory checks: what reads files of strangers, under AddressSanitizer and UBSan with the bounds of containers checked. Every
# fuzz program gets its seeds, the inputs that once broke something, and two seconds of mutations.
# Only what those programs need is compiled, without optimisation, which is quicker.
set -euo pipefail
cd "$(dirname "$0")/.."
echo "== memory checks (build/smoke)"
cmake -S . -B build/smoke -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-O0 -DROPEWALK_SANITIZE=ON -DROPEWALK_ASSERTIONS=ON -DROPEWALK_SMOKE=ON -DROPEWALK_APPS=OFF >/dev/null
cmake --build build/smoke -j "$(nproc)" >build/smoke/build.log 2>&1 || { grep -E 'error|Error' build/smoke/build.log | head -n 40; tail -n 20 build/smoke/build.log; exit 1; }
ctest --test-dir build/smoke --output-on-failure -j "$(nproc)"
