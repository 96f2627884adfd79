// Matrix products on the GPU: cuBLASLt for matrices, a kernel of our own for one row (decoding is bound by reading W).
#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <map>
#include <mutex>

#include "tensor/cuda.h"
#include "tensor/gemm.h"
#include "tensor/launch.cuh"

namespace rw::cuda {
namespace {

// --- cuBLASLt -------------------------------------------------------------------------------------------------------
//
// cuBLASLt thinks in columns. A row-major matrix read by columns is its transpose, so we ask for
//   C^T [N,M] = op(B)^T op(A)^T
// with B as the left factor; no byte moves.

constexpr int kCandidates = 8;
constexpr int64_t kWorkspace = int64_t{64} << 20;  // what NVIDIA recommends at least for Hopper is 32 MiB

void check_lt(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS) fail("gemm", call, ": ", cublasLtGetStatusString(status));
}

/// Largest power of two up to 256 that divides the address: part of what decides which kernels may run.
uint32_t alignment_of(const void* p) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(p);
  uint32_t alignment = 256;
  while (address % alignment) alignment /= 2;
  return alignment;
}

struct Key {
  bool ta, tb, accumulate, bias, fast_accumulation;
  int64_t m, n, k;
  DType a, b, c;
  uint32_t align_a, align_b, align_c;
  auto operator<=>(const Key&) const = default;
};

bool is_8_bit(DType t) { return t == DType::e4m3 || t == DType::e5m2; }

cudaDataType_t cuda_type(DType t) {
  switch (t) {
    case DType::bf16:
      return CUDA_R_16BF;
    case DType::e4m3:
      return CUDA_R_8F_E4M3;
    case DType::e5m2:
      return CUDA_R_8F_E5M2;
    default:
      return CUDA_R_32F;
  }
}

/// Descriptors and the algorithm of one kind of call. Kept for the life of the process.
struct Plan {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t left = nullptr, right = nullptr, out = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
  cublasLtMatmulHeuristicResult_t candidates[kCandidates] = {};  // cuBLASLt's suggestions, best guess first
  int count = 0;
};

struct Lt {
  cublasLtHandle_t handle = nullptr;
  void* workspace = nullptr;
  std::map<Key, Plan> plans;
  std::mutex mutex;
};

Lt& lt_of_this_device() {
  static std::array<Lt, 16> all;
  int device = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  Lt& lt = all.at(static_cast<size_t>(device));
  const std::lock_guard lock(lt.mutex);
  if (!lt.handle) {
    check_lt(cublasLtCreate(&lt.handle), "cublasLtCreate");
    lt.workspace = allocate(kWorkspace, {DeviceType::cuda, device}, "gemm-workspace");
  }
  return lt;
}

cublasLtMatrixLayout_t layout(DType type, int64_t rows, int64_t columns) {  // column-major, no gaps
  cublasLtMatrixLayout_t made = nullptr;
  check_lt(cublasLtMatrixLayoutCreate(&made, cuda_type(type), static_cast<uint64_t>(rows),
                                      static_cast<uint64_t>(columns), rows),
           "cublasLtMatrixLayoutCreate");
  return made;
}

template <class T>
void describe(const Plan& plan, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  check_lt(cublasLtMatmulDescSetAttribute(plan.operation, attribute, &value, sizeof value),
           "cublasLtMatmulDescSetAttribute");
}

