// Attention backward on Hopper: wgmma fed by TMA, for bf16 and head dims up to 64 or 128, padded with zeros.
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
#include "autograd/ops/attention_sm90_bwd.cuh"

namespace rw::cuda::attn {
namespace {

__device__ Tickets tickets;

/// Registers: sum0 (and sum1) D / 2 each, S and dP W / 2 each, P and dS W / 4 each. Where they allow it, S
/// runs one tile ahead in a second buffer, and the resident pair is read from registers (which halves the
/// traffic of S and dP in shared memory). The keys kernel reads it from shared memory: from registers, ptxas 13.0 let P
/// overwrite it within the loop, without a warning. Run `attention_bench check` with every new compiler. The resident
/// pair has two slots, so that an item's loads and the previous item's results do not wait for each other.
template <int D_, bool keys_, int W_, int stages_, bool ahead_ = true, bool windowed_ = false>
struct Config {
  static constexpr bool windowed = windowed_;  // an instance of its own: a window's mask costs registers
  static constexpr int D = D_, W = W_, stages = stages_;
  static constexpr bool keys = keys_;  // resident: keys (sums dK, dV) or queries (sum dQ)
  static constexpr bool ahead = ahead_ && !(D == 128 && keys), in_registers = D == 64 && !keys;
  // dS from P as rounded for sum1, where P in f32 would not fit in the registers too
  static constexpr bool rounded = keys && (D == 128 || ahead);
  static constexpr int WGS = 2, R = 64 * WGS, threads = 128 * (WGS + 1);
  static constexpr int r_bytes = R * D * 2, w_bytes = W * D * 2, r_panel = R * 128, w_panel = W * 128;
  static constexpr int consumer_registers = rounded ? 240 : 232, producer_registers = rounded ? 24 : 40;
  static constexpr int slot_bytes = 2 * r_bytes, stage_bytes = 2 * w_bytes;
  static constexpr int shared_bytes = 2 * slot_bytes + stages * (stage_bytes + 2 * W * 4) + 256;
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
  char *resident, *walked;               // slots of r0, r1; stages of w0, w1
  float* vectors;                        // stages of lse2 [W], delta [W]; the keys kernel's
  Barrier *r_full, *r_empty, *sum_full;  // per slot
  Barrier *w0_full, *w1_full, *w_empty;  // per stage
  int* item;                             // per slot; -1: no more
  __device__ explicit Shared(char* base) {
    resident = base;
    walked = resident + 2 * C::slot_bytes;
    vectors = reinterpret_cast<float*>(walked + C::stages * C::stage_bytes);
    r_full = reinterpret_cast<Barrier*>(vectors + C::stages * 2 * C::W);
    r_empty = r_full + 2;
    sum_full = r_full + 4;
    w0_full = r_full + 6;
    w1_full = w0_full + C::stages;
    w_empty = w1_full + C::stages;
    item = reinterpret_cast<int*>(w_empty + C::stages);
  }
  __device__ void init() const {
    for (int i = 0; i < 2; ++i) {
      barrier_init(r_full + i, 1);
      barrier_init(r_empty + i, 1);
      barrier_init(sum_full + i, 4 * C::WGS * kArrivals);
    }
    for (int i = 0; i < C::stages; ++i) {
      barrier_init(w0_full + i, 1);
      barrier_init(w1_full + i, 1);
      barrier_init(w_empty + i, 4 * C::WGS * kArrivals);
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
      if constexpr (C::windowed) end = max(begin, s.queries_until(min(r0 + C::R, s.tk)));  // none: too old for all
      head = h * s.group;
      heads = s.group;
    } else {
      b = bh / s.n_heads;
      h = bh % s.n_heads;
      r0 = (a.order.tiles - 1 - tile) * C::R;
      begin = C::windowed ? s.first_key(r0) / C::W * C::W : 0;
      end = s.keys_until(min(r0 + C::R, s.tq));
      head = h / s.group;
      heads = 1;
    }
  }
};

/// One thread: the resident pair of each item, and its walked tiles through the ring, as
/// far ahead of the consumers as there is room.
template <class C>
__device__ void produce(const Arguments& a, const Maps& maps, const Shared<C>& shared) {
  Ring<2> slots;
  Ring<C::stages> ring;
  for (int item = blockIdx.x; item >= 0;) {
    const int next = tickets.take(a.order.count());
    const Place<C> place(a, item);
    Barrier* r_full = shared.r_full + slots.stage;
    barrier_wait(shared.r_empty + slots.stage, slots.parity ^ 1);
    shared.item[slots.stage] = item;
    barrier_arrive_expect(r_full, 2 * C::r_bytes);
    for (int w = 0; w < C::WGS; ++w) {
      char* to = shared.resident + slots.stage * C::slot_bytes + w * 64 * 128;
      tma_load_tile<C::D>(to, C::r_panel, maps.r0, place.h, place.r0 + 64 * w, place.b, r_full);
      tma_load_tile<C::D>(to + C::r_bytes, C::r_panel, maps.r1, place.h, place.r0 + 64 * w, place.b, r_full);
    }
    slots.next();
    for (int h = place.head; h < place.head + place.heads; ++h)
      for (int t = place.begin; t < place.end; t += C::W) {
        char* to = shared.walked + ring.stage * C::stage_bytes;
        Barrier *full0 = shared.w0_full + ring.stage, *full1 = shared.w1_full + ring.stage;
        barrier_wait(shared.w_empty + ring.stage, ring.parity ^ 1);
        constexpr int vector_bytes = C::keys ? C::W * 4 : 0;
        const int64_t row = (int64_t(place.b) * a.s.n_heads + h) * a.pitch + t;
        float* vectors = shared.vectors + ring.stage * 2 * C::W;
        barrier_arrive_expect(full0, C::w_bytes + vector_bytes);
        if constexpr (C::keys) bulk_load(vectors, a.lse2 + row, vector_bytes, full0);
        tma_load_tile<C::D>(to, C::w_panel, maps.w0, h, t, place.b, full0);
        barrier_arrive_expect(full1, C::w_bytes + vector_bytes);
        if constexpr (C::keys) bulk_load(vectors + C::W, a.delta + row, vector_bytes, full1);
        tma_load_tile<C::D>(to + C::w_bytes, C::w_panel, maps.w1, h, t, place.b, full1);
        ring.next();
      }
    item = next;
  }
  barrier_wait(shared.r_empty + slots.stage, slots.parity ^ 1);
  shared.item[slots.stage] = -1;
  barrier_arrive(shared.r_full + slots.stage);
}

/// One thread: the sums of each item from their slot to memory.
template <class C>
__device__ void store_results(const Arguments& a, const Maps& maps, const Shared<C>& shared) {
  for (Ring<2> slots;; slots.next()) {
    barrier_wait(shared.r_full + slots.stage, slots.parity);
    const int item = shared.item[slots.stage];
    if (item < 0) return;
    const Place<C> place(a, item);
    barrier_wait(shared.sum_full + slots.stage, slots.parity);
    for (int w = 0; w < C::WGS; ++w) {
      const char* from = shared.resident + slots.stage * C::slot_bytes + w * 64 * 128;
      tma_store_tile<C::D>(maps.sum0, place.h, place.r0 + 64 * w, place.b, from, C::r_panel);
      if constexpr (C::keys)
        tma_store_tile<C::D>(maps.sum1, place.h, place.r0 + 64 * w, place.b, from + C::r_bytes, C::r_panel);
    }
    tma_store_wait();
    barrier_arrive(shared.r_empty + slots.stage);
  }
}

/// A walked tile: where it lies in the ring, and its first row.
struct Walked {
  int stage = 0, parity = 0, t = 0;
};

/// The walk of one warpgroup over its item's tiles. Of each head's tiles it meets [low, low + met); the others it gives
/// back unread.
template <class C>
struct Walk {
  const Shared<C>& shared;
  Ring<C::stages>& ring;
  int begin, tiles, heads, low, met, tile, left = 0;  // left: how many more it meets of this head

