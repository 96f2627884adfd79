// Matrix products on the CPU by packed blocks, after Goto and van de Geijn (2008).
//
// The threads share one factor: all of them pack a block of it together, for all to read. The other factor is cut into
// items. A thread takes an item, packs it into its own second cache and multiplies it by the shared block. Where there
// are too few items for the threads, both factors are shared, and an item is a block of tiles of C.
//
// A small C of a long k is summed in parts of k, each by one thread that shares nothing. The shape alone decides it.
#include <algorithm>
#include <atomic>
#include <memory>
#include <new>

#include "tensor/cpu_levels.h"
#include "tensor/gemm.h"
#include "tensor/gemm_block.h"
#include "tensor/parallel_for.h"
#include "tensor/thread_team.h"

namespace rw::cpu {
namespace {

constexpr int64_t kSharedBytes = 4 << 20;  // of what the threads pack together, about
constexpr int64_t kSharedVectors = 1024;   // rows or columns of a shared block that are worth an item's packing
constexpr int64_t kPackItem = 1 << 14;     // numbers of a shared block that a thread packs at a time, at most about
constexpr int64_t kFewTiles = 4;           // of an item, for each thread at least: otherwise both factors are shared
constexpr int64_t kFew = 8;                // rows or columns that are multiplied without packing
constexpr int64_t kFewBlock = 64;          // of the many, for a thread at least
constexpr int64_t kParts = 64;             // of a long k
constexpr int64_t kPartDepth = 256;        // of a part at least
constexpr int64_t kPartsSize = 1 << 17;    // numbers of a C that is summed in parts, at most

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

/// Memory for packed blocks, which the thread keeps.
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

/// How many rows an item has: the threads get equal work, and the last tile of an item wastes little.
int64_t item_size(int64_t size, int64_t most, int64_t tile, int64_t grain, int64_t threads) {
  if (threads == 1) return even(size, most, tile).each;
  int64_t best = 0;
  double least = 1e300;
  for (int64_t each_thread = parts(size, most * threads) + 3; each_thread >= 1; --each_thread) {
    const int64_t each = up(parts(size, threads * each_thread), grain), rest = each % tile;
    if (each > most && best > 0) break;
    // A tile of few rows waits for its own sums; an item has a start and an end.
    const int64_t work = each - rest + (rest > 0 ? std::max(rest, (tile + 2) / 3) : 0) + 1;
    const double cost = static_cast<double>(parts(parts(size, each), threads) * work);
    if (cost < least) {
      least = cost;
      best = each;
    }
  }
  return best;
}

/// The tiles of C, rows x columns, that a thread takes at a time where both factors are shared. The threads get equal
/// work and read few panels: to read a panel that another thread has packed costs some of a tile's time.
struct TileBlock {
  int64_t rows, columns;
};
TileBlock tile_block(int64_t rows, int64_t columns, double height_by_width, int64_t threads) {
  constexpr double kRead = 0.25;  // of a panel of each factor, in tiles
  TileBlock best{1, 1};
  double least = 1e300;
  for (int64_t each_thread = 2; each_thread <= 4; ++each_thread) {  // some blocks each: a slow thread takes fewer
    const int64_t wanted = each_thread * threads;
    for (int64_t down = 1; down <= std::min(rows, wanted); ++down) {
      const TileBlock block{parts(rows, down), parts(columns, std::clamp<int64_t>(wanted / down, 1, columns))};
      const int64_t turns = parts(parts(rows, block.rows) * parts(columns, block.columns), threads);
      const double tiles = static_cast<double>(block.rows * block.columns),
                   read = (static_cast<double>(block.rows) * height_by_width + static_cast<double>(block.columns)) /
                          (height_by_width + 1);
      const double cost = static_cast<double>(turns) * (tiles + kRead * read);
      if (cost < least) {
        least = cost;
        best = block;
      }
    }
  }
  return best;
}

/// One product. Every thread of a team calls run().
template <class T>
class PackedProduct {
 public:
  PackedProduct(const GemmKernel<T>& kernel, const Product<T>& product, int threads)
      : kernel_(kernel), p_(product), threads_(threads), barrier_(threads) {
    depths_ = even(p_.k, kernel.depth, 1);
    const bool by_rows = threads == 1 || p_.m >= threads * kFewTiles * kernel.height,
               by_columns = threads == 1 || p_.n >= threads * kFewTiles * kernel.width;
    shares_a_ = !by_rows || (by_columns && p_.n > p_.m);
    shares_b_ = !shares_a_ || !by_columns;
    rows_ = columns_ = {1, 1};
    if (shares_a_) rows_ = chunks(p_.m, kernel.height);
    if (shares_b_) columns_ = chunks(p_.n, kernel.width);
    if (shares_a_ && shares_b_) {
      rows_ = {p_.m, up(p_.m, kernel.height)};
      columns_ = {p_.n, up(p_.n, kernel.width)};
      const TileBlock block =
          tile_block(parts(p_.m, kernel.height), parts(p_.n, kernel.width),
                     static_cast<double>(kernel.height) / static_cast<double>(kernel.width), threads);
      blocks_ = {{p_.m, block.rows * kernel.height}, {p_.n, block.columns * kernel.width}};
    }
    const int64_t cached = kernel.cached_bytes / kBytes / depths_.each;
    if (!shares_a_) rows_ = {p_.m, item_size(p_.m, cached, kernel.height, 1, threads)};
    if (!shares_b_) columns_ = {p_.n, item_size(p_.n, cached, kernel.width, kernel.lanes, threads)};
    // Of a shared block, as many depths as fit; the sums of an item's tiles stay in the cache from one to the next.
    a_size_ = up(std::min(rows_.each, p_.m), kernel.height) * depths_.each;
    b_size_ = up(std::min(columns_.each, p_.n), kernel.width) * depths_.each;
    const int64_t shared = (shares_a_ ? a_size_ : 0) + (shares_b_ ? b_size_ : 0);
    groups_ = even(depths_.count(), kSharedBytes / kBytes / shared, 1);
    steps_ = groups_.count() * (shares_a_ && shares_b_ ? 1 : shares_a_ ? rows_.count() : columns_.count());
    place_ = up(shared * groups_.each, kLine);
    own_ = up((shares_a_ ? 0 : a_size_) + (shares_b_ ? 0 : b_size_), kLine);
    const int64_t places = std::min<int64_t>(steps_, 2);  // one to read, and one to write
    thread_local Buffer buffer;
    shared_ = static_cast<T*>(buffer.at_least((places * place_ + threads * own_) * kBytes));
    owned_ = shared_ + places * place_;
  }

