// Matrix products on the CPU: blocks of A and B are packed once, by all threads together, for all threads to multiply.
//
// The scheme of Goto and van de Geijn (2008): C is cut into blocks of rows and columns, and k into blocks of one depth.
// A step packs one block of A and one of B, while the threads multiply the two that the step before has packed.
#include <algorithm>
#include <atomic>
#include <memory>
#include <new>

#include "tensor/gemm.h"
#include "tensor/gemm_block.h"
#include "tensor/parallel_for.h"
#include "tensor/thread_team.h"

namespace rw::cpu {
namespace {

constexpr int64_t kPackedBytes = 3 << 20;  // of a block of A and one of B together, about
constexpr int64_t kPackItem = 1 << 14;     // numbers that a thread packs at a time, about
constexpr int64_t kItemsPerThread = 8;     // products of a step: threads that were slow take fewer

int64_t parts(int64_t size, int64_t most) { return (size + most - 1) / most; }
int64_t up(int64_t size, int64_t tile) { return parts(size, tile) * tile; }

/// [0, size) in blocks of `each`, all equal but for the last.
struct Cut {
  int64_t size, each;
  int64_t count() const { return parts(size, each); }
  int64_t begin(int64_t i) const { return i * each; }
  int64_t length(int64_t i) const { return std::min(each, size - begin(i)); }
};

/// As few blocks as do not exceed `most`, equal up to a tile.
Cut even(int64_t size, int64_t most, int64_t tile) {
  const int64_t count = parts(size, std::max(most, tile));
  return {size, std::max(up(parts(size, count), tile), tile)};
}

/// Memory for packed blocks, which the thread keeps. Its size is bounded by kPackedBytes.
class Buffer {
 public:
  void* at_least(int64_t bytes) {
    if (bytes > bytes_) {
      data_.reset();
      bytes_ = 0;
      data_.reset(::operator new(static_cast<size_t>(bytes), kAlignment));
      bytes_ = bytes;
    }
    return data_.get();
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(void* p) const { ::operator delete(p, kAlignment); }
  };
  std::unique_ptr<void, Free> data_;
  int64_t bytes_ = 0;
};

template <class T>
VectorsOf<T> rows_of(const Factor<T>& a) {
  return a.trans == Trans::no ? VectorsOf<T>{a.data, a.stride, 1} : VectorsOf<T>{a.data, 1, a.stride};
}
template <class T>
VectorsOf<T> columns_of(const Factor<T>& b) {
  return b.trans == Trans::no ? VectorsOf<T>{b.data, 1, b.stride} : VectorsOf<T>{b.data, b.stride, 1};
}
template <class T>
VectorsOf<T> part_of(const VectorsOf<T>& x, int64_t first, int64_t along) {
  return {x.data + first * x.vector + along * x.along, x.vector, x.along};
}

/// One product. Every thread of a team calls run().
template <class T>
class PackedProduct {
 public:
  PackedProduct(const GemmKernel<T>& kernel, const Product<T>& product, int threads)
      : kernel_(kernel), p_(product), threads_(threads), barrier_(threads) {
    depths_ = even(p_.k, kernel.depth, 1);
    const int64_t both = kPackedBytes / static_cast<int64_t>(sizeof(T)) / depths_.each;  // rows and columns
    const int64_t rows = p_.m <= p_.n ? std::min(p_.m, both / 2) : std::max(both - p_.n, both / 2);
    const int64_t columns = p_.m <= p_.n ? both - rows : std::min(p_.n, both / 2);
    rows_ = even(p_.m, rows, kernel.height);
    columns_ = even(p_.n, columns, kernel.width);
    steps_ = rows_.count() * columns_.count() * depths_.count();
    // Two places for each factor: one to read and one to write. One, where a single block is all of it.
    const int64_t a_size = up(std::min(rows_.each, p_.m), kernel.height) * depths_.each;
    const int64_t b_size = up(std::min(columns_.each, p_.n), kernel.width) * depths_.each;
    a_places_ = std::min<int64_t>(depths_.count() * rows_.count(), 2);
    b_places_ = std::min<int64_t>(depths_.count() * columns_.count(), 2);
    a_size_ = up(a_size, 64);
    b_size_ = up(b_size, 64);
    thread_local Buffer buffer;
    packed_ = static_cast<T*>(
        buffer.at_least((a_places_ * a_size_ + b_places_ * b_size_) * static_cast<int64_t>(sizeof(T))));
  }

