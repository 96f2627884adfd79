// The three crossings of learned frequencies between the host and a GPU.
#include "nn/learned_frequencies.h"

#include <cstring>

#include "tensor/cuda.h"

namespace rw {

LearnedFrequencies::LearnedFrequencies(CausalLm& model) : model_(model) {
  const auto& segments = model.arena().segments();
  const ParamArena::Segment &first = segments.at(model.rope_parameters()), &last = segments.back();
  begin_ = first.offset;
  numel_ = last.offset + last.numel - begin_;
  const int64_t bytes = numel_ * size_of(DType::f32);
  parameters_.memory = cuda::make_staging(bytes, 1);
  auto* values = static_cast<float*>(parameters_.memory->next(parameters_.slot));
  for (size_t i = model.rope_parameters(); i < segments.size(); ++i) {
    const ParamArena::Segment& s = segments[i];
    host_.push_back(Var::leaf(Tensor::borrow(values + s.offset - begin_, s.spec.shape, DType::f32, kCpu)));
  }
  parameter_grads_.memory = cuda::make_staging(bytes, 2);
  parameter_grad_ = Tensor::empty({numel_}, DType::f32, model.device());
}

void LearnedFrequencies::fetch() {
  parameters_.memory->from_device(parameters_.slot, 0, model_.arena().master().slice(begin_, begin_ + numel_));
  parameters_.memory->mark(parameters_.slot);
  fetched_ = model_.arena().version();
}

RopeTable LearnedFrequencies::solve(std::span<const double> t, const RopeContext& context) {
  if (fetched_ != model_.arena().version()) fetch();
  parameters_.memory->wait(parameters_.slot);
  tape_.clear();
  const TapeScope scope(tape_);
  RopeTable table = model_.scaling().table(t, context, host_);
  inv_freq_ = table.inv_freq;
  return table;
}

void LearnedFrequencies::resize(const Shape& shape) {
  inv_freq_grad_ = Tensor::empty(shape, DType::f64, model_.device());
  inv_freq_grads_.memory = cuda::make_staging(inv_freq_grad_.bytes(), 1);
  inv_freq_grads_.memory->next(inv_freq_grads_.slot);
}

Var LearnedFrequencies::leaf(const Tensor& inv_freq) const {
  inv_freq_grad_.zero();
  return Var::leaf(inv_freq, inv_freq_grad_);
}

void LearnedFrequencies::fetch_gradient() const {
  inv_freq_grads_.memory->from_device(inv_freq_grads_.slot, 0, inv_freq_grad_);
  inv_freq_grads_.memory->mark(inv_freq_grads_.slot);
}

void LearnedFrequencies::backward() {
  if (!inv_freq_.requires_grad()) return;
  auto* bytes = const_cast<void*>(inv_freq_grads_.memory->wait(inv_freq_grads_.slot));
  tape_.backward(inv_freq_, Tensor::borrow(bytes, inv_freq_.shape(), DType::f64, kCpu));
  inv_freq_ = Var();

  auto* to = static_cast<char*>(parameter_grads_.memory->next(parameter_grads_.slot));
  std::memset(to, 0, static_cast<size_t>(parameter_grad_.bytes()));  // the padding
  const auto& segments = model_.arena().segments();
  for (size_t i = 0; i < host_.size(); ++i) {
    const int64_t offset = segments[model_.rope_parameters() + i].offset - begin_;
    const Tensor& grad = host_[i].grad();  // f32
    std::memcpy(to + offset * size_of(DType::f32), grad.raw(), static_cast<size_t>(grad.bytes()));
    host_[i].clear_grad();
  }
  parameter_grads_.memory->to_device(parameter_grads_.slot, 0, parameter_grad_);
  parameter_grads_.memory->mark(parameter_grads_.slot);
  accumulate(model_.arena().grad().slice(begin_, begin_ + numel_), parameter_grad_);
}

}  // namespace rw
