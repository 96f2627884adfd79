// RULER's generators: what each task says, how often, and where its facts stand.
#include "eval/ruler_tasks.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <set>
#include <utility>

#include "eval/retrieval.h"
#include "tensor/error.h"

namespace rw::ruler {
namespace {

constexpr const char* kOp = "ruler";
constexpr const char* kNoise =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";
constexpr int64_t kDepths = 40;  // needles in text stand at 40 depths, evenly from 0 to 100 %
constexpr int64_t kHops = 4, kNameLength = 5, kExampleNameLength = 3, kExampleTokens = 500;
constexpr int64_t kCommon = 10;
constexpr int64_t kCodedLength = 6;

constexpr std::array kAdjectives = {
    "amber", "brisk", "calm",  "dusty",  "early",  "faint",  "gentle", "hollow", "iron",   "jolly", "keen",
    "loose", "mild",  "noble", "old",    "pale",   "quiet",  "rapid",  "silent", "tender", "upper", "vivid",
    "warm",  "young", "zesty", "ample",  "bitter", "clever", "daring", "eager",  "fancy",  "grand", "humble",
    "inner", "joint", "kind",  "lively", "modest", "narrow", "open",   "plain",  "quick",  "rough", "sharp",
    "thick", "urban", "vast",  "wild",   "yellow", "broad",  "crisp",  "damp",   "even",   "fresh", "golden",
    "hardy", "icy",   "lucky", "misty",  "neat",   "odd",    "proud",  "round",  "steep"};
constexpr std::array kNouns = {
    "anchor",   "barn",   "candle", "door",    "engine", "ferry",  "garden", "harbor", "island",   "jacket", "kettle",
    "lamp",     "mirror", "needle", "orchard", "plough", "quarry", "river",  "saddle", "tunnel",   "urn",    "valley",
    "window",   "yard",   "arch",   "basket",  "castle", "drum",   "elbow",  "fence",  "glove",    "hammer", "ink",
    "jar",      "knot",   "ladder", "market",  "nest",   "oven",   "pillow", "quilt",  "rope",     "shelf",  "table",
    "umbrella", "violin", "wagon",  "yarn",    "acorn",  "bridge", "cellar", "dish",   "envelope", "flute",  "goose",
    "hinge",    "ivy",    "kite",   "lantern", "meadow", "nail",   "oar",    "pebble", "ribbon"};

template <class T>
void shuffle(std::vector<T>& values, Random& random) {
  for (size_t i = values.size(); i > 1; --i)
    std::swap(values[i - 1], values[static_cast<size_t>(random.below(static_cast<int64_t>(i)))]);
}

/// `count` different whole numbers below n, in random order.
std::vector<int64_t> sample(int64_t n, int64_t count, Random& random) {
  std::set<int64_t> seen;
  std::vector<int64_t> out;
  while (static_cast<int64_t>(out.size()) < count) {
    const int64_t draw = random.below(n);
    if (seen.insert(draw).second) out.push_back(draw);
  }
  return out;
}

std::string letters(int64_t count, char first, Random& random) {
  std::string out;
  for (int64_t i = 0; i < count; ++i) out += static_cast<char>(first + random.below(26));
  return out;
}

std::string join(const std::vector<std::string>& parts, const char* between) {
  std::string out;
  for (size_t i = 0; i < parts.size(); ++i) out += cat(i ? between : "", parts[i]);
  return out;
}

std::string uuid(Random& random) {
  constexpr const char* kHex = "0123456789abcdef";
  std::string out;
  for (int i = 0; i < 36; ++i) {
    if (i == 8 || i == 13 || i == 18 || i == 23) out += '-';
    else if (i == 14) out += '4';                        // version 4
    else if (i == 19) out += kHex[8 + random.below(4)];  // its variant
    else out += kHex[random.below(16)];
  }
  return out;
}

/// What a niah task is made of, as RULER's synthetic.yaml says.
struct NeedleForm {
  enum class Haystack { noise, text, needles } haystack = Haystack::noise;
  bool uuid_keys = false, uuid_values = false;
  int64_t keys = 1, values = 1, asked = 1;
};

NeedleForm needle_form(const std::string& task) {
  using enum NeedleForm::Haystack;
  if (task == "niah_single_1") return {};
  if (task == "niah_single_2") return {.haystack = text};
  if (task == "niah_single_3") return {.haystack = text, .uuid_values = true};
  if (task == "niah_multikey_1") return {.haystack = text, .keys = 4};
  if (task == "niah_multikey_2") return {.haystack = needles};
  if (task == "niah_multikey_3") return {.haystack = needles, .uuid_keys = true, .uuid_values = true};
  if (task == "niah_multivalue") return {.haystack = text, .values = 4};
  return {.haystack = text, .keys = 4, .asked = 4};
}

class Needles {
 public:
  Needles(const NeedleForm& form, Random& random) : form_(form), random_(random) {
    for (int64_t k = 0; k < form.keys; ++k) {
      std::string name = key();
      while (std::find(keys_.begin(), keys_.end(), name) != keys_.end()) name = key();
      keys_.push_back(name);
      values_.emplace_back();
      for (int64_t v = 0; v < form.values; ++v) {
        values_.back().push_back(value());
        lines_.push_back(line(name, values_.back().back()));
      }
    }
    shuffle(lines_, random);
  }

