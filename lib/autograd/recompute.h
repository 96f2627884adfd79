// Recompute regions (activation checkpointing, Chen et al. 2016): keep a region's
// inputs only and run it again in backward.
#pragma once
#include <functional>
#include <vector>

#include "autograd/tape.h"
#include "tensor/host_copy.h"

namespace rw {

/// `unread`: the region runs for its backward pass, and nobody reads the values that it gives. What they alone need may
/// be left out, as the last product of a block.
using RecomputedRegion = std::function<std::vector<Var>(const std::vector<Var>& inputs, bool unread)>;
/// The same for rows from `first` on.
using TiledRegion = std::function<Var(const Var& x, int64_t first, bool unread)>;

/// Inputs of recomputed regions in host memory between a forward pass and its backward pass. A tensor goes there while
/// the next region runs forward, and comes back while the next one runs backward; the last two of a pass stay where
/// they are. The host memory is kept from pass to pass. Thread safety: none.
class HostInputs {
 public:
  explicit HostInputs(Device device);
  /// A forward pass begins.
  void start();
  /// Takes `t` over; backward gets it by the number that is returned.
  size_t put(const Tensor& t);
  /// Gives tensor i back, and starts to fetch the one before. Errors: a number that was not put, or taken already.
  Tensor take(size_t i);
  /// Of host memory.
  int64_t bytes() const;

 private:
  struct Kept {
    Tensor host, device;  // device: while it is there
    int64_t ticket = -1;  // of the last copy
  };
  void send(size_t i);
  void fetch(size_t i);

  Device device_;
  std::unique_ptr<HostCopies> copies_;
  std::vector<Kept> kept_;
  size_t count_ = 0;  // put in this pass
};

/// Runs `region` without recording its inside; backward runs it once more, recorded, and differentiates
/// it. `region` must be a pure function of `inputs` and of leaves it captures (their gradients are
/// collected as usual), and give the same values both times. Peak memory falls from the region's
/// activations to its inputs, for one more forward of the region. `host`: keeps the inputs, which then lie with nobody
/// else; regions are recorded, and run backward, in the order of one pass. `keep_attention`: outputs and logsumexps of
/// attention inside are kept too, and attention is not computed again (autograd/kept_values.h).
std::vector<Var> recompute(const RecomputedRegion& region, const std::vector<Var>& inputs,
                           const std::shared_ptr<HostInputs>& host = nullptr, bool keep_attention = false);

/// y = region(x) for x [...,K] -> y [...,N], a function of each row alone, at most `rows` rows at a time. Of each part
/// backward makes the activations again, so that no more than one part's are alive; gradients of leaves that `region`
/// captures add up over the parts. `region` as in recompute(). `unread`: nobody reads y, and the forward pass does
/// nothing. Errors: rows below 1.
Var by_tiles(const TiledRegion& region, const Var& x, int64_t n, int64_t rows, bool unread = false);

}  // namespace rw
