#include "tensor/parallel_for.h"

#include <omp.h>

#include <atomic>
#include <exception>

#include "tensor/error.h"

namespace rw {
namespace {
std::atomic<int>& threads() {
  static std::atomic<int> count{omp_get_max_threads()};
  return count;
}
}  // namespace

int thread_count() { return threads(); }

void set_thread_count(int count) {
  check(count >= 1, "threads", "expected at least 1, got ", count);
  threads() = count;
  omp_set_num_threads(count);
}

bool detail::in_parallel() { return omp_in_parallel() != 0; }
int detail::thread_index() { return omp_get_thread_num(); }

void detail::parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t begin, int64_t end)>& f) {
  const int64_t parts = std::min<int64_t>(thread_count(), (n + grain - 1) / std::max<int64_t>(grain, 1));
  if (n <= 0) return;
  if (parts <= 1 || in_parallel()) return f(0, n);
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

void detail::parallel_items(int64_t n, const std::function<void(int64_t i)>& f) {
  const int64_t threads = std::min<int64_t>(thread_count(), n);
  if (threads <= 1 || in_parallel()) {
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