  __device__ Walk(const Shape& s, const Place<C>& place, int first, const Shared<C>& shared_, Ring<C::stages>& ring_)
      : shared(shared_),
        ring(ring_),
        begin(place.begin),
        tiles(ceil_div(place.end - place.begin, C::W)),
        heads(place.heads) {
    int from = 0, to = tiles;
    if (first >= (C::keys ? s.tk : s.tq)) to = 0;  // rows beyond the end
    if (C::keys && s.causal) from = max(0, first - s.offset - begin) / C::W;
    if (C::keys && C::windowed) to = min(to, ceil_div(s.queries_until(first + 64) - begin, C::W));
    if (!C::keys) to = min(to, ceil_div(s.keys_until(first + 64) - begin, C::W));
    if (!C::keys && C::windowed) from = (s.first_key(first) - begin) / C::W;
    begin = uniform(begin), tiles = uniform(tiles);
    low = uniform(min(from, tiles)), met = uniform(max(0, to - low));
    start_head();
  }
  __device__ void release(int stage) const {
    if (stage >= 0) warp_arrive(shared.w_empty + stage);
  }
  __device__ void give_back(int count) {
    for (; count > 0; --count, ring.next()) {
      barrier_wait(shared.w0_full + ring.stage, ring.parity);
      barrier_wait(shared.w1_full + ring.stage, ring.parity);
      release(ring.stage);
    }
  }
  __device__ void start_head() {
    give_back(low);
    tile = low;
    left = met;
  }
  __device__ bool next(Walked& w) {
    while (left == 0) {
      give_back(tiles - low - met);
      if (--heads == 0) return false;
      start_head();
    }
    w = {ring.stage, ring.parity, begin + tile * C::W};
    ring.next();
    ++tile;
    --left;
    return true;
  }
};

/// lse2 and delta of a thread's two rows, from query `mine` on.
template <class C>
__device__ __forceinline__ void load_row_vectors(const Arguments& a, const Place<C>& place, int mine, float (&lse2)[2],
                                                 float (&delta)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t row = int64_t(place.b * a.s.n_heads + place.h) * a.pitch + mine + 8 * half;
    lse2[half] = a.lse2[row];
    delta[half] = a.delta[row];
  }
}

/// -inf where a warpgroup's rows from `first` on see nothing of the tile that starts at t; `mine`: this thread's row,
/// column0: its first column.
template <class C>
__device__ __forceinline__ void mask(float (&scores)[C::W / 2], const Shape& s, int first, int mine, int t,
                                     int column0) {
  if (C::keys ? s.causal && first + 63 > t + s.offset : s.needs_mask(first, t + C::W)) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = mine + 8 * half;
      keep_columns(scores, half, C::keys ? row - s.offset - column0 : 0,
                   C::keys ? C::W : s.keys_until(row + 1) - column0);
    }
  }
  if (C::windowed && (C::keys ? t + C::W > first + s.window - s.offset : t < s.first_key(first + 63))) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = mine + 8 * half;
      keep_columns(scores, half, C::keys ? 0 : s.first_key(row) - column0,
                   C::keys ? row + s.window - s.offset - column0 : C::W);
    }
  }
}

