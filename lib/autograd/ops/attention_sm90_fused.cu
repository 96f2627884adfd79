// Attention backward on Hopper in one pass, for bf16: dQ with dK and dV, five products a tile instead of seven.
//
// A block holds 128 keys, each of two warpgroups 64 of them, and walks tiles of queries: 64 at head dim 128, 128 at
// head dim 64 (32 KB of dQ in f32 either way). A producer warpgroup keeps the tiles coming.
//
//   S^T = K Q^T   dP^T = V dO^T   P = exp2(c S - lse2)   dS = P (dP - delta)   dV += P^T dO   dK += dS^T Q
//   dQ tile = dS K, from all 128 keys: a warpgroup makes half of it, a tile late, from dS in shared memory
//
// P^T and dS^T feed dV and dK from registers. In flight at once: dQ of the tile before under the exponentials, dP
// under the store of that dQ, dV under dS, dK under the store of dS and under the next S. Never S, dP and dQ at a
// time: beside dK and dV they would not fit in the registers.
//
// The copy engine adds dQ to an f32 workspace, which a last kernel turns into bf16. The sum over key blocks has a fixed
// order (Turns): a block adds to a tile when a counter of the tile says that it is its turn. With fast_atomics the
// workspace starts at 0, no block waits for another, and all add as they come.
#include <algorithm>

#include "autograd/ops/attention_sm90_bwd.cuh"

