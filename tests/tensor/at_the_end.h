// Numbers in front of a page that may not be touched.
#pragma once
#include <sys/mman.h>

#include <algorithm>
#include <vector>

#include "support.h"

namespace test {

/// A copy of numbers at the end of a page: the page behind it may not be read.
template <class T>
class AtTheEnd {
 public:
  explicit AtTheEnd(const std::vector<T>& values)
      : bytes_(static_cast<size_t>(values.size() * sizeof(T) + kPage - 1) / kPage * kPage + kPage),
        begin_(
            static_cast<char*>(::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {
    REQUIRE(begin_ != MAP_FAILED);
    char* end = begin_ + bytes_ - kPage;
    data_ = reinterpret_cast<T*>(end - values.size() * sizeof(T));
    std::copy(values.begin(), values.end(), data_);
    REQUIRE(::mprotect(end, kPage, PROT_NONE) == 0);
  }
  ~AtTheEnd() { ::munmap(begin_, bytes_); }
  AtTheEnd(const AtTheEnd&) = delete;
  AtTheEnd& operator=(const AtTheEnd&) = delete;
  T* data() { return data_; }
  const T* data() const { return data_; }

 private:
  static constexpr size_t kPage = 1 << 16;  // of any system's size
  size_t bytes_;
  char* begin_;
  T* data_;
};

}  // namespace test
