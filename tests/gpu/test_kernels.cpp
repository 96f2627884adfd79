// What lies below the ops on the GPU: bytes, conversion, products on raw memory, and the optimizer's passes.
#include "autograd/ops/cuda_ops.h"
#include "gpu.h"
#include "nn/cuda_optim.h"
#include "nn/param_arena.h"
#include "nn/split_master.h"
#include "tensor/cuda.h"
#include "tensor/gemm.h"

using namespace rw;
using test::kGpu;
using test::randn;

TEST_CASE("asking for GPUs where there is none is answered with 0") {
  CHECK(cuda_device_count() >= 0);
  CHECK_FALSE(cuda_device_name().empty());
  CHECK_NOTHROW(parse_device("auto"));
}

TEST_CASE("fill, conversion and accumulation on the GPU agree with the CPU for every pair of dtypes and odd sizes") {
  if (!test::has_gpu()) return;
  const std::vector<DType> all = {DType::f32, DType::bf16, DType::f64, DType::i32};
  for (const int64_t n : {1, 7, 8, 129, 100003}) {
    Tensor values = randn({n}, 1, DType::f64, 100);
    for (int64_t i = 0; i < n; ++i) values.data<double>()[i] = std::round(values.data<double>()[i]);
    for (const DType from : all) {
      CHECK(Tensor::full({n}, 3, from, kGpu).to_vector() == std::vector<double>(static_cast<size_t>(n), 3.0));
      for (const DType to : all) {
        const Tensor source = values.to(from);
        const Tensor got = source.to(kGpu).to(to);
        CHECK(test::same_bits(got, source.to(to)));
        cuda::accumulate(got.raw(), to, source.to(kGpu).raw(), from, n);
        const Tensor twice = Tensor::empty({n}, DType::f64);
        const auto v = source.to(to).to_vector(), w = source.to_vector();
        for (int64_t i = 0; i < n; ++i) twice.data<double>()[i] = v[size_t(i)] + w[size_t(i)];
        CHECK(test::relative_error(got, twice.to(to)) <= (to == DType::bf16 ? 0x1p-8 : 0.0));
      }
    }
  }
}

TEST_CASE("kernels take views that are not aligned to 16 bytes") {
  if (!test::has_gpu()) return;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const int64_t n = 64;
    const Tensor a = randn({n + 1}, 1, dtype), b = randn({n + 1}, 2, dtype);
    const Tensor ga = a.to(kGpu).slice(1, n + 1), gb = b.to(kGpu).slice(1, n + 1);
    const Tensor out = Tensor::full({n + 2}, -7.0, dtype, kGpu);
    cuda::binary(cuda::Binary::sub, ga, gb, out.slice(1, n + 1));
    const auto va = a.to_vector(), vb = b.to_vector(), got = out.to_vector();
    for (int64_t i = 0; i < n; ++i) {
      const double want = Tensor::full({1}, va[size_t(i) + 1] - vb[size_t(i) + 1], DType::f64).to(dtype).item();
      CHECK(got[size_t(i) + 1] == want);
    }
    CHECK(got[0] == -7.0);
    CHECK(got[size_t(n) + 1] == -7.0);
    // Rows of 8 elements that start one element off: vector width, scalar alignment.
    const Tensor y = Tensor::empty({8, 8}, dtype, kGpu), rstd = Tensor::empty({8}, DType::f32, kGpu),
                 w = Tensor::full({8}, 1.0, dtype, kGpu);
    cuda::rms_norm_forward(ga.view({8, 8}), Tensor(), w, 1e-5, 0, Tensor(), y, rstd);
    CHECK_FALSE(has_nonfinite(y));
  }
}

TEST_CASE("a product on the GPU equals the triple loop for every transposition, alpha, beta and odd sizes") {
  if (!test::has_gpu()) return;
  struct Kind {
    DType in, out;
  };
  for (const auto& [m, n, k] :
       std::vector<std::array<int64_t, 3>>{{37, 53, 29}, {1, 7, 129}, {129, 1, 7}, {64, 128, 1000}, {1, 2048, 512}}) {
    for (const Kind kind :
         {Kind{DType::f32, DType::f32}, Kind{DType::bf16, DType::f32}, Kind{DType::bf16, DType::bf16}}) {
      for (const Trans ta : {Trans::no, Trans::yes}) {
        for (const Trans tb : {Trans::no, Trans::yes}) {
          for (const auto& [alpha, beta] : {std::pair{1.0, 0.0}, std::pair{0.5, -2.0}}) {
            const Tensor a = randn(ta == Trans::no ? Shape{m, k} : Shape{k, m}, 1, kind.in);
            const Tensor b = randn(tb == Trans::no ? Shape{k, n} : Shape{n, k}, 2, kind.in);
            const Tensor c = randn({m, n}, 3, kind.out);
            const Tensor want = c.to(DType::f64).clone();
            gemm({a.to(DType::f64), ta}, {b.to(DType::f64), tb}, want, {.alpha = alpha, .beta = beta});
            const auto run = [&] {
              const Tensor got = beta == 0 ? Tensor::full({m, n}, NAN, kind.out, kGpu) : c.to(kGpu).clone();
              gemm({a.to(kGpu), ta}, {b.to(kGpu), tb}, got, {.alpha = alpha, .beta = beta});
              return got;
            };
            const Tensor got = run();
            CHECK(test::relative_error(got, want) < (kind.out == DType::bf16 ? 0x1p-8 : 2e-6));
            CHECK(test::same_bits(got, run()));
          }
        }
      }
    }
  }
  const Tensor c = Tensor::full({3, 4}, 5.0, DType::f32, kGpu);  // an empty inner dimension
  gemm(Tensor::empty({3, 0}, DType::f32, kGpu), Tensor::empty({0, 4}, DType::f32, kGpu), c, {.beta = 0.5});
  CHECK(c.to_vector() == std::vector<double>(12, 2.5));
}

