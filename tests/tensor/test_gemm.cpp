// Matrix products on the CPU: every version that this CPU runs, at the edges of tiles, blocks and memory.
#include <limits>
#include <span>

#include "at_the_end.h"
#include "support.h"
#include "tensor/gemm.h"
#include "tensor/gemm_block.h"
#include "tensor/parallel_for.h"
#include "tensor/random.h"

using namespace rw;

namespace {

struct Sizes {
  int64_t m, n, k;
  int64_t gap = 0;  // numbers between the rows of each matrix
  double alpha = 1, beta = 0;
};

std::span<const cpu::GemmKernels* const> every_level() {
  static const cpu::GemmKernels* all[3];
  static const int count = cpu::every_gemm_kernels(all);
  return {all, static_cast<size_t>(count)};
}

/// Numbers in [-1, 1); quick to make, for there are many.
template <class T>
std::vector<T> numbers(int64_t count, uint64_t seed) {
  std::vector<T> values(static_cast<size_t>(count));
  uint64_t state = seed;
  for (T& x : values) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    x = static_cast<T>(static_cast<double>(state >> 11) * 0x1p-52 - 1);
  }
  return values;
}

/// A product whose matrices end where memory does. Behind C's rows lie numbers that must stay.
template <class T>
class Case {
 public:
  Case(const Sizes& s, Trans ta, Trans tb)
      : s_(s),
        a_rows_(ta == Trans::no ? s.m : s.k),
        a_stride_((ta == Trans::no ? s.k : s.m) + s.gap),
        b_rows_(tb == Trans::no ? s.k : s.n),
        b_stride_((tb == Trans::no ? s.n : s.k) + s.gap),
        c_stride_(s.n + s.gap),
        a(numbers<T>(size(a_rows_, a_stride_), 1)),
        b(numbers<T>(size(b_rows_, b_stride_), 2)),
        before_(numbers<T>(size(s.m, c_stride_), 3)),
        ta_(ta),
        tb_(tb) {
    if (s.beta == 0) {
      for_each([&](int64_t i, int64_t j) { before_[at(i, j)] = std::numeric_limits<T>::quiet_NaN(); });
    }
  }

  std::vector<T> run(const cpu::GemmKernels& kernels) const {
    test::AtTheEnd<T> c(before_);
    cpu::gemm_with(kernels, {.m = s_.m,
                             .n = s_.n,
                             .k = s_.k,
                             .a = {a.data(), a_stride_, ta_},
                             .b = {b.data(), b_stride_, tb_},
                             .c = c.data(),
                             .c_stride = c_stride_,
                             .alpha = static_cast<T>(s_.alpha),
                             .beta = static_cast<T>(s_.beta)});
    return {c.data(), c.data() + before_.size()};
  }

  /// How many elements are wrong; of a large product, some are looked at.
  int64_t wrong(const std::vector<T>& c) const {
    int64_t count = 0;
    Random random(1, Purpose::test, 4);
    const bool all = s_.m * s_.n * s_.k < 200000;
    const auto check = [&](int64_t i, int64_t j) {
      double sum = 0, size = 0;
      for (int64_t p = 0; p < s_.k; ++p) {
        const double x = a.data()[ta_ == Trans::no ? i * a_stride_ + p : p * a_stride_ + i];
        const double y = b.data()[tb_ == Trans::no ? p * b_stride_ + j : j * b_stride_ + p];
        sum += x * y;
        size += std::abs(x * y);
      }
      double want = s_.alpha * sum;
      size *= std::abs(s_.alpha);
      if (s_.beta != 0) {
        want += s_.beta * before_[at(i, j)];
        size += std::abs(s_.beta * before_[at(i, j)]);
      }
      const double bound = size * static_cast<double>(s_.k + 4) * std::numeric_limits<T>::epsilon() / 2;
      count += !(std::abs(c[at(i, j)] - want) <= bound);
    };
    if (all) {
      for_each(check);
    } else {  // the corner that edges of tiles and blocks are in, and anywhere
      for (int64_t q = 0; q < std::clamp<int64_t>(400000 / s_.k, 50, 1000); ++q) {
        const auto below = [&](int64_t n) { return static_cast<int64_t>(random.below(static_cast<uint64_t>(n))); };
        check(below(s_.m), below(s_.n));
        check(s_.m - 1 - below(std::min<int64_t>(s_.m, 40)), s_.n - 1 - below(std::min<int64_t>(s_.n, 40)));
      }
    }
    for (int64_t i = 0; i + 1 < s_.m; ++i) {
      for (int64_t j = s_.n; j < c_stride_; ++j) count += c[at(i, j)] != before_[at(i, j)];
    }
    return count;
  }

