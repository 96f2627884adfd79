// The flat arena: where parameters lie in it, and its split form.
#include "nn/param_arena.h"

#include <algorithm>
#include <cstring>

#include "nn/split_master.h"
#include "tensor/cuda.h"
#include "tensor/host_copy.h"
#include "tensor/parallel_for.h"

namespace rw {
namespace {
constexpr int64_t kAlign = 64;                     // elements: keeps 16-byte accesses aligned in every dtype
constexpr int64_t kPart = int64_t{1} << 24;        // elements that are split or joined at a time
constexpr int64_t kInitAtOnce = int64_t{1} << 29;  // elements that are drawn before they are set

/// What parameter i starts with: f32, on the CPU.
Tensor first_values(const ParamArena::Segment& s, size_t i, uint64_t seed) {
  const Tensor values = Tensor::zeros(s.spec.shape);
  Random random(seed, Purpose::init, 0, static_cast<uint64_t>(i));
  if (s.spec.init) s.spec.init(values, random);
  return values;
}

/// What is frozen, several parameters at a time.
void initialize_frozen(const ParamArena& arena, uint64_t seed) {
  const std::vector<ParamArena::Segment>& segments = arena.segments();
  for (size_t begin = 0, end; begin < segments.size(); begin = end) {
    int64_t elements = 0;
    for (end = begin; end < segments.size() && elements <= kInitAtOnce; ++end)
      elements += segments[end].frozen ? segments[end].numel : 0;
    std::vector<Tensor> values(end - begin);
    parallel_items(static_cast<int64_t>(values.size()), [&](int64_t k) {
      const size_t i = begin + static_cast<size_t>(k);
      if (segments[i].frozen) values[static_cast<size_t>(k)] = first_values(segments[i], i, seed);
    });
    for (size_t i = begin; i < end; ++i)
      if (segments[i].frozen) arena.set_values(i, values[i - begin]);
  }
}
}  // namespace

std::function<void(const Tensor&, Random&)> normal_init(double std) {
  return [std](const Tensor& t, Random& random) {
    for (int64_t i = 0; i < t.numel(); ++i) t.data<float>()[i] = static_cast<float>(std * random.normal());
  };
}

std::function<void(const Tensor&, Random&)> constant_init(double value) {
  return [value](const Tensor& t, Random&) { t.fill(value); };
}

size_t ParamArena::add(ParameterSpec spec, bool joined) {
  check(!allocated_, "param_arena", "add('", spec.name, "') after allocate()");
  const int64_t numel = spec.shape.numel();
  if (!joined) total_ = (total_ + kAlign - 1) / kAlign * kAlign;
  segments_.push_back({.spec = std::move(spec), .offset = total_, .numel = numel, .joined = joined});
  total_ += numel;
  return segments_.size() - 1;
}

void ParamArena::set_blocks(size_t i, BlockFormat format) {
  Segment& s = segments_.at(i);
  check(!allocated_, "param_arena", "set_blocks('", s.spec.name, "') after allocate()");
  check(s.spec.shape.rank() == 2, "param_arena", "blocks of '", s.spec.name, "', which is not a matrix");
  s.trainable = false;
  s.format = format;
}

/// Where each parameter lies: what is trained in the flat tensors, what is not in frozen() or in blocks.
void ParamArena::lay_out() {
  int64_t ends[2] = {0, 0};
  blocks_.clear();
  for (Segment& s : segments_) {
    s.frozen = !s.trainable && !s.reads_master;
    if (s.format) {
      const int64_t rows = s.spec.shape[0];
      if (!s.joined) blocks_.push_back({.format = *s.format, .rows = 0, .columns = s.spec.shape[1]});
      s.blocks = blocks_.size() - 1;
      s.offset = blocks_.back().rows;
      blocks_.back().rows += rows;
      continue;
    }
    int64_t& end = ends[s.frozen ? 1 : 0];
    if (!s.joined) end = (end + kAlign - 1) / kAlign * kAlign;
    s.offset = end;
    end += s.numel;
  }
  total_ = ends[0];
  frozen_total_ = ends[1];
}

/// `host`: f32 [numel()], what the flat tensors begin with. What is frozen begins with zeros.
void ParamArena::allocate_storage(const Tensor& host) {
  if (memory_.split_master) {
    compute_ = Tensor::empty({total_}, DType::bf16, device_);
    low_ = Tensor::zeros({(total_ + 1) / 2}, DType::i32, device_);
    split(host, 0);
  } else if (memory_.host_state) {
    master_ = host_tensor(host.shape(), master_dtype(), device_);
    master_.copy_from(host);
    compute_ = Tensor::empty({total_}, compute_dtype_, device_);
  } else {
    master_ = host.to(master_dtype()).to(device_);
    compute_ = compute_dtype_ == DType::bf16 ? Tensor::empty({total_}, DType::bf16, device_) : master_;
  }
  frozen_ = frozen_total_ > 0 ? Tensor::zeros({frozen_total_}, compute_dtype_, device_) : Tensor();
  for (BlockMatrix& b : blocks_) b.allocate(device_);
}

void ParamArena::allocate(DType compute, Device device, std::optional<uint64_t> seed, ArenaMemory memory) {
  check(!allocated_, "param_arena", "allocate() called twice");
  check(compute == DType::bf16 || !(memory.split_master || memory.bf16_gradients), "param_arena",
        "split masters and bf16 gradients are for a model that computes in bf16, got ", compute);
  check(!(memory.split_master && memory.host_state), "param_arena", "split masters have no place on the host");
  check(compute != DType::f64 || memory.moments == MomentFormat::f32, "param_arena",
        "moments in few bits are for a model that computes in f32 or bf16");
  for (const Segment& s : segments_) {
    check(!(memory.split_master && s.reads_master), "param_arena", "'", s.spec.name,
          "' is computed with in f32: its master cannot be split");
    check(!(memory.host_state && s.reads_master), "param_arena", "'", s.spec.name,
          "' is computed with in f32: its master cannot be on the host");
  }
  memory_ = memory;
  compute_dtype_ = compute;
  device_ = device;
  allocated_ = true;
  const MemoryTag tag("parameters");
  lay_out();
  const Tensor host = Tensor::zeros({total_}, DType::f32);
  parallel_items(static_cast<int64_t>(segments_.size()), [&](int64_t i) {
    const Segment& s = segments_[static_cast<size_t>(i)];
    if (!seed || !s.spec.init || s.frozen) return;
    Random random(*seed, Purpose::init, 0, static_cast<uint64_t>(i));
    s.spec.init(host.slice(s.offset, s.offset + s.numel).view(s.spec.shape), random);
  });
  allocate_storage(host);
  if (seed) initialize_frozen(*this, *seed);
  refresh();
  make_vars();
}

void ParamArena::initialize(size_t i, uint64_t seed) const { set_values(i, first_values(segments_.at(i), i, seed)); }

void ParamArena::settle() {
  if (std::none_of(segments_.begin(), segments_.end(),
                   [](const Segment& s) { return s.frozen != (!s.trainable && !s.reads_master); }))
    return;
  std::vector<Tensor> values;
  for (size_t i = 0; i < segments_.size(); ++i) values.push_back(values_of(i).clone());
  const MemoryTag tag("parameters");
  master_ = compute_ = low_ = frozen_ = Tensor();
  lay_out();
  allocate_storage(Tensor::zeros({total_}, DType::f32));
  for (size_t i = 0; i < segments_.size(); ++i) set_values(i, values[i]);
  refresh();
  make_vars();
}

void ParamArena::own(int64_t begin, int64_t end) {
  check(!grad_.defined(), "param_arena", "own() after enable_grad()");
  check(begin >= 0 && begin <= end && end <= total_, "param_arena", "elements [", begin, ", ", end, ") of ", total_);
  check(!(memory_.split_master || memory_.host_state || memory_.moments != MomentFormat::f32) ||
            (begin == 0 && end == total_),
        "param_arena", "split masters, masters on the host and moments in few bits belong to one process: elements [",
        begin, ", ", end, ") of ", total_);
  own_begin_ = begin;
  own_end_ = end;
}

void ParamArena::enable_grad() {
  check(allocated_, "param_arena", "enable_grad() before allocate()");
  if (grad_.defined()) return;
  bf16_copy_ = Tensor();
  settle();
  {
    const MemoryTag tag("gradients");
    grad_ = Tensor::zeros({total_}, memory_.bf16_gradients ? DType::bf16 : master_dtype(), device());
  }
  const MemoryTag tag("optimizer");
  allocate_moments();
  if (memory_.host_state) host_grad_ = host_tensor(grad_.shape(), grad_.dtype(), device());
  make_vars();
}

void ParamArena::allocate_moments() {
  const auto make = [this](const Shape& shape, DType dtype) {
    return memory_.host_state ? host_tensor(shape, dtype, device()) : Tensor::zeros(shape, dtype, device());
  };
  const int64_t n = own_end() - own_begin();
  if (memory_.moments != MomentFormat::int8) {
    const DType dtype = memory_.moments == MomentFormat::bf16 ? DType::bf16 : master_dtype();
    m_ = make({n}, dtype);
    v_ = make({n}, dtype);
    return;
  }
  const int64_t blocks = (n + kMomentBlock - 1) / kMomentBlock;
  m_ = make({blocks * kMomentBlock / 4}, DType::i32);
  v_ = make({blocks * kMomentBlock / 4}, DType::i32);
  m_scales_ = make({blocks}, DType::f32);
  v_scales_ = make({blocks}, DType::f32);
}

bool ParamArena::make_bf16_copy(bool lossy) {
  if (compute_.dtype() != DType::f32 || compute_.is_cuda() || grad_.defined() || frozen_.defined()) return false;
  if (!lossy) {
    const float* p = compute_.data<float>();
    for (int64_t i = 0; i < compute_.numel(); ++i) {
      if (static_cast<float>(bf16(p[i])) != p[i]) return false;
    }
  }
  bf16_copy_ = compute_.to(DType::bf16);
  make_vars();
  return true;
}

void ParamArena::make_vars() {
  vars_.clear();
  for (const Segment& s : segments_) vars_.push_back(make_var(s, s.numel, s.spec.shape));
}

void ParamArena::set_trainable(size_t i, bool trainable) {
  check(!grad_.defined(), "param_arena", "set_trainable('", segments_.at(i).spec.name, "') after enable_grad()");
  check(!(trainable && segments_.at(i).format), "param_arena", "'", segments_.at(i).spec.name,
        "' is kept as blocks and is not trained");
  segments_.at(i).trainable = trainable;
}

/// `numel` elements from the first one of `first` on; undefined where they are blocks.
Var ParamArena::make_var(const Segment& first, int64_t numel, const Shape& shape) const {
  if (first.format) return {};
  const int64_t begin = first.offset, end = begin + numel;
  if (first.frozen) return Var(frozen_.slice(begin, end).view(shape));
  const Tensor value = compute_.slice(begin, end).view(shape);
  if (!grad_.defined() || !first.trainable) {
    Var constant(value);
    if (bf16_copy_.defined()) constant.set_bf16_copy(bf16_copy_.slice(begin, end).view(shape));
    return constant;
  }
  return Var::leaf(value, grad_.slice(begin, end).view(shape));
}

Var ParamArena::stacked(size_t first, size_t count) const {
  const Segment &a = segments_.at(first), &b = segments_.at(first + count - 1);
  Shape shape = a.spec.shape;
  int64_t rows = 0;
  for (size_t i = first; i < first + count; ++i) {
    check(segments_[i].trainable == a.trainable, "param_arena", "'", segments_[i].spec.name, "' and '", a.spec.name,
          "' share a product: both are trained, or neither");
    check(i == first || (segments_[i].frozen == a.frozen &&
                         segments_[i].offset == segments_[i - 1].offset + segments_[i - 1].numel),
          "param_arena", "'", segments_[i].spec.name, "' is not joined to the parameter before it");
    rows += segments_[i].spec.shape[0];
  }
  shape.set(0, rows);
  return make_var(a, b.offset + b.numel - a.offset, shape);
}

const BlockMatrix& ParamArena::stacked_blocks(size_t first, size_t count) const {
  const Segment& a = segments_.at(first);
  int64_t rows = 0;
  for (size_t i = first; i < first + count; ++i) rows += segments_.at(i).spec.shape[0];
  check(a.format && blocks_.at(a.blocks).rows == rows, "param_arena", "'", a.spec.name,
        "' and those joined to it are not one matrix of blocks");
  return blocks_.at(a.blocks);
}

int64_t ParamArena::parameter_count() const {
  int64_t n = 0;
  for (const Segment& s : segments_) n += s.numel;
  return n;
}

int64_t ParamArena::trained_count() const {
  int64_t n = 0;
  for (const Segment& s : segments_) n += s.trainable ? s.numel : 0;
  return n;
}

int64_t ParamArena::offset_from(size_t i) const {
  for (; i < segments_.size(); ++i) {
    if (!segments_[i].frozen) return segments_[i].offset;
  }
  return total_;
}

Tensor ParamArena::master_of(size_t i) const {
  const Segment& s = segments_.at(i);
  check(!s.frozen || (!s.format && compute_dtype_ == master_dtype()), "param_arena", "master_of('", s.spec.name,
        "'): it is frozen and has no master");
  if (s.frozen) return frozen_.slice(s.offset, s.offset + s.numel).view(s.spec.shape);
  check(!memory_.split_master, "param_arena", "master_of('", s.spec.name, "'): the masters are split");
  return master_.slice(s.offset, s.offset + s.numel).view(s.spec.shape);
}

namespace {
/// The low halves of elements [begin, end), to or from the CPU.
void copy_low(const Tensor& low, int64_t begin, std::vector<int16_t>& host, cuda::CopyKind kind) {
  char* arena = static_cast<char*>(low.raw()) + begin * 2;
  const auto bytes = static_cast<int64_t>(host.size()) * 2;
  const bool out = kind == cuda::CopyKind::device_to_host;
  void* to = out ? static_cast<void*>(host.data()) : arena;
  const void* from = out ? arena : static_cast<const void*>(host.data());
  if (low.is_cuda()) return cuda::copy(to, from, bytes, kind);
  std::memcpy(to, from, static_cast<size_t>(bytes));
}
}  // namespace

/// Writes f32 values [n] on the CPU to elements [offset, offset + n).
void ParamArena::split(const Tensor& values, int64_t offset) const {
  for (int64_t begin = 0; begin < values.numel(); begin += kPart) {
    const int64_t end = std::min(values.numel(), begin + kPart);
    const Tensor high = Tensor::empty({end - begin}, DType::bf16);
    std::vector<int16_t> low(static_cast<size_t>(end - begin));
    const float* from = values.data<float>() + begin;
    parallel_for(end - begin, 1 << 16, [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; ++i) {
        uint32_t bits = 0;
        std::memcpy(&bits, from + i, 4);
        const SplitFloat s = split_float(bits);
        high.data<bf16>()[i].bits = s.high;
        low[static_cast<size_t>(i)] = s.low;
      }
    });
    compute_.slice(offset + begin, offset + end).copy_from(high);
    copy_low(low_, offset + begin, low, cuda::CopyKind::host_to_device);
  }
}

