// Attention forward of few queries over many keys, as in generation over a cache: the kernels that split the keys.
// attention_split_kv.cuh has their parts.
#include <algorithm>

#include "autograd/ops/attention_split_kv.cuh"

namespace rw::cuda::attn {

using namespace split_kv;

namespace {

constexpr int kMostRows = 64;    // queries of a kv head's group: with more, the other paths' tiles are full enough
constexpr int kLeastKeys = 256;  // with fewer, there is little to split
constexpr int kShortest = 128;   // keys of a split at least: combining costs as much as some dozens

/// Query heads of one kv head times queries: row r is query r / group of head r % group.
struct Rows {
  int first, count, group;
  __device__ int query(int r) const { return (first + r) / group; }
  __device__ int head(int r) const { return (first + r) % group; }
};
template <int ROWS>
__device__ Rows rows_of_block(const Shape& s, int part) {
  return {part * ROWS, min(ROWS, s.tq * s.group - part * ROWS), s.group};
}
/// Units are (sample, kv head, part of its rows).
struct Unit {
  int batch, kv, part;
};
__device__ inline Unit unit_of(const Shape& s, int unit, int parts) {
  const int kv_heads = s.n_heads / s.group;
  return {unit / parts / kv_heads, unit / parts % kv_heads, unit % parts};
}

__device__ inline void write_lse(const Shape& s, float* lse, const Unit& u, const Rows& rows, int r, float top,
                                 float sum) {
  if (!lse) return;
  const int64_t head = int64_t(u.batch) * s.n_heads + u.kv * s.group + rows.head(r);
  lse[head * s.tq + rows.query(r)] = kLn2 * (top + log2f(sum));
}
template <class T>
__device__ void write_o(const Shape& s, const Heads<T>& o, const Unit& u, const Rows& rows, int r, int i,
                        float2 value) {
  T* head = o.head(u.batch, u.kv * s.group + rows.head(r), s.head_dim);
  store_float<2>(head + rows.query(r) * o.row + i, Vec<float, 2>{value.x, value.y});
}

/// A block takes one split for one unit. It writes O itself if there is one split, else its part to partial
/// [units,ROWS,splits,D+2]. Splits begin at the first key that any query sees.
template <class T, int WIDE>
__global__ void __launch_bounds__(kThreads, (kTensorCores<T, WIDE> && WIDE == 128) ? 1 : 2)
    split_kernel(Shape s, Heads<const T> q, Heads<const T> k, Heads<const T> v, Heads<T> o, float* lse, float* partial,
                 int parts, int tokens) {
  constexpr int ROWS = kRows<T, WIDE>;
  extern __shared__ float4 shared[];
  __shared__ OfWarps<ROWS> of;
  float* of_warp = reinterpret_cast<float*>(shared);
  const int splits = gridDim.x, unit = blockIdx.y + gridDim.y * blockIdx.z;
  const Unit u = unit_of(s, unit, parts);
  const Rows rows = rows_of_block<ROWS>(s, u.part);
  const int begin = s.first_key(0) + blockIdx.x * tokens, end = min(s.tk, begin + tokens);
  const Keys<T> keys{
      k.head(u.batch, u.kv, s.head_dim), v.head(u.batch, u.kv, s.head_dim), k.row, v.row, begin, end, s.head_dim};
  walk_keys<T, WIDE>(
      keys, ScoreScale{s.scale * kLog2e, s.cap * kLog2e},
      [&](int r, int column) {
        if (r >= rows.count || column >= s.head_dim) return Vec<float, 8>{};
        const T* head = q.head(u.batch, u.kv * s.group + rows.head(r), s.head_dim);
        return load_float<8>(head + rows.query(r) * q.row + column);
      },
      [&](int r) {
        return Range{s.first_key(rows.query(r)), s.keys_until(rows.query(r) + 1)};
      },
      of_warp, of);
  combine_warps<WIDE>(of_warp, of, rows.count, s.head_dim, [&](int r, int i, float2 value, float top, float sum) {
    if (splits == 1) {
      write_o(s, o, u, rows, r, i, {value.x / sum, value.y / sum});
      if (i == 0) write_lse(s, lse, u, rows, r, top, sum);
    } else {
      float* row = partial + (int64_t(unit) * ROWS + r) * splits * (s.head_dim + 2);
      keep(row, blockIdx.x, s.head_dim, i, value, top, sum);
    }
  });
}

constexpr int kCombineThreads = 64;
/// A row of O from its splits, by a block.
template <class T, int ROWS>
__global__ void __launch_bounds__(kCombineThreads)
    combine_kernel(Shape s, const float* partial, Heads<T> o, float* lse, int parts, int splits) {
  __shared__ float weight[1][kMaxSplits];
  const int unit = blockIdx.x, row = blockIdx.y;
  const Unit u = unit_of(s, unit, parts);
  const Rows rows = rows_of_block<ROWS>(s, u.part);
  if (row >= rows.count) return;
  combine_splits<kCombineThreads, 32>(
      partial + (int64_t(unit) * ROWS + row) * splits * (s.head_dim + 2), 1, splits, splits, s.head_dim, weight,
      [&](int, int i, float2 value) { write_o(s, o, u, rows, row, i, value); },
      [&](int, float top, float sum) { write_lse(s, lse, u, rows, row, top, sum); });
}

/// 4 B H Tq Tk D FLOPs; K and V are read once per 8 rows (4 in f32), from L2 but for the first.
template <class T, int WIDE>
void launch_split(const AttentionShape& shape, const HeadView& q, const HeadView& k, const HeadView& v,
                  const HeadView& o, float* lse) {
  constexpr int ROWS = kRows<T, WIDE>, bytes = kWarpFloats<T, WIDE> * 4;
  const Shape s(shape);
  const int keys = s.tk - s.first_key(0);
  const int64_t parts = ceil_div(s.tq * s.group, ROWS), units = shape.batch * shape.n_kv_heads * parts;
  // Enough splits to fill the card once; if that would leave a part of it idle, four times.
  const int64_t places = resident_blocks("attention (split-KV)", split_kernel<T, WIDE>, kThreads, bytes);
  const int64_t blocks = units * 4 <= places ? places : 4 * places;
  const int64_t most = std::min<int64_t>(kMaxSplits, rw::cuda::ceil_div(keys, kShortest));
  const int tokens =
      ceil_div(static_cast<int>(rw::cuda::ceil_div(keys, std::clamp<int64_t>(blocks / units, 1, most))), 16) * 16;
  const int splits = ceil_div(keys, tokens);
  const Tensor partial =
      splits > 1 ? Tensor::empty({units, ROWS, splits, s.head_dim + 2}, DType::f32, q.owner->device()) : Tensor();
  launch({"attention forward (split-KV)", work_of(shape, 2, 2, 2, sizeof(T))}, split_kernel<T, WIDE>,
         Grid(splits, shape.n_kv_heads * parts, shape.batch), kThreads, bytes, s, Heads<const T>(q), Heads<const T>(k),
         Heads<const T>(v), Heads<T>(o), lse, as<float>(partial), static_cast<int>(parts), tokens);
  if (splits == 1) return;
  launch({"attention forward (split-KV), combine", partial.bytes()}, combine_kernel<T, ROWS>, Grid(units, ROWS),
         kCombineThreads, 0, s, as<float>(partial), Heads<T>(o), lse, static_cast<int>(parts), splits);
}

template <class T>
void split_in(const AttentionShape& s, const HeadView& q, const HeadView& k, const HeadView& v, const HeadView& o,
              float* lse) {
  with_wide(s.head_dim, [&](auto wide) { launch_split<T, wide>(s, q, k, v, o, lse); });
}

}  // namespace

bool split_kv_takes(const AttentionShape& s, std::initializer_list<const HeadView*> views) {
  if (s.head_dim % 8 != 0 || s.k_length - Shape(s).first_key(0) < kLeastKeys) return false;
  if (s.q_length * (s.n_heads / s.n_kv_heads) > kMostRows || (s.causal && s.q_length > s.k_length)) return false;
  return std::all_of(views.begin(), views.end(), [](const HeadView* v) { return by_eights(*v); });
}

void split_kv_forward(const AttentionShape& s, const HeadView& q, const HeadView& k, const HeadView& v,
                      const HeadView& o, float* lse) {
  if (q.owner->dtype() == DType::f32) return split_in<float>(s, q, k, v, o, lse);
  split_in<b16>(s, q, k, v, o, lse);
}

}  // namespace rw::cuda::attn