/// Starts S or dP of this warpgroup's resident rows, in registers or at `rows`, and of the tile `walked`.
template <class C, int N>
__device__ __forceinline__ void start_dots(float (&out)[C::W / 2], const unsigned (&registers)[N], char* rows,
                                           uint64_t walked) {
  if constexpr (C::in_registers) dot_rows<C::D, C::W>(out, registers, walked, C::w_panel);
  else dot_rows<C::D, C::W>(out, descriptor(rows, 0), C::r_panel, walked, C::w_panel);
}

template <class C>
__device__ void consume(const Arguments& a, const Shared<C>& shared) {
  constexpr int D = C::D, W = C::W;
  const int wg = uniform(threadIdx.x / 128), lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  const Shape& s = a.s;
  const float c = s.scale * kLog2e;
  const uint64_t walked = descriptor(shared.walked, C::w_panel);

  Ring<C::stages> ring;
  for (Ring<2> slots;; slots.next()) {
    barrier_wait(shared.r_full + slots.stage, slots.parity);
    const int item = uniform(shared.item[slots.stage]);
    if (item < 0) break;
    const Place<C> place(a, item);
    const int first = place.r0 + wg * 64,
              mine = first + warp * 16 + lane / 4;  // rows of this warpgroup, of this thread (and 8 on)
    char *rows0 = shared.resident + slots.stage * C::slot_bytes + wg * 64 * 128, *rows1 = rows0 + C::r_bytes;

    float sum0[D / 2] = {}, sum1[C::keys ? D / 2 : 1] = {}, scores[W / 2], scores_ahead[W / 2], dp[W / 2];
    unsigned packed_p[C::keys ? W / 4 : 1], packed_ds[W / 4];
    unsigned r0_registers[C::in_registers ? D / 4 : 1], r1_registers[C::in_registers ? D / 4 : 1];
    float row_lse2[2], row_delta[2];
    if constexpr (!C::keys) load_row_vectors(a, place, mine, row_lse2, row_delta);
    if constexpr (C::in_registers) {
      load_rows<D>(r0_registers, rows0, C::r_panel);
      load_rows<D>(r1_registers, rows1, C::r_panel);
    }

    arrived(sum0);
    arrived(sum1);

    Walk<C> walk(s, place, first, shared, ring);
    Walked now, next;
    int unreleased = -1;  // stage that the sums in flight still read
    const auto start_scores = [&](float(&sc)[W / 2], const Walked& w) {
      barrier_wait(shared.w0_full + w.stage, w.parity);
      start_dots<C>(sc, r0_registers, rows0, advanced(walked, w.stage * C::stage_bytes));
    };

    /// Works on tile `now`. With S one tile ahead it is in flight in sc, and S of the next tile is
    /// started in sc_next: after the last tile, of the same tile once more, because the compiler only
    /// keeps products in flight that every path starts.
    const auto step = [&](float(&sc)[W / 2], float(&sc_next)[W / 2]) {
      const uint64_t w0 = advanced(walked, now.stage * C::stage_bytes), w1 = advanced(w0, C::w_bytes);
      const float* vectors = shared.vectors + now.stage * 2 * W + lane % 4 * 2;
      if constexpr (!C::ahead) {
        start_scores(sc, now);
        wgmma_commit();
      }
      barrier_wait(shared.w1_full + now.stage, now.parity);
      start_dots<C>(dp, r1_registers, rows1, w1);
      wgmma_commit();
      wgmma_wait<1>();  // the sums of the tile before, and S
      if constexpr (!C::ahead) arrived(sc);
      walk.release(unreleased);
      unreleased = now.stage;
      [[maybe_unused]] bool more;
      if constexpr (C::ahead) {
        next = now;
        more = walk.next(next);
        start_scores(sc_next, next);
        wgmma_commit();
      }

      mask<C>(sc, s, first, mine, now.t, now.t + lane % 4 * 2);
      if constexpr (C::keys) probabilities_by_column(sc, packed_p, c, vectors);
      else probabilities_by_row(sc, c, row_lse2);
      if constexpr (C::keys) {
        add_rows<D, W>(sum1, packed_p, w1);
        wgmma_commit();
      }
      wgmma_wait<int(C::ahead) + int(C::keys)>();  // dP
      arrived(dp);
      const auto p_of = [&](int i) {
        if constexpr (C::rounded) return unpack(packed_p[i / 2]);
        else return float2{sc[i], sc[i + 1]};
      };
      if constexpr (C::keys) gradients_by_column(packed_ds, dp, vectors + W, p_of);
      else gradients_by_row(packed_ds, dp, row_delta, p_of);
      add_rows<D, W>(sum0, packed_ds, w0);
      wgmma_commit();
      if constexpr (!C::ahead && C::keys)
        wgmma_wait<1>();  // sum1 is done, which frees P's registers before the next S needs them
      // The next S was started long ago. It is waited for here, because the compiler follows it only within a step.
      if constexpr (C::ahead) {
        wgmma_wait<1 + int(C::keys)>();
        arrived(sc_next);
        now = next;
        return more;
      } else {
        return walk.next(now);
      }
    };

    if (walk.next(now)) {
      if constexpr (C::ahead) {
        start_scores(scores, now);
        wgmma_commit();
        wgmma_wait<0>();
        arrived(scores);
        while (step(scores, scores_ahead) && step(scores_ahead, scores)) {
        }
      } else {
        while (step(scores, scores)) {
        }
      }
    }
    wgmma_wait<0>();
    arrived(sum0);
    arrived(sum1);
    walk.release(unreleased);
    // The sums leave through this warpgroup's resident rows, which all its warps are done with.
    named_sync(8 + wg, 128);
    stage_rows<D>(reinterpret_cast<bf*>(rows0), C::r_panel, sum0, s.scale, s.scale);
    if constexpr (C::keys) stage_rows<D>(reinterpret_cast<bf*>(rows1), C::r_panel, sum1, 1.f, 1.f);
    fence_async();
    warp_arrive(shared.sum_full + slots.stage);
  }
}

