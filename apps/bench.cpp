// `ropewalk bench cpu`: what this machine does with the S model of docs/results.md, fp32.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>

#include "autograd/tape.h"
#include "autograd/ops/attention.h"
#include "autograd/ops/reduce.h"
#include "autograd/tape.h"
#include "common.h"
#include "model_shapes.h"
#include "nn/adamw.h"
#include "nn/decoder.h"
#include "nn/generate.h"
#include "nn/parallel/data_parallel.h"
#include "nn/train_step.h"
#include "ranks.h"
#include "rope/clex.h"
#include "tensor/file.h"
#include "tensor/gemm.h"
#include "tensor/threads.h"

using namespace rw;

namespace {

struct Options {
  std::vector<int> threads;
  std::string json, only;
  double seconds = 3;
  bool eager = false, fast_atomics = false, fp8 = false, fp8_lean = false;
};

struct Timing {
  double median, fastest, slowest;  // seconds
};

/// Runs f for about `budget` seconds, at least five times after one warm-up. With `comm` as often as rank 0 says.
Timing measure(double budget, const std::function<void()>& f, Communicator* comm = nullptr) {
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

constexpr int64_t kVocab = 32000;  // of every model here: llama2.c's

class Table {
 public:
  explicit Table(int threads) : threads_(threads) {}
  void row(const std::string& name, double value, const std::string& unit, const Timing& t) {
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
    Timing t = measure(budget, [&] { gemm(x, transposed(w), y); });
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
    Timing t = measure(budget, forward);
    table.row(cat("S forward and loss, T 256, batch ", batch), tokens / t.median, "tok/s", t);
    t = measure(budget, [&] {
      backward(model.loss(ids, targets, model.angles(model.plain_positions(0, length), {})));
      optimizer.step(3e-4, 1 / tokens, 1.0);
    });
    table.row(cat("S training step, T 256, batch ", batch), tokens / t.median, "tok/s", t);
  }
}

void bench_decode(Table& table) {
  CausalLm model(model_shape("bench", "S").config(kVocab), DType::f32, kCpu, 1);
  const GenerateOptions options{.tokens = 256, .sampling = {.temperature = 0}, .stop = {}};
  const auto decode = [&] { generate(model, {1}, options, [](int32_t) { return true; }); };
  Timing t = measure(1.0, decode);
  table.row("S decode, batch 1, 256 tokens, f32 weights", 256 / t.median, "tok/s", t);
  model.use_compact_weights(true);
  t = measure(1.0, decode);
  table.row("S decode, batch 1, 256 tokens, bf16 weights", 256 / t.median, "tok/s", t);
}

void bench_attention(Table& table) {
  const int64_t length = 8192, heads = 6, dim = 48;
  Random random(1, Purpose::test);
  Tensor qkv = Tensor::empty({1, length, 3 * heads, dim});
  for (int64_t i = 0; i < qkv.numel(); ++i) qkv.data<float>()[i] = static_cast<float>(random.normal());
  release_cached_memory();
  reset_peak_memory();
  const Timing t = measure(1.0, [&] {
    const Var leaf = Var::leaf(qkv);
    backward(sum(attention_packed(leaf, heads, heads)));
  });
  table.row("attention forward+backward, T 8192, 6 x 48", static_cast<double>(length) / t.median, "tok/s", t);
  const double peak = static_cast<double>(memory_stats().peak_bytes) / (1 << 20);
  std::printf("         peak memory %.0f MiB\n", peak);
  table.rows.back()["peak_mib"] = peak;
}

/// What CLEX adds to a training step: its frequencies at every t up to 16 from the neural ODE, and the gradients of its
/// weights.
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
  const auto row = [&](const char* name, const Timing& timing) { table.row(name, 1 / timing.median, "1/s", timing); };
  {
    const NoGrad no_grad;
    row("CLEX frequencies, head dim 64, t 1 to 16", measure(0.3, [&] { scaling.table(t, {.training = true}); }));
  }
  row("CLEX frequencies and gradient", measure(0.3, [&] {
        const Var theta = scaling.table(t, {.training = true}).inv_freq;  // [16,32]
        backward(theta, theta.value());
      }));
}

constexpr double kPeakFlops = 989e12;  // dense bf16 of an H100 or H200 by its datasheet

/// A row of `bench cuda`: a shape, or M at its usual batch with blocks recomputed or its samples in several forwards,
/// or X with whole masters and f32 gradients, or L with split masters.
struct TrainingRow {
  std::string name;
  ModelShape shape;
  int64_t micro_batches = 1;
  bool by_name = false;  // only if --only asks for it
  bool split = false;    // split masters, f32 gradients: 16 bytes for each parameter
};
std::vector<TrainingRow> training_rows() {
  std::vector<TrainingRow> rows;
  for (const ModelShape& s : model_shapes()) {
    rows.push_back({s.name, s});
    if (s.lean) {
      ModelShape plain = s;
      plain.lean = false;
      rows.push_back({cat(s.name, "-plain"), plain, 1, true});
    }
    if (std::string(s.name) == "L") rows.push_back({"L-split", s, 1, true, true});
    if (std::string(s.name) != "M") continue;
    ModelShape recomputed = s;
    recomputed.recompute = true;
    rows.push_back({"M-recompute", recomputed});
    rows.push_back({"M-accumulate", s, 4});
    rows.push_back({"M-both", recomputed, 4});
  }
  return rows;
}
std::string training_row_names() {
  std::string all;
  for (const TrainingRow& row : training_rows()) all += row.name + ", ";
  return all;
}

/// Training steps on the GPU in bf16 with f32 master weights: time, model FLOP utilisation, peak memory. What is
/// recomputed does not count as work of the model. A lean shape has split masters and bf16 gradients, on one GPU. With
/// `comm` each rank has the row's whole batch, and tokens of all are counted.
void bench_training(const Options& o, const TrainingRow& row, Device device, Communicator* comm) {
  const ModelShape& s = row.shape;
  check(s.batch % row.micro_batches == 0, "bench", row.name, ": ", s.batch, " samples in ", row.micro_batches);
  const int64_t batch = s.batch / row.micro_batches;
  release_cached_memory(device);
  reset_peak_memory(device);
  const bool lean = s.lean && !comm;
  CausalLm model(s.config(kVocab), DType::bf16, device, 1,
                 lean        ? ArenaMemory::lean()
                 : row.split ? ArenaMemory{.split_master = true}
                             : ArenaMemory{});
  std::optional<DataParallel> parallel;
  if (comm) parallel.emplace(*comm, model.arena());
  AdamW optimizer(model.arena(), {.weight_decay = 0.1});
  model.enable_grad();
  const int ranks = comm ? comm->size() : 1;
  const double tokens = static_cast<double>(s.batch * s.window * ranks);
  model.set_recompute(s.recompute);
  if (o.fp8) model.set_linear({.matmul = Matmul::fp8, .make_again = o.fp8_lean});
  TrainStep step(model, optimizer, !o.eager, parallel ? &*parallel : nullptr);
  const StepInput input{random_ids(batch, s.window, kVocab, 1),
                        random_ids(batch, s.window, kVocab, 2),
                        model.plain_positions(0, s.window),
                        {},
                        {},
                        batch * s.window};
  const auto enqueue = [&] {
    for (int64_t i = 0; i < row.micro_batches; ++i) step.add(input, i + 1 == row.micro_batches);
    step.update(3e-4, 1.0);
  };
  for (int i = 0; i < 2; ++i) {  // the second one is recorded, or has been
    enqueue();
    step.result();
  }
  enqueue();
  const auto one_more = [&] {
    enqueue();
    step.result();  // of the step before: the host stays ahead of the card
  };
  const Timing t = measure(o.seconds, one_more, comm);
  step.result();
  if (comm && !comm->root()) return;
  const double per_token = s.training_flops_per_token(kVocab);
  std::printf("%-12s T %6lld  B %4lld x %lld%s%s%s  %12s tok/s  MFU %5.1f %%  %9.2f ms (%.2f to %.2f)  peak %.1f GiB\n",
              row.name.c_str(), static_cast<long long>(s.window), static_cast<long long>(batch),
              static_cast<long long>(row.micro_batches), s.recompute ? " recomputed" : "           ",
              lean ? " lean" : "     ",
              !o.fp8       ? ""
              : o.fp8_lean ? " fp8-lean"
                           : " fp8",
              with_commas(std::llround(tokens / t.median)).c_str(),
              100 * per_token * tokens / t.median / kPeakFlops / ranks, t.median * 1e3, t.fastest * 1e3,
              t.slowest * 1e3, static_cast<double>(memory_stats(device).peak_bytes) / (1 << 30));
  std::fflush(stdout);
}

/// Decoding with L's weights, batch 1: the whole loop of generate(), after a prompt of 16 tokens and after long ones
/// (their keys and values are zeros: the time is the same).
void bench_decode_cuda(Device device) {
  release_cached_memory(device);
  const CausalLm model(model_shape("bench", "L").config(kVocab), DType::bf16, device, 1);
  for (const auto& [before, tokens] :
       std::vector<std::pair<int64_t, int64_t>>{{16, 256}, {16, 1024}, {8192, 256}, {32768, 256}, {131072, 256}}) {
    KvCache cache = model.make_cache(1, before + tokens);
    for (const KvCache::Layer& layer : cache.layers) layer.k.zero(), layer.v.zero();
    if (before == 16) model.extend(random_ids(1, before, kVocab, 1).to(device), cache);
    const auto decoder = Decoder::make(model, cache);
    const Timing t = measure(1.0, [&, start = before, count = tokens] {
      cache.length = start;
      int32_t id = 1;
      for (int64_t i = 0; i < count; ++i) id = decoder->greedy(id);
    });
    std::printf("decode L, bf16, batch 1, %5lld tokens after %6lld  %8.1f tok/s  (%.1f to %.1f)\n",
                static_cast<long long>(tokens), static_cast<long long>(before), static_cast<double>(tokens) / t.median,
                static_cast<double>(tokens) / t.slowest, static_cast<double>(tokens) / t.fastest);
    std::fflush(stdout);
  }
}

void run_cuda(const Options& o, const Globals& globals) {
  Globals own = globals;
  check(cuda_device_count() > 0, "bench", "there is no GPU (", cuda_device_name(), ")");
  Tape::current().set_fast_atomics(o.fast_atomics);
  const auto comm = join_ranks(own);
  const Device device = use(own);
  check(device.is_cuda(), "bench", "bench cuda runs on a GPU, not on ", device);
  if (comm) comm->use(device);
  if (!comm || comm->root()) {
    std::printf("training step on %d x %s, bf16 with f32 master weights; MFU of 989 TFLOP/s\n", comm ? comm->size() : 1,
                cuda_device_name().c_str());
  }
  for (const TrainingRow& row : training_rows()) {
    if (asked_for(o.only, row.name) && !(o.only.empty() && row.by_name)) bench_training(o, row, device, comm.get());
  }
  if (comm) return comm->close();
  if (asked_for(o.only, "decode")) bench_decode_cuda(device);
}

void run_cpu(const Options& o, const Globals& globals) {
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

}  // namespace

void add_bench(CLI::App& app, Globals& globals) {
  auto options = std::make_shared<Options>();
  auto& o = *options;
  CLI::App* sub = app.add_subcommand("bench", "Measure this machine");
  sub->require_subcommand(1);
  CLI::App* cpu =
      sub->add_subcommand("cpu", "Products, training step, forward, decoding and long attention in fp32; CLEX's ODE");
  cpu->add_option("--at-threads", o.threads, "thread counts to measure (default: --threads)")->delimiter(',');
  cpu->add_option("--only", o.only, "a part: gemm, model, decode, attention, clex (several with commas)");
  cpu->add_option("--seconds", o.seconds, "time for each row")->capture_default_str();
  cpu->add_option("--json", o.json, "also write the rows here");
  cpu->callback([options, &globals] { run_cpu(*options, globals); });
  CLI::App* cuda =
      sub->add_subcommand("cuda", "Training steps and decoding of the S, M, L and X shapes on a GPU in bf16");
  cuda->footer("Started by torchrun, mpirun or srun: data-parallel training, each rank with the shape's whole batch.");
  cuda->add_option("--only", o.only, "with commas: " + training_row_names() + "decode");
  cuda->add_flag("--eager", o.eager, "launch every kernel from the host instead of replaying a CUDA graph");
  add_fast_atomics(*cuda, o.fast_atomics);
  auto* fp8 = cuda->add_flag("--fp8", o.fp8, "the blocks' linear layers in 8-bit products, as train --matmul fp8");
  cuda->add_flag("--fp8-lean", o.fp8_lean, "as train --fp8-lean")->needs(fp8);
  cuda->add_option("--seconds", o.seconds, "time for each row")->capture_default_str();
  cuda->callback([options, &globals] { run_cuda(*options, globals); });
  add_bench_ops(*sub, globals);
  add_bench_window(*sub, globals);
}
