// Recompute regions: the recorded op that runs its region once more in backward.
#include "autograd/recompute.h"

#include <algorithm>
#include <utility>

#include "autograd/kept_values.h"

namespace rw {

namespace {
thread_local KeptValues* current_values = nullptr;
}  // namespace

KeptValues* KeptValues::current() { return current_values; }

Tensor KeptValues::take() {
  check(taken_ < values_.size(), "recompute", "the region's second pass takes more than the ", values_.size(),
        " results that its first pass kept");
  return std::exchange(values_[taken_++], Tensor());
}

void KeptValues::check_taken() const {
  check(taken_ == values_.size(), "recompute", "the region's second pass takes ", taken_, " of the ", values_.size(),
        " results that its first pass kept");
}

KeptValuesScope::KeptValuesScope(KeptValues* values, KeptValues::Pass pass) : before_(current_values) {
  current_values = values;
  if (values) values->pass_ = pass;
}
KeptValuesScope::~KeptValuesScope() { current_values = before_; }

HostInputs::HostInputs(Device device) : device_(device), copies_(make_host_copies(device)) {}

void HostInputs::start() {
  for (Kept& k : kept_) k.device = Tensor();
  count_ = 0;
}

size_t HostInputs::put(const Tensor& t) {
  const size_t i = count_++;
  if (kept_.size() < count_) kept_.emplace_back();
  Kept& k = kept_[i];
  k.device = t;
  k.ticket = -1;
  if (i >= 2) {  // its copy had the time of a whole region
    copies_->join(kept_[i - 2].ticket);
    kept_[i - 2].device = Tensor();
  }
  if (i >= 1) send(i - 1);
  return i;
}

void HostInputs::send(size_t i) {
  Kept& k = kept_[i];
  if (!k.host.defined() || k.host.shape() != k.device.shape() || k.host.dtype() != k.device.dtype()) {
    k.host = Tensor();  // given back first
    k.host = host_tensor(k.device.shape(), k.device.dtype(), device_);
  }
  k.ticket = copies_->start(k.device, k.host);
}

void HostInputs::fetch(size_t i) {
  Kept& k = kept_[i];
  if (k.device.defined()) return;
  k.device = Tensor::empty(k.host.shape(), k.host.dtype(), device_);
  k.ticket = copies_->start(k.host, k.device);
}

Tensor HostInputs::take(size_t i) {
  check(i < count_, "host_inputs", "tensor ", i, " of ", count_, ": it was taken, or is of an earlier pass");
  count_ = i;
  fetch(i);
  Kept& k = kept_[i];
  if (k.ticket >= 0) copies_->join(k.ticket);
  if (i > 0) fetch(i - 1);
  return std::exchange(k.device, Tensor());
}

int64_t HostInputs::bytes() const {
  int64_t sum = 0;
  for (const Kept& k : kept_) sum += k.host.defined() ? k.host.bytes() : 0;
  return sum;
}

namespace {

struct RecomputeNode : Node {
  RecomputedRegion region;           // saved: the region's inputs, then its kept values; or
  std::shared_ptr<HostInputs> host;  // who has the inputs, by number
  std::vector<size_t> on_host;
  size_t values = 0;  // how many of `saved` are kept values
  bool keeps = false;

  const char* name() const override { return "recompute"; }

