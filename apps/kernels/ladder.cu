// kernel_ladder [rmsnorm|gemm|attention]: the same computation from naive to fast, each level checked and timed.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "ladder.cuh"
#include "tensor/cuda.h"
#include "tensor/gemm.h"
#include "tensor/random.h"

namespace ladder {
namespace {

/// Median seconds of a call, after two more: as many as fit in 0.3 s, at least 3.
double median_seconds(const std::function<void()>& call) {
  std::vector<double> times;
  double total = 0;
  for (int i = 0; i < 2 + 30 && (times.size() < 3 || total < 0.3); ++i) {
    rw::cuda::Event start, stop;
    start.record();
    call();
    stop.record();
    const double seconds = stop.milliseconds_since(start) * 1e-3;
    if (i < 2) continue;
    times.push_back(seconds);
    total += seconds;
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

Ceilings measure_ceilings() {
  Ceilings c;
  {
    const Tensor from = Tensor::full({int64_t{1} << 30}, 1.0, DType::bf16, kGpu), to = Tensor::empty_like(from);
    c.copy = 2.0 * static_cast<double>(from.bytes()) / median_seconds([&] { to.copy_from(from); });
  }
  const int64_t n = 8192;
  const Tensor a = normal({n, n}, 1), b = normal({n, n}, 2), out = Tensor::empty({n, n}, DType::bf16, kGpu);
  c.gemm = 2.0 * static_cast<double>(n * n) * static_cast<double>(n) /
           median_seconds([&] { rw::gemm(a, rw::transposed(b), out); });
  rw::release_cached_memory(kGpu);
  return c;
}

}  // namespace

Tensor normal(Shape shape, uint64_t seed, double std) {
  constexpr int64_t kBlock = int64_t{1} << 20;  // a million numbers, repeated
  rw::Random random(seed, rw::Purpose::test);
  const int64_t n = shape.numel();
  std::vector<float> values(static_cast<size_t>(std::min(n, kBlock)));
  for (float& v : values) v = static_cast<float>(std * random.normal());
  const Tensor block = Tensor::from(values).to(DType::bf16).to(kGpu), all = Tensor::empty({n}, DType::bf16, kGpu);
  // Shifted by a prime each time, so that rows of a power of two are not all alike.
  for (int64_t done = 0, at = 0; done < n; at = (at + 7919) % block.numel()) {
    const int64_t count = std::min(block.numel() - at, n - done);
    all.slice(done, done + count).copy_from(block.slice(at, at + count));
    done += count;
  }
  return all.view(shape);
}

int climb(const Problem& p, const std::vector<Level>& levels, const Ceilings& ceilings) {
  const bool by_bytes = p.bytes > 0;
  std::printf("\n%s\n%-34s %10s %9s %12s %10s\n", p.title.c_str(), "level", "ms", by_bytes ? "GB/s" : "TFLOP/s",
              by_bytes ? "of the copy" : "of the GEMM", "error");
  int wrong = 0;
  for (const Level& level : levels) {
    p.output.fill(std::nan(""));
    level.run();
    rw::cuda::synchronize();
    const Tensor host = p.output.to(rw::kCpu).to(DType::f32);
    const double error = rw::has_nonfinite(host) ? INFINITY : p.error(host);  // NaN: not written, or computed
    const bool ok = error <= p.tolerance;
    wrong += !ok;
    const double seconds = median_seconds(level.run), work = by_bytes ? p.bytes : p.flops;
    std::printf("%-34s %10.4f %9.1f %10.1f %% %10.1e%s\n", level.name.c_str(), seconds * 1e3,
                work / seconds * (by_bytes ? 1e-9 : 1e-12),
                100 * work / seconds / (by_bytes ? ceilings.copy : ceilings.gemm), error, ok ? "" : "  WRONG");
    std::fflush(stdout);
  }
  rw::release_cached_memory(kGpu);
  return wrong;
}

}  // namespace ladder

int main(int argc, char** argv) {
  const std::string which = argc > 1 ? argv[1] : "";
  if (argc > 2 || (!which.empty() && which != "rmsnorm" && which != "gemm" && which != "attention")) {
    std::fprintf(stderr, "usage: kernel_ladder [rmsnorm|gemm|attention]\n");
    return 2;
  }
  if (rw::cuda_device_count() == 0) {
    std::fprintf(stderr, "kernel_ladder: there is no GPU (%s)\n", rw::cuda_device_name().c_str());
    return 2;
  }
  try {
    const ladder::Ceilings ceilings = ladder::measure_ceilings();
    std::printf("%s: copy %.0f GB/s, GEMM 8192 cubed %.0f TFLOP/s\n", rw::cuda_device_name().c_str(),
                ceilings.copy * 1e-9, ceilings.gemm * 1e-12);
    int wrong = 0;
    if (which.empty() || which == "rmsnorm") wrong += ladder::climb_rms_norm(ceilings);
    if (which.empty() || which == "gemm") wrong += ladder::climb_gemm(ceilings);
    if (which.empty() || which == "attention") wrong += ladder::climb_attention(ceilings);
    return wrong > 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "kernel_ladder: %s\n", e.what());
    return 1;
  }
}