/// `scales`: any address on the device.
Plan make_plan(cublasLtHandle_t handle, const Key& key, const void* scales) {
  Plan plan;
  // f32 inputs multiply in f32 (no tf32: its 10-bit mantissa would be a surprise); bf16 products sum up in f32.
  check_lt(cublasLtMatmulDescCreate(&plan.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
  describe(plan, CUBLASLT_MATMUL_DESC_TRANSA, key.tb ? CUBLAS_OP_T : CUBLAS_OP_N);
  describe(plan, CUBLASLT_MATMUL_DESC_TRANSB, key.ta ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (is_8_bit(key.a)) {
    describe(plan, CUBLASLT_MATMUL_DESC_FAST_ACCUM, static_cast<int8_t>(key.fast_accumulation));
    // Where there are scales decides which kernels may run; each call says where its own are.
    describe<const void*>(plan, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, scales);
    describe<const void*>(plan, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, scales);
  }
  if (key.bias) {
    describe(plan, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    describe(plan, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, cuda_type(key.c));
    describe<const void*>(plan, CUBLASLT_MATMUL_DESC_BIAS_POINTER, scales);
  }
  plan.left = key.tb ? layout(key.b, key.k, key.n) : layout(key.b, key.n, key.k);
  plan.right = key.ta ? layout(key.a, key.m, key.k) : layout(key.a, key.k, key.m);
  plan.out = layout(key.c, key.n, key.m);

  cublasLtMatmulPreference_t preference = nullptr;
  check_lt(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    check_lt(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value),
             "cublasLtMatmulPreferenceSetAttribute");
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(kWorkspace));
  // Split-K parts may only be summed in f32 and in a fixed order: results repeat bit for bit and are not rounded twice.
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.align_b);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.align_a);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.align_c);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.align_c);

  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle, plan.operation, plan.left, plan.right, plan.out, plan.out, preference,
                                     kCandidates, plan.candidates, &plan.count);
  cublasLtMatmulPreferenceDestroy(preference);
  check_lt(status, "cublasLtMatmulAlgoGetHeuristic");
  check(plan.count > 0, "gemm", "cuBLASLt has no kernel for m ", key.m, ", n ", key.n, ", k ", key.k, ", ", key.a,
        " x ", key.b, " -> ", key.c);
  plan.algorithm = plan.candidates[0].algo;
  return plan;
}

// --- choosing among cuBLASLt's kernels ------------------------------------------------------------------------------
//
// Its first suggestion is up to a third slower than its best one for narrow products (k of some hundreds). The first
// time a large product is asked for, the suggestions are timed on its own operands. Only one whose result is equal to
// the first one's bit for bit may win, so the clock never decides what comes out.

/// counts[0] += elements of `a` that are not zero, counts[1] += bytes in which a and b differ.
__global__ void __launch_bounds__(256)
    compare_kernel(const uint16_t* a, const uint16_t* b, int64_t n, unsigned long long* counts) {
  unsigned used = 0, different = 0;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x; i < n; i += gridDim.x * int64_t{256}) {
    used += a[i] != 0;
    different += a[i] != b[i];
  }
  used = __reduce_add_sync(kAllLanes, used);
  different = __reduce_add_sync(kAllLanes, different);
  if (threadIdx.x % kWarp == 0) {
    atomicAdd(counts, used);
    atomicAdd(counts + 1, different);
  }
}

