// Attention alone: every path checked against the general one in f32, and timed.
//
//   attention_bench check [path [D]] errors of each path over odd shapes (the general path itself is checked against
//                                    f64 by test_gpu)
//   attention_bench time [path [D]]  TFLOP/s of general, mma, sm90 (the default), split, fused or atomics (sm90 with
//                                    either backward, or one pass in any order); FLOPs counted as 2 B H T^2 D forward
//                                    (causal half), 2.5 times that backward
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "autograd/ops/attention.cuh"
#include "tensor/cuda.h"

namespace {

using namespace rw;
using cuda::AttentionShape;
using cuda::HeadView;
using cuda::attn::Path;

const Device kGpu{DeviceType::cuda, 0};
/// What can be asked for: a path, and for Hopper whether the backward makes one pass, and in any order.
struct Way {
  const char* name;
  Path path;
  cuda::attn::Fusion fusion;
  bool atomics = false;
};
using cuda::attn::Fusion;
const Way kWays[] = {{"general", Path::general, Fusion::automatic}, {"mma", Path::mma, Fusion::automatic},
                     {"sm90", Path::sm90, Fusion::automatic},       {"split", Path::sm90, Fusion::never},
                     {"fused", Path::sm90, Fusion::always},         {"atomics", Path::sm90, Fusion::always, true}};

__global__ void fill_normal(__nv_bfloat16* x, int64_t n, unsigned seed, float std) {
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < n; i += int64_t(gridDim.x) * blockDim.x) {
    uint64_t z = (i + 1) * 0x9E3779B97F4A7C15ull + seed * 0xD1B54A32D192ED03ull;  // splitmix64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    z ^= z >> 31;
    const float u = (static_cast<unsigned>(z) + 1.f) * 2.3283064e-10f,
                v = static_cast<unsigned>(z >> 32) * 2.3283064e-10f;
    x[i] = __float2bfloat16(std * sqrtf(-2.f * logf(fminf(u, 1.f))) * cospif(2.f * v));
  }
}

Tensor normal(Shape shape, unsigned seed, float std = 1.f) {
  const Tensor t = Tensor::empty(shape, DType::bf16, kGpu);
  fill_normal<<<512, 256, 0, cuda::stream()>>>(static_cast<__nv_bfloat16*>(t.raw()), t.numel(), seed, std);
  return t;
}

HeadView view(const Tensor& t, int64_t first, int64_t heads_in_row, int64_t d) {
  char* data = static_cast<char*>(t.raw()) + first * d * size_of(t.dtype());
  return {&t, data, t.numel() / t.size(0), heads_in_row * d};
}

/// One problem in packed form: qkv and its gradient [B,Tk,H+2K,D] when Tq = Tk, else q apart.
struct Problem {
  AttentionShape s;
  Tensor q, kv, o, lse, d_o, dq, dkv;
  HeadView vq() const { return view(q, 0, s.n_heads, s.head_dim); }
  HeadView vk() const { return view(kv, 0, 2 * s.n_kv_heads, s.head_dim); }
  HeadView vv() const { return view(kv, s.n_kv_heads, 2 * s.n_kv_heads, s.head_dim); }
  void outputs(DType t) {
    o = Tensor::empty({s.batch, s.q_length, s.n_heads, s.head_dim}, t, kGpu);
    lse = Tensor::empty({s.batch, s.n_heads, s.q_length}, DType::f32, kGpu);
    dq = Tensor::empty(q.shape(), t, kGpu);
    dkv = Tensor::empty(kv.shape(), t, kGpu);
    for (const Tensor& x : {o, lse, dq, dkv}) x.fill(1e30);  // every element must be written
  }
  void forward() const { cuda::attention_forward(s, vq(), vk(), vv(), view(o, 0, s.n_heads, s.head_dim), lse); }
  void backward() const {
    cuda::attention_backward(s, vq(), vk(), vv(), view(o, 0, s.n_heads, s.head_dim), lse,
                             view(d_o, 0, s.n_heads, s.head_dim), view(dq, 0, s.n_heads, s.head_dim),
                             view(dkv, 0, 2 * s.n_kv_heads, s.head_dim),
                             view(dkv, s.n_kv_heads, 2 * s.n_kv_heads, s.head_dim));
  }
};

