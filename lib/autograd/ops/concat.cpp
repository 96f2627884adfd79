// Putting tensors together and taking parts out: block copies, and the recorded ops.
#include "autograd/ops/concat.h"

#include "autograd/ops/cuda_ops.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/embedding.h"
#include "autograd/tape.h"

namespace rw {
namespace {

/// Sizes before and after dimension d.
struct Split {
  int64_t outer = 1, inner = 1;
  Split(const Shape& shape, int d) {
    for (int i = 0; i < shape.rank(); ++i) (i < d ? outer : inner) *= i == d ? 1 : shape[i];
  }
};

/// Copies a block of `width` elements per outer index between two strided places.
void copy_block(const Tensor& from, int64_t from_offset, int64_t from_stride, const Tensor& to, int64_t to_offset,
                int64_t to_stride, int64_t outer, int64_t width) {
  if (outer == 0 || width == 0) return;
  if (to.is_cuda()) return cuda::copy_block(from, from_offset, from_stride, to, to_offset, to_stride, outer, width);
  const int64_t size = size_of(to.dtype());
  for (int64_t i = 0; i < outer; ++i) {
    std::memcpy(static_cast<char*>(to.raw()) + (to_offset + i * to_stride) * size,
                static_cast<const char*>(from.raw()) + (from_offset + i * from_stride) * size,
                static_cast<size_t>(width * size));
  }
}

int normal_dim(const char* op, const Shape& shape, int dim) {
  const int d = dim < 0 ? dim + shape.rank() : dim;
  check(d >= 0 && d < shape.rank(), op, "dimension ", dim, " does not exist in ", shape);
  return d;
}

Tensor take(const Tensor& x, int d, int64_t begin, int64_t end) {
  Shape shape = x.shape();
  shape.set(d, end - begin);
  const Tensor y = Tensor::empty(shape, x.dtype(), x.device());
  const Split s(x.shape(), d);
  copy_block(x, begin * s.inner, x.size(d) * s.inner, y, 0, (end - begin) * s.inner, s.outer, (end - begin) * s.inner);
  return y;
}

struct ConcatNode : Node {
  int dim = 0;
  std::vector<int64_t> sizes;
  const char* name() const override { return "concat"; }
  void backward() override {
    int64_t begin = 0;
    for (size_t i = 0; i < sizes.size(); ++i) {
      if (wants(i)) add_grad(i, take(grad_out(), dim, begin, begin + sizes[i]));
      begin += sizes[i];
    }
  }
};

struct NarrowNode : Node {
  Shape shape;
  int dim = 0;
  int64_t begin = 0;
  const char* name() const override { return "narrow"; }
  void backward() override {
    const Tensor& dy = grad_out();
    const Tensor dx = Tensor::zeros(shape, dy.dtype(), dy.device());
    const Split s(shape, dim);
    const int64_t width = dy.size(dim) * s.inner;
    copy_block(dy, 0, width, dx, begin * s.inner, shape[dim] * s.inner, s.outer, width);
    add_grad(0, dx);
  }
};

}  // namespace

Var concat(const std::vector<Var>& parts, int dim) {
  check(!parts.empty(), "concat", "there is nothing to join");
  const int d = normal_dim("concat", parts[0].shape(), dim);
  Shape shape = parts[0].shape();
  int64_t size = 0;
  bool recorded = false;
  auto node = std::make_unique<ConcatNode>();
  node->dim = d;
  for (const Var& p : parts) {
    check_same("concat", "first part", parts[0].value(), "part", p.value());
    Shape expected = shape;
    if (p.rank() == shape.rank()) expected.set(d, p.size(d));
    check_shape("concat", "part", p.value(), expected);
    size += p.size(d);
    recorded |= records(p);
    node->sizes.push_back(p.size(d));
  }
  shape.set(d, size);
  const Tensor y = Tensor::empty(shape, parts[0].dtype(), parts[0].device());
  const Split s(shape, d);
  int64_t offset = 0;
  for (const Var& p : parts) {
    const int64_t width = p.size(d) * s.inner;
    copy_block(p.value(), 0, width, y, offset, size * s.inner, s.outer, width);
    offset += width;
  }
  Var out(y);
  if (recorded) Tape::current().record(std::move(node), parts, {&out});
  return out;
}

Var narrow(const Var& x, int dim, int64_t begin, int64_t end) {
  const int d = normal_dim("narrow", x.shape(), dim);
  check(0 <= begin && begin <= end && end <= x.size(d), "narrow", "indices [", begin, ", ", end, ") of ", x.size(d));
  Var out(take(x.value(), d, begin, end));
  if (records(x)) {
    auto node = std::make_unique<NarrowNode>();
    node->shape = x.shape();
    node->dim = d;
    node->begin = begin;
    Tape::current().record(std::move(node), {x}, {&out});
  }
  return out;
}

Var index_rows(const Var& x, const Tensor& index) {
  check(x.rank() >= 1, "index_rows", "x must have shape [N, ...], got ", x.shape());
  check(index.rank() == 1, "index_rows", "index must have shape [M], got ", index.shape());
  // The same operation as a lookup in an embedding table of N rows.
  const int64_t rows = x.size(0);
  Shape shape = x.shape();
  shape.set(0, index.size(0));
  return reshape(embedding(index, reshape(x, {rows, rows ? x.numel() / rows : 0})), shape);
}

void store_heads(const Tensor& packed, int64_t first, const Tensor& cache, int64_t at) {
  check(packed.rank() == 4 && cache.rank() == 4 && packed.size(0) == cache.size(0) && packed.size(3) == cache.size(3),
        "store_heads", "packed ", packed.shape(), " does not fit a cache of ", cache.shape());
  check(at >= 0 && at + packed.size(1) <= cache.size(1), "store_heads", "tokens [", at, ", ", at + packed.size(1),
        ") in a cache of ", cache.size(1));
  check_same("store_heads", "packed", packed, "cache", cache);
  const int64_t width = cache.size(2) * cache.size(3), row = packed.size(2) * packed.size(3);
  for (int64_t b = 0; b < packed.size(0); ++b) {
    copy_block(packed, b * packed.size(1) * row + first * packed.size(3), row, cache, (b * cache.size(1) + at) * width,
               width, packed.size(1), width);
  }
}

}  // namespace rw
