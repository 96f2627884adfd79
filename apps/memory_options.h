// Options that say in what a training step keeps its state: `plan` and `bench window` have them.
#pragma once
#include <string>

#include "common.h"

struct StateOptions {
  std::string moments = "f32", lora_base = "native";
  int64_t lora_rank = 0;
};

/// --moments, --lora-rank and --lora-base.
inline void add_state_options(CLI::App& sub, StateOptions& o) {
  sub.add_option("--moments", o.moments, "how AdamW's moments are kept: f32, bf16 or int8")
      ->check(CLI::IsMember({"f32", "bf16", "int8"}))
      ->capture_default_str();
  sub.add_option("--lora-rank", o.lora_rank, "adapters of this rank on all linear layers; 0: the whole model")
      ->check(CLI::Range(0, 65536))
      ->capture_default_str();
  sub.add_option("--lora-base", o.lora_base, "how the frozen linear layers are kept: native, int8 or nf4")
      ->check(CLI::IsMember({"native", "int8", "nf4"}))
      ->capture_default_str();
}
