#include "fuzz.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <new>

#include "tensor/allocator.h"
#include "tensor/error.h"
#include "tensor/file.h"

namespace {

/// Largest allocation allowed; 0: any. Checked by operator new below.
std::atomic<size_t> allowed{0};

void* counted(size_t size, size_t alignment) {
  const size_t limit = allowed;
  if (limit > 0 && size > limit) {
    allowed = 0;
    std::fprintf(stderr, "fuzz: an allocation of %zu bytes, %zu allowed\n", size, limit);
    std::abort();
  }
  void* p = alignment <= alignof(std::max_align_t) ? std::malloc(size > 0 ? size : 1)
                                                   : std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  if (!p) throw std::bad_alloc();
  return p;
}

}  // namespace

void* operator new(size_t size) { return counted(size, 1); }
void* operator new[](size_t size) { return counted(size, 1); }
void* operator new(size_t size, std::align_val_t alignment) { return counted(size, static_cast<size_t>(alignment)); }
void* operator new[](size_t size, std::align_val_t alignment) { return counted(size, static_cast<size_t>(alignment)); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }
void operator delete[](void* p, size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, size_t, std::align_val_t) noexcept { std::free(p); }

namespace fuzz {

void run(std::string_view input) {
  const size_t limit = 4 * input.size() + kSlack;
  rw::release_cached_memory();
  rw::set_memory_limit(rw::memory_stats().live_bytes + static_cast<int64_t>(limit));
  allowed = limit;
  try {
    fuzz_one(input);
  } catch (const rw::OutOfMemory& e) {
    allowed = 0;
    std::fprintf(stderr, "fuzz: tensors beyond the limit: %s\n", e.what());
    std::abort();
  } catch (const rw::Error&) {  // the only thing that may come out
  }
  allowed = 0;
}

std::string file(const std::string& name, std::string_view bytes) {
  static const std::string folder = [] {
    std::string pattern = std::filesystem::exists("/dev/shm") ? "/dev/shm" : std::filesystem::temp_directory_path().string();
    pattern += "/ropewalk-fuzz-XXXXXX";
    if (!::mkdtemp(pattern.data())) std::abort();
    static const std::string made = pattern;
    std::atexit([] {
      std::error_code ignored;
      std::filesystem::remove_all(made, ignored);
    });
    return pattern;
  }();
  const std::string path = folder + "/" + name;
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0 || ::write(fd, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) std::abort();
  ::close(fd);
  return path;
}

std::string reference(const std::string& name) { return rw::read_file(std::string(ROPEWALK_TEST_DATA) + "/" + name); }

}  // namespace fuzz
