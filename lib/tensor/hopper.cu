// Tensor maps, and whether the GPU is a Hopper.
#include <algorithm>
#include <array>
#include <mutex>
#include <string>

#include "tensor/hopper.cuh"

namespace rw::cuda::hopper {
namespace {

using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

EncodeTiled encode_tiled() {
  static const EncodeTiled f = [] {
    void* pointer = nullptr;
    cudaDriverEntryPointQueryResult result;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &pointer, 12000, cudaEnableDefault, &result) !=
        cudaSuccess) {
      cudaGetLastError();
      pointer = nullptr;
    }
    return reinterpret_cast<EncodeTiled>(pointer);
  }();
  return f;
}

}  // namespace

bool is_hopper() {
  static std::array<std::once_flag, 16> once;
  static std::array<bool, 16> answers;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || device >= 16) {
    cudaGetLastError();
    return false;
  }
  const size_t i = static_cast<size_t>(device);
  std::call_once(once[i], [&] {
    int major = 0, minor = 0;
    const bool known = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
                       cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess;
    cudaGetLastError();
    answers[i] = known && major == 9 && minor == 0 && encode_tiled() != nullptr;
  });
  return answers[i];
}

CUtensorMap tensor_map(const char* op, const void* data, std::initializer_list<int64_t> sizes,
                       std::initializer_list<int64_t> strides, std::initializer_list<int> box) {
  CUtensorMap map;
  cuuint64_t size[5] = {}, stride[4] = {};
  cuuint32_t part[5] = {}, step[5] = {1, 1, 1, 1, 1};
  std::copy(sizes.begin(), sizes.end(), size);
  std::copy(strides.begin(), strides.end(), stride);
  std::copy(box.begin(), box.end(), part);
  const CUresult result =
      encode_tiled()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, static_cast<cuuint32_t>(sizes.size()),
                     const_cast<void*>(data), size, stride, part, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                     CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  const auto list = [](std::initializer_list<int64_t> numbers) {
    std::string text;
    for (const int64_t n : numbers) text += (text.empty() ? "" : " x ") + std::to_string(n);
    return text;
  };
  check(result == CUDA_SUCCESS, op, "no tensor map for a view of ", list(sizes), " numbers (innermost first) with ",
        list(strides), " bytes between neighbours: driver error ", static_cast<int>(result));
  return map;
}

}  // namespace rw::cuda::hopper
