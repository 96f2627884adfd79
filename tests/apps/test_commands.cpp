// The commands that README and the pages quote: README's block for one's own text is run, of all others the verbs,
// options, recipes, scripts and programs are there.
#include <filesystem>
#include <map>
#include <regex>
#include <set>
#include <sstream>

#include "cli.h"

namespace fs = std::filesystem;

namespace {

const std::string kRoot = ROPEWALK_SOURCE_DIR;

std::vector<std::string> pages() {
  std::vector<std::string> all = {kRoot + "/README.md", kRoot + "/SECURITY.md"};
  for (const auto& entry : fs::directory_iterator(kRoot + "/docs")) {
    if (entry.path().extension() == ".md") all.push_back(entry.path().string());
  }
  return all;
}

std::vector<std::string> split(const std::string& line) {
  std::istringstream in(line);
  std::vector<std::string> words;
  for (std::string word; in >> word && word[0] != '#';) words.push_back(word);
  return words;
}

/// Calls of the program: whole lines, and what stands in backticks, over the end of a line too.
std::vector<std::string> calls(const std::string& text) {
  std::vector<std::string> found;
  const std::regex call(R"(`ropewalk ([^`]*)`|\n *(?:ropewalk|\$R) ((?:[^\n\\]|\\\n)*))");
  for (std::sregex_iterator it(text.begin(), text.end(), call), end; it != end; ++it)
    found.push_back((*it)[1].matched ? (*it)[1].str() : (*it)[2].str());
  return found;
}

/// The options of every verb, as the manual page has them; "" holds those of all.
std::map<std::string, std::set<std::string>> verbs() {
  std::map<std::string, std::set<std::string>> all;
  std::string verb;
  std::istringstream in(std::regex_replace(ropewalk("man").out, std::regex(R"(\\-)"), "-"));
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(".SH ROPEWALK ")) verb = line.substr(13), all[verb];
    if (!line.starts_with(".B ")) continue;
    for (const std::string& word : split(std::regex_replace(line.substr(3), std::regex(","), " "))) {
      if (word.starts_with("--")) all[verb].insert(word);
    }
  }
  return all;
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  CAPTURE(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

}  // namespace

TEST_CASE("README's block for one's own text runs as it stands, in smoke size, and its report shows both models") {
  const std::string readme = rw::read_file(kRoot + "/README.md");
  const size_t begin = readme.find("R=$PWD/build/demo/bin/ropewalk\n");
  REQUIRE(begin != std::string::npos);
  std::string block = readme.substr(begin, readme.find("```", begin) - begin);
  block = replaced(block, "R=$PWD/build/demo/bin/ropewalk", "R='" ROPEWALK_BINARY_DIR "/bin/ropewalk --quiet'");
  block = replaced(block, "--vocab 4096", "--vocab 280");
  block =
      replaced(block, "--hidden 192 --heads 3 --window 256 --steps 400", "--hidden 32 --heads 2 --window 16 --steps 2");
  block = replaced(block, "--warmup 40", "--warmup 1");
  block = replaced(block, "--target 2048 --steps 100", "--target 64 --steps 2");
  block = replaced(block, "--window 256,1024,2048", "--window 16,32,64");
  block = replaced(block, "--tokens 100", "--tokens 4");
  const test::TempDir dir;
  fs::create_directories(dir.path("books"));
  fs::create_directories(dir.path("held-out"));
  write(dir.path("books/a.txt"), text_of(4000));
  write(dir.path("held-out/b.txt"), text_of(500));
  write(dir.path("s.sh"), "set -eu\ncd '" + dir.path() + "'\n" + block);
  const int status =
      std::system(("OMP_NUM_THREADS=2 bash '" + dir.path("s.sh") + "' >'" + dir.path("out") + "' 2>&1").c_str());
  const std::string said = rw::read_file(dir.path("out"));
  CAPTURE(said);
  REQUIRE(status == 0);
  const std::string page = rw::read_file(dir.path("report.html")), table = rw::read_file(dir.path("report.csv"));
  CHECK(page.find("Perplexity by window") != std::string::npos);
  for (const char* row : {"base,ppl,window,16", "base,ppl,window,64", "long,ppl,window,16", "long,ppl,window,64"})
    CHECK_MESSAGE(table.find(row) != std::string::npos, row);
}

TEST_CASE("every command that the pages quote has a verb that exists, with options that it has") {
  const auto known = verbs();
  REQUIRE(known.size() > 20);
  int checked = 0;
  for (const std::string& page : pages()) {
    for (const std::string& call : calls(rw::read_file(page))) {
      CAPTURE(page);
      CAPTURE(call);
      const auto words = split(std::regex_replace(call, std::regex(R"(\\\n)"), " "));
      if (words.empty() || !std::regex_match(words[0], std::regex("[a-z]+"))) continue;  // VERB, or an option of all
      std::string verb = words[0];
      CHECK(known.count(verb) == 1);
      if (words.size() > 1 && known.count(verb + " " + words[1])) verb += " " + words[1];
      const bool any = words.size() > 1 && std::regex_match(words[1], std::regex("[A-Z]+"));  // eval KIND
      if (!known.count(verb) || any) continue;
      for (const std::string& word : words) {
        if (!word.starts_with("--")) continue;
        const std::string option = word.substr(0, word.find_first_of("=,;"));
        CAPTURE(option);
        CHECK(known.at(verb).count(option) + known.at("").count(option) == 1);
        ++checked;
      }
    }
  }
  CHECK(checked > 100);
}

TEST_CASE("every script, recipe and program that the pages name is there") {
  const std::regex file(
      R"((?:scripts|recipes|apps|tests|docs|lib)/[A-Za-z0-9_./-]+\.(?:sh|py|toml|txt|c|cpp|cu|cuh|h|md)\b)"),
      program(R"(build/[a-z]+/(?:bin|tests)/([a-z_0-9]+))");
  const std::string targets = rw::read_file(kRoot + "/apps/CMakeLists.txt");
  int checked = 0;
  for (const std::string& page : pages()) {
    if (page.find("/adding-a") != std::string::npos) continue;  // they name files that a reader is to write
    CAPTURE(page);
    const std::string text = rw::read_file(page);
    for (std::sregex_iterator it(text.begin(), text.end(), file), end; it != end; ++it, ++checked)
      CHECK_MESSAGE(fs::exists(kRoot + "/" + it->str()), it->str());
    for (std::sregex_iterator it(text.begin(), text.end(), program), end; it != end; ++it) {
      const std::string name = (*it)[1];
      const bool there = name == "ropewalk" || fs::exists(kRoot + "/tests/" + name) ||
                         std::regex_search(targets, std::regex("\\b" + name + "\\b"));
      CHECK_MESSAGE(there, name);
    }
  }
  CHECK(checked > 50);
}
