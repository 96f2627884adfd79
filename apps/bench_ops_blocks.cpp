// `ropewalk bench ops`, section blocks: the ops of blocks beyond LLaMA's, and attention with a window.
#include "autograd/ops/activation.h"
#include "autograd/ops/attention.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/norm.h"
#include "autograd/tape.h"
#include "bench_ops.h"

using namespace rw;

namespace {

using Vars = std::vector<Var>;

double bytes_of(const Tensor& t) { return static_cast<double>(t.bytes()); }

void layer_norm_rows(OpsBench& b, int64_t d) {
  const int64_t tokens = b.options().tokens;
  const Tensor x = b.random({tokens, d}), w = b.random({d}, DType::bf16, 2), bias = b.random({d}, DType::bf16, 3),
               r = b.random({tokens, d}, DType::bf16, 4);
  const Tensor dw = Tensor::zeros({d}, DType::f32, b.device()), db = Tensor::zeros({d}, DType::f32, b.device());
  const double n = bytes_of(x);
  forward_backward(b, {"blocks", cat("layernorm d=", d), 2 * n, 3 * n}, {x, w, bias},
                   [](const Vars& v) { return layer_norm(v[0], v[1], v[2], 1e-5); }, {Tensor(), dw, db});
  const NoGrad no_grad;
  const Vars in{x, r, w, bias};
  b.row("blocks", cat("residual+layernorm d=", d, " fwd"),
        b.time([&] { residual_layer_norm(in[0], in[1], in[2], in[3], 1e-5); }), 4 * n, 0, Ceiling::copy);
}

void qk_norm_rows(OpsBench& b, int64_t heads, int64_t kv_heads, int64_t d) {
  const int64_t tokens = b.options().tokens;
  const Tensor qkv = b.random({1, tokens, heads + 2 * kv_heads, d}), wq = b.random({d}, DType::bf16, 2),
               wk = b.random({d}, DType::bf16, 3);
  const Tensor dq = Tensor::zeros({d}, DType::f32, b.device()), dk = Tensor::zeros({d}, DType::f32, b.device());
  const QkNormOptions options{.n_heads = heads, .n_kv_heads = kv_heads};
  const double n = bytes_of(qkv);
  forward_backward(b, {"blocks", cat("qk_norm H=", heads, "/kv", kv_heads, " hd=", d), 2 * n, 3 * n}, {qkv, wq, wk},
                   [&](const Vars& v) { return qk_norm(v[0], v[1], v[2], options); }, {Tensor(), dq, dk});
}

void activation_rows(OpsBench& b, int64_t ffn) {
  const int64_t tokens = b.options().tokens;
  const Tensor x = b.random({tokens, ffn}), both = b.random({tokens, 2 * ffn}), bias = b.random({ffn}, DType::bf16, 3);
  const double n = bytes_of(x);
  for (const auto& [name, a] : {std::pair{"gelu", Activation::gelu}, std::pair{"gelu_tanh", Activation::gelu_tanh}}) {
    forward_backward(b, {"blocks", cat(name, " ffn=", ffn), 2 * n, 3 * n}, {x},
                     [a = a](const Vars& v) { return activate(v[0], a); });
    forward_backward(b, {"blocks", cat("gated ", name, " ffn=", ffn), 3 * n, 5 * n}, {both},
                     [a = a](const Vars& v) { return gated_packed(v[0], a); });
  }
  const Tensor db = Tensor::zeros({ffn}, DType::f32, b.device());
  forward_backward(b, {"blocks", cat("add_bias C=", ffn), 2 * n, n}, {x, bias},
                   [](const Vars& v) { return add_bias(v[0], v[1]); }, {Tensor(), db});
}

/// The work is linear in the length: 4 T W D FLOPs per head.
void window_rows(OpsBench& b, int64_t heads, int64_t d, int64_t window, double soft_cap) {
  for (const int64_t length : {4096, 8192, 16384, 32768}) {
    const Tensor qkv = b.random({1, length, 3 * heads, d});
    const double n = bytes_of(qkv), flops = 4.0 * static_cast<double>(heads * length * window * d);
    const AttentionOptions options{.window = window, .soft_cap = soft_cap};
    const std::string name = cat("attention hd", d, " H", heads, " window ", window, soft_cap > 0 ? " soft cap" : "");
    forward_backward(b, {"blocks", cat(name, " T", length), n, 2 * n, flops, 2.5 * flops, Ceiling::gemm}, {qkv},
                     [&](const Vars& v) { return attention_packed(v[0], heads, heads, options); });
  }
}

}  // namespace

void bench_block_ops(OpsBench& b) {
  b.heading(cat("ops of other blocks, bf16, ", b.options().tokens, " tokens; attention with a window, one sample"));
  for (const int64_t d : b.options().hidden) layer_norm_rows(b, d);
  qk_norm_rows(b, 32, 8, 128);
  qk_norm_rows(b, 16, 16, 64);
  for (const int64_t ffn : b.options().ffn) activation_rows(b, ffn);
  window_rows(b, 16, 128, 1024, 0);
  window_rows(b, 16, 128, 1024, 50);
}
