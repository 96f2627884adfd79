// The most bytes that are read of each kind of file. A file beyond its limit is refused by name before it is read.
//
// Each limit is far above the files of its kind that are in use: the largest published tokenizer.json has 33 MB. It is
// low enough that the parsed text fits into memory. docs/robustness.md says what an input of n bytes may cost. To work
// with a larger file, change its line here.
#pragma once
#include <cstdint>

namespace rw {

struct FileLimit {
  const char* kind;  // for messages: "a recipe"
  int64_t bytes;
};

namespace limits {
inline constexpr int64_t kMiB = int64_t{1} << 20;
inline constexpr FileLimit config{"a configuration", 16 * kMiB};
inline constexpr FileLimit index{"an index of weight files", 128 * kMiB};
inline constexpr FileLimit tokenizer{"a tokenizer", 256 * kMiB};
inline constexpr FileLimit recipe{"a recipe", kMiB};
inline constexpr FileLimit prompt{"a prompt", 256 * kMiB};
inline constexpr FileLimit metrics{"metrics", 1024 * kMiB};
inline constexpr FileLimit evaluation{"an evaluation", 256 * kMiB};
inline constexpr FileLimit trainer_state{"a trainer state", 16 * kMiB};
inline constexpr FileLimit text{"text", int64_t{64} * 1024 * kMiB};
inline constexpr FileLimit data{"data", INT64_MAX};  // weights and token ids: read in parts, whatever the size
}  // namespace limits

}  // namespace rw
