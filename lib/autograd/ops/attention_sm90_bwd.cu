// Attention backward on Hopper: wgmma fed by TMA, for bf16 and head dim 64 or 128.
//
// Both halves of the backward (attention.cuh) are one loop. A block holds 128 rows of a resident pair, a warpgroup 64
// of them, and walks tiles of the other pair, which a producer warpgroup keeps coming:
//
//                        resident r0, r1      walked w0, w1       sums, with P and dS in registers
//   keys kernel          K, V                 Q, dO               dK += dS^T Q,  dV += P^T dO
//   queries kernel       Q, dO                K, V                dQ += dS K
//
//   S = r0 w0^T   dP = r1 w1^T   P = exp2(c S - lse2)   dS = P (dP - delta)   sum1 += P w1   sum0 += dS w0
//
// (in the keys kernel S, P and dS are the transposes of what attention.cuh calls so). The accumulator of S has the
// layout of wgmma's register operand A, so P and dS never visit shared memory. In flight at once: dP under the
// exponentials, sum1 under dS, and sum0 under the next tile's S; the other warpgroup fills what is left.
#include "autograd/ops/attention_sm90.cuh"

namespace rw::cuda::attn {
namespace {

__device__ Tickets tickets;

/// Registers: sum0 (and sum1) D / 2 each, S and dP W / 2 each, P and dS W / 4 each.
template <int D_, bool keys_, int W_, int stages_>
struct Config {
  static constexpr int D = D_, W = W_, stages = stages_;
  static constexpr bool keys = keys_;  // resident: keys (sums dK, dV) or queries (sum dQ)
  static constexpr int WGS = 2, R = 64 * WGS, threads = 128 * (WGS + 1);
  static constexpr int r_bytes = R * D * 2, w_bytes = W * D * 2, r_panel = R * 128, w_panel = W * 128;
  static constexpr int consumer_registers = D == 64 ? 232 : 240, producer_registers = D == 64 ? 40 : 24;
  static constexpr int stage_bytes = 2 * w_bytes;
  static constexpr int shared_bytes = 1024 + 2 * r_bytes + stages * (stage_bytes + 2 * W * 4) + 256;
};

struct Arguments {
  Shape s;
  TileOrder order;
  const float *lse2, *delta;  // [B*H, pitch]
  int pitch;
};
/// Resident, walked and result tensors.
struct Maps {
  CUtensorMap r0, r1, w0, w1, sum0, sum1;
};

#ifdef ROPEWALK_SM90A

template <class C>
struct Shared {
  char *r0, *r1, *walked;                                   // walked: stages of w0, w1
  float* vectors;                                           // stages of lse2 [W], delta [W]; the keys kernel's
  Barrier *r_full, *r_empty, *w0_full, *w1_full, *w_empty;  // the last three have one per stage
  int* item;
  __device__ explicit Shared(char* base) {
    base = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(base) + 1023) & ~uintptr_t(1023));
    r0 = base;
    r1 = r0 + C::r_bytes;
    walked = r1 + C::r_bytes;
    vectors = reinterpret_cast<float*>(walked + C::stages * C::stage_bytes);
    r_full = reinterpret_cast<Barrier*>(vectors + C::stages * 2 * C::W);
    r_empty = r_full + 1;
    w0_full = r_full + 2;
    w1_full = w0_full + C::stages;
    w_empty = w1_full + C::stages;
    item = reinterpret_cast<int*>(w_empty + C::stages);
  }
  __device__ void init() const {
    barrier_init(r_full, 1);
    barrier_init(r_empty, C::WGS);
    for (int i = 0; i < C::stages; ++i) {
      barrier_init(w0_full + i, 1);
      barrier_init(w1_full + i, 1);
      barrier_init(w_empty + i, 4 * C::WGS);
    }
    barrier_init_done();
  }
};

/// Where a block's rows lie and what they walk: tiles [begin, end) of each of the heads [head, head + heads).
template <class C>
struct Place {
  int r0, b, h, begin, end, head, heads;  // r0: first resident row; h: resident head; begin, end in rows
  __device__ Place(const Arguments& a, int item) {
    const Shape& s = a.s;
    int tile, bh;
    a.order.locate(item, tile, bh);
    if constexpr (C::keys) {
      const int kv_heads = s.n_heads / s.group;
      b = bh / kv_heads;
      h = bh % kv_heads;
      r0 = tile * C::R;  // the first keys are seen by the most queries
      begin = s.first_query(r0) / C::W * C::W;
      end = s.tq;
      head = h * s.group;
      heads = s.group;
    } else {
      b = bh / s.n_heads;
      h = bh % s.n_heads;
      r0 = (a.order.tiles - 1 - tile) * C::R;
      begin = 0;
      end = s.keys_until(min(r0 + C::R, s.tq));
      head = h / s.group;
      heads = 1;
    }
  }
};

