// `ropewalk bench cpu`: what this machine does with the S model of docs/results.md, fp32.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>

#include "autograd/ops/attention.h"
#include "autograd/ops/reduce.h"
#include "autograd/tape.h"
#include "bench.h"
#include "common.h"
#include "model_shapes.h"
#include "nn/adamw.h"
#include "nn/decoder.h"
#include "nn/generate.h"
#include "nn/parallel/data_parallel.h"
#include "nn/train_step.h"
#include "ranks.h"
#include "result_file.h"
#include "rope/clex.h"
#include "tensor/file.h"
#include "tensor/gemm.h"
#include "tensor/parallel_for.h"
#include "tensor/threads.h"

using namespace rw;

BenchTiming measure(double budget, const std::function<void()>& f, Communicator* comm) {
  const auto agreed = [&](bool more) { return comm ? comm->broadcast(more ? 1.0 : 0.0) != 0 : more; };
  f();
  std::vector<double> times;
  const double start = now();
  while (agreed(times.size() < 5 || (now() - start < budget && times.size() < 200))) {
    const double before = now();
    f();
    times.push_back(now() - before);
  }
  std::sort(times.begin(), times.end());
  return {times[times.size() / 2], times.front(), times.back()};
}

namespace {

class Table {
 public:
  explicit Table(int threads) : threads_(threads) {}
  void row(const std::string& name, double value, const std::string& unit, const BenchTiming& t) {
    std::printf("%7d  %-44s %12s %-8s  %9.2f ms  (%.2f to %.2f)\n", threads_, name.c_str(),
                with_commas(std::llround(value)).c_str(), unit.c_str(), t.median * 1e3, t.fastest * 1e3,
                t.slowest * 1e3);
    std::fflush(stdout);
    rows.push_back({{"threads", threads_},
                    {"name", name},
                    {"value", value},
                    {"unit", unit},
                    {"median_ms", t.median * 1e3},
                    {"min_ms", t.fastest * 1e3},
                    {"max_ms", t.slowest * 1e3}});
  }
  nlohmann::json rows = nlohmann::json::array();

 private:
  int threads_;
};

void bench_gemm(Table& table, double budget) {
  const auto one = [&](const std::string& name, int64_t m, int64_t n, int64_t k) {
    const Tensor x = Tensor::full({m, k}, 0.5), w = Tensor::full({n, k}, 0.25), y = Tensor::empty({m, n}),
                 dw = Tensor::empty({n, k}), dx = Tensor::empty({m, k});
    const double flops = 2e-9 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
    BenchTiming t = measure(budget, [&] { gemm(x, transposed(w), y); });
    table.row("gemm " + name + " forward", flops / t.median, "GFLOP/s", t);
    t = measure(budget, [&] { gemm(y, w, dx); });
    table.row("gemm " + name + " dgrad", flops / t.median, "GFLOP/s", t);
    t = measure(budget, [&] { gemm(transposed(y), x, dw); });
    table.row("gemm " + name + " wgrad", flops / t.median, "GFLOP/s", t);
  };
  one("2048 cubed", 2048, 2048, 2048);
  one("S qkv, 2048 tokens", 2048, 864, 288);
  one("S head, 128 tokens", 128, 32000, 288);
}

void bench_model(Table& table, double budget) {
  const int64_t length = 256;
  CausalLm model(model_shape("bench", "S").config(kVocab), DType::f32, kCpu, 1);
  AdamW optimizer(model.arena(), {.weight_decay = 0.1});
  model.enable_grad();
  for (const int64_t batch : {1, 8}) {
    const Tensor ids = random_ids(batch, length, kVocab, 1), targets = random_ids(batch, length, kVocab, 2);
    const double tokens = static_cast<double>(batch * length);
    const auto forward = [&] {
      const NoGrad no_grad;
      return model.loss(ids, targets, model.angles(model.plain_positions(0, length), {})).item();
    };
    BenchTiming t = measure(budget, forward);
    table.row(cat("S forward and loss, T 256, batch ", batch), tokens / t.median, "tok/s", t);
    t = measure(budget, [&] {
      backward(model.loss(ids, targets, model.angles(model.plain_positions(0, length), {})));
      optimizer.step(3e-4, 1 / tokens, 1.0);
    });
    table.row(cat("S training step, T 256, batch ", batch), tokens / t.median, "tok/s", t);
  }
}

/// Reads so many bytes and does nothing else with them than adding them up.
BenchTiming read_alone(int64_t bytes) {
  constexpr int64_t kPart = 1 << 14, kSums = 64;  // as many sums as memory needs to be kept busy
  const int64_t parts = std::max<int64_t>(1, bytes / (4 * kPart));
  const Tensor memory = Tensor::full({parts * kPart}, 0.5), sums = Tensor::zeros({parts, kSums});
  return measure(0.5, [&] {
    parallel_for(parts, 4, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        float sum[kSums] = {};
        const float* p = memory.data<float>() + i * kPart;
        for (int64_t j = 0; j < kPart; j += kSums) {
          for (int64_t s = 0; s < kSums; ++s) sum[s] += p[j + s];
        }
        std::copy_n(sum, kSums, sums.data<float>() + i * kSums);
      }
    });
  });
}

