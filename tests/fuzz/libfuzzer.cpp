// The libFuzzer side of a target.
#include <cstdint>

#include "fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::run({reinterpret_cast<const char*>(data), size});
  return 0;
}
