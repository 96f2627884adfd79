// Keys and values of the tokens so far, per layer.
//
// Keys are kept rotated when their angles never change. They are kept raw when the RoPE table depends on the length
// (dynamic NTK, CLEX, ...); then every step rotates all of them with the table of the current length. That alone is
// exact in the first layer only, because deeper keys and values were computed under the earlier table. So an exact
// cache runs all its tokens again when the table changes. CLEX's table changes at multiples of the window, dynamic
// NTK's at every token beyond it.
#pragma once
#include <cstdint>
#include <vector>

#include "tensor/tensor.h"

namespace rw {

/// Thread safety: none; a cache belongs to one generation.
struct KvCache {
  struct Layer {
    Tensor k, v;  // [B, capacity, K, D]
  };
  std::vector<Layer> layers;
  int64_t length = 0;    // tokens stored
  int64_t capacity = 0;  // tokens that fit
  bool raw_keys = false;
  bool exact = true;  // with raw keys: run all tokens again when the table changes (false: as published CLEX code does)
  Tensor ids;         // i32 [B, capacity] on the CPU, kept for that
  std::vector<double> table;  // the inverse frequencies of the last step

  void clear() {
    length = 0;
    table.clear();
  }
};

}  // namespace rw
