// Internal: the parts of a matrix product that are compiled for each level of x86-64: packing, and the product of
// packed blocks on one thread.
#pragma once
#include "tensor/product.h"

namespace rw::cpu {

/// Vectors of one length: op(A)'s rows or op(B)'s columns. Number p of vector i is data[i * vector + p * along]; one of
/// the two strides is 1.
template <class T>
struct VectorsOf {
  const T* data;
  int64_t vector, along;
};

/// A block of C from packed blocks of A and B. A panel holds `height` rows of A, or `width` columns of B: `depth` times
/// as many numbers that are multiplied together. The last one of A may have fewer rows, that of B fewer columns.
template <class T>
struct PackedBlock {
  int64_t rows, columns, depth;
  const T *a, *b;
  T* c;
  int64_t c_stride;
  T alpha, beta;  // beta = 0: C is not read
};

/// C of a few vectors x and many vectors w: c[i * c_few + j * c_many] = alpha x_i . w_j + beta c[...]. Nothing is
/// packed.
template <class T>
struct FewVectors {
  int64_t few, many, k;
  VectorsOf<T> x, w;
  T* c;
  int64_t c_few, c_many;
  T alpha, beta;
};

/// Products in tiles of C that the registers hold. How an element is added up depends on the block's depth alone: not
/// on where it lies, nor on the tile that it is in.
template <class T>
struct GemmKernel {
  int64_t height, width;  // of a tile
  int64_t lanes;          // of a register
  int64_t depth;          // of a block at most
  int64_t cached_bytes;   // of a block that stays in the second cache
  void (*pack_a)(const VectorsOf<T>& rows, int64_t count, int64_t depth, T* panels);
  void (*pack_b)(const VectorsOf<T>& columns, int64_t count, int64_t depth, T* panels);
  void (*multiply)(const PackedBlock<T>& block);
  void (*few_dots)(const FewVectors<T>& x);  // numbers of a vector lie side by side: x.along = w.along = 1
  void (*few_sums)(const FewVectors<T>& x);  // the many vectors lie side by side: w.vector = 1
};

struct GemmKernels {
  GemmKernel<float> f32;
  GemmKernel<double> f64;
};

// As compiled with the build's flags, and with ROPEWALK_CPU_LEVELS for x86-64-v3 and v4.
namespace build {
extern const GemmKernels gemm_kernels;
}
namespace v3 {
extern const GemmKernels gemm_kernels;
}
namespace v4 {
extern const GemmKernels gemm_kernels;
}

/// Those that this CPU can run, the fastest first; returns how many. For tests.
int every_gemm_kernels(const GemmKernels* (&out)[3]);
/// cpu::gemm with these kernels.
void gemm_with(const GemmKernels& kernels, const Product<float>& product);
void gemm_with(const GemmKernels& kernels, const Product<double>& product);

}  // namespace rw::cpu
