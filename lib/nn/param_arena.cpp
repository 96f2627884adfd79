#include "nn/param_arena.h"

#include "tensor/parallel.h"

namespace rw {
namespace {
constexpr int64_t kAlign = 64;  // elements: keeps 16-byte accesses aligned in every dtype
}

std::function<void(const Tensor&, Random&)> normal_init(double std) {
  return [std](const Tensor& t, Random& random) {
    for (int64_t i = 0; i < t.numel(); ++i) t.data<float>()[i] = static_cast<float>(std * random.normal());
  };
}

std::function<void(const Tensor&, Random&)> constant_init(double value) {
  return [value](const Tensor& t, Random&) { t.fill(value); };
}

size_t ParamArena::add(ParameterSpec spec, bool joined) {
  check(!master_.defined(), "param_arena", "add('", spec.name, "') after allocate()");
  const int64_t numel = spec.shape.numel();
  if (!joined) total_ = (total_ + kAlign - 1) / kAlign * kAlign;
  segments_.push_back({std::move(spec), total_, numel});
  total_ += numel;
  return segments_.size() - 1;
}

void ParamArena::allocate(DType compute, Device device, std::optional<uint64_t> seed) {
  check(!master_.defined(), "param_arena", "allocate() called twice");
  const MemoryTag tag("parameters");
  const DType master = compute == DType::f64 ? DType::f64 : DType::f32;
  const Tensor host = Tensor::zeros({total_}, DType::f32);
  parallel_items(static_cast<int64_t>(segments_.size()), [&](int64_t i) {
    const Segment& s = segments_[static_cast<size_t>(i)];
    if (!seed || !s.spec.init) return;
    Random random(*seed, Purpose::init, 0, static_cast<uint64_t>(i));
    s.spec.init(host.slice(s.offset, s.offset + s.numel).view(s.spec.shape), random);
  });
  master_ = host.to(master).to(device);
  compute_ = compute == DType::bf16 ? Tensor::empty({total_}, DType::bf16, device) : master_;
  refresh();
  for (const Segment& s : segments_) vars_.push_back(make_var(s.offset, s.numel, s.spec.shape));
}

void ParamArena::own(int64_t begin, int64_t end) {
  check(!grad_.defined(), "param_arena", "own() after enable_grad()");
  check(begin >= 0 && begin <= end && end <= total_, "param_arena", "elements [", begin, ", ", end, ") of ", total_);
  own_begin_ = begin;
  own_end_ = end;
}

void ParamArena::enable_grad() {
  check(master_.defined(), "param_arena", "enable_grad() before allocate()");
  if (grad_.defined()) return;
  compact_ = Tensor();
  {
    const MemoryTag tag("gradients");
    grad_ = Tensor::zeros(master_.shape(), master_.dtype(), master_.device());
  }
  const MemoryTag tag("optimizer");
  m_ = Tensor::zeros({own_end() - own_begin()}, master_.dtype(), master_.device());
  v_ = Tensor::zeros({own_end() - own_begin()}, master_.dtype(), master_.device());
  vars_.clear();
  for (const Segment& s : segments_) vars_.push_back(make_var(s.offset, s.numel, s.spec.shape));
}

bool ParamArena::make_compact(bool lossy) {
  if (compute_.dtype() != DType::f32 || compute_.is_cuda() || grad_.defined()) return false;
  if (!lossy) {
    const float* p = compute_.data<float>();
    for (int64_t i = 0; i < compute_.numel(); ++i) {
      if (static_cast<float>(bf16(p[i])) != p[i]) return false;
    }
  }
  compact_ = compute_.to(DType::bf16);
  vars_.clear();
  for (const Segment& s : segments_) vars_.push_back(make_var(s.offset, s.numel, s.spec.shape));
  return true;
}

Var ParamArena::make_var(int64_t offset, int64_t numel, const Shape& shape) const {
  const Tensor value = compute_.slice(offset, offset + numel).view(shape);
  if (!grad_.defined()) {
    Var constant(value);
    if (compact_.defined()) constant.set_compact(compact_.slice(offset, offset + numel).view(shape));
    return constant;
  }
  return Var::leaf(value, grad_.slice(offset, offset + numel).view(shape));
}

Var ParamArena::stacked(size_t first, size_t count) const {
  const Segment &a = segments_.at(first), &b = segments_.at(first + count - 1);
  Shape shape = a.spec.shape;
  int64_t rows = 0;
  for (size_t i = first; i < first + count; ++i) {
    check(i == first || segments_[i].offset == segments_[i - 1].offset + segments_[i - 1].numel, "param_arena", "'",
          segments_[i].spec.name, "' is not joined to the parameter before it");
    rows += segments_[i].spec.shape[0];
  }
  shape.set(0, rows);
  return make_var(a.offset, b.offset + b.numel - a.offset, shape);
}

int64_t ParamArena::parameter_count() const {
  int64_t n = 0;
  for (const Segment& s : segments_) n += s.numel;
  return n;
}

Tensor ParamArena::master_of(size_t i) const {
  const Segment& s = segments_.at(i);
  return master_.slice(s.offset, s.offset + s.numel).view(s.spec.shape);
}

size_t ParamArena::index_of(const std::string& name) const {
  for (size_t i = 0; i < segments_.size(); ++i) {
    if (segments_[i].spec.name == name) return i;
  }
  fail("param_arena", "there is no parameter '", name, "'");
}

void ParamArena::zero_grad() const {
  if (grad_.defined()) grad_.zero();
}

void ParamArena::refresh() const {
  if (!compute_.aliases(master_)) compute_.copy_from(master_);
  ++version_;
}

}  // namespace rw
