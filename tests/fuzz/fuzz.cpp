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

/// Largest allocation allowed; 0: any.
std::atomic<size_t> allowed{0};

void check_size(size_t size) {
  const size_t limit = allowed;
  if (limit == 0 || size <= limit) return;
  allowed = 0;
  std::fprintf(stderr, "fuzz: an allocation of %zu bytes, %zu allowed\n", size, limit);
  std::abort();
}

}  // namespace

#if defined(__SANITIZE_ADDRESS__)
#define FUZZ_WITH_ASAN
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FUZZ_WITH_ASAN
#endif
#endif

#ifdef FUZZ_WITH_ASAN

// Of the sanitizer's run-time library; GCC comes without the header that declares it.
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*allocated)(const volatile void*, size_t),
                                                         void (*freed)(const volatile void*));

namespace {
const int hooked = __sanitizer_install_malloc_and_free_hooks(
    [](const volatile void*, size_t size) { check_size(size); }, [](const volatile void*) {});
}  // namespace

#else

namespace {
void* counted(size_t size) {
  check_size(size);
  return std::malloc(size > 0 ? size : 1);
}
void* or_throw(void* p) {
  if (!p) throw std::bad_alloc();
  return p;
}
}  // namespace

void* operator new(size_t size) { return or_throw(counted(size)); }
void* operator new[](size_t size) { return or_throw(counted(size)); }
void* operator new(size_t size, const std::nothrow_t&) noexcept { return counted(size); }
void* operator new[](size_t size, const std::nothrow_t&) noexcept { return counted(size); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }
void operator delete[](void* p, size_t) noexcept { std::free(p); }

#endif

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
    std::string pattern =
        std::filesystem::exists("/dev/shm") ? "/dev/shm" : std::filesystem::temp_directory_path().string();
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
