// Questions about paths, and folders that are replaced as one.
#include "tensor/folder.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <utility>

#include "tensor/file.h"
#include "tensor/printable.h"
#include "tensor/system_error.h"

namespace rw {
namespace {

namespace fs = std::filesystem;

constexpr const char* kOp = "file";
constexpr unsigned kExchange = 2, kNoReplace = 1;  // RENAME_EXCHANGE and RENAME_NOREPLACE, which old headers lack

/// renameat2 by number: glibc has it since 2.28 only.
bool rename_with(const std::string& from, const std::string& to, unsigned flags) {
#ifdef SYS_renameat2
  return ::syscall(SYS_renameat2, AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags) == 0;
#else
  return errno = ENOSYS, false;
#endif
}

bool not_supported(int error) { return error == ENOSYS || error == EINVAL || error == ENOTSUP; }

/// `path` from the root on, without links, dots and a slash at its end.
std::string resolved(const std::string& path) {
  std::error_code error;
  const fs::path absolute = fs::absolute(path, error);  // else what does not exist would stay relative
  const fs::path whole = error ? absolute : fs::weakly_canonical(absolute, error);
  if (error) fail_with_errno(kOp, cat("cannot find '", path, "'"), error.value());
  std::string text = whole.string();
  while (text.size() > 1 && text.back() == '/') text.pop_back();
  return text;
}

std::string parent_of(const std::string& path) { return fs::path(path).parent_path().string(); }

/// Where the old folder waits between two renames: known by its name, so that it is found again.
std::string waiting_name(const std::string& path) {
  return parent_of(path) + "/.ropewalk-old-" + fs::path(path).filename().string();
}

/// Hard links of a file or of all files below a folder; copies where links are not possible.
void link_tree(const std::string& from, const std::string& to) {
  struct stat info {};
  if (::lstat(from.c_str(), &info) != 0) fail_with_errno(kOp, cat("cannot read '", from, "'"), errno);
  if (S_ISDIR(info.st_mode)) {
    if (::mkdir(to.c_str(), 0700) != 0) fail_with_errno(kOp, cat("cannot make folder '", to, "'"), errno);
    for (const std::string& name : names_in(from)) link_tree(from + "/" + name, to + "/" + name);
    if (::chmod(to.c_str(), info.st_mode & 07777) != 0) fail_with_errno(kOp, cat("cannot write '", to, "'"), errno);
    return sync_folder(to);
  }
  if (::linkat(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), 0) == 0) return;
  check(S_ISREG(info.st_mode), kOp, "cannot keep '", from, "': the file system has no hard links");
  std::error_code error;
  fs::copy_file(from, to, error);
  if (error) fail_with_errno(kOp, cat("cannot copy '", from, "'"), error.value());
}

}  // namespace

PathKind path_kind(const std::string& path) {
  check(path.find('\0') == std::string::npos, kOp, "the path '", printable(path), "' holds a NUL character");
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) {
    if (errno == ENOENT || errno == ENOTDIR) return PathKind::missing;
    fail_with_errno(kOp, cat("cannot look at '", path, "'"), errno);
  }
  if (S_ISDIR(info.st_mode)) return PathKind::folder;
  return S_ISREG(info.st_mode) ? PathKind::file : PathKind::other;
}

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  fs::directory_iterator it(folder, error);
  for (; !error && it != fs::directory_iterator(); it.increment(error)) names.push_back(it->path().filename().string());
  if (error) fail_with_errno(kOp, cat("cannot read folder '", folder, "'"), error.value());
  std::sort(names.begin(), names.end());
  return names;
}

void make_folder(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  // Where a file is in the way, the system's words do not say so.
  if (!error && !is_folder(path)) error = std::make_error_code(std::errc::not_a_directory);
  if (error) fail_with_errno(kOp, cat("cannot make folder '", path, "'"), error.value());
}

void remove_tree(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) fail_with_errno(kOp, cat("cannot remove '", path, "'"), error.value());
}

