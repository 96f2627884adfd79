// Every GPU entry point of a build without CUDA. No tensor can live on a GPU there, so none of these is ever reached.
#include "autograd/ops/cuda_ops.h"
#include "tensor/error.h"

namespace rw::cuda {
namespace {
[[noreturn]] void absent() { fail("cuda", "this build has no CUDA support (configure with -DROPEWALK_CUDA=ON)"); }
}  // namespace

void binary(Binary, const Tensor&, const Tensor&, const Tensor&) { absent(); }
void unary(Unary, const Tensor&, const Tensor&) { absent(); }
void unary_backward(Unary, const Tensor&, const Tensor&, const Tensor&, const Tensor&) { absent(); }
void scale(const Tensor&, double, const Tensor&) { absent(); }
void add_scaled(const Tensor&, const Tensor&, double, const Tensor&) { absent(); }
void add_bias(const Tensor&, const Tensor&, const Tensor&) { absent(); }
void column_sums(const Tensor&, const Tensor&, bool) { absent(); }
Tensor slab_sums(const Tensor&) { absent(); }
void add_partial_rows(const Tensor&, const Tensor&, bool) { absent(); }
void sum_all(const Tensor&, double, const Tensor&) { absent(); }
void sum_last(const Tensor&, const Tensor&) { absent(); }
void broadcast_scalar(const Tensor&, double, const Tensor&) { absent(); }
void broadcast_last(const Tensor&, const Tensor&) { absent(); }
void soft_cap(const Tensor&, double, const Tensor&) { absent(); }
void soft_cap_backward(const Tensor&, double, const Tensor&, const Tensor&) { absent(); }
void rms_norm_forward(const Tensor&, const Tensor&, const Tensor&, double, double, const Tensor&, const Tensor&,
                      const Tensor&, const Tensor&) {
  absent();
}
void rms_norm_backward(const Tensor&, const Tensor&, double, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                       const Tensor&, bool, const Tensor&) {
  absent();
}
void layer_norm_forward(const Tensor&, const Tensor&, const Tensor&, const Tensor&, double, const NormOutputs&,
                        const NormStatistics&) {
  absent();
}
void layer_norm_backward(const SavedLayerNorm&, const Tensor&, const Tensor&, const Tensor&, const GradTarget&,
                         const GradTarget&) {
  absent();
}
void qk_norm_forward(const QkNormOptions&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&) {
  absent();
}
void qk_norm_backward(const QkNormOptions&, const SavedQkNorm&, const Tensor&, const Tensor&, const GradTarget&,
                      const GradTarget&) {
  absent();
}
void activate(Activation, const Tensor&, const Tensor&) { absent(); }
Tensor activate_backward(Activation, const Tensor&, const Tensor&, const Tensor&, bool) { absent(); }
void gated_packed_forward(Activation, const Tensor&, const Tensor&, const Tensor&) { absent(); }
void gated_packed_backward(Activation, const Tensor&, const Tensor&, const Tensor&, const Tensor&) { absent(); }
bool linear_fuses(int64_t, int64_t, int64_t) { return false; }
void linear_swiglu(const Tensor&, const Tensor&, const Tensor&, const Tensor&) { absent(); }
void linear_swiglu_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&) { absent(); }
void linear_rope(const Tensor&, const Tensor&, const Tensor&, const Tensor&, double, int64_t, const Tensor&) {
  absent();
}
void swiglu_forward(const Tensor&, const Tensor&, const Tensor&) { absent(); }
void swiglu_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&) { absent(); }
void swiglu_packed_forward(const Tensor&, const Tensor&, const Tensor&) { absent(); }
void swiglu_packed_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&) { absent(); }
void embedding_forward(const Tensor&, const Tensor&, const Tensor&) { absent(); }
void embedding_backward(const Tensor&, const Tensor&, const Tensor&, bool) { absent(); }
void rope_tables(const Tensor&, const Tensor&, const Tensor&, const Tensor&) { absent(); }
void rope_apply(const Tensor&, const Tensor&, const Tensor&, double, RopeLayout, int64_t, int, const Tensor&) {
  absent();
}
void rope_inv_freq_backward(const Tensor&, const Tensor&, const Tensor&, RopeLayout, int64_t, const Tensor&) {
  absent();
}
void attention_forward(const AttentionShape&, const HeadView&, const HeadView&, const HeadView&, const HeadView&,
                       const Tensor&) {
  absent();
}
void attention_backward(const AttentionShape&, const HeadView&, const HeadView&, const HeadView&, const HeadView&,
                        const Tensor&, const HeadView&, const HeadView&, const HeadView&, const HeadView&) {
  absent();
}
void cross_entropy_rows(const Tensor&, const Tensor&, bool, const Tensor&, const Tensor&, double) { absent(); }
void cross_entropy_gradient(const Tensor&, const Tensor&, const Tensor&, const Tensor&, double, const Tensor&) {
  absent();
}
void scale_rows(const Tensor&, const Tensor&, const Tensor&) { absent(); }
void copy_block(const Tensor&, int64_t, int64_t, const Tensor&, int64_t, int64_t, int64_t, int64_t) { absent(); }

}  // namespace rw::cuda