/// One thread: the resident pair of each item, and its walked tiles through the ring.
template <class C>
__device__ void produce(const Arguments& a, const Maps& maps, const Shared<C>& shared) {
  Ring<C::stages> ring;
  int r_parity = 1;
  for (int item = blockIdx.x; item >= 0;) {
    const int next = tickets.take(a.order.count());
    const Place<C> place(a, item);
    barrier_wait(shared.r_empty, r_parity);
    r_parity ^= 1;
    *shared.item = item;
    barrier_arrive_expect(shared.r_full, 2 * C::r_bytes);
    for (int w = 0; w < C::WGS; ++w) {
      tma_load_tile<C::D>(shared.r0 + w * 64 * 128, C::r_panel, maps.r0, place.h, place.r0 + 64 * w, place.b,
                          shared.r_full);
      tma_load_tile<C::D>(shared.r1 + w * 64 * 128, C::r_panel, maps.r1, place.h, place.r0 + 64 * w, place.b,
                          shared.r_full);
    }
    for (int h = place.head; h < place.head + place.heads; ++h)
      for (int t = place.begin; t < place.end; t += C::W) {
        char* to = shared.walked + ring.stage * C::stage_bytes;
        Barrier *full0 = shared.w0_full + ring.stage, *full1 = shared.w1_full + ring.stage;
        barrier_wait(shared.w_empty + ring.stage, ring.parity ^ 1);
        constexpr int vector_bytes = C::keys ? C::W * 4 : 0;
        barrier_arrive_expect(full0, C::w_bytes + vector_bytes);
        tma_load_tile<C::D>(to, C::w_panel, maps.w0, h, t, place.b, full0);
        barrier_arrive_expect(full1, C::w_bytes + vector_bytes);
        tma_load_tile<C::D>(to + C::w_bytes, C::w_panel, maps.w1, h, t, place.b, full1);
        if constexpr (C::keys) {
          const int64_t row = (int64_t(place.b) * a.s.n_heads + h) * a.pitch + t;
          float* vectors = shared.vectors + ring.stage * 2 * C::W;
          bulk_load(vectors, a.lse2 + row, vector_bytes, full0);
          bulk_load(vectors + C::W, a.delta + row, vector_bytes, full1);
        }
        ring.next();
      }
    item = next;
  }
  barrier_wait(shared.r_empty, r_parity);
  *shared.item = -1;
  barrier_arrive(shared.r_full);
}

/// P = exp2(c S - lse2). Rounding can leave the exponent above 0 at huge scores; P never exceeds 1.
__device__ float probability(float score, float c, float lse2) { return exp2_fast(fminf(fmaf(score, c, -lse2), 0.f)); }

template <class C>
__device__ void consume(const Arguments& a, const Maps& maps, const Shared<C>& shared) {
  constexpr int D = C::D, W = C::W;
  const int wg = threadIdx.x / 128, lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  const Shape& s = a.s;
  const float c = s.scale * kLog2e;
  char *rows0 = shared.r0 + wg * 64 * 128, *rows1 = shared.r1 + wg * 64 * 128;  // this warpgroup's
  const uint64_t r0 = descriptor(rows0, 0), r1 = descriptor(rows1, 0);
  const uint64_t walked = descriptor(shared.walked, C::w_panel);

  Ring<C::stages> ring;
  for (int r_parity = 0;; r_parity ^= 1) {
    barrier_wait(shared.r_full, r_parity);
    const int item = *shared.item;
    if (item < 0) break;
    const Place<C> place(a, item);
    const int first = place.r0 + wg * 64,
              mine = first + warp * 16 + lane / 4;  // rows of this warpgroup, of this thread (and 8 on)

    float sum0[D / 2], sum1[C::keys ? D / 2 : 1], sc[W / 2], dp[W / 2];
    unsigned packed_p[C::keys ? W / 4 : 1], packed_ds[W / 4];
    float row_lse2[2], row_delta[2];
    if constexpr (!C::keys) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int64_t row = int64_t(place.b * s.n_heads + place.h) * a.pitch + mine + 8 * half;
        row_lse2[half] = a.lse2[row];
        row_delta[half] = a.delta[row];
      }
    }
