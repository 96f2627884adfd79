// What every fuzz target shares. A target gives two functions:
//
//   void fuzz_one(std::string_view input)        reads hostile bytes; rw::Error is the only thing that may come out
//   std::vector<std::string> fuzz_seeds()        small well-formed inputs to begin from
//
// Built twice: with clang as a libFuzzer program (libfuzzer.cpp), and with any compiler as a program that replays files
// and mutates the seeds for a few seconds (replay.cpp), which is what the test suite runs.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

void fuzz_one(std::string_view input);
std::vector<std::string> fuzz_seeds();

namespace fuzz {

/// Runs fuzz_one under the limit: a single allocation beyond 4 times the input plus kSlack ends the process with a
/// message. Errors that the library reports are swallowed; running out of memory is not one of them.
void run(std::string_view input);

/// What structures may cost beyond the input: a JSON list of numbers takes 16 bytes for the two of "1,", doubled while
/// it grows, which is 1 MiB for the longest input of kLongest.
inline constexpr size_t kSlack = size_t{1} << 20, kLongest = size_t{1} << 16;

/// A file in memory (tmpfs) with this name that holds `bytes`; the same path for the same name every time.
std::string file(const std::string& name, std::string_view bytes);
/// A small reference file of tests/data.
std::string reference(const std::string& name);

}  // namespace fuzz