namespace rw::cuda::attn {
namespace {

__device__ Tickets tickets;

/// Registers at the peak: dK and dV D / 2 each, dQ 32, dP W / 2, P W / 4: 208 of 240 and 192 of 232. With fewer, ptxas
/// runs the products one after the other (C7512).
template <int D_>
struct Config {
  static constexpr int D = D_, W = 8192 / D, stages = 2;
  static constexpr int storers = 2;  // storing threads, one buffer of dQ each
  static constexpr int WGS = 2, R = 64 * WGS, threads = 128 * (WGS + 1);
  static constexpr int consumer_registers = D == 128 ? 240 : 232, producer_registers = D == 128 ? 24 : 40;
  static constexpr int r_bytes = R * D * 2, w_bytes = W * D * 2, r_panel = R * 128, w_panel = W * 128;
  static constexpr int slot_bytes = 2 * r_bytes, stage_bytes = 2 * w_bytes;
  static constexpr int ds_bytes = R * W * 2, ds_panel = R * 128, dq_bytes = W * D * 4;
  static constexpr int shared_bytes =
      slot_bytes + stages * (stage_bytes + 2 * W * 4) + 2 * ds_bytes + storers * dq_bytes + 256;
  static_assert(r_bytes <= dq_bytes);  // dK and dV leave through the buffers of dQ
};

/// The order in which blocks take items, and in which they add to dQ. Heads come in sections, whose items interleave.
/// The key blocks of a head come in rounds, long walks first. In even rounds the last block of the round comes first:
/// when a round's blocks start together, each at its diagonal, the last is two tiles ahead of the one before it at
/// every tile. It also ends first. In odd rounds the first block comes first: whoever ended early gets the longer walk,
/// so that the round's blocks again end at about the same time. Every block adds after those that have come before it,
/// so nobody waits for work that has not started.
struct Turns {
  int blocks, heads, section, round;  // key blocks per head, heads in all, heads per section, blocks per round
  __host__ __device__ int count() const { return blocks * heads; }
  __device__ void locate(int item, int& block, int& head) const {
    const int first = item / (section * blocks) * section, rest = item - first * blocks;
    const int width = min(section, heads - first);
    const int place = rest / width, begin = place / round * round;
    head = first + rest % width;
    block = begin / round % 2 ? place : begin + min(begin + round, blocks) - 1 - place;
  }
  /// How many blocks add to a tile before this one; `last`: the last block that sees the tile.
  __device__ int before(int block, int last) const {
    const int begin = block / round * round;
    return begin / round % 2 ? block : begin + min(begin + round - 1, last) - block;
  }
};

struct Arguments {
  Shape s;
  Turns turns;
  const float *lse2, *delta;  // [B*H, pitch]
  float* dq_sums;             // [B*H, tiles][W * D]
  unsigned* added;            // [B*H, tiles]: how many key blocks have added to the tile; null: any order
  int pitch, tiles;
};
struct Maps {
  CUtensorMap k, v, q, d_o, dk, dv;
};

#ifdef ROPEWALK_SM90A

template <class C>
struct Shared {
  char *resident, *walked;  // K, V; stages of Q, dO
  char *ds, *dq;            // two buffers of dS^T [128][W] bf16; one per storer of dQ [W][D] f32
  float* vectors;           // stages of lse2 [W], delta [W]
  Barrier *r_full, *r_empty;
  Barrier *ds_full, *ds_empty, *dq_full, *dq_empty;  // per buffer
  Barrier *w0_full, *w1_full, *w_empty;              // per stage
  int* item;                                         // -1: no more
  __device__ explicit Shared(char* base) {
    resident = base;
    walked = resident + C::slot_bytes;
    ds = walked + C::stages * C::stage_bytes;
    dq = ds + 2 * C::ds_bytes;
    vectors = reinterpret_cast<float*>(dq + C::storers * C::dq_bytes);
    Barrier* b = reinterpret_cast<Barrier*>(vectors + C::stages * 2 * C::W);
    for (Barrier** p : {&r_full, &r_empty}) *p = b, b += 1;
    for (Barrier** p : {&ds_full, &ds_empty}) *p = b, b += 2;
    for (Barrier** p : {&dq_full, &dq_empty}) *p = b, b += C::storers;
    for (Barrier** p : {&w0_full, &w1_full, &w_empty}) *p = b, b += C::stages;
    item = reinterpret_cast<int*>(b);
  }
  __device__ void init() const {
    constexpr int consumers = 4 * C::WGS * kArrivals;
    barrier_init(r_full, 1);
    barrier_init(r_empty, consumers + C::storers);
    for (int i = 0; i < 2; ++i)
      for (Barrier* b : {ds_full, ds_empty}) barrier_init(b + i, consumers);
    for (int i = 0; i < C::storers; ++i) {
      barrier_init(dq_full + i, consumers);
      barrier_init(dq_empty + i, 1);
    }
    for (int i = 0; i < C::stages; ++i) {
      barrier_init(w0_full + i, 1);
      barrier_init(w1_full + i, 1);
      barrier_init(w_empty + i, consumers);
    }
    barrier_init_done();
  }
};

/// A block of keys, and the queries it walks: rows [begin, end) of each of the heads [head, head + heads).
template <class C>
struct Place {
  int r0, b, h, begin, end, head, heads, block;  // r0: first key; h: kv head
  __device__ Place(const Arguments& a, int item) {
    const Shape& s = a.s;
    int bh;
    a.turns.locate(item, block, bh);
    const int kv_heads = s.n_heads / s.group;
    b = bh / kv_heads;
    h = bh % kv_heads;
    r0 = block * C::R;
    begin = s.first_query(r0) / C::W * C::W;
    end = s.tq;
    head = h * s.group;
    heads = s.group;
  }
};

/// One thread: the tiles that each item walks through the ring, as far ahead of the consumers as there is room; its K
/// and V after the first tile, which mostly finds room earlier. The next item is taken as late as possible, so that
/// blocks get items in the order in which they become free.
template <class C>
__device__ void produce(const Arguments& a, const Maps& maps, const Shared<C>& shared) {
  Ring<C::stages> ring;
  int parity = 1;
  for (int item = blockIdx.x; item >= 0; item = tickets.take(a.turns.count())) {
    const Place<C> place(a, item);
    bool first = true;
    for (int h = place.head; h < place.head + place.heads; ++h)
      for (int t = place.begin; t < place.end; t += C::W) {
        char* to = shared.walked + ring.stage * C::stage_bytes;
        float* vectors = shared.vectors + ring.stage * 2 * C::W;
        Barrier *full0 = shared.w0_full + ring.stage, *full1 = shared.w1_full + ring.stage;
        const int64_t row = (int64_t(place.b) * a.s.n_heads + h) * a.pitch + t;
        barrier_wait(shared.w_empty + ring.stage, ring.parity ^ 1);
        barrier_arrive_expect(full0, C::w_bytes + C::W * 4);
        tma_load_tile<C::D>(to, C::w_panel, maps.q, h, t, place.b, full0);
        bulk_load(vectors, a.lse2 + row, C::W * 4, full0);
        barrier_arrive_expect(full1, C::w_bytes + C::W * 4);
        tma_load_tile<C::D>(to + C::w_bytes, C::w_panel, maps.d_o, h, t, place.b, full1);
        bulk_load(vectors + C::W, a.delta + row, C::W * 4, full1);
        ring.next();
        if (!first) continue;
        first = false;
        barrier_wait(shared.r_empty, parity);
        parity ^= 1;
        *shared.item = item;
        barrier_arrive_expect(shared.r_full, 2 * C::r_bytes);
        tma_load_tile<C::D>(shared.resident, C::r_panel, maps.k, place.h, place.r0, place.b, shared.r_full);
        tma_load_tile<C::D>(shared.resident + C::r_bytes, C::r_panel, maps.v, place.h, place.r0, place.b,
                            shared.r_full);
      }
  }
  barrier_wait(shared.r_empty, parity);
  *shared.item = -1;
  barrier_arrive(shared.r_full);
}

__device__ unsigned load_acquire(const unsigned* p) {
  unsigned x;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(p) : "memory");
  return x;
}
__device__ void store_release(unsigned* p, unsigned x) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(x) : "memory");
}
__device__ void fence_all_proxies() { asm volatile("fence.proxy.async;" ::: "memory"); }

