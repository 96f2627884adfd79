// Internal: products of a matrix's rows with a few vectors on one thread. They are bound by reading the matrix once.
#pragma once
#include <cstdint>

namespace rw::cpu {

/// Vectors that are multiplied together: vector s begins at data + s * stride.
struct Vectors {
  const float* data;
  int64_t stride, count;
};

/// y[r * count + s] = row r of W . vector s, for `rows` rows of k numbers that follow each other. What a vector gives
/// does not depend on the other vectors or rows: the same bits.
struct RowDots {
  void (*f32)(const float* w, int64_t k, int64_t rows, const Vectors& x, float* y);
  void (*bf16)(const uint16_t* w, int64_t k, int64_t rows, const Vectors& x, float* y);  // the bits of bf16
  /// Codes in blocks of 64 of a row, with a scale each (tensor/block_quantize.h, whose result is this / 127).
  void (*int8)(const int8_t* codes, const float* scales, int64_t k, int64_t rows, const Vectors& x, float* y);
};

// As compiled with the build's flags, and with ROPEWALK_CPU_LEVELS for x86-64-v3 and v4 (row_dots_block.cpp).
namespace build {
extern const RowDots row_dots;
}
namespace v3 {
extern const RowDots row_dots;
}
namespace v4 {
extern const RowDots row_dots;
}

/// Those that this CPU can run, the fastest first; returns how many. For tests.
int every_row_dots(const RowDots* (&out)[3]);
/// The fastest that this CPU can run.
const RowDots& row_dots();

}  // namespace rw::cpu
