// Reading and writing of single files, by the system's own calls, each of them checked.
#include "tensor/file.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "tensor/printable.h"
#include "tensor/system_error.h"

namespace rw {
namespace {

constexpr std::string_view kTemporary = ".ropewalk-tmp-";
constexpr size_t kTemporaryDigits = 24;

const char* kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISLNK(mode)) return "a link";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  if (S_ISCHR(mode) || S_ISBLK(mode)) return "a device";
  return "not a regular file";
}

/// Opens a regular file and gives its size. O_NONBLOCK: a FIFO without a writer would wait for one.
int open_regular(const std::string& path, const FileLimit& limit, int64_t& size) {
  check(path.find('\0') == std::string::npos, "file", "the path '", printable(path), "' holds a NUL character");
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) {
    const int error = errno;
    struct stat info {};
    if (error == ENXIO && ::stat(path.c_str(), &info) == 0) {
      fail("file", "'", path, "' is ", kind_of(info.st_mode), ", not a regular file");
    }
    fail_with_errno("file", cat("cannot open '", path, "'"), error);
  }
  struct stat info {};
  const int error = ::fstat(fd, &info) == 0 ? 0 : errno;
  if (error == 0 && S_ISREG(info.st_mode) && info.st_size <= limit.bytes) {
    size = info.st_size;
    return fd;
  }
  ::close(fd);
  if (error != 0) fail_with_errno("file", cat("cannot open '", path, "'"), error);
  check(S_ISREG(info.st_mode), "file", "'", path, "' is ", kind_of(info.st_mode), ", not a regular file");
  fail("file", "'", path, "' has ", info.st_size, " bytes, more than the ", limit.bytes, " that are read as ",
       limit.kind);
}

}  // namespace

FileReader::FileReader(const std::string& path, const FileLimit& limit) : path_(path) {
  const int fd = open_regular(path, limit, size_);
  fd_ = std::shared_ptr<const int>(new int(fd), [](const int* p) {
    ::close(*p);
    delete p;
  });
}

void FileReader::read(int64_t at, void* bytes, int64_t n) const {
  check(at >= 0 && n >= 0 && at <= size_ && n <= size_ - at, "file", "'", path_, "': bytes [", at, ", ", at, " + ", n,
        ") of ", size_);
  char* to = static_cast<char*>(bytes);
  while (n > 0) {
    const ssize_t got = ::pread(*fd_, to, static_cast<size_t>(std::min<int64_t>(n, 1 << 30)), at);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_with_errno("file", cat("cannot read '", path_, "'"), errno);
    check(got > 0, "file", "'", path_, "' became shorter while it was read: it ends at byte ", at, " of ", size_);
    to += got, at += got, n -= got;
  }
}

std::string read_file(const std::string& path, const FileLimit& limit) {
  const FileReader file(path, limit);
  std::string text(static_cast<size_t>(file.size()), '\0');
  file.read(0, text.data(), file.size());
  return text;
}

std::string temporary_name() {
  static std::atomic<uint32_t> serial{0};
  uint64_t random = 0;
  if (::getrandom(&random, sizeof random, 0) != sizeof random) random = static_cast<uint64_t>(::getpid());
  char name[64];
  std::snprintf(name, sizeof name, "%s%016llx%08x", kTemporary.data(), static_cast<unsigned long long>(random),
                serial++);
  return name;
}

