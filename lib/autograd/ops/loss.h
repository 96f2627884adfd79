// Cross-entropy over a vocabulary, and the fusion with the last linear layer that never stores all logits.
#pragma once
#include "autograd/var.h"

namespace rw {

inline constexpr int32_t kIgnoreIndex = -100;

enum class Reduction { none, sum, mean };

/// -log softmax(logits)[target] per row; logits [N,V], targets i32 [N]. Rows with target kIgnoreIndex count for
/// nothing. Gives [N] (none) or [1]. mean divides by the scored rows (NaN if there are none, as in PyTorch; reads
/// targets on the host). Errors: a target outside [0, V) that is not kIgnoreIndex (checked on the CPU).
Var cross_entropy(const Var& logits, const Tensor& targets, Reduction reduction = Reduction::mean);

struct LossOptions {
  Reduction reduction = Reduction::mean;  // sum or mean
  Tensor row_weights;                     // f32 [N]: multiply each row's loss and gradient (with Reduction::sum only)
  Var bias;                               // [V]: of the last linear layer
  double soft_cap = 0;                    // not 0: logits become soft_cap * tanh(logits / soft_cap)
};

/// cross_entropy(soft_cap(x W^T + bias)) in chunks of rows: x [...,C] with N rows, weight [V,C]. The gradients are made
/// in the same pass, so that only one chunk of logits ever exists. Errors: shapes, dtypes or devices that do not fit;
/// Reduction::none; row weights with a mean; a negative soft cap; targets as in cross_entropy.
Var linear_cross_entropy(const Var& x, const Var& weight, const Tensor& targets, const LossOptions& options = {});
Var linear_cross_entropy(const Var& x, const Var& weight, const Tensor& targets, Reduction reduction,
                         const Tensor& row_weights = {});

/// The per-row loss without gradients: f32 (f64 for f64) [N], 0 where ignored. Of the options, bias and soft_cap count;
/// there is no reduction. Errors: as linear_cross_entropy; row weights.
Tensor token_nll(const Tensor& x, const Tensor& weight, const Tensor& targets, const LossOptions& options = {});

/// Rows of logits that linear_cross_entropy and token_nll have alive at once: about 16 MiB on the CPU, 512 on a GPU.
int64_t loss_chunk_rows(int64_t vocab, DType dtype, bool cuda);

}  // namespace rw