 private:
  static int64_t size(int64_t rows, int64_t stride) { return rows == 0 ? 0 : rows * stride; }
  size_t at(int64_t i, int64_t j) const { return static_cast<size_t>(i * c_stride_ + j); }
  template <class F>
  void for_each(const F& f) const {
    for (int64_t i = 0; i < s_.m; ++i) {
      for (int64_t j = 0; j < s_.n; ++j) f(i, j);
    }
  }

  Sizes s_;
  int64_t a_rows_, a_stride_, b_rows_, b_stride_, c_stride_;
  test::AtTheEnd<T> a, b;
  std::vector<T> before_;
  Trans ta_, tb_;
};

/// f(case) for the four transpositions, in f32 and f64.
template <class F>
void for_all(const Sizes& s, const F& f) {
  for (const Trans ta : {Trans::no, Trans::yes}) {
    for (const Trans tb : {Trans::no, Trans::yes}) {
      CAPTURE(s.m);
      CAPTURE(s.n);
      CAPTURE(s.k);
      CAPTURE(ta);
      CAPTURE(tb);
      f(Case<float>(s, ta, tb));
      f(Case<double>(s, ta, tb));
    }
  }
}

void check_all(const Sizes& s) {
  for_all(s, [](const auto& x) {
    for (const cpu::GemmKernels* level : every_level()) CHECK(x.wrong(x.run(*level)) == 0);
  });
}

