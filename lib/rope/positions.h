// Where positions come from during training: which position each token of a sample claims to have, and which tokens of
// its document it shows.
//
// Every draw is keyed by (seed, step, sample id) alone, so a sample gets the same positions whatever batch or worker it
// lands in, and after a resume.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tensor/random.h"
#include "tensor/span.h"
#include "tensor/tensor.h"

namespace rw {

/// How to sample; which fields count depends on `kind`.
struct PositionConfig {
  std::string kind = "contiguous";  // contiguous | pose | randpos | e2 | clex

  // pose: a window of N chunks of a long document, each at a jump in position
  int64_t chunks = 2;
  std::string variant = "paper";  // "paper" | "code" (N = 2, first chunk at most half) | "v1" (u_0 random) | "cream"
  std::string content =
      "uniform";  // text offsets v_i: "uniform" | "zero" (contiguous text) | "same" (as the positions)
  // Text is taken from a stretch of this many windows (published code: the first 5), placed at random in the document;
  // 0: the whole document. The papers have ten times more documents than samples; books need the random place.
  int64_t content_windows = 5;
  bool random_start = true;  // false: the stretch begins with the document (published code)
  // cream: head, middle, tail. "relativity": equal thirds; "continuity": head and tail of `cream_edge` tokens; "both":
  // a coin
  std::string cream_mode = "both";
  int64_t cream_edge = 32;
  double cream_sigma = 0.25;  // of the middle chunk's start, as a share of its range

  // e2, clex: the scale factor
  int64_t max_factor = 16;  // E2's G_max (paper 20), CLEX's largest t
  bool per_step = false;    // one draw for all samples of a step (both papers' code) instead of one each
  int64_t sink_tokens = 4;  // e2: tokens whose offset stays 0
  bool augment_g = true;    // e2: draw g (false: g = max_factor), ablation of the paper
  bool augment_t = true;    // e2: draw the offset t (false: 0), ablation of the paper
  bool continuous = false;  // clex: t uniform on [1, max_factor] (paper) instead of integers (published code)
  // clex: "random": sorted distinct | "multiply": m * t (the paper's other option) | "skip": two chunks, as PoSE's
  std::string spread = "random";
};

/// What the sampler must know of a batch.
struct SampleSpec {
  uint64_t seed = 0;
  int64_t step = 0;
  std::vector<int64_t> sample_ids = {};  // [B], unique within a step over all workers
  int64_t window = 0;                    // T: tokens of a sample
  int64_t target = 0;                    // L': positions stay below it (pose, randpos)
  int64_t original_window = 0;           // L; 0: window
  std::vector<int64_t>
      document_lengths;  // [B] tokens of each sample's document; empty: each is exactly one window long
};

/// The batch's positions. `content` spans are relative to the start of the document, in order, together
/// min(T, document length) tokens: a shorter document is shown whole, and the loader pads. Positions are always [B, T].
struct PositionBatch {
  Tensor positions;                        // f32 [B, T], on the CPU
  std::vector<std::vector<Span>> content;  // [B][chunks]
  std::vector<double> t;                   // [B] window scale factor that the sample imitates
};

/// Thread safety: const and stateless; one object serves all threads.
class PositionSampler {
 public:
  explicit PositionSampler(PositionConfig config) : config_(std::move(config)) {}
  virtual ~PositionSampler() = default;
  virtual const char* name() const = 0;

  /// Errors: empty batch, window or target that the method cannot serve, document lengths that do not match.
  PositionBatch sample(const SampleSpec& spec) const;
  const PositionConfig& config() const { return config_; }

 protected:
  /// One sample being drawn. `random` belongs to the sample, `shared` starts equal for every sample of the step.
  struct Draw {
    Random random, shared;
    int64_t window, target, original_window, document;  // tokens
    float* positions;                                   // [window], to be filled
    std::vector<Span> content;                          // to be filled
    double t;                                           // to be set
  };
  virtual void draw(Draw& sample) const = 0;
  /// Errors a method has with a spec as a whole.
  virtual void check_spec(const SampleSpec&) const {}

 private:
  PositionConfig config_;
};

/// Errors: unknown kind, variant or content, values out of range (named).
std::unique_ptr<PositionSampler> make_position_sampler(const PositionConfig& config);

}  // namespace rw
