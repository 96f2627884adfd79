// Dropout as a recorded op. Backward draws the mask again instead of keeping it.
#include "autograd/ops/dropout.h"

#include "autograd/ops/detail/dropout_mask.h"
#include "autograd/tape.h"
#include "tensor/parallel_for.h"

namespace rw {
namespace {

template <class T>
void mask_cpu(const T* x, T* y, int64_t n, int64_t first, uint64_t draw, double p, const DropoutKey& key) {
  const auto kept = static_cast<Acc<T>>(1 / (1 - p));
  const uint32_t limit = detail::dropout_limit(p);
  const std::array<uint32_t, 2> words{static_cast<uint32_t>(key.seed), static_cast<uint32_t>(key.seed >> 32)};
  parallel_for(n, 1 << 12, [&](int64_t begin, int64_t end) {
    std::array<uint32_t, 4> random{};
    for (int64_t i = begin; i < end; ++i) {
      const auto element = static_cast<uint64_t>(first + i);
      if (i == begin || element % 4 == 0) {
        const detail::DropoutCounter c = detail::dropout_counter(element / 4, draw, key.site);
        random = philox4x32({c.word[0], c.word[1], c.word[2], c.word[3]}, words);
      }
      y[i] = random[element % 4] < limit ? T(0) : static_cast<T>(static_cast<Acc<T>>(x[i]) * kept);
    }
  });
}

Tensor masked(const Tensor& x, double p, const DropoutKey& key) {
  const Tensor y = Tensor::empty_like(x);
  if (x.is_cuda()) {
    cuda::dropout(x, p, key, y);
    return y;
  }
  const auto* w = static_cast<const uint32_t*>(key.words.raw());
  const uint64_t draw = static_cast<uint64_t>(w[1]) << 32 | w[0], row = static_cast<uint64_t>(w[3]) << 32 | w[2];
  dispatch_float(x.dtype(), "dropout", [&](auto zero) {
    using T = decltype(zero);
    mask_cpu(x.data<T>(), y.data<T>(), x.numel(), (static_cast<int64_t>(row) + key.row) * x.size(-1), draw, p, key);
  });
  return y;
}

struct DropoutNode : Node {
  double p = 0;
  DropoutKey key;
  const char* name() const override { return "dropout"; }
  void backward() override { add_grad(0, masked(grad_out(), p, key)); }
};

}  // namespace

Var dropout(const Var& x, double p, const DropoutKey& key) {
  check(p >= 0 && p < 1, "dropout", "p must be at least 0 and below 1, got ", p);
  check(key.words.defined() && key.words.dtype() == DType::i32 && key.words.numel() == 4 &&
            key.words.device() == x.device(),
        "dropout", "the key must be i32 [4] on ", x.device());
  check(key.site < 1u << 24, "dropout", "site ", key.site, " is not below 2^24");
  if (p == 0) return x;
  Var out(masked(x.value(), p, key));
  if (records(x)) {
    auto node = std::make_unique<DropoutNode>();
    node->p = p;
    node->key = key;
    Tape::current().record(std::move(node), {x}, {&out});
  }
  return out;
}

}  // namespace rw
