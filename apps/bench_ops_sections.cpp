// The rows of `ropewalk bench ops`: which op at which shape, and the bytes and FLOPs it is charged with.
#include <array>
#include <cmath>
#include <cstdlib>

#include "autograd/ops/attention.h"
#include "autograd/ops/cuda_ops.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/embedding.h"
#include "autograd/ops/loss.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/rope.h"
#include "autograd/ops/swiglu.h"
#include "autograd/tape.h"
#include "bench_ops.h"
#include "model_shapes.h"
#include "nn/cuda_optim.h"
#include "tensor/gemm.h"

using namespace rw;

double bytes_of(const Tensor& t) { return static_cast<double>(t.bytes()); }
double product(std::initializer_list<int64_t> factors) {
  double p = 1;
  for (int64_t f : factors) p *= static_cast<double>(f);
  return p;
}

std::vector<int64_t> sizes(const std::string& text, size_t parts) {
  std::vector<int64_t> all;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find('x', at), text.size());
    all.push_back(std::atoll(text.substr(at, end - at).c_str()));
    check(all.back() > 0, "bench", "'", text, "' is not ", parts, " positive numbers joined by x");
    at = end + 1;
  }
  check(all.size() == parts, "bench", "'", text, "' is not ", parts, " positive numbers joined by x");
  return all;
}

std::vector<TimedModel> timed_models() {
  std::vector<TimedModel> models;
  for (const auto& [name, tokens] : {std::pair{"S", 32768}, std::pair{"M", 32768}, std::pair{"L", 16384}})
    models.push_back({model_shape("bench", name), tokens});
  return models;
}

void forward_backward(OpsBench& b, const OpWork& w, const std::vector<Tensor>& inputs, const Op& op,
                      const std::vector<Tensor>& gradient_buffers) {
  const std::vector<Var> constants(inputs.begin(), inputs.end());
  b.row(w.section, w.name + " fwd", b.time([&] { op(constants); }), w.forward_bytes, w.forward_flops, w.ceiling);
  std::vector<Var> leaves;
  for (size_t i = 0; i < inputs.size(); ++i) {
    leaves.push_back(i < gradient_buffers.size() && gradient_buffers[i].defined()
                         ? Var::leaf(inputs[i], gradient_buffers[i])
                         : Var::leaf(inputs[i]));
  }
  Tape tape;
  tape.set_fast_atomics(Tape::current().fast_atomics());
  const TapeScope scope(tape);
  Var y;
  Tensor dy;
  const auto forward = [&] {
    for (size_t i = 0; i < leaves.size(); ++i) {
      if (!leaves[i].slot()->fixed_buffer) leaves[i].clear_grad();
    }
    y = op(leaves);
    if (!dy.defined()) dy = b.random(y.shape(), y.dtype(), 7);
  };
  b.row(w.section, w.name + " bwd", b.time([&] { tape.backward({y}, {dy}); }, forward), w.backward_bytes,
        w.backward_flops, w.ceiling);
}

namespace {

/// Weight [n, k] of a linear layer.
struct Layer {
  const char* name;
  int64_t n, k;
};
/// The products of one block as they are packed, and the head.
std::array<Layer, 5> layers_of(const ModelShape& c, int64_t vocab) {
  return {Layer{"qkv", (c.heads + 2 * c.kv_heads) * c.head_dim(), c.hidden}, Layer{"o", c.hidden, c.hidden},
          Layer{"gate_up", 2 * c.ffn, c.hidden}, Layer{"down", c.hidden, c.ffn}, Layer{"head", vocab, c.hidden}};
}

Times time_product(OpsBench& b, const Tensor& x, const Tensor& w, const Tensor& y) {
  return b.time([&] { gemm(x, transposed(w), y); });
}

/// y = x W^T, dx = dy W, dW += dy^T x (f32): the three products of a linear layer with M tokens.
void linear_rows(OpsBench& b, const std::string& name, int64_t m, int64_t n, int64_t k) {
  const Tensor x = b.random({m, k}), w = b.random({n, k}, DType::bf16, 2), y = b.random({m, n}, DType::bf16, 3);
  const Tensor dw = Tensor::zeros({n, k}, DType::f32, b.device());
  const double flops = 2 * product({m, n, k}), in_out = 2 * (product({m, k}) + product({n, k}) + product({m, n}));
  b.row("gemm", name + " fwd", time_product(b, x, w, y), in_out, flops, Ceiling::gemm);
  b.row("gemm", name + " dgrad", b.time([&] { gemm(y, w, x); }), in_out, flops, Ceiling::gemm);
  b.row("gemm", name + " wgrad", b.time([&] { gemm(transposed(y), x, dw, {.beta = 1}); }), in_out + 6 * product({n, k}),
        flops, Ceiling::gemm);
}

}  // namespace

