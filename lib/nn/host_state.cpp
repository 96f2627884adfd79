#include "nn/host_state.h"

#include <algorithm>

#include "tensor/cuda.h"

namespace rw {

HostState::HostState(const ParamArena& arena) : arena_(arena), copies_(make_host_copies(arena.device())) {
  check(arena.memory().host_state && arena.grad().defined(), "host_state",
        "expected an arena with its state on the host and gradients");
  if (arena.compute().dtype() == arena.master_dtype()) return;
  const MemoryTag tag("optimizer");
  for (Tensor& t : staging_) t = host_tensor({std::min(kPart, arena.numel())}, arena.compute().dtype(), arena.device());
}

void HostState::start() {
  announced_ = sent_ = false;
  low_ = high_ = arena_.numel();
}

void HostState::ready(size_t first, size_t last) {
  const int64_t begin = arena_.offset_from(first), end = arena_.offset_from(last);
  if (!announced_) low_ = high_ = end;
  check(end == low_ && begin <= end, "host_state", "gradients [", begin, ", ", end, ") are announced after those from ",
        low_, " on");
  announced_ = true;
  low_ = begin;
  send(begin, end);
}

void HostState::finish() {
  send(0, low_);
  send(high_, arena_.numel());
  copies_->join(last_);
}

void HostState::send(int64_t begin, int64_t end) {
  if (begin < end) last_ = copies_->start(arena_.grad().slice(begin, end), arena_.host_grad().slice(begin, end));
}

void HostState::wait_for_gradients() {
  if (!sent_) {
    start();
    finish();
  }
  sent_ = false;
  if (arena_.device().is_cuda()) cuda::synchronize();  // a recorded copy has no event that could be waited for
}

void HostState::send_weights(int64_t begin, int64_t end) {
  const Tensor to = arena_.compute().slice(begin, end), from = arena_.master().slice(begin, end);
  if (to.dtype() == from.dtype()) {
    last_ = copies_->start(from, to);
    return;
  }
  const int64_t slot = part_++ % kSlots;
  if (part_ > kSlots) copies_->wait(tickets_[slot]);
  const Tensor narrow = staging_[slot].slice(0, end - begin);
  narrow.copy_from(from);
  last_ = tickets_[slot] = copies_->start(narrow, to);
}

void HostState::join_weights() {
  copies_->join(last_);
  part_ = 0;  // who waits for the next gradients waits for these copies, too
}

}  // namespace rw
