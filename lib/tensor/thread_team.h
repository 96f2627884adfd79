// The threads behind parallel_for: a team of workers for each calling thread, made when they are first needed.
//
// Our own and not OpenMP's: libgomp ends the whole process when the system refuses it a thread, which a library must
// not do. A team that cannot be as large as asked for is smaller, and the work is the same.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>

namespace rw {

inline constexpr int kMostThreads = 4096;

namespace detail {

/// How many threads, the caller's included, run_team() may use: `wanted`, or fewer where the system refused to make
/// them; at least 1. Within a team: 1.
int grow_team(int wanted);

/// Calls f(0), ..., f(size - 1) at the same time, f(0) on the calling thread, and returns when all have returned; they
/// may wait for each other. `size` is at most what grow_team() has given on this thread. f must not throw. Threads
/// sleep between calls, after spinning for a moment unless OMP_WAIT_POLICY is "passive".
void run_team(int size, const std::function<void(int rank)>& f);

/// Where the threads of a team wait for each other, any number of times.
class TeamBarrier {
 public:
  explicit TeamBarrier(int size) : size_(size) {}
  /// Returns when all threads are here. The last to come runs f() first.
  template <class F>
  void wait(const F& f) {
    const uint32_t turn = turn_.load(std::memory_order_relaxed);
    if (here_.fetch_add(1, std::memory_order_acq_rel) + 1 < size_) return wait_for(turn);
    f();
    here_.store(0, std::memory_order_relaxed);
    turn_.fetch_add(1, std::memory_order_release);
    turn_.notify_all();
  }

 private:
  void wait_for(uint32_t turn) const;

  const int size_;
  std::atomic<int> here_{0};
  std::atomic<uint32_t> turn_{0};
};

/// Whether this thread is within run_team().
bool in_team();
/// Which of the team this thread is; 0 outside of one.
int team_rank();

}  // namespace detail
}  // namespace rw