  /// Needles between sentences of `size` words of text.
  std::string among_text(int64_t size, const std::vector<std::string>& words) {
    check(!words.empty(), kOp, "needles in text need text: name it with --data");
    std::string text;
    const int64_t n = static_cast<int64_t>(words.size()), start = random_.below(n);
    std::vector<std::string> sentences;
    for (int64_t i = 0; i < size; ++i) {
      const std::string& word = words[static_cast<size_t>((start + i) % n)];
      text += cat(text.empty() ? "" : " ", word);
      const char last = word.empty() ? ' ' : word.back();
      if (last == '.' || last == '!' || last == '?') sentences.push_back(std::exchange(text, ""));
    }
    if (!text.empty()) sentences.push_back(text);
    const int64_t count = static_cast<int64_t>(sentences.size());
    std::vector<int64_t> places;
    for (const int64_t depth : sample(kDepths, static_cast<int64_t>(lines_.size()), random_)) {
      const double percent = std::nearbyint(100.0 * static_cast<double>(depth) / (kDepths - 1));
      places.push_back(static_cast<int64_t>(static_cast<double>(count) * (percent / 100)));
    }
    std::sort(places.begin(), places.end());
    std::vector<std::string> parts;
    size_t next = 0;
    for (int64_t i = 0; i <= count; ++i) {
      while (next < places.size() && places[next] == i) parts.push_back(lines_[next++]);
      if (i < count) parts.push_back(sentences[static_cast<size_t>(i)]);
    }
    return join(parts, " ");
  }

  /// Needles between `size` lines of noise, or of other needles.
  std::string among_lines(int64_t size) {
    std::vector<std::string> lines;
    for (int64_t i = 0; i < size; ++i) {
      if (form_.haystack == NeedleForm::Haystack::noise) {
        lines.emplace_back(kNoise);
        continue;
      }
      std::string name = key();
      while (std::find(keys_.begin(), keys_.end(), name) != keys_.end()) name = key();  // one line answers
      lines.push_back(line(name, value()));
    }
    std::vector<int64_t> places = sample(size, static_cast<int64_t>(lines_.size()), random_);
    std::sort(places.rbegin(), places.rend());
    for (size_t i = 0; i < places.size(); ++i) lines.insert(lines.begin() + places[i], lines_[i]);
    return join(lines, "\n");
  }

  RulerPrompt ask(const std::string& context) {
    std::vector<std::string> asked, answers;
    for (const int64_t k : sample(form_.keys, form_.asked, random_)) {
      asked.push_back(keys_[static_cast<size_t>(k)]);
      for (const std::string& v : values_[static_cast<size_t>(k)]) answers.push_back(v);
    }
    std::string query = asked.back();
    if (asked.size() > 1) query = cat(join({asked.begin(), asked.end() - 1}, ", "), ", and ", asked.back());
    const bool one = form_.asked * form_.values == 1;
    const std::string kind = one ? kinds().substr(0, kinds().size() - 1) : kinds();
    const std::string intro = cat(one ? "A special magic " : "Some special magic ", kind, one ? " is" : " are",
                                  " hidden within the following text. Make sure to memorize it. I will quiz you about "
                                  "the ",
                                  kind, " afterwards.\n");
    const std::string what = cat("special magic ", kind, " for ", query, " mentioned in the provided text");
    return {
        cat(intro, context, "\nWhat ", one ? "is the " : "are all the ", what, "? The ", what, one ? " is" : " are"),
        answers,
        {}};
  }

 private:
  std::string kinds() const { return form_.uuid_values ? "uuids" : "numbers"; }
  std::string key() {
    if (form_.uuid_keys) return uuid(random_);
    return cat(kAdjectives[static_cast<size_t>(random_.below(kAdjectives.size()))], "-",
               kNouns[static_cast<size_t>(random_.below(kNouns.size()))]);
  }
  std::string value() { return form_.uuid_values ? uuid(random_) : cat(random_.between(1000000, 9999999)); }
  std::string line(const std::string& name, const std::string& value) const {
    return cat("One of the special magic ", kinds(), " for ", name, " is: ", value, ".");
  }

