// A target without libFuzzer: replays files, or mutates the seeds for a while. Needs no special compiler.
//
//   fuzz_config FILE_OR_FOLDER...      replays them
//   fuzz_config --seconds 5 [--seed N] replays the seeds, then mutations of them
//   fuzz_config --seeds-to FOLDER      writes the seeds, for libFuzzer
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iterator>

#include "fuzz.h"
#include "tensor/error.h"
#include "tensor/file.h"
#include "tensor/random.h"

namespace fs = std::filesystem;

namespace {

/// Bytes and words that tend to lie at the edge of what a parser expects.
std::string odd_value(rw::Random& random) {
  static const std::vector<std::string> values = {std::string(1, '\0'),
                                                  std::string(4, '\0'),
                                                  "\x7F\xFF\xFF\xFF",
                                                  "\xFF\xFF\xFF\x7F",
                                                  "\xFF\xFF\xFF\xFF",
                                                  std::string("\0\0\0\x80", 4),
                                                  "-1",
                                                  "0",
                                                  "1e308",
                                                  "1e-308",
                                                  "99999999999999999999",
                                                  "9223372036854775807",
                                                  "null",
                                                  "true",
                                                  "[]",
                                                  "{}",
                                                  "\"\"",
                                                  "\\u0000",
                                                  "\xF0\x9F\x98\x80",
                                                  "\xC3",
                                                  "[[[[[[[[",
                                                  "NaN",
                                                  "0.5",
                                                  "2147483648",
                                                  ","};
  return values[static_cast<size_t>(random.below(static_cast<int64_t>(values.size())))];
}

std::string mutated(std::string bytes, const std::string& other, rw::Random& random) {
  const auto place = [&](const std::string& s) {
    return static_cast<size_t>(random.below(static_cast<int64_t>(s.size()) + 1));
  };
  for (int64_t n = 1 + random.below(4); n > 0; --n) {
    const size_t at = place(bytes), length = std::min(place(bytes), size_t{64});
    switch (random.below(7)) {
      case 0:
        if (at < bytes.size()) bytes[at] = static_cast<char>(random.below(256));
        break;
      case 1:
        if (at < bytes.size()) bytes[at] = static_cast<char>(bytes[at] ^ (1 << random.below(8)));
        break;
      case 2:
        bytes.erase(at, length);
        break;
      case 3:
        bytes.insert(at, odd_value(random));
        break;
      case 4: {
        const std::string value = odd_value(random);
        bytes.replace(at, value.size(), value);
        break;
      }
      case 5:
        bytes.insert(at, bytes.substr(place(bytes), length));
        break;
      case 6:
        bytes.insert(at, other.substr(place(other), length));
        break;
    }
  }
  if (bytes.size() > fuzz::kLongest) bytes.resize(fuzz::kLongest);
  return bytes;
}

void replay(const fs::path& path) {
  std::printf("%s\n", path.c_str());
  std::fflush(stdout);
  fuzz::run(rw::read_file(path.string()));
}

/// Mutations of the seeds. The one that is running lies in a file that stays if the process dies, to be replayed.
void mutate(double seconds, uint64_t seed) {
  const std::vector<std::string> seeds = fuzz_seeds();
  for (const std::string& s : seeds) fuzz::run(s);
  std::printf("the running input is in %s\n", fuzz::file("current", "").c_str());
  std::fflush(stdout);
  const auto begin = std::chrono::steady_clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); };
  int64_t runs = 0;
  double slowest = 0;
  for (; elapsed() < seconds; ++runs) {
    rw::Random random(seed, rw::Purpose::test, static_cast<uint64_t>(runs));
    const auto pick = [&]() -> const std::string& {
      return seeds[static_cast<size_t>(random.below(static_cast<int64_t>(seeds.size())))];
    };
    const std::string input = mutated(pick(), pick(), random);
    fuzz::file("current", input);
    const double start = elapsed();
    fuzz::run(input);
    slowest = std::max(slowest, elapsed() - start);
    if (slowest > 10) {
      std::fprintf(stderr, "fuzz: input %lld of seed %llu took %.1f s\n", static_cast<long long>(runs),
                   static_cast<unsigned long long>(seed), slowest);
      std::abort();
    }
  }
  std::printf("%zu seeds, %lld mutations of them, the slowest in %.0f ms\n", seeds.size(), static_cast<long long>(runs),
              slowest * 1e3);
}

}  // namespace

int main(int argc, char** argv) try {
  double seconds = 0;
  uint64_t seed = 1;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const std::string value = i + 1 < argc ? argv[i + 1] : "";
    if (word == "--seconds") seconds = std::stod(value), ++i;
    else if (word == "--seed") seed = std::stoull(value), ++i;
    else if (word == "--seeds-to") {
      fs::create_directories(value);
      int n = 0;
      for (const std::string& s : fuzz_seeds()) rw::write_file_atomic(value + "/seed-" + std::to_string(n++), s);
      ++i;
    } else if (fs::is_directory(word)) {
      for (const auto& entry : fs::recursive_directory_iterator(word))
        if (entry.is_regular_file()) replay(entry.path());
    } else {
      replay(word);
    }
  }
  if (seconds > 0) mutate(seconds, seed);
  return 0;
} catch (const std::exception& e) {
  return std::fprintf(stderr, "fuzz: %s\n", e.what()), 1;
}
