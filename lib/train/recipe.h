// What a run is: the settings of one training run, as plain data.
//
// recipe_fields.h describes each in one table; a recipe.toml states them; plan.h says what they come to for a model.
#pragma once
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "nn/adamw.h"
#include "nn/schedule.h"
#include "train/extend.h"

namespace rw {

/// What a run is, as plain data: all that decides its result, and how it is kept.
struct Recipe {
  std::vector<std::string> data;  // files or folders, or one token file; empty: the built-in corpus
  std::string out, from, tokenizer;
  bool resume = false;     // go on with the same run in `out`
  bool overwrite = false;  // replace what is there of a run or a model

  // the model, when it is new
  int64_t hidden = 256, layers = 4, heads = 4, kv_heads = 0, ffn = 0, head_dim = 0;
  double theta = 10000, norm_eps = 1e-5, init_std = 0;  // init_std 0: 1 / sqrt(hidden)
  bool untied = false;
  std::string family = "llama";  // model_type of the new model
  int64_t nope_interval = 0;     // smollm3: every so many-th layer has no RoPE; 0: the family's own

  // the method
  std::string method = "plain";  // plain, or one of method_names() (extend.h)
  std::string scaling;           // "": the method's own; else a rope_type, or a JSON object for all its fields
  double factor = 0;             // 0: target / original window
  int64_t window = 0;            // tokens of a sample; 0: the model's window (full, pi: the target)
  int64_t target = 0;            // window after extension
  /// Fields of the method's sampler and scaling, by key, as text: {"chunks", "3"} (rope/method_options.h).
  std::map<std::string, std::string> method_options = {};
  /// A method that those cannot state; set_method() (plan.h) sets it. A recipe.toml cannot hold it.
  std::optional<Method> method_value = {};

  // key-retrieval sequences in the text (data/retrieval_mix.h)
  double retrieval_share = 0;
  std::string retrieval_template = "short";  // default, short, or a JSON file
  double retrieval_weight = 1;               // of an answer token's loss

  // an adapter in place of full training (nn/adapter.h)
  int64_t lora_rank = 0;  // 0: the whole model is trained
  double lora_alpha = 16, lora_dropout = 0;
  std::string lora_targets = "all";  // names of linear layers with commas between them
  bool lora_rslora = false, lora_embeddings = false, lora_norms = false;
  std::string lora_base = "native";  // or int8, nf4: how the frozen linear layers are kept
  bool lora_double_scales = false;
  std::string lora_from;  // adapter to begin with

  // the run
  int64_t steps = 1000, batch = 16, accumulate = 1;
  Schedule schedule;
  AdamWConfig adamw{.weight_decay = 0.1};
  double clip = 1.0;
  uint64_t seed = 1;
  std::string dtype = "auto";     // f32, bf16; auto: bf16 on a GPU
  std::string matmul = "native";  // or fp8, fp8-all: the blocks' linear layers in 8-bit products
  bool fp8_recompute = false;     // fp8: backward makes inputs again instead of keeping 8-bit copies
  int64_t mlp_tile = 0;           // tokens of the feed-forward layers at a time; 0: all
  std::string memory;             // "24G": what the device's memory may come to; "": no limit
  bool recompute = false, keep_attention = false, recompute_inputs = false, mask_seams = false, no_bos = false,
       packed = false;
  bool small_state = false;      // bf16: split masters and bf16 gradients, 14 bytes for each parameter instead of 18
  std::string offload = "none";  // optimizer, activations, all: what lies in host memory
  std::string moments = "f32";   // bf16, int8: how AdamW's moments are kept
  bool eager = false;            // GPU: no CUDA graph
  bool fast_atomics = false;     // GPU: gradients in any order
  int64_t save_every = 0;        // steps between checkpoints; 0: by time alone
  double save_minutes = 10;      // minutes between checkpoints; 0: by steps alone
  int64_t keep = 2, log_every = 1;
  bool csv = false;                 // metrics.csv beside metrics.jsonl
  std::string save_dtype = "auto";  // of the model's weights on disk: f32, bf16; auto: the base's

  // loss on text that is not trained on, into validation.jsonl
  std::vector<std::string> validation;  // files or folders, or one token file; empty: none
  int64_t validate_every = 0;           // steps; 0: at the end only
  int64_t validation_tokens = 65536;    // in all: so many whole windows, and at least one

  std::set<std::string> given = {};  // options that were named, also with their defaults
};

}  // namespace rw
