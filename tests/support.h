// What every test executable shares: doctest, reference files, comparisons, temporary folders.
#pragma once
#include <doctest/doctest.h>

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "tensor/safetensors.h"
#include "tensor/tensor.h"

namespace test {

/// Folder of small reference files of this repository: tests/data.
std::string data_dir();
/// Folder of the golden_*.safetensors files: $ROPEWALK_GOLDEN, else tests/data.
std::string golden_dir();
/// The golden file of that name, opened once. The JSON text of its "cases" metadata is in metadata().at("cases").
const rw::SafetensorsFile& golden(const std::string& name);
/// Folder of the large shared data (checkpoints, books): $ROPEWALK_SHARED_DATA, else ../shared/data beside the source;
/// "" if absent. Prints the reason once when absent, so that a skipped test says why.
std::string shared_data(const std::string& relative);

/// max |got - want| / max |want|; infinity if shapes differ or anything is NaN.
double relative_error(const rw::Tensor& got, const rw::Tensor& want);
double relative_error(const std::vector<double>& got, const std::vector<double>& want);

/// Normal values from a fixed seed.
rw::Tensor randn(rw::Shape shape, uint64_t seed, rw::DType dtype = rw::DType::f64, double std = 1.0);

/// A fresh folder, removed with its contents at the end of the scope.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  std::string path(const std::string& name = "") const;

 private:
  std::string path_;
};

/// Calls f(i) for i in [0, count), each in a thread of its own, and waits for all of them.
template <class F>
void in_threads(int count, F&& f) {
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) threads.emplace_back([&f, i] { f(i); });
  for (std::thread& t : threads) t.join();
}

/// The message of the rw::Error that `f` throws; fails the test if it throws nothing.
std::string error_of(const std::function<void()>& f);

}  // namespace test
