#!/bin/sh
# Builds attention_bench without CMake: attention_bench.sh [OUT] (needs nvcc and g++; a minute on 8 cores).
set -e
cd "$(dirname "$0")/../.."
out=${1:-build/attention_bench}
work=$out.objects
mkdir -p "$work"
cuda="-std=c++20 -O3 --expt-relaxed-constexpr -lineinfo -gencode=arch=compute_90a,code=sm_90a -I lib"
for f in apps/kernels/attention_bench.cu lib/autograd/ops/attention*.cu lib/tensor/cuda.cu; do
  nvcc $cuda -c "$f" -o "$work/$(basename "$f" .cu).o" & pids="$pids $!"
done
for f in tensor/tensor tensor/allocator tensor/device tensor/parallel autograd/fast_atomics; do
  g++ -std=c++20 -O2 -fopenmp -DROPEWALK_WITH_CUDA -I lib -c "lib/$f.cpp" -o "$work/$(basename "$f").o" & pids="$pids $!"
done
for p in $pids; do wait "$p"; done
nvcc -o "$out" "$work"/*.o -Xcompiler -fopenmp
