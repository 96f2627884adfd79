// Token embedding on the CPU: rows of a table, and the sum of their gradients in the order of the tokens.
#include "autograd/ops/embedding.h"

#include "autograd/ops/cuda_ops.h"
#include "autograd/tape.h"
#include "tensor/cpu_levels.h"
#include "tensor/parallel_for.h"

namespace rw {
namespace {

struct EmbeddingNode : Node {  // saved: ids [N]
  Shape weight_shape;
  DType grad_dtype = DType::f32;
  const char* name() const override { return "embedding"; }

  void backward() override {
    const Tensor& ids = saved[0];
    const int64_t columns = weight_shape[1], n = ids.numel();
    const Tensor dy = grad_out().view({n, columns});
    const Target dw = grad_target(0, weight_shape, grad_dtype, dy.device());
    if (dw.beta == 0) dw.tensor.zero();
    if (dy.is_cuda()) return cuda::embedding_backward(ids, dy, dw.tensor, fast_atomics());
    dispatch_float(dy.dtype(), name(), [&](auto dy_zero) {
      dispatch_float(dw.tensor.dtype(), name(), [&](auto dw_zero) {
        using T = decltype(dy_zero);
        using W = decltype(dw_zero);
        const int32_t* id = ids.data<int32_t>();
        const T* from = dy.data<T>();
        W* to = dw.tensor.data<W>();
        // Threads share out the columns, so that repeated ids are added in token order whatever the thread count.
        parallel_for(columns, 16, [=](int64_t begin, int64_t end) RW_CPU_LEVELS {
          for (int64_t t = 0; t < n; ++t) {
            W* row = to + id[t] * columns;
            const T* g = from + t * columns;
            for (int64_t c = begin; c < end; ++c)
              row[c] = static_cast<W>(static_cast<Acc<W>>(row[c]) + static_cast<Acc<W>>(g[c]));
          }
        });
      });
    });
  }
};

}  // namespace

Var embedding(const Tensor& ids, const Var& weight) {
  check(weight.rank() == 2, "embedding", "weight must have shape [V, C], got ", weight.shape());
  check(ids.defined() && ids.dtype() == DType::i32, "embedding", "ids must be i32");
  check(ids.device() == weight.device(), "embedding", "ids are on ", ids.device(), ", weight on ", weight.device());
  const int64_t vocab = weight.size(0), columns = weight.size(1), n = ids.numel();
  Shape shape = ids.shape();
  shape.push_back(columns);
  const Tensor y = Tensor::empty(shape, weight.dtype(), weight.device());
  if (weight.is_cuda()) {
    cuda::embedding_forward(ids.view({n}), weight.value(), y.view({n, columns}));
  } else {
    const int32_t* id = ids.data<int32_t>();
    for (int64_t t = 0; t < n; ++t) {
      check(id[t] >= 0 && id[t] < vocab, "embedding", "token id ", id[t], " at index ", t,
            " is outside the vocabulary [0, ", vocab, ")");
    }
    const int64_t row = columns * size_of(weight.dtype());
    char* to = static_cast<char*>(y.raw());
    const char* from = static_cast<const char*>(weight.value().raw());
    parallel_for(n, 256, [=](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) std::memcpy(to + t * row, from + id[t] * row, static_cast<size_t>(row));
    });
  }
  Var out(y);
  if (records(weight)) {
    auto node = std::make_unique<EmbeddingNode>();
    node->weight_shape = weight.shape();
    node->grad_dtype = weight.dtype() == DType::bf16 ? DType::f32 : weight.dtype();
    node->saved = {ids.view({n})};
    Tape::current().record(std::move(node), {weight}, {&out});
  }
  return out;
}

}  // namespace rw
