// Files and folders: what is read, what is replaced, and what a message may show.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>

#include "support.h"
#include "tensor/file.h"
#include "tensor/folder.h"
#include "tensor/printable.h"
#include "tensor/system_error.h"

using namespace rw;
namespace fs = std::filesystem;

namespace {

void put(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }
mode_t mode_of(const std::string& path) {
  struct stat info {};
  REQUIRE(::lstat(path.c_str(), &info) == 0);
  return info.st_mode & 07777;
}
bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }
bool is_empty_but_for(const std::string& folder, const std::vector<std::string>& names) {
  return names_in(folder) == names;
}

}  // namespace

TEST_CASE("a FIFO, a device, a socket and a folder are refused by name, without waiting") {
  const test::TempDir dir;
  REQUIRE(::mkfifo(dir.path("fifo").c_str(), 0600) == 0);
  CHECK(contains(test::error_of([&] { read_file(dir.path("fifo")); }), "is a FIFO, not a regular file"));
  CHECK(contains(test::error_of([] { read_file("/dev/zero"); }), "'/dev/zero' is a device, not a regular file"));
  CHECK(contains(test::error_of([&] { read_file(dir.path()); }), "is a folder, not a regular file"));
  sockaddr_un at{};
  at.sun_family = AF_UNIX;
  const std::string path = dir.path("s");
  if (path.size() < sizeof at.sun_path) {
    std::copy(path.begin(), path.end(), at.sun_path);
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    REQUIRE(::bind(fd, reinterpret_cast<const sockaddr*>(&at), sizeof at) == 0);
    CHECK(contains(test::error_of([&] { read_file(path); }), "is a socket, not a regular file"));
    ::close(fd);
  }
  CHECK(contains(test::error_of([] { read_file(std::string("a\0b", 3)); }), "NUL"));
}

TEST_CASE("a file beyond the limit of its kind is refused before it is read") {
  const test::TempDir dir;
  put(dir.path("r"), "");
  REQUIRE(::truncate(dir.path("r").c_str(), int64_t{1} << 40) == 0);  // a hole: takes no space
  const std::string message = test::error_of([&] { read_file(dir.path("r"), limits::recipe); });
  CHECK(contains(message, "has 1099511627776 bytes, more than the 1048576 that are read as a recipe"));
}