class Threads {
 public:
  explicit Threads(int count) { set_thread_count(count); }
  ~Threads() { set_thread_count(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_ = thread_count();
};

}  // namespace

TEST_CASE("products of random small sizes are right to the last row and column, and touch nothing behind them") {
  Random random(1, Purpose::test, 5);
  const auto size = [&] { return static_cast<int64_t>(random.below(40)) + 1; };
  for (int i = 0; i < 60; ++i) {
    check_all({.m = size(), .n = size(), .k = size(), .gap = i % 3 * 3});
    check_all({.m = size(), .n = size(), .k = size(), .gap = i % 3, .alpha = -0.5, .beta = i % 2 ? 1.0 : 2.5});
  }
}

TEST_CASE("products are right at every edge of a tile, and for few rows or columns") {
  for (const cpu::GemmKernels* level : every_level()) {
    const int64_t h = level->f32.height, w = level->f32.width, w64 = level->f64.width;
    for (const int64_t m : {h - 1, h, h + 1, 2 * h - 1, 2 * h + 1, 8 * h + 2}) {
      for (const int64_t n : {w64 - 1, w64 + 1, w - 1, w, w + 1, 2 * w - 1, 2 * w, 4 * w + 3}) {
        check_all({.m = m, .n = n, .k = 19});
      }
    }
  }
  for (const int64_t few : {1, 2, 3, 4, 5, 7, 8, 9, 16, 17}) {
    check_all({.m = few, .n = 301, .k = 67, .gap = 1});
    check_all({.m = 301, .n = few, .k = 67, .beta = 1});
    check_all({.m = few, .n = 2100, .k = 5});
    check_all({.m = 133, .n = 97, .k = few, .alpha = 3, .beta = -1});
  }
}

TEST_CASE("products are right at every edge of a block, by one thread and by several") {
  for (const int threads : {1, 7}) {
    const Threads guard(threads);
    for (const cpu::GemmKernels* level : every_level()) {
      for (const int64_t depth : {level->f32.depth, level->f64.depth}) {
        for (const int64_t k : {depth - 1, depth, depth + 1, 2 * depth + 1}) check_all({.m = 50, .n = 70, .k = k});
      }
    }
    check_all({.m = 1030, .n = 1050, .k = 40, .beta = 1});   // more than an item of either factor
    check_all({.m = 1300, .n = 40, .k = 1100});              // items of rows, and several depths
    check_all({.m = 40, .n = 1300, .k = 900, .beta = 0.5});  // items of columns
    check_all({.m = 2300, .n = 1040, .k = 1100});            // chunks, groups of depths and items
    check_all({.m = 100, .n = 110, .k = 5400});              // as many depths as need several shared blocks
  }
}

TEST_CASE("products of a small C and a long k are right, by one thread and by several") {
  for (const int threads : {1, 7}) {
    const Threads guard(threads);
    check_all({.m = 31, .n = 45, .k = 16384, .gap = 3, .alpha = -0.5, .beta = 2});
    check_all({.m = 20, .n = 33, .k = 16999});  // the last part is shorter
  }
}

TEST_CASE("a small C of a long k is the sum of 64 parts of k, one after another") {
  const int64_t m = 37, n = 50, parts = 64, depth = 260, k = parts * depth - 3;
  const std::vector<float> a = numbers<float>(m * k, 1), b = numbers<float>(k * n, 2),
                           before = numbers<float>(m * n, 3);
  for (const cpu::GemmKernels* level : every_level()) {
    const auto product = [&](int64_t begin, int64_t depths, float beta, std::vector<float>& c) {
      cpu::gemm_with(*level, cpu::Product<float>{.m = m,
                                                 .n = n,
                                                 .k = depths,
                                                 .a = {a.data() + begin, k},
                                                 .b = {b.data() + begin * n, n},
                                                 .c = c.data(),
                                                 .c_stride = n,
                                                 .alpha = 0.75,
                                                 .beta = beta});
    };
    for (const int threads : {1, 3, 16}) {
      const Threads guard(threads);
      std::vector<float> want = before, sum(want.size()), c = before;
      for (int64_t begin = 0; begin < k; begin += depth) {
        product(begin, std::min(depth, k - begin), 0, sum);
        for (size_t i = 0; i < want.size(); ++i) want[i] += sum[i];
      }
      product(0, k, 1, c);
      CHECK(c == want);
    }
  }
}

TEST_CASE("the sizes 0: without terms C is beta C, and without elements nothing happens") {
  for (const double beta : {0.0, 1.0, -2.0}) check_all({.m = 5, .n = 7, .k = 0, .gap = 2, .beta = beta});
  check_all({.m = 0, .n = 7, .k = 3});
  check_all({.m = 5, .n = 0, .k = 3});
}

TEST_CASE("no bit of a product depends on the number of threads, nor on whether threads already work") {
  for (const Sizes& s : std::vector<Sizes>{{64, 96, 48},
                                           {256, 288, 800, 0, 1, 1},
                                           {1000, 90, 500},
                                           {90, 1500, 400, 3, 0.5, 2},
                                           {3, 5000, 40},
                                           {5000, 7, 40},
                                           {777, 1111, 300},
                                           {17, 35, 16384, 0, 1, 1},
                                           {30, 20, 16500, 2, -0.5, 0}}) {
    for_all(s, [](const auto& x) {
      for (const cpu::GemmKernels* level : every_level()) {
        const auto bits = [](const auto& v) {
          const auto* bytes = reinterpret_cast<const unsigned char*>(v.data());
          return std::vector<unsigned char>(bytes, bytes + v.size() * sizeof(v[0]));
        };
        std::vector<std::vector<unsigned char>> results;
        for (const int threads : {1, 2, 3, 5, 7, 16}) {
          const Threads guard(threads);
          results.push_back(bits(x.run(*level)));
        }
        const Threads guard(2);
        std::vector<std::vector<unsigned char>> within(2);
        parallel_items(2, [&](int64_t i) { within[static_cast<size_t>(i)] = bits(x.run(*level)); });
        results.insert(results.end(), within.begin(), within.end());
        for (const auto& result : results) CHECK(result == results[0]);
      }
    });
  }
}

TEST_CASE("a program's products come from the fastest version that this CPU runs") {
  const int64_t m = 40, n = 50, k = 60;
  const Tensor a = test::randn({m, k}, 1, DType::f32), b = test::randn({k, n}, 2, DType::f32),
               c = Tensor::empty({m, n}), want = Tensor::empty({m, n});
  gemm(a, b, c);
  cpu::gemm_with(*every_level()[0], cpu::Product<float>{.m = m,
                                                        .n = n,
                                                        .k = k,
                                                        .a = {a.data<float>(), k},
                                                        .b = {b.data<float>(), n},
                                                        .c = want.data<float>(),
                                                        .c_stride = n});
  CHECK(c.to_vector() == want.to_vector());
}
