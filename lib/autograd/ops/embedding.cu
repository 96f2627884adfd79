// Token embedding: out[t] = weight[ids[t]], and its gradient dweight[v] += sum of dy[t] over all t with ids[t] = v.
//
// The gradient is deterministic without atomics. Tokens are sorted by id (a stable radix sort: equal ids stay in token
// order) and the sorted list is cut into chunks. A block adds up its chunk's rows; a run of equal ids that lies inside
// one chunk goes straight to dweight, the pieces of a run that crosses chunks are added up in order by a second kernel.
// However skewed the ids are, no block has more than one chunk of rows to read.
//
// With fast_atomics every token's row is added to its place by atomics: one kernel instead of the sort
// and the two after it.
// CUB goes by a name of our own: a program that brings another version of it shares none of its functions with us. Its
// ranges for profilers are left out: ours are around it.
#define THRUST_CUB_WRAPPED_NAMESPACE rw
#define CCCL_DISABLE_NVTX
#include <bit>
#include <cub/device/device_radix_sort.cuh>

#include "autograd/ops/atomic_add.cuh"
#include "autograd/ops/cuda_ops.h"
#include "tensor/launch.cuh"

namespace rw::cuda {
namespace {

constexpr int kThreads = 256;

// --- forward: bytes: each row read and written once -----------------------------------------------------------------

template <int N, class T>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(int64_t n, int vocab, uint32_t columns, const int32_t* __restrict__ ids, const T* __restrict__ weight,
                  T* __restrict__ out) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * N;
  const int64_t token = i / columns;
  if (token >= n) return;
  const int32_t id = ids[token];
  Vec<T, N> row;
  if (id >= 0 && id < vocab) {
    row = load<N>(weight + static_cast<int64_t>(id) * columns + i % columns);
  } else {
#pragma unroll
    for (int j = 0; j < N; ++j) row.at[j] = from_float<T>(0.f);
  }
  store<N>(out + i, row);
}

// --- backward -------------------------------------------------------------------------------------------------------

constexpr int kChunk = 32;            // sorted tokens per block
constexpr int kScatterThreads = 128;  // at most; each has 8 columns

/// Ids outside the vocabulary get the key `vocab`: they sort to the end and are skipped there.
__global__ void __launch_bounds__(kThreads) keys_kernel(int n, int vocab, const int32_t* __restrict__ ids,
                                                        uint32_t* __restrict__ keys, int32_t* __restrict__ tokens) {
  const int t = static_cast<int>(blockIdx.x) * kThreads + threadIdx.x;
  if (t >= n) return;
  const int32_t id = ids[t];
  keys[t] = static_cast<uint32_t>(id >= 0 && id < vocab ? id : vocab);
  tokens[t] = t;
}

/// What a chunk of the sorted list looks like. `before` and `after` are its neighbours'
/// keys (a key that cannot occur at the ends).
struct Chunk {
  int begin, end;
  uint32_t first, last, before, after;
  __device__ Chunk(int index, int n, const uint32_t* keys) {
    begin = index * kChunk;
    end = min(n, begin + kChunk);
    first = keys[begin];
    last = keys[end - 1];
    before = begin > 0 ? keys[begin - 1] : ~0u;
    after = end < n ? keys[end] : ~0u;
  }
};

/// Adds up the rows of one chunk. partial [chunks,2,C]: 0 the run that began in an earlier chunk, 1 the run that goes
/// on in the next. Bytes: dy once, and two accesses to each touched row of dweight.
template <int N, class T, class W>
__global__ void __launch_bounds__(kScatterThreads)
    scatter_kernel(int n, int vocab, int64_t columns, int tiles, const uint32_t* __restrict__ keys,
                   const int32_t* __restrict__ tokens, const T* __restrict__ dy, W* __restrict__ dweight,
                   float* __restrict__ partial) {
  __shared__ uint32_t key_of[kChunk];
  __shared__ int32_t token_of[kChunk];
  const int index = static_cast<int>(blockIdx.x) / tiles;
  const Chunk chunk(index, n, keys);
  if (threadIdx.x < chunk.end - chunk.begin) {
    key_of[threadIdx.x] = keys[chunk.begin + threadIdx.x];
    token_of[threadIdx.x] = tokens[chunk.begin + threadIdx.x];
  }
  __syncthreads();
  const int64_t c = (static_cast<int64_t>(blockIdx.x % tiles) * blockDim.x + threadIdx.x) * N;
  if (c >= columns) return;

  constexpr int kAhead = 4;  // rows in flight per thread
  const int count = chunk.end - chunk.begin;
  Vec<float, N> sum{};
  for (int base = 0; base < count; base += kAhead) {
    Vec<T, N> row[kAhead];
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      if (base + a < count) row[a] = load<N>(dy + static_cast<int64_t>(token_of[base + a]) * columns + c);
    }
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const int p = base + a;
      if (p >= count) break;
      const uint32_t key = key_of[p];
#pragma unroll
      for (int i = 0; i < N; ++i) sum.at[i] += to_float(row[a].at[i]);
      const bool goes_on = p + 1 < count ? key_of[p + 1] == key : false;
      if (goes_on) continue;
      if (key == static_cast<uint32_t>(vocab)) return;  // only skipped tokens from here
      const bool from_before = key == chunk.first && chunk.before == key;
      const bool into_next = p + 1 == count && chunk.after == key;
      if (from_before || into_next) {
        store<N>(partial + (static_cast<int64_t>(index) * 2 + (from_before ? 0 : 1)) * columns + c, sum);
      } else {
        W* to = dweight + static_cast<int64_t>(key) * columns + c;
        Vec<float, N> total = load_float<N>(to);
#pragma unroll
        for (int i = 0; i < N; ++i) total.at[i] += sum.at[i];
        store_float<N>(to, total);
      }
      sum = {};
    }
  }
}

