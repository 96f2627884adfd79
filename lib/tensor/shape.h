// A small shape: up to six sizes, held in place.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <limits>

#include "tensor/error.h"

namespace rw {

class Shape {
 public:
  static constexpr int kMaxRank = 6;

  Shape() = default;
  Shape(std::initializer_list<int64_t> sizes) {
    for (int64_t s : sizes) push_back(s);
  }

  int rank() const { return rank_; }
  /// Size of dimension d; negative d counts from the end.
  int64_t operator[](int d) const {
    const int i = d < 0 ? d + rank_ : d;
    check(i >= 0 && i < rank_, "shape", "dimension ", d, " does not exist in a shape of rank ", rank_);
    return sizes_[static_cast<size_t>(i)];
  }
  void set(int d, int64_t size) { sizes_[static_cast<size_t>(d < 0 ? d + rank_ : d)] = size; }
  void push_back(int64_t size) {
    check(rank_ < kMaxRank, "shape", "at most ", kMaxRank, " dimensions");
    sizes_[static_cast<size_t>(rank_++)] = size;
  }
  /// Number of elements; 1 for a scalar (rank 0). Errors: negative size, overflow.
  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < rank_; ++i) {
      const int64_t s = sizes_[static_cast<size_t>(i)];
      check(s >= 0, "shape", "negative size ", s);
      check(s == 0 || n <= std::numeric_limits<int64_t>::max() / s, "shape", "element count overflows");
      n *= s;
    }
    return n;
  }
  const int64_t* begin() const { return sizes_.data(); }
  const int64_t* end() const { return sizes_.data() + rank_; }

  friend bool operator==(const Shape& a, const Shape& b) { return std::equal(a.begin(), a.end(), b.begin(), b.end()); }
  template <class Stream>
  friend Stream& operator<<(Stream& out, const Shape& s) {
    out << "[";
    for (int i = 0; i < s.rank_; ++i) out << (i ? ", " : "") << s.sizes_[static_cast<size_t>(i)];
    out << "]";
    return out;
  }

 private:
  std::array<int64_t, kMaxRank> sizes_{};
  int rank_ = 0;
};

}  // namespace rw