Tensor ParamArena::values_of(size_t i) const {
  const Segment& s = segments_.at(i);
  if (s.format) {
    const Tensor values = Tensor::empty(s.spec.shape);
    blocks_.at(s.blocks).load_rows(s.offset, values);
    return values;
  }
  if (s.frozen) return frozen_.slice(s.offset, s.offset + s.numel).view(s.spec.shape);
  if (!memory_.split_master) return master_of(i);
  const Tensor values = Tensor::empty({s.numel});
  for (int64_t begin = 0; begin < s.numel; begin += kPart) {
    const int64_t end = std::min(s.numel, begin + kPart);
    const Tensor high = compute_.slice(s.offset + begin, s.offset + end).to(kCpu);
    std::vector<int16_t> low(static_cast<size_t>(end - begin));
    copy_low(low_, s.offset + begin, low, cuda::CopyKind::device_to_host);
    float* to = values.data<float>() + begin;
    parallel_for(end - begin, 1 << 16, [&](int64_t b, int64_t e) {
      for (int64_t j = b; j < e; ++j) {
        const uint32_t bits = join_float({high.data<bf16>()[j].bits, low[static_cast<size_t>(j)]});
        std::memcpy(to + j, &bits, 4);
      }
    });
  }
  return values.view(s.spec.shape);
}