constexpr int kJoinRows = 4;  // pieces of a run that a block reads at a time

/// One block per chunk in which a run begins that goes on in the next one: adds up the run's pieces in order. Its
/// threads are those of scatter_kernel, kJoinRows times over.
template <int N, class W>
__global__ void __launch_bounds__(kScatterThreads* kJoinRows)
    join_kernel(int n, int vocab, int64_t columns, int tiles, const uint32_t* __restrict__ keys,
                const float* __restrict__ partial, W* __restrict__ dweight) {
  __shared__ Vec<float, N> sums[kJoinRows][kScatterThreads];
  const int index = static_cast<int>(blockIdx.x) / tiles;
  const Chunk chunk(index, n, keys);
  const uint32_t key = chunk.last;
  if (chunk.after != key || key == static_cast<uint32_t>(vocab)) return;
  if (chunk.first == key && chunk.before == key) return;  // the run began earlier: another block's

  // The run ends in the last chunk that begins with the key: the chunks' first keys are sorted, too.
  int last = index + 1, beyond = (n + kChunk - 1) / kChunk;
  while (beyond - last > 1) {
    const int middle = (last + beyond) / 2;
    (keys[static_cast<int64_t>(middle) * kChunk] == key ? last : beyond) = middle;
  }

  const int width = blockDim.x / kJoinRows, lane = threadIdx.x % width, first = threadIdx.x / width;
  const int64_t c = (static_cast<int64_t>(blockIdx.x % tiles) * width + lane) * N;
  Vec<float, N> sum{};
  if (c < columns) {
    if (first == 0) sum = load<N>(partial + (static_cast<int64_t>(index) * 2 + 1) * columns + c);
#pragma unroll 4
    for (int i = index + 1 + first; i <= last; i += kJoinRows) {
      const Vec<float, N> more = load<N>(partial + static_cast<int64_t>(i) * 2 * columns + c);
#pragma unroll
      for (int j = 0; j < N; ++j) sum.at[j] += more.at[j];
    }
  }
  sums[first][lane] = sum;
  __syncthreads();
  if (first > 0 || c >= columns) return;
  W* to = dweight + static_cast<int64_t>(key) * columns + c;
  Vec<float, N> total = load_float<N>(to);
  for (int r = 0; r < kJoinRows; ++r) {
#pragma unroll
    for (int j = 0; j < N; ++j) total.at[j] += sums[r][lane].at[j];
  }
  store_float<N>(to, total);
}

// --- backward in any order ------------------------------------------------------------------------------------------

/// A thread adds N columns of one token to the row of its id. Bytes: dy once, and two accesses to dweight for each
/// token, most of them in L2; a very frequent id makes its row's additions wait for each other there.
template <int N, class T>
__global__ void __launch_bounds__(kThreads)
    atomic_scatter_kernel(int64_t n, int vocab, uint32_t columns, const int32_t* __restrict__ ids,
                          const T* __restrict__ dy, float* dweight) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * N;
  const int64_t token = i / columns;
  if (token >= n) return;
  const int32_t id = ids[token];
  if (id < 0 || id >= vocab) return;
  atomic_add<N>(dweight + static_cast<int64_t>(id) * columns + i % columns, load_float<N>(dy + i));
}

