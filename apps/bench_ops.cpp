// `ropewalk bench ops`: each op of the library on the GPU against the card's own ceilings.
//
// Rows carry the names, shapes and byte counts of the PyTorch script that docs/kernels-log.md compares with: GB/s is
// ideal bytes (each input read once, each output written once) over time, TFLOP/s the FLOPs of the formula over time.
#include "bench_ops.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "autograd/ops/cuda_ops.h"
#include "autograd/tape.h"
#include "common.h"
#include "result_file.h"
#include "tensor/cuda.h"
#include "tensor/file.h"
#include "tensor/random.h"

using namespace rw;

OpsBench::OpsBench(const OpsOptions& options, Device device)
    : options_(options),
      device_(device),
      flush_(Tensor::full({int64_t{128} << 20}, 1.0, DType::f32, device)),  // 512 MiB: ten times the L2 of an H200
      sink_(Tensor::empty({1}, DType::f32, device)) {}

Tensor OpsBench::random(Shape shape, DType dtype, uint64_t seed) {
  constexpr int64_t kBlock = int64_t{1} << 20;
  Tensor& block = blocks_[dtype == DType::bf16];
  if (!block.defined()) {
    Random draw(1, Purpose::test);
    std::vector<float> values(kBlock);
    for (float& v : values) v = static_cast<float>(draw.normal());
    block = Tensor::from(values).to(dtype).to(device_);
  }
  const int64_t n = shape.numel();
  const Tensor flat = Tensor::empty({n}, dtype, device_);
  int64_t at = static_cast<int64_t>(seed) * 104729 % kBlock;
  for (int64_t done = 0; done < n; at = 0) {
    const int64_t count = std::min(kBlock - at, n - done);
    flat.slice(done, done + count).copy_from(block.slice(at, at + count));
    done += count;
  }
  return flat.view(shape);
}

Tensor OpsBench::random_ids(int64_t n, int64_t bound) const {
  Random draw(2, Purpose::test);
  std::vector<int32_t> ids(static_cast<size_t>(n));
  for (int32_t& id : ids) id = static_cast<int32_t>(draw.below(bound));
  return Tensor::from(ids).to(device_);
}

Times OpsBench::time(const std::function<void()>& work, const std::function<void()>& prepare) const {
  // The flush reads: written lines would have to go back to memory while the timed work runs. It also takes longer than
  // the host needs to queue the work, so that no gap between launches is timed.
  const auto once = [&](cuda::Event& start, cuda::Event& stop) {
    if (prepare) prepare();
    cuda::sum_all(flush_, 1.0, sink_);
    start.record();
    work();
    stop.record();
  };
  std::vector<cuda::Event> first(2);
  for (int i = 0; i < 3; ++i) once(first[0], first[1]);
  const double estimate = first[1].milliseconds_since(first[0]) * 1e-3 + 150e-6;
  const int runs = static_cast<int>(std::clamp(options_.seconds / estimate, 7.0, 100.0));
  std::vector<cuda::Event> events(2 * static_cast<size_t>(runs));
  for (size_t i = 0; i < events.size(); i += 2) once(events[i], events[i + 1]);
  std::vector<double> times;
  for (size_t i = 0; i < events.size(); i += 2) times.push_back(events[i + 1].milliseconds_since(events[i]) * 1e-3);
  std::sort(times.begin(), times.end());
  const auto at = [&](double share) { return times[static_cast<size_t>(share * static_cast<double>(runs - 1) + 0.5)]; };
  return {at(0.2), at(0.5), at(0.8)};
}

void OpsBench::heading(const std::string& text) const {
  std::printf("\n%s\n%-52s %10s %19s %8s %8s %14s\n", text.c_str(), "what", "ms", "(p20 to p80)", "GB/s", "TFLOP/s",
              "of ceiling");
}

