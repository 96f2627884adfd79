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

namespace {

double bytes_of(const Tensor& t) { return static_cast<double>(t.bytes()); }
double product(std::initializer_list<int64_t> factors) {
  double p = 1;
  for (int64_t f : factors) p *= static_cast<double>(f);
  return p;
}

/// `parts` numbers joined by x: "12x64". Errors: anything else.
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

}  // namespace

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

/// The shapes whose products and optimizer are timed, with the tokens of a step.
struct TimedModel {
  ModelShape shape;
  int64_t tokens;
};
std::vector<TimedModel> timed_models() {
  std::vector<TimedModel> models;
  for (const auto& [name, tokens] : {std::pair{"S", 32768}, std::pair{"M", 32768}, std::pair{"L", 16384}})
    models.push_back({model_shape("bench", name), tokens});
  return models;
}

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
  b.row("gemm", name + " wgrad", b.time([&] { gemm(transposed(y), x, dw, {.beta = 1}); }),
        in_out + 6 * product({n, k}), flops, Ceiling::gemm);
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

void norm_rows(OpsBench& b, int64_t d) {
  const int64_t tokens = b.options().tokens;
  const Tensor x = b.random({tokens, d}), r = b.random({tokens, d}, DType::bf16, 2), w = b.random({d}, DType::bf16, 3);
  const Tensor dw = Tensor::zeros({d}, DType::f32, b.device());
  const double n = bytes_of(x);
  forward_backward(b, {"ops", cat("rmsnorm d=", d), 2 * n, 3 * n}, {x, w},
                   [](const std::vector<Var>& v) { return rms_norm(v[0], v[1], 1e-5); }, {Tensor(), dw});
  // Both outputs are used, as in a block: y gets its gradient here, h through the kernel's dh.
  const std::vector<Var> constants{x, r, w};
  const auto op = [](const std::vector<Var>& v) { return residual_rms_norm(v[0], v[1], v[2], 1e-5); };
  b.row("ops", cat("residual+rmsnorm d=", d, " fwd"), b.time([&] { op(constants); }), 4 * n, 0, Ceiling::copy);
  const Var vx = Var::leaf(x), vr = Var::leaf(r), vw = Var::leaf(w, dw);
  const Tensor dh = b.random({tokens, d}, DType::bf16, 4), dy = b.random({tokens, d}, DType::bf16, 5);
  Tape tape;
  tape.set_fast_atomics(Tape::current().fast_atomics());
  const TapeScope scope(tape);
  std::pair<Var, Var> out;
  const Times backward = b.time(
      [&] {
        tape.backward({out.first, out.second}, {dh, dy});
      },
      [&] {
        vx.clear_grad();
        vr.clear_grad();
        out = op({vx, vr, vw});
      });
  b.row("ops", cat("residual+rmsnorm d=", d, " bwd"), backward, 4 * n, 0, Ceiling::copy);
}

void rope_rows(OpsBench& b, int64_t heads, int64_t head_dim) {
  const int64_t length = std::min<int64_t>(4096, b.options().tokens), batch = b.options().tokens / length;
  const Tensor q = b.random({batch, length, heads, head_dim});
  const Tensor inv_freq = Tensor::empty({head_dim / 2}, DType::f64);
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    inv_freq.data<double>()[i] = std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
  }
  const std::string shape = cat("H=", heads, " hd=", head_dim);
  const double n = bytes_of(q);
  for (const int64_t rows : {int64_t{1}, batch}) {  // one table for all samples; positions of each sample's own
    const Tensor positions = Tensor::empty({rows, length});
    for (int64_t i = 0; i < positions.numel(); ++i) positions.data<float>()[i] = static_cast<float>(3 * (i % length));
    const RopeAngles angles = rope_angles(positions, inv_freq, 1.0, DType::bf16, b.device());
    const double tables = bytes_of(angles.cos) + bytes_of(angles.sin);
    const std::string name =
        rows == 1 ? "rope q only " + shape : "rope q only " + shape + " own positions, tables counted";
    forward_backward(b, {"ops", name, 2 * n + tables, 2 * n + tables}, {q},
                     [&](const std::vector<Var>& v) { return rope(v[0], angles); });
    if (rows == 1) continue;
    const Tensor on_device = positions.to(b.device()), frequencies = inv_freq.to(b.device());
    b.row("ops", cat("rope cos/sin table from pos, hd=", head_dim, " (B*T=", batch * length, ")"),
          b.time([&] { cuda::rope_tables(on_device, frequencies, angles.cos, angles.sin); }), tables, 0, Ceiling::copy);
    const Tensor d = Tensor::zeros({head_dim / 2}, DType::f32, b.device()), dy = b.random(q.shape(), DType::bf16, 2);
    b.row("ops", "rope gradient to inv_freq " + shape,
          b.time([&] { cuda::rope_inv_freq_backward(q, dy, on_device, RopeLayout::half, heads, d); }), 2 * n, 0,
          Ceiling::copy);
    // As a block runs it: q and k of one packed product [B,T,H+2K,D], turned where they lie.
    const Tensor packed = b.random({batch, length, 3 * heads, head_dim});
    const NoGrad no_grad;
    b.row("ops", "rope q and k in place, packed qkv " + shape,
          b.time([&] { rope(packed, angles, {.heads = 2 * heads, .in_place = true}); }), 4 * n + tables, 0,
          Ceiling::copy);
  }
}

}  // namespace

