// Memory with statistics. Both devices keep freed blocks for reuse, so a steady training step allocates nothing.
//
// Thread safety: every function may be called from any thread.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "tensor/device.h"

namespace rw {

struct MemoryStats {
  int64_t live_bytes = 0;                       // handed out now
  int64_t peak_bytes = 0;                       // highest live_bytes since reset_peak_memory()
  int64_t reserved_bytes = 0;                   // taken from the system: live plus kept for reuse
  int64_t system_allocations = 0;               // calls to malloc / cudaMalloc so far
  std::map<std::string, int64_t> live_by_tag;   // see MemoryTag
  std::map<std::string, int64_t> peak_by_tag;   // each tag's own highest
  std::map<std::string, int64_t> tags_at_peak;  // what live_by_tag was when live_bytes was highest
};

MemoryStats memory_stats(Device device = kCpu);
void reset_peak_memory(Device device = kCpu);
/// Gives kept blocks back to the system.
void release_cached_memory(Device device = kCpu);
/// Refuses allocations beyond this many live bytes (0: no limit). For tests and for sharing a machine.
void set_memory_limit(int64_t bytes, Device device = kCpu);

/// While it lives, allocations of this thread are counted under `name` (a string literal).
class MemoryTag {
 public:
  explicit MemoryTag(const char* name);
  ~MemoryTag();
  MemoryTag(const MemoryTag&) = delete;
  MemoryTag& operator=(const MemoryTag&) = delete;
  static const char* current();

 private:
  const char* previous_;
};

/// Blocks that are kept apart for whoever replays recorded work (a CUDA graph writes to the addresses it was captured
/// with). While a Scope lives, blocks freed by this thread go here and allocations are served from here first; nobody
/// else gets them until the pool is destroyed.
class PrivatePool {
 public:
  explicit PrivatePool(Device device) : device_(device) {}
  ~PrivatePool();
  PrivatePool(const PrivatePool&) = delete;
  PrivatePool& operator=(const PrivatePool&) = delete;

  class Scope {
   public:
    explicit Scope(PrivatePool& pool);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    PrivatePool* previous_;
  };

 private:
  friend void* allocate(int64_t bytes, Device device, const char* tag);
  friend void deallocate(void* pointer, int64_t bytes, Device device, const char* tag) noexcept;

  Device device_;
  std::unordered_map<int64_t, std::vector<void*>> free_blocks_;  // by bin size
};

/// 256-byte aligned, uninitialised. Errors: OutOfMemory with sizes and tag.
void* allocate(int64_t bytes, Device device, const char* tag);
void deallocate(void* pointer, int64_t bytes, Device device, const char* tag) noexcept;

}  // namespace rw
