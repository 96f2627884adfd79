#include "nn/parallel/communicator.h"

#include <algorithm>
#include <cstring>

namespace rw {
namespace {

constexpr int64_t kChunk = int64_t{1} << 20;  // bytes of one peer that are received before they are added

char* bytes_of(const Tensor& t) { return static_cast<char*>(t.raw()); }

template <class T>
void add(T* to, const T* from, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] += from[i];
}

}  // namespace

std::unique_ptr<Communicator> Communicator::connect(const World& world, MeshOptions options) {
  return world.single() ? nullptr : std::make_unique<Communicator>(world, options);
}

Communicator::Communicator(const World& world, MeshOptions options) : mesh_(world, options) {}

Communicator::~Communicator() {
  if (closed_) return;
  if (nccl_) nccl_->abort();  // its peers may never answer
}

void Communicator::use(Device device) {
  for (const auto& other : gather({static_cast<double>(device.type)})) {
    check(other[0] == static_cast<double>(device.type), "parallel", "some ranks have a GPU and some have none");
  }
  if (!device.is_cuda() || nccl_) return;
  std::string id(cuda::kNcclIdBytes, '\0');
  if (root()) id = cuda::nccl_id();
  const Tensor travelling = Tensor::borrow(id.data(), {cuda::kNcclIdBytes / 8}, DType::f64, kCpu);
  broadcast(travelling, 0);
  nccl_ = cuda::connect_nccl(id, rank(), size());
  mesh_.on_lost([this](const std::string&) { nccl_->abort(); });
  // Each kind once: NCCL connects a kind's channels at its first use, which must not be while a graph is recorded.
  const Tensor t = Tensor::zeros({size()}, DType::f32, device);
  fork();
  for (int r = 0; r < size(); ++r) reduce(t, r);
  all_reduce(t);
  broadcast(t, 0);
  all_gather(t);
  join();
  static_cast<void>(t.to(kCpu));  // waits
  check_alive();
}

std::vector<std::vector<double>> Communicator::gather(const std::vector<double>& mine) {
  std::vector<std::vector<double>> all(static_cast<size_t>(size()), std::vector<double>(mine.size()));
  std::vector<Mesh::Send> sends;
  std::vector<Mesh::Receive> receives;
  const int64_t bytes = static_cast<int64_t>(mine.size() * sizeof(double));
  for (int r = 0; r < size(); ++r) {
    if (r == rank()) continue;
    sends.push_back({r, mine.data(), bytes});
    receives.push_back({r, all[static_cast<size_t>(r)].data(), bytes});
  }
  mesh_.transfer(sends, receives);
  all[static_cast<size_t>(rank())] = mine;
  return all;
}

double Communicator::broadcast(double value) { return gather({value})[0][0]; }

void Communicator::barrier() { gather({0.0}); }

void Communicator::gather_to_root(const Tensor& part, const Tensor& whole, std::span<const int64_t> sizes) {
  const Tensor own = part.to(kCpu);
  if (!root()) return mesh_.transfer({{0, own.raw(), own.bytes()}}, {});
  const Tensor host = whole.is_cuda() ? Tensor::empty(whole.shape(), whole.dtype()) : whole;
  std::vector<Mesh::Receive> receives;
  int64_t at = sizes[0] * size_of(host.dtype());
  for (int r = 1; r < size(); ++r) {
    const int64_t bytes = sizes[static_cast<size_t>(r)] * size_of(host.dtype());
    receives.push_back({r, bytes_of(host) + at, bytes});
    at += bytes;
  }
  check(at == host.bytes() && own.numel() == sizes[0], "parallel", "the parts are ", at, " bytes, the whole ",
        host.bytes());
  mesh_.transfer({}, receives);
  if (own.numel() > 0 && own.raw() != host.raw()) std::memcpy(host.raw(), own.raw(), static_cast<size_t>(own.bytes()));
  if (whole.is_cuda()) whole.copy_from(host);
}

cuda::Collectives& Communicator::gpu(const Tensor& t) const {
  check(nccl_ != nullptr, "parallel", "a tensor on ", t.device(), ", but use() was not called for it");
  check_alive();
  return *nccl_;
}

void Communicator::fork() {
  if (nccl_) nccl_->fork();
}
void Communicator::join() {
  if (nccl_) nccl_->join();
}
void Communicator::begin_group() {
  if (nccl_) nccl_->begin_group();
}
void Communicator::end_group() {
  if (nccl_) nccl_->end_group();
}

void Communicator::reduce(const Tensor& t, int to) {
  if (t.is_cuda()) return gpu(t).reduce(t, to);
  check(t.dtype() == DType::f32 || t.dtype() == DType::f64, "parallel", "no sums of ", t.dtype(), " on the CPU");
  if (rank() != to) return mesh_.transfer({{to, t.raw(), t.bytes()}}, {});
  std::vector<std::vector<char>> parts(static_cast<size_t>(size()));
  for (int64_t begin = 0; begin < t.bytes(); begin += kChunk) {
    const int64_t bytes = std::min(kChunk, t.bytes() - begin), n = bytes / size_of(t.dtype());
    std::vector<Mesh::Receive> receives;
    for (int r = 0; r < size(); ++r) {
      if (r == rank()) continue;
      auto& part = parts[static_cast<size_t>(r)];
      part.resize(static_cast<size_t>(bytes));
      receives.push_back({r, part.data(), bytes});
    }
    mesh_.transfer({}, receives);
    // 0 + 1 + 2 + ..., whoever adds: the result does not depend on where it is needed.
    auto& own = parts[static_cast<size_t>(rank())];
    own.assign(bytes_of(t) + begin, bytes_of(t) + begin + bytes);
    std::memcpy(bytes_of(t) + begin, parts[0].data(), static_cast<size_t>(bytes));
    for (int r = 1; r < size(); ++r) {
      dispatch_float(t.dtype(), "parallel", [&](auto zero) {
        using T = decltype(zero);
        if constexpr (!std::is_same_v<T, bf16>) {
          add(reinterpret_cast<T*>(bytes_of(t) + begin),
              reinterpret_cast<const T*>(parts[static_cast<size_t>(r)].data()), n);
        }
      });
    }
  }
}

void Communicator::all_reduce(const Tensor& t) {
  if (t.is_cuda()) return gpu(t).all_reduce(t);
  reduce(t, 0);
  broadcast(t, 0);
}

void Communicator::broadcast(const Tensor& t, int from) {
  if (t.is_cuda()) return gpu(t).broadcast(t, from);
  if (rank() != from) return mesh_.transfer({}, {{from, t.raw(), t.bytes()}});
  std::vector<Mesh::Send> sends;
  for (int r = 0; r < size(); ++r) {
    if (r != from) sends.push_back({r, t.raw(), t.bytes()});
  }
  mesh_.transfer(sends, {});
}

void Communicator::all_gather(const Tensor& t) {
  if (t.is_cuda()) return gpu(t).all_gather(t);
  const int64_t part = t.bytes() / size();
  std::vector<Mesh::Send> sends;
  std::vector<Mesh::Receive> receives;
  for (int r = 0; r < size(); ++r) {
    if (r == rank()) continue;
    sends.push_back({r, bytes_of(t) + rank() * part, part});
    receives.push_back({r, bytes_of(t) + r * part, part});
  }
  mesh_.transfer(sends, receives);
}

void Communicator::close() {
  mesh_.close();
  closed_ = true;
}

}  // namespace rw
