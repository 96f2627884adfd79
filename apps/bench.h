// What `ropewalk bench cpu` and `bench cuda` share: options, and how a row is timed.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "common.h"
#include "nn/parallel/communicator.h"

struct BenchOptions {
  std::vector<int> threads;
  std::string json, only;
  double seconds = 3;
  bool eager = false, fast_atomics = false, fp8 = false, fp8_recompute = false;
};

struct BenchTiming {
  double median, fastest, slowest;  // seconds
};

/// Runs f for about `budget` seconds, at least five times after one warm-up. With `comm` as often as rank 0 says.
BenchTiming measure(double budget, const std::function<void()>& f, rw::Communicator* comm = nullptr);

inline constexpr int64_t kVocab = 32000;  // of every model here: llama2.c's

/// `ropewalk bench cpu`.
void bench_cpu(const BenchOptions& options, const Globals& globals);
