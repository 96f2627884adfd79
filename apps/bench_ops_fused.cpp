// `ropewalk bench ops --only fused`: a linear layer and the op after it in one kernel beside two kernels, layer by
// layer of the shapes that train.
#include "autograd/ops/cuda_ops.h"
#include "bench_ops.h"
#include "model_shapes.h"
#include "tensor/gemm.h"

using namespace rw;

namespace {

/// Rows of one layer: two kernels, one kernel. Both are timed twice, in turn.
void pair_of_rows(OpsBench& b, const std::string& name, double bytes, double flops, const std::function<void()>& two,
                  const std::function<void()>& one) {
  for (const char* turn : {"", ", again"}) {
    b.row("fused", cat(name, ", two kernels", turn), b.time(two), bytes, flops, Ceiling::gemm);
    b.row("fused", cat(name, ", one kernel", turn), b.time(one), bytes, flops, Ceiling::gemm);
  }
}

void swiglu_rows(OpsBench& b, const ModelShape& s, int64_t rows) {
  const int64_t c = s.hidden, f = s.ffn;
  if (!cuda::linear_fuses(rows, f, c)) return;
  const Tensor x = b.random({rows, c}), up = b.random({2 * f, c}, DType::bf16, 2),
               down = b.random({c, f}, DType::bf16, 3), dy = b.random({rows, c}, DType::bf16, 4);
  const Tensor both = b.random({rows, 2 * f}), h = b.random({rows, f}), d = b.random({rows, 2 * f});
  const double n = product({rows, f});
  pair_of_rows(
      b, cat(s.name, " gate_up, swiglu"), bytes_of(x) + bytes_of(up) + 6 * n, 4 * n * static_cast<double>(c),
      [&] {
        gemm(x, transposed(up), both);
        cuda::swiglu_packed_forward(both, h);
      },
      [&] { cuda::linear_swiglu(x, up, both, h); });
  pair_of_rows(
      b, cat(s.name, " down's gradient, swiglu's"), bytes_of(dy) + bytes_of(down) + 8 * n,
      2 * n * static_cast<double>(c),
      [&] {
        gemm(dy, down, h);
        cuda::swiglu_packed_backward(both, h, d);
      },
      [&] { cuda::linear_swiglu_backward(dy, down, both, d); });
}

void rope_rows(OpsBench& b, const ModelShape& s, int64_t rows) {
  const int64_t heads = s.heads + 2 * s.kv_heads, n = heads * s.head_dim();
  if (!cuda::linear_fuses(rows, n, s.hidden) || (s.head_dim() != 64 && s.head_dim() != 128)) return;
  const Tensor x = b.random({rows, s.hidden}), w = b.random({n, s.hidden}, DType::bf16, 2);
  const Tensor y = Tensor::empty({rows / s.window, s.window, heads, s.head_dim()}, DType::bf16, b.device());
  const Tensor table = b.random({1, s.window, s.head_dim() / 2}, DType::f32);
  pair_of_rows(
      b, cat(s.name, " qkv, rope"), bytes_of(x) + bytes_of(w) + bytes_of(y), 2 * product({rows, n, s.hidden}),
      [&] {
        gemm(x, transposed(w), y.view({rows, n}));
        cuda::rope_apply(y, table, table, 1, RopeLayout::half, s.heads + s.kv_heads, +1, y);
      },
      [&] { cuda::linear_rope(x, w, table, table, 1, s.heads + s.kv_heads, y); });
}

}  // namespace

void bench_fused(OpsBench& b) {
  b.heading("linear layers and the op after them (FLOPs of the product alone)");
  for (const char* model : {"S", "M", "L", "X"}) {
    const ModelShape s = model_shape("bench", model);
    swiglu_rows(b, s, s.window * s.batch);
    rope_rows(b, s, s.window * s.batch);
    release_cached_memory(b.device());
  }
}