void use(const Way& way, AttentionShape& s) {
  s.paths.fastest = way.path;
  s.paths.fusion = way.fusion;
  s.paths.fast_atomics = way.atomics;
}

Problem problem(int64_t b, int64_t h, int64_t k, int64_t tq, int64_t tk, int64_t d, bool causal, float std = 1.f) {
  Problem p;
  p.s = {b, h, k, tq, tk, d, causal, 1 / std::sqrt(double(d))};
  p.q = normal({b, tq, h, d}, 1, std);
  p.kv = normal({b, tk, 2 * k, d}, 2, std);
  p.d_o = normal({b, tq, h, d}, 3);
  p.outputs(DType::bf16);
  return p;
}

double error(const Tensor& got, const Tensor& want) {
  const std::vector<double> a = got.to_vector(), b = want.to_vector();
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i])) return INFINITY;
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(difference / std::max(norm, 1e-300));
}

bool same(const Tensor& a, const Tensor& b) {
  const Tensor x = a.to(kCpu), y = b.to(kCpu);
  return std::memcmp(x.raw(), y.raw(), x.bytes()) == 0;
}

int check(const Way* only, int head_dim) {
  struct Case {
    int64_t b, h, k, tq, tk, d;
    bool causal;
    float std = 1.f;
    int64_t window = 0;
  };
  std::vector<Case> cases;
  for (int64_t d : {64, 128, 48, 96, 40, 16, 80}) {
    cases.push_back({1, 1, 1, 128, 128, d, false});
    cases.push_back({1, 1, 1, 1, 1, d, true});
    cases.push_back({2, 3, 3, 7, 7, d, true});
    cases.push_back({2, 4, 2, 129, 129, d, true});
    cases.push_back({1, 8, 1, 1000, 1000, d, true});
    cases.push_back({2, 4, 2, 100, 515, d, true});
    cases.push_back({2, 4, 4, 300, 77, d, false});
    cases.push_back({1, 2, 1, 511, 511, d, true, 40.f});
    cases.push_back({3, 16, 16, 640, 640, d, true});
  }
  for (int64_t d : {64, 128}) {
    cases.push_back({2, 12, 6, 2304, 2304, d, true});
    cases.push_back({1, 8, 2, 4001, 4001, d, true});
    cases.push_back({1, 2, 1, 1000, 5000, d, true});
    cases.push_back({1, 40, 40, 1500, 1500, d, true});
    cases.push_back({1, 2, 2, 2500, 2500, d, false});
  }
  for (int64_t d : {64, 128}) {
    for (int64_t window : {1, 63, 64, 200, 1000}) {
      cases.push_back({2, 4, 2, 777, 777, d, true, 1.f, window});
      cases.push_back({1, 4, 4, 100, 900, d, true, 1.f, window});
    }
    cases.push_back({1, 4, 2, 2304, 2304, d, true, 1.f, 512});
  }
  int bad = 0;
  for (const Case& c : cases) {
    if (head_dim && c.d != head_dim) continue;
    Problem p = problem(c.b, c.h, c.k, c.tq, c.tk, c.d, c.causal, c.std);
    p.s.window = c.window;
    Problem r = p;
    r.q = p.q.to(DType::f32);
    r.kv = p.kv.to(DType::f32);
    r.d_o = p.d_o.to(DType::f32);
    r.outputs(DType::f32);
    r.forward();
    r.backward();
    for (const Way& way : kWays) {
      if (only ? &way != only : way.path == Path::sm90 && way.fusion == Fusion::automatic) continue;
      if (way.path == Path::sm90 && !cuda::attn::sm90_pads(c.d)) continue;
      use(way, p.s);
      p.outputs(DType::bf16);
      p.forward();
      p.backward();
      cuda::synchronize();
      const double e[] = {error(p.o, r.o), error(p.lse, r.lse), error(p.dq, r.dq), error(p.dkv, r.dkv)};
      const Tensor o = p.o.clone(), dq = p.dq.clone(), dkv = p.dkv.clone();
      p.outputs(DType::bf16);
      p.forward();
      p.backward();
      const bool repeats = same(o, p.o) && (way.atomics || same(dq, p.dq)) && same(dkv, p.dkv);
      const double limit = c.std > 1 ? 3e-2 : 1e-2;
      // a single key has no gradient through the softmax: rounding is all there is of dQ and dK
      const bool single = c.tk == 1 || c.window == 1;
      const bool ok = repeats && e[0] < limit && e[1] < 1e-3 && ((e[2] < limit && e[3] < limit) || single);
      bad += !ok;
      std::printf("%-8s D %3d B %d H %2d/%-2d Tq %4d Tk %4d %s window %4d  o %.1e lse %.1e dq %.1e dkv %.1e %s%s\n",
                  way.name, int(c.d), int(c.b), int(c.h), int(c.k), int(c.tq), int(c.tk),
                  c.causal ? "causal" : "full  ", int(c.window), e[0], e[1], e[2], e[3],
                  repeats ? "" : "NOT REPEATABLE ", ok ? "ok" : "BAD");
      std::fflush(stdout);
    }
  }
  std::printf("%d bad of %zu cases\n", bad, cases.size());
  return bad > 0;
}