/// Device memory for the length of a scope that no statistics see; null if there is none.
struct Scratch {
  explicit Scratch(int64_t bytes) : pointer(device_malloc(bytes, current())) {}
  ~Scratch() {
    if (pointer) device_free(pointer, current());
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  static int current() {
    int device = 0;
    cudaGetDevice(&device);
    return device;
  }
  void* pointer;
};

bool recording() {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check_cuda(cudaStreamIsCapturing(stream(), &status), "cudaStreamIsCapturing");
  return status != cudaStreamCaptureStatusNone;
}

void choose(Lt& lt, const Key& key, Plan& plan, const void* a, const void* b) {
  const double flops = 2.0 * static_cast<double>(key.m) * static_cast<double>(key.n) * static_cast<double>(key.k);
  if (key.a == DType::f32 || flops < 4e9 || plan.count < 2 || recording()) return;
  const int64_t bytes = key.m * key.n * size_of(key.c);
  const Scratch first(bytes), other(bytes), counts(2 * sizeof(unsigned long long));
  if (!first.pointer || !other.pointer || !counts.pointer) return;
  const float one = 1, zero = 0;
  const auto run = [&](const cublasLtMatmulAlgo_t& algorithm, void* c) {
    return cublasLtMatmul(lt.handle, plan.operation, &one, b, plan.left, a, plan.right, &zero, c, plan.out, c, plan.out,
                          &algorithm, lt.workspace, static_cast<size_t>(kWorkspace), stream()) == CUBLAS_STATUS_SUCCESS;
  };
  const auto milliseconds = [&](const cublasLtMatmulAlgo_t& algorithm, void* c) {
    Event begin, end;
    double best = 1e30;
    for (int i = 0; i < 3; ++i) {
      begin.record();
      if (!run(algorithm, c)) return 1e30;
      end.record();
      best = std::min(best, end.milliseconds_since(begin));
    }
    return best;
  };
  if (!run(plan.candidates[0].algo, first.pointer)) return;
  double best = milliseconds(plan.candidates[0].algo, first.pointer) * 0.98;  // a change must be worth it
  for (int i = 1; i < plan.count; ++i) {
    if (plan.candidates[i].state != CUBLAS_STATUS_SUCCESS) continue;
    const double time = milliseconds(plan.candidates[i].algo, other.pointer);
    if (time >= best) continue;
    unsigned long long seen[2] = {};
    check_cuda(cudaMemsetAsync(counts.pointer, 0, sizeof seen, stream()), "cudaMemsetAsync");
    compare_kernel<<<1024, 256, 0, stream()>>>(static_cast<const uint16_t*>(first.pointer),
                                               static_cast<const uint16_t*>(other.pointer), bytes / 2,
                                               static_cast<unsigned long long*>(counts.pointer));
    copy(seen, counts.pointer, sizeof seen, CopyKind::device_to_host);
    // A result of mostly zeros proves nothing.
    if (seen[1] != 0 || seen[0] * 10 < static_cast<unsigned long long>(bytes / 2)) continue;
    best = time;
    plan.algorithm = plan.candidates[i].algo;
  }
}

/// Where this call's scales and bias are. The plan is locked until the call is on the stream.
void point(const Plan& plan, const Operand& a, const Operand& b, const Tensor& bias) {
  if (a.scale.defined()) {
    describe<const void*>(plan, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, b.scale.raw());
    describe<const void*>(plan, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, a.scale.raw());
  }
  if (bias.defined()) describe<const void*>(plan, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias.raw());
}

// --- one row --------------------------------------------------------------------------------------------------------
//
//   y[n] = sum over k of W[n,k] x[k]
//
// Bytes: N K of W, read once; x stays in L1. `WARPS` warps share a row of W when
// rows are few, so that the whole card reads.

constexpr int kMatvecThreads = 256;

template <int WARPS, int N, class W, class X>
__global__ void __launch_bounds__(kMatvecThreads)
    matvec_kernel(int64_t rows, int64_t k, const W* __restrict__ w, const X* __restrict__ x, X* __restrict__ y) {
  constexpr int kGroup = WARPS * kWarp, kRows = kMatvecThreads / kGroup;
  __shared__ float parts[kMatvecThreads / kWarp];
  const int group = threadIdx.x / kGroup, member = threadIdx.x % kGroup;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRows + group;
  float sum = 0;
  if (row < rows) {
    const W* line = w + row * k;
    constexpr int kUnroll = 8;  // independent loads in flight per thread
    int64_t j = static_cast<int64_t>(member) * N;
    for (; j + (kUnroll - 1) * kGroup * N + N <= k; j += kUnroll * kGroup * N) {
      Vec<W, N> a[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) a[u] = load<N>(line + j + u * kGroup * N);
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const Vec<float, N> b = load_float<N>(x + j + u * kGroup * N);
#pragma unroll
        for (int i = 0; i < N; ++i) sum = fmaf(to_float(a[u].at[i]), b.at[i], sum);
      }
    }
    for (; j < k; j += kGroup * N) {  // N divides k
      const Vec<float, N> a = load_float<N>(line + j), b = load_float<N>(x + j);
#pragma unroll
      for (int i = 0; i < N; ++i) sum = fmaf(a.at[i], b.at[i], sum);
    }
  }
  sum = warp_reduce(sum, Sum{});
  if constexpr (WARPS == 1) {
    if (member == 0 && row < rows) y[row] = from_float<X>(sum);
  } else {
    if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = sum;
    __syncthreads();
    if (member == 0 && row < rows) {
      float total = 0;
      for (int i = 0; i < WARPS; ++i) total += parts[group * WARPS + i];
      y[row] = from_float<X>(total);
    }
  }
}

// --- few results ----------------------------------------------------------------------------------------------------
//
// A tensor core adds sixteen products at a time to an f32 sum and rounds that sum towards zero, so its error grows with
// the length of the sum: 5.7e-7 of the largest after 300 (docs/kernels-log.md). Few results are summed in f32 with
// rounding to nearest, a warp for each, which takes no longer.

constexpr int64_t kFewResults = 256;