  void run() {
    for (int64_t step = 0; step <= steps_; ++step) {
      const Items multiply = products_of(step - 1), a = packs_of_a(step), b = packs_of_b(step);
      const int64_t items = multiply.count() + a.count() + b.count();
      for (int64_t i = take(); i < items; i = take()) {
        if (i < multiply.count()) {
          do_multiply(step - 1, multiply, i);
        } else if (i < multiply.count() + b.count()) {
          do_pack_b(step, b, i - multiply.count());
        } else {
          do_pack_a(step, a, i - multiply.count() - b.count());
        }
      }
      if (threads_ > 1) {
        barrier_.wait([&] { next_.store(0, std::memory_order_relaxed); });
      } else {
        next_.store(0, std::memory_order_relaxed);
      }
    }
  }

 private:
  /// What a step does of one kind: rows x columns of items.
  struct Items {
    Cut rows{0, 1}, columns{0, 1};
    int64_t count() const { return rows.count() * columns.count(); }
  };
  /// Which blocks a step multiplies: all depths of one block of C, then those of the block below.
  struct Step {
    int64_t row, column, depth;
  };
  Step at(int64_t step) const {
    const int64_t depth = step % depths_.count(), block = step / depths_.count();
    return {block % rows_.count(), block / rows_.count(), depth};
  }
  int64_t take() { return next_.fetch_add(1, std::memory_order_relaxed); }

  // Packed blocks are counted: a step may need the one that the step before had.
  int64_t a_block(int64_t step) const { return a_places_ == 1 ? 0 : step; }
  int64_t b_block(int64_t step) const { return depths_.count() == 1 ? at(step).column : step; }
  T* a_of(int64_t step) const { return packed_ + a_block(step) % a_places_ * a_size_; }
  T* b_of(int64_t step) const { return packed_ + a_places_ * a_size_ + b_block(step) % b_places_ * b_size_; }

  Items packs_of_a(int64_t step) const {
    if (step >= steps_ || (step > 0 && a_block(step) == a_block(step - 1))) return {};
    return packs(rows_.length(at(step).row), kernel_.height);
  }
  Items packs_of_b(int64_t step) const {
    if (step >= steps_ || (step > 0 && b_block(step) == b_block(step - 1))) return {};
    return packs(columns_.length(at(step).column), kernel_.width);
  }
  Items packs(int64_t vectors, int64_t panel) const {
    return {{vectors, up(std::max(kPackItem / depths_.each, panel), panel)}, {1, 1}};
  }
  void do_pack_a(int64_t step, const Items& items, int64_t item) const {
    const Step s = at(step);
    const int64_t depth = depths_.length(s.depth), first = items.rows.begin(item);
    kernel_.pack_a(part_of(rows_of(p_.a), rows_.begin(s.row) + first, depths_.begin(s.depth)),
                   items.rows.length(item), depth, a_of(step) + first * depth);
  }
  void do_pack_b(int64_t step, const Items& items, int64_t item) const {
    const Step s = at(step);
    const int64_t depth = depths_.length(s.depth), first = items.rows.begin(item);
    kernel_.pack_b(part_of(columns_of(p_.b), columns_.begin(s.column) + first, depths_.begin(s.depth)),
                   items.rows.length(item), depth, b_of(step) + first * depth);
  }

