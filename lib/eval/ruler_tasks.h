// Internal: the generators of RULER's tasks, one function for each form. `size` counts units of haystack.
#pragma once
#include "eval/ruler.h"

namespace rw::ruler {

/// Needles: `task` is one of the eight niah tasks. Units: words of text, or lines.
RulerPrompt needles(const std::string& task, int64_t size, Random& random, const RulerMaterial& material);
/// A chain of variables among `size` lines of noise, and before it a solved example of at most 500 tokens.
RulerPrompt variables(int64_t size, Random& random, const Tokenizer& tokenizer, bool shots);
/// A numbered list of `size` distinct words, of which ten are common. Below 4096 tokens common words stand 6 times and
/// the others once. From there on they stand 30 times and 3 times.
RulerPrompt common_words(int64_t length, int64_t size, Random& random, const RulerMaterial& material, bool shots);
/// Coded words; `size` is the N of the counts floor(N k^-2 / zeta(2)) of ranks k = 1 ..
RulerPrompt frequent_words(int64_t length, int64_t size, Random& random);
/// Question `trial` with `size` documents.
RulerPrompt question(const std::string& task, int64_t size, int64_t trial, Random& random,
                     const RulerMaterial& material);

/// The fewest units of a task.
int64_t least_size(const std::string& task, const RulerMaterial& material, int64_t trial);

}  // namespace rw::ruler
