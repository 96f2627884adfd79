// Files: whole reads, reads of parts, and writes that are never half done.
//
// Only regular files are read or replaced. FIFOs, sockets, devices and folders are refused by name, and opening one never
// waits. Nothing is mapped into memory: a file that another process shortens is an error and no signal.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "tensor/file_limits.h"

namespace rw {

/// The whole file. Errors: missing, not a regular file, unreadable, larger than the limit of its kind.
std::string read_file(const std::string& path, const FileLimit& limit = limits::text);

/// Writes `bytes` as AtomicWriter does. Errors: as there.
void write_file_atomic(const std::string& path, std::string_view bytes);

/// An open regular file of which parts are read. Copies share it. Thread safety: read from any thread.
class FileReader {
 public:
  FileReader() = default;
  /// Errors: missing, not a regular file, unreadable, larger than the limit of its kind.
  explicit FileReader(const std::string& path, const FileLimit& limit = limits::data);
  /// Bytes, when it was opened.
  int64_t size() const { return size_; }
  const std::string& path() const { return path_; }
  /// Copies `n` bytes from position `at`. Errors: beyond the end, a file that became shorter, an input error.
  void read(int64_t at, void* bytes, int64_t n) const;

 private:
  std::string path_;
  std::shared_ptr<const int> fd_;
  int64_t size_ = 0;
};

/// Streams into a temporary file beside `path`; commit() fsyncs it, renames it over `path` and fsyncs the folder, so that
/// readers see the old file or the new one. A writer destroyed without commit() leaves nothing behind.
///
/// An older file of that name keeps its mode and, where that is allowed, its owner; a new one gets the process's umask.
/// Only a regular file that may be written to is replaced: a link, a folder, a device, a FIFO, a socket or a read-only
/// file is refused. Errors: those, an unwritable folder, a full disk, a file size limit, every failing write, fsync,
/// close or rename; the old file is untouched.
/// Thread safety: none per writer; several writers, also of one path, may run at once: the last commit wins.
class AtomicWriter {
 public:
  explicit AtomicWriter(std::string path);
  ~AtomicWriter();
  AtomicWriter(const AtomicWriter&) = delete;
  AtomicWriter& operator=(const AtomicWriter&) = delete;
  void write(const void* bytes, int64_t n);
  void commit();

 private:
  void check_replaceable();
  [[noreturn]] void fail_to_write(int error) const;

  std::string path_, name_, temporary_;  // the last two lie in the folder of folder_fd_
  int folder_fd_ = -1, fd_ = -1;
  int64_t written_ = 0;
};

/// A name that only this library gives, to files and folders that are not finished. Another name at every call, also in
/// other processes and on other hosts that share a file system.
std::string temporary_name();
/// Whether temporary_name() gave this name, of a file or folder without what lies above it.
bool is_temporary_name(std::string_view name);

}  // namespace rw