TEST_CASE("a file that becomes shorter while it is read is an error and no signal") {
  const test::TempDir dir;
  put(dir.path("f"), std::string(100'000, 'x'));
  const FileReader file(dir.path("f"));
  REQUIRE(::truncate(dir.path("f").c_str(), 10) == 0);
  std::string text(100'000, '\0');
  CHECK(contains(test::error_of([&] { file.read(0, text.data(), 100'000); }), "became shorter while it was read"));
  CHECK(contains(test::error_of([&] { file.read(1, text.data(), 100'000); }), "bytes [1, 1 + 100000) of 100000"));
}

TEST_CASE("only a regular file is replaced: links, FIFOs, devices and folders stay as they were") {
  const test::TempDir dir;
  put(dir.path("target"), "old");
  fs::create_symlink("target", dir.path("link"));
  fs::create_symlink("nowhere", dir.path("dangling"));
  fs::create_directory(dir.path("folder"));
  REQUIRE(::mkfifo(dir.path("fifo").c_str(), 0600) == 0);
  const auto refusal = [&](const char* name) {
    return test::error_of([&] { write_file_atomic(dir.path(name), "new"); });
  };
  CHECK(contains(refusal("link"), "it is a link, and only a regular file is replaced"));
  CHECK(contains(refusal("dangling"), "it is a link"));
  CHECK(contains(refusal("fifo"), "it is a FIFO"));
  CHECK(contains(refusal("folder"), "it is a folder"));
  CHECK(contains(test::error_of([] { write_file_atomic("/dev/null", "new"); }), "it is a device"));
  CHECK(contains(refusal("folder/"), "is no name of a file"));
  CHECK(contains(refusal("none/file"), "No such file or directory"));
  CHECK(read_file(dir.path("target")) == "old");
  CHECK(fs::is_symlink(dir.path("link")));
  CHECK(fs::is_fifo(dir.path("fifo")));
  CHECK(is_empty_but_for(dir.path(), {"dangling", "fifo", "folder", "link", "target"}));
}

TEST_CASE("a replaced file keeps its mode, and a new one gets the umask") {
  const test::TempDir dir;
  const mode_t before = ::umask(027);
  write_file_atomic(dir.path("new"), "1");
  CHECK(mode_of(dir.path("new")) == 0640);
  put(dir.path("secret"), "1");
  ::chmod(dir.path("secret").c_str(), 0600);
  put(dir.path("open"), "1");
  ::chmod(dir.path("open").c_str(), 0666);
  write_file_atomic(dir.path("secret"), "2");
  write_file_atomic(dir.path("open"), "2");
  ::umask(before);
  CHECK(mode_of(dir.path("secret")) == 0600);
  CHECK(mode_of(dir.path("open")) == 0666);
  CHECK(read_file(dir.path("secret")) == "2");
}

TEST_CASE("while a file of mode 0600 is replaced, nobody else may read what is being written") {
  const test::TempDir dir;
  put(dir.path("secret"), "1");
  ::chmod(dir.path("secret").c_str(), 0600);
  AtomicWriter writer(dir.path("secret"));
  writer.write("22", 2);
  for (const std::string& name : names_in(dir.path())) CHECK((mode_of(dir.path(name)) & 077) == 0);
  writer.commit();
}

TEST_CASE("a read-only file is not replaced") {
  if (::geteuid() == 0) {
    MESSAGE("not tried as root, who may write to every file");
    return;
  }
  const test::TempDir dir;
  put(dir.path("f"), "old");
  ::chmod(dir.path("f").c_str(), 0444);
  CHECK(contains(test::error_of([&] { write_file_atomic(dir.path("f"), "new"); }), "the file is read-only"));
  CHECK(read_file(dir.path("f")) == "old");
}

TEST_CASE("a write beyond the process's file size limit is a named error, and SIGXFSZ does not come") {
  const test::TempDir dir;
  put(dir.path("f"), "old");
  const pid_t child = ::fork();
  if (child == 0) {
    const rlimit most{1000, 1000};
    ::setrlimit(RLIMIT_FSIZE, &most);
    try {
      write_file_atomic(dir.path("f"), std::string(5000, 'x'));
    } catch (const SystemError& e) {
      ::_exit(contains(e.what(), "File too large") ? 7 : 8);
    } catch (...) {
      ::_exit(9);
    }
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 7);
  CHECK(read_file(dir.path("f")) == "old");
  CHECK(is_empty_but_for(dir.path(), {"f"}));
}

TEST_CASE("a writer that is not committed leaves nothing behind, and its temporary name is known as ours") {
  const test::TempDir dir;
  put(dir.path("data.tmp-12-3"), "a user's");
  {
    AtomicWriter writer(dir.path("f"));
    writer.write("x", 1);
    const auto names = names_in(dir.path());
    REQUIRE(names.size() == 2);
    CHECK(is_temporary_name(names[0]));
    CHECK_FALSE(is_temporary_name(names[1]));
  }
  CHECK(is_empty_but_for(dir.path(), {"data.tmp-12-3"}));
  CHECK(is_temporary_name(temporary_name()));
  CHECK(temporary_name() != temporary_name());
  CHECK_FALSE(is_temporary_name(temporary_name() + "0"));
  CHECK_FALSE(is_temporary_name(".ropewalk-tmp-notes"));
}

TEST_CASE("a name of 255 bytes can be written, one of 256 is refused by name") {
  const test::TempDir dir;
  write_file_atomic(dir.path(std::string(255, 'a')), "x");
  CHECK(contains(test::error_of([&] { write_file_atomic(dir.path(std::string(256, 'a')), "x"); }), "too long"));
}

TEST_CASE("questions about paths give errors with names and no foreign exceptions") {
  const test::TempDir dir;
  fs::create_symlink("loop", dir.path("loop"));
  put(dir.path("f"), "x");
  CHECK(contains(test::error_of([&] { path_kind(dir.path("loop")); }), "symbolic links"));
  CHECK(contains(test::error_of([&] { is_folder(std::string(300, 'x')); }), "File name too long"));
  CHECK(contains(test::error_of([&] { names_in(dir.path("f")); }), "cannot read folder"));
  CHECK(contains(test::error_of([&] { make_folder(dir.path("f")); }), "cannot make folder"));
  CHECK(contains(test::error_of([&] { make_folder(dir.path("f/g")); }), "cannot make folder"));
  CHECK(path_kind(dir.path("f")) == PathKind::file);
  CHECK(path_kind(dir.path()) == PathKind::folder);
  CHECK(path_kind("/dev/null") == PathKind::other);
  CHECK(path_kind(dir.path("f/g")) == PathKind::missing);
  remove_tree(dir.path("none"));
}

TEST_CASE("messages show control characters and bytes that are not UTF-8 as escapes") {
  CHECK(printable("ä€😀 ok") == "ä€😀 ok");
  CHECK(printable("a\nb\tc\x1b[31m\x7f") == "a\\nb\\tc\\x1b[31m\\x7f");
  CHECK(printable("\xff\xc3") == "\\xff\\xc3");
  CHECK(printable("\xc0\xaf \xed\xa0\x80") == "\\xc0\\xaf \\xed\\xa0\\x80");  // overlong, a surrogate
  CHECK(printable("\xe2\x80\xae"
                  "x\xc2\x9b") == "\\xe2\\x80\\xaex\\xc2\\x9b");  // turns the line; a C1 control
  CHECK(printable("\xf5\x80") == "\\xf5\\x80");
  CHECK(test::error_of([] { read_file("no\x1b\nsuch"); }) ==
        "[file] cannot open 'no\\x1b\\nsuch': No such file or directory");
}

TEST_CASE("a NaN in a message has no sign") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(printable(std::copysign(nan, -1.0)) == "nan");
  CHECK(printable(std::copysign(nan, 1.0)) == "nan");
  CHECK(printable(-std::numeric_limits<double>::infinity()) == "-inf");
  CHECK(printable(-2.5) == "-2.5");
}

TEST_CASE("an error is one printable line of bounded length, whatever it quotes") {
  const std::string name = "layer\x1b[2J\n\xff";
  CHECK(test::error_of([&] { fail("load", "no tensor '", name, "'"); }) == "[load] no tensor 'layer\\x1b[2J\\n\\xff'");
  CHECK(test::error_of([&] { check(false, "load", name); }) == "[load] layer\\x1b[2J\\n\\xff");
  const std::string why = test::error_of([] { fail("load", std::string(1 << 20, 'x')); });
  CHECK(why.size() < 4100);
  CHECK(why.ends_with("... (1044583 more bytes)"));
}

// --- folders that are replaced as one -------------------------------------------------------------------------------

TEST_CASE("a folder is replaced as one, and keeps of the old what it is told to keep") {
  const test::TempDir dir;
  const std::string path = dir.path("model");
  fs::create_directories(path + "/checkpoint-1");
  put(path + "/weights", "old");
  put(path + "/notes", "mine");
  put(path + "/stale", "old");
  put(path + "/checkpoint-1/w", "c");
  ::chmod(path.c_str(), 0750);
  {
    FolderWriter writer(path);
    write_file_atomic(writer.folder() + "/weights", "new");
    CHECK(read_file(path + "/weights") == "old");
    writer.commit([](const std::string& name) { return name != "stale"; });
  }
  CHECK(read_file(path + "/weights") == "new");
  CHECK(read_file(path + "/notes") == "mine");
  CHECK(read_file(path + "/checkpoint-1/w") == "c");
  CHECK(is_empty_but_for(path, {"checkpoint-1", "notes", "weights"}));
  CHECK(mode_of(path) == 0750);
  CHECK(is_empty_but_for(dir.path(), {"model"}));
}

TEST_CASE("files of a replaced folder keep their modes, and links and read-only files are not replaced") {
  const test::TempDir dir;
  const std::string path = dir.path("model");
  fs::create_directories(path);
  put(path + "/weights", "old");
  ::chmod((path + "/weights").c_str(), 0600);
  const auto replace = [&] {
    FolderWriter writer(path);
    write_file_atomic(writer.folder() + "/weights", "new");
    writer.commit([](const std::string&) { return false; });
  };
  replace();
  CHECK(read_file(path + "/weights") == "new");
  CHECK(mode_of(path + "/weights") == 0600);
  // As in the cache of a hub: files are links to where they really lie.
  put(dir.path("blob"), "theirs");
  fs::remove(path + "/weights");
  fs::create_symlink("../blob", path + "/weights");
  CHECK(contains(test::error_of(replace), "not a regular file"));
  fs::remove(path + "/weights");
  fs::create_symlink("../blob", path + "/stale");
  CHECK(contains(test::error_of(replace), "not a regular file"));
  CHECK(fs::is_symlink(path + "/stale"));
  CHECK(is_empty_but_for(dir.path(), {"blob", "model"}));
}

TEST_CASE("a folder writer that is not committed changes nothing") {
  const test::TempDir dir;
  const std::string path = dir.path("model");
  fs::create_directories(path);
  put(path + "/weights", "old");
  {
    const FolderWriter writer(path + "/");
    write_file_atomic(writer.folder() + "/weights", "new");
  }
  CHECK(read_file(path + "/weights") == "old");
  CHECK(is_empty_but_for(dir.path(), {"model"}));
  put(dir.path("file"), "x");
  CHECK(contains(test::error_of([&] { const FolderWriter writer(dir.path("file")); }), "not a folder"));
  CHECK(contains(test::error_of([&] { const FolderWriter writer("."); }), "current folder"));
}

TEST_CASE("a folder that is new is named from the current folder") {
  const test::TempDir dir;
  const fs::path before = fs::current_path();
  fs::current_path(dir.path());
  {
    FolderWriter writer("new");
    write_file_atomic(writer.folder() + "/x", "x");
    writer.commit([](const std::string&) { return true; });
  }
  fs::current_path(before);
  CHECK(is_empty_but_for(dir.path(), {"new"}));
  CHECK(read_file(dir.path("new/x")) == "x");
}

TEST_CASE("a link to a folder stays a link when the folder is replaced") {
  const test::TempDir dir;
  fs::create_directories(dir.path("disk/real"));
  put(dir.path("disk/real/old"), "old");
  fs::create_directory_symlink("disk/real", dir.path("model"));
  FolderWriter writer(dir.path("model"));
  write_file_atomic(writer.folder() + "/new", "new");
  writer.commit([](const std::string&) { return false; });
  CHECK(fs::is_symlink(dir.path("model")));
  CHECK(is_empty_but_for(dir.path("disk/real"), {"new"}));
}

TEST_CASE("a kill between the two renames of a folder is mended at the next start") {
  const test::TempDir dir;
  fs::create_directories(dir.path(".ropewalk-old-model"));
  put(dir.path(".ropewalk-old-model/w"), "old");
  recover_folder(dir.path("model"));
  CHECK(read_file(dir.path("model/w")) == "old");
  CHECK(is_empty_but_for(dir.path(), {"model"}));
  fs::create_directories(dir.path(".ropewalk-old-model"));  // killed after the second rename
  recover_folder(dir.path("model"));
  CHECK(is_empty_but_for(dir.path(), {"model"}));
}
