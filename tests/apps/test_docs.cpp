// The commands of docs/methods.md, run in smoke size: a tiny base, a short text, one step.
#include <algorithm>
#include <filesystem>
#include <set>
#include <sstream>
#include <utility>

#include "cli.h"

namespace fs = std::filesystem;

namespace {

using Words = std::vector<std::string>;

/// The lines of the file's ```sh blocks that call ropewalk; lines that end with a backslash are joined.
std::vector<std::string> commands(const std::string& path) {
  std::istringstream in(rw::read_file(path));
  std::vector<std::string> found;
  bool shell = false, joined = false;
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("```")) {
      shell = line == "```sh";
      continue;
    }
    if (!shell) continue;
    const bool more = line.ends_with("\\");
    if (more) line.pop_back();
    if (joined) {
      found.back() += line;
    } else {
      found.push_back(line);
    }
    joined = more;
  }
  std::erase_if(found, [](const std::string& line) { return !line.starts_with("ropewalk "); });
  return found;
}

/// A command line's words as a shell cuts them; single quotes only.
Words words(const std::string& line) {
  Words out;
  std::string word;
  bool quoted = false;
  for (const char c : line + " ") {
    if (c == '\'') {
      quoted = !quoted;
    } else if (c == ' ' && !quoted) {
      if (!word.empty()) out.push_back(std::exchange(word, ""));
    } else {
      word += c;
    }
  }
  REQUIRE_FALSE(quoted);
  return out;
}

/// The same command with our text, base and output folder, small windows and one step.
std::string in_smoke_size(const Words& command, const std::string& data, const std::string& base,
                          const std::string& out) {
  static const std::set<std::string> dropped = {"--steps", "--batch", "--lr", "--warmup", "--schedule", "--window"};
  const bool train = command.at(1) == "train";
  bool extends = false;
  Words kept;
  for (size_t i = 1; i < command.size(); ++i) {
    const std::string& word = command[i];
    if (dropped.count(word) > 0) {
      ++i;
      continue;
    }
    kept.push_back(word);
    std::string value;
    if (word == "--data") value = data;
    if (word == "--from" || word == "--model") value = base;
    if (word == "--out") value = out;
    if (word == "--target") value = "64";
    extends |= word == "--from";
    if (value.empty()) continue;
    REQUIRE(++i < command.size());
    kept.push_back(value);
  }
  std::string line = "--quiet";
  for (const std::string& word : kept) line += " '" + word + "'";
  if (!train) return line + " --window 16,64";
  line += " --steps 1 --batch 2";
  // Heads of 64, because the document's LongRoPE lists are made for them.
  return extends ? line : line + " --hidden 16 --layers 1 --heads 2 --head-dim 64 --window 16";
}

}  // namespace

TEST_CASE("every command of docs/methods.md runs") {
  const std::vector<std::string> lines = commands(std::string(ROPEWALK_SOURCE_DIR) + "/docs/methods.md");
  CHECK(lines.size() >= 20);
  const test::TempDir dir;
  fs::create_directory(dir.path("books"));
  write(dir.path("books/a.txt"), text_of(4000));
  write(dir.path("books/b.txt"), text_of(2000));
  bool first = true;
  for (const std::string& line : lines) {
    CAPTURE(line);
    // The first one makes the base that the others extend.
    const std::string smoke =
        in_smoke_size(words(line), dir.path("books"), dir.path("base"), dir.path(first ? "base" : "out"));
    CAPTURE(smoke);
    const Answer a = ropewalk(smoke);
    CAPTURE(a.err);
    CHECK(a.code == 0);
    if (first) REQUIRE(fs::exists(dir.path("base/config.json")));
    first = false;
    fs::remove_all(dir.path("out"));
  }
}

TEST_CASE("docs/methods.md shows pictures that exist, and every picture is shown") {
  const std::string folder = std::string(ROPEWALK_SOURCE_DIR) + "/docs/", text = rw::read_file(folder + "methods.md");
  std::set<std::string> shown, present;
  for (size_t at = 0; (at = text.find("(pictures/", at)) != std::string::npos; ++at) {
    const size_t begin = at + 10;
    shown.insert(text.substr(begin, text.find(')', begin) - begin));
  }
  for (const auto& entry : fs::directory_iterator(folder + "pictures"))
    present.insert(entry.path().filename().string());
  CHECK(shown == present);
}

TEST_CASE("the program draws the pictures of docs/methods.md as they are committed") {
  const test::TempDir dir;
  const Answer a = ropewalk("theory pictures --out '" + dir.path() + "'");
  CAPTURE(a.err);
  REQUIRE(a.code == 0);
  const std::string folder = std::string(ROPEWALK_SOURCE_DIR) + "/docs/pictures/";
  for (const auto& entry : fs::directory_iterator(dir.path())) {
    const std::string name = entry.path().filename().string(), drawn = rw::read_file(entry.path().string());
    CAPTURE(name);
    CHECK(drawn.size() < 40000);
    // Not byte by byte: another processor may round a coordinate the other way.
    const std::string committed = rw::read_file(folder + name);
    CHECK(std::count(drawn.begin(), drawn.end(), '\n') == std::count(committed.begin(), committed.end(), '\n'));
    CHECK(drawn.substr(0, 300) == committed.substr(0, 300));
  }
}

TEST_CASE("the reading walk names files that exist and counts their lines truthfully") {
  const std::string root = ROPEWALK_SOURCE_DIR, guide = rw::read_file(root + "/docs/reading-guide.md");
  std::istringstream lines(guide);
  int64_t files = 0, total = 0;
  for (std::string line; std::getline(lines, line);) {
    const size_t open = line.find(" | `"), close = line.find("` | ", open + 4);
    if (line.empty() || line[0] != '|' || open == std::string::npos || close == std::string::npos) continue;
    const std::string path = line.substr(open + 4, close - open - 4), text = rw::read_file(root + "/" + path);
    CAPTURE(path);
    const int64_t counted = std::count(text.begin(), text.end(), '\n');
    CHECK(std::stoll(line.substr(close + 4)) == counted);
    ++files;
    total += counted;
  }
  CHECK(files > 0);
  CHECK(guide.find(rw::cat(files, " files, ", total, " lines")) != std::string::npos);
}