void bench_memory_ops(OpsBench& b) {
  const int64_t tokens = b.options().tokens, vocab = b.options().vocab;
  b.heading(cat("memory-bound ops, bf16, ", tokens, " tokens"));
  for (const int64_t d : b.options().hidden) norm_rows(b, d);
  for (const std::string& text : b.options().heads) {
    const std::vector<int64_t> s = sizes(text, 2);
    rope_rows(b, s[0], s[1]);
  }
  for (const int64_t ffn : b.options().ffn) {
    const Tensor gate = b.random({tokens, ffn}), up = b.random({tokens, ffn}, DType::bf16, 2);
    const double n = bytes_of(gate);
    forward_backward(b, {"ops", cat("swiglu ffn=", ffn), 3 * n, 5 * n}, {gate, up},
                     [](const std::vector<Var>& v) { return swiglu(v[0], v[1]); });
    const Tensor both = b.random({tokens, 2 * ffn});
    forward_backward(b, {"ops", cat("swiglu packed ffn=", ffn), 3 * n, 5 * n}, {both},
                     [](const std::vector<Var>& v) { return swiglu_packed(v[0]); });
  }
  const int64_t d = 768;
  const Tensor ids = b.random_ids(tokens, vocab);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Tensor w = b.random({vocab, d}, dtype), dw = Tensor::zeros({vocab, d}, DType::f32, b.device());
    const double rows = product({tokens, d, size_of(dtype)});
    forward_backward(
        b,
        {"ops", cat("embedding ", dtype == DType::f32 ? "fp32" : "bf16", " V=", vocab, " d=", d, " ", tokens, " tok"),
         2 * rows, rows + bytes_of(dw)},
        {w}, [&](const std::vector<Var>& v) { return embedding(ids, v[0]); }, {dw});
  }
  const Tensor x = b.random({tokens, 2048}), y = b.random({tokens, 2048}, DType::bf16, 2);
  const NoGrad no_grad;
  b.row("ops", "residual add bf16", b.time([&] { add(x, y); }), 3 * bytes_of(x), 0, Ceiling::copy);
}

