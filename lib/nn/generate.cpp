#include "nn/generate.h"

#include <algorithm>

#include "autograd/tape.h"

namespace rw {

int64_t generate(const Llama& model, const std::vector<int32_t>& prompt, const GenerateOptions& options,
                 const std::function<bool(int32_t)>& on_token) {
  check(!prompt.empty(), "generate", "the prompt is empty: start with BOS");
  check(options.tokens >= 0, "generate", "tokens must not be negative, got ", options.tokens);
  const NoGrad no_grad;
  const int64_t vocab = model.config().vocab_size, width = model.config().hidden_size;
  KvCache cache = model.make_cache(1, static_cast<int64_t>(prompt.size()) + options.tokens);
  std::vector<int32_t> next = prompt;
  std::vector<float> row(static_cast<size_t>(vocab));
  for (int64_t made = 0; made < options.tokens; ++made) {
    const int64_t count = static_cast<int64_t>(next.size());
    const Tensor ids = Tensor::from(next, {1, count}).to(model.device());
    const Tensor hidden = model.extend(ids, cache).view({count, width}).slice(count - 1, count);  // [1,C]
    const Tensor logits = model.logits(hidden).value().to(kCpu).to(DType::f32);                   // [1,V]
    std::copy_n(logits.data<float>(), vocab, row.begin());
    const int32_t token = sample_token(row, options.sampling, static_cast<uint64_t>(made));
    if (std::find(options.stop.begin(), options.stop.end(), token) != options.stop.end()) return made;
    if (!on_token(token)) return made + 1;
    next.assign(1, token);
  }
  return options.tokens;
}

}  // namespace rw
