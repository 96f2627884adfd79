// What the ranks of a data-parallel run say to each other.
//
//   const auto comm = Communicator::connect(world_from_environment());   // null for a world of one
//   comm->use(device);                                                   // NCCL, if it is a GPU
//   comm->all_reduce(gradients);
//   comm->close();
//
// Arrays on a GPU travel by NCCL, arrays on the CPU and small host values by TCP. Every rank makes the same calls in
// the same order with tensors of the same sizes. CPU sums are added in the order of ranks, so they repeat bit for bit.
#pragma once
#include <memory>
#include <span>
#include <vector>

#include "nn/parallel/cuda_nccl.h"
#include "nn/parallel/mesh.h"

namespace rw {

/// Thread safety: one thread makes calls.
class Communicator {
 public:
  /// Waits for all ranks; nullptr if there is only one. Errors: see Mesh.
  static std::unique_ptr<Communicator> connect(const World& world, MeshOptions options = {});
  Communicator(const World& world, MeshOptions options);
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  const World& world() const { return mesh_.world(); }
  int rank() const { return world().rank; }
  int size() const { return world().size; }
  bool root() const { return rank() == 0; }
  /// Where tensors will be; a GPU must be the current device. Errors: a GPU without NCCL; ranks that differ in it.
  void use(Device device);

  // --- host values: all of these wait for every rank ---
  /// Every rank's values, by rank.
  std::vector<std::vector<double>> gather(const std::vector<double>& mine);
  /// Rank 0's value.
  double broadcast(double value);
  void barrier();
  /// `whole` on rank 0 gets all ranks' parts, one behind the other in the order of ranks; both of any device. Elsewhere
  /// `whole` is not looked at. sizes: elements of each rank's part.
  void gather_to_root(const Tensor& part, const Tensor& whole, std::span<const int64_t> sizes);

  // --- arrays: f32, f64, bf16 (bf16 is not added up on the CPU) ---
  // On a GPU in stream order between fork() and join(); on the CPU done when they return.
  void fork();
  void join();
  void begin_group();
  void end_group();
  void reduce(const Tensor& values, int root);
  void all_reduce(const Tensor& values);
  void broadcast(const Tensor& values, int root);
  void all_gather(const Tensor& values);

  /// Errors: RankLost. Call it after waiting for a GPU: what comes from a run that lost a rank is worthless.
  void check_alive() const { mesh_.check_alive(); }
  /// See Mesh::on_lost.
  void on_lost(std::function<void(const std::string& why)> f) { mesh_.on_lost(std::move(f)); }
  /// The end of a run that succeeded. Every rank must come here. Errors: RankLost.
  void close();

 private:
  cuda::Collectives& gpu(const Tensor& t) const;

  std::unique_ptr<cuda::Collectives> nccl_;  // outlives the mesh, whose watcher aborts it
  Mesh mesh_;
  bool closed_ = false;
};

}  // namespace rw