  void run(int rank) {
    for (int64_t step = 0; step <= steps_; ++step) {
      const Grid products = step > 0 ? products_of(step - 1) : Grid{};
      const Packs packs = step < steps_ ? packs_of(step) : Packs{};
      const int64_t multiplied = products.count(), all = multiplied + packs.count();
      for (int64_t i = take(); i < all; i = take()) {
        if (i < multiplied) {
          multiply(step - 1, products, i, owned_ + rank * own_);
        } else {
          pack(step, packs, i - multiplied);
        }
      }
      if (step < steps_) barrier_.wait([&] { next_.store(0, std::memory_order_relaxed); });
    }
  }

 private:
  static constexpr int64_t kBytes = sizeof(T), kLine = 64 / kBytes;

  /// Items of C: rows x columns.
  struct Grid {
    Cut rows{0, 1}, columns{0, 1};
    int64_t count() const { return rows.count() * columns.count(); }
  };
  /// Which block of rows or columns, and which depths, a step is about.
  struct Step {
    int64_t chunk, group;
  };
  Step at(int64_t step) const { return {step / groups_.count(), step % groups_.count()}; }
  int64_t take() { return next_.fetch_add(1, std::memory_order_relaxed); }
  static Cut whole(int64_t size) { return {size, size}; }

  Cut chunks(int64_t size, int64_t panel) const {
    return even(size, std::max(kSharedVectors, kSharedBytes / kBytes / p_.k), panel);
  }

  // --- packing the shared blocks

  /// A and then B: items of whole panels, for every depth of a group.
  struct Packs {
    Cut a{0, 1}, b{0, 1};
    int64_t depths = 0;
    int64_t count() const { return (a.count() + b.count()) * depths; }
  };
  Packs packs_of(int64_t step) const {
    const Step s = at(step);
    const int64_t numbers = std::min(kPackItem, place_ / (threads_ * 4));  // some items each, of a small step too
    const auto items = [&](int64_t vectors, int64_t panel) {
      return Cut{vectors, up(std::max(numbers / depths_.each, panel), panel)};
    };
    return {shares_a_ ? items(shared_rows(s).length, kernel_.height) : Cut{0, 1},
            shares_b_ ? items(shared_columns(s).length, kernel_.width) : Cut{0, 1}, groups_.length(s.group)};
  }
  struct Part {
    int64_t begin, length;
  };
  static Part part(const Cut& cut, int64_t i) { return {cut.begin(i), cut.length(i)}; }
  Part shared_rows(const Step& s) const { return part(rows_, shares_b_ ? 0 : s.chunk); }
  Part shared_columns(const Step& s) const { return part(columns_, shares_a_ ? 0 : s.chunk); }
  Part depth_of(const Step& s, int64_t d) const { return part(depths_, groups_.begin(s.group) + d); }

