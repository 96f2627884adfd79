// Questions about paths, and folders that are replaced as one. Unlike std::filesystem, every failure is an rw::Error
// that names the path, and "I may not look" is never taken for "it is not there".
#pragma once
#include <functional>
#include <string>
#include <vector>

namespace rw {

enum class PathKind { missing, file, folder, other };
/// What lies at a path, through links. Errors: a name that is too long, links in a circle, a folder that may not be
/// searched, an input error.
PathKind path_kind(const std::string& path);
inline bool path_exists(const std::string& path) { return path_kind(path) != PathKind::missing; }
inline bool is_file(const std::string& path) { return path_kind(path) == PathKind::file; }
inline bool is_folder(const std::string& path) { return path_kind(path) == PathKind::folder; }

/// The names in a folder, sorted, without "." and "..". Errors: missing, unreadable.
std::vector<std::string> names_in(const std::string& folder);
/// Makes a folder and those above it; one that is there already is fine. Errors: it cannot be made.
void make_folder(const std::string& path);
/// Removes a file, or a folder with all that is in it; links are removed and not followed.
/// Missing is fine. Errors: what could not be removed.
void remove_tree(const std::string& path);
/// Makes the names in a folder durable. Errors: an input or output error.
void sync_folder(const std::string& folder);

/// Writes a folder beside `path` under a temporary name, and puts it in the place of `path` in one step. Whoever opens
/// `path` sees all of the old files or all of the new ones, also after a kill or a power failure. A writer destroyed
/// without commit() leaves nothing behind.
///
///   FolderWriter writer("model");
///   save_hf(writer.folder(), ...);
///   writer.commit([](const std::string& name) { return name == "notes.txt"; });
///
/// Where the kernel can (renameat2), old and new change places in one call. Elsewhere two renames do it. After a kill
/// between them `path` is missing, until recover_folder(path) or the next FolderWriter puts the old folder back.
/// Thread safety: none; one writer per folder at a time.
class FolderWriter {
 public:
  /// A link to a folder is followed. Errors: `path` is something else than a folder or nothing, it is the current
  /// folder or one above it, the folder above cannot be written to.
  explicit FolderWriter(const std::string& path);
  ~FolderWriter();
  FolderWriter(const FolderWriter&) = delete;
  FolderWriter& operator=(const FolderWriter&) = delete;

  /// Where to write. Empty at first.
  const std::string& folder() const { return temporary_; }
  /// `keep` says which entries of the old folder stay, by name, if the new one has none of that name. They are
  /// hard-linked (copied where links are not possible) before anything is replaced. All others are removed. A new file
  /// takes the mode of the old one. Errors: an output error; something that would be replaced or removed is read-only
  /// or no regular file. Then the old folder is untouched.
  void commit(const std::function<bool(const std::string& name)>& keep);

 private:
  std::string path_, temporary_;
};

/// Gives `new_file` the mode of the file that it is about to replace, if there is one. An empty name only checks.
/// Errors: the old one is a link, a folder, a device or anything else than a regular file that may be written to.
void take_mode_of(const std::string& old_file, const std::string& new_file);

/// Puts the old folder back that a kill between two renames left under another name, and removes unfinished folders of
/// `path`. For the only process that writes there. Errors: as remove_tree.
void recover_folder(const std::string& path);

}  // namespace rw
