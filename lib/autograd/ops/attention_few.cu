// Attention forward of a few queries over many keys: generation over a cache. attention_stretch.cuh has the parts.
#include <algorithm>

#include "autograd/ops/attention_stretch.cuh"

namespace rw::cuda::attn {

using namespace stretch;

namespace {

constexpr int kMostRows = 64;     // queries of a kv head's group: with more, the other paths' tiles are full enough
constexpr int kFewestKeys = 256;  // with fewer, there is little to cut
constexpr int kShortest = 128;    // keys of a stretch at least: adding up costs as much as some dozens

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

/// A block takes one stretch for one unit: O itself if there is one stretch, else its part, to partial
/// [units,ROWS,stretches,D+2].
template <class T, int WIDE>
__global__ void __launch_bounds__(kThreads, (kTensorCores<T, WIDE> && WIDE == 128) ? 1 : 2)
    few_kernel(Shape s, Heads<const T> q, Heads<const T> k, Heads<const T> v, Heads<T> o, float* lse, float* partial,
               int parts, int tokens) {
  constexpr int ROWS = kRows<T, WIDE>;
  extern __shared__ float4 shared[];
  __shared__ OfWarps<ROWS> of;
  float* of_warp = reinterpret_cast<float*>(shared);
  const int stretches = gridDim.x, unit = blockIdx.y + gridDim.y * blockIdx.z;
  const Unit u = unit_of(s, unit, parts);
  const Rows rows = rows_of_block<ROWS>(s, u.part);
  const int begin = blockIdx.x * tokens, end = min(s.tk, begin + tokens);
  const Keys<T> keys{
      k.head(u.batch, u.kv, s.head_dim), v.head(u.batch, u.kv, s.head_dim), k.row, v.row, begin, end, s.head_dim};
  walk_keys<T, WIDE>(
      keys, s.scale * kLog2e,
      [&](int r, int column) {
        if (r >= rows.count || column >= s.head_dim) return Vec<float, 8>{};
        const T* head = q.head(u.batch, u.kv * s.group + rows.head(r), s.head_dim);
        return load_float<8>(head + rows.query(r) * q.row + column);
      },
      [&](int r) { return s.keys_until(rows.query(r) + 1); }, of_warp, of);
  add_warps<WIDE>(of_warp, of, rows.count, s.head_dim, [&](int r, int i, float2 value, float top, float sum) {
    if (stretches == 1) {
      write_o(s, o, u, rows, r, i, {value.x / sum, value.y / sum});
      if (i == 0) write_lse(s, lse, u, rows, r, top, sum);
    } else {
      float* row = partial + (int64_t(unit) * ROWS + r) * stretches * (s.head_dim + 2);
      keep(row, blockIdx.x, s.head_dim, i, value, top, sum);
    }
  });
}

constexpr int kAddThreads = 64;
/// A row of O from its stretches, by a block.
template <class T, int ROWS>
__global__ void __launch_bounds__(kAddThreads)
    add_kernel(Shape s, const float* partial, Heads<T> o, float* lse, int parts, int stretches) {
  __shared__ float weight[1][kMaxStretches];
  const int unit = blockIdx.x, row = blockIdx.y;
  const Unit u = unit_of(s, unit, parts);
  const Rows rows = rows_of_block<ROWS>(s, u.part);
  if (row >= rows.count) return;
  add_stretches<kAddThreads, 32>(
      partial + (int64_t(unit) * ROWS + row) * stretches * (s.head_dim + 2), 1, stretches, stretches, s.head_dim,
      weight, [&](int, int i, float2 value) { write_o(s, o, u, rows, row, i, value); },
      [&](int, float top, float sum) { write_lse(s, lse, u, rows, row, top, sum); });
}

/// 4 B H Tq Tk D FLOPs; K and V are read once per 8 rows (4 in f32), from L2 but for the first.
template <class T, int WIDE>
void launch_few(const AttentionShape& shape, const HeadView& q, const HeadView& k, const HeadView& v, const HeadView& o,
                float* lse) {
  constexpr int ROWS = kRows<T, WIDE>, bytes = kWarpFloats<T, WIDE> * 4;
  const Shape s(shape);
  const int64_t parts = ceil_div(s.tq * s.group, ROWS), units = shape.batch * shape.n_kv_heads * parts;
  // Enough stretches to fill the card once; if that would leave a part of it idle, four times.
  const int64_t places = resident_blocks("attention (few queries)", few_kernel<T, WIDE>, kThreads, bytes);
  const int64_t blocks = units * 4 <= places ? places : 4 * places;
  const int64_t most = std::min<int64_t>(kMaxStretches, rw::cuda::ceil_div(s.tk, kShortest));
  const int tokens =
      ceil_div(static_cast<int>(rw::cuda::ceil_div(s.tk, std::clamp<int64_t>(blocks / units, 1, most))), 16) * 16;
  const int stretches = ceil_div(s.tk, tokens);
  const Tensor partial =
      stretches > 1 ? Tensor::empty({units, ROWS, stretches, s.head_dim + 2}, DType::f32, q.owner->device()) : Tensor();
  launch({"attention forward (few queries)", work_of(shape, 2, 2, 2, sizeof(T))}, few_kernel<T, WIDE>,
         Grid(stretches, shape.n_kv_heads * parts, shape.batch), kThreads, bytes, s, Heads<const T>(q),
         Heads<const T>(k), Heads<const T>(v), Heads<T>(o), lse, as<float>(partial), static_cast<int>(parts), tokens);
  if (stretches == 1) return;
  launch({"attention forward (few queries), stretches", partial.bytes()}, add_kernel<T, ROWS>, Grid(units, ROWS),
         kAddThreads, 0, s, as<float>(partial), Heads<T>(o), lse, static_cast<int>(parts), stretches);
}

template <class T>
void few_in(const AttentionShape& s, const HeadView& q, const HeadView& k, const HeadView& v, const HeadView& o,
            float* lse) {
  with_wide(s.head_dim, [&](auto wide) { launch_few<T, wide>(s, q, k, v, o, lse); });
}

}  // namespace

bool few_takes(const AttentionShape& s, std::initializer_list<const HeadView*> views) {
  if (s.head_dim % 8 != 0 || s.k_length < kFewestKeys) return false;
  if (s.q_length * (s.n_heads / s.n_kv_heads) > kMostRows || (s.causal && s.q_length > s.k_length)) return false;
  return std::all_of(views.begin(), views.end(), [](const HeadView* v) { return by_eights(*v); });
}

void few_forward(const AttentionShape& s, const HeadView& q, const HeadView& k, const HeadView& v, const HeadView& o,
                 float* lse) {
  if (q.owner->dtype() == DType::f32) return few_in<float>(s, q, k, v, o, lse);
  few_in<b16>(s, q, k, v, o, lse);
}

}  // namespace rw::cuda::attn
