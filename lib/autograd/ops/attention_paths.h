// Which implementations of GPU attention may be used: all by default; tests and benchmarks hold back the faster ones.
#pragma once

namespace rw::cuda::attn {

enum class Path {
  general,  // f32 FMA: f32 and bf16, any head dim up to 256
  mma,      // mma.sync tensor cores: bf16, head dim 16, 32, 48, 64, 80, 96 or 128
  sm90,     // wgmma and TMA, on Hopper: bf16, head dim a multiple of 8 up to 128 except 16, 32 and 80
  split_kv,  // forward of few queries over many keys, the keys split over blocks: f32 and bf16
};
/// The fastest path that may be taken from now on (split_kv at first). Arguments that a path cannot take go to the next
/// slower one.
void set_fastest_path(Path path);

/// Whether Hopper's backward for head dims up to 64 makes one pass (dQ with dK and dV) or two: by length and heads at
/// first.
enum class Fusion { automatic, never, always };
void set_backward_fusion(Fusion fusion);

}  // namespace rw::cuda::attn
