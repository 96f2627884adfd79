// How many threads CPU ops use.
#pragma once

namespace rw {

/// OMP_NUM_THREADS, or all cores, until set; at most 4096. Where the system makes fewer, the results are the same.
int thread_count();
/// Errors: fewer than 1, more than 4096.
void set_thread_count(int threads);

}  // namespace rw
