// Work over index ranges with OpenMP; for the library's own .cpp files. The split depends on the thread count only,
// never on timing.
#pragma once
#include <algorithm>
#include <cstdint>
#include <exception>
#include <utility>

#include "tensor/threads.h"

namespace rw {

namespace detail {
bool in_parallel();
int thread_index();
}  // namespace detail

/// Calls f(begin, end) on contiguous parts of [0, n), at least `grain` long, on several threads. The first exception is
/// rethrown.
template <class F>
void parallel_for(int64_t n, int64_t grain, F&& f) {
  const int64_t parts = std::min<int64_t>(thread_count(), (n + grain - 1) / std::max<int64_t>(grain, 1));
  if (n <= 0) return;
  if (parts <= 1 || detail::in_parallel()) {
    f(int64_t{0}, n);
    return;
  }
  std::exception_ptr error;
#pragma omp parallel for num_threads(static_cast <int>(parts)) schedule(static, 1)
  for (int64_t p = 0; p < parts; ++p) {
    try {
      f(n * p / parts, n * (p + 1) / parts);
    } catch (...) {
#pragma omp critical
      if (!error) error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
}

/// Calls f(i) for every i in [0, n), handing items out one by one: for items of uneven cost that write to separate
/// places.
template <class F>
void parallel_items(int64_t n, F&& f) {
  const int64_t threads = std::min<int64_t>(thread_count(), n);
  if (threads <= 1 || detail::in_parallel()) {
    for (int64_t i = 0; i < n; ++i) f(i);
    return;
  }
  std::exception_ptr error;
#pragma omp parallel for num_threads(static_cast <int>(threads)) schedule(dynamic, 1)
  for (int64_t i = 0; i < n; ++i) {
    try {
      f(i);
    } catch (...) {
#pragma omp critical
      if (!error) error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace rw
