// How close each memory-bound kernel comes to the card's own copy. Runs only when ROPEWALK_BENCH is set;
// docs/kernels-log.md keeps what was measured. Every array is larger than L2 or rotates through more than 200 MB, times
// are medians of 30.
#include <algorithm>
#include <cstdlib>
#include <memory>

#include "autograd/ops/cuda_ops.h"
#include "gpu.h"
#include "nn/cuda_optim.h"
#include "tensor/cuda.h"
#include "tensor/gemm.h"
#include "tensor/random.h"

using namespace rw;
using test::kGpu;

namespace {

constexpr int kRuns = 30;

/// Median seconds of one call; `call` gets the number of the run, to rotate buffers by.
double median_seconds(const std::function<void(int)>& call, int calls_per_run = 1) {
  for (int i = 0; i < 3; ++i) call(i);
  std::vector<std::unique_ptr<cuda::Event>> events;
  for (int i = 0; i <= kRuns; ++i) events.push_back(std::make_unique<cuda::Event>());
  events[0]->record();
  for (int i = 0; i < kRuns; ++i) {
    for (int j = 0; j < calls_per_run; ++j) call(i * calls_per_run + j);
    events[static_cast<size_t>(i) + 1]->record();
  }
  std::vector<double> times;
  for (size_t i = 0; i < kRuns; ++i)
    times.push_back(events[i + 1]->milliseconds_since(*events[i]) * 1e-3 / calls_per_run);
  std::sort(times.begin(), times.end());
  return times[kRuns / 2];
}

double copy_speed = 0;  // bytes per second

void report(const char* name, double bytes, double seconds) {
  std::printf("| %-46s | %9.1f | %9.1f | %6.0f | %5.1f %% |\n", name, seconds * 1e6, bytes / copy_speed * 1e6,
              bytes / seconds * 1e-9, 100 * bytes / seconds / copy_speed);
}

Tensor random_on_gpu(Shape shape, DType dtype, uint64_t seed) {
  // A million values repeated: random enough for power and caches, and quick to make.
  const int64_t n = shape.numel(), block = std::min<int64_t>(n, 1 << 20);
  const Tensor part = test::randn({block}, seed, dtype).to(kGpu), t = Tensor::empty({n}, dtype, kGpu);
  for (int64_t i = 0; i < n; i += block) {
    const int64_t count = std::min(block, n - i);
    t.slice(i, i + count).copy_from(part.slice(0, count));
  }
  return t.view(shape);
}

Tensor random_ids(int64_t n, int64_t bound) {
  Random random(1, Purpose::test);
  std::vector<int32_t> ids(static_cast<size_t>(n));
  for (int32_t& id : ids) id = static_cast<int32_t>(random.below(bound));
  return Tensor::from(ids).to(kGpu);
}

}  // namespace