/// `bits` of a weight. The share: the weights' bytes by the time of a token, over the rate at which as many bytes are
/// read alone.
void bench_decode_with(Table& table, const CausalLm& model, const std::string& weights, double bits) {
  const GenerateOptions options{.tokens = 256, .sampling = {.temperature = 0}, .stop = {}};
  const BenchTiming t = measure(1.0, [&] { generate(model, {1}, options, [](int32_t) { return true; }); });
  table.row("S decode, batch 1, 256 tokens, " + weights, 256 / t.median, "tok/s", t);
  const double read = static_cast<double>(model.arena().parameter_count()) * bits / 8;  // the head is the embedding
  const BenchTiming alone = read_alone(static_cast<int64_t>(read));
  table.row("  as many bytes read alone", read / alone.median / 1e6, "MB/s", alone);
  table.row("  decoding's share of that rate", 100 * 256 * alone.median / t.median, "%", t);
  std::vector<GreedyRequest> requests(16, {.prompt = {1}, .tokens = 64});
  const BenchTiming together = measure(1.0, [&] { generate_greedy(model, requests); });
  table.row("S decode, 16 texts, 64 tokens, " + weights, 16 * 64 / together.median, "tok/s", together);
}

void bench_decode(Table& table) {
  CausalLm model(model_shape("bench", "S").config(kVocab), DType::f32, kCpu, 1);
  bench_decode_with(table, model, "f32 weights", 32);
  model.use_bf16_copy(true);
  bench_decode_with(table, model, "bf16 weights", 16);
  CausalLm rounded(model_shape("bench", "S").config(kVocab), DType::f32, kCpu, 1);
  use_int8_weights(rounded);
  bench_decode_with(table, rounded, "int8 weights", 8.5);
}

void bench_attention(Table& table) {
  const int64_t length = 8192, heads = 6, dim = 48;
  Random random(1, Purpose::test);
  Tensor qkv = Tensor::empty({1, length, 3 * heads, dim});
  for (int64_t i = 0; i < qkv.numel(); ++i) qkv.data<float>()[i] = static_cast<float>(random.normal());
  release_cached_memory();
  reset_peak_memory();
  const BenchTiming t = measure(1.0, [&] {
    const Var leaf = Var::leaf(qkv);
    backward(sum(attention_packed(leaf, heads, heads)));
  });
  table.row("attention forward+backward, T 8192, 6 x 48", static_cast<double>(length) / t.median, "tok/s", t);
  const double peak = static_cast<double>(memory_stats().peak_bytes) / (1 << 20);
  std::printf("         peak memory %.0f MiB\n", peak);
  table.rows.back()["peak_mib"] = peak;
}

/// What CLEX adds to a training step: its frequencies at every t up to 16 from the
/// neural ODE, and the gradients of its weights.
void bench_clex(Table& table) {
  const ClexRope record;
  ClexScaling scaling({.head_dim = 64, .max_position_embeddings = 512, .kind = record});
  std::vector<Var> weights;
  Random random(1, Purpose::test);
  for (const ParameterSpec& spec : scaling.parameter_specs()) {
    const Tensor w = Tensor::empty(spec.shape);
    normal_init(0.01)(w, random);
    weights.push_back(Var::leaf(w));
  }
  scaling.set_parameters(weights);
  std::vector<double> t;
  for (int64_t k = 1; k <= record.max_factor; ++k) t.push_back(static_cast<double>(k));
  const auto row = [&](const char* name, const BenchTiming& timing) {
    table.row(name, 1 / timing.median, "1/s", timing);
  };
  {
    const NoGrad no_grad;
    row("CLEX frequencies, head dim 64, t 1 to 16", measure(0.3, [&] { scaling.table(t, {.training = true}); }));
  }
  row("CLEX frequencies and gradient", measure(0.3, [&] {
        const Var theta = scaling.table(t, {.training = true}).inv_freq;  // [16,32]
        backward(theta, theta.value());
      }));
}

}  // namespace

void bench_cpu(const BenchOptions& o, const Globals& globals) {
  check_result_file("bench", o.json, "what this verb writes", [](const std::string& path) {
    return read_file(path, limits::evaluation).find("\"threads\"") != std::string::npos;
  });
  use(globals);
  std::vector<int> threads = o.threads;
  if (threads.empty()) threads = {thread_count()};
  nlohmann::json all = nlohmann::json::array();
  std::printf("threads  what                                                value unit          median      (range)\n");
  const auto wanted = [&](const char* part) { return asked_for(o.only, part); };
  for (int n : threads) {
    set_thread_count(n);
    Table table(n);
    if (wanted("gemm")) bench_gemm(table, o.seconds / 6);
    if (wanted("model")) bench_model(table, o.seconds);
    if (wanted("decode")) bench_decode(table);
    if (wanted("attention")) bench_attention(table);
    if (wanted("clex")) bench_clex(table);
    for (const auto& row : table.rows) all.push_back(row);
  }
  if (!o.json.empty()) write_file_atomic(o.json, all.dump(1) + "\n");
}
