// How many threads CPU ops use.
#pragma once

namespace rw {

/// OMP_NUM_THREADS, or all cores, until set.
int thread_count();
/// Errors: fewer than 1.
void set_thread_count(int threads);

}  // namespace rw
