// Steps of `ropewalk bench window`: a row, what it costs, and what the plan expects.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "memory_options.h"
#include "nn/adamw.h"
#include "nn/memory_plan.h"

inline constexpr int64_t kWindowVocab = 32000;

struct WindowOptions {
  std::string shape = "X", only, json;
  std::vector<int64_t> targets = {8192, 16384, 32768, 65536, 131072}, windows = {4096, 8192, 16384, 32768, 65536};
  std::vector<int64_t> batches = {2, 1};
  double seconds = 1, memory_gib = 0;
  bool plain = false, recompute = false, keep_attention = false, recompute_inputs = false;
  std::string offload = "none";
  int64_t mlp_tile = 0;
  StateOptions state;

  bool offloads(const char* what) const { return offload == "all" || offload == what; }
  rw::ArenaMemory arena() const {
    rw::ArenaMemory memory = plain ? rw::ArenaMemory{} : rw::ArenaMemory::small_state();
    memory.host_state = offloads("optimizer");
    memory.split_master = memory.split_master && !memory.host_state;
    memory.moments = rw::moment_format(state.moments);
    return memory;
  }
};

struct WindowRow {
  const char* method;      // pose, e2 or full
  int64_t window, target;  // tokens of a sample; the context window it trains for
  int64_t batch;
  bool recompute;
  std::string name() const {
    std::string s = rw::cat(method, "-", target, "-b", batch);
    return recompute ? s + "-recompute" : s;
  }
};

struct Cost {
  double seconds;
  int64_t peak_bytes;
};

struct Outcome {
  std::optional<Cost> cost;
  std::string why;    // there is no cost
  bool full = false;  // because memory ran out
};

/// What the row's step takes, from formulas. None for blocks without a plan, nor on the CPU, which computes bf16 in f32
/// copies.
std::optional<rw::MemoryPlan> plan_of(const rw::ModelConfig& config, const WindowOptions& o, const WindowRow& row,
                                      rw::Device device);
/// A row that does not fit leaves the device free for the next one.
Outcome measure(rw::CausalLm& model, rw::AdamW& optimizer, const WindowOptions& o, const WindowRow& row);