/// One thread per buffer of dQ: adds every other dQ tile to the workspace at its block's turn, and passes the turn on
/// when the sum is in memory. After an item's tiles come its dK and dV. ordered = false: in any order, on a workspace
/// of zeros.
template <class C, bool ordered>
__device__ void store_results(const Arguments& a, const Maps& maps, const Shared<C>& shared, int storer) {
  Ring<C::storers> buffers;
  const char* dq = shared.dq + storer * C::dq_bytes;
  for (int parity = 0;; parity ^= 1) {
    barrier_wait(shared.r_full, parity);
    const int item = *shared.item;
    barrier_arrive(shared.r_empty);
    if (item < 0) {
      if constexpr (!ordered) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
      return;
    }
    const Place<C> place(a, item);
    for (int h = place.head; h < place.head + place.heads; ++h)
      for (int t = place.begin; t < place.end; t += C::W, buffers.next()) {
        if (buffers.stage != storer) continue;
        const int64_t tile = (int64_t(place.b) * a.s.n_heads + h) * a.tiles + t / C::W;
        float* to = a.dq_sums + tile * (C::W * C::D);
        const int last = (a.s.keys_until(t + C::W) - 1) / C::R;
        const unsigned before = a.turns.before(place.block, last);
        barrier_wait(shared.dq_full + storer, buffers.parity);
        if (ordered && before == 0) {
          bulk_store(to, dq, C::dq_bytes);
        } else {
          if constexpr (ordered) {
            while (load_acquire(a.added + tile) < before) {
            }
            fence_all_proxies();
          }
          bulk_add(to, dq, C::dq_bytes);
        }
        tma_store_wait();  // it has read the buffer
        barrier_arrive(shared.dq_empty + storer);
        if constexpr (ordered) {
          asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
          fence_all_proxies();
          store_release(a.added + tile, before + 1);
        }
      }
    for (int i = 0; i < 2; ++i, buffers.next()) {
      if (buffers.stage != storer) continue;
      barrier_wait(shared.dq_full + storer, buffers.parity);
      tma_store_tile<C::D>(i == 0 ? maps.dk : maps.dv, place.h, place.r0, place.b, dq, C::r_panel);
      tma_store_wait();
      barrier_arrive(shared.dq_empty + storer);
    }
  }
}

/// dQ of a tile: this warpgroup's half of dS^T K, whose operands stand in shared memory by keys.
template <class C>
__device__ __forceinline__ void start_dq_products(float (&dq)[32], uint64_t ds, uint64_t k_across) {
  wgmma_fence();
  wgmma_new<64, true, true>(dq, ds, k_across);
#pragma unroll
  for (int i = 1; i < C::R / 16; ++i) wgmma_across(dq, advanced(ds, i * 2048), advanced(k_across, i * 2048), 1);
  wgmma_commit();
}