TEST_CASE("the one-row product agrees with f64 for every dtype and number of rows") {
  if (!test::has_gpu()) return;
  for (const auto& [n, k] : std::vector<std::array<int64_t, 2>>{
           {1, 1}, {7, 7}, {100, 129}, {300, 1000}, {5000, 520}, {9000, 1024}, {2048, 5632}}) {
    for (const DType w_type : {DType::f32, DType::bf16}) {
      for (const DType x_type : {DType::f32, DType::bf16}) {
        const Tensor w = randn({n, k}, 1, w_type), x = randn({k}, 2, x_type);
        const Tensor y = Tensor::full({n}, NAN, x_type, kGpu), want = Tensor::empty({n, 1}, DType::f64);
        gemm(w.to(DType::f64), x.to(DType::f64).view({k, 1}), want);
        cuda::matvec(w.to(kGpu), x.to(kGpu), y);
        CHECK(test::relative_error(y, want.view({n})) < (x_type == DType::bf16 ? 0x1p-8 : 2e-6));
      }
    }
  }
}

TEST_CASE("the gradient norm on the GPU equals the f64 sum and repeats bit for bit") {
  if (!test::has_gpu()) return;
  for (const int64_t n : {1, 3, 4, 1023, 4097, 5'000'003}) {
    const Tensor g = randn({n}, 1, DType::f32), result = Tensor::empty({1}, DType::f64, kGpu),
                 again = Tensor::empty({1}, DType::f64, kGpu);
    double want = 0;
    for (double v : g.to_vector()) want += v * v;
    cuda::squared_norm(g.to(kGpu), result);
    cuda::squared_norm(g.to(kGpu), again);
    CHECK(std::abs(result.item() - want) <= 1e-12 * want);
    CHECK(test::same_bits(result, again));
  }
}

namespace {

struct Arena {
  Tensor master, grad, m, v, compute;
  Arena(int64_t n, bool with_copy)
      : master(randn({n}, 1, DType::f32).to(kGpu)),
        grad(randn({n}, 2, DType::f32).to(kGpu)),
        m(randn({n}, 3, DType::f32, 0.1).to(kGpu)),
        v(Tensor::full({n}, 0.01, DType::f32, kGpu)),
        compute(with_copy ? Tensor::full({n}, NAN, DType::bf16, kGpu) : Tensor()) {}
};

}  // namespace

