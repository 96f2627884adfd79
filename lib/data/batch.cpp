// Draws which text each sample sees, and puts it into batches of ids and targets.
#include "data/batch.h"

#include <algorithm>

#include "tensor/error.h"

namespace rw {

SampleChooser::SampleChooser(const TokenCorpus& corpus, const Options& options) : options_(options) {
  check(options.window >= 1, "batch", "a window of ", options.window, " tokens");
  options_.region = options.region == 0 ? INT64_MAX : std::max(options.region, options.window);
  int64_t longest = 0, total = 0;
  for (int64_t d = 0; d < corpus.documents(); ++d) {
    longest = std::max(longest, corpus.length(d));
    const int64_t usable = corpus.length(d) - 1;  // the last token is only ever a target
    if (usable < options.window) continue;
    documents_.push_back(d);
    usable_.push_back(usable);
    cumulative_.push_back(total += usable - options.window + 1);
  }
  check(total > 0, "batch", "the corpus is shorter than one window: a window of ", options.window,
        " tokens and its last target need ", options.window + 1, ", the longest of ", corpus.documents(),
        " documents has ", longest);
}

Region SampleChooser::choose(uint64_t step, uint64_t sample) const {
  Random random(options_.seed, Purpose::data, step, sample);
  const int64_t start = random.below(cumulative_.back());
  const auto at = std::upper_bound(cumulative_.begin(), cumulative_.end(), start) - cumulative_.begin();
  const int64_t available = std::min(options_.region, usable_[at]);
  // With a region of one window, `start` itself says where; a larger region has fewer places and is drawn anew.
  const int64_t first = at == 0 ? 0 : cumulative_[at - 1];
  const int64_t begin = available == options_.window ? start - first : random.between(0, usable_[at] - available);
  return {documents_[at], begin, available};
}

std::vector<Region> SampleChooser::choose(uint64_t step, uint64_t first_sample, int64_t count) const {
  std::vector<Region> regions;
  for (int64_t k = 0; k < count; ++k) regions.push_back(choose(step, first_sample + static_cast<uint64_t>(k)));
  return regions;
}

namespace {

/// Where the spans of one sample lie in its document. With BOS, which takes the first place, everything after it comes
/// one token earlier, so that touching spans stay touching.
std::vector<Span> place_spans(const std::vector<Span>& content, const Region& region, bool bos) {
  std::vector<Span> placed;
  for (const Span& span : content) {
    const bool first = placed.empty();
    placed.push_back({region.begin + span.begin - (bos && !first ? 1 : 0), span.length - (bos && first ? 1 : 0)});
  }
  return placed;
}

/// Writes the ids and targets of one sample of ids.size() tokens.
void fill_sample(const TokenCorpus& corpus, const SampleSource& source, const BatchOptions& options,
                 std::span<int32_t> ids, std::span<int32_t> targets) {
  size_t at = 0;
  std::vector<size_t> seams;  // inputs that are the last of their span
  if (options.bos) ids[at++] = *options.bos;
  for (const Span& span : source.spans) {
    if (&span != &source.spans.front()) seams.push_back(at - 1);
    corpus.read(source.document, span.begin, ids.subspan(at, static_cast<size_t>(span.length)));
    at += static_cast<size_t>(span.length);
  }
  std::copy(ids.begin() + 1, ids.end(), targets.begin());
  const int64_t after = source.spans.back().end();
  if (after < corpus.length(source.document)) corpus.read(source.document, after, targets.last(1));
  else targets.back() = kIgnoreIndex;
  if (options.mask_seams) {
    for (const size_t seam : seams) targets[seam] = kIgnoreIndex;
  }
}

}  // namespace

Batch make_batch(const TokenCorpus& corpus, std::span<const Region> where, std::span<const std::vector<Span>> content,
                 const BatchOptions& options) {
  check(!where.empty() && where.size() == content.size(), "batch", where.size(), " regions and ", content.size(),
        " lists of spans");
  check(!options.bos || (*options.bos >= 0 && *options.bos < corpus.vocab_size()), "batch", "BOS ",
        options.bos.value_or(0), " is beyond the vocabulary of ", corpus.vocab_size());
  Batch batch;
  int64_t window = -1;
  for (size_t b = 0; b < where.size(); ++b) {
    int64_t tokens = 0;
    for (const Span& span : content[b]) {
      check(span.begin >= 0 && span.length >= 1 && span.end() <= where[b].available, "batch", "sample ", b, ": span [",
            span.begin, ", ", span.end(), ") outside the ", where[b].available, " tokens of its region");
      tokens += span.length;
    }
    check(tokens > 0 && (window < 0 || tokens == window), "batch", "sample ", b, " has ", tokens, " tokens, expected ",
          window < 0 ? 1 : window);
    window = tokens;
    batch.source.push_back({where[b].document, place_spans(content[b], where[b], options.bos.has_value())});
  }
  const auto samples = static_cast<int64_t>(where.size());
  batch.ids = Tensor::empty({samples, window}, DType::i32);
  batch.targets = Tensor::empty({samples, window}, DType::i32);
  for (int64_t b = 0; b < samples; ++b) {
    const std::span<int32_t> ids(batch.ids.data<int32_t>() + b * window, static_cast<size_t>(window));
    const std::span<int32_t> targets(batch.targets.data<int32_t>() + b * window, static_cast<size_t>(window));
    fill_sample(corpus, batch.source[b], options, ids, targets);
    batch.scored += window - std::count(targets.begin(), targets.end(), kIgnoreIndex);
  }
  batch.weight = static_cast<double>(batch.scored);
  return batch;
}

std::vector<int64_t> available(std::span<const Region> where) {
  std::vector<int64_t> lengths;
  for (const Region& region : where) lengths.push_back(region.available);
  return lengths;
}

std::vector<std::vector<Span>> contiguous_spans(int64_t count, int64_t window) {
  return std::vector<std::vector<Span>>(static_cast<size_t>(count), {{0, window}});
}

}  // namespace rw
