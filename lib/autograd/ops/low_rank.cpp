// Low-rank adapters as a recorded op, on the one gemm of either device.
#include "autograd/ops/low_rank.h"

#include <cstring>

#include "autograd/ops/cuda_ops.h"
#include "autograd/tape.h"
#include "tensor/gemm.h"

namespace rw {
namespace {

/// Where matrices with rows of different lengths exchange a block [rows, width].
struct Place {
  const Tensor& tensor;
  int64_t offset, stride;  // elements
};

void copy_block(const Place& from, const Place& to, int64_t rows, int64_t width) {
  if (to.tensor.is_cuda())
    return cuda::copy_block(from.tensor, from.offset, from.stride, to.tensor, to.offset, to.stride, rows, width);
  const int64_t size = size_of(to.tensor.dtype());
  const char* source = static_cast<const char*>(from.tensor.raw());
  char* target = static_cast<char*>(to.tensor.raw());
  for (int64_t i = 0; i < rows; ++i)
    std::memcpy(target + (to.offset + i * to.stride) * size, source + (from.offset + i * from.stride) * size,
                static_cast<size_t>(width * size));
}

struct Layout {
  std::vector<LowRankPart> parts;
  int64_t columns = 0, rank = 0;  // N, r
  int64_t width() const { return static_cast<int64_t>(parts.size()) * rank; }
  /// Whether b is the diagonal matrix already.
  bool whole() const { return parts.size() == 1 && parts[0].rows == columns; }
};

/// b [M,r] -> [N, P r]: part i's rows in its own columns, zeros elsewhere.
Tensor on_diagonal(const Layout& l, const Tensor& b) {
  if (l.whole()) return b;
  const Tensor wide = Tensor::zeros({l.columns, l.width()}, b.dtype(), b.device());
  int64_t row = 0;
  for (size_t i = 0; i < l.parts.size(); ++i) {
    const LowRankPart& p = l.parts[i];
    copy_block({b, row * l.rank, l.rank}, {wide, p.begin * l.width() + static_cast<int64_t>(i) * l.rank, l.width()},
               p.rows, l.rank);
    row += p.rows;
  }
  return wide;
}

/// The way back, of a gradient.
Tensor from_diagonal(const Layout& l, const Tensor& wide, const Shape& shape) {
  const Tensor b = Tensor::empty(shape, wide.dtype(), wide.device());
  int64_t row = 0;
  for (size_t i = 0; i < l.parts.size(); ++i) {
    const LowRankPart& p = l.parts[i];
    copy_block({wide, p.begin * l.width() + static_cast<int64_t>(i) * l.rank, l.width()}, {b, row * l.rank, l.rank},
               p.rows, l.rank);
    row += p.rows;
  }
  return b;
}

DType grad_dtype(DType t) { return t == DType::bf16 ? DType::f32 : t; }

struct LowRankNode : Node {  // saved: x [R,K], h = scale x a^T [R,P r], a, b. inputs: y, x, a, b
  Layout layout;
  Shape x_shape;
  double scale = 1;
  const char* name() const override { return "low rank"; }

  void backward() override {
    const Tensor &x = saved[0], &h = saved[1], &a = saved[2], &b = saved[3];
    const Tensor dy = grad_out().view({x.size(0), layout.columns});  // [R,N]
    if (wants(3)) b_gradient(dy, h, b);
    if (wants(1) || wants(2)) {
      const Tensor dh = Tensor::empty_like(h);
      gemm(dy, on_diagonal(layout, b), dh, {.alpha = scale});  // of x a^T
      if (wants(2)) {
        const Target da = grad_target(2, a.shape(), grad_dtype(a.dtype()), a.device());
        gemm(transposed(dh), x, da.tensor, {.beta = da.beta});
      }
      if (wants(1)) {
        const Target dx = grad_target(1, x_shape, x.dtype(), x.device());
        gemm(dh, a, dx.tensor.view(x.shape()), {.beta = dx.beta});
      }
    }
    add_grad(0, grad_out());
  }

  void b_gradient(const Tensor& dy, const Tensor& h, const Tensor& b) {
    if (layout.whole()) {
      const Target db = grad_target(3, b.shape(), grad_dtype(b.dtype()), b.device());
      return gemm(transposed(dy), h, db.tensor, {.beta = db.beta});
    }
    const Tensor wide = Tensor::empty({layout.columns, layout.width()}, grad_dtype(b.dtype()), b.device());
    gemm(transposed(dy), h, wide);
    add_grad(3, from_diagonal(layout, wide, b.shape()));
  }
};

void check_parts(const Layout& l, const Var& y, const Var& x, const Var& a, const Var& b) {
  check_same("low_rank", "y", y.value(), "x", x.value());
  check_same("low_rank", "y", y.value(), "a", a.value());
  check_same("low_rank", "y", y.value(), "b", b.value());
  check(a.rank() == 2 && b.rank() == 2 && a.size(0) == l.width(), "low_rank", "a must have shape [", l.width(),
        ", K], got ", a.shape());
  int64_t rows = 0, end = 0;
  for (const LowRankPart& p : l.parts) {
    check(p.begin >= end && p.rows > 0 && p.begin + p.rows <= l.columns, "low_rank", "columns [", p.begin, ", ",
          p.begin + p.rows, ") of ", l.columns);
    end = p.begin + p.rows;
    rows += p.rows;
  }
  check_shape("low_rank", "b", b.value(), {rows, l.rank});
  check(x.size(-1) == a.size(1) && x.numel() / x.size(-1) == y.numel() / y.size(-1), "low_rank", "x has shape ",
        x.shape(), ", y ", y.shape(), ", a ", a.shape());
}

}  // namespace

Var add_low_rank(const Var& y, const Var& x, const Var& a, const Var& b, const std::vector<LowRankPart>& parts,
                 double scale, bool unread) {
  const Layout layout{parts, y.size(-1), b.size(1)};
  check_parts(layout, y, x, a, b);
  const Tensor rows = x.value().view({-1, x.size(-1)});  // [R,K]
  const Tensor h = Tensor::empty({rows.size(0), layout.width()}, y.dtype(), y.device());
  gemm(rows, transposed(a.value()), h, {.alpha = scale});
  if (!unread)
    gemm(h, transposed(on_diagonal(layout, b.value())), y.value().view({rows.size(0), layout.columns}), {.beta = 1});
  Var out(y.value());
  if (records(y, x, a, b)) {
    auto node = std::make_unique<LowRankNode>();
    node->layout = layout;
    node->x_shape = x.shape();
    node->scale = scale;
    node->saved = {rows, h, a.value(), b.value()};
    Tape::current().record(std::move(node), {y, x, a, b}, {&out});
  }
  return out;
}

}  // namespace rw
