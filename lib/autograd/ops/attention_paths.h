// Internal: which implementations of GPU attention a call may use: all by default. Tests
// and benchmarks hold back the faster ones.
#pragma once

namespace rw::cuda::attn {

enum class Path {
  general,   // f32 FMA: f32 and bf16, any head dim up to 256
  mma,       // mma.sync tensor cores: bf16, head dim 16, 32, 48, 64, 80, 96 or 128
  sm90,      // wgmma and TMA, on Hopper: bf16, head dim a multiple of 8 up to 128 except 16, 32 and 80
  split_kv,  // forward of few queries over many keys, the keys split over blocks: f32 and bf16
};

/// Whether Hopper's backward makes one pass (dQ with dK and dV) or two; automatic decides by
/// length.
enum class Fusion { automatic, never, always };

struct PathOptions {
  Path fastest = Path::split_kv;  // arguments that a path cannot take go to the next slower one
  Fusion fusion = Fusion::automatic;
  bool fast_atomics = false;  // backward may add dQ up in any order (Tape::set_fast_atomics)
};

}  // namespace rw::cuda::attn
