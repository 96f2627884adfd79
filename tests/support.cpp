#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "support.h"

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <set>

#include "tensor/random.h"

namespace test {

namespace fs = std::filesystem;

std::string data_dir() { return ROPEWALK_TEST_DATA; }

std::string golden_dir() {
  const char* set = std::getenv("ROPEWALK_GOLDEN");
  return set && *set ? set : data_dir();
}

const rw::SafetensorsFile& golden(const std::string& name) {
  static std::map<std::string, std::unique_ptr<rw::SafetensorsFile>> open;
  auto& file = open[name];
  if (!file) file = std::make_unique<rw::SafetensorsFile>(golden_dir() + "/" + name + ".safetensors");
  return *file;
}

std::string shared_data(const std::string& relative) {
  const char* set = std::getenv("ROPEWALK_SHARED_DATA");
  const std::string path =
      (set && *set ? std::string(set) : std::string(ROPEWALK_SOURCE_DIR) + "/../shared/data") + "/" + relative;
  if (fs::exists(path)) return path;
  static std::set<std::string> told;
  if (told.insert(path).second)
    std::printf("SKIPPED: needs %s, which is not part of this repository\n", relative.c_str());
  return "";
}

double relative_error(const std::vector<double>& got, const std::vector<double>& want) {
  const double inf = std::numeric_limits<double>::infinity();
  if (got.size() != want.size()) return inf;
  double worst = 0, scale = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::isnan(got[i]) || std::isnan(want[i])) return inf;
    worst = std::max(worst, std::abs(got[i] - want[i]));
    scale = std::max(scale, std::abs(want[i]));
  }
  return scale > 0 ? worst / scale : worst;
}

double relative_error(const rw::Tensor& got, const rw::Tensor& want) {
  return relative_error(got.to_vector(), want.to_vector());
}

rw::Tensor randn(rw::Shape shape, uint64_t seed, rw::DType dtype, double std) {
  rw::Random random(seed, rw::Purpose::test);
  std::vector<double> values(static_cast<size_t>(shape.numel()));
  for (double& v : values) v = static_cast<float>(random.normal() * std);
  return rw::Tensor::from(values, shape).to(dtype);
}

TempDir::TempDir() {
  std::string pattern = (fs::temp_directory_path() / "ropewalk-test-XXXXXX").string();
  path_ = ::mkdtemp(pattern.data());
}
TempDir::~TempDir() {
  std::error_code ignored;
  fs::permissions(path_, fs::perms::owner_all, ignored);
  fs::remove_all(path_, ignored);
}
std::string TempDir::path(const std::string& name) const { return name.empty() ? path_ : path_ + "/" + name; }

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const rw::Error& e) {
    return e.what();
  }
  FAIL("expected an rw::Error");
  return "";
}

}  // namespace test
