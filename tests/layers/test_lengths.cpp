// How long files and functions may be. docs/architecture.md states the limits and lists what may be longer, and why.
#include <algorithm>
#include <cctype>
#include <filesystem>
#include <regex>
#include <set>

#include "support.h"
#include "tensor/file.h"

namespace fs = std::filesystem;

namespace {

const std::string kRoot = ROPEWALK_SOURCE_DIR;
constexpr int kFileLines = 500, kAppLines = 250, kFunctionLines = 80, kKernelLines = 120;

bool is_code(const fs::path& path) {
  static const std::set<std::string> endings = {".h", ".hpp", ".cpp", ".cu", ".cuh"};
  return endings.count(path.extension().string()) > 0;
}

std::vector<fs::path> sources(const std::vector<std::string>& folders) {
  std::vector<fs::path> found;
  for (const std::string& folder : folders) {
    for (const auto& entry : fs::recursive_directory_iterator(kRoot + "/" + folder)) {
      if (is_code(entry.path())) found.push_back(entry.path());
    }
  }
  return found;
}

/// The text without comments, preprocessor lines and what stands in quotes; every line break stays.
std::string bare(const std::string& text) {
  std::string out;
  const auto skip_to = [&](size_t from, size_t to) {
    to = std::min(to, text.size());
    out.append(static_cast<size_t>(
                   std::count(text.begin() + static_cast<long>(from), text.begin() + static_cast<long>(to), '\n')),
               '\n');
    return to;
  };
  bool line_start = true;
  for (size_t i = 0; i < text.size();) {
    const char c = text[i];
    const bool word_before = i > 0 && (std::isalnum(static_cast<unsigned char>(text[i - 1])) || text[i - 1] == '_');
    if (c == '#' && line_start) {
      size_t end = text.find('\n', i);
      while (end != std::string::npos && text[end - 1] == '\\') end = text.find('\n', end + 1);
      i = skip_to(i, end);
    } else if (text.compare(i, 2, "//") == 0) {
      i = skip_to(i, text.find('\n', i));
    } else if (text.compare(i, 2, "/*") == 0) {
      i = skip_to(i, text.find("*/", i) + 2);
    } else if (text.compare(i, 2, "R\"") == 0 && !word_before) {
      const size_t open = text.find('(', i);
      const std::string close = ")" + text.substr(i + 2, open - i - 2) + "\"";
      out += '"';
      i = skip_to(i, text.find(close, open) + close.size());
    } else if (c == '"' || (c == '\'' && !word_before)) {
      size_t end = i + 1;
      while (end < text.size() && text[end] != c) end += text[end] == '\\' ? 2 : 1;
      out += '"';
      i = skip_to(i, end + 1);
    } else {
      out += c;
      if (c == '\n') line_start = true;
      else if (!std::isspace(static_cast<unsigned char>(c))) line_start = false;
      ++i;
    }
  }
  return out;
}

struct Function {
  std::string head;
  int line, lines;  // from its head to its closing brace
};

/// What a brace opens, by the text before it.
enum class Scope { outer, function, values };
Scope scope_of(const std::string& head) {
  static const std::regex outer(R"(^\s*(template\s*<.*>\s*)?(inline\s+)?(namespace|struct|class|union|enum|extern)\b)");
  static const std::regex values(R"((=|\breturn|,|\()\s*$|\)\s*:[^:][\s\S]*[\w>]\s*$)");  // or a member's initialiser
  const bool lambda = std::regex_search(head, std::regex(R"(\]\s*$)"));
  if (std::regex_search(head, outer) || head.find_first_not_of(" \n") == std::string::npos) return Scope::outer;
  return (head.find('(') != std::string::npos || lambda) && !std::regex_search(head, values) ? Scope::function
                                                                                             : Scope::values;
}

/// Every function that is not inside of another. `balanced`: every brace was closed.
std::vector<Function> functions(const std::string& text, bool& balanced) {
  struct Open {
    Scope scope;
    int line, parentheses;
    std::string head;
  };
  std::vector<Function> found;
  std::vector<Open> open;
  std::string head;
  int line = 1, head_line = 0, parentheses = 0, inside = 0;  // inside: open functions and lists of values
  balanced = true;
  for (const char c : bare(text)) {
    if (c == '\n') ++line;
    if (c == '{') {
      const Scope scope = inside > 0 || parentheses > 0 ? Scope::values : scope_of(head);
      inside += scope != Scope::outer;
      open.push_back({scope, head_line > 0 ? head_line : line, parentheses, head});
      head.clear(), head_line = 0, parentheses = 0;
      continue;
    }
    if (c == '}') {
      if (open.empty()) return balanced = false, found;
      const Open ended = open.back();
      open.pop_back();
      inside -= ended.scope != Scope::outer;
      if (ended.scope == Scope::function) found.push_back({ended.head, ended.line, line - ended.line + 1});
      const bool goes_on = ended.scope == Scope::values && inside == 0;  // the statement that the values stand in
      head = goes_on ? ended.head + "{}" : "", head_line = goes_on ? ended.line : 0;
      parentheses = ended.parentheses;
      continue;
    }
    parentheses += (c == '(') - (c == ')');
    if (c == ';' && parentheses <= 0) {
      head.clear(), head_line = 0, parentheses = 0;
      continue;
    }
    if (head_line == 0 && !std::isspace(static_cast<unsigned char>(c))) head_line = line;
    head += c;
  }
  balanced = open.empty();
  return found;
}

/// The rows `| path |` of the page's table of what may be longer.
std::set<std::string> excused() {
  const std::string page = rw::read_file(kRoot + "/docs/architecture.md");
  std::set<std::string> paths;
  static const std::regex row(R"(\n\| `((lib|apps|tests)/[^`]+)` \| \d+ \|)");
  for (std::sregex_iterator i(page.begin(), page.end(), row), end; i != end; ++i) paths.insert((*i)[1]);
  return paths;
}

}  // namespace

