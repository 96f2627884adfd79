// Matrices in blocks of few bits: 64 values of a row share one scale, their largest absolute value.
//
//   int8   code = round(127 x / s),                                    x is about s code / 127
//   nf4    code = the nearest of 16 quantiles of a normal distribution (Dettmers et al. 2023, QLoRA, appendix E)
//
// With double_scales the scales themselves become 8-bit numbers between the smallest and the largest of up to 256
// blocks of a row. A value costs 8.5 bits as int8, 4.5 as nf4, and 0.36 bits less with double scales at 4096 columns.
#pragma once
#include "tensor/tensor.h"

namespace rw {

enum class BlockCode { int8, nf4 };

struct BlockFormat {
  BlockCode code = BlockCode::nf4;
  bool double_scales = false;
};

inline constexpr int64_t kBlockLength = 64;  // values that share a scale
inline constexpr int64_t kScaleGroup = 256;  // blocks that share a range of scales

/// A matrix [rows, columns] in blocks. The last block of a row may be short. Thread safety: as Tensor.
struct BlockMatrix {
  BlockFormat format;
  int64_t rows = 0, columns = 0;
  Tensor codes = {};         // bytes in i32 words, row after row: columns bytes each, or (columns + 1) / 2
  Tensor scales = {};        // f32 [rows, blocks_per_row()], or undefined with double scales
  Tensor scale_codes = {};   // bytes in i32 words, one for each block
  Tensor scale_ranges = {};  // f32 [rows, groups_per_row(), 2]: the smallest scale, and a step of its codes

  int64_t blocks_per_row() const { return (columns + kBlockLength - 1) / kBlockLength; }
  int64_t groups_per_row() const { return (blocks_per_row() + kScaleGroup - 1) / kScaleGroup; }
  int64_t bytes_per_row() const { return format.code == BlockCode::int8 ? columns : (columns + 1) / 2; }
  /// Of all tensors together, also before there are any.
  int64_t bytes() const;

  /// Makes the tensors, of zeros.
  void allocate(Device device);
  /// Rounds values, f32 [n, columns] on the CPU, into rows [first, first + n). Errors: a value that is not finite.
  void store_rows(int64_t first, const Tensor& values) const;
  /// The values of rows [first, first + n) into `values` [n, columns], f32 on the CPU.
  void load_rows(int64_t first, const Tensor& values) const;
};

/// values [rows, columns] (f32, bf16 or f64 on the CPU; f32 or bf16 on a GPU) = what the blocks stand for, on their
/// device. Errors: another shape or device.
void dequantize(const BlockMatrix& blocks, const Tensor& values);

/// values [rows, columns] (f32 or bf16) in blocks, on their device; values become what the blocks stand for. Errors: a
/// value that is not finite.
BlockMatrix round_to_blocks(const Tensor& values, BlockFormat format);

namespace cuda {
/// dequantize() on a GPU, of arguments that were checked.
void dequantize(const BlockMatrix& blocks, const Tensor& values);
}  // namespace cuda

}  // namespace rw
