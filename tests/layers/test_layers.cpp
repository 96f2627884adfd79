// The shape of the house: include order, and headers that stand alone.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>

#include "support.h"

namespace fs = std::filesystem;

namespace {

const std::string kLib = std::string(ROPEWALK_SOURCE_DIR) + "/lib";

/// A folder may include itself and folders of a lower level.
const std::map<std::string, int> kLevel = {{"tensor", 0}, {"autograd", 1}, {"rope", 2}, {"nn", 3},
                                           {"data", 3},   {"eval", 4},     {"train", 5}};

std::vector<fs::path> sources() {
  std::vector<fs::path> found;
  for (const auto& entry : fs::recursive_directory_iterator(kLib)) {
    const std::string extension = entry.path().extension();
    if (extension == ".h" || extension == ".cpp" || extension == ".cu" || extension == ".cuh")
      found.push_back(entry.path());
  }
  return found;
}

std::string folder_of(const fs::path& path) { return *fs::relative(path, kLib).begin(); }

template <class F>
void each_include(const fs::path& path, F f) {
  static const std::regex pattern(R"(^\s*#include\s+["<]([^">]+)[">])");
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    std::smatch match;
    if (std::regex_search(line, match, pattern)) f(match[1].str());
  }
}

}  // namespace

TEST_CASE("no folder of the library includes one above it") {
  CHECK(sources().size() > 60);
  for (const fs::path& path : sources()) {
    const std::string own = folder_of(path);
    if (!kLevel.count(own)) continue;  // the C API stands on top of everything
    each_include(path, [&](const std::string& include) {
      const std::string target = include.substr(0, include.find('/'));
      if (!kLevel.count(target) || target == own) return;
      CAPTURE(path.string());
      CAPTURE(include);
      CHECK(kLevel.at(target) < kLevel.at(own));
    });
  }
}

TEST_CASE("public headers need neither CUDA nor Eigen nor JSON") {
  for (const fs::path& path : sources()) {
    if (path.extension() != ".h") continue;
    each_include(path, [&](const std::string& include) {
      CAPTURE(path.string());
      CHECK(include.find("Eigen") == std::string::npos);
      CHECK(include.find("nlohmann") == std::string::npos);
      CHECK(include.find("cuda_runtime") == std::string::npos);
      CHECK(include.find("cublas") == std::string::npos);
    });
  }
}

/// A header whose opening comment says so is for the library's own files and is not installed (CMakeLists.txt).
bool internal(const fs::path& header) {
  std::ifstream in(header);
  std::string line;
  std::getline(in, line);
  return line.starts_with("// Internal:");
}

TEST_CASE("an installed header includes installed headers only") {
  for (const fs::path& path : sources()) {
    if (path.extension() != ".h" || internal(path)) continue;
    each_include(path, [&](const std::string& include) {
      CAPTURE(path.string());
      CAPTURE(include);
      const fs::path target = kLib + "/" + include;
      if (fs::exists(target)) CHECK_FALSE(internal(target));
    });
    CHECK(path.parent_path().filename() != "detail");  // what lies there is internal
  }
}

TEST_CASE("all public headers can be included together") {
  const test::TempDir dir;
  const std::string unit = dir.path("together.cpp");
  std::ofstream out(unit);
  int count = 0;
  for (const fs::path& path : sources()) {
    if (path.extension() != ".h" || internal(path)) continue;
    out << "#include \"" << fs::relative(path, kLib).string() << "\"\n";
    ++count;
  }
  out << "int main() {}\n";
  out.close();
  CHECK(count > 50);
  CHECK(std::system(("c++ -std=c++20 -fsyntax-only -Wall -Wshadow -I '" + kLib + "' '" + unit + "'").c_str()) == 0);
}

TEST_CASE("every public header compiles alone") {
  const test::TempDir dir;
  std::ofstream all(dir.path("all.sh"));
  int count = 0;
  for (const fs::path& path : sources()) {
    if (path.extension() != ".h") continue;
    const std::string header = fs::relative(path, kLib).string();
    const std::string unit = dir.path("unit" + std::to_string(count++) + ".cpp");
    std::ofstream(unit) << "#include \"" << header << "\"\n#include \"" << header << "\"\nint main() {}\n";
    all << "c++ -std=c++20 -fsyntax-only -I '" << kLib << "' '" << unit << "' || { echo 'FAILED " << header
        << "'; exit 1; }\n";
  }
  all.close();
  CHECK(count > 30);
  CHECK(std::system(("sh " + dir.path("all.sh")).c_str()) == 0);
}
