#!/usr/bin/env bash
# The tests of the Python package, in a virtual environment of their own (build/venv): builds and installs the package, then
# runs pytest. The command-line program is built for any CPU as well, so that both can be compared bit for bit.
# Skipped, with the reason, where there is no Python or where pip cannot install numpy and pytest. Words go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
export CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}  # pip starts make without -j
skip() { echo "python tests: skipped: $*"; exit 0; }
python=$(command -v python3) || skip "python3 is not installed"
venv=build/venv
if ! [ -x $venv/bin/pip ]; then
  mkdir -p build
  "$python" -m venv $venv >build/venv.log 2>&1 || { rm -rf $venv; skip "python3 -m venv failed (on Debian: apt install python3-venv)"; }
fi
$venv/bin/pip install --quiet --disable-pip-version-check numpy pytest 'scikit-build-core>=0.8,<2' >build/venv.log 2>&1 ||
  skip "pip cannot install numpy, pytest and scikit-build-core here: $(tail -n 1 build/venv.log)"
$venv/bin/pip install --quiet --disable-pip-version-check tqdm matplotlib tensorboardX >>build/venv.log 2>&1 ||
  echo "python tests: without tqdm, matplotlib and tensorboardX, whose tests are skipped"
$venv/bin/pip install --no-build-isolation --no-deps . >build/pip.log 2>&1 || { tail -n 40 build/pip.log; exit 1; }
if [ -z "${ROPEWALK_PROGRAM:-}" ]; then
  cmake -S . -B build/any -DCMAKE_BUILD_TYPE=Release -DROPEWALK_TESTS=OFF >/dev/null
  cmake --build build/any -j "$(nproc)" >build/any/build.log 2>&1 || { tail -n 40 build/any/build.log; exit 1; }
  export ROPEWALK_PROGRAM=$PWD/build/any/bin/ropewalk
fi
$venv/bin/python -m pytest -q python/tests "$@"