void bench_rooflines(OpsBench& b) {
  b.heading("ceilings of this card");
  {
    const int64_t n = int64_t{1} << 31;  // 4 GiB of bf16
    const Tensor from = b.random({n}), to = Tensor::empty({n}, DType::bf16, b.device());
    const Tensor sum = Tensor::empty({1}, DType::f32, b.device());
    const Times copy = b.time([&] { to.copy_from(from); });
    b.set_copy_rate(2 * bytes_of(from) / copy.median);
    b.row("copy", "d2d copy 4 GiB", copy, 2 * bytes_of(from), 0, Ceiling::copy);
    b.row("copy", "read-only (sum) 4 GiB", b.time([&] { cuda::sum_all(from, 1, sum); }), bytes_of(from), 0,
          Ceiling::copy);
    b.row("copy", "write-only (fill) 4 GiB", b.time([&] { to.fill(1.5); }), bytes_of(to), 0, Ceiling::copy);
    for (const int64_t mebibytes : {96, 256}) {  // a short kernel also pays for its start and end
      const Tensor x = from.slice(0, mebibytes << 19), y = to.slice(0, mebibytes << 19);
      b.row("copy", cat("d2d copy ", mebibytes, " MiB"), b.time([&] { y.copy_from(x); }), 2 * bytes_of(x), 0,
            Ceiling::copy);
    }
  }
  const int64_t n = 8192;
  const Tensor x = b.random({n, n}), w = b.random({n, n}, DType::bf16, 2), y = b.random({n, n}, DType::bf16, 3);
  const Times product_time = time_product(b, x, w, y);
  b.set_gemm_rate(2 * product({n, n, n}) / product_time.median);
  b.row("gemm", "square 8192 bf16", product_time, 3 * bytes_of(x), 2 * product({n, n, n}), Ceiling::gemm);
  release_cached_memory(b.device());
}

void bench_gemm_shapes(OpsBench& b) {
  b.heading("matrix products, bf16 with f32 sums (wgrad adds to an f32 gradient)");
  for (const std::string& text : b.options().gemm) {
    const std::vector<int64_t> s = sizes(text, 3);
    linear_rows(b, cat("M=", s[0], " N=", s[1], " K=", s[2]), s[0], s[1], s[2]);
  }
  if (!b.options().gemm.empty()) return;
  linear_rows(b, "square 8192", 8192, 8192, 8192);
  for (const auto& [c, tokens] : timed_models()) {
    for (const Layer& layer : layers_of(c, b.options().vocab))
      linear_rows(b, cat(c.name, " ", layer.name, " M=", tokens, " N=", layer.n, " K=", layer.k), tokens, layer.n,
                  layer.k);
    release_cached_memory(b.device());
  }
}

