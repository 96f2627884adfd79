#include "tensor/tensor.h"

#include <algorithm>

#include "tensor/cpu_levels.h"
#include "tensor/cuda.h"
#include "tensor/parallel_for.h"

namespace rw {

Storage::Storage(int64_t bytes, Device device)
    : data_(nullptr), bytes_(bytes), device_(device), tag_(MemoryTag::current()) {
  data_ = allocate(bytes, device, tag_);
}

Storage::Storage(void* data, int64_t bytes, Device device, std::shared_ptr<void> owner)
    : data_(data), bytes_(bytes), device_(device), owner_(std::move(owner)) {}

Storage::~Storage() {
  if (tag_) deallocate(data_, bytes_, device_, tag_);
}

namespace {

void check_device(Device device) {
  if (device.is_cuda()) check(device.index < cuda_device_count(), "tensor", "device ", device, " does not exist");
}

template <class To, class From>
void convert_cpu(To* to, const From* from, int64_t n) {
  parallel_for(n, 1 << 16, [=](int64_t begin, int64_t end) RW_CPU_LEVELS {
    for (int64_t i = begin; i < end; ++i) to[i] = static_cast<To>(from[i]);
  });
}

template <class F>
decltype(auto) dispatch_any(DType t, F&& f) {
  if (t == DType::i32) return f(int32_t{});
  if (t == DType::e4m3) return f(e4m3{});
  if (t == DType::e5m2) return f(e5m2{});
  return dispatch_float(t, "tensor", f);
}

void convert_cpu(void* to, DType to_type, const void* from, DType from_type, int64_t n) {
  dispatch_any(to_type, [&](auto to_zero) {
    dispatch_any(from_type, [&](auto from_zero) {
      convert_cpu(static_cast<decltype(to_zero)*>(to), static_cast<const decltype(from_zero)*>(from), n);
    });
  });
}

}  // namespace

Tensor Tensor::empty(Shape shape, DType dtype, Device device) {
  check_device(device);
  Tensor t;
  t.numel_ = shape.numel();
  t.shape_ = shape;
  t.dtype_ = dtype;
  t.storage_ = std::make_shared<Storage>(t.bytes(), device);
  return t;
}

Tensor Tensor::zeros(Shape shape, DType dtype, Device device) {
  Tensor t = empty(shape, dtype, device);
  t.zero();
  return t;
}

Tensor Tensor::full(Shape shape, double value, DType dtype, Device device) {
  Tensor t = empty(shape, dtype, device);
  t.fill(value);
  return t;
}

Tensor Tensor::borrow(void* bytes, Shape shape, DType dtype, Device device, std::shared_ptr<void> owner) {
  Tensor t;
  t.numel_ = shape.numel();
  t.shape_ = shape;
  t.dtype_ = dtype;
  t.storage_ = std::make_shared<Storage>(bytes, t.bytes(), device, std::move(owner));
  return t;
}

void* Tensor::raw() const {
  check(defined(), "tensor", "undefined tensor used");
  return static_cast<char*>(storage_->data()) + offset_ * size_of(dtype_);
}

Tensor Tensor::view(Shape shape) const {
  check(defined(), "tensor", "view of an undefined tensor");
  int64_t known = 1;
  int unknown = -1;
  for (int d = 0; d < shape.rank(); ++d) {
    if (shape[d] == -1) {
      check(unknown < 0, "tensor", "view: at most one size may be -1, got ", shape);
      unknown = d;
    } else {
      known *= shape[d];
    }
  }
  if (unknown >= 0) {
    check(known > 0 && numel_ % known == 0, "tensor", "view: ", shape_, " does not divide into ", shape);
    shape.set(unknown, numel_ / known);
  }
  check(shape.numel() == numel_, "tensor", "view: ", shape_, " has ", numel_, " elements, ", shape, " has ",
        shape.numel());
  Tensor t = *this;
  t.shape_ = shape;
  return t;
}

Tensor Tensor::slice(int64_t begin, int64_t end) const {
  check(rank() >= 1, "tensor", "slice of a tensor of shape ", shape_);
  check(0 <= begin && begin <= end && end <= size(0), "tensor", "slice: rows [", begin, ", ", end, ") of ", size(0));
  Tensor t = *this;
  const int64_t row = size(0) ? numel_ / size(0) : 0;
  t.offset_ += begin * row;
  t.shape_.set(0, end - begin);
  t.numel_ = (end - begin) * row;
  return t;
}

Tensor Tensor::clone() const {
  Tensor t = empty(shape_, dtype_, device());
  t.copy_from(*this);
  return t;
}

Tensor Tensor::to(DType dtype) const {
  if (dtype == dtype_) return *this;
  Tensor t = empty(shape_, dtype, device());
  t.copy_from(*this);
  return t;
}

Tensor Tensor::to(Device target) const {
  if (target == device()) return *this;
  Tensor t = empty(shape_, dtype_, target);
  t.copy_from(*this);
  return t;
}

void Tensor::copy_from(const Tensor& source) const {
  check(source.defined() && source.shape_ == shape_, "tensor", "copy_from: expected shape ", shape_, ", got ",
        source.shape_);
  if (numel_ == 0) return;
  if (!is_cuda() && !source.is_cuda()) {
    if (dtype_ == source.dtype_) {
      char* to = static_cast<char*>(raw());
      const char* from = static_cast<const char*>(source.raw());
      parallel_for(bytes(), 1 << 20, [=](int64_t begin, int64_t end) {
        std::memmove(to + begin, from + begin, static_cast<size_t>(end - begin));
      });
    } else {
      convert_cpu(raw(), dtype_, source.raw(), source.dtype_, numel_);
    }
    return;
  }
  if (dtype_ != source.dtype_) {
    if (is_cuda() && source.is_cuda()) {
      cuda::convert(raw(), dtype_, source.raw(), source.dtype_, numel_);
    } else if (is_cuda()) {
      copy_from(source.to(dtype_));  // convert on the host, then move
    } else {
      convert_cpu(raw(), dtype_, source.to(kCpu).raw(), source.dtype_, numel_);
    }
    return;
  }
  const auto kind = !is_cuda()          ? cuda::CopyKind::device_to_host
                    : !source.is_cuda() ? cuda::CopyKind::host_to_device
                                        : cuda::CopyKind::device_to_device;
  cuda::copy(raw(), source.raw(), bytes(), kind);
}

void Tensor::fill(double value) const {
  if (numel_ == 0) return;
  if (is_cuda()) return cuda::fill(raw(), dtype_, numel_, value);
  dispatch_any(dtype_, [&](auto zero_value) {
    using T = decltype(zero_value);
    T* p = static_cast<T*>(raw());
    const T v = static_cast<T>(value);
    parallel_for(numel_, 1 << 18, [=](int64_t begin, int64_t end) { std::fill(p + begin, p + end, v); });
  });
}

void Tensor::zero() const { fill(0.0); }

double Tensor::item() const {
  check(numel_ == 1, "tensor", "item() of a tensor of shape ", shape_);
  return to_vector()[0];
}

std::vector<double> Tensor::to_vector() const {
  std::vector<double> values(static_cast<size_t>(numel_));
  if (numel_ == 0) return values;
  const Tensor host = to(kCpu);
  convert_cpu(values.data(), DType::f64, host.raw(), dtype_, numel_);
  return values;
}

bool has_nonfinite(const Tensor& t) {
  for (double v : t.to_vector()) {
    if (!(v - v == 0.0)) return true;
  }
  return false;
}

void check_shape(std::string_view op, std::string_view argument, const Tensor& t, const Shape& expected) {
  check(t.defined(), op, argument, " is undefined, expected shape ", expected);
  check(t.shape() == expected, op, argument, " must have shape ", expected, ", got ", t.shape());
}

void check_same(std::string_view op, std::string_view a_name, const Tensor& a, std::string_view b_name,
                const Tensor& b) {
  check(a.defined() && b.defined(), op, a_name, " or ", b_name, " is undefined");
  check(a.dtype() == b.dtype(), op, a_name, " has dtype ", a.dtype(), " but ", b_name, " has ", b.dtype());
  check(a.device() == b.device(), op, a_name, " is on ", a.device(), " but ", b_name, " on ", b.device());
}

}  // namespace rw
