// The built-in stories: people meet, and what is said of one early is needed again later. Made from a seed.
#include "data/demo_corpus.h"

#include <array>
#include <filesystem>
#include <system_error>
#include <utility>

#include "tensor/error.h"
#include "tensor/random.h"

namespace rw {
namespace {

constexpr std::array kFirstNames = {"Anna", "Tom",  "Ruth", "Paul", "Ella",  "Jack", "Mary", "Hugo", "Lena", "Max",
                                    "Nora", "Carl", "Ida",  "Sam",  "Vera",  "Otto", "Lucy", "Ben",  "Kate", "Finn",
                                    "Rosa", "Adam", "June", "Owen", "Clara", "Leo",  "Emma", "Karl", "Dora", "Hans",
                                    "Lily", "Mark", "Eva",  "Rolf", "Jane",  "Noah", "Olga", "Pete", "Tess", "Will"};
// The surname of person i is stem i with one of the endings: the stem names the
// bearer, the ending is the story's choice.
constexpr std::array kStems = {"Ash",   "Birch", "Clay",  "Dale",   "East",  "Fern",  "Grove", "Hill", "Iron",  "Jay",
                               "Kirk",  "Lark",  "Marsh", "North",  "Oak",   "Pine",  "Quill", "Reed", "Stone", "Thorn",
                               "Under", "Vale",  "Wood",  "Yew",    "Bell",  "Cross", "Drift", "Elm",  "Frost", "Glen",
                               "Haw",   "Ivy",   "Moor",  "Nettle", "Otter", "Pool",  "Rush",  "Swan", "Tide",  "West"};
constexpr std::array kEndings = {"man", "ford", "wick", "son"};
static_assert(kStems.size() == kFirstNames.size());
constexpr std::array kVerbs = {"met", "saw", "helped", "called", "thanked", "found"};
constexpr std::array kStuff = {"silver", "gold", "iron", "glass", "bone", "oak", "brass", "stone"};

template <size_t N>
std::string pick(Random& random, const std::array<const char*, N>& words) {
  return words[static_cast<size_t>(random.below(static_cast<int64_t>(N)))];
}

/// Everyone of one story: full name and key.
struct Person {
  std::string name, key;
};

std::vector<Person> make_people(Random& random) {
  std::vector<Person> people;
  for (size_t i = 0; i < kFirstNames.size(); ++i) {
    people.push_back({cat(kFirstNames[i], " ", kStems[i], pick(random, kEndings)), pick(random, kStuff)});
  }
  return people;
}

std::string make_story(Random random, int64_t bytes) {
  const std::vector<Person> people = make_people(random);
  const auto someone = [&]() -> const Person& {
    return people[static_cast<size_t>(random.below(static_cast<int64_t>(people.size())))];
  };
  std::string text;
  for (int64_t told = 0; static_cast<int64_t>(text.size()) < bytes; ++told) {
    if (told > 0) text += told % 8 == 0 ? '\n' : ' ';
    const Person& one = someone();
    if (random.below(8) == 0) {
      text += cat("The key of ", one.name, " is ", one.key, ".");
    } else {
      text += cat(one.name, " ", pick(random, kVerbs), " ", someone().name, ".");
    }
  }
  return text;
}

}  // namespace

std::vector<Document> make_demo_corpus(uint64_t seed, int64_t documents, int64_t approx_bytes_each) {
  check(documents >= 1 && approx_bytes_each >= 1, "corpus", documents, " stories of ", approx_bytes_each, " bytes");
  std::vector<Document> stories;
  for (int64_t d = 0; d < documents; ++d) {
    stories.push_back(
        {cat("story-", d), make_story(Random(seed, Purpose::corpus, 0, static_cast<uint64_t>(d)), approx_bytes_each)});
  }
  return stories;
}

std::vector<Document> make_held_out_demo_corpus() { return make_demo_corpus(1001, 6, 12000); }

bool names_demo_corpus(const std::vector<std::string>& paths) {
  if (paths.size() != 1 || paths[0] != "demo") return false;
  std::error_code error;
  check(!std::filesystem::exists("demo", error), "corpus",
        "--data demo means the built-in stories, and there is a file or folder 'demo' here: write ./demo for it");
  return true;
}

}  // namespace rw