/// Median milliseconds of `f` on the compute stream.
template <class F>
double median_ms(F&& f, int repeats = 21) {
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  for (int i = 0; i < 3; ++i) f();
  std::vector<float> times;
  for (int i = 0; i < repeats; ++i) {
    cudaEventRecord(begin, cuda::stream());
    f();
    cudaEventRecord(end, cuda::stream());
    cudaEventSynchronize(end);
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    times.push_back(ms);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

int time_paths(const Way& way, int head_dim) {
  struct Row {
    int64_t d, h, k, t;
  };
  const Row rows[] = {{64, 32, 32, 1024},  {64, 32, 32, 4096},   {64, 32, 32, 8192},   {64, 32, 32, 16384},
                      {64, 32, 32, 32768}, {128, 16, 16, 1024},  {128, 16, 16, 2048},  {128, 16, 16, 4096},
                      {128, 16, 16, 8192}, {128, 16, 16, 16384}, {128, 16, 16, 32768}, {128, 32, 8, 4096},
                      {128, 32, 8, 8192},  {128, 32, 8, 16384},  {128, 32, 8, 32768},  {64, 32, 4, 2048},
                      {64, 12, 12, 8192},  {64, 12, 12, 1024},   {128, 4, 4, 2048},    {48, 6, 6, 256}};
  std::printf("%s, causal bf16, TFLOP/s\n%-24s %4s %8s %8s %8s\n", way.name, "hd, heads/kv, T", "B", "fwd", "bwd",
              "fwd+bwd");
  for (const Row& r : rows) {
    if ((way.path == Path::general && r.t > 4096) || (head_dim && r.d != head_dim)) continue;
    const int64_t b = r.h == 4 ? 1 : std::max<int64_t>(32768 / r.t, 1);  // few heads: one sample
    Problem p = problem(b, r.h, r.k, r.t, r.t, r.d, true);
    use(way, p.s);
    const double flops = 2.0 * b * r.h * r.t * r.t * r.d;
    const double forward = median_ms([&] { p.forward(); }), backward = median_ms([&] { p.backward(); });
    const double both = median_ms([&] { p.forward(), p.backward(); });
    char name[64];
    std::snprintf(name, sizeof name, "%d, %d/%d, %d", int(r.d), int(r.h), int(r.k), int(r.t));
    std::printf("%-24s %4d %8.1f %8.1f %8.1f\n", name, int(b), flops / forward * 1e-9, 2.5 * flops / backward * 1e-9,
                3.5 * flops / both * 1e-9);
    std::fflush(stdout);
  }
  return 0;
}

const Way& way_of(const char* name) {
  for (const Way& way : kWays)
    if (std::strcmp(name, way.name) == 0) return way;
  std::fprintf(stderr, "no path %s: general, mma, sm90, split, fused or atomics\n", name);
  std::exit(2);
}

}  // namespace

int main(int argc, char** argv) {
  if (cuda_device_count() == 0) {
    std::printf("no GPU: %s\n", cuda_device_name().c_str());
    return 0;
  }
  try {
    const std::string verb = argc > 1 ? argv[1] : "check";
    const Way* way = argc > 2 ? &way_of(argv[2]) : nullptr;
    const int head_dim = argc > 3 ? std::atoi(argv[3]) : 0;
    if (verb == "check") return check(way, head_dim);
    return time_paths(way ? *way : kWays[2], head_dim);
  } catch (const Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