void OpsBench::row(const std::string& section, const std::string& name, const Times& t, double bytes, double flops,
                   Ceiling ceiling, double peak_bytes) {
  const double rate = ceiling == Ceiling::copy ? bytes / t.median : flops / t.median;
  const double top = ceiling == Ceiling::copy ? copy_rate_ : gemm_rate_;
  const auto number = [](double x, const char* format) {
    char text[32];
    std::snprintf(text, sizeof text, format, x);
    return x > 0 ? std::string(text) : std::string("-");
  };
  std::string percent = "-";
  if (top > 0 && rate > 0) {
    percent = number(100 * rate / top, "%.1f %%") + (ceiling == Ceiling::copy ? " copy" : " gemm");
  }
  std::printf("%-52s %10.4f %8.4f to %7.4f %8s %8s %14s", name.c_str(), t.median * 1e3, t.p20 * 1e3, t.p80 * 1e3,
              number(bytes / t.median * 1e-9, "%.0f").c_str(), number(flops / t.median * 1e-12, "%.1f").c_str(),
              percent.c_str());
  if (peak_bytes > 0) std::printf("  peak %.2f GiB", peak_bytes / (1 << 30));
  std::printf("\n");
  std::fflush(stdout);
  nlohmann::json j = {{"sec", section},        {"name", name},   {"ms", t.median * 1e3}, {"p20_ms", t.p20 * 1e3},
                      {"p80_ms", t.p80 * 1e3}, {"bytes", bytes}, {"flops", flops}};
  if (bytes > 0) j["gbs"] = bytes / t.median * 1e-9;
  if (flops > 0) j["tflops"] = flops / t.median * 1e-12;
  if (top > 0 && rate > 0) j[ceiling == Ceiling::copy ? "pct_copy" : "pct_gemm"] = 100 * rate / top;
  if (peak_bytes > 0) j["peak_gib"] = peak_bytes / (1 << 30);
  rows_.push_back(std::move(j));
}

nlohmann::json OpsBench::report() const {
  return {{"meta",
           {{"device", cuda_device_name(device_.index)},
            {"copy_gbs", copy_rate_ * 1e-9},
            {"gemm_tflops", gemm_rate_ * 1e-12},
            {"l2", "cold"},
            {"note", "median, p20 and p80 of device events; GB/s = ideal bytes / time"}}},
          {"rows", rows_}};
}

namespace {

void run(const OpsOptions& o, const Globals& globals) {
  check_result_file("bench", o.json, "what this verb writes", [](const std::string& path) {
    return read_file(path, limits::evaluation).find("\"copy_gbs\"") != std::string::npos;
  });
  const Device device = use(globals);
  check(device.is_cuda(), "bench", "there is no GPU (", cuda_device_name(), ")");
  Tape::current().set_fast_atomics(o.fast_atomics);
  OpsBench b(o, device);
  std::printf("%s; cold L2, medians of device events\n", cuda_device_name(device.index).c_str());
  const std::pair<const char*, void (*)(OpsBench&)> sections[] = {
      {"gemm", bench_gemm_shapes}, {"fp8", bench_fp8},
      {"fused", bench_fused},      {"ops", bench_memory_ops},
      {"blocks", bench_block_ops}, {"ce", bench_losses},
      {"adamw", bench_optimizer},  {"attention", bench_attention_shapes},
      {"decode", bench_decoding}};
  bench_rooflines(b);
  for (const auto& [name, section] : sections) {
    if (!asked_for(o.only, name)) continue;
    section(b);
    release_cached_memory(device);
  }
  if (!o.json.empty()) write_file_atomic(o.json, b.report().dump(1) + "\n");
}

}  // namespace

void add_bench_ops(CLI::App& bench, Globals& globals) {
  auto options = std::make_shared<OpsOptions>();
  auto& o = *options;
  CLI::App* sub =
      bench.add_subcommand("ops", "Each op on the GPU: time, GB/s, TFLOP/s and share of the card's ceiling");
  sub->footer(
      "First the ceilings (copy, GEMM 8192 cubed), then every op, forward and backward, in bf16 with a cold L2.\n"
      "GB/s counts each input read once and each output written once.\n\n"
      "  ropewalk bench ops --json ops.json\n"
      "  ropewalk bench ops --only ops,attention --heads 12x64 --lengths 1024,8192 --gemm 4096x4096x4096");
  const auto list = [&](const char* name, auto& to, const char* help) {
    sub->add_option(name, to, help)->delimiter(',')->capture_default_str();
  };
  sub->add_option("--only", o.only, "parts, with commas: gemm, fp8, fused, ops, blocks, ce, adamw, attention, decode");
  sub->add_option("--tokens", o.tokens, "rows of the memory-bound ops")->capture_default_str();
  list("--hidden", o.hidden, "widths of RMSNorm");
  list("--heads", o.heads, "HEADSxHEADDIM of RoPE and attention");
  list("--ffn", o.ffn, "widths of SwiGLU");
  list("--lengths", o.lengths, "lengths of attention");
  list("--ce-tokens", o.ce_tokens, "rows of cross-entropy");
  list("--gemm", o.gemm, "MxNxK products instead of those of the S, M and L models");
  sub->add_option("--vocab", o.vocab, "vocabulary of the losses and the embedding")->capture_default_str();
  add_fast_atomics(*sub, o.fast_atomics);
  sub->add_option("--seconds", o.seconds, "timed calls of a row")->capture_default_str();
  sub->add_option("--json", o.json, "also write the rows here");
  sub->callback([options, &globals] { run(*options, globals); });
}
