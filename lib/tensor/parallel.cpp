#include "tensor/parallel.h"

#include <omp.h>

#include <atomic>

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

}  // namespace rw