  /// The shared blocks of depth `d` of a step's group.
  T* shared_a(int64_t step, int64_t d) const { return shared_ + step % 2 * place_ + d * a_size_; }
  T* shared_b(int64_t step, int64_t d) const {
    return shared_ + step % 2 * place_ + (shares_a_ ? groups_.each * a_size_ : 0) + d * b_size_;
  }

  void pack(int64_t step, const Packs& items, int64_t item) const {
    const Step s = at(step);
    const int64_t each = items.a.count() + items.b.count(), d = item / each, i = item % each;
    const Part depth = depth_of(s, d);
    if (i < items.a.count()) {
      const Part rows = part(items.a, i);
      pack_a(shared_rows(s).begin + rows.begin, rows.length, depth, shared_a(step, d) + rows.begin * depth.length);
    } else {
      const Part columns = part(items.b, i - items.a.count());
      pack_b(shared_columns(s).begin + columns.begin, columns.length, depth,
             shared_b(step, d) + columns.begin * depth.length);
    }
  }
  void pack_a(int64_t row, int64_t rows, const Part& depth, T* to) const {
    kernel_.pack_a(part_of(rows_of(p_.a), row, depth.begin), rows, depth.length, to);
  }
  void pack_b(int64_t column, int64_t columns, const Part& depth, T* to) const {
    kernel_.pack_b(part_of(columns_of(p_.b), column, depth.begin), columns, depth.length, to);
  }

  // --- products

  Grid products_of(int64_t step) const {
    const Step s = at(step);
    if (!shares_a_) return {rows_, whole(shared_columns(s).length)};
    if (!shares_b_) return {whole(shared_rows(s).length), columns_};
    return blocks_;
  }
  void multiply(int64_t step, const Grid& items, int64_t item, T* own) const {
    const Step s = at(step);
    const Part rows = part(items.rows, item / items.columns.count()),
               columns = part(items.columns, item % items.columns.count());
    const int64_t row = (shares_a_ ? shared_rows(s).begin : 0) + rows.begin,
                  column = (shares_b_ ? shared_columns(s).begin : 0) + columns.begin;
    for (int64_t d = 0; d < groups_.length(s.group); ++d) {
      const Part depth = depth_of(s, d);
      if (!shares_a_) pack_a(row, rows.length, depth, own);
      if (!shares_b_) pack_b(column, columns.length, depth, own);
      kernel_.multiply({.rows = rows.length,
                        .columns = columns.length,
                        .depth = depth.length,
                        .a = shares_a_ ? shared_a(step, d) + rows.begin * depth.length : own,
                        .b = shares_b_ ? shared_b(step, d) + columns.begin * depth.length : own,
                        .c = p_.c + row * p_.c_stride + column,
                        .c_stride = p_.c_stride,
                        .alpha = p_.alpha,
                        .beta = depth.begin == 0 ? p_.beta : T(1)});
    }
  }

