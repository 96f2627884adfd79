// The CPU's half of nn/decoder.h.
#pragma once
#include <memory>

#include "nn/decoder.h"

namespace rw {

/// Every family, f32, with the bf16 copy of the weights where the model has one. Errors: as Decoder.
std::unique_ptr<Decoder> make_cpu_decoder(const CausalLm& model, KvCache& cache);
/// The same for several texts. Errors: as BatchDecoder.
std::unique_ptr<BatchDecoder> make_cpu_batch_decoder(const CausalLm& model, std::span<KvCache> caches);

}  // namespace rw
