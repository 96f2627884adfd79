// `ropewalk profile`: one training step, kernel by kernel (on the CPU op by op).
#include <algorithm>
#include <cstdio>

#include "autograd/tape.h"
#include "common.h"
#include "eval/profile_report.h"
#include "model_shapes.h"
#include "nn/adamw.h"
#include "tensor/cuda.h"
#include "tensor/file.h"
#include "tensor/gemm.h"
#include "tensor/printable.h"

using namespace rw;

namespace {

struct Options {
  std::string shape, out, dtype = "auto";
  int64_t hidden = 0, layers = 0, heads = 0, kv_heads = 0, ffn = 0, vocab = 32000, window = 0, batch = 0;
  int warmup = 3, steps = 5, rows = 40;
  bool recompute = false, small_state = false, fp8 = false, untied = false, fast_atomics = false;
  double peak_tflops = 989, copy_gbs = 0, gemm_tflops = 0;
};

ModelShape shape_of(const Options& o, Device device) {
  const std::string name = o.shape.empty() ? (device.is_cuda() ? "M" : "S") : o.shape;
  ModelShape p = model_shape("profile", name);
  if (!device.is_cuda()) p.batch = 2;
  const auto replace = [](int64_t& to, int64_t with) {
    if (with > 0) to = with;
  };
  if (o.heads > 0 && o.kv_heads == 0) p.kv_heads = o.heads;
  replace(p.hidden, o.hidden);
  replace(p.layers, o.layers);
  replace(p.heads, o.heads);
  replace(p.kv_heads, o.kv_heads);
  replace(p.ffn, o.ffn);
  replace(p.window, o.window);
  replace(p.batch, o.batch);
  p.tied = p.tied && !o.untied;
  p.recompute = p.recompute || o.recompute;
  p.small_state = o.small_state;
  return p;
}

/// Median seconds of five calls on the compute stream.
double device_seconds(const std::function<void()>& call) {
  std::vector<double> times;
  for (int i = 0; i < 7; ++i) {
    cuda::Event start, stop;
    start.record();
    call();
    stop.record();
    if (i >= 2) times.push_back(stop.milliseconds_since(start) * 1e-3);
  }
  std::sort(times.begin(), times.end());
  return times[2];
}

/// The card's own copy and matrix product, unless they are given.
void set_ceilings(ProfileSubject& s, const Options& o, Device device) {
  s.bytes_per_second = o.copy_gbs * 1e9;
  s.flops_per_second = o.gemm_tflops * 1e12;
  s.ceilings = "stated";
  if (!device.is_cuda()) return;
  if (s.bytes_per_second <= 0) {
    const Tensor from = Tensor::full({int64_t{1} << 28}, 1.0, DType::f32, device), to = Tensor::empty_like(from);
    s.bytes_per_second = 2.0 * static_cast<double>(from.bytes()) / device_seconds([&] { to.copy_from(from); });
    s.ceilings = "measured: copy of 1 GiB, bf16 GEMM 8192 cubed";
  }
  if (s.flops_per_second <= 0) {
    const int64_t n = 8192;
    // Random bits of mixed sign, repeated: zeros or ones would run faster than real data.
    Random random(1, Purpose::test);
    std::vector<float> values(static_cast<size_t>(n));
    const Tensor a = Tensor::empty({n, n}, DType::bf16, device), b = Tensor::empty({n, n}, DType::bf16, device);
    for (int64_t row = 0; row < n; row += 1024) {
      for (float& v : values) v = static_cast<float>(random.normal());
      const Tensor line = Tensor::from(values, {1, n}).to(DType::bf16).to(device);
      for (int64_t i = row; i < row + 1024; ++i) {
        a.slice(i, i + 1).copy_from(line);
        b.slice(i, i + 1).copy_from(line);
      }
    }
    const Tensor c = Tensor::empty({n, n}, DType::bf16, device);
    const double seconds = device_seconds([&] { gemm(a, transposed(b), c); });
    s.flops_per_second = 2.0 * static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n) / seconds;
    s.ceilings = "measured: copy of 1 GiB, bf16 GEMM 8192 cubed";
  }
  release_cached_memory(device);
}

/// Model, optimizer and one batch; eager, without a CUDA graph.
class Step {
 public:
  Step(const Options& o, const ModelShape& p, DType dtype, Device device)
      : device_(device),
        model_(p.config(o.vocab), dtype, device, 1, p.small_state ? ArenaMemory::small_state() : ArenaMemory{}),
        optimizer_(model_.arena(), {.weight_decay = 0.1}) {
    model_.enable_grad();
    model_.set_recompute(p.recompute);
    if (o.fp8) model_.set_linear({.matmul = Matmul::fp8});
    ids_ = random_ids(p.batch, p.window, o.vocab, 1).to(device);
    targets_ = random_ids(p.batch, p.window, o.vocab, 2).to(device);
    positions_ = model_.plain_positions(0, p.window);
    tokens_ = static_cast<double>(p.batch * p.window);
    flops_ = tokens_ * p.training_flops_per_token(o.vocab);
  }

  void run() {
    Var loss;
    {
      const ProfileRange phase("forward");
      const MemoryTag tag("activations");
      const RopeAngles angles = model_.angles(positions_, {});
      profile_lap("rope_angles");
      loss = model_.loss(ids_, targets_, angles);
    }
    {
      const ProfileRange phase("backward");
      const MemoryTag tag("backward");
      backward(loss);
    }
    const ProfileRange phase("optimizer");
    const MemoryTag tag("optimizer");
    optimizer_.step(3e-4, 1 / tokens_, 1.0);
    profile_lap("adamw");
  }
  double timed_run() {
    const double start = now();
    run();
    if (device_.is_cuda()) cuda::synchronize();
    return now() - start;
  }
  double tokens() const { return tokens_; }
  double flops() const { return flops_; }

