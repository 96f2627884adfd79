// The generation loop: prefill, then one token at a time.
#include "nn/generate.h"

#include <algorithm>

#include "autograd/tape.h"
#include "nn/decoder.h"

namespace rw {

int64_t generate(const CausalLm& model, const std::vector<int32_t>& prompt, const GenerateOptions& options,
                 const std::function<bool(int32_t)>& on_token) {
  check(!prompt.empty(), "generate", "the prompt is empty: start with BOS");
  check(options.tokens >= 0, "generate", "tokens must not be negative, got ", options.tokens);
  for (const int32_t id : prompt) {
    check(id >= 0 && id < model.config().vocab_size, "generate", "token id ", id,
          " of the prompt is beyond the model's vocabulary of ", model.config().vocab_size);
  }
  const NoGrad no_grad;
  const int64_t width = model.config().hidden_size;
  KvCache cache = model.make_cache(1, static_cast<int64_t>(prompt.size()) + options.tokens);
  const int64_t count = static_cast<int64_t>(prompt.size());
  const auto ends = [&](int32_t token) {
    return std::find(options.stop.begin(), options.stop.end(), token) != options.stop.end();
  };
  const auto from_hidden = [&](const Tensor& hidden, int64_t made) {             // [1,C], of the last token
    const Tensor logits = model.logits(hidden).value().to(kCpu).to(DType::f32);  // [1,V]
    const std::vector<float> row(logits.data<float>(), logits.data<float>() + logits.numel());
    return sample_token(row, options.sampling, static_cast<uint64_t>(made));
  };
  std::unique_ptr<Decoder> decoder;
  int32_t token = 0;
  for (int64_t made = 0; made < options.tokens; ++made) {
    if (made == 0) {
      const Tensor ids = Tensor::from(prompt, {1, count}).to(model.device());
      token = from_hidden(model.extend(ids, cache).view({count, width}).slice(count - 1, count), made);
      if (Decoder::supports(model, cache)) decoder = Decoder::make(model, cache);
    } else if (decoder && options.sampling.temperature == 0) {
      token = decoder->greedy(token);
    } else if (decoder) {
      token = sample_token(decoder->step(token), options.sampling, static_cast<uint64_t>(made));
    } else {
      const Tensor ids = Tensor::from(std::vector<int32_t>{token}, {1, 1}).to(model.device());
      token = from_hidden(model.extend(ids, cache).view({1, width}), made);
    }
    if (ends(token)) return made;
    if (!on_token(token)) return made + 1;
  }
  return options.tokens;
}

}  // namespace rw
