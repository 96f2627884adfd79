// Attention on the GPU: the choice of a path, and what the backward of every path begins and may end with.
#include <cmath>

#include "autograd/ops/attention.cuh"
#include "tensor/error.h"

namespace rw::cuda {
namespace attn {
namespace {

constexpr int kThreads = 256;

/// delta and lse2 (see RowVectors). Eight lanes share a row and read it 8 elements at a time where alignment allows.
template <class T, bool vector>
__global__ void __launch_bounds__(256) delta_kernel(Shape s, Heads<const T> o, Heads<const T> d_o, const float* lse,
                                                    float* delta, float* lse2, int pitch) {
  const int lane = threadIdx.x % 8, blocks_per_head = pitch / 32;
  const int bh = blockIdx.x / blocks_per_head, row = blockIdx.x % blocks_per_head * 32 + threadIdx.x / 8;
  float sum = 0.f;
  if (row < s.tq) {
    const int64_t b = bh / s.n_heads, h = bh % s.n_heads;
    const T* x = o.head(b, h, s.head_dim) + row * o.row;
    const T* y = d_o.head(b, h, s.head_dim) + row * d_o.row;
    if constexpr (vector) {
      for (int d = lane * 8; d < s.head_dim; d += 64) {
        const uint4 a = *reinterpret_cast<const uint4*>(x + d), c = *reinterpret_cast<const uint4*>(y + d);
        const __nv_bfloat162* pa = reinterpret_cast<const __nv_bfloat162*>(&a);
        const __nv_bfloat162* pc = reinterpret_cast<const __nv_bfloat162*>(&c);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float2 u = __bfloat1622float2(pa[e]), w = __bfloat1622float2(pc[e]);
          sum = fmaf(u.x, w.x, sum);
          sum = fmaf(u.y, w.y, sum);
        }
      }
    } else {
      for (int d = lane; d < s.head_dim; d += 8) sum = fmaf(to_float(x[d]), to_float(y[d]), sum);
    }
  }
  const unsigned group = 0xffu << (threadIdx.x / 8 % 4 * 8);
  for (int k = 4; k > 0; k /= 2) sum += __shfl_xor_sync(group, sum, k);
  if (lane != 0) return;
  delta[int64_t(bh) * pitch + row] = sum;
  lse2[int64_t(bh) * pitch + row] = row < s.tq ? lse[int64_t(bh) * s.tq + row] * kLog2e : INFINITY;
}

/// dq = scale * sums: N elements a thread. Bytes: 4 in, 2 or 4 out.
template <int N, class T>
__global__ void __launch_bounds__(kThreads) finish_dq_kernel(Shape s, const float* __restrict__ sums, Heads<T> dq) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * N;
  const int64_t line = i / s.head_dim, bh = line / s.tq;
  if (bh >= int64_t(s.batch) * s.n_heads) return;
  Vec<float, N> x = load<N>(sums + i);
#pragma unroll
  for (int j = 0; j < N; ++j) x.at[j] *= s.scale;
  T* head = dq.head(bh / s.n_heads, bh % s.n_heads, s.head_dim);
  store_float<N>(head + (line - bh * s.tq) * dq.row + (i - line * s.head_dim), x);
}

Path choose(const AttentionShape& s, std::initializer_list<const HeadView*> views, bool forward) {
  const Path limit = s.paths.fastest;
  if (forward && limit >= Path::split_kv && split_kv_takes(s, views)) return Path::split_kv;
  if (limit >= Path::sm90 && sm90_takes(s, views)) return Path::sm90;
  if (limit >= Path::mma && mma_takes(s, views)) return Path::mma;
  return Path::general;
}

void check_arguments(const AttentionShape& s, const HeadView& q) {
  check(s.head_dim >= 1 && s.head_dim <= 256, "attention", "on the GPU head_dim must be 1 to 256, got ", s.head_dim);
  check(q.owner->dtype() == DType::f32 || q.owner->dtype() == DType::bf16, "attention",
        "on the GPU q must be f32 or bf16, got ", q.owner->dtype());
  check(s.n_heads <= 65535 && s.batch <= 65535, "attention", "on the GPU at most 65535 heads and samples");
  check(s.q_length < (1 << 30) && s.k_length < (1 << 30), "attention", "on the GPU at most 2^30 tokens");
  // Blocks are counted in 32 bits: the smallest tile has 32 rows.
  const int64_t rows = std::max<int64_t>({s.q_length, s.k_length, kRowPad});
  check(s.batch * s.n_heads <= INT32_MAX / rw::cuda::ceil_div(rows, 32), "attention", s.batch, " samples of ", rows,
        " tokens and ", s.n_heads, " heads in one call");
}

}  // namespace

