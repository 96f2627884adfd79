// LongRoPE's search: divisors that never fall, better than where it began, the same after a resume.
#include <doctest/doctest.h>

#include <cmath>

#include "eval/longrope_search.h"
#include "rope/kinds.h"
#include "support.h"

using namespace rw;

namespace {

RopeConfig base() { return {.head_dim = 16, .max_position_embeddings = 64}; }

/// A loss whose best divisors are known: the distance of their logarithms from those of 1, 1, 1, 2, 3, 4, 4, 4.
double loss_of(const RopeConfig& recipe) {
  const double want[] = {1, 1, 1, 2, 3, 4, 4, 4};
  const auto& factors = recipe.kind.get<LongRope>()->long_factor;
  double sum = 1;
  for (size_t i = 0; i < 8; ++i) sum += std::pow(std::log(factors[i] / want[i]), 2);
  return sum;
}

}  // namespace

TEST_CASE("The search begins with PI, NTK and YaRN and ends below all three, with divisors that never fall") {
  LongRopeSearch search(base(), 256, {.generations = 30, .seed = 2});
  while (!search.done()) search.step(loss_of);
  CHECK(search.generation() == 31);
  REQUIRE(search.known().size() == 3);
  for (const LongRopeCandidate& c : search.known()) CHECK(search.best().loss < c.loss);
  const auto& f = search.best().factors;
  for (size_t i = 0; i < f.size(); ++i) {
    CHECK(f[i] >= (i ? f[i - 1] : 1));
    CHECK(f[i] <= 1.25 * 4);
    CHECK(std::abs(f[i] * 100 - std::round(f[i] * 100)) < 1e-6);
  }
  for (size_t g = 1; g < search.best_losses().size(); ++g)
    CHECK(search.best_losses()[g] <= search.best_losses()[g - 1]);
  const RopeConfig recipe = search.recipe(search.best());
  CHECK(recipe.extended_window() == 256);
  CHECK(recipe.original_window() == 64);
  CHECK(recipe.kind.get<LongRope>()->short_factor == std::vector<double>(8, 1.0));
  static_cast<void>(make_rope_scaling(recipe));
}

TEST_CASE("A search that is stopped and goes on from its file is the same as one that was not") {
  LongRopeSearch whole(base(), 256, {.generations = 6, .seed = 5}), first = whole;
  while (!whole.done()) whole.step(loss_of);
  for (int g = 0; g < 3; ++g) first.step(loss_of);
  LongRopeSearch second(base(), 256, {.generations = 6, .seed = 5});
  second.from_json(first.to_json(), "search.json");
  CHECK(second.generation() == 3);
  while (!second.done()) second.step(loss_of);
  CHECK(second.to_json() == whole.to_json());
  LongRopeSearch other(base(), 256, {.generations = 6, .seed = 6});
  CHECK(test::error_of([&] {
          other.from_json(first.to_json(), "search.json");
        }).find("was searched with seed 5, not 6") != std::string::npos);
  CHECK_THROWS_AS(other.from_json("{}", "x"), Error);
  const std::string page = longrope_search_page(whole, "A <search>", {"found 1.0"});
  CHECK(page.find("A &lt;search&gt;") != std::string::npos);
  CHECK(page.find("<svg") != std::string::npos);
}

TEST_CASE(
    "The number of first tokens without interpolation is found among the paper's choices, and only if asked for") {
  // The same loss, and more of it the further the start is from 8 tokens.
  const auto loss = [](const RopeConfig& recipe) {
    return loss_of(recipe) + std::abs(recipe.kind.get<LongRope>()->start_tokens.value_or(0) - 8) / 10;
  };
  LongRopeSearch search(base(), 256, {.generations = 30, .start_tokens = true, .seed = 2}), without = search;
  while (!search.done()) search.step(loss);
  CHECK(search.best().start == 8);
  CHECK(search.recipe(search.best()).kind.get<LongRope>()->start_tokens == 8.0);
  LongRopeSearch again(base(), 256, {.generations = 40, .start_tokens = true, .seed = 2});
  again.from_json(search.to_json(), "search.json");
  CHECK(again.best().start == 8);
  CHECK(again.to_json() == search.to_json());
  LongRopeSearch other(base(), 256, {.generations = 30, .seed = 2});
  CHECK(test::error_of([&] {
          other.from_json(search.to_json(), "search.json");
        }).find("was searched with start_tokens true, not false") != std::string::npos);
  while (!other.done()) other.step(loss);
  CHECK(other.best().start == 0);
  CHECK(other.to_json().find("\"start\"") == std::string::npos);
}

TEST_CASE("A search does not go on with losses that another judge gave") {
  LongRopeSearch first(base(), 256, {.seed = 5, .judge = "8 needles"});
  first.step(loss_of);
  LongRopeSearch second(base(), 256, {.seed = 5, .judge = "4 documents"});
  CHECK(test::error_of([&] {
          second.from_json(first.to_json(), "search.json");
        }).find("was searched with judge \"8 needles\", not \"4 documents\"") != std::string::npos);
  std::string older = first.to_json();  // a file from before judges were stated
  const size_t at = older.find("\"judge\"");
  older.erase(older.rfind(',', at), older.find('\n', at) - older.rfind(',', at));
  second.from_json(older, "search.json");
  CHECK(second.generation() == 1);
}

TEST_CASE("The search's page is well-formed, shows both pictures at two sizes and the candidates that it began with") {
  LongRopeSearch search(base(), 256, {.generations = 3, .seed = 5});
  while (!search.done()) search.step(loss_of);
  const std::string page = longrope_search_page(search, "A & B", {"found < 1"});
  size_t charts = 0;
  for (size_t at = page.find("<svg class=\"chart"); at != std::string::npos;
       at = page.find("<svg class=\"chart", at + 1))
    ++charts;
  CHECK(charts == 4);
  for (const char* part : {"width=device-width", "prefers-color-scheme: dark", "found</td>", "linear</td>", "ntk</td>",
                           "yarn</td>", "A &amp; B", "found &lt; 1"})
    CHECK_MESSAGE(page.find(part) != std::string::npos, part);
  CHECK(page.find("nan") == std::string::npos);
}

TEST_CASE("Bases that were extended, targets within the window and sizes out of range are refused") {
  RopeConfig extended = base();
  extended.kind = LinearRope{.factor = 2};
  CHECK(test::error_of([&] { LongRopeSearch(extended, 256, {}); }).find("begins with plain RoPE") != std::string::npos);
  CHECK(test::error_of([] { LongRopeSearch(base(), 64, {}); }).find("beyond the model's window of 64") !=
        std::string::npos);
  CHECK_THROWS_AS(LongRopeSearch(base(), 256, {.parents = 1}), Error);
}
