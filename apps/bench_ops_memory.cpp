// The rows of `ropewalk bench ops` that memory bounds: norms, RoPE, elementwise ops, losses, the optimizer. Which op at
// which shape, and the bytes and FLOPs it is charged with.
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
    const auto update = [&](const Tensor& copy) { cuda::adamw(master, grad, {m, v}, copy, table, scalars, norm); };
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
      b.row("adamw", "AdamW split " + shape + "28 B/param)", b.time([&] {
        cuda::adamw_split(compute, low, narrow, {m, v}, table, scalars, norm);
      }),
            28.0 * static_cast<double>(n), 0, Ceiling::copy);
    }
    b.row("adamw", "cast fp32->bf16 weights " + shape + "6 B/param)", b.time([&] { compute.copy_from(master); }),
          6.0 * static_cast<double>(n), 0, Ceiling::copy);
  }
}
