// What one training step takes on its device, from formulas: every term by name, and the moment at which they are most.
//
//   MemoryPlan plan = plan_memory({.model = config, .compute = DType::bf16, .cuda = true, .length = 65536});
//   plan.bytes                       the peak
//   for (const MemoryTerm& t : plan.terms) ...   what is alive then
//
// docs/memory.md derives the formulas and holds them against the allocator.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "nn/config.h"
#include "nn/param_arena.h"

namespace rw {

/// What is given up for memory.
struct MemoryChoice {
  bool recompute = false;            // each block runs again in backward (CausalLm::set_recompute)
  int64_t mlp_tile = 0;              // tokens of the feed-forward layers at a time (CausalLm::set_mlp_tile); 0: all
  bool offload_activations = false;  // with recompute: the blocks' inputs lie in host memory (CausalLm::set_recompute)
  bool offload_optimizer = false;    // masters and moments lie in host memory (ArenaMemory::host_state)
  bool keep_attention = false;       // with recompute: attention's outputs are kept (CausalLm::set_recompute)
  bool recompute_inputs = false;     // of linear layers: outputs of RMSNorm and activations (LinearOptions)
};

/// One forward and backward pass, as TrainStep makes it.
struct MemoryTask {
  ModelConfig model;  // with its adapter, if there is one
  DType compute = DType::f32;
  bool cuda = false;
  int64_t batch = 1, length = 0;  // of this process
  ArenaMemory arena = {};         // host_state is what `choice` says
  MemoryChoice choice = {};
};

struct MemoryTerm {
  std::string name, formula;
  int64_t bytes = 0;
};

struct MemoryPlan {
  std::string
      moment;  // when memory is highest: "in the loss", "in the backward pass of the last block" or "of the last attention"
  std::vector<MemoryTerm> terms;       // what is alive then
  int64_t bytes = 0;                   // their sum
  std::vector<MemoryTerm> host_terms;  // what a GPU's step keeps in host memory; on the CPU these are among `terms`
  int64_t host_bytes = 0;              // their sum
};

/// Whether its blocks are planned.
bool memory_is_planned(const ModelConfig& config);

/// Errors: no tokens; blocks that are not planned (norms after the sublayers, attention and MLP side by side).
MemoryPlan plan_memory(const MemoryTask& task);

/// The first choice whose plan stays within `limit` bytes, of
///   1. nothing given up                        5. blocks recomputed, without and with tiles
///   2. inputs of linear layers recomputed      6. as 4, the blocks' inputs on the host (a GPU alone, as 7 and 8)
///   3. MLPs in tiles                           7. as 5, the blocks' inputs on the host
///   4. blocks recomputed except attention,     8. 1 to 7 with the optimizer on the host, too
///      without and with tiles
/// Tiles below 1024 tokens come after the rest of 1 to 5, and after the rest of 6 and 7. `native` false: nothing that
/// 8-bit products do not go with, which are 2 and tiles; `host` false: nothing more on the host. What `task.choice` has
/// there stays there. Errors: none does; the message says what the least takes and what to change.
MemoryChoice choose_memory(MemoryTask task, int64_t limit, bool native = true, bool host = true);

/// Moments by the name that options have for them: f32, bf16 or int8. Errors: another name.
MomentFormat moment_format(const std::string& name);
/// A frozen base by the name that options have for it: native (no blocks), int8 or nf4. Errors: another name.
std::optional<BlockFormat> base_format(const std::string& name, bool double_scales = false);

/// "24G", "900M", "1.5GiB" or bytes, in powers of 1024. Errors: anything else.
int64_t memory_size(const std::string& text);
/// 1.5 GiB, 20 MiB.
std::string memory_text(int64_t bytes);

}  // namespace rw
