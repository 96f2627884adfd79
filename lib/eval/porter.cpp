// Porter's stemmer (M. F. Porter, "An algorithm for suffix stripping", 1980) with the extensions of NLTK, whose stems
// rouge-score counts: a list of irregular words, and rules for -ies, -ied, -y, -bli, -fulli and -logi.
#include <algorithm>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "eval/rouge.h"

namespace rw {
namespace {

bool is_vowel(char c) { return c == 'a' || c == 'e' || c == 'i' || c == 'o' || c == 'u'; }

/// A y is a consonant at the beginning and after a vowel.
std::vector<bool> consonants(std::string_view word) {
  std::vector<bool> out;
  for (size_t i = 0; i < word.size(); ++i) out.push_back(word[i] == 'y' ? i == 0 || !out[i - 1] : !is_vowel(word[i]));
  return out;
}

/// m of the form [C](VC)^m[V].
int measure(std::string_view stem) {
  const std::vector<bool> c = consonants(stem);
  int m = 0;
  for (size_t i = 1; i < c.size(); ++i) m += !c[i - 1] && c[i];
  return m;
}

bool has_vowel(std::string_view stem) {
  const std::vector<bool> c = consonants(stem);
  return std::find(c.begin(), c.end(), false) != c.end();
}

bool ends_double_consonant(std::string_view w) {
  return w.size() >= 2 && w.back() == w[w.size() - 2] && consonants(w).back();
}

/// Consonant, vowel, consonant other than w, x and y; or just a vowel and a consonant.
bool ends_cvc(std::string_view w) {
  const std::vector<bool> c = consonants(w);
  const size_t n = w.size();
  if (n == 2) return !c[0] && c[1];
  return n >= 3 && c[n - 3] && !c[n - 2] && c[n - 1] && w[n - 1] != 'w' && w[n - 1] != 'x' && w[n - 1] != 'y';
}

std::string without(const std::string& word, size_t letters) { return word.substr(0, word.size() - letters); }

struct Rule {
  std::string_view suffix, replacement;
};

/// The first rule whose suffix the word has decides: it is applied if the stem's measure exceeds `above`, and no other
/// rule is tried.
std::string apply(const std::string& word, std::span<const Rule> rules, int above) {
  for (const Rule& rule : rules) {
    if (!word.ends_with(rule.suffix)) continue;
    const std::string stem = without(word, rule.suffix.size());
    // -logi leaves its l to the stem; -ion goes after s and t only.
    const int m = measure(rule.suffix == "logi" ? std::string_view(word).substr(0, word.size() - 3) : stem);
    const bool fits = rule.suffix != "ion" || (!stem.empty() && (stem.back() == 's' || stem.back() == 't'));
    return m > above && fits ? stem + std::string(rule.replacement) : word;
  }
  return word;
}

std::string plurals(const std::string& word) {
  if (word.ends_with("ies")) return word.size() == 4 ? without(word, 1) : without(word, 2);
  if (word.ends_with("sses")) return without(word, 2);
  return word.ends_with("s") && !word.ends_with("ss") ? without(word, 1) : word;
}

std::string past_and_progressive(const std::string& word) {
  if (word.ends_with("ied")) return word.size() == 4 ? without(word, 1) : without(word, 2);
  if (word.ends_with("eed")) return measure(without(word, 3)) > 0 ? without(word, 1) : word;
  for (const std::string_view suffix : {"ed", "ing"}) {
    if (!word.ends_with(suffix)) continue;
    const std::string stem = without(word, suffix.size());
    if (!has_vowel(stem)) continue;
    if (stem.ends_with("at") || stem.ends_with("bl") || stem.ends_with("iz")) return stem + "e";
    if (ends_double_consonant(stem)) {
      const char last = stem.back();
      return last == 'l' || last == 's' || last == 'z' ? stem : without(stem, 1);
    }
    return measure(stem) == 1 && ends_cvc(stem) ? stem + "e" : stem;
  }
  return word;
}

std::string final_y(const std::string& word) {
  if (!word.ends_with("y")) return word;
  const std::string stem = without(word, 1);
  return stem.size() > 1 && consonants(stem).back() ? stem + "i" : word;
}

std::string double_suffixes(const std::string& word) {
  static constexpr Rule kRules[] = {{"ational", "ate"}, {"tional", "tion"}, {"enci", "ence"},   {"anci", "ance"},
                                    {"izer", "ize"},    {"bli", "ble"},     {"alli", "al"},     {"entli", "ent"},
                                    {"eli", "e"},       {"ousli", "ous"},   {"ization", "ize"}, {"ation", "ate"},
                                    {"ator", "ate"},    {"alism", "al"},    {"iveness", "ive"}, {"fulness", "ful"},
                                    {"ousness", "ous"}, {"aliti", "al"},    {"iviti", "ive"},   {"biliti", "ble"},
                                    {"fulli", "ful"},   {"logi", "log"}};
  if (word.ends_with("alli") && measure(without(word, 4)) > 0) return double_suffixes(without(word, 2));
  return apply(word, kRules, 0);
}

std::string without_e(const std::string& word) {
  if (!word.ends_with("e")) return word;
  const std::string stem = without(word, 1);
  const int m = measure(stem);
  return m > 1 || (m == 1 && !ends_cvc(stem)) ? stem : word;
}

}  // namespace

std::string porter_stem(const std::string& word) {
  static constexpr std::pair<std::string_view, std::string_view> kIrregular[] = {
      {"sky", "sky"},        {"skies", "sky"},       {"dying", "die"},        {"lying", "lie"},
      {"tying", "tie"},      {"news", "news"},       {"innings", "inning"},   {"inning", "inning"},
      {"outings", "outing"}, {"outing", "outing"},   {"cannings", "canning"}, {"canning", "canning"},
      {"howe", "howe"},      {"proceed", "proceed"}, {"exceed", "exceed"},    {"succeed", "succeed"}};
  static constexpr Rule kThird[] = {{"icate", "ic"}, {"ative", ""}, {"alize", "al"}, {"iciti", "ic"},
                                    {"ical", "ic"},  {"ful", ""},   {"ness", ""}};
  static constexpr Rule kFourth[] = {{"al", ""},   {"ance", ""}, {"ence", ""}, {"er", ""},    {"ic", ""},
                                     {"able", ""}, {"ible", ""}, {"ant", ""},  {"ement", ""}, {"ment", ""},
                                     {"ent", ""},  {"ion", ""},  {"ou", ""},   {"ism", ""},   {"ate", ""},
                                     {"iti", ""},  {"ous", ""},  {"ive", ""},  {"ize", ""}};
  for (const auto& [from, to] : kIrregular) {
    if (word == from) return std::string(to);
  }
  if (word.size() <= 2) return word;
  std::string out = double_suffixes(final_y(past_and_progressive(plurals(word))));
  out = without_e(apply(apply(out, kThird, 0), kFourth, 1));
  return out.ends_with("ll") && measure(without(out, 1)) > 1 ? without(out, 1) : out;
}

}  // namespace rw