bool is_temporary_name(std::string_view name) {
  return name.size() == kTemporary.size() + kTemporaryDigits && name.starts_with(kTemporary) &&
         name.substr(kTemporary.size()).find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

// --- writing --------------------------------------------------------------------------------------------------------

AtomicWriter::AtomicWriter(std::string path) : path_(std::move(path)), temporary_(temporary_name()) {
  check(path_.find('\0') == std::string::npos, "file", "the path '", printable(path_), "' holds a NUL character");
  const size_t slash = path_.rfind('/');
  name_ = slash == std::string::npos ? path_ : path_.substr(slash + 1);
  check(!name_.empty() && name_ != "." && name_ != "..", "file", "'", path_, "' is no name of a file");
  const std::string folder = slash == std::string::npos ? "." : path_.substr(0, slash + 1);
  // A folder that may be written to but not listed opens only as a path.
  folder_fd_ = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder_fd_ < 0 && errno == EACCES) folder_fd_ = ::open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (folder_fd_ < 0) fail_to_write(errno);
  try {
    check_replaceable();
    struct stat old {};
    const bool exists = ::fstatat(folder_fd_, name_.c_str(), &old, AT_SYMLINK_NOFOLLOW) == 0;
    // Never wider than it will be; the umask applies to new files only.
    fd_ = ::openat(folder_fd_, temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC,
                   exists ? old.st_mode & 0600 : 0666);
    if (fd_ < 0) fail_to_write(errno);
    if (!exists) return;
    if (old.st_uid != ::geteuid() || old.st_gid != ::getegid()) {
      static_cast<void>(!::fchown(fd_, old.st_uid, old.st_gid));  // only root may; others keep theirs
    }
    if (::fchmod(fd_, old.st_mode & 0777) != 0) fail_to_write(errno);
  } catch (...) {
    if (fd_ >= 0) ::close(fd_), ::unlinkat(folder_fd_, temporary_.c_str(), 0);
    ::close(folder_fd_);
    throw;
  }
}

AtomicWriter::~AtomicWriter() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlinkat(folder_fd_, temporary_.c_str(), 0);
  ::close(folder_fd_);
}

void AtomicWriter::fail_to_write(int error) const { fail_with_errno("file", cat("cannot write '", path_, "'"), error); }

void AtomicWriter::check_replaceable() {
  struct stat old {};
  if (::fstatat(folder_fd_, name_.c_str(), &old, AT_SYMLINK_NOFOLLOW) != 0) {
    if (errno != ENOENT) fail_to_write(errno);
    return;
  }
  check(S_ISREG(old.st_mode), "file", "cannot write '", path_, "': it is ", kind_of(old.st_mode),
        ", and only a regular file is replaced");
  check(::faccessat(folder_fd_, name_.c_str(), W_OK, AT_EACCESS) == 0, "file", "cannot write '", path_,
        "': the file is read-only");
}

void AtomicWriter::write(const void* bytes, int64_t n) {
  const char* p = static_cast<const char*>(bytes);
  // Beyond the process's limit the system would send SIGXFSZ, which ends a host that does not expect it.
  struct rlimit most {};
  if (::getrlimit(RLIMIT_FSIZE, &most) == 0 && most.rlim_cur != RLIM_INFINITY &&
      static_cast<uint64_t>(written_) + static_cast<uint64_t>(n) > most.rlim_cur) {
    fail_to_write(EFBIG);
  }
  while (n > 0) {
    const ssize_t done = ::write(fd_, p, static_cast<size_t>(std::min<int64_t>(n, 1 << 30)));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) fail_to_write(done < 0 ? errno : EIO);
    p += done, n -= done, written_ += done;
  }
}

void AtomicWriter::commit() {
  if (::fsync(fd_) != 0) fail_to_write(errno);
  if (::close(std::exchange(fd_, -1)) != 0 && errno != EINTR) fail_to_write(errno);
  check_replaceable();
  if (::renameat(folder_fd_, temporary_.c_str(), folder_fd_, name_.c_str()) != 0) fail_to_write(errno);
  temporary_.clear();
  // Makes the rename itself durable. Some file systems cannot do that for a folder, and one opened as a path cannot.
  if (::fsync(folder_fd_) != 0 && errno != EINVAL && errno != EBADF && errno != ENOTSUP) {
    fail_with_errno("file", cat("'", path_, "' is written, but its folder cannot be made durable"), errno);
  }
}

void write_file_atomic(const std::string& path, std::string_view bytes) {
  AtomicWriter writer(path);
  writer.write(bytes.data(), static_cast<int64_t>(bytes.size()));
  writer.commit();
}

}  // namespace rw
