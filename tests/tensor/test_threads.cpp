// The threads behind the CPU ops: bounds, too few of them, callers of their own, and the life after a fork.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <set>
#include <thread>

#include "support.h"
#include "tensor/parallel_for.h"
#include "tensor/thread_team.h"

using namespace rw;

namespace {

/// Sums i over [0, n) by parallel_for.
int64_t sum(int64_t n) {
  std::atomic<int64_t> total{0};
  parallel_for(n, 1, [&](int64_t begin, int64_t end) {
    int64_t part = 0;
    for (int64_t i = begin; i < end; ++i) part += i;
    total += part;
  });
  return total;
}

struct ThreadCount {  // puts it back
  int before = thread_count();
  ~ThreadCount() { set_thread_count(before); }
};

/// The exit code of `f` in a process of its own; -1: it ended by a signal.
template <class F>
int in_child(F f) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(f());
  int status = 0;
  return ::waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace

TEST_CASE("a thread count below 1 or above 4096 is refused") {
  const ThreadCount keep;
  CHECK(test::error_of([] { set_thread_count(0); }) == "[threads] expected 1 to 4096, got 0");
  CHECK(test::error_of([] { set_thread_count(2147483647); }) == "[threads] expected 1 to 4096, got 2147483647");
}

TEST_CASE("where the system refuses threads, fewer do the same work") {
#ifdef __SANITIZE_THREAD__
  std::printf("SKIPPED: ThreadSanitizer itself needs the memory that this case takes away\n");
  return;
#endif
  const ThreadCount keep;
  const int code = in_child([] {
    set_thread_count(64);
    struct rlimit none {};
    ::getrlimit(RLIMIT_AS, &none);
    none.rlim_cur = 1;  // not a byte more: no stack for a thread
    ::setrlimit(RLIMIT_AS, &none);
    return detail::grow_team(64) < 64 && sum(1000) == 499'500 ? 7 : 8;
  });
  CHECK(code == 7);
}

TEST_CASE("every part of a range is done once, whatever the number of threads") {
  const ThreadCount keep;
  for (const int threads : {1, 2, 3, 7}) {
    set_thread_count(threads);
    CHECK(sum(1) == 0);
    CHECK(sum(1001) == 500'500);
    std::vector<std::atomic<int>> seen(100);
    parallel_items(100, [&](int64_t i) { ++seen[static_cast<size_t>(i)]; });
    for (const auto& n : seen) CHECK(n == 1);
  }
}

TEST_CASE("the threads of a team run at the same time and know their ranks") {
  const int team = detail::grow_team(3);
  CHECK(team == 3);
  for (int round = 0; round < 200; ++round) {
    std::atomic<int> here{0};
    std::array<int, 3> ranks{};
    detail::run_team(team, [&](int rank) {
      ranks[static_cast<size_t>(rank)] = detail::team_rank();
      ++here;
      while (here < team) std::this_thread::yield();
    });
    CHECK(ranks == std::array<int, 3>{0, 1, 2});
  }
  CHECK_FALSE(detail::in_team());
}

TEST_CASE("the first exception of a part comes out, and the next call works") {
  const ThreadCount keep;
  set_thread_count(3);
  const auto failing = [](int64_t begin, int64_t) { check(begin == 0, "test", "part at ", begin); };
  CHECK(test::error_of([&] { parallel_for(9, 1, failing); }).find("[test] part at ") == 0);
  CHECK(sum(10) == 45);
}

TEST_CASE("several threads of a host have teams of their own, and a parallel call within one runs alone") {
  const ThreadCount keep;
  set_thread_count(3);
  std::atomic<int> right{0};
  test::in_threads(4, [&](int) {
    for (int round = 0; round < 50; ++round) {
      parallel_items(3, [&](int64_t) { right += sum(100) == 4950; });
    }
  });
  CHECK(right == 600);
}

TEST_CASE("a process that forks after parallel work can do parallel work in the child") {
  const ThreadCount keep;
  set_thread_count(3);
  CHECK(sum(100) == 4950);
  CHECK(in_child([] { return sum(100) == 4950 && detail::grow_team(3) == 3 ? 7 : 8; }) == 7);
  CHECK(sum(100) == 4950);
}