  Items products_of(int64_t step) const {
    if (step < 0) return {};
    const Step s = at(step);
    const int64_t rows = rows_.length(s.row), columns = columns_.length(s.column);
    const int64_t cached = kernel_.b_bytes / static_cast<int64_t>(sizeof(T)) / depths_.each;
    Items items{{rows, up(rows, kernel_.height)}, even(columns, cached, kernel_.width)};
    if (threads_ == 1) return items;
    const int64_t wanted = threads_ * kItemsPerThread;
    items.rows = even(rows, parts(rows, parts(wanted, items.columns.count())), kernel_.height);
    if (items.count() < wanted) {
      items.columns = even(columns, parts(columns, parts(wanted, items.rows.count())), kernel_.width);
    }
    return items;
  }
  void do_multiply(int64_t step, const Items& items, int64_t item) const {
    const Step s = at(step);
    const int64_t row = item % items.rows.count(), column = item / items.rows.count();
    const int64_t depth = depths_.length(s.depth), i = items.rows.begin(row), j = items.columns.begin(column);
    kernel_.multiply({.rows = items.rows.length(row),
                      .columns = items.columns.length(column),
                      .depth = depth,
                      .a = a_of(step) + i * depth,
                      .b = b_of(step) + j * depth,
                      .c = p_.c + (rows_.begin(s.row) + i) * p_.c_stride + columns_.begin(s.column) + j,
                      .c_stride = p_.c_stride,
                      .alpha = p_.alpha,
                      .beta = s.depth == 0 ? p_.beta : T(1)});
  }

  const GemmKernel<T>& kernel_;
  const Product<T> p_;
  const int threads_;
  Cut depths_{}, rows_{}, columns_{};  // of C's blocks, and of k
  int64_t steps_ = 0, a_places_ = 0, b_places_ = 0, a_size_ = 0, b_size_ = 0;
  T* packed_ = nullptr;
  std::atomic<int64_t> next_{0};  // the item that nobody has taken
  detail::TeamBarrier barrier_;
};

/// C = beta C
template <class T>
void scale(const Product<T>& p) {
  for (int64_t i = 0; i < p.m; ++i) {
    T* const row = p.c + i * p.c_stride;
    for (int64_t j = 0; j < p.n; ++j) row[j] = p.beta == 0 ? T(0) : p.beta * row[j];
  }
}

template <class T>
void multiply(const GemmKernel<T>& kernel, const Product<T>& p) {
  if (p.m == 0 || p.n == 0) return;
  if (p.k == 0) return scale(p);
  const double work = static_cast<double>(p.m) * static_cast<double>(p.n) * static_cast<double>(p.k);
  const int threads = detail::in_parallel() || work < 64e3 ? 1 : detail::grow_team(thread_count());
  PackedProduct<T> product(kernel, p, threads);
  if (threads == 1) return product.run();
  detail::run_team(threads, [&](int) { product.run(); });
}

const GemmKernels& gemm_kernels() {
  static const GemmKernels& fastest = []() -> const GemmKernels& {
    const GemmKernels* all[3];
    every_gemm_kernels(all);
    return *all[0];
  }();
  return fastest;
}

}  // namespace

int every_gemm_kernels(const GemmKernels* (&out)[3]) {
  int n = 0;
#ifdef ROPEWALK_CPU_LEVELS
  if (__builtin_cpu_supports("x86-64-v4")) out[n++] = &v4::gemm_kernels;
  if (__builtin_cpu_supports("x86-64-v3")) out[n++] = &v3::gemm_kernels;
#endif
  out[n++] = &build::gemm_kernels;
  return n;
}

void gemm_with(const GemmKernels& kernels, const Product<float>& product) { multiply(kernels.f32, product); }
void gemm_with(const GemmKernels& kernels, const Product<double>& product) { multiply(kernels.f64, product); }
void gemm(const Product<float>& product) { multiply(gemm_kernels().f32, product); }
void gemm(const Product<double>& product) { multiply(gemm_kernels().f64, product); }

}  // namespace rw::cpu
