// Attention backward on Hopper in one pass, for bf16 and head dims up to 64 (padded with zeros): dQ with dK and dV,
// five products a tile instead of seven.
//
// The keys kernel of attention_sm90_bwd.cu has dS^T [128 keys x 64 queries] in registers. Here it also goes to shared
// memory, and
//
//   dQ tile [64 queries x 64] = dS K        each warpgroup 32 columns, one tile late: both have written their dS then
//
// is added to an f32 workspace by the copy engine. The sum over key blocks is deterministic: block n adds to a tile
// only when blocks 0 .. n - 1 have (a counter per tile). Items are taken in an order where block n - 1 of a head always
// comes before block n, so nobody waits for work that has not started; and as block n starts its walk further down than
// block n - 1, it follows without catching up. A last kernel turns the workspace into bf16.
//
// With fast_atomics the workspace starts at 0, no block waits for another, and all add as they come.
#include <algorithm>
#include <cstdlib>

#include "autograd/ops/attention_sm90_bwd.cuh"

namespace rw::cuda::attn {
namespace {

__device__ Tickets tickets;

/// Registers: dK, dV 32 each, K and V as operands 16 each, S and dP 32 each, P and dS 16 each, dQ 16: 208 of 232.
struct C {
  static constexpr int D = 64, W = 64, stages = 4, storers = 3;  // storing threads, one buffer of dQ each
  static constexpr int WGS = 2, R = 64 * WGS, threads = 128 * (WGS + 1);
  static constexpr int consumer_registers = 232, producer_registers = 40;
  static constexpr int r_bytes = R * 128, w_bytes = W * 128, slot_bytes = 2 * r_bytes, stage_bytes = 2 * w_bytes;
  static constexpr int ds_bytes = R * 128, dq_bytes = W * D * 4;
  static constexpr int shared_bytes =
      1024 + 2 * slot_bytes + stages * (stage_bytes + 2 * W * 4) + 2 * ds_bytes + storers * dq_bytes + 512;
};

struct Arguments {
  Shape s;
  TileOrder order;
  const float *lse2, *delta;  // [B*H, pitch]
  float* dq_sums;             // [B*H, pitch / 64][dq_tile]
  unsigned* added;            // [B*H, pitch / 64]: how many key blocks have added to the tile; null: any order
  int pitch;

  __host__ __device__ int64_t tile(int64_t bh, int t) const { return bh * (pitch / C::W) + t / C::W; }
};
struct Maps {
  CUtensorMap k, v, q, d_o, dk, dv;
};

#ifdef ROPEWALK_SM90A

struct Shared {
  char *resident, *walked;               // slots of K, V; stages of Q, dO
  char *ds, *dq;                         // two buffers of dS^T [128][64] bf16; one per storer of dQ [64][64] f32
  float* vectors;                        // stages of lse2 [W], delta [W]
  Barrier *r_full, *r_empty, *sum_full;  // per slot
  Barrier *ds_full, *ds_empty, *dq_full, *dq_empty;  // per buffer
  Barrier *w0_full, *w1_full, *w_empty;              // per stage
  int* item;                                         // per slot; -1: no more
  __device__ explicit Shared(char* base) {
    base = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(base) + 1023) & ~uintptr_t(1023));
    resident = base;
    walked = resident + 2 * C::slot_bytes;
    ds = walked + C::stages * C::stage_bytes;
    dq = ds + 2 * C::ds_bytes;
    vectors = reinterpret_cast<float*>(dq + C::storers * C::dq_bytes);
    Barrier* b = reinterpret_cast<Barrier*>(vectors + C::stages * 2 * C::W);
    for (Barrier** p : {&r_full, &r_empty, &sum_full, &ds_full, &ds_empty}) *p = b, b += 2;
    for (Barrier** p : {&dq_full, &dq_empty}) *p = b, b += C::storers;
    for (Barrier** p : {&w0_full, &w1_full, &w_empty}) *p = b, b += C::stages;
    item = reinterpret_cast<int*>(b);
  }
  __device__ void init() const {
    for (int i = 0; i < 2; ++i) {
      barrier_init(r_full + i, 1);
      barrier_init(r_empty + i, C::storers);
      for (Barrier* b : {sum_full, ds_full, ds_empty}) barrier_init(b + i, 4 * C::WGS * kArrivals);
    }
    for (int i = 0; i < C::storers; ++i) {
      barrier_init(dq_full + i, 4 * C::WGS * kArrivals);
      barrier_init(dq_empty + i, 1);
    }
    for (int i = 0; i < C::stages; ++i) {
      barrier_init(w0_full + i, 1);
      barrier_init(w1_full + i, 1);
      barrier_init(w_empty + i, 4 * C::WGS * kArrivals);
    }
    barrier_init_done();
  }
};