TEST_CASE("AdamW on the GPU equals its formula in f64 for segments of any size") {
  if (!test::has_gpu()) return;
  for (const int64_t n : {1, 7, 1024, 5003}) {
    for (const double clip : {0.0, 1.0}) {
      std::vector<cuda::AdamWSegment> segments = {{0, 1.f, 1.f}};
      if (n > 5) segments.push_back({3, 0.f, 0.5f}), segments.push_back({5, 1.f, 2.f});
      if (n > 2000) segments.push_back({1030, 0.f, 1.f}), segments.push_back({4999, 1.f, 3.f});
      const cuda::AdamWTable table = cuda::adamw_table(segments, n, kGpu);
      const cuda::AdamWScalars s{1e-2f, 0.9f, 0.95f, 1e-8f, 0.1f, 0.271f, 0.142625f, 0.25f, static_cast<float>(clip)};
      const Tensor scalars = Tensor::empty({cuda::kAdamWScalars}, DType::f32, kGpu),
                   norm = Tensor::empty({1}, DType::f64, kGpu);
      const Arena a(n, true), before(n, true);
      cuda::set_adamw_scalars(s, scalars);
      cuda::squared_norm(a.grad, norm);
      cuda::adamw(a.master, a.grad, {a.m, a.v}, a.compute, table, scalars, norm);

      const auto p = before.master.to_vector(), g = before.grad.to_vector(), m = before.m.to_vector(),
                 v = before.v.to_vector();
      double square = 0;
      for (double x : g) square += x * x;
      const double length = std::sqrt(square) * double(s.grad_scale);
      const double factor = double(s.grad_scale) * (clip > 0 ? std::min(1.0, clip / (length + 1e-6)) : 1.0);
      std::vector<double> want_p, want_m, want_v;
      size_t at = 0;
      for (size_t i = 0; i < p.size(); ++i) {
        while (at + 1 < segments.size() && static_cast<int64_t>(i) >= segments[at + 1].offset) ++at;
        const double lr = double(s.lr) * double(segments[at].lr_scale), d = g[i] * factor;
        want_m.push_back(double(s.beta1) * m[i] + (1 - double(s.beta1)) * d);
        want_v.push_back(double(s.beta2) * v[i] + (1 - double(s.beta2)) * d * d);
        want_p.push_back(p[i] * (1 - lr * double(s.weight_decay) * double(segments[at].decay)) -
                         lr * want_m[i] / double(s.correction1) /
                             (std::sqrt(want_v[i] / double(s.correction2)) + double(s.eps)));
      }
      CHECK(test::relative_error(a.m.to_vector(), want_m) < 1e-6);
      CHECK(test::relative_error(a.v.to_vector(), want_v) < 1e-6);
      CHECK(test::relative_error(a.master.to_vector(), want_p) < 1e-6);
      CHECK(test::same_bits(a.compute, a.master.to(DType::bf16)));
      CHECK(a.grad.to_vector() == std::vector<double>(p.size(), 0.0));
    }
  }
}

TEST_CASE("AdamW leaves the parameters as they were when the norm is not finite") {
  if (!test::has_gpu()) return;
  const Arena a(100, false), before(100, false);
  const Tensor scalars = Tensor::empty({cuda::kAdamWScalars}, DType::f32, kGpu),
               norm = Tensor::empty({1}, DType::f64, kGpu);
  a.grad.slice(17, 18).fill(INFINITY);
  cuda::set_adamw_scalars({.lr = 1e-2f, .clip = 1.f}, scalars);
  cuda::squared_norm(a.grad, norm);
  cuda::adamw(a.master, a.grad, {a.m, a.v}, Tensor(), cuda::adamw_table({{0}}, 100, kGpu), scalars, norm);
  CHECK(test::same_bits(a.master, before.master));
  CHECK(test::same_bits(a.m, before.m));
  CHECK(test::same_bits(a.v, before.v));
  CHECK(a.grad.to_vector() == std::vector<double>(100, 0.0));
}

namespace {

/// The masters of `values` f32 [n] on the GPU as the two halves that adamw_split() updates.
struct Halves {
  Tensor high, low;
  explicit Halves(const Tensor& values) {
    const Tensor host = values.to(kCpu);
    const int64_t n = host.numel();
    const Tensor upper = Tensor::empty({n}, DType::bf16), lower = Tensor::zeros({(n + 1) / 2}, DType::i32);
    for (int64_t i = 0; i < n; ++i) {
      uint32_t bits = 0;
      std::memcpy(&bits, host.data<float>() + i, 4);
      const SplitFloat s = split_float(bits);
      upper.data<bf16>()[i].bits = s.high;
      std::memcpy(static_cast<char*>(lower.raw()) + 2 * i, &s.low, 2);
    }
    high = upper.to(kGpu), low = lower.to(kGpu);
  }
  Tensor joined() const {
    const Tensor upper = high.to(kCpu), lower = low.to(kCpu), values = Tensor::empty({upper.numel()});
    for (int64_t i = 0; i < values.numel(); ++i) {
      SplitFloat s{upper.data<bf16>()[i].bits, 0};
      std::memcpy(&s.low, static_cast<const char*>(lower.raw()) + 2 * i, 2);
      const uint32_t bits = join_float(s);
      std::memcpy(values.data<float>() + i, &bits, 4);
    }
    return values;
  }
};

}  // namespace

