// Files: whole reads, memory maps, and writes that are never half done.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace rw {

/// The whole file. Errors: missing, a folder, unreadable.
std::string read_file(const std::string& path);

/// Writes `bytes` under a temporary name, fsyncs file and folder, and renames: readers see the old file or the new one.
/// Errors: unwritable folder, full disk; the old file is untouched.
void write_file_atomic(const std::string& path, std::string_view bytes);

/// A read-only memory map of a file; empty files map to size 0.
/// Thread safety: read from any thread; a file that another process shortens meanwhile is not survived.
struct MappedFile {
  std::shared_ptr<void> owner;
  const unsigned char* data = nullptr;
  int64_t size = 0;
  std::span<const unsigned char> bytes() const { return {data, static_cast<size_t>(size)}; }
};
MappedFile map_file(const std::string& path);

/// Streams into a temporary file; commit() fsyncs and renames, and a writer destroyed without it leaves nothing behind.
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
  std::string path_, temporary_;
  int fd_ = -1;
};

}  // namespace rw