namespace {

void attention_rows(OpsBench& b, int64_t batch, int64_t heads, int64_t kv_heads, int64_t length, int64_t head_dim) {
  const Tensor q = b.random({batch, length, heads, head_dim}),
               k = b.random({batch, length, kv_heads, head_dim}, DType::bf16, 2),
               v = b.random({batch, length, kv_heads, head_dim}, DType::bf16, 3);
  const double flops = 2 * product({batch, heads, length, length, head_dim});  // 4 B H T^2 D, causal: half
  const double qo = 2 * bytes_of(q), kv = 2 * bytes_of(k);
  std::string name = cat("hd", head_dim, " H", heads);
  if (kv_heads != heads) name += cat("/kv", kv_heads);
  name += cat(" T", length, kv_heads != heads ? " gqa" : "", " B", batch);
  const auto op = [](const std::vector<Var>& in) { return attention(in[0], in[1], in[2]); };
  forward_backward(b, {"attn", name, qo + kv, 2 * (qo + kv), flops, 2.5 * flops, Ceiling::gemm}, {q, k, v}, op);
  const std::vector<Var> leaves{Var::leaf(q), Var::leaf(k), Var::leaf(v)};
  const Tensor d_o = b.random(q.shape(), DType::bf16, 4);
  Tape tape;
  tape.set_fast_atomics(Tape::current().fast_atomics());
  const TapeScope scope(tape);
  const Times both = b.time([&] { tape.backward({op(leaves)}, {d_o}); },
                            [&] {
                              for (const Var& leaf : leaves) leaf.clear_grad();
                            });
  b.row("attn", name + " fwd+bwd", both, 3 * (qo + kv), 3.5 * flops, Ceiling::gemm);
}

}  // namespace

void bench_attention_shapes(OpsBench& b) {
  b.heading("attention, causal, bf16 (forward 2 B H T^2 D FLOPs, backward 2.5 times that)");
  std::vector<std::string> heads;
  for (const std::string& text : b.options().heads) heads.push_back(text);
  const bool standard = heads == OpsOptions().heads;
  if (standard) heads = {"32x64", "16x128"};
  for (const std::string& text : heads) {
    const std::vector<int64_t> s = sizes(text, 2);
    for (const int64_t length : b.options().lengths)
      attention_rows(b, std::max<int64_t>(1, 32768 / length), s[0], s[0], length, s[1]);
  }
  if (!standard) return;
  for (const auto& [h, kv, d] : std::vector<std::array<int64_t, 3>>{{32, 4, 64}, {32, 8, 128}}) {
    for (const int64_t length : b.options().lengths) {
      if (length == 2048 || length == 8192 || length == 32768)
        attention_rows(b, std::max<int64_t>(1, 16384 / length), h, kv, length, d);
    }
  }
}

void bench_decoding(OpsBench& b) {
  b.heading("decoding one token of L, bf16 (bytes: the cache or the weights once)");
  const ModelShape& c = model_shape("bench", "L");
  for (const int64_t length : {1024, 8192, 32768, 131072}) {
    const Tensor k = b.random({1, length, c.kv_heads, c.head_dim()}), v = b.random(k.shape(), DType::bf16, 2),
                 qkv = b.random({1, 1, c.heads + 2 * c.kv_heads, c.head_dim()}, DType::bf16, 3);
    const NoGrad no_grad;
    b.row("decode",
          cat("attention over the cache H", c.heads, "/kv", c.kv_heads, " hd", c.head_dim(), " length ", length),
          b.time([&] { attention_cached(qkv, c.heads, k, v, length); }), 2 * bytes_of(k),
          4 * product({c.heads, length, c.head_dim()}), Ceiling::copy);
  }
  for (const auto& [layer, n, k] : layers_of(c, b.options().vocab)) {
    const Tensor w = b.random({n, k}), x = b.random({1, k}, DType::bf16, 2),
                 y = Tensor::empty({1, n}, DType::bf16, b.device());
    b.row("decode", cat("matvec L ", layer, " N=", n, " K=", k), time_product(b, x, w, y), bytes_of(w),
          2 * product({n, k}), Ceiling::copy);
  }
}