/// That half to a buffer of dQ.
__device__ __forceinline__ void put_dq(char* buffer, const float (&dq)[32]) {
  float4* to = reinterpret_cast<float4*>(buffer) + threadIdx.x / 128 * 1024 + threadIdx.x % 128;
#pragma unroll
  for (int j = 0; j < 8; ++j) to[j * 128] = make_float4(dq[4 * j], dq[4 * j + 1], dq[4 * j + 2], dq[4 * j + 3]);
}

/// A key is seen by the queries from it on: the queries before column `from` (and 8 on) are hidden.
template <int W>
__device__ __forceinline__ void hide_earlier(float (&sc)[W / 2], int from) {
#pragma unroll
  for (int half = 0; half < 2; ++half) keep_columns(sc, half, from + 8 * half, W);
}

template <class C>
__device__ void consume(const Arguments& a, const Shared<C>& shared) {
  constexpr int D = C::D, W = C::W;
  const int wg = uniform(threadIdx.x / 128), lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  const Shape& s = a.s;
  const float c = s.scale * kLog2e;
  const uint64_t walked = descriptor(shared.walked, C::w_panel);
  const uint64_t k_rows = descriptor(shared.resident + wg * 64 * 128, 0), v_rows = advanced(k_rows, C::r_bytes);
  // This warpgroup's half of dQ: 64 of the columns, or 64 of the queries.
  const uint64_t ds_across = descriptor(shared.ds + (W == 128 ? wg * C::ds_panel : 0), 0),
                 k_across = descriptor(shared.resident + (D == 128 ? wg * C::r_panel : 0), 0);
  Ring<C::stages> ring;
  Ring<2> buffers;              // of dS
  Ring<C::storers> dq_buffers;  // of dQ
  for (int item_parity = 0;; item_parity ^= 1) {
    barrier_wait(shared.r_full, item_parity);
    const int item = uniform(*shared.item);
    if (item < 0) break;
    const Place<C> place(a, item);
    const int first = place.r0 + wg * 64,
              mine = first + warp * 16 + lane / 4;  // keys of this warpgroup, of this thread (and 8 on)

    float dk[D / 2] = {}, dv[D / 2] = {}, sc[W / 2];
    unsigned packed_p[W / 4], packed_ds[W / 4];
    arrived(dk), arrived(dv);
    int t = place.begin, heads = place.heads;
    Ring<2> previous;  // buffer of the tile before

    /// dQ of the tile before, from both warpgroups' dS.
    const auto start_dq = [&](float(&dq)[32]) {
      barrier_wait(shared.ds_full + previous.stage, previous.parity);
      start_dq_products<C>(dq, advanced(ds_across, previous.stage * C::ds_bytes), k_across);
    };
    const auto dq_buffer = [&] {
      barrier_wait(shared.dq_empty + dq_buffers.stage, dq_buffers.parity ^ 1);
      return shared.dq + dq_buffers.stage * C::dq_bytes;
    };
    const auto dq_written = [&] {
      fence_async();
      warp_arrive(shared.dq_full + dq_buffers.stage);
      dq_buffers.next();
    };
    const auto finish_dq = [&](float(&dq)[32]) {
      arrived(dq);
      warp_arrive(shared.ds_empty + previous.stage);
      put_dq(dq_buffer(), dq);
      dq_written();
    };
    const auto start_scores = [&](int stage, int parity) {
      barrier_wait(shared.w0_full + stage, parity);
      dot_rows_new<D, W>(sc, k_rows, C::r_panel, advanced(walked, stage * C::stage_bytes), C::w_panel);
      wgmma_commit();
    };

    /// One tile, whose S is in sc; starts S of the next (after the last tile of the same once more, because the
    /// compiler only keeps products in flight that every path starts). dQ of the tile before runs under it, except in
    /// an item's first step. Returns whether there is another tile.
    const auto step = [&](auto with_dq) -> bool {
      constexpr bool pending_dq = decltype(with_dq)::value;
      float dp[W / 2], dq[32];
      const int stage = ring.stage;
      const uint64_t q_tile = advanced(walked, stage * C::stage_bytes), do_tile = advanced(q_tile, C::w_bytes);
      const float* vectors = shared.vectors + stage * 2 * W + lane % 4 * 2;
      if constexpr (pending_dq) start_dq(dq);
      if (s.causal && first + 63 > t + s.offset) hide_earlier<W>(sc, mine - s.offset - t - lane % 4 * 2);
      probabilities_by_column(sc, packed_p, c, vectors);
      barrier_wait(shared.w1_full + stage, ring.parity);
      dot_rows_new<D, W>(dp, v_rows, C::r_panel, do_tile, C::w_panel);
      wgmma_commit();
      add_rows<D, W>(dv, packed_p, do_tile);
      wgmma_commit();
      if constexpr (pending_dq) {
        wgmma_wait<2>();
        finish_dq(dq);
      }
      wgmma_wait<1>();  // dP
      arrived(dp);
      gradients_by_column(packed_ds, dp, vectors + W, [&](int i) { return unpack(packed_p[i / 2]); });
      add_rows<D, W>(dk, packed_ds, q_tile);
      wgmma_commit();
      barrier_wait(shared.ds_empty + buffers.stage, buffers.parity ^ 1);
      store_packed(shared.ds + buffers.stage * C::ds_bytes + wg * 64 * 128, C::ds_panel, packed_ds);
      fence_async();
      warp_arrive(shared.ds_full + buffers.stage);
      previous = buffers;
      buffers.next();
      t += W;
      if (t >= place.end) {
        t = place.begin;
        --heads;
      }
      const Ring<C::stages> now = ring;
      ring.next();
      const bool more = heads > 0;
      start_scores(more ? ring.stage : now.stage, more ? ring.parity : now.parity);
      wgmma_wait<0>();
      arrived(sc);
      warp_arrive(shared.w_empty + stage);
      return more;
    };

    start_scores(ring.stage, ring.parity);
    wgmma_wait<0>();
    arrived(sc);
    if (step(std::false_type{}))
      while (step(std::true_type{})) {
      }
    float dq[32];
    start_dq(dq);
    wgmma_wait<0>();
    arrived(dk), arrived(dv);
    warp_arrive(shared.r_empty);
    finish_dq(dq);
    stage_rows<D>(reinterpret_cast<bf*>(dq_buffer() + wg * 64 * 128), C::r_panel, dk, s.scale, s.scale);
    dq_written();
    stage_rows<D>(reinterpret_cast<bf*>(dq_buffer() + wg * 64 * 128), C::r_panel, dv, 1.f, 1.f);
    dq_written();
  }
}

