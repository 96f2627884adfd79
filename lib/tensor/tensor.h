// Tensor: a value handle on shared storage. Always contiguous; views are explicit. No gradients here (see autograd/).
//
//   Tensor x = Tensor::zeros({2, 3});             // f32 on the CPU
//   Tensor row = x.slice(0, 1).view({3});         // shares x's bytes
//   float* p = x.data<float>();
//
// Thread safety: like a shared_ptr; concurrent reads are safe, writes to the same bytes are not.
#pragma once
#include <memory>
#include <vector>

#include "tensor/allocator.h"
#include "tensor/device.h"
#include "tensor/dtype.h"
#include "tensor/shape.h"

namespace rw {

/// Owned (or borrowed, with a keep-alive) bytes on one device.
/// Thread safety: as the bytes: concurrent reads only.
class Storage {
 public:
  Storage(int64_t bytes, Device device);
  /// Borrows bytes (a memory-mapped file, a user's array); `owner` keeps them alive.
  Storage(void* bytes, int64_t size, Device device, std::shared_ptr<void> owner);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  Device device() const { return device_; }

 private:
  void* data_;
  int64_t bytes_;
  Device device_;
  const char* tag_ = nullptr;
  std::shared_ptr<void> owner_;
};

class Tensor {
 public:
  Tensor() = default;  // undefined

  /// Uninitialised.
  static Tensor empty(Shape shape, DType dtype = DType::f32, Device device = kCpu);
  static Tensor empty_like(const Tensor& t) { return empty(t.shape(), t.dtype(), t.device()); }
  static Tensor zeros(Shape shape, DType dtype = DType::f32, Device device = kCpu);
  static Tensor full(Shape shape, double value, DType dtype = DType::f32, Device device = kCpu);
  /// Copies `values` into a CPU tensor. Errors: count differs from the shape's.
  template <class T>
  static Tensor from(const std::vector<T>& values, Shape shape);
  template <class T>
  static Tensor from(const std::vector<T>& values) {
    return from(values, {static_cast<int64_t>(values.size())});
  }
  /// A tensor over bytes that someone else owns.
  static Tensor borrow(void* bytes, Shape shape, DType dtype, Device device, std::shared_ptr<void> owner = nullptr);

  bool defined() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  int64_t size(int d) const { return shape_[d]; }
  int64_t numel() const { return numel_; }
  int64_t bytes() const { return numel_ * size_of(dtype_); }
  DType dtype() const { return dtype_; }
  Device device() const { return storage_ ? storage_->device() : kCpu; }
  bool is_cuda() const { return device().is_cuda(); }

  void* raw() const;
  /// Typed pointer to the first element. Errors: T is not the dtype.
  template <class T>
  T* data() const {
    check(DTypeOf<T>::value == dtype_, "tensor", "data<", name_of(DTypeOf<T>::value), ">() of a tensor of dtype ",
          name_of(dtype_));
    return static_cast<T*>(raw());
  }

  /// Same bytes, another shape; one size may be -1. Errors: element counts differ.
  Tensor view(Shape shape) const;
  /// Rows [begin, end) of the first dimension, as a view.
  Tensor slice(int64_t begin, int64_t end) const;
  /// True if no other handle shares the bytes.
  bool unique() const { return storage_.use_count() == 1; }
  /// True if both share storage.
  bool aliases(const Tensor& other) const { return storage_ && storage_ == other.storage_; }

  Tensor clone() const;
  Tensor to(DType dtype) const;    // this tensor itself if nothing changes
  Tensor to(Device device) const;  // this tensor itself if nothing changes
  /// Copies values, converting dtype and device. Errors: shapes differ.
  void copy_from(const Tensor& source) const;
  void fill(double value) const;
  void zero() const;

  /// The only element, as f64.
  double item() const;
  /// All elements, as f64, from any device.
  std::vector<double> to_vector() const;

 private:
  std::shared_ptr<Storage> storage_;
  int64_t offset_ = 0;  // in elements
  int64_t numel_ = 0;
  Shape shape_;
  DType dtype_ = DType::f32;
};

/// True if any element is NaN or infinite.
bool has_nonfinite(const Tensor& t);

/// Errors: t's shape is not `expected`. The message names the op and the argument.
void check_shape(std::string_view op, std::string_view argument, const Tensor& t, const Shape& expected);
void check_same(std::string_view op, std::string_view a_name, const Tensor& a, std::string_view b_name,
                const Tensor& b);

template <class T>
Tensor Tensor::from(const std::vector<T>& values, Shape shape) {
  Tensor t = empty(shape, DTypeOf<T>::value);
  check(static_cast<int64_t>(values.size()) == t.numel(), "tensor", "from: shape ", shape, " needs ", t.numel(),
        " values, got ", values.size());
  if (!values.empty()) std::memcpy(t.raw(), values.data(), values.size() * sizeof(T));
  return t;
}

}  // namespace rw
