// The block: in which order norms, sublayers and residual adds come.
#include "nn/block.h"

#include "autograd/ops/elementwise.h"
#include "nn/families/family.h"
#include "tensor/profile.h"

namespace rw {
namespace {

std::string prefix(const ModelConfig& c, int64_t layer) {
  return cat(family_record(c.family).names.layers, ".", layer, ".");
}

/// The norm of that name, if the description has it.
std::optional<Norm> norm(const ModelConfig& c, int64_t layer, bool wanted, const std::string& name, ParamArena& arena) {
  if (!wanted) return std::nullopt;
  return Norm(c, prefix(c, layer) + name, c.hidden_size, arena);
}

bool has_before(const ModelConfig& c) { return c.block.norm_place != NormPlace::after; }
bool has_after(const ModelConfig& c) { return c.block.norm_place != NormPlace::before; }
const ParameterNames& names(const ModelConfig& c) { return family_record(c.family).names; }

}  // namespace

Block::Block(const ModelConfig& c, int64_t layer, ParamArena& arena)
    : layer_(layer),
      parallel_(c.block.parallel),
      attention_norm_(norm(c, layer, has_before(c), names(c).attention_norm, arena)),
      attention_out_norm_(norm(c, layer, has_after(c), names(c).attention_out_norm, arena)),
      mlp_norm_(norm(c, layer, has_before(c) && !c.block.shared_norm, names(c).mlp_norm, arena)),
      mlp_out_norm_(norm(c, layer, has_after(c), names(c).mlp_out_norm, arena)),
      attention_(c, layer, prefix(c, layer), arena),
      mlp_(c, prefix(c, layer), arena) {
  check(!(parallel_ && has_after(c)) && (parallel_ || !c.block.shared_norm), "block",
        "attention and MLP side by side have norms before them, and only they share one");
}

void Block::bind(const ParamArena& arena) {
  for (std::optional<Norm>* norm : {&attention_norm_, &attention_out_norm_, &mlp_norm_, &mlp_out_norm_}) {
    if (*norm) (*norm)->bind(arena);
  }
  attention_.bind(arena);
  mlp_.bind(arena);
}

void Block::set_linear(const LinearOptions& options) {
  for (std::optional<Norm>* norm : {&attention_norm_, &mlp_norm_}) {
    if (*norm) (*norm)->set_feeds_fp8(options.matmul != Matmul::native);
  }
  attention_.set_linear(options);
  mlp_.set_linear(options);
}

namespace {
/// The stream with what was pending, and its norm; without a norm, the stream twice.
std::pair<Var, Var> enter(const Var& pending, const Var& residual, const std::optional<Norm>& norm,
                          bool added = false) {
  if (added && norm) return norm->stream(residual);
  if (!norm) {
    const Var sum = pending.defined() ? add(pending, residual) : residual;
    return {sum, sum};
  }
  if (pending.defined()) return norm->add(pending, residual);
  return {residual, norm->forward(residual)};
}

Var leave(const Var& y, const std::optional<Norm>& norm) { return norm ? norm->forward(y) : y; }
}  // namespace

Block::Stream Block::add_pending(const Stream& in) {
  return in.pending.defined() ? Stream{add(in.pending, in.residual), Var(), true} : in;
}

Block::Stream Block::forward(const Stream& in, const ForwardContext& context) const {
  const ProfileRange range("block", layer_);
  auto [residual, normed] = enter(in.pending, in.residual, attention_norm_, in.added);
  if (parallel_) return forward_parallel(residual, normed, context);
  const Var attended = leave(attention_.forward(normed, context), attention_out_norm_);
  std::tie(residual, normed) = enter(attended, residual, mlp_norm_);
  return {residual, leave(mlp_.forward(normed, context.unread && !mlp_out_norm_), mlp_out_norm_)};
}

Block::Stream Block::forward_parallel(const Var& residual, const Var& normed, const ForwardContext& context) const {
  // The MLP's norm hands the stream on: its backward adds the stream's gradient in the same pass.
  const auto [stream, mlp_in] = mlp_norm_ ? mlp_norm_->stream(residual) : std::pair{residual, normed};
  const Var attended = attention_.forward(normed, context);
  return {stream, add(attended, mlp_.forward(mlp_in))};
}

}  // namespace rw
