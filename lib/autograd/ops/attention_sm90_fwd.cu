// Attention forward on Hopper: wgmma fed by TMA, for bf16 and head dims up to 64 or 128, padded with zeros.
//
//   O = softmax(scale Q K^T) V by the online softmax (attention.cuh), 64 queries per warpgroup
//
// One block per multiprocessor stays for the whole launch and takes (head, 64 WGS queries) tiles by ticket. Its last
// warpgroup is the producer: one thread that keeps K and V tiles coming through two rings of shared-memory stages. The
// others are consumers. A consumer's step n overlaps three things:
//
//   tensor cores   S_n = Q K_n^T, then O += P_{n-1} V_{n-1}        (issued together, at this warpgroup's turn)
//   this warpgroup softmax of S_n as soon as it is there, while P V still runs
//   the others     do the same half a step later: they alternate by named barriers, so that the exponentials of one
//                  run under the products of another
//
// The last P V of an item is issued together with the first scores of the next one.
//
// Exponentials are why this matters: a 64 x 128 tile has 8192 of them at 16 a cycle, 512 cycles, as long as its
// products at D = 64.
#include <cmath>

#include "autograd/ops/attention_sm90.cuh"

namespace rw::cuda::attn {
namespace {

__device__ Tickets tickets;

/// Sizes that make one instance. Registers: O takes D / 2 a thread, S BN / 2, P BN / 4. Q has two slots, so that a
/// tile's loads and the previous tile's O do not wait for each other.
template <int D_, int WGS_, int BN_, int stages_, bool windowed_ = false>
struct Config {
  static constexpr bool windowed = windowed_;  // an instance of its own: a window's mask costs registers
  static constexpr int D = D_, WGS = WGS_, BN = BN_, stages = stages_;
  static constexpr int BM = 64 * WGS, threads = 128 * (WGS + 1);
  static constexpr int consumer_registers = WGS == 2 ? 232 : 160, producer_registers = WGS == 2 ? 40 : 32;
  static constexpr int q_bytes = BM * D * 2, kv_bytes = BN * D * 2;
  static constexpr int q_panel = BM * 128, kv_panel = BN * 128;
  static constexpr int shared_bytes = 2 * q_bytes + 2 * stages * kv_bytes + 256;
};

struct Arguments {
  Shape s;
  TileOrder order;
  float* lse;
};

#ifdef ROPEWALK_SM90A

template <class C>
struct Shared {
  char *q, *k, *v;
  Barrier *q_full, *q_empty, *o_full;            // per slot
  Barrier *k_full, *k_empty, *v_full, *v_empty;  // per stage
  int* item;                                     // per slot; -1: no more
  __device__ explicit Shared(char* base) {
    q = base;
    k = q + 2 * C::q_bytes;
    v = k + C::stages * C::kv_bytes;
    q_full = reinterpret_cast<Barrier*>(v + C::stages * C::kv_bytes);
    q_empty = q_full + 2;
    o_full = q_full + 4;
    k_full = q_full + 6;
    k_empty = k_full + C::stages;
    v_full = k_empty + C::stages;
    v_empty = v_full + C::stages;
    item = reinterpret_cast<int*>(v_empty + C::stages);
  }
  __device__ void init() const {
    for (int i = 0; i < 2; ++i) {
      barrier_init(q_full + i, 1);
      barrier_init(q_empty + i, 1);
      barrier_init(o_full + i, 4 * C::WGS * kArrivals);
    }
    for (int i = 0; i < C::stages; ++i) {
      barrier_init(k_full + i, 1);
      barrier_init(v_full + i, 1);
      barrier_init(k_empty + i, 4 * C::WGS * kArrivals);
      barrier_init(v_empty + i, 4 * C::WGS * kArrivals);
    }
    barrier_init_done();
  }
};

/// Where a tile lies: its first query, head, sample, and the key tiles [begin, end) that it walks.
template <class C>
struct Place {
  int q0, h, b, bh, begin, end;
  __device__ Place(const Arguments& a, int item) {
    int tile;
    a.order.locate(item, tile, bh);
    q0 = (a.order.tiles - 1 - tile) * C::BM;
    b = bh / a.s.n_heads;
    h = bh % a.s.n_heads;
    begin = C::windowed ? a.s.first_key(q0) / C::BN : 0;
    end = steps_until(a.s, q0 + C::BM);
  }
  __device__ static int steps_until(const Shape& s, int query_end) {
    return ceil_div(s.keys_until(min(query_end, s.tq)), C::BN);
  }
};

/// One thread: Q of each tile once, its K and V tiles through the rings, as far
/// ahead of the consumers as there is room.
template <class C>
__device__ void produce(const Arguments& a, const CUtensorMap& q_map, const CUtensorMap& k_map,
                        const CUtensorMap& v_map, const Shared<C>& shared) {
  Ring<2> slots;
  Ring<C::stages> k_ring, v_ring;
  const auto load_ring = [&](Ring<C::stages>& ring, char* to, Barrier* full, Barrier* empty, const CUtensorMap& map,
                             int h, int t, int b) {
    barrier_wait(empty + ring.stage, ring.parity ^ 1);
    barrier_arrive_expect(full + ring.stage, C::kv_bytes);
    tma_load_tile<C::D>(to + ring.stage * C::kv_bytes, C::kv_panel, map, h, t, b, full + ring.stage);
    ring.next();
  };
  for (int item = blockIdx.x; item >= 0;) {
    const int next = tickets.take(a.order.count());
    const Place<C> place(a, item);
    const int kv = place.h / a.s.group;
    Barrier* q_full = shared.q_full + slots.stage;
    barrier_wait(shared.q_empty + slots.stage, slots.parity ^ 1);
    shared.item[slots.stage] = item;
    barrier_arrive_expect(q_full, C::q_bytes);
    for (int w = 0; w < C::WGS; ++w)
      tma_load_tile<C::D>(shared.q + slots.stage * C::q_bytes + w * 64 * 128, C::q_panel, q_map, place.h,
                          place.q0 + 64 * w, place.b, q_full);
    slots.next();
    for (int n = place.begin; n < place.end; ++n) {
      load_ring(k_ring, shared.k, shared.k_full, shared.k_empty, k_map, kv, n * C::BN, place.b);
      load_ring(v_ring, shared.v, shared.v_full, shared.v_empty, v_map, kv, n * C::BN, place.b);
    }
    item = next;
  }
  barrier_wait(shared.q_empty + slots.stage, slots.parity ^ 1);
  shared.item[slots.stage] = -1;
  barrier_arrive(shared.q_full + slots.stage);
}

/// One thread: O of each tile from Q's slot to memory.
template <class C>
__device__ void store_results(const Arguments& a, const CUtensorMap& o_map, const Shared<C>& shared) {
  for (Ring<2> slots;; slots.next()) {
    barrier_wait(shared.q_full + slots.stage, slots.parity);
    const int item = shared.item[slots.stage];
    if (item < 0) return;
    const Place<C> place(a, item);
    barrier_wait(shared.o_full + slots.stage, slots.parity);
    for (int w = 0; w < C::WGS; ++w)
      tma_store_tile<C::D>(o_map, place.h, place.q0 + 64 * w, place.b,
                           shared.q + slots.stage * C::q_bytes + w * 64 * 128, C::q_panel);
    tma_store_wait();
    barrier_arrive(shared.q_empty + slots.stage);
  }
}

/// The running softmax of a thread's two rows. Scores stay unscaled: P = exp2(c S - c max S), c = scale log2 e.
struct Softmax {
  float m[2] = {-1e30f, -1e30f}, l[2] = {0.f, 0.f};  // finite: a window may hide a row's whole first tile