/// A block of keys, and the queries it walks: rows [begin, end) of each of the heads [head, head + heads).
struct Place {
  int r0, b, h, begin, end, head, heads, block;  // r0: first key; h: kv head
  __device__ Place(const Arguments& a, int item) {
    const Shape& s = a.s;
    int bh;
    a.order.locate(item, block, bh);
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

/// One thread: K and V of each item, and its walked tiles through the ring, as far
/// ahead of the consumers as there is room.
__device__ void produce(const Arguments& a, const Maps& maps, const Shared& shared) {
  Ring<2> slots;
  Ring<C::stages> ring;
  for (int item = blockIdx.x; item >= 0;) {
    const int next = tickets.take(a.order.count());
    const Place place(a, item);
    Barrier* r_full = shared.r_full + slots.stage;
    barrier_wait(shared.r_empty + slots.stage, slots.parity ^ 1);
    shared.item[slots.stage] = item;
    barrier_arrive_expect(r_full, 2 * C::r_bytes);
    char* resident = shared.resident + slots.stage * C::slot_bytes;
    for (int w = 0; w < C::WGS; ++w) {
      tma_load(resident + w * 64 * 128, maps.k, 0, place.h, place.r0 + 64 * w, place.b, r_full);
      tma_load(resident + C::r_bytes + w * 64 * 128, maps.v, 0, place.h, place.r0 + 64 * w, place.b, r_full);
    }
    slots.next();
    for (int h = place.head; h < place.head + place.heads; ++h)
      for (int t = place.begin; t < place.end; t += C::W) {
        char* to = shared.walked + ring.stage * C::stage_bytes;
        float* vectors = shared.vectors + ring.stage * 2 * C::W;
        Barrier *full0 = shared.w0_full + ring.stage, *full1 = shared.w1_full + ring.stage;
        const int64_t row = (int64_t(place.b) * a.s.n_heads + h) * a.pitch + t;
        barrier_wait(shared.w_empty + ring.stage, ring.parity ^ 1);
        barrier_arrive_expect(full0, C::w_bytes + C::W * 4);
        tma_load(to, maps.q, 0, h, t, place.b, full0);
        bulk_load(vectors, a.lse2 + row, C::W * 4, full0);
        barrier_arrive_expect(full1, C::w_bytes + C::W * 4);
        tma_load(to + C::w_bytes, maps.d_o, 0, h, t, place.b, full1);
        bulk_load(vectors + C::W, a.delta + row, C::W * 4, full1);
        ring.next();
      }
    item = next;
  }
  barrier_wait(shared.r_empty + slots.stage, slots.parity ^ 1);
  shared.item[slots.stage] = -1;
  barrier_arrive(shared.r_full + slots.stage);
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

/// One thread per buffer of dQ: adds every third dQ tile to the workspace at its block's turn, and passes the turn on
/// when the sum is in memory; that takes longer than a tile's arithmetic, hence three. The first also stores dK and dV
/// of each item. ordered = false: in any order, on a workspace of zeros.
template <bool ordered>
__device__ void store_results(const Arguments& a, const Maps& maps, const Shared& shared, int storer) {
  Ring<C::storers> buffers;
  const char* dq = shared.dq + storer * C::dq_bytes;
  for (Ring<2> slots;; slots.next()) {
    barrier_wait(shared.r_full + slots.stage, slots.parity);
    const int item = shared.item[slots.stage];
    if (item < 0) {
      if constexpr (!ordered) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
      return;
    }
    const Place place(a, item);
    const unsigned block = place.block;
    for (int h = place.head; h < place.head + place.heads; ++h)
      for (int t = place.begin; t < place.end; t += C::W, buffers.next()) {
        if (buffers.stage != storer) continue;
        const int64_t tile = a.tile(int64_t(place.b) * a.s.n_heads + h, t);
        float* to = a.dq_sums + tile * (C::W * C::D);
        barrier_wait(shared.dq_full + storer, buffers.parity);
        if (ordered && block == 0) {
          bulk_store(to, dq, C::dq_bytes);
        } else {
          if constexpr (ordered) {
            while (load_acquire(a.added + tile) < block) {
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
          store_release(a.added + tile, block + 1);
        }
      }
    if (storer == 0) {
      barrier_wait(shared.sum_full + slots.stage, slots.parity);
      const char* from = shared.resident + slots.stage * C::slot_bytes;
      for (int w = 0; w < C::WGS; ++w) {
        tma_store(maps.dk, 0, place.h, place.r0 + 64 * w, place.b, from + w * 64 * 128);
        tma_store(maps.dv, 0, place.h, place.r0 + 64 * w, place.b, from + C::r_bytes + w * 64 * 128);
      }
      tma_store_wait();
    }
    barrier_arrive(shared.r_empty + slots.stage);
  }
}

__device__ void consume(const Arguments& a, const Shared& shared) {
  constexpr int D = C::D, W = C::W;
  const int wg = threadIdx.x / 128, lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  const Shape& s = a.s;
  const float c = s.scale * kLog2e;
  const uint64_t walked = descriptor(shared.walked, 0), ds_across = descriptor(shared.ds, 0);

  Ring<C::stages> ring;
  Ring<2> buffers;              // of dS
  Ring<C::storers> dq_buffers;  // of dQ
  for (Ring<2> slots;; slots.next()) {
    barrier_wait(shared.r_full + slots.stage, slots.parity);
    const int item = shared.item[slots.stage];
    if (item < 0) break;
    const Place place(a, item);
    const int first = place.r0 + wg * 64,
              mine = first + warp * 16 + lane / 4;  // keys of this warpgroup, of this thread (and 8 on)
    char* slot = shared.resident + slots.stage * C::slot_bytes;
    char *k_rows = slot + wg * 64 * 128, *v_rows = k_rows + C::r_bytes;
    const uint64_t k_across = advanced(descriptor(slot, 0), wg * 64);  // 32 columns of all 128 keys

    float dk[D / 2] = {}, dv[D / 2] = {}, sc[W / 2], dp[W / 2], dq[16];
    unsigned k[D / 4], packed_p[W / 4], packed_ds[W / 4];
    load_rows<D>(k, k_rows, 0);
    arrived(dk);
    arrived(dv);
    int t = place.begin, heads = place.heads, unreleased = -1;
    Ring<2> previous;  // buffer of the tile before

    /// dQ of the tile before, from both warpgroups' dS.
    const auto start_dq = [&] {
      barrier_wait(shared.ds_full + previous.stage, previous.parity);
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < C::R / 16; ++i)
        wgmma_across(dq, advanced(ds_across, previous.stage * C::ds_bytes + i * 2048), advanced(k_across, i * 2048),
                     i != 0);
      wgmma_commit();
    };
    const auto finish_dq = [&] {
      arrived(dq);
      warp_arrive(shared.ds_empty + previous.stage);
      barrier_wait(shared.dq_empty + dq_buffers.stage, dq_buffers.parity ^ 1);
      float4* to = reinterpret_cast<float4*>(shared.dq + dq_buffers.stage * C::dq_bytes) + wg * 512 + threadIdx.x % 128;
#pragma unroll
      for (int j = 0; j < 4; ++j) to[j * 128] = make_float4(dq[4 * j], dq[4 * j + 1], dq[4 * j + 2], dq[4 * j + 3]);
      fence_async();
      warp_arrive(shared.dq_full + dq_buffers.stage);
      dq_buffers.next();
    };

    /// One tile; dQ of the tile before runs under it, except in an item's first
    /// step. Returns whether there is another tile.
    const auto step = [&](auto with_dq) -> bool {
      constexpr int pending_dq = decltype(with_dq)::value ? 1 : 0;
      const int stage = ring.stage, parity = ring.parity;
      ring.next();
      const uint64_t q_tile = advanced(walked, stage * C::stage_bytes), do_tile = advanced(q_tile, C::w_bytes);
      const float* vectors = shared.vectors + stage * 2 * W + lane % 4 * 2;
      barrier_wait(shared.w0_full + stage, parity);
      dot_rows<D, W>(sc, k, q_tile, 0);
      wgmma_commit();
      barrier_wait(shared.w1_full + stage, parity);
      dot_rows<D, W>(dp, descriptor(v_rows, 0), 0, do_tile, 0);
      wgmma_commit();
      if constexpr (pending_dq) start_dq();
      wgmma_wait<1 + pending_dq>();  // S, and dV and dK of the tile before
      arrived(sc);
      if (unreleased >= 0) warp_arrive(shared.w_empty + unreleased);
      unreleased = stage;

      if (s.causal && first + 63 > t + s.offset) {
#pragma unroll
        for (int half = 0; half < 2; ++half)  // a key is seen by the queries from it on
          keep_columns(sc, half, mine + 8 * half - s.offset - t - lane % 4 * 2, W);
      }
      probabilities_by_column(sc, packed_p, c, vectors);
      add_rows<D, W>(dv, packed_p, do_tile);
      wgmma_commit();
      wgmma_wait<1 + pending_dq>();  // dP
      arrived(dp);
      gradients_by_column(packed_ds, dp, vectors + W, [&](int i) { return unpack(packed_p[i / 2]); });
      add_rows<D, W>(dk, packed_ds, q_tile);
      wgmma_commit();
      barrier_wait(shared.ds_empty + buffers.stage, buffers.parity ^ 1);
      store_packed(shared.ds + buffers.stage * C::ds_bytes + wg * 64 * 128, 0, packed_ds);
      fence_async();
      warp_arrive(shared.ds_full + buffers.stage);
      wgmma_wait<1>();  // dQ of the tile before, and dV, which frees P's registers before the next products need them
      if constexpr (pending_dq) finish_dq();
      previous = buffers;
      buffers.next();
      t += W;
      if (t < place.end) return true;
      t = place.begin;
      return --heads > 0;
    };

    if (step(std::false_type{}))
      while (step(std::true_type{})) {
      }
    start_dq();
    wgmma_wait<0>();
    arrived(dk);
    arrived(dv);
    warp_arrive(shared.w_empty + unreleased);
    finish_dq();
    // dK and dV leave through K's and V's rows; dQ of both warpgroups still reads all of K's.
    named_sync(8, 128 * C::WGS);
    stage_rows<D>(reinterpret_cast<bf*>(k_rows), 0, dk, s.scale, s.scale);
    stage_rows<D>(reinterpret_cast<bf*>(v_rows), 0, dv, 1.f, 1.f);
    fence_async();
    warp_arrive(shared.sum_full + slots.stage);
  }
}

#endif  // ROPEWALK_SM90A

template <bool ordered>
__global__ void __launch_bounds__(C::threads, 1)
    backward_kernel(const __grid_constant__ Arguments a, const __grid_constant__ Maps maps) {
#ifdef ROPEWALK_SM90A
  extern __shared__ char dynamic_shared[];
  const Shared shared(dynamic_shared);
  if (threadIdx.x == 0) shared.init();
  __syncthreads();
  if (threadIdx.x / 128 == C::WGS) {
    registers_keep<C::producer_registers>();
    if (threadIdx.x % 128 == 0) produce(a, maps, shared);
    const int warp = threadIdx.x / 32 % 4;
    if (warp > 0 && threadIdx.x % 32 == 0) store_results<ordered>(a, maps, shared, warp - 1);
  } else {
    registers_take<C::consumer_registers>();
    consume(a, shared);
  }
#endif
}

/// dq <- scale * workspace, one tile of 64 x 64 a block, turned into rows in shared memory.
__global__ void __launch_bounds__(256) finish_kernel(Arguments a, Heads<bf> dq) {
  __shared__ bf rows[C::W][C::D + 8];
  const int tiles = a.pitch / C::W, bh = blockIdx.x / tiles, t = blockIdx.x % tiles * C::W;
  if (t >= a.s.tq) return;  // rows of the pitch alone
  const float* from = a.dq_sums + int64_t(blockIdx.x) * (C::W * C::D);
  for (int i = threadIdx.x; i < C::W * C::D / 4; i += 256) {
    const float4 x = reinterpret_cast<const float4*>(from)[i];
    const int wg = i / 512, j = i / 128 % 4, thread = i % 128;  // as the threads of consume() held it
    const int r = thread / 32 * 16 + thread % 32 / 4, c = wg * 32 + j * 8 + thread % 4 * 2;
    *reinterpret_cast<__nv_bfloat162*>(&rows[r][c]) = __floats2bfloat162_rn(x.x * a.s.scale, x.y * a.s.scale);
    *reinterpret_cast<__nv_bfloat162*>(&rows[r + 8][c]) = __floats2bfloat162_rn(x.z * a.s.scale, x.w * a.s.scale);
  }
  __syncthreads();
  bf* head = dq.head(bh / a.s.n_heads, bh % a.s.n_heads, a.s.head_dim);
  for (int i = threadIdx.x; i < C::W * C::D / 8; i += 256) {
    const int r = i / 8, c = i % 8 * 8;
    if (t + r < a.s.tq && c < a.s.head_dim)  // the columns beyond are padding
      *reinterpret_cast<uint4*>(head + (t + r) * dq.row + c) = *reinterpret_cast<const uint4*>(&rows[r][c]);
  }
}

}  // namespace

/// Waiting for the order costs a block about 64 tiles' time for each other block of its head at work;
/// the pass must be much longer than that, unless blocks need not wait. Below 2048 queries the
/// workspace's traffic outweighs the two products saved.
bool sm90_fuses(const AttentionShape& shape) {
  if (const char* dev = getenv("RW_NEW"); !dev || *dev == '1' || kernel_head_dim(shape.head_dim) == 128) {
    if (shape.window > 0) return false;
    if (shape.paths.fusion != Fusion::automatic) return shape.paths.fusion == Fusion::always;
    return shape.q_length >= 2048;
  }
  if (kernel_head_dim(shape.head_dim) != C::D || shape.window > 0) return false;
  if (shape.paths.fusion != Fusion::automatic) return shape.paths.fusion == Fusion::always;
  const int64_t heads = shape.batch * shape.n_kv_heads, group = shape.n_heads / shape.n_kv_heads,
                blocks = multiprocessors();
  const int64_t tiles = heads * group * (shape.k_length / C::R) * (shape.q_length / C::W) / (shape.causal ? 2 : 1);
  return shape.q_length >= 2048 && (shape.paths.fast_atomics || tiles / blocks >= 6 * 64 * blocks / heads);
}

/// 10 B H Tq Tk D FLOPs (half if causal). The workspace takes 4 B H Tq 64 bytes; per 128 keys each of its tiles is
/// added to once, in L2.
void sm90_backward_fused(const AttentionShape& shape, const HeadView& q, const HeadView& k, const HeadView& v,
                         const RowVectors& rows, const HeadView& d_o, const HeadView& dq, const HeadView& dk,
                         const HeadView& dv) {
  if (const char* dev = getenv("RW_NEW"); !dev || *dev == '1' || kernel_head_dim(shape.head_dim) == 128)
    return sm90_backward_onepass(shape, q, k, v, rows, d_o, dq, dk, dv);
  const int64_t b = shape.batch, heads = shape.n_heads, kv_heads = shape.n_kv_heads, tq = shape.q_length,
                tk = shape.k_length, d = shape.head_dim;
  const int64_t tiles = b * heads * (rows.pitch / C::W);
  const Device device = q.owner->device();
  const Tensor sums = Tensor::empty({tiles, C::W * C::D}, DType::f32, device);
  const bool ordered = !shape.paths.fast_atomics;
  Tensor added;
  if (ordered) added = Tensor::empty({tiles}, DType::i32, device);
  (ordered ? added : sums).zero();
  announce_write(sums.raw(), sums.bytes());
  for (const HeadView* sum : {&dk, &dv}) announce_view(*sum, b, tk, kv_heads, d);

  Arguments a{Shape(shape),        {},        rows.lse2.data<float>(), rows.delta.data<float>(), sums.data<float>(),
              as<unsigned>(added), rows.pitch};
  // Blocks of one head that work at a time wait for each other: about three of each
  // head, so sections of a third of the blocks.
  const int all = static_cast<int>(b * kv_heads), sections = std::max(1, all / (multiprocessors() / 3));
  a.order = {ceil_div(a.s.tk, C::R), all, ceil_div(all, sections)};
  const auto on_keys = [&](const HeadView& x) { return tensor_map(x, b, tk, kv_heads, d, 64); };
  const auto on_queries = [&](const HeadView& x) { return tensor_map(x, b, tq, heads, d, 64); };
  launch({ordered ? "attention backward (sm_90)" : "attention backward (sm_90, atomics)", work_of(shape, 5, 3, 4, 2)},
         ordered ? backward_kernel<true> : backward_kernel<false>, std::min(multiprocessors(), a.order.count()),
         C::threads, C::shared_bytes, a,
         Maps{on_keys(k), on_keys(v), on_queries(q), on_queries(d_o), on_keys(dk), on_keys(dv)});
  launch({"attention backward, dq to bf16", work_of(shape, 0, 3, 0, 2).bytes}, finish_kernel, tiles, 256, 0, a,
         Heads<bf>(dq));
}

}  // namespace rw::cuda::attn