void announce_view(const HeadView& view, int64_t batch, int64_t length, int64_t heads, int64_t head_dim) {
  const int64_t element = size_of(view.owner->dtype());
  for (int64_t b = 0; b < batch; ++b) {
    announce_write(static_cast<char*>(view.data) + b * view.batch * element, heads * head_dim * element, length,
                   view.row * element);
  }
}

/// Reads O and dO once: 2 B H T D elements in, 8 B H T bytes out.
RowVectors prepare_backward(const AttentionShape& shape, const HeadView& o, const Tensor& lse, const HeadView& d_o) {
  const Shape s(shape);
  RowVectors rows;
  rows.pitch = ceil_div(s.tq, kRowPad) * kRowPad;
  const Device device = o.owner->device();
  const int64_t heads = shape.batch * shape.n_heads;
  rows.delta = Tensor::empty({heads, rows.pitch}, DType::f32, device);
  rows.lse2 = Tensor::empty({heads, rows.pitch}, DType::f32, device);
  const Grid grid(heads * (rows.pitch / 32));
  const Label label("attention backward, delta", work_of(shape, 0, 2, 0, size_of(o.owner->dtype())).bytes);
  float *delta = rows.delta.data<float>(), *lse2 = rows.lse2.data<float>();
  if (o.owner->dtype() == DType::f32) {
    launch(label, delta_kernel<float, false>, grid, 256, 0, s, Heads<const float>(o), Heads<const float>(d_o),
           lse.data<float>(), delta, lse2, rows.pitch);
  } else {
    using bf = __nv_bfloat16;
    const auto kernel =
        s.head_dim % 8 == 0 && by_eights(o) && by_eights(d_o) ? delta_kernel<bf, true> : delta_kernel<bf, false>;
    launch(label, kernel, grid, 256, 0, s, Heads<const bf>(o), Heads<const bf>(d_o), lse.data<float>(), delta, lse2,
           rows.pitch);
  }
  return rows;
}

Tensor dq_workspace(const AttentionShape& s, Device device) {
  const Tensor sums = Tensor::empty({s.batch * s.n_heads, s.q_length, s.head_dim}, DType::f32, device);
  sums.zero();
  return sums;
}

void finish_dq(const AttentionShape& shape, const Tensor& sums, const HeadView& dq) {
  const bool wide = shape.head_dim % 8 == 0 && by_eights(dq);
  dispatch(dq.owner->dtype(), "attention", [&](auto zero) {
    using T = decltype(zero);
    dispatch_width(wide, [&](auto width) {
      launch({"attention backward, dq to its dtype", sums.bytes() + sums.numel() * static_cast<int64_t>(sizeof(T))},
             finish_dq_kernel<width(), T>, Grid(rw::cuda::ceil_div(sums.numel(), kThreads * width())), kThreads, 0,
             Shape(shape), sums.data<float>(), Heads<T>(dq));
    });
  });
}

}  // namespace attn

void attention_forward(const AttentionShape& s, const HeadView& q, const HeadView& k, const HeadView& v,
                       const HeadView& o, const Tensor& lse) {
  attn::check_arguments(s, q);
  if (s.batch == 0 || s.q_length == 0) return;
  float* l = lse.defined() ? lse.data<float>() : nullptr;
  switch (attn::choose(s, {&q, &k, &v, &o}, true)) {
    case attn::Path::split_kv:
      return attn::split_kv_forward(s, q, k, v, o, l);
    case attn::Path::sm90:
      return attn::sm90_forward(s, q, k, v, o, l);
    case attn::Path::mma:
      return attn::mma_forward(s, q, k, v, o, l);
    case attn::Path::general:
      break;
  }
  attn::general_forward(s, q, k, v, o, l);
}

void attention_backward(const AttentionShape& s, const HeadView& q, const HeadView& k, const HeadView& v,
                        const HeadView& o, const Tensor& lse, const HeadView& d_o, const HeadView& dq,
                        const HeadView& dk, const HeadView& dv) {
  attn::check_arguments(s, q);
  if (s.batch == 0 || s.q_length == 0) return;
  const attn::RowVectors rows = attn::prepare_backward(s, o, lse, d_o);
  switch (attn::choose(s, {&q, &k, &v, &d_o, &dq, &dk, &dv}, false)) {
    case attn::Path::sm90:
      return attn::sm90_backward(s, q, k, v, rows, d_o, dq, dk, dv);
    case attn::Path::mma:
      return attn::mma_backward(s, q, k, v, rows, d_o, dq, dk, dv);
    case attn::Path::split_kv:  // forward only
    case attn::Path::general:
      break;
  }
  attn::general_backward(s, q, k, v, lse, rows, d_o, dq, dk, dv);
}

}  // namespace rw::cuda