 private:
  Device device_;
  CausalLm model_;
  AdamW optimizer_;
  Tensor ids_, targets_, positions_;
  double tokens_ = 0, flops_ = 0;
};

void run(const Options& o, const Globals& globals) {
  const Device device = use(globals);
  Tape::current().set_fast_atomics(o.fast_atomics);
  const ModelShape p = shape_of(o, device);
  const DType dtype = o.dtype == "bf16" || (o.dtype == "auto" && device.is_cuda()) ? DType::bf16 : DType::f32;
  ProfileSubject s;
  s.title = cat("Training step of ", p.layers, " x ", p.hidden, ", T ", p.window, ", batch ", p.batch, ", ",
                name_of(dtype), p.recompute ? ", recomputing" : "");
  s.device = device.is_cuda() ? cuda_device_name(device.index) : "the CPU";
  set_ceilings(s, o, device);

  Step step(o, p, dtype, device);
  std::vector<double> times;
  for (int i = 0; i < o.warmup; ++i) step.timed_run();
  for (int i = 0; i < o.steps; ++i) times.push_back(step.timed_run());
  std::sort(times.begin(), times.end());
  if (!times.empty()) s.step_seconds = times[times.size() / 2];
  s.tokens = step.tokens();
  s.model_flops = step.flops();
  s.peak_flops = device.is_cuda() ? o.peak_tflops * 1e12 : 0;

  reset_peak_memory(device);
  start_profile();
  step.run();
  s.profile = stop_profile();
  const MemoryStats memory = memory_stats(device);
  s.peak_bytes = memory.peak_bytes;
  s.memory = memory.tags_at_peak;

  std::fputs(profile_text(s, static_cast<size_t>(o.rows)).c_str(), stdout);
  if (o.out.empty()) return;
  make_folder("profile", o.out);
  write_file_atomic(o.out + "/kernels.csv", profile_csv(s));
  write_file_atomic(o.out + "/records.csv", profile_records_csv(s.profile));
  write_file_atomic(o.out + "/timeline.html", profile_html(s));
  std::fprintf(stderr, "wrote kernels.csv, records.csv and timeline.html to %s\n", printable(o.out).c_str());
}

}  // namespace

void add_profile(CLI::App& app, Globals& globals) {
  auto options = std::make_shared<Options>();
  auto& o = *options;
  CLI::App* sub = app.add_subcommand("profile", "One training step, kernel by kernel: time, bytes, FLOPs, roofline");
  sub->footer(
      "Runs eager steps on random tokens: a few to warm up, a few timed, one profiled. Every launch is timed by a "
      "pair\n"
      "of events, which cost about a microsecond each: compare shares, and take the step's time from the timed steps.\n"
      "On the CPU ops are timed by the clock.\n\n"
      "  ropewalk profile --model-shape M --out profile-m\n"
      "  ropewalk profile --hidden 512 --layers 8 --heads 8 --ffn 1408 --window 2048 --batch 8");
  sub->add_option("--model-shape", o.shape, model_shape_names() + " (default: M on a GPU, S on the CPU)");
  sub->add_option("--hidden", o.hidden, "instead of the shape's: hidden size");
  sub->add_option("--layers", o.layers, "blocks");
  sub->add_option("--heads", o.heads, "attention heads");
  sub->add_option("--kv-heads", o.kv_heads, "key/value heads");
  sub->add_option("--ffn", o.ffn, "feed-forward size");
  sub->add_option("--vocab", o.vocab, "vocabulary")->capture_default_str();
  sub->add_option("--window", o.window, "tokens of a sample");
  sub->add_option("--batch", o.batch, "samples");
  sub->add_flag("--untied", o.untied, "an output head of its own");
  sub->add_flag("--recompute", o.recompute, "recompute each block in backward");
  sub->add_flag("--fp8", o.fp8, "the blocks' linear layers in 8-bit products, as train --matmul fp8");
  sub->add_flag("--small-state,--lean", o.small_state, "bf16: split master weights and bf16 gradients");
  add_fast_atomics(*sub, o.fast_atomics);
  sub->add_option("--dtype", o.dtype, "f32, bf16 or auto (bf16 on a GPU)")
      ->check(CLI::IsMember({"auto", "f32", "bf16"}))
      ->capture_default_str();
  sub->add_option("--warmup", o.warmup, "steps before anything is timed")->capture_default_str();
  sub->add_option("--steps", o.steps, "steps timed without profiling")->capture_default_str();
  sub->add_option("--rows", o.rows, "rows of the table")->capture_default_str();
  sub->add_option("--peak-tflops", o.peak_tflops, "what MFU is a share of (989: dense bf16 of an H100 or H200)")
      ->capture_default_str();
  sub->add_option("--copy-gbs", o.copy_gbs, "roofline: memory bandwidth (0: measure)")->capture_default_str();
  sub->add_option("--gemm-tflops", o.gemm_tflops, "roofline: arithmetic (0: measure)")->capture_default_str();
  sub->add_option("--out", o.out, "folder for kernels.csv, records.csv and timeline.html");
  sub->callback([options, &globals] { run(*options, globals); });
}
