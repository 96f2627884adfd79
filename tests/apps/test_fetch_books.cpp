// The scripts for books: fetch_books.sh against a server on this machine, books.sh in smoke size.
#include <filesystem>

#include "cli.h"

namespace fs = std::filesystem;

TEST_CASE("fetch_books.sh fetches what its list names, goes on after a failure, and leaves no half files") {
  const auto runs = [](const std::string& command) { return std::system((command + " >/dev/null 2>&1").c_str()) == 0; };
  if (!runs("python3 -c 'import http.server'") || !(runs("curl --version") || runs("wget --version"))) {
    MESSAGE("SKIPPED: needs python3 and curl or wget");
    return;
  }
  const test::TempDir dir;
  for (const std::string folder : {"train", "validation", "test"}) fs::create_directories(dir.path("www/" + folder));
  write(dir.path("www/train/7.txt"), "seven");
  write(dir.path("www/train/8.txt"), "eight");
  write(dir.path("www/validation/9.txt"), "nine");
  write(dir.path("list.txt"), "# a list\ntrain 7 8\nval 9\ntest 10\n");
  // The server picks a free port and says which; it ends when the test's shell does.
  write(dir.path("run.sh"),
        "set -u\ncd '" + dir.path("www") +
            "'\n"
            "python3 -u -m http.server 0 --bind 127.0.0.1 >../log 2>&1 &\nserver=$!\ntrap 'kill $server' EXIT\n"
            "for i in $(seq 50); do port=$(sed -n 's/.*port \\([0-9]*\\).*/\\1/p' ../log); [ -n \"$port\" ] && break; "
            "sleep 0.1; done\n"
            "fetch() { LIST=../list.txt bash '" +
            std::string(ROPEWALK_SOURCE_DIR) +
            "/scripts/fetch_books.sh' ../books http://127.0.0.1:$port; }\n"
            "fetch; echo $? >../first\necho ten >test/10.txt\nfetch; echo $? >../second\n");
  REQUIRE(runs("env -u http_proxy -u https_proxy bash '" + dir.path("run.sh") + "'"));
  CHECK(rw::read_file(dir.path("first")) == "1\n");  // book 10 was missing
  CHECK(rw::read_file(dir.path("second")) == "0\n");
  CHECK(rw::read_file(dir.path("books/train/7.txt")) == "seven");
  CHECK(rw::read_file(dir.path("books/val/9.txt")) == "nine");
  CHECK(rw::read_file(dir.path("books/test/10.txt")) == "ten\n");
  for (const auto& entry : fs::recursive_directory_iterator(dir.path("books")))
    CHECK(entry.path().extension() != ".part");
}

TEST_CASE("books.sh runs to its report, and run again it trains nothing and ends with the same report") {
  const test::TempDir dir;
  fs::create_directories(dir.path("books"));
  for (const std::string name : {"a", "b", "c", "d"}) write(dir.path("books/" + name + ".txt"), text_of(9000));
  // The program with every size made small.
  write(dir.path("small"), std::string(R"(#!/usr/bin/env bash
declare -A small=([--vocab]=300 [--hidden]=16 [--layers]=1 [--heads]=2 [--ffn]=32 [--batch]=2 [--steps]=3 [--warmup]=1
  [--target]=64 [--max-tokens]=200)
args=()
for a in "$@"; do
  if [[ ${last:-none} == --window ]]; then a=${a//[0-9]*,*/16,32,64}; a=${a/#256/16}; fi
  args+=("${small[${last:-none}]:-$a}")
  last=$a
done
exec ')") + ROPEWALK_BINARY_DIR +
                               "/bin/ropewalk' --quiet \"${args[@]}\"\n");
  fs::permissions(dir.path("small"), fs::perms::owner_all);
  const auto run = [&] {
    const std::string command = "ROPEWALK='" + dir.path("small") + "' OMP_NUM_THREADS=2 bash '" + ROPEWALK_SOURCE_DIR +
                                "/scripts/books.sh' '" + dir.path("books") + "' '" + dir.path("out") + "' >'" +
                                dir.path("log") + "' 2>&1";
    const int code = std::system(command.c_str());
    CHECK_MESSAGE(code == 0, rw::read_file(dir.path("log")));
  };
  run();
  REQUIRE(fs::exists(dir.path("out/report.html")));
  const std::string weights = rw::read_file(dir.path("out/pose/model.safetensors")),
                    metrics = rw::read_file(dir.path("out/pose/metrics.jsonl"));
  run();
  CHECK(rw::read_file(dir.path("log")).find("nothing to do") != std::string::npos);
  CHECK(rw::read_file(dir.path("out/pose/model.safetensors")) == weights);
  CHECK(rw::read_file(dir.path("out/pose/metrics.jsonl")) == metrics);
  CHECK(rw::read_file(dir.path("out/report.html")).find("Perplexity by window") != std::string::npos);
}
