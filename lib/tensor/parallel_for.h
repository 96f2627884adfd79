// Internal: work over index ranges by a team of threads. The split depends on the thread count only, never on timing.
#pragma once
#include <algorithm>
#include <cstdint>
#include <functional>

#include "tensor/threads.h"

namespace rw {

namespace detail {
bool in_parallel();
int thread_index();
// A loop body is compiled once and called from here. As a template that is inlined into a serial and into a parallel
// path, the compiler may vectorise a sum in one and not in the other: its bits would depend on the number of threads.
void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t begin, int64_t end)>& f);
void parallel_items(int64_t n, const std::function<void(int64_t i)>& f);
}  // namespace detail

/// Calls f(begin, end) on contiguous parts of [0, n), at least `grain` long, on several
/// threads. The first exception is rethrown.
template <class F>
void parallel_for(int64_t n, int64_t grain, F&& f) {
  detail::parallel_for(n, grain, std::ref(f));
}

/// Calls f(i) for every i in [0, n), handing items out one by one: for items of
/// uneven cost that write to separate places.
template <class F>
void parallel_items(int64_t n, F&& f) {
  detail::parallel_items(n, std::ref(f));
}

}  // namespace rw
