// `ropewalk bench`: its verbs, and `bench cuda`: training steps and decoding on a GPU.
#include "bench.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>

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

constexpr double kPeakFlops = 989e12;  // dense bf16 of an H100 or H200 by its datasheet

/// A row of `bench cuda`: a shape, or M at its usual batch with blocks recomputed or its samples in several forwards,
/// or X with whole masters and f32 gradients, or L with split masters, or another family of M's size.
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
    if (s.small_state) {
      ModelShape plain = s;
      plain.small_state = false;
      rows.push_back({.name = cat(s.name, "-plain"), .shape = plain, .by_name = true});
    }
    if (std::string(s.name) == "L") rows.push_back({.name = "L-split", .shape = s, .by_name = true, .split = true});
    if (std::string(s.name) != "M") continue;
    ModelShape recomputed = s;
    recomputed.recompute = true;
    rows.push_back({"M-recompute", recomputed});
    rows.push_back({"M-accumulate", s, 4});
    rows.push_back({"M-both", recomputed, 4});
    for (const char* family : {"qwen3", "gpt_neox"}) {
      ModelShape other = s;
      other.family = family;
      rows.push_back({.name = cat("M-", family), .shape = other, .by_name = true});
    }
  }
  return rows;
}
std::string training_row_names() {
  std::string all;
  for (const TrainingRow& row : training_rows()) all += row.name + ", ";
  return all;
}

/// Training steps on the GPU in bf16 with f32 master weights: time, model FLOP utilisation, peak memory. What is
/// recomputed does not count as work of the model. A shape with a small state has split masters and bf16 gradients, on
/// one GPU. With `comm` each rank has the row's whole batch, and tokens of all are counted.
void bench_training(const BenchOptions& o, const TrainingRow& row, Device device, Communicator* comm) {
  const ModelShape& s = row.shape;
  check(s.batch % row.micro_batches == 0, "bench", row.name, ": ", s.batch, " samples in ", row.micro_batches);
  const int64_t batch = s.batch / row.micro_batches;
  release_cached_memory(device);
  reset_peak_memory(device);
  const bool small_state = s.small_state && !comm;
  CausalLm model(s.config(kVocab), DType::bf16, device, 1,
                 small_state ? ArenaMemory::small_state()
                 : row.split ? ArenaMemory{.split_master = true}
                             : ArenaMemory{});
  std::optional<DataParallel> parallel;
  if (comm) parallel.emplace(*comm, model.arena());
  AdamW optimizer(model.arena(), {.weight_decay = 0.1});
  model.enable_grad();
  const int ranks = comm ? comm->size() : 1;
  const double tokens = static_cast<double>(s.batch * s.window * ranks);
  model.set_recompute(s.recompute);
  if (o.fp8) model.set_linear({.matmul = Matmul::fp8, .recompute_input = o.fp8_recompute});
  TrainStep step(model, optimizer, !o.eager, parallel ? &*parallel : nullptr);
  const StepInput input{.ids = random_ids(batch, s.window, kVocab, 1),
                        .targets = random_ids(batch, s.window, kVocab, 2),
                        .positions = model.plain_positions(0, s.window),
                        .scored = batch * s.window};
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
  const BenchTiming t = measure(o.seconds, one_more, comm);
  step.result();
  if (comm && !comm->root()) return;
  const double per_token = s.training_flops_per_token(kVocab);
  std::printf("%-12s T %6lld  B %4lld x %lld%s%s%s  %12s tok/s  MFU %5.1f %%  %9.2f ms (%.2f to %.2f)  peak %.1f GiB\n",
              row.name.c_str(), static_cast<long long>(s.window), static_cast<long long>(batch),
              static_cast<long long>(row.micro_batches), s.recompute ? " recomputed" : "           ",
              small_state ? " small state" : "            ",
              !o.fp8            ? ""
              : o.fp8_recompute ? " fp8-recompute"
                                : " fp8",
              with_commas(std::llround(tokens / t.median)).c_str(),
              100 * per_token * tokens / t.median / kPeakFlops / ranks, t.median * 1e3, t.fastest * 1e3,
              t.slowest * 1e3, static_cast<double>(memory_stats(device).peak_bytes) / (1 << 30));
  std::fflush(stdout);
}

void print_decode(const std::string& what, int64_t texts, int64_t tokens, int64_t before, const BenchTiming& t) {
  const double all = static_cast<double>(texts * tokens);
  std::printf("decode L, %s, batch %lld, %5lld tokens after %6lld  %8.1f tok/s  (%.1f to %.1f)\n", what.c_str(),
              static_cast<long long>(texts), static_cast<long long>(tokens), static_cast<long long>(before),
              all / t.median, all / t.slowest, all / t.fastest);
  std::fflush(stdout);
}

