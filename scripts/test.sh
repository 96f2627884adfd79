#!/usr/bin/env bash
# Installs what is missing, builds library, program and tests, and runs every test. Safe to repeat. Words go to ctest.
#   NATIVE=OFF   build for any CPU, not for this one
set -euo pipefail
cd "$(dirname "$0")/.."
# Waiting threads sleep instead of spinning: beside other programs that is up to five times faster, alone it costs little.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
echo "== 1/3 dependencies"
bash scripts/setup.sh
echo "== 2/3 build (build/test)"
cmake -S . -B build/test -DCMAKE_BUILD_TYPE=Release -DROPEWALK_NATIVE="${NATIVE:-ON}" -DROPEWALK_ASSERTIONS=ON >/dev/null
bash scripts/build.sh build/test
echo "== 3/3 tests"
ctest --test-dir build/test --output-on-failure "$@"