#endif  // ROPEWALK_SM90A

template <class C, bool ordered>
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
    const int warp = threadIdx.x / 32 % 4;
    if (warp > 0 && warp <= C::storers && threadIdx.x % 32 == 0) store_results<C, ordered>(a, maps, shared, warp - 1);
  } else {
    registers_take<C::consumer_registers>();
    consume<C>(a, shared);
  }
#endif
}

/// dq <- scale * workspace, one tile of W x D a block, turned into rows in shared memory.
template <class C>
__global__ void __launch_bounds__(256) finish_kernel(Arguments a, Heads<bf> dq) {
  __shared__ bf rows[C::W][C::D + 8];
  const int bh = blockIdx.x / a.tiles, t = blockIdx.x % a.tiles * C::W;
  const float* from = a.dq_sums + int64_t(blockIdx.x) * (C::W * C::D);
  for (int i = threadIdx.x; i < C::W * C::D / 4; i += 256) {
    const float4 x = reinterpret_cast<const float4*>(from)[i];
    const int wg = i / 1024, j = i / 128 % 8, thread = i % 128;  // as the threads of consume() held it
    int r = thread / 32 * 16 + thread % 32 / 4, c = j * 8 + thread % 4 * 2;
    (C::D == 128 ? c : r) += wg * 64;
    *reinterpret_cast<__nv_bfloat162*>(&rows[r][c]) = __floats2bfloat162_rn(x.x * a.s.scale, x.y * a.s.scale);
    *reinterpret_cast<__nv_bfloat162*>(&rows[r + 8][c]) = __floats2bfloat162_rn(x.z * a.s.scale, x.w * a.s.scale);
  }
  __syncthreads();
  bf* head = dq.head(bh / a.s.n_heads, bh % a.s.n_heads, a.s.head_dim);
  for (int i = threadIdx.x; i < C::W * C::D / 8; i += 256) {
    const int r = i / (C::D / 8), c = i % (C::D / 8) * 8;
    if (t + r < a.s.tq && c < a.s.head_dim)  // the columns beyond are padding
      *reinterpret_cast<uint4*>(head + (t + r) * dq.row + c) = *reinterpret_cast<const uint4*>(&rows[r][c]);
  }
}