void bench_losses(OpsBench& b) {
  const int64_t vocab = b.options().vocab, d = 2048;
  b.heading(cat("cross-entropy, vocabulary ", vocab, " (bytes: logits read twice, gradient written once)"));
  for (const int64_t tokens : b.options().ce_tokens) {
    const Tensor targets = b.random_ids(tokens, vocab);
    {
      const Tensor logits = b.random({tokens, vocab}), nll = Tensor::empty({tokens}, DType::f32, b.device());
      const Var leaf = Var::leaf(logits);
      const double n = bytes_of(logits);
      const Times both =
          b.time([&] { backward(cross_entropy(leaf, targets, Reduction::sum)); }, [&] { leaf.clear_grad(); });
      b.row("ce", cat("CE fwd+bwd ", tokens, " tok"), both, 3 * n, 0, Ceiling::copy);
      leaf.clear_grad();
      b.row("ce", cat("CE loss and gradient in place ", tokens, " tok"),
            b.time([&] { cuda::cross_entropy_rows(logits, targets, true, nll); }), 2 * n, 0, Ceiling::copy);
      b.row("ce", cat("CE loss only ", tokens, " tok"),
            b.time([&] { cuda::cross_entropy_rows(logits, targets, false, nll); }), n, 0, Ceiling::copy);
    }
    release_cached_memory(b.device());
    const int64_t before = memory_stats(b.device()).live_bytes;
    const Tensor x = b.random({tokens, d}), w = b.random({vocab, d}, DType::bf16, 2);
    const Var vx = Var::leaf(x), vw = Var::leaf(w);
    const auto step = [&] { backward(linear_cross_entropy(vx, vw, targets, Reduction::sum)); };
    const auto clear = [&] {
      vx.clear_grad();
      vw.clear_grad();
    };
    reset_peak_memory(b.device());
    step();
    const double peak = static_cast<double>(memory_stats(b.device()).peak_bytes - before);
    b.row("ce", cat("linear+CE d=", d, " ", tokens, " tok"), b.time(step, clear), 0, 6 * product({tokens, vocab, d}),
          Ceiling::gemm, peak);
  }
}

void bench_optimizer(OpsBench& b) {
  b.heading("optimizer, f32 arena (AdamW reads p, g, m, v; writes p, m, v, the zeroed g and the bf16 copy)");
  for (const auto& [c, tokens] : timed_models()) {
    if (c.name[0] == 'S') continue;
    const int64_t n = c.parameters(b.options().vocab) / 64 * 64;
    const Device device = b.device();
    const Tensor master = b.random({n}, DType::f32), grad = b.random({n}, DType::f32, 2),
                 m = b.random({n}, DType::f32, 3), v = Tensor::full({n}, 1e-2, DType::f32, device),
                 compute = Tensor::empty({n}, DType::bf16, device), norm = Tensor::empty({1}, DType::f64, device),
                 scalars = Tensor::empty({cuda::kAdamWScalars}, DType::f32, device);
    std::vector<cuda::AdamWSegment> segments;
    for (int64_t i = 0, count = 9 * c.layers + 2; i < count; ++i) segments.push_back({n / count * i, 1.f, 1.f});
    const cuda::AdamWTable table = cuda::adamw_table(segments, n, device);
    cuda::set_adamw_scalars({.lr = 1e-6f, .clip = 1.f}, scalars);
    const std::string shape = cat(c.name, " (", n / 1000000, "M params, ");
    b.row("adamw", "gradient norm fp32 " + shape + "4 B/param)", b.time([&] { cuda::squared_norm(grad, norm); }),
          4.0 * static_cast<double>(n), 0, Ceiling::copy);
    const auto update = [&](const Tensor& copy) { cuda::adamw(master, grad, m, v, copy, table, scalars, norm); };
    b.row("adamw", "AdamW fused fp32 " + shape + "32 B/param)", b.time([&] { update(Tensor()); }),
          32.0 * static_cast<double>(n), 0, Ceiling::copy);
    b.row("adamw", "AdamW with bf16 copy " + shape + "34 B/param)", b.time([&] { update(compute); }),
          34.0 * static_cast<double>(n), 0, Ceiling::copy);
    {
      // The low halves' bits do not matter: any are a master near its copy.
      const Tensor narrow = b.random({n}, DType::bf16, 4), low = Tensor::zeros({n / 2}, DType::i32, device);
      compute.copy_from(master);
      b.row("adamw", "gradient norm bf16 " + shape + "2 B/param)", b.time([&] { cuda::squared_norm(narrow, norm); }),
            2.0 * static_cast<double>(n), 0, Ceiling::copy);
      b.row("adamw", "AdamW lean " + shape + "28 B/param)",
            b.time([&] { cuda::adamw_split(compute, low, narrow, m, v, table, scalars, norm); }),
            28.0 * static_cast<double>(n), 0, Ceiling::copy);
    }
    b.row("adamw", "cast fp32->bf16 weights " + shape + "6 B/param)", b.time([&] { compute.copy_from(master); }),
          6.0 * static_cast<double>(n), 0, Ceiling::copy);
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
