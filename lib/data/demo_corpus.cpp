#include "data/demo_corpus.h"

#include <algorithm>
#include <array>
#include <cstdlib>

#include "tensor/error.h"
#include "tensor/random.h"

namespace rw {
namespace {

constexpr std::array kFirstSyllable = {"Tor", "Mira", "Bel", "Dar", "Fen", "Gal", "Hol",  "Jor",
                                       "Kel", "Lun",  "Mor", "Nev", "Os",  "Pel", "Quin", "Rav",
                                       "Sel", "Tam",  "Ul",  "Ves", "Wil", "Yar", "Zan",  "Cor"};
constexpr std::array kLastSyllable = {"ven", "da", "rick", "mo",  "lia", "gar", "beth", "dor", "na",  "wyn",
                                      "tus", "ra", "fin",  "lot", "mar", "nis", "go",   "sa",  "vik", "than"};
constexpr std::array kPlaces = {"mill",  "bridge", "tower", "harbour", "forest", "market", "chapel",  "castle",
                                "river", "garden", "cave",  "school",  "inn",    "farm",   "library", "well"};
constexpr std::array kThings = {"lamp",  "rope",  "book", "drum",   "knife", "basket", "mirror", "flute",
                                "apple", "stone", "map",  "candle", "coin",  "shell",  "kettle", "hammer"};
constexpr std::array kColours = {"red", "blue", "green", "white", "black", "yellow", "grey", "brown"};
constexpr std::array kDays = {"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"};
constexpr std::array kWeather = {"rain", "wind", "snow", "fog", "sun", "storm"};
constexpr std::array kAnimals = {"dog", "cat", "horse", "goat", "crow", "fox", "hen", "owl"};
constexpr std::array kOpenings = {"It is said that ", "Everyone knows that ", "Remember that ", "As before, "};

template <size_t N>
std::string pick(Random& random, const std::array<const char*, N>& words) {
  return words[static_cast<size_t>(random.below(static_cast<int64_t>(N)))];
}

enum class Relation { home, thing, colour, key };

/// One thing to know about one person, and the sentence that last said it.
struct Fact {
  std::string text;  // without the full stop: "the key of Torven is 472"
  int64_t last_told = 0;
};

Fact make_fact(Random& random, const std::string& name, Relation relation) {
  switch (relation) {
    case Relation::home:
      return {cat(name, " lives at the ", pick(random, kPlaces))};
    case Relation::thing:
      return {cat(name, " carries the ", pick(random, kThings))};
    case Relation::colour:
      return {cat(name, " wears ", pick(random, kColours))};
    case Relation::key:
      return {cat("the key of ", name, " is ", random.between(100, 999))};
  }
  return {};
}

std::string small_talk(Random& random) {
  switch (random.below(4)) {
    case 0:
      return cat("On ", pick(random, kDays), " the ", pick(random, kWeather), " came to the ", pick(random, kPlaces));
    case 1:
      return cat("The ", pick(random, kAnimals), " slept by the ", pick(random, kPlaces));
    case 2:
      return cat("A ", pick(random, kAnimals), " ran after the ", pick(random, kAnimals));
    default:
      return cat("The ", pick(random, kWeather), " was gone on ", pick(random, kDays));
  }
}

std::string sentence(std::string text) {
  if (text[0] >= 'a' && text[0] <= 'z') text[0] = static_cast<char>(text[0] - 32);
  return text + ".";
}

class Story {
 public:
  explicit Story(Random random) : random_(random) {}

  std::string tell(int64_t bytes) {
    std::string text;
    while (static_cast<int64_t>(text.size()) < bytes) {
      text += next_sentence();
      text += ++told_ % 8 == 0 ? '\n' : ' ';
    }
    return text;
  }

 private:
  /// People come in one by one, so that facts have all ages; 8 people with 4 facts each.
  std::string next_sentence() {
    constexpr int64_t kMostFacts = 32;
    const double draw = random_.uniform();
    const bool room = static_cast<int64_t>(facts_.size()) < kMostFacts;
    if (facts_.empty() || (room && draw < 0.3)) return introduce();
    if (draw < 0.8) return recall();
    return sentence(small_talk(random_));
  }

  std::string introduce() {
    if (pending_.empty()) {
      do {
        name_ = pick(random_, kFirstSyllable) + pick(random_, kLastSyllable);
      } while (std::find(names_.begin(), names_.end(), name_) != names_.end());
      names_.push_back(name_);
      pending_ = {Relation::key, Relation::home, Relation::thing, Relation::colour};
    }
    facts_.push_back(make_fact(random_, name_, pending_.back()));
    facts_.back().last_told = told_;
    pending_.pop_back();
    return sentence(facts_.back().text);
  }

  /// Tells again the fact whose age is closest to one drawn from 3 to 95 sentences, every octave equally likely.
  std::string recall() {
    const int64_t octave = int64_t{3} << random_.below(5);
    const int64_t age = random_.between(octave, 2 * octave - 1);
    const auto distance = [&](const Fact& fact) { return std::abs(told_ - fact.last_told - age); };
    Fact& fact = *std::min_element(facts_.begin(), facts_.end(),
                                   [&](const Fact& a, const Fact& b) { return distance(a) < distance(b); });
    fact.last_told = told_;
    return sentence(random_.uniform() < 0.5 ? fact.text : pick(random_, kOpenings) + fact.text);
  }

  Random random_;
  std::vector<Fact> facts_;
  std::vector<std::string> names_;
  std::string name_;
  std::vector<Relation> pending_;  // what is still to be told about name_
  int64_t told_ = 0;               // sentences so far
};

}  // namespace

std::vector<Document> make_demo_corpus(uint64_t seed, int64_t documents, int64_t approx_bytes_each) {
  check(documents >= 1 && approx_bytes_each >= 1, "corpus", documents, " stories of ", approx_bytes_each, " bytes");
  std::vector<Document> stories;
  for (int64_t d = 0; d < documents; ++d) {
    Story story(Random(seed, Purpose::corpus, 0, static_cast<uint64_t>(d)));
    stories.push_back({cat("story-", d), story.tell(approx_bytes_each)});
  }
  return stories;
}

}  // namespace rw
