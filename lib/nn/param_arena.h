// All parameters of a model in one flat allocation: master values, gradients, AdamW's two moments and the bf16 copy.
//
//   ParamArena arena;
//   const size_t w = arena.add({"lm_head.weight", {vocab, hidden}, normal_init(0.02)});
//   arena.allocate(DType::f32, kCpu, /*seed=*/1);
//   Var weight = arena[w];
//
// With ArenaMemory::small_state() it takes 14 bytes for each parameter instead of 18. A parameter that is not trained
// takes what the model computes with and nothing else (2 bytes in bf16), or about half a byte as blocks of 4 bits.
//
// Why flat: one kernel updates everything, one reduction is the gradient norm, one transfer is an all-reduce.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "autograd/parameter.h"
#include "nn/moment_codes.h"
#include "tensor/block_quantize.h"
#include "tensor/safetensors.h"

namespace rw {

/// Fills with N(0, std^2).
std::function<void(const Tensor&, Random&)> normal_init(double std);
/// Fills with one value.
std::function<void(const Tensor&, Random&)> constant_init(double value);

/// What an arena keeps of a parameter beside AdamW's two f32 moments. The usual form has an f32 master, an f32 gradient
/// and, where the model computes in bf16, the bf16 copy: 18 bytes with the moments. Both parts need bf16 compute.
struct ArenaMemory {
  /// Master and copy in 4 bytes instead of 6 (nn/split_master.h). Masters stay exact; values halfway between two bf16
  /// are rounded away from zero in the copy, not to even.
  bool split_master = false;
  /// Gradients in 2 bytes instead of 4. Each product is summed in f32 and rounded once when it is added to the buffer.
  /// So every further micro-batch of a step costs another rounding (a relative error of up to 2^-9 each).
  bool bf16_gradients = false;
  /// Masters and moments in host memory (pinned, for a GPU), where AdamW then runs, and a copy of the gradients there
  /// (nn/host_state.h): the device keeps what it computes with and its gradients. In any dtype; not with split_master.
  bool host_state = false;
  /// Moments in fewer bits (nn/moment_codes.h). Not for f64.
  MomentFormat moments = MomentFormat::f32;

  /// The first two: 14 bytes for each parameter.
  static constexpr ArenaMemory small_state() { return {true, true}; }
};

/// Thread safety: none.
class ParamArena {
 public:
  struct Segment {
    ParameterSpec spec;
    int64_t offset = 0;  // elements, in the flat tensors; of a frozen one in frozen(); rows in its blocks
    int64_t numel = 0;
    bool reads_master = false;               // the model computes with the master values, also beside a bf16 copy
    bool trainable = true;                   // false: it has no gradient, and the optimizer leaves it as it is
    bool joined = false;                     // lies directly behind the one before
    bool frozen = false;                     // lies in frozen() or in blocks: no master, no gradient and no moments
    std::optional<BlockFormat> format = {};  // kept as blocks
    size_t blocks = 0;                       // which, if so
  };

  /// Declares a parameter. `joined`: it lies directly behind the one before, so that stacked() may span both.
  size_t add(ParameterSpec spec, bool joined = false);
  /// The model computes with the master values of parameter i, also where the others have a bf16 copy.
  void set_reads_master(size_t i) { segments_.at(i).reads_master = true; }

  /// Whether parameter i is trained (all are, at first). A parameter that is not counts for neither the gradient's norm
  /// nor weight decay, and takes memory for the values alone that the model computes with. After allocate() the values
  /// are moved once, in enable_grad(). Errors: gradients are enabled already.
  void set_trainable(size_t i, bool trainable);
  bool trainable(size_t i) const { return segments_.at(i).trainable; }
  /// Parameter i, a matrix, is not trained and kept as blocks of few bits (tensor/block_quantize.h): read it by
  /// stacked_blocks(). Errors: after allocate().
  void set_blocks(size_t i, BlockFormat format);

  /// Allocates and initialises. `compute` is what Vars hold: f32 or f64 (the master itself) or bf16 (a copy beside an
  /// f32 master). Values depend on (seed, index of the parameter) alone; without a seed they are zero (weights to be
  /// loaded). Errors: `memory` asks for a saving that f32 or f64 compute cannot have; split masters, or masters on the
  /// host, of a parameter that the model reads in f32.
  void allocate(DType compute, Device device, std::optional<uint64_t> seed, ArenaMemory memory = {});
  /// Elements [begin, end) are those that this process's optimizer updates: m and v then cover only them. Without it,
  /// all. Errors: gradients are enabled already; a range outside the arena; a part of one with split masters.
  void own(int64_t begin, int64_t end);
  int64_t own_begin() const { return own_begin_; }
  int64_t own_end() const { return own_end_ < 0 ? total_ : own_end_; }
  bool owns_all() const { return own_begin() == 0 && own_end() == total_; }

