#!/usr/bin/env bash
# Memory checks: what reads files of strangers, under AddressSanitizer and UBSan with the bounds of containers checked. Every
# fuzz program gets its seeds, the inputs that once broke something, and two seconds of mutations.
# Only what those programs need is compiled, without optimisation, which is quicker.
set -euo pipefail
cd "$(dirname "$0")/.."
echo "== memory checks (build/smoke)"
cmake -S . -B build/smoke -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-O0 -DROPEWALK_SANITIZE=ON -DROPEWALK_ASSERTIONS=ON -DROPEWALK_SMOKE=ON -DROPEWALK_APPS=OFF >/dev/null
bash scripts/build.sh build/smoke
ctest --test-dir build/smoke --output-on-failure -j "$(nproc)"