  NeedleForm form_;
  Random& random_;
  std::vector<std::string> keys_, lines_;
  std::vector<std::vector<std::string>> values_;
};

/// One task of variable tracking, and its answers.
RulerPrompt chain(int64_t lines, int64_t name_length, Random& random) {
  std::vector<std::string> names;
  while (static_cast<int64_t>(names.size()) <= kHops) {
    const std::string name = letters(name_length, 'A', random);
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
  const std::string value = cat(random.between(10000, 99998));
  std::vector<std::string> text(static_cast<size_t>(lines), kNoise);
  std::vector<int64_t> places = sample(lines, kHops + 1, random);
  std::sort(places.begin(), places.end());
  for (int64_t j = 0; j <= kHops; ++j) {
    const size_t i = static_cast<size_t>(j);
    const std::string fact =
        j == 0 ? cat("VAR ", names[i], " = ", value) : cat("VAR ", names[i], " = VAR ", names[i - 1], " ");
    text.insert(text.begin() + places[i] + j, fact);
  }
  return {cat("Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n",
              join(text, "\n"), "\nQuestion: Find all variables that are assigned the value ", value,
              " in the text above. Answer: According to the chain(s) of variable assignment in the text above, ",
              kHops + 1, " variables are assigned the value ", value, ", they are: "),
          names,
          {}};
}

/// A word of three to five syllables for lists that no text is given for.
std::string syllables(Random& random) {
  constexpr const char* kFirst = "bcdfghjklmnprstvwz";
  constexpr const char* kVowels = "aeiou";
  std::string out;
  for (int64_t n = random.between(2, 4); n > 0; --n) {
    out += kFirst[random.below(18)];
    out += kVowels[random.below(5)];
  }
  return out + kFirst[random.below(18)];
}

std::vector<std::string> distinct_words(int64_t count, Random& random, const RulerMaterial& material) {
  std::vector<std::string> out;
  if (static_cast<int64_t>(material.common.size()) >= count) {
    for (const int64_t i : sample(static_cast<int64_t>(material.common.size()), count, random))
      out.push_back(material.common[static_cast<size_t>(i)]);
    return out;
  }
  std::set<std::string> seen;
  while (static_cast<int64_t>(out.size()) < count) {
    std::string word = syllables(random);
    if (seen.insert(word).second) out.push_back(std::move(word));
  }
  return out;
}

std::string numbered(const std::vector<std::string>& words) {
  std::string out;
  for (size_t i = 0; i < words.size(); ++i) out += cat(i ? " " : "", i + 1, ". ", words[i]);
  return out;
}

/// The list of `words` of which the first ten are common.
RulerPrompt word_list(const std::vector<std::string>& words, int64_t often, int64_t seldom, Random& random) {
  std::vector<std::string> list;
  for (size_t i = 0; i < words.size(); ++i) {
    const int64_t times = static_cast<int64_t>(i) < kCommon ? often : seldom;
    for (int64_t n = 0; n < times; ++n) list.push_back(words[i]);
  }
  shuffle(list, random);
  return {
      cat("Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones "
          "that appear most often.\n",
          numbered(list),
          "\nQuestion: What are the 10 most common words in the above list? Answer: The top 10 words that appear "
          "most often in the list are:"),
      {words.begin(), words.begin() + kCommon},
      {}};
}

}  // namespace

RulerPrompt needles(const std::string& task, int64_t size, Random& random, const RulerMaterial& material) {
  const NeedleForm form = needle_form(task);
  Needles n(form, random);
  const bool text = form.haystack == NeedleForm::Haystack::text;
  return n.ask(text ? n.among_text(size, material.words) : n.among_lines(size));
}

RulerPrompt variables(int64_t size, Random& random, const Tokenizer& tokenizer, bool shots) {
  std::string before;
  if (shots) {
    const Random state = random;  // every size of the example draws the same
    const auto example = [&](int64_t extra) {
      Random same = state;
      const RulerPrompt p = chain(kHops + 1 + extra, kExampleNameLength, same);
      return cat(p.text, " ", join(p.answers, " "), "\n");
    };
    const int64_t extra = largest_fit(
        kExampleTokens, [&](int64_t n) { return static_cast<int64_t>(tokenizer.encode(example(n)).size()); });
    before = example(std::max<int64_t>(0, extra)) + "\n";
    random.next64();
  }
  RulerPrompt out = chain(size, kNameLength, random);
  out.text = before + out.text;
  return out;
}

RulerPrompt common_words(int64_t length, int64_t size, Random& random, const RulerMaterial& material, bool shots) {
  const bool few = length < 4096;
  std::string before;
  if (shots) {
    const RulerPrompt example = few ? word_list(distinct_words(20, random, material), 3, 1, random)
                                    : word_list(distinct_words(40, random, material), 10, 3, random);
    before = cat(example.text, " ", numbered(example.answers), "\n");
  }
  RulerPrompt out = word_list(distinct_words(size, random, material), few ? 6 : 30, few ? 1 : 3, random);
  out.text = before + out.text;
  return out;
}

RulerPrompt frequent_words(int64_t length, int64_t size, Random& random) {
  const int64_t vocabulary = std::max<int64_t>(4, (length - ruler_answer_tokens("fwe")) / 50);
  std::vector<std::string> coded;
  std::set<std::string> seen;
  while (static_cast<int64_t>(coded.size()) < vocabulary) {
    std::string word = letters(kCodedLength, 'a', random);
    if (seen.insert(word).second) coded.push_back(std::move(word));
  }
  coded[0] = "...";                        // the most frequent one is noise
  const double zeta = 1.6449340668482264;  // zeta(2)
  std::vector<std::string> list;
  for (int64_t k = 1; k <= vocabulary; ++k) {
    const double kk = static_cast<double>(k);
    const int64_t times = static_cast<int64_t>(static_cast<double>(size) / (kk * kk) / zeta);
    for (int64_t n = 0; n < times; ++n) list.push_back(coded[static_cast<size_t>(k - 1)]);
  }
  shuffle(list, random);
  return {
      cat("Read the following coded text and track the frequency of each coded word. Find the three most frequently "
          "appeared coded words. ",
          join(list, " "),
          "\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are the three most "
          "frequently appeared words in the above coded text? Answer: According to the coded text above, the three "
          "most frequently appeared words are:"),
      {coded[1], coded[2], coded[3]},
      {}};
}

RulerPrompt question(const std::string& task, int64_t size, int64_t trial, Random& random,
                     const RulerMaterial& material) {
  const RulerQuestions& all = task == "qa_1" ? material.squad : material.hotpotqa;
  check(!all.questions.empty(), kOp, task, " needs questions: name ", task == "qa_1" ? "SQuAD's" : "HotpotQA's",
        " file with ", task == "qa_1" ? "--squad" : "--hotpotqa");
  const RulerQuestion& q = all.questions[static_cast<size_t>(trial) % all.questions.size()];
  std::vector<int64_t> chosen = q.documents;
  const int64_t own = static_cast<int64_t>(q.documents.size());
  std::vector<int64_t> near = q.neighbours, far;
  const int64_t count = static_cast<int64_t>(all.documents.size());
  if (size >= count) {  // a haystack longer than all documents repeats them
    chosen.clear();
    for (int64_t i = 0; i < size; ++i) chosen.push_back(i % count);
  } else if (size - own <= static_cast<int64_t>(near.size())) {
    for (const int64_t i : sample(static_cast<int64_t>(near.size()), std::max<int64_t>(0, size - own), random))
      chosen.push_back(near[static_cast<size_t>(i)]);
  } else {
    chosen.insert(chosen.end(), near.begin(), near.end());
    std::set<int64_t> used(chosen.begin(), chosen.end());
    for (int64_t i = 0; i < count; ++i) {
      if (!used.contains(i)) far.push_back(i);
    }
    shuffle(far, random);
    for (size_t i = 0; static_cast<int64_t>(chosen.size()) < size; ++i) chosen.push_back(far[i]);
  }
  shuffle(chosen, random);
  std::vector<std::string> documents;
  for (size_t i = 0; i < chosen.size(); ++i)
    documents.push_back(cat("Document ", i + 1, ":\n", all.documents[static_cast<size_t>(chosen[i])]));
  const std::string order =
      "Answer the question based on the given documents. Only give me the answer and do not output any other words.";
  return {cat(order, "\n\nThe following are given documents.\n\n", join(documents, "\n\n"), "\n\n", order,
              "\n\nQuestion: ", q.question, " Answer:"),
          q.answers,
          {}};
}

int64_t least_size(const std::string& task, const RulerMaterial& material, int64_t trial) {
  if (task == "vt") return kHops + 1;
  if (task == "cwe") return kCommon + 1;
  if (task == "fwe") return 53;  // below, the second and the third word stand there equally often
  if (task == "qa_1" || task == "qa_2") {
    const RulerQuestions& all = task == "qa_1" ? material.squad : material.hotpotqa;
    return all.questions.empty()
               ? 1
               : static_cast<int64_t>(
                     all.questions[static_cast<size_t>(trial) % all.questions.size()].documents.size());
  }
  return 1;
}

}  // namespace rw::ruler
