// What is trained beside a frozen model: low-rank adapters (LoRA, Hu et al. 2021), and embeddings and norms with them
// (LongLoRA, Chen et al. 2023, section 3.3).
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "tensor/block_quantize.h"

namespace rw {

/// y = W x + scale() b a x, W frozen.
struct AdapterDescription {
  int64_t rank = 8;              // r: a is [r, K], b is [N, r]
  double alpha = 16;             // what scale() divides by the rank
  double dropout = 0;            // of what a reads, in training
  bool rank_stabilized = false;  // scale alpha / sqrt(r) (rsLoRA, Kalajdzievski 2023) in place of alpha / r
  /// Names of linear layers or the ends of names ("q_proj", "self_attn.q_proj"); {"all"}: every one of the blocks.
  std::vector<std::string> targets = {"all"};
  bool embeddings = false, norms = false;       // trained whole, beside the adapters
  std::optional<BlockFormat> base_blocks = {};  // the blocks' linear layers in few bits (QLoRA)

  double scale() const;
  /// Whether the linear layer of that name gets an adapter.
  bool covers(const std::string& linear) const;
};

/// Whether a parameter is one of an adapter's two matrices, by its name.
bool is_adapter_parameter(const std::string& name);

}  // namespace rw