template <class C>
void launch_backward(const AttentionShape& shape, const HeadView& q, const HeadView& k, const HeadView& v,
                     const RowVectors& rows, const HeadView& d_o, const HeadView& dq, const HeadView& dk,
                     const HeadView& dv) {
  const int64_t b = shape.batch, heads = shape.n_heads, kv_heads = shape.n_kv_heads, tq = shape.q_length,
                tk = shape.k_length, d = shape.head_dim;
  const int tiles = ceil_div(static_cast<int>(tq), C::W);
  const Device device = q.owner->device();
  const Tensor sums = Tensor::empty({b * heads * tiles, C::W * C::D}, DType::f32, device);
  const bool ordered = !shape.paths.fast_atomics;
  Tensor added;
  if (ordered) added = Tensor::empty({b * heads * tiles}, DType::i32, device);
  (ordered ? added : sums).zero();
  announce_write(sums.raw(), sums.bytes());
  for (const HeadView* sum : {&dk, &dv}) announce_view(*sum, b, tk, kv_heads, d);

  Arguments a{
      Shape(shape), {},   rows.lse2.data<float>(), rows.delta.data<float>(), sums.data<float>(), as<unsigned>(added),
      rows.pitch,   tiles};
  // A round keeps about 128 blocks busy over all heads. It is never so short that its blocks share too little of what
  // they read in L2: each follows the one before it at twice the group's tiles. It must not depend on the card, since
  // it decides the order of the sums.
  const int all = static_cast<int>(b * kv_heads), blocks = ceil_div(a.s.tk, C::R);
  const int shared_by = std::clamp(blocks / 8, 4, 8) * std::min(a.s.group, 4);
  const int round = std::max(std::min(shared_by, 16), 128 / all);
  const int sections = std::max(1, (all * round + multiprocessors() / 2) / multiprocessors());
  a.turns = {blocks, all, ceil_div(all, sections), round};
  const auto on_keys = [&](const HeadView& x, int n) { return tensor_map(x, b, tk, kv_heads, d, n); };
  const auto on_queries = [&](const HeadView& x) { return tensor_map(x, b, tq, heads, d, C::W); };
  launch(
      {ordered ? "attention backward (sm_90)" : "attention backward (sm_90, atomics)", work_of(shape, 5, 3, 4, 2)},
      ordered ? backward_kernel<C, true> : backward_kernel<C, false>, std::min(multiprocessors(), a.turns.count()),
      C::threads, C::shared_bytes, a,
      Maps{on_keys(k, C::R), on_keys(v, C::R), on_queries(q), on_queries(d_o), on_keys(dk, C::R), on_keys(dv, C::R)});
  launch({"attention backward, dq to bf16", work_of(shape, 0, 3, 0, 2).bytes}, finish_kernel<C>, b * heads * tiles, 256,
         0, a, Heads<bf>(dq));
}

}  // namespace

/// Below 2048 queries the workspace's traffic outweighs the two products saved.
bool sm90_fuses(const AttentionShape& shape) {
  if (shape.window > 0) return false;
  if (shape.paths.fusion != Fusion::automatic) return shape.paths.fusion == Fusion::always;
  return shape.q_length >= 2048;
}

/// 10 B H Tq Tk D FLOPs (half if causal). The workspace takes 4 B H Tq D bytes; per 128 keys each of its tiles is
/// added to once, in L2.
void sm90_backward_fused(const AttentionShape& s, const HeadView& q, const HeadView& k, const HeadView& v,
                         const RowVectors& rows, const HeadView& d_o, const HeadView& dq, const HeadView& dk,
                         const HeadView& dv) {
  if (kernel_head_dim(s.head_dim) == 64) return launch_backward<Config<64>>(s, q, k, v, rows, d_o, dq, dk, dv);
  launch_backward<Config<128>>(s, q, k, v, rows, d_o, dq, dk, dv);
}

}  // namespace rw::cuda::attn