TEST_CASE("the measure of functions sees bodies, and neither quotes, comments, classes nor lists of values") {
  bool balanced = false;
  const std::string text =
      "// void no() {\n#define X {\nnamespace a {\nstruct S : B<f(1)> {\n  S(int x)\n      : a_{x}, b_(x) {\n    "
      "g(\"{\");\n  }\n"
      "  int v = 0;\n};\nconst T t[] = {{\"a\", f(1)}, {'{', g()}};\n"
      "template <class C>\nauto f(C c)\n    -> int {\n  if (c) {\n    return h([&] {\n    });\n  }\n}\n}\n"
      "const auto list = [] {\n  return R\"x({)x\";\n}();\n";
  const std::vector<Function> all = functions(text, balanced);
  CHECK(balanced);
  REQUIRE(all.size() == 3);
  CHECK(all[0].line == 5);
  CHECK(all[0].lines == 4);
  CHECK(all[1].line == 12);
  CHECK(all[1].lines == 8);
  CHECK(all[2].lines == 3);
}

TEST_CASE("no file and no function is longer than docs/architecture.md allows") {
  std::set<std::string> left = excused();
  int files = 0, measured = 0;
  for (const fs::path& path : sources({"lib", "apps", "tests"})) {
    const std::string name = fs::relative(path, kRoot).string(), text = rw::read_file(path.string());
    const auto count = std::count(text.begin(), text.end(), '\n');
    const bool app = path.extension() == ".cpp" && path.parent_path() == fs::path(kRoot) / "apps";
    CAPTURE(name);
    bool longer = count > (app ? kAppLines : kFileLines);
    if (!left.count(name)) CHECK(count <= (app ? kAppLines : kFileLines));
    ++files;
    bool balanced = false;
    const bool kernel = path.extension() == ".cu" || path.extension() == ".cuh";
    const std::vector<Function> all = name.starts_with("tests/") ? std::vector<Function>{} : functions(text, balanced);
    if (!name.starts_with("tests/")) CHECK(balanced);
    for (const Function& f : all) {
      const int limit = kernel ? kKernelLines : kFunctionLines;
      const std::string at = name + ":" + std::to_string(f.line);
      CAPTURE(at);
      longer = longer || f.lines > limit;
      if (!left.count(name)) CHECK(f.lines <= limit);
      ++measured;
    }
    if (longer) left.erase(name);
  }
  CHECK(files > 500);
  CHECK(measured > 2000);
  for (const std::string& name : left)
    FAIL_CHECK(name << " stands in the table of docs/architecture.md and is not longer");
}
