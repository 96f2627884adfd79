// Changing dtype, as a recorded op.
#include "autograd/ops/cast.h"

#include "autograd/tape.h"

namespace rw {
namespace {

struct CastNode : Node {
  DType from = DType::f32;
  const char* name() const override { return "cast"; }
  void backward() override { add_grad(0, grad_out().to(from)); }
};

}  // namespace

Var cast(const Var& x, DType dtype) {
  check(dtype != DType::i32 && x.dtype() != DType::i32, "cast", "only floating dtypes can be cast, got ", x.dtype(),
        " to ", dtype);
  if (x.dtype() == dtype) return x;
  Var out(x.value().to(dtype));
  if (records(x)) {
    auto node = std::make_unique<CastNode>();
    node->from = x.dtype();
    Tape::current().record(std::move(node), {x}, {&out});
  }
  return out;
}

}  // namespace rw