void ParamArena::set_values(size_t i, const Tensor& values) const {
  const Segment& s = segments_.at(i);
  check_shape("param_arena", "'" + s.spec.name + "'", values, s.spec.shape);
  if (s.format) return blocks_.at(s.blocks).store_rows(s.offset, values.to(kCpu).to(DType::f32));
  if (s.frozen) return frozen_.slice(s.offset, s.offset + s.numel).view(s.spec.shape).copy_from(values);
  if (!memory_.split_master) return master_of(i).copy_from(values);
  split(values.to(kCpu).to(DType::f32).view({s.numel}), s.offset);
}

size_t ParamArena::index_of(const std::string& name) const {
  for (size_t i = 0; i < segments_.size(); ++i) {
    if (segments_[i].spec.name == name) return i;
  }
  fail("param_arena", "there is no parameter '", name, "'");
}

void ParamArena::zero_grad() const {
  if (grad_.defined()) grad_.zero();
}

void ParamArena::refresh() const {
  if (master_.defined() && !compute_.aliases(master_)) {
    // In parts where the two are apart: converting takes a buffer.
    const int64_t part = master_.device() == compute_.device() ? master_.numel() : kPart;
    for (int64_t begin = 0; begin < master_.numel(); begin += part) {
      const int64_t end = std::min(master_.numel(), begin + part);
      compute_.slice(begin, end).copy_from(master_.slice(begin, end));
    }
  }
  ++version_;
}

}  // namespace rw