#endif  // ROPEWALK_SM90A

template <class C>
__global__ void __launch_bounds__(C::threads, 1)
    backward_kernel(const __grid_constant__ Arguments a, const __grid_constant__ Maps maps) {
#ifdef ROPEWALK_SM90A
  extern __shared__ __align__(1024) char dynamic_shared[];  // addresses are constants, which saves registers
  const Shared<C> shared(dynamic_shared);
  if (shared_address(dynamic_shared) % 1024 != 0) __trap();
  if (threadIdx.x == 0) shared.init();
  __syncthreads();
  if (threadIdx.x / 128 == C::WGS) {
    registers_keep<C::producer_registers>();
    if (threadIdx.x % 128 == 0) produce<C>(a, maps, shared);
    if (threadIdx.x % 128 == 32) store_results<C>(a, maps, shared);
  } else {
    registers_take<C::consumer_registers>();
    consume<C>(a, shared);
  }
#endif
}

template <class C>
void launch_backward(const char* name, const AttentionShape& shape, const RowVectors& rows, const HeadView& r0,
                     const HeadView& r1, const HeadView& w0, const HeadView& w1, const HeadView& sum0,
                     const HeadView& sum1) {
  Arguments a{Shape(shape), {}, rows.lse2.data<float>(), rows.delta.data<float>(), rows.pitch};
  const int64_t b = shape.batch, d = shape.head_dim, r_heads = C::keys ? shape.n_kv_heads : shape.n_heads,
                w_heads = C::keys ? shape.n_heads : shape.n_kv_heads;
  const int64_t r_length = C::keys ? shape.k_length : shape.q_length,
                w_length = C::keys ? shape.q_length : shape.k_length;
  const int64_t walked_bytes = 4 * w_length * d * (C::keys ? a.s.group : 1);
  a.order = tile_order(ceil_div(static_cast<int>(r_length), C::R), static_cast<int>(b * r_heads),
                       C::keys ? 1 : a.s.group, walked_bytes);
  const auto resident = [&](const HeadView& v) { return tensor_map(v, b, r_length, r_heads, d, 64); };
  const auto walk = [&](const HeadView& v) { return tensor_map(v, b, w_length, w_heads, d, C::W); };
  for (const HeadView* sum : {&sum0, &sum1}) announce_view(*sum, b, r_length, r_heads, d);
  launch({name, C::keys ? work_of(shape, 4, 2, 4, 2) : work_of(shape, 3, 3, 2, 2)}, backward_kernel<C>,
         std::min(multiprocessors(), a.order.count()), C::threads, C::shared_bytes, a,
         Maps{resident(r0), resident(r1), walk(w0), walk(w1), resident(sum0), resident(sum1)});
}

}  // namespace