  /// S -> P; returns in `shrink` what l and O must be multiplied by.
  template <int n>
  __device__ __forceinline__ void step(float (&s)[n], float c, float (&shrink)[2]) {
    // Both rows side by side, and each maximum in two chains: one warp a scheduler is here at a time, and would wait.
    float top[2] = {m[0], m[1]}, other[2] = {m[0], m[1]};
#pragma unroll
    for (int j = 0; j < n / 4; j += 2)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        top[half] = fmaxf(top[half], fmaxf(s[4 * j + 2 * half], s[4 * j + 2 * half + 1]));
        other[half] = fmaxf(other[half], fmaxf(s[4 * j + 4 + 2 * half], s[4 * j + 5 + 2 * half]));
      }
    float top_c[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      top[half] = max4(fmaxf(top[half], other[half]));
      shrink[half] = exp2_fast((m[half] - top[half]) * c);
      m[half] = top[half];
      top_c[half] = top[half] * c;
    }
    if (fmaxf(fabsf(top_c[0]), fabsf(top_c[1])) > kHugeScore) {
#pragma unroll
      for (int half = 0; half < 2; ++half)
        if (fabsf(top_c[half]) > kHugeScore) {
#pragma unroll
          for (int j = 0; j < n / 4; ++j) s[4 * j + 2 * half] -= top[half], s[4 * j + 2 * half + 1] -= top[half];
          top_c[half] = 0.f;
        }
    }
    float sum[2] = {0.f, 0.f};
#pragma unroll
    for (int j = 0; j < n / 4; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          s[4 * j + e] = exp2_fast(fmaf(s[4 * j + e], c, -top_c[half]));
          sum[half] += s[4 * j + e];
        }
#pragma unroll
    for (int half = 0; half < 2; ++half)
      l[half] = l[half] * shrink[half] + sum[half];  // the other 3 lanes' parts join at the end
  }
};

/// One consumer warpgroup. It walks from item to item without a pause: the last product of an item, O += P V, runs
/// behind the first one of the next item, S = Q K^T, and under its softmax.
template <class C>
struct Consumer {
  static constexpr int D = C::D, BN = C::BN;