/// C [m,n] = alpha op(A) op(B) + beta C + bias. `ra`, `ca`: elements between rows and columns of op(A) [m,k]; so of B.
__global__ void __launch_bounds__(256)
    few_results_kernel(int64_t m, int64_t n, int64_t k, const __nv_bfloat16* a, int64_t ra, int64_t ca,
                       const __nv_bfloat16* b, int64_t rb, int64_t cb, float* c, const float* bias, float alpha,
                       float beta) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * (256 / kWarp) + threadIdx.x / kWarp;
  if (i >= m * n) return;
  float sum = 0;
  for (int64_t j = threadIdx.x % kWarp; j < k; j += kWarp)
    sum = fmaf(to_float(a[i / n * ra + j * ca]), to_float(b[j * rb + i % n * cb]), sum);
  sum = warp_reduce(sum, Sum{});
  if (threadIdx.x % kWarp == 0) c[i] = alpha * sum + (beta != 0 ? beta * c[i] : 0.f) + (bias ? bias[i % n] : 0.f);
}

template <class T>
__global__ void __launch_bounds__(256) scale_in_place_kernel(T* c, int64_t n, float beta) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (i < n) c[i] = from_float<T>(beta * to_float(c[i]));
}

template <class T>
__global__ void __launch_bounds__(256) fill_rows_kernel(const T* row, int64_t columns, T* c, int64_t n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (i < n) c[i] = row[i % columns];
}

}  // namespace

void matvec(const Tensor& w, const Tensor& x, const Tensor& y) {
  const int64_t n = w.size(0), k = w.size(1);
  dispatch(w.dtype(), "matvec", [&](auto w_zero) {
    dispatch(x.dtype(), "matvec", [&](auto x_zero) {
      using W = decltype(w_zero);
      using X = decltype(x_zero);
      dispatch_width(k % 8 == 0 && aligned16(w.raw(), x.raw()), [&](auto width) {
        const auto go = [&](auto warps) {
          constexpr int kRows = kMatvecThreads / (kWarp * warps());
          launch({"matvec", {w.bytes(), 2 * n * k}}, matvec_kernel<warps(), width(), W, X>, ceil_div(n, kRows),
                 kMatvecThreads, 0, n, k, as<W>(w), as<X>(x), as<X>(y));
        };
        // A thread should have some eight loads to make, all in flight at once; few rows share theirs among more warps.
        // It depends on the shape alone, so results repeat.
        if (n >= 8192 || k <= 2048) go(std::integral_constant<int, 1>{});
        else if (n >= 4096 || k <= 4096) go(std::integral_constant<int, 2>{});
        else go(std::integral_constant<int, 4>{});
      });
    });
  });
}

namespace {

/// C = beta C + bias: all that is left of a product with an empty sum.
void gemm_of_nothing(const Tensor& c, const GemmOptions& o) {
  check(!o.bias.defined(), "gemm", "a bias beside an inner size of 0");
  if (o.beta == 0.0) return fill(c.raw(), c.dtype(), c.numel(), 0.0);
  dispatch(c.dtype(), "gemm", [&](auto zero) {
    using T = decltype(zero);
    launch("gemm of k 0", scale_in_place_kernel<T>, ceil_div(c.numel(), 256), 256, 0, as<T>(c), c.numel(), o.beta);
  });
}

/// True if cuBLASLt's kernels round the product to bf16 before they add the bias: where rows of A, B or C do not start
/// at multiples of 16 bytes. tests/gpu/test_block_ops_gpu.cpp looks at the bits.
bool rounds_before_bias(const Tensor& a, const Tensor& b, const Tensor& c, const GemmOptions& o) {
  if (!o.bias.defined() || o.beta != 0.0 || c.dtype() != DType::bf16) return false;
  const auto aligned = [](const Tensor& t) {
    return t.size(1) * size_of(t.dtype()) % 16 == 0 && alignment_of(t.raw()) >= 16;
  };
  return !aligned(a) || !aligned(b) || !aligned(c);
}

/// C [M,N] = bias in every row.
void fill_rows(const Tensor& bias, const Tensor& c) {
  dispatch(c.dtype(), "gemm", [&](auto zero) {
    using T = decltype(zero);
    launch({"gemm's bias", {bytes_of(c), 0}}, fill_rows_kernel<T>, ceil_div(c.numel(), 256), 256, 0, as<T>(bias),
           c.size(1), as<T>(c), c.numel());
  });
}

void few_results(const Operand& a, const Operand& b, const Tensor& c, const GemmOptions& o) {
  const int64_t m = c.size(0), n = c.size(1), k = a.columns();
  const bool ta = a.trans == Trans::yes, tb = b.trans == Trans::yes;
  const int64_t wide_a = a.tensor.size(1), wide_b = b.tensor.size(1);
  launch({"gemm of few results", {bytes_of(a.tensor, b.tensor), 2 * m * n * k}}, few_results_kernel,
         ceil_div(m * n, 256 / kWarp), 256, 0, m, n, k, as<__nv_bfloat16>(a.tensor), ta ? 1 : wide_a, ta ? wide_a : 1,
         as<__nv_bfloat16>(b.tensor), tb ? 1 : wide_b, tb ? wide_b : 1, as<float>(c),
         o.bias.defined() ? as<float>(o.bias) : nullptr, static_cast<float>(o.alpha), static_cast<float>(o.beta));
}

/// Errors: a dtype or a card without such products.
void check_card(DType t) {
  if (!is_8_bit(t)) return check(t == DType::f32 || t == DType::bf16, "gemm", "expected f32 or bf16 on a GPU, got ", t);
  check(has_fp8_products(), "gemm", "this GPU has no 8-bit floating-point products (compute capability 8.9 or later)");
}

}  // namespace

