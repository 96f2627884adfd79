// A caching allocator per device: sizes are rounded up to a bin (at most 12.5 %
// waste) and freed blocks wait in their bin.
//
// Why also on the CPU: a training step allocates the same few hundred large arrays every time, and giving them back to
// the system means a page fault per 4 KiB at the next step.
#include "tensor/allocator.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <mutex>
#include <new>
#include <unordered_map>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "tensor/cuda.h"
#include "tensor/error.h"

namespace rw {
namespace {

constexpr int64_t kAlignment = 256;
constexpr int64_t kHugePage = 2 << 20;
constexpr uint64_t kLargestStep = 32 << 20;
constexpr int kMaxDevices = 17;  // the CPU and up to 16 GPUs

/// Rounds up to an eighth of the power of two below: 256, 512, ..., then 8 bins per octave, and beyond 256 MiB to a
/// multiple of 32 MiB: an eighth of a weight arena would be gigabytes.
int64_t bin_size(int64_t bytes) {
  const uint64_t n = static_cast<uint64_t>(bytes < kAlignment ? kAlignment : bytes);
  const uint64_t step = std::clamp<uint64_t>(std::bit_floor(n) / 8, kAlignment, kLargestStep);
  return static_cast<int64_t>((n + step - 1) / step * step);
}

struct Pool {
  std::mutex mutex;
  std::unordered_map<int64_t, std::vector<void*>> free_blocks;  // by bin size
  MemoryStats stats;
  int64_t limit = 0;
};

Pool& pool_of(Device device) {
  // Never destroyed: static tensors may be freed after main.
  static auto* pools = new std::array<Pool, kMaxDevices>;
  return (*pools)[device.is_cuda() ? static_cast<size_t>(device.index) + 1 : 0];
}

void* system_allocate(int64_t bytes, Device device) {
  if (device.is_cuda()) return cuda::device_malloc(bytes, device.index);
#ifdef __linux__
  // Large arrays on 2 MiB pages: streaming through weights is then a third faster, and first use faults 512 times less.
  if (bytes >= 2 * kHugePage) {
    void* pointer = nullptr;
    if (posix_memalign(&pointer, static_cast<size_t>(kHugePage), static_cast<size_t>(bytes)) != 0) return nullptr;
    madvise(pointer, static_cast<size_t>(bytes), MADV_HUGEPAGE);
    return pointer;
  }
#endif
  return std::aligned_alloc(static_cast<size_t>(kAlignment), static_cast<size_t>(bytes));
}

void system_free(void* pointer, Device device) {
  if (device.is_cuda()) {
    cuda::device_free(pointer, device.index);
  } else {
    std::free(pointer);
  }
}

/// Gives a block back to the system: where there is no memory to remember it by.
void free_locked(Pool& pool, void* pointer, int64_t size, Device device) {
  system_free(pointer, device);
  pool.stats.reserved_bytes -= size;
}

void release_locked(Pool& pool, Device device) {
  for (auto& [size, blocks] : pool.free_blocks) {
    for (void* block : blocks) system_free(block, device);
    pool.stats.reserved_bytes -= size * static_cast<int64_t>(blocks.size());
  }
  pool.free_blocks.clear();
}

thread_local const char* current_tag = "other";
thread_local PrivatePool* current_private = nullptr;

void* take(std::unordered_map<int64_t, std::vector<void*>>& blocks, int64_t size) {
  const auto it = blocks.find(size);
  if (it == blocks.end() || it->second.empty()) return nullptr;
  void* pointer = it->second.back();
  it->second.pop_back();
  return pointer;
}

}  // namespace

MemoryTag::MemoryTag(const char* name) : previous_(current_tag) { current_tag = name; }
MemoryTag::~MemoryTag() { current_tag = previous_; }
const char* MemoryTag::current() { return current_tag; }

void* allocate(int64_t bytes, Device device, const char* tag) {
  if (bytes == 0) return nullptr;
  Pool& pool = pool_of(device);
  const int64_t size = bin_size(bytes);
  const std::lock_guard lock(pool.mutex);
  const auto out_of_memory = [&](const char* why) {
    throw OutOfMemory(cat("[allocator] out of memory on ", device, ": ", bytes, " bytes asked for under tag '", tag,
                          "', ", pool.stats.live_bytes, " live, ", pool.stats.reserved_bytes, " reserved", why));
  };
  if (pool.limit > 0 && pool.stats.live_bytes + bytes > pool.limit) out_of_memory(" (limit set by set_memory_limit)");
  // All that may itself run out of memory comes before the block is taken.
  MemoryStats& s = pool.stats;
  int64_t& by_tag = s.live_by_tag[tag];
  int64_t& tag_peak = s.peak_by_tag[tag];
  void* pointer = nullptr;
  if (current_private && current_private->device_ == device) pointer = take(current_private->free_blocks_, size);
  if (!pointer) pointer = take(pool.free_blocks, size);
  if (!pointer) {
    pointer = system_allocate(size, device);
    if (!pointer) {  // what waits in other bins may be enough
      release_locked(pool, device);
      pointer = system_allocate(size, device);
    }
    if (!pointer) out_of_memory("");
    s.reserved_bytes += size;
    ++s.system_allocations;
  }
  s.live_bytes += bytes;
  by_tag += bytes;
  tag_peak = std::max(tag_peak, by_tag);
  if (s.live_bytes > s.peak_bytes) {
    s.peak_bytes = s.live_bytes;
    try {
      s.tags_at_peak = s.live_by_tag;
    } catch (const std::bad_alloc&) {
      s.tags_at_peak.clear();  // a statistic
    }
  }
  return pointer;
}

void deallocate(void* pointer, int64_t bytes, Device device, const char* tag) noexcept {
  if (!pointer) return;
  Pool& pool = pool_of(device);
  const std::lock_guard lock(pool.mutex);
  pool.stats.live_bytes -= bytes;
  const bool apart = current_private && current_private->device_ == device;
  try {
    pool.stats.live_by_tag[tag] -= bytes;
    (apart ? current_private->free_blocks_ : pool.free_blocks)[bin_size(bytes)].push_back(pointer);
  } catch (const std::bad_alloc&) {
    if (!apart) free_locked(pool, pointer, bin_size(bytes), device);  // a graph may still use the blocks of its pool
  }
}

PrivatePool::~PrivatePool() {
  Pool& pool = pool_of(device_);
  const std::lock_guard lock(pool.mutex);
  for (auto& [size, blocks] : free_blocks_) {
    try {
      auto& shared = pool.free_blocks[size];
      shared.insert(shared.end(), blocks.begin(), blocks.end());
    } catch (const std::bad_alloc&) {
      for (void* block : blocks) free_locked(pool, block, size, device_);
    }
  }
}
PrivatePool::Scope::Scope(PrivatePool& pool) : previous_(current_private) { current_private = &pool; }
PrivatePool::Scope::~Scope() { current_private = previous_; }

MemoryStats memory_stats(Device device) {
  Pool& pool = pool_of(device);
  const std::lock_guard lock(pool.mutex);
  return pool.stats;
}

void reset_peak_memory(Device device) {
  Pool& pool = pool_of(device);
  const std::lock_guard lock(pool.mutex);
  pool.stats.peak_bytes = pool.stats.live_bytes;
  pool.stats.peak_by_tag = pool.stats.tags_at_peak = pool.stats.live_by_tag;
}

void release_cached_memory(Device device) {
  Pool& pool = pool_of(device);
  const std::lock_guard lock(pool.mutex);
  release_locked(pool, device);
}

void set_memory_limit(int64_t bytes, Device device) {
  Pool& pool = pool_of(device);
  const std::lock_guard lock(pool.mutex);
  pool.limit = bytes;
}

}  // namespace rw