  const Arguments& a;
  const Shared<C>& shared;
  const Shape& s = a.s;
  const int wg = uniform(threadIdx.x / 128), lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  const float c = s.scale * kLog2e;
  const uint64_t k = descriptor(shared.k, 0), v = descriptor(shared.v, C::kv_panel);
  Ring<C::stages> k_ring, v_ring;
  Ring<2> slots;  // of the item that is being walked
  // The item. This warpgroup's rows begin at first_row and see the key tiles [begin, end) of the block's
  // [block_begin, block_end). `first` is the thread's row of half 0; half 1 is 8 further.
  int first_row, first, begin, end, block_begin, block_end, bh;
  uint64_t q;
  float acc[D / 2], sc[BN / 2], shrink[2], inverse[2];
  unsigned p[BN / 4];
  Softmax softmax;

  __device__ __forceinline__ char* rows_of_slot(int slot) const {  // this warpgroup's 64, in every panel
    return shared.q + slot * C::q_bytes + wg * 64 * 128;
  }
  __device__ __forceinline__ void my_turn() const { named_sync(1 + wg, 256); }
  __device__ __forceinline__ void pass_turn() const { named_arrive(1 + (wg + 1) % C::WGS, 256); }

  /// Waits for the slot's item; false if there are no more.
  __device__ __forceinline__ bool enter() {
    barrier_wait(shared.q_full + slots.stage, slots.parity);
    const int item = uniform(shared.item[slots.stage]);
    if (item < 0) return false;
    const Place<C> place(a, item);
    bh = place.bh, block_begin = place.begin, block_end = place.end;
    q = descriptor(rows_of_slot(slots.stage), 0);
    first_row = place.q0 + wg * 64;
    first = first_row + warp * 16 + lane / 4;
    end = first_row < s.tq ? Place<C>::steps_until(s, first_row + 64) : block_begin;
    begin = C::windowed ? min(s.first_key(first_row) / BN, end) : block_begin;
    softmax = {};
    return true;
  }

  __device__ __forceinline__ void mask(int k0) {
    const int column0 = k0 + lane % 4 * 2;
    if (s.needs_mask(first_row, k0 + BN)) {
#pragma unroll
      for (int half = 0; half < 2; ++half) keep_columns(sc, half, 0, s.keys_until(first + 8 * half + 1) - column0);
    }
    if (C::windowed && k0 < s.first_key(first_row + 63)) {
#pragma unroll
      for (int half = 0; half < 2; ++half) keep_columns(sc, half, s.first_key(first + 8 * half) - column0, BN);
    }
  }
  __device__ __forceinline__ void release(Barrier* empty, Ring<C::stages>& ring) {  // a tile that was read
    warp_arrive(empty + ring.stage);
    ring.next();
  }
  __device__ __forceinline__ void start_scores() {  // S = Q K^T of the next key tile, at this warpgroup's turn
    barrier_wait(shared.k_full + k_ring.stage, k_ring.parity);
    my_turn();
    dot_rows<D, BN>(sc, q, C::q_panel, advanced(k, k_ring.stage * C::kv_bytes), C::kv_panel);
    wgmma_commit();
  }
  __device__ __forceinline__ void finish_scores(int k0) {  // S is there: softmax
    arrived(sc);
    release(shared.k_empty, k_ring);
    mask(k0);
    softmax.step(sc, c, shrink);
  }
  __device__ __forceinline__ void start_values() {  // O += P V of the tile before
    barrier_wait(shared.v_full + v_ring.stage, v_ring.parity);
    add_rows<D, BN>(acc, p, advanced(v, v_ring.stage * C::kv_bytes));
    wgmma_commit();
  }
  __device__ __forceinline__ void finish_values() {
    wgmma_wait<0>();
    arrived(acc);
    release(shared.v_empty, v_ring);
  }
  /// The next tile's scores, and under their softmax the values of the tile before.
  __device__ __forceinline__ void advance(int k0) {
    start_scores();
    start_values();
    pass_turn();
    wgmma_wait<1>();
    finish_scores(k0);
    finish_values();
  }
  // `count` tiles that only other warpgroups see.
  __device__ __forceinline__ void skip_keys(int count) {
    for (; count > 0; --count) {
      my_turn();
      pass_turn();
      barrier_wait(shared.k_full + k_ring.stage, k_ring.parity);
      release(shared.k_empty, k_ring);
    }
  }
  __device__ __forceinline__ void skip_values(int count) {
    for (; count > 0; --count) {
      barrier_wait(shared.v_full + v_ring.stage, v_ring.parity);
      release(shared.v_empty, v_ring);
    }
  }
  __device__ __forceinline__ void skip(int count) {
    for (; count > 0; --count) skip_keys(1), skip_values(1);
  }

