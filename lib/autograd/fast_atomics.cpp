#include "autograd/fast_atomics.h"

#include <atomic>

namespace rw {

namespace {
std::atomic<bool> allowed{false};
}

void set_fast_atomics(bool on) { allowed.store(on, std::memory_order_relaxed); }
bool fast_atomics() { return allowed.load(std::memory_order_relaxed); }

}  // namespace rw
