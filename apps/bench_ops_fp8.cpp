// `ropewalk bench ops --only fp8`: 8-bit products and copies beside bf16, layer by layer of the shapes that train.
#include "autograd/ops/detail/linear_fp8.h"
#include "autograd/ops/matmul.h"
#include "autograd/tape.h"
#include "bench_ops.h"
#include "model_shapes.h"
#include "tensor/gemm.h"
#include "tensor/quantize.h"

using namespace rw;

namespace {

struct Layer {
  std::string name;
  int64_t m, n, k;  // x [m,k], W [n,k]
  double flops() const { return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k); }
};

std::vector<Layer> layers_of(const ModelShape& s) {
  const int64_t m = s.window * s.batch;
  std::vector<Layer> layers = {{"qkv", m, (s.heads + 2 * s.kv_heads) * s.head_dim(), s.hidden},
                               {"o", m, s.hidden, s.hidden},
                               {"gate_up", m, 2 * s.ffn, s.hidden},
                               {"down", m, s.hidden, s.ffn}};
  for (Layer& l : layers) l.name = cat(s.name, " ", l.name, " ", l.m, "x", l.n, "x", l.k);
  return layers;
}

Quantized rows_of(const Tensor& x, DType format) { return quantize(x, absolute_max(x), format, Copies::rows); }

/// a b^T, from copies of random matrices.
void product_rows(OpsBench& b, const Layer& l, const char* what, int64_t m, int64_t n, int64_t k, DType a_format,
                  DType out) {
  const Quantized a = rows_of(b.random({m, k}), a_format), w = rows_of(b.random({n, k}, DType::bf16, 2), DType::e4m3);
  const Tensor c = Tensor::zeros({m, n}, out, b.device());
  for (const bool fast : {true, false}) {
    const GemmOptions options{.beta = out == DType::f32 ? 1.0 : 0.0, .fast_accumulation = fast};
    b.row("fp8", cat(l.name, " ", what, fast ? ", fast sums" : ""), b.time([&] {
      gemm({a.rows, Trans::no, a.scale}, {w.rows, Trans::yes, w.scale}, c, options);
    }),
          0, l.flops(), Ceiling::gemm);
  }
}

/// Forward and backward of the whole layer, copies included.
void layer_rows(OpsBench& b, const Layer& l) {
  const Tensor x = b.random({l.m, l.k}), w = b.random({l.n, l.k}, DType::bf16, 2),
               dy = b.random({l.m, l.n}, DType::bf16, 3);
  const Var vx = Var::leaf(x), vw = Var::leaf(w, Tensor::zeros({l.n, l.k}, DType::f32, b.device()));
  Tape tape;
  const TapeScope scope(tape);
  for (const bool fp8 : {false, true}) {
    const auto step = [&] {
      vx.clear_grad();
      const Var y = fp8 ? linear_fp8(vx, vw) : linear(vx, vw);
      tape.backward(y, dy);
    };
    b.row("fp8", cat(l.name, fp8 ? " layer, fp8" : " layer, bf16"), b.time(step), 0, 3 * l.flops(), Ceiling::gemm);
  }
}

void copy_rows(OpsBench& b, const Layer& l) {
  const Tensor x = b.random({l.m, l.k});
  const double bytes = static_cast<double>(x.bytes());
  const Tensor largest = absolute_max(x);
  b.row("fp8", cat(l.name, " largest of x"), b.time([&] { absolute_max(x); }), bytes, 0, Ceiling::copy);
  for (const auto& [copies, name, factor] : {std::tuple{Copies::rows, " x in 8 bits", 1.5},
                                             {Copies::columns, " x^T in 8 bits", 1.5},
                                             {Copies::both, " x and x^T in 8 bits", 2.0}}) {
    b.row("fp8", cat(l.name, name), b.time([&, wanted = copies] { quantize(x, largest, DType::e4m3, wanted); }),
          factor * bytes, 0, Ceiling::copy);
  }
}

}  // namespace

void bench_fp8(OpsBench& b) {
  b.heading("8-bit products: e4m3 of x and W, e5m2 of dy");
  for (const char* model : {"S", "M", "L", "X"}) {
    for (const Layer& l : layers_of(model_shape("bench", model))) {
      layer_rows(b, l);
      product_rows(b, l, "y", l.m, l.n, l.k, DType::e4m3, DType::bf16);
      product_rows(b, l, "dx", l.m, l.k, l.n, DType::e5m2, DType::bf16);
      product_rows(b, l, "dW", l.n, l.k, l.m, DType::e5m2, DType::f32);
      copy_rows(b, l);
      release_cached_memory(b.device());
    }
  }
}
