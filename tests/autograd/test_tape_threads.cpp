// Threads that differentiate side by side: every one has its own tape, and what they share (tensors that are read, the
// allocator) may be shared. The preset "tsan" runs this under ThreadSanitizer.
#include "autograd/ops/attention.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/loss.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/reduce.h"
#include "autograd/recompute.h"
#include "autograd/tape.h"
#include "support.h"
#include "tensor/allocator.h"

using namespace rw;
using test::in_threads;

namespace {

/// Gradients of a small network over shared inputs; the seed makes each thread's weights its own.
std::vector<double> gradients(const Tensor& x, const Tensor& targets, uint64_t seed, int rounds) {
  const MemoryTag tag("a thread's own");
  const Var w = Var::leaf(test::randn({48, 16}, seed, DType::f32)),
            g = Var::leaf(test::randn({16}, seed + 1, DType::f32));
  const Var head = Var::leaf(test::randn({11, 16}, seed + 2, DType::f32));
  for (int round = 0; round < rounds; ++round) {
    w.clear_grad(), g.clear_grad(), head.clear_grad();
    const std::vector<Var> h = recompute(
        [&](const std::vector<Var>& in, bool) {
          const Var qkv = reshape(linear(rms_norm(in[0], g, 1e-5), w), {2, 9, 6, 8});
          return std::vector<Var>{attention_packed(qkv, 2, 2)};
        },
        {Var::leaf(x)});
    backward(linear_cross_entropy(reshape(h[0], {18, 16}), head, targets, Reduction::sum));
  }
  std::vector<double> all = w.grad().to_vector();
  for (const Var& v : {g, head}) {
    const std::vector<double> more = v.grad().to_vector();
    all.insert(all.end(), more.begin(), more.end());
  }
  return all;
}

}  // namespace

TEST_CASE("threads that differentiate side by side get the gradients that each gets alone") {
  const Tensor x = test::randn({2, 9, 16}, 1, DType::f32);  // read by all
  std::vector<int32_t> ids;
  for (int i = 0; i < 18; ++i) ids.push_back(i % 11);
  const Tensor targets = Tensor::from(ids, {18});
  constexpr int kThreads = 4;
  std::vector<std::vector<double>> alone(kThreads), together(kThreads);
  for (int i = 0; i < kThreads; ++i)
    alone[static_cast<size_t>(i)] = gradients(x, targets, 10u * static_cast<uint64_t>(i), 1);
  in_threads(kThreads, [&](int i) {
    together[static_cast<size_t>(i)] = gradients(x, targets, 10u * static_cast<uint64_t>(i), 8);
  });
  CHECK(alone == together);
  CHECK(alone[0] != alone[1]);
}

TEST_CASE("NoGrad and tapes of one thread mean nothing to another") {
  std::vector<int> recorded(3, -1);
  const NoGrad here;
  in_threads(3, [&](int i) {
    Tape own;
    const TapeScope scope(own);
    const Var y = scale(Var::leaf(Tensor::from<double>({1.0})), 2);
    if (i == 1) {
      const NoGrad there;
      static_cast<void>(scale(y, 3));
    }
    recorded[static_cast<size_t>(i)] = static_cast<int>(own.size());
    own.backward(y);
  });
  CHECK(recorded == std::vector<int>{1, 1, 1});
  CHECK_FALSE(grad_enabled());
  CHECK(Tape::current().size() == 0);
}

TEST_CASE("the allocator counts right while many threads take and give back") {
  const int64_t before = memory_stats().live_bytes;
  in_threads(4, [](int i) {
    const MemoryTag tag(i % 2 ? "odd threads" : "even threads");
    for (int round = 0; round < 200; ++round) {
      const Tensor a = Tensor::zeros({1 + (round * 37 + i) % 500}), b = a.clone();
      if (round % 50 == 0) release_cached_memory();
    }
  });
  CHECK(memory_stats().live_bytes == before);
  CHECK(memory_stats().live_by_tag.at("odd threads") == 0);
}
