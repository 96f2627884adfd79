// What the sections of `ropewalk bench ops` share: timing with a cold L2, the table, random inputs on the GPU.
#pragma once
#include <functional>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "autograd/var.h"
#include "model_shapes.h"
#include "tensor/tensor.h"

struct OpsOptions {
  double seconds = 0.2;  // timed calls of a row
  int64_t tokens = 65536, vocab = 32000;
  std::vector<int64_t> hidden = {768, 2048, 4096}, ffn = {2048, 5632}, ce_tokens = {8192, 16384, 32768};
  std::vector<int64_t> lengths = {1024, 2048, 4096, 8192, 16384, 32768};
  std::vector<std::string> heads = {"12x64", "32x64", "16x128"}, gemm;
  std::string only, json;
  bool fast_atomics = false;
};

struct Times {
  double p20, median, p80;  // seconds
};

/// What a row's rate is compared with.
enum class Ceiling { copy, gemm };

class OpsBench {
 public:
  OpsBench(const OpsOptions& options, rw::Device device);

  const OpsOptions& options() const { return options_; }
  rw::Device device() const { return device_; }

  /// Normal numbers: a million of them, repeated from another start for each seed.
  rw::Tensor random(rw::Shape shape, rw::DType dtype = rw::DType::bf16, uint64_t seed = 1);
  rw::Tensor random_ids(int64_t n, int64_t bound) const;

  /// Times `work`; before each call `prepare` runs and the L2 cache is filled with other, clean data.
  Times time(const std::function<void()>& work, const std::function<void()>& prepare = {}) const;
  /// Prints and keeps a row. bytes or flops 0: not given. peak_bytes 0: not measured.
  void row(const std::string& section, const std::string& name, const Times& t, double bytes, double flops,
           Ceiling ceiling, double peak_bytes = 0);
  void heading(const std::string& text) const;
  /// From now on rows are compared with these: bytes per second, FLOP per second.
  void set_copy_rate(double rate) { copy_rate_ = rate; }
  void set_gemm_rate(double rate) { gemm_rate_ = rate; }

  nlohmann::json report() const;

 private:
  OpsOptions options_;
  rw::Device device_;
  rw::Tensor flush_, sink_;
  rw::Tensor blocks_[2];  // f32, bf16
  double copy_rate_ = 0, gemm_rate_ = 0;
  nlohmann::json rows_ = nlohmann::json::array();
};

/// The product of the numbers, as a double.
double product(std::initializer_list<int64_t> factors);
double bytes_of(const rw::Tensor& t);
/// `parts` numbers joined by x: "12x64". Errors: anything else.
std::vector<int64_t> sizes(const std::string& text, size_t parts);

/// The shapes whose products and optimizer are timed, with the tokens of a step.
struct TimedModel {
  ModelShape shape;
  int64_t tokens;
};
std::vector<TimedModel> timed_models();

/// Forward (nothing recorded) and backward alone of one op, each as a row: "NAME fwd", "NAME bwd".
struct OpWork {
  std::string section, name;
  double forward_bytes, backward_bytes, forward_flops = 0, backward_flops = 0;
  Ceiling ceiling = Ceiling::copy;
};

using Op = std::function<rw::Var(const std::vector<rw::Var>&)>;
/// Times op without recording, and the backward pass of op alone.
void forward_backward(OpsBench& b, const OpWork& work, const std::vector<rw::Tensor>& inputs, const Op& op,
                      const std::vector<rw::Tensor>& gradient_buffers = {});

void bench_rooflines(OpsBench& b);
void bench_gemm_shapes(OpsBench& b);
void bench_fp8(OpsBench& b);
void bench_fused(OpsBench& b);
void bench_memory_ops(OpsBench& b);
void bench_block_ops(OpsBench& b);
void bench_losses(OpsBench& b);
void bench_optimizer(OpsBench& b);
void bench_attention_shapes(OpsBench& b);
void bench_decoding(OpsBench& b);
