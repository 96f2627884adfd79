// The loop of generate() over a cache that outlives it.
#include "nn/session.h"

#include <algorithm>

#include "autograd/tape.h"
#include "nn/decoder.h"

namespace rw {

Session::Session(const CausalLm& model, int64_t capacity) : model_(model) {
  check(capacity >= 2, "session", "room for ", capacity, " tokens, expected at least 2");
  const NoGrad no_grad;
  cache_ = model.make_cache(1, capacity);
}

Session::~Session() = default;

int64_t Session::answer(const std::vector<int32_t>& ids, const GenerateOptions& options,
                        const std::function<bool(int32_t)>& on_token) {
  check(!ids.empty(), "session", "nothing to answer");
  const auto count = static_cast<int64_t>(ids.size());
  check(count < cache_.capacity, "session", "the conversation has ", count, " tokens, there is room for ",
        cache_.capacity);
  const NoGrad no_grad;
  const int64_t width = model_.config().hidden_size;
  // The last token is always read: its hidden state is where the answer starts.
  const auto same = std::mismatch(ids.begin(), ids.end() - 1, known_.begin(), known_.end()).first - ids.begin();
  cache_.length = same;
  known_.resize(static_cast<size_t>(same));
  read_ = count - same;
  const auto choose = [&](const Tensor& hidden) {                                 // [1,C]
    const Tensor logits = model_.logits(hidden).value().to(kCpu).to(DType::f32);  // [1,V]
    const std::vector<float> row(logits.data<float>(), logits.data<float>() + logits.numel());
    return sample_token(row, options.sampling, static_cast<uint64_t>(drawn_++));
  };
  const auto read = [&](const std::vector<int32_t>& more) {
    const auto n = static_cast<int64_t>(more.size());
    const Tensor input = Tensor::from(more, {1, n}).to(model_.device());
    const Tensor hidden = model_.extend(input, cache_).view({n, width}).slice(n - 1, n);
    known_.insert(known_.end(), more.begin(), more.end());
    return hidden;
  };
  if (options.tokens <= 0) return 0;
  int32_t token = choose(read({ids.begin() + same, ids.end()}));
  std::unique_ptr<Decoder> decoder;
  if (Decoder::supports(model_, cache_)) decoder = Decoder::make(model_, cache_);
  for (int64_t made = 0;; ++made) {
    if (std::find(options.stop.begin(), options.stop.end(), token) != options.stop.end()) return made;
    if (!on_token(token) || made + 1 == options.tokens || cache_.length == cache_.capacity) return made + 1;
    if (!decoder) {
      token = choose(read({token}));
      continue;
    }
    known_.push_back(token);
    if (options.sampling.temperature == 0) token = decoder->greedy(token);
    else token = sample_token(decoder->step(token), options.sampling, static_cast<uint64_t>(drawn_++));
  }
}

}  // namespace rw
