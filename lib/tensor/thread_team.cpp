// Teams of threads that wait for work: a counter tells the workers that there is
// some, another one the caller that it is done.
#include "tensor/thread_team.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

namespace rw::detail {
namespace {

thread_local bool inside = false;
thread_local int own_rank = 0;

/// Threads do not survive fork(): teams of an older generation are abandoned.
std::atomic<int>& generation() {
  static std::atomic<int> count{0};
  static const int registered = ::pthread_atfork(nullptr, nullptr, [] { generation().fetch_add(1); });
  static_cast<void>(registered);
  return count;
}

int available_cpus() {
  cpu_set_t set;
  return ::sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

/// How often a waiting thread of a team looks before it sleeps: some 100 microseconds, and hardly
/// at all where there are more threads than CPUs.
int spins(int team) {
  static const int most = [] {
    const char* policy = std::getenv("OMP_WAIT_POLICY");
    const std::string text = policy ? policy : "";
    return text == "passive" || text == "PASSIVE" ? 0 : text == "active" || text == "ACTIVE" ? 1'000'000 : 4000;
  }();
  static const int cpus = available_cpus();
  return team > cpus ? std::min(most, 50) : most;
}

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

/// Waits until `value` is no longer `old`.
template <class T>
void wait_for_change(const std::atomic<T>& value, T old, int looks) {
  for (int i = 0; i < looks; ++i, pause()) {
    if (value.load(std::memory_order_acquire) != old) return;
  }
  value.wait(old, std::memory_order_acquire);
}

struct Worker;

struct Team {
  std::vector<std::unique_ptr<Worker>> workers;
  int refused = INT32_MAX;  // the size that the system did not allow
  int born = generation();
  const std::function<void(int)>* work = nullptr;
  std::atomic<int> spin{0};
  std::atomic<int> busy{0};  // workers that have not finished the current call

  ~Team();
  bool add_worker();
};

struct alignas(64) Worker {
  Team* team = nullptr;
  int rank = 0;
  pthread_t thread{};
  std::atomic<uint32_t> turn{0};  // calls that were given to this worker
  bool leave = false;

  void run() {
    inside = true;
    own_rank = rank;
    for (uint32_t seen = 0;; ++seen) {
      wait_for_change(turn, seen, team->spin);
      if (leave) return;
      (*team->work)(rank);
      if (team->busy.fetch_sub(1, std::memory_order_acq_rel) == 1) team->busy.notify_one();
    }
  }
  void wake() {
    turn.fetch_add(1, std::memory_order_release);
    turn.notify_one();
  }
};

bool Team::add_worker() {
  auto worker = std::make_unique<Worker>();
  worker->team = this;
  worker->rank = static_cast<int>(workers.size()) + 1;
  workers.reserve(workers.size() + 1);
  // The host's signals are for the host's threads.
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  const int error = ::pthread_create(
      &worker->thread, nullptr,
      [](void* w) -> void* {
        static_cast<Worker*>(w)->run();
        return nullptr;
      },
      worker.get());
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (error != 0) return false;
  workers.push_back(std::move(worker));
  return true;
}

Team::~Team() {
  if (born != generation()) {  // the parent's threads: nobody is there
    for (auto& worker : workers) static_cast<void>(worker.release());
    return;
  }
  for (auto& worker : workers) {
    worker->leave = true;
    worker->wake();
  }
  for (auto& worker : workers) ::pthread_join(worker->thread, nullptr);
}

Team& own_team() {
  thread_local std::unique_ptr<Team> team;
  if (!team || team->born != generation()) team = std::make_unique<Team>();
  return *team;
}

}  // namespace

void TeamBarrier::wait_for(uint32_t turn) const { wait_for_change(turn_, turn, spins(size_)); }

bool in_team() { return inside; }
int team_rank() { return own_rank; }

int grow_team(int wanted) {
  if (wanted <= 1 || inside) return 1;
  Team& team = own_team();
  const auto size = [&] { return static_cast<int>(team.workers.size()) + 1; };
  while (size() < std::min(wanted, team.refused)) {
    if (!team.add_worker()) team.refused = size();
  }
  return std::min(wanted, size());
}

void run_team(int size, const std::function<void(int rank)>& f) {
  if (size <= 1) {
    const bool before = inside;
    inside = true;
    f(0);
    inside = before;
    return;
  }
  Team& team = own_team();
  team.work = &f;
  team.spin = spins(size);
  team.busy.store(size - 1, std::memory_order_relaxed);
  for (int i = 0; i < size - 1; ++i) team.workers[static_cast<size_t>(i)]->wake();
  inside = true;
  f(0);
  inside = false;
  for (int left = team.busy.load(std::memory_order_acquire); left != 0;
       left = team.busy.load(std::memory_order_acquire)) {
    wait_for_change(team.busy, left, team.spin);
  }
}

}  // namespace rw::detail
