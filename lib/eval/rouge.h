// ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004) as the package rouge-score counts them: F-measures of one summary against
// one reference.
//
// Words are runs of a-z and 0-9 of the lower-cased text. With `stem`, words of more than three letters are stemmed
// (Porter 1980 with the extensions of NLTK's PorterStemmer, which rouge-score uses).
#pragma once
#include <string>
#include <vector>

namespace rw {

struct Rouge {
  double rouge1 = 0, rouge2 = 0, rougeL = 0;
};

/// Values in [0, 1]; 0 where either side has no words (for ROUGE-2: no pair of words).
Rouge rouge_scores(const std::string& prediction, const std::string& reference, bool stem);

/// The words that are counted.
std::vector<std::string> rouge_words(const std::string& text, bool stem);

/// Porter's stem of one lower-case word.
std::string porter_stem(const std::string& word);

}  // namespace rw