void embedding_backward_by_atomics(const Tensor& ids, const Tensor& dy, const Tensor& dweight) {
  const int64_t n = ids.numel(), vocab = dweight.size(0), columns = dweight.size(1);
  dispatch(dy.dtype(), "embedding_backward", [&](auto zero) {
    using T = decltype(zero);
    dispatch_width(columns % 8 == 0 && aligned16(as<T>(dy), as<float>(dweight)), [&](auto width) {
      launch({"embedding_backward (atomics)", bytes_of(dy, dweight)}, atomic_scatter_kernel<width(), T>,
             ceil_div(n * columns, kThreads * width()), kThreads, 0, n, vocab, columns, as<int32_t>(ids), as<T>(dy),
             as<float>(dweight));
    });
  });
}

}  // namespace

void embedding_forward(const Tensor& ids, const Tensor& weight, const Tensor& out) {
  const int64_t n = ids.numel(), columns = weight.size(1);
  if (n == 0 || columns == 0) return;
  dispatch(weight.dtype(), "embedding", [&](auto zero) {
    using T = decltype(zero);
    dispatch_width(columns % 8 == 0 && aligned16(as<T>(weight), as<T>(out)), [&](auto width) {
      launch({"embedding", 2 * out.bytes()}, gather_kernel<width(), T>, ceil_div(n * columns, kThreads * width()),
             kThreads, 0, n, weight.size(0), columns, as<int32_t>(ids), as<T>(weight), as<T>(out));
    });
  });
}

void embedding_backward(const Tensor& ids, const Tensor& dy, const Tensor& dweight, bool fast_atomics) {
  const int64_t n = ids.numel(), vocab = dweight.size(0), columns = dweight.size(1);
  if (n == 0 || columns == 0) return;
  check(n <= INT32_MAX - kThreads && vocab < INT32_MAX, "embedding", n, " tokens, ", vocab, " ids");
  if (fast_atomics && dweight.dtype() == DType::f32) return embedding_backward_by_atomics(ids, dy, dweight);
  const Device device = dy.device();
  const auto ints = [&](int64_t count) { return Tensor::empty({count}, DType::i32, device); };
  const Tensor key_in = ints(n), key_out = ints(n), token_in = ints(n), token_out = ints(n);
  launch("embedding_keys", keys_kernel, ceil_div(n, kThreads), kThreads, 0, n, vocab, as<int32_t>(ids),
         as<uint32_t>(key_in), as<int32_t>(token_in));

  const int bits = static_cast<int>(std::bit_width(static_cast<uint64_t>(vocab)));
  size_t bytes = 0;
  const auto sort = [&](void* scratch) {
    const Timed timed("embedding_sort");
    check_cuda(cub::DeviceRadixSort::SortPairs(scratch, bytes, as<const uint32_t>(key_in), as<uint32_t>(key_out),
                                               as<const int32_t>(token_in), as<int32_t>(token_out), static_cast<int>(n),
                                               0, bits, stream()),
               "cub::DeviceRadixSort::SortPairs");
  };
  sort(nullptr);  // asks for the size
  const Tensor scratch = ints(static_cast<int64_t>(bytes + 3) / 4 + 1);
  sort(scratch.raw());

  const int64_t chunks = ceil_div(n, kChunk);
  const Tensor partial = Tensor::empty({chunks, 2, columns}, DType::f32, device);
  dispatch(dy.dtype(), "embedding_backward", [&](auto dy_zero) {
    dispatch(dweight.dtype(), "embedding_backward", [&](auto dw_zero) {
      using T = decltype(dy_zero);
      using W = decltype(dw_zero);
      dispatch_width(columns % 8 == 0 && aligned16(as<T>(dy), as<W>(dweight)), [&](auto width) {
        const int threads =
            static_cast<int>(std::min<int64_t>(kScatterThreads, ceil_div(ceil_div(columns, width()), kWarp) * kWarp));
        const int64_t tiles = ceil_div(columns, threads * width());
        launch({"embedding_backward", bytes_of(dy, dweight)}, scatter_kernel<width(), T, W>, chunks * tiles, threads, 0,
               n, vocab, columns, tiles, as<uint32_t>(key_out), as<int32_t>(token_out), as<T>(dy), as<W>(dweight),
               as<float>(partial));
        launch("embedding_join", join_kernel<width(), W>, chunks * tiles, threads * kJoinRows, 0, n, vocab, columns,
               tiles, as<uint32_t>(key_out), as<float>(partial), as<W>(dweight));
      });
    });
  });
}

}  // namespace rw::cuda