  void backward() override {
    KeptValues first({saved.end() - static_cast<std::ptrdiff_t>(values), saved.end()});
    saved.resize(saved.size() - values);
    for (size_t i = on_host.size(); i-- > 0;) saved.insert(saved.begin(), host->take(on_host[i]));
    Tape inner;
    inner.set_fast_atomics(fast_atomics());
    std::vector<Var> leaves;
    std::vector<Var> results;
    {
      const TapeScope scope(inner);
      const KeptValuesScope kept(keeps ? &first : nullptr, KeptValues::Pass::second);
      for (size_t i = 0; i < saved.size(); ++i) leaves.push_back(wants(i) ? Var::leaf(saved[i]) : Var(saved[i]));
      results = region(leaves, /*unread=*/true);
    }
    first.check_taken();
    std::vector<Var> roots;
    std::vector<Tensor> seeds;
    for (size_t i = 0; i < results.size(); ++i) {
      const Tensor seed = std::exchange(outputs[i]->grad, Tensor());  // each lives as long as the region needs it
      if (!results[i].requires_grad() || !seed.defined()) continue;
      roots.push_back(std::move(results[i]));
      seeds.push_back(seed);
    }
    results.clear();
    inner.backward(std::move(roots), std::move(seeds));
    for (size_t i = 0; i < leaves.size(); ++i) {
      if (wants(i) && leaves[i].slot()->grad.defined()) add_grad(i, leaves[i].slot()->grad);
    }
  }
};

}  // namespace

std::vector<Var> recompute(const RecomputedRegion& region, const std::vector<Var>& inputs,
                           const std::shared_ptr<HostInputs>& host, bool keep_attention) {
  KeptValues values;
  std::vector<Var> results;
  const bool keeps = keep_attention && grad_enabled();
  {
    // A region inside another one keeps for itself alone.
    const KeptValuesScope kept(keeps ? &values : nullptr, KeptValues::Pass::first);
    if (!grad_enabled()) return region(inputs, false);
    const NoGrad no_grad;
    results = region(inputs, false);
  }
  auto node = std::make_unique<RecomputeNode>();
  node->region = region;
  std::vector<Var*> outputs;
  node->host = host;
  for (const Var& in : inputs) {
    if (host) node->on_host.push_back(host->put(in.value()));
    else node->saved.push_back(in.value());
  }
  node->keeps = keeps;
  node->values = values.values().size();
  node->saved.insert(node->saved.end(), values.values().begin(), values.values().end());
  for (Var& out : results) outputs.push_back(&out);
  Tape::current().record(std::move(node), inputs, outputs);
  return results;
}

namespace {

struct TilesNode : Node {  // saved: x
  TiledRegion region;
  int64_t rows = 0;
  const char* name() const override { return "tiles"; }

  void backward() override {
    const Tensor x = saved[0].view({-1, saved[0].size(-1)});  // [R,K]
    const int64_t n = x.size(0);
    const Tensor dy = grad_out().view({n, grad_out().size(-1)});  // [R,N]
    const Tensor dx = wants(0) ? Tensor::zeros(saved[0].shape(), saved[0].dtype(), saved[0].device()) : Tensor();
    for (int64_t begin = 0; begin < n; begin += rows) {
      const int64_t end = std::min(n, begin + rows);
      Tape inner;
      inner.set_fast_atomics(fast_atomics());
      Var in(x.slice(begin, end)), out;
      if (dx.defined()) in = Var::leaf(in.value(), dx.view(x.shape()).slice(begin, end));
      {
        const TapeScope scope(inner);
        out = region(in, begin, /*unread=*/true);
      }
      if (!out.requires_grad()) continue;
      std::vector<Var> roots;
      roots.push_back(std::move(out));
      inner.backward(std::move(roots), {dy.slice(begin, end)});
    }
    if (dx.defined()) add_grad(0, dx);
  }
};

}  // namespace

Var by_tiles(const TiledRegion& region, const Var& x, int64_t n, int64_t rows, bool unread) {
  check(rows >= 1, "by_tiles", "rows must be at least 1, got ", rows);
  const Tensor in = x.value().view({-1, x.size(-1)});
  Shape shape = x.shape();
  shape.set(-1, n);
  const Tensor y = Tensor::empty({in.size(0), n}, x.dtype(), x.device());
  if (!unread) {
    const NoGrad no_grad;
    for (int64_t begin = 0; begin < in.size(0); begin += rows) {
      const int64_t end = std::min(in.size(0), begin + rows);
      y.slice(begin, end).copy_from(region(Var(in.slice(begin, end)), begin, false).value());
    }
  }
  Var out(y.view(shape));
  if (!grad_enabled()) return out;
  auto node = std::make_unique<TilesNode>();
  node->region = region;
  node->rows = rows;
  node->saved = {x.value()};
  Tape::current().record(std::move(node), {x}, {&out});
  return out;
}

}  // namespace rw
