// Training checkpoints: a folder in HF layout plus what exact resume needs.
//
// Of a model with an adapter the adapter alone is kept (nn/io/adapter.h), in place of config.json and the weights.
//
//   OUT/checkpoint-000500/  config.json  model.safetensors  (tokenizer files)  optimizer.safetensors trainer_state.json
//
// A checkpoint is written under another name, fsynced and renamed; trainer_state.json lists every other file's size and
// checksum, and holds its own. A kill at any moment leaves the earlier checkpoints whole.
//
// Thread safety: none; one thread, and one process, per folder that is written.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "nn/adamw.h"
#include "nn/causal_lm.h"
#include "nn/parallel/data_parallel.h"

namespace rw {

struct TrainerState {
  int64_t step = 0;    // optimizer steps done
  int64_t tokens = 0;  // scored so far
  uint64_t seed = 0;   // all draws are keyed by (seed, step): this is the whole random state
  std::map<std::string, std::string> recipe;
  double seconds = 0;             // of training, over all processes
  int64_t peak_memory_bytes = 0;  // of the device, the largest of all processes
};

/// OUT/checkpoint-<step>, as save_checkpoint names it.
std::string checkpoint_folder(const std::string& out, int64_t step);

/// Writes OUT/checkpoint-<step> and removes all but the newest `keep` whole ones (0: keeps all); damaged ones do not
/// count, and what this program did not write is never touched. `extra` adds files (a tokenizer's) to the folder it is
/// given. `moments` replaces the optimizer's. Errors: weights that are not finite; a folder of that name that is not
/// ours; unwritable or full disk. Earlier checkpoints stay as they were.
std::string save_checkpoint(const std::string& out, const CausalLm& model, const AdamW& optimizer,
                            const TrainerState& state, int64_t keep,
                            const std::function<void(const std::string& folder)>& extra = {},
                            const WholeMoments& moments = {});

/// The newest checkpoint of a run whose files all match their checksums; nullopt if there is none.
std::optional<std::string> latest_checkpoint(const std::string& out);

/// The newest whole checkpoint, and those of ours that are newer and damaged.
struct CheckpointScan {
  std::optional<std::string> newest;
  std::vector<std::string> damaged;
};
CheckpointScan scan_checkpoints(const std::string& out);

/// Removes the checkpoints that this program wrote, and nothing else.
void remove_checkpoints(const std::string& out);

/// Errors: a weight that is not finite, named.
void check_finite(const ParamArena& arena, const char* op);

/// The folder of a model: `path` itself if it has a config.json, else its newest whole checkpoint. Errors: neither.
std::string model_folder(const std::string& path);

/// The folder of an adapter: `path` itself if it has an adapter_config.json, else its newest whole checkpoint. Errors:
/// neither.
std::string adapter_folder(const std::string& path);

/// Removes what a killed process left in `out`: our checkpoints and files under their temporary names, and nothing of
/// other programs. For the only process that writes there, before it starts.
void remove_unfinished(const std::string& out);

/// Restores master weights, moments (of the elements that the arena owns) and counters. Errors: files missing or not
/// fitting the model, a trainer state whose checksum is wrong.
TrainerState load_checkpoint(const std::string& folder, CausalLm& model, AdamW& optimizer);

/// 64-bit FNV-1a over a file's bytes, in 16 hex digits.
std::string file_checksum(const std::string& path);

}  // namespace rw
