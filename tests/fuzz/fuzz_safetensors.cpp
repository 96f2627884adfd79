// A safetensors file: header, then every tensor.
#include "fuzz.h"
#include "tensor/safetensors.h"

void fuzz_one(std::string_view input) {
  const rw::SafetensorsFile file(fuzz::file("x.safetensors", input));
  for (const auto& [name, entry] : file.entries()) {
    try {
      file.load(name);
    } catch (const rw::OutOfMemory&) {
      throw;
    } catch (const rw::Error&) {  // a dtype that is not supported; the other tensors still load
    }
  }
}

std::vector<std::string> fuzz_seeds() {
  const std::string path = fuzz::file("seed.safetensors", "");
  std::vector<std::string> seeds;
  const auto add = [&](const std::string& header, size_t data) {
    const uint64_t size = header.size();
    std::string bytes(reinterpret_cast<const char*>(&size), 8);
    seeds.push_back(bytes + header + std::string(data, '\x3C'));
  };
  add(R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}})",
      32);
  add(R"({"h":{"dtype":"F16","shape":[1,2],"data_offsets":[0,4]},"i":{"dtype":"I64","shape":[1],"data_offsets":[4,12]},"u":{"dtype":"U8","shape":[],"data_offsets":[12,13]}})",
      13);
  add(R"({"e":{"dtype":"F64","shape":[0,9],"data_offsets":[0,0]},"t":{"dtype":"BOOL","shape":[3],"data_offsets":[0,3]},"f":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[3,4]}})",
      4);
  return seeds;
}
