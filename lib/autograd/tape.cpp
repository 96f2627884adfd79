// The tape, gradient accumulation, and what records on which tape.
#include "autograd/tape.h"

#include "tensor/cuda.h"
#include "tensor/parallel_for.h"

namespace rw {
namespace {

thread_local Tape* current_tape = nullptr;
thread_local bool enabled = true;

struct Marker : Node {
  std::function<void()> f;
  const char* name() const override { return "marker"; }
  void backward() override { f(); }
};

template <class To, class From>
void accumulate_cpu(To* to, const From* from, int64_t n) {
  parallel_for(n, 1 << 16, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      to[i] = static_cast<To>(static_cast<Acc<To>>(to[i]) + static_cast<Acc<To>>(from[i]));
  });
}

}  // namespace

void accumulate(const Tensor& to, const Tensor& from) {
  check(to.shape() == from.shape(), "accumulate", "gradient has shape ", from.shape(), ", expected ", to.shape());
  if (to.is_cuda()) return cuda::accumulate(to.raw(), to.dtype(), from.raw(), from.dtype(), to.numel());
  dispatch_float(to.dtype(), "accumulate", [&](auto to_zero) {
    dispatch_float(from.dtype(), "accumulate", [&](auto from_zero) {
      accumulate_cpu(to.data<decltype(to_zero)>(), from.data<decltype(from_zero)>(), to.numel());
    });
  });
}

Tape::~Tape() { clear(); }

Tape& Tape::current() {
  thread_local Tape own;
  return current_tape ? *current_tape : own;
}

void Tape::record(std::unique_ptr<Node> node, const std::vector<Var>& inputs, const std::vector<Var*>& outputs) {
  node->place = ProfileRange::current();
  profile_lap(node->name());
  for (const Var& in : inputs) node->inputs.push_back(in.slot_);
  for (Var* out : outputs) {
    out->slot_ = std::make_shared<GradSlot>();
    node->outputs.push_back(out->slot_);
  }
  nodes_.push_back(std::move(node));
}

void Tape::backward(const Var& root, Tensor seed) {
  check(root.requires_grad(), "backward", "the root needs no gradient: nothing was recorded for it");
  if (!seed.defined()) {
    check(root.numel() == 1, "backward", "a root of shape ", root.shape(), " needs a seed gradient");
    seed = Tensor::full(root.shape(), 1.0, root.dtype(), root.device());
  }
  backward(std::vector<Var>{root}, {std::move(seed)});
}

void Tape::backward(std::vector<Var> roots, std::vector<Tensor> seeds) {
  check(roots.size() == seeds.size(), "backward", roots.size(), " roots but ", seeds.size(), " seeds");
  for (size_t i = 0; i < roots.size(); ++i) {
    check(roots[i].requires_grad(), "backward", "root ", i, " needs no gradient");
    check(seeds[i].shape() == roots[i].shape(), "backward", "seed must have shape ", roots[i].shape(), ", got ",
          seeds[i].shape());
    GradSlot& slot = *roots[i].slot();
    if (slot.grad.defined()) {
      accumulate(slot.grad, seeds[i]);
      slot.forget();
    } else {
      slot.grad = std::move(seeds[i]);
    }
  }
  roots.clear();
  seeds.clear();
  // Taken out of the tape, so that an exception leaves it empty and recomputation inside a node may record elsewhere.
  std::vector<std::unique_ptr<Node>> nodes = std::move(nodes_);
  nodes_.clear();
  const NoGrad no_grad;
  while (!nodes.empty()) {
    const std::unique_ptr<Node> node = std::move(nodes.back());
    nodes.pop_back();
    bool reached = node->outputs.empty();  // a marker
    for (const GradSlotPtr& out : node->outputs) reached |= out->grad.defined();
    if (!reached) continue;
    if (on_backward) on_backward(*node);
    {
      const ProfileRange range(node->place);
      node->allow_fast_atomics(fast_atomics_);
      node->backward();
      profile_lap(node->name());
    }
    for (const GradSlotPtr& out : node->outputs) {
      out->grad = Tensor();
      out->forget();
    }
  }
}

void Tape::when_reached(std::function<void()> f) {
  auto marker = std::make_unique<Marker>();
  marker->f = std::move(f);
  record(std::move(marker), {}, {});
}

void Tape::clear() {
  while (!nodes_.empty()) nodes_.pop_back();
}

int64_t Tape::saved_bytes() const {
  int64_t bytes = 0;
  for (const auto& node : nodes_) {
    for (const Tensor& t : node->saved) bytes += t.defined() ? t.bytes() : 0;
  }
  return bytes;
}

void backward(const Var& root, Tensor seed) { Tape::current().backward(root, std::move(seed)); }

bool grad_enabled() { return enabled; }

NoGrad::NoGrad() : previous_(enabled) { enabled = false; }
NoGrad::~NoGrad() { enabled = previous_; }

TapeScope::TapeScope(Tape& tape) : previous_tape_(current_tape), previous_enabled_(enabled) {
  current_tape = &tape;
  enabled = true;
}
TapeScope::~TapeScope() {
  current_tape = previous_tape_;
  enabled = previous_enabled_;
}

}  // namespace rw