/// Batch 1: the whole loop of generate(), after a prompt of 16 tokens and after long ones (their keys and values are
/// zeros: the time is the same).
void bench_decode_one(const CausalLm& model, const std::string& what) {
  for (const auto& [before, tokens] :
       std::vector<std::pair<int64_t, int64_t>>{{16, 256}, {16, 1024}, {8192, 256}, {32768, 256}, {131072, 256}}) {
    KvCache cache = model.make_cache(1, before + tokens);
    for (const KvCache::Layer& layer : cache.layers) layer.k.zero(), layer.v.zero();
    if (before == 16) model.extend(random_ids(1, before, kVocab, 1).to(model.device()), cache);
    const auto decoder = Decoder::make(model, cache);
    const BenchTiming t = measure(1.0, [&, start = before, count = tokens] {
      cache.length = start;
      int32_t id = 1;
      for (int64_t i = 0; i < count; ++i) id = decoder->greedy(id);
    });
    print_decode(what, 1, tokens, before, t);
  }
}

/// The most texts that are decoded together.
void bench_decode_together(const CausalLm& model, const std::string& what) {
  constexpr int64_t kTokens = 64;
  for (const int64_t before : {16, 8192}) {
    std::vector<KvCache> caches;
    std::vector<BatchDecoder::Next> next;
    for (int64_t i = 0; i < BatchDecoder::kMost; ++i) {
      caches.push_back(model.make_cache(1, before + kTokens));
      for (const KvCache::Layer& layer : caches.back().layers) layer.k.zero(), layer.v.zero();
      next.push_back({.text = i, .id = 1});
    }
    const auto decoder = BatchDecoder::make(model, caches);
    const BenchTiming t = measure(1.0, [&] {
      for (KvCache& cache : caches) cache.length = before;
      for (int64_t i = 0; i < kTokens; ++i) decoder->greedy(next);
    });
    print_decode(what, BatchDecoder::kMost, kTokens, before, t);
  }
}

/// Decoding with L's weights.
void bench_decode_cuda(Device device) {
  release_cached_memory(device);
  CausalLm model(model_shape("bench", "L").config(kVocab), DType::bf16, device, 1);
  bench_decode_one(model, "bf16");
  bench_decode_together(model, "bf16");
  use_int8_weights(model);
  bench_decode_one(model, "int8 weights");
}

void run_cuda(const BenchOptions& o, const Globals& globals) {
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

}  // namespace

void add_bench(CLI::App& app, Globals& globals) {
  auto options = std::make_shared<BenchOptions>();
  auto& o = *options;
  CLI::App* sub = app.add_subcommand("bench", "Measure this machine");
  sub->require_subcommand(1);
  CLI::App* cpu =
      sub->add_subcommand("cpu", "Products, training step, forward, decoding and long attention in fp32; CLEX's ODE");
  cpu->add_option("--at-threads", o.threads, "thread counts to measure (default: --threads)")->delimiter(',');
  cpu->add_option("--only", o.only, "a part: gemm, model, decode, attention, clex (several with commas)");
  cpu->add_option("--seconds", o.seconds, "time for each row")->capture_default_str();
  cpu->add_option("--json", o.json, "also write the rows here");
  cpu->callback([options, &globals] { bench_cpu(*options, globals); });
  CLI::App* cuda =
      sub->add_subcommand("cuda", "Training steps and decoding of the S, M, L and X shapes on a GPU in bf16");
  cuda->footer("Started by torchrun, mpirun or srun: data-parallel training, each rank with the shape's whole batch.");
  cuda->add_option("--only", o.only, "with commas: " + training_row_names() + "decode");
  cuda->add_flag("--eager", o.eager, "launch every kernel from the host instead of replaying a CUDA graph");
  add_fast_atomics(*cuda, o.fast_atomics);
  auto* fp8 = cuda->add_flag("--fp8", o.fp8, "the blocks' linear layers in 8-bit products, as train --matmul fp8");
  cuda->add_flag("--fp8-recompute,--fp8-lean", o.fp8_recompute, "as train --fp8-recompute")->needs(fp8);
  cuda->add_option("--seconds", o.seconds, "time for each row")->capture_default_str();
  cuda->callback([options, &globals] { run_cuda(*options, globals); });
  add_bench_ops(*sub, globals);
  add_bench_window(*sub, globals);
}