void sync_folder(const std::string& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0 && errno == EACCES) return;  // may be written to, but not listed
  int error = fd < 0 ? errno : 0;
  // Some file systems cannot make a folder durable and say so by EINVAL.
  if (error == 0 && ::fsync(fd) != 0 && errno != EINVAL && errno != ENOTSUP) error = errno;
  if (fd >= 0) ::close(fd);
  if (error != 0) fail_with_errno(kOp, cat("cannot make folder '", folder, "' durable"), error);
}

FolderWriter::FolderWriter(const std::string& path) : path_(resolved(path)) {
  recover_folder(path_);
  check(!path_exists(path_) || is_folder(path_), kOp, "cannot write '", path, "': it is not a folder");
  std::error_code error;
  const std::string current = fs::current_path(error).string() + "/";
  check(path_ != "/" && (error || !current.starts_with(path_ + "/")), kOp, "cannot replace '", path,
        "': it is the current folder or lies above it");
  make_folder(parent_of(path_));
  const std::string made = parent_of(path_) + "/" + temporary_name();
  if (::mkdir(made.c_str(), 0777) != 0) fail_with_errno(kOp, cat("cannot write '", path, "'"), errno);
  temporary_ = made;
}

FolderWriter::~FolderWriter() {
  std::error_code ignored;
  if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
}

void take_mode_of(const std::string& old_file, const std::string& new_file) {
  struct stat info {};
  if (::lstat(old_file.c_str(), &info) != 0) {
    if (errno == ENOENT) return;
    fail_with_errno(kOp, cat("cannot look at '", old_file, "'"), errno);
  }
  check(S_ISREG(info.st_mode), kOp, "cannot write '", old_file,
        "': it is not a regular file, and only those are replaced");
  check(::access(old_file.c_str(), W_OK) == 0, kOp, "cannot write '", old_file, "': the file is read-only");
  if (!new_file.empty() && ::chmod(new_file.c_str(), info.st_mode & 0777) != 0)
    fail_with_errno(kOp, cat("cannot write '", old_file, "'"), errno);
}

void FolderWriter::commit(const std::function<bool(const std::string& name)>& keep) {
  struct stat info {};
  const bool replaces = ::stat(path_.c_str(), &info) == 0;
  if (replaces) {
    for (const std::string& name : names_in(path_)) {
      const std::string before = path_ + "/" + name, now = temporary_ + "/" + name;
      std::error_code error;
      const bool is_new = fs::exists(fs::symlink_status(now, error));
      if (!is_new && keep(name)) {
        link_tree(before, now);
      } else {
        take_mode_of(before, is_new && fs::is_regular_file(now, error) ? now : "");
      }
    }
    if (::chmod(temporary_.c_str(), info.st_mode & 07777) != 0) {
      fail_with_errno(kOp, cat("cannot write '", path_, "'"), errno);
    }
  }
  sync_folder(temporary_);
  if (rename_with(temporary_, path_, replaces ? kExchange : kNoReplace)) {
    sync_folder(parent_of(path_));
  } else if (!not_supported(errno)) {
    fail_with_errno(kOp, cat("cannot write '", path_, "'"), errno);
  } else {
    const std::string waiting = waiting_name(path_);
    if (replaces && ::rename(path_.c_str(), waiting.c_str()) != 0) {
      fail_with_errno(kOp, cat("cannot write '", path_, "'"), errno);
    }
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
      const int error = errno;
      if (replaces) static_cast<void>(!::rename(waiting.c_str(), path_.c_str()));
      fail_with_errno(kOp, cat("cannot write '", path_, "'"), error);
    }
    sync_folder(parent_of(path_));
    temporary_ = replaces ? waiting : "";
  }
  if (!replaces) temporary_.clear();
  if (!temporary_.empty()) remove_tree(std::exchange(temporary_, ""));
}

void recover_folder(const std::string& path) {
  const std::string at = resolved(path), waiting = waiting_name(at);
  if (!is_folder(waiting)) return;
  if (path_exists(at)) return remove_tree(waiting);
  if (::rename(waiting.c_str(), at.c_str()) != 0) fail_with_errno(kOp, cat("cannot put back '", path, "'"), errno);
  sync_folder(parent_of(at));
}

}  // namespace rw