#pragma unroll
    for (int i = 0; i < D / 2; ++i) sum0[i] = 0.f;
    if constexpr (C::keys) {
#pragma unroll
      for (int i = 0; i < D / 2; ++i) sum1[i] = 0.f;
    }
    int unreleased = -1;  // stage that the sum in flight still reads
    const auto release = [&](int stage) {
      if (stage >= 0 && lane == 0) barrier_arrive(shared.w_empty + stage);
    };

    for (int h = 0; h < place.heads; ++h)
      for (int t = place.begin; t < place.end; t += W) {
        const int stage = ring.stage, parity = ring.parity;
        ring.next();
        barrier_wait(shared.w0_full + stage, parity);
        const bool nothing = s.causal && (C::keys ? t + W - 1 + s.offset < first : t > first + 63 + s.offset);
        if (nothing) {  // these 64 rows and this tile do not meet
          barrier_wait(shared.w1_full + stage, parity);
          release(stage);
          continue;
        }
        const uint64_t w0 = advanced(walked, stage * C::stage_bytes), w1 = advanced(w0, C::w_bytes);
        const float* vectors = shared.vectors + stage * 2 * W + lane % 4 * 2;
        dot_rows<D, W>(sc, r0, C::r_panel, w0, C::w_panel);
        wgmma_commit();
        barrier_wait(shared.w1_full + stage, parity);
        dot_rows<D, W>(dp, r1, C::r_panel, w1, C::w_panel);
        wgmma_commit();
        wgmma_wait<1>();
        arrived(sc);
        release(unreleased);

        if (C::keys ? s.causal && first + 63 > t + s.offset : s.needs_mask(first, t + W)) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            // this row sees columns [low, high) of the tile
            const int row = mine + 8 * half, column0 = t + lane % 4 * 2;
            const int low = C::keys ? row - s.offset - column0 : 0,
                      high = C::keys ? W : s.keys_until(row + 1) - column0;
#pragma unroll
            for (int j = 0; j < W / 8; ++j)
#pragma unroll
              for (int e = 0; e < 2; ++e)
                if (C::keys ? 8 * j + e < low : 8 * j + e >= high) sc[4 * j + 2 * half + e] = -INFINITY;
          }
        }
#pragma unroll
        for (int j = 0; j < W / 8; ++j) {
          float2 l;
          if constexpr (C::keys) l = *reinterpret_cast<const float2*>(vectors + 8 * j);
#pragma unroll
          for (int e = 0; e < 4; ++e)
            sc[4 * j + e] = probability(sc[4 * j + e], c, C::keys ? (e % 2 ? l.y : l.x) : row_lse2[e / 2]);
          if constexpr (C::keys) {
            packed_p[2 * j] = pack(sc[4 * j], sc[4 * j + 1]);
            packed_p[2 * j + 1] = pack(sc[4 * j + 2], sc[4 * j + 3]);
          }
        }
        if constexpr (C::keys) {
          add_rows<D, W>(sum1, packed_p, w1);
          wgmma_commit();
          wgmma_wait<1>();
        } else {
          wgmma_wait<0>();
        }
        arrived(dp);
