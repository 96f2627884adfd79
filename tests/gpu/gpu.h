// What the GPU tests share: skipping without a GPU, and the rule by which a kernel is right.
//
//   reference  the CPU op in f64, on inputs that the kernel's dtype represents
//   plain      the CPU op in the kernel's dtype
//   right      error(kernel) <= 2 error(plain), with a floor of a rounding of the result
//   repeats    a second run gives the same bits
#pragma once
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "autograd/tape.h"
#include "autograd/var.h"
#include "support.h"

namespace test {

inline constexpr rw::Device kGpu{rw::DeviceType::cuda, 0};

/// True if there is a GPU; otherwise says once why the tests do nothing.
inline bool has_gpu() {
  static const bool found = [] {
    if (rw::cuda_device_count() > 0) return true;
    std::printf("SKIPPED: %s\n", rw::cuda_device_name().c_str());
    return false;
  }();
  return found;
}

/// Of the tests that repeat one thing many times, fewer repetitions: for compute-sanitizer, under which kernels run 10
/// to 100 times slower. The same code runs.
inline int64_t repetitions(int64_t all, int64_t few) { return std::getenv("ROPEWALK_FEW_REPETITIONS") ? few : all; }

inline bool same_bits(const rw::Tensor& a, const rw::Tensor& b) {
  const rw::Tensor x = a.to(rw::kCpu), y = b.to(rw::kCpu);
  return x.dtype() == y.dtype() && x.shape() == y.shape() &&
         std::memcmp(x.raw(), y.raw(), static_cast<size_t>(x.bytes())) == 0;
}

/// One rounding of the largest element (in f32 four, for sums in another order), where the plain formula was luckier.
inline double rounding(rw::DType dtype) { return dtype == rw::DType::bf16 ? 0x1p-8 : 0x1p-21; }

/// Where and in what an op runs.
struct Place {
  rw::Device device;
  rw::DType dtype;
  bool fast_atomics = false;
  rw::Tensor put(const rw::Tensor& t) const { return t.to(device); }  // ids, targets, positions
};
using Op = std::function<std::vector<rw::Var>(const std::vector<rw::Var>&, const Place&)>;

struct Result {
  std::vector<rw::Tensor> values;  // outputs, then gradients of the inputs
};

/// Runs op forward and, from fixed seeds, backward.
inline Result run_op(const Op& op, const std::vector<rw::Tensor>& inputs, const Place& place, bool gradients = true) {
  rw::Tape tape;
  tape.set_fast_atomics(place.fast_atomics);
  const rw::TapeScope scope(tape);
  std::vector<rw::Var> leaves;
  for (const rw::Tensor& t : inputs) leaves.push_back(rw::Var::leaf(t.to(place.dtype).to(place.device).clone()));
  Result result;
  const std::vector<rw::Var> outputs = op(leaves, place);
  std::vector<rw::Tensor> seeds;
  for (size_t i = 0; i < outputs.size(); ++i) {
    result.values.push_back(outputs[i].value().clone());  // before an op in place changes it
    // The seed's values are bf16 for every dtype, so that all three runs get the same ones.
    seeds.push_back(randn(outputs[i].shape(), 900 + i, rw::DType::bf16).to(outputs[i].dtype()).to(place.device));
  }
  if (!gradients) return result;
  tape.backward(outputs, seeds);
  for (const rw::Var& leaf : leaves) result.values.push_back(leaf.grad());
  return result;
}

/// Applies the rule to every output and gradient. `inputs` are f64.
inline void check_op(const std::string& name, const std::vector<rw::Tensor>& inputs, const Op& op,
                     bool gradients = true, std::vector<rw::DType> dtypes = {rw::DType::f32, rw::DType::bf16}) {
  for (const rw::DType dtype : dtypes) {
    std::vector<rw::Tensor> rounded;
    for (const rw::Tensor& t : inputs) rounded.push_back(t.to(dtype).to(rw::DType::f64));
    const Result reference = run_op(op, rounded, {rw::kCpu, rw::DType::f64}, gradients);
    const Result plain = run_op(op, rounded, {rw::kCpu, dtype}, gradients);
    const Result got = run_op(op, rounded, {kGpu, dtype}, gradients),
                 again = run_op(op, rounded, {kGpu, dtype}, gradients);
    for (size_t i = 0; i < got.values.size(); ++i) {
      const rw::DType kept = got.values[i].dtype();
      const double error = relative_error(got.values[i], reference.values[i]);
      const double allowed = std::max(2 * relative_error(plain.values[i], reference.values[i]), rounding(kept));
      INFO(name << ", " << std::string(rw::name_of(dtype)) << ", value " << i << ": error " << error << ", allowed "
                << allowed);
      CHECK(error <= allowed);
      CHECK(same_bits(got.values[i], again.values[i]));
    }
  }
}

}  // namespace test