/// dK, dV: 8 B H Tq Tk D FLOPs, dQ: 6 (half if causal); each walked tile crosses L2 once per 128 resident rows.
void sm90_backward(const AttentionShape& s, const HeadView& q, const HeadView& k, const HeadView& v,
                   const RowVectors& rows, const HeadView& d_o, const HeadView& dq, const HeadView& dk,
                   const HeadView& dv) {
  const auto run = [&](auto keys, auto queries) {
    launch_backward<decltype(keys)>("attention backward dk, dv (sm_90)", s, rows, k, v, q, d_o, dk, dv);
    launch_backward<decltype(queries)>("attention backward dq (sm_90)", s, rows, q, d_o, k, v, dq, dq);
  };
  if (s.window > 0) {
    if (kernel_head_dim(s.head_dim) == 64)
      return run(Config<64, true, 64, 4, false, true>{}, Config<64, false, 64, 4, true, true>{});
    return run(Config<128, true, 64, 3, true, true>{}, Config<128, false, 64, 3, true, true>{});
  }
  if (sm90_fuses(s)) return sm90_backward_fused(s, q, k, v, rows, d_o, dq, dk, dv);
  if (kernel_head_dim(s.head_dim) == 64) return run(Config<64, true, 64, 4, false>{}, Config<64, false, 64, 4>{});
  run(Config<128, true, 64, 3>{}, Config<128, false, 64, 3>{});
}

}  // namespace rw::cuda::attn