  /// P of an item's first tile; O has nothing yet.
  __device__ __forceinline__ void keep_first() {
#pragma unroll
    for (int i = 0; i < D / 2; ++i) acc[i] = 0.f;
    pack_all(p, sc);
  }
  /// The first tile of an item, with nothing under way.
  __device__ __forceinline__ void begin_walk() {
    skip(begin - block_begin);
    start_scores();
    pass_turn();
    wgmma_wait<0>();
    finish_scores(begin * BN);
    keep_first();
  }
  __device__ __forceinline__ void walk() {  // the other tiles, but for the last one's P V
    for (int n = begin + 1; n < end; ++n) {
      advance(n * BN);
#pragma unroll
      for (int i = 0; i < D / 2; ++i) acc[i] *= shrink[i / 2 % 2];
      pack_all(p, sc);
    }
  }
  /// What the softmax of the whole row leaves to be done: 1 / its sum, and the row's log of it to memory.
  __device__ __forceinline__ void finish_rows() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float total = sum4(softmax.l[half]);
      inverse[half] = 1.f / total;
      if (a.lse && lane % 4 == 0 && first + 8 * half < s.tq)
        a.lse[int64_t(bh) * s.tq + first + 8 * half] = softmax.m[half] * s.scale + kLn2 * log2f(total);
    }
  }
  /// O leaves through this warpgroup's rows of Q, which all its warps are done with.
  __device__ __forceinline__ void stage(int slot) {
    named_sync(8 + wg, 128);
    stage_rows<D>(reinterpret_cast<bf*>(rows_of_slot(slot)), C::q_panel, acc, inverse[0], inverse[1]);
    fence_async();
    warp_arrive(shared.o_full + slot);
  }

  __device__ __forceinline__ void run() {
    if (wg == C::WGS - 1) pass_turn();  // the first turn is warpgroup 0's
    bool more = enter();
    while (more) {
      if (begin == end) {  // nothing here is this warpgroup's
        skip(block_end - block_begin);
        warp_arrive(shared.o_full + slots.stage);
        slots.next();
        more = enter();
        continue;
      }
      begin_walk();
      for (bool goes_on = true; goes_on;) {
        walk();
        finish_rows();
        const int slot = slots.stage, left = block_end - end;
        slots.next();
        // With a window this warpgroup may have to skip more tiles than the rings hold, so that P V cannot wait.
        if constexpr (!C::windowed) {
          skip_keys(left);
          more = enter();
        }
        goes_on = !C::windowed && more && begin < end;
        if (goes_on) {
          advance(begin * BN);
        } else {
          start_values();
          finish_values();
        }
        if constexpr (C::windowed) skip(left);
        else skip_values(left);
        stage(slot);
        if constexpr (C::windowed) more = enter();
        if (goes_on) keep_first();
      }
    }
  }
};

#endif  // ROPEWALK_SM90A

template <class C>
__global__ void __launch_bounds__(C::threads, 1)
    forward_kernel(const __grid_constant__ Arguments a, const __grid_constant__ CUtensorMap q_map,
                   const __grid_constant__ CUtensorMap k_map, const __grid_constant__ CUtensorMap v_map,
                   const __grid_constant__ CUtensorMap o_map) {
#ifdef ROPEWALK_SM90A
  extern __shared__ __align__(1024) char dynamic_shared[];  // addresses are constants, which saves registers
  const Shared<C> shared(dynamic_shared);
  if (shared_address(dynamic_shared) % 1024 != 0) __trap();
  if (threadIdx.x == 0) shared.init();
  __syncthreads();
  if (threadIdx.x / 128 == C::WGS) {
    registers_keep<C::producer_registers>();
    if (threadIdx.x % 128 == 0) produce<C>(a, q_map, k_map, v_map, shared);
    if (threadIdx.x % 128 == 32) store_results<C>(a, o_map, shared);
  } else {
    registers_take<C::consumer_registers>();
    Consumer<C>{a, shared}.run();
  }
#endif
}

