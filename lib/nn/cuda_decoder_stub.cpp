// The GPU decoder in a build without CUDA: no model can live on a GPU there, so this is never reached.
#include "nn/cuda_decoder.h"

namespace rw::cuda {
bool decoder_fits(DType, int64_t, int64_t, int64_t, bool) { return false; }
std::unique_ptr<DeviceDecoder> make_decoder(const DecoderModel&) {
  fail("cuda", "this build has no CUDA support (configure with -DROPEWALK_CUDA=ON)");
}
}  // namespace rw::cuda
