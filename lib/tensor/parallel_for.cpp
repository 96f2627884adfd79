// Index ranges over a team of threads. How a range is split depends on the thread count that was asked for, and not on
// how many threads there are: the same parts, the same bits.
#include "tensor/parallel_for.h"

#include <omp.h>

#include <atomic>
#include <exception>
#include <mutex>

#include "tensor/error.h"
#include "tensor/thread_team.h"

namespace rw {
namespace {

std::atomic<int>& threads() {
  // What OMP_NUM_THREADS says, or the CPUs that this process may use.
  static std::atomic<int> count{std::clamp(omp_get_max_threads(), 1, kMostThreads)};
  return count;
}

/// Calls f(item) for every item in [0, n): item i by thread i % team, or whoever comes first. The first exception is
/// rethrown when all have ended.
void run_items(int64_t n, bool fixed, const std::function<void(int64_t item)>& f) {
  const int team = detail::grow_team(static_cast<int>(std::min<int64_t>(n, thread_count())));
  std::atomic<int64_t> next{0};
  std::exception_ptr error;
  std::mutex mutex;
  detail::run_team(team, [&](int rank) {
    for (int64_t i = fixed ? rank : next++; i < n; i = fixed ? i + team : next++) {
      try {
        f(i);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!error) error = std::current_exception();
      }
    }
  });
  if (error) std::rethrow_exception(error);
}

}  // namespace

int thread_count() { return threads(); }

void set_thread_count(int count) {
  check(count >= 1 && count <= kMostThreads, "threads", "expected 1 to ", kMostThreads, ", got ", count);
  threads() = count;
}

bool detail::in_parallel() { return in_team(); }
int detail::thread_index() { return team_rank(); }

void detail::parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t begin, int64_t end)>& f) {
  const int64_t parts = std::min<int64_t>(thread_count(), (n + grain - 1) / std::max<int64_t>(grain, 1));
  if (n <= 0) return;
  if (parts <= 1 || in_parallel()) return f(0, n);
  run_items(parts, true, [&](int64_t p) { f(n * p / parts, n * (p + 1) / parts); });
}

void detail::parallel_items(int64_t n, const std::function<void(int64_t i)>& f) {
  if (thread_count() > 1 && n > 1 && !in_parallel()) return run_items(n, false, f);
  for (int64_t i = 0; i < n; ++i) f(i);
}

}  // namespace rw
