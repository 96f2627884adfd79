#include "tensor/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "tensor/error.h"

namespace rw {
namespace {

struct Descriptor {
  int fd;
  explicit Descriptor(int f) : fd(f) {}
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
};

std::string reason() { return std::strerror(errno); }

/// Opens a regular file and gives its size.
int open_regular(const std::string& path, int64_t& size) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  check(fd >= 0, "file", "cannot open '", path, "': ", reason());
  struct stat info {};
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    fail("file", "'", path, "' is not a regular file");
  }
  size = info.st_size;
  return fd;
}

}  // namespace

std::string read_file(const std::string& path) {
  int64_t size = 0;
  const Descriptor file(open_regular(path, size));
  std::string text(static_cast<size_t>(size), '\0');
  int64_t done = 0;
  while (done < size) {
    const ssize_t n = ::read(file.fd, text.data() + done, static_cast<size_t>(size - done));
    if (n < 0 && errno == EINTR) continue;
    check(n >= 0, "file", "cannot read '", path, "': ", reason());
    if (n == 0) break;
    done += n;
  }
  text.resize(static_cast<size_t>(done));
  return text;
}

MappedFile map_file(const std::string& path) {
  MappedFile map;
  const Descriptor file(open_regular(path, map.size));
  if (map.size == 0) return map;
  void* address = ::mmap(nullptr, static_cast<size_t>(map.size), PROT_READ, MAP_PRIVATE, file.fd, 0);
  check(address != MAP_FAILED, "file", "cannot map '", path, "': ", reason());
  const size_t length = static_cast<size_t>(map.size);
  map.owner = std::shared_ptr<void>(address, [length](void* p) { ::munmap(p, length); });
  map.data = static_cast<const unsigned char*>(address);
  return map;
}

AtomicWriter::AtomicWriter(std::string path) : path_(std::move(path)) {
  static std::atomic<unsigned> serial{0};
  temporary_ = cat(path_, ".tmp-", ::getpid(), "-", serial++);
  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  check(fd_ >= 0, "file", "cannot write '", path_, "': ", reason());
}

AtomicWriter::~AtomicWriter() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}

void AtomicWriter::write(const void* bytes, int64_t n) {
  const char* p = static_cast<const char*>(bytes);
  while (n > 0) {
    const ssize_t written = ::write(fd_, p, static_cast<size_t>(std::min<int64_t>(n, 1 << 30)));
    if (written < 0 && errno == EINTR) continue;
    check(written > 0, "file", "cannot write '", path_, "': ", reason());
    p += written;
    n -= written;
  }
}

void AtomicWriter::commit() {
  check(::fsync(fd_) == 0, "file", "cannot write '", path_, "': ", reason());
  check(::close(std::exchange(fd_, -1)) == 0, "file", "cannot write '", path_, "': ", reason());
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    const std::string why = reason();
    ::unlink(temporary_.c_str());
    fail("file", "cannot write '", path_, "': ", why);
  }
  const std::string folder = std::filesystem::path(path_).parent_path().string();
  const Descriptor dir(::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (dir.fd >= 0) ::fsync(dir.fd);  // makes the rename itself durable
}

void write_file_atomic(const std::string& path, std::string_view bytes) {
  AtomicWriter writer(path);
  writer.write(bytes.data(), static_cast<int64_t>(bytes.size()));
  writer.commit();
}

}  // namespace rw