bool has_fp8_products() {
  int device = 0, major = 0, minor = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return false;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  return major * 10 + minor >= 89;
}

void gemm(const Operand& a, const Operand& b, const Tensor& c, const GemmOptions& o) {
  const int64_t m = a.rows(), n = b.columns(), k = a.columns();
  const bool ta = a.trans == Trans::yes, tb = b.trans == Trans::yes;
  check_card(a.tensor.dtype());
  if (k == 0) return gemm_of_nothing(c, o);
  if (rounds_before_bias(a.tensor, b.tensor, c, o)) {  // C = bias + product, rounded once
    fill_rows(o.bias, c);
    return cuda::gemm(a, b, c, {.alpha = o.alpha, .beta = 1, .fast_accumulation = o.fast_accumulation});
  }
  const bool plain = o.alpha == 1.0 && o.beta == 0.0 && !o.bias.defined() && a.tensor.dtype() == c.dtype();
  if (m == 1 && tb && plain) return matvec(b.tensor, a.tensor, c);
  if (m * n <= kFewResults && a.tensor.dtype() == DType::bf16 && c.dtype() == DType::f32)
    return few_results(a, b, c, o);
  Lt& lt = lt_of_this_device();
  const Key key{.ta = ta,
                .tb = tb,
                .accumulate = o.beta != 0.0,
                .bias = o.bias.defined(),
                .fast_accumulation = o.fast_accumulation,
                .m = m,
                .n = n,
                .k = k,
                .a = a.tensor.dtype(),
                .b = b.tensor.dtype(),
                .c = c.dtype(),
                .align_a = alignment_of(a.tensor.raw()),
                .align_b = alignment_of(b.tensor.raw()),
                .align_c = alignment_of(c.raw())};
  Label label("gemm", {bytes_of(a.tensor, b.tensor) + (o.beta != 0.0 ? 2 : 1) * c.bytes(),
                       2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k)});
  if (profiling()) {
    label.name = keep_name(
        cat("gemm ", is_8_bit(key.a) ? "8-bit " : "", ta ? "T" : "N", tb ? "T" : "N", " ", m, "x", n, "x", k));
  }
  const std::lock_guard lock(lt.mutex);
  auto it = lt.plans.find(key);
  const bool first = it == lt.plans.end();
  if (first) it = lt.plans.emplace(key, make_plan(lt.handle, key, lt.workspace)).first;
  Plan& plan = it->second;
  point(plan, a, b, o.bias);
  if (first) choose(lt, key, plan, a.tensor.raw(), b.tensor.raw());
  const Timed timed(label);
  if (o.beta == 0.0) announce_write(c.raw(), c.bytes());
  const float alpha = static_cast<float>(o.alpha), beta = static_cast<float>(o.beta);
  check_lt(cublasLtMatmul(lt.handle, plan.operation, &alpha, b.tensor.raw(), plan.left, a.tensor.raw(), plan.right,
                          &beta, c.raw(), plan.out, c.raw(), plan.out, &plan.algorithm, lt.workspace,
                          static_cast<size_t>(kWorkspace), stream()),
           "cublasLtMatmul");
}

}  // namespace rw::cuda