  const GemmKernel<T>& kernel_;
  const Product<T> p_;
  const int threads_;
  bool shares_a_ = false, shares_b_ = false;
  Cut depths_{}, groups_{};  // of k, and of the depths: a step's
  Cut rows_{}, columns_{};   // of C: chunks of a shared factor, items of the other
  Grid blocks_{};            // of C: items where both are shared
  int64_t steps_ = 0, a_size_ = 0, b_size_ = 0, place_ = 0, own_ = 0;
  T *shared_ = nullptr, *owned_ = nullptr;
  // Written by all threads: on cache lines of their own.
  alignas(64) std::atomic<int64_t> next_{0};  // the item that nobody has taken
  alignas(64) detail::TeamBarrier barrier_;
};

/// C = beta C
template <class T>
void scale(const Product<T>& p) {
  for (int64_t i = 0; i < p.m; ++i) {
    T* const row = p.c + i * p.c_stride;
    for (int64_t j = 0; j < p.n; ++j) row[j] = p.beta == 0 ? T(0) : p.beta * row[j];
  }
}

/// Whether one of C's sides is so short that nothing is packed; then it is computed.
template <class T>
bool multiply_few(const GemmKernel<T>& kernel, const Product<T>& p, int threads) {
  const bool few_rows = p.m <= p.n;
  FewVectors<T> x{.few = p.m,
                  .many = p.n,
                  .k = p.k,
                  .x = rows_of(p.a),
                  .w = columns_of(p.b),
                  .c = p.c,
                  .c_few = p.c_stride,
                  .c_many = 1,
                  .alpha = p.alpha,
                  .beta = p.beta};
  if (!few_rows) {
    std::swap(x.few, x.many);
    std::swap(x.x, x.w);
    std::swap(x.c_few, x.c_many);
  }
  const bool sums = x.w.vector == 1 && x.few <= kFew, dots = x.x.along == 1 && x.w.along == 1 && x.few <= kFew;
  if (!sums && !dots) return false;
  const auto part = [&](int64_t begin, int64_t end) {
    FewVectors<T> y = x;
    y.many = end - begin;
    y.w.data += begin * x.w.vector;
    y.c += begin * x.c_many;
    (sums ? kernel.few_sums : kernel.few_dots)(y);
  };
  // Threads are cut at whole registers: how a sum is added up may depend on whether it is in one.
  const int64_t blocks = parts(x.many, kFewBlock);
  if (threads == 1 || blocks == 1) {
    part(0, x.many);
  } else {
    parallel_for(blocks, 1,
                 [&](int64_t begin, int64_t end) { part(begin * kFewBlock, std::min(end * kFewBlock, x.many)); });
  }
  return true;
}

/// Whether C is so small and k so long that threads sum parts of k. Only the shape may decide it: the parts reach C's
/// bits. Threads that share tiles would wait for each other's packed panels most of the time.
template <class T>
bool in_parts(const Product<T>& p) {
  return p.k >= kParts * kPartDepth && p.m * p.n <= kPartsSize;
}

/// C's rows [begin, end): C = beta C + the sums [count, m, n], one after another.
template <class T>
void add_sums(const Product<T>& p, T beta, const T* sums, int64_t count, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    T* const c = p.c + i * p.c_stride;
    for (int64_t part = 0; part < count; ++part) {
      const T* const sum = sums + (part * p.m + i) * p.n;
      if (part > 0 || beta == 1) {
        for (int64_t j = 0; j < p.n; ++j) c[j] += sum[j];
      } else {
        for (int64_t j = 0; j < p.n; ++j) c[j] = beta == 0 ? sum[j] : beta * c[j] + sum[j];
      }
    }
  }
}

/// C = beta C + sum 0 + sum 1 + ..., where each sum is one thread's product over a part of k.
template <class T>
void multiply_parts(const GemmKernel<T>& kernel, const Product<T>& p, int threads) {
  const Cut cut{p.k, parts(p.k, kParts)};
  const int64_t size = p.m * p.n, together = threads == 1 ? 1 : std::min<int64_t>(cut.count(), threads * 4);
  thread_local Buffer buffer;
  T* const sums = static_cast<T*>(buffer.at_least(together * size * static_cast<int64_t>(sizeof(T))));
  for (int64_t first = 0; first < cut.count(); first += together) {
    const int64_t count = std::min(together, cut.count() - first);
    parallel_items(count, [&](int64_t i) {
      Product<T> part = p;
      const int64_t begin = cut.begin(first + i);
      part.k = cut.length(first + i);
      part.a.data += begin * rows_of(p.a).along;
      part.b.data += begin * columns_of(p.b).along;
      part.c = sums + i * size;
      part.c_stride = p.n;
      part.beta = 0;
      PackedProduct<T>(kernel, part, 1).run(0);
    });
    parallel_for(p.m, parts(kPackItem, count * p.n),
                 [&](int64_t begin, int64_t end) { add_sums(p, first == 0 ? p.beta : T(1), sums, count, begin, end); });
  }
}

template <class T>
void multiply(const GemmKernel<T>& kernel, const Product<T>& p) {
  if (p.m == 0 || p.n == 0) return;
  if (p.k == 0) return scale(p);
  const double work = static_cast<double>(p.m) * static_cast<double>(p.n) * static_cast<double>(p.k);
  const int threads = detail::in_parallel() || work < 64e3 ? 1 : detail::grow_team(thread_count());
  if (multiply_few(kernel, p, threads)) return;
  if (in_parts(p)) return multiply_parts(kernel, p, threads);
  PackedProduct<T> product(kernel, p, threads);
  if (threads == 1) return product.run(0);
  detail::run_team(threads, [&](int rank) { product.run(rank); });
}

constexpr Versions<GemmKernels> kVersions = RW_VERSIONS(gemm_kernels);

const GemmKernels& gemm_kernels() {
  static const GemmKernels& kernels = fastest(kVersions);
  return kernels;
}

}  // namespace

int every_gemm_kernels(const GemmKernels* (&out)[3]) { return runnable(kVersions, out); }

void gemm_with(const GemmKernels& kernels, const Product<float>& product) { multiply(kernels.f32, product); }
void gemm_with(const GemmKernels& kernels, const Product<double>& product) { multiply(kernels.f64, product); }
void gemm(const Product<float>& product) { multiply(gemm_kernels().f32, product); }
void gemm(const Product<double>& product) { multiply(gemm_kernels().f64, product); }

}  // namespace rw::cpu
