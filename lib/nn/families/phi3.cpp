// Phi-3: LLaMA's block with q, k and v in one tensor, gate and up in another, and a window of attention in every layer
// where the config gives one. transformers reads plain RoPE and LongRoPE in it; other recipes are ours alone.
#include "nn/families/families.h"

namespace rw {
namespace {

void read(const ConfigReader& in, ModelConfig& c) { read_windowed_llama(in, c, {.eps = 1e-5}, std::nullopt, 4096); }

}  // namespace

const FamilyRecord kPhi3{.family = Family::phi3,
                         .model_type = "phi3",
                         .architecture = "Phi3ForCausalLM",
                         .names = {.qkv = {"self_attn.qkv_proj"}, .gate_up = {"mlp.gate_up_proj"}},
                         .read = read,
                         .write = write_windowed_llama};

}  // namespace rw