TEST_CASE("bench: memory-bound kernels against the card's copy") {
  if (!std::getenv("ROPEWALK_BENCH") || !test::has_gpu()) return;
  const DType half = DType::bf16;
  {
    const Tensor a = random_on_gpu({int64_t{1} << 30}, half, 1), b = Tensor::empty_like(a);
    const double s = median_seconds([&](int) { b.copy_from(a); });
    copy_speed = 2.0 * static_cast<double>(a.bytes()) / s;
    std::printf("%s: copy of 2 GiB, read and write: %.0f GB/s\n\n", cuda_device_name().c_str(), copy_speed * 1e-9);
  }
  std::printf("| %-46s | %9s | %9s | %6s | %7s |\n|---|---|---|---|---|\n", "kernel", "time us", "floor us", "GB/s",
              "of copy");
  const int64_t tokens = 65536;
  for (const int64_t megabytes :
       {96, 256}) {  // short kernels pay for their start and end: the copy of the same size is their ceiling
    const Tensor a = random_on_gpu({megabytes << 19}, half, 1), b = Tensor::empty_like(a);
    report(cat("copy of ", megabytes, " MiB").c_str(), 2.0 * static_cast<double>(a.bytes()),
           median_seconds([&](int) { b.copy_from(a); }));
  }
  for (const int64_t d : {768, 2048, 4096}) {
    const Tensor x = random_on_gpu({tokens, d}, half, 1), r = random_on_gpu({tokens, d}, half, 2),
                 w = random_on_gpu({d}, half, 3);
    const Tensor h = Tensor::empty_like(x), y = Tensor::empty_like(x), rstd = Tensor::empty({tokens}, DType::f32, kGpu);
    const Tensor dw = Tensor::zeros({d}, DType::f32, kGpu);
    const double n = static_cast<double>(x.bytes());
    report(cat("rms_norm forward, d ", d).c_str(), 2 * n,
           median_seconds([&](int) { cuda::rms_norm_forward(x, Tensor(), w, 1e-5, 0, Tensor(), y, rstd); }));
    report(cat("rms_norm backward, d ", d).c_str(), 3 * n,
           median_seconds([&](int) { cuda::rms_norm_backward(x, w, 0, rstd, y, Tensor(), h, dw, true); }));
    report(cat("residual_rms_norm forward, d ", d).c_str(), 4 * n,
           median_seconds([&](int) { cuda::rms_norm_forward(x, r, w, 1e-5, 0, h, y, rstd); }));
    report(cat("residual_rms_norm backward, d ", d).c_str(), 4 * n,
           median_seconds([&](int) { cuda::rms_norm_backward(x, w, 0, rstd, y, r, h, dw, true); }));
    if (d != 2048) continue;
    report("add", 3 * n, median_seconds([&](int) { cuda::binary(cuda::Binary::add, x, r, y); }));
    report("column_sums 65536 x 2048", n, median_seconds([&](int) { cuda::column_sums(x, dw, true); }));
    const Tensor wide = Tensor::zeros({tokens, d}, DType::f32, kGpu);
    report("accumulate bf16 into f32", 5 * n,
           median_seconds([&](int) { cuda::accumulate(wide.raw(), DType::f32, x.raw(), half, x.numel()); }));
    report("convert f32 to bf16", 3 * n,
           median_seconds([&](int) { cuda::convert(y.raw(), half, wide.raw(), DType::f32, x.numel()); }));
  }
  for (const auto& [heads, dim] : std::vector<std::pair<int64_t, int64_t>>{{12, 64}, {32, 64}, {16, 128}}) {
    const int64_t batch = 16, length = 4096;
    const Tensor x = random_on_gpu({batch, length, heads, dim}, half, 1), y = Tensor::empty_like(x),
                 dy = random_on_gpu(x.shape(), half, 2);
    const Tensor positions = Tensor::empty({batch, length}), freq = Tensor::empty({dim / 2}, DType::f64);
    for (int64_t i = 0; i < positions.numel(); ++i) positions.data<float>()[i] = static_cast<float>(3 * (i % length));
    for (int64_t i = 0; i < dim / 2; ++i)
      freq.data<double>()[i] = std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
    const Tensor p = positions.to(kGpu), f = freq.to(kGpu), d = Tensor::zeros({dim / 2}, DType::f32, kGpu);
    const Tensor cos = Tensor::empty({batch, length, dim / 2}, DType::f32, kGpu), sin = Tensor::empty_like(cos);
    const double n = static_cast<double>(x.bytes());
    const std::string shape = cat(", H ", heads, ", D ", dim);
    report(("rope_tables" + shape).c_str(), 2.0 * static_cast<double>(cos.bytes()),
           median_seconds([&](int) { cuda::rope_tables(p, f, cos, sin); }));
    report(("rope forward" + shape).c_str(), 2 * n,
           median_seconds([&](int) { cuda::rope_apply(x, cos, sin, 1, RopeLayout::half, heads, 1, y); }));
    report(("rope in place" + shape).c_str(), 2 * n,
           median_seconds([&](int) { cuda::rope_apply(y, cos, sin, 1, RopeLayout::half, heads, -1, y); }));
    report(("rope interleaved" + shape).c_str(), 2 * n,
           median_seconds([&](int) { cuda::rope_apply(x, cos, sin, 1, RopeLayout::interleaved, heads, 1, y); }));
    report(("rope_inv_freq_backward" + shape).c_str(), 2 * n,
           median_seconds([&](int) { cuda::rope_inv_freq_backward(y, dy, p, RopeLayout::half, heads, d); }));
  }
  for (const int64_t ffn : {2048, 5632}) {
    const Tensor gate_up = random_on_gpu({tokens, 2 * ffn}, half, 1), y = random_on_gpu({tokens, ffn}, half, 2),
                 d = Tensor::empty_like(gate_up);
    const double n = static_cast<double>(y.bytes());
    report(cat("swiglu_packed forward, F ", ffn).c_str(), 3 * n,
           median_seconds([&](int) { cuda::swiglu_packed_forward(gate_up, y); }));
    report(cat("swiglu_packed backward, F ", ffn).c_str(), 5 * n,
           median_seconds([&](int) { cuda::swiglu_packed_backward(gate_up, y, d); }));
  }
  for (const auto& [dtype, rows] : std::vector<std::pair<DType, int64_t>>{{half, 16384}, {DType::f32, 8192}}) {
    for (const int64_t vocab : {32000, 50304, 128256}) {
      const Tensor logits = random_on_gpu({rows, vocab}, dtype, 1), targets = random_ids(rows, vocab),
                   nll = Tensor::empty({rows}, DType::f32, kGpu);
      const std::string shape = cat(" ", name_of(dtype), ", V ", vocab);
      report(("cross_entropy with gradient," + shape).c_str(), 2.0 * static_cast<double>(logits.bytes()),
             median_seconds([&](int) { cuda::cross_entropy_rows(logits, targets, true, nll); }));
      report(("cross_entropy without," + shape).c_str(), static_cast<double>(logits.bytes()),
             median_seconds([&](int) { cuda::cross_entropy_rows(logits, targets, false, nll); }));
    }
  }
  for (const DType dtype : {DType::f32, half}) {
    const int64_t vocab = 32000, d = 768;
    const Tensor weight = random_on_gpu({vocab, d}, dtype, 1), dy = random_on_gpu({tokens, d}, dtype, 2),
                 out = Tensor::empty_like(dy);
    const Tensor dweight = Tensor::zeros({vocab, d}, DType::f32, kGpu), ids = random_ids(tokens, vocab),
                 one = Tensor::zeros({tokens}, DType::i32, kGpu);
    const double n = static_cast<double>(dy.bytes()), g = static_cast<double>(dweight.bytes());
    report(cat("embedding forward, ", name_of(dtype)).c_str(), 2 * n,
           median_seconds([&](int) { cuda::embedding_forward(ids, weight, out); }));
    report(cat("embedding backward, ", name_of(dtype), " (dy + dweight once)").c_str(), n + g,
           median_seconds([&](int) { cuda::embedding_backward(ids, dy, dweight, false); }));
    report(cat("embedding backward, ", name_of(dtype), ", one id only").c_str(), n,
           median_seconds([&](int) { cuda::embedding_backward(one, dy, dweight, false); }));
  }
  {
    const int64_t n = 200'000'000;
    const Tensor master = random_on_gpu({n}, DType::f32, 1), grad = random_on_gpu({n}, DType::f32, 2),
                 m = Tensor::zeros({n}, DType::f32, kGpu);
    const Tensor v = Tensor::zeros({n}, DType::f32, kGpu), compute = Tensor::empty({n}, half, kGpu),
                 norm = Tensor::empty({1}, DType::f64, kGpu);
    const Tensor scalars = Tensor::empty({cuda::kAdamWScalars}, DType::f32, kGpu);
    std::vector<cuda::AdamWSegment> segments;
    for (int64_t i = 0; i < n; i += n / 200) segments.push_back({i, 1.f, 1.f});
    const cuda::AdamWTable table = cuda::adamw_table(segments, n, kGpu);
    cuda::set_adamw_scalars({.lr = 1e-6f, .clip = 1.f}, scalars);
    report("squared_norm (4 B/param)", 4.0 * static_cast<double>(n),
           median_seconds([&](int) { cuda::squared_norm(grad, norm); }));
    report("adamw, zeroes grad (32 B/param)", 32.0 * static_cast<double>(n), median_seconds([&](int) {
             cuda::adamw(master, grad, {m, v}, Tensor(), table, scalars, norm);
           }));
    report("adamw, bf16 copy too (34 B/param)", 34.0 * static_cast<double>(n), median_seconds([&](int) {
             cuda::adamw(master, grad, {m, v}, compute, table, scalars, norm);
           }));
  }
  for (const auto& [n, k] : std::vector<std::pair<int64_t, int64_t>>{
           {2048, 2048}, {5632, 2048}, {2048, 5632}, {11264, 2048}, {32000, 2048}}) {
    const int64_t copies = std::max<int64_t>(2, (int64_t{400} << 20) / (n * k * 2));
    const Tensor w = random_on_gpu({copies * n, k}, half, 1), x = random_on_gpu({k}, half, 2),
                 y = Tensor::empty({n}, half, kGpu);
    const auto call = [&](int i) { cuda::matvec(w.slice(i % copies * n, (i % copies + 1) * n), x, y); };
    report(cat("matvec ", n, " x ", k, " (launches included)").c_str(), static_cast<double>(n * k * 2),
           median_seconds(call, 40));
  }
  std::printf("\n| gemm bf16 | time us | TFLOP/s |\n|---|---|---|\n");
  for (const auto& [m, n, k] : std::vector<std::array<int64_t, 3>>{{8192, 8192, 8192},
                                                                   {32768, 2560, 2048},
                                                                   {32768, 11264, 2048},
                                                                   {32768, 2048, 5632},
                                                                   {65536, 2304, 768},
                                                                   {8192, 32000, 2048}}) {
    const Tensor a = random_on_gpu({m, k}, half, 1), b = random_on_gpu({n, k}, half, 2),
                 c = random_on_gpu({m, n}, half, 3);
    const Tensor dw = Tensor::zeros({n, k}, DType::f32, kGpu), da = Tensor::empty_like(a);
    const double flop = 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
    const auto line = [&](const char* what, double s) {
      std::printf("| %s %d x %d x %d | %.0f | %.0f |\n", what, int(m), int(n), int(k), s * 1e6, flop / s * 1e-12);
    };
    line("y = x W^T", median_seconds([&](int) { gemm(a, transposed(b), c); }));
    line("dx = dy W", median_seconds([&](int) { gemm(c, b, da); }));
    line("dW += dy^T x (f32)", median_seconds([&](int) { gemm(transposed(c), a, dw, {.beta = 1}); }));
  }
}
