// Where positions come from during training: which position each token of a sample claims to have, and which tokens of
// its document it shows.
//
// Every draw is keyed by (seed, step, sample id) alone, so a sample gets the same positions whatever batch or worker it
// lands in, and after a resume.
//
//   auto sampler = make_position_sampler(PosePositions{.chunks = 3});   // samplers.h
//   PositionBatch batch = sampler->sample({.seed = 1, .sample_ids = {0, 1}, .window = 2048, .target = 8192});
//
// How a sampler is registered: its record is a struct that satisfies PositionRecord, in samplers/<name>.{h,cpp}, and
// position_samplers() in samplers.cpp lists it for those who know it by name only. docs/adding-a-method.md shows one.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "rope/record.h"
#include "tensor/random.h"
#include "tensor/span.h"
#include "tensor/tensor.h"

namespace rw {

/// What the sampler must know of a batch.
struct SampleSpec {
  uint64_t seed = 0;
  int64_t step = 0;
  std::vector<int64_t> sample_ids = {};  // [B], unique within a step over all workers
  int64_t window = 0;                    // T: tokens of a sample
  int64_t target = 0;                    // L': positions stay below it (pose, randpos)
  int64_t original_window = 0;           // L; 0: window
  /// [B] tokens of each sample's document; empty: each is exactly one window long
  std::vector<int64_t> document_lengths = {};
};

/// The batch's positions. `content` spans are relative to the start of the document, in order, together
/// min(T, document length) tokens: a shorter document is shown whole, and the loader pads. Positions are always [B, T].
struct PositionBatch {
  Tensor positions;                        // f32 [B, T], on the CPU
  std::vector<std::vector<Span>> content;  // [B][chunks]
  std::vector<double> t;                   // [B] window scale factor that the sample imitates
};

/// One sample being drawn. `random` belongs to the sample; `shared` starts equal for every sample of the step.
struct Draw {
  Random random, shared;
  int64_t window, target, original_window, document;  // tokens
  float* positions;                                   // [window], to be filled
  std::vector<Span> content;                          // to be filled
  double t;                                           // to be set

  /// One run of text, as long as the window and the document allow, at a uniform place in the document.
  void take_contiguous_text();
  /// Positions 0 .. T-1 and one run of text; t is the scale factor of a window of `reach` tokens, at least 1.
  void take_ordinary(int64_t reach);
};

/// What a sampler's record has, beyond a MethodRecord.
///   check()          relations between its fields; their ranges are checked already
///   check_spec(spec) windows and targets that the method cannot serve
///   draw(sample)     fills in one sample
/// It may also have
///   kScaling         the RoPE kind that goes with it when none is named; "default" without it
///   kShort = true    it trains with windows shorter than the target
///   kSeams = true    its text may be several spans of the document, with seams between them
template <class R>
concept PositionRecord = MethodRecord<R> && requires(const R& r, const SampleSpec& spec, Draw& sample) {
  r.check();
  r.check_spec(spec);
  r.draw(sample);
};

/// One sampler with its settings, by value. Any PositionRecord converts to it.
class PositionConfig : public AnyRecord {
 public:
  /// Contiguous positions.
  PositionConfig();
  template <PositionRecord R>
  PositionConfig(R record) : AnyRecord(std::make_unique<Model<R>>(std::move(record))) {}

  /// Errors: a field out of its range, fields that do not fit together.
  void check() const;
  void check_spec(const SampleSpec& spec) const { held().check_spec(spec); }
  void draw(Draw& sample) const { held().draw(sample); }
  /// The name of the RoPE kind that goes with the sampler when none is named.
  std::string scaling() const { return std::string(held().scaling()); }
  /// True if it imitates a long window with samples of a shorter one.
  bool trains_short() const { return held().trains_short(); }
  /// True if a sample's text may be several spans of its document.
  bool has_seams() const { return held().has_seams(); }

 private:
  struct Interface : Held {
    virtual void check() const = 0;
    virtual void check_spec(const SampleSpec& spec) const = 0;
    virtual void draw(Draw& sample) const = 0;
    virtual std::string_view scaling() const = 0;
    virtual bool trains_short() const = 0;
    virtual bool has_seams() const = 0;
  };
  template <PositionRecord R>
  struct Model final : Holder<R, Interface, Model<R>> {
    using Holder<R, Interface, Model<R>>::Holder;
    void check() const override { this->record.check(); }
    void check_spec(const SampleSpec& spec) const override { this->record.check_spec(spec); }
    void draw(Draw& sample) const override { this->record.draw(sample); }
    std::string_view scaling() const override {
      if constexpr (requires { R::kScaling; }) return R::kScaling;
      return "default";
    }
    bool trains_short() const override {
      if constexpr (requires { R::kShort; }) return R::kShort;
      return false;
    }
    bool has_seams() const override {
      if constexpr (requires { R::kSeams; }) return R::kSeams;
      return false;
    }
  };
  const Interface& held() const { return static_cast<const Interface&>(*held_); }
};

/// The samplers that are known by name, each with its defaults.
const std::vector<PositionConfig>& position_samplers();
/// The sampler of that name with its defaults. Errors: unknown name; the message lists the known ones.
PositionConfig position_sampler(std::string_view name);

/// Draws batches. Thread safety: const and stateless; one object serves all threads.
class PositionSampler {
 public:
  /// Errors: a record with a field out of its range.
  explicit PositionSampler(PositionConfig config);

  std::string name() const { return config_.name(); }
  const PositionConfig& config() const { return config_; }

  /// Errors: empty batch, window or target that the method cannot serve, document lengths that do not match.
  PositionBatch sample(const SampleSpec& spec) const;

 private:
  PositionConfig config_;
};

/// Errors: values out of range (named).
std::unique_ptr<PositionSampler> make_position_sampler(const PositionConfig& config);

/// `count` distinct integers of [0, range), sorted. Needs 0 <= count <= range.
std::vector<int64_t> sorted_subset(Random& random, int64_t count, int64_t range);

}  // namespace rw