  /// What set_trainable() said after allocate() takes effect: values go to where they lie now. Whoever holds Vars gets
  /// them again. enable_grad() calls it.
  void settle();
  /// Gives every Var a gradient. Call before the first recorded forward.
  void enable_grad();

  /// Parameter i as the model computes with it, with its gradient in grad() once enabled.
  Var operator[](size_t i) const { return vars_.at(i); }
  /// Parameters [first, first + count), joined, as one matrix stacked along dimension 0. Call after allocate.
  Var stacked(size_t first, size_t count) const;

  /// The same of parameters that are kept as blocks.
  const BlockMatrix& stacked_blocks(size_t first, size_t count) const;

  /// Sets parameter i to what it starts with for that seed, as allocate() with a seed does. refresh() comes next.
  void initialize(size_t i, uint64_t seed) const;

  /// Keeps a bf16 copy beside f32 values on the CPU. Products of one row read the copy: half the memory traffic of
  /// decoding. Without `lossy` it is made only if every value is a bf16 number, so that no result changes. Returns
  /// whether there is a copy. Call stacked() and operator[] again afterwards. Later changes of the weights do not reach
  /// the copy.
  bool make_bf16_copy(bool lossy);

  size_t size() const { return segments_.size(); }
  const std::vector<Segment>& segments() const { return segments_; }
  /// Number of parameters in the elements sense, padding left out.
  int64_t parameter_count() const;
  /// Those that are trained.
  int64_t trained_count() const;
  /// Elements of the flat tensors: of what is trained, padding included.
  int64_t numel() const { return total_; }
  /// Where the flat elements of parameters [i, size()) begin; numel() if none of them is in the flat tensors.
  int64_t offset_from(size_t i) const;
  DType master_dtype() const { return compute_dtype_ == DType::f64 ? DType::f64 : DType::f32; }
  Device device() const { return device_; }
  const ArenaMemory& memory() const { return memory_; }
  /// Flat tensors of what is trained, padding included. grad, m and v are undefined until enable_grad(); m and v have
  /// the owned elements. With ArenaMemory::host_state master, m and v are on the CPU. master is undefined where masters
  /// are split: read values_of().
  const Tensor& master() const { return master_; }
  const Tensor& grad() const { return grad_; }
  const Tensor& m() const { return m_; }
  const Tensor& v() const { return v_; }
  /// With MomentFormat::int8 m and v are bytes in i32 words, and these f32 [(N + 63) / 64]; otherwise undefined.
  const Tensor& m_scales() const { return m_scales_; }
  const Tensor& v_scales() const { return v_scales_; }
  /// With ArenaMemory::host_state: where the gradients go on the host, as grad().
  const Tensor& host_grad() const { return host_grad_; }
  const Tensor& compute() const { return compute_; }
  /// The lower half of split masters, whose upper half is compute(): i32 [(N + 1) / 2], an int16 for each element.
  const Tensor& low() const { return low_; }
  /// What is not trained, in the dtype that the model computes in; undefined if there is nothing.
  const Tensor& frozen() const { return frozen_; }
  /// The master values of parameter i, as a view with its shape. Errors: masters are split; a frozen one without.
  Tensor master_of(size_t i) const;
  /// The values of parameter i with its shape, to be read. It is a view of the master values, or of a frozen one's
  /// values in the model's dtype. Where masters are split or values are blocks, it is a copy on the CPU.
  Tensor values_of(size_t i) const;
  /// Sets them from values of any dtype and device, split masters' copy included; otherwise refresh() comes next.
  /// Errors: another shape.
  void set_values(size_t i, const Tensor& values) const;
  /// Errors: there is none of that name.
  size_t index_of(const std::string& name) const;

  void zero_grad() const;
  /// Copies master to the bf16 copy, if there is one apart. After loading and after an optimizer step.
  void refresh() const;
  /// The master values and their copy were changed by somebody else (an optimizer kernel that writes both).
  void touch() const { ++version_; }
  /// A number that changes with every refresh(): caches of derived values compare it.
  int64_t version() const { return version_; }

 private:
  Var make_var(const Segment& first, int64_t numel, const Shape& shape) const;
  void make_vars();
  void split(const Tensor& values, int64_t offset) const;
  void lay_out();
  void allocate_storage(const Tensor& host);
  void allocate_moments();

  std::vector<Segment> segments_;
  ArenaMemory memory_;
  DType compute_dtype_ = DType::f32;
  Device device_ = kCpu;
  bool allocated_ = false;
  int64_t total_ = 0, frozen_total_ = 0, own_begin_ = 0, own_end_ = -1;
  Tensor master_, low_, grad_, m_, v_, compute_, bf16_copy_, frozen_;
  Tensor m_scales_, v_scales_, host_grad_;
  std::vector<BlockMatrix> blocks_;
  std::vector<Var> vars_;
  mutable int64_t version_ = 0;
};

}  // namespace rw
