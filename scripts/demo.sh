#!/usr/bin/env bash
# The main job on a plain CPU, in five to nine minutes on two cores: installs what is missing, builds, then trains a small
# LLaMA on built-in stories, shows that it fails beyond its window, extends it four times by PI and by PoSE, prints
# perplexity by window for each, writes out/demo/report.html and generates a sample. Safe to repeat.
set -euo pipefail
cd "$(dirname "$0")/.."
# Waiting threads sleep instead of spinning: beside other programs that is up to five times faster, alone it costs little.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
echo "== 1/3 dependencies"
bash scripts/setup.sh
echo "== 2/3 build (build/demo): four to eight minutes on two cores"
cmake -S . -B build/demo -DCMAKE_BUILD_TYPE=Release -DROPEWALK_NATIVE=ON -DROPEWALK_TESTS=OFF >/dev/null
bash scripts/build.sh build/demo
echo "== 3/3 train, extend, evaluate"
build/demo/bin/ropewalk demo --out out/demo "$@"