/// 4 B H Tq Tk D FLOPs (half if causal). K and V cross L2 once per 64 WGS queries and device memory about once.
template <class C>
void launch_forward(const AttentionShape& shape, const HeadView& q, const HeadView& k, const HeadView& v,
                    const HeadView& o, float* lse) {
  const int64_t d = shape.head_dim, kv_heads = shape.n_kv_heads;
  Arguments a{Shape(shape), {}, lse};
  a.order = tile_order(ceil_div(a.s.tq, C::BM), a.s.batch * a.s.n_heads, a.s.group, 4 * shape.k_length * d);
  announce_view(o, shape.batch, shape.q_length, shape.n_heads, d);
  launch({"attention forward (sm_90)", work_of(shape, 2, 2, 2, 2)}, forward_kernel<C>,
         std::min(multiprocessors(), a.order.count()), C::threads, C::shared_bytes, a,
         tensor_map(q, shape.batch, shape.q_length, shape.n_heads, d, 64),
         tensor_map(k, shape.batch, shape.k_length, kv_heads, d, C::BN),
         tensor_map(v, shape.batch, shape.k_length, kv_heads, d, C::BN),
         tensor_map(o, shape.batch, shape.q_length, shape.n_heads, d, 64));
}

/// Whether tiles of 128 queries beat tiles of 192 at head dim 64. Three warpgroups hide more of the exponentials'
/// latency, but of few queries a last tile of 192 may be mostly empty: 256 queries fill two tiles of 128 and one and a
/// third of 192. A row's sums run in the same order either way.
bool short_tiles(int64_t q_length) {
  const auto rows = [&](int64_t tile) { return (q_length + tile - 1) / tile * tile; };
  return q_length <= 512 && rows(128) < rows(192);
}

bool hopper_ready() {
  static const bool compiled = has_code(forward_kernel<Config<64, 3, 128, 3>>);
  return compiled && is_hopper();
}

}  // namespace

CUtensorMap tensor_map(const HeadView& view, int64_t batch, int64_t length, int64_t heads, int64_t head_dim, int rows) {
  const int64_t sample = batch > 1 ? view.batch : view.row * length;  // of a single sample the stride may be anything
  return hopper::tensor_map("attention", view.data, {head_dim, heads, length, batch},
                            {2 * head_dim, 2 * view.row, 2 * sample}, {64, 1, rows, 1});
}

/// Padding to 64 or 128 costs the kernels' products their share of zeros: a third more at 48 and 96, which
/// the faster tensor cores' path returns several times over. At 16, 32 and 80 it would be 4, 2 and 1.6
/// times the products, so they stay where mma.sync has kernels of just that size. Where it has none (8,
/// 24, 40, 56, 72, ...) all else is slower still.
bool sm90_pads(int64_t head_dim) {
  if (head_dim < 8 || head_dim > 128 || head_dim % 8 != 0) return false;
  return 2 * kernel_head_dim(head_dim) <= 3 * head_dim || !mma_has(head_dim);
}

bool sm90_takes(const AttentionShape& s, std::initializer_list<const HeadView*> views) {
  if (s.soft_cap != 0) return false;                         // these kernels know windows, but no soft cap
  if (s.scale <= 0 || !sm90_pads(s.head_dim)) return false;  // the maximum of S is that of scale S only if scale > 0
  return bf16_by_eights(views) && hopper_ready();
}

void sm90_forward(const AttentionShape& s, const HeadView& q, const HeadView& k, const HeadView& v, const HeadView& o,
                  float* lse) {
  if (s.window > 0) {
    if (kernel_head_dim(s.head_dim) == 128) return launch_forward<Config<128, 2, 128, 2, true>>(s, q, k, v, o, lse);
    return launch_forward<Config<64, 3, 128, 3, true>>(s, q, k, v, o, lse);
  }
  if (kernel_head_dim(s.head_dim) == 128) return launch_forward<Config<128, 2, 128, 2>>(s, q, k, v, o, lse);
  if (short_tiles(s.q_length)) return launch_forward<Config<64, 2, 128, 4>>(s, q, k, v, o, lse);
  launch_forward<Config<64, 3, 128, 3>>(s, q, k, v, o, lse);
}

}  // namespace rw::cuda::attn
