// The verbs `cloze`, `search longrope` and `eval ruler`, from the outside and at a tiny size.
#include "cli.h"

namespace {

/// A model of a few thousand parameters with a window of 32.
void make_base(const test::TempDir& dir) {
  write(dir.path("book.txt"), text_of(12000));
  const Answer a = ropewalk("--quiet train --data '" + dir.path("book.txt") + "' --out '" + dir.path("base") +
                            "' --hidden 16 --layers 1 --heads 1 --window 32 --steps 2 --batch 2");
  CAPTURE(a.err);
  REQUIRE(a.code == 0);
}

std::string in_quotes(const std::string& path) { return "'" + path + "'"; }

}  // namespace

TEST_CASE("A cloze set is made and judged, and no file is replaced by one") {
  const test::TempDir dir;
  make_base(dir);
  const std::string make = "cloze --data " + in_quotes(dir.path("book.txt")) + " --out " +
                           in_quotes(dir.path("c.jsonl")) + " --items 5 --context-words 8 --choice-words 3";
  REQUIRE(ropewalk(make).code == 0);
  const Answer again = ropewalk(make);
  CHECK(again.code == 2);
  CHECK(again.err.find("is there already and is not replaced") != std::string::npos);
  const Answer judged =
      ropewalk("--quiet eval choice " + in_quotes(dir.path("c.jsonl")) + " --model " + in_quotes(dir.path("base")));
  CHECK(judged.code == 0);
  CHECK(judged.out.find("acc_norm") != std::string::npos);
}

TEST_CASE("The search writes a recipe that eval reads, and goes on where it was stopped") {
  const test::TempDir dir;
  make_base(dir);
  const auto search = [&](const std::string& more) {
    return ropewalk("--quiet search longrope --model " + in_quotes(dir.path("base")) + " --data " +
                    in_quotes(dir.path("book.txt")) + " --target 64 --out " + in_quotes(dir.path("found")) + " " +
                    more);
  };
  const Answer first = search("--generations 1 --population 4 --parents 2 --mutants 1 --crosses 1");
  CAPTURE(first.err);
  REQUIRE(first.code == 0);
  const std::string state = rw::read_file(dir.path("found/search.json"));
  const Answer more = search("--generations 2 --population 4 --parents 2 --mutants 1 --crosses 1 --write-model");
  CHECK(more.code == 0);
  CHECK(rw::read_file(dir.path("found/search.json")) != state);
  CHECK(rw::read_file(dir.path("found/model/config.json")).find("longrope") != std::string::npos);
  CHECK(rw::read_file(dir.path("found/search.html")).find("</html>") != std::string::npos);
  const Answer other = search("--generations 2 --population 4 --parents 2 --mutants 1 --crosses 1 --seed 9");
  CHECK(other.code == 2);
  CHECK(other.err.find("was searched with seed 1, not 9") != std::string::npos);
  const Answer needle = search("--generations 2 --population 4 --parents 2 --mutants 1 --crosses 1 --objective needle");
  CHECK(needle.code == 2);
  CHECK(needle.err.find("was searched with judge") != std::string::npos);
  const Answer judged = ropewalk("--quiet eval ppl --model " + in_quotes(dir.path("base")) + " --data " +
                                 in_quotes(dir.path("book.txt")) + " --window 64 --rope \"$(cat " +
                                 in_quotes(dir.path("found/longrope.json")) + ")\"");
  CAPTURE(judged.err);
  CHECK(judged.code == 0);
}

TEST_CASE("RULER's tasks run from the command line, and say what they lack") {
  const test::TempDir dir;
  make_base(dir);
  const std::string ruler = "eval ruler --trials 1 --model " + in_quotes(dir.path("base"));
  const Answer a = ropewalk("--quiet " + ruler + " --task fwe --window 1200");
  CAPTURE(a.err);
  CHECK(a.code == 0);
  CHECK(a.out.find("fwe") != std::string::npos);
  const Answer b = ropewalk("--quiet " + ruler + " --task qa_1 --window 1200");
  CHECK(b.code == 2);
  CHECK(b.err.find("--squad") != std::string::npos);
}