#pragma unroll
        for (int j = 0; j < W / 8; ++j) {
          float2 d;
          if constexpr (C::keys) d = *reinterpret_cast<const float2*>(vectors + W + 8 * j);
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int i = 4 * j + 2 * half;
            float2 p = {sc[i], sc[i + 1]};
            if constexpr (C::keys && D == 128) {  // as rounded for sum1: the f32 ones would not fit in the registers
              p.x = __uint_as_float(packed_p[i / 2] << 16);
              p.y = __uint_as_float(packed_p[i / 2] & 0xffff0000u);
            }
            packed_ds[2 * j + half] = pack(p.x * (dp[i] - (C::keys ? d.x : row_delta[half])),
                                           p.y * (dp[i + 1] - (C::keys ? d.y : row_delta[half])));
          }
        }
        add_rows<D, W>(sum0, packed_ds, w0);
        wgmma_commit();
        if constexpr (C::keys) wgmma_wait<1>();  // sum1 is done, which frees P's registers before the next S needs them
        unreleased = stage;
      }

    wgmma_wait<0>();
    arrived(sum0);
    release(unreleased);
    // The sums leave through this warpgroup's resident rows, which all its warps are done with.
    named_sync(8 + wg, 128);
    stage_rows<D>(reinterpret_cast<bf*>(rows0), C::r_panel, sum0, s.scale, s.scale);
    if constexpr (C::keys) {
      arrived(sum1);
      stage_rows<D>(reinterpret_cast<bf*>(rows1), C::r_panel, sum1, 1.f, 1.f);
    }
    fence_async();
    named_sync(8 + wg, 128);
    if (threadIdx.x % 128 == 0) {
      tma_store_tile<D>(maps.sum0, place.h, first, place.b, rows0, C::r_panel);
      if constexpr (C::keys) tma_store_tile<D>(maps.sum1, place.h, first, place.b, rows1, C::r_panel);
      tma_store_wait();
      barrier_arrive(shared.r_empty);
    }
  }
}

#endif  // ROPEWALK_SM90A

template <class C>
__global__ void __launch_bounds__(C::threads, 1)
    backward_kernel(const __grid_constant__ Arguments a, const __grid_constant__ Maps maps) {
#ifdef ROPEWALK_SM90A
  extern __shared__ char dynamic_shared[];
  const Shared<C> shared(dynamic_shared);
  if (threadIdx.x == 0) shared.init();
  __syncthreads();
  if (threadIdx.x / 128 == C::WGS) {
    registers_keep<C::producer_registers>();
    if (threadIdx.x % 128 == 0) produce<C>(a, maps, shared);
  } else {
    registers_take<C::consumer_registers>();
    consume<C>(a, maps, shared);
  }
#endif
}

template <class C>
void launch_backward(const char* name, const AttentionShape& shape, const RowVectors& rows, const HeadView& r0,
                     const HeadView& r1, const HeadView& w0, const HeadView& w1, const HeadView& sum0,
                     const HeadView& sum1) {
  Arguments a{Shape(shape), {}, rows.lse2.data<float>(), rows.delta.data<float>(), rows.pitch};
  const int64_t b = shape.batch, r_heads = C::keys ? shape.n_kv_heads : shape.n_heads,
                w_heads = C::keys ? shape.n_heads : shape.n_kv_heads;
  const int64_t r_length = C::keys ? shape.k_length : shape.q_length,
                w_length = C::keys ? shape.q_length : shape.k_length;
  const int64_t walked_bytes = 4 * w_length * C::D * (C::keys ? a.s.group : 1);
  a.order = tile_order(ceil_div(static_cast<int>(r_length), C::R), static_cast<int>(b * r_heads),
                       C::keys ? 1 : a.s.group, walked_bytes);
  const auto resident = [&](const HeadView& v) { return tensor_map(v, b, r_length, r_heads, C::D, 64); };
  const auto walk = [&](const HeadView& v) { return tensor_map(v, b, w_length, w_heads, C::D, C::W); };
  launch(name, backward_kernel<C>, std::min(multiprocessors(), a.order.count()), C::threads, C::shared_bytes, a,
         Maps{resident(r0), resident(r1), walk(w0), walk(w1), resident(sum0), resident(sum1)});
}

}  // namespace

/// dK, dV: 8 B H Tq Tk D FLOPs, dQ: 6 (half if causal); each walked tile crosses L2 once per 128 resident rows.
void sm90_backward(const AttentionShape& s, const HeadView& q, const HeadView& k, const HeadView& v,
                   const RowVectors& rows, const HeadView& d_o, const HeadView& dq, const HeadView& dk,
                   const HeadView& dv) {
  const auto run = [&]<int D, int keys_walk, int queries_walk>() {
    launch_backward<Config<D, true, keys_walk, 3>>("attention backward dk, dv (sm_90)", s, rows, k, v, q, d_o, dk, dv);
    launch_backward<Config<D, false, queries_walk, 2>>("attention backward dq (sm_90)", s, rows, q, d_o, k, v, dq, dq);
  };
  if (s.head_dim == 64) return run.template operator()<64, 64, 128>();
  run.template operator()<128, 64, 64>();
}

}  // namespace rw::cuda::attn