TEST_CASE("AdamW with split masters on the GPU makes the weights of the plain update bit for bit") {
  if (!test::has_gpu()) return;
  for (const int64_t n : {1, 2, 7, 1024, 5003, 1'000'003}) {
    for (const DType type : {DType::f32, DType::bf16}) {
      std::vector<cuda::AdamWSegment> segments = {{0, 1.f, 1.f}};
      if (n > 5) segments.push_back({3, 0.f, 0.5f}), segments.push_back({5, 1.f, 2.f});
      const cuda::AdamWTable table = cuda::adamw_table(segments, n, kGpu);
      const Tensor scalars = Tensor::empty({cuda::kAdamWScalars}, DType::f32, kGpu),
                   norm = Tensor::empty({1}, DType::f64, kGpu);
      const Arena a(n, true), b(n, false);
      const Halves halves(b.master);
      CHECK(test::same_bits(halves.joined(), b.master));
      int64_t rounded_otherwise = 0;
      for (uint64_t step = 0; step < 3; ++step) {
        const Tensor first = randn({n}, 10 + step, DType::bf16).to(type).to(kGpu), second = first.clone();
        cuda::squared_norm(first, norm);
        // A large step, one that leaves most copies as they are, and one whose norm is not finite.
        cuda::set_adamw_scalars({.lr = step == 1 ? 1e-6f : 1e-2f, .weight_decay = 0.1f, .clip = 1.f}, scalars);
        if (step == 2) norm.fill(INFINITY);
        cuda::adamw(a.master, first, {a.m, a.v}, a.compute, table, scalars, norm);
        cuda::adamw_split(halves.high, halves.low, second, {b.m, b.v}, table, scalars, norm);
        CHECK(test::same_bits(halves.joined(), a.master));
        CHECK(test::same_bits(a.m, b.m));
        CHECK(test::same_bits(a.v, b.v));
        CHECK(second.to_vector() == std::vector<double>(static_cast<size_t>(n), 0.0));
        const Tensor x = a.compute.to(kCpu), y = halves.high.to(kCpu), master = a.master.to(kCpu);
        for (int64_t i = 0; i < n; ++i) {
          uint32_t bits = 0;
          std::memcpy(&bits, master.data<float>() + i, 4);
          const bool halfway = (bits & 0xffffu) == 0x8000u;
          rounded_otherwise += !halfway && x.data<bf16>()[i].bits != y.data<bf16>()[i].bits;
        }
      }
      CHECK(rounded_otherwise == 0);
    }
  }
}

TEST_CASE("AdamW on the GPU with a bf16 gradient is that with the same numbers in f32, and so is the norm") {
  if (!test::has_gpu()) return;
  for (const int64_t n : {1, 7, 8, 2047, 5003, 3'000'001}) {
    const cuda::AdamWTable table = cuda::adamw_table({{0, 1.f, 1.f}}, n, kGpu);
    const Tensor scalars = Tensor::empty({cuda::kAdamWScalars}, DType::f32, kGpu),
                 norm = Tensor::empty({1}, DType::f64, kGpu), again = Tensor::empty({1}, DType::f64, kGpu);
    const Tensor narrow = randn({n}, 9, DType::bf16).to(kGpu), wide = narrow.to(DType::f32);
    const Arena a(n, true), b(n, true);
    double want = 0;
    for (double v : narrow.to_vector()) want += v * v;
    cuda::squared_norm(narrow, norm);
    cuda::squared_norm(narrow, again);
    CHECK(std::abs(norm.item() - want) <= 1e-12 * want);
    CHECK(test::same_bits(norm, again));
    cuda::set_adamw_scalars({.lr = 1e-2f, .weight_decay = 0.1f, .clip = 1.f}, scalars);
    cuda::adamw(a.master, wide, {a.m, a.v}, a.compute, table, scalars, norm);
    cuda::adamw(b.master, narrow, {b.m, b.v}, b.compute, table, scalars, norm);
    CHECK(test::same_bits(a.master, b.master));
    CHECK(test::same_bits(a.compute, b.compute));
    CHECK(test::same_bits(a.m, b.m));
    CHECK(test::same_bits(a.v, b.v));
    CHECK(narrow.to_vector() == std::vector<double>(static_cast<size_t>(n), 0.0));
  }
}

TEST_CASE("split masters on the GPU hold the values they are given, and those a model on the CPU begins with") {
  if (!test::has_gpu()) return;
  ParamArena here, there;
  for (ParamArena* arena : {&here, &there}) {
    arena->add({"a", {333}, normal_init(1)});
    arena->add({"b", {17, 19}, {}});
  }
  here.allocate(DType::bf16, kCpu, 3);
  there.allocate(DType::bf16, kGpu, 3, ArenaMemory::small_state());
  const Tensor values = randn({17, 19}, 1, DType::f32);
  there.set_values(1, values.to(kGpu));
  CHECK(test::same_bits(there.values_of(0), here.values_of(0)));
  CHECK(test::same_bits(there.values_of(1), values));
  CHECK(test::same_bits(there[1].value(), values.to(DType::bf16)));
}

TEST_CASE("out of device memory is an OutOfMemory, and the GPU can be used afterwards") {
  if (!test::has_gpu()) return;
  CHECK_THROWS_AS(Tensor::empty({int64_t{1} << 42}, DType::f32, kGpu), OutOfMemory);
  CHECK(Tensor::full({4}, 2.0, DType::f32, kGpu).to_vector() == std::vector<double>(4, 2.0));
}
