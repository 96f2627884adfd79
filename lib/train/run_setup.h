// Internal: what a run needs before its first step, read and checked. Nothing is written.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/corpus.h"
#include "nn/causal_lm.h"
#include "nn/memory_plan.h"
#include "train/loader.h"
#include "train/run_folder.h"
#include "train/trainer.h"
#include "train/validation.h"

namespace rw {

struct RunSetup {
  std::unique_ptr<Tokenizer> tokenizer;
  RunPlan plan;
  std::optional<int32_t> bos;
  DType dtype = DType::f32;
  DType save_dtype = DType::f32;  // of the weights that the run leaves: --save-dtype, or that of the base's files
  std::string generation;         // the base's generation_config.json
  TokenCorpus corpus;
  std::unique_ptr<Loader> loader;
  std::optional<Validation> validation;  // on rank 0
  std::unique_ptr<CausalLm> model;
  BatchShare share;
  MemoryChoice memory;  // --recompute, --mlp-tile and --offload, or what --memory chose
  Identity identity;
};

/// The folders that the run reads and must not write.
std::vector<std::string> sources_of(const Recipe& recipe);

/// Errors: Trainer's.
RunSetup set_up_run(const Recipe& recipe, const TrainPlace& place, const TrainCallbacks& callbacks);

}  // namespace rw
