// The generation loops: prefill, then one token at a time, of one text or of several together.
#include "nn/generate.h"

#include <algorithm>

#include "autograd/tape.h"
#include "nn/decoder.h"

namespace rw {

namespace {

void check_request(const CausalLm& model, std::span<const int32_t> prompt, int64_t tokens) {
  check(!prompt.empty(), "generate", "the prompt is empty: start with BOS");
  check(tokens >= 0, "generate", "tokens must not be negative, got ", tokens);
  for (const int32_t id : prompt) {
    check(id >= 0 && id < model.config().vocab_size, "generate", "token id ", id,
          " of the prompt is beyond the model's vocabulary of ", model.config().vocab_size);
  }
}

/// Logits of the token after the prompt, which goes into the cache.
std::vector<float> read_prompt(const CausalLm& model, const std::vector<int32_t>& prompt, KvCache& cache) {
  const auto count = static_cast<int64_t>(prompt.size());
  const Tensor ids = Tensor::from(prompt, {1, count}).to(model.device());
  const Tensor hidden = model.extend(ids, cache).view({count, model.config().hidden_size});
  const Tensor logits = model.logits(hidden.slice(count - 1, count)).value().to(kCpu).to(DType::f32);  // [1,V]
  return {logits.data<float>(), logits.data<float>() + logits.numel()};
}

}  // namespace

int64_t generate(const CausalLm& model, const std::vector<int32_t>& prompt, const GenerateOptions& options,
                 const std::function<bool(int32_t)>& on_token) {
  check_request(model, prompt, options.tokens);
  const NoGrad no_grad;
  KvCache cache = model.make_cache(1, static_cast<int64_t>(prompt.size()) + options.tokens);
  const auto ends = [&](int32_t token) {
    return std::find(options.stop.begin(), options.stop.end(), token) != options.stop.end();
  };
  std::unique_ptr<Decoder> decoder;
  int32_t token = 0;
  for (int64_t made = 0; made < options.tokens; ++made) {
    if (made == 0) {
      token = sample_token(read_prompt(model, prompt, cache), options.sampling, 0);
      if (Decoder::supports(model, cache)) decoder = Decoder::make(model, cache);
    } else if (decoder && options.sampling.temperature == 0) {
      token = decoder->greedy(token);
    } else if (decoder) {
      token = sample_token(decoder->step(token), options.sampling, static_cast<uint64_t>(made));
    } else {
      token = sample_token(read_prompt(model, {token}, cache), options.sampling, static_cast<uint64_t>(made));
    }
    if (ends(token)) return made;
    if (!on_token(token)) return made + 1;
  }
  return options.tokens;
}

namespace {

bool contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

/// Requests that are decoded together. A place serves one after another.
class Together {
 public:
  Together(const CausalLm& model, std::span<const GreedyRequest> requests, std::vector<KvCache> caches,
           const std::function<void(int64_t)>& done)
      : model_(model), requests_(requests), done_(done), out_(requests.size()), caches_(std::move(caches)) {
    decoder_ = BatchDecoder::make(model, caches_);
    places_.resize(caches_.size());
  }

  std::vector<std::vector<int32_t>> run() {
    for (;;) {
      std::vector<BatchDecoder::Next> next;
      for (size_t p = 0; p < places_.size(); ++p) {
        while (!places_[p].busy && begun_ < requests_.size()) begin(p);
        if (places_[p].busy) next.push_back({static_cast<int64_t>(p), places_[p].token});
      }
      if (next.empty()) return std::move(out_);
      const std::vector<int32_t> tokens = decoder_->greedy(next);
      for (size_t i = 0; i < next.size(); ++i) take(static_cast<size_t>(next[i].text), tokens[i]);
    }
  }

 private:
  struct Place {
    bool busy = false;
    size_t request = 0;
    int32_t token = 0;  // the newest, not in the cache yet
  };

  void begin(size_t p) {
    places_[p] = {.busy = true, .request = begun_++, .token = 0};
    const GreedyRequest& r = requests_[places_[p].request];
    if (r.tokens == 0) return end(p);
    caches_[p].clear();
    take(p, sample_token(read_prompt(model_, r.prompt, caches_[p]), {.temperature = 0}, 0));
  }

  void take(size_t p, int32_t token) {
    Place& place = places_[p];
    const GreedyRequest& r = requests_[place.request];
    if (contains(r.stop, token)) return end(p);
    out_[place.request].push_back(token);
    place.token = token;
    if (static_cast<int64_t>(out_[place.request].size()) == r.tokens) end(p);
  }

  void end(size_t p) {
    places_[p].busy = false;
    if (done_) done_(++ended_);
  }

  const CausalLm& model_;
  std::span<const GreedyRequest> requests_;
  const std::function<void(int64_t)>& done_;
  std::vector<std::vector<int32_t>> out_;
  std::vector<KvCache> caches_;
  std::unique_ptr<BatchDecoder> decoder_;
  std::vector<Place> places_;
  size_t begun_ = 0;
  int64_t ended_ = 0;
};

/// How many caches of `capacity` tokens there may be, at least 1.
int64_t caches_that_fit(const CausalLm& model, int64_t capacity) {
  const ModelConfig& c = model.config();
  const int64_t each = 2 * c.num_hidden_layers * capacity * c.num_key_value_heads * c.head_dim * size_of(model.dtype());
  return std::max<int64_t>(1, (int64_t{1} << (model.device().is_cuda() ? 34 : 31)) / each);
}

}  // namespace

std::vector<std::vector<int32_t>> generate_greedy(const CausalLm& model, std::span<const GreedyRequest> requests,
                                                  int64_t together, const std::function<void(int64_t)>& done) {
  check(together >= 0 && together <= BatchDecoder::kMost, "generate", "together must be in [0, ", BatchDecoder::kMost,
        "], got ", together);
  int64_t capacity = 1;
  for (const GreedyRequest& r : requests) {
    check_request(model, r.prompt, r.tokens);
    capacity = std::max(capacity, static_cast<int64_t>(r.prompt.size()) + r.tokens);
  }
  const NoGrad no_grad;
  const KvCache probe = model.make_cache(1, 1);
  if (together == 0) together = BatchDecoder::exact(model, probe) ? BatchDecoder::kMost : 1;
  together = std::min({together, static_cast<int64_t>(requests.size()), caches_that_fit(model, capacity)});
  if (together > 1 && BatchDecoder::supports(model, probe)) {
    std::vector<KvCache> caches;
    for (int64_t i = 0; i < together; ++i) caches.push_back(model.make_cache(1, capacity));
    return Together(model, requests, std::move(caches), done).run();
  }
  std::vector<std::vector<int32_t>> out;
  for (const GreedyRequest& r : requests) {
    std::vector<int32_t>& made = out.emplace_back();
    const GenerateOptions options{.tokens = r.tokens, .sampling = {.temperature = 0}, .stop = r.stop};
    generate(model, r.prompt, options, [&](int32_t token) {
      made.push_back(token);
      return true;
    });
    if (done) done(static_cast<int64_t>(out.size()));
  }
  return out;
}

}  // namespace rw
